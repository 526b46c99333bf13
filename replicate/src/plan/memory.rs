//! Memory of the stages, by part.
//!
//! Counted, in bytes of the device, with `b` bytes a value of the model's type:
//!
//! - weights of the policy, of the reference (a copy where all weights are trained, none with adapters)
//!   and, where the arm asks it, of the teacher, `b` each; of a teacher that waits on the host only while
//!   it is asked;
//! - AdamW: two f32 moments a trained parameter, and an f32 master where `b` is 2;
//! - the features of an update's images, of all turns: they are kept from rollout to step;
//! - gradients: the f32 sum, and those of one micro-batch in the model's type;
//! - the largest of
//!   - a rollout: keys and values of prompts and of room for their samples, in the larger of the turns, of
//!     `rollout_tokens` that are kept from the first turn for the second, and the widest moment of a layer;
//!   - an update: what one token keeps in a decoder layer, `9h + 3kv + 3i` values for its norms,
//!     projections, rotations, attention and feed-forward (adapters keep three outputs of each projection
//!     more), for one layer with recompute and for all without, over `update_tokens`; with recompute the
//!     input of every layer; and of the backward pass the gradients of the widest step;
//!   - attribution: the same without adapters for `attribution_gradient_tokens`, of all layers, under the
//!     larger model, and a call's copy of keys and values with its gradient, `4kv` a layer (a processor
//!     runs all calls of a prompt at once and keeps less of each layer);
//!   - the vision tower over `vision_patches`;
//! - logits, in chunks of 32 MiB as the fused and chunked operators hold them, and one tile of attention
//!   scores of all heads, as the blockwise operator holds it (the processor's kernels hold none).
//!
//! Not counted: the runtime's own memory (under 1 GB on CUDA) and what an allocator cannot reuse; a
//! twentieth of the card is left for them.

use baselines::{Evidence, TeacherRole};
use grpo::OptimizerPlace;
use serde::Serialize;

use super::{ModelSizes, Workload};
use crate::compute::WeightType;
use crate::profile::{Profile, TeacherPlace};

/// Logits of one chunk, three copies.
const LOGITS: u64 = 3 * (32 << 20);

/// A side of a tile of attention scores, of which f32 values for all heads are held at once.
const TILE: u64 = 512;

/// One thing that takes memory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemoryPart {
    /// What it is.
    pub name: &'static str,
    /// Its bytes.
    pub bytes: u64,
    /// Whether it is there all the time; of the others only the largest counts.
    pub always: bool,
}

/// The memory of one stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageMemory {
    /// The stage.
    pub stage: String,
    /// Its parts.
    pub parts: Vec<MemoryPart>,
}

impl StageMemory {
    /// The most that is held at once.
    pub fn peak(&self) -> u64 {
        let always: u64 = self
            .parts
            .iter()
            .filter(|p| p.always)
            .map(|p| p.bytes)
            .sum();
        let passing = self.parts.iter().filter(|p| !p.always).map(|p| p.bytes);
        always + passing.max().unwrap_or(0)
    }

    /// The bytes of a part; 0 where the stage has none.
    pub fn part(&self, name: &str) -> u64 {
        let own = self.parts.iter().filter(|part| part.name == name);
        own.map(|part| part.bytes).sum()
    }
}

/// What of a card's memory may be planned with.
pub(super) fn usable(memory: u64) -> u64 {
    memory / 20 * 19
}

fn bytes_of(weights: WeightType) -> u64 {
    match weights {
        WeightType::F32 => 4,
        WeightType::Bf16 | WeightType::F16 => 2,
    }
}

/// The stages that differ: the teacher's own training, the arm that holds a teacher beside the student.
pub(super) fn of_stages(
    profile: &Profile,
    arms: &[String],
    student: &ModelSizes,
    teacher: &ModelSizes,
    workload: &Workload,
) -> Vec<StageMemory> {
    let mut stages = Vec::new();
    if profile.schedule.teacher > 0 {
        stages.push(of_stage("teacher", profile, teacher, None, false, workload));
    }
    stages.push(of_stage(
        "cold-start",
        profile,
        student,
        None,
        false,
        workload,
    ));
    for name in arms {
        let Some(arm) = profile.arms.get(name) else {
            continue;
        };
        let evidence = arm.reward.method().evidence();
        let attributes = matches!(evidence, Evidence::Divergence(_));
        let other = match evidence {
            Evidence::TeacherLogProb | Evidence::Divergence(TeacherRole::Teacher) => Some(teacher),
            // The student before its reinforcement learning is a model of its own.
            Evidence::Divergence(TeacherRole::Untrained) => Some(student),
            _ if profile.evaluation.probe > 0 => Some(teacher),
            _ => None,
        };
        stages.push(of_stage(
            name, profile, student, other, attributes, workload,
        ));
    }
    stages
}

