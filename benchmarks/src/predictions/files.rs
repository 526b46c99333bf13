//! The files of rows: predictions read in blocks of whole lines, scored rows written whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use serde_json::Value;

use super::error::PredictionsError;
use crate::foreign_json;

/// Bytes read at a time, few enough to stay in a cache. A longer row makes its block longer.
const BLOCK: usize = 1 << 20;

/// Longest row, and longest JSON document, in bytes. A row takes a few times its length in memory, a
/// document twenty times.
const MAX_ROW: usize = 64 << 20;
const MAX_DOCUMENT: u64 = 256 << 20;

/// What some editors put before the text of a UTF-8 file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Hands over a file's lines, block by block. A JSON document is one block, one row per line.
pub(super) fn each_block(
    input: &Path,
    mut each: impl FnMut(&str) -> Result<(), PredictionsError>,
) -> Result<(), PredictionsError> {
    let read_error = |source| PredictionsError::Read {
        path: input.to_owned(),
        source,
    };
    let mut file = File::open(input).map_err(read_error)?;
    let mut block = Vec::new();
    let mut at_start = true;
    let mut lines = 0;
    let too_long = |line, what: &str| PredictionsError::Row {
        path: input.to_owned(),
        line,
        problem: format!("{what}; is it a predictions file?"),
    };
    loop {
        let before = block.len();
        block.reserve(BLOCK);
        Read::by_ref(&mut file)
            .take(BLOCK as u64)
            .read_to_end(&mut block)
            .map_err(read_error)?;
        let ended = block.len() == before;
        if at_start && block.starts_with(BYTE_ORDER_MARK) {
            block.drain(..BYTE_ORDER_MARK.len());
        }
        if at_start && is_one_document(input, &block) {
            Read::by_ref(&mut file)
                .take(MAX_DOCUMENT)
                .read_to_end(&mut block)
                .map_err(read_error)?;
            if block.len() as u64 >= MAX_DOCUMENT {
                return Err(too_long(1, "the JSON document is longer than 256 MiB"));
            }
            return each(&document_rows(input, &block)?);
        }
        at_start = false;
        let whole = match block[before..].iter().rposition(|&byte| byte == b'\n') {
            _ if ended => block.len(),
            Some(at) => before + at + 1,
            None if block.len() > MAX_ROW => {
                return Err(too_long(lines + 1, "the row is longer than 64 MiB"));
            }
            None => continue,
        };
        let text = str::from_utf8(&block[..whole])
            .map_err(|error| read_error(io::Error::new(io::ErrorKind::InvalidData, error)))?;
        lines += text.lines().count();
        each(text)?;
        block.drain(..whole);
        if ended {
            return Ok(());
        }
    }
}

/// Whether the file is one JSON document: a list, or an object in a file named `.json`.
fn is_one_document(path: &Path, start: &[u8]) -> bool {
    match start.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => true,
        Some(b'{') => path
            .extension()
            .is_some_and(|extension| extension == "json"),
        _ => false,
    }
}

/// The rows of a JSON document, a line each.
fn document_rows(path: &Path, bytes: &[u8]) -> Result<String, PredictionsError> {
    let problem = |line, problem| PredictionsError::Row {
        path: path.to_owned(),
        line,
        problem,
    };
    let document: Value = serde_json::from_slice(bytes).map_err(|error| {
        let told = foreign_json::problem(&String::from_utf8_lossy(bytes), &error);
        problem(error.line(), format!("not a JSON document: {told}"))
    })?;
    let rows = match document {
        Value::Array(rows) => rows,
        Value::Object(mut object) => match object.remove("instances") {
            Some(Value::Array(rows)) => rows,
            _ => object.into_iter().map(|(_, row)| row).collect(),
        },
        _ => {
            return Err(problem(
                1,
                "expected a list or an object of rows".to_owned(),
            ));
        }
    };
    Ok(rows.iter().map(|row| format!("{row}\n")).collect())
}

/// Lets `fill` write a file that appears only when it has succeeded. A pipe, a terminal or a device
/// is written to as it is, and a link stays a link.
pub(super) fn write_whole<T>(
    output: &Path,
    fill: impl FnOnce(&mut (dyn Write + Send)) -> Result<T, PredictionsError>,
) -> Result<T, PredictionsError> {
    let write_error = |source| PredictionsError::Write {
        path: output.to_owned(),
        source,
    };
    let linked = fs::canonicalize(output);
    let target = linked.as_deref().unwrap_or(output);
    if fs::metadata(target).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        let mut special = OpenOptions::new()
            .write(true)
            .open(target)
            .map_err(write_error)?;
        return fill(&mut special);
    }
    let folder = target
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Temporary files are private by default; results are for everyone the umask allows.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let part = builder
        .tempfile_in(folder.unwrap_or(Path::new(".")))
        .map_err(write_error)?;
    let mut writer = BufWriter::with_capacity(1 << 18, part);
    let value = fill(&mut writer)?;
    let part = writer
        .into_inner()
        .map_err(|error| write_error(error.into_error()))?;
    part.persist(target)
        .map_err(|error| write_error(error.error))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(name: &str, bytes: &[u8]) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("written");
        let mut text = String::new();
        each_block(&path, |block| {
            text += block;
            Ok(())
        })
        .expect("read");
        text
    }

    #[test]
    fn a_byte_order_mark_is_passed_over() {
        assert_eq!(blocks("a.jsonl", b"\xef\xbb\xbf{}\n{}"), "{}\n{}");
        assert_eq!(blocks("a.json", b"\xef\xbb\xbf[{}, {}]"), "{}\n{}\n");
        assert_eq!(blocks("a.jsonl", b"\xef\xbb\xbf"), "");
        assert_eq!(blocks("a.jsonl", b""), "");
    }

    #[cfg(unix)]
    #[test]
    fn the_umask_decides_who_reads_and_devices_stay() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().expect("a folder");
        let (plain, ours) = (folder.path().join("plain"), folder.path().join("ours"));
        fs::write(&plain, "").expect("written");
        write_whole(&ours, |out| {
            out.write_all(b"x").expect("written");
            Ok(())
        })
        .expect("written");
        let mode = |path| fs::metadata(path).expect("a file").permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));

        let device = folder.path().join("device");
        std::os::unix::fs::symlink("/dev/null", &device).expect("linked");
        write_whole(&device, |out| {
            out.write_all(b"x").expect("written");
            Ok(())
        })
        .expect("written");
        assert!(device.is_symlink() && !Path::new("/dev/null").is_file());
    }
}
