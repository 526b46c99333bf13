//! `iapo ask`: one episode, shown turn by turn.

use std::path::PathBuf;
use std::process::ExitCode;

use agent::{
    Completion, CompletionRequest, Episode, MessagePart, Policy, ToolOutcome, run_episodes,
};
use benchmarks::Verdict;
use benchmarks::data::{Data, Item};
use benchmarks::evaluation::{Scoring, verdict_without_judge};
use replicate::compute::{Compute, DeviceName, WeightType};
use replicate::policy::LocalPolicy;

use super::checkpoint;
use super::output::{print, within};
use super::png::{expect_png, readable, write_png};
use super::task::TaskSource;

/// Asks a model one question about an image and shows both turns.
#[derive(clap::Args)]
pub struct Args {
    /// The checkpoint's folder, or a model of the hub: `ORG/NAME` or `ORG/NAME@REVISION`.
    #[arg(long, value_name = "DIR|HUB-ID", required_unless_present_any = ["micro", "run"])]
    model: Option<String>,
    #[command(flatten)]
    source: TaskSource,
    /// Sampling temperature; 0 is greedy.
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Seed of sampling.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Longest completion of a turn, tokens.
    #[arg(long, default_value_t = 512)]
    max_new_tokens: usize,
    /// Where the model runs: `cpu`, `cuda` or `cuda:N`.
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: DeviceName,
    /// The type of its weights: `f32`, `bf16` or `f16`.
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    weights: WeightType,
    /// Words for the first turn in place of the model's own, to see what a tool call leads to.
    #[arg(long, value_name = "TEXT")]
    call: Option<String>,
    /// Where the edited image goes, a PNG file; beside the figure if not given. That of a micro
    /// question is written at eight times its size, into the current folder if not given.
    #[arg(long, value_name = "FILE.png")]
    out: Option<PathBuf>,
}

/// A policy whose first completion may be given.
struct Prompted {
    policy: LocalPolicy,
    words: Option<String>,
}

impl Policy for Prompted {
    type Error = replicate::Error;

    fn complete(
        &mut self,
        requests: &[CompletionRequest<'_>],
    ) -> replicate::Result<Vec<replicate::Result<Completion>>> {
        match self.words.take() {
            Some(text) => Ok(requests
                .iter()
                .map(|_| {
                    Ok(Completion {
                        text: text.clone(),
                        stopped: true,
                        ..Completion::default()
                    })
                })
                .collect()),
            None => self.policy.complete(requests),
        }
    }
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if let Some(out) = &args.out {
        expect_png(out)?;
    }
    let (model, posed) = args.source.read_one(args.model.as_deref())?;
    let compute = Compute::open(args.device, args.weights)?;
    let model = checkpoint::resolve(&model)?;
    let mut policy = LocalPolicy::load(&model, &compute, args.max_new_tokens)?;
    policy.temperature = args.temperature;
    posed.warn_of_unknown_words(policy.processor.tokenizer())?;
    let options = posed.options(policy.style);
    let mut policy = Prompted {
        policy,
        words: args.call,
    };
    let tasks = [(&posed.task, Some(args.seed))];
    let episode = run_episodes(&mut policy, &tasks, &options)?.remove(0)?;
    let mut text = turns(&episode);
    if let Some(observation) = &episode.observation {
        let out = args.out.unwrap_or(posed.edited);
        match posed.generated {
            Some(_) => write_png(&out, &readable(observation))?,
            None => write_png(&out, observation)?,
        }
        text += &format!("=== edited image: {} ===\n", out.display());
    }
    text += &match &episode.answer {
        Some(answer) => format!("=== answer: {answer} ===\n"),
        None => "=== no final answer ===\n".to_owned(),
    };
    if let Some((data, item)) = &posed.generated {
        text += &judged(data, item, &episode);
    }
    print(&within(&text))?;
    Ok(ExitCode::SUCCESS)
}

/// Both turns as text: what the model saw, what it said, what became of its call.
fn turns(episode: &Episode) -> String {
    let mut text = String::new();
    for (index, turn) in episode.turns.iter().enumerate() {
        text += &format!("=== turn {} ===\n", index + 1);
        for message in &turn.conversation {
            text += &format!("[{}]\n", message.role.name());
            for part in &message.parts {
                text += &match part {
                    MessagePart::Text { text, block } => format!("({block:?}) {text}\n"),
                    MessagePart::Image(image) => {
                        format!("(I) <image {}x{}>\n", image.width(), image.height())
                    }
                };
            }
        }
        text += &format!(
            "[assistant, {} tokens after {}]\n{}\n",
            turn.completion.token_ids.len(),
            turn.completion.prompt_ids.len(),
            turn.completion.text
        );
        if index == 0 {
            text += &match &episode.outcome {
                ToolOutcome::NotCalled => "=== no tool was called ===\n".to_owned(),
                ToolOutcome::Refused(why) => format!("=== call refused: {why} ===\n"),
                ToolOutcome::Failed(why) => format!("=== call failed: {why} ===\n"),
                ToolOutcome::Succeeded => "=== the tool ran ===\n".to_owned(),
            };
        }
    }
    text
}

/// The gold answer, the verdict, and whether the call was right, as far as the generator knows.
fn judged(data: &Data, item: &Item, episode: &Episode) -> String {
    let gold = &item.question.gold;
    let scoring = Scoring::of(data.rule(), None);
    let verdict = match verdict_without_judge(&item.question, episode, scoring).0 {
        Verdict::Right => "the answer is right",
        Verdict::Wrong => "the answer is wrong",
        Verdict::NotJudged => "the answer is not judged",
    };
    let mut text = format!("=== gold: {gold}; {verdict} ===\n");
    match &item.truth {
        Some(truth) if truth.approves(episode) => {
            text += "=== the call is right: it focuses on what the question names ===\n";
        }
        Some(truth) if episode.outcome.called() => {
            text += &format!(
                "=== the call is wrong; right would be ===\n{}\n",
                truth.right_call
            );
        }
        _ => {}
    }
    text
}
