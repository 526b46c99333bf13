//! FinTabNetQA, an extra beside the six sets: values with units.
//!
//! Source: `evaluate_fintabnet` of TableVQA-Bench. After [`normalize`], `$(),` and unit words go;
//! then `thousand`, `million`, `billion` and `%` become exponents in one reading and nothing in the
//! other. If both readings are Python floats they are numbers, else both stay texts. Relieved (the
//! score): any reading of the prediction equals any of the gold. Strict: the first readings are
//! equal. Deviation: none.

use super::normalize::normalize;
use super::python::{is_word, parse_float};
use super::scored::{Answer, Exception, Reason, Scored};

/// In the order of the source, which tries them so.
const UNITS: [&str; 14] = [
    "dollar",
    "gallons",
    "square feet",
    "shares",
    "mbtu",
    "mbpd",
    "mbbls",
    "mmbtu",
    "unit",
    "gwh",
    "year",
    "mmcf",
    "mile",
    "mboe",
];

const SCALES: [(&str, &str); 3] = [("thousand", "e3"), ("million", "e6"), ("billion", "e9")];

/// The official relieved verdict; [`Reason::Equal`] says that it is right in the strict reading
/// too.
pub fn score(gold: &Answer<'_>, prediction: &Answer<'_>) -> Scored {
    let (Answer::Text(gold), Answer::Text(prediction)) = (gold, prediction) else {
        return Scored::crash(Exception::AttributeError);
    };
    let (gold, prediction) = (Readings::of(gold), Readings::of(prediction));
    let relieved = prediction.all().any(|p| gold.all().any(|g| p == g));
    let reason = if prediction.with_unit == gold.with_unit {
        Reason::Equal
    } else if relieved {
        Reason::EqualUpToUnit
    } else {
        Reason::Different
    };
    reason.into()
}

#[derive(Debug, PartialEq)]
enum Reading {
    Number(f64),
    Text(String),
}

/// What a text can mean.
struct Readings {
    with_unit: Reading,
    /// `None` where it is the same, as for nearly every text.
    without_unit: Option<Reading>,
}

impl Readings {
    fn of(text: &str) -> Self {
        let mut text = normalize(text);
        text.retain(|c| !matches!(c, '$' | '(' | ')' | ','));
        let text = without_units(text);
        // Only these change anything below; `illion` stands for two of the words.
        let scaled = text.contains("illion") || text.contains("thousand");
        if !scaled && !text.contains('%') {
            return Readings {
                with_unit: match parse_float(&text) {
                    Some(number) => Reading::Number(number),
                    None => Reading::Text(text),
                },
                without_unit: None,
            };
        }
        let (mut with, mut without) = (text.clone(), text);
        let spaced = SCALES.map(|(word, exponent)| (format!(" {word}"), exponent));
        let bare = SCALES.map(|(word, exponent)| (word.to_owned(), exponent));
        for (word, exponent) in spaced.into_iter().chain(bare) {
            with = replace_word(&with, &word, exponent);
            without = replace_word(&without, &word, "");
        }
        let with = with.replace(" %", "e-2").replace('%', "e-2");
        let without = without.replace(" %", "").replace('%', "");
        let (with_unit, without_unit) = match (parse_float(&with), parse_float(&without)) {
            (Some(with), Some(without)) => (Reading::Number(with), Reading::Number(without)),
            _ => (Reading::Text(with), Reading::Text(without)),
        };
        Readings {
            with_unit,
            without_unit: Some(without_unit),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Reading> {
        std::iter::once(&self.with_unit).chain(&self.without_unit)
    }
}

fn ends_word(text: &str) -> bool {
    !text.starts_with(is_word)
}

/// Replaces `word` where word boundaries stand around its letters; a space may lead it.
fn replace_word(text: &str, word: &str, by: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for (at, _) in text.match_indices(word) {
        let starts = word.starts_with(' ') || !text[..at].ends_with(is_word);
        if starts && ends_word(&text[at + word.len()..]) {
            out += &text[from..at];
            out += by;
            from = at + word.len();
        }
    }
    out + &text[from..]
}

/// Removes whole unit words, in the singular or with an `s`.
fn without_units(text: String) -> String {
    let mut out = String::new();
    // What stands before this is in `out`; a text without units is never copied.
    let mut copied = 0;
    let mut at = 0;
    let mut after_word = false;
    while let Some(c) = text[at..].chars().next() {
        let unit = if after_word {
            None
        } else {
            let rest = &text[at..];
            UNITS.iter().find_map(|unit| unit_length(rest, unit))
        };
        if let Some(length) = unit {
            out += &text[copied..at];
            copied = at + length;
        }
        // A unit ends in a letter, so what follows stands after a word.
        after_word = unit.is_some() || is_word(c);
        at += unit.unwrap_or(c.len_utf8());
    }
    if copied == 0 {
        return text;
    }
    out + &text[copied..]
}

/// Length of the unit word that `text` starts with, if a word ends there.
fn unit_length(text: &str, unit: &str) -> Option<usize> {
    let mut rest = text;
    for letter in unit.chars() {
        let c = rest.chars().next()?;
        // Python folds the dotless i onto i when it ignores case.
        if c != letter && !(letter == 'i' && c == 'ı') {
            return None;
        }
        rest = &rest[c.len_utf8()..];
    }
    let plural = rest.strip_prefix('s').filter(|rest| ends_word(rest));
    let rest = plural.or_else(|| ends_word(rest).then_some(rest))?;
    Some(text.len() - rest.len())
}
