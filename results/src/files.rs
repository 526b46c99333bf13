//! JSON and JSON Lines files: written whole and atomically, or appended to line by line.
//!
//! A whole file is written beside its destination, flushed to disk and renamed, so that a reader
//! sees the old bytes or the new ones. An appended file may lose its last line to a kill: opening
//! it again drops a line that was not finished.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::stored::read_stored;

/// A row that can say whether its values are possible.
pub trait Checked {
    /// The reason why this row must be refused, if there is one.
    fn problem(&self) -> Option<String>;
}

/// Writes `bytes` to `path` so that a reader sees all of them or the file as it was. The parent
/// folder is made if need be. A pipe, a terminal or a device is written to as it is, and a link stays
/// a link.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let io = |source| Error::Io {
        action: "write",
        path: path.to_path_buf(),
        source,
    };
    let linked = std::fs::canonicalize(path);
    let target = linked.as_deref().unwrap_or(path);
    if std::fs::metadata(target).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        let special = OpenOptions::new().write(true).open(target);
        return special
            .and_then(|mut special| special.write_all(bytes))
            .map_err(io);
    }
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).map_err(io)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".partial-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Temporary files are private by default; results are for everyone the umask allows.
        builder.permissions(Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder).map_err(io)?;
    file.write_all(bytes).map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    file.persist(target).map_err(|error| io(error.error))?;
    // The rename itself is durable only once the folder is on disk.
    #[cfg(unix)]
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(io)?;
    Ok(())
}

/// Writes a value as indented JSON with a final newline, atomically.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|source| Error::Json {
        path: path.to_path_buf(),
        source,
    })?;
    bytes.push(b'\n');
    write_atomically(path, &bytes)
}

/// Reads a JSON file, or its compressed form.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = read_stored(path)?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Json {
        path: path.to_path_buf(),
        source,
    })
}

/// Writes one line per row, atomically. A row with an impossible value is refused and nothing is
/// written.
pub fn write_lines<'a, T>(path: &Path, rows: impl IntoIterator<Item = &'a T>) -> Result<()>
where
    T: Serialize + Checked + 'a,
{
    let mut bytes = Vec::new();
    for (index, row) in rows.into_iter().enumerate() {
        push_line(path, index + 1, row, &mut bytes)?;
    }
    write_atomically(path, &bytes)
}

/// Reads one row per line, also from `<path>.gz` where the file is kept compressed. The error names the file and the line; blank lines are skipped.
pub fn read_lines<T: DeserializeOwned + Checked>(path: &Path) -> Result<Vec<T>> {
    parse_lines(path, &read_stored(path)?)
}

/// The rows in the bytes of the file `path`.
pub(crate) fn parse_lines<T: DeserializeOwned + Checked>(
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<T>> {
    let mut rows = Vec::new();
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let refused = |reason| Error::Line {
            path: path.to_path_buf(),
            line: index + 1,
            reason,
        };
        let row: T = serde_json::from_slice(line).map_err(|error| {
            // serde_json counts lines within what it was given; here that is always one.
            let text = error.to_string();
            let reason = text
                .rsplit_once(" at line ")
                .map_or(text.as_str(), |(reason, _)| reason);
            refused(format!("{reason} (column {})", error.column()))
        })?;
        if let Some(problem) = row.problem() {
            return Err(refused(problem));
        }
        rows.push(row);
    }
    Ok(rows)
}

fn push_line<T: Serialize + Checked>(
    path: &Path,
    row_number: usize,
    row: &T,
    bytes: &mut Vec<u8>,
) -> Result<()> {
    let refused = |reason| Error::Refused {
        path: path.to_path_buf(),
        row: row_number,
        reason,
    };
    if let Some(problem) = row.problem() {
        return Err(refused(problem));
    }
    serde_json::to_writer(&mut *bytes, row).map_err(|error| refused(error.to_string()))?;
    bytes.push(b'\n');
    Ok(())
}

/// A JSON Lines file that grows by a row at a time and survives a kill.
#[derive(Debug)]
pub struct Appender {
    path: PathBuf,
    file: File,
    lines: usize,
}

