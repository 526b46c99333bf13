//! Whole files of predictions: a row in, the row with `score` and `reason` out, then a summary.
//!
//! Input: JSONL with `gt` and `pred` (and `question`, `category` for judges); also the official
//! files of TableVQA-Bench (a JSON list, or an object with `instances`) and of CharXiv (an object of
//! rows by figure). `score` is 1, 0, or null when not judged; ChartQA's rule adds
//! `score_years_exact`, where a year must be met exactly. All input fields are kept; an
//! input's own `score` and `reason` become `given_score` and `given_reason`. A byte order mark before
//! the first row is passed over. JSONL is read in blocks whose rows are scored in parallel, so memory
//! does not grow with the file.

mod error;
mod files;
mod row;
mod score;
mod summary;

#[cfg(test)]
mod tests;

pub use error::PredictionsError;
pub use score::{Scorer, score_file, score_rows};
pub use summary::ScoreSummary;
