//! Records of all kinds of files behind one shape, with fields that are read by name and kind.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::error::{Place, RecordName, SourceError};
use crate::TestSet;
use crate::scorers::{Answer, ScoredSet, gold};

/// One record.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub place: Place,
    pub fields: Map<String, Value>,
    /// Binary fields of a parquet row; the field itself holds `{"blob": index}`.
    pub blobs: Vec<Arc<[u8]>>,
}

/// A value in an error message: its kind and how it begins.
pub(super) fn describe(value: &Value) -> String {
    let text = value.to_string();
    let short: String = text.chars().take(60).collect();
    let more = if short.len() < text.len() { "…" } else { "" };
    let kind = match value {
        Value::Null => return "null".to_owned(),
        Value::Bool(_) => "the boolean",
        Value::Number(_) => "the number",
        Value::String(_) => "the string",
        Value::Array(_) => "the list",
        Value::Object(_) => "the object",
    };
    format!("{kind} {short}{more}")
}

impl Row {
    /// The first of `names` that is present and not null.
    pub fn first(&self, names: &[&str]) -> Option<&Value> {
        names
            .iter()
            .filter_map(|name| self.fields.get(*name))
            .find(|value| !value.is_null())
    }

    /// The error of a field.
    pub fn error(
        &self,
        field: impl Into<String>,
        expected: &'static str,
        found: Option<&Value>,
    ) -> SourceError {
        SourceError::Field {
            place: self.place.clone(),
            field: field.into(),
            expected,
            found: found.map_or_else(|| "nothing".to_owned(), describe),
        }
    }

    /// A string under the first of `names` that is present.
    pub fn text(&self, names: &[&str]) -> Result<&str, SourceError> {
        let found = self.first(names);
        found
            .and_then(Value::as_str)
            .ok_or_else(|| self.error(names.join("` or `"), "a string", found))
    }

    /// The record's id: its key in the file, else a string or a whole number under one of
    /// `names`.
    pub fn id(&self, names: &[&str]) -> Result<String, SourceError> {
        if let RecordName::Key(key) = &self.place.record {
            return Ok(key.clone());
        }
        match self.first(names) {
            Some(Value::String(id)) if !id.is_empty() => Ok(id.clone()),
            Some(Value::Number(id)) if id.is_u64() => Ok(id.to_string()),
            found => Err(self.error(names.join("` or `"), "an id", found)),
        }
    }

    /// The gold answer under the first of `names` that is present, in the notation of `set`.
    pub fn gold(&self, set: TestSet, names: &[&str]) -> Result<Gold, SourceError> {
        let found = self.first(names);
        let given = Answer::from(found.cloned().unwrap_or(Value::Null));
        let text = gold(ScoredSet::Set(set), &given)
            .map_err(|error| self.error(names.join("` or `"), error.expected, found))?;
        Ok(Gold {
            text: text.into_owned(),
            is_list: matches!(given, Answer::List(_)),
        })
    }

    /// A record inside this one, with the same place.
    pub fn nested(&self, fields: Map<String, Value>) -> Row {
        Row {
            place: self.place.clone(),
            fields,
            blobs: self.blobs.clone(),
        }
    }
}

/// A gold answer in its set's notation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gold {
    pub text: String,
    /// Whether the data give it as a list.
    pub is_list: bool,
}
