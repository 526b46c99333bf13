//! What a run was: `manifest.json`.
//!
//! `command`, `commit`, `machine`, `versions`, `started`, `seconds` and `peak_memory_bytes` tell
//! of the circumstances and differ between two runs of one profile and seed; the rest does not.

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
    /// The command line.
    #[serde(default)]
    pub command: Vec<String>,
    /// The commit that the command was built from, `-dirty` appended if the tree differed.
    #[serde(default)]
    pub commit: Option<String>,
    /// BLAKE3 of the command's executable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<String>,
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
    /// BLAKE3 of the resolved settings, hex: runs of one table share it.
    pub hash: String,
    /// The settings themselves, after `--set`.
    pub resolved: serde_json::Value,
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
            command: std::env::args().collect(),
            commit: None,
            binary: None,
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
