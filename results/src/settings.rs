//! Which settings of two runs differ.

use serde_json::{Map, Value};

/// A setting whose values differ.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct SettingDifference {
    /// Its dotted path.
    pub key: String,
    /// The first value; null where it is not there.
    pub first: Value,
    /// The second.
    pub second: Value,
}

/// The settings whose values differ between two resolved profiles, sorted by path.
pub fn differing_settings(first: &Value, second: &Value) -> Vec<SettingDifference> {
    let mut found = Vec::new();
    collect("", first, second, &mut found);
    found
}

fn collect(path: &str, first: &Value, second: &Value, found: &mut Vec<SettingDifference>) {
    match (first, second) {
        (Value::Object(one), Value::Object(other)) => {
            let mut keys: Vec<&String> = one.keys().chain(other.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let path = match path {
                    "" => key.clone(),
                    _ => format!("{path}.{key}"),
                };
                let of = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or(Value::Null);
                collect(&path, &of(one), &of(other), found);
            }
        }
        _ if first != second => found.push(SettingDifference {
            key: path.to_owned(),
            first: first.clone(),
            second: second.clone(),
        }),
        _ => {}
    }
}
