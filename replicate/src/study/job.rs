//! A cell as a job: a line of `jobs.jsonl`, and its making.

use std::path::Path;
use std::time::Duration;

use results::Manifest;
use serde::{Deserialize, Serialize};

use crate::compute::Compute;
use crate::pretrain::pretrain;
use crate::profile::{RunRole, differing_keys};
use crate::progress::Report;
use crate::stages::{CellPlace, Replication, try_lock, wait_for_lock};
use crate::{Error, Result, error};

use super::cell::StudyCell;
use super::files::{self, problem};
use super::part::Phase;
use super::plan::Study;
use super::status::{State, state};

/// A cell to be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// The cell: `<part>/<label>/<arm>/<seed>`.
    pub cell: String,
    /// The hash of its settings.
    pub settings: String,
    /// Seconds of one core that it is expected to take.
    pub seconds: f64,
}

/// What came of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// The cell is finished.
    Done,
    /// Another process is at work on it.
    Elsewhere,
}

/// Writes `<out>/jobs.jsonl`, a job per line.
pub fn write_jobs(out: &Path, jobs: &[Job]) -> Result<()> {
    let path = out.join(files::JOBS);
    let mut text = String::new();
    for job in jobs {
        let line = serde_json::to_string(job).map_err(|error| problem(&path, error.to_string()))?;
        text.push_str(&line);
        text.push('\n');
    }
    Ok(results::write_atomically(&path, text.as_bytes())?)
}

/// Makes the cell of a job, a line of `jobs.jsonl`. An error also stands in the cell's folder until it
/// is tried again.
///
/// # Errors
/// A line that is no job, or one of other settings; a counted cell of a study that is not frozen; all
/// that training can meet.
pub fn make(
    study: &Study,
    line: &str,
    out: &Path,
    checkpoints: &Path,
    compute: Compute,
    report: &mut Report<'_>,
) -> Result<Made> {
    let job: Job = serde_json::from_str(line)
        .map_err(|error| problem(&out.join(files::JOBS), format!("no job: {error}: {line}")))?;
    let part = job.cell.split('/').next().unwrap_or_default();
    let counted = |part: &str| {
        let named = study.parts.iter().find(|known| known.name == part);
        named.is_some_and(|part| part.phase == Phase::Counted)
    };
    let freeze = match counted(part) {
        true => Some(study.freeze()?),
        false => None,
    };
    let cells = study.cells(freeze.as_ref())?;
    let Some(cell) = cells.iter().find(|cell| cell.id() == job.cell) else {
        return Err(problem(study.folder(), format!("has no cell {}", job.cell)));
    };
    if cell.hash != job.settings {
        return Err(problem(
            study.folder(),
            format!(
                "{} has the settings {}, the job says {}; make the jobs again with `iapo study`",
                job.cell, cell.hash, job.settings
            ),
        ));
    }
    let folder = cell.folder(out);
    let Some(_lock) = try_a_while(&folder)? else {
        return Ok(Made::Elsewhere);
    };
    let note = folder.join(files::ERROR);
    if note.exists() {
        std::fs::remove_file(&note).map_err(error::at(&note))?;
    }
    let commit = freeze.map(|freeze| freeze.commit);
    let made = match state(cell, out, commit.is_some())? {
        State::Done => return Ok(Made::Done),
        State::OtherSettings => Err(other_settings(cell, &folder)?),
        State::Damaged => {
            let manifest: Manifest = results::read_json(&folder.join(results::MANIFEST))?;
            results::verify(&folder, &manifest).map_err(Error::from)
        }
        State::Running | State::Failed | State::Missing => {
            train(cell, out, checkpoints, commit, compute, report)
        }
    };
    if let Err(error) = &made {
        results::write_atomically(&note, format!("{error}\n").as_bytes())?;
    }
    made.map(|()| Made::Done)
}

/// What differs between a finished run and its cell.
fn other_settings(cell: &StudyCell, folder: &Path) -> Result<Error> {
    let known: Manifest = results::read_json(&folder.join(results::MANIFEST))?;
    let now = cell.profile.stamp(RunRole::Arm(cell.arm.name()));
    let differing = differing_keys(&known.profile.resolved, &now.resolved);
    Ok(problem(
        folder,
        format!(
            "was made with other settings: {}; delete it, give another --out, or set them back",
            differing.join("; ")
        ),
    ))
}

/// Who asks for the state of a cell holds its lock for a moment.
fn try_a_while(folder: &Path) -> Result<Option<std::fs::File>> {
    for _ in 0..5 {
        if let Some(lock) = try_lock(folder)? {
            return Ok(Some(lock));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(None)
}

fn train(
    cell: &StudyCell,
    out: &Path,
    checkpoints: &Path,
    commit: Option<String>,
    compute: Compute,
    report: &mut Report<'_>,
) -> Result<()> {
    let shared = files::shared(out);
    let mut place = CellPlace {
        checkpoints,
        out: &cell.variant_folder(out),
        shared: &shared,
    };
    if let Some((recipe, folder)) = cell.base.as_ref().zip(cell.base_folder(out)) {
        let _lock = wait_for_lock(&folder)?;
        if !StudyCell::has_bases(&folder)
            && let Some(world) = &cell.profile.world
        {
            pretrain(recipe, world, &folder, report)?;
        }
        place.checkpoints = &shared;
    }
    let arm = cell.arm.name();
    Replication::cell(
        &cell.profile,
        arm,
        cell.seed,
        place,
        commit,
        compute,
        report,
    )?;
    Ok(())
}
