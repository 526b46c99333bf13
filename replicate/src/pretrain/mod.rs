//! The micro base checkpoints from nothing.
//!
//! 1. The vision tower learns to read with dense labels ([`vision`]).
//! 2. The decoder learns to answer questions about figures, raw and masked, packed several to an
//!    image; the vision tower is frozen from here on.
//! 3. The student continues on demonstrations of which some are wrong, so that its first calls have
//!    systematic errors; the teacher, of the same lineage, on right ones.

mod card;
pub mod material;
pub mod recipe;
pub mod vision;

use std::path::Path;
use std::sync::Arc;

use agent::Conversation;
use benchmarks::micro::language::processor_files;
use candle_core::{DType, Device, Tensor, Var};
use grpo::{Decay, Gradients, Schedule, clip_grad_norm};
use qwen2_5_vl::{Grid, Model, Part, Processor, Prompt};
use seeded_random::{Draw, Stream};

use crate::packing::{Packed, Tree};
use crate::policy::{EncodedPrompt, LocalPolicy};
use crate::profile::World;
use crate::state::{Trainer, adamw};
use crate::{Error, Result, error};
use recipe::{DemonstrationStage, Recipe};

/// What a stage says while it runs: stage, step, steps, and a line of figures.
pub type Report<'a> = dyn FnMut(&str, usize, usize, &str) + 'a;

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
        report(&format!("card of the {name}"), 0, 1, "");
        let mut policy = LocalPolicy::new(copy, processor.clone(), 16);
        let text = card::model_card(name, recipe, world, &mut policy, CARD_QUESTIONS)?;
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

/// Validation questions of each set that a model card rests on.
const CARD_QUESTIONS: usize = 200;

/// Runs one stage: resumes, steps, reports, saves.
#[allow(clippy::too_many_arguments)]
fn run_stage(
    name: &str,
    parameters: Vec<(String, Var)>,
    steps: usize,
    peak: f64,
    save_every: usize,
    states: &Path,
    report: &mut Report<'_>,
    mut batch_loss: impl FnMut(usize) -> Result<(Tensor, String)>,
) -> Result<()> {
    let schedule = Schedule {
        peak,
        warmup: (steps / 20).max(1),
        decay: Decay::Cosine {
            updates: steps,
            final_fraction: 0.1,
        },
    };
    let folder = states.join(name);
    let mut trainer = Trainer::new(parameters, adamw(0.01))?;
    let first = trainer.resume(&folder)?;
    for step in first..steps {
        let (loss, figures) = batch_loss(step)?;
        let mut gradients = Gradients::new();
        gradients.accumulate(&trainer.parameters, &loss.backward()?)?;
        clip_grad_norm(&mut gradients, Some(1.0))?;
        trainer
            .optimizer
            .step(&trainer.parameters, &gradients, schedule.rate(step))?;
        report(name, step + 1, steps, &figures);
        if (step + 1) % save_every == 0 || step + 1 == steps {
            trainer.save(&folder, step + 1)?;
        }
    }
    Ok(())
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
    run_stage(
        "vision",
        parameters,
        stage.steps,
        stage.learning_rate,
        recipe.save_every,
        states,
        report,
        |step| {
            let mut draw = stream.index(step as u64).generator();
            let pictures: Vec<material::Picture> = (0..stage.figures)
                .map(|_| material::picture(&recipe.difficulty, stage.focused, &mut draw))
                .collect();
            let images: Vec<&image::RgbImage> = pictures.iter().map(|p| p.image.as_ref()).collect();
            let truth: Vec<_> = pictures.iter().flat_map(|p| p.cells.clone()).collect();
            let (pixels, grids) = processor.image_processor().process(&images)?;
            let features = model.encode_images(&pixels, &grids)?;
            let dense = vision::dense_loss(model, &heads, &features, &truth)?;
            let figures = format!(
                "loss {:.3}, probability of own word {:.3}, row {:.3}, column {:.3}, bar {:.3}",
                dense.loss.to_scalar::<f32>()?,
                dense.mean_probability[0],
                dense.mean_probability[1],
                dense.mean_probability[2],
                dense.mean_probability[3],
            );
            Ok((dense.loss, figures))
        },
    )
}

/// One image's questions as a tree: what they share is the prompt, the rest are its branches.
struct PackedQuestions {
    prompt: Prompt,
    branches: Vec<Vec<u32>>,
    /// Tokens of each branch's end that are the answer.
    answers: Vec<usize>,
}

