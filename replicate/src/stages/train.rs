//! One stage of training, from its last whole state to its finished checkpoint.

use std::path::{Path, PathBuf};
use std::time::Instant;

use baselines::{Evidence, Reward, TeacherRole};
use results::{Appender, Manifest, UpdateMetrics};

use super::Replication;
use super::episodes::{EpisodeFiles, StagePlace};
use crate::alarms::Watch;
use crate::checkpoint::{self, weights_hash};
use crate::evaluation::validate;
use crate::probe::Probe;
use crate::profile::RunRole;
use crate::progress::Report;
use crate::training::{Graders, Teachers, Training};
use crate::{Error, Result, error, interrupt, state};

/// One stage of training.
pub(super) struct StagePlan<'s> {
    pub kind: RunRole<'s>,
    pub stage: &'s str,
    pub reward: &'s Reward,
    /// The checkpoint to start from.
    pub from: &'s Path,
    /// The teacher's checkpoint.
    pub teacher: Option<&'s Path>,
    pub seed: u64,
    pub updates: usize,
    pub learning_rate: f64,
    /// The folder of the stage before, whose metrics this one continues.
    pub earlier: Option<&'s Path>,
}

impl Replication<'_> {
    /// Trains one stage to its end, from its last saved state; the folder of its checkpoint.
    pub(super) fn train(&self, plan: StagePlan<'_>, report: &mut Report<'_>) -> Result<PathBuf> {
        let folder = self.folder.begin(self.profile, plan.kind, plan.seed)?;
        let finished = folder.join("checkpoint");
        let again = folder.join(AGAIN);
        if checkpoint::is_finished(&folder)? {
            remove(&again)?;
            return Ok(finished);
        }
        // Checkpoints are not kept with records. A run that was recorded keeps its metrics as they are,
        // and what is trained for its checkpoint alone stands apart.
        let recorded = folder.join(results::MANIFEST);
        let work = match results::is_stored(&recorded) {
            true => &again,
            false => &folder,
        };
        let model_of = |dir: Option<&Path>| dir.map(|dir| self.waiting(dir)).transpose();
        let evidence = plan.reward.method().evidence();
        let asks_teacher = matches!(
            evidence,
            Evidence::TeacherLogProb | Evidence::Divergence(TeacherRole::Teacher)
        );
        // A model that nobody asks would only take memory.
        let teacher = match asks_teacher || self.profile.evaluation.probe > 0 {
            true => model_of(plan.teacher)?,
            false => None,
        };
        let untrained = match evidence {
            Evidence::Divergence(TeacherRole::Untrained) => model_of(Some(&self.student))?,
            _ => None,
        };
        let judges = self.judges();
        let mut training = Training::new(
            self.profile,
            &self.data,
            Graders {
                scoring: judges.training(),
                verifier: self.servers.verifier(),
            },
            plan.stage,
            plan.reward,
            self.policy(plan.from)?,
            Teachers {
                teacher: teacher.as_ref(),
                untrained: untrained.as_ref(),
            },
            plan.learning_rate,
            plan.seed,
            // Arms of one seed see the same prompts in the same order.
            match plan.earlier {
                Some(_) => "arm",
                None => plan.stage,
            },
        )?;
        let earlier: Vec<UpdateMetrics> = match plan.earlier {
            Some(folder) => results::read_lines(&folder.join(results::METRICS))?,
            None => Vec::new(),
        };
        let states = work.join("state");
        let first = training.trainer.resume(&states)?;
        // Lines beyond the saved state are cut; a fresh stage begins with those of the cold start.
        let keep = if first == 0 { 0 } else { earlier.len() + first };
        let rows = work.join(results::METRICS);
        if first > 0 {
            state::check_rows(&states, first, &rows, keep)?;
        }
        let (mut metrics, kept) = Appender::open::<UpdateMetrics>(&rows, keep)?;
        if first == 0 {
            for line in &earlier {
                metrics.append(line)?;
            }
        }
        let stored = &self.profile.episodes;
        let place = StagePlace {
            folder: work,
            earlier: plan.earlier,
            offset: earlier.len(),
            made: first,
        };
        let mut episodes = EpisodeFiles::open(&place, stored, plan.stage, plan.seed)?;
        let evaluation = &self.profile.evaluation;
        let probe = match &teacher {
            Some(teacher) if evaluation.probe > 0 => Probe::new(
                &mut training.policy,
                teacher,
                &self.data,
                &self.validation,
                evaluation.probe,
                &evaluation.attribution,
            )?,
            _ => None,
        };
        let schedule = &self.profile.schedule;
        let scoring = judges.evaluation();
        let label = format!("{} seed {}", plan.stage, plan.seed);
        let mut watch = Watch::default();
        for line in kept.iter().filter(|line| line.stage == plan.stage) {
            watch.look(&self.profile.alarms, &mut line.clone())?;
        }
        for update in first..plan.updates {
            let made = training.update(update, earlier.len() + update);
            self.servers.check_answering()?;
            let made = made?;
            let mut line = made.metrics;
            episodes.add_groups(update, plan.stage, plan.reward, &made.kept, |set| {
                judges.scorer(judges.training(), set)
            })?;
            let last = update + 1 == plan.updates;
            if last || (update + 1) % schedule.validate_every == 0 {
                let clock = Instant::now();
                let (validation, answered) =
                    validate(&mut training.policy, &self.data, &self.validation, scoring)?;
                line.validation = Some(validation);
                let items = &self.validation;
                episodes.add_validation(update, stored.validation, items, &answered, |set| {
                    judges.scorer(scoring, set)
                })?;
                if let Some(probe) = &probe {
                    line.alignment = Some(probe.measure(&mut training.policy)?);
                }
                line.seconds
                    .insert("validation".into(), clock.elapsed().as_secs_f64());
            }
            for alarm in watch.look(&self.profile.alarms, &mut line)? {
                eprintln!("alarm: {alarm}");
            }
            report(&label, update + 1, plan.updates, &figures(&line));
            metrics.append(&line)?;
            let stop = interrupt::requested();
            if last || stop || (update + 1) % schedule.save_every == 0 {
                metrics.sync()?;
                episodes.sync()?;
                training.trainer.save(&states, update + 1, Some(&rows))?;
            }
            if stop {
                return Err(Error::Stopped);
            }
        }
        metrics.sync()?;
        episodes.finish()?;
        let own = (work == &folder).then_some(rows.as_path());
        checkpoint::save(&training.policy, &folder, own)?;
        remove(&states)?;
        remove(&again)?;
        if recorded.exists() {
            compare_with_recorded(&label, &recorded, &finished)?;
        }
        Ok(finished)
    }
}

/// Where a recorded run is trained again, in its folder.
const AGAIN: &str = "again";

fn remove(folder: &Path) -> Result<()> {
    match folder.exists() {
        true => std::fs::remove_dir_all(folder).map_err(error::at(folder)),
        false => Ok(()),
    }
}

/// Says where weights that were trained again are not those that were recorded: then the program, not the
/// machine, is another.
fn compare_with_recorded(label: &str, manifest: &Path, checkpoint: &Path) -> Result<()> {
    let manifest: Manifest = results::read_json(manifest)?;
    let found = weights_hash(checkpoint)?;
    match manifest.checkpoints.get("final") {
        Some(recorded) if *recorded != found => eprintln!(
            "{label}: trained again for its checkpoint, which has the hash {found}; recorded was \
             {recorded}, by commit {}. Its records stay as they are",
            manifest.commit.as_deref().unwrap_or("unknown")
        ),
        _ => {}
    }
    Ok(())
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
