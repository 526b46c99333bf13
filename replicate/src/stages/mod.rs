//! The schedule: teacher by GRPO, the student's cold start by GRPO, then the arms; each evaluated on
//! the six sets. Every stage resumes from its last saved state and leaves the same bytes. Judge and
//! verifier are asked through clients that keep every reply in the experiment's folder.

mod cell;
mod episodes;
mod evaluate;
mod folder;
mod servers;
mod train;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use baselines::Reward;
use baselines::vtool_r1::VtoolR1;
use benchmarks::TestSet;
use benchmarks::data::{Data, Item, LoadedData, ValidationSource};
use benchmarks::sources::checkpoint::resolve;
use candle_core::Device;
use qwen2_5_vl::{Config, ImageCache, Model, shapes};
use results::{ArmName, RunHashes, UpdateMetrics};

use crate::checkpoint::weights_hash;
use crate::compute::Compute;
use crate::deviations::ModelFacts;
use crate::encoding::SharedImages;
use crate::evaluation::{base_card, own_calls_card};
use crate::gates::{Base, Gates, detections};
use crate::policy::{Budgets, LocalPolicy};
use crate::profile::{DataSettings, Profile, PromptWording, RunRole, TeacherPlace};
use crate::progress::Report;
use crate::{Error, Result};

pub use cell::CellPlace;
pub use folder::{SETTINGS, is_locked, shared_run, try_lock, wait_for_lock};

use evaluate::Subject;
use folder::ExperimentFolder;
use servers::Servers;
use train::StagePlan;

