//! `iapo attribute`: what of the prompt speaks for a tool call.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use agent::{Conversation, Task, first_turn};
use anyhow::{Context, bail, ensure};
use baselines::attribution_settings::{AttributionSettings, Baseline, Method, Tokens};
use benchmarks::sources::checkpoint;
use replicate::alignment::{CalledPrompt, attribute, content_tokens, integrate_from, rollout};
use replicate::attribution_map::{AttributionMap, PatchGrid, TokenScore};
use replicate::compute::{Compute, DeviceName, WeightType};
use replicate::policy::LocalPolicy;
use serde_json::json;
use visual_tools::{BLUR, blurred};

use super::ask;

/// What gives each token its score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Scores {
    IntegratedGradients,
    Rollout,
}

/// Where the path of integrated gradients starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Start {
    Zero,
    BlockMean,
    BlurredImage,
}

/// Attributes a model's tool call to the blocks, tokens and image patches of its prompt.
#[derive(clap::Args)]
pub struct Args {
    /// The checkpoint's folder, or a model of the hub: `ORG/NAME` or `ORG/NAME@REVISION`.
    #[arg(long, value_name = "DIR|HUB-ID")]
    model: String,
    /// Compares with this checkpoint, which has the same tokenizer, on the same prompt and call.
    #[arg(long, value_name = "DIR|HUB-ID")]
    teacher: Option<String>,
    /// The figure, PNG or JPEG.
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// Named boxes in pixels, as for `iapo ask`.
    #[arg(long, value_name = "FILE")]
    boxes: Option<PathBuf>,
    /// The completion to attribute, in place of the model's own greedy one.
    #[arg(long, value_name = "TEXT")]
    call: Option<String>,
    /// Quadrature nodes of integrated gradients; at least 2 with the zero baseline.
    #[arg(long, default_value_t = 32)]
    nodes: usize,
    /// Integrated gradients, or rollout of attention, which has no baseline and no nodes: it tells
    /// where the model looks, not what speaks for the call.
    #[arg(long, value_enum, default_value_t = Scores::IntegratedGradients)]
    method: Scores,
    /// What embeddings are compared with. The blurred image (σ: a twentieth of its longer side)
    /// leaves the text as it is, so that all goes to the image.
    #[arg(long, value_enum, default_value_t = Start::Zero)]
    baseline: Start,
    /// Longest completion, tokens, when the model makes its own.
    #[arg(long, default_value_t = 64)]
    max_new_tokens: usize,
    /// Where the model runs: `cpu`, `cuda` or `cuda:N`.
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: DeviceName,
    /// The type of its weights: `f32`, `bf16` or `f16`.
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    weights: WeightType,
    /// The files `OUT.json` and `OUT.svg` (`OUT.teacher.svg` with a teacher).
    #[arg(long, default_value = "attribution", value_name = "OUT")]
    out: PathBuf,
    /// The question.
    question: String,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let settings = AttributionSettings {
        method: Method::IntegratedGradients,
        baseline: match args.baseline {
            Start::Zero => Baseline::Zero,
            // Both are at home where embeddings are: one rule of quadrature serves them.
            Start::BlockMean | Start::BlurredImage => Baseline::BlockMean,
        },
        nodes: args.nodes,
        masses: attribution::BlockMass::Absolute,
        tokens: Tokens::All,
        divergence: attribution::Divergence::Kl,
    };
    if let Some(why) = settings.nodes_problem() {
        bail!("--nodes {}: {why}", args.nodes);
    }
    let task = ask::task(&args.image, args.boxes.as_deref(), &args.question)?;
    let compute = Compute::open(args.device, args.weights)?;
    let load = |name: &str| -> anyhow::Result<LocalPolicy> {
        let folder = checkpoint::resolve(name)?;
        Ok(LocalPolicy::load(&folder, &compute, args.max_new_tokens)?)
    };
    let mut policy = load(&args.model)?;
    let teacher = match &args.teacher {
        Some(name) => {
            let teacher = load(name)?;
            check_tokenizers((args.model.as_str(), &policy), (name.as_str(), &teacher))?;
            Some((name, teacher))
        }
        None => None,
    };
    let options = policy.style.options();
    let conversation = first_turn(&task, options.prompt);
    let call = match &args.call {
        Some(text) => {
            let mut ids = policy.processor.tokenizer().encode(text)?;
            ids.extend(policy.processor.stop_ids().first());
            ids
        }
        None => {
            let request = agent::CompletionRequest {
                conversation: &conversation,
                seed: 0,
            };
            agent::Policy::complete(&mut policy, &[request])?
                .remove(0)?
                .token_ids
        }
    };
    ensure!(
        !call.is_empty(),
        "there is no token to attribute; give --call TEXT"
    );
    let start = (args.baseline == Start::BlurredImage).then(|| {
        let image = Arc::new(blurred(&task.image, BLUR));
        first_turn(
            &Task {
                image,
                ..task.clone()
            },
            options.prompt,
        )
    });
    let attributed = Attributed {
        conversation: &conversation,
        start: start.as_ref(),
        call: &call,
        settings: &settings,
        method: args.method,
    };
    let own = attributed.map(&mut policy)?;
    show(&args.model, &own);
    let svg = own.to_svg(&task.image)?;
    results::write_atomically(&args.out.with_extension("svg"), svg.as_bytes())?;

