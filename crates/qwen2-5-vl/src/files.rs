//! The files of a checkpoint's folder: what stands in the place of one, and writing one whole.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// What a file is that was never fetched, by its first bytes: a Git LFS pointer, or the web page that
/// a server sent instead. Says how to get the file.
pub(crate) fn stand_in(bytes: &[u8]) -> Option<String> {
    let start = &bytes[..bytes.len().min(1024)];
    if start.starts_with(b"version https://git-lfs") || start.starts_with(b"version https://hawser")
    {
        let text = String::from_utf8_lossy(start);
        let size = text.lines().find_map(|line| line.strip_prefix("size "));
        let size = size.map_or(String::new(), |size| {
            format!(", which has {} bytes", size.trim())
        });
        return Some(format!(
            "this is a Git LFS pointer to the file{size}, not the file: run `git lfs pull` in its \
             folder, or download it from the hub again"
        ));
    }
    let trimmed = start.trim_ascii_start().to_ascii_lowercase();
    if trimmed.starts_with(b"<!doctype html") || trimmed.starts_with(b"<html") {
        return Some(
            "this is a web page, not the file: the download failed or needs a login; download it \
             again"
                .to_string(),
        );
    }
    None
}

/// Parses a JSON file's bytes; the reason where they are none. A number that JSON does not have (`NaN`,
/// `Infinity`, which Python writes) is named with its key.
pub(crate) fn json(bytes: &[u8]) -> Result<serde_json::Value, String> {
    if let Some(reason) = stand_in(bytes) {
        return Err(reason);
    }
    serde_json::from_slice(bytes).map_err(|error| match not_a_number(bytes) {
        Some((key, value)) => format!("{key} is {value}, expected a number"),
        None => format!("not JSON: {error}"),
    })
}

/// The first bare `NaN` or `Infinity` outside strings, and the last string before it, its key.
fn not_a_number(bytes: &[u8]) -> Option<(String, &'static str)> {
    let (mut at, mut key) = (0, &bytes[..0]);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                let start = at + 1;
                at = start;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                key = &bytes[start.min(bytes.len())..at.min(bytes.len())];
            }
            b'N' | b'I' => {
                let found = ["NaN", "Infinity"]
                    .into_iter()
                    .find(|word| bytes[at..].starts_with(word.as_bytes()))?;
                return Some((String::from_utf8_lossy(key).into_owned(), found));
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// Writes `name` in `dir` whole: beside its place, synced, renamed. A reader finds the old file or the
/// new one.
///
/// On an error nothing is left beside it.
pub(crate) fn write_whole(
    dir: &Path,
    name: &str,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    Unplaced::write(dir, name, write)?.place()
}

/// A file that is written and synced, but not in its place yet. Dropped, it is removed.
pub(crate) struct Unplaced {
    temporary: std::path::PathBuf,
    path: std::path::PathBuf,
    placed: bool,
}

impl Unplaced {
    /// Writes what will be `name` in `dir`.
    pub fn write(
        dir: &Path,
        name: &str,
        write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> io::Result<Self> {
        let unplaced = Unplaced {
            temporary: dir.join(format!(".{name}.{}", std::process::id())),
            path: dir.join(name),
            placed: false,
        };
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&unplaced.temporary)?);
        write(&mut file)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        Ok(unplaced)
    }

    /// Puts the file into its place.
    pub fn place(mut self) -> io::Result<()> {
        std::fs::rename(&self.temporary, &self.path)?;
        self.placed = true;
        match self.path.parent() {
            Some(dir) => sync_folder(dir),
            None => Ok(()),
        }
    }
}

impl Drop for Unplaced {
    fn drop(&mut self) {
        if !self.placed {
            // The failed write is what is reported; what is left of it only takes room.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Makes renames and removals in a folder durable, in the order in which they were done.
pub(crate) fn sync_folder(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    // Folders cannot be opened for this on Windows, and need not be.
    if cfg!(unix) {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_json_lacks_are_named_by_key() {
        let reason = |text: &str| json(text.as_bytes()).unwrap_err();
        assert_eq!(
            reason(r#"{"a": "NaN", "rms_norm_eps": NaN}"#),
            "rms_norm_eps is NaN, expected a number"
        );
        assert_eq!(
            reason(r#"{"a\"b": -Infinity}"#),
            "a\\\"b is Infinity, expected a number"
        );
        for text in ["{\"a", "{\"a\\", "{'N'", "", "{"] {
            assert!(reason(text).starts_with("not JSON"), "{text}");
        }
    }
}