/// A whole experiment in a folder.
pub struct Replication<'a> {
    profile: &'a Profile,
    /// The arms that this command trains, in the order of the table.
    arms: Vec<String>,
    data: Data,
    validation: Vec<Item>,
    folder: ExperimentFolder,
    servers: Servers,
    student: PathBuf,
    teacher: PathBuf,
    compute: Compute,
    /// Features of images that the policies have seen.
    images: SharedImages,
    /// The commit that froze the settings of the study which the runs are counted in.
    preregistration: Option<String>,
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
        let folder = || ExperimentFolder::open(out, profile, resume);
        let replication = Self::with_folder(profile, arms, checkpoints, folder, compute)?;
        let seeds: Vec<u64> = replication.seeds().collect();
        replication.check_runs(&seeds)?;
        Ok(replication)
    }

    /// Everything but the check of the runs; the folder is opened last, when all else is there.
    fn with_folder(
        profile: &'a Profile,
        arms: Vec<String>,
        checkpoints: &Path,
        folder: impl FnOnce() -> Result<ExperimentFolder>,
        compute: Compute,
    ) -> Result<Self> {
        let student = base_checkpoint(checkpoints, &profile.checkpoints.student)?;
        let teacher = base_checkpoint(checkpoints, &profile.checkpoints.teacher)?;
        let data = open_data(profile)?;
        let validation = data.validation(profile.evaluation.validation)?;
        let folder = folder()?;
        Ok(Replication {
            profile,
            arms,
            data,
            validation,
            servers: Servers::open(profile, folder.root())?,
            folder,
            student,
            teacher,
            compute,
            images: Arc::new(Mutex::new(ImageCache::new(
                profile.compute.shared_image_bytes(),
            ))),
            preregistration: None,
        })
    }

    /// The seeds of this experiment.
    fn seeds(&self) -> std::ops::Range<u64> {
        self.profile.first_seed..self.profile.first_seed + self.profile.seeds
    }

    /// Refuses runs that were begun with other settings, before any work.
    fn check_runs(&self, seeds: &[u64]) -> Result<()> {
        let check = |kind: RunRole<'_>, seed| self.folder.check(self.profile, kind, seed);
        check(RunRole::Untrained, 0)?;
        for &seed in seeds {
            check(RunRole::Teacher, self.profile.schedule.teacher_seed(seed))?;
            check(RunRole::ColdStart, seed)?;
            for arm in &self.arms {
                check(RunRole::Arm(arm), seed)?;
            }
        }
        Ok(())
    }

    /// Everything: the base, the teachers, and every arm and seed. Hashes of all runs.
    pub fn run(&self, report: &mut Report<'_>) -> Result<Vec<(PathBuf, RunHashes)>> {
        let mut hashes = vec![self.untrained(report)?];
        let mut teacher: Option<(u64, PathBuf)> = None;
        for seed in self.seeds() {
            let own = self.profile.schedule.teacher_seed(seed);
            if teacher.as_ref().is_none_or(|(known, _)| *known != own) {
                let (checkpoint, run) = self.teacher(own, report)?;
                hashes.push(run);
                teacher = Some((own, checkpoint));
            }
            let cold = self.cold_start(seed, report)?;
            for name in &self.arms {
                if let Some((_, teacher)) = &teacher {
                    hashes.push(self.arm(name, seed, teacher, &cold, report)?);
                }
            }
        }
        Ok(hashes)
    }

    /// The student's base on the test sets.
    fn untrained(&self, report: &mut Report<'_>) -> Result<(PathBuf, RunHashes)> {
        let _held = self.folder.hold(self.profile, RunRole::Untrained, 0)?;
        self.evaluate(
            &Subject {
                kind: RunRole::Untrained,
                arm: ArmName::UNTRAINED,
                seed: 0,
                checkpoint: &self.student,
                teacher: None,
                updates: BTreeMap::new(),
                origins: BTreeMap::new(),
            },
            report,
        )
    }

    /// A teacher, trained and evaluated: its checkpoint and its run.
    fn teacher(
        &self,
        seed: u64,
        report: &mut Report<'_>,
    ) -> Result<(PathBuf, (PathBuf, RunHashes))> {
        let _held = self.folder.hold(self.profile, RunRole::Teacher, seed)?;
        let updates = self.profile.schedule.teacher;
        let checkpoint = self.train(
            StagePlan {
                kind: RunRole::Teacher,
                stage: "teacher",
                reward: &PLAIN,
                from: &self.teacher,
                teacher: None,
                seed,
                updates,
                learning_rate: self.profile.grpo.teacher_learning_rate,
                earlier: None,
            },
            report,
        )?;
        let run = self.evaluate(
            &Subject {
                kind: RunRole::Teacher,
                arm: ArmName::TEACHER,
                seed,
                checkpoint: &checkpoint,
                teacher: None,
                updates: BTreeMap::from([("teacher".into(), updates as u64)]),
                origins: BTreeMap::from([("teacher-base".into(), weights_hash(&self.teacher)?)]),
            },
            report,
        )?;
        Ok((checkpoint, run))
    }

    /// The cold start that a seed's arms share; its checkpoint.
    fn cold_start(&self, seed: u64, report: &mut Report<'_>) -> Result<PathBuf> {
        let _held = self.folder.hold(self.profile, RunRole::ColdStart, seed)?;
        self.train(
            StagePlan {
                kind: RunRole::ColdStart,
                stage: "cold-start",
                reward: &PLAIN,
                from: &self.student,
                teacher: None,
                seed,
                updates: self.profile.schedule.cold_start,
                learning_rate: self.profile.grpo.learning_rate,
                earlier: None,
            },
            report,
        )
    }

    /// One arm with one seed, trained and evaluated.
    fn arm(
        &self,
        name: &str,
        seed: u64,
        teacher: &Path,
        cold: &Path,
        report: &mut Report<'_>,
    ) -> Result<(PathBuf, RunHashes)> {
        let schedule = &self.profile.schedule;
        let arm = &self.profile.arms[name];
        let updates = arm.updates.unwrap_or(schedule.arm);
        let kind = RunRole::Arm(name);
        let cold_folder = self.folder.run(self.profile, RunRole::ColdStart, seed)?;
        let checkpoint = self.train(
            StagePlan {
                kind,
                stage: name,
                reward: &arm.reward,
                from: cold,
                teacher: Some(teacher),
                seed,
                updates,
                learning_rate: self.profile.grpo.learning_rate,
                earlier: Some(&cold_folder),
            },
            report,
        )?;
        self.evaluate(
            &Subject {
                kind,
                arm: name,
                seed,
                checkpoint: &checkpoint,
                teacher: Some(teacher),
                updates: BTreeMap::from([
                    ("cold-start".into(), schedule.cold_start as u64),
                    (name.to_owned(), updates as u64),
                ]),
                origins: BTreeMap::from([
                    ("student-base".into(), weights_hash(&self.student)?),
                    ("cold-start".into(), weights_hash(cold)?),
                    ("teacher".into(), weights_hash(teacher)?),
                ]),
            },
            report,
        )
    }

    /// The gates, measured on the validation questions after [`Replication::run`]; kept in
    /// `<out>/gates.json`. `None` without validation questions.
    pub fn gates(&self) -> Result<Option<Gates>> {
        if self.validation.is_empty() {
            return Ok(None);
        }
        let judges = self.judges();
        let scoring = judges.evaluation();
        let mut student = self.policy(&self.student)?;
        let base = match self.data.knows_truth() {
            true => Base::KnownCalls(base_card(
                &mut student,
                &self.data,
                &self.validation,
                scoring,
            )?),
            false => Base::OwnCalls(own_calls_card(
                &mut student,
                &self.data,
                &self.validation,
                scoring,
            )?),
        };
        drop(student);
        let mut trained = Vec::new();
        if let Some(plain) = self
            .arms
            .iter()
            .find(|arm| self.profile.arms[*arm].reward == PLAIN)
        {
            for seed in self.seeds() {
                let metrics = self
                    .folder
                    .run(self.profile, RunRole::Arm(plain), seed)?
                    .join(results::METRICS);
                let lines: Vec<UpdateMetrics> = results::read_lines(&metrics)?;
                trained.extend(lines.iter().rev().find_map(|line| line.validation));
            }
        }
        let seed = self.profile.first_seed;
        let cold = self
            .folder
            .run(self.profile, RunRole::ColdStart, seed)?
            .join("checkpoint");
        let teacher_seed = self.profile.schedule.teacher_seed(seed);
        let teacher = self
            .folder
            .run(self.profile, RunRole::Teacher, teacher_seed)?
            .join("checkpoint");
        let detection = detections(
            &mut self.policy(&cold)?,
            &self.policy(&teacher)?.model.detached()?,
            self.profile,
            &self.arms,
            &self.data,
            &self.validation,
            scoring,
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
        let parameters = |dir: &Path| -> Result<usize> {
            let shapes = shapes(&Config::load(&dir.join("config.json"))?);
            Ok(shapes
                .values()
                .map(|shape| shape.iter().product::<usize>())
                .sum())
        };
        Ok(ModelFacts {
            student_parameters: parameters(&self.student)?,
            teacher_parameters: parameters(&self.teacher)?,
        })
    }

    /// A model that is asked now and then, where the profile wants it to wait.
    fn waiting(&self, dir: &Path) -> Result<Model> {
        let Compute { device, dtype } = match self.profile.compute.teacher {
            TeacherPlace::Device => self.compute.clone(),
            TeacherPlace::Host => Compute {
                device: Device::Cpu,
                ..self.compute.clone()
            },
        };
        Ok(Model::load(dir, &device, dtype)?.detached()?)
    }

    /// A checkpoint as a policy, with which a stage begins.
    fn policy(&self, dir: &Path) -> Result<LocalPolicy> {
        // Few of the blocks that the stage before left have sizes that this one asks for.
        fused_ops::allocator::release();
        let tokens = self.profile.grpo.max_new_tokens;
        let mut policy = LocalPolicy::load(dir, &self.compute, tokens)?;
        policy.style = self.data.style();
        if let Some(data) = &self.profile.data {
            policy.limit_pixels(data.min_pixels, data.max_pixels)?;
        }
        let compute = &self.profile.compute;
        policy.budgets = Budgets {
            vision_patches: compute.vision_patches,
            rollout_tokens: compute.rollout_tokens,
            attribution_tokens: compute.attribution_tokens,
            attribution_gradient_tokens: compute.attribution_gradient_tokens,
        };
        // Elsewhere features may differ in their last bits by what was encoded together with them, so that
        // a stage that is resumed would not see the same.
        if self.compute.device.is_cpu() && !self.profile.grpo.trains_vision() {
            policy.share_images(&self.images)?;
        }
        Ok(policy)
    }
}

