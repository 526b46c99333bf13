//! A table as text: terminal, markdown, CSV, LaTeX, JSON; and what differs between two of them.

use std::fmt::Write;

use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Padding, Style};

use crate::claim::Claim;
use crate::json::json;
use crate::paper::UNREPORTED;
use crate::record::SETS;
use crate::statistics::{Cell, Estimate};
use crate::summary::summary;
use crate::table::{Shown, Table};
use crate::table_rows::{header, paper_rows, rows};
use crate::terminal::terminal;

/// The form in which a table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Aligned columns, three lines a cell.
    Terminal,
    /// A GitHub table; what `golden/tables` holds.
    Markdown,
    /// One line per cell, numbers in full.
    Csv,
    /// A booktabs tabular.
    Latex,
    /// Everything that the table holds, numbers in full.
    Json,
    /// A GitHub table of four columns: arm, average, difference to VTool-R1, questions and seeds.
    Summary,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 6] = [
        Format::Terminal,
        Format::Markdown,
        Format::Csv,
        Format::Latex,
        Format::Json,
        Format::Summary,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Format::Terminal => "terminal",
            Format::Markdown => "markdown",
            Format::Csv => "csv",
            Format::Latex => "latex",
            Format::Json => "json",
            Format::Summary => "summary",
        }
    }
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Format::ALL
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| {
                let known: Vec<&str> = Format::ALL.iter().map(|format| format.name()).collect();
                format!(
                    "unknown format '{name}': expected one of {}",
                    known.join(", ")
                )
            })
    }
}

impl Table {
    /// The table, its notes and the verdict. CSV holds the cells alone.
    pub fn render(&self, format: Format) -> String {
        match format {
            Format::Terminal => terminal(self, None),
            Format::Markdown => markdown(self),
            Format::Csv => csv(self),
            Format::Latex => latex(self),
            Format::Json => json(self),
            Format::Summary => summary(self),
        }
    }
}

/// A markdown table.
pub fn markdown_table(header: &[&str], rows: &[Vec<String>]) -> String {
    built(header, rows).with(Style::markdown()).to_string()
}

/// A table for the terminal, without lines: the first column to the left, the others to the right.
pub fn plain_table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = built(header, rows);
    table
        .with(Style::empty())
        .modify(Columns::new(1..), Alignment::right())
        .with(Padding::new(0, 2, 0, 0));
    let text = table.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

fn built(header: &[&str], rows: &[Vec<String>]) -> tabled::Table {
    let mut builder = Builder::default();
    builder.push_record(header.iter().copied());
    for row in rows {
        builder.push_record(row);
    }
    builder.build()
}

fn markdown(table: &Table) -> String {
    let mut text = format!("## {}\n\n", table.title);
    let mut push = |cells: &[String]| {
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    };
    let header = header();
    push(&header);
    let rule: Vec<String> = (0..header.len())
        .map(|column| if column == 0 { "---" } else { "---:" }.to_string())
        .collect();
    push(&rule);
    for row in rows(table, |shown| match shown {
        Shown::Number {
            accuracy,
            low,
            high,
            count,
        } => format!("**{accuracy}** [{low}, {high}] n={count}"),
        Shown::Word { word, remark } if remark.is_empty() => word.clone(),
        Shown::Word { word, remark } => format!("{word} ({remark})"),
    }) {
        push(&row);
    }
    for row in paper_rows(table) {
        push(&row);
    }
    text.push('\n');
    for note in &table.notes {
        let _ = writeln!(text, "- {note}");
    }
    let mut lines = table.claim.iter().flat_map(Claim::lines);
    if let Some(verdict) = lines.next() {
        let _ = writeln!(text, "\n**{verdict}**\n");
    }
    for line in lines {
        let _ = writeln!(text, "- {line}");
    }
    text
}

