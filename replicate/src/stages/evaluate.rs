//! A trained or untrained policy on the test sets: records and a manifest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use agent::Episode;
use benchmarks::TestSet;
use benchmarks::data::{Item, TestItem};
use benchmarks::evaluation::Answered;
use benchmarks::sources::Listing;
use qwen2_5_vl::Model;
use results::{
    CallShares, Decoding, EpisodeRecord, Manifest, Record, RunHashes, UpdateMetrics, run_hashes,
    write_lines,
};
use seeded_random::Stream;

use super::Replication;
use super::folder::arm_name;
use crate::alignment::{CalledPrompt, attribute};
use crate::checkpoint::weights_hash;
use crate::encoding::EncodedPrompt;
use crate::evaluation::{ASKED_TOGETHER, answers};
use crate::policy::LocalPolicy;
use crate::profile::RunRole;
use crate::progress::Report;
use crate::records::{Recorder, call_shares, sampled};
use crate::{Error, Result, interrupt, provenance};

/// What is evaluated.
pub(super) struct Subject<'s> {
    pub kind: RunRole<'s>,
    pub arm: &'s str,
    pub seed: u64,
    pub checkpoint: &'s Path,
    /// The checkpoint of its teacher, if it has one.
    pub teacher: Option<&'s Path>,
    /// Updates by stage.
    pub updates: BTreeMap<String, u64>,
    /// Hashes of the checkpoints that it comes from, by role.
    pub origins: BTreeMap<String, String>,
}

/// Records with the episodes behind them.
#[derive(Default)]
struct Chunk {
    records: Vec<Record>,
    episodes: Vec<EpisodeRecord>,
}

/// How a call is attributed under policy and teacher; nothing where that is not recorded.
#[derive(Clone, Copy, Default)]
struct Attributed {
    student: Option<CallShares>,
    teacher: Option<CallShares>,
    divergence: Option<f64>,
}

