//! The micro base checkpoints from nothing.
//!
//! 1. The vision tower learns to read with dense labels ([`vision`]).
//! 2. The decoder learns to answer questions about figures, raw and masked, packed several to an
//!    image, and where to look for them ([`pointing`]); the vision tower is frozen from here on.
//! 3. The student continues on demonstrations of which some are wrong, so that its first calls have
//!    systematic errors; the teacher, of the same lineage, on right ones.

mod card;
pub mod pointing;
pub mod recipe;
pub mod vision;

use std::path::Path;
use std::sync::Arc;

use agent::Conversation;
use benchmarks::curriculum::{self, DemonstrationMix, ReadingMix, processor_files};
use benchmarks::data::{EPISODE_FILE, EpisodeStyle};
use candle_core::{DType, Device, Tensor, Var};
use fused_ops::{TokenLogProbs, side_by_side};
use grpo::{Decay, Gradients, LearningRateSchedule, OptimizerPlace, clip_grad_norm};
use qwen2_5_vl::{Model, ModelPart, Processor, Prompt};
use seeded_random::{Draw, Stream};

use crate::encoding::{EncodedPrompt, SeenImages, encode, tokenize};
use crate::packing::{Packed, Tree};
use crate::policy::LocalPolicy;
use crate::progress::Report;
use crate::state::Trainer;
use crate::{Error, Result, error};
use benchmarks::data::World;
use recipe::{DemonstrationStage, Recipe};

/// Makes both checkpoints in `out/student` and `out/teacher`, each with a model card of what it can
/// do in `world`; states to resume from are kept in `out/states`.
pub fn pretrain(recipe: &Recipe, world: &World, out: &Path, report: &mut Report<'_>) -> Result<()> {
    let states = out.join("states");
    std::fs::create_dir_all(&states).map_err(error::at(&states))?;
    belongs_to(&states, recipe)?;
    let processor_dir = states.join("processor");
    std::fs::create_dir_all(&processor_dir).map_err(error::at(&processor_dir))?;
    for (name, text) in processor_files() {
        let path = processor_dir.join(name);
        results::write_atomically(&path, text.as_bytes())?;
    }
    let processor = Arc::new(Processor::load(&processor_dir)?);

    let stream = Stream::new(recipe.seed);
    let model = Model::random(
        recipe.model.config()?,
        stream.purpose("weights"),
        &Device::Cpu,
    )?;
    train_vision(recipe, &model, &processor, &states, &stream, report)?;
    let model = train_reading(recipe, model, &processor, &states, &stream, report)?;
    for (name, stage) in [("student", &recipe.student), ("teacher", &recipe.teacher)] {
        let copy = model.copy(DType::F32)?;
        let copy = train_demonstrations(
            recipe, name, stage, copy, &processor, &states, &stream, report,
        )?;
        let folder = out.join(name);
        copy.save(&folder)?;
        processor.save(&folder)?;
        let style = EpisodeStyle::Micro.to_json();
        results::write_atomically(&folder.join(EPISODE_FILE), style.as_bytes())?;
        report(&format!("card of the {name}"), 0, 1, "");
        let mut policy = LocalPolicy::new(copy, processor.clone(), recipe.card.max_new_tokens);
        policy.style = EpisodeStyle::Micro;
        let text = card::model_card(name, recipe, world, &mut policy)?;
        results::write_atomically(&folder.join("README.md"), text.as_bytes())?;
        report(&format!("card of the {name}"), 1, 1, "");
    }
    Ok(())
}

/// States belong to one recipe; others are not overwritten.
fn belongs_to(states: &Path, recipe: &Recipe) -> Result<()> {
    let path = states.join("recipe");
    if path.exists() {
        let found = std::fs::read_to_string(&path).map_err(error::at(&path))?;
        if found.trim() != recipe.hash() {
            return Err(Error::RunDirectory {
                path: states.to_owned(),
                problem: format!(
                    "holds states of another recipe ({}, expected {}); delete it or give another \
                     --out",
                    found.trim(),
                    recipe.hash()
                ),
            });
        }
        return Ok(());
    }
    Ok(results::write_atomically(&path, recipe.hash().as_bytes())?)
}

/// A step's batch is cut into parts of equal weight that run side by side, each on one thread.
const PARTS: usize = 4;

