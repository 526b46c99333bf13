//! The micro world: small figures with questions, exact answers and boxes, made from a seed.
//!
//! Six families stand for the paper's six sets. A figure's content decides its split, so train,
//! validation and test cannot share a figure.

mod ask;
mod figure;
mod glyphs;
pub mod language;
mod render;

use std::sync::Arc;

use agent::Task;
use seeded_random::{Draw, Generator, Stream};
use visual_tools::Effect;

pub use ask::{Asked, Entry, Focus, Kind, Selection, ask, ask_about, select};
pub use figure::{
    Bars, CELL, CellTruth, Content, Difficulty, Figure, GRID_COLUMNS, GRID_ROWS, LABELS,
    LARGEST_BAR, NumberTable, Orientation, Panel, label_text,
};
pub use render::{FigureStyle, render};

use crate::{Question, TestSet};

/// Parts of the world that share no figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// Eight tenths of all figures.
    Train,
    /// One tenth.
    Validation,
    /// One tenth.
    Test,
}

impl Split {
    /// The split that a figure belongs to, by the hash of what it shows.
    pub fn of(figure: &Figure) -> Self {
        // This text decided the splits of every recorded world, so a renamed type keeps its old name
        // in it; a snapshot of questions holds it.
        let shown = format!("{figure:?}").replace("NumberTable {", "Table {");
        let digest = blake3::hash(shown.as_bytes());
        match digest.as_bytes()[0] % 10 {
            0..8 => Split::Train,
            8 => Split::Validation,
            _ => Split::Test,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Validation => "validation",
            Split::Test => "test",
        }
    }
}

/// A question of the micro world with all that its generator knows.
#[derive(Clone, Debug)]
pub struct MicroQuestion {
    /// What the agent is asked, and the gold answer.
    pub question: Question,
    /// What the figure shows.
    pub figure: Figure,
    /// The question's structure: kind, right and wrong focuses.
    pub asked: Asked,
    /// The worked examples in the tools' text.
    pub examples: Vec<language::Example>,
}

/// The families whose figures may be trained on; CharXiv's stand-in is kept for the test.
pub const TRAINED: [TestSet; 5] = [
    TestSet::ChartQaHorizontal,
    TestSet::ChartQaVertical,
    TestSet::Vwtq,
    TestSet::VwtqSyn,
    TestSet::VTabFact,
];

/// A figure of a family, in the wanted split, with its pixels.
pub fn draw_figure(
    set: TestSet,
    split: Split,
    difficulty: &Difficulty,
    draw: &mut Generator,
) -> (Figure, FigureStyle) {
    let figure = loop {
        let figure = match set {
            TestSet::CharXiv => Figure::two_panels(draw),
            TestSet::ChartQaHorizontal => Figure::bars(Orientation::Horizontal, difficulty, draw),
            TestSet::ChartQaVertical => Figure::bars(Orientation::Vertical, difficulty, draw),
            // A table stands for every other set.
            _ => Figure::table(difficulty, draw),
        };
        if Split::of(&figure) == split {
            break figure;
        }
    };
    let style = match set {
        TestSet::Vwtq => FigureStyle::plain(difficulty.noise),
        _ => FigureStyle::varied(difficulty.noise, draw),
    };
    (figure, style)
}

/// Question `index` of a family and split. The same arguments give the same question.
pub fn question(
    set: TestSet,
    split: Split,
    difficulty: &Difficulty,
    stream: &Stream,
    index: u64,
) -> MicroQuestion {
    let stream = stream
        .purpose(set.name())
        .purpose(split.name())
        .index(index);
    let mut draw = stream.generator();
    let (figure, style) = draw_figure(set, split, difficulty, &mut draw);
    let image = render(&figure, &style, &mut draw);
    let asked = ask(
        &figure,
        difficulty.named,
        set == TestSet::VTabFact,
        &mut draw,
    );

    let boxes = figure.boxes();
    let mut effects = vec![Effect::Mask];
    match draw.below(4) {
        0 => effects.push(Effect::Draw),
        1 => effects.push(Effect::Highlight),
        _ => {}
    }
    draw.shuffle(&mut effects);
    let present: Vec<String> = [
        &boxes.columns,
        &boxes.rows,
        &boxes.x_values,
        &boxes.y_values,
    ]
    .into_iter()
    .flat_map(|named| named.0.iter().map(|(name, _)| name.clone()))
    .collect();
    let examples: Vec<language::Example> = (0..1 + draw.below(2))
        .map(|_| language::Example::random(&present, Effect::Mask, &mut draw))
        .collect();

    let id = format!("{}-{}-{index}", set.name(), split.name());
    MicroQuestion {
        question: Question {
            set,
            id: id.clone(),
            task: Task {
                image: Arc::new(image),
                boxes: Arc::new(boxes),
                request: asked.text.clone(),
                tools: Some(language::tools_text(&effects, &examples)),
            },
            gold: asked.answer.clone(),
            image_id: id,
            category: None,
        },
        figure,
        asked,
        examples,
    }
}

/// Whether a micro answer is right: the exact text, nothing else.
pub fn is_right(question: &MicroQuestion, answer: Option<&str>) -> bool {
    answer == Some(question.asked.answer.as_str())
}
