//! Records as what differs from another run's: the runs of a study answer the same questions, most of
//! them alike, and four fifths of their bytes are said by every run.
//!
//! ```text
//! records.jsonl.delta.gz, gzip of lines:
//! {"reference": "../../<arm>/seed-<n>/records.jsonl", "blake3": "…", "same": {"arm": …, "seed": …, "checkpoint": …},
//!  "order": […]}                           "order": the fields as they follow each other
//! {"verdict": "right", "call": null, …}    one line a record: the fields that differ from the
//!                                          reference's record in the same place, null where absent
//! ```
//!
//! Reading gives the text that was packed, byte for byte: [`encode`] gives no delta that does not. The
//! manifest's checksum is the text's, as with other compressed files.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The fields that all records of a run share.
const SHARED: [&str; 3] = ["arm", "seed", "checkpoint"];

/// The first line of a delta.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    /// The other run's records, relative to the folder of these.
    pub reference: String,
    /// BLAKE3 of the reference's text.
    pub blake3: String,
    /// What all records have in common.
    same: Map<String, Value>,
    /// All fields as they follow each other in a record.
    order: Vec<String>,
}

impl Header {
    /// The first line of a delta's text; `None` where it is none.
    pub fn of(lines: &str) -> Option<Self> {
        serde_json::from_str(lines.lines().next()?).ok()
    }
}

/// The path of a file's delta form.
pub(crate) fn delta(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(".delta.gz");
    PathBuf::from(name)
}

fn objects(text: &[u8]) -> Option<Vec<Map<String, Value>>> {
    let text = std::str::from_utf8(text).ok()?;
    text.lines()
        .map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// The text of a delta of the records `text` at `path` from `other` at `reference`. `None` where the two
/// do not answer the same number of questions, records of one run differ in what they should share,
/// or reading would not give `text` again.
pub(crate) fn encode(path: &Path, text: &[u8], reference: &Path, other: &[u8]) -> Option<String> {
    let (own, theirs) = (objects(text)?, objects(other)?);
    let first = own.first()?;
    if own.len() != theirs.len() {
        return None;
    }
    let mut same = Map::new();
    for key in SHARED {
        let value = first.get(key)?;
        if own.iter().any(|record| record.get(key) != Some(value)) {
            return None;
        }
        same.insert(key.to_string(), value.clone());
    }
    let header = Header {
        reference: relative(path.parent()?, reference)?,
        blake3: blake3::hash(other).to_hex().to_string(),
        same,
        order: order(&own),
    };
    let mut lines = serde_json::to_string(&header).ok()? + "\n";
    for (record, other) in own.iter().zip(&theirs) {
        let mut differing = Map::new();
        let keys = record
            .keys()
            .chain(other.keys().filter(|key| !record.contains_key(*key)));
        for key in keys.filter(|key| !SHARED.contains(&key.as_str())) {
            if record.get(key) != other.get(key) {
                let value = record.get(key).cloned().unwrap_or(Value::Null);
                differing.insert(key.clone(), value);
            }
        }
        lines += &serde_json::to_string(&differing).ok()?;
        lines.push('\n');
    }
    (decode(&lines, other).as_deref() == Some(text)).then_some(lines)
}

/// All fields of records: each after the one that it follows where it is first met.
fn order(records: &[Map<String, Value>]) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    for record in records {
        let mut place = 0;
        for key in record.keys() {
            match order.iter().position(|known| known == key) {
                Some(known) => place = known + 1,
                None => {
                    order.insert(place, key.clone());
                    place += 1;
                }
            }
        }
    }
    order
}

/// The records of a delta as text; `None` where it does not fit its reference.
pub(crate) fn decode(lines: &str, other: &[u8]) -> Option<Vec<u8>> {
    let mut lines = lines.lines();
    let header: Header = serde_json::from_str(lines.next()?).ok()?;
    let theirs = objects(other)?;
    let mut text = Vec::new();
    let mut count = 0;
    for (line, mut record) in lines
        .zip(&theirs)
        .map(|(line, other)| (line, other.clone()))
    {
        let differing: Map<String, Value> = serde_json::from_str(line).ok()?;
        for (key, value) in header.same.iter().chain(&differing) {
            match value {
                Value::Null => record.remove(key),
                value => record.insert(key.clone(), value.clone()),
            };
        }
        let place = |key: &String| header.order.iter().position(|known| known == key);
        let mut fields: Vec<(String, Value)> = record.into_iter().collect();
        fields.sort_by_key(|(key, _)| place(key));
        let record: Map<String, Value> = fields.into_iter().collect();
        serde_json::to_writer(&mut text, &record).ok()?;
        text.push(b'\n');
        count += 1;
    }
    (count == theirs.len()).then_some(text)
}

/// `target` as seen from `folder`, with `/` between names; `None` where the two share no beginning.
fn relative(folder: &Path, target: &Path) -> Option<String> {
    let absolute = |path: &Path| std::path::absolute(path).ok();
    let (folder, target) = (absolute(folder)?, absolute(target)?);
    let names = |path: &Path| -> Option<Vec<String>> {
        path.components()
            .map(|part| match part {
                Component::Normal(name) => name.to_str().map(str::to_string),
                Component::RootDir | Component::Prefix(_) => Some(String::new()),
                Component::CurDir | Component::ParentDir => None,
            })
            .collect()
    };
    let (folder, target) = (names(&folder)?, names(&target)?);
    let shared = folder
        .iter()
        .zip(&target)
        .take_while(|(a, b)| a == b)
        .count();
    let up = std::iter::repeat_n("..", folder.len() - shared);
    let down = target[shared..].iter().map(String::as_str);
    Some(up.chain(down).collect::<Vec<_>>().join("/"))
}
