//! Records as what differs from other runs': the runs of a study answer the same questions, most of them
//! alike, and four fifths of their bytes are said by every run.
//!
//! ```text
//! records.jsonl.delta.gz, gzip of lines:
//! {"references": [{"path": "../../<arm>/seed-<n>/records.jsonl", "blake3": "…"}, …],
//!  "same": {"arm": …, "seed": …, "checkpoint": …},     what all records share
//!  "order": […]}                                       the other fields as they follow each other
//! 00010!0-0…      one line a field of "order", one sign a record: the first reference that says the same
//!                 (in its record of the same place; that both lack the field is saying the same too),
//!                 - for no such field, ! for a value of its own; nothing where all say what reference 0 says
//! "right"         the values of their own, one a line, field by field
//! ```
//!
//! Fields stand together, since gzip finds more that is alike within one than within a record. Reading
//! gives the text that was packed, byte for byte: [`encode`] gives no delta that does not. The
//! manifest's checksum is the text's, as with other compressed files.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The fields that all records of a run share.
const SHARED: [&str; 3] = ["arm", "seed", "checkpoint"];

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
    /// At least one, at most ten.
    pub references: Vec<Reference>,
    /// What all records have in common.
    same: Map<String, Value>,
    /// All other fields as they follow each other in a record.
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

/// The text of a delta of the records `text` at `path` from other records, each with its path. `None`
/// where they do not answer the same number of questions, records of one run differ in what they should
/// share, or reading would not give `text` again.
pub(crate) fn encode(path: &Path, text: &[u8], others: &[(&Path, Vec<u8>)]) -> Option<String> {
    let own = objects(text)?;
    let theirs = alike(others.iter().map(|(_, other)| other.as_slice()))?;
    let first = own.first()?;
    if own.len() != theirs.first()?.len() || theirs.len() > 10 {
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
        order: order(&own),
    };
    let mut lines = serde_json::to_string(&header).ok()? + "\n";
    let mut values = String::new();
    for field in fields(&header) {
        let mut signs = String::new();
        for (place, record) in own.iter().enumerate() {
            let value = record.get(field);
            let said = theirs
                .iter()
                .position(|other| other[place].get(field) == value);
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
        if signs.contains(|sign| sign != '0') {
            lines += &signs;
        }
        lines.push('\n');
    }
    lines += &values;
    let others: Vec<&[u8]> = others.iter().map(|(_, other)| other.as_slice()).collect();
    (decode(&lines, &others).as_deref() == Some(text)).then_some(lines)
}

/// The objects of several texts; `None` where they are not as many in each.
fn alike<'a>(texts: impl Iterator<Item = &'a [u8]>) -> Option<Vec<Vec<Map<String, Value>>>> {
    let all: Vec<_> = texts.map(objects).collect::<Option<_>>()?;
    let count = all.first()?.len();
    all.iter().all(|one| one.len() == count).then_some(all)
}

/// The fields that a delta has a line for.
fn fields(header: &Header) -> impl Iterator<Item = &String> {
    header
        .order
        .iter()
        .filter(|field| !header.same.contains_key(*field))
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

/// The records of a delta as text, from the texts of its references in their order; `None` where it
/// does not fit them.
pub(crate) fn decode(lines: &str, others: &[&[u8]]) -> Option<Vec<u8>> {
    let mut lines = lines.lines();
    let header: Header = serde_json::from_str(lines.next()?).ok()?;
    let theirs = alike(others.iter().copied())?;
    let count = theirs.first()?.len();
    let mut signs = Vec::new();
    for field in fields(&header) {
        let line = lines.next()?;
        if !line.is_empty() && line.len() != count {
            return None;
        }
        signs.push((field, line));
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
                    theirs.get(index)?[place].get(field).cloned()
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
            record.extend(value.map(|value| (field.clone(), value)));
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
