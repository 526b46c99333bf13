//! What pre-training of the micro models is made of: figures with dense labels, edited figures,
//! packed questions, demonstrations. The training stages see the micro world through this file.

use std::sync::Arc;

use crate::TestSet;
use crate::micro::language::{render_answer, render_call};
use crate::micro::{
    CELL, Difficulty, Entry, Figure, Focus, Kind, MicroQuestion, Split, TRAINED, ask_about,
    draw_figure, question, render, select,
};
use agent::{Block, Conversation, ObservationMode, PromptStyle, first_turn, second_turn, use_tool};
use image::RgbImage;
use seeded_random::{Draw, Generator, Stream};
use visual_tools::{Axis, Effect, FigureBoxes, NamedBoxes, Style, Tool};

pub use crate::micro::language::{processor_files, token_id, vocabulary};
pub use crate::micro::{CellTruth, GRID_COLUMNS, GRID_ROWS, label_text};

/// What is asked about a figure of the reading stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReadingMix {
    /// Questions about each figure.
    pub questions: usize,
    /// Probability that a right mask has edited the figure.
    pub focused: f64,
    /// Whether values are looked up and nothing else.
    pub lookup_only: bool,
    /// Probability that a question about a table is a statement to be judged.
    pub statements: f64,
}

/// How episodes are demonstrated; what is left of 1 is right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DemonstrationMix {
    /// Probability of an answer without a call.
    pub direct: f64,
    /// Probability of a call that copies the worked example instead of the request.
    pub copied: f64,
    /// Probability of a call that names the request's entries on a habitual axis.
    pub habitual: f64,
}

/// A figure's pixels, with what every cell shows.
pub struct Picture {
    /// The pixels, edited or not.
    pub image: Arc<RgbImage>,
    /// The truth of every cell, row by row.
    pub cells: Vec<CellTruth>,
}

/// A training figure; with probability `focused` everything but a random selection is masked.
pub fn picture(difficulty: &Difficulty, focused: f64, draw: &mut Generator) -> Picture {
    let set = TRAINED[draw.below(TRAINED.len())];
    let (figure, style) = draw_figure(set, Split::Train, difficulty, draw);
    let image = render(&figure, &style, draw);
    let mut cells = figure.cells();
    if draw.unit() >= focused {
        return Picture {
            image: Arc::new(image),
            cells,
        };
    }
    let focus = select(&figure, difficulty.named, draw).right;
    blank_masked_cells(&figure, &focus, &mut cells);
    Picture {
        image: masked(&figure, image, &focus),
        cells,
    }
}

/// The figure with everything outside a focus masked.
pub fn masked(figure: &Figure, image: RgbImage, focus: &Focus) -> Arc<RgbImage> {
    let task = agent::Task {
        image: Arc::new(image),
        boxes: Arc::new(figure.boxes()),
        request: String::new(),
        tools: None,
    };
    let call = focus.call(Effect::Mask);
    let (_, _, observation) = use_tool(&task, &call, &Style::micro());
    observation.unwrap_or(task.image)
}

fn axis_boxes(boxes: &FigureBoxes, axis: Axis) -> &NamedBoxes {
    match axis {
        Axis::Columns => &boxes.columns,
        Axis::Rows => &boxes.rows,
        Axis::XValues => &boxes.x_values,
        Axis::YValues => &boxes.y_values,
    }
}

fn blank_masked_cells(figure: &Figure, focus: &Focus, cells: &mut [CellTruth]) {
    let boxes = figure.boxes();
    for (name, region) in &axis_boxes(&boxes, focus.axis).0 {
        if focus.names.contains(name) {
            continue;
        }
        for (index, cell) in cells.iter_mut().enumerate() {
            let x = ((index % GRID_COLUMNS) * CELL + CELL / 2) as f64;
            let y = ((index / GRID_COLUMNS) * CELL + CELL / 2) as f64;
            if (region.x1..=region.x2).contains(&x) && (region.y1..=region.y2).contains(&y) {
                *cell = CellTruth::default();
            }
        }
    }
}

/// Questions about one picture, each with its answer: they share the image's tokens.
pub struct Reading {
    /// Conversations that differ in the request alone.
    pub conversations: Vec<Conversation>,
    /// The completions that answer them.
    pub answers: Vec<String>,
    /// Where to look for each.
    pub pointers: Vec<Pointers>,
}

/// Cells of the canvas that a question leads to.
pub struct Pointers {
    /// Where the entries stand that the question is about.
    pub selected: Vec<usize>,
    /// Where those stand that the answer rests on.
    pub decisive: Vec<usize>,
}

