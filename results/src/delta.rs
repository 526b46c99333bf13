//! Records as what differs from another run's: the runs of a study answer the same questions, most of
//! them alike, and four fifths of their bytes are said by every run.
//!
//! ```text
//! records.jsonl.delta.gz, gzip of lines:
//! {"reference": "../../<arm>/seed-<n>/records.jsonl", "blake3": "…", "same": {"arm": …, "seed": …, "checkpoint": …}}
//! {"verdict": "right", "call": null, …}    one line a record: the fields that differ from the
//!                                          reference's record in the same place, null where absent
//! ```
//!
//! Reading gives the text that was packed, byte for byte: [`pack_records`] keeps no delta that does
//! not. The manifest's checksum is the text's, as with other compressed files.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::packed::{gzip, pack};
use crate::record::Record;
use crate::stored::{gunzip, read_stored};

/// The fields that all records of a run share.
const SHARED: [&str; 3] = ["arm", "seed", "checkpoint"];

/// The first line of a delta.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    /// The other run's records, relative to the folder of these.
    reference: String,
    /// BLAKE3 of the reference's text.
    blake3: String,
    /// What all records have in common.
    same: Map<String, Value>,
}

/// The path of a file's delta form.
pub(crate) fn delta(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(".delta.gz");
    PathBuf::from(name)
}

/// Packs `records.jsonl` as what differs from `reference`, another run's records, which stay where they
/// are. Where they cannot be told by their differences, they are packed as any other file is.
///
/// # Errors
/// A file that cannot be read or written.
pub fn pack_records(path: &Path, reference: &Path) -> Result<()> {
    if !path.is_file() {
        return Ok(());
    }
    let text = std::fs::read(path).map_err(Error::io("read", path))?;
    let other = read_stored(reference)?;
    let Some(lines) = encode(path, &text, reference, &other) else {
        return pack(path);
    };
    if decode(&lines, &other).as_deref() != Some(text.as_slice()) {
        return pack(path);
    }
    write_atomically(&delta(path), &gzip(lines.as_bytes()))?;
    std::fs::remove_file(path).map_err(Error::io("remove", path))
}

/// The text of the records at `path`, whose delta form is there.
pub(crate) fn read_delta(path: &Path) -> Result<Vec<u8>> {
    let packed = delta(path);
    let damaged = |expected: &str, found: String| Error::Damaged {
        path: packed.clone(),
        expected: expected.to_string(),
        found,
        advice: "take the file again from where the run was recorded".to_string(),
    };
    let lines =
        String::from_utf8(gunzip(&packed)?).map_err(|error| damaged("text", error.to_string()))?;
    let header: Header = lines
        .lines()
        .next()
        .and_then(|line| serde_json::from_str(line).ok())
        .ok_or_else(|| damaged("a first line that names a reference", "another".to_string()))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let reference = folder.join(&header.reference);
    if delta(&reference).is_file() {
        return Err(damaged(
            "a reference that is whole itself",
            format!("{}, a delta as well", reference.display()),
        ));
    }
    let other = read_stored(&reference)?;
    let found = blake3::hash(&other).to_hex().to_string();
    if found != header.blake3 {
        return Err(damaged(
            &format!("{} with BLAKE3 {}", reference.display(), header.blake3),
            found,
        ));
    }
    decode(&lines, &other).ok_or_else(|| {
        damaged(
            "a line for each record of its reference",
            "others".to_string(),
        )
    })
}

fn objects(text: &[u8]) -> Option<Vec<Map<String, Value>>> {
    let text = std::str::from_utf8(text).ok()?;
    text.lines()
        .map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// The lines of a delta; `None` where the two do not answer the same number of questions, or records
/// of one run differ in what they should share.
fn encode(path: &Path, text: &[u8], reference: &Path, other: &[u8]) -> Option<String> {
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
    Some(lines)
}

/// The records of a delta as text; `None` where it does not fit its reference.
fn decode(lines: &str, other: &[u8]) -> Option<Vec<u8>> {
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
        // The order of fields is the record's own.
        let record: Record = serde_json::from_value(Value::Object(record)).ok()?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::stored::{compressed, is_stored};

    /// The records of the fixture's first two trained runs, each in a folder of its own.
    fn two_runs(folder: &Path) -> [PathBuf; 2] {
        let trained = fixture::runs(20).into_iter().skip(2);
        let paths: Vec<PathBuf> = trained
            .take(2)
            .enumerate()
            .map(|(index, run)| {
                let path = folder.join(format!("arm/seed-{index}/records.jsonl"));
                crate::write_lines(&path, &run.records).unwrap();
                path
            })
            .collect();
        [paths[0].clone(), paths[1].clone()]
    }

    #[test]
    fn a_delta_gives_the_bytes_that_were_packed() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = two_runs(folder.path());
        let text = std::fs::read(&second).unwrap();
        pack(&first).unwrap();
        pack_records(&second, &first).unwrap();
        assert!(!second.exists() && is_stored(&second) && delta(&second).is_file());
        assert_eq!(read_stored(&second).unwrap(), text);
        let whole = gzip(&text).len() as u64;
        let size = std::fs::metadata(delta(&second)).unwrap().len();
        assert!(2 * size < whole, "{size} of {whole} bytes");
        // Moved together they are found again; alone they are not.
        let moved = folder.path().join("elsewhere");
        std::fs::rename(folder.path().join("arm"), &moved).unwrap();
        let second = moved.join("seed-1/records.jsonl");
        assert_eq!(read_stored(&second).unwrap(), text);
        std::fs::remove_dir_all(moved.join("seed-0")).unwrap();
        assert!(read_stored(&second).is_err());
    }

    #[test]
    fn another_reference_is_noticed_and_what_cannot_be_told_by_it_is_kept_whole() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = two_runs(folder.path());
        let text = std::fs::read_to_string(&second).unwrap();
        pack_records(&second, &first).unwrap();
        let changed = std::fs::read_to_string(&first)
            .unwrap()
            .replacen("wrong", "right", 1);
        std::fs::write(&first, changed).unwrap();
        let error = read_stored(&second).unwrap_err().to_string();
        assert!(error.contains("BLAKE3"), "{error}");
        // A record less, or fields in another order than a record's.
        std::fs::remove_file(delta(&second)).unwrap();
        let shorter = text.split_once('\n').unwrap().1.to_string();
        let reordered = text.replace(
            "{\"set\":\"charxiv\",\"qa_id\":\"q0\"",
            "{\"qa_id\":\"q0\",\"set\":\"charxiv\"",
        );
        assert_ne!(reordered, text);
        for other in [shorter, reordered] {
            std::fs::write(&second, &other).unwrap();
            pack_records(&second, &first).unwrap();
            assert!(compressed(&second).is_file() && !delta(&second).exists());
            assert_eq!(read_stored(&second).unwrap(), other.as_bytes());
            std::fs::remove_file(compressed(&second)).unwrap();
        }
    }
}
