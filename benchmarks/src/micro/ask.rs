//! Questions about a figure: choose among named entries, then aggregate.
//!
//! The right focus of a question names exactly what the question names, so an oracle's call gives
//! away no answer.

use seeded_random::{Draw, Generator};
use visual_tools::{Axis, Effect, Tool};

use super::figure::{Bars, Content, Figure, LARGEST_BAR, NumberTable, Orientation, label_text};
use super::language::render_call;

/// What is asked of the selected entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// One number, looked up.
    Value,
    /// The largest number.
    Largest,
    /// The smallest number.
    Smallest,
    /// The name of the entry with the largest number.
    WhichLargest,
    /// The name of the entry with the smallest number.
    WhichSmallest,
    /// How many numbers lie above a bound.
    CountAbove,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 6] = [
        Kind::Value,
        Kind::Largest,
        Kind::Smallest,
        Kind::WhichLargest,
        Kind::WhichSmallest,
        Kind::CountAbove,
    ];

    /// The name in records.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Value => "value",
            Kind::Largest => "largest",
            Kind::Smallest => "smallest",
            Kind::WhichLargest => "which-largest",
            Kind::WhichSmallest => "which-smallest",
            Kind::CountAbove => "count-above",
        }
    }
}

/// What a tool should be pointed at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Focus {
    /// Rows or columns of a table, x or y values of a chart.
    pub axis: Axis,
    /// The names, in the question's order.
    pub names: Vec<String>,
}

impl Focus {
    /// The completion that calls the tool with this focus.
    pub fn call(&self, effect: Effect) -> String {
        let tool = Tool {
            axis: self.axis,
            effect,
        };
        render_call(tool, &self.names)
    }
}

/// One number of a figure, under the label by which a question can tell it from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The label: of the bar, or of the number's row or column, whichever the question leaves open.
    pub label: u8,
    /// The number, or the bar's height.
    pub value: u8,
    /// The cell of the canvas, counted row by row, where the number or the bar's label stands.
    pub cell: usize,
}

/// A question with its exact answer and the focuses that help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The request, as the prompt's block R has it.
    pub text: String,
    /// The answer: a number, a label, `true` or `false`.
    pub answer: String,
    /// What is asked.
    pub kind: Kind,
    /// Whether the question is a statement to be judged.
    pub statement: bool,
    /// The entries that the question is about.
    pub entries: Vec<Entry>,
    /// Those of them that the answer rests on: the one with the extreme or wanted number, or all
    /// that lie above a count's bound (all, where none does).
    pub decisive: Vec<Entry>,
    /// The right focuses, the one that demonstrations use first.
    pub right: Vec<Focus>,
    /// Focuses on other entries of the same figure: they run and mislead.
    pub wrong: Vec<Focus>,
}

/// The entries that a question selects, with the focus that shows them alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// How the request names them: `row ka`, `ka, lo, mi`.
    phrase: String,
    entries: Vec<Entry>,
    /// Smallest and largest value that such an entry can have.
    range: [u8; 2],
    /// The focus on exactly these entries.
    pub right: Focus,
    /// Focuses on other entries of the figure.
    wrong: Vec<Focus>,
}

/// Selects a row, a column or some bars of one panel.
pub fn select(figure: &Figure, named: [usize; 2], draw: &mut Generator) -> Selection {
    let panel = &figure.panels[draw.below(figure.panels.len())];
    match &panel.content {
        Content::Table(table) => select_in_table(table, panel.left, draw),
        Content::Bars(bars) => {
            let [least, most] = named;
            let count = least + draw.below(most.saturating_sub(least) + 1);
            select_bars(bars, panel.left, count.min(bars.labels.len() - 1), draw)
        }
    }
}

/// Asks a question about one panel of the figure, as a request or as a statement to judge.
pub fn ask(figure: &Figure, named: [usize; 2], statement: bool, draw: &mut Generator) -> Asked {
    let kind = Kind::ALL[draw.below(Kind::ALL.len())];
    let mut selection = select(figure, named, draw);
    if kind == Kind::Value && selection.is_of_bars() {
        selection = selection.narrowed(draw);
    }
    ask_about(&selection, kind, statement, draw)
}

fn select_in_table(table: &NumberTable, left: usize, draw: &mut Generator) -> Selection {
    let by_row = draw.below(2) == 0;
    let (axis, word, own, across) = if by_row {
        (Axis::Rows, "row", &table.rows, &table.columns)
    } else {
        (Axis::Columns, "column", &table.columns, &table.rows)
    };
    let chosen = draw.below(own.len());
    let focus = |index: usize| Focus {
        axis,
        names: vec![label_text(own[index])],
    };
    Selection {
        phrase: format!("{word} {}", label_text(own[chosen])),
        entries: across
            .iter()
            .enumerate()
            .map(|(index, &label)| {
                let (row, column) = match by_row {
                    true => (chosen, index),
                    false => (index, chosen),
                };
                Entry {
                    label,
                    value: table.cells[row][column],
                    cell: NumberTable::cell(left, row, column),
                }
            })
            .collect(),
        range: [10, 99],
        right: focus(chosen),
        wrong: (0..own.len())
            .filter(|&other| other != chosen)
            .map(focus)
            .collect(),
    }
}

