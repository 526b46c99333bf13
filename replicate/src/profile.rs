//! A recipe is data: every number that shapes a result stands in a profile.

use std::path::Path;

use baselines::WithoutCall;
use benchmarks::micro::Difficulty;
use serde::{Deserialize, Serialize};

use crate::attribution_settings::AttributionSettings;
use crate::compute::WeightType;
use crate::{Error, Result, error};

/// The profiles that are built in, by name.
const BUILT_IN: [(&str, &str); 2] = [
    ("micro", include_str!("../profiles/micro.toml")),
    ("smoke", include_str!("../profiles/smoke.toml")),
];

/// A whole experiment. See `replicate/profiles/micro.toml` for the reasons of each number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Its name, in records and labels.
    pub name: String,
    /// The arms that are trained.
    pub arms: Vec<Arm>,
    /// Number of seeds, counted from 0.
    pub seeds: u64,
    /// The generated world.
    pub world: World,
    /// Where the base checkpoints are.
    pub checkpoints: Checkpoints,
    /// How many updates each stage has.
    pub schedule: Schedule,
    /// Group relative policy optimisation.
    pub grpo: Grpo,
    /// What episodes are worth.
    pub rewards: Rewards,
    /// How wide numbers are.
    pub compute: Compute,
    /// The attribution that IAPO aligns.
    pub attribution: AttributionSettings,
    /// How trained policies are evaluated.
    pub evaluation: Evaluation,
}

/// A way to train the student.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arm {
    /// GRPO with the outcome reward.
    VtoolR1,
    /// Outcome minus a penalty for calls that fail.
    Torl,
    /// Outcome plus a verifier's judgement of the call.
    Trm,
    /// Outcome minus the divergence of block attributions from the teacher's.
    Iapo,
    /// Control: outcome plus the teacher's log-probability of the call.
    Distill,
}

impl Arm {
    /// All arms in the order of the table.
    pub const ALL: [Arm; 5] = [Arm::VtoolR1, Arm::Torl, Arm::Trm, Arm::Iapo, Arm::Distill];

    /// The name in records and directories.
    pub fn name(self) -> &'static str {
        match self {
            Arm::VtoolR1 => "vtool-r1",
            Arm::Torl => "torl",
            Arm::Trm => "trm",
            Arm::Iapo => "iapo",
            Arm::Distill => "distill",
        }
    }
}

impl std::str::FromStr for Arm {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        Arm::ALL
            .into_iter()
            .find(|arm| arm.name() == name)
            .ok_or_else(|| {
                let known = Arm::ALL.map(Arm::name).join(", ");
                format!("unknown arm '{name}': expected one of {known}")
            })
    }
}

/// The generated world.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct World {
    /// Seed of the validation and test questions; training questions follow the run's seed.
    pub seed: u64,
    /// Size and noise of the figures.
    pub difficulty: Difficulty,
}

/// Base checkpoints, relative to the repository's `replicate/` folder or absolute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoints {
    /// The student before reinforcement learning.
    pub student: String,
    /// The teacher before reinforcement learning.
    pub teacher: String,
}

/// Numbers of updates. Every arm has `cold_start + arm` in all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// GRPO updates of the teacher.
    pub teacher: usize,
    /// GRPO updates of the student before the arms part.
    pub cold_start: usize,
    /// Updates of each arm after the cold start.
    pub arm: usize,
    /// A training state is saved every so many updates.
    pub save_every: usize,
    /// The policy is validated every so many updates, greedily.
    pub validate_every: usize,
}

/// Settings of GRPO.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grpo {
    /// Prompts in an update.
    pub prompts: usize,
    /// Episodes for each prompt.
    pub samples: usize,
    /// Sampling temperature, and the temperature of the trained log-probabilities.
    pub temperature: f64,
    /// Longest completion of a turn, tokens.
    pub max_new_tokens: usize,
    /// Learning rate of AdamW.
    pub learning_rate: f64,
    /// The teacher's learning rate.
    pub teacher_learning_rate: f64,
    /// Updates over which the learning rate grows from 0.
    pub warmup: usize,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest norm of the gradient.
    pub max_grad_norm: f64,
    /// Clip range below 1.
    pub clip_low: f64,
    /// Clip range above 1.
    pub clip_high: f64,
    /// Weight of the KL divergence (k3) to the reference policy.
    pub kl_coefficient: f64,
    /// Whether advantages are divided by the group's standard deviation.
    pub scale_by_std: bool,
}

/// What episodes are worth beside the outcome (1 for a right answer, 0 otherwise).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rewards {
    /// ToRL: subtracted when a call fails to execute.
    pub torl_penalty: f32,
    /// TRM: added when the verifier approves the call, subtracted when it rejects it.
    pub trm_weight: f32,
    /// TRM: probability that the verifier's judgement is flipped.
    pub trm_error_rate: f64,
    /// Distill: weight of the teacher's mean log-probability of the call's tokens.
    pub distill_weight: f32,
    /// IAPO: weight λ of the divergence.
    pub iapo_weight: f32,
    /// What an episode without a tool call gets as penalty, bonus or log-probability.
    pub without_call: WithoutCall,
}

/// How wide numbers are; which device they are on is the command's to say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compute {
    /// The type of weights and activations.
    pub weights: WeightType,
}

/// How trained policies are evaluated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Questions of each of the six sets.
    pub questions: usize,
    /// Validation questions of each trained family, for learning curves.
    pub validation: usize,
    /// Calls of each set whose attribution is recorded.
    pub attributed: usize,
}