/// The loss of one part of a step's batch, with figures to report.
struct PartLoss {
    loss: Tensor,
    figures: Vec<(&'static str, f32)>,
}

/// The items of a part of a batch.
fn items(part: usize, batch: usize) -> std::ops::Range<usize> {
    part * batch / PARTS..(part + 1) * batch / PARTS
}

/// A stage of the curriculum.
struct Stage<'a> {
    name: &'a str,
    parameters: Vec<(String, Var)>,
    steps: usize,
    learning_rate: f64,
    save_every: usize,
    optimizer: &'a recipe::OptimizerSettings,
    states: &'a Path,
}

impl Stage<'_> {
    /// Resumes, steps, reports, saves. The loss of a step is the mean of its parts' losses.
    fn run(
        self,
        report: &mut Report<'_>,
        part_loss: impl Fn(usize, usize) -> Result<PartLoss> + Sync + Send,
    ) -> Result<()> {
        let steps = self.steps;
        let optimizer = self.optimizer;
        let schedule = LearningRateSchedule {
            peak: self.learning_rate,
            warmup: ((steps as f64 * optimizer.warmup_fraction) as usize).max(1),
            decay: Decay::Cosine {
                updates: steps,
                final_fraction: optimizer.final_fraction,
            },
        };
        let folder = self.states.join(self.name);
        let mut trainer = Trainer::new(self.parameters, optimizer.adamw, OptimizerPlace::Device)?;
        let first = trainer.resume(&folder)?;
        for step in first..steps {
            let parameters = &trainer.parameters;
            let parts = side_by_side(&Device::Cpu, PARTS, |part| -> Result<_> {
                let PartLoss { loss, figures } = part_loss(step, part)?;
                let loss = (loss / PARTS as f64)?;
                let mut gradients = Gradients::new();
                gradients.accumulate(parameters, &loss.backward()?)?;
                Ok((gradients, figures))
            });
            let mut gradients = Gradients::new();
            let mut sums: Vec<(&str, f32)> = Vec::new();
            for part in parts {
                let (own, figures) = part?;
                gradients.merge(own)?;
                for (index, (name, figure)) in figures.into_iter().enumerate() {
                    match sums.get_mut(index) {
                        Some((_, sum)) => *sum += figure,
                        None => sums.push((name, figure)),
                    }
                }
            }
            clip_grad_norm(&mut gradients, Some(optimizer.max_grad_norm))?;
            trainer
                .optimizer
                .step(&trainer.parameters, &gradients, schedule.rate(step))?;
            let figures: Vec<String> = sums
                .iter()
                .map(|(name, sum)| format!("{name} {:.3}", sum / PARTS as f32))
                .collect();
            report(self.name, step + 1, steps, &figures.join(", "));
            if (step + 1) % self.save_every == 0 || step + 1 == steps {
                trainer.save(&folder, step + 1, None)?;
            }
        }
        Ok(())
    }
}

fn train_vision(
    recipe: &Recipe,
    model: &Model,
    processor: &Processor,
    states: &Path,
    stream: &Stream,
    report: &mut Report<'_>,
) -> Result<()> {
    let hidden = recipe.model.hidden;
    let head = |name: &str| -> Result<Var> {
        let mut draw = stream.purpose(name).generator();
        let scale = 1.0 / (hidden as f64).sqrt();
        let values: Vec<f32> = (0..hidden * hidden)
            .map(|_| (draw.normal() * scale) as f32)
            .collect();
        Ok(Var::from_vec(values, (hidden, hidden), &Device::Cpu)?)
    };
    let heads = vision::Heads {
        row: head("row head")?,
        column: head("column head")?,
        bar: head("bar head")?,
    };
    let mut parameters: Vec<(String, Var)> = model
        .trainable()
        .into_iter()
        .filter(|(name, _)| name.starts_with("visual.") || name.contains("embed_tokens"))
        .collect();
    for (name, var) in [
        ("row", &heads.row),
        ("column", &heads.column),
        ("bar", &heads.bar),
    ] {
        parameters.push((format!("heads.{name}"), var.clone()));
    }
    let stage = &recipe.vision;
    let stream = stream.purpose("vision");
    Stage {
        name: "vision",
        parameters,
        steps: stage.steps,
        learning_rate: stage.learning_rate,
        save_every: recipe.save_every,
        optimizer: &recipe.optimizer,
        states,
    }
    .run(report, |step, part| {
        let mut draw = stream.index(step as u64).index(part as u64).generator();
        let pictures: Vec<curriculum::Picture> = items(part, stage.figures)
            .map(|_| curriculum::picture(&recipe.difficulty, stage.focused, &mut draw))
            .collect();
        let images: Vec<&image::RgbImage> = pictures.iter().map(|p| p.image.as_ref()).collect();
        let truth: Vec<_> = pictures.iter().flat_map(|p| p.cells.clone()).collect();
        let (pixels, grids) = processor.image_processor().process(&images)?;
        let features = model.encode_images(&pixels, &grids)?;
        let dense = vision::dense_loss(model, &heads, &features, &truth)?;
        let [own, row, column, bar] = dense.mean_probability;
        Ok(PartLoss {
            figures: vec![
                ("loss", dense.loss.to_scalar()?),
                ("probability of own word", own),
                ("row", row),
                ("column", column),
                ("bar", bar),
            ],
            loss: dense.loss,
        })
    })
}

