//! Gold answers, however a data set or a predictions file writes them, in their set's own notation.
//!
//! | set | notation |
//! |---|---|
//! | `vwtq`, `vwtq-syn` | the items between `\|`, escaped as in WikiTableQuestions |
//! | `vtabfact` | `true` or `false`, from 1 and 0, booleans, or the words in any case |
//! | `chartqa-h-bar`, `chartqa-v-bar` | the items between `\|\|\|` |
//! | `charxiv`, `fintabnetqa` | one text |
//!
//! What no rule can read (null, an object, another label) is an error: a question without a gold has
//! no verdict.

use std::borrow::Cow;
use std::fmt;

use serde_json::Value;

use super::scored::{Answer, ScoredSet};
use crate::TestSet;

/// Most items of a list: matching compares every item with every other.
const MAX_ITEMS: usize = 256;

/// A gold that no rule of its set can read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the gold must be {expected}, found {found}")]
pub struct GoldError {
    /// What the set's rule reads.
    pub expected: &'static str,
    /// What stands there.
    pub found: String,
}

/// The gold in the notation of `set`.
///
/// # Errors
/// [`GoldError`] with what was expected and what was found.
pub fn gold<'a>(set: ScoredSet, given: &'a Answer<'_>) -> Result<Cow<'a, str>, GoldError> {
    let refused = |expected| GoldError {
        expected,
        found: found(given),
    };
    let separator = match set {
        ScoredSet::Set(TestSet::VTabFact) => {
            return label(given)
                .map(Cow::Borrowed)
                .ok_or_else(|| refused(LABEL));
        }
        ScoredSet::Set(TestSet::CharXiv) | ScoredSet::FinTabNetQa => {
            let one = scalar(given).filter(|_| !matches!(given, Answer::List(_)));
            return one.ok_or_else(|| refused("one text or number"));
        }
        ScoredSet::Set(TestSet::Vwtq | TestSet::VwtqSyn) => "|",
        ScoredSet::Set(TestSet::ChartQaHorizontal | TestSet::ChartQaVertical) => "|||",
    };
    let text = match given {
        Answer::List(items) if !items.is_empty() => {
            let items: Option<Vec<Cow<'_, str>>> = items.iter().map(scalar).collect();
            let items = items.ok_or_else(|| refused(ITEMS))?;
            let escaped: Vec<Cow<'_, str>> = match separator {
                "|" => items.into_iter().map(escape).collect(),
                _ => items,
            };
            Cow::Owned(escaped.join(separator))
        }
        Answer::List(_) => return Err(refused(ITEMS)),
        other => scalar(other).ok_or_else(|| refused(ITEMS))?,
    };
    match text.matches(separator).count() < MAX_ITEMS {
        true => Ok(text),
        false => Err(refused("a list of at most 256 items")),
    }
}

const LABEL: &str = "0, 1, true or false";
const ITEMS: &str = "a text, a number or a list of them";

