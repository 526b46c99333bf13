//! One row of a predictions file, read without copying what needs no copy.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::scorers::Answer;

/// The fields that scoring reads. A field stands under its own name or under the one that the
/// official files give it; its own name wins.
#[derive(Debug, Default)]
pub(super) struct Row<'a> {
    /// `gt`, else `answer` (CharXiv).
    pub gold: Option<Answer<'a>>,
    /// `pred`, else `prediction` (our records), else `response` (CharXiv).
    pub prediction: Option<Answer<'a>>,
    /// `question`, else `raw_question` (CharXiv).
    pub question: Option<Answer<'a>>,
    /// `set`: which set the row says that it belongs to.
    pub set: Option<Answer<'a>>,
    /// `category`, else `inst_category` (CharXiv).
    pub category: Option<Answer<'a>>,
    /// `score` of an official file.
    pub score: Option<Answer<'a>>,
    /// Whether the row is a record of `iapo eval-all` without an answer: an error kept it from one, so
    /// its empty prediction is nobody's.
    pub unanswered: bool,
    /// Whether CharXiv's `extracted_answer` is there: the row has been graded.
    pub graded: bool,
    /// Where the row's own `score`, `score_years_exact` and `reason` stand in its text: the keys, in
    /// order.
    pub own: Vec<&'a str>,
    /// Whether one of those keys is written with escapes, and therefore not in `own`.
    pub escaped_own: bool,
}

impl<'de: 'a, 'a> Deserialize<'de> for Row<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RowVisitor)
    }
}

/// Keys are nearly always free of escapes, and then borrowed.
struct FieldName<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for FieldName<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = FieldName<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field name")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(FieldName(Cow::Borrowed(text)))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(FieldName(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

/// Whether a field is one that scoring adds.
pub(super) fn is_ours(name: &str) -> bool {
    matches!(name, "score" | "score_years_exact" | "reason")
}

struct RowVisitor;

impl<'de> Visitor<'de> for RowVisitor {
    type Value = Row<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with the fields `gt` and `pred`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut row = Row::default();
        let (mut answer, mut prediction, mut response) = (None, None, None);
        let (mut raw_question, mut inst_category) = (None, None);
        let mut verdict: Option<Answer<'_>> = None;
        while let Some(FieldName(name)) = map.next_key()? {
            if is_ours(&name) {
                match &name {
                    Cow::Borrowed(key) => row.own.push(*key),
                    Cow::Owned(_) => row.escaped_own = true,
                }
            }
            let slot = match &*name {
                "gt" => &mut row.gold,
                "pred" => &mut row.prediction,
                "question" => &mut row.question,
                "category" => &mut row.category,
                "score" => &mut row.score,
                "set" => &mut row.set,
                "verdict" => &mut verdict,
                "answer" => &mut answer,
                "prediction" => &mut prediction,
                "response" => &mut response,
                "raw_question" => &mut raw_question,
                "inst_category" => &mut inst_category,
                other => {
                    row.graded |= other == "extracted_answer";
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *slot = Some(map.next_value()?);
        }
        row.gold = row.gold.or(answer);
        row.prediction = row.prediction.or(prediction).or(response);
        row.unanswered =
            verdict == Some(Answer::from("not_judged")) && row.prediction == Some(Answer::from(""));
        row.question = row.question.or(raw_question);
        row.category = row.category.or(inst_category);
        Ok(row)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Answer<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnswerVisitor)
    }
}

struct AnswerVisitor;

impl<'de> Visitor<'de> for AnswerVisitor {
    type Value = Answer<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Answer::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Answer::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Answer::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Answer::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Answer::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        let number = serde_json::Number::from_f64(value);
        number
            .map(Answer::Number)
            .ok_or_else(|| E::custom("a number is not finite"))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Answer::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Answer::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Answer::Object)
    }
}
