//! What is stored of training for people who look at episodes later: groups and validation answers,
//! each in a file that grows with the updates and is compressed when the stage ends.

use std::path::{Path, PathBuf};

use baselines::Reward;
use benchmarks::TestSet;
use benchmarks::data::Item;
use benchmarks::evaluation::Answered;
use results::{Appender, ArmName, Decoding, EpisodeRecord, GROUPS, VALIDATION, is_stored};

use super::folder::arm_name;
use crate::Result;
use crate::profile::EpisodeSettings;
use crate::records::Recorder;
use crate::training::KeptGroup;

/// The files of one stage.
pub(super) struct EpisodeFiles {
    recorder: Recorder,
    /// Updates before this stage.
    offset: usize,
    /// Files, each with whether the profile wants it.
    groups: Option<Growing>,
    validation: Option<Growing>,
}

/// A file that grows.
struct Growing {
    path: PathBuf,
    appender: Appender,
}

/// The stage that a file belongs to.
pub(super) struct StagePlace<'s> {
    /// Its folder.
    pub folder: &'s Path,
    /// The folder of the stage before, whose lines this one's files begin with.
    pub earlier: Option<&'s Path>,
    /// Updates before this stage.
    pub offset: usize,
    /// Updates of this stage that the saved state holds; later lines are cut off.
    pub made: usize,
}

impl EpisodeFiles {
    /// Opens what `settings` ask for. `stage` names the arm in the lines.
    pub fn open(
        place: &StagePlace<'_>,
        settings: &EpisodeSettings,
        stage: &str,
        seed: u64,
    ) -> Result<Self> {
        let arm = arm_name(stage)?;
        let open = |name: &str, wanted: usize| -> Result<Option<Growing>> {
            match wanted {
                0 => Ok(None),
                _ => Growing::open(place, name, &arm).map(Some),
            }
        };
        Ok(EpisodeFiles {
            groups: open(GROUPS, settings.groups)?,
            validation: open(VALIDATION, settings.validation)?,
            offset: place.offset,
            recorder: Recorder {
                arm,
                seed,
                checkpoint: String::new(),
            },
        })
    }

    /// Adds the groups that an update kept.
    pub fn add_groups(
        &mut self,
        update: usize,
        stage: &str,
        reward: &Reward,
        kept: &[KeptGroup],
        scorer: impl Fn(TestSet) -> (String, String),
    ) -> Result<()> {
        let Some(file) = &mut self.groups else {
            return Ok(());
        };
        for group in kept {
            for mut episode in group.episodes(&self.recorder, reward, &scorer) {
                episode.update = Some((self.offset + update + 1) as u64);
                if let Some(sample) = &mut episode.training {
                    sample.stage = stage.to_owned();
                    sample.stage_update = update as u64;
                }
                file.appender.append(&episode)?;
            }
        }
        Ok(())
    }

    /// Adds the answers to some of the validation questions, spread evenly.
    pub fn add_validation(
        &mut self,
        update: usize,
        wanted: usize,
        items: &[Item],
        answered: &[Answered],
        scorer: impl Fn(TestSet) -> (String, String),
    ) -> Result<()> {
        let Some(file) = &mut self.validation else {
            return Ok(());
        };
        let step = (items.len() / wanted.max(1)).max(1);
        for (item, answered) in items.iter().zip(answered).step_by(step).take(wanted) {
            let scorer = scorer(item.question.set);
            let mut episode = self
                .recorder
                .episode(item, answered, Decoding::Greedy, scorer);
            episode.update = Some((self.offset + update + 1) as u64);
            file.appender.append(&episode)?;
        }
        Ok(())
    }

    /// Waits until all lines are on the disk: before a state that counts on them.
    pub fn sync(&self) -> Result<()> {
        for file in self.groups.iter().chain(&self.validation) {
            file.appender.sync()?;
        }
        Ok(())
    }

    /// Compresses the files of a finished stage.
    pub fn finish(self) -> Result<()> {
        self.sync()?;
        for file in self.groups.into_iter().chain(self.validation) {
            drop(file.appender);
            results::pack(&file.path)?;
        }
        Ok(())
    }
}

impl Growing {
    fn open(place: &StagePlace<'_>, name: &str, arm: &ArmName) -> Result<Self> {
        let path = place.folder.join(name);
        results::unpack(&path)?;
        let last = (place.offset + place.made) as u64;
        let held =
            |row: &EpisodeRecord| place.made > 0 && row.update.is_some_and(|made| made <= last);
        let mut appender = Appender::open_while(&path, held)?;
        let before = place.earlier.map(|folder| folder.join(name));
        if let Some(before) = before.filter(|before| place.made == 0 && is_stored(before)) {
            for episode in results::read_lines::<EpisodeRecord>(&before)? {
                appender.append(&EpisodeRecord {
                    arm: arm.clone(),
                    ..episode
                })?;
            }
        }
        Ok(Growing { path, appender })
    }
}
