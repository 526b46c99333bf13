//! A cell: one arm with one seed in one variant of a part.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use results::{ArmName, run_folder};

use crate::Result;
use crate::pretrain::recipe::Recipe;
use crate::profile::{Profile, RunRole};
use crate::stages::shared_run;

use super::files::shared;
use super::part::Phase;

/// One arm with one seed.
#[derive(Clone, Debug)]
pub struct StudyCell {
    /// The part's name.
    pub part: String,
    /// What the part is for.
    pub phase: Phase,
    /// The variant's name.
    pub label: String,
    /// The arm.
    pub arm: ArmName,
    /// The training seed.
    pub seed: u64,
    /// The settings, shared by the cells of a variant.
    pub profile: Arc<Profile>,
    /// The hash of what the arm's run reads.
    pub hash: String,
    /// How its bases are made from nothing, where it has others than the given ones.
    pub base: Option<Arc<Recipe>>,
}

impl StudyCell {
    /// `<part>/<label>/<arm>/<seed>`.
    pub fn id(&self) -> String {
        format!("{}/{}/{}/{}", self.part, self.label, self.arm, self.seed)
    }

    /// The folder of its variant.
    pub fn variant_folder(&self, out: &Path) -> PathBuf {
        out.join(&self.part).join(&self.label)
    }

    /// The folder of its run.
    pub fn folder(&self, out: &Path) -> PathBuf {
        run_folder(&self.variant_folder(out), &self.arm, self.seed)
    }

    /// The folder of its teacher's run.
    pub fn teacher_folder(&self, out: &Path) -> PathBuf {
        let seed = self.profile.schedule.teacher_seed(self.seed);
        shared_run(&shared(out), RunRole::Teacher, &self.profile, seed)
    }

    /// The folder of its cold start.
    pub fn cold_start_folder(&self, out: &Path) -> PathBuf {
        shared_run(&shared(out), RunRole::ColdStart, &self.profile, self.seed)
    }

    /// The folder of the run of its untrained base.
    pub fn untrained_folder(&self, out: &Path) -> PathBuf {
        shared_run(&shared(out), RunRole::Untrained, &self.profile, 0)
    }

    /// The folder of its bases, where they are made from nothing.
    pub fn base_folder(&self, out: &Path) -> Option<PathBuf> {
        let base = self.base.as_ref()?;
        Some(shared(out).join(base_name(base)))
    }

    /// Whether such a folder holds both bases; the teacher's card is written last.
    pub(super) fn has_bases(folder: &Path) -> bool {
        folder.join("teacher/README.md").exists()
    }

    /// The updates of its arm.
    pub fn updates(&self) -> usize {
        let own = self.profile.arms.get(self.arm.name());
        own.and_then(|arm| arm.updates)
            .unwrap_or(self.profile.schedule.arm)
    }

    /// The folders of the stages that it shares with others and that are still to be made.
    pub fn needs(&self, out: &Path) -> Vec<PathBuf> {
        let mut needs = vec![self.teacher_folder(out), self.cold_start_folder(out)];
        needs.retain(|folder| !folder.join("checkpoint").exists());
        needs.extend(self.base_folder(out).filter(|base| !Self::has_bases(base)));
        needs
    }

    /// Its arm's name as results know it.
    pub(super) fn arm_name(name: &str) -> Result<ArmName> {
        Ok(name.parse()?)
    }
}

/// The folder of a recipe's bases, below that of the shared stages.
pub(super) fn base_name(recipe: &Recipe) -> String {
    format!("base-{}", recipe.hash())
}
