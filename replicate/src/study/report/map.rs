//! Gain against room: what an arm gains over plain GRPO in worlds that leave it more or less to gain.
//!
//! Room is the teacher's macro average less plain GRPO's, gain the arm's less plain GRPO's; over the
//! variants of a part the line `gain = a + b · room` is fitted by least squares. Both share plain
//! GRPO's average, so its error alone already draws `b` above 0: the interval is a description, no
//! test.

use std::fmt::Write;

use results::statistics::{CrossedEstimate, VarianceComponents};
use results::{ArmName, markdown_table, number, points};

use crate::Result;

use super::counted::{TrainedArms, paired, with_interval};

/// The table and the fitted lines of a part with several variants.
pub(super) fn section(variants: &[(String, TrainedArms)], text: &mut String) -> Result<()> {
    text.push_str(
        "### Gain against room\n\nRoom: the teacher's macro average less plain GRPO's, points. Gains \
         over plain GRPO with 95 % intervals, not corrected for their number.\n\n",
    );
    let mut names: Vec<&str> = Vec::new();
    for (_, trained) in variants {
        for arm in &trained.arms {
            if arm.name.name() != ArmName::VTOOL_R1 && !names.contains(&arm.name.name()) {
                names.push(arm.name.name());
            }
        }
    }
    // By arm: (room, gain) of each variant.
    let mut gains: Vec<Vec<(f64, f64)>> = vec![Vec::new(); names.len()];
    let mut rows = Vec::new();
    for (label, trained) in variants {
        let Some(plain) = trained.arm(ArmName::VTOOL_R1) else {
            continue;
        };
        let average = plain.greedy.macro_average();
        let teacher = trained.teacher().and_then(|arm| arm.greedy.macro_average());
        let room = teacher
            .zip(average)
            .map(|(teacher, average)| teacher - average);
        let mut row = vec![
            label.clone(),
            number(average.map(|share| 100.0 * share), 1),
            room.map_or_else(|| results::NOT_MEASURED.to_owned(), points),
        ];
        for (place, name) in names.iter().enumerate() {
            row.push(match trained.arm(name) {
                Some(arm) => {
                    let found = paired(&arm.greedy, &plain.greedy)?.crossed;
                    gains[place].extend(room.map(|room| (room, found.value)));
                    with_interval(&found)
                }
                None => results::NOT_MEASURED.to_owned(),
            });
        }
        rows.push(row);
    }
    let mut header = vec!["variant", "vtool-r1", "room"];
    header.extend(&names);
    text.push_str(&markdown_table(&header, &rows));
    text.push('\n');
    for (name, gains) in names.iter().zip(&gains) {
        if let Some(slope) = slope(gains) {
            let _ = write!(
                text,
                "\n{name}: {:+.2} [{:+.2}, {:+.2}] points of gain a point of room, over {} variants.\n",
                slope.value,
                slope.low(),
                slope.high(),
                gains.len()
            );
        }
    }
    text.push('\n');
    Ok(())
}

/// The slope of the least-squares line with Student's interval; `None` of fewer than three places or
/// of one room alone.
fn slope(gains: &[(f64, f64)]) -> Option<CrossedEstimate> {
    let count = gains.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| gains.iter().map(of).sum::<f64>() / count;
    let (room, gain) = (mean(|one| one.0), mean(|one| one.1));
    let spread: f64 = gains.iter().map(|one| (one.0 - room).powi(2)).sum();
    if gains.len() < 3 || spread <= 0.0 {
        return None;
    }
    let both: f64 = gains
        .iter()
        .map(|one| (one.0 - room) * (one.1 - gain))
        .sum();
    let value = both / spread;
    let left: f64 = gains
        .iter()
        .map(|one| (one.1 - gain - value * (one.0 - room)).powi(2))
        .sum();
    let degrees_of_freedom = count - 2.0;
    Some(CrossedEstimate {
        value,
        standard_error: (left / degrees_of_freedom / spread).sqrt(),
        degrees_of_freedom,
        components: VarianceComponents {
            seed: None,
            question: 0.0,
            residual: 0.0,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_least_squares() {
        // S_xy = 5.5, S_xx = 5, squares left 2.7, two degrees of freedom.
        let found = slope(&[(0.0, 1.0), (1.0, 3.0), (2.0, 2.0), (3.0, 5.0)]).unwrap();
        assert!((found.value - 1.1).abs() < 1e-12);
        assert!((found.standard_error - (2.7f64 / 2.0 / 5.0).sqrt()).abs() < 1e-12);
        assert!(slope(&[(1.0, 2.0), (1.0, 3.0), (1.0, 4.0)]).is_none());
        assert!(slope(&[(0.0, 1.0), (1.0, 3.0)]).is_none());
    }
}