fn train_reading(
    recipe: &Recipe,
    mut model: Model,
    processor: &Arc<Processor>,
    states: &Path,
    stream: &Stream,
    report: &mut Report<'_>,
) -> Result<Model> {
    model.freeze(&[Part::Vision, Part::Merger])?;
    let stage = &recipe.reading;
    let stream = stream.purpose("reading");
    let shared = &model;
    run_stage(
        "reading",
        shared.trainable(),
        stage.steps,
        stage.learning_rate,
        recipe.save_every,
        states,
        report,
        |step| {
            let mut draw = stream.index(step as u64).generator();
            let packs = (0..stage.figures)
                .map(|_| {
                    let material = material::reading(&recipe.difficulty, stage, step, &mut draw);
                    pack_questions(shared, processor, &material)
                })
                .collect::<Result<Vec<_>>>()?;
            let trees: Vec<Tree> = packs
                .iter()
                .map(|pack| Tree {
                    prompt: &pack.prompt,
                    branches: pack.branches.iter().map(Vec::as_slice).collect(),
                })
                .collect();
            let answers: Vec<usize> = packs.iter().flat_map(|pack| pack.answers.clone()).collect();
            supervised_loss(shared, &trees, &answers)
        },
    )?;
    Ok(model)
}

/// Mean cross-entropy over the last tokens of every branch.
fn supervised_loss(
    model: &Model,
    trees: &[Tree<'_>],
    answers: &[usize],
) -> Result<(Tensor, String)> {
    let packed = Packed::new(model, trees)?;
    let embeddings = packed.embed(model)?;
    let scored = packed.log_probs(model, &embeddings, 1.0)?;
    let mut wanted = Vec::new();
    for (branch, length) in packed.branches.iter().zip(answers) {
        wanted.extend((branch.end - length..branch.end).map(|place| place as u32));
    }
    let wanted = Tensor::new(wanted, embeddings.device())?;
    let chosen = scored.log_probs.index_select(&wanted, 0)?;
    let loss = chosen.mean_all()?.neg()?;
    let figures = format!("loss {:.4}", loss.to_scalar::<f32>()?);
    Ok((loss, figures))
}

fn pack_questions(
    model: &Model,
    processor: &Arc<Processor>,
    material: &material::Reading,
) -> Result<PackedQuestions> {
    let mut pack: Option<PackedQuestions> = None;
    let stop = processor.stop_ids()[0];
    for (conversation, answer) in material.conversations.iter().zip(&material.answers) {
        let encoded = encode_one(model, processor, conversation, pack.is_none())?;
        let shared = material::from_request(&encoded.blocks);
        let mut branch = encoded.prompt.input_ids[shared..].to_vec();
        let mut completion = processor.tokenizer().encode(answer)?;
        completion.push(stop);
        branch.extend_from_slice(&completion);
        let pack = pack.get_or_insert_with(|| PackedQuestions {
            prompt: Prompt {
                input_ids: encoded.prompt.input_ids[..shared].to_vec(),
                image_features: encoded.prompt.image_features.clone(),
                grids: encoded.prompt.grids.clone(),
            },
            branches: Vec::new(),
            answers: Vec::new(),
        });
        pack.branches.push(branch);
        pack.answers.push(completion.len());
    }
    pack.ok_or_else(|| Error::Profile {
        origin: "pretrain".into(),
        problem: "reading.questions is 0: expected at least 1".into(),
    })
}

/// One conversation as tokens and blocks; features only when they are asked for.
fn encode_one(
    model: &Model,
    processor: &Arc<Processor>,
    conversation: &Conversation,
    with_features: bool,
) -> Result<EncodedPrompt> {
    let (mut encoded, pixels, grids): (EncodedPrompt, Option<Tensor>, Vec<Grid>) =
        crate::policy::tokenize(processor, conversation)?;
    if let (true, Some(pixels)) = (with_features, pixels) {
        encoded.prompt.image_features = Some(model.encode_images(&pixels, &grids)?.detach());
    }
    Ok(encoded)
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
    model.freeze(&[Part::Vision, Part::Merger])?;
    let parameters = model.trainable();
    let stream = stream.purpose("demonstrations").purpose(name);
    let stop = processor.stop_ids()[0];
    let mut policy = LocalPolicy::new(model, processor.clone(), 16);
    run_stage(
        name,
        parameters,
        stage.steps,
        stage.learning_rate,
        recipe.save_every,
        states,
        report,
        |step| {
            let turns: Vec<material::Demonstration> = (0..stage.episodes)
                .flat_map(|episode| {
                    let stream = stream.index(step as u64).index(episode as u64);
                    material::demonstration(&recipe.difficulty, stage, &stream)
                })
                .collect();
            let conversations: Vec<&Conversation> =
                turns.iter().map(|turn| &turn.conversation).collect();
            let prompts = policy.encode(&conversations)?;
            policy.forget();
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
            supervised_loss(&policy.model, &trees, &lengths)
        },
    )?;
    Ok(policy.model)
}
