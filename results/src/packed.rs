//! Finished files are kept compressed; one that has to grow again is unpacked first.

use std::io::Write;
use std::path::Path;

use flate2::{Compression, GzBuilder};

use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::stored::{compressed, read_stored};

/// Compresses a finished file: `<path>.gz` is there, whole, before `path` goes. Nothing where there
/// is no `path`. The same bytes give the same file.
pub fn pack(path: &Path) -> Result<()> {
    if !path.is_file() {
        return Ok(());
    }
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    write_atomically(&compressed(path), &gzip(&bytes))?;
    std::fs::remove_file(path).map_err(Error::io("remove", path))
}

/// Makes `path` plain again, to be added to. Where both forms are there, a kill came between the two
/// steps of [`pack`]: the plain one is whole and stays.
pub fn unpack(path: &Path) -> Result<()> {
    let packed = compressed(path);
    if !packed.is_file() {
        return Ok(());
    }
    if !path.is_file() {
        write_atomically(path, &read_stored(path)?)?;
    }
    std::fs::remove_file(&packed).map_err(Error::io("remove", &packed))
}

/// Bytes as gzip, without name and time.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), Compression::best());
    encoder
        .write_all(bytes)
        .and_then(|()| encoder.finish())
        .expect("writing to memory does not fail")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_file_comes_back_and_a_kill_between_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        pack(&path).unwrap();
        unpack(&path).unwrap();
        assert!(!path.exists() && !compressed(&path).exists());
        std::fs::write(&path, "{}\n").unwrap();
        pack(&path).unwrap();
        assert!(!path.exists());
        assert_eq!(read_stored(&path).unwrap(), b"{}\n");
        unpack(&path).unwrap();
        assert!(!compressed(&path).exists());
        assert_eq!(std::fs::read(&path).unwrap(), b"{}\n");
        // Killed after the compressed form was written.
        std::fs::write(compressed(&path), gzip(b"{}\n")).unwrap();
        unpack(&path).unwrap();
        assert!(path.exists() && !compressed(&path).exists());
    }
}
