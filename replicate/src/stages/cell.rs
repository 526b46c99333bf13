//! One arm with one seed, as a job of its own: a cell of a study.

use std::path::{Path, PathBuf};

use results::RunHashes;

use super::Replication;
use super::folder::ExperimentFolder;
use crate::Result;
use crate::compute::Compute;
use crate::profile::Profile;
use crate::progress::Report;

/// Where a cell and what it shares with others are.
#[derive(Clone, Copy, Debug)]
pub struct CellPlace<'p> {
    /// The folder that the profile's checkpoints are relative to.
    pub checkpoints: &'p Path,
    /// The folder of the arm's run: `<out>/<arm>/seed-<n>`.
    pub out: &'p Path,
    /// The folder of the stages that cells share ([`super::shared_run`]).
    pub shared: &'p Path,
}

impl<'a> Replication<'a> {
    /// Trains and evaluates one arm with one seed, and whatever of the stages before it nobody has
    /// made yet; a finished one is left as it is. Several processes may do so side by side, for other
    /// arms or seeds.
    ///
    /// # Errors
    /// As [`Replication::open`] and [`Replication::run`].
    pub fn cell(
        profile: &'a Profile,
        arm: &str,
        seed: u64,
        place: CellPlace<'_>,
        preregistration: Option<String>,
        compute: Compute,
        report: &mut Report<'_>,
    ) -> Result<(PathBuf, RunHashes)> {
        let folder = || Ok(ExperimentFolder::of_cell(place.out, place.shared));
        let arms = vec![arm.to_owned()];
        let mut cell = Self::with_folder(profile, arms, place.checkpoints, folder, compute)?;
        cell.preregistration = preregistration;
        cell.check_runs(&[seed])?;
        cell.untrained(report)?;
        let (teacher, _) = cell.teacher(profile.schedule.teacher_seed(seed), report)?;
        let cold = cell.cold_start(seed, report)?;
        cell.arm(arm, seed, &teacher, &cold, report)
    }
}
