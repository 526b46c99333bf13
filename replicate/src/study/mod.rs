//! A study: parts of many cells, each an arm with a seed, made by any number of processes in one
//! folder.
//!
//! Three files say what it is: `profile.toml` (what every cell starts from), `parts.toml` (which arms
//! and seeds with which changes) and `preregistration.toml` (seeds, settings, tests, rule). The counted
//! parts are refused while a setting is undecided or one of the three is not committed as it is.
//!
//! ```text
//! <out>/<part>/<label>/<arm>/seed-<n>/   a cell: an arm's run, its log, its error if it failed
//! <out>/shared/<stage>-<hash>/seed-<n>/  teachers, cold starts and the untrained base, by settings
//! <out>/jobs.jsonl                       what is still to be made, one cell per line
//! <out>/report.md                        what the finished cells say
//! ```
//!
//! A cell is finished when its manifest is there with the hash of its settings; nothing else is
//! remembered. Locks are the system's, so they end with their holder, however it ends. On several
//! machines the folder must be on a file system that carries locks between them.

mod cell;
mod costs;
mod engine;
mod files;
mod freeze;
mod job;
mod local;
mod pack;
mod part;
mod plan;
mod preregistration;
mod report;
mod status;

pub use cell::StudyCell;
pub use costs::{CostEstimate, Costs};
pub use engine::{Invocation, hyperqueue_command, slurm_script};
pub use freeze::Freeze;
pub use job::{Job, Made, make, write_jobs};
pub use local::{Ended, Summary, Workers, estimated_minutes, work};
pub use pack::pack;
pub use part::{Part, Phase, Search, Variant};
pub use plan::Study;
pub use preregistration::{
    Answers, Correction, DecisionRule, IntervalRule, Measure, Preregistration, PrimaryTest,
    SeedRange, Seeds, UNDECIDED, Worlds,
};
pub use report::{REPORT, report, write_report};
pub use status::{Counts, State, state};
