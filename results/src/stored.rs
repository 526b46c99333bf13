//! Files that may be kept compressed: `records.jsonl`, or in its place `records.jsonl.gz`, or
//! `records.jsonl.delta.gz`, as a rule beside another run's records.
//!
//! Recorded runs are kept with `gzip -9n`; checksums and line counts are those of the text, so a
//! manifest holds for both.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::delta::{Header, decode, delta};
use crate::error::{Error, Result};

/// No file of a run is larger than this; a compressed one that claims more is not read to its end.
const LARGEST: u64 = 4 << 30;

/// A delta may be told by a delta, which is told by whole records; no further, so that none leads to
/// itself and none costs many reads.
const DELTAS: usize = 2;

/// The compressed form's path.
pub fn compressed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(".gz");
    PathBuf::from(name)
}

/// Whether a file is there, in any of its forms.
pub fn is_stored(path: &Path) -> bool {
    path.is_file() || compressed(path).is_file() || delta(path).is_file()
}

/// Removes a file in whatever form it is there.
///
/// # Errors
/// When it cannot be.
pub fn remove_stored(path: &Path) -> Result<()> {
    for form in [path.to_path_buf(), compressed(path), delta(path)] {
        if form.is_file() {
            std::fs::remove_file(&form).map_err(Error::io("remove", &form))?;
        }
    }
    Ok(())
}

/// The bytes of a file, decompressed where only its compressed form is there.
///
/// # Errors
/// Neither form can be read, both are there, or the compressed one is damaged.
pub fn read_stored(path: &Path) -> Result<Vec<u8>> {
    read_within(path, DELTAS)
}

/// The bytes of records that a delta is to be told by.
///
/// # Errors
/// As [`read_stored`], and where they are so many deltas deep themselves that one more could not be read.
pub(crate) fn read_reference(path: &Path) -> Result<Vec<u8>> {
    read_within(path, DELTAS - 1)
}

/// As [`read_stored`], through at most so many deltas.
fn read_within(path: &Path, deltas: usize) -> Result<Vec<u8>> {
    let forms = [path.to_path_buf(), compressed(path), delta(path)];
    let mut there = forms.iter().filter(|form| form.is_file());
    if let (Some(first), Some(second)) = (there.next(), there.next()) {
        return Err(Error::Damaged {
            path: first.clone(),
            expected: "one form of it".to_string(),
            found: format!("{} beside it", second.display()),
            advice: "delete the one that is not wanted".to_string(),
        });
    }
    if forms[1].is_file() {
        return gunzip(&forms[1]);
    }
    if forms[2].is_file() {
        return read_delta(path, deltas);
    }
    std::fs::read(path).map_err(Error::io("read", path))
}

/// The text of the records at `path`, whose delta form is there.
fn read_delta(path: &Path, deltas: usize) -> Result<Vec<u8>> {
    let packed = delta(path);
    let damaged = |expected: &str, found: String| Error::Damaged {
        path: packed.clone(),
        expected: expected.to_string(),
        found,
        advice: "take the file again from where the run was recorded".to_string(),
    };
    let lines =
        String::from_utf8(gunzip(&packed)?).map_err(|error| damaged("text", error.to_string()))?;
    let header = Header::of(&lines)
        .ok_or_else(|| damaged("a first line that names references", "another".to_string()))?;
    // One without references is whole.
    let told = usize::from(!header.references.is_empty());
    let Some(deltas) = deltas.checked_sub(told) else {
        return Err(damaged(
            &format!("whole lines behind at most {DELTAS} deltas"),
            "another delta".to_string(),
        ));
    };
    let mut others = Vec::new();
    for reference in &header.references {
        let other = path.parent().unwrap_or(Path::new("")).join(&reference.path);
        let text = read_within(&other, deltas)?;
        let found = blake3::hash(&text).to_hex().to_string();
        if found != reference.blake3 {
            return Err(damaged(
                &format!("{} with BLAKE3 {}", other.display(), reference.blake3),
                found,
            ));
        }
        others.push(text);
    }
    let others: Vec<&[u8]> = others.iter().map(Vec::as_slice).collect();
    decode(&lines, &others).ok_or_else(|| {
        damaged(
            "a sign and a value for each of its lines",
            "others".to_string(),
        )
    })
}

/// The bytes of a gzip file.
///
/// # Errors
/// It cannot be read, or is damaged.
pub(crate) fn gunzip(packed: &Path) -> Result<Vec<u8>> {
    let file = std::fs::File::open(packed).map_err(Error::io("read", packed))?;
    let mut bytes = Vec::new();
    flate2::read::MultiGzDecoder::new(std::io::BufReader::new(file))
        .take(LARGEST)
        .read_to_end(&mut bytes)
        .map_err(|source| Error::Damaged {
            path: packed.to_path_buf(),
            expected: "a whole gzip file".to_string(),
            found: source.to_string(),
            advice: "take the file again from where the run was recorded".to_string(),
        })?;
    Ok(bytes)
}
