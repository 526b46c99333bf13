//! The machinery of the study: its cells, what is refused, several processes in one folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use replicate::study::{Freeze, Phase, Study};
use results::{Manifest, Runs, read_json, run_hashes};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn iapo(study: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iapo"));
    command
        .current_dir(root())
        .arg("study")
        .arg("--study")
        .arg(study)
        .arg("--out")
        .arg(out)
        .args(more);
    command
}

fn text(output: &Output) -> (String, String) {
    (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

fn succeed(mut command: Command) -> String {
    let output = command.output().unwrap();
    let (said, errors) = text(&output);
    assert!(output.status.success(), "{said}\n{errors}");
    said
}

fn fail(mut command: Command) -> String {
    let output = command.output().unwrap();
    let (said, errors) = text(&output);
    assert!(!output.status.success(), "it should have failed: {said}");
    errors
}

/// A study that is far too short to learn: two arms with two seeds in a part that tunes and in one
/// that counts, and one seed in two worlds.
fn tiny(folder: &Path, penalty: &str) {
    std::fs::create_dir_all(folder).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    write(
        "profile.toml",
        "parent = \"smoke\"\nname = \"tiny\"\n[schedule]\nteacher = 1\ncold_start = 1\narm = 3\n\
         save_every = 1\nteacher_per_seed = true\n[grpo]\nprompts = 2\n\
         [evaluation]\nquestions = 2\nvalidation = 2\nattributed = 1\nprobe = 2\nsampled = false\n\
         [episodes]\nevaluated = false\nteacher = false\nvalidation = 0\ngroups = 0\n",
    );
    write(
        "parts.toml",
        "[[parts]]\nname = \"A\"\nphase = \"tuning\"\narms = [\"vtool-r1\", \"torl\"]\n\
         [[parts]]\nname = \"B\"\nphase = \"counted\"\narms = [\"vtool-r1\", \"torl\"]\n\
         [[parts]]\nname = \"C\"\nphase = \"counted\"\nseeds = 1\narms = [\"vtool-r1\", \"torl\"]\n\
         [[parts.variants]]\nlabel = \"two\"\nset = { \"world.difficulty.named\" = [2, 2] }\n\
         [[parts.variants]]\nlabel = \"three\"\nset = { \"world.difficulty.named\" = [3, 3] }\n",
    );
    write(
        "preregistration.toml",
        &format!(
            "[seeds]\ntuning = {{ first = 1000, count = 2 }}\ncounted = {{ first = 2000, count = 2 }}\n\
             [worlds]\ntuning = 5\n[settings]\n[tuned]\n\"arms.torl.penalty\" = {penalty}\n\
             [rule]\nmeasure = \"macro-average\"\nanswers = \"greedy\"\n\
             interval = \"crossed-random-effects\"\ncorrection = \"holm\"\nalpha = 0.05\n\
             smallest_effect = 1.0\nlooks = 1\n\
             [[tests]]\nname = \"H1\"\narm = \"torl\"\nover = [\"vtool-r1\"]\n"
        ),
    );
    write(
        "costs.toml",
        "question = 0.01\nbase = 1\n[update]\nother = 1\n",
    );
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .arg("-C")
        .arg(folder)
        .args(["-c", "user.name=a", "-c", "user.email=a@b"])
        .args(arguments)
        .output()
        .unwrap();
    let (said, errors) = text(&output);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    said.trim().to_owned()
}

/// Hashes of the records of all finished runs, by folder.
fn hashes(out: &Path) -> BTreeMap<PathBuf, (String, String)> {
    fn collect(out: &Path, folder: &Path, found: &mut BTreeMap<PathBuf, (String, String)>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if results::is_stored(&path.join(results::RECORDS)) {
                let hashes = run_hashes(&path).unwrap();
                let relative = path.strip_prefix(out).unwrap().to_owned();
                found.insert(relative, (hashes.records, hashes.metrics));
            } else if path.is_dir() {
                collect(out, &path, found);
            }
        }
    }
    let mut found = BTreeMap::new();
    collect(out, out, &mut found);
    found
}

#[test]
fn the_studys_cells() {
    let study = Study::read(&root().join("replicate/study")).unwrap();
    let cells = study.cells(None).unwrap();
    let mut lines = Vec::new();
    for part in &study.parts {
        let own: Vec<_> = cells.iter().filter(|cell| cell.part == part.name).collect();
        let (low, high) = match part.phase {
            Phase::Counted => (2000, 2020),
            Phase::World | Phase::Tuning => (1000, 1004),
        };
        assert!(own.iter().all(|cell| (low..high).contains(&cell.seed)));
        lines.push(format!(
            "{} {:?}: {} cells",
            part.name,
            part.phase,
            own.len()
        ));
        let first = own.first().unwrap().seed;
        for cell in own.iter().filter(|cell| cell.seed == first) {
            lines.push(format!("  {}", cell.id()));
        }
    }
    insta::assert_snapshot!(lines.join("\n"));
    let mut ids: Vec<String> = cells.iter().map(|cell| cell.id()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), cells.len());
}

