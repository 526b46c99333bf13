//! Scorers: what the official program of each test set says of a prediction.
//!
//! | set | official rule | here |
//! |---|---|---|
//! | `vwtq`, `vwtq-syn` | WikiTableQuestions denotation match | [`denotation`] |
//! | `vtabfact` | substring true / false | [`tabfact`] |
//! | `chartqa-h-bar`, `chartqa-v-bar` | ChartQA relaxed match | [`relaxed`] |
//! | `charxiv` | a judge, by category | [`charxiv`] |
//! | `fintabnetqa` (extra) | values with units | [`fintabnet`] |
//!
//! [`refocus`], [`vtool_v1`] and [`vtool_v2`] hold the rules of the judges that the compared systems
//! use instead; [`answer`] cuts the final answer out of a completion as each of them does.
//! Everything here is a pure function; asking a judge is [`crate::judge`]'s business.

pub mod answer;
pub mod charxiv;
pub mod denotation;
pub mod fintabnet;
mod gold;
mod judged;
pub mod normalize;
mod official;
pub mod python;
pub mod refocus;
pub mod relaxed;
mod scored;
pub mod tabfact;
mod unicode;
pub mod vtool_v1;
pub mod vtool_v2;

#[cfg(test)]
mod tests;

use crate::TestSet;

pub use gold::{GoldError, gold};
pub use judged::JudgeSettings;
pub use official::{Crashes, score};
pub use scored::{Answer, Exception, Reason, Scored, ScoredSet};

/// The official rule of a set, in a word or two.
pub const fn official_rule(set: TestSet) -> &'static str {
    match set {
        TestSet::CharXiv => "a judge, by category",
        TestSet::ChartQaHorizontal | TestSet::ChartQaVertical => "ChartQA relaxed match",
        TestSet::Vwtq | TestSet::VwtqSyn => "WikiTableQuestions denotation match",
        TestSet::VTabFact => "substring true or false",
    }
}

/// The version of the rules, for records: it rises when a verdict can change.
pub const VERSION: u32 = 2;
