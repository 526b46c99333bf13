//! What a figure of the micro world shows, before it becomes pixels.
//!
//! The canvas is a grid of 8 by 6 cells; a label or a two-digit number fills one cell, which is one
//! merged visual token of the micro models.

use seeded_random::{Draw, Generator};
use serde::{Deserialize, Serialize};
use visual_tools::{FigureBoxes, NamedBoxes, PixelBox};

/// Side of a cell in pixels.
pub const CELL: usize = 8;
/// Cells across the canvas.
pub const GRID_COLUMNS: usize = 8;
/// Cells down the canvas.
pub const GRID_ROWS: usize = 6;
/// The largest value of a bar; the smallest is 1.
pub const LARGEST_BAR: u8 = 18;
/// Number of labels that there are.
pub const LABELS: usize = 32;

/// The text of a label: a consonant and a vowel.
pub fn label_text(label: u8) -> String {
    const CONSONANTS: [char; 8] = ['k', 'l', 'm', 'n', 'p', 'r', 's', 't'];
    const VOWELS: [char; 4] = ['a', 'e', 'i', 'o'];
    let label = label as usize % LABELS;
    [CONSONANTS[label / 4], VOWELS[label % 4]].iter().collect()
}

/// How large and how noisy figures are: the world's dial of difficulty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difficulty {
    /// Fewest and most rows of numbers in a table (at most 5).
    pub table_rows: [usize; 2],
    /// Fewest and most columns of numbers in a table (at most 7).
    pub table_columns: [usize; 2],
    /// Fewest and most bars of a chart (at most 6 horizontal, 8 vertical).
    pub bars: [usize; 2],
    /// Fewest and most entries that a question about bars names.
    pub named: [usize; 2],
    /// Share of pixels with random ink.
    pub noise: f64,
}

impl Default for Difficulty {
    /// The sizes of the `micro` profile.
    fn default() -> Self {
        Difficulty {
            table_rows: [4, 5],
            table_columns: [3, 5],
            bars: [5, 6],
            named: [2, 4],
            noise: 0.01,
        }
    }
}

impl Difficulty {
    /// What the canvas cannot hold, by key, if anything.
    pub fn problem(&self) -> Option<String> {
        // A question about bars must leave some out, or its right call would change nothing.
        let ranges = [
            ("table_rows", self.table_rows, 2, GRID_ROWS - 1),
            ("table_columns", self.table_columns, 2, GRID_COLUMNS - 1),
            ("bars", self.bars, 2, GRID_COLUMNS),
            ("named", self.named, 1, GRID_COLUMNS - 1),
        ];
        for (key, [least, most], low, high) in ranges {
            if least > most || least < low || most > high {
                return Some(format!(
                    "{key} is [{least}, {most}]: expected [fewest, most] within {low} to {high}"
                ));
            }
        }
        if self.named[0] >= self.bars[1] {
            return Some(format!(
                "named is {:?} where there are at most {} bars: name fewer than there are",
                self.named, self.bars[1]
            ));
        }
        (!(0.0..=0.5).contains(&self.noise)).then(|| {
            format!(
                "noise is {}: expected a share of pixels, 0 to 0.5",
                self.noise
            )
        })
    }
}

/// Which way bars grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Orientation {
    /// Bars grow to the right; labels on the left.
    Horizontal,
    /// Bars grow upwards; labels below.
    Vertical,
}

/// A table with named rows and columns of numbers from 10 to 99.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NumberTable {
    /// Labels of the columns.
    pub columns: Vec<u8>,
    /// Labels of the rows.
    pub rows: Vec<u8>,
    /// `cells[row][column]`.
    pub cells: Vec<Vec<u8>>,
}

/// A bar chart with values from 1 to [`LARGEST_BAR`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bars {
    /// Which way the bars grow.
    pub orientation: Orientation,
    /// Labels in the order of the bars.
    pub labels: Vec<u8>,
    /// Values in the order of the bars.
    pub values: Vec<u8>,
}

/// One panel's content and the cell of its top left corner.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Panel {
    /// Column of the panel's first cell.
    pub left: usize,
    /// What it shows.
    pub content: Content,
}

/// A table or a chart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// A table.
    Table(NumberTable),
    /// A bar chart.
    Bars(Bars),
}

