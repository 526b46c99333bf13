//! What has become of a cell, by its files alone.

use std::path::Path;

use results::Manifest;

use crate::Result;
use crate::stages::is_locked;

use super::cell::StudyCell;
use super::files;
use super::part::Phase;

/// What has become of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Finished, with the settings that it has now.
    Done,
    /// A process is at work on it.
    Running,
    /// It ended with an error.
    Failed,
    /// Finished with settings that have changed since.
    OtherSettings,
    /// Finished once; its files are not what was written.
    Damaged,
    /// Not made, or stopped on the way.
    Missing,
}

/// The state of a cell in `out`. A counted cell is compared with its settings only where `frozen`:
/// before, its world is not known.
///
/// # Errors
/// A manifest that cannot be read.
pub fn state(cell: &StudyCell, out: &Path, frozen: bool) -> Result<State> {
    let folder = cell.folder(out);
    let manifest = folder.join(results::MANIFEST);
    if results::is_stored(&manifest) {
        let manifest: Manifest = results::read_json(&manifest)?;
        let comparable = frozen || cell.phase != Phase::Counted;
        if !comparable || manifest.profile.hash != cell.hash {
            return Ok(State::OtherSettings);
        }
        return Ok(match results::verify(&folder, &manifest) {
            Ok(()) => State::Done,
            Err(_) => State::Damaged,
        });
    }
    if is_locked(&folder)? {
        return Ok(State::Running);
    }
    Ok(match folder.join(files::ERROR).exists() {
        true => State::Failed,
        false => State::Missing,
    })
}

/// Cells by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// [`State::Done`].
    pub done: usize,
    /// [`State::Running`].
    pub running: usize,
    /// [`State::Failed`].
    pub failed: usize,
    /// [`State::OtherSettings`].
    pub other_settings: usize,
    /// [`State::Damaged`].
    pub damaged: usize,
    /// [`State::Missing`].
    pub missing: usize,
}

impl Counts {
    /// Counts a cell.
    pub fn add(&mut self, state: State) {
        let place = match state {
            State::Done => &mut self.done,
            State::Running => &mut self.running,
            State::Failed => &mut self.failed,
            State::OtherSettings => &mut self.other_settings,
            State::Damaged => &mut self.damaged,
            State::Missing => &mut self.missing,
        };
        *place += 1;
    }

    /// All cells.
    pub fn all(&self) -> usize {
        self.done + self.running + self.failed + self.other_settings + self.damaged + self.missing
    }
}
