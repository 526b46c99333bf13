//! `iapo check`: whether recorded runs are whole and belong together, fault by fault.
//!
//! [`Runs::load`] stops at the first fault; this goes on and names all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use benchmarks::Verdict;
use serde::Serialize;

use crate::episode::{Decoding, EpisodeRecord};
use crate::error::{Error, Result};
use crate::files::parse_lines;
use crate::integrity::{EPISODES, GROUPS, MANIFEST, METRICS, RECORDS, VALIDATION, check_bytes};
use crate::manifest::Manifest;
use crate::record::ArmName;
use crate::run_kind::RunKind;
use crate::runs::{Run, Runs, read_run, run_folders};
use crate::shares::unanswered;
use crate::stored::{is_stored, read_stored};

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The numbers cannot be trusted or not be compared.
    Fault,
    /// Something cannot be told.
    Warning,
}

/// One thing found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it weighs.
    pub level: Level,
    /// The file or folder.
    pub path: PathBuf,
    /// What was expected and found, in words.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Fault => "fault",
            Level::Warning => "warning",
        };
        write!(f, "{level}: {}: {}", self.path.display(), self.message)
    }
}

/// Everything that is wrong with the runs at most three folders below each of `folders`, which are
/// checked each for itself and may be of different profiles. Profiles are known if `known` lists
/// their name or the folder keeps its `profile.toml`. Nothing found means that all is well.
pub fn check(folders: &[PathBuf], known: &[&str]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for folder in folders {
        check_folder(folder, known, &mut findings);
    }
    findings
}

fn fault(path: &Path, message: impl Into<String>) -> Finding {
    Finding {
        level: Level::Fault,
        path: path.to_path_buf(),
        message: message.into(),
    }
}

/// An error as a finding: its own words and those of its cause, without the path twice.
fn of_error(folder: &Path, error: &Error) -> Finding {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        message = format!("{message}: {source}");
        cause = source.source();
    }
    let path = match error {
        Error::Damaged { path, .. }
        | Error::Io { path, .. }
        | Error::Json { path, .. }
        | Error::Line { path, .. } => path.as_path(),
        _ => folder,
    };
    let prefix = path.display().to_string();
    let short = message
        .strip_prefix(&prefix)
        .map(|rest| rest.trim_start_matches([':', ',', ' ']));
    fault(path, short.unwrap_or(&message))
}

fn check_folder(folder: &Path, known: &[&str], findings: &mut Vec<Finding>) {
    let below = match run_folders(folder, 3) {
        Ok(below) if below.is_empty() => {
            let none = Error::NoRuns {
                path: folder.to_path_buf(),
            };
            findings.push(of_error(folder, &none));
            return;
        }
        Ok(below) => below,
        Err(error) => {
            findings.push(of_error(folder, &error));
            return;
        }
    };
    let mut runs = Vec::new();
    for one in &below {
        match read_run(one) {
            Ok(run) => {
                check_run(folder, &run, known, findings);
                check_episodes(&run, findings);
                runs.push(run);
            }
            Err(error) => findings.push(of_error(one, &error)),
        }
    }
    findings.extend(unanswered(&runs).map(|(path, what)| fault(&path, what)));
    check_seeds(folder, &below, findings);
    if let Err(error) = Runs::new(runs) {
        findings.push(of_error(folder, &error));
    }
}

