//! `iapo ask`: one episode, shown turn by turn.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use agent::{Completion, CompletionRequest, MessagePart, Policy, Task, ToolOutcome, run_episodes};
use anyhow::Context;
use benchmarks::sources::checkpoint;
use replicate::compute::{Compute, DeviceName, WeightType};
use replicate::policy::LocalPolicy;
use visual_tools::{BoxRepairs, FigureBoxes, NamedBoxes};

/// Asks a model one question about an image and shows both turns.
#[derive(clap::Args)]
pub struct Args {
    /// The checkpoint's folder, or a model of the hub: `ORG/NAME` or `ORG/NAME@REVISION`.
    #[arg(long, value_name = "DIR|HUB-ID")]
    model: String,
    /// The figure, PNG or JPEG.
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// Named boxes in pixels: `{"x_values": {"name": {"x1", "y1", "x2", "y2"}}, ...}` with any of
    /// `columns`, `rows`, `x_values`, `y_values`; without such a key the names are x values.
    #[arg(long, value_name = "FILE")]
    boxes: Option<PathBuf>,
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
    /// Where the edited image goes; beside the figure if not given.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The question.
    question: String,
}

/// A task from a figure's file, its boxes and a question. The boxes are mended as those of the data
/// sets are; what was done stands on standard error.
pub fn task(image: &Path, boxes: Option<&Path>, question: &str) -> anyhow::Result<Task> {
    let image = qwen2_5_vl::read_image(image)?;
    let mut figure = FigureBoxes::default();
    if let Some(path) = boxes {
        figure = read_boxes(path)?;
        let repairs = figure.repair(image.width(), image.height());
        if let Some(note) = mended(&repairs) {
            eprintln!("note: {}: {note}", path.display());
        }
    }
    Ok(Task {
        image: Arc::new(image),
        boxes: Arc::new(figure),
        request: question.to_owned(),
        tools: None,
    })
}

/// What was done to the boxes of a figure; `None` if nothing.
fn mended(repairs: &BoxRepairs) -> Option<String> {
    let counts = [
        (repairs.inverted, "inverted, corners exchanged"),
        (repairs.clipped, "cut off at the border of the image"),
        (repairs.dropped, "dropped, with nothing inside the image"),
    ];
    let done: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let all = repairs.boxes;
    (!done.is_empty()).then(|| format!("of {all} boxes {}", done.join("; ")))
}

fn read_boxes(path: &Path) -> anyhow::Result<FigureBoxes> {
    let text = super::read_text(path)
        .with_context(|| format!("cannot read the boxes {}", path.display()))?;
    let value: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text)
        .with_context(|| format!("{}: expected a JSON object of boxes", path.display()))?;
    let axes = ["columns", "rows", "x_values", "y_values"];
    let named = |key: &str, value: serde_json::Value| -> anyhow::Result<NamedBoxes> {
        serde_json::from_value(value).with_context(|| {
            format!(
                "{}: {key}: expected {{\"name\": {{\"x1\", \"y1\", \"x2\", \"y2\"}}}} in pixels",
                path.display()
            )
        })
    };
    let mut boxes = FigureBoxes::default();
    if !value.keys().any(|key| axes.contains(&key.as_str())) {
        boxes.x_values = named("boxes", value.into())?;
        return Ok(boxes);
    }
    for (key, value) in value {
        let parsed = named(&key, value)?;
        match key.as_str() {
            "columns" => boxes.columns = parsed,
            "rows" => boxes.rows = parsed,
            "x_values" => boxes.x_values = parsed,
            "y_values" => boxes.y_values = parsed,
            _ => anyhow::bail!(
                "{}: unknown key '{key}': expected {}",
                path.display(),
                axes.join(", ")
            ),
        }
    }
    Ok(boxes)
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
    let task = task(&args.image, args.boxes.as_deref(), &args.question)?;
    let compute = Compute::open(args.device, args.weights)?;
    let model = checkpoint::resolve(&args.model)?;
    let mut policy = LocalPolicy::load(&model, &compute, args.max_new_tokens)?;
    policy.temperature = args.temperature;
    let options = policy.style.options();
    let mut policy = Prompted {
        policy,
        words: args.call,
    };
    let episode = run_episodes(&mut policy, &[(&task, args.seed)], &options)?.remove(0)?;
    for (index, turn) in episode.turns.iter().enumerate() {
        println!("=== turn {} ===", index + 1);
        for message in &turn.conversation {
            println!("[{}]", message.role.name());
            for part in &message.parts {
                match part {
                    MessagePart::Text { text, block } => println!("({block:?}) {text}"),
                    MessagePart::Image(image) => {
                        println!("(I) <image {}x{}>", image.width(), image.height());
                    }
                }
            }
        }
        println!(
            "[assistant, {} tokens after {}]\n{}",
            turn.completion.token_ids.len(),
            turn.completion.prompt_ids.len(),
            turn.completion.text
        );
        if index == 0 {
            match &episode.outcome {
                ToolOutcome::NotCalled => println!("=== no tool was called ==="),
                ToolOutcome::Refused(why) => println!("=== call refused: {why} ==="),
                ToolOutcome::Failed(why) => println!("=== call failed: {why} ==="),
                ToolOutcome::Succeeded => println!("=== the tool ran ==="),
            }
        }
    }
    if let Some(observation) = &episode.observation {
        let out = args
            .out
            .unwrap_or_else(|| args.image.with_extension("edited.png"));
        observation
            .save(&out)
            .with_context(|| format!("cannot write {}; give another --out", out.display()))?;
        println!("=== edited image: {} ===", out.display());
    }
    match &episode.answer {
        Some(answer) => println!("=== answer: {answer} ==="),
        None => println!("=== no final answer ==="),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_are_mended_for_the_image() {
        let folder = tempfile::tempdir().unwrap();
        let (image, boxes) = (folder.path().join("a.png"), folder.path().join("b.json"));
        image::RgbImage::new(20, 10).save(&image).unwrap();
        let text = r#"{"a": {"x1": 8, "y1": 0, "x2": 2, "y2": 30},
            "b": {"x1": 50, "y1": 0, "x2": 60, "y2": 5}}"#;
        std::fs::write(&boxes, format!("\u{feff}{text}")).unwrap();
        let task = task(&image, Some(&boxes), "?").unwrap();
        let a = task.boxes.x_values.get("a").unwrap();
        assert_eq!([a.x1, a.y1, a.x2, a.y2], [2.0, 0.0, 8.0, 10.0]);
        assert_eq!(task.boxes.x_values.len(), 1);
        let repairs = read_boxes(&boxes).unwrap().repair(20, 10);
        assert_eq!(
            mended(&repairs).unwrap(),
            "of 2 boxes 1 inverted, corners exchanged; 1 cut off at the border of the image; \
             1 dropped, with nothing inside the image"
        );
        assert_eq!(mended(&BoxRepairs::default()), None);
    }
}
