//! The jobs of a study on this machine: several processes, each with one cell at a time.
//!
//! A process that dies costs its cell. Cells whose shared stages another process is making are left for
//! later as long as there are others, so that no process waits without need.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use crate::{Result, error};

use super::cell::StudyCell;
use super::files;
use super::job::Job;

/// How long nobody looks whether a process has ended.
const PAUSE: Duration = Duration::from_millis(20);

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The cell is finished.
    Done,
    /// Another process has the cell.
    Elsewhere,
    /// Why not.
    Failed(String),
}

/// What became of the jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Cells that were made.
    pub done: usize,
    /// Cells that processes of somebody else are at work on.
    pub elsewhere: Vec<String>,
    /// Cells that failed, with the reason.
    pub failed: Vec<(String, String)>,
}

/// How jobs are worked on.
pub struct Workers<'w> {
    /// Processes side by side.
    pub count: usize,
    /// Starts the process of a job, whose words go into a file.
    pub start: &'w dyn Fn(&Job, File) -> std::io::Result<Child>,
    /// What the end of a process means.
    pub ended: &'w dyn Fn(ExitStatus) -> Ended,
}

/// A process at work.
struct Running {
    index: usize,
    child: Child,
    needs: Vec<PathBuf>,
    since: Instant,
}

/// Minutes that jobs take.
pub fn estimated_minutes(jobs: &[Job], workers: usize) -> f64 {
    jobs.iter().map(|job| job.seconds).sum::<f64>() / 60.0 / workers.max(1) as f64
}

/// Works on all jobs, `cells` being theirs in the same order; a line about each that ends is given to
/// `say`.
///
/// # Errors
/// A folder that cannot be written. What happens to a job is no error, it stands in the summary.
pub fn work(
    jobs: &[Job],
    cells: &[&StudyCell],
    out: &Path,
    workers: &Workers<'_>,
    say: &mut dyn FnMut(&str),
) -> Result<Summary> {
    let started = Instant::now();
    let mut summary = Summary::default();
    let mut waiting: Vec<usize> = (0..jobs.len()).collect();
    let mut running: Vec<Running> = Vec::new();
    let mut expected_done = 0.0;
    let expected: f64 = jobs.iter().map(|job| job.seconds).sum();
    while !waiting.is_empty() || !running.is_empty() {
        while running.len() < workers.count.max(1) && !waiting.is_empty() {
            let place = next(&waiting, &running, cells, out);
            let index = waiting.remove(place);
            let needs = cells[index].needs(out);
            match start(&jobs[index], cells[index], out, workers) {
                Ok(child) => running.push(Running {
                    index,
                    child,
                    needs,
                    since: Instant::now(),
                }),
                Err(error) => {
                    let reason = format!("its process cannot be started: {error}");
                    note(cells[index], out, &reason)?;
                    summary.failed.push((jobs[index].cell.clone(), reason));
                }
            }
        }
        let mut place = 0;
        while place < running.len() {
            let status = match running[place].child.try_wait() {
                Ok(None) => {
                    place += 1;
                    continue;
                }
                Ok(Some(status)) => (workers.ended)(status),
                Err(error) => Ended::Failed(format!("its process is lost: {error}")),
            };
            let Running { index, since, .. } = running.remove(place);
            let id = &jobs[index].cell;
            let what = match status {
                Ended::Done => {
                    summary.done += 1;
                    format!("took {:.0} s", since.elapsed().as_secs_f64())
                }
                Ended::Elsewhere => {
                    summary.elsewhere.push(id.clone());
                    "another process has it".to_owned()
                }
                Ended::Failed(reason) => {
                    let reason = note(cells[index], out, &reason)?;
                    summary.failed.push((id.clone(), reason.clone()));
                    format!("failed: {reason}")
                }
            };
            expected_done += jobs[index].seconds;
            let ended = summary.done + summary.elsewhere.len() + summary.failed.len();
            let failed = match summary.failed.len() {
                0 => String::new(),
                failed => format!(", {failed} failed"),
            };
            let left = match ended == jobs.len() || expected_done <= 0.0 {
                true => String::new(),
                false => {
                    let pace = started.elapsed().as_secs_f64() / expected_done;
                    let minutes = (expected - expected_done) * pace / 60.0;
                    format!(", about {minutes:.0} min left")
                }
            };
            say(&format!(
                "[{ended}/{}{failed}{left}] {id} {what}",
                jobs.len()
            ));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(summary)
}

/// The place in `waiting` of the first job whose shared stages nobody is making; else the first.
fn next(waiting: &[usize], running: &[Running], cells: &[&StudyCell], out: &Path) -> usize {
    let busy: BTreeSet<&PathBuf> = running.iter().flat_map(|one| &one.needs).collect();
    if busy.is_empty() {
        return 0;
    }
    let free = |index: &usize| {
        let needs = cells[*index].needs(out);
        !needs.iter().any(|folder| busy.contains(folder))
    };
    waiting.iter().position(free).unwrap_or(0)
}

fn start(job: &Job, cell: &StudyCell, out: &Path, workers: &Workers<'_>) -> std::io::Result<Child> {
    let folder = cell.folder(out);
    std::fs::create_dir_all(&folder)?;
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join(files::LOG))?;
    (workers.start)(job, log)
}

/// Leaves the reason in the cell's folder, where its process has not left a better one.
fn note(cell: &StudyCell, out: &Path, reason: &str) -> Result<String> {
    let path = cell.folder(out).join(files::ERROR);
    if path.exists() {
        let known = files::read_text(&path)?;
        return Ok(known.trim().to_owned());
    }
    let parent = cell.folder(out);
    std::fs::create_dir_all(&parent).map_err(error::at(&parent))?;
    results::write_atomically(&path, format!("{reason}\n").as_bytes())?;
    Ok(reason.to_owned())
}
