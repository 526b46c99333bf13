//! What a command asks a model: a figure's file with a question, a question of the micro world, or one
//! of a recorded run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent::{EpisodeOptions, Task};
use anyhow::{Context, ensure};
use benchmarks::data::{Data, EpisodeStyle, Item};
use qwen2_5_vl::Tokenizer;
use visual_tools::{BoxRepairs, FigureBoxes, NamedBoxes};

use super::micro::{self, TestPosition};
use super::recorded::RecordedRun;

/// Where the task of a command comes from.
#[derive(clap::Args)]
pub struct TaskSource {
    /// The figure, PNG or JPEG.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["micro", "run"])]
    image: Option<PathBuf>,
    /// Named boxes in pixels: `{"x_values": {"name": {"x1", "y1", "x2", "y2"}}, ...}` with any of
    /// `columns`, `rows`, `x_values`, `y_values`; without such a key the names are x values.
    #[arg(long, value_name = "FILE")]
    boxes: Option<PathBuf>,
    /// The tools' text, the prompt's block T, in place of the one that the model's way of being
    /// asked has.
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,
    /// A test question of the micro world, for example `vwtq/17`: its figure, boxes, tools' text and
    /// words, asked as there. Without --model the micro student of the repository is asked. Several
    /// are separated by commas.
    #[arg(long, value_name = "SET/INDEX", value_delimiter = ',', conflicts_with_all = ["image", "boxes", "tools", "question"])]
    micro: Vec<TestPosition>,
    /// A recorded run, `<arm>/seed-<n>`, whose question --id names. Without --model its own checkpoint
    /// is asked.
    #[arg(long, value_name = "RUN", requires = "id", conflicts_with_all = ["micro", "image", "boxes", "tools", "question"])]
    run: Option<PathBuf>,
    /// The question's identifier in the run's records, for example `vwtq-test-17`; several are
    /// separated by commas.
    #[arg(long, value_name = "ID", value_delimiter = ',', requires = "run")]
    id: Vec<String>,
    /// The question.
    #[arg(required_unless_present_any = ["micro", "run"])]
    question: Option<String>,
}

/// A task with what is known of it.
pub struct Posed {
    /// What it is called, where there are several.
    pub id: String,
    /// The task.
    pub task: Task,
    /// Of a generated question: its data, gold answer and right call.
    pub generated: Option<(Data, Item)>,
    /// What the recorded model said first.
    pub first_completion: Option<String>,
    /// Where the edited figure goes if nothing else is said: beside the figure, or into the current
    /// folder.
    pub edited: PathBuf,
}

impl TaskSource {
    /// The name of the model that is asked, and the one task.
    ///
    /// # Errors
    /// As [`TaskSource::read`]; several.
    pub fn read_one(&self, model: Option<&str>) -> anyhow::Result<(String, Posed)> {
        let (model, mut posed) = self.read(model)?;
        ensure!(
            posed.len() == 1,
            "expected one question, found {}: ask one after the other",
            posed.len()
        );
        Ok((model, posed.remove(0)))
    }

    /// The name of the model that is asked (the one given, else the run's own, else the micro student of
    /// the repository) and the tasks. Boxes are mended as those of the data sets are; what was done
    /// stands on standard error.
    ///
    /// # Errors
    /// What cannot be read, and models that are not there.
    pub fn read(&self, model: Option<&str>) -> anyhow::Result<(String, Vec<Posed>)> {
        let Some(run) = &self.run else {
            return Ok((micro::model_or_student(model)?, self.read_without_run()?));
        };
        let run = RecordedRun::open(run)?;
        let posed = self.id.iter().map(|id| {
            let found = run.question(id)?;
            Ok(Posed {
                edited: format!("{}.edited.png", found.id).into(),
                id: found.id,
                task: found.task,
                generated: found.generated,
                first_completion: found.first_completion,
            })
        });
        let posed = posed.collect::<anyhow::Result<_>>()?;
        let model = match model {
            Some(given) => given.to_owned(),
            None => {
                let folder = run.checkpoint()?;
                let name = folder.to_str().map(str::to_owned);
                name.with_context(|| format!("{}: the path is not UTF-8", folder.display()))?
            }
        };
        Ok((model, posed))
    }