/// A whole figure: one panel, or two side by side.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Figure {
    /// The panels from left to right.
    pub panels: Vec<Panel>,
}

/// What one cell of the canvas shows: the dense targets of pre-training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CellTruth {
    /// The label written here.
    pub label: Option<u8>,
    /// The number written here.
    pub number: Option<u8>,
    /// Label of the row this number stands in, or of the bar this cell is part of.
    pub row: Option<u8>,
    /// Label of the column this number stands in.
    pub column: Option<u8>,
    /// The value of the bar whose label stands here.
    pub bar: Option<u8>,
}

impl Figure {
    /// A table drawn by the dial.
    pub fn table(difficulty: &Difficulty, draw: &mut Generator) -> Self {
        let rows = between(draw, difficulty.table_rows);
        let columns = between(draw, difficulty.table_columns);
        let labels = draw.choose(LABELS, rows + columns);
        Figure {
            panels: vec![Panel {
                left: 0,
                content: Content::Table(NumberTable::random(&labels, rows, draw)),
            }],
        }
    }

    /// A bar chart drawn by the dial.
    pub fn bars(orientation: Orientation, difficulty: &Difficulty, draw: &mut Generator) -> Self {
        let most = match orientation {
            Orientation::Horizontal => GRID_ROWS,
            Orientation::Vertical => GRID_COLUMNS,
        };
        let count = between(draw, difficulty.bars).min(most);
        let labels = draw.choose(LABELS, count);
        Figure {
            panels: vec![Panel {
                left: 0,
                content: Content::Bars(Bars::random(&labels, orientation, draw)),
            }],
        }
    }

    /// Two panels with the layouts that no training figure has: bars beside bars with a gap, bars
    /// beside a table, or a table beside bars. No label stands in both.
    pub fn two_panels(draw: &mut Generator) -> Self {
        let labels = draw.choose(LABELS, 12);
        let small_table = |draw: &mut Generator| {
            let rows = 3 + draw.below(2);
            Content::Table(NumberTable::random(&labels[6..6 + rows + 2], rows, draw))
        };
        let small_bars = |from: usize, draw: &mut Generator| {
            let count = 3;
            Content::Bars(Bars::random(
                &labels[from..from + count],
                Orientation::Vertical,
                draw,
            ))
        };
        let (first, second, gap) = match draw.below(3) {
            0 => (small_bars(0, draw), small_bars(3, draw), 5),
            1 => (small_bars(0, draw), small_table(draw), 5),
            _ => (small_table(draw), small_bars(0, draw), 5),
        };
        Figure {
            panels: vec![
                Panel {
                    left: 0,
                    content: first,
                },
                Panel {
                    left: gap,
                    content: second,
                },
            ],
        }
    }

    /// The regions that the tools may focus on. Names of tables are under `columns` and `rows`,
    /// of vertical bars under `x_values`, of horizontal bars under `y_values`. The header of a
    /// table and its row labels belong to no region, so they stay visible.
    pub fn boxes(&self) -> FigureBoxes {
        let mut boxes = FigureBoxes::default();
        for panel in &self.panels {
            let across = |index: usize, first: usize, last: usize| {
                cell_box(panel.left + index, first, 1, last - first)
            };
            match &panel.content {
                Content::Table(table) => {
                    for (index, label) in table.columns.iter().enumerate() {
                        push(
                            &mut boxes.columns,
                            *label,
                            across(1 + index, 0, 1 + table.rows.len()),
                        );
                    }
                    for (index, label) in table.rows.iter().enumerate() {
                        push(
                            &mut boxes.rows,
                            *label,
                            cell_box(panel.left, 1 + index, 1 + table.columns.len(), 1),
                        );
                    }
                }
                Content::Bars(bars) => {
                    for (index, label) in bars.labels.iter().enumerate() {
                        match bars.orientation {
                            Orientation::Horizontal => push(
                                &mut boxes.y_values,
                                *label,
                                cell_box(panel.left, index, GRID_COLUMNS - panel.left, 1),
                            ),
                            Orientation::Vertical => {
                                push(&mut boxes.x_values, *label, across(index, 0, GRID_ROWS))
                            }
                        }
                    }
                }
            }
        }
        boxes
    }

