//! How a judge's words are read.
//!
//! The prompts ask for nothing but a verdict: CharXiv's for one JSON object with two keys, those
//! of ReFocus and of VTool-R1's evaluation for 0 or 1. Models wrap it in thoughts, fences and
//! prose, and spell it otherwise. So a reply is searched for what has the form that was asked for:
//! everything that has it must say the same, and a value out of range (−1, 2, 0.5) makes the whole
//! reply no verdict. Deviation: the sources take a bare reply alone, or the first 0 or 1 in it.

use std::sync::LazyLock;

use chat_endpoint::without_thinking;
use regex::Regex;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use crate::Verdict;

/// A verdict is a few words; a longer reply is not searched.
const LONGEST: usize = 1 << 16;

/// A score that is named as one, up to its value.
static NAMED: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r#"(?i)\b(?:score|rating|verdict|grade|response)\b["'*_`]*\s*(?:is|was|=|:|of|should be|would be|will be)?\s*["'*_`]*([+\-−]?[0-9][0-9.,/]*|true|false|yes|no|correct|incorrect)\b"#,
    )
    .expect("the pattern is a literal of this file")
});

/// The verdict of a reply that was to be 0 or 1: the reply as a whole, or each line that is a
/// number alone and each value that is called a score, a rating, a grade, a verdict or a response.
pub(super) fn bit(reply: &str) -> Option<Verdict> {
    let text = spoken(reply)?;
    if let Some(verdict) = word(text) {
        return Some(verdict);
    }
    let lines = text
        .lines()
        .map(bare)
        .filter(|line| line.replace('−', "-").parse::<f64>().is_ok())
        .map(word);
    let named = NAMED
        .captures_iter(text)
        .filter_map(|found| found.get(1))
        .map(|value| word(value.as_str()));
    agreed(lines.chain(named))
}

/// The verdict of a reply that was to be an object with `extracted_answer` and `score`: every
/// object that has both keys counts.
pub(super) fn graded(reply: &str) -> Option<Verdict> {
    let text = spoken(reply)?;
    let mut verdicts = Vec::new();
    let mut from = 0;
    while let Some(start) = text[from..].find('{') {
        let start = from + start;
        from = start + 1;
        let mut objects = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Fields>();
        let Some(Ok(Fields(fields))) = objects.next() else {
            continue;
        };
        let has_answer = fields.iter().any(|(name, _)| name == "extracted_answer");
        let scores = fields.iter().filter(|(name, _)| name == "score");
        let before = verdicts.len();
        if has_answer {
            verdicts.extend(scores.map(|(_, value)| score(value)));
        }
        if verdicts.len() > before {
            from = start + objects.byte_offset();
        }
    }
    agreed(verdicts.into_iter())
}

/// A reply without its thoughts.
fn spoken(reply: &str) -> Option<&str> {
    (reply.len() <= LONGEST).then(|| bare(without_thinking(reply)))
}

/// A text without the marks that Markdown puts around it, and without a last full stop.
fn bare(text: &str) -> &str {
    let is_mark = |c: char| c.is_whitespace() || matches!(c, '`' | '*' | '_' | '"' | '\'' | '#');
    let text = text.trim_matches(is_mark);
    text.strip_suffix('.').unwrap_or(text)
}

/// What all verdicts say; `None` where there is none, one is unreadable, or two differ.
fn agreed(mut verdicts: impl Iterator<Item = Option<Verdict>>) -> Option<Verdict> {
    let first = verdicts.next()??;
    verdicts
        .all(|verdict| verdict == Some(first))
        .then_some(first)
}

/// A score in JSON.
fn score(value: &Value) -> Option<Verdict> {
    match value {
        Value::Number(number) => of_number(number.as_f64()?),
        Value::Bool(is_right) => Some(of_truth(*is_right)),
        Value::String(text) => word(text),
        _ => None,
    }
}

/// A score in words or digits.
fn word(text: &str) -> Option<Verdict> {
    let text = bare(text).to_lowercase();
    match text.as_str() {
        "true" | "yes" | "correct" | "right" => Some(Verdict::Right),
        "false" | "no" | "incorrect" | "wrong" => Some(Verdict::Wrong),
        number => of_number(number.parse().ok()?),
    }
}

fn of_number(number: f64) -> Option<Verdict> {
    match number {
        1.0 => Some(Verdict::Right),
        0.0 => Some(Verdict::Wrong),
        _ => None,
    }
}

fn of_truth(is_right: bool) -> Verdict {
    match is_right {
        true => Verdict::Right,
        false => Verdict::Wrong,
    }
}

