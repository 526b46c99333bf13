//! `METRICS.md` names every key that a run writes, and no other.

use std::collections::{BTreeMap, BTreeSet};

use results::{
    Alignment, AttributionMetrics, EpisodeRecord, FileStamp, Manifest, ProfileStamp, Record,
    UpdateMetrics, UpdateTokens, Validation,
};
use serde_json::{Value, json};

/// Keys with dots, as deep as the page goes: values of maps with free keys are left out.
fn keys(value: &Value, free: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (key, value) in value.as_object().unwrap() {
        found.insert(key.clone());
        if free.contains(&key.as_str()) {
            continue;
        }
        if let Some(inner) = value.as_object() {
            for (name, value) in inner {
                match value.as_object() {
                    Some(deep) if key == "files" => {
                        found.extend(deep.keys().map(|last| format!("{key}.{name}.{last}")));
                    }
                    _ => {
                        found.insert(format!("{key}.{name}"));
                    }
                }
            }
        }
    }
    found
}

/// The keys in the first column of the table below a heading.
fn documented(page: &str, heading: &str) -> BTreeSet<String> {
    let section = page.split("\n## ").find(|part| part.starts_with(heading));
    section
        .unwrap_or_else(|| panic!("METRICS.md has no section {heading}"))
        .lines()
        .filter(|line| line.starts_with("| `"))
        .flat_map(|line| {
            let cell = line.split('|').nth(1).unwrap_or("");
            cell.split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_string)
                .collect::<Vec<_>>()
        })
        .collect()
}

fn page() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../METRICS.md");
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn records() {
    let record: Record = serde_json::from_value(json!({
        "set": "vwtq", "qa_id": "1", "image_id": "1", "kind": "count", "named": 2, "arm": "iapo", "seed": 0,
        "prediction": "1", "gt": "1", "verdict": "right", "reason": "equal",
        "sampled": {"prediction": "1", "verdict": "right"}, "tool_called": true, "tool_succeeded": false,
        "tool_reason": "unknown name", "call": "focus()", "right_focus": true,
        "attribution": {"P": 0.25, "R": 0.25, "I": 0.25, "T": 0.25},
        "checkpoint": "00", "scorer": "exact", "scorer_version": "1"
    }))
    .unwrap();
    let written = keys(&serde_json::to_value(record).unwrap(), &["sampled"]);
    assert_eq!(documented(&page(), "`records.jsonl`"), written);
}

#[test]
fn episodes() {
    let shares = json!({"P": 0.25, "R": 0.25, "I": 0.25, "T": 0.25, "log_prob": -1.0, "gap": 0.1});
    let episode: EpisodeRecord = serde_json::from_value(json!({
        "format": 1, "arm": "iapo", "seed": 0, "update": 3, "decoding": "sampled", "set": "vwtq",
        "qa_id": "1", "image_id": "1", "kind": "count", "world_seed": 1, "image": "a.png",
        "image_blake3": "00", "boxes": {}, "tools": "t", "request": "r", "gold": "1",
        "first_completion": "f", "second_completion": "s", "tool": "t", "names": ["a"],
        "outcome": "failed", "outcome_reason": "why", "right_focus": true, "prediction": "1",
        "verdict": "right", "reason": "equal", "scorer": "exact 1", "student": shares,
        "teacher": shares, "divergence": 0.1,
        "training": {
            "stage": "iapo", "stage_update": 0, "stream": "arm", "prompt": 0, "sample": 0,
            "reward_parts": {"outcome": 1.0}, "reward": 1.0, "advantage": 0.5,
            "teacher_log_prob": -1.0, "own_log_prob": -1.0
        }
    }))
    .unwrap();
    let value = serde_json::to_value(episode).unwrap();
    let mut written = keys(&value, &["boxes", "teacher"]);
    // The teacher's keys are the student's.
    assert_eq!(value["student"], value["teacher"]);
    written.remove("training.reward_parts.outcome");
    assert_eq!(documented(&page(), "Episodes"), written);
}

#[test]
fn metrics() {
    let metrics = UpdateMetrics {
        reward_parts: BTreeMap::from([("outcome".to_string(), 1.0)]),
        tool_success_rate: Some(1.0),
        tokens: Some(UpdateTokens {
            not_continued: 1,
            reused: 1,
            run_whole: 1,
            ..UpdateTokens::default()
        }),
        attribution: Some(AttributionMetrics {
            gap: Some(0.1),
            seconds: Some(0.1),
            ..AttributionMetrics::default()
        }),
        alignment: Some(Alignment::default()),
        penalty_correlation: Some(0.1),
        penalty_auc: Some(0.6),
        unjudged: 1,
        left_out: 1,
        alarms: vec!["kl".to_string()],
        validation: Some(Validation::default()),
        ..UpdateMetrics::default()
    };
    let written = keys(
        &serde_json::to_value(metrics).unwrap(),
        &["reward_parts", "seconds"],
    );
    assert_eq!(documented(&page(), "`metrics.jsonl`"), written);
}

#[test]
fn manifest() {
    let profile = ProfileStamp {
        name: "micro".to_string(),
        hash: "00".to_string(),
        resolved: json!({}),
    };
    let mut manifest = Manifest::new("iapo".parse().unwrap(), 0, profile);
    manifest.binary = Some("00".to_string());
    manifest.preregistration = Some("00".to_string());
    manifest.costs.insert("policy".to_string(), 1.0);
    manifest.notes.push("top_p was ignored".to_string());
    manifest
        .files
        .insert("records.jsonl".to_string(), FileStamp::of(b"{}\n"));
    let value = serde_json::to_value(manifest).unwrap();
    let mut written = keys(&value, &["costs", "machine"]);
    // `profile.resolved` is an object of its own keys.
    written.insert("profile.resolved".to_string());
    assert_eq!(documented(&page(), "`manifest.json`"), written);
}
