//! The report of a folder of runs: table, verdict, times, deviations, pictures.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use baselines::Deviation;

use crate::error::Result;
use crate::files::write_atomically;
use crate::format::Format;
use crate::manifest::Manifest;
use crate::plot::{self, DifferenceGroup, DifferencePlot, DifferenceRow};
use crate::record::ArmName;
use crate::runs::Runs;
use crate::table::Table;

/// The report's file name.
pub const REPORT: &str = "report.md";
/// The learning curves' file name.
pub const CURVES: &str = "learning-curves.svg";
/// The results picture's file name.
pub const RESULTS: &str = "results.svg";

/// The differences' file name.
pub const DIFFERENCES: &str = "differences.svg";

/// Writes the pictures of runs into `folder`: accuracies, and learning curves and differences where
/// there are any. Returns the names of the files.
///
/// # Errors
/// A picture that cannot be drawn or written.
pub fn write_pictures(folder: &Path, runs: &Runs, table: &Table) -> Result<Vec<&'static str>> {
    let drawn = [
        (RESULTS, Some(plot::accuracies(table)?)),
        (DIFFERENCES, differences(table)?),
        (CURVES, plot::learning_curves(runs)?),
    ];
    let mut names = Vec::new();
    for (name, svg) in drawn {
        if let Some(svg) = svg {
            write_atomically(&folder.join(name), svg.as_bytes())?;
            names.push(name);
        }
    }
    Ok(names)
}

/// The claimed arm beside every other that was trained; `None` where nothing can be compared.
fn differences(table: &Table) -> Result<Option<String>> {
    let Some(claim) = &table.claim else {
        return Ok(None);
    };
    let trained = |name: &str| ![ArmName::UNTRAINED, ArmName::TEACHER].contains(&name);
    let rows: Vec<DifferenceRow> = claim
        .others
        .iter()
        .filter(|other| trained(other.against.name()))
        .filter_map(|other| {
            let found = other.difference.as_ref().ok()?;
            Some(DifferenceRow {
                label: format!("{} − {}", claim.arm, other.against),
                arm: other.against.clone(),
                difference: found.crossed.clone(),
                by_seed: found.by_seed.iter().map(|(_, value)| *value).collect(),
                paper: (other.against == claim.main.against).then_some(claim.claimed),
            })
        })
        .collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let plot = DifferencePlot {
        title: format!("{} beside the other arms", claim.arm),
        caption: "macro average; dot and bar: crossed random effects, 95 %; small dots: seeds; diamond: the \
                  paper's claim, at its own scale"
            .to_string(),
        smallest_effect: None,
        groups: vec![DifferenceGroup {
            title: String::new(),
            rows,
        }],
    };
    Ok(Some(plot.draw()?))
}

/// Writes `report.md` and its pictures into `folder` and returns the report's text. `gates` are what
/// the world and its base showed, one sentence each.
pub fn write_report(
    folder: &Path,
    runs: &Runs,
    table: &Table,
    gates: &[String],
    deviations: &[Deviation],
) -> Result<String> {
    let pictures = write_pictures(folder, runs, table)?;
    let text = report(runs, table, gates, deviations, &pictures);
    write_atomically(&folder.join(REPORT), text.as_bytes())?;
    Ok(text)
}

