//! What is scored and what comes of it: answers as they were given, verdicts with their reasons.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde_json::{Number, Value};

use crate::{TestSet, Verdict};

/// What can be scored: the six sets, and FinTabNetQA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScoredSet {
    /// One of the six.
    Set(TestSet),
    /// TableVQA-Bench FinTabNetQA (250), an extra.
    FinTabNetQa,
}

impl fmt::Display for ScoredSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScoredSet::Set(set) => set.fmt(f),
            ScoredSet::FinTabNetQa => f.write_str("fintabnetqa"),
        }
    }
}

impl FromStr for ScoredSet {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "fintabnetqa" => Ok(ScoredSet::FinTabNetQa),
            name => name
                .parse()
                .map(ScoredSet::Set)
                .map_err(|error| format!("{error}, fintabnetqa")),
        }
    }
}

/// A gold answer or a prediction, of the JSON type in which it was given.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer<'a> {
    /// A text.
    Text(Cow<'a, str>),
    /// A number.
    Number(Number),
    /// A boolean.
    Bool(bool),
    /// No answer.
    Null,
    /// A list.
    List(Vec<Answer<'a>>),
    /// An object, which no rule reads.
    Object,
}

impl<'a> From<&'a str> for Answer<'a> {
    fn from(text: &'a str) -> Self {
        Answer::Text(Cow::Borrowed(text))
    }
}

impl From<Value> for Answer<'_> {
    fn from(value: Value) -> Self {
        match value {
            Value::String(text) => Answer::Text(Cow::Owned(text)),
            Value::Number(number) => Answer::Number(number),
            Value::Bool(value) => Answer::Bool(value),
            Value::Null => Answer::Null,
            Value::Array(items) => Answer::List(items.into_iter().map(Answer::from).collect()),
            Value::Object(_) => Answer::Object,
        }
    }
}

/// An exception that escapes the official program, of the class that Python names so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exception {
    /// The value is not of the type that the program needs (a null, a number, a list).
    AttributeError,
    /// A number is infinite or not a number.
    AssertionError,
    /// An integer too large for a float is compared with a float.
    OverflowError,
}

/// Why a verdict is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Right: the answers are equal under the set's rule.
    Equal,
    /// Right: the numbers differ by at most 5 % of the gold value.
    WithinTolerance,
    /// Right: equal in one of the readings of a unit (FinTabNetQA; wrong in the strict reading).
    EqualUpToUnit,
    /// Wrong: the answers differ.
    Different,
    /// Wrong: the lists have different numbers of distinct items.
    DifferentCount,
    /// Wrong: the prediction says neither true nor false.
    NoLabel,
    /// Wrong: the gold is neither 1 nor 0, so the official rule accepts nothing.
    GoldIsNoLabel,
    /// Wrong: there is no prediction.
    NoPrediction,
    /// Wrong: the official program crashes at this prediction.
    Crash(Exception),
    /// Not judged: the official program crashes at this gold, whatever the prediction.
    GoldCrashes(Exception),
    /// Not judged: the prediction is a list, an object, a number or a boolean where the rule reads
    /// texts.
    PredictionIsNoText,
    /// Not judged: the row is a record of a question that was never answered.
    NotAnswered,
    /// Not judged: the prediction says both true and false. The official score is null and stays in
    /// the denominator.
    BothLabels,
    /// Not judged: the set's rule is a judge.
    NeedsJudge,
}

impl Reason {
    /// The name in files, for example `different_count` or `crash:AssertionError`.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Equal => "equal",
            Reason::WithinTolerance => "within_tolerance",
            Reason::EqualUpToUnit => "equal_up_to_unit",
            Reason::Different => "different",
            Reason::DifferentCount => "different_count",
            Reason::NoLabel => "no_label",
            Reason::GoldIsNoLabel => "gold_is_no_label",
            Reason::NoPrediction => "no_prediction",
            Reason::Crash(Exception::AttributeError) => "crash:AttributeError",
            Reason::Crash(Exception::AssertionError) => "crash:AssertionError",
            Reason::Crash(Exception::OverflowError) => "crash:OverflowError",
            Reason::GoldCrashes(Exception::AttributeError) => "gold_crashes:AttributeError",
            Reason::GoldCrashes(Exception::AssertionError) => "gold_crashes:AssertionError",
            Reason::GoldCrashes(Exception::OverflowError) => "gold_crashes:OverflowError",
            Reason::PredictionIsNoText => "prediction_is_no_text",
            Reason::NotAnswered => "not_answered",
            Reason::BothLabels => "both_labels",
            Reason::NeedsJudge => "needs_judge",
        }
    }

    fn verdict(self) -> Verdict {
        match self {
            Reason::Equal | Reason::WithinTolerance | Reason::EqualUpToUnit => Verdict::Right,
            Reason::GoldCrashes(_)
            | Reason::PredictionIsNoText
            | Reason::NotAnswered
            | Reason::BothLabels
            | Reason::NeedsJudge => Verdict::NotJudged,
            _ => Verdict::Wrong,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A verdict with its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scored {
    /// Right, wrong or not judged.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
}

impl Scored {
    pub(super) fn crash(exception: Exception) -> Self {
        Reason::Crash(exception).into()
    }

    /// Whether the accuracy counts the row in its denominator: every row with a verdict, and one
    /// whose official score is null.
    pub fn counts(self) -> bool {
        self.verdict != Verdict::NotJudged || self.reason == Reason::BothLabels
    }
}

impl From<Reason> for Scored {
    fn from(reason: Reason) -> Self {
        Scored {
            verdict: reason.verdict(),
            reason,
        }
    }
}
