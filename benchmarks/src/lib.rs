//! The six test sets: questions, sources, scorers, judge.

mod question;

pub use question::{Question, TestSet, Verdict};
