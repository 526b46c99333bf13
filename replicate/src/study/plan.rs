//! A study as its files say it, expanded to cells.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Result;
use crate::pretrain::recipe::Recipe;
use crate::profile::{Profile, RunRole};

use super::cell::{StudyCell, base_name};
use super::files::{self, problem};
use super::freeze::Freeze;
use super::part::{self, Part, Phase, Variant};
use super::preregistration::{Preregistration, is_decided};

/// The files that are frozen.
const FROZEN: [&str; 3] = [files::PREREGISTRATION, files::PARTS, files::PROFILE];

/// A study.
#[derive(Clone, Debug)]
pub struct Study {
    folder: PathBuf,
    /// What is fixed before a counted seed is run.
    pub preregistration: Preregistration,
    /// The parts in order.
    pub parts: Vec<Part>,
}

impl Study {
    /// Reads a study's folder and checks that its files fit together.
    ///
    /// # Errors
    /// A file that is not there or is no such file; a setting that the profile does not have; tests
    /// of arms that no counted part trains.
    pub fn read(folder: &Path) -> Result<Self> {
        let study = Study {
            folder: folder.to_owned(),
            preregistration: Preregistration::read(&folder.join(files::PREREGISTRATION))?,
            parts: part::read(&folder.join(files::PARTS))?,
        };
        study.check_keys()?;
        let cells = study.cells(None)?;
        for test in &study.preregistration.tests {
            let arms = std::iter::once(&test.arm).chain(&test.over);
            for arm in arms {
                let counted = |cell: &StudyCell| {
                    cell.phase == Phase::Counted && cell.arm.name() == arm.as_str()
                };
                if !cells.iter().any(counted) {
                    return Err(problem(
                        &folder.join(files::PREREGISTRATION),
                        format!(
                            "test {} names arm '{arm}', which no counted part trains",
                            test.name
                        ),
                    ));
                }
            }
        }
        Ok(study)
    }

    /// The folder of its files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A key that is misspelt is noticed while its value is still undecided.
    fn check_keys(&self) -> Result<()> {
        let profile = self.profile(&[])?;
        let table: toml::Table = profile
            .to_toml()
            .parse()
            .map_err(|error: toml::de::Error| problem(&self.folder, error.to_string()))?;
        let given = &self.preregistration;
        for key in given.settings.keys().chain(given.tuned.keys()) {
            let mut place = Some(&table);
            let mut value = None;
            for name in key.split('.') {
                value = place.and_then(|table| table.get(name));
                place = value.and_then(toml::Value::as_table);
            }
            if value.is_none() {
                return Err(problem(
                    &self.folder.join(files::PREREGISTRATION),
                    format!("the profile has no setting '{key}'"),
                ));
            }
        }
        Ok(())
    }

    fn profile(&self, changes: &[String]) -> Result<Profile> {
        let file = self.folder.join(files::PROFILE);
        Profile::load(&file.to_string_lossy(), changes)
    }

