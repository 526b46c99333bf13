//! The six test sets from a local folder (`--data DIR`).
//!
//! A folder may be laid out as the data sets are on the hub (ReFocus, VTool-R1, TableVQA-Bench,
//! CharXiv), or as the public part of this project's data: each set is read from the first file
//! of [`files_of`] that is there. A folder with [`OWN_QUESTIONS`] holds questions of one's own instead,
//! each scored by the rule of the set that it names. Parquet files and image archives need the feature `hub`.
//! Beside the sets: the training questions of ReFocus and VTool-R1 ([`load_training`],
//! [`load_training_tables`]), VTool-R1's own prompt ([`vtool_r1_tools`]), and checkpoints by name
//! ([`checkpoint::resolve`]).

mod boxes;
mod charts;
mod charxiv;
pub mod checkpoint;
mod error;
mod files;
mod images;
mod own;
mod prompt;
mod records;
mod row;
mod set;
mod tables;
mod training;

#[cfg(feature = "hub")]
mod archive;
#[cfg(feature = "hub")]
mod parquet;
#[cfg(feature = "hub")]
mod published;

use std::path::{Path, PathBuf};

pub use charxiv::{bare_question, response_prompt};
pub use error::{Place, RecordName, SourceError};
pub use own::OWN_QUESTIONS;
pub use prompt::{VTOOL_R1_TEMPLATE, vtool_r1_tools};
pub use set::{Listing, LoadReport, LoadedSet};
pub use training::{TrainingSplit, load_training, load_training_tables};

use crate::TestSet;
use charts::Chart;
use files::{below, first_present};
use images::Finder;

/// The files that a set may be read from, best first, relative to the data folder. The last part
/// may end in `-*.parquet`, which stands for all shards together.
fn files_of(set: TestSet) -> &'static [&'static str] {
    match set {
        TestSet::CharXiv => &[
            "reasoning_val.json",
            "data/reasoning_val.json",
            "charxiv/reasoning_val.json",
            "charxiv/data/reasoning_val.json",
            "charxiv/reasoning_val.jsonl",
            "charxiv-subfigures.json",
            "data/charxiv-subfigures.json",
        ],
        TestSet::ChartQaHorizontal => &[
            "chartQA_h_bar_wbb.json",
            "data/chartQA_h_bar_wbb.json",
            "chartqa/refocus_chartqa_test.jsonl",
            "chartqa_vcot/test.jsonl",
            "train_raw_data/chartqa_vcot/test.jsonl",
            "test.parquet",
            "test_full.parquet",
            "data/test-*.parquet",
        ],
        TestSet::ChartQaVertical => &[
            "chartQA_v_bar_wbb.json",
            "data/chartQA_v_bar_wbb.json",
            "chartqa/refocus_chartqa_test.jsonl",
            "chartqa_vcot/test.jsonl",
            "train_raw_data/chartqa_vcot/test.jsonl",
            "test.parquet",
            "test_full.parquet",
            "data/test-*.parquet",
        ],
        TestSet::Vwtq => &[
            "tablevqa_wbb.json",
            "data/tablevqa_wbb.json",
            "tables/vwtq.jsonl",
            "data/vwtq-*.parquet",
        ],
        // The ReFocus scripts read `table-…`, their producer writes `tablevqa-…`.
        TestSet::VwtqSyn => &[
            "tablevqa-vwtq_syn_wbb.json",
            "data/tablevqa-vwtq_syn_wbb.json",
            "table-vwtq_syn_wbb.json",
            "data/table-vwtq_syn_wbb.json",
            "tables/vwtq_syn.jsonl",
            "data/vwtq_syn-*.parquet",
        ],
        TestSet::VTabFact => &[
            "tablevqa-vtabfact_wbb.json",
            "data/tablevqa-vtabfact_wbb.json",
            "tables/vtabfact.jsonl",
            "data/vtabfact-*.parquet",
        ],
    }
}

/// The public data sets and repositories that [`download`] brings a set from.
pub const fn published_in(set: TestSet) -> &'static str {
    match set {
        TestSet::CharXiv => "princeton-nlp/CharXiv",
        TestSet::ChartQaHorizontal | TestSet::ChartQaVertical => "ReFocus/ReFocus_Data",
        TestSet::Vwtq | TestSet::VwtqSyn | TestSet::VTabFact => {
            "ReFocus/ReFocus_Data, terryoo/TableVQA-Bench"
        }
    }
}