/// One image's questions as a tree: what they share is the prompt, the rest are its branches.
struct PackedQuestions {
    prompt: Prompt,
    branches: Vec<Vec<u32>>,
    /// Tokens of each branch's end that are the answer.
    answers: Vec<usize>,
}

/// The place of the word that answers within [`render_answer`]'s tokens.
const ANSWER_WORD: usize = 1;

fn train_reading(
    recipe: &Recipe,
    mut model: Model,
    processor: &Arc<Processor>,
    states: &Path,
    stream: &Stream,
    report: &mut Report<'_>,
) -> Result<Model> {
    model.freeze(&[ModelPart::Vision, ModelPart::Merger])?;
    let stage = &recipe.reading;
    let stream = stream.purpose("reading");
    let shared = &model;
    Stage {
        name: "reading",
        parameters: shared.trainable(),
        steps: stage.steps,
        learning_rate: stage.learning_rate,
        save_every: recipe.save_every,
        optimizer: &recipe.optimizer,
        states,
    }
    .run(report, |step, part| {
        let mut draw = stream.index(step as u64).index(part as u64).generator();
        let mix = ReadingMix {
            questions: stage.questions,
            focused: stage.focused,
            lookup_only: step < stage.lookup_only,
            statements: stage.statements,
        };
        let materials: Vec<curriculum::Reading> = items(part, stage.figures)
            .map(|_| curriculum::reading(&recipe.difficulty, &mix, &mut draw))
            .collect();
        let firsts: Vec<&Conversation> = materials
            .iter()
            .map(|material| &material.conversations[0])
            .collect();
        let firsts = encode_whole(shared, processor, &firsts)?;
        let packs = materials
            .iter()
            .zip(firsts)
            .map(|(material, first)| pack_questions(processor, material, first))
            .collect::<Result<Vec<_>>>()?;
        let trees: Vec<Tree> = packs
            .iter()
            .map(|pack| Tree {
                prompt: &pack.prompt,
                branches: pack.branches.iter().map(Vec::as_slice).collect(),
            })
            .collect();
        let answers: Vec<usize> = packs.iter().flat_map(|pack| pack.answers.clone()).collect();
        let packed = Packed::new(shared, &trees)?;
        let embeddings = packed.embed(shared)?;
        let residuals = shared.residuals(&embeddings, &packed.positions, &packed.layout)?;
        let hidden = shared.final_norm(&residuals[residuals.len() - 1])?;
        let scored = packed.score(shared, &hidden, 1.0)?;
        let answer = answer_loss(&packed, &scored, &answers)?;
        let askers: Vec<u32> = packed
            .branches
            .iter()
            .zip(&answers)
            .map(|(branch, length)| packed.predictors[branch.end - length + ANSWER_WORD])
            .collect();
        let pointers: Vec<&curriculum::Pointers> =
            materials.iter().flat_map(|m| &m.pointers).collect();
        let [selected, decisive] =
            pointing::losses(shared, &packed, &residuals, &askers, &pointers)?;
        let looking = ((&selected + &decisive)? * stage.pointing)?;
        Ok(PartLoss {
            figures: vec![
                ("loss", answer.to_scalar()?),
                ("selected", selected.to_scalar()?),
                ("decisive", decisive.to_scalar()?),
            ],
            loss: (answer + looking)?,
        })
    })?;
    Ok(model)
}