    /// The parts that bear these names, all of them where none is given.
    ///
    /// # Errors
    /// A name that no part has.
    pub fn named(&self, names: &[String]) -> Result<Vec<String>> {
        let known: Vec<&str> = self.parts.iter().map(|part| part.name.as_str()).collect();
        if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
            return Err(problem(
                &self.folder.join(files::PARTS),
                format!("no part '{unknown}': expected some of {}", known.join(", ")),
            ));
        }
        let chosen = known
            .into_iter()
            .filter(|name| names.is_empty() || names.iter().any(|given| given == name));
        Ok(chosen.map(str::to_owned).collect())
    }

    /// The commit that froze the settings.
    ///
    /// # Errors
    /// Names what is undecided, or what git knows to be changed.
    pub fn freeze(&self) -> Result<Freeze> {
        let undecided = self.preregistration.undecided();
        if !undecided.is_empty() {
            return Err(problem(
                &self.folder.join(files::PREREGISTRATION),
                format!(
                    "counted parts cannot be run while settings are undecided: {}. Decide them with \
                     the other parts, write their values, commit",
                    undecided.join(", ")
                ),
            ));
        }
        Freeze::of(&self.folder, &FROZEN)
    }

    /// All cells in order. Without `freeze`, those of counted parts lack their world and what is
    /// undecided: they can be counted, not run.
    pub fn cells(&self, freeze: Option<&Freeze>) -> Result<Vec<StudyCell>> {
        let mut cells = Vec::new();
        for part in &self.parts {
            let range = match part.phase {
                Phase::World | Phase::Tuning => self.preregistration.seeds.tuning,
                Phase::Counted => self.preregistration.seeds.counted,
            };
            let base = part.base_seed.map(base_recipe).transpose()?.map(Arc::new);
            let mut of_variants = Vec::new();
            for variant in part.all_variants() {
                let changes = self.changes(part, &variant, base.as_deref(), freeze);
                let profile = Arc::new(self.profile(&changes)?);
                let arms = part.arms_of(&variant);
                if let Some(problem) = profile.trained_problem(arms) {
                    let place = format!("part {}, {}: {problem}", part.name, variant.label);
                    return Err(files::problem(&self.folder.join(files::PARTS), place));
                }
                for arm in arms {
                    let hash = profile.stamp(RunRole::Arm(arm)).hash;
                    of_variants.push((variant.label.clone(), arm.clone(), profile.clone(), hash));
                }
            }
            // Seed by seed: a part that is stopped has whole seeds of all arms.
            for seed in range.seeds(part.seeds) {
                for (label, arm, profile, hash) in &of_variants {
                    cells.push(StudyCell {
                        part: part.name.clone(),
                        phase: part.phase,
                        label: label.clone(),
                        arm: StudyCell::arm_name(arm)?,
                        seed,
                        profile: profile.clone(),
                        hash: hash.clone(),
                        base: base.clone(),
                    });
                }
            }
        }
        Ok(cells)
    }

    /// The changes of the profile that a variant is, later ones above earlier ones.
    fn changes(
        &self,
        part: &Part,
        variant: &Variant,
        base: Option<&Recipe>,
        freeze: Option<&Freeze>,
    ) -> Vec<String> {
        let given = &self.preregistration;
        let mut tables = Vec::new();
        match part.phase {
            Phase::World => {}
            Phase::Tuning => tables.push(&given.settings),
            Phase::Counted => tables.extend([&given.settings, &given.tuned]),
        }
        tables.extend([&part.set, &variant.set]);
        let world = match (part.phase, freeze) {
            (Phase::World | Phase::Tuning, _) => Some(given.worlds.tuning),
            (Phase::Counted, freeze) => freeze.map(Freeze::world_seed),
        };
        let mut changes: Vec<String> = tables
            .into_iter()
            .flatten()
            .filter(|(_, value)| is_decided(value))
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        changes.extend(world.map(|seed| format!("world.seed={seed}")));
        if let Some(base) = base {
            let base = base_name(base);
            for role in ["student", "teacher"] {
                changes.push(format!("checkpoints.{role}=\"{base}/{role}\""));
            }
        }
        changes
    }

    /// The folders of cells' runs, their teachers' and their untrained bases' among them, for
    /// `results::Runs::load`. Runs of one table are of one variant.
    pub fn run_folders(&self, cells: &[StudyCell], out: &Path) -> Vec<PathBuf> {
        let mut folders: Vec<PathBuf> = cells
            .iter()
            .flat_map(|cell| {
                [
                    cell.folder(out),
                    cell.teacher_folder(out),
                    cell.untrained_folder(out),
                ]
            })
            .collect();
        folders.sort();
        folders.dedup();
        folders
    }
}

/// The recipe of bases that are made from nothing with another seed.
fn base_recipe(seed: u64) -> Result<Recipe> {
    let mut recipe = Recipe::micro()?;
    recipe.seed = seed;
    Ok(recipe)
}
