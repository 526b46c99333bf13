//! The schedule: teacher by GRPO, the student's cold start by GRPO, then the arms; each evaluated on
//! the six sets. Every stage resumes from its last saved state and leaves the same bytes.
//!
//! `<out>/profile.toml`, `<out>/<arm>/seed-<n>/{manifest.json,metrics.jsonl,records.jsonl,
//! checkpoint/}`; the cold start that a seed's arms share is in `<out>/cold-start/seed-<n>/`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use agent::Episode;
use benchmarks::micro::{MicroQuestion, Split, is_right};
use benchmarks::{TestSet, Verdict};
use results::{
    Appender, BlockShares, Manifest, Record, RunHashes, UpdateMetrics, run_folder, run_hashes,
    write_lines,
};
use seeded_random::Stream;

use crate::alignment::{Site, attribute};
use crate::compute::Compute;
use crate::evaluation::{base_card, greedy_episodes, questions, validate, validation_questions};
use crate::gates::{Gates, detections};
use crate::policy::LocalPolicy;
use crate::profile::{Arm, Profile};
use crate::training::{Training, content_tokens};
use crate::{Error, Result, error, provenance};

/// What a stage says while it runs: stage, step, steps, and a line of figures.
pub type Report<'a> = dyn FnMut(&str, usize, usize, &str) + 'a;

/// The scorer's version in records: the micro world's exact match.
const SCORER_VERSION: &str = "1";

/// A whole experiment in a folder.
pub struct Replication<'a> {
    profile: &'a Profile,
    out: PathBuf,
    student: PathBuf,
    teacher: PathBuf,
    compute: Compute,
}

/// One trained or untrained policy to evaluate.
struct Subject<'s> {
    arm: &'s str,
    seed: u64,
    checkpoint: &'s Path,
    updates: BTreeMap<String, u64>,
    origins: BTreeMap<String, String>,
}

impl<'a> Replication<'a> {
    /// An experiment in `out`, fresh or, with `resume`, going on.
    ///
    /// # Errors
    /// A folder that holds another profile's run, or this one's without `resume`; base checkpoints
    /// that are not there.
    pub fn open(
        profile: &'a Profile,
        checkpoints: &Path,
        out: &Path,
        resume: bool,
        compute: Compute,
    ) -> Result<Self> {
        let problem = |path: &Path, problem: String| Error::RunDirectory {
            path: path.to_owned(),
            problem,
        };
        let student = checkpoints.join(&profile.checkpoints.student);
        let teacher = checkpoints.join(&profile.checkpoints.teacher);
        for folder in [&student, &teacher] {
            if !folder.join("config.json").exists() {
                return Err(problem(
                    folder,
                    "no checkpoint here; `iapo pretrain --profile micro` makes the micro ones"
                        .into(),
                ));
            }
        }
        std::fs::create_dir_all(out).map_err(error::at(out))?;
        let file = out.join("profile.toml");
        if file.exists() {
            let text = std::fs::read_to_string(&file).map_err(error::at(&file))?;
            let first = text.lines().next().unwrap_or_default();
            if first != signature(profile) {
                return Err(problem(
                    out,
                    format!(
                        "holds a run of another profile ({}, this one is {}); give another --out",
                        first.trim_start_matches("# "),
                        signature(profile).trim_start_matches("# ")
                    ),
                ));
            }
            if !resume {
                return Err(problem(
                    out,
                    "holds a run of this profile; add --resume to go on, or give another --out"
                        .into(),
                ));
            }
        } else if std::fs::read_dir(out)
            .map_err(error::at(out))?
            .next()
            .is_some()
        {
            return Err(problem(
                out,
                "is not empty and holds no run; give an empty or new folder as --out".into(),
            ));
        }
        let text = format!("{}\n{}", signature(profile), profile.to_toml());
        results::write_atomically(&file, text.as_bytes())?;
        Ok(Replication {
            profile,
            out: out.to_owned(),
            student,
            teacher,
            compute,
        })
    }

