//! A table for people at a terminal: aligned columns, within its width.

use std::fmt::Write;

use tabled::builder::Builder;
use tabled::settings::formatting::AlignmentStrategy;
use tabled::settings::object::Columns;
use tabled::settings::style::HorizontalLine;
use tabled::settings::{Alignment, Padding, Style};

use crate::paper::UNREPORTED;
use crate::record::SETS;
use crate::table::{Shown, Table};
use crate::table_rows::{header, paper_rows, rows};

impl Table {
    /// [`Format::Terminal`](crate::Format::Terminal) for people: at most `width` characters wide, where that is known.
    pub fn for_terminal(&self, width: Option<usize>) -> String {
        let text = terminal(self, width);
        match width {
            Some(width) => wrapped(&text, width),
            None => text,
        }
    }
}

/// Characters between two columns.
const GAP: usize = 2;

/// The table in aligned columns. Where it is wider than `width` it is cut: the average and the rates
/// first, then as many sets at once as fit.
pub(crate) fn terminal(table: &Table, width: Option<usize>) -> String {
    let mut cells = vec![header()];
    cells.extend(rows(table, |shown| match shown {
        Shown::Number {
            accuracy,
            low,
            high,
            count,
        } => format!("{accuracy}\n{low}–{high}\nn={count}"),
        Shown::Word { word, remark } => format!("{word}\n{}", remark.replacen(" % ", " %\n", 1)),
    }));
    for row in paper_rows(table) {
        // The column is as wide as its widest word: a dot keeps the table within a terminal.
        let cell = |cell: String| {
            if cell == UNREPORTED {
                "·".to_string()
            } else {
                cell
            }
        };
        cells.push(row.into_iter().map(cell).collect());
    }
    let mut text = format!("{}\n\n", table.title);
    for columns in blocks(&cells, width) {
        text += &block(&cells, &columns, table.rows.len());
        text.push('\n');
    }
    for note in &table.notes {
        let _ = writeln!(text, "{note}");
    }
    let _ = writeln!(text, "·: {UNREPORTED}.");
    if let Some(claim) = &table.claim {
        let _ = writeln!(text, "\n{}", claim.lines().join("\n"));
    }
    text
}

/// Which columns stand in one block: all, or what fits in `width`.
fn blocks(cells: &[Vec<String>], width: Option<usize>) -> Vec<Vec<usize>> {
    let columns = cells.first().map_or(0, Vec::len);
    let widest = |column: usize| -> usize {
        let lines = cells.iter().flat_map(|row| row[column].lines());
        lines.map(|line| line.chars().count()).max().unwrap_or(0) + GAP
    };
    let whole: usize = (0..columns).map(widest).sum();
    let Some(width) = width.filter(|width| whole > *width) else {
        return vec![(0..columns).collect()];
    };
    // What people look for first: behind the sets stand the average and the two rates.
    let sets = SETS.len() + 1;
    let mut blocks = vec![
        std::iter::once(0)
            .chain(sets..columns)
            .collect::<Vec<usize>>(),
    ];
    let (mut block, mut used) = (vec![0], widest(0));
    for column in 1..sets {
        if used + widest(column) > width && block.len() > 1 {
            blocks.push(std::mem::replace(&mut block, vec![0]));
            used = widest(0);
        }
        block.push(column);
        used += widest(column);
    }
    blocks.push(block);
    blocks
}

/// Some columns of the cells, with lines below the header and below the measured rows.
fn block(cells: &[Vec<String>], columns: &[usize], measured: usize) -> String {
    let mut builder = Builder::default();
    for row in cells {
        builder.push_record(columns.iter().map(|column| row[*column].clone()));
    }
    let line = HorizontalLine::empty().horizontal('─');
    let style = Style::empty().horizontals([(1, line), (1 + measured, line)]);
    let mut drawn = builder.build();
    drawn
        .with(style)
        .with(Padding::new(0, GAP, 0, 0))
        .with(AlignmentStrategy::PerLine)
        .modify(Columns::new(1..), Alignment::right())
        .modify(Columns::first(), Alignment::left());
    let mut text = String::new();
    for line in drawn.to_string().lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Text within `width` characters: longer lines are broken at spaces.
pub fn wrapped(text: &str, width: usize) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let mut used = 0;
        // What is short stays as it is, spaces of columns too.
        if line.chars().count() <= width {
            out.push_str(line);
        } else {
            for word in line.split(' ') {
                let length = word.chars().count();
                if used > 0 && used + 1 + length > width {
                    out.push('\n');
                    used = 0;
                } else if used > 0 {
                    out.push(' ');
                    used += 1;
                }
                out.push_str(word);
                used += length;
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::format::Format;
    use crate::options::TableOptions;
    use crate::paper::Paper;
    use crate::statistics::Bootstrap;

    #[test]
    fn a_narrow_terminal_gets_the_average_first_and_loses_nothing() {
        let options = TableOptions {
            bootstrap: Bootstrap {
                resamples: 200,
                seed: 0,
            },
            ..TableOptions::default()
        };
        let paper = Paper::committed().unwrap();
        let table = Table::new(&fixture::checked(10), &paper, &options);
        assert_eq!(table.for_terminal(None), table.render(Format::Terminal));
        assert!(
            table
                .for_terminal(Some(400))
                .lines()
                .all(|line| line.chars().count() <= 400)
        );
        let narrow = table.for_terminal(Some(80));
        let wide = narrow.lines().find(|line| line.chars().count() > 80);
        assert_eq!(wide, None, "{narrow}");
        let first = narrow.lines().find(|line| line.starts_with("arm")).unwrap();
        assert!(
            first.contains("average") && !first.contains("vwtq"),
            "{first}"
        );
        let words = |text: &str| {
            let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            words.sort();
            words.dedup();
            words.retain(|word| !word.contains('─'));
            words
        };
        assert_eq!(words(&narrow), words(&table.render(Format::Terminal)));
    }

    #[test]
    fn long_lines_are_broken_at_spaces() {
        assert_eq!(wrapped("a bb  cc\nshort\n", 5), "a bb \ncc\nshort\n");
        assert_eq!(wrapped("toolongword", 4), "toolongword\n");
    }
}