/// The fields of an object in their order, a key that stands twice kept twice.
struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfObject;

        impl<'de> Visitor<'de> for OfObject {
            type Value = Fields;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(OfObject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT: Option<Verdict> = Some(Verdict::Right);
    const WRONG: Option<Verdict> = Some(Verdict::Wrong);

    #[test]
    fn an_object_is_found_wherever_it_stands() {
        for (reply, verdict) in [
            (r#"{"extracted_answer": "b", "score": 1}"#, RIGHT),
            (r#" {"score": 0, "extracted_answer": ""} "#, WRONG),
            (
                "```json\n{\"extracted_answer\": null, \"score\": 1.0}\n```",
                RIGHT,
            ),
            (
                "```\n{\"extracted_answer\": \"b\", \"score\": 0}\n```\nThat is all.",
                WRONG,
            ),
            (
                r#"Here it is: {"extracted_answer": "{b}", "score": 1}. Done."#,
                RIGHT,
            ),
            (
                r#"<think>{"extracted_answer": "5", "score": 0}</think>{"extracted_answer": "5", "score": 1}"#,
                RIGHT,
            ),
            (
                r#"<think>{"score": 0} at first sight</think> {"extracted_answer": "5", "score": 1}"#,
                RIGHT,
            ),
            (
                r#"{"extracted_answer": "5", "score": 0}</think>{"extracted_answer": "5", "score": 1}"#,
                RIGHT,
            ),
            (r#"[{"extracted_answer": "5", "score": "1"}]"#, RIGHT),
            (
                r#"{"result": {"extracted_answer": "5", "score": "0.0"}}"#,
                WRONG,
            ),
            (
                r#"{"extracted_answer": ["a"], "score": true, "why": {}}"#,
                RIGHT,
            ),
            (r#"{"extracted_answer": "5", "score": " Yes "}"#, RIGHT),
            (r#"{"extracted_answer": "5", "score": false}"#, WRONG),
            (
                r#"Set {a, b}: {"extracted_answer": "5", "score": 1e0}"#,
                RIGHT,
            ),
            (
                r#"{"extracted_answer": "5", "score": 1} {"extracted_answer": "5", "score": 1.0}"#,
                RIGHT,
            ),
            (
                r#"{"extracted_answer": "5", "score": 1}, or {"score": 0}"#,
                RIGHT,
            ),
            (
                r#"{"extracted_answer": "{\"extracted_answer\": \"x\", \"score\": 0}", "score": 1}"#,
                RIGHT,
            ),
        ] {
            assert_eq!(graded(reply), verdict, "{reply}");
        }
    }

    #[test]
    fn what_is_no_one_verdict_is_none() {
        for reply in [
            "",
            "1",
            "```",
            "{",
            r#"{"extract_answer": "b", "score": 1}"#,
            r#"{"extracted_answer": "b"}"#,
            r#"{"score": 1}"#,
            r#"{"extracted_answer": "b", "score": -1}"#,
            r#"{"extracted_answer": "b", "score": "-1"}"#,
            r#"{"extracted_answer": "b", "score": 2}"#,
            r#"{"extracted_answer": "b", "score": 0.5}"#,
            r#"{"extracted_answer": "b", "score": 10}"#,
            r#"{"extracted_answer": "b", "score": null}"#,
            r#"{"extracted_answer": "b", "score": [1]}"#,
            r#"{"extracted_answer": "b", "score": "maybe"}"#,
            r#"{"extracted_answer": "b", "score": "NaN"}"#,
            r#"{"extracted_answer": "b", "sco"#,
            r#"{"extracted_answer": "b", "score": 0, "score": 1}"#,
            r#"{"extracted_answer": "5", "score": 0}{"extracted_answer": "5", "score": 1}"#,
            r#"{"extracted_answer": "5", "score": 1} {"extracted_answer": "5", "score": -1}"#,
            r#"<think>{"extracted_answer": "5", "score": 1}"#,
            r#"<think>{"extracted_answer": "5", "score": 1}</think>"#,
        ] {
            assert_eq!(graded(reply), None, "{reply}");
        }
        // As long as no judge is, and as deep.
        assert_eq!(graded(&"{\"a\":".repeat(10_000)), None);
        assert_eq!(graded(&"{".repeat(1 << 20)), None);
    }

    #[test]
    fn a_bit_is_read_through_what_stands_around_it() {
        for (reply, verdict) in [
            ("1", RIGHT),
            (" 0\n", WRONG),
            ("+0", WRONG),
            ("1.0", RIGHT),
            ("1.", RIGHT),
            ("\"1\"", RIGHT),
            ("**0**", WRONG),
            ("```\n1\n```", RIGHT),
            ("True", RIGHT),
            ("no.", WRONG),
            ("<think>0, or 1?</think>1", RIGHT),
            ("0 it may be</think>\n\n1", RIGHT),
            (
                "The prediction names 3 bars, the gold answer 5.\n\n0",
                WRONG,
            ),
            ("Score: 1", RIGHT),
            ("# Your Response: 0", WRONG),
            ("The score is **1**, for 0.03 and 3 % are the same.", RIGHT),
            ("{\"score\": 1}", RIGHT),
            ("The rating should be 0.", WRONG),
            ("Verdict: correct", RIGHT),
            ("score=1\n1", RIGHT),
        ] {
            assert_eq!(bit(reply), verdict, "{reply:?}");
        }
        for reply in [
            "",
            "2",
            "-1",
            "−1",
            "10",
            "0.5",
            "nan",
            "Failed",
            "maybe",
            "Well, let me think.",
            "There is 1 bar too many.",
            "Return 1 if it is correct, otherwise 0.",
            "Score: -1",
            "Score: −1",
            "Score: 1/2",
            "Score: 10",
            "Score: 0.1",
            "Score: 1\nScore: 0",
            "score: 1\n\n0",
            "1\n0",
            "1\n2",
            "0 or 1",
            "<think>1",
            "<think>1</think>",
        ] {
            assert_eq!(bit(reply), None, "{reply:?}");
        }
    }
}
