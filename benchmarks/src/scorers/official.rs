//! The official rule of each set, behind one check of what it is given.

use super::gold::{GoldError, gold};
use super::scored::{Answer, Reason, Scored, ScoredSet};
use super::{denotation, fintabnet, relaxed, tabfact};
use crate::TestSet;

/// What becomes of a row that the official program cannot read: a prediction that is a list, an
/// object, a number or a boolean; a gold at which it crashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Crashes {
    /// It is not judged: something between the model and the file went wrong.
    #[default]
    NotJudged,
    /// The official rule to the letter: it is wrong, and the exception is the reason.
    Wrong,
}

/// The official verdict on a prediction. CharXiv's is a judge's, so it is not judged here.
///
/// A null prediction is wrong: the model gave no answer. ChartQA's rule reads numbers, booleans and
/// lists beside texts; the others read texts alone.
///
/// # Errors
/// [`GoldError`] for a gold that no rule of the set can read.
pub fn score(
    set: ScoredSet,
    given_gold: &Answer<'_>,
    prediction: &Answer<'_>,
    crashes: Crashes,
) -> Result<Scored, GoldError> {
    let text = gold(set, given_gold)?;
    let gold = Answer::from(&*text);
    let charts = matches!(
        set,
        ScoredSet::Set(TestSet::ChartQaHorizontal | TestSet::ChartQaVertical)
    );
    if crashes == Crashes::NotJudged && set != ScoredSet::Set(TestSet::CharXiv) {
        match prediction {
            Answer::Text(_) => {}
            // VTabFact's rule has a verdict of its own on None.
            Answer::Null if set == ScoredSet::Set(TestSet::VTabFact) => {}
            Answer::Null => return Ok(Reason::NoPrediction.into()),
            _ if charts && relaxed::reads(prediction) => {}
            _ => return Ok(Reason::PredictionIsNoText.into()),
        }
    }
    Ok(match set {
        ScoredSet::Set(TestSet::CharXiv) => Reason::NeedsJudge.into(),
        ScoredSet::Set(TestSet::VTabFact) => tabfact::score(&gold, prediction),
        ScoredSet::Set(TestSet::Vwtq | TestSet::VwtqSyn) => {
            let scored = denotation::score(&gold, prediction);
            match scored.reason {
                Reason::Crash(_) if crashes == Crashes::NotJudged => denotation::check_gold(&text)
                    .map_or_else(
                        |exception| Reason::GoldCrashes(exception).into(),
                        |()| scored,
                    ),
                _ => scored,
            }
        }
        ScoredSet::Set(TestSet::ChartQaHorizontal | TestSet::ChartQaVertical) => {
            relaxed::score(&gold, prediction)
        }
        ScoredSet::FinTabNetQa => fintabnet::score(&gold, prediction),
    })
}