fn csv(table: &Table) -> String {
    let mut text = "arm,set,status,accuracy,low,high,standard_error,clustered_standard_error,questions,figures,seeds,not_judged,tool_call_rate,tool_success_rate,paper\n".to_string();
    let number = |share: f64| format!("{:.4}", 100.0 * share);
    let estimate = |estimate: &Estimate| {
        [
            estimate.value,
            estimate.low,
            estimate.high,
            estimate.standard_error,
        ]
        .map(number)
        .join(",")
    };
    for row in &table.rows {
        let paper = table.paper.iter().find(|paper| paper.arm == row.arm);
        let known = |column: usize| {
            let value = paper.and_then(|paper| paper.values[column]);
            value.map_or(UNREPORTED.to_string(), |value| format!("{value:.1}"))
        };
        for (column, (set, cell)) in SETS.iter().zip(&row.estimates.cells).enumerate() {
            let middle = match cell {
                Cell::Missing => "missing,,,,,,,,,".to_string(),
                Cell::Invalid {
                    not_judged,
                    questions,
                } => {
                    format!(
                        "invalid,,,,,,{questions},,{},{}",
                        row.seeds,
                        number(*not_judged)
                    )
                }
                Cell::Measured {
                    outcome,
                    estimate: measured,
                } => format!(
                    "measured,{},{},{},{},{},{}",
                    estimate(measured),
                    number(outcome.clustered_standard_error),
                    outcome.questions,
                    outcome.figures,
                    outcome.seeds,
                    number(outcome.not_judged)
                ),
            };
            let _ = writeln!(text, "{},{set},{middle},,,{}", row.arm, known(column));
        }
        let middle = match &row.estimates.average {
            Some(average) => format!(
                "measured,{},,{},,{},",
                estimate(average),
                row.questions,
                row.seeds
            ),
            None => "missing,,,,,,,,,".to_string(),
        };
        let success = row.tool_success_rate.map(number).unwrap_or_default();
        let _ = writeln!(
            text,
            "{},average,{middle},{},{success},{}",
            row.arm,
            number(row.tool_call_rate),
            known(SETS.len())
        );
    }
    text
}

fn latex(table: &Table) -> String {
    let mut text = format!("% {}. Needs \\usepackage{{booktabs}}.\n", table.title);
    let header = header();
    let _ = writeln!(
        text,
        "\\begin{{tabular}}{{l{}}}\n\\toprule",
        "r".repeat(header.len() - 1)
    );
    let _ = writeln!(text, "{} \\\\\n\\midrule", header.join(" & "));
    for row in rows(table, |shown| match shown {
        Shown::Number {
            accuracy,
            low,
            high,
            count,
        } => format!(
            "\\shortstack[r]{{{accuracy}\\\\{{\\scriptsize [{low}, {high}]}}\\\\{{\\scriptsize ${}$}}}}",
            count.replace('×', "\\times ")
        ),
        Shown::Word { word, remark } if remark.is_empty() => word.replace('–', "--"),
        Shown::Word { word, remark } => format!(
            "\\shortstack[r]{{{word}\\\\{{\\scriptsize {}}}}}",
            remark.replace('%', "\\%")
        ),
    }) {
        let cells: Vec<String> = row
            .iter()
            .map(|cell| {
                if cell == "–" {
                    "--".to_string()
                } else {
                    cell.clone()
                }
            })
            .collect();
        let _ = writeln!(text, "{} \\\\", cells.join(" & "));
    }
    text.push_str("\\midrule\n");
    for row in paper_rows(table) {
        let cells: Vec<String> = row
            .into_iter()
            .map(|cell| {
                if cell == UNREPORTED {
                    "\\emph{unreported}".to_string()
                } else {
                    cell
                }
            })
            .collect();
        let _ = writeln!(text, "{} \\\\", cells.join(" & "));
    }
    text.push_str("\\bottomrule\n\\end{tabular}\n");
    let claim = table.claim.as_ref().map(Claim::lines).unwrap_or_default();
    for line in table.notes.iter().chain(&claim) {
        let _ = writeln!(text, "% {line}");
    }
    text
}

/// What differs between a kept markdown table and a new one, a line each; empty when nothing does.
/// Cells are named by row and column, other lines are quoted.
pub fn differences(expected: &str, found: &str) -> Vec<String> {
    let (expected_cells, expected_text) = parse(expected);
    let (found_cells, found_text) = parse(found);
    let mut differences = Vec::new();
    for (name, value) in &expected_cells {
        match found_cells.iter().find(|(other, _)| other == name) {
            None => differences.push(format!("{name}: expected '{value}', found no such cell")),
            Some((_, other)) if other != value => {
                differences.push(format!("{name}: expected '{value}', found '{other}'"))
            }
            Some(_) => {}
        }
    }
    for (name, value) in &found_cells {
        if !expected_cells.iter().any(|(other, _)| other == name) {
            differences.push(format!("{name}: expected no such cell, found '{value}'"));
        }
    }
    for index in 0..expected_text.len().max(found_text.len()) {
        let (expected, found) = (expected_text.get(index), found_text.get(index));
        if expected != found {
            let quote = |line: Option<&&str>| {
                line.map_or("nothing".to_string(), |line| format!("'{line}'"))
            };
            differences.push(format!(
                "text: expected {}, found {}",
                quote(expected),
                quote(found)
            ));
        }
    }
    differences
}

