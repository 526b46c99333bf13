//! The rehearsal: profile `paper` through every stage on the CPU, with tiny models of the real
//! architecture. Only checkpoints, sizes and counts are replaced, and bf16, which no CPU multiplies.
//!
//! `cargo test --release --test rehearsal -- --ignored --nocapture` (`just rehearse`) goes through
//! more updates, seeds and questions.

#[path = "../../crates/chat-endpoint/tests/support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use benchmarks::Verdict;
use results::{EpisodeRecord, Record, UpdateMetrics, UpdateTokens, read_lines, run_hashes};
use support::{Behaviour, Received, Server};
use tempfile::TempDir;

/// How many questions the data has.
struct Sizes {
    /// Test questions of each set.
    test: usize,
    /// Training charts of each direction.
    train: usize,
}

/// A machine's worth of rehearsal: checkpoints, data and servers.
struct Stage {
    folder: TempDir,
    server: Server,
}

/// What judge and verifier say: CharXiv's judge answers in JSON, the others with a bit.
fn says(received: &Received) -> Behaviour {
    let text = received.last_text();
    if text.contains("extracted_answer") {
        return Behaviour::Say(r#"{"extracted_answer": "x", "score": 0}"#.to_owned());
    }
    if text.contains("<|YES|>") {
        let right = text.len().is_multiple_of(2);
        return Behaviour::Say(if right { "<|YES|>" } else { "<|NO|>" }.to_owned());
    }
    Behaviour::Say((text.len() % 2).to_string())
}

impl Stage {
    fn new(sizes: &Sizes, script: impl Fn(&Received) -> Behaviour + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_iapo"));
        command.arg("stand-ins").arg(folder.path());
        command.args(["--test", &sizes.test.to_string()]);
        command.args(["--train", &sizes.train.to_string()]);
        let real = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
        match real.join("chartqa/png").is_dir() {
            true => _ = command.arg("--rows").arg(real),
            false => {
                println!("../shared/data is absent: the rehearsal's charts and tables are drawn")
            }
        }
        succeed(command);
        Stage {
            folder,
            server: Server::start(script),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A child of a profile whose training outcomes are a judge's, so that groups do not tie.
    fn judged(&self, parent: &str) -> String {
        let file = self.at(&format!("judged-{parent}.toml"));
        let text =
            format!("parent = \"{parent}\"\nname = \"judged\"\n[judge]\ntraining = \"vtool-v1\"\n");
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    }

    /// `iapo replicate` of a profile, cut to size.
    fn replicate(&self, profile: &str, out: &str, changes: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_iapo"));
        command
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["replicate", "--profile", profile, "--data"])
            .arg(self.at("data"))
            .arg("--checkpoints")
            .arg(self.folder.path())
            .arg("--out")
            .arg(self.at(out))
            .env("JUDGE_API_KEY", "rehearsal")
            .env("VERIFIER_API_KEY", "rehearsal");
        let url = self.server.url();
        let servers = [
            format!("judge.server.url={url}"),
            format!("verifier.url={url}"),
            "judge.server.max_wait=20".to_owned(),
        ];
        let sizes = [
            "checkpoints.student=student",
            "checkpoints.teacher=teacher",
            "compute.weights=f32",
            "data.min_pixels=3136",
            "data.max_pixels=12544",
            "data.held_out=0.3",
            "schedule.teacher=1",
            "schedule.cold_start=1",
            "schedule.arm=1",
            "schedule.save_every=1",
            "schedule.validate_every=1",
            "grpo.prompts=2",
            "grpo.samples=4",
            "grpo.max_new_tokens=4",
            "evaluation.validation=1",
            "evaluation.attributed=1",
            "gates.integrated_prompts=1",
            "gates.replicates=50",
            "arms.iapo.attribution.method.quadrature.nodes=4",
            "arms.iapo.attribution.method.quadrature.linear_nodes=1",
        ];
        let given = servers.iter().map(String::as_str).chain(sizes);
        for change in given.chain(changes.iter().copied()) {
            command.args(["--set", change]);
        }
        command
    }

    fn metrics(&self, run: &str) -> Vec<UpdateMetrics> {
        read_lines(&self.at(run).join(results::METRICS)).unwrap()
    }

    fn records(&self, run: &str) -> Vec<Record> {
        read_lines(&self.at(run).join(results::RECORDS)).unwrap()
    }

    fn hashes(&self, run: &str) -> (String, String) {
        let hashes = run_hashes(&self.at(run)).unwrap();
        (hashes.records, hashes.metrics)
    }
}

fn succeed(mut command: Command) -> (String, String) {
    let output = command.output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{}", said.1);
    said
}

fn error_of(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success(), "it should have failed");
    text(&output).1
}

fn text(output: &Output) -> (String, String) {
    let of = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (of(&output.stdout), of(&output.stderr))
}

const ARMS: [&str; 6] = [
    "vtool-r1",
    "torl",
    "trm",
    "iapo",
    "iapo-occlusion",
    "distill",
];

/// Every stage, arm and set of profile `paper`, and what is left in the folder.
fn rehearse(sizes: &Sizes, changes: &[&str]) {
    let started = Instant::now();
    let stage = Stage::new(sizes, says);
    let mut changes = changes.to_vec();
    let trained = format!("trained={ARMS:?}");
    changes.push(&trained);
    let (table, told) = succeed(stage.replicate("paper", "run", &changes));
    println!("{table}\n{told}\n{:.0} s", started.elapsed().as_secs_f64());
    for arm in ARMS.iter().chain(&["untrained", "teacher"]) {
        assert!(table.contains(arm), "the table lacks {arm}:\n{table}");
        let run = format!("run/{arm}/seed-0");
        let records = stage.records(&run);
        for set in benchmarks::TestSet::ALL {
            let own = records.iter().filter(|record| record.set == set.name());
            assert_eq!(own.clone().count(), sizes.test, "{arm}, {set}");
            // CharXiv has a judge, the others their rules.
            for record in own {
                assert_ne!(record.verdict, Verdict::NotJudged, "{arm}: {record:?}");
            }
        }
    }
    let (mut attributed, mut learnt) = (0, 0);
    let mut tokens = UpdateTokens::default();
    for arm in ARMS {
        for line in stage.metrics(&format!("run/{arm}/seed-0")) {
            assert!(
                (line.ratio - 1.0).abs() < 1e-2,
                "{arm}: ratio {}",
                line.ratio
            );
            assert!(line.grad_norm.is_finite());
            assert_eq!((line.unjudged, line.left_out), (0, 0), "{arm}");
            attributed += line.attribution.map_or(0, |found| found.calls);
            learnt += u32::from(line.grad_norm > 0.0);
            tokens.add(line.tokens.unwrap());
        }
        let records = stage.records(&format!("run/{arm}/seed-0"));
        let shares = records.iter().filter(|record| record.attribution.is_some());
        assert!(shares.count() > 0, "{arm}: no greedy call was attributed");
    }
    assert!(
        attributed > 0 && learnt > 0,
        "{attributed} calls, {learnt} updates"
    );
    // An observation goes on with the call, in one tree with the question. What a random model writes is
    // now and then tokenised in another way than it was sampled, and then is a tree of its own.
    println!("{tokens:?}");
    assert!(2 * tokens.separate > 3 * tokens.computed, "{tokens:?}");
    // And it is sampled after what was kept of the call.
    assert!(tokens.reused > 0, "{tokens:?}");
    let asked = |words: &str| {
        let received = stage.server.received();
        received
            .iter()
            .filter(|one| one.last_text().contains(words))
            .count()
    };
    assert!(asked("Judge the edit") > 0, "the verifier was never asked");
    assert!(
        asked("extracted_answer") > 0,
        "CharXiv's judge was never asked"
    );
    let report = std::fs::read_to_string(stage.at("run").join(results::REPORT)).unwrap();
    for said in [
        "low-rank adapters, rank 16",
        "gate 1, no threshold",
        "gate 3",
    ] {
        assert!(
            report.contains(said),
            "the report lacks '{said}':\n{report}"
        );
    }
}

#[test]
fn profile_paper_goes_through_every_stage() {
    let sizes = Sizes { test: 2, train: 6 };
    rehearse(&sizes, &["compute.teacher=host"]);
}

#[test]
#[ignore = "the whole rehearsal: a quarter of an hour"]
fn the_whole_rehearsal() {
    let sizes = Sizes { test: 8, train: 20 };
    let changes = [
        "seeds=2",
        "schedule.teacher=3",
        "schedule.cold_start=3",
        "schedule.arm=4",
        "grpo.prompts=4",
        "grpo.samples=8",
        "evaluation.validation=4",
        "data.training=charts-and-tables",
    ];
    rehearse(&sizes, &changes);
}

/// One arm of two updates.
const SHORT: [&str; 4] = [
    "trained=[\"vtool-r1\"]",
    "schedule.teacher=0",
    "schedule.cold_start=0",
    "schedule.arm=2",
];

#[test]
fn adapters_train_resume_and_leave_the_same_bytes() {
    let stage = Stage::new(&Sizes { test: 1, train: 6 }, says);
    let profile = stage.judged("paper");
    succeed(stage.replicate(&profile, "whole", &SHORT));
    let run = "vtool-r1/seed-0";
    let lines = stage.metrics(&format!("whole/{run}"));
    assert_eq!(lines.len(), 2);

    // Killed after the first update.
    let child = stage
        .replicate(&profile, "killed", &SHORT)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut child = child.unwrap();
    let state = stage.at("killed").join(run).join("state/step-1");
    let patience = Instant::now();
    while !state.exists() && patience.elapsed() < Duration::from_secs(300) {
        assert!(child.try_wait().unwrap().is_none(), "it ended too early");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!stage.at("killed").join(run).join("manifest.json").exists());

    // A state holds the adapters alone.
    let file = state.join("parameters.safetensors");
    let tensors = candle_core::safetensors::load(file, &candle_core::Device::Cpu).unwrap();
    // Two layers of seven projections, two matrices each.
    assert_eq!(tensors.len(), 2 * 7 * 2);
    assert!(tensors.keys().all(|name| name.contains(".lora_")));

    let mut again = stage.replicate(&profile, "killed", &SHORT);
    again.arg("--resume");
    succeed(again);
    let (whole, killed) = (format!("whole/{run}"), format!("killed/{run}"));
    assert_eq!(stage.hashes(&whole), stage.hashes(&killed));
    let weights =
        |run: &str| replicate::checkpoint::weights_hash(&stage.at(run).join("checkpoint"));
    assert_eq!(weights(&whole).unwrap(), weights(&killed).unwrap());

    // Kept activations give the same update.
    let mut kept = SHORT.to_vec();
    kept.push("compute.recompute=false");
    succeed(stage.replicate(&profile, "kept", &kept));
    for (recomputed, kept) in lines.iter().zip(stage.metrics(&format!("kept/{run}"))) {
        assert_eq!(recomputed.loss, kept.loss);
        assert_eq!(recomputed.grad_norm, kept.grad_norm);
        assert!(recomputed.grad_norm > 0.0);
    }
}

/// The vision tower is a part that gets a gradient like the others.
#[test]
fn all_weights_train_with_the_tower_or_without() {
    let stage = Stage::new(&Sizes { test: 1, train: 6 }, says);
    let profile = stage.judged("paper-full");
    // The published template is not here.
    let mut changes = SHORT.to_vec();
    changes.extend(["data.prompt=ours", "schedule.arm=1"]);
    let run = "vtool-r1/seed-0/checkpoint/model.safetensors";
    let moved = |out: &str, name: &str| {
        let load = |folder: PathBuf| -> Vec<f32> {
            let tensors =
                candle_core::safetensors::load(folder, &candle_core::Device::Cpu).unwrap();
            tensors[name].flatten_all().unwrap().to_vec1().unwrap()
        };
        let (before, after) = (
            load(stage.at("student/model.safetensors")),
            load(stage.at(out).join(run)),
        );
        before != after
    };
    let (tower, decoder) = (
        "visual.blocks.0.mlp.up_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
    );
    succeed(stage.replicate(&profile, "tower", &changes));
    assert!(moved("tower", tower) && moved("tower", decoder));
    changes.push("grpo.frozen=[\"vision\",\"merger\"]");
    succeed(stage.replicate(&profile, "frozen", &changes));
    assert!(!moved("frozen", tower) && moved("frozen", decoder));
    for out in ["tower", "frozen"] {
        for line in stage.metrics(&format!("{out}/vtool-r1/seed-0")) {
            assert!((line.ratio - 1.0).abs() < 1e-2, "ratio {}", line.ratio);
        }
    }
    let refused = error_of(stage.replicate("paper-full", "theirs", &SHORT));
    assert!(
        refused.contains("chartQA.jinja") && refused.contains("data.prompt"),
        "{refused}"
    );
}

/// A judge that goes away ends the run, and nothing of it becomes a score.
#[test]
fn a_judge_that_dies_in_training_stops_it_and_is_taken_up_again() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let alive = Arc::new(AtomicBool::new(true));
    let lives = Arc::clone(&alive);
    let stage = Stage::new(&Sizes { test: 1, train: 6 }, move |received| {
        match lives.load(Ordering::SeqCst) {
            true => says(received),
            false => Behaviour::CutAtOnce,
        }
    });
    let profile = stage.judged("paper");
    let mut changes = SHORT.to_vec();
    changes.push("judge.server.max_wait=1");
    let command = |out: &str| stage.replicate(&profile, out, &changes);
    succeed(command("whole"));
    assert!(!stage.server.received().is_empty());
    // What is stored of a group is what its rewards were made of: the judge's verdict.
    let groups = stage.at("whole/vtool-r1/seed-0").join(results::GROUPS);
    let groups: Vec<EpisodeRecord> = read_lines(&groups).unwrap();
    assert!(!groups.is_empty());
    for episode in groups {
        let sample = episode.training.unwrap();
        let outcome = sample.reward_parts["outcome"];
        assert_eq!(episode.verdict.is_right(), Some(outcome == 1.0));
        assert!(episode.scorer.starts_with("judge "), "{}", episode.scorer);
    }

    alive.store(false, Ordering::SeqCst);
    let told = error_of(command("cut"));
    assert!(
        told.contains("judge") && told.contains("--resume"),
        "{told}"
    );
    assert!(!stage.at("cut/vtool-r1/seed-0/records.jsonl").exists());
    alive.store(true, Ordering::SeqCst);
    let mut again = command("cut");
    again.arg("--resume");
    succeed(again);
    let run = "vtool-r1/seed-0";
    let (whole, cut) = (format!("whole/{run}"), format!("cut/{run}"));
    assert_eq!(stage.hashes(&whole), stage.hashes(&cut));
}

