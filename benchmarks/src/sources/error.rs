//! Where data was read, and what was wrong there.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A record of a data file: its line, or its key in a JSON object, or its row in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Arc<Path>,
    /// Which record of it.
    pub record: RecordName,
}

/// How a record is found in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordName {
    /// A line, from 1.
    Line(usize),
    /// A key of the file's one object.
    Key(String),
    /// A row of a parquet file, from 1.
    Row(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match &self.record {
            RecordName::Line(line) => write!(f, "{file}:{line}"),
            RecordName::Key(key) => write!(f, "{file}, record '{key}'"),
            RecordName::Row(row) => write!(f, "{file}, row {row}"),
        }
    }
}

/// Data that cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Something was asked for that the loaded files do not hold.
    #[error("there are no {what} in what was loaded; name another data folder or set")]
    NoQuestions {
        /// What was asked for.
        what: &'static str,
    },
    /// No file of the questions in the folder.
    #[error("no data of {what} in {}: looked for {}", .folder.display(), .looked_for.join(", "))]
    NoData {
        /// The questions asked for.
        what: String,
        /// The folder given as `--data`.
        folder: PathBuf,
        /// The files any of which would have done.
        looked_for: Vec<String>,
    },
    /// VTool-R1's prompt without its template.
    #[error(
        "VTool-R1's template {}: {problem}; download it with `iapo replicate --data hub` (a build with \
         `--features hub`), take it from github.com/VTool-R1/VTool-R1 at 5318fb2, or set \
         data.prompt=\"ours\"",
        .file.display()
    )]
    NoTemplate {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file that cannot be read.
    #[error("cannot read {}", .file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Something that is not the JSON expected.
    #[error("{}{}: expected {expected}, found {found}", .file.display(), .line.map(|line| format!(":{line}")).unwrap_or_default())]
    Json {
        /// The file.
        file: PathBuf,
        /// The line, where the file has one record per line.
        line: Option<usize>,
        /// What should stand there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// A field that is missing or of another kind.
    #[error("{place}, field `{field}`: expected {expected}, found {found}")]
    Field {
        /// The record.
        place: Place,
        /// The field's path in the record.
        field: String,
        /// What should stand there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// Two questions of one set with the same id.
    #[error("{place}: the id '{id}' stands twice in this set")]
    DuplicateId {
        /// The second record.
        place: Place,
        /// Its id.
        id: String,
    },
    /// An image that is there and cannot be decoded.
    #[error("{place}: cannot decode the image {image}: {reason}")]
    Image {
        /// The record it belongs to.
        place: Place,
        /// The image's file or name.
        image: String,
        /// What the decoder said.
        reason: String,
    },
    /// A parquet file or an archive that cannot be read.
    #[error("cannot read {}: {reason}", .file.display())]
    Container {
        /// The file.
        file: PathBuf,
        /// What the reader said.
        reason: String,
    },
    /// A file that needs the feature `hub`.
    #[error("{} needs the feature `hub` ({use_of}): build with `--features hub`, or unpack it", .file.display())]
    NeedsHub {
        /// The file.
        file: PathBuf,
        /// What the feature is needed for.
        use_of: &'static str,
    },
    /// Files that cannot be downloaded, or are not what they should be.
    #[error(transparent)]
    Download(hub_files::DownloadError),
}
