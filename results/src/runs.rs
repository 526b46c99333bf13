//! Run directories: `<out>/<arm>/seed-<n>/{manifest.json, metrics.jsonl, records.jsonl}`.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use benchmarks::Verdict;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::files::{parse_lines, read_json, read_lines};
use crate::integrity::{MANIFEST, METRICS, RECORDS, check_bytes, check_counts, check_present};
use crate::manifest::{FORMAT, Manifest, ProfileStamp};
use crate::metrics::UpdateMetrics;
use crate::record::{ArmName, Record};
use crate::run_kind::RunKind;
use crate::stored::{is_stored, read_stored};

/// The folder of one run.
pub fn run_folder(out: &Path, arm: &ArmName, seed: u64) -> PathBuf {
    out.join(arm.name()).join(format!("seed-{seed}"))
}

/// One run as its files tell it.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its folder.
    pub folder: PathBuf,
    /// The manifest; absent for records that were made by hand.
    pub manifest: Option<Manifest>,
    /// One line per update; empty for models that were not trained.
    pub metrics: Vec<UpdateMetrics>,
    /// One line per question.
    pub records: Vec<Record>,
}

/// The runs of one or more output folders that may stand in one table.
#[derive(Clone, Debug)]
pub struct Runs {
    /// The runs, by arm in the order of the table, then by seed.
    pub runs: Vec<Run>,
}

impl Run {
    /// A run from its files, compared with its manifest.
    ///
    /// # Errors
    /// A file that is not there, cannot be read or is not what was written.
    pub fn load(folder: &Path) -> Result<Self> {
        read_run(folder)
    }

    /// Whether the manifest holds the records' checksum, which reading has then compared.
    pub fn is_verified(&self) -> bool {
        let files = self.manifest.as_ref().map(|manifest| &manifest.files);
        files.is_some_and(|files| files.contains_key(RECORDS))
    }
}

impl Runs {
    /// Reads every run at most three folders below each of `folders`.
    ///
    /// # Errors
    /// A folder without runs; a file that cannot be read; runs that cannot be compared: of
    /// different profiles, with verdicts of different scorers or other gold answers for one
    /// question, or with a question answered twice by one arm and seed.
    pub fn load(folders: &[PathBuf]) -> Result<Self> {
        let mut runs = Vec::new();
        for folder in folders {
            let before = runs.len();
            find(folder, 3, &mut runs)?;
            if runs.len() == before {
                return Err(Error::NoRuns {
                    path: folder.clone(),
                });
            }
        }
        Runs::new(runs)
    }

    /// The same checks for runs that were read already.
    pub fn new(mut runs: Vec<Run>) -> Result<Self> {
        // An evaluation may put several arms or seeds into one file; the table does not mind.
        runs.sort_by(|a, b| {
            run_key(a)
                .cmp(&run_key(b))
                .then_with(|| a.folder.cmp(&b.folder))
        });
        let runs = Runs { runs };
        runs.check()?;
        Ok(runs)
    }