/// Questions about a figure; on an edited one all are about what it shows.
pub fn reading(difficulty: &Difficulty, mix: &ReadingMix, draw: &mut Generator) -> Reading {
    let set = TRAINED[draw.below(TRAINED.len())];
    let (figure, style) = draw_figure(set, Split::Train, difficulty, draw);
    let image = render(&figure, &style, draw);
    let tables = matches!(set, TestSet::Vwtq | TestSet::VwtqSyn | TestSet::VTabFact);
    let shown = (draw.unit() < mix.focused).then(|| select(&figure, difficulty.named, draw));
    let image = match &shown {
        Some(selection) => masked(&figure, image, &selection.right),
        None => Arc::new(image),
    };
    let mut material = Reading {
        conversations: Vec::new(),
        answers: Vec::new(),
        pointers: Vec::new(),
    };
    for _ in 0..mix.questions {
        let selection = match &shown {
            Some(selection) => selection.clone(),
            None => select(&figure, difficulty.named, draw),
        };
        let kind = match mix.lookup_only {
            true => Kind::Value,
            false => Kind::ALL[draw.below(Kind::ALL.len())],
        };
        let statement = tables && !mix.lookup_only && draw.unit() < mix.statements;
        let asked = ask_about(&selection, kind, statement, draw);
        let cells = |entries: &[Entry]| entries.iter().map(|entry| entry.cell).collect();
        material.pointers.push(Pointers {
            selected: cells(&asked.entries),
            decisive: cells(&asked.decisive),
        });
        let task = agent::Task {
            image: image.clone(),
            boxes: Arc::default(),
            request: asked.text,
            tools: None,
        };
        material
            .conversations
            .push(first_turn(&task, PromptStyle::Micro));
        material.answers.push(render_answer(&asked.answer));
    }
    material
}

/// A demonstrated turn: what is seen and what is said.
pub struct Demonstration {
    /// The chat before the turn.
    pub conversation: Conversation,
    /// The words to learn.
    pub completion: String,
}

/// One or two demonstrated turns for a training question.
///
/// A right call is followed by the answer on the edited image; after a wrong one there is nothing
/// to learn but the call.
pub fn demonstration(
    difficulty: &Difficulty,
    mix: &DemonstrationMix,
    stream: &Stream,
) -> Vec<Demonstration> {
    let mut draw = stream.purpose("demonstration").generator();
    let set = TRAINED[draw.below(TRAINED.len())];
    let micro = question(set, Split::Train, difficulty, stream, 0);
    let task = &micro.question.task;
    let first = first_turn(task, PromptStyle::Micro);
    let answer = render_answer(&micro.asked.answer);
    if draw.unit() < mix.direct {
        return vec![Demonstration {
            conversation: first,
            completion: answer,
        }];
    }
    let kind = draw.unit();
    if kind < mix.copied {
        let example = &micro.examples[draw.below(micro.examples.len())];
        return vec![Demonstration {
            conversation: first,
            completion: render_call(example.tool, &example.names),
        }];
    }
    if kind < mix.copied + mix.habitual {
        return vec![Demonstration {
            conversation: first,
            completion: habitual_call(&micro),
        }];
    }
    let call = micro.asked.right[0].call(Effect::Mask);
    let second = observed(&micro, &call);
    vec![
        Demonstration {
            conversation: first,
            completion: call,
        },
        Demonstration {
            conversation: second,
            completion: answer,
        },
    ]
}

/// The conversation of the second turn after a call.
pub fn observed(micro: &MicroQuestion, call: &str) -> Conversation {
    let task = &micro.question.task;
    let (_, _, observation) = use_tool(task, call, &Style::micro());
    let first = first_turn(task, PromptStyle::Micro);
    second_turn(
        task,
        &first,
        call,
        observation.as_ref().ok_or("the call does not run"),
        PromptStyle::Micro,
        ObservationMode::Replace,
    )
}

/// The request's names on the axis that is tried by habit: rows for tables, x values for charts.
fn habitual_call(micro: &MicroQuestion) -> String {
    let right = &micro.asked.right[0];
    let axis = match right.axis {
        Axis::Columns | Axis::Rows => Axis::Rows,
        Axis::XValues | Axis::YValues => Axis::XValues,
    };
    render_call(
        Tool {
            axis,
            effect: Effect::Mask,
        },
        &right.names,
    )
}

/// Whether a token of a prompt belongs to the request or what follows it: what differs between
/// questions about one image.
pub fn from_request(blocks: &[Block]) -> usize {
    blocks
        .iter()
        .position(|block| *block == Block::R)
        .unwrap_or(blocks.len())
}
