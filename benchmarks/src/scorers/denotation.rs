//! WikiTableQuestions' denotation match (VWTQ, VWTQ-Syn).
//!
//! Source: `evaluate_wtq` of TableVQA-Bench (from allenai/allennlp-semparse). Gold and prediction
//! are lists of values, made sets: right when the sets have one size and every gold value
//! matches some predicted value. Values match when their normalised texts are equal, both are
//! numbers less than 10⁻⁶ apart, or both are the same date. Where the official program crashes, the
//! prediction is wrong and the exception is the reason. Deviation: sets are walked in the order
//! of the lists (in CPython the order follows the hashes), which decides only whether a crash on
//! an integer beyond the floats is reached before a mismatch or a match.

use std::collections::HashSet;

use super::normalize::normalize;
use super::python::{Integer, lower, parse_float, parse_int};
use super::scored::{Answer, Exception, Reason, Scored};

/// The official verdict on one prediction.
pub fn score(gold: &Answer<'_>, prediction: &Answer<'_>) -> Scored {
    let (Answer::Text(gold), Answer::Text(prediction)) = (gold, prediction) else {
        return Scored::crash(Exception::AttributeError);
    };
    match decide(gold, prediction) {
        Ok(reason) => reason.into(),
        Err(exception) => Scored::crash(exception),
    }
}

/// Whether the official program can read a gold at all.
///
/// # Errors
/// The exception that escapes it, whatever the prediction.
pub(super) fn check_gold(gold: &str) -> Result<(), Exception> {
    distinct(gold).map(|_| ())
}

fn decide(gold: &str, prediction: &str) -> Result<Reason, Exception> {
    let gold = distinct(gold)?;
    let prediction = distinct(&prediction.replace("||", "|"))?;
    if gold.len() != prediction.len() {
        return Ok(Reason::DifferentCount);
    }
    for value in &gold {
        let mut matched = false;
        for candidate in &prediction {
            if value.matches(candidate)? {
                matched = true;
                break;
            }
        }
        if !matched {
            return Ok(Reason::Different);
        }
    }
    Ok(Reason::Equal)
}

/// The values of a list in TSV escapes; the first spelling of equal values stays.
fn distinct(list: &str) -> Result<Vec<Value>, Exception> {
    let values: Vec<Value> = list
        .split('|')
        .map(Value::parse)
        .collect::<Result<_, _>>()?;
    if values.len() == 1 {
        return Ok(values);
    }
    let mut seen = HashSet::new();
    Ok(values
        .into_iter()
        .filter(|value| seen.insert(value.key()))
        .collect())
}

/// Three replacements in sequence, as the source does: `\\n` becomes a backslash and a line feed.
fn unescape(item: &str) -> String {
    item.replace("\\n", "\n")
        .replace("\\p", "|")
        .replace("\\\\", "\\")
}

#[derive(Clone, Debug, PartialEq)]
struct Value {
    normalized: String,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Text,
    Integer(Integer),
    /// At least 10⁻⁶ from every integer.
    Real(f64),
    Date(Date),
}

/// A date; −1 (or no year) where a part is unknown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Date {
    year: Option<Integer>,
    month: i64,
    day: i64,
}

#[derive(PartialEq, Eq, Hash)]
enum Key {
    Text(String),
    Integer(Integer),
    Real(u64),
    Date(Date),
}

impl Value {
    fn parse(item: &str) -> Result<Self, Exception> {
        let unescaped;
        let text = if item.contains('\\') {
            unescaped = unescape(item);
            &unescaped
        } else {
            item
        };
        let kind = match parse_number(text)? {
            Some(number) => number,
            None => match Date::parse(text) {
                Some(Date {
                    year: Some(year),
                    month: -1,
                    day: -1,
                }) => Kind::Integer(year),
                Some(date) => Kind::Date(date),
                None => Kind::Text,
            },
        };
        Ok(Value {
            normalized: normalize(text),
            kind,
        })
    }

    fn key(&self) -> Key {
        match &self.kind {
            Kind::Text => Key::Text(self.normalized.clone()),
            Kind::Integer(n) => Key::Integer(n.clone()),
            Kind::Real(x) => Key::Real(x.to_bits()),
            Kind::Date(date) => Key::Date(date.clone()),
        }
    }

    fn matches(&self, other: &Value) -> Result<bool, Exception> {
        if self.normalized == other.normalized {
            return Ok(true);
        }
        match (&self.kind, &other.kind) {
            (Kind::Integer(a), Kind::Integer(b)) => Ok(a == b),
            (Kind::Real(a), Kind::Real(b)) => Ok((a - b).abs() < 1e-6),
            (Kind::Integer(n), Kind::Real(x)) | (Kind::Real(x), Kind::Integer(n)) => {
                let n = n.to_float().ok_or(Exception::OverflowError)?;
                Ok((n - x).abs() < 1e-6)
            }
            (Kind::Date(a), Kind::Date(b)) => Ok(a == b),
            _ => Ok(false),
        }
    }
}

/// `int`, else `float`. A float within 10⁻⁶ of an integer is truncated, not rounded.
fn parse_number(text: &str) -> Result<Option<Kind>, Exception> {
    if let Some(n) = parse_int(text) {
        return Ok(Some(Kind::Integer(n)));
    }
    let Some(x) = parse_float(text) else {
        return Ok(None);
    };
    if !x.is_finite() {
        return Err(Exception::AssertionError);
    }
    Ok(Some(if (x - x.round_ties_even()).abs() < 1e-6 {
        Kind::Integer(Integer::truncated(x))
    } else {
        Kind::Real(x)
    }))
}

impl Date {
    /// `year-month-day` with `xx` for what is unknown; no calendar.
    fn parse(text: &str) -> Option<Self> {
        if text.bytes().filter(|&byte| byte == b'-').count() != 2 {
            return None;
        }
        let text = lower(text);
        let mut parts = text.split('-');
        let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
        let year = match year {
            "xx" | "xxxx" => None,
            year => Some(parse_int(year)?),
        };
        let part = |text: &str, most: i64| match text {
            "xx" => Some(-1),
            text => parse_int(text)?.small().filter(|n| (1..=most).contains(n)),
        };
        let (month, day) = (part(month, 12)?, part(day, 31)?);
        let known = year.is_some() || month != -1 || day != -1;
        known.then_some(Date { year, month, day })
    }
}