    /// All records.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.runs.iter().flat_map(|run| &run.records)
    }

    /// The folders of runs whose files hold no checksum: of an earlier version, made by hand, or
    /// not finished.
    pub fn unverified(&self) -> Vec<&Path> {
        let unverified = self.runs.iter().filter(|run| !run.is_verified());
        unverified.map(|run| run.folder.as_path()).collect()
    }

    /// The arms in the order of the table.
    pub fn arms(&self) -> Vec<ArmName> {
        let mut arms: Vec<ArmName> = self.records().map(|record| record.arm.clone()).collect();
        arms.sort_by(|a, b| a.rank().cmp(&b.rank()));
        arms.dedup();
        arms
    }

    /// An arm's name for people. Runs that were recorded before an arm's form stood in its name
    /// called every form `iapo`; where their settings name another than the paper's, it is told.
    pub fn label(&self, arm: &ArmName) -> String {
        let form = self
            .runs
            .iter()
            .filter_map(|run| run.manifest.as_ref())
            .find(|manifest| manifest.arm == *arm && arm.name() == ArmName::IAPO)
            .and_then(|manifest| manifest.profile.resolved.pointer("/attribution/method"))
            .and_then(|method| method.as_str())
            .filter(|method| *method != "integrated-gradients");
        match form {
            Some(form) => format!("{arm} ({form})"),
            None => arm.to_string(),
        }
    }

    /// The runs of an arm whose training ended in alarm, each with its alarms: what such a run shows
    /// is not what its method does.
    pub fn ended_in_alarm(&self, arm: &ArmName) -> Vec<String> {
        self.runs
            .iter()
            .filter_map(|run| {
                let manifest = run.manifest.as_ref().filter(|m| m.arm == *arm)?;
                let alarms = &run.metrics.last()?.alarms;
                let told = format!("{arm} seed {} ({})", manifest.seed, alarms.join(", "));
                (!alarms.is_empty()).then_some(told)
            })
            .collect()
    }

    /// The arm that stands for IAPO: the paper's form where it was trained, else the first of its
    /// variants, which carry their form in their name.
    pub fn claimed_arm(&self, claimed: &ArmName) -> Option<ArmName> {
        let arms = self.arms();
        let variant = |arm: &&ArmName| arm.name().starts_with(&format!("{claimed}-"));
        let found = arms.iter().find(|arm| *arm == claimed);
        found.or_else(|| arms.iter().find(variant)).cloned()
    }

    /// What the runs are, where a manifest tells it.
    pub fn run_kind(&self) -> RunKind {
        let manifest = self.runs.iter().find_map(|run| run.manifest.as_ref());
        RunKind::of(manifest.map(|manifest| &manifest.profile))
    }

    fn check(&self) -> Result<()> {
        let mut profile: Option<(&Run, &Manifest)> = None;
        let mut of_arm: HashMap<&ArmName, (&Run, &Manifest)> = HashMap::new();
        for run in &self.runs {
            let Some(manifest) = &run.manifest else {
                continue;
            };
            let (first, known) = *profile.get_or_insert((run, manifest));
            let refused = |other: &Run, other_manifest: &Manifest, what: String| {
                let named = |stamp: &ProfileStamp| {
                    format!("profile '{}' ({})", stamp.name, short(&stamp.hash))
                };
                mixed(
                    other,
                    run,
                    format!(
                        "{} against {}: {what}; give the folders of one profile",
                        named(&other_manifest.profile),
                        named(&manifest.profile)
                    ),
                )
            };
            // A hash covers what its arm reads, so arms are compared by the settings they share.
            let (same, same_manifest) = *of_arm.entry(&manifest.arm).or_insert((run, manifest));
            if same_manifest.profile.hash != manifest.profile.hash {
                return Err(refused(
                    same,
                    same_manifest,
                    "one arm, two hashes".to_string(),
                ));
            }
            if known.profile.name != manifest.profile.name {
                return Err(refused(first, known, "two names".to_string()));
            }
            if known.profile.hash != manifest.profile.hash
                && let Some(what) = known.profile.conflict(&manifest.profile)
            {
                return Err(refused(first, known, what));
            }
            if let Some(record) = run
                .records
                .iter()
                .find(|record| record.arm != manifest.arm || record.seed != manifest.seed)
            {
                return Err(Error::Mixed {
                    first: run.folder.join(MANIFEST).display().to_string(),
                    second: run.folder.join(RECORDS).display().to_string(),
                    reason: format!(
                        "the manifest says arm '{}' seed {}, a record says arm '{}' seed {}",
                        manifest.arm, manifest.seed, record.arm, record.seed
                    ),
                });
            }
        }
        let mut scorers: HashMap<&str, (&Run, &Record)> = HashMap::new();
        let mut questions: HashMap<(&str, &str), (&Run, &Record)> = HashMap::new();
        let mut answers: HashMap<(&str, &str, &ArmName, u64), &Run> = HashMap::new();
        for run in &self.runs {
            for record in &run.records {
                // What has no verdict was scored by nobody.
                if record.verdict != Verdict::NotJudged {
                    let (first, known) = *scorers.entry(&record.set).or_insert((run, record));
                    if (&known.scorer, &known.scorer_version)
                        != (&record.scorer, &record.scorer_version)
                    {
                        return Err(mixed(
                            first,
                            run,
                            format!(
                                "{} was scored by '{}' version '{}' and by '{}' version '{}'; score both with one",
                                record.set,
                                known.scorer,
                                known.scorer_version,
                                record.scorer,
                                record.scorer_version
                            ),
                        ));
                    }
                }
                let question = (record.set.as_str(), record.qa_id.as_str());
                let (first, known) = *questions.entry(question).or_insert((run, record));
                if let Some(reason) = known.other_data(record) {
                    return Err(mixed(first, run, reason));
                }
                let answer = (question.0, question.1, &record.arm, record.seed);
                if let Some(first) = answers.insert(answer, run) {
                    return Err(mixed(
                        first,
                        run,
                        format!(
                            "arm '{}' with seed {} answers question {} of {} twice",
                            record.arm, record.seed, record.qa_id, record.set
                        ),
                    ));
                }
            }
        }
        Ok(())
    }
}

