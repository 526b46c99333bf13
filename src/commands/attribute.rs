//! `iapo attribute`: what of the prompt speaks for a tool call.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use agent::{Conversation, Task, first_turn};
use anyhow::{Context, bail, ensure};
use attribution::{Baseline, Method};
use baselines::attribution_settings::{AttributedTokens, AttributionSettings};
use replicate::alignment::{CalledPrompt, attribute, attribute_from};
use replicate::attribution_map::{AttributionMap, PatchGrid, TokenScore};
use replicate::compute::{Compute, DeviceName, WeightType};
use replicate::policy::LocalPolicy;
use replicate::profile::Profile;
use serde_json::json;
use visual_tools::{BLUR, blurred};

use super::checkpoint;
use super::output::{print, within};
use super::task::{Posed, TaskSource};

/// The methods of the attribution crate, by its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum MethodName {
    IntegratedGradients,
    PathDifferences,
    GradientXInput,
    Occlusion,
    AttentionRollout,
}

/// Where the path of integrated gradients starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Start {
    Zero,
    BlockMean,
    BlurredImage,
}

/// Above this completeness gap, relative to what is to be explained, shares say nothing: more than
/// half of it has gone missing or been made up.
pub const LARGEST_GAP: f64 = 0.5;

/// Attributes a model's tool call to the blocks, tokens and image patches of its prompt.
#[derive(clap::Args)]
pub struct Args {
    /// The checkpoint's folder, or a model of the hub: `ORG/NAME` or `ORG/NAME@REVISION`.
    #[arg(long, value_name = "DIR|HUB-ID", required_unless_present_any = ["micro", "run"])]
    model: Option<String>,
    #[command(flatten)]
    source: TaskSource,
    /// Compares with this checkpoint, which has the same tokenizer, on the same prompt and call.
    #[arg(long, value_name = "DIR|HUB-ID")]
    teacher: Option<String>,
    /// The completion to attribute, in place of the recorded one or the model's own greedy one.
    #[arg(long, value_name = "TEXT")]
    call: Option<String>,
    /// Attributes in the form that an arm of this profile trains with, in place of the next four.
    #[arg(long, value_name = "NAME|FILE", conflicts_with_all = ["method", "nodes", "steps", "baseline"])]
    profile: Option<String>,
    /// Which arm of the profile; `iapo` where none is named.
    #[arg(long, value_name = "ARM", requires = "profile")]
    arm: Option<String>,
    /// How. Path differences and occlusion know blocks alone; rollout of attention has no baseline
    /// and tells where the model looks, not what speaks for the call.
    #[arg(long, value_enum, default_value_t = MethodName::IntegratedGradients)]
    method: MethodName,
    /// Quadrature nodes of integrated gradients; at least 2 with the zero baseline.
    #[arg(long, default_value_t = 32)]
    nodes: usize,
    /// Steps of path differences.
    #[arg(long, default_value_t = 8)]
    steps: usize,
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
    /// The files `OUT.json` and `OUT.svg` (`OUT.teacher.svg` with a teacher); of several questions
    /// `OUT-ID.json` and so on.
    #[arg(long, default_value = "attribution", value_name = "OUT")]
    out: PathBuf,
}

impl Args {
    /// The form of attribution that was asked for.
    fn settings(&self) -> anyhow::Result<AttributionSettings> {
        if let Some(profile) = &self.profile {
            return trained_form(profile, self.arm.as_deref().unwrap_or("iapo"));
        }
        let baseline = match self.baseline {
            Start::Zero => Baseline::Zero,
            // Both are at home where embeddings are: one rule of quadrature serves them.
            Start::BlockMean | Start::BlurredImage => Baseline::BlockMean,
        };
        let method = match self.method {
            MethodName::IntegratedGradients => Method::IntegratedGradients {
                quadrature: AttributionSettings::quadrature(baseline, self.nodes),
            },
            MethodName::PathDifferences => {
                Method::PathDifferences(AttributionSettings::levels(baseline, self.steps))
            }
            MethodName::GradientXInput => Method::GradientXInput {},
            MethodName::Occlusion => Method::Occlusion {},
            MethodName::AttentionRollout => Method::AttentionRollout {},
        };
        if let Err(error) = method.check() {
            match self.method {
                MethodName::PathDifferences => bail!("--steps {}: {error}", self.steps),
                _ => bail!("--nodes {}: {error}", self.nodes),
            }
        }
        Ok(AttributionSettings {
            method,
            baseline,
            ..AttributionSettings::paper()
        })
    }
}

