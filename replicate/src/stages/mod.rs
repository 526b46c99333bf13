//! The schedule: teacher by GRPO, the student's cold start by GRPO, then the arms; each evaluated on
//! the six sets. Every stage resumes from its last saved state and leaves the same bytes.

mod evaluate;
mod folder;
mod train;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use baselines::Reward;
use baselines::vtool_r1::VtoolR1;
use benchmarks::data::{Data, LoadedData};
use benchmarks::evaluation::Scoring;
use benchmarks::{TestSet, data::Item};
use results::{ArmName, RunHashes, UpdateMetrics};

use crate::checkpoint::weights_hash;
use crate::compute::Compute;
use crate::deviations::ModelFacts;
use crate::evaluation::base_card;
use crate::gates::{Gates, detections};
use crate::policy::{Budgets, LocalPolicy};
use crate::profile::{Profile, RunRole};
use crate::progress::Report;
use crate::{Error, Result};

use evaluate::Subject;
use folder::ExperimentFolder;
use train::StagePlan;

/// A whole experiment in a folder.
pub struct Replication<'a> {
    profile: &'a Profile,
    /// The arms that this command trains, in the order of the table.
    arms: Vec<String>,
    data: Data,
    validation: Vec<Item>,
    folder: ExperimentFolder,
    student: PathBuf,
    teacher: PathBuf,
    compute: Compute,
}

/// The reward of the stages that every arm shares: the outcome alone.
const PLAIN: Reward = Reward::VtoolR1(VtoolR1 {});

impl<'a> Replication<'a> {
    /// An experiment in `out`, fresh or, with `resume`, going on. Everything that can be checked
    /// before work is done is checked here.
    ///
    /// # Errors
    /// A folder that holds something else, this experiment without `resume`, or runs of it with
    /// other settings; base checkpoints or data that are not there.
    pub fn open(
        profile: &'a Profile,
        arms: Vec<String>,
        checkpoints: &Path,
        out: &Path,
        resume: bool,
        compute: Compute,
    ) -> Result<Self> {
        let student = checkpoints.join(&profile.checkpoints.student);
        let teacher = checkpoints.join(&profile.checkpoints.teacher);
        for folder in [&student, &teacher] {
            if !folder.join("config.json").exists() {
                return Err(Error::RunDirectory {
                    path: folder.to_owned(),
                    problem:
                        "no checkpoint here; `iapo pretrain --profile micro` makes the micro ones"
                            .into(),
                });
            }
        }
        let data = open_data(profile)?;
        let validation = data.validation(profile.evaluation.validation)?;
        let folder = ExperimentFolder::open(out, profile, resume)?;
        let replication = Replication {
            profile,
            arms,
            data,
            validation,
            folder,
            student,
            teacher,
            compute,
        };
        replication.check_runs()?;
        Ok(replication)
    }

    /// The seeds of this experiment.
    fn seeds(&self) -> std::ops::Range<u64> {
        self.profile.first_seed..self.profile.first_seed + self.profile.seeds
    }

    /// Refuses runs that were begun with other settings, before any work.
    fn check_runs(&self) -> Result<()> {
        let check =
            |kind: RunRole<'_>, seed| self.folder.check(kind, seed, &self.profile.stamp(kind));
        check(RunRole::Untrained, 0)?;
        check(RunRole::Teacher, 0)?;
        for seed in self.seeds() {
            check(RunRole::ColdStart, seed)?;
            for arm in &self.arms {
                check(RunRole::Arm(arm), seed)?;
            }
        }
        Ok(())
    }

    /// Everything: the base, the teacher, and every arm and seed. Hashes of all runs.
    pub fn run(&self, report: &mut Report<'_>) -> Result<Vec<(PathBuf, RunHashes)>> {
        let schedule = &self.profile.schedule;
        let grpo = &self.profile.grpo;
        let mut hashes = vec![self.evaluate(
            &Subject {
                kind: RunRole::Untrained,
                arm: ArmName::UNTRAINED,
                seed: 0,
                checkpoint: &self.student,
                updates: BTreeMap::new(),
                origins: BTreeMap::new(),
            },
            report,
        )?];
        let teacher = self.train(
            StagePlan {
                kind: RunRole::Teacher,
                stage: "teacher",
                reward: &PLAIN,
                from: &self.teacher,
                teacher: None,
                seed: 0,
                updates: schedule.teacher,
                learning_rate: grpo.teacher_learning_rate,
                earlier: None,
            },
            report,
        )?;
        hashes.push(self.evaluate(
            &Subject {
                kind: RunRole::Teacher,
                arm: ArmName::TEACHER,
                seed: 0,
                checkpoint: &teacher,
                updates: BTreeMap::from([("teacher".into(), schedule.teacher as u64)]),
                origins: BTreeMap::from([("teacher-base".into(), weights_hash(&self.teacher)?)]),
            },
            report,
        )?);
        for seed in self.seeds() {
            self.seed(seed, &teacher, &mut hashes, report)?;
        }
        Ok(hashes)
    }

