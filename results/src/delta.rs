//! Lines as what differs from other runs': the runs of a study answer the same questions, most of them
//! alike, and four fifths of their records' bytes are said by every run; arms that went on from one cold
//! start have its lines in their metrics.
//!
//! ```text
//! records.jsonl.delta.gz or metrics.jsonl.delta.gz, gzip of lines:
//! {"references": [{"path": "../../<arm>/seed-<n>/records.jsonl", "blake3": "…"}, …],
//!  "same": {"arm": …, "seed": …, "checkpoint": …},     what all lines share, where they have it
//!  "order": […],                                       all fields as they follow each other, a/b for b in a
//!  "lines": 3000}                                      how many; absent in earlier versions, which took as
//!                                                      many as reference 0 has and objects within a line whole
//! 00010!0-0…      one line a field of "order", one sign a line: the first reference that says the same
//!                 (in its line of the same place; that both lack the field is saying the same too),
//!                 - for no such field, ! for a value of its own; nothing where all say what reference 0 says
//! "right"         the values of their own, one a line, field by field
//! ```
//!
//! Fields stand together, since gzip finds more that is alike within one than within a line; that is why
//! lines which no other run tells have this form too, without references. Reading
//! gives the text that was packed, byte for byte: [`encode`] gives no delta that does not. The
//! manifest's checksum is the text's, as with other compressed files.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The fields that all records of a run share.
const SHARED: [&str; 3] = ["arm", "seed", "checkpoint"];

/// Between the names of a field within a field, and how many there may be.
const WITHIN: char = '/';
const DEEPEST: usize = 8;

/// A record's field that it lacks, and one whose value no reference has.
const ABSENT: char = '-';
const OWN: char = '!';

/// Other records that a delta is told by.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reference {
    /// The other run's records, relative to the folder of these.
    pub path: String,
    /// BLAKE3 of their text.
    pub blake3: String,
}

/// The first line of a delta.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    /// At most ten.
    pub references: Vec<Reference>,
    /// What all records have in common.
    same: Map<String, Value>,
    /// All fields as they follow each other in a record.
    order: Vec<String>,
    /// How many there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lines: Option<usize>,
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

/// The lines of a text; `flat` with a field for each value within an object.
fn objects(text: &[u8], flat: bool) -> Option<Vec<Map<String, Value>>> {
    let text = std::str::from_utf8(text).ok()?;
    text.lines()
        .map(|line| {
            let object: Map<String, Value> = serde_json::from_str(line).ok()?;
            if !flat {
                return Some(object);
            }
            let mut fields = Map::new();
            flatten("", object, &mut fields);
            Some(fields)
        })
        .collect()
}

fn flatten(before: &str, object: Map<String, Value>, fields: &mut Map<String, Value>) {
    for (key, value) in object {
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                flatten(&format!("{before}{key}{WITHIN}"), inner, fields);
            }
            value => {
                fields.insert(format!("{before}{key}"), value);
            }
        }
    }
}

/// Puts a value where its field's name says; `None` where that is within something other than an object.
fn put(record: &mut Map<String, Value>, field: &str, value: Value) -> Option<()> {
    match field.split_once(WITHIN) {
        Some((outer, inner)) => {
            let outer = record
                .entry(outer)
                .or_insert_with(|| Value::Object(Map::new()));
            put(outer.as_object_mut()?, inner, value)
        }
        None => record
            .insert(field.to_string(), value)
            .is_none()
            .then_some(()),
    }
}

