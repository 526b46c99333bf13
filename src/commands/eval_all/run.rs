//! One model's run: what is known of it, what is asked, and the records as they grow.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Instant;

use agent::Policy;
use anyhow::{Context, bail};
use benchmarks::data::{EpisodeStyle, Item, TestItem};
use benchmarks::evaluation::{Scoring, answer};
use benchmarks::{Question, TestSet, Verdict};
use chat_endpoint::Client;
use replicate::progress::Progress;
use replicate::provenance;
use replicate::records::Recorder;
use results::{
    Appender, ArmName, Decoding, EPISODES, EpisodeRecord, MANIFEST, Manifest, RECORDS, Record,
    RunKind, pack, peak_memory_bytes, read_json, read_lines, unpack, verify, write_json,
    write_lines,
};
use seeded_random::Stream;

use super::Args;
use super::calls::CallCounts;
use super::data::Asked;
use super::tally::Tally;
use super::watch::{Watched, figures, while_showing};

/// The files that grow.
struct Written {
    records: Appender,
    episodes: Appender,
}

/// One model's records, as they grow.
pub(super) struct Evaluation<'a> {
    args: &'a Args,
    data: &'a Asked,
    /// How the model is asked.
    style: EpisodeStyle,
    scoring: Scoring<'a>,
    recorder: Recorder,
    folder: PathBuf,
    manifest: Manifest,
    /// Counts, costs and seconds of earlier commands, which this one's are added to.
    before: Manifest,
    /// Records that stay.
    judged: Vec<Record>,
    /// Records without a verdict, of questions that were not asked again yet.
    open: Vec<Record>,
    /// The servers that this run asks.
    watched: Vec<Watched<'a>>,
    undecodable: BTreeMap<TestSet, u64>,
    calls: CallCounts,
    tally: Tally,
    /// What the command's earlier runs were charged.
    spent_before: f64,
    started: Instant,
    /// Held until the run ends.
    _lock: File,
}

impl<'a> Evaluation<'a> {
    /// Opens the run's folder for this process alone and reads what is in it.
    ///
    /// `checkpoint` is the hash of the weights, or the model's name at an endpoint; `style` is how it is
    /// asked.
    pub fn open(
        args: &'a Args,
        data: &'a Asked,
        scoring: Scoring<'a>,
        folder: PathBuf,
        (arm, epoch): (&ArmName, u64),
        (checkpoint, style): (String, EpisodeStyle),
    ) -> anyhow::Result<Self> {
        let lock = lock(&folder)?;
        // What shapes an answer; not which questions are asked, nor who judges: completions are
        // kept, and each record names its scorer.
        let mut resolved = serde_json::json!({
            "data": args.data,
            "max_new_tokens": args.max_new_tokens,
        });
        if style != data.data.style() {
            resolved["style"] = serde_json::to_value(style)?;
        }
        if data.own {
            resolved[RunKind::QUESTIONS] = RunKind::OWN.into();
        }
        if args.temperature > 0.0 {
            resolved["temperature"] = args.temperature.into();
            resolved["top_p"] = args.top_p.into();
        }
        let profile = results::ProfileStamp {
            name: RunKind::EVALUATION.to_owned(),
            hash: blake3::hash(resolved.to_string().as_bytes())
                .to_hex()
                .to_string(),
            resolved,
        };
        let mut manifest = Manifest::new(arm.clone(), epoch, profile);
        provenance::describe(&mut manifest);
        if folder.join(MANIFEST).is_file() {
            let before: Manifest = read_json(&folder.join(MANIFEST))?;
            if before.profile.hash != manifest.profile.hash {
                bail!(
                    "{}: made with {}, this run has {}; name another --out",
                    folder.display(),
                    before.profile.resolved,
                    manifest.profile.resolved
                );
            }
            verify(&folder, &before)?;
            manifest.checkpoints = before.checkpoints;
            manifest.seconds = before.seconds;
            manifest.counts = before.counts;
            manifest.costs = before.costs;
            manifest.notes = before.notes;
        }
        match manifest.checkpoints.get("final") {
            Some(before) if *before != checkpoint => bail!(
                "{}: holds records of the checkpoint {before}, this one is {checkpoint}; name another --out",
                folder.display()
            ),
            _ => manifest
                .checkpoints
                .insert("final".to_owned(), checkpoint.clone()),
        };
        let mut run = Evaluation {
            args,
            data,
            style,
            scoring,
            recorder: Recorder {
                arm: arm.clone(),
                seed: epoch,
                checkpoint,
            },
            before: manifest.clone(),
            manifest,
            judged: Vec::new(),
            open: Vec::new(),
            watched: Vec::new(),
            undecodable: BTreeMap::new(),
            calls: CallCounts::default(),
            tally: Tally::default(),
            spent_before: 0.0,
            started: Instant::now(),
            folder,
            _lock: lock,
        };
        run.read_records()?;
        Ok(run)
    }