/// What is not there is said with what to do.
#[test]
fn a_folder_without_training_pictures_says_so() {
    let stage = Stage::new(&Sizes { test: 1, train: 2 }, says);
    let train = stage.at("data/chartqa_vcot/train.jsonl");
    let rows = std::fs::read_to_string(&train).unwrap();
    std::fs::write(&train, rows.replace(".png", "-absent.png")).unwrap();
    let told = error_of(stage.replicate("paper", "run", &SHORT));
    assert!(
        told.contains("no training question can be asked: 4 have no image here"),
        "{told}"
    );
    let absent = stage.at("nothing");
    let mut command = stage.replicate("paper", "run", &[]);
    command.args(["--data", absent.to_str().unwrap()]);
    assert!(error_of(command).contains("--data"));
    assert!(!Path::new("run").exists());
}

/// A quantised checkpoint is refused before anything is trained.
#[test]
fn a_quantised_checkpoint_is_refused() {
    let stage = Stage::new(&Sizes { test: 1, train: 2 }, says);
    let file = stage.at("student/config.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config["quantization_config"] = serde_json::json!({ "quant_method": "awq", "bits": 4 });
    std::fs::write(&file, config.to_string()).unwrap();
    let told = error_of(stage.replicate("paper", "run", &SHORT));
    assert!(told.contains("quanti"), "{told}");
}

/// The checks of the battery that a processor can make, a second time not made again.
#[test]
fn the_battery_runs_on_a_processor_and_resumes() {
    let out = tempfile::tempdir().unwrap();
    let battery = |device: &str| {
        let output = Command::new("bash")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args([
                "benches/cuda/battery",
                "--short",
                "--device",
                device,
                "--out",
            ])
            .arg(out.path())
            .env("IAPO", env!("CARGO_BIN_EXE_iapo"))
            .output()
            .unwrap();
        (output.status.success(), text(&output).0)
    };
    let (passed, told) = battery("cpu");
    assert!(passed, "{told}");
    for check in [
        "1 device",
        "2 operators",
        "3 parity",
        "4 smoke",
        "6 ratio",
        "7 memory",
        "9 generation",
    ] {
        assert!(told.contains(&format!("{check}: passed")), "{told}");
    }
    // These need Python, the others of the twelve also its packages.
    for check in ["10 update", "11 optimizer"] {
        let made = told.contains(&format!("{check}: passed"));
        assert!(
            made || told.contains(&format!("{check}: not made")),
            "{told}"
        );
    }
    let (passed, told) = battery("cpu");
    assert!(passed && told.contains("4 smoke: passed before"), "{told}");
    if Command::new("nvidia-smi").output().is_err() {
        let (passed, told) = battery("cuda");
        assert!(
            !passed && told.contains("1 device: no card here; needs any card"),
            "{told}"
        );
    }
}
