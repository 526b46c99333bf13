//! The six test sets: questions, sources, scorers, judge.

pub mod evaluation;
pub mod judge;
pub mod micro;
mod question;
pub mod scorers;
pub mod sources;

pub use question::{Question, TestSet, Verdict};