impl Appender {
    /// Opens `path` for appending after its first `keep` rows, which are returned. Later rows,
    /// and a last line without its newline, are cut off: they were written after the checkpoint
    /// that a run resumes from. A new run keeps 0.
    ///
    /// # Errors
    /// [`Error::TooFewLines`] when the file has fewer whole lines than `keep`;
    /// [`Error::Line`] when one of those kept cannot be read.
    pub fn open<T: DeserializeOwned + Checked>(path: &Path, keep: usize) -> Result<(Self, Vec<T>)> {
        let io = |source| Error::Io {
            action: "write",
            path: path.to_path_buf(),
            source,
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(io)?;
        }
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(Error::io("read", path)(source)),
        };
        let ends: Vec<usize> = bytes
            .iter()
            .enumerate()
            .filter(|&(_, &byte)| byte == b'\n')
            .map(|(index, _)| index + 1)
            .collect();
        if ends.len() < keep {
            return Err(Error::TooFewLines {
                path: path.to_path_buf(),
                expected: keep,
                found: ends.len(),
            });
        }
        let end = if keep == 0 { 0 } else { ends[keep - 1] };
        let rows = parse_lines(path, &bytes[..end])?;
        Ok((Self::after(path, end, keep)?, rows))
    }

    /// The same, after as many whole rows as `keep` holds for, which are those that a run resumes
    /// from; a file that is not there has none.
    ///
    /// # Errors
    /// [`Error::Line`] when a whole line cannot be read.
    pub fn open_while<T: DeserializeOwned + Checked>(
        path: &Path,
        keep: impl Fn(&T) -> bool,
    ) -> Result<Self> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(Error::io("read", path)(source)),
        };
        let whole = bytes.iter().rposition(|byte| *byte == b'\n');
        let whole = &bytes[..whole.map_or(0, |last| last + 1)];
        let rows: Vec<T> = parse_lines(path, whole)?;
        let kept = rows.iter().take_while(|row| keep(row)).count();
        Ok(Self::open::<T>(path, kept)?.0)
    }

    /// A file that ends at `end`, after `lines` rows.
    fn after(path: &Path, end: usize, lines: usize) -> Result<Self> {
        let io = |source| Error::Io {
            action: "write",
            path: path.to_path_buf(),
            source,
        };
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(io)?;
        file.set_len(end as u64).map_err(io)?;
        file.seek(SeekFrom::Start(end as u64)).map_err(io)?;
        Ok(Appender {
            path: path.to_path_buf(),
            file,
            lines,
        })
    }

    /// How many whole rows the file holds: what a checkpoint has to remember.
    pub fn lines(&self) -> usize {
        self.lines
    }

    /// Appends one row in one write.
    pub fn append<T: Serialize + Checked>(&mut self, row: &T) -> Result<()> {
        let mut bytes = Vec::new();
        push_line(&self.path, self.lines + 1, row, &mut bytes)?;
        self.file
            .write_all(&bytes)
            .map_err(Error::io("write", &self.path))?;
        self.lines += 1;
        Ok(())
    }

    /// Waits until everything appended is on disk: before a checkpoint that counts on it.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(Error::io("write", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Clone, Serialize, Deserialize)]
    struct Row {
        name: String,
        value: f64,
    }

    impl Checked for Row {
        fn problem(&self) -> Option<String> {
            (!self.value.is_finite()).then(|| format!("value is {}", self.value))
        }
    }

    fn row(name: &str, value: f64) -> Row {
        Row {
            name: name.to_string(),
            value,
        }
    }

    #[test]
    fn a_refused_row_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        write_lines(&path, &[row("a", 1.0)]).unwrap();
        let error = write_lines(&path, &[row("b", 2.0), row("c", f64::NAN)]).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("rows.jsonl, row 2: value is NaN"),
            "{error}"
        );
        assert_eq!(read_lines::<Row>(&path).unwrap(), [row("a", 1.0)]);
        // Nothing is left beside it.
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn links_and_devices_stay_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        std::fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write_atomically(&link, b"new").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
        assert!(link.is_symlink());
        let device = folder.path().join("device");
        std::os::unix::fs::symlink("/dev/null", &device).unwrap();
        write_atomically(&device, b"new").unwrap();
        assert!(device.is_symlink() && !Path::new("/dev/null").is_file());
    }

    #[test]
    fn errors_name_the_file_and_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let mut seen = Vec::new();
        for bad in [
            "{\"name\":\"a\"}",
            "{\"name\":\"a\",\"val",
            "[]",
            "{\"name\":3,\"value\":1.0}",
        ] {
            std::fs::write(
                &path,
                format!("{{\"name\":\"ok\",\"value\":1.5}}\n\n{bad}\n"),
            )
            .unwrap();
            let text = read_lines::<Row>(&path).unwrap_err().to_string();
            seen.push(text.rsplit_once('/').unwrap().1.to_string());
        }
        insta::assert_snapshot!(seen.join("\n"));
    }

    #[test]
    fn a_torn_last_line_is_dropped_and_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub").join("rows.jsonl");
        let (mut appender, rows) = Appender::open::<Row>(&path, 0).unwrap();
        assert!(rows.is_empty());
        appender.append(&row("a", 0.1)).unwrap();
        appender.append(&row("b", 0.2)).unwrap();
        appender.sync().unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in 1..10 {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let (mut appender, rows) = Appender::open::<Row>(&path, 1).unwrap();
            assert_eq!(rows, [row("a", 0.1)]);
            appender.append(&row("b", 0.2)).unwrap();
            assert_eq!(appender.lines(), 2);
            assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
        let error = Appender::open::<Row>(&path, 3).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("has 2 whole lines, the checkpoint says 3"),
            "{error}"
        );
        // Refusing changes nothing.
        assert_eq!(std::fs::read(&path).unwrap(), whole);
    }

    #[test]
    fn an_unwritable_destination_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = write_atomically(&file.join("rows.jsonl"), b"x")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("cannot write ") && error.contains("file/rows.jsonl"),
            "{error}"
        );
    }

    proptest! {
        // Each case waits for the disk four times.
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn lines_come_back_as_they_went(rows in prop::collection::vec((".*", -1e300f64..1e300), 0..20)) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("rows.jsonl");
            let rows: Vec<Row> = rows.into_iter().map(|(name, value)| Row { name, value }).collect();
            write_lines(&path, &rows).unwrap();
            let first = std::fs::read(&path).unwrap();
            let back = read_lines::<Row>(&path).unwrap();
            prop_assert_eq!(&back, &rows);
            write_lines(&path, &back).unwrap();
            prop_assert_eq!(std::fs::read(&path).unwrap(), first);
        }
    }
}
