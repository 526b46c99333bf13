//! The records of JSON, JSONL (also gzipped) and parquet files.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::error::{Place, RecordName, SourceError};
use super::row::{Row, describe};
use crate::foreign_json;

/// The records of a file, by its extension.
pub(super) fn read(file: &Path) -> Result<Vec<Row>, SourceError> {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("jsonl" | "gz") => read_lines(file),
        Some("json") => read_object(file),
        #[cfg(feature = "hub")]
        Some("parquet") => super::parquet::read(file),
        _ => Err(SourceError::NeedsHub {
            file: file.to_owned(),
            use_of: "parquet",
        }),
    }
}

/// Longest file of records, in bytes: its rows are kept in memory.
const MAX_BYTES: u64 = 1 << 30;

/// A file's text without the byte order mark that some editors put before it.
fn read_text(file: &Path) -> Result<String, SourceError> {
    let failed = |source| SourceError::Io {
        file: file.to_owned(),
        source,
    };
    let mut text = String::new();
    let opened = File::open(file).map_err(failed)?;
    let packed = file.extension().is_some_and(|extension| extension == "gz");
    let bytes: Box<dyn Read> = match packed {
        true => Box::new(flate2::read::GzDecoder::new(opened)),
        false => Box::new(opened),
    };
    let mut opened = bytes.take(MAX_BYTES);
    opened.read_to_string(&mut text).map_err(failed)?;
    if opened.limit() == 0 {
        return Err(SourceError::Json {
            file: file.to_owned(),
            line: None,
            expected: "records of less than 1 GiB",
            found: "a longer file; part it".to_owned(),
        });
    }
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    Ok(text)
}

/// One JSON object a line.
fn read_lines(file: &Path) -> Result<Vec<Row>, SourceError> {
    let text = read_text(file)?;
    let shared: Arc<Path> = file.into();
    let mut rows = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |found| SourceError::Json {
            file: file.to_owned(),
            line: Some(index + 1),
            expected: "a JSON object",
            found,
        };
        let fields = match serde_json::from_str(line) {
            Ok(Value::Object(fields)) => fields,
            Ok(other) => return Err(wrong(describe(&other))),
            Err(error) => return Err(wrong(foreign_json::problem(line, &error))),
        };
        rows.push(Row {
            place: Place {
                file: Arc::clone(&shared),
                record: RecordName::Line(index + 1),
            },
            fields,
            blobs: Vec::new(),
        });
    }
    Ok(rows)
}

/// One object of records by id.
fn read_object(file: &Path) -> Result<Vec<Row>, SourceError> {
    let wrong = |found| SourceError::Json {
        file: file.to_owned(),
        line: None,
        expected: "one JSON object {\"id\": {record}, …}",
        found,
    };
    let text = read_text(file)?;
    let records = match serde_json::from_str(&text) {
        Ok(Value::Object(records)) => records,
        Ok(other) => return Err(wrong(describe(&other))),
        Err(error) => return Err(wrong(foreign_json::problem(&text, &error))),
    };
    let shared: Arc<Path> = file.into();
    records
        .into_iter()
        .map(|(key, record)| match record {
            Value::Object(fields) => Ok(Row {
                place: Place {
                    file: Arc::clone(&shared),
                    record: RecordName::Key(key),
                },
                fields,
                blobs: Vec::new(),
            }),
            other => Err(wrong(format!("{} under '{key}'", describe(&other)))),
        })
        .collect()
}
