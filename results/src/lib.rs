//! Records, statistics, tables and plots of a run.
//!
//! A run is a folder `<out>/<arm>/seed-<n>/` with a manifest, a line of metrics an update and a
//! record a question. Everything else here is a function of those files alone.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod agreement;
mod check;
mod claim;
mod delta;
mod episode;
mod errata;
mod error;
mod files;
#[cfg(test)]
mod fixture;
mod format;
mod integrity;
mod json;
mod machine;
mod manifest;
mod metrics;
mod numbers;
mod options;
mod packed;
mod paper;
pub mod plot;
mod record;
mod repeats;
mod report;
mod run_comparison;
mod run_kind;
mod runs;
mod settings;
mod shares;
pub mod statistics;
mod stored;
mod summary;
mod table;
mod table_rows;
mod terminal;
mod unfinished;

pub use agreement::{Agreement, agreement, agreement_table};
pub use check::{Finding, Level, check};
pub use claim::{Claim, Comparison, Decision};
pub use episode::{
    CallOutcome, CallShares, Decoding, EPISODE_FORMAT, EpisodeFormat, EpisodeRecord, TrainingSample,
};
pub use errata::Errata;
pub use error::{Error, Result};
pub use files::{
    Appender, Checked, read_json, read_lines, write_atomically, write_json, write_lines,
};
pub use format::{Format, differences, markdown_table, plain_table};
pub use integrity::{
    EPISODES, GROUPS, MANIFEST, METRICS, RECORDS, VALIDATION, verify, write_manifest,
};
pub use machine::{Cuda, Machine, peak_memory_bytes};
pub use manifest::{FORMAT, FileStamp, Manifest, ProfileStamp};
pub use metrics::{Alignment, AttributionMetrics, UpdateMetrics, UpdateTokens, Validation};
pub use numbers::{NOT_MEASURED, number, p_value, percent, points};
pub use options::TableOptions;
pub use packed::{gzip, pack, pack_lines, unpack};
pub use paper::{Paper, PaperClaim};
pub use plot::{Curve, curves};
pub use record::{ArmName, BlockShares, Record, SETS, SampledAnswer};
pub use repeats::{Repeats, repeats, repeats_table};
pub use report::{CURVES, DIFFERENCES, REPORT, RESULTS, write_pictures, write_report};
pub use run_comparison::{ArmComparison, DifferingSetting, FlippedQuestion, Flips, RunComparison};
pub use run_kind::RunKind;
pub use runs::{Run, RunHashes, Runs, run_folder, run_hashes};
pub use settings::{SettingDifference, differing_settings};
pub use shares::{share_name, share_of};
pub use stored::{compressed, is_stored, read_stored, remove_stored};
pub use table::{PaperRow, Table, TableRow};
pub use terminal::wrapped;
pub use unfinished::UnfinishedRun;