/// A base checkpoint: a folder relative to `checkpoints` or absolute, else a model of the hub.
fn base_checkpoint(checkpoints: &Path, name: &str) -> Result<PathBuf> {
    let folder = checkpoints.join(name);
    if folder.join("config.json").exists() {
        return Ok(folder);
    }
    if folder.exists() {
        return Err(Error::RunDirectory {
            path: folder,
            problem:
                "holds no config.json, so it is no checkpoint; `iapo pretrain --profile micro` \
                      makes the micro ones"
                    .into(),
        });
    }
    let problem = match name.split('/').count() {
        2 => match resolve(name) {
            Ok(folder) => return Ok(folder),
            Err(error) => error.to_string(),
        },
        _ => "no checkpoint here; `iapo pretrain --profile micro` makes the micro ones".to_owned(),
    };
    Err(Error::RunDirectory {
        path: folder,
        problem,
    })
}

/// The questions of a profile.
fn open_data(profile: &Profile) -> Result<Data> {
    if let Some(world) = &profile.world {
        return Ok(Data::micro(world.clone(), profile.evaluation.questions));
    }
    let Some(settings) = &profile.data else {
        return Err(Error::Profile {
            origin: profile.name.clone(),
            problem: "neither 'world' nor 'data': expected one of them".into(),
        });
    };
    let DataSettings {
        folder,
        training,
        held_out,
        prompt,
        min_pixels: _,
        max_pixels: _,
    } = settings;
    let folder = Path::new(folder);
    let validation = match held_out {
        None => ValidationSource::Published,
        Some(share) => ValidationSource::HeldOut(*share),
    };
    let mut loaded = LoadedData::test_sets(folder, &TestSet::ALL)?
        .with_training(folder, *training, validation)?;
    if *prompt == PromptWording::VtoolR1 {
        loaded = loaded.with_vtool_r1_prompt(folder)?;
    }
    let [train, valid, tested] = loaded.training_sizes();
    let absent = loaded.training_without_image();
    eprintln!(
        "{}: {train} training questions, {valid} for validation; left out: {tested} that a test set \
         asks, {absent} whose image is not there",
        folder.display()
    );
    if train == 0 {
        return Err(Error::RunDirectory {
            path: folder.to_owned(),
            problem: format!(
                "no training question can be asked: {absent} have no image here. ReFocus' training \
                 charts are those of ChartQA's training split: put its pictures into {}, or download \
                 everything with --data hub",
                folder.join("chartqa/png").display()
            ),
        });
    }
    Ok(Data::loaded(loaded))
}
