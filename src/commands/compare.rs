//! `iapo compare`: recorded experiments side by side.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::ensure;
use results::{RunComparison, Runs, TableOptions};
use serde_json::{Value, json};

use super::output::{print, within};

/// Compares experiments with the first of them: the settings that differ, the difference of every
/// arm on the questions that both were asked, and the answers that flipped.
///
/// Questions are paired across profiles; experiments whose questions have other gold answers or
/// figures are refused. Differences are second − first, with 95 % intervals by crossed random
/// effects of seed and question, as the verdict's are.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Folders that `replicate --out` or `eval-all --out` wrote, two or more
    #[arg(required = true, num_args = 2.., value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// table, markdown, csv or json
    #[arg(long, value_enum, default_value_t = Form::Table)]
    format: Form,
}

/// The form of the comparison.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Table,
    Markdown,
    Csv,
    Json,
}

/// One experiment compared with the first.
struct Compared {
    first: String,
    second: String,
    found: RunComparison,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    ensure!(args.runs.len() > 1, "give at least two runs to compare");
    let all = compared(&args.runs)?;
    print(&match args.format {
        Form::Table => within(&all.iter().map(|one| one.text(false)).collect::<String>()),
        Form::Markdown => all.iter().map(|one| one.text(true)).collect(),
        Form::Csv => csv(&all),
        Form::Json => {
            let all: Vec<Value> = all.iter().map(Compared::json).collect();
            format!("{}\n", serde_json::to_string_pretty(&all)?)
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The comparisons of experiments with the first of them, as text for the terminal.
pub(super) fn text(folders: &[PathBuf]) -> anyhow::Result<String> {
    let all = compared(folders)?;
    Ok(all.iter().map(|one| one.text(false)).collect())
}

fn compared(folders: &[PathBuf]) -> results::Result<Vec<Compared>> {
    let name = |folder: &PathBuf| folder.display().to_string();
    let loaded = folders
        .iter()
        .map(|folder| Runs::load(std::slice::from_ref(folder)))
        .collect::<results::Result<Vec<_>>>()?;
    let options = TableOptions::default();
    loaded
        .iter()
        .zip(folders)
        .skip(1)
        .map(|(runs, folder)| {
            Ok(Compared {
                first: name(&folders[0]),
                second: name(folder),
                found: RunComparison::new(&loaded[0], runs, &options)?,
            })
        })
        .collect()
}

/// The heads of the table of arms.
const HEADS: [&str; 7] = [
    "arm",
    "points",
    "95 % interval",
    "p",
    "gained",
    "lost",
    "of",
];

impl Compared {
    /// A row for each arm that both have.
    fn rows(&self) -> Vec<Vec<String>> {
        let arms = self.found.arms.iter();
        arms.map(|arm| {
            let (points, interval, p) = match &arm.difference {
                Err(_) => (
                    results::NOT_MEASURED.to_owned(),
                    String::new(),
                    String::new(),
                ),
                Ok(found) => {
                    let crossed = &found.crossed;
                    (
                        results::points(crossed.value),
                        format!(
                            "[{:+.2}, {:+.2}]",
                            100.0 * crossed.low(),
                            100.0 * crossed.high()
                        ),
                        results::p_value(crossed.p_value()),
                    )
                }
            };
            let flips = &arm.flips;
            vec![
                arm.arm.to_string(),
                points,
                interval,
                p,
                flips.gained.to_string(),
                flips.lost.to_string(),
                flips.compared.to_string(),
            ]
        })
        .collect()
    }

    /// What cannot be compared, and which arms only one has, a line each.
    fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self
            .found
            .arms
            .iter()
            .filter_map(|arm| {
                let why = arm.difference.as_ref().err()?;
                Some(format!("{}: no difference: {why}", arm.arm))
            })
            .collect();
        for (whose, arms) in [
            (&self.first, &self.found.only_first),
            (&self.second, &self.found.only_second),
        ] {
            if !arms.is_empty() {
                let names: Vec<&str> = arms.iter().map(|arm| arm.name()).collect();
                notes.push(format!("only in {whose}: {}", names.join(", ")));
            }
        }
        notes
    }

    fn text(&self, markdown: bool) -> String {
        let bullet = if markdown { "- " } else { "  " };
        let mut text = format!(
            "{}{} against {}: {} common questions\n\nsettings that differ:\n\n",
            if markdown { "## " } else { "" },
            self.second,
            self.first,
            self.found.common_questions
        );
        if self.found.settings.is_empty() {
            text += &format!("{bullet}none in what the manifests hold\n");
        }
        for one in &self.found.settings {
            let arms: Vec<&str> = one.arms.iter().map(|arm| arm.name()).collect();
            text += &format!(
                "{bullet}{}: {} -> {} ({})\n",
                one.setting.key,
                one.setting.first,
                one.setting.second,
                arms.join(", ")
            );
        }
        text.push('\n');
        let table = match markdown {
            true => results::markdown_table,
            false => results::plain_table,
        };
        text += &table(&HEADS, &self.rows());
        text.push('\n');
        text += "\npoints: second - first; gained, lost: answers that became right, wrong\n";
        for note in self.notes() {
            text += &format!("{note}\n");
        }
        text.push('\n');
        text
    }

    fn json(&self) -> Value {
        let points = |share: f64| 100.0 * share;
        json!({
            "first": self.first,
            "second": self.second,
            "common_questions": self.found.common_questions,
            "settings": self.found.settings,
            "only_first": self.found.only_first,
            "only_second": self.found.only_second,
            "arms": self.found.arms.iter().map(|arm| json!({
                "arm": arm.arm,
                "difference": arm.difference.as_ref().ok().map(|found| json!({
                    "points": points(found.crossed.value),
                    "low": points(found.crossed.low()),
                    "high": points(found.crossed.high()),
                    "p": found.crossed.p_value(),
                    "questions": found.questions,
                    "by_seed": found.by_seed.iter().map(|(seed, value)| json!({"seed": seed, "points": points(*value)})).collect::<Vec<_>>(),
                    "sets": found.sets.iter().map(|set| json!({
                        "set": set.set,
                        "points": points(set.difference.value),
                        "low": points(set.difference.low),
                        "high": points(set.difference.high),
                    })).collect::<Vec<_>>(),
                })),
                "not_compared": arm.difference.as_ref().err().map(ToString::to_string),
                "flips": arm.flips,
            })).collect::<Vec<_>>(),
        })
    }
}

/// A line for each pair of experiments and arm.
fn csv(all: &[Compared]) -> String {
    let quoted = |text: &str| match text.contains([',', '"', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    };
    let mut text = "first,second,arm,points,low,high,p,gained,lost,compared\n".to_owned();
    for one in all {
        for arm in &one.found.arms {
            let numbers = match &arm.difference {
                Err(_) => [const { String::new() }; 4],
                Ok(found) => {
                    let crossed = &found.crossed;
                    [
                        100.0 * crossed.value,
                        100.0 * crossed.low(),
                        100.0 * crossed.high(),
                        crossed.p_value(),
                    ]
                    .map(|number| format!("{number:.4}"))
                }
            };
            let flips = &arm.flips;
            text += &format!(
                "{},{},{},{},{},{},{}\n",
                quoted(&one.first),
                quoted(&one.second),
                arm.arm,
                numbers.join(","),
                flips.gained,
                flips.lost,
                flips.compared
            );
        }
    }
    text
}