    /// The run's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Shows and records what a client does for this run; one that gives its server up ends it.
    pub fn watching(mut self, role: &'static str, client: &'a Client) -> Self {
        self.watched.push(Watched::new(role, client));
        self
    }

    /// Counts what the command spent before towards its limit.
    pub fn after_spending(mut self, amount: f64) -> Self {
        self.spent_before = amount;
        self
    }

    /// What this run was charged.
    fn spent(&self) -> f64 {
        let costs = self.watched.iter().filter_map(|own| own.usage().cost);
        costs.sum()
    }

    /// Keeps the verdicts that are there, those of other sets included.
    fn read_records(&mut self) -> anyhow::Result<()> {
        let path = self.folder.join(RECORDS);
        if !path.is_file() {
            return Ok(());
        }
        // A line that a kill cut off is dropped.
        let lines = std::fs::read(&path)
            .with_context(|| format!("cannot read {}", path.display()))?
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        drop(Appender::open::<Record>(&path, lines)?);
        for record in read_lines::<Record>(&path)? {
            *self
                .manifest
                .questions
                .entry(record.set.clone())
                .or_default() += 1;
            match record.verdict {
                Verdict::NotJudged => self.open.push(record),
                Verdict::Right | Verdict::Wrong => self.judged.push(record),
            }
        }
        for (set, _) in self.data.sets() {
            let (name, version) = self.scorer(set);
            if let Some(other) = self.judged.iter().find(|record| {
                record.set == set.name()
                    && (&record.scorer, &record.scorer_version) != (&name, &version)
            }) {
                bail!(
                    "{}: {set} was scored by '{}' version '{}', this run has '{name}' version '{version}'; \
                     give the same --judge-model, or name another --out",
                    self.folder.display(),
                    other.scorer,
                    other.scorer_version
                );
            }
        }
        Ok(())
    }

    /// Asks what has no verdict yet, set by set. What was had is recorded also where this fails.
    pub fn all<P: Policy>(
        &mut self,
        policy: &mut P,
        batch: usize,
        after_batch: fn(&mut P),
    ) -> anyhow::Result<()> {
        let judged = std::mem::take(&mut self.judged);
        let path = self.folder.join(RECORDS);
        // From here on the records grow: the manifest says no more what they hold.
        self.write_manifest()?;
        write_lines(&path, &judged)?;
        let (records, _) = Appender::open::<Record>(&path, judged.len())?;
        let (episodes, open) = self.episodes(&judged)?;
        let mut written = Written { records, episodes };
        self.data.write_reports(&self.folder)?;
        let known: HashMap<(&str, &str), Verdict> = judged
            .iter()
            .map(|record| ((record.set.as_str(), record.qa_id.as_str()), record.verdict))
            .collect();
        let result = self.ask(&known, &mut written, policy, batch, after_batch);
        // What was not asked again is still without a verdict.
        for record in std::mem::take(&mut self.open) {
            let of_record = |episode: &&EpisodeRecord| {
                (&episode.set, &episode.qa_id) == (&record.set, &record.qa_id)
            };
            for episode in open.iter().filter(of_record) {
                written.episodes.append(episode)?;
            }
            written.records.append(&record)?;
        }
        written.records.sync()?;
        written.episodes.sync()?;
        result
    }

