//! Our side of `benches/peers/compare.py`: one case of work, timed once for every line on stdin.
//!
//! `peer CASE CHECKPOINT [KEY=VALUE]…` prepares the case, prints `{"ready": …}` and then, for every
//! line it reads, does the work once and prints `{"seconds": …}`. `peer export CHECKPOINT out=DIR`
//! writes the figures, chats and embeddings that the other side needs for the same work; `peer plots DIR`
//! draws the measurements in a folder.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use agent::{CompletionRequest, Conversation, MessagePart, Policy, PromptStyle, first_turn};
use anyhow::{Context, Result, anyhow, bail, ensure};
use attribution::{Baseline, BlockMass, Method};
use baselines::attribution_settings::AttributionSettings;
use benchmarks::micro::{Difficulty, Split, TRAINED, question};
use candle_core::{DType, Device, Tensor};
use fused_ops::{InstructionSet, side_by_side};
use grpo::{
    AdamW, AdamWOptions, Clip, Gradients, KlEstimator, KlPenalty, LossInputs, LossOptions,
    RatioLevel, ScaleByStd, Totals, advantages, clip_grad_norm,
};
use qwen2_5_vl::{GenerationOptions, ImageProcessor, ImageSettings, Model, ModelPart, Prompt};
use replicate::alignment::{AttributedCall, CalledPrompt, attribute};
use replicate::compute::Compute;
use replicate::encoding::EncodedPrompt;
use replicate::packing::{Packed, Tree};
use replicate::policy::{Budgets, LocalPolicy};
use results::plot::{Growth, Ratio, growth, ratios};
use seeded_random::Stream;
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: fused_ops::allocator::CachingAllocator = fused_ops::allocator::CachingAllocator;

/// Tokens of a part of a batch that runs on one thread.
const PART_TOKENS: usize = 2048;

/// The settings on the command line.
struct Settings(HashMap<String, String>);

impl Settings {
    fn number(&self, key: &str) -> Result<usize> {
        let text = self.text(key)?;
        text.parse()
            .with_context(|| format!("{key}={text}: expected a whole number"))
    }

    fn text(&self, key: &str) -> Result<&str> {
        self.0
            .get(key)
            .map(String::as_str)
            .ok_or_else(|| anyhow!("{key} is missing: add {key}=…"))
    }
}