    /// Everything: the base, the teacher, and every arm and seed. Hashes of all runs.
    pub fn run(&self, report: &mut Report<'_>) -> Result<Vec<(PathBuf, RunHashes)>> {
        let mut hashes = Vec::new();
        let base = Subject {
            arm: results::ArmName::UNTRAINED,
            seed: 0,
            checkpoint: &self.student,
            updates: BTreeMap::new(),
            origins: BTreeMap::new(),
        };
        hashes.push(self.evaluate(&base, report)?);

        let schedule = &self.profile.schedule;
        let grpo = &self.profile.grpo;
        let teacher_folder = self.folder(results::ArmName::TEACHER, 0);
        let teacher = self.train(
            &teacher_folder,
            StagePlan {
                stage: "teacher",
                arm: Arm::VtoolR1,
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
                arm: results::ArmName::TEACHER,
                seed: 0,
                checkpoint: &teacher,
                updates: BTreeMap::from([("teacher".into(), schedule.teacher as u64)]),
                origins: BTreeMap::from([("teacher-base".into(), weights_hash(&self.teacher)?)]),
            },
            report,
        )?);

        for seed in 0..self.profile.seeds {
            let cold_folder = self.out.join("cold-start").join(format!("seed-{seed}"));
            let cold = self.train(
                &cold_folder,
                StagePlan {
                    stage: "cold-start",
                    arm: Arm::VtoolR1,
                    from: &self.student,
                    teacher: None,
                    seed,
                    updates: schedule.cold_start,
                    learning_rate: grpo.learning_rate,
                    earlier: None,
                },
                report,
            )?;
            for &arm in &self.profile.arms {
                let folder = self.folder(arm.name(), seed);
                let checkpoint = self.train(
                    &folder,
                    StagePlan {
                        stage: arm.name(),
                        arm,
                        from: &cold,
                        teacher: Some(&teacher),
                        seed,
                        updates: schedule.arm,
                        learning_rate: grpo.learning_rate,
                        earlier: Some(&cold_folder),
                    },
                    report,
                )?;
                hashes.push(self.evaluate(
                    &Subject {
                        arm: arm.name(),
                        seed,
                        checkpoint: &checkpoint,
                        updates: BTreeMap::from([
                            ("cold-start".into(), schedule.cold_start as u64),
                            (arm.name().into(), schedule.arm as u64),
                        ]),
                        origins: BTreeMap::from([
                            ("student-base".into(), weights_hash(&self.student)?),
                            ("cold-start".into(), weights_hash(&cold)?),
                            ("teacher".into(), weights_hash(&teacher)?),
                        ]),
                    },
                    report,
                )?);
            }
        }
        Ok(hashes)
    }

    /// The gates, measured on the validation questions after [`Replication::run`]; kept in
    /// `<out>/gates.json`.
    pub fn gates(&self) -> Result<Gates> {
        let held_out =
            validation_questions(&self.profile.world, self.profile.evaluation.validation);
        let base = base_card(&mut self.policy(&self.student)?, &held_out)?;
        let mut trained = Vec::new();
        if self.profile.arms.contains(&Arm::VtoolR1) {
            for seed in 0..self.profile.seeds {
                let metrics = self
                    .folder(Arm::VtoolR1.name(), seed)
                    .join(results::METRICS);
                let lines: Vec<UpdateMetrics> = results::read_lines(&metrics)?;
                trained.extend(lines.iter().rev().find_map(|line| line.validation));
            }
        }
        let cold = self.out.join("cold-start/seed-0/checkpoint");
        let teacher = self.policy(&self.folder(results::ArmName::TEACHER, 0).join("checkpoint"))?;
        let detection = detections(
            &mut self.policy(&cold)?,
            &teacher.model.detached()?,
            self.profile,
            &held_out,
        )?;
        let gates = Gates {
            base,
            trained,
            detection,
        };
        results::write_json(&self.out.join("gates.json"), &gates)?;
        Ok(gates)
    }

    /// A checkpoint as a policy.
    fn policy(&self, dir: &Path) -> Result<LocalPolicy> {
        LocalPolicy::load(dir, &self.compute, self.profile.grpo.max_new_tokens)
    }

    /// The folder of one run.
    pub fn folder(&self, arm: &str, seed: u64) -> PathBuf {
        run_folder(&self.out, &arm_name(arm), seed)
    }

    /// Trains one stage to its end, from its last saved state; the folder of its checkpoint.
    fn train(
        &self,
        folder: &Path,
        plan: StagePlan<'_>,
        report: &mut Report<'_>,
    ) -> Result<PathBuf> {
        let checkpoint = folder.join("checkpoint");
        if checkpoint.join("model.safetensors").exists() {
            return Ok(checkpoint);
        }
        std::fs::create_dir_all(folder).map_err(error::at(folder))?;
        let teacher = plan.teacher.map(|dir| self.policy(dir)).transpose()?;
        let teacher = match &teacher {
            Some(policy) => Some(policy.model.detached()?),
            None => None,
        };
        let mut training = Training::new(
            self.profile,
            plan.stage,
            plan.arm,
            self.policy(plan.from)?,
            teacher.as_ref(),
            plan.learning_rate,
            // Arms of one seed see the same prompts in the same order.
            Stream::new(plan.seed).purpose(if plan.earlier.is_some() {
                "arm"
            } else {
                plan.stage
            }),
        )?;
        let earlier: Vec<UpdateMetrics> = match plan.earlier {
            Some(folder) => results::read_lines(&folder.join(results::METRICS))?,
            None => Vec::new(),
        };
        let states = folder.join("state");
        let first = training.trainer.resume(&states)?;
        // Lines beyond the saved state are cut; a fresh stage begins with those of the cold start.
        let keep = if first == 0 { 0 } else { earlier.len() + first };
        let (mut metrics, _) =
            Appender::open::<UpdateMetrics>(&folder.join(results::METRICS), keep)?;
        if first == 0 {
            for line in &earlier {
                metrics.append(line)?;
            }
        }
        let held_out =
            validation_questions(&self.profile.world, self.profile.evaluation.validation);
        let schedule = &self.profile.schedule;
        let label = format!("{} seed {}", plan.stage, plan.seed);
        for update in first..plan.updates {
            let mut line = training.update(update, earlier.len() + update)?;
            let last = update + 1 == plan.updates;
            if last || (update + 1) % schedule.validate_every == 0 {
                let clock = Instant::now();
                line.validation = Some(validate(&mut training.policy, &held_out)?);
                line.seconds
                    .insert("validation".into(), clock.elapsed().as_secs_f64());
            }
            report(&label, update + 1, plan.updates, &figures(&line));
            metrics.append(&line)?;
            if last || (update + 1) % schedule.save_every == 0 {
                metrics.sync()?;
                training.trainer.save(&states, update + 1)?;
            }
        }
        // The checkpoint appears whole or not at all.
        let unfinished = folder.join("checkpoint.unfinished");
        training.policy.model.save(&unfinished)?;
        training.policy.processor.save(&unfinished)?;
        std::fs::rename(&unfinished, &checkpoint).map_err(error::at(&checkpoint))?;
        std::fs::remove_dir_all(&states).map_err(error::at(&states))?;
        Ok(checkpoint)
    }

    /// Greedy answers of a policy on the six sets, as records with a manifest.
    fn evaluate(
        &self,
        subject: &Subject<'_>,
        report: &mut Report<'_>,
    ) -> Result<(PathBuf, RunHashes)> {
        let folder = self.folder(subject.arm, subject.seed);
        std::fs::create_dir_all(&folder).map_err(error::at(&folder))?;
        let finished = folder.join(results::MANIFEST);
        if finished.exists() {
            results::verify(&folder, &results::read_json(&finished)?)?;
            let hashes = run_hashes(&folder)?;
            return Ok((folder, hashes));
        }
        let started = Instant::now();
        let evaluation = &self.profile.evaluation;
        let mut policy = self.policy(subject.checkpoint)?;
        let checkpoint = weights_hash(subject.checkpoint)?;
        let asked = questions(
            &self.profile.world,
            &TestSet::ALL,
            Split::Test,
            evaluation.questions,
        );
        let label = format!("evaluate {} seed {}", subject.arm, subject.seed);
        let mut done = 0;
        let episodes = greedy_episodes(&mut policy, &asked, |count| {
            done += count;
            report(&label, done, asked.len(), "");
        })?;
        let attributed = self.attributions(&mut policy, &asked, &episodes)?;
        let records: Vec<Record> = asked
            .iter()
            .zip(&episodes)
            .zip(attributed)
            .map(|((micro, episode), attribution)| Record {
                set: micro.question.set.name().to_owned(),
                qa_id: micro.question.id.clone(),
                image_id: micro.question.image_id.clone(),
                arm: arm_name(subject.arm),
                seed: subject.seed,
                prediction: episode.answer.clone().unwrap_or_default(),
                gt: micro.question.gold.clone(),
                verdict: match is_right(micro, episode.answer.as_deref()) {
                    true => Verdict::Right,
                    false => Verdict::Wrong,
                },
                reason: None,
                kind: None,
                named: None,
                sampled: None,
                tool_called: episode.outcome.called(),
                tool_succeeded: episode.outcome.succeeded(),
                tool_reason: None,
                call: None,
                right_focus: None,
                attribution,
                checkpoint: checkpoint.clone(),
                scorer: "exact".into(),
                scorer_version: SCORER_VERSION.into(),
            })
            .collect();
        write_lines(&folder.join(results::RECORDS), &records)?;

        let metrics = folder.join(results::METRICS);
        let lines: Vec<UpdateMetrics> = match metrics.exists() {
            true => results::read_lines(&metrics)?,
            false => Vec::new(),
        };
        let profile = results::ProfileStamp {
            name: self.profile.name.clone(),
            hash: self.profile.hash(),
            resolved: serde_json::to_value(self.profile)
                .expect("a profile holds only tables, numbers and strings"),
        };
        let mut manifest = Manifest::new(arm_name(subject.arm), subject.seed, profile);
        manifest.checkpoints = subject.origins.clone();
        manifest.checkpoints.insert("final".into(), checkpoint);
        manifest.updates = subject.updates.clone();
        manifest.questions = TestSet::ALL
            .iter()
            .map(|set| (set.name().to_owned(), evaluation.questions as u64))
            .collect();
        for line in &lines {
            for (part, seconds) in &line.seconds {
                *manifest.seconds.entry(part.clone()).or_default() += seconds;
            }
        }
        manifest
            .seconds
            .insert("evaluation".into(), started.elapsed().as_secs_f64());
        manifest.commit = provenance::commit();
        manifest.versions = provenance::versions();
        manifest.peak_memory_bytes = results::peak_memory_bytes();
        results::write_manifest(&folder, &mut manifest)?;
        let hashes = run_hashes(&folder)?;
        Ok((folder, hashes))
    }

    /// The block shares of the first calls of each set, as many as the profile says.
    fn attributions(
        &self,
        policy: &mut LocalPolicy,
        asked: &[MicroQuestion],
        episodes: &[Episode],
    ) -> Result<Vec<Option<BlockShares>>> {
        let per_set = self.profile.evaluation.attributed;
        let mut taken: BTreeMap<TestSet, usize> = BTreeMap::new();
        let chosen: Vec<usize> = (0..asked.len())
            .filter(|&index| {
                let count = taken.entry(asked[index].question.set).or_default();
                let take = episodes[index].outcome.called() && *count < per_set;
                *count += usize::from(take);
                take
            })
            .collect();
        let turns: Vec<_> = chosen
            .iter()
            .map(|&index| &episodes[index].turns[0])
            .collect();
        let conversations: Vec<_> = turns.iter().map(|turn| &turn.conversation).collect();
        let prompts = policy.encode(&conversations)?;
        let sites: Vec<Site> = prompts
            .iter()
            .zip(&turns)
            .map(|(prompt, turn)| Site {
                prompt,
                calls: vec![&turn.completion.token_ids],
                content: vec![content_tokens(policy, &turn.completion.token_ids)],
            })
            .collect();
        let found = attribute(&policy.model.detached()?, &sites, &self.profile.attribution)?;
        let mut shares = vec![None; asked.len()];
        for (index, found) in chosen.into_iter().zip(found) {
            shares[index] = found.first().map(|call| {
                let values = call.shares.shares();
                BlockShares::from([values[0], values[1], values[2], values[3]])
            });
        }
        policy.forget();
        Ok(shares)
    }
}