    /// The file of episodes with those of the judged questions in it, and the others'. A last line
    /// that a kill cut off is dropped.
    fn episodes(&self, judged: &[Record]) -> anyhow::Result<(Appender, Vec<EpisodeRecord>)> {
        let path = self.folder.join(EPISODES);
        unpack(&path)?;
        drop(Appender::open_while(&path, |_: &EpisodeRecord| true)?);
        let known: HashSet<(&str, &str)> = judged
            .iter()
            .map(|record| (record.set.as_str(), record.qa_id.as_str()))
            .collect();
        let (kept, open): (Vec<_>, Vec<_>) = read_lines::<EpisodeRecord>(&path)?
            .into_iter()
            .partition(|episode| known.contains(&(episode.set.as_str(), episode.qa_id.as_str())));
        write_lines(&path, &kept)?;
        Ok((Appender::open::<EpisodeRecord>(&path, kept.len())?.0, open))
    }

    fn ask<P: Policy>(
        &mut self,
        known: &HashMap<(&str, &str), Verdict>,
        written: &mut Written,
        policy: &mut P,
        batch: usize,
        after_batch: fn(&mut P),
    ) -> anyhow::Result<()> {
        let options = self.style.options();
        let scoring = self.scoring;
        let decoding = match self.args.temperature > 0.0 {
            true => Decoding::Sampled,
            false => Decoding::Greedy,
        };
        let mut progress = Progress::new();
        for (set, size) in self.data.sets() {
            let size = self.args.limit.map_or(size, |limit| limit.min(size));
            let wanted: Vec<usize> = (0..size)
                .filter(|position| self.args.shard.holds(*position))
                .collect();
            if !self.data.loaded_sets().is_empty() {
                self.undecodable.insert(set, 0);
            }
            let (mut done, mut right, mut open) = (0, 0, 0);
            for positions in wanted.chunks(batch) {
                let mut items: Vec<Item> = Vec::with_capacity(positions.len());
                for position in positions {
                    let is_known = |id: &str| known.contains_key(&(set.name(), id));
                    match self.data.data.place(set, *position, is_known)? {
                        TestItem::Known(id) => {
                            let verdict = known.get(&(set.name(), id.as_str()));
                            right += usize::from(verdict == Some(&Verdict::Right));
                            self.tally.judge();
                        }
                        TestItem::Undecodable(listing, reason) => {
                            *self.undecodable.entry(set).or_default() += 1;
                            open += 1;
                            let scorer = self.scorer(set);
                            let record = self.recorder.unanswered(set, listing, reason, scorer);
                            self.keep(&mut written.records, record)?;
                        }
                        TestItem::Ready(item) => items.push(*item),
                    }
                }
                let asked: Vec<(&Question, Option<u64>)> = items
                    .iter()
                    .map(|item| (&item.question, self.seed(&item.question)))
                    .collect();
                let answered = match asked.is_empty() {
                    true => Vec::new(),
                    false => {
                        let watched = &self.watched;
                        let show = || {
                            let figures = figures(right, open, watched);
                            progress.report(set.name(), done, wanted.len(), &figures);
                        };
                        while_showing(show, || answer(policy, &asked, &options, scoring))?
                    }
                };
                for (item, answered) in items.iter().zip(answered) {
                    right += usize::from(answered.verdict == Verdict::Right);
                    open += usize::from(answered.verdict == Verdict::NotJudged);
                    self.calls.add(&answered);
                    let record = self.recorder.answered(
                        &item.question,
                        item.truth.as_ref(),
                        &answered,
                        self.scorer(set),
                    );
                    // Before its record: a kill between leaves an episode that is asked again.
                    let scorer = self.scorer(set);
                    let episode = self.recorder.episode(item, &answered, decoding, scorer);
                    written.episodes.append(&episode)?;
                    self.keep(&mut written.records, record)?;
                }
                after_batch(policy);
                done += positions.len();
                let figures = figures(right, open, &self.watched);
                progress.report(set.name(), done, wanted.len(), &figures);
                self.write_manifest()?;
                self.check_answering()?;
            }
        }
        Ok(())
    }

