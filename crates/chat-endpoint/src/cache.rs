//! Completions on disk, one JSON object a line, appended and never rewritten.
//!
//! A process that is killed while it writes leaves a last line without its newline; opening the
//! file again drops that line and nothing else. One process at a time holds the file.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::finish::end;

/// How often, and how far apart, a locked file is tried again: for half a second.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(25);

/// What is kept of a completion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cached {
    /// The completion's text.
    pub text: String,
    /// Whether the model ended it, not the length limit.
    pub stopped: bool,
    /// How the server said that it ended; `None` in entries of local models and in those of
    /// versions that did not keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<String>,
    /// The model's name as the server gave it.
    pub served_by: Option<String>,
    /// Tokens of the prompt, where the server counts them.
    pub prompt_tokens: Option<u64>,
    /// Tokens of the completion, where the server counts them.
    pub completion_tokens: Option<u64>,
}

impl Cached {
    /// Whether a server said how it ended, and that end counts. What was kept before ends were
    /// may have been half an answer, unless the length limit ended it.
    pub(crate) fn ended_well(&self) -> bool {
        match &self.finish_reason {
            Some(reason) => end(reason).is_some(),
            None => !self.stopped && !self.text.is_empty(),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Line {
    /// In hexadecimal.
    key: String,
    #[serde(flatten)]
    cached: Cached,
}

/// A cache file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// It cannot be opened, read or written.
    #[error("cannot {action} the cache {}", .path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The cache file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("the cache {} is in use by another run: wait for it, or name another file", .path.display())]
    InUse {
        /// The cache file.
        path: PathBuf,
    },
    /// A complete line is not an entry.
    #[error("{}:{line}: expected a cached completion, found something else ({reason}); delete the line to ask again", .path.display())]
    Damaged {
        /// The cache file.
        path: PathBuf,
        /// Line number from 1.
        line: usize,
        /// What the JSON parser said.
        reason: String,
    },
}

/// An open cache file, shared by the threads of one client.
#[derive(Debug)]
pub struct Cache {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    length: u64,
    entries: HashMap<blake3::Hash, Cached>,
}

impl Cache {
    /// Opens the file, or makes it (and its folder) where there is none.
    ///
    /// # Errors
    /// [`CacheError`]: the file cannot be opened, is held by another process, or has a complete
    /// line that is no entry.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, CacheError> {
        let path = path.into();
        let io = |action, source| CacheError::Io {
            action,
            path: path.clone(),
            source,
        };
        if let Some(folder) = path.parent().filter(|folder| *folder != Path::new("")) {
            std::fs::create_dir_all(folder).map_err(|source| io("make the folder of", source))?;
        }
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .map_err(|source| io("open", source))?;
        let mut tries = 0;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                // A process that is being started holds its parent's files for a moment, and
                // one that was killed may still be ending.
                Err(TryLockError::WouldBlock) if tries < LOCK_TRIES => {
                    tries += 1;
                    std::thread::sleep(LOCK_PAUSE);
                }
                Err(TryLockError::WouldBlock) => return Err(CacheError::InUse { path }),
                Err(TryLockError::Error(source)) => return Err(io("lock", source)),
            }
        }

        let mut entries = HashMap::new();
        let mut length = 0;
        let mut reader = BufReader::new(&file);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let read = reader
                .read_until(b'\n', &mut line)
                .map_err(|source| io("read", source))?;
            if line.last() != Some(&b'\n') {
                break;
            }
            let damaged = |reason| CacheError::Damaged {
                path: path.clone(),
                line: number,
                reason,
            };
            let entry: Line =
                serde_json::from_slice(&line).map_err(|error| damaged(error.to_string()))?;
            let key = blake3::Hash::from_hex(&entry.key)
                .map_err(|error| damaged(format!("its key: {error}")))?;
            entries.insert(key, entry.cached);
            length += read as u64;
        }
        if !line.is_empty() {
            file.set_len(length)
                .map_err(|source| io("drop the torn last line of", source))?;
        }
        Ok(Cache {
            path,
            state: Mutex::new(State {
                file,
                length,
                entries,
            }),
        })
    }

    /// The completion kept under `key`.
    pub fn get(&self, key: &blake3::Hash) -> Option<Cached> {
        self.lock().entries.get(key).cloned()
    }

    /// Keeps a completion: on disk first, then for [`Cache::get`].
    ///
    /// # Errors
    /// [`CacheError::Io`] where it cannot be written; the file is then as it was before.
    pub fn put(&self, key: blake3::Hash, cached: Cached) -> Result<(), CacheError> {
        let entry = Line {
            key: key.to_hex().to_string(),
            cached,
        };
        let io = |source: std::io::Error| CacheError::Io {
            action: "write",
            path: self.path.clone(),
            source,
        };
        let mut line = serde_json::to_vec(&entry).map_err(|error| io(error.into()))?;
        line.push(b'\n');
        let mut state = self.lock();
        if let Err(source) = state.file.write_all(&line) {
            // A disk that fills up may have taken half a line. Should the cut fail too, the
            // torn tail has no newline and the next opening drops it.
            let _ = state.file.set_len(state.length);
            return Err(io(source));
        }
        state.length += line.len() as u64;
        state.entries.insert(key, entry.cached);
        Ok(())
    }

    /// How many completions it holds.
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> (blake3::Hash, Cached) {
        let cached = Cached {
            text: text.to_owned(),
            stopped: true,
            finish_reason: Some("stop".to_owned()),
            served_by: None,
            prompt_tokens: Some(3),
            completion_tokens: None,
        };
        (blake3::hash(text.as_bytes()), cached)
    }

    /// For every place where a kill can cut the file: what was complete is there, the rest is
    /// gone, and the file can be written on.
    #[test]
    fn a_file_torn_anywhere_reopens_with_its_complete_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub").join("cache.jsonl");
        let texts = ["one", "zwei\n", "три \u{1f600}"];
        {
            let cache = Cache::open(&path).unwrap();
            for text in texts {
                let (key, cached) = entry(text);
                cache.put(key, cached).unwrap();
            }
            assert!(matches!(Cache::open(&path), Err(CacheError::InUse { .. })));
        }
        let whole = std::fs::read(&path).unwrap();
        for length in 0..=whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let complete = whole[..length]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count();
            {
                let cache = Cache::open(&path).unwrap();
                assert_eq!(cache.len(), complete, "cut at {length}");
                for text in &texts[..complete] {
                    let (key, cached) = entry(text);
                    assert_eq!(cache.get(&key), Some(cached));
                }
                let (key, cached) = entry("after");
                cache.put(key, cached).unwrap();
            }
            assert_eq!(Cache::open(&path).unwrap().len(), complete + 1);
        }
    }

    #[test]
    fn a_damaged_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache.jsonl");
        {
            let (key, cached) = entry("one");
            Cache::open(&path).unwrap().put(key, cached).unwrap();
        }
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(b"\0\0\0\n{\"key\":");
        std::fs::write(&path, &bytes).unwrap();
        let error = Cache::open(&path).unwrap_err().to_string();
        assert!(
            error.contains("cache.jsonl:2: expected a cached completion"),
            "{error}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "nothing overwritten");
    }
}