impl Replication<'_> {
    /// Answers of a policy on the test sets, as records with a manifest; nothing where they are.
    pub(super) fn evaluate(
        &self,
        subject: &Subject<'_>,
        report: &mut Report<'_>,
    ) -> Result<(PathBuf, RunHashes)> {
        let stamp = self.profile.stamp(subject.kind);
        let folder = self
            .folder
            .begin(self.profile, subject.kind, subject.seed)?;
        let finished = folder.join(results::MANIFEST);
        if results::is_stored(&finished) {
            results::verify(&folder, &results::read_json(&finished)?)?;
            let hashes = run_hashes(&folder)?;
            return Ok((folder, hashes));
        }
        let started = Instant::now();
        let mut policy = self.policy(subject.checkpoint)?;
        let stored = &self.profile.episodes;
        let teacher = match subject.teacher {
            Some(teacher) if stored.evaluated && stored.teacher => {
                Some(self.policy(teacher)?.model.detached()?)
            }
            _ => None,
        };
        let recorder = Recorder {
            arm: arm_name(subject.arm)?,
            seed: subject.seed,
            checkpoint: weights_hash(subject.checkpoint)?,
        };
        let label = format!("evaluate {} seed {}", subject.arm, subject.seed);
        let sets = self.data.sets();
        let total: usize = sets.iter().map(|(_, size)| size).sum();
        let mut records = Vec::with_capacity(total);
        let mut episodes = Vec::new();
        for &(set, size) in &sets {
            let mut attributed = 0;
            for start in (0..size).step_by(ASKED_TOGETHER) {
                let end = (start + ASKED_TOGETHER).min(size);
                let own = self.chunk(
                    &mut policy,
                    teacher.as_ref(),
                    &recorder,
                    set,
                    start..end,
                    &mut attributed,
                )?;
                self.servers.check_answering()?;
                records.extend(own.records);
                episodes.extend(own.episodes);
                report(&label, records.len(), total, "");
                if interrupt::requested() {
                    return Err(Error::Stopped);
                }
            }
        }
        write_lines(&folder.join(results::RECORDS), &records)?;
        if stored.evaluated {
            let path = folder.join(results::EPISODES);
            write_lines(&path, &episodes)?;
            results::pack(&path)?;
        }

        let metrics = folder.join(results::METRICS);
        let lines: Vec<UpdateMetrics> = match metrics.exists() {
            true => results::read_lines(&metrics)?,
            false => Vec::new(),
        };
        let mut manifest = Manifest::new(recorder.arm.clone(), subject.seed, stamp);
        manifest.checkpoints = subject.origins.clone();
        manifest
            .checkpoints
            .insert("final".into(), recorder.checkpoint);
        manifest.updates = subject.updates.clone();
        manifest.questions = sets
            .iter()
            .map(|(set, size)| (set.name().to_owned(), *size as u64))
            .collect();
        for line in &lines {
            for (part, seconds) in &line.seconds {
                *manifest.seconds.entry(part.clone()).or_default() += seconds;
            }
        }
        manifest
            .seconds
            .insert("evaluation".into(), started.elapsed().as_secs_f64());
        provenance::describe(&mut manifest);
        self.servers.describe(&mut manifest);
        manifest.preregistration = self.preregistration.clone();
        manifest
            .notes
            .extend_from_slice(policy.processor.ignored_generation_settings());
        manifest.peak_memory_bytes = results::peak_memory_bytes();
        results::write_manifest(&folder, &mut manifest)?;
        let hashes = run_hashes(&folder)?;
        Ok((folder, hashes))
    }

    /// The records of some positions of a set, and the episodes behind them where the profile wants
    /// them stored. `attributed` counts the calls of the set whose block shares are recorded.
    fn chunk(
        &self,
        policy: &mut LocalPolicy,
        teacher: Option<&Model>,
        recorder: &Recorder,
        set: TestSet,
        positions: std::ops::Range<usize>,
        attributed: &mut usize,
    ) -> Result<Chunk> {
        let judges = self.judges();
        let scoring = judges.evaluation();
        let scorer = || judges.scorer(scoring, set);
        let mut items: Vec<Item> = Vec::new();
        let mut undecodable: Vec<(usize, Listing, String)> = Vec::new();
        for position in positions.clone() {
            match self.data.place(set, position, |_| false)? {
                TestItem::Ready(item) => items.push(*item),
                TestItem::Undecodable(listing, reason) => {
                    undecodable.push((position - positions.start, listing, reason));
                }
                TestItem::Known(_) => {}
            }
        }
        let stream = Stream::new(recorder.seed).purpose("sampled evaluation");
        let seed = |item: &Item| stream.purpose(&item.question.id).seed();
        let seed = self.profile.evaluation.sampled.then_some(&seed as _);
        policy.temperature = self.profile.grpo.temperature;
        let (greedy, drawn) = answers(policy, &self.data, &items, scoring, seed)?;
        let found = self.attributions(policy, teacher, &greedy, attributed)?;
        let mut chunk = Chunk::default();
        for (index, ((item, answered), found)) in items.iter().zip(&greedy).zip(found).enumerate() {
            let truth = item.truth.as_ref();
            chunk.records.push(Record {
                attribution: found.student.map(|shares| shares.blocks()),
                sampled: drawn.get(index).map(sampled),
                ..recorder.answered(&item.question, truth, answered, scorer())
            });
            if self.profile.episodes.evaluated {
                chunk.episodes.push(EpisodeRecord {
                    student: found.student,
                    teacher: found.teacher,
                    divergence: found.divergence,
                    ..recorder.episode(item, answered, Decoding::Greedy, scorer())
                });
                let drawn = drawn.get(index);
                let drawn =
                    drawn.map(|drawn| recorder.episode(item, drawn, Decoding::Sampled, scorer()));
                chunk.episodes.extend(drawn);
            }
        }
        for (place, listing, reason) in undecodable {
            let record = recorder.unanswered(set, listing, reason, scorer());
            let records = &mut chunk.records;
            records.insert(place.min(records.len()), record);
        }
        Ok(chunk)
    }

    /// The attribution of the first calls of a set, as many as the profile says.
    fn attributions(
        &self,
        policy: &mut LocalPolicy,
        teacher: Option<&Model>,
        answered: &[Answered],
        taken: &mut usize,
    ) -> Result<Vec<Attributed>> {
        let most = self.profile.evaluation.attributed;
        let mut chosen: Vec<(usize, &Episode)> = Vec::new();
        for (index, one) in answered.iter().enumerate() {
            match &one.episode {
                Some(episode) if *taken < most && episode.outcome.called() => {
                    *taken += 1;
                    chosen.push((index, episode));
                }
                _ => {}
            }
        }
        let mut all = vec![Attributed::default(); answered.len()];
        if chosen.is_empty() {
            return Ok(all);
        }
        let turns: Vec<_> = chosen
            .iter()
            .map(|(_, episode)| &episode.turns[0])
            .collect();
        let conversations: Vec<_> = turns.iter().map(|turn| &turn.conversation).collect();
        let prompts = policy.encode(&conversations)?;
        let tokenizer = policy.processor.tokenizer();
        let settings = &self.profile.evaluation.attribution;
        let attributed = |model: &Model, prompts: &[&EncodedPrompt]| {
            let called = prompts
                .iter()
                .zip(&turns)
                .map(|(prompt, turn)| {
                    CalledPrompt::new(prompt, [turn.completion.token_ids.as_slice()], tokenizer)
                })
                .collect::<Result<Vec<_>>>()?;
            attribute(model, &called, settings, policy.budgets)
        };
        let seen: Vec<&EncodedPrompt> = prompts.iter().map(|prompt| prompt.as_ref()).collect();
        let own = attributed(&policy.model.detached()?, &seen)?;
        let teachers = match teacher {
            // Its own tower looks at the images.
            Some(teacher) => {
                let prompts = policy.encode_for(teacher, &conversations)?;
                attributed(teacher, &prompts.iter().collect::<Vec<_>>())?
            }
            None => Vec::new(),
        };
        for (place, (index, _)) in chosen.into_iter().enumerate() {
            let (own, teacher) = (own[place].first(), teachers.get(place));
            let teacher = teacher.and_then(|calls| calls.first());
            all[index] = Attributed {
                student: own.map(call_shares),
                teacher: teacher.map(call_shares),
                divergence: match (own, teacher) {
                    (Some(own), Some(teacher)) => {
                        let divergence = settings.divergence;
                        Some(divergence.between(&own.shares, &teacher.shares)?)
                    }
                    _ => None,
                },
            };
        }
        policy.forget();
        Ok(all)
    }
}