    /// Appends a record, in place of the one without a verdict that the question may have had.
    fn keep(&mut self, records: &mut Appender, record: Record) -> anyhow::Result<()> {
        records.append(&record)?;
        match record.verdict {
            Verdict::NotJudged => self.tally.leave_open(record.reason.as_deref()),
            Verdict::Right | Verdict::Wrong => self.tally.judge(),
        }
        let open = self.open.len();
        self.open
            .retain(|old| (&old.set, &old.qa_id) != (&record.set, &record.qa_id));
        if self.open.len() == open {
            *self.manifest.questions.entry(record.set).or_default() += 1;
        }
        Ok(())
    }

    /// The seed of a question's sample, another each time that it is asked; `None` is greedy.
    fn seed(&self, question: &Question) -> Option<u64> {
        (self.args.temperature > 0.0).then(|| {
            Stream::new(self.recorder.seed)
                .purpose(question.set.name())
                .purpose(&question.id)
                .seed()
        })
    }

    /// Who scores a set in this run, and in which version.
    fn scorer(&self, set: TestSet) -> (String, String) {
        self.scoring.scorer(set, self.args.judge_model.as_deref())
    }

    /// Writes the manifest as far as the run has come.
    fn write_manifest(&mut self) -> anyhow::Result<()> {
        let manifest = &mut self.manifest;
        manifest.counts = self.before.counts.clone();
        manifest.costs = self.before.costs.clone();
        manifest.seconds = self.before.seconds.clone();
        manifest.counts.extend(self.data.counts());
        for (set, count) in &self.undecodable {
            let name = format!("{set}_undecodable_images");
            manifest.counts.insert(name, *count);
        }
        // What a server refused, and what was asked instead, shapes every answer.
        for watched in &self.watched {
            for sentence in watched.adaptations().sentences() {
                let note = format!("{}: {sentence}", watched.role);
                if !manifest.notes.contains(&note) {
                    manifest.notes.push(note);
                }
            }
        }
        self.calls.write(&mut manifest.counts)?;
        let mut add = |name: String, count: u64| *manifest.counts.entry(name).or_default() += count;
        for watched in &self.watched {
            let usage = watched.usage();
            for (name, count) in usage.counts() {
                add(format!("{}_{name}", watched.role), count);
            }
            if let Some(cost) = usage.cost {
                *manifest.costs.entry(watched.role.to_owned()).or_default() += cost;
            }
        }
        *manifest.seconds.entry("evaluation".to_owned()).or_default() +=
            self.started.elapsed().as_secs_f64();
        manifest.peak_memory_bytes = peak_memory_bytes();
        write_json(&self.folder.join(MANIFEST), &self.manifest)?;
        Ok(())
    }

    /// Ends the run when one of its servers is not there, or has cost too much.
    fn check_answering(&self) -> anyhow::Result<()> {
        let spent = self.spent_before + self.spent();
        if let Some(limit) = self.args.spending_limit
            && spent > limit
        {
            bail!(
                "{spent:.2} were spent, more than the --spending-limit {limit}; what was answered is \
                 kept in {}: the same command goes on",
                self.folder.display()
            );
        }
        for watched in &self.watched {
            if let Some(reason) = watched.given_up() {
                bail!(
                    "the server of the {} was given up: {reason}; what was answered is kept in {}: \
                     the same command asks only for the rest",
                    watched.role,
                    self.folder.display()
                );
            }
        }
        Ok(())
    }

    /// Writes the manifest, also of a run that ended early, and passes its end on.
    pub fn finish(mut self, result: anyhow::Result<()>) -> anyhow::Result<Tally> {
        let written = match &result {
            Ok(()) => self
                .write_manifest()
                .and_then(|()| Ok(pack(&self.folder.join(EPISODES))?))
                .and_then(|()| Ok(results::write_manifest(&self.folder, &mut self.manifest)?)),
            Err(_) => self.write_manifest(),
        };
        for watched in &self.watched {
            eprintln!("{}: {}", watched.role, watched.usage());
            for sentence in watched.adaptations().sentences() {
                eprintln!("{}: {sentence}", watched.role);
            }
        }
        result?;
        written?;
        let spent = self.spent();
        self.tally.charge(spent);
        Ok(self.tally)
    }
}

/// Makes the run's folder and holds it: two processes that write one file lose records.
fn lock(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join("lock");
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "{}: another process is evaluating into it; wait for it, give each process a share \
             (--shard 1/2 and --shard 2/2), or name another --out",
            folder.display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}
