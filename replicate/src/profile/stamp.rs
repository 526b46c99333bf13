//! What the numbers of one run depend on, and its hash.
//!
//! A run's hash covers what that run reads and nothing else: another arm's table, budgets of memory
//! and how often states are saved are not in it. A key that is added later comes with a default that
//! does what was done before and is not written where it has that value (`#[serde(default = …,
//! skip_serializing_if = …)]`), so that the hashes of recorded runs stay; a test holds them.

use baselines::Evidence;
use results::{ProfileStamp, SettingDifference};
use serde_json::{Map, Value};

use super::Profile;

/// The kinds of runs of an experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunRole<'a> {
    /// The student's base checkpoint, as it is.
    Untrained,
    /// The teacher after its GRPO.
    Teacher,
    /// The student's cold start.
    ColdStart,
    /// An arm, by name.
    Arm(&'a str),
}

/// What every run reads.
const EVERY_RUN: &[&str] = &[
    "world",
    "data",
    "compute.weights",
    "judge.server.model",
    "evaluation",
    "grpo.max_new_tokens",
    "grpo.temperature",
];

/// What training reads, whoever is trained.
const TRAINING: &[&str] = &[
    "grpo",
    "schedule.validate_every",
    "judge.training",
    "judge.most_unjudged",
];

impl Profile {
    /// The settings that a run reads, as they were resolved, with their hash.
    pub fn stamp(&self, kind: RunRole<'_>) -> ProfileStamp {
        let whole =
            serde_json::to_value(self).expect("a profile holds only tables, numbers and strings");
        let mut paths = EVERY_RUN.to_vec();
        let own_arm;
        match kind {
            RunRole::Untrained => paths.push("checkpoints.student"),
            RunRole::Teacher => {
                paths.extend(TRAINING);
                paths.extend(["checkpoints.teacher", "schedule.teacher"]);
            }
            RunRole::ColdStart => {
                paths.extend(TRAINING);
                paths.extend(["checkpoints.student", "schedule.cold_start"]);
            }
            RunRole::Arm(name) => {
                own_arm = format!("arms.{name}");
                paths.extend(TRAINING);
                let reward = self
                    .arms
                    .get(name)
                    .map(|arm| arm.reward.method().evidence());
                if reward == Some(Evidence::Verifier) {
                    paths.push("verifier.model");
                }
                paths.extend([
                    "checkpoints",
                    "schedule.teacher",
                    "schedule.teacher_per_seed",
                    "schedule.cold_start",
                    "schedule.arm",
                    own_arm.as_str(),
                ]);
            }
        }
        let mut resolved = Value::Object(Map::new());
        for path in paths {
            copy(&whole, &mut resolved, path);
        }
        let alone = |table: &mut Value, key: &str| {
            if let Some(grpo) = table.get_mut("grpo").and_then(Value::as_object_mut) {
                grpo.remove(key);
            }
        };
        match kind {
            RunRole::Teacher => alone(&mut resolved, "learning_rate"),
            RunRole::ColdStart => alone(&mut resolved, "teacher_learning_rate"),
            RunRole::Untrained | RunRole::Arm(_) => {}
        }
        ProfileStamp {
            name: self.name.clone(),
            hash: blake3::hash(canonical(&resolved).as_bytes()).to_hex()[..16].to_owned(),
            resolved,
        }
    }
}

/// Copies the value at a dotted path, if there is one.
fn copy(from: &Value, to: &mut Value, path: &str) {
    let pointer = format!("/{}", path.replace('.', "/"));
    let Some(value) = from.pointer(&pointer) else {
        return;
    };
    let mut place = to;
    for part in path.split('.') {
        place = &mut place[part];
    }
    *place = value.clone();
}

/// JSON with sorted keys: the hash does not depend on the order in which fields are declared.
fn canonical(value: &Value) -> String {
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                let mut keys: Vec<&String> = map.keys().collect();
                keys.sort();
                let pairs = keys.into_iter().map(|key| (key.clone(), sorted(&map[key])));
                Value::Object(pairs.collect())
            }
            Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
            other => other.clone(),
        }
    }
    sorted(value).to_string()
}

/// The keys whose values differ between two resolved settings, with both values.
pub fn differing_keys(known: &Value, given: &Value) -> Vec<String> {
    results::differing_settings(known, given)
        .into_iter()
        .map(|setting| {
            let SettingDifference { key, first, second } = setting;
            format!("{key} was {first}, now {second}")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(changes: &[&str], kind: RunRole<'_>) -> String {
        let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
        Profile::load("micro", &changes).unwrap().stamp(kind).hash
    }

    #[test]
    fn a_hash_covers_what_its_run_reads() {
        let all = [
            RunRole::Untrained,
            RunRole::Teacher,
            RunRole::ColdStart,
            RunRole::Arm("torl"),
            RunRole::Arm("vtool-r1"),
        ];
        let changed = |change: &str| all.map(|kind| hash(&[], kind) != hash(&[change], kind));
        assert_eq!(changed("seeds=9"), [false; 5]);
        assert_eq!(changed("trained=[\"torl\"]"), [false; 5]);
        assert_eq!(changed("schedule.save_every=3"), [false; 5]);
        assert_eq!(changed("compute.update_tokens=99"), [false; 5]);
        assert_eq!(changed("world.seed=1"), [true; 5]);
        assert_eq!(
            changed("arms.torl.penalty=9"),
            [false, false, false, true, false]
        );
        assert_eq!(changed("schedule.arm=3"), [false, false, false, true, true]);
        assert_eq!(
            changed("schedule.teacher=3"),
            [false, true, false, true, true]
        );
        assert_eq!(
            changed("grpo.learning_rate=1"),
            [false, false, true, true, true]
        );
        assert_eq!(changed("grpo.samples=4"), [false, true, true, true, true]);
        // The same teacher of a seed serves whoever asks for it.
        assert_eq!(
            changed("schedule.teacher_per_seed=true"),
            [false, false, false, true, true]
        );
        assert_eq!(changed("schedule.teacher_per_seed=false"), [false; 5]);
    }

    /// A change here makes every recorded run of the profile unusable for `--resume`: give the new
    /// key a default that is not written, or say in the log why runs are made anew.
    #[test]
    fn the_hashes_of_recorded_runs_stay() {
        let profile = Profile::load("micro", &[]).unwrap();
        let lines: Vec<String> = profile
            .arms
            .keys()
            .map(|arm| format!("{arm} {}", profile.stamp(RunRole::Arm(arm)).hash))
            .collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn differing_keys_are_named_with_both_values() {
        let known = serde_json::json!({"a": {"b": 1, "c": 2}, "d": [1]});
        let given = serde_json::json!({"a": {"b": 1, "c": 3}, "e": true});
        assert_eq!(
            differing_keys(&known, &given),
            [
                "a.c was 2, now 3",
                "d was [1], now null",
                "e was null, now true"
            ]
        );
    }
}