/// The work of a case; what it reports beside the time.
type Work = Box<dyn FnMut() -> Result<Value>>;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(case), Some(checkpoint)) = (arguments.next(), arguments.next()) else {
        bail!("usage: peer CASE CHECKPOINT [KEY=VALUE]…");
    };
    let settings = arguments
        .map(|argument| {
            let (key, value) = argument
                .split_once('=')
                .ok_or_else(|| anyhow!("{argument}: expected key=value"))?;
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect::<Result<HashMap<_, _>>>()?;
    let (checkpoint, settings) = (PathBuf::from(checkpoint), Settings(settings));
    let mut work: Work = match case.as_str() {
        "plots" => return plots(&checkpoint),
        "export" => return export(&checkpoint, Path::new(settings.text("out")?)),
        "matmul" => matmul(&settings)?,
        "train" => train(&checkpoint, &settings)?,
        "generate" => generate(&checkpoint, &settings)?,
        "grpo" => grpo_update(&checkpoint, &settings)?,
        "attribute" => attribution(&checkpoint, &settings)?,
        "preprocess" => preprocess(&settings)?,
        other => bail!("unknown case '{other}'"),
    };
    // As on the other side, the first run is not timed.
    work()?;
    let stdout = std::io::stdout();
    writeln!(&stdout, "{}", json!({"ready": case}))?;
    for line in std::io::stdin().lock().lines() {
        line?;
        let clock = Instant::now();
        let mut report = work()?;
        report["seconds"] = json!(clock.elapsed().as_secs_f64());
        writeln!(&stdout, "{report}")?;
    }
    Ok(())
}

/// `peers.svg` and `growth.svg` from the measurements beside them, as far as they are there; of the
/// instruction sets in `peers.json` the widest is drawn, of those in `growth.json` all.
fn plots(folder: &Path) -> Result<()> {
    let read = |name: &str| -> Result<Option<Value>> {
        let path = folder.join(name);
        if !path.exists() {
            return Ok(None);
        }
        Ok(Some(results::read_json(&path)?))
    };
    let write = |name: &str, svg: String| {
        results::write_atomically(&folder.join(name), svg.as_bytes())
            .with_context(|| format!("{name} is not drawn"))
    };
    if let Some(found) = read("peers.json")? {
        let mut sets = InstructionSet::ALL
            .map(|set| &found["sets"][set.name()])
            .into_iter();
        let widest = sets.find(|set| set.is_object());
        let widest = widest.context("peers.json has no measurements: run just bench-peers")?;
        let rows: Vec<Ratio> = serde_json::from_value(widest["rows"].clone())?;
        write("peers.svg", ratios(&rows)?)?;
    }
    if let Some(found) = read("growth.json")? {
        let sets = InstructionSet::ALL.map(InstructionSet::name).into_iter();
        let sets = sets.filter(|set| found["sets"][set].is_object());
        let sets = sets
            .map(|set| {
                Ok(Growth {
                    set: set.to_owned(),
                    points: serde_json::from_value(found["sets"][set]["points"].clone())?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        ensure!(
            !sets.is_empty(),
            "growth.json has no instruction sets: run just bench-peers --only growth"
        );
        write("growth.svg", growth(&sets)?)?;
    }
    Ok(())
}

/// A token of the words, the same on both sides.
fn word(row: usize, column: usize) -> u32 {
    1 + ((row * 7919 + column * 104_729 + row * column) % 140) as u32
}

/// Square matrices: what the machine can do at most.
fn matmul(settings: &Settings) -> Result<Work> {
    let [rows, inner, columns, times] =
        ["rows", "inner", "columns", "times"].map(|key| settings.number(key));
    let (inner, times) = (inner?, times?);
    let values = |rows: usize, shift: usize| -> Result<Tensor> {
        let values: Vec<f32> = (0..rows * inner)
            .map(|index| ((index * 31 + shift) % 97) as f32 / 97.0)
            .collect();
        Ok(Tensor::from_vec(values, (rows, inner), &Device::Cpu)?)
    };
    let (a, b) = (values(rows?, 1)?, values(columns?, 2)?);
    Ok(Box::new(move || {
        for _ in 0..times {
            fused_ops::linear(&a, &b, None)?;
        }
        Ok(json!({"simd": fused_ops::instruction_set()?.name()}))
    }))
}

fn load(checkpoint: &Path) -> Result<Model> {
    let mut model = Model::load(checkpoint, &Device::Cpu, DType::F32)?;
    model.freeze(&[ModelPart::Vision, ModelPart::Merger])?;
    Ok(model)
}

fn adamw() -> Result<AdamW> {
    Ok(AdamW::new(AdamWOptions {
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.01,
    })?)
}

/// Trees in parts of about [`PART_TOKENS`] tokens.
fn parts<'t, 'p>(trees: &'t [Tree<'p>]) -> Vec<&'t [Tree<'p>]> {
    let tokens = |tree: &Tree| {
        tree.prompt.input_ids.len() + tree.branches.iter().map(|b| b.len()).sum::<usize>()
    };
    let (mut found, mut start, mut sum) = (Vec::new(), 0, 0);
    for (index, tree) in trees.iter().enumerate() {
        if sum > 0 && sum + tokens(tree) > PART_TOKENS {
            found.push(&trees[start..index]);
            (start, sum) = (index, 0);
        }
        sum += tokens(tree);
    }
    found.push(&trees[start..]);
    found
}

/// A training step: mean cross-entropy of the replies, gradients, clipping, AdamW.
fn train(checkpoint: &Path, settings: &Settings) -> Result<Work> {
    let model = load(checkpoint)?;
    let samples = settings.number("samples")?;
    let (length, reply) = (settings.number("prompt")?, settings.number("reply")?);
    let prompts: Vec<Prompt> = (0..settings.number("prompts")?)
        .map(|row| Prompt {
            input_ids: (0..length).map(|column| word(row, column)).collect(),
            image_features: None,
            grids: Vec::new(),
        })
        .collect();
    let replies: Vec<Vec<u32>> = (0..prompts.len() * samples)
        .map(|row| (0..reply).map(|column| word(row + 1000, column)).collect())
        .collect();
    let parameters = model.trainable();
    let mut optimizer = adamw()?;
    Ok(Box::new(move || {
        let trees: Vec<Tree> = prompts
            .iter()
            .zip(replies.chunks(samples))
            .map(|(prompt, replies)| Tree {
                prompt,
                branches: replies.iter().map(Vec::as_slice).collect(),
            })
            .collect();
        let parts = parts(&trees);
        let total = (replies.len() * reply) as f64;
        let computed = side_by_side(&Device::Cpu, parts.len(), |part| -> Result<_> {
            let packed = Packed::new(&model, parts[part])?;
            let scored = packed.log_probs(&model, &packed.embed(&model)?, 1.0)?;
            let loss = (scored.log_probs.sum_all()? / -total)?;
            let mut gradients = Gradients::new();
            gradients.accumulate(&parameters, &loss.backward()?)?;
            Ok((gradients, loss.to_scalar::<f32>()?))
        });
        let (mut gradients, mut loss) = (Gradients::new(), 0.0);
        for part in computed {
            let (own, value) = part?;
            gradients.merge(own)?;
            loss += value;
        }
        clip_grad_norm(&mut gradients, Some(1.0))?;
        optimizer.step(&parameters, &gradients, 1e-5)?;
        Ok(json!({"loss": loss}))
    }))
}

/// Greedy generation of a fixed number of tokens.
fn generate(checkpoint: &Path, settings: &Settings) -> Result<Work> {
    let model = load(checkpoint)?;
    let length = settings.number("prompt")?;
    let prompts: Vec<Prompt> = (0..settings.number("prompts")?)
        .map(|row| Prompt {
            input_ids: (0..length).map(|column| word(row, column)).collect(),
            image_features: None,
            grids: Vec::new(),
        })
        .collect();
    let seeds = vec![vec![Some(0); settings.number("samples")?]; prompts.len()];
    let options = GenerationOptions {
        max_new_tokens: settings.number("new")?,
        temperature: 0.0,
        top_p: None,
        repetition_penalty: None,
        stop_ids: Vec::new(),
    };
    Ok(Box::new(move || {
        let sampled = model.generate(&prompts, &seeds, &options)?;
        let last: Vec<u32> = sampled
            .iter()
            .flatten()
            .filter_map(|sample| sample.token_ids.last().copied())
            .collect();
        Ok(json!({"last": last}))
    }))
}

/// First turns of the micro world.
fn conversations(count: usize) -> Vec<Conversation> {
    let difficulty = Difficulty {
        table_rows: [4, 5],
        table_columns: [3, 5],
        bars: [5, 6],
        named: [2, 4],
        noise: 0.01,
    };
    let stream = Stream::new(1).purpose("peers");
    (0..count)
        .map(|index| {
            let set = TRAINED[index % TRAINED.len()];
            let micro = question(set, Split::Train, &difficulty, &stream, index as u64);
            first_turn(&micro.question.task, PromptStyle::Micro)
        })
        .collect()
}

/// One update of GRPO with a KL term: sample, reward, loss, step. The reward is the share of
/// distinct tokens in a completion, which any model can earn.
fn grpo_update(checkpoint: &Path, settings: &Settings) -> Result<Work> {
    let (prompts, samples) = (settings.number("prompts")?, settings.number("samples")?);
    let mut policy = LocalPolicy::load(checkpoint, &Compute::cpu(), settings.number("new")?)?;
    policy
        .model
        .freeze(&[ModelPart::Vision, ModelPart::Merger])?;
    policy.temperature = 1.0;
    let reference = policy.model.copy(DType::F32)?.detached()?;
    let parameters = policy.model.trainable();
    let mut optimizer = adamw()?;
    let conversations = conversations(prompts);
    let mut update = 0u64;
    Ok(Box::new(move || {
        update += 1;
        policy.forget();
        let requests: Vec<CompletionRequest> = (0..prompts * samples)
            .map(|index| {
                CompletionRequest::new(
                    &conversations[index / samples],
                    Some(update * 100_000 + index as u64),
                )
            })
            .collect();
        let completions = policy
            .complete(&requests)?
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        let rewards: Vec<f32> = completions
            .iter()
            .map(|completion| {
                let mut distinct = completion.token_ids.clone();
                distinct.sort_unstable();
                distinct.dedup();
                distinct.len() as f32 / completion.token_ids.len().max(1) as f32
            })
            .collect();
        let groups: Vec<usize> = (0..rewards.len()).map(|index| index / samples).collect();
        let scale = ScaleByStd::Group {
            eps: 1e-4,
            floor: 1e-3,
        };
        let advantages = advantages(&rewards, &groups, scale)?;
        let encoded = policy.encode(&conversations.iter().collect::<Vec<_>>())?;
        let trees: Vec<Tree> = encoded
            .iter()
            .zip(completions.chunks(samples))
            .map(|(prompt, group)| Tree {
                prompt: &prompt.prompt,
                branches: group.iter().map(|c| c.token_ids.as_slice()).collect(),
            })
            .collect();
        let parts = parts(&trees);
        let firsts: Vec<usize> = parts
            .iter()
            .scan(0, |sequence, part| {
                let first = *sequence;
                *sequence += part.len() * samples;
                Some(first)
            })
            .collect();
        let totals = Totals {
            tokens: completions.iter().map(|c| c.token_ids.len()).sum(),
            sequences: completions.len(),
        };
        let options = LossOptions {
            clip: Clip {
                low: 0.2,
                high: 0.2,
                dual: None,
            },
            ratio: RatioLevel::Token,
            kl: Some(KlPenalty {
                estimator: KlEstimator::K3,
                coefficient: 0.04,
            }),
            aggregation: grpo::LossAggregation::TokenMean,
        };
        let model = &policy.model;
        let computed = side_by_side(&Device::Cpu, parts.len(), |part| -> Result<_> {
            let packed = Packed::new(model, parts[part])?;
            let expected = packed
                .log_probs(&reference, &packed.embed(&reference)?, 1.0)?
                .log_probs
                .to_vec1::<f32>()?;
            let scored = packed.log_probs(model, &packed.embed(model)?, 1.0)?;
            let own = &completions[firsts[part]..firsts[part] + parts[part].len() * samples];
            let old: Vec<f32> = own.iter().flat_map(|c| c.log_probs.clone()).collect();
            let sequence: Vec<usize> = own
                .iter()
                .enumerate()
                .flat_map(|(index, c)| std::iter::repeat_n(index, c.token_ids.len()))
                .collect();
            let output = grpo::loss(
                &LossInputs {
                    log_probs: &scored.log_probs,
                    old: Some(&old),
                    reference: Some(&expected),
                    entropy: None,
                    sequence: &sequence,
                    advantages: &advantages[firsts[part]..firsts[part] + own.len()],
                    mask: None,
                    totals: Some(totals),
                },
                &options,
            )?;
            let mut gradients = Gradients::new();
            gradients.accumulate(&parameters, &output.loss.backward()?)?;
            Ok(gradients)
        });
        let mut gradients = Gradients::new();
        for part in computed {
            gradients.merge(part?)?;
        }
        clip_grad_norm(&mut gradients, Some(1.0))?;
        optimizer.step(&parameters, &gradients, 1e-6)?;
        Ok(json!({"tokens": totals.tokens}))
    }))
}

/// A prompt of the micro world with the calls that are attributed.
fn called_prompt(checkpoint: &Path) -> Result<(Model, Arc<EncodedPrompt>, Vec<Vec<u32>>)> {
    let mut policy = LocalPolicy::load(checkpoint, &Compute::cpu(), 16)?;
    policy.temperature = 1.0;
    let conversation = &conversations(1)[0];
    let mut calls: Vec<Vec<u32>> = Vec::new();
    // Distinct samples of the policy itself, as a group of rollouts has them.
    for seed in 0..200 {
        let completion = policy
            .complete(&[CompletionRequest::new(conversation, Some(seed))])?
            .remove(0)?;
        if completion.text.contains("focus_on") && !calls.contains(&completion.token_ids) {
            calls.push(completion.token_ids);
        }
        if calls.len() == 8 {
            break;
        }
    }
    ensure!(!calls.is_empty(), "the model never calls a tool");
    let encoded = policy.encode(&[conversation])?.remove(0);
    Ok((policy.model, encoded, calls))
}

/// Integrated gradients of every call of a group, one model; with `steps` path differences instead.
/// Reports the median gap and every call's shares of the blocks by signed sums.
fn attribution(checkpoint: &Path, settings: &Settings) -> Result<Work> {
    let (model, prompt, calls) = called_prompt(checkpoint)?;
    let model = model.detached()?;
    let baseline = match settings.text("baseline")? {
        "zero" => Baseline::Zero,
        _ => Baseline::BlockMean,
    };
    let settings = AttributionSettings {
        method: match settings.number("steps") {
            Ok(steps) => Method::PathDifferences(AttributionSettings::levels(baseline, steps)),
            Err(_) => {
                let nodes = settings.number("nodes")?;
                Method::IntegratedGradients {
                    quadrature: match baseline {
                        Baseline::Zero => {
                            AttributionSettings::norm_midpoint(model.norm_knee()?, nodes)
                        }
                        Baseline::BlockMean => AttributionSettings::quadrature(baseline, nodes),
                    },
                }
            }
        },
        baseline,
        masses: BlockMass::Signed,
        ..AttributionSettings::paper()
    };
    Ok(Box::new(move || {
        let called = [CalledPrompt {
            prompt: &prompt,
            calls: calls
                .iter()
                .map(|token_ids| AttributedCall {
                    token_ids,
                    content: vec![true; token_ids.len()],
                })
                .collect(),
        }];
        let found = attribute(&model, &called, &settings, Budgets::default())?;
        let found: Vec<_> = found.iter().flatten().collect();
        let mut gaps: Vec<f64> = found.iter().filter_map(|c| c.relative_gap).collect();
        gaps.sort_by(f64::total_cmp);
        let shares: Vec<&[f64]> = found.iter().map(|c| c.shares.shares()).collect();
        Ok(json!({"gap": gaps[gaps.len() / 2], "calls": gaps.len(), "shares": shares}))
    }))
}

/// The image processor on decoded pictures.
fn preprocess(settings: &Settings) -> Result<Work> {
    let folder = PathBuf::from(settings.text("images")?);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    let images = files
        .iter()
        .map(|file| Ok(qwen2_5_vl::read_image(file)?))
        .collect::<Result<Vec<_>>>()?;
    let processor = ImageProcessor::new(ImageSettings::default()).map_err(|e| anyhow!(e))?;
    Ok(Box::new(move || {
        let images: Vec<_> = images.iter().collect();
        let (pixels, _) = processor.process(&images)?;
        Ok(json!({"patches": pixels.dim(0)?}))
    }))
}

/// Figures and chats of the GRPO case, embeddings and calls of the attribution case.
fn export(checkpoint: &Path, out: &Path) -> Result<()> {
    std::fs::create_dir_all(out)?;
    let mut chats = Vec::new();
    for (index, conversation) in conversations(64).iter().enumerate() {
        let mut messages = Vec::new();
        for message in conversation {
            let mut parts = Vec::new();
            for part in &message.parts {
                parts.push(match part {
                    MessagePart::Text { text, .. } => json!({"type": "text", "text": text}),
                    MessagePart::Image(image) => {
                        image.save(out.join(format!("{index}.png")))?;
                        json!({"type": "image"})
                    }
                });
            }
            messages.push(json!({"role": message.role.name(), "content": parts}));
        }
        chats.push(messages);
    }
    std::fs::write(out.join("chats.json"), serde_json::to_vec(&chats)?)?;

    let (model, prompt, calls) = called_prompt(checkpoint)?;
    let features = prompt.prompt.image_features.as_ref();
    let embeddings = model.embed(&prompt.prompt.input_ids, features)?.detach();
    let positions = model.positions(&prompt.prompt.input_ids, &prompt.prompt.grids)?;
    let next = positions.next();
    candle_core::safetensors::save(
        &HashMap::from([("embeddings".to_owned(), embeddings)]),
        out.join("attribution.safetensors"),
    )?;
    let blocks: Vec<usize> = prompt.blocks.iter().map(|block| *block as usize).collect();
    let case = json!({
        "positions": [positions.axis(0), positions.axis(1), positions.axis(2)],
        "next": next,
        "calls": calls,
        "blocks": blocks,
        "banned": model.config().vision_token_ids(),
    });
    std::fs::write(out.join("attribution.json"), serde_json::to_vec(&case)?)?;
    Ok(())
}