fn mixed(first: &Run, second: &Run, reason: String) -> Error {
    Error::Mixed {
        first: first.folder.display().to_string(),
        second: second.folder.display().to_string(),
        reason,
    }
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

fn run_key(run: &Run) -> ((usize, &str), u64) {
    if let Some(manifest) = &run.manifest {
        return (manifest.arm.rank(), manifest.seed);
    }
    run.records.first().map_or(((usize::MAX, ""), 0), |record| {
        (record.arm.rank(), record.seed)
    })
}

fn find(folder: &Path, depth: usize, runs: &mut Vec<Run>) -> Result<()> {
    for folder in run_folders(folder, depth)? {
        runs.push(read_run(&folder)?);
    }
    Ok(())
}

/// Folders with records, at most `depth` below `folder`, in order.
pub(crate) fn run_folders(folder: &Path, depth: usize) -> Result<Vec<PathBuf>> {
    if is_stored(&folder.join(RECORDS)) || is_stored(&folder.join(MANIFEST)) {
        return Ok(vec![folder.to_path_buf()]);
    }
    let mut below = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let entry = entry.map_err(Error::io("list", folder))?;
        // A link could lead back up; runs are never reached through one.
        if entry
            .file_type()
            .map_err(Error::io("list", folder))?
            .is_dir()
        {
            below.push(entry.path());
        }
    }
    below.sort();
    let mut found = Vec::new();
    if depth > 0 {
        for folder in below {
            found.extend(run_folders(&folder, depth - 1)?);
        }
    }
    Ok(found)
}

/// A run from its files, compared with its manifest.
pub(crate) fn read_run(folder: &Path) -> Result<Run> {
    let manifest = folder.join(MANIFEST);
    let metrics = folder.join(METRICS);
    let manifest: Option<Manifest> = if is_stored(&manifest) {
        let read: Manifest = read_json(&manifest)?;
        if read.format != FORMAT {
            return Err(Error::Line {
                path: manifest,
                line: 1,
                reason: format!(
                    "format {} was written by another version of iapo; this one reads {FORMAT}",
                    read.format
                ),
            });
        }
        Some(read)
    } else {
        None
    };
    if let Some(manifest) = &manifest {
        check_present(folder, manifest)?;
    }
    let read = |path: &Path| -> Result<Vec<u8>> {
        let bytes = read_stored(path)?;
        if let Some(manifest) = &manifest {
            check_bytes(path, &bytes, manifest)?;
        }
        Ok(bytes)
    };
    let path = folder.join(RECORDS);
    let records: Vec<Record> = parse_lines(&path, &read(&path)?)?;
    if let Some(manifest) = &manifest {
        check_counts(&path, &records, manifest)?;
    }
    let metrics = if is_stored(&metrics) {
        parse_lines(&metrics, &read(&metrics)?)?
    } else {
        Vec::new()
    };
    Ok(Run {
        folder: folder.to_path_buf(),
        manifest,
        metrics,
        records,
    })
}

/// What two runs of one profile and seed must share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunHashes {
    /// BLAKE3 of `records.jsonl`.
    pub records: String,
    /// BLAKE3 of `metrics.jsonl` with every `seconds` left empty.
    pub metrics: String,
}