fn of_stage(
    name: &str,
    profile: &Profile,
    policy: &ModelSizes,
    teacher: Option<&ModelSizes>,
    attributes: bool,
    workload: &Workload,
) -> StageMemory {
    let (grpo, compute) = (&profile.grpo, &profile.compute);
    let b = bytes_of(compute.weights);
    let trained = policy.trained(grpo);
    let mut parts = Vec::new();
    let mut add = |name: &'static str, bytes: u64, always: bool| {
        parts.push(MemoryPart {
            name,
            bytes,
            always,
        });
    };
    add("policy", policy.parameters() * b, true);
    if grpo.lora.is_none() {
        add("reference", policy.parameters() * b, true);
    }
    let asked = teacher.map_or(0, |teacher| teacher.parameters() * b);
    let waits = compute.teacher == TeacherPlace::Host;
    if teacher.is_some() {
        add("teacher", asked, !waits);
    }
    if grpo.lora.is_some() {
        add("adapters", trained * b, true);
    }
    let master = if b == 4 { 0 } else { 4 };
    if compute.optimizer == OptimizerPlace::Device {
        add("masters and moments", trained * (8 + master), true);
    }
    let logits = LOGITS.min(3 * 4 * policy.vocabulary * compute.update_tokens as u64);
    add("logits", logits, true);
    add("attention tile", scores(policy), true);
    // Each picture's once, and those of the two pictures of a second turn one after the other.
    let images = grpo.prompts * (1 + grpo.samples + 2 * grpo.samples);
    let tokens = (images * workload.image_patches / 4) as u64;
    add("image features", tokens * policy.hidden * b, true);

    add("rollout", rollout(profile, policy, workload, b), false);
    let micro = trained * (4 + b);
    let update = compute.update_tokens as u64;
    let longest = (workload.second_prompt() + workload.answer_tokens) as u64;
    let activations = training_activations(profile, policy, workload, update.max(longest), b);
    add(
        "update: gradients and activations",
        micro + activations,
        false,
    );
    if attributes {
        let longest = (workload.first_prompt() + workload.call_tokens) as u64;
        let tokens = (compute.attribution_gradient_tokens as u64).max(longest);
        let of = |model: &ModelSizes| model.layers * tokens * (kept(model) + 4 * model.kv) * b;
        let largest = teacher.map_or(0, of).max(of(policy));
        let asked = if waits { asked } else { 0 };
        add("attribution", largest + asked, false);
    }
    let patches = (compute.vision_patches as u64).max(workload.image_patches as u64);
    add("vision tower", patches * tower_values(policy) * b, false);
    StageMemory {
        stage: name.to_owned(),
        parts,
    }
}

/// Values that one token keeps in a decoder layer for the backward pass.
fn kept(model: &ModelSizes) -> u64 {
    9 * model.hidden + 3 * model.kv + 3 * model.inner
}

/// f32 scores of a tile of queries and keys, for all heads, three copies.
fn scores(model: &ModelSizes) -> u64 {
    3 * 4 * model.heads * TILE * TILE
}

/// Activations of the forward and backward pass of one micro-batch.
fn training_activations(
    profile: &Profile,
    model: &ModelSizes,
    workload: &Workload,
    tokens: u64,
    b: u64,
) -> u64 {
    let grpo = &profile.grpo;
    let adapters = grpo
        .lora
        .as_ref()
        .map_or(0, |lora| model.adapter_values(lora));
    let layer = kept(model) + adapters;
    // The backward pass holds the gradients of gate, up and their product at once, and with adapters
    // that of an addition.
    let additions = if adapters > 0 { model.inner } else { 0 };
    let backward = 3 * model.inner + 2 * model.hidden + additions;
    let values = match profile.compute.recompute {
        // Every layer's input; embeddings, the top as a variable, a layer's input as one, the incoming
        // gradient, its product with the output, and that product's gradient.
        true => (model.layers + 7) * model.hidden + layer + backward,
        false => model.layers * layer + model.hidden + backward,
    };
    let trained_tower = match grpo.trains_vision() {
        // The tower is not recomputed. A question's tree has its image, and the edited one of each
        // episode.
        true => {
            let first = workload.first_prompt() as u64;
            let added = workload.second_prompt() as u64 - first + workload.answer_tokens as u64;
            let images = 1 + (tokens.saturating_sub(first) / added).max(1);
            let patches = images * workload.image_patches as u64;
            patches * model.tower_layers * tower_kept(model) * b
        }
        false => 0,
    };
    values * tokens * b + trained_tower
}

/// Values that one patch keeps in a block of the tower.
fn tower_kept(model: &ModelSizes) -> u64 {
    let [width, inner] = model.patch;
    11 * width + 3 * inner
}