/// What one run's own files tell.
fn check_run(out: &Path, run: &Run, known: &[&str], findings: &mut Vec<Finding>) {
    let Some(manifest) = &run.manifest else {
        findings.push(fault(
            &run.folder.join(MANIFEST),
            "missing: the run was not finished, or its manifest is gone; run the same command with --resume",
        ));
        return;
    };
    if !run.is_verified() {
        findings.push(Finding {
            level: Level::Warning,
            path: run.folder.join(MANIFEST),
            message: "holds no checksums (an earlier version, or not finished): the files are not verified"
                .to_string(),
        });
    }
    let profile = &manifest.profile;
    if profile.name != RunKind::EVALUATION
        && !known.contains(&profile.name.as_str())
        && !out.join("profile.toml").is_file()
    {
        findings.push(fault(
            &run.folder.join(MANIFEST),
            format!(
                "profile '{}' is none of {} and {} is missing",
                profile.name,
                known.join(", "),
                out.join("profile.toml").display()
            ),
        ));
    }
    if let Some(weights) = manifest.checkpoints.get("final")
        && let Some(other) = run
            .records
            .iter()
            .find(|record| record.checkpoint != *weights)
    {
        findings.push(fault(
            &run.folder.join(RECORDS),
            format!(
                "question {} of {} was answered by the checkpoint {}, the manifest says {weights}",
                other.qa_id, other.set, other.checkpoint
            ),
        ));
    }
    let updates: u64 = manifest.updates.values().sum();
    if run.metrics.is_empty() && updates > 0 {
        findings.push(fault(
            &run.folder.join(METRICS),
            format!("no line, the manifest says {updates} updates"),
        ));
    }
    let order = run
        .metrics
        .windows(2)
        .find(|pair| pair[1].update != pair[0].update + 1);
    if let Some(pair) = order {
        findings.push(fault(
            &run.folder.join(METRICS),
            format!("update {} follows on {}", pair[1].update, pair[0].update),
        ));
    }
}

/// Episodes that stand beside the records are whole, this run's, and say what the records say.
fn check_episodes(run: &Run, findings: &mut Vec<Finding>) {
    let read = |path: &Path| -> Result<Vec<EpisodeRecord>> {
        let bytes = read_stored(path)?;
        if let Some(manifest) = &run.manifest {
            check_bytes(path, &bytes, manifest)?;
        }
        parse_lines(path, &bytes)
    };
    for name in [EPISODES, VALIDATION, GROUPS] {
        let path = run.folder.join(name);
        if !is_stored(&path) {
            continue;
        }
        match read(&path) {
            Err(error) => findings.push(of_error(&run.folder, &error)),
            Ok(episodes) if name == EPISODES => {
                findings.extend(disagreement(run, &episodes).map(|what| fault(&path, what)));
            }
            Ok(_) => {}
        }
    }
}

/// The first greedy episode that is not what its record says.
fn disagreement(run: &Run, episodes: &[EpisodeRecord]) -> Option<String> {
    let greedy = episodes
        .iter()
        .filter(|episode| episode.decoding == Decoding::Greedy);
    let told: BTreeMap<(&str, &str), &EpisodeRecord> = greedy
        .map(|episode| ((episode.set.as_str(), episode.qa_id.as_str()), episode))
        .collect();
    // A figure that could not be read has a record alone, and so may what an earlier version of
    // `eval-all` asked.
    let given = |manifest: &Manifest| manifest.profile.name == RunKind::EVALUATION;
    let may_lack = run.manifest.as_ref().is_some_and(given);
    run.records.iter().find_map(|record| {
        let Some(episode) = told.get(&(record.set.as_str(), record.qa_id.as_str())) else {
            let lacks = !may_lack && record.verdict != Verdict::NotJudged;
            return lacks.then(|| {
                format!(
                    "no episode of question {} of {}, which has a record",
                    record.qa_id, record.set
                )
            });
        };
        let of_record = (&record.arm, record.seed, record.verdict, &record.prediction);
        let of_episode = (
            &episode.arm,
            episode.seed,
            episode.verdict,
            &episode.prediction,
        );
        (of_record != of_episode).then(|| {
            format!(
                "question {} of {} is {of_episode:?} here and {of_record:?} in the records",
                record.qa_id, record.set
            )
        })
    })
}

