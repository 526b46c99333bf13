//! What a run was: `manifest.json`.
//!
//! `command`, `commit`, `binary`, `machine`, `versions`, `started`, `seconds`, `peak_memory_bytes`
//! and the checksum of the metrics (which hold seconds) tell of the circumstances and differ between two runs of one profile and seed; the rest does not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::record::ArmName;

/// The layout of the files of a run that this version writes and reads.
pub const FORMAT: u32 = 1;

/// A run: one arm with one seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The layout of the files, [`FORMAT`].
    pub format: u32,
    /// The arm.
    pub arm: ArmName,
    /// The seed.
    pub seed: u64,
    /// The profile as it was resolved.
    pub profile: ProfileStamp,
    /// BLAKE3 of the weights by role: `student-base`, `teacher`, `cold-start`, `final`.
    #[serde(default)]
    pub checkpoints: BTreeMap<String, String>,
    /// Updates of the policy by stage.
    #[serde(default)]
    pub updates: BTreeMap<String, u64>,
    /// Questions asked by test set.
    #[serde(default)]
    pub questions: BTreeMap<String, u64>,
    /// Anything that was mended, clipped, missing or left out, counted.
    #[serde(default)]
    pub counts: BTreeMap<String, u64>,
    /// What the tokens of each role (`policy`, `judge`) cost, in the currency of the prices given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub costs: BTreeMap<String, f64>,
    /// The command line; paths below the folder that it was given in are relative to it.
    #[serde(default)]
    pub command: Vec<String>,
    /// The commit that the executable was built from, `-dirty` appended if the tree differed then.
    #[serde(default)]
    pub commit: Option<String>,
    /// BLAKE3 of the executable that ran, hex; absent where it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<String>,
    /// The commit that froze the settings of the study which this run is counted in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preregistration: Option<String>,
    /// Lines and checksums of the files beside this one, by name; empty while the run is not
    /// finished and in manifests of earlier versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, FileStamp>,
    /// What a reader of the numbers has to know, a sentence each: for example what a checkpoint's
    /// generation config asked for and was ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The machine.
    #[serde(default)]
    pub machine: Machine,
    /// Versions of what shapes the numbers: `iapo`, `candle`, `rustc`.
    #[serde(default)]
    pub versions: BTreeMap<String, String>,
    /// When it started, seconds since 1970.
    #[serde(default)]
    pub started: u64,
    /// Seconds by part (`rollout`, `update`, `attribution`, `evaluation`, …), resumed parts added.
    #[serde(default)]
    pub seconds: BTreeMap<String, f64>,
    /// The most memory that the process held, bytes.
    #[serde(default)]
    pub peak_memory_bytes: Option<u64>,
}

/// The profile of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileStamp {
    /// Its name: `micro`, `smoke`, `paper`, or a file's stem.
    pub name: String,
    /// BLAKE3 of the resolved settings that this run reads, hex. Settings that only other arms
    /// read are not in it, so arms of one profile may differ here.
    pub hash: String,
    /// The settings themselves, after `--set`.
    pub resolved: serde_json::Value,
}

impl ProfileStamp {
    /// Settings of which arms have their own, or which say what was to be run.
    const OWN: [&str; 4] = ["arms", "seeds", "first_seed", "name"];

    /// The first setting that both profiles have with different values, in words; `None` where
    /// runs of the two may stand in one table. A setting that only one has is no conflict: a newer
    /// version wrote it.
    pub fn conflict(&self, other: &ProfileStamp) -> Option<String> {
        fn differing(path: &str, a: &serde_json::Value, b: &serde_json::Value) -> Option<String> {
            match (a.as_object(), b.as_object()) {
                (Some(first), Some(second)) => first.iter().find_map(|(key, value)| {
                    let found = second.get(key)?;
                    if path.is_empty() && ProfileStamp::OWN.contains(&key.as_str()) {
                        return None;
                    }
                    let dot = if path.is_empty() { "" } else { "." };
                    differing(&format!("{path}{dot}{key}"), value, found)
                }),
                _ => (a != b).then(|| format!("{path} is {a} and {b}")),
            }
        }
        differing("", &self.resolved, &other.resolved)
    }
}

/// What a file of a finished run must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileStamp {
    /// Lines, each ended by a newline.
    pub lines: u64,
    /// BLAKE3 of the bytes, hex; of a compressed file those that it was made from.
    pub blake3: String,
}

impl FileStamp {
    /// The stamp of a file's (decompressed) bytes.
    pub fn of(bytes: &[u8]) -> Self {
        FileStamp {
            lines: bytes.iter().filter(|byte| **byte == b'\n').count() as u64,
            blake3: blake3::hash(bytes).to_hex().to_string(),
        }
    }
}

impl Manifest {
    /// A manifest of this machine, without times yet.
    pub fn new(arm: ArmName, seed: u64, profile: ProfileStamp) -> Self {
        let started = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        Manifest {
            format: FORMAT,
            arm,
            seed,
            profile,
            checkpoints: BTreeMap::new(),
            updates: BTreeMap::new(),
            questions: BTreeMap::new(),
            counts: BTreeMap::new(),
            costs: BTreeMap::new(),
            command: command_line(),
            commit: None,
            binary: executable_hash(),
            preregistration: None,
            files: BTreeMap::new(),
            notes: Vec::new(),
            machine: Machine::detect(),
            versions: BTreeMap::new(),
            started,
            seconds: BTreeMap::new(),
            peak_memory_bytes: None,
        }
    }

    /// Total seconds over all parts.
    pub fn total_seconds(&self) -> f64 {
        self.seconds.values().sum()
    }
}

/// BLAKE3 of the executable that is running, hex; read once a process.
fn executable_hash() -> Option<String> {
    static HASH: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    HASH.get_or_init(|| {
        // This link leads to the file that was started, also where another has taken its place.
        let running = std::path::Path::new("/proc/self/exe");
        let file = std::fs::File::open(running)
            .or_else(|_| std::fs::File::open(std::env::current_exe()?))
            .ok()?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file).ok()?;
        Some(hasher.finalize().to_hex().to_string())
    })
    .clone()
}
/// The words of the running command as anybody could type them: the program by its name, and no word
/// of where on this machine it runs.
fn command_line() -> Vec<String> {
    let here = std::env::current_dir().unwrap_or_default();
    std::env::args()
        .enumerate()
        .map(|(place, word)| {
            let path = std::path::Path::new(&word);
            let shown = match place {
                0 => path.file_name().map(std::path::Path::new),
                _ => path.strip_prefix(&here).ok().filter(|_| path.is_absolute()),
            };
            match shown.map(|path| path.to_string_lossy().into_owned()) {
                Some(shown) if shown.is_empty() => ".".to_string(),
                Some(shown) => shown,
                None => word,
            }
        })
        .collect()
}
