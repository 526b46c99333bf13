//! The six test sets: questions, sources, scorers, judge.

pub mod curriculum;
pub mod data;
pub mod evaluation;
mod foreign_json;
pub mod judge;
pub mod micro;
pub mod predictions;
mod question;
pub mod scorers;
pub mod sources;
mod suggestion;

pub use micro::Difficulty;
pub use question::{Question, TestSet, Verdict};
pub use suggestion::suggestion;