/// The form that an arm of a profile trains with.
fn trained_form(profile: &str, arm: &str) -> anyhow::Result<AttributionSettings> {
    let loaded = Profile::load(profile, &[])?;
    let with_form = || {
        let arms = loaded.arms.iter();
        let names = arms.filter(|(_, arm)| arm.reward.attribution().is_some());
        let names: Vec<&str> = names.map(|(name, _)| name.as_str()).collect();
        names.join(", ")
    };
    let form = loaded.arms.get(arm).map(|arm| arm.reward.attribution());
    match form {
        Some(Some(form)) => Ok(form.clone()),
        Some(None) => bail!(
            "--arm {arm}: this arm of profile {profile} attributes nothing; these do: {}",
            with_form()
        ),
        None => bail!(
            "--arm {arm}: profile {profile} has no such arm; these attribute calls: {}",
            with_form()
        ),
    }
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let settings = args.settings()?;
    let said = args.call.as_deref();
    ensure!(
        said.is_none_or(|call| !call.trim().is_empty()),
        "--call is empty: there is nothing to attribute; give the call's text, or leave --call out \
         to attribute the model's own"
    );
    let (model, all) = args.source.read(args.model.as_deref())?;
    let compute = Compute::open(args.device, args.weights)?;
    let load = |name: &str| -> anyhow::Result<LocalPolicy> {
        let folder = checkpoint::resolve(name)?;
        Ok(LocalPolicy::load(&folder, &compute, args.max_new_tokens)?)
    };
    let mut policy = load(&model)?;
    let mut teacher = match &args.teacher {
        Some(name) => {
            let teacher = load(name)?;
            check_tokenizers((model.as_str(), &policy), (name.as_str(), &teacher))?;
            Some((name.as_str(), teacher))
        }
        None => None,
    };
    let (mut table, mut usable) = (Vec::new(), true);
    for posed in &all {
        let out = match all.len() {
            1 => args.out.clone(),
            _ => {
                let name = args.out.file_name().unwrap_or_default().to_string_lossy();
                // A dot would begin an extension, a slash a folder.
                let id = posed.id.replace(|c: char| !c.is_alphanumeric(), "-");
                args.out.with_file_name(format!("{name}-{id}"))
            }
        };
        let asked = Asked {
            args: &args,
            settings: &settings,
            posed,
            out: &out,
        };
        let teacher = teacher.as_mut().map(|(name, teacher)| (*name, teacher));
        let found = asked.attribute((&model, &mut policy), teacher);
        let found = match all.len() {
            1 => found?,
            _ => found.with_context(|| format!("question {}", posed.id))?,
        };
        print(&within(&found.text))?;
        usable &= found.usable;
        table.push(found.row);
    }
    if table.len() > 1 {
        let header = ["question", "P", "R", "I", "T", "gap", "divergence"];
        print(&format!("\n{}\n", results::markdown_table(&header, &table)))?;
    }
    if !usable {
        eprintln!(
            "error: a completeness gap above {:.0} % of what is to be explained makes the shares \
             worthless; give more --nodes, or a --baseline nearer to the embeddings (block-mean)",
            100.0 * LARGEST_GAP
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// A question whose call is attributed.
struct Asked<'a> {
    args: &'a Args,
    settings: &'a AttributionSettings,
    posed: &'a Posed,
    out: &'a Path,
}

/// What was found of a question's call.
struct Found {
    /// For people.
    text: String,
    /// A line of the table of several.
    row: Vec<String>,
    /// Whether the shares say anything.
    usable: bool,
}

impl Asked<'_> {
    /// Attributes the call under the model and the teacher, and writes the files.
    fn attribute(
        &self,
        (model, policy): (&str, &mut LocalPolicy),
        teacher: Option<(&str, &mut LocalPolicy)>,
    ) -> anyhow::Result<Found> {
        let Asked {
            args,
            settings,
            posed,
            out,
        } = *self;
        posed.warn_of_unknown_words(policy.processor.tokenizer())?;
        let options = posed.options(policy.style);
        let conversation = first_turn(&posed.task, options.prompt);
        let call = self.call(policy, &conversation)?;
        let start = (args.baseline == Start::BlurredImage).then(|| {
            let image = Arc::new(blurred(&posed.task.image, BLUR));
            let task = Task {
                image,
                ..posed.task.clone()
            };
            first_turn(&task, options.prompt)
        });
        let attributed = Attributed {
            conversation: &conversation,
            start: start.as_ref(),
            call: &call,
            settings,
        };
        let own = attributed.map(policy)?;
        let (mut text, mut usable) = show(model, &own);
        let svg = own.to_svg(&posed.task.image)?;
        results::write_atomically(&out.with_extension("svg"), svg.as_bytes())?;

        let mut described = json!(settings);
        if start.is_some() {
            described["baseline"] = json!({ "blurred-image": BLUR });
        }
        let mut json = json!({ "settings": described, "model": own });
        let mut apart = None;
        if let Some((name, teacher)) = teacher {
            let theirs = attributed.map(teacher)?;
            let (shown, theirs_usable) = show(name, &theirs);
            text += &shown;
            usable &= theirs_usable;
            let distribution =
                |map: &AttributionMap| attribution::Distribution::new(&map.shares, 0.0);
            let divergence = settings
                .divergence
                .between(&distribution(&own)?, &distribution(&theirs)?)?;
            let name = json!(settings.divergence);
            let name = name.as_str().unwrap_or_default();
            text += &format!("divergence of model from teacher ({name}): {divergence:.4}\n");
            let svg = theirs.to_svg(&posed.task.image)?;
            results::write_atomically(&out.with_extension("teacher.svg"), svg.as_bytes())?;
            json["teacher"] = json!(theirs);
            json["divergence"] = json!(divergence);
            apart = Some(divergence);
        }
        results::write_json(&out.with_extension("json"), &json)?;
        text += &format!("{} and .svg\n", out.with_extension("json").display());
        let dash = || "–".to_owned();
        let mut row = vec![posed.id.clone()];
        row.extend(own.shares.iter().map(|share| format!("{share:.3}")));
        row.push(
            own.relative_gap
                .map_or_else(dash, |gap| format!("{:.1} %", 100.0 * gap)),
        );
        row.push(apart.map_or_else(dash, |divergence| format!("{divergence:.4}")));
        Ok(Found { text, row, usable })
    }

    /// The tokens that are attributed: of the words given, of those recorded, or the model's own.
    fn call(
        &self,
        policy: &mut LocalPolicy,
        conversation: &Conversation,
    ) -> anyhow::Result<Vec<u32>> {
        let words = self.args.call.as_ref();
        let call = match words.or(self.posed.first_completion.as_ref()) {
            Some(text) => {
                let mut ids = policy.processor.tokenizer().encode(text)?;
                ids.extend(policy.processor.stop_ids().first());
                ids
            }
            None => {
                let request = agent::CompletionRequest::new(conversation, None);
                agent::Policy::complete(policy, &[request])?
                    .remove(0)?
                    .token_ids
            }
        };
        ensure!(
            !call.is_empty(),
            "there is no token to attribute; give --call TEXT"
        );
        Ok(call)
    }
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
}

impl Attributed<'_> {
    /// The attribution under a model, which sees the conversation through its own processor.
    fn map(&self, policy: &mut LocalPolicy) -> anyhow::Result<AttributionMap> {
        let prompt = policy.encode(&[self.conversation])?.remove(0);
        let start = match self.start {
            Some(start) => Some(policy.encode(&[start])?.remove(0)),
            None => None,
        };
        let tokenizer = policy.processor.tokenizer();
        let called = [CalledPrompt::new(&prompt, [self.call], tokenizer)?];
        let selects_none = !called[0].calls[0].content.contains(&true);
        ensure!(
            self.settings.tokens == AttributedTokens::All || !selects_none,
            "the form attributes the tools and names of a call, and there are none in {:?}",
            policy.processor.decode(self.call, true)?
        );
        let model = policy.model.detached()?;
        let found = match &start {
            Some(start) => {
                attribute_from(&[start], &model, &called, self.settings, policy.budgets)?
            }
            None => attribute(&model, &called, self.settings, policy.budgets)?,
        };
        let found = found.into_iter().flatten().next();
        let found = found.context("a prompt with a call has an attribution")?;
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

/// A map's shares as text; whether they say anything.
fn show(model: &str, map: &AttributionMap) -> (String, bool) {
    let mut text = format!("{model}: {}\n", map.call.replace('\n', " "));
    let named = ["P context", "R request", "I image", "T tools"];
    for (name, share) in named.iter().zip(&map.shares) {
        text += &format!("  {name:10} {share:.3}\n");
    }
    let Some(gap) = map.relative_gap else {
        return (text, true);
    };
    text += &format!("  completeness gap {:.1} %\n", 100.0 * gap);
    (text, gap <= LARGEST_GAP)
}