/// Values of one patch at the widest moment of the tower's inference, its pixels included.
fn tower_values(model: &ModelSizes) -> u64 {
    let [width, inner] = model.patch;
    2 * 1176 + 2 * width + (4 * width).max(3 * inner)
}

/// Keys, values and the widest moment of a batch of prompts that is sampled from, and what is kept of first
/// turns.
fn rollout(profile: &Profile, model: &ModelSizes, workload: &Workload, b: u64) -> u64 {
    let (compute, grpo) = (&profile.compute, &profile.grpo);
    let (samples, new) = (grpo.samples as u64, grpo.max_new_tokens as u64);
    let (first, second) = (
        workload.first_prompt() as u64,
        workload.second_prompt() as u64,
    );
    let budget = compute.rollout_tokens as u64;
    let together = workload.asked_together(profile).min(grpo.prompts) as u64;
    let first_turn = together * (first + samples * new);
    let prompts = budget.max(second);
    // In the second turn every episode has a prompt of its own, but for what is kept of its question.
    let own = match profile.data {
        Some(_) => first / samples + second.saturating_sub(first),
        None => second,
    };
    let episodes = (prompts / own).clamp(1, together * samples);
    let second_turn = prompts + episodes * new;
    let kept = if profile.data.is_some() { budget } else { 0 };
    let cache = (first_turn.max(second_turn) + kept) * 2 * model.layers * model.kv * b;
    let widest = prompts * (3 * model.hidden + (3 * model.inner).max(2 * model.hidden)) * b;
    let logits = episodes.max(together * samples) * model.vocabulary * 4;
    cache + widest + logits
}

/// Changes of the profile each of which alone makes every stage fit; where none does, what card would.
pub(super) fn changes(
    profile: &Profile,
    arms: &[String],
    student: &ModelSizes,
    teacher: &ModelSizes,
    workload: &Workload,
    memory: u64,
) -> Vec<String> {
    let peak = |profile: &Profile| {
        let stages = of_stages(profile, arms, student, teacher, workload);
        stages.iter().map(StageMemory::peak).max().unwrap_or(0)
    };
    let now = peak(profile);
    if now <= usable(memory) {
        return Vec::new();
    }
    let mut tried: Vec<(String, Profile)> = Vec::new();
    let mut try_with = |text: String, change: &dyn Fn(&mut Profile)| {
        let mut changed = profile.clone();
        change(&mut changed);
        if changed != *profile {
            tried.push((text, changed));
        }
    };
    try_with("compute.recompute=true".into(), &|p| {
        p.compute.recompute = true
    });
    try_with("compute.optimizer=\"host\"".into(), &|p| {
        p.compute.optimizer = OptimizerPlace::Host;
    });
    try_with("compute.teacher=\"host\"".into(), &|p| {
        p.compute.teacher = TeacherPlace::Host;
    });
    try_with("compute.weights=\"bf16\"".into(), &|p| {
        p.compute.weights = WeightType::Bf16;
    });
    for part in [2, 4, 8] {
        let of = |value: usize| (value / part).max(1);
        let budgets = &profile.compute;
        let (update, attribution) = (budgets.update_tokens, budgets.attribution_gradient_tokens);
        try_with(format!("compute.update_tokens={}", of(update)), &|p| {
            p.compute.update_tokens = of(update);
        });
        try_with(
            format!("compute.attribution_gradient_tokens={}", of(attribution)),
            &|p| p.compute.attribution_gradient_tokens = of(attribution),
        );
        let rollout = budgets.rollout_tokens;
        try_with(format!("compute.rollout_tokens={}", of(rollout)), &|p| {
            p.compute.rollout_tokens = of(rollout);
        });
        try_with(
            format!(
                "compute.update_tokens={} with compute.rollout_tokens={} and \
                 compute.attribution_gradient_tokens={}",
                of(update),
                of(rollout),
                of(attribution)
            ),
            &|p| {
                p.compute.update_tokens = of(update);
                p.compute.rollout_tokens = of(rollout);
                p.compute.attribution_gradient_tokens = of(attribution);
            },
        );
    }
    try_with("schedule.teacher=0 with a trained teacher".into(), &|p| {
        p.schedule.teacher = 0;
    });
    if profile.grpo.lora.is_none()
        && let Ok(paper) = Profile::load("paper", &[])
    {
        try_with("[grpo.lora] as in profile paper".into(), &|p| {
            p.grpo.lora.clone_from(&paper.grpo.lora);
        });
    }
    let mut found: Vec<String> = tried
        .into_iter()
        .filter(|(_, changed)| peak(changed) <= usable(memory))
        .map(|(text, _)| text)
        .collect();
    found.push(format!(
        "a card of {:.0} GB or more",
        (now as f64 / 0.95 / 1e9).ceil()
    ));
    found
}