fn select_bars(bars: &Bars, left: usize, count: usize, draw: &mut Generator) -> Selection {
    let axis = match bars.orientation {
        Orientation::Horizontal => Axis::YValues,
        Orientation::Vertical => Axis::XValues,
    };
    let chosen = draw.choose(bars.labels.len(), count);
    let focus = |indices: &[usize]| Focus {
        axis,
        names: indices
            .iter()
            .map(|&index| label_text(bars.labels[index]))
            .collect(),
    };
    let unordered = |indices: &[usize]| {
        let mut sorted = indices.to_vec();
        sorted.sort_unstable();
        sorted
    };
    let right = focus(&chosen);
    Selection {
        phrase: right.names.join(", "),
        entries: chosen
            .iter()
            .map(|&index| Entry {
                label: bars.labels[index],
                value: bars.values[index],
                cell: bars.label_cell(left, index),
            })
            .collect(),
        range: [1, LARGEST_BAR],
        wrong: (0..4)
            .map(|_| draw.choose(bars.labels.len(), count))
            .filter(|other| unordered(other) != unordered(&chosen))
            .map(|other| focus(&other))
            .collect(),
        right,
    }
}

impl Selection {
    fn is_of_bars(&self) -> bool {
        matches!(self.right.axis, Axis::XValues | Axis::YValues)
    }

    /// One of the selected bars alone.
    fn narrowed(self, draw: &mut Generator) -> Self {
        let index = draw.below(self.entries.len());
        let one = |focus: &Focus| Focus {
            axis: focus.axis,
            names: focus.names[index..=index].to_vec(),
        };
        let right = one(&self.right);
        Selection {
            phrase: right.names[0].clone(),
            entries: vec![self.entries[index]],
            range: self.range,
            wrong: self
                .wrong
                .iter()
                .map(one)
                .filter(|focus| *focus != right)
                .collect(),
            right,
        }
    }
}

/// Asks a question of the given kind about a selection.
pub fn ask_about(
    selection: &Selection,
    kind: Kind,
    statement: bool,
    draw: &mut Generator,
) -> Asked {
    let Selection {
        mut phrase,
        mut entries,
        range: [lowest, highest],
        right,
        wrong,
    } = selection.clone();
    let mut right = vec![right];
    if kind == Kind::Value && entries.len() > 1 {
        entries = vec![entries[draw.below(entries.len())]];
        let name = label_text(entries[0].label);
        if selection.is_of_bars() {
            phrase = name;
        } else {
            phrase = format!("{phrase} at {name}");
            // The other axis of the looked-up cell helps as well.
            let axis = match right[0].axis {
                Axis::Rows => Axis::Columns,
                _ => Axis::Rows,
            };
            right.push(Focus {
                axis,
                names: vec![name],
            });
        }
    }
    // Ties go to the first entry; `largest` is then still one number, `which` one name.
    let (mut largest, mut smallest) = (entries[0], entries[0]);
    for &entry in &entries {
        if entry.value > largest.value {
            largest = entry;
        }
        if entry.value < smallest.value {
            smallest = entry;
        }
    }
    let mut decisive = vec![match kind {
        Kind::Smallest | Kind::WhichSmallest => smallest,
        _ => largest,
    }];
    let (question, answer) = match kind {
        Kind::Value => (format!("value of {phrase}"), entries[0].value.to_string()),
        Kind::Largest => (format!("largest of {phrase}"), largest.value.to_string()),
        Kind::Smallest => (format!("smallest of {phrase}"), smallest.value.to_string()),
        Kind::WhichLargest => (
            format!("which is largest of {phrase}"),
            label_text(largest.label),
        ),
        Kind::WhichSmallest => (
            format!("which is smallest of {phrase}"),
            label_text(smallest.label),
        ),
        Kind::CountAbove => {
            let third = (highest - lowest) / 3;
            let bound = lowest + third + draw.below(third as usize + 1) as u8;
            decisive = entries
                .iter()
                .copied()
                .filter(|entry| entry.value > bound)
                .collect();
            let count = decisive.len();
            if decisive.is_empty() {
                decisive = entries.clone();
            }
            (
                format!("count above {bound} of {phrase}"),
                count.to_string(),
            )
        }
    };
    let (text, answer) = if statement {
        let holds = draw.below(2) == 0;
        let claimed = if holds {
            answer
        } else {
            another(kind, &answer, &entries, [lowest, highest], draw)
        };
        (format!("{question} is {claimed}"), holds.to_string())
    } else {
        (question, answer)
    };
    Asked {
        text,
        answer,
        kind,
        statement,
        entries,
        decisive,
        right,
        wrong,
    }
}

/// A plausible wrong answer of the same kind.
fn another(
    kind: Kind,
    truth: &str,
    entries: &[Entry],
    [lowest, highest]: [u8; 2],
    draw: &mut Generator,
) -> String {
    let options: Vec<String> = match kind {
        Kind::WhichLargest | Kind::WhichSmallest => entries
            .iter()
            .map(|entry| label_text(entry.label))
            .collect(),
        Kind::CountAbove => (0..=entries.len()).map(|count| count.to_string()).collect(),
        Kind::Largest | Kind::Smallest if entries.len() > 1 => entries
            .iter()
            .map(|entry| entry.value.to_string())
            .collect(),
        _ => (lowest..=highest).map(|value| value.to_string()).collect(),
    };
    let others: Vec<&String> = options.iter().filter(|option| *option != truth).collect();
    match others.is_empty() {
        // All entries are equal: any other number of the range is wrong.
        true => if truth == lowest.to_string() {
            highest
        } else {
            lowest
        }
        .to_string(),
        false => others[draw.below(others.len())].clone(),
    }
}
