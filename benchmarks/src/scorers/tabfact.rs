//! VTabFact: whether the prediction says true or false.
//!
//! Source: `evaluate_tabfact` of TableVQA-Bench. Substrings in any case, so `untrue` counts as
//! true. Both words: the official score is null, which stays in the denominator. The gold label is
//! the number 1 or 0 (or a boolean); no other gold is ever right. Deviation: the texts `true` and
//! `false`, this crate's own notation of the label, are taken for 1 and 0.

use super::scored::{Answer, Exception, Reason, Scored};

/// The official verdict on one prediction.
pub fn score(gold: &Answer<'_>, prediction: &Answer<'_>) -> Scored {
    let prediction = match prediction {
        Answer::Text(text) => text,
        Answer::Null => "none",
        _ => return Scored::crash(Exception::AttributeError),
    };
    let says_true = contains(prediction, b"true");
    let says_false = contains(prediction, b"false");
    let reason = match (says_true, says_false, label(gold)) {
        (true, true, _) => Reason::BothLabels,
        (_, _, None) => Reason::GoldIsNoLabel,
        (false, false, _) => Reason::NoLabel,
        (true, false, Some(true)) | (false, true, Some(false)) => Reason::Equal,
        _ => Reason::Different,
    };
    reason.into()
}

fn label(gold: &Answer<'_>) -> Option<bool> {
    match gold {
        Answer::Bool(label) => Some(*label),
        Answer::Number(n) if n.as_f64() == Some(1.0) => Some(true),
        Answer::Number(n) if n.as_f64() == Some(0.0) => Some(false),
        Answer::Text(text) if text == "true" => Some(true),
        Answer::Text(text) if text == "false" => Some(false),
        _ => None,
    }
}

/// No other character lower-cases to a letter of the two words, so ASCII case is enough.
fn contains(text: &str, word: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let starts_at = |at: usize| {
        let found = bytes.get(at..at + word.len());
        found.is_some_and(|found| found.eq_ignore_ascii_case(word))
    };
    // A letter differs from its capital in this bit alone; most places fail here.
    (0..bytes.len()).any(|at| (bytes[at] | 0x20) == word[0] && starts_at(at))
}
