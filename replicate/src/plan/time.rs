//! Tokens, operations and seconds of the stages.

use attribution::Method;
use baselines::Evidence;
use serde::Serialize;

use super::{Card, ModelSizes, Workload};
use crate::profile::Profile;

/// One update of a stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UpdateTime {
    /// Tokens by part.
    pub tokens: Vec<(&'static str, f64)>,
    /// Operations by part.
    pub operations: Vec<(&'static str, f64)>,
    /// Seconds by part.
    pub seconds: Vec<(&'static str, f64)>,
}

impl UpdateTime {
    /// Seconds in all.
    pub fn total(&self) -> f64 {
        self.seconds.iter().map(|(_, seconds)| seconds).sum()
    }
}

/// A stage with all its updates, or an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageTime {
    /// Its name.
    pub stage: String,
    /// Updates, in all seeds.
    pub updates: u64,
    /// What one update takes; absent for evaluations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update: Option<UpdateTime>,
    /// Hours of one card.
    pub hours: f64,
    /// Whether the arms wait for it.
    pub shared: bool,
}

/// Parts that take `(tokens, operations, seconds)`.
#[derive(Default)]
struct Parts {
    tokens: Vec<(&'static str, f64)>,
    operations: Vec<(&'static str, f64)>,
    seconds: Vec<(&'static str, f64)>,
}

impl Parts {
    fn add(&mut self, name: &'static str, tokens: f64, operations: f64, seconds: f64) {
        self.tokens.push((name, tokens));
        self.operations.push((name, operations));
        self.seconds.push((name, seconds));
    }
}

/// Operations of a forward pass over `tokens`, each of which sees half of `keys` on average.
fn forward(model: &ModelSizes, tokens: f64, keys: f64) -> f64 {
    let products = 2.0 * model.layers_parameters as f64;
    let attention = 2.0 * (model.layers * model.hidden) as f64 * keys;
    tokens * (products + attention)
}

/// Operations of the tower over patches; most of its layers see a window, whose keys are few.
fn tower_forward(model: &ModelSizes, patches: f64) -> f64 {
    2.0 * model.tower as f64 * patches
}

struct Assumptions<'a> {
    profile: &'a Profile,
    workload: &'a Workload,
    card: &'a Card,
}

impl Assumptions<'_> {
    /// Sampling `prompts` times `samples` episodes: prefills of both turns, then token by token. A second
    /// turn whose first is kept runs what was said since.
    fn sampling(&self, parts: &mut Parts, model: &ModelSizes, prompts: f64, samples: f64) {
        let Assumptions { workload, card, .. } = self;
        let (first, second) = (
            workload.first_prompt() as f64,
            workload.second_prompt() as f64,
        );
        let kept = workload.kept_turns(self.profile, samples);
        let (known, seconds) = (first + workload.call_tokens as f64, prompts * samples);
        let (since, whole) = (
            kept * seconds * (second - known),
            (1.0 - kept) * seconds * second,
        );
        let prefill = prompts * first + since + whole;
        let operations = forward(model, prompts * first, first)
            + forward(model, since, known + second)
            + forward(model, whole, second);
        parts.add("prefill", prefill, operations, operations / card.flops);
        let decoded = prompts * samples * (workload.call_tokens + workload.answer_tokens) as f64;
        let operations = forward(model, decoded, 2.0 * second);
        parts.add("decoding", decoded, operations, decoded / card.decoded);
        let images = prompts + prompts * samples;
        let patches = images * workload.image_patches as f64;
        let operations = tower_forward(model, patches);
        parts.add("vision", patches, operations, operations / card.flops);
    }

    /// Gradients of every sampled token, and the reference's log-probabilities.
    fn stepping(&self, parts: &mut Parts, model: &ModelSizes) {
        let Assumptions {
            profile,
            workload,
            card,
        } = self;
        let (prompts, samples) = (profile.grpo.prompts as f64, profile.grpo.samples as f64);
        let (first, second) = (
            workload.first_prompt() as f64,
            workload.second_prompt() as f64,
        );
        // A question's turns are one tree: its prompt, then what each episode adds, whose tokens see the
        // prompt and on average half of what was added. What is beyond the budget goes through another
        // pass, which has the prompt and its image once more.
        let episode = second + workload.answer_tokens as f64;
        let room = (profile.compute.update_tokens as f64 - first) / (episode - first);
        let passes = (samples / room.floor().clamp(1.0, samples)).ceil();
        let shared = prompts * passes * first;
        let added = prompts * samples * (episode - first);
        let tokens = shared + added;
        let once = forward(model, shared, first) + forward(model, added, first + episode);
        parts.add("reference", tokens, once, once / card.flops);
        let recompute = f64::from(u8::from(profile.compute.recompute));
        let weights = f64::from(u8::from(profile.grpo.lora.is_none()));
        let mut operations = once * (2.0 + recompute + weights);
        if profile.grpo.trains_vision() {
            let patches = prompts * (passes + samples) * workload.image_patches as f64;
            operations +=
                tower_forward(model, patches) * (2.0 + weights) + tower_forward(model, patches);
        }
        parts.add("update", tokens, operations, operations / card.flops);
    }

    /// What a method measures of the distinct calls, under both models.
    fn measuring(
        &self,
        parts: &mut Parts,
        evidence: Evidence,
        method: Option<&Method>,
        models: [&ModelSizes; 2],
    ) {
        let Assumptions {
            profile,
            workload,
            card,
        } = self;
        let prompts = profile.grpo.prompts as f64;
        let calls = (profile.grpo.samples as f64 * workload.distinct_calls).max(1.0);
        let first = workload.first_prompt() as f64;
        let branches = prompts * (first + calls * workload.call_tokens as f64);
        let [student, teacher] = models;
        match (evidence, method) {
            (Evidence::Divergence(_), Some(Method::IntegratedGradients { quadrature })) => {
                let nodes = quadrature.len() as f64;
                let alone = prompts * calls * (first + workload.call_tokens as f64) * nodes;
                // A prompt forward once a node for all its calls, and a backward pass to the prompt's
                // embeddings for each.
                let shared = branches * nodes;
                let of = |model| forward(model, shared, first) + forward(model, alone, first);
                let operations = of(student) + of(teacher);
                parts.add(
                    "attribution",
                    2.0 * shared,
                    operations,
                    operations / card.flops,
                );
            }
            (Evidence::Divergence(_), Some(_)) => {
                // The prompt whole, and without each of its four blocks.
                let tokens = 5.0 * branches;
                let operations = forward(student, tokens, first) + forward(teacher, tokens, first);
                parts.add(
                    "attribution",
                    2.0 * tokens,
                    operations,
                    operations / card.flops,
                );
            }
            (Evidence::TeacherLogProb, _) => {
                let operations = forward(teacher, branches, first);
                parts.add("scoring", branches, operations, operations / card.flops);
            }
            (Evidence::OwnLogProb, _) => {
                let operations = forward(student, branches, first);
                parts.add("scoring", branches, operations, operations / card.flops);
            }
            _ => {}
        }
        let other = matches!(evidence, Evidence::Divergence(_) | Evidence::TeacherLogProb);
        if other {
            let patches = prompts * workload.image_patches as f64;
            let operations = tower_forward(teacher, patches);
            parts.add(
                "teacher's vision",
                patches,
                operations,
                operations / card.flops,
            );
        }
    }
}

/// The stages in their order.
pub(super) fn of_stages(
    profile: &Profile,
    arms: &[String],
    student: &ModelSizes,
    teacher: &ModelSizes,
    workload: &Workload,
    card: &Card,
) -> Vec<StageTime> {
    let assumptions = Assumptions {
        profile,
        workload,
        card,
    };
    let (prompts, samples) = (profile.grpo.prompts as f64, profile.grpo.samples as f64);
    let stage = |name: &str, updates: usize, seeds: u64, shared: bool, parts: Parts| {
        let update = UpdateTime {
            tokens: parts.tokens,
            operations: parts.operations,
            seconds: parts.seconds,
        };
        let updates = updates as u64 * seeds;
        StageTime {
            stage: name.to_owned(),
            updates,
            hours: updates as f64 * update.total() / 3600.0,
            update: Some(update),
            shared,
        }
    };
    let plain = |model: &ModelSizes| {
        let mut parts = Parts::default();
        assumptions.sampling(&mut parts, model, prompts, samples);
        assumptions.stepping(&mut parts, model);
        parts
    };
    let schedule = &profile.schedule;
    let teachers = if schedule.teacher_per_seed {
        profile.seeds
    } else {
        1
    };
    let mut stages = Vec::new();
    if schedule.teacher > 0 {
        stages.push(stage(
            "teacher",
            schedule.teacher,
            teachers,
            true,
            plain(teacher),
        ));
    }
    if schedule.cold_start > 0 {
        let cold = schedule.cold_start;
        stages.push(stage(
            "cold-start",
            cold,
            profile.seeds,
            true,
            plain(student),
        ));
    }
    for name in arms {
        let Some(arm) = profile.arms.get(name) else {
            continue;
        };
        let mut parts = plain(student);
        let evidence = arm.reward.method().evidence();
        let method = arm.reward.attribution().map(|settings| &settings.method);
        assumptions.measuring(&mut parts, evidence, method, [student, teacher]);
        let updates = arm.updates.unwrap_or(schedule.arm);
        stages.push(stage(name, updates, profile.seeds, false, parts));
    }
    // Every arm and seed, the untrained student, and the teachers.
    let runs = arms.len() as f64 * profile.seeds as f64 + 1.0;
    let questions = workload.test_questions as f64;
    let seconds = |model: &ModelSizes| {
        let mut parts = Parts::default();
        assumptions.sampling(&mut parts, model, questions, 1.0);
        parts
            .seconds
            .iter()
            .map(|(_, seconds)| seconds)
            .sum::<f64>()
    };
    stages.push(StageTime {
        stage: "evaluations".to_owned(),
        updates: 0,
        update: None,
        hours: (runs * seconds(student) + teachers as f64 * seconds(teacher)) / 3600.0,
        shared: false,
    });
    stages
}
