//! The charts that ReFocus and VTool-R1 train on, and VTool-R1's tables, as questions.
//!
//! What a reward needs: image, boxes, request and gold. The thoughts, edited images and focus areas
//! of the training rows, which supervised fine-tuning takes for targets, are not read.

use std::path::Path;

use super::charts::Chart;
use super::error::SourceError;
use super::files::{below, first_present};
use super::images::Finder;
use super::records;
use super::set::LoadedSet;
use super::tables;
use crate::TestSet;

/// A split of the training questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrainingSplit {
    /// 14,344 questions.
    Train,
    /// 813 questions.
    Validation,
}

impl TrainingSplit {
    /// The files that it may be read from, best first, as for the test sets.
    fn files(self) -> &'static [&'static str] {
        match self {
            TrainingSplit::Train => &[
                "chartqa_vcot/train.jsonl",
                "train_raw_data/chartqa_vcot/train.jsonl",
                "chartqa/chartqa_vcot_train.jsonl",
                "chartqa/chartqa_vcot_train.jsonl.gz",
                "data/train-*.parquet",
                "train.parquet",
                "train_full.parquet",
            ],
            TrainingSplit::Validation => &[
                "chartqa_vcot/val.jsonl",
                "train_raw_data/chartqa_vcot/val.jsonl",
                "chartqa/chartqa_vcot_val.jsonl",
                "chartqa/chartqa_vcot_val.jsonl.gz",
                "data/val-*.parquet",
                "data/validation-*.parquet",
                "val_full.parquet",
            ],
        }
    }

    /// Published questions about horizontal and about vertical bars.
    fn sizes(self) -> [usize; 2] {
        match self {
            TrainingSplit::Train => [4722, 9622],
            TrainingSplit::Validation => [323, 490],
        }
    }
}

/// Loads the training questions from the folder `data`: those about horizontal bars, then those
/// about vertical ones. As in [`super::load`], boxes are mended and counted, images are found and
/// not decoded, and a row without its image is counted.
///
/// # Errors
/// As [`super::load`].
pub fn load_training(data: &Path, split: TrainingSplit) -> Result<[LoadedSet; 2], SourceError> {
    let files = first_present(data, "the training questions", split.files())?;
    let (mut horizontal, mut vertical) = (Vec::new(), Vec::new());
    for file in &files {
        let images = Finder::new(data, file)?;
        for row in records::read(file)? {
            let chart = Chart::of(&row)?;
            let questions = match chart.bars {
                Some(TestSet::ChartQaHorizontal) => &mut horizontal,
                Some(_) => &mut vertical,
                None => return Err(row.error("source", "'h_bar' or 'v_bar'", None)),
            };
            questions.push(chart.entry(&images)?);
        }
    }
    let [of_horizontal, of_vertical] = split.sizes();
    let files = below(data, &files);
    Ok([
        LoadedSet::new(
            TestSet::ChartQaHorizontal,
            of_horizontal,
            files.clone(),
            horizontal,
        )?,
        LoadedSet::new(TestSet::ChartQaVertical, of_vertical, files, vertical)?,
    ])
}

/// The files that VTool-R1's training tables may be read from, best first: its dataset maker writes
/// `table_train.parquet`.
const TABLES: &[&str] = &[
    "table_train.parquet",
    "datasets/table_train.parquet",
    "table_train.jsonl",
    "datasets/table_train.jsonl",
];

/// Rows of `table_train.parquet`: 70 % of the 1,013 different questions of TableVQA-Bench.
const TABLE_ROWS: usize = 709;

/// Loads VTool-R1's training tables from the folder `data`: statements (VTabFact) and questions
/// (VWTQ, whose synthetic pictures it takes for the few questions that VWTQ lacks).
///
/// They are drawn from the very questions of the test sets: whoever trains on them leaves out what is
/// tested ([`LoadedSet::split_off`]).
///
/// # Errors
/// As [`super::load`].
pub fn load_training_tables(data: &Path) -> Result<[LoadedSet; 2], SourceError> {
    let files = first_present(data, "the training tables", TABLES)?;
    let (mut questions, mut statements) = (Vec::new(), Vec::new());
    for file in &files {
        let images = Finder::new(data, file)?;
        for row in records::read(file)? {
            // WikiTableQuestions names its questions nu-N, TabFact its statements by their page.
            let (set, rows) = match row.id(&["figure_id", "qa_id"])?.starts_with("nu-") {
                true => (TestSet::Vwtq, &mut questions),
                false => (TestSet::VTabFact, &mut statements),
            };
            rows.push(tables::training_entry(&row, set, &images)?);
        }
    }
    let files = below(data, &files);
    Ok([
        LoadedSet::new(TestSet::Vwtq, TABLE_ROWS, files.clone(), questions)?,
        LoadedSet::new(TestSet::VTabFact, TABLE_ROWS, files, statements)?,
    ])
}
