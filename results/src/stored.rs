//! Files that may be kept compressed: `records.jsonl`, or `records.jsonl.gz` in its place.
//!
//! Recorded runs are kept with `gzip -9n`; checksums and line counts are those of the text, so a
//! manifest holds for both.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// No file of a run is larger than this; a compressed one that claims more is not read to its end.
const LARGEST: u64 = 4 << 30;

/// The compressed form's path.
pub fn compressed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(".gz");
    PathBuf::from(name)
}

/// Whether a file is there, as it is or compressed.
pub fn is_stored(path: &Path) -> bool {
    path.is_file() || compressed(path).is_file()
}

/// The bytes of a file, decompressed where only its compressed form is there.
///
/// # Errors
/// Neither form can be read, both are there, or the compressed one is damaged.
pub fn read_stored(path: &Path) -> Result<Vec<u8>> {
    let packed = compressed(path);
    if !packed.is_file() {
        return std::fs::read(path).map_err(Error::io("read", path));
    }
    if path.is_file() {
        return Err(Error::Damaged {
            path: path.to_path_buf(),
            expected: "one form of it".to_string(),
            found: format!("{} beside it", packed.display()),
            advice: "delete the one that is not wanted".to_string(),
        });
    }
    let file = std::fs::File::open(&packed).map_err(Error::io("read", &packed))?;
    let mut bytes = Vec::new();
    flate2::read::MultiGzDecoder::new(std::io::BufReader::new(file))
        .take(LARGEST)
        .read_to_end(&mut bytes)
        .map_err(|source| Error::Damaged {
            path: packed.clone(),
            expected: "a whole gzip file".to_string(),
            found: source.to_string(),
            advice: "take the file again from where the run was recorded".to_string(),
        })?;
    Ok(bytes)
}
