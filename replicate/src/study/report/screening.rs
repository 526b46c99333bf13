//! Where is room: plain GRPO in several worlds, beside its teacher.

use std::fmt::Write;
use std::path::PathBuf;

use results::{ArmName, SETS, number};

use crate::Result;

use super::MadeCells;
use super::arms::ArmRuns;
use super::tuning::training_seconds;

/// The table of a part that chooses the world: a row a variant.
pub(super) fn section(made: &MadeCells<'_>, part: &str, text: &mut String) -> Result<()> {
    let variants = made.variants(part);
    if variants.is_empty() {
        return Ok(());
    }
    let _ = write!(
        text,
        "\n## Part {part}: the world\n\nPlain GRPO on tuning seeds. Accuracy in percent after all \
         updates; by set the room: the teacher's accuracy less the student's, points. Seconds are the clock's, \
         whatever else the machine did.\n\n"
    );
    let mut header = vec![
        "variant",
        "seeds",
        "student",
        "at T = 1",
        "teacher",
        "seconds an update",
    ];
    header.extend(SETS);
    let teacher_name: ArmName = ArmName::TEACHER.parse()?;
    let mut rows = Vec::new();
    for variant in &variants {
        for arm in variant.arms() {
            let student = ArmRuns::of_cells(&variant.cells, arm, made.out)?;
            let mut folders: Vec<PathBuf> = variant
                .cells
                .iter()
                .map(|cell| cell.teacher_folder(made.out))
                .collect();
            folders.sort();
            folders.dedup();
            let teacher = ArmRuns::load(&teacher_name, folders.iter().map(PathBuf::as_path))?;
            let percent = |share: Option<f64>| number(share.map(|share| 100.0 * share), 1);
            let mut row = vec![
                variant.label.to_owned(),
                student.greedy.seeds.len().to_string(),
                percent(student.greedy.macro_average()),
                percent(student.sampled.macro_average()),
                percent(teacher.greedy.macro_average()),
                number(student.over_updates(|line| Some(training_seconds(line))), 2),
            ];
            let pairs = student.greedy.sets.iter().zip(&teacher.greedy.sets);
            row.extend(pairs.map(|(student, teacher)| {
                let accuracy = |set: &Option<results::statistics::SetScores>| {
                    Some(set.as_ref()?.cell()?.accuracy)
                };
                percent(accuracy(teacher).zip(accuracy(student)).map(|(t, s)| t - s))
            }));
            rows.push(row);
        }
    }
    text.push_str(&results::markdown_table(&header, &rows));
    text.push('\n');
    Ok(())
}