    fn read_without_run(&self) -> anyhow::Result<Vec<Posed>> {
        if !self.micro.is_empty() {
            let posed = self.micro.iter().map(|position| {
                let data = Data::micro(micro::world(None)?, position.index);
                let item = position.item(&data)?;
                Ok(Posed {
                    edited: format!("{}.edited.png", item.question.id).into(),
                    id: item.question.id.clone(),
                    task: item.question.task.clone(),
                    generated: Some((data, item)),
                    first_completion: None,
                })
            });
            return posed.collect();
        }
        Ok(vec![self.read_files()?])
    }

    fn read_files(&self) -> anyhow::Result<Posed> {
        let image = self.image.as_deref();
        let image = image.context("give --image FILE, --micro SET/INDEX, or --run RUN --id ID")?;
        let request = self.question.as_deref();
        let request =
            request.context("give a question, --micro SET/INDEX, or --run RUN --id ID")?;
        let mut task = task(image, self.boxes.as_deref(), request)?;
        if let Some(path) = &self.tools {
            let text = super::read_text(path)
                .with_context(|| format!("cannot read the tools' text {}", path.display()))?;
            let text = text.trim_end();
            ensure!(
                !text.is_empty(),
                "--tools {}: the file is empty; leave --tools out for the model's own text",
                path.display()
            );
            task.tools = Some(text.to_owned());
        }
        Ok(Posed {
            id: String::new(),
            edited: image.with_extension("edited.png"),
            task,
            generated: None,
            first_completion: None,
        })
    }
}

impl Posed {
    /// How the task is asked: as its world asks, else as the checkpoint says.
    pub fn options(&self, style: EpisodeStyle) -> EpisodeOptions {
        match &self.generated {
            Some((data, _)) => data.episodes(),
            None => style.options(),
        }
    }

    /// Warns on standard error of words that the model's tokenizer does not know.
    pub fn warn_of_unknown_words(&self, tokenizer: &Tokenizer) -> anyhow::Result<()> {
        for (what, text) in [
            ("question", Some(self.task.request.as_str())),
            ("tools' text", self.task.tools.as_deref()),
        ] {
            let unknown = unknown_words(tokenizer, text.unwrap_or_default())?;
            if !unknown.is_empty() {
                eprintln!(
                    "warning: the tokenizer has no tokens for parts of these words of the {what}; the \
                     model reads {UNKNOWN} there: {}",
                    unknown.join(", ")
                );
            }
        }
        Ok(())
    }
}

/// The token of vocabularies that cannot write every text.
const UNKNOWN: &str = "<unk>";

/// The words of a text, up to the blanks around them, in which something becomes [`UNKNOWN`]; each
/// once, quoted.
fn unknown_words(tokenizer: &Tokenizer, text: &str) -> anyhow::Result<Vec<String>> {
    let Some(unknown) = tokenizer.token_to_id(UNKNOWN) else {
        return Ok(Vec::new());
    };
    let tokens = tokenizer.encode_plain(text)?;
    let mut words = Vec::new();
    for (_, span) in tokens.into_iter().filter(|(id, _)| *id == unknown) {
        let before = text.get(..span.start).unwrap_or_default();
        let start = before.trim_end_matches(|c: char| !c.is_whitespace()).len();
        let after = text.get(span.end..).unwrap_or_default();
        let rest = after.trim_start_matches(|c: char| !c.is_whitespace());
        let word = text.get(start..text.len() - rest.len()).unwrap_or(text);
        let word = format!("{:?}", word.trim());
        if !words.contains(&word) {
            words.push(word);
        }
    }
    Ok(words)
}

/// A task from a figure's file, its boxes and a question.
fn task(image: &Path, boxes: Option<&Path>, question: &str) -> anyhow::Result<Task> {
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

    #[test]
    fn parts_that_the_micro_tokenizer_does_not_know() {
        let student = micro::model_or_student(None).unwrap();
        let file = std::fs::read(Path::new(&student).join("tokenizer.json")).unwrap();
        let tokenizer = Tokenizer::from_bytes(&file).unwrap();
        let of = |text: &str| unknown_words(&tokenizer, text).unwrap();
        assert!(of("largest of row ka").is_empty());
        assert_eq!(
            of("largest of row Total, ka, \u{e9}t\u{e9}"),
            ["\"Total,\"", "\"\u{e9}t\u{e9}\""]
        );
    }
}