    /// The cold start and all arms of one seed.
    fn seed(
        &self,
        seed: u64,
        teacher: &Path,
        hashes: &mut Vec<(PathBuf, RunHashes)>,
        report: &mut Report<'_>,
    ) -> Result<()> {
        let schedule = &self.profile.schedule;
        let learning_rate = self.profile.grpo.learning_rate;
        let cold = self.train(
            StagePlan {
                kind: RunRole::ColdStart,
                stage: "cold-start",
                reward: &PLAIN,
                from: &self.student,
                teacher: None,
                seed,
                updates: schedule.cold_start,
                learning_rate,
                earlier: None,
            },
            report,
        )?;
        let cold_folder = self.folder.run(RunRole::ColdStart, seed)?;
        for name in &self.arms {
            let arm = &self.profile.arms[name];
            let updates = arm.updates.unwrap_or(schedule.arm);
            let kind = RunRole::Arm(name);
            let checkpoint = self.train(
                StagePlan {
                    kind,
                    stage: name,
                    reward: &arm.reward,
                    from: &cold,
                    teacher: Some(teacher),
                    seed,
                    updates,
                    learning_rate,
                    earlier: Some(&cold_folder),
                },
                report,
            )?;
            hashes.push(self.evaluate(
                &Subject {
                    kind,
                    arm: name,
                    seed,
                    checkpoint: &checkpoint,
                    updates: BTreeMap::from([
                        ("cold-start".into(), schedule.cold_start as u64),
                        (name.clone(), updates as u64),
                    ]),
                    origins: BTreeMap::from([
                        ("student-base".into(), weights_hash(&self.student)?),
                        ("cold-start".into(), weights_hash(&cold)?),
                        ("teacher".into(), weights_hash(teacher)?),
                    ]),
                },
                report,
            )?);
        }
        Ok(())
    }

    /// The gates, measured on the validation questions after [`Replication::run`]; kept in
    /// `<out>/gates.json`. `None` where the data do not know the truth that they need.
    pub fn gates(&self) -> Result<Option<Gates>> {
        if !self.data.knows_truth() {
            return Ok(None);
        }
        let scoring = Scoring::of(self.data.rule(), None);
        let base = base_card(
            &mut self.policy(&self.student)?,
            &self.data,
            &self.validation,
            scoring,
        )?;
        let mut trained = Vec::new();
        if let Some(plain) = self
            .arms
            .iter()
            .find(|arm| self.profile.arms[*arm].reward == PLAIN)
        {
            for seed in self.seeds() {
                let metrics = self
                    .folder
                    .run(RunRole::Arm(plain), seed)?
                    .join(results::METRICS);
                let lines: Vec<UpdateMetrics> = results::read_lines(&metrics)?;
                trained.extend(lines.iter().rev().find_map(|line| line.validation));
            }
        }
        let seed = self.profile.first_seed;
        let cold = self
            .folder
            .run(RunRole::ColdStart, seed)?
            .join("checkpoint");
        let teacher = self.folder.run(RunRole::Teacher, 0)?.join("checkpoint");
        let detection = detections(
            &mut self.policy(&cold)?,
            &self.policy(&teacher)?.model.detached()?,
            self.profile,
            &self.arms,
            &self.data,
            &self.validation,
        )?;
        let gates = Gates {
            base,
            trained,
            detection,
            settings: self.profile.gates.clone(),
        };
        results::write_json(&self.folder.root().join("gates.json"), &gates)?;
        Ok(Some(gates))
    }

    /// What is known of the models, for the report.
    pub fn facts(&self) -> Result<ModelFacts> {
        let parameters =
            |dir: &Path| -> Result<usize> { Ok(self.policy(dir)?.model.parameters().elements()) };
        Ok(ModelFacts {
            student_parameters: parameters(&self.student)?,
            teacher_parameters: parameters(&self.teacher)?,
        })
    }

    /// A checkpoint as a policy.
    fn policy(&self, dir: &Path) -> Result<LocalPolicy> {
        let tokens = self.profile.grpo.max_new_tokens;
        let mut policy = LocalPolicy::load(dir, &self.compute, tokens)?;
        policy.style = self.data.style();
        let compute = &self.profile.compute;
        policy.budgets = Budgets {
            vision_patches: compute.vision_patches,
            rollout_tokens: compute.rollout_tokens,
            attribution_tokens: compute.attribution_tokens,
            attribution_gradient_tokens: compute.attribution_gradient_tokens,
        };
        Ok(policy)
    }
}

/// The questions of a profile.
fn open_data(profile: &Profile) -> Result<Data> {
    if let Some(world) = &profile.world {
        return Ok(Data::micro(world.clone(), profile.evaluation.questions));
    }
    let folder = profile
        .data
        .as_ref()
        .map(|data| PathBuf::from(&data.folder));
    let folder = folder.unwrap_or_default();
    let loaded = LoadedData::test_sets(&folder, &TestSet::ALL)?.with_training(&folder)?;
    Ok(Data::loaded(loaded))
}