/// Loads `set` from the folder `data`: every record is read and checked, images are found and
/// measured but not decoded.
///
/// # Errors
/// [`SourceError`] with file, line, field, what was expected and what was found. A row whose
/// image is not there is no error: it is counted in [`LoadReport::without_image`]; nor is one whose
/// image is broken: [`LoadedSet::question`] tells.
pub fn load(data: &Path, set: TestSet) -> Result<LoadedSet, SourceError> {
    let own = own_file(data);
    let files = match &own {
        Some(file) => vec![file.clone()],
        None => first_present(data, set.name(), files_of(set))?,
    };
    let mut entries = Vec::new();
    for file in &files {
        let images = Finder::new(data, file)?;
        for row in records::read(file)? {
            if own.is_some() {
                if own::scored_as(&row)? == set {
                    entries.push(own::entry(&row, &images)?);
                }
                continue;
            }
            match set {
                TestSet::CharXiv => entries.push(charxiv::entry(&row, &images)?),
                TestSet::ChartQaHorizontal | TestSet::ChartQaVertical => {
                    let chart = Chart::of(&row)?;
                    // Rows of dialect A do not say which bars they show: the file's name does.
                    if chart.bars.unwrap_or(set) == set {
                        entries.push(chart.entry(&images)?);
                    }
                }
                TestSet::Vwtq | TestSet::VwtqSyn | TestSet::VTabFact => {
                    entries.push(tables::entry(&row, set, &images)?);
                }
            }
        }
    }
    let size = match own {
        Some(_) if entries.is_empty() => {
            return Err(SourceError::NoData {
                what: set.name().to_owned(),
                folder: data.to_owned(),
                looked_for: vec![format!("\"set\": \"{set}\" in {OWN_QUESTIONS}")],
            });
        }
        Some(_) => entries.len(),
        None => set.published_size(),
    };
    let files = below(data, &files);
    LoadedSet::new(set, size, files, entries)
}

/// The file of a folder with questions of one's own.
fn own_file(data: &Path) -> Option<PathBuf> {
    let file = data.join(OWN_QUESTIONS);
    file.is_file().then_some(file)
}

/// The sets whose rules the folder's own questions name, in the order of the table; none where it holds
/// no such file.
///
/// # Errors
/// A line that is no object or names no set.
pub fn own_sets(data: &Path) -> Result<Vec<TestSet>, SourceError> {
    let Some(file) = own_file(data) else {
        return Ok(Vec::new());
    };
    let mut sets = records::read(&file)?
        .iter()
        .map(own::scored_as)
        .collect::<Result<Vec<_>, _>>()?;
    sets.sort_unstable();
    sets.dedup();
    Ok(sets)
}

/// Brings the files of `set` from the hub into `folder`, for [`load`]; a folder that is complete
/// is only checked.
///
/// # Errors
/// [`SourceError::NeedsHub`] without the feature `hub`. [`SourceError::Download`]: a host cannot be
/// reached or lacks a file, a file is not what the host or the lock file says it is, or the disk
/// fails.
pub fn download(set: TestSet, folder: &Path) -> Result<(), SourceError> {
    #[cfg(feature = "hub")]
    return published::download(set, folder, &published::HOSTS).map_err(SourceError::Download);
    #[cfg(not(feature = "hub"))]
    Err(needs_hub(folder.join(set.name())))
}

/// Brings the training questions from the hub into `folder`, for [`load_training`].
///
/// # Errors
/// As [`download`].
pub fn download_training(folder: &Path) -> Result<(), SourceError> {
    #[cfg(feature = "hub")]
    return published::download_training(folder, &published::HOSTS).map_err(SourceError::Download);
    #[cfg(not(feature = "hub"))]
    Err(needs_hub(folder.to_owned()))
}

/// Brings VTool-R1's template from GitHub into `folder`, for [`vtool_r1_tools`].
///
/// # Errors
/// As [`download`].
pub fn download_prompt(folder: &Path) -> Result<(), SourceError> {
    #[cfg(feature = "hub")]
    return published::download_prompt(folder, &published::HOSTS).map_err(SourceError::Download);
    #[cfg(not(feature = "hub"))]
    Err(needs_hub(folder.join(VTOOL_R1_TEMPLATE)))
}

#[cfg(not(feature = "hub"))]
fn needs_hub(file: PathBuf) -> SourceError {
    SourceError::NeedsHub {
        file,
        use_of: "downloads",
    }
}
