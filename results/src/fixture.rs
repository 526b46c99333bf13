//! A small made experiment for tests: six sets, the known arms, effects of arm, seed and question.

use std::collections::BTreeMap;
use std::path::PathBuf;

use benchmarks::Verdict;
use seeded_random::{Draw, Stream};

use crate::manifest::{Manifest, ProfileStamp};
use crate::metrics::{UpdateMetrics, Validation};
use crate::record::{ArmName, Record, SETS};
use crate::runs::{Run, Runs};

/// Accuracy of each arm before effects; the arms differ by a few points.
pub(crate) const ARMS: [(&str, f64); 7] = [
    (ArmName::UNTRAINED, 0.40),
    (ArmName::TEACHER, 0.72),
    (ArmName::VTOOL_R1, 0.55),
    (ArmName::TORL, 0.56),
    (ArmName::TRM, 0.57),
    (ArmName::IAPO, 0.62),
    (ArmName::DISTILL, 0.61),
];

/// Runs of every arm, three seeds each for trained students, two questions a figure.
pub(crate) fn runs(questions: usize) -> Vec<Run> {
    let mut runs = Vec::new();
    for (name, level) in ARMS {
        let trained = ![ArmName::UNTRAINED, ArmName::TEACHER].contains(&name);
        for seed in 0..if trained { 3 } else { 1 } {
            runs.push(run(name, level, seed, questions, trained));
        }
    }
    runs
}

/// The same as checked runs.
pub(crate) fn checked(questions: usize) -> Runs {
    Runs::new(runs(questions)).unwrap()
}

fn run(name: &str, level: f64, seed: u64, questions: usize, trained: bool) -> Run {
    let arm: ArmName = name.parse().unwrap();
    let stream = Stream::new(seed).purpose(name);
    let mut draws = stream.generator();
    let effect = 0.02 * draws.normal();
    let mut records = Vec::new();
    for (set_index, set) in SETS.into_iter().enumerate() {
        for question in 0..questions {
            let difficulty = Stream::new(9)
                .index(set_index as u64)
                .index(question as u64)
                .generator()
                .unit()
                - 0.5;
            let right = draws.unit() < level + effect + 0.5 * difficulty - 0.05 * set_index as f64;
            let called = draws.unit() < 0.9;
            let succeeded = called && draws.unit() < 0.8;
            records.push(Record {
                set: set.to_string(),
                qa_id: format!("q{question}"),
                image_id: format!("figure-{}", question / 2),
                arm: arm.clone(),
                seed,
                prediction: if right { "7" } else { "8" }.to_string(),
                gt: "7".to_string(),
                verdict: if right {
                    Verdict::Right
                } else {
                    Verdict::Wrong
                },
                reason: None,
                kind: None,
                named: None,
                sampled: None,
                tool_called: called,
                tool_succeeded: succeeded,
                tool_reason: None,
                call: None,
                right_focus: None,
                attribution: called.then(|| [0.25; 4].into()),
                checkpoint: "00".to_string(),
                scorer: "exact".to_string(),
                scorer_version: "1".to_string(),
            });
        }
    }
    let metrics = (1..=if trained { 60 } else { 0 })
        .map(|update| {
            let learnt = level * (1.0 - (-(update as f64) / 20.0).exp());
            UpdateMetrics {
                stage: if update <= 20 {
                    "cold-start".to_string()
                } else {
                    name.to_string()
                },
                update,
                reward: learnt + 0.03 * draws.normal(),
                accuracy: learnt,
                ratio: 1.0,
                tool_call_rate: 0.9 + 0.02 * draws.normal(),
                tool_success_rate: Some(0.8),
                validation: (update % 10 == 0).then(|| Validation {
                    n: 100,
                    accuracy: learnt + 0.02 * draws.normal(),
                    reward: learnt,
                    tool_call_rate: 0.9,
                    tool_success_rate: 0.7,
                }),
                seconds: BTreeMap::from([("update".to_string(), 0.5)]),
                ..UpdateMetrics::default()
            }
        })
        .collect();
    let profile = ProfileStamp {
        name: "micro".to_string(),
        hash: "c0ffee".repeat(8),
        resolved: serde_json::json!({"updates": 60}),
    };
    let mut manifest = Manifest::new(arm, seed, profile);
    // What depends on the circumstances is fixed, for the snapshots.
    manifest.command = vec!["iapo".to_string(), "replicate".to_string()];
    manifest.binary = None;
    manifest.machine = crate::Machine {
        system: "linux x86_64".to_string(),
        threads: 2,
        ..crate::Machine::default()
    };
    manifest.seconds =
        BTreeMap::from([("rollout".to_string(), 12.5), ("update".to_string(), 30.25)]);
    manifest.peak_memory_bytes = Some(300 << 20);
    Run {
        folder: PathBuf::from(format!("runs/{name}/seed-{seed}")),
        manifest: Some(manifest),
        metrics,
        records,
    }
}
