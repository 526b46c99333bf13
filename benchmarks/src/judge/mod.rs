//! Judges: a model that says whether a free-form answer means the gold answer.
//!
//! A judge has three answers. Whatever keeps it from a verdict (the network, a reply that
//! cannot be read) is [`Verdict::NotJudged`], never wrong; the caller decides above which share
//! of those a cell of a table is invalid ([`not_judged_share`]).

mod endpoint;
mod reply;
mod rubric;
mod verifier;

use crate::{TestSet, Verdict};

pub use endpoint::{EndpointJudge, JudgeError};
pub use rubric::Rubric;
pub use verifier::EndpointVerifier;

/// One answer to be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case<'a> {
    /// The set the question belongs to.
    pub set: TestSet,
    /// The bare question, without answering instructions.
    pub question: &'a str,
    /// The gold answer in the set's notation (see [`crate::Question::gold`]).
    pub gold: &'a str,
    /// The model's answer, as its official extraction left it.
    pub prediction: &'a str,
    /// CharXiv's `inst_category`, 1 to 4; needed by [`Rubric::CharXiv`] alone.
    pub category: Option<u8>,
}

/// What a judge said of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Right, wrong, or not judged.
    pub verdict: Verdict,
    /// The judge's own words when there is a verdict, else why there is none.
    pub reason: String,
}

/// Something that judges answers.
pub trait Judge {
    /// The rubric by which a question of `set` is judged: that of the set's authors, unless the
    /// judge was told otherwise.
    fn rubric(&self, set: TestSet) -> Rubric {
        Rubric::of_set(set)
    }

    /// A judgement for each case, in order. A case that cannot be judged is
    /// [`Verdict::NotJudged`] in its place.
    ///
    /// # Errors
    /// Only what makes every further case fail too (a refused key, a cache that cannot be
    /// written). What was judged before is in the cache, so a repeated call resumes.
    fn judge(&self, cases: &[Case<'_>]) -> Result<Vec<Judgement>, JudgeError>;
}

/// Share of judgements without a verdict, 0 for none at all.
pub fn not_judged_share(judgements: &[Judgement]) -> f64 {
    if judgements.is_empty() {
        return 0.0;
    }
    let open = judgements
        .iter()
        .filter(|judgement| judgement.verdict == Verdict::NotJudged)
        .count();
    open as f64 / judgements.len() as f64
}