    let described = match args.method {
        Scores::Rollout => json!({ "method": "rollout", "masses": settings.masses }),
        Scores::IntegratedGradients => {
            let mut described = json!(settings);
            described["quadrature"] = json!(settings.quadrature());
            if start.is_some() {
                described["baseline"] = json!({ "blurred-image": BLUR });
            }
            described
        }
    };
    let mut json = json!({ "settings": described, "model": own });
    if let Some((name, mut teacher)) = teacher {
        let theirs = attributed.map(&mut teacher)?;
        show(name, &theirs);
        let distribution = |map: &AttributionMap| attribution::Distribution::new(&map.shares, 0.0);
        let divergence = settings
            .divergence
            .between(&distribution(&own)?, &distribution(&theirs)?)?;
        println!("KL(model, teacher) = {divergence:.4} nats");
        let svg = theirs.to_svg(&task.image)?;
        results::write_atomically(&args.out.with_extension("teacher.svg"), svg.as_bytes())?;
        json["teacher"] = json!(theirs);
        json["divergence"] = json!(divergence);
    }
    results::write_json(&args.out.with_extension("json"), &json)?;
    println!("{} and .svg", args.out.with_extension("json").display());
    Ok(ExitCode::SUCCESS)
}

/// The call is given to the teacher as token ids, which must mean the same to it.
fn check_tokenizers(
    (name, policy): (&str, &LocalPolicy),
    (teacher_name, teacher): (&str, &LocalPolicy),
) -> anyhow::Result<()> {
    let (own, other) = (policy.processor.tokenizer(), teacher.processor.tokenizer());
    ensure!(
        own.same_vocabulary(other),
        "--teacher {teacher_name}: its tokenizer ({} tokens) is not that of --model {name} ({} tokens), \
         so the call's tokens would mean something else to it; give a teacher with the same \
         tokenizer.json",
        other.vocab_size(),
        own.vocab_size()
    );
    Ok(())
}

/// What is attributed, to what, and how.
struct Attributed<'a> {
    conversation: &'a Conversation,
    /// The conversation whose embeddings are the baseline, in place of the settings' own.
    start: Option<&'a Conversation>,
    call: &'a [u32],
    settings: &'a AttributionSettings,
    method: Scores,
}

impl Attributed<'_> {
    /// The attribution under a model, which sees the conversation through its own processor.
    fn map(&self, policy: &mut LocalPolicy) -> anyhow::Result<AttributionMap> {
        let prompt = policy.encode(&[self.conversation])?.remove(0);
        let site = CalledPrompt {
            prompt: &prompt,
            calls: vec![self.call],
            content: vec![content_tokens(policy, self.call)],
        };
        let model = policy.model.detached()?;
        let found = match (self.method, self.start) {
            (Scores::Rollout, _) => rollout(&model, &site, 0, self.settings)?,
            (Scores::IntegratedGradients, None) => attribute(&model, &[site], self.settings)?
                .remove(0)
                .remove(0),
            (Scores::IntegratedGradients, Some(start)) => {
                let start = policy.encode(&[start])?.remove(0);
                let features = start.prompt.image_features.as_ref();
                let start = model.embed(&start.prompt.input_ids, features)?;
                let baseline = attribution::Baseline::Given(start);
                let quadrature = self.settings.quadrature();
                integrate_from(&baseline, &model, &site, 0, self.settings, &quadrature)?
            }
        };
        let config = policy.model.config();
        let patches = prompt.prompt.grids.first();
        let patches = patches.context("the prompt has no image")?;
        let grid = PatchGrid {
            rows: patches.h / config.vision.spatial_merge_size,
            columns: patches.w / config.vision.spatial_merge_size,
        };
        let mut image_tokens = 0..;
        let scores = found.scores.unwrap_or_default();
        let tokens = prompt
            .prompt
            .input_ids
            .iter()
            .zip(&prompt.blocks)
            .zip(scores)
            .map(|((id, block), score)| {
                let index = (*id == config.image_token_id).then(|| image_tokens.next());
                Ok(TokenScore {
                    text: policy.processor.decode(&[*id], false)?,
                    block: *block,
                    score,
                    cell: index.flatten().and_then(|index| grid.cell(index)),
                })
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(AttributionMap {
            call: policy.processor.decode(self.call, true)?,
            shares: found.shares.shares().to_vec(),
            relative_gap: found.relative_gap,
            log_prob: found.log_prob,
            grid,
            tokens,
        })
    }
}

fn show(model: &str, map: &AttributionMap) {
    println!("{model}: {}", map.call.replace('\n', " "));
    let named = ["P context", "R request", "I image", "T tools"];
    for (name, share) in named.iter().zip(&map.shares) {
        println!("  {name:10} {share:.3}");
    }
    if let Some(gap) = map.relative_gap {
        println!("  completeness gap {:.1} %", 100.0 * gap);
    }
}