/// One stage of training.
struct StagePlan<'s> {
    stage: &'s str,
    arm: Arm,
    from: &'s Path,
    teacher: Option<&'s Path>,
    seed: u64,
    updates: usize,
    learning_rate: f64,
    /// The folder of the stage before, whose metrics this one continues.
    earlier: Option<&'s Path>,
}

fn arm_name(name: &str) -> results::ArmName {
    name.parse()
        .expect("names of arms are lower-case words with hyphens")
}

fn signature(profile: &Profile) -> String {
    format!("# {} {}", profile.name, profile.hash())
}

/// BLAKE3 of a checkpoint's weights.
fn weights_hash(folder: &Path) -> Result<String> {
    let path = folder.join("model.safetensors");
    let bytes = std::fs::read(&path).map_err(error::at(&path))?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}

fn figures(line: &UpdateMetrics) -> String {
    let validation = match &line.validation {
        Some(validation) => format!(", validation {:.3}", validation.accuracy),
        None => String::new(),
    };
    format!(
        "reward {:.3}, accuracy {:.3}, calls {:.2}, run {:.2}, KL {:.4}, ratio {:.4}{validation}",
        line.reward,
        line.accuracy,
        line.tool_call_rate,
        line.tool_success_rate.unwrap_or(0.0),
        line.kl,
        line.ratio,
    )
}