/// The text of a delta of the records `text` at `path` from other records, each with its path. `None`
/// where there are none, records of one run differ in what they should share, or reading would not give
/// `text` again.
pub(crate) fn encode(path: &Path, text: &[u8], others: &[(&Path, Vec<u8>)]) -> Option<String> {
    let own = objects(text, true)?;
    let theirs: Vec<_> = others
        .iter()
        .map(|(_, other)| objects(other, true))
        .collect::<Option<_>>()?;
    let first = own.first()?;
    if theirs.len() > 10 {
        return None;
    }
    let mut same = Map::new();
    for key in SHARED {
        let Some(value) = first.get(key) else {
            continue;
        };
        if own.iter().any(|record| record.get(key) != Some(value)) {
            return None;
        }
        same.insert(key.to_string(), value.clone());
    }
    let references = others
        .iter()
        .map(|(reference, other)| {
            Some(Reference {
                path: relative(path.parent()?, reference)?,
                blake3: blake3::hash(other).to_hex().to_string(),
            })
        })
        .collect::<Option<_>>()?;
    let header = Header {
        references,
        same,
        order: order(objects(text, false)?.iter()),
        lines: Some(own.len()),
    };
    let mut lines = serde_json::to_string(&header).ok()? + "\n";
    let mut values = String::new();
    for field in fields(&header) {
        let mut signs = String::new();
        for (place, record) in own.iter().enumerate() {
            let value = record.get(field);
            let said = theirs.iter().position(|other| {
                other
                    .get(place)
                    .is_some_and(|line| line.get(field) == value)
            });
            signs.push(match (said, value) {
                (Some(index), _) => char::from_digit(u32::try_from(index).ok()?, 10)?,
                (None, None) => ABSENT,
                (None, Some(value)) => {
                    values += &serde_json::to_string(value).ok()?;
                    values.push('\n');
                    OWN
                }
            });
        }
        if theirs.is_empty() || signs.contains(|sign| sign != '0') {
            lines += &signs;
        }
        lines.push('\n');
    }
    lines += &values;
    let others: Vec<&[u8]> = others.iter().map(|(_, other)| other.as_slice()).collect();
    (decode(&lines, &others).as_deref() == Some(text)).then_some(lines)
}

/// The fields that a delta has a line for.
fn fields(header: &Header) -> impl Iterator<Item = &String> {
    header
        .order
        .iter()
        .filter(|field| !header.same.contains_key(*field))
}

/// All fields of records: each after the one that it follows where it is first met, those within a field
/// together.
fn order<'a>(records: impl Iterator<Item = &'a Map<String, Value>> + Clone) -> Vec<String> {
    let mut outer: Vec<&String> = Vec::new();
    for record in records.clone() {
        let mut place = 0;
        for key in record.keys() {
            match outer.iter().position(|known| *known == key) {
                Some(known) => place = known + 1,
                None => {
                    outer.insert(place, key);
                    place += 1;
                }
            }
        }
    }
    let mut order = Vec::new();
    for key in outer {
        let values = records.clone().filter_map(|record| record.get(key));
        let objects = values.clone().filter_map(Value::as_object);
        let objects: Vec<_> = objects.filter(|object| !object.is_empty()).collect();
        if values.count() > objects.len() {
            order.push(key.clone());
        }
        let inner = self::order(objects.into_iter());
        order.extend(inner.iter().map(|inner| format!("{key}{WITHIN}{inner}")));
    }
    order
}

/// The records of a delta as text, from the texts of its references in their order; `None` where it
/// does not fit them.
pub(crate) fn decode(lines: &str, others: &[&[u8]]) -> Option<Vec<u8>> {
    let mut lines = lines.lines();
    let header: Header = serde_json::from_str(lines.next()?).ok()?;
    let theirs: Vec<_> = others
        .iter()
        .map(|other| objects(other, header.lines.is_some()))
        .collect::<Option<_>>()?;
    let count = match header.lines {
        Some(count) => count,
        None => theirs.first()?.len(),
    };
    let mut signs = Vec::new();
    for field in fields(&header) {
        let line = lines.next()?;
        if !line.is_empty() && line.len() != count {
            return None;
        }
        signs.push((field, line));
    }
    let deep = |field: &String| field.matches(WITHIN).count() > DEEPEST;
    let told = signs.iter().map(|(_, line)| line.len());
    let told = told.chain(theirs.iter().map(Vec::len)).max();
    if header.order.iter().any(deep) || told.is_none_or(|told| told < count) {
        return None;
    }
    let mut columns = Vec::new();
    for (field, line) in signs {
        let mut column = Vec::with_capacity(count);
        for place in 0..count {
            let value = match line.as_bytes().get(place).map_or('0', |&sign| sign.into()) {
                ABSENT => None,
                OWN => Some(serde_json::from_str(lines.next()?).ok()?),
                sign => {
                    let index = usize::try_from(sign.to_digit(10)?).ok()?;
                    theirs.get(index)?.get(place)?.get(field).cloned()
                }
            };
            column.push(value);
        }
        columns.push((field, column));
    }
    let mut text = Vec::new();
    for place in 0..count {
        let mut record = Map::new();
        for field in &header.order {
            let own = columns.iter_mut().find(|(known, _)| *known == field);
            let value = match own {
                Some((_, column)) => column[place].take(),
                None => header.same.get(field).cloned(),
            };
            if let Some(value) = value {
                put(&mut record, field, value)?;
            }
        }
        serde_json::to_writer(&mut text, &record).ok()?;
        text.push(b'\n');
    }
    lines.next().is_none().then_some(text)
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