/// The report's text; `pictures` are the files beside it.
fn report(
    runs: &Runs,
    table: &Table,
    gates: &[String],
    deviations: &[Deviation],
    pictures: &[&str],
) -> String {
    let mut text = format!(
        "# Report\n\n{}\n![Results with intervals]({RESULTS})\n",
        table.render(Format::Markdown)
    );
    if pictures.contains(&DIFFERENCES) {
        let _ = write!(
            text,
            "\n![Differences with intervals and seeds]({DIFFERENCES})\n"
        );
    }
    if pictures.contains(&CURVES) {
        let _ = write!(text, "\n## Learning\n\n![Learning curves]({CURVES})\n");
    }
    if !gates.is_empty() {
        text.push_str("\n## Gates\n\n");
        for line in gates {
            let _ = writeln!(text, "- {line}");
        }
    }
    text.push_str(&times(runs));
    if !deviations.is_empty() {
        text.push_str("\n## Deviations\n\n| setting | paper | here | why |\n|---|---|---|---|\n");
        for one in deviations {
            let cells = [&one.setting, &one.paper, &one.here, &one.why].map(|cell| escape(cell));
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
    }
    let first = runs.runs.iter().find_map(|run| run.manifest.as_ref());
    if let Some(manifest) = first {
        text.push_str("\n## How it was made\n\n");
        let _ = writeln!(text, "- command: `{}`", manifest.command.join(" "));
        let _ = writeln!(
            text,
            "- commit: {}",
            manifest.commit.as_deref().unwrap_or("unknown")
        );
        let _ = writeln!(
            text,
            "- profile: {} ({})",
            manifest.profile.name, manifest.profile.hash
        );
        let machine = &manifest.machine;
        let cpu = machine.cpu.as_deref().unwrap_or("unknown processor");
        let _ = writeln!(
            text,
            "- machine: {cpu}, {} threads, {}",
            machine.threads, machine.system
        );
        for (name, version) in &manifest.versions {
            let _ = writeln!(text, "- {name}: {version}");
        }
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for (name, count) in runs
            .runs
            .iter()
            .filter_map(|run| run.manifest.as_ref())
            .flat_map(|one| &one.counts)
        {
            *counts.entry(name).or_default() += count;
        }
        for (name, count) in counts {
            let _ = writeln!(text, "- {name}: {count}");
        }
    }
    text
}

/// Seconds by arm and part, the mean of its seeds.
fn times(runs: &Runs) -> String {
    let mut arms: BTreeMap<(usize, &ArmName), Vec<&Manifest>> = BTreeMap::new();
    for manifest in runs.runs.iter().filter_map(|run| run.manifest.as_ref()) {
        arms.entry((manifest.arm.rank().0, &manifest.arm))
            .or_default()
            .push(manifest);
    }
    let mut parts: Vec<&String> = arms
        .values()
        .flatten()
        .flat_map(|manifest| manifest.seconds.keys())
        .collect();
    parts.sort();
    parts.dedup();
    if parts.is_empty() {
        return String::new();
    }
    let mut text =
        "\n## Time\n\nSeconds a seed, and the greatest peak of memory.\n\n| arm | seeds | total |"
            .to_string();
    for part in &parts {
        let _ = write!(text, " {part} |");
    }
    let _ = writeln!(
        text,
        " peak MiB |\n|---|---:|---:|{}---:|",
        "---:|".repeat(parts.len())
    );
    for ((_, arm), manifests) in arms {
        let seeds = manifests.len() as f64;
        let total: f64 = manifests
            .iter()
            .map(|manifest| manifest.total_seconds())
            .sum();
        let _ = write!(
            text,
            "| {arm} | {} | {:.1} |",
            manifests.len(),
            total / seeds
        );
        for part in &parts {
            let sum: f64 = manifests
                .iter()
                .filter_map(|manifest| manifest.seconds.get(*part))
                // An empty sum of floats is -0.
                .fold(0.0, |sum, one| sum + one);
            let _ = write!(text, " {:.1} |", sum / seeds);
        }
        let peak = manifests
            .iter()
            .filter_map(|manifest| manifest.peak_memory_bytes)
            .max();
        let _ = writeln!(
            text,
            " {} |",
            peak.map_or("–".to_string(), |bytes| format!(
                "{:.0}",
                bytes as f64 / f64::from(1 << 20)
            ))
        );
    }
    text
}

fn escape(cell: &str) -> String {
    cell.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::options::TableOptions;
    use crate::paper::Paper;
    use crate::statistics::Bootstrap;

    #[test]
    fn a_report_with_its_pictures() {
        let folder = tempfile::tempdir().unwrap();
        let runs = fixture::checked(30);
        let options = TableOptions {
            bootstrap: Bootstrap {
                resamples: 500,
                seed: 0,
            },
            ..TableOptions::default()
        };
        let table = Table::new(&runs, &Paper::committed().unwrap(), &options);
        let deviations = [Deviation {
            setting: "learning rate".to_string(),
            paper: "not told".to_string(),
            here: "5e-4".to_string(),
            why: "a | b: VTool-R1's 1e-6 is for 3B".to_string(),
        }];
        let gates = ["gate 1, tools matter (passed): +34.0 [+30.0, +38.0]".to_string()];
        let text = write_report(folder.path(), &runs, &table, &gates, &deviations).unwrap();
        insta::assert_snapshot!(text);
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let (curves, results) = (read(CURVES), read(RESULTS));
        for arm in runs.arms() {
            assert!(results.contains(arm.name()), "{arm}");
            assert_eq!(
                curves.contains(arm.name()),
                !["untrained", "teacher"].contains(&arm.name()),
                "{arm}"
            );
        }
        // The same runs give the same bytes.
        write_report(folder.path(), &runs, &table, &gates, &deviations).unwrap();
        assert_eq!((read(CURVES), read(RESULTS)), (curves, results));
    }

    #[test]
    fn without_metrics_there_are_no_curves() {
        let mut runs = fixture::checked(4);
        for run in &mut runs.runs {
            run.metrics.clear();
        }
        assert_eq!(plot::learning_curves(&runs).unwrap(), None);
    }
}