/// A label of VTabFact.
fn label(given: &Answer<'_>) -> Option<&'static str> {
    let truth = match given {
        Answer::Bool(truth) => *truth,
        Answer::Number(number) if number.as_f64() == Some(1.0) => true,
        Answer::Number(number) if number.as_f64() == Some(0.0) => false,
        Answer::Text(text) => match text.trim().to_lowercase().as_str() {
            "1" | "true" => true,
            "0" | "false" => false,
            _ => return None,
        },
        Answer::List(items) => match items.as_slice() {
            [Answer::List(_)] => return None,
            [one] => return label(one),
            _ => return None,
        },
        _ => return None,
    };
    Some(if truth { "true" } else { "false" })
}

/// A value that is no list as text, a boolean as Python writes it.
fn scalar<'a>(given: &'a Answer<'_>) -> Option<Cow<'a, str>> {
    match given {
        Answer::Text(text) => Some(Cow::Borrowed(text)),
        Answer::Number(number) => Some(Cow::Owned(number.to_string())),
        Answer::Bool(truth) => Some(Cow::Borrowed(if *truth { "True" } else { "False" })),
        Answer::Null | Answer::List(_) | Answer::Object => None,
    }
}

/// The escapes of WikiTableQuestions, which its rule undoes.
fn escape(item: Cow<'_, str>) -> Cow<'_, str> {
    match item.contains(['\\', '|', '\n']) {
        false => item,
        true => Cow::Owned(
            item.replace('\\', "\\\\")
                .replace('|', "\\p")
                .replace('\n', "\\n"),
        ),
    }
}

/// A value in an error: its kind and how it begins.
fn found(given: &Answer<'_>) -> String {
    let (kind, text) = match given {
        Answer::Null => return "null".to_owned(),
        Answer::Object => return "an object".to_owned(),
        Answer::List(items) => return format!("a list of {} items", items.len()),
        Answer::Bool(truth) => ("the boolean", truth.to_string()),
        Answer::Number(number) => ("the number", number.to_string()),
        Answer::Text(text) => ("the text", Value::from(&**text).to_string()),
    };
    let short: String = text.chars().take(60).collect();
    let more = if short.len() < text.len() { "…" } else { "" };
    format!("{kind} {short}{more}")
}

impl fmt::Display for Answer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&found(self))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(set: &str, given: Value) -> Result<String, String> {
        let answer = Answer::from(given);
        gold(set.parse().unwrap(), &answer)
            .map(Cow::into_owned)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn labels_are_read_however_they_are_written() {
        let written = [json!(1), json!(1.0), json!(true), json!("1"), json!("true")];
        let more = [json!(" True "), json!("TRUE"), json!(["true"]), json!([1])];
        for given in written.into_iter().chain(more) {
            assert_eq!(read("vtabfact", given.clone()).unwrap(), "true", "{given}");
        }
        for given in [
            json!(0),
            json!(false),
            json!("0"),
            json!("False"),
            json!(-0.0),
        ] {
            assert_eq!(read("vtabfact", given.clone()).unwrap(), "false", "{given}");
        }
        let strange = [
            json!(2),
            json!(-1),
            json!(0.5),
            json!("yes"),
            json!("entailed"),
        ];
        let more = [
            json!(""),
            json!(null),
            json!({}),
            json!([]),
            json!([1, 1]),
            json!([[1]]),
        ];
        for given in strange.into_iter().chain(more) {
            let error = read("vtabfact", given.clone()).unwrap_err();
            assert!(
                error.starts_with("the gold must be 0, 1, true or false, found "),
                "{error}"
            );
        }
    }

    #[test]
    fn lists_take_the_notation_of_their_set() {
        let list = json!(["a|b", "c\\d\ne", 5, 1.5, true]);
        assert_eq!(
            read("vwtq", list.clone()).unwrap(),
            r"a\pb|c\\d\ne|5|1.5|True"
        );
        assert_eq!(
            read("chartqa-v-bar", list).unwrap(),
            "a|b|||c\\d\ne|||5|||1.5|||True"
        );
        assert_eq!(read("vwtq-syn", json!("a|b")).unwrap(), "a|b");
        assert_eq!(read("chartqa-h-bar", json!(3)).unwrap(), "3");
        for set in ["vwtq", "chartqa-h-bar", "charxiv", "fintabnetqa"] {
            for given in [
                json!(null),
                json!({"a": 1}),
                json!([]),
                json!([null]),
                json!([["a"]]),
            ] {
                assert!(read(set, given.clone()).is_err(), "{set} {given}");
            }
        }
        assert_eq!(
            read("charxiv", json!(["a"])).unwrap_err(),
            "the gold must be one text or number, found a list of 1 items"
        );
    }

    #[test]
    fn a_list_that_would_take_quadratic_time_is_refused() {
        let long = |items: usize| json!(vec!["x"; items].join("|||"));
        assert!(read("chartqa-v-bar", long(256)).is_ok());
        let error = read("chartqa-v-bar", long(100_000)).unwrap_err();
        assert!(
            error.contains("at most 256 items, found the text"),
            "{error}"
        );
        assert!(error.len() < 200);
        assert!(read("vwtq", json!(vec![1; 257])).is_err());
    }
}
