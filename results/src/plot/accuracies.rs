//! Accuracies of a table's arms with their intervals.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::style::{FAINT, INK, Looks, Scale, heading, label, line, picture, text_style};
use crate::error::Result;
use crate::record::SETS;
use crate::statistics::Cell;
use crate::table::Table;

/// Pixels between two arms of a set.
const STEP: i32 = 14;
// Pixels above the first set, and where the scale begins and ends.
const TOP: i32 = 76;
const LEFT: i32 = 130;
const RIGHT: i32 = 680;

/// An estimate's place: set, row, and least, middle and greatest in percent.
type Placed = (usize, usize, [f64; 3]);

/// One block per set and one for the average, one line per arm, its value beside it.
///
/// # Errors
/// [`Error::Plot`](crate::Error::Plot) when the drawing library fails.
pub fn accuracies(table: &Table) -> Result<String> {
    let estimates: Vec<Placed> = table
        .rows
        .iter()
        .enumerate()
        .flat_map(|(place, row)| {
            let cells = row.estimates.cells.iter().map(|cell| match cell {
                Cell::Measured { estimate, .. } => Some(*estimate),
                _ => None,
            });
            let all: Vec<_> = cells.chain([row.estimates.average]).collect();
            all.into_iter()
                .enumerate()
                .filter_map(move |(group, estimate)| {
                    let one = estimate?;
                    let percent = [one.low, one.value, one.high].map(|share| 100.0 * share);
                    Some((group, place, percent))
                })
        })
        .collect();
    let groups: Vec<&str> = SETS.into_iter().chain(["average"]).collect();
    let looks = Looks::new(table.rows.iter().map(|row| &row.arm));
    let group_height = table.rows.len() as i32 * STEP + 22;
    let bottom = TOP + groups.len() as i32 * group_height;
    let ends = estimates
        .iter()
        .flat_map(|(_, _, [low, _, high])| [*low, *high]);
    let scale = Scale::new(ends, LEFT..RIGHT);
    picture("the results", (920, bottom as u32 + 60), |area| {
        let caption = "accuracy in percent, 95 % interval over figures and seeds";
        heading(area, &table.title, caption)?;
        for (tick, text) in scale.ticks() {
            let x = scale.pixel(tick);
            line(area, (x, TOP), (x, bottom), FAINT.into())?;
            let style = text_style(13, HPos::Center, VPos::Top);
            label(area, &text, (x, bottom + 8), &style)?;
        }
        for (group, name) in groups.iter().enumerate() {
            let y = TOP + group as i32 * group_height;
            line(area, (LEFT, y), (RIGHT, y), FAINT.into())?;
            let style = text_style(14, HPos::Right, VPos::Center);
            label(area, name, (LEFT - 12, y + group_height / 2), &style)?;
        }
        line(area, (LEFT, bottom), (RIGHT, bottom), INK.into())?;
        for (group, place, [low, value, high]) in &estimates {
            let y = TOP + *group as i32 * group_height + 17 + *place as i32 * STEP;
            let color = looks.of(&table.rows[*place].arm).color();
            let ends = ((scale.pixel(*low), y), (scale.pixel(*high), y));
            line(area, ends.0, ends.1, color.stroke_width(2))?;
            let dot = Circle::new((scale.pixel(*value), y), 4, color.filled());
            area.draw(&dot).map_err(|error| error.to_string())?;
            let style = text_style(10, HPos::Left, VPos::Center);
            label(area, &format!("{value:.1}"), (ends.1.0 + 5, y), &style)?;
        }
        for (place, row) in table.rows.iter().enumerate() {
            let y = TOP + 14 + 24 * place as i32;
            let x = RIGHT + 44;
            let color = looks.of(&row.arm).color();
            line(area, (x, y), (x + 26, y), color.stroke_width(2))?;
            let dot = Circle::new((x + 13, y), 4, color.filled());
            area.draw(&dot).map_err(|error| error.to_string())?;
            let style = text_style(13, HPos::Left, VPos::Center);
            label(area, &row.label, (x + 34, y), &style)?;
        }
        Ok(())
    })
}
