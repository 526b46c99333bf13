//! The official rule of each set.

use super::scored::{Answer, Reason, Scored, ScoredSet};
use super::{denotation, fintabnet, relaxed, tabfact};
use crate::TestSet;

/// The official verdict on a prediction. CharXiv's is a judge's, so it is not judged here.
pub fn score(set: ScoredSet, gold: &Answer<'_>, prediction: &Answer<'_>) -> Scored {
    match set {
        ScoredSet::Set(TestSet::Vwtq | TestSet::VwtqSyn) => denotation::score(gold, prediction),
        ScoredSet::Set(TestSet::VTabFact) => tabfact::score(gold, prediction),
        ScoredSet::Set(TestSet::ChartQaHorizontal | TestSet::ChartQaVertical) => {
            relaxed::score(gold, prediction)
        }
        ScoredSet::Set(TestSet::CharXiv) => Reason::NeedsJudge.into(),
        ScoredSet::FinTabNetQa => fintabnet::score(gold, prediction),
    }
}