/// The cells of all tables as (row / column, value), and the other lines that are not empty.
fn parse(text: &str) -> (Vec<(String, String)>, Vec<&str>) {
    let (mut cells, mut lines) = (Vec::new(), Vec::new());
    let mut header: Option<Vec<&str>> = None;
    for line in text.lines().map(str::trim) {
        let Some(inner) = line
            .strip_prefix('|')
            .and_then(|line| line.strip_suffix('|'))
        else {
            header = None;
            if !line.is_empty() {
                lines.push(line);
            }
            continue;
        };
        let row: Vec<&str> = inner.split('|').map(str::trim).collect();
        let Some(columns) = &header else {
            header = Some(row);
            continue;
        };
        if row
            .iter()
            .all(|cell| cell.chars().all(|letter| letter == '-' || letter == ':'))
        {
            continue;
        }
        for (index, cell) in row.iter().enumerate().skip(1) {
            let column = columns.get(index).copied().unwrap_or("?");
            cells.push((format!("{} / {column}", row[0]), cell.to_string()));
        }
    }
    (cells, lines)
}

#[cfg(test)]
mod tests {
    use benchmarks::Verdict;

    use super::*;
    use crate::fixture;
    use crate::options::TableOptions;
    use crate::paper::Paper;
    use crate::record::ArmName;
    use crate::runs::Runs;
    use crate::statistics::Bootstrap;

    fn table(runs: &Runs) -> Table {
        let options = TableOptions {
            bootstrap: Bootstrap {
                resamples: 1000,
                seed: 0,
            },
            ..TableOptions::default()
        };
        Table::new(runs, &Paper::committed().unwrap(), &options)
    }

    #[test]
    fn every_format() {
        let mut runs = fixture::runs(40);
        for run in &mut runs {
            // A set that one arm was not asked, and a judge that was away for another.
            run.records
                .retain(|record| record.arm.name() != "torl" || record.set != "vwtq");
            for record in run
                .records
                .iter_mut()
                .filter(|record| record.arm.name() == "trm" && record.set == "charxiv")
                .take(5)
            {
                record.verdict = Verdict::NotJudged;
            }
        }
        let table = table(&Runs::new(runs).unwrap());
        for format in Format::ALL {
            insta::assert_snapshot!(format.name(), table.render(format));
        }
    }

    #[test]
    fn evaluations_of_given_models_say_what_was_asked_and_claim_nothing() {
        let rendered = |data: &str, arm: &str| {
            let mut runs = fixture::runs(4);
            runs.retain(|run| [ArmName::UNTRAINED, arm].contains(&run.records[0].arm.name()));
            for run in &mut runs {
                let profile = &mut run.manifest.as_mut().unwrap().profile;
                profile.name = "eval-all".to_string();
                profile.resolved = serde_json::json!({ "data": data });
            }
            let table = table(&Runs::new(runs).unwrap());
            Format::ALL.map(|format| table.render(format))
        };
        for (data, title) in [
            ("micro", "Given models on the micro world's questions, not"),
            ("shared/data", "Given models on the test sets, beside"),
        ] {
            let [terminal, markdown, csv, latex, json, _] = rendered(data, ArmName::TEACHER);
            for text in [&terminal, &markdown, &latex] {
                assert!(text.contains(title), "{text}");
                assert!(!text.contains("claim") && !text.contains("Rule"), "{text}");
            }
            assert!(terminal.ends_with("·: unreported.\n"), "{terminal}");
            assert!(csv.starts_with("arm,set,"), "{csv}");
            assert!(json.contains("\"claim\": null"), "{json}");
        }
        // Where the claimed arm is among them, the claim is tested and says on what.
        let [terminal, ..] = rendered("micro", ArmName::IAPO);
        let verdict = "The paper's claim, tested on given models at micro scale: NOT TESTED: ";
        assert!(terminal.contains(verdict), "{terminal}");
    }

    #[test]
    fn all_right_still_has_an_interval() {
        let mut runs = fixture::runs(10);
        runs.truncate(1);
        for record in &mut runs[0].records {
            record.verdict = Verdict::Right;
        }
        let table = table(&Runs::new(runs).unwrap());
        let Cell::Measured { estimate, .. } = table.rows[0].estimates.cells[0] else {
            panic!("measured")
        };
        // Wilson's, five figures of five: 1 / (1 + z²/5).
        assert!(
            estimate.high == 1.0 && (estimate.low - 0.5655).abs() < 1e-3,
            "{estimate:?}"
        );
    }

    #[test]
    fn differing_cells_are_named() {
        let kept = table(&fixture::checked(10)).render(Format::Markdown);
        assert_eq!(differences(&kept, &kept), Vec::<String>::new());
        let changed = kept
            .replacen("**", "**1", 1)
            .replace("| 52.9 |", "| 53.0 |")
            .replace("tested at micro scale", "tested");
        insta::assert_snapshot!(differences(&kept, &changed).join("\n"));
        let mut lines: Vec<&str> = kept.lines().collect();
        lines.retain(|line| !line.starts_with("| trm |"));
        let fewer = differences(&kept, &lines.join("\n"));
        assert_eq!(fewer.len(), 9);
        assert!(
            fewer[0].starts_with("trm / charxiv: expected '")
                && fewer[0].ends_with("found no such cell"),
            "{}",
            fewer[0]
        );
    }
}