/// Mean cross-entropy over the last `answers[i]` tokens of every branch `i`.
fn answer_loss(packed: &Packed, scored: &TokenLogProbs, answers: &[usize]) -> Result<Tensor> {
    let mut wanted = Vec::new();
    for (branch, length) in packed.branches.iter().zip(answers) {
        wanted.extend((branch.end - length..branch.end).map(|place| place as u32));
    }
    let wanted = Tensor::new(wanted, scored.log_probs.device())?;
    let chosen = scored.log_probs.index_select(&wanted, 0)?;
    Ok(chosen.mean_all()?.neg()?)
}

/// Conversations as prompts, all their images through the vision tower together.
fn encode_whole(
    model: &Model,
    processor: &Processor,
    conversations: &[&Conversation],
) -> Result<Vec<EncodedPrompt>> {
    let (seen, how) = (SeenImages::own(), (usize::MAX, false));
    encode(model, processor, &seen, conversations, how)
        .into_iter()
        .collect()
}

/// `first` is the encoded first conversation of `material`, with the image's features.
fn pack_questions(
    processor: &Processor,
    material: &curriculum::Reading,
    first: EncodedPrompt,
) -> Result<PackedQuestions> {
    let stop = processor.stop_ids()[0];
    let shared = curriculum::from_request(&first.blocks);
    let (mut branches, mut answers) = (Vec::new(), Vec::new());
    for (conversation, answer) in material.conversations.iter().zip(&material.answers) {
        let encoded = tokenize(processor, conversation, false)?;
        let mut branch = encoded.prompt.input_ids[shared..].to_vec();
        let mut completion = processor.tokenizer().encode(answer)?;
        completion.push(stop);
        branch.extend_from_slice(&completion);
        branches.push(branch);
        answers.push(completion.len());
    }
    let mut prompt = first.prompt;
    prompt.input_ids.truncate(shared);
    Ok(PackedQuestions {
        prompt,
        branches,
        answers,
    })
}

#[allow(clippy::too_many_arguments)]
fn train_demonstrations(
    recipe: &Recipe,
    name: &str,
    stage: &DemonstrationStage,
    mut model: Model,
    processor: &Arc<Processor>,
    states: &Path,
    stream: &Stream,
    report: &mut Report<'_>,
) -> Result<Model> {
    model.freeze(&[ModelPart::Vision, ModelPart::Merger])?;
    let stream = stream.purpose("demonstrations").purpose(name);
    let mix = DemonstrationMix {
        direct: stage.direct,
        copied: stage.copied,
        habitual: stage.habitual,
    };
    let stop = processor.stop_ids()[0];
    let shared = &model;
    Stage {
        name,
        parameters: shared.trainable(),
        steps: stage.steps,
        learning_rate: stage.learning_rate,
        save_every: recipe.save_every,
        optimizer: &recipe.optimizer,
        states,
    }
    .run(report, |step, part| {
        let turns: Vec<curriculum::Demonstration> = items(part, stage.episodes)
            .flat_map(|episode| {
                let stream = stream.index(step as u64).index(episode as u64);
                curriculum::demonstration(&recipe.difficulty, &mix, &stream)
            })
            .collect();
        let conversations: Vec<&Conversation> =
            turns.iter().map(|turn| &turn.conversation).collect();
        let prompts = encode_whole(shared, processor, &conversations)?;
        let completions = turns
            .iter()
            .map(|turn| {
                let mut ids = processor.tokenizer().encode(&turn.completion)?;
                ids.push(stop);
                Ok(ids)
            })
            .collect::<Result<Vec<_>>>()?;
        let trees: Vec<Tree> = prompts
            .iter()
            .zip(&completions)
            .map(|(prompt, completion)| Tree {
                prompt: &prompt.prompt,
                branches: vec![completion],
            })
            .collect();
        let lengths: Vec<usize> = completions.iter().map(Vec::len).collect();
        let packed = Packed::new(shared, &trees)?;
        let embeddings = packed.embed(shared)?;
        let scored = packed.log_probs(shared, &embeddings, 1.0)?;
        let loss = answer_loss(&packed, &scored, &lengths)?;
        Ok(PartLoss {
            figures: vec![("loss", loss.to_scalar()?)],
            loss,
        })
    })?;
    Ok(model)
}