/// The report has the primary test when all its cells are there, not before, and a changed one is
/// noticed.
fn reports(study: &Path, out: &Path) {
    let report = out.join(replicate::study::REPORT);
    let written = || {
        succeed(iapo(study, out, &["--report"]));
        std::fs::read_to_string(&report).unwrap()
    };
    let whole = written();
    let row = |text: &str| {
        text.lines()
            .find(|line| line.contains("torl − vtool-r1"))
            .is_some()
    };
    assert!(row(&whole), "{whole}");
    assert!(whole.contains("## All arms"), "{whole}");
    succeed(iapo(study, out, &["--report", "--check"]));
    let picture = out.join("differences.svg");
    let drawn = std::fs::read_to_string(&picture).unwrap();
    assert!(drawn.contains("H1: torl − vtool-r1"), "{drawn}");
    std::fs::write(&picture, drawn.replacen("H1", "H2", 1)).unwrap();
    let noticed = fail(iapo(study, out, &["--report", "--check"]));
    assert!(noticed.contains("differences.svg"), "{noticed}");
    std::fs::write(&picture, drawn).unwrap();
    std::fs::write(&report, whole.replacen("H1", "H2", 1)).unwrap();
    let noticed = fail(iapo(study, out, &["--report", "--check"]));
    assert!(noticed.contains("is not what the runs say"), "{noticed}");
    // One cell less: no look at the others.
    let (cell, aside) = (out.join("B/main/torl/seed-2001"), out.join("aside"));
    std::fs::rename(&cell, &aside).unwrap();
    let early = written();
    assert!(!row(&early), "{early}");
    assert!(early.contains("3 of 4 cells"), "{early}");
    std::fs::rename(&aside, &cell).unwrap();
    // A part with variants is a map of gains, when it is whole.
    assert!(whole.contains("0 of 4 cells are there"), "{whole}");
    succeed(iapo(study, out, &["--part", "C", "--workers", "2"]));
    let whole = written();
    assert!(whole.contains("### Gain against room"), "{whole}");
    assert!(out.join("map-C.svg").is_file() && whole.contains("](map-C.svg)"));
    // Packed, the same runs say the same.
    succeed(iapo(study, out, &["--pack"]));
    assert!(cell.join("records.jsonl.delta.gz").is_file());
    assert_eq!(written(), whole);
}

/// The forms that the occlusion arm is compared with have its weight as soon as it is decided, and the
/// world follows the commit.
#[test]
fn counted_cells_are_refused_until_all_is_decided_and_committed() {
    let dir = tempfile::tempdir().unwrap();
    let (study, out) = (dir.path().join("study"), dir.path().join("out"));
    tiny(&study, "\"undecided\"");
    let undecided = fail(iapo(&study, &out, &["--part", "B"]));
    assert!(
        undecided.contains("tuned.\"arms.torl.penalty\""),
        "{undecided}"
    );
    tiny(&study, "0.7");
    git(&study, &["init", "-q"]);
    let uncommitted = fail(iapo(&study, &out, &["--part", "B"]));
    assert!(
        uncommitted.contains("preregistration.toml"),
        "{uncommitted}"
    );
    assert!(!out.exists(), "refused before anything was made");
    git(&study, &["add", "."]);
    git(&study, &["commit", "-q", "-m", "frozen"]);
    std::fs::write(study.join("parts.toml"), "\n# later\n").unwrap();
    git(&study, &["checkout", "-q", "parts.toml"]);
    succeed(iapo(&study, &out, &["--part", "B", "--workers", "2"]));
    let commit = git(&study, &["rev-parse", "HEAD"]);
    let manifest: Manifest = read_json(&out.join("B/main/torl/seed-2000/manifest.json")).unwrap();
    assert_eq!(manifest.preregistration.as_ref(), Some(&commit));
    let resolved = &manifest.profile.resolved;
    let seed = Freeze { commit }.world_seed();
    assert_eq!(resolved.pointer("/world/seed"), Some(&seed.into()));
    let penalty = resolved.pointer("/arms/torl/penalty").unwrap();
    assert!((penalty.as_f64().unwrap() - 0.7).abs() < 1e-6, "{penalty}");
    reports(&study, &out);
    // Each seed and each world has its own teacher.
    let teachers: Vec<PathBuf> = hashes(&out)
        .into_keys()
        .filter(|path| path.to_string_lossy().contains("teacher-"))
        .collect();
    assert_eq!(teachers.len(), 4, "two seeds, and one in two other worlds");
    assert!(teachers[0].ends_with("seed-2000"), "{teachers:?}");
    // A change after the freeze is refused again, and what is there is not redone.
    std::fs::write(
        study.join("costs.toml"),
        "question = 1\nbase = 1\n[update]\nother = 1\n",
    )
    .unwrap();
    let again = succeed(iapo(&study, &out, &["--part", "B"]));
    assert!(again.contains("nothing to do"), "{again}");
}