impl Profile {
    /// A built-in profile by name, or a profile's file; then `key=value` changes, keys dotted.
    pub fn load(name_or_file: &str, changes: &[String]) -> Result<Self> {
        let text = match BUILT_IN.iter().find(|(name, _)| *name == name_or_file) {
            Some((_, text)) => (*text).to_owned(),
            None => {
                let path = Path::new(name_or_file);
                if !path.exists() {
                    let known = BUILT_IN.map(|(name, _)| name).join(", ");
                    return Err(problem(
                        name_or_file,
                        format!("neither a file nor one of the built-in profiles: {known}"),
                    ));
                }
                std::fs::read_to_string(path).map_err(error::at(path))?
            }
        };
        let mut table: toml::Table = text
            .parse()
            .map_err(|error| problem(name_or_file, format!("not TOML: {error}")))?;
        for change in changes {
            apply_change(&mut table, change).map_err(|text| problem(name_or_file, text))?;
        }
        let profile: Profile = toml::Value::Table(table)
            .try_into()
            .map_err(|error: toml::de::Error| problem(name_or_file, error.to_string()))?;
        profile
            .check()
            .map_err(|text| problem(name_or_file, text))?;
        Ok(profile)
    }

    /// The profile as TOML, every value resolved.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("a profile holds only tables, numbers and strings")
    }

    /// Hash of every resolved value that shapes a single arm and seed: not the lists of arms and
    /// seeds, so that a run can be widened later.
    pub fn hash(&self) -> String {
        let single = Profile {
            arms: Vec::new(),
            seeds: 0,
            ..self.clone()
        };
        blake3::hash(single.to_toml().as_bytes()).to_hex()[..16].to_owned()
    }

    fn check(&self) -> std::result::Result<(), String> {
        let positive = [
            ("seeds", self.seeds as usize),
            ("grpo.prompts", self.grpo.prompts),
            ("grpo.max_new_tokens", self.grpo.max_new_tokens),
            ("schedule.save_every", self.schedule.save_every),
            ("schedule.validate_every", self.schedule.validate_every),
            ("evaluation.questions", self.evaluation.questions),
        ];
        for (key, value) in positive {
            if value == 0 {
                return Err(format!("{key} is 0: expected at least 1"));
            }
        }
        self.attribution.check("attribution")?;
        if self.grpo.samples < 2 {
            return Err(format!(
                "grpo.samples is {}: a group needs at least 2 episodes",
                self.grpo.samples
            ));
        }
        if self.grpo.temperature <= 0.0 {
            return Err("grpo.temperature must be above 0: greedy groups have no variance".into());
        }
        if !(0.0..=1.0).contains(&self.rewards.trm_error_rate) {
            return Err("rewards.trm_error_rate is a probability: expected 0 to 1".into());
        }
        Ok(())
    }
}

fn problem(origin: &str, problem: impl Into<String>) -> Error {
    Error::Profile {
        origin: origin.to_owned(),
        problem: problem.into(),
    }
}

/// Sets `a.b = value` in a table; the key must exist, so that a misspelt one is an error.
fn apply_change(table: &mut toml::Table, change: &str) -> std::result::Result<(), String> {
    let (key, text) = change
        .split_once('=')
        .ok_or_else(|| format!("--set {change}: expected key=value"))?;
    let parsed: toml::Table = format!("value = {text}")
        .parse()
        .or_else(|_| format!("value = {text:?}").parse())
        .map_err(|_| format!("--set {change}: '{text}' is not a TOML value"))?;
    let mut place = table;
    let mut path: Vec<&str> = key.split('.').collect();
    let last = path.pop().unwrap_or_default();
    for part in path {
        place = place
            .get_mut(part)
            .and_then(toml::Value::as_table_mut)
            .ok_or_else(|| format!("--set {key}: there is no section '{part}'"))?;
    }
    let value = place.get_mut(last).ok_or_else(|| {
        format!("--set {key}: unknown key; `replicate/profiles/micro.toml` has them all")
    })?;
    // An integer given for a fraction is meant as one.
    *value = match (&*value, parsed["value"].clone()) {
        (toml::Value::Float(_), toml::Value::Integer(whole)) => toml::Value::Float(whole as f64),
        (_, new) => new,
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_profiles_are_valid() {
        for (name, _) in BUILT_IN {
            let profile = Profile::load(name, &[]).unwrap();
            assert_eq!(profile.name, name);
            assert_eq!(profile.arms, Arm::ALL);
        }
    }

    #[test]
    fn changes_reach_their_key_and_the_hash() {
        let base = Profile::load("micro", &[]).unwrap();
        let changed = Profile::load("micro", &["rewards.iapo_weight=0".into()]).unwrap();
        assert_eq!(changed.rewards.iapo_weight, 0.0);
        assert_ne!(base.hash(), changed.hash());
        let wider = Profile::load("micro", &["seeds=10".into()]).unwrap();
        assert_eq!(base.hash(), wider.hash());
    }

    #[test]
    fn bad_profiles_say_what_is_wrong() {
        let errors: Vec<String> = [
            ("micro", "grpo.sample=3"),
            ("micro", "nothing"),
            ("micro", "grpo.samples=1"),
            ("micro", "grpo.samples=\"many\""),
            ("micro", "attribution.method.name=\"guess\""),
            ("mikro", "seeds=1"),
        ]
        .iter()
        .map(|(name, change)| {
            Profile::load(name, &[(*change).to_owned()])
                .unwrap_err()
                .to_string()
        })
        .collect();
        insta::assert_snapshot!(errors.join("\n---\n"));
    }
}