/// The hashes of the deterministic part of a run's files.
pub fn run_hashes(folder: &Path) -> Result<RunHashes> {
    let records = folder.join(RECORDS);
    let bytes = read_stored(&records)?;
    let metrics = folder.join(METRICS);
    let mut hasher = blake3::Hasher::new();
    if is_stored(&metrics) {
        for mut row in read_lines::<UpdateMetrics>(&metrics)? {
            row.seconds = BTreeMap::new();
            if let Some(attribution) = &mut row.attribution {
                attribution.seconds = None;
            }
            let line = serde_json::to_vec(&row).map_err(|source| Error::Json {
                path: metrics.clone(),
                source,
            })?;
            hasher.update(&line);
            hasher.update(b"\n");
        }
    }
    Ok(RunHashes {
        records: blake3::hash(&bytes).to_hex().to_string(),
        metrics: hasher.finalize().to_hex().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{write_json, write_lines};
    use crate::fixture;

    fn write(out: &Path, run: &Run) {
        let record = &run.records[0];
        let folder = run_folder(out, &record.arm, record.seed);
        write_json(&folder.join(MANIFEST), run.manifest.as_ref().unwrap()).unwrap();
        write_lines(&folder.join(METRICS), &run.metrics).unwrap();
        write_lines(&folder.join(RECORDS), &run.records).unwrap();
    }

    #[test]
    fn runs_come_back_from_disk_in_the_order_of_the_table() {
        let out = tempfile::tempdir().unwrap();
        let made = fixture::runs(3);
        for run in made.iter().rev() {
            write(out.path(), run);
        }
        let read = Runs::load(&[out.path().to_path_buf()]).unwrap();
        assert_eq!(read.runs.len(), made.len());
        for (read, made) in read.runs.iter().zip(&made) {
            assert_eq!(
                (&read.records, &read.metrics, &read.manifest),
                (&made.records, &made.metrics, &made.manifest)
            );
        }
        assert_eq!(read.run_kind(), RunKind::Replication("micro".to_string()));
        // One run's own folder is a table of one row.
        assert_eq!(
            Runs::load(&[out.path().join("iapo/seed-1")])
                .unwrap()
                .runs
                .len(),
            1
        );
    }

    #[test]
    fn hashes_leave_out_the_clock_and_nothing_else() {
        let out = tempfile::tempdir().unwrap();
        let mut run = fixture::runs(3).swap_remove(4);
        let hash = |run: &Run| {
            write(out.path(), run);
            run_hashes(&run_folder(
                out.path(),
                &run.records[0].arm,
                run.records[0].seed,
            ))
            .unwrap()
        };
        let first = hash(&run);
        run.metrics[3].seconds.insert("rollout".to_string(), 99.0);
        assert_eq!(hash(&run), first);
        run.metrics[3].loss += 1e-12;
        assert_ne!(hash(&run).metrics, first.metrics);
        run.records[0].prediction.push('0');
        assert_ne!(hash(&run).records, first.records);
    }

    #[test]
    fn runs_that_cannot_share_a_table_are_named() {
        let mut errors = Vec::new();
        let mut refuse = |change: &dyn Fn(&mut Vec<Run>)| {
            let mut runs = fixture::runs(2);
            change(&mut runs);
            errors.push(Runs::new(runs).unwrap_err().to_string());
        };
        refuse(&|runs| runs[5].manifest.as_mut().unwrap().profile.hash = "beef".repeat(16));
        refuse(&|runs| {
            for run in &mut runs[5..8] {
                run.manifest.as_mut().unwrap().profile.hash = "beef".repeat(16);
                run.manifest.as_mut().unwrap().profile.resolved["updates"] = 61.into();
            }
        });
        refuse(&|runs| runs[5].manifest.as_mut().unwrap().seed = 77);
        refuse(&|runs| runs[5].records[1].scorer_version = "2".to_string());
        refuse(&|runs| runs[5].records[1].gt = "9".to_string());
        refuse(&|runs| {
            let again = runs[5].records[1].clone();
            runs[5].records.push(again);
        });
        let out = tempfile::tempdir().unwrap();
        let here = out.path().display().to_string();
        errors.push(
            Runs::load(&[out.path().to_path_buf()])
                .unwrap_err()
                .to_string()
                .replace(&here, "OUT"),
        );
        let nowhere = out.path().join("nowhere");
        errors.push(
            Runs::load(&[nowhere])
                .unwrap_err()
                .to_string()
                .replace(&here, "OUT"),
        );
        insta::assert_snapshot!(errors.join("\n"));
    }

    #[test]
    fn what_waits_for_its_judge_may_stand_beside_what_was_judged() {
        let mut runs = fixture::runs(2);
        let record = &mut runs[5].records[1];
        record.scorer = "judge".to_string();
        record.verdict = Verdict::NotJudged;
        Runs::new(runs).unwrap();
    }

    #[test]
    fn a_manifest_of_another_version_is_refused() {
        let out = tempfile::tempdir().unwrap();
        let mut run = fixture::runs(2).swap_remove(0);
        run.manifest.as_mut().unwrap().format = 99;
        write(out.path(), &run);
        let error = Runs::load(&[out.path().to_path_buf()])
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with("format 99 was written by another version of iapo; this one reads 1"),
            "{error}"
        );
    }
}