/// The run of the teacher of a seed.
fn shared_teacher(runs: &BTreeMap<PathBuf, (String, String)>, seed: u64) -> PathBuf {
    let seed = format!("seed-{seed}");
    let own = |run: &&PathBuf| {
        run.ends_with(&seed) && run.to_string_lossy().starts_with("shared/teacher-")
    };
    runs.keys().find(own).cloned().unwrap()
}

fn wait_for(path: &Path, child: &mut Child) {
    let patience = Instant::now();
    while !path.exists() && patience.elapsed() < Duration::from_secs(600) {
        if child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(path.exists(), "{} never came", path.display());
}

#[cfg(target_os = "linux")]
#[test]
fn several_processes_make_the_bytes_of_one_and_a_killed_one_costs_its_cell() {
    let dir = tempfile::tempdir().unwrap();
    let study = dir.path().join("study");
    tiny(&study, "\"undecided\"");
    let one = dir.path().join("one");
    succeed(iapo(&study, &one, &["--part", "A", "--workers", "1"]));
    let expected = hashes(&one);
    // Four cells, two teachers, the untrained base.
    assert_eq!(expected.len(), 7);

    let two = dir.path().join("two");
    let parts = ["--part", "A", "--workers", "2"];
    let dry = succeed(iapo(&study, &two, &["--part", "A", "--dry-run"]));
    assert!(dry.contains("costs.toml") && !two.exists(), "{dry}");
    // One process of the cell of torl with seed 1000 is killed while it trains.
    let mut command = iapo(&study, &two, &parts);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let folder = two.join("A/main/torl/seed-1000");
    wait_for(&folder.join("state/step-1"), &mut child);
    let victim = process_of("A/main/torl/1000").expect("its process runs");
    let killed = Command::new("kill")
        .args(["-9", &victim.to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    let (_, errors) = text(&output);
    assert!(!output.status.success(), "{errors}");
    assert!(errors.contains("failed: A/main/torl/1000"), "{errors}");
    assert!(errors.contains("1 of 4 cells failed"), "{errors}");
    let status = succeed(iapo(&study, &two, &["--part", "A", "--status"]));
    assert!(status.contains("failed: A/main/torl/1000"), "{status}");
    assert!(status.contains("not complete"), "{status}");
    assert!(two.join("A/main/torl/seed-1001/manifest.json").exists());
    assert!(!folder.join("manifest.json").exists());

    // Two commands in one folder share what is left.
    let mut beside = iapo(&study, &two, &parts)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let own = iapo(&study, &two, &parts).output().unwrap();
    assert!(own.status.success(), "{:?}", text(&own));
    assert!(beside.wait().unwrap().success());
    assert_eq!(hashes(&two), expected);
    let status = succeed(iapo(&study, &two, &["--part", "A", "--status"]));
    assert!(
        status.ends_with("complete\n") && !status.contains("not"),
        "{status}"
    );
    let measured = succeed(iapo(&study, &two, &["--dry-run"]));
    assert!(
        measured.contains("A ") || measured.contains("B "),
        "{measured}"
    );

    // The folders of the cells, their teachers and their base make a table.
    let read = Study::read(&study).unwrap();
    let mut cells = read.cells(None).unwrap();
    cells.retain(|cell| cell.part == "A");
    let runs = Runs::load(&read.run_folders(&cells, &two)).unwrap();
    let arms: Vec<String> = runs
        .arms()
        .iter()
        .map(|arm| arm.name().to_owned())
        .collect();
    assert_eq!(arms, ["untrained", "teacher", "vtool-r1", "torl"]);
    assert_eq!(runs.runs.len(), 7);

    // From records alone, as a clone has them, there is nothing to do.
    let clone = dir.path().join("clone");
    for relative in expected.keys() {
        let to = clone.join(relative);
        std::fs::create_dir_all(&to).unwrap();
        for name in [results::MANIFEST, results::METRICS, results::RECORDS] {
            let from = two.join(relative).join(name);
            if from.exists() {
                std::fs::copy(from, to.join(name)).unwrap();
            }
        }
    }
    let nothing = succeed(iapo(&study, &clone, &parts));
    assert!(nothing.contains("nothing to do: 4 cells"), "{nothing}");
    // A cell that is missing needs its teacher's checkpoint, which is made again. What was recorded of
    // the teacher stays as it was, compressed here; another program's weights are told.
    let (cell, teacher) = ("A/main/torl/seed-1001", shared_teacher(&expected, 1001));
    let recorded = clone.join(&teacher).join(results::METRICS);
    results::pack(&recorded).unwrap();
    let kept = std::fs::read(results::compressed(&recorded)).unwrap();
    let again = || {
        std::fs::remove_dir_all(clone.join(cell)).unwrap();
        let output = iapo(&study, &clone, &parts).output().unwrap();
        assert!(output.status.success(), "{:?}", text(&output));
        assert_eq!(hashes(&clone), expected);
        assert_eq!(std::fs::read(results::compressed(&recorded)).unwrap(), kept);
        assert!(!recorded.exists() && !clone.join(&teacher).join("again").exists());
        std::fs::read_to_string(clone.join(cell).join("log.txt")).unwrap()
    };
    assert!(!again().contains("trained again"));
    let path = clone.join(&teacher).join(results::MANIFEST);
    let mut manifest: Manifest = read_json(&path).unwrap();
    manifest.checkpoints.insert("final".into(), "other".into());
    std::fs::write(&path, serde_json::to_string(&manifest).unwrap()).unwrap();
    std::fs::remove_dir_all(clone.join(&teacher).join("checkpoint")).unwrap();
    let told = again();
    assert!(
        told.contains("trained again") && told.contains("recorded was other"),
        "{told}"
    );

    // Damage is seen: no table is made of it unnoticed.
    let records = clone.join("A/main/torl/seed-1000/records.jsonl");
    let whole = std::fs::read(&records).unwrap();
    std::fs::write(&records, &whole[..whole.len() / 2]).unwrap();
    let status = succeed(iapo(&study, &clone, &["--part", "A", "--status"]));
    assert!(status.contains("not complete"), "{status}");
    let damaged = fail(iapo(&study, &clone, &parts));
    assert!(
        damaged.contains("1 of 1 cells failed") && damaged.contains("records.jsonl"),
        "{damaged}"
    );
    std::fs::write(&records, whole).unwrap();
    // Other settings are seen, and not taken for the same.
    tiny(&study, "0.5");
    let profile = study.join("profile.toml");
    let changed = std::fs::read_to_string(&profile).unwrap() + "warmup = 7\n";
    let changed = changed
        .replace("warmup = 7\n", "")
        .replace("[grpo]\n", "[grpo]\nwarmup = 7\n");
    std::fs::write(&profile, changed).unwrap();
    let status = succeed(iapo(&study, &clone, &["--part", "A", "--status"]));
    assert!(status.contains("not complete"), "{status}");
    let refused = fail(iapo(&study, &clone, &parts));
    assert!(
        refused.contains("4 of 4 cells failed") && refused.contains("grpo.warmup was 3, now 7"),
        "{refused}"
    );
}

/// Bases of a part's own are made once, by whoever needs them first, and found by the others.
#[test]
fn a_part_with_bases_of_its_own_uses_them() {
    let dir = tempfile::tempdir().unwrap();
    let (study, out) = (dir.path().join("study"), dir.path().join("out"));
    tiny(&study, "0.7");
    let parts = "[[parts]]\nname = \"E\"\nphase = \"tuning\"\nseeds = 1\narms = [\"torl\"]\nbase_seed = 12\n";
    std::fs::write(study.join("parts.toml"), parts).unwrap();
    // Nothing is counted, so nothing is tested.
    let given = study.join("preregistration.toml");
    let text = std::fs::read_to_string(&given).unwrap();
    let before = text.split("[[tests]]").next().unwrap();
    std::fs::write(&given, format!("tests = []\n{before}")).unwrap();
    let cells = Study::read(&study).unwrap().cells(None).unwrap();
    // Made beforehand here, since it takes long: the committed ones in their place.
    let base = cells[0].base_folder(&out).unwrap();
    let committed = root().join("replicate/checkpoints/micro");
    for role in ["student", "teacher"] {
        std::fs::create_dir_all(base.join(role)).unwrap();
        for entry in std::fs::read_dir(committed.join(role)).unwrap() {
            let from = entry.unwrap().path();
            std::fs::copy(&from, base.join(role).join(from.file_name().unwrap())).unwrap();
        }
    }
    assert_eq!(cells[0].needs(&out).len(), 2, "teacher and cold start");
    succeed(iapo(&study, &out, &[]));
    let manifest: Manifest = read_json(&out.join("E/main/torl/seed-1000/manifest.json")).unwrap();
    let student = manifest.profile.resolved.pointer("/checkpoints/student");
    let student = student.unwrap().as_str().unwrap();
    let name = base.file_name().unwrap().to_string_lossy().into_owned();
    assert_eq!(student, format!("{name}/student"));
    assert_eq!(manifest.updates["torl"], 3);
}

/// The process whose job is a cell.
fn process_of(cell: &str) -> Option<u32> {
    let own = std::process::id();
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Ok(id) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if id != own && line.contains("--job") && line.contains(cell) {
            return Some(id);
        }
    }
    None
}

/// What `--engine hq` says, on a real server with two workers; one process is killed.
#[cfg(target_os = "linux")]
#[test]
fn hyperqueue_makes_the_cells_and_a_killed_process_costs_one() {
    let python = root().join(".venv/hyperqueue/bin/python");
    let script = root().join("tests/hyperqueue/hq.py");
    if !python.exists() {
        println!(
            "skipped: no .venv/hyperqueue; {} says how",
            script.display()
        );
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (study, out) = (dir.path().join("study"), dir.path().join("out"));
    tiny(&study, "\"undecided\"");
    let hq = dir.path().join("hq");
    let text = format!(
        "#!/bin/sh\nexec '{}' '{}' \"$@\"\n",
        python.display(),
        script.display()
    );
    std::fs::write(&hq, text).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&hq, mode).unwrap();
    let path = format!(
        "{}:{}",
        dir.path().display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let parts = ["--part", "A", "--engine", "hq"];
    let mut command = iapo(&study, &out, &parts);
    command
        .env("PATH", &path)
        .env("HQ_KILL", "A/main/torl/1001");
    let errors = fail(command);
    assert!(errors.contains("SIGKILL"), "{errors}");
    let finished = |seed: u64, arm: &str| {
        let folder = out.join(format!("A/main/{arm}/seed-{seed}"));
        folder.join("manifest.json").exists()
    };
    let made = [1000, 1001].map(|seed| ["vtool-r1", "torl"].map(|arm| finished(seed, arm)));
    assert_eq!(made, [[true, true], [true, false]]);
    let mut command = iapo(&study, &out, &parts);
    command.env("PATH", &path);
    succeed(command);
    let status = succeed(iapo(&study, &out, &["--part", "A", "--status"]));
    assert!(status.ends_with("\ncomplete\n"), "{status}");
}

#[test]
fn what_is_wrong_is_named_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let (study, out) = (dir.path().join("study"), dir.path().join("out"));
    tiny(&study, "0.7");
    let part = fail(iapo(&study, &out, &["--part", "Z"]));
    assert!(
        part.contains("no part 'Z'") && part.contains("A, B"),
        "{part}"
    );
    let change = |name: &str, from: &str, to: &str| {
        tiny(&study, "0.7");
        let path = study.join(name);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
        fail(iapo(&study, &out, &["--part", "A"]))
    };
    for (name, from, to, said) in [
        (
            "parts.toml",
            "\"torl\"]\n",
            "\"tolr\"]\n",
            "unknown arm 'tolr'",
        ),
        (
            "parts.toml",
            "phase = \"tuning\"",
            "phase = \"guess\"",
            "guess",
        ),
        (
            "preregistration.toml",
            "torl.penalty",
            "torl.pemalty",
            "torl.pemalty",
        ),
        (
            "preregistration.toml",
            "first = 1000",
            "first = 3",
            "seeds.tuning.first is 3",
        ),
        (
            "preregistration.toml",
            "[worlds]",
            "[worlds]\nother = 1",
            "other",
        ),
    ] {
        let error = change(name, from, to);
        assert!(error.contains(said) && error.contains(name), "{error}");
    }
    assert!(!out.exists());
    tiny(&study, "0.7");
    let script = succeed(iapo(&study, &out, &["--part", "A", "--engine", "slurm"]));
    assert!(script.contains("#SBATCH --array=1-4"), "{script}");
    let jobs = std::fs::read_to_string(out.join("jobs.jsonl")).unwrap();
    assert_eq!(jobs.lines().count(), 4);
    let stale = jobs
        .lines()
        .next()
        .unwrap()
        .replace("\"settings\":\"", "\"settings\":\"0");
    let refused = fail(iapo(&study, &out, &["--job", &stale]));
    assert!(refused.contains("make the jobs again"), "{refused}");
}