    /// The dense truth of every cell, row by row.
    pub fn cells(&self) -> Vec<CellTruth> {
        let mut cells = vec![CellTruth::default(); GRID_COLUMNS * GRID_ROWS];
        for Panel { left, content } in &self.panels {
            match content {
                Content::Table(table) => {
                    for (index, label) in table.columns.iter().enumerate() {
                        cells[cell_index(left + 1 + index, 0)].label = Some(*label);
                    }
                    for (row, label) in table.rows.iter().enumerate() {
                        cells[cell_index(*left, 1 + row)].label = Some(*label);
                        for (column, number) in table.cells[row].iter().enumerate() {
                            cells[NumberTable::cell(*left, row, column)] = CellTruth {
                                number: Some(*number),
                                row: Some(*label),
                                column: Some(table.columns[column]),
                                ..CellTruth::default()
                            };
                        }
                    }
                }
                Content::Bars(bars) => {
                    for (index, (label, value)) in bars.labels.iter().zip(&bars.values).enumerate()
                    {
                        cells[bars.label_cell(*left, index)] = CellTruth {
                            label: Some(*label),
                            bar: Some(*value),
                            ..CellTruth::default()
                        };
                    }
                }
            }
        }
        cells
    }
}

impl NumberTable {
    /// The cell of the canvas that shows a number, in a table whose row labels stand in column
    /// `left`.
    pub fn cell(left: usize, row: usize, column: usize) -> usize {
        cell_index(left + 1 + column, 1 + row)
    }

    /// `labels` names first the rows, then the columns.
    fn random(labels: &[usize], rows: usize, draw: &mut Generator) -> Self {
        let columns = labels.len() - rows;
        NumberTable {
            rows: labels[..rows].iter().map(|&label| label as u8).collect(),
            columns: labels[rows..].iter().map(|&label| label as u8).collect(),
            cells: (0..rows)
                .map(|_| (0..columns).map(|_| 10 + draw.below(90) as u8).collect())
                .collect(),
        }
    }
}

impl Bars {
    /// The cell of the canvas that shows a bar's label, in a chart that begins at column `left`.
    pub fn label_cell(&self, left: usize, index: usize) -> usize {
        match self.orientation {
            Orientation::Horizontal => cell_index(left, index),
            Orientation::Vertical => cell_index(left + index, GRID_ROWS - 1),
        }
    }

    /// Values are distinct, so that the largest is one.
    fn random(labels: &[usize], orientation: Orientation, draw: &mut Generator) -> Self {
        Bars {
            orientation,
            labels: labels.iter().map(|&label| label as u8).collect(),
            values: draw
                .choose(LARGEST_BAR as usize, labels.len())
                .into_iter()
                .map(|value| value as u8 + 1)
                .collect(),
        }
    }
}

fn between(draw: &mut Generator, [least, most]: [usize; 2]) -> usize {
    least + draw.below(most.saturating_sub(least) + 1)
}

fn cell_index(column: usize, row: usize) -> usize {
    row * GRID_COLUMNS + column
}

fn cell_box(column: usize, row: usize, columns: usize, rows: usize) -> PixelBox {
    PixelBox {
        x1: (column * CELL) as f64,
        y1: (row * CELL) as f64,
        x2: ((column + columns) * CELL - 1) as f64,
        y2: ((row + rows) * CELL - 1) as f64,
    }
}

fn push(boxes: &mut NamedBoxes, label: u8, region: PixelBox) {
    boxes.0.push((label_text(label), region));
}

#[cfg(test)]
mod difficulty_tests {
    use super::*;

    #[test]
    fn what_the_canvas_cannot_hold_is_refused_by_key() {
        assert_eq!(Difficulty::default().problem(), None);
        let problem = |change: &dyn Fn(&mut Difficulty)| {
            let mut difficulty = Difficulty::default();
            change(&mut difficulty);
            difficulty.problem().expect("must be refused")
        };
        let problems = [
            problem(&|d| d.named = [0, 0]),
            problem(&|d| d.bars = [6, 5]),
            problem(&|d| d.bars = [0, 0]),
            problem(&|d| d.table_columns = [400, 400]),
            problem(&|d| d.table_rows = [1, 9]),
            problem(&|d| d.named = [6, 7]),
            problem(&|d| d.noise = f64::NAN),
        ];
        insta::assert_snapshot!(problems.join("\n"));
    }
}