/// Arms that have several seeds have the same ones.
fn check_seeds(folder: &Path, below: &[PathBuf], findings: &mut Vec<Finding>) {
    // By the folders' names, which damaged runs have too.
    let mut seeds: BTreeMap<ArmName, BTreeSet<u64>> = BTreeMap::new();
    for run in below {
        let name = |path: Option<&Path>| Some(path?.file_name()?.to_str()?.to_string());
        let seed = name(Some(run)).and_then(|name| name.strip_prefix("seed-")?.parse().ok());
        let arm = name(run.parent()).and_then(|name| name.parse().ok());
        if let (Some(arm), Some(seed)) = (arm, seed) {
            seeds.entry(arm).or_default().insert(seed);
        }
    }
    seeds.retain(|_, own| own.len() > 1);
    let all: BTreeSet<u64> = seeds.values().flatten().copied().collect();
    for (arm, own) in seeds {
        let missing: Vec<String> = all.difference(&own).map(u64::to_string).collect();
        if !missing.is_empty() {
            findings.push(fault(
                &folder.join(arm.name()),
                format!(
                    "no run of seed {}, which other arms have",
                    missing.join(", ")
                ),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{write_json, write_lines};
    use crate::fixture;
    use crate::integrity::write_manifest;
    use crate::runs::run_folder;

    /// A folder of whole runs: three arms, their checkpoints named.
    fn made() -> tempfile::TempDir {
        let out = tempfile::tempdir().unwrap();
        for mut run in fixture::runs(4) {
            let record = &run.records[0];
            let folder = run_folder(out.path(), &record.arm, record.seed);
            write_lines(&folder.join(METRICS), &run.metrics).unwrap();
            write_lines(&folder.join(RECORDS), &run.records).unwrap();
            let manifest = run.manifest.as_mut().unwrap();
            manifest
                .checkpoints
                .insert("final".to_string(), "00".to_string());
            write_manifest(&folder, manifest).unwrap();
        }
        out
    }

    fn found(out: &Path) -> Vec<String> {
        let here = out.display().to_string();
        check(&[out.to_path_buf()], &["micro"])
            .iter()
            .map(|finding| finding.to_string().replace(&here, "OUT"))
            .collect()
    }

    #[test]
    fn whole_runs_have_no_findings() {
        let out = made();
        assert_eq!(found(out.path()), Vec::<String>::new());
    }

    #[test]
    fn every_damage_is_named() {
        let mut said = Vec::new();
        let mut damage = |change: &dyn Fn(&Path)| {
            let out = made();
            change(&out.path().join("iapo/seed-1"));
            let lines = found(out.path());
            assert!(!lines.is_empty());
            // A table of such a run is refused unless only a warning was found.
            let refused = Runs::load(&[out.path().to_path_buf()]).is_err();
            said.push(format!("{}\n(table refused: {refused})", lines.join("\n")));
        };
        let cut = |path: &Path, lines: usize| {
            let text = std::fs::read_to_string(path).unwrap();
            let kept: Vec<&str> = text.lines().rev().skip(lines).collect();
            let kept: String = kept.iter().rev().map(|line| format!("{line}\n")).collect();
            std::fs::write(path, kept).unwrap();
        };
        damage(&|run| cut(&run.join(RECORDS), 10));
        damage(&|run| std::fs::write(run.join(RECORDS), "").unwrap());
        damage(&|run| {
            let text = std::fs::read_to_string(run.join(RECORDS)).unwrap();
            let flipped = text.replacen("\"verdict\":\"wrong\"", "\"verdict\":\"right\"", 1);
            assert_ne!(flipped, text);
            std::fs::write(run.join(RECORDS), flipped).unwrap();
        });
        damage(&|run| {
            let mut bytes = std::fs::read(run.join(METRICS)).unwrap();
            let digit = bytes.iter().position(|byte| *byte == b'7').unwrap();
            bytes[digit] ^= 1;
            std::fs::write(run.join(METRICS), bytes).unwrap();
        });
        damage(&|run| std::fs::remove_file(run.join(METRICS)).unwrap());
        damage(&|run| std::fs::remove_file(run.join(RECORDS)).unwrap());
        damage(&|run| std::fs::remove_file(run.join(MANIFEST)).unwrap());
        damage(&|run| {
            let text = std::fs::read_to_string(run.join(MANIFEST)).unwrap();
            std::fs::write(run.join(MANIFEST), &text[..text.len() / 2]).unwrap();
        });
        damage(&|run| std::fs::remove_dir_all(run).unwrap());
        // Without checksums the counts are all there is.
        damage(&|run| {
            let path = run.join(MANIFEST);
            let mut manifest: crate::Manifest = crate::read_json(&path).unwrap();
            manifest.files.clear();
            manifest.questions.insert("vtabfact".to_string(), 4);
            write_json(&path, &manifest).unwrap();
        });
        damage(&|run| {
            let path = run.join(MANIFEST);
            let mut manifest: crate::Manifest = crate::read_json(&path).unwrap();
            manifest.files.clear();
            manifest.questions.insert("vtabfact".to_string(), 4);
            write_json(&path, &manifest).unwrap();
            cut(&run.join(RECORDS), 6);
        });
        // Whole by its manifest, and yet not what the others are.
        damage(&|run| {
            let path = run.join(MANIFEST);
            let mut manifest: crate::Manifest = crate::read_json(&path).unwrap();
            cut(&run.join(RECORDS), 3);
            manifest
                .checkpoints
                .insert("final".to_string(), "11".to_string());
            write_manifest(run, &mut manifest).unwrap();
        });
        insta::assert_snapshot!(said.join("\n\n"));
    }

    #[test]
    fn episodes_that_contradict_their_records_are_named() {
        let out = made();
        let folder = out.path().join("iapo/seed-1");
        let records: Vec<crate::Record> = crate::read_lines(&folder.join(RECORDS)).unwrap();
        let mut episodes: Vec<EpisodeRecord> = records
            .iter()
            .map(|record| EpisodeRecord {
                arm: record.arm.clone(),
                seed: record.seed,
                set: record.set.clone(),
                qa_id: record.qa_id.clone(),
                prediction: record.prediction.clone(),
                verdict: record.verdict,
                decoding: Decoding::Greedy,
                ..crate::episode::tests::example()
            })
            .collect();
        let path = folder.join(EPISODES);
        let write = |episodes: &[EpisodeRecord]| {
            write_lines(&path, episodes).unwrap();
            crate::pack(&path).unwrap();
            let manifest = folder.join(MANIFEST);
            let mut manifest: crate::Manifest = crate::read_json(&manifest).unwrap();
            write_manifest(&folder, &mut manifest).unwrap();
            assert!(manifest.files.contains_key(EPISODES));
        };
        write(&episodes);
        assert_eq!(found(out.path()), Vec::<String>::new());
        episodes[1].prediction.push('0');
        write(&episodes);
        let lines = found(out.path());
        assert!(
            lines.len() == 1 && lines[0].contains("question q1 of charxiv is"),
            "{lines:?}"
        );
        episodes.remove(1);
        write(&episodes);
        assert!(found(out.path())[0].contains("no episode of question q1"));
        // The manifest knows its bytes, and that it is there.
        let packed = crate::compressed(&path);
        std::fs::write(&packed, crate::gzip(b"{}\n")).unwrap();
        assert!(found(out.path())[0].contains("lines, as the manifest says"));
        std::fs::remove_file(&packed).unwrap();
        assert!(found(out.path())[0].contains("no such file"));
    }

    #[test]
    fn a_compressed_run_is_the_same_run_and_its_damage_is_seen() {
        use std::io::Write;
        let out = made();
        let before = Runs::load(&[out.path().to_path_buf()]).unwrap();
        let path = out.path().join("iapo/seed-1").join(RECORDS);
        let bytes = std::fs::read(&path).unwrap();
        let packed = crate::compressed(&path);
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&bytes).unwrap();
        let whole = encoder.finish().unwrap();
        std::fs::write(&packed, &whole).unwrap();
        assert!(found(out.path())[0].contains("expected one form of it"));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(found(out.path()), Vec::<String>::new());
        let after = Runs::load(&[out.path().to_path_buf()]).unwrap();
        assert!(before.records().eq(after.records()));
        for (name, damaged) in [("cut", &whole[..whole.len() - 9]), ("empty", &whole[..0])] {
            std::fs::write(&packed, damaged).unwrap();
            assert_eq!(
                found(out.path()).len(),
                1,
                "{name}: {:?}",
                found(out.path())
            );
        }
        let mut flipped = whole.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 4;
        std::fs::write(&packed, flipped).unwrap();
        assert!(!found(out.path()).is_empty());
    }
}
