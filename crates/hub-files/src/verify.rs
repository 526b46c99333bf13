//! What a file must be, and what it is.
//!
//! Git names a file by the SHA-1 of `blob <size>\0` and its bytes. Git LFS keeps a pointer in git
//! instead of a large file, three lines that hold the file's SHA-256 and size; git then names the
//! pointer (git-lfs, `docs/spec.md`).

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::error::{DownloadError, io};

/// A file of a repository, as its host describes it.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub path: String,
    pub size: u64,
    pub name: Name,
}

/// A name that only the file's content can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Sha256(String),
    /// Git's name of the file.
    Blob(String),
    /// Git's name of the LFS pointer to the file.
    Pointer(String),
}

/// What the lock keeps of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checked {
    pub bytes: u64,
    pub sha256: String,
}

/// A file on this disk.
#[derive(Debug)]
pub(crate) struct Measured {
    pub checked: Checked,
    blob: String,
}

impl Measured {
    /// Reads a file once.
    pub fn of(file: &Path) -> Result<Self, DownloadError> {
        let mut opened = File::open(file).map_err(|error| io(file, error))?;
        let bytes = opened.metadata().map_err(|error| io(file, error))?.len();
        let mut blob = blob_of(bytes);
        let mut sha256 = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = opened.read(&mut buffer).map_err(|error| io(file, error))?;
            if read == 0 {
                break;
            }
            sha256.update(&buffer[..read]);
            blob.update(&buffer[..read]);
        }
        Ok(Measured {
            checked: Checked {
                bytes,
                sha256: hex(&sha256.finalize()),
            },
            blob: hex(&blob.finalize()),
        })
    }

    /// What is wrong with it as the file `listed`; `None` when it is that file.
    pub fn fault(&self, listed: &Listed) -> Option<String> {
        let Checked { bytes, sha256 } = &self.checked;
        if *bytes != listed.size {
            return Some(format!("it has {bytes} bytes instead of {}", listed.size));
        }
        let (kind, expected, found) = match &listed.name {
            Name::Sha256(expected) => ("SHA-256", expected, sha256.clone()),
            Name::Blob(expected) => ("git object", expected, self.blob.clone()),
            Name::Pointer(expected) => ("LFS pointer", expected, pointer(sha256, *bytes)),
        };
        (found != *expected).then(|| format!("its {kind} is {found} instead of {expected}"))
    }
}

/// Git's name of the LFS pointer to a file.
fn pointer(sha256: &str, bytes: u64) -> String {
    let text =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {bytes}\n");
    let mut blob = blob_of(text.len() as u64);
    blob.update(&text);
    hex(&blob.finalize())
}

fn blob_of(bytes: u64) -> Sha1 {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {bytes}\0"));
    hasher
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A listing of the real hub, as a public repository's tests quote it
    /// (TheBloke/Llama-2-7B-Chat-GGUF).
    #[test]
    fn the_hub_names_pointers_as_git_does() {
        let sha256 = "c0dd304d761e8e05d082cc2902d7624a7f87858fdfaa4ef098330ffe767ff0d3";
        assert_eq!(
            pointer(sha256, 2_825_940_672),
            "1a51dee18d79e82a14574214c505cd004fc010de"
        );
    }

    #[test]
    fn every_way_to_be_another_file_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        std::fs::write(&file, "hello\n").unwrap();
        let measured = Measured::of(&file).unwrap();
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        // `git hash-object`.
        let blob = "ce013625030ba8dba906f756967f9e9ca394464a";
        let fault = |size, name| {
            measured.fault(&Listed {
                path: "a".to_owned(),
                size,
                name,
            })
        };
        for name in [
            Name::Sha256(sha256.to_owned()),
            Name::Blob(blob.to_owned()),
            Name::Pointer(pointer(sha256, 6)),
        ] {
            assert_eq!(fault(6, name.clone()), None);
            assert_eq!(fault(7, name).unwrap(), "it has 6 bytes instead of 7");
        }
        let wrong = |name| fault(6, name).unwrap();
        assert!(wrong(Name::Sha256("0".repeat(64))).contains(sha256));
        assert!(wrong(Name::Blob(sha256.to_owned())).contains(blob));
        assert!(wrong(Name::Pointer(blob.to_owned())).starts_with("its LFS pointer is "));
    }
}
