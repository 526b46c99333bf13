//! What a profile costs before anything runs: memory by part, tokens, arithmetic, hours.
//!
//! Arithmetic alone, from the resolved profile and the sizes of its models' `config.json`. With `P`
//! parameters of the decoder's layers, a forward pass of `n` tokens is `2 P n` operations and
//! attention's `4 h n k` a layer for `k` keys seen; a backward pass is as much again for activations,
//! and once more for weights that are trained; recompute adds a forward pass. Memory is what is held at
//! the worst moment of a stage: weights of every model that is loaded, f32 masters and moments,
//! gradients, and the largest of rollout, update and attribution.
//!
//! [`memory`] says what is counted and what is not; a test compares it with measured runs on the CPU.

mod memory;
mod sizes;
mod text;
mod time;

use qwen2_5_vl::Config;
use serde::Serialize;

pub use memory::{MemoryPart, StageMemory};
pub use sizes::{ModelSizes, published_config};
pub use time::{StageTime, UpdateTime};

use crate::profile::{Profile, PromptWording};

/// What a question is made of, in tokens and patches. The defaults are those of ReFocus' charts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Workload {
    /// Tokens of the first prompt without its image.
    pub prompt_tokens: usize,
    /// Patches of an image; four make a token.
    pub image_patches: usize,
    /// Tokens of a call.
    pub call_tokens: usize,
    /// Tokens that an observation adds beside its image.
    pub observation_tokens: usize,
    /// Tokens of an answer.
    pub answer_tokens: usize,
    /// Distinct calls among the episodes of a prompt, as a share of them.
    pub distinct_calls: f64,
    /// Test questions in all.
    pub test_questions: usize,
}

impl Workload {
    /// What is expected of a profile's questions: for loaded ones a chart of 2,800 patches with the
    /// profile's wording of the tools; for the generated world its own small figures.
    pub fn of(profile: &Profile) -> Self {
        match &profile.data {
            Some(data) => Workload {
                prompt_tokens: match data.prompt {
                    PromptWording::Ours => 650,
                    PromptWording::VtoolR1 => 4000,
                },
                image_patches: 2800,
                call_tokens: 150,
                observation_tokens: 40,
                answer_tokens: 100,
                distinct_calls: 1.0,
                test_questions: 3076,
            },
            None => Workload {
                prompt_tokens: 40,
                image_patches: 192,
                call_tokens: 10,
                observation_tokens: 0,
                answer_tokens: 4,
                distinct_calls: 0.5,
                test_questions: 6 * profile.evaluation.questions,
            },
        }
    }

    /// Tokens of the first prompt.
    pub fn first_prompt(&self) -> usize {
        self.prompt_tokens + self.image_patches / 4
    }

    /// Questions that are sampled from together in their first turn. Where the second goes on with it, half
    /// of the budget is for their prompts; in the generated world it asks anew.
    pub fn asked_together(&self, profile: &Profile) -> usize {
        let share = if profile.data.is_some() { 2 } else { 1 };
        (profile.compute.rollout_tokens / share / self.first_prompt()).max(1)
    }

    /// The share of first turns whose keys and values are there for their second, with so many samples of
    /// a question.
    pub fn kept_turns(&self, profile: &Profile, samples: f64) -> f64 {
        if profile.data.is_none() {
            return 0.0;
        }
        let (first, call) = (self.first_prompt() as f64, self.call_tokens as f64);
        let question = first + samples * call;
        let budget = profile.compute.rollout_tokens as f64;
        let whole = (budget / question).floor();
        // A question's samples have its prompt only once, and none without it.
        let of_another = ((budget - whole * question - first) / call).clamp(0.0, samples);
        let kept = whole * samples + of_another.floor();
        (kept / (self.asked_together(profile) as f64 * samples)).min(1.0)
    }

    /// Tokens of the second prompt: the first, the call, the observation.
    pub fn second_prompt(&self) -> usize {
        self.first_prompt() + self.call_tokens + self.observation_tokens + self.image_patches / 4
    }
}

/// What the arithmetic runs on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Card {
    /// Cards; each trains an arm or a seed of its own.
    pub count: usize,
    /// Memory of one, bytes.
    pub memory: u64,
    /// Operations a second that one sustains in matrix products.
    pub flops: f64,
    /// Tokens a second that one generates.
    pub decoded: f64,
    /// What an hour of one costs.
    pub price: f64,
}

impl Card {
    /// One H100 as far as is assumed of it: a quarter of its bf16 peak in matrix products, and what peers
    /// generate with many episodes together.
    pub fn h100() -> Self {
        Card {
            count: 1,
            memory: 80_000_000_000,
            flops: 250e12,
            decoded: 10_000.0,
            price: 3.0,
        }
    }
}

/// The plan of a profile.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The profile's name.
    pub profile: String,
    /// What was assumed of the questions.
    pub workload: Workload,
    /// What was assumed of the cards.
    pub card: Card,
    /// Student, then teacher.
    pub models: Vec<ModelSizes>,
    /// The memory of each stage.
    pub memory: Vec<StageMemory>,
    /// The time of each stage.
    pub time: Vec<StageTime>,
    /// Hours of one card for everything, and of all cards side by side.
    pub hours: [f64; 2],
    /// What the hours cost.
    pub cost: f64,
    /// What to change where a stage does not fit: each alone makes it fit.
    pub changes: Vec<String>,
}

impl Plan {
    /// The plan of `arms` of a profile.
    pub fn new(
        profile: &Profile,
        arms: &[String],
        student: &Config,
        teacher: &Config,
        workload: Workload,
        card: Card,
    ) -> Self {
        let models = vec![
            ModelSizes::of("student", student),
            ModelSizes::of("teacher", teacher),
        ];
        let [student, teacher] = [&models[0], &models[1]];
        let memory = memory::of_stages(profile, arms, student, teacher, &workload);
        let time = time::of_stages(profile, arms, student, teacher, &workload, &card);
        let alone: f64 = time.iter().map(|stage| stage.hours).sum();
        // The teacher comes first; the arms of all seeds are independent after their cold start.
        let shared: f64 = time.iter().filter(|s| s.shared).map(|s| s.hours).sum();
        let jobs = (arms.len() as u64 * profile.seeds).max(1) as f64;
        let side_by_side = shared + (alone - shared) / (card.count as f64).min(jobs);
        let changes = memory::changes(profile, arms, student, teacher, &workload, card.memory);
        Plan {
            profile: profile.name.clone(),
            hours: [alone, side_by_side],
            cost: alone * card.price,
            workload,
            card,
            memory,
            time,
            changes,
            models,
        }
    }

    /// The memory that a card must have, bytes.
    pub fn needed(&self) -> u64 {
        let peaks = self.memory.iter().map(StageMemory::peak);
        peaks.max().unwrap_or(0) / 19 * 20
    }

    /// The stage that needs most, with its bytes.
    pub fn largest(&self) -> Option<(&str, u64)> {
        let stages = self
            .memory
            .iter()
            .map(|stage| (stage.stage.as_str(), stage.peak()));
        stages.max_by_key(|(_, peak)| *peak)
    }

    /// Whether every stage fits into one card.
    pub fn fits(&self) -> bool {
        self.memory
            .iter()
            .all(|stage| stage.peak() <= memory::usable(self.card.memory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(profile: &str, changes: &[&str], gigabytes: u64) -> Plan {
        let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
        let profile = Profile::load(profile, &changes).unwrap();
        let config = |name: &str| published_config(name).unwrap();
        let mut arms = profile.trained.clone();
        arms.push("iapo-occlusion".to_owned());
        Plan::new(
            &profile,
            &arms,
            &config(&profile.checkpoints.student),
            &config(&profile.checkpoints.teacher),
            Workload::of(&profile),
            Card {
                memory: gigabytes * 1_000_000_000,
                ..Card::h100()
            },
        )
    }

    fn memory<'p>(plan: &'p Plan, stage: &str) -> &'p StageMemory {
        plan.memory.iter().find(|own| own.stage == stage).unwrap()
    }

    fn seconds(plan: &Plan, stage: &str, part: &str) -> f64 {
        let stage = plan.time.iter().find(|own| own.stage == stage).unwrap();
        let parts = &stage.update.as_ref().unwrap().seconds;
        let own = parts.iter().filter(|(name, _)| *name == part);
        own.map(|(_, seconds)| seconds).sum()
    }

    #[track_caller]
    fn within(found: f64, expected: f64, share: f64) {
        assert!(
            (found - expected).abs() <= share * expected,
            "{found} is not within {share} of {expected}"
        );
    }

    /// An audit of the code, made by hand beforehand, gives these figures for one update at this scale.
    #[test]
    fn memory_agrees_with_the_audit_of_the_papers_scale() {
        let gb = |bytes: u64| bytes as f64 / 1e9;
        let lora = plan("paper", &[], 80);
        let own = memory(&lora, "iapo");
        within(gb(own.part("policy")), 7.5, 0.02);
        within(gb(own.part("teacher")), 16.6, 0.02);
        within(gb(own.part("masters and moments")), 0.4, 0.15);
        let update = "update: gradients and activations";
        // The audit estimates the activations to one digit.
        within(gb(own.part(update)), 0.2 + 6.0, 0.15);
        let always: u64 = own.parts.iter().filter(|p| p.always).map(|p| p.bytes).sum();
        // The audit leaves the features out.
        let counted = always - own.part("image features") + own.part(update);
        within(gb(counted), 31.0, 0.05);
        assert!(lora.fits() && lora.changes.is_empty());

        let tower = "grpo.frozen=[\"vision\",\"merger\"]";
        let full = plan("paper-full", &[tower], 141);
        let own = memory(&full, "iapo");
        within(gb(own.part("reference")), 7.5, 0.02);
        within(gb(own.part("masters and moments")), 37.0, 0.01);
        within(gb(own.part(update)), 18.5 + 6.0, 0.15);
        within(gb(own.peak() - own.part("image features")), 93.0, 0.1);
        assert!(plan("paper-full", &[], 141).fits());
        let small = plan("paper-full", &[tower], 80);
        assert!(!small.fits());
        // Moments and masters in the host's memory are none of the card's.
        let host = plan("paper-full", &[tower, "compute.optimizer=host"], 80);
        let moved = memory(&host, "iapo");
        assert_eq!(moved.part("masters and moments"), 0);
        assert_eq!(own.peak() - moved.peak(), own.part("masters and moments"));
        assert!(host.fits(), "{}", gb(moved.peak()));
        assert!(
            small
                .changes
                .iter()
                .any(|change| change.contains("grpo.lora")),
            "{:?}",
            small.changes
        );
    }

    /// Seconds of the same audit at 250 TFLOP/s, with one tree a question and a prompt run once a node.
    #[test]
    fn seconds_agree_with_the_audit_of_the_papers_scale() {
        // The audit counts no attention, which grows with the prompt.
        for (wording, update, integrated, occlusion, share) in [
            ("ours", 26.0, 554.0, 30.0, 0.15),
            ("vtool-r1", 36.0, 1703.0, 70.0, 0.25),
        ] {
            // A budget that no question is cut by.
            let whole = [
                "compute.update_tokens=16384",
                &format!("data.prompt={wording}"),
            ];
            let plan = plan("paper", &whole, 80);
            let step = |part| seconds(&plan, "iapo", part);
            within(step("update") + step("reference"), update, share);
            within(step("attribution"), integrated, share);
            let by_occlusion = seconds(&plan, "iapo-occlusion", "attribution");
            within(by_occlusion, occlusion, 0.25);
            within(step("vision"), 4.0, 0.2);
        }
    }

    /// A question of 1,350 tokens and eight episodes of 990 fits into 12,288 tokens; with room for two
    /// episodes its prompt is computed four times.
    #[test]
    fn a_question_that_is_cut_costs_its_prompt_again() {
        let tokens = |budget: &str| {
            let plan = plan("paper", &[budget], 80);
            let stage = plan.time.iter().find(|one| one.stage == "vtool-r1");
            let update = stage.unwrap().update.as_ref().unwrap();
            let own = update.tokens.iter().find(|(part, _)| *part == "update");
            own.unwrap().1
        };
        assert_eq!(
            tokens("compute.update_tokens=12288"),
            32.0 * (1350.0 + 8.0 * 990.0)
        );
        assert_eq!(
            tokens("compute.update_tokens=4096"),
            32.0 * (4.0 * 1350.0 + 8.0 * 990.0)
        );
    }

    /// 32 questions of 1,350 tokens whose 256 second turns add 740 to prompt and call. A budget that has room
    /// for a question and four of its eight calls keeps these.
    #[test]
    fn a_second_turn_costs_what_was_said_since_the_first() {
        let prefill = |budget: &str| {
            let plan = plan("paper", &[budget], 80);
            let stage = plan.time.iter().find(|one| one.stage == "vtool-r1");
            let update = stage.unwrap().update.as_ref().unwrap();
            let own = update.tokens.iter().find(|(part, _)| *part == "prefill");
            own.unwrap().1
        };
        let firsts = 32.0 * 1350.0;
        assert_eq!(
            prefill("compute.rollout_tokens=65536"),
            firsts + 256.0 * 740.0
        );
        assert_eq!(
            prefill("compute.rollout_tokens=1950"),
            firsts + 128.0 * 740.0 + 128.0 * 2240.0
        );
    }

    /// EasyR1 publishes 120 s a step of this student on eight H100 for 512 x 5 episodes of one turn; its
    /// step also makes the old log-probabilities again, and its lengths are not told.
    #[test]
    fn a_published_step_has_the_order_of_the_plans() {
        let one = plan(
            "paper-full",
            &["grpo.prompts=512", "grpo.samples=5", "data.prompt=ours"],
            141,
        );
        // The old log-probabilities cost what the reference's do.
        let parts = ["decoding", "reference", "reference", "update"];
        let all: f64 = parts
            .map(|part| seconds(&one, "vtool-r1", part))
            .iter()
            .sum();
        // Eight cards; a second turn is more than half of ours.
        let published = all / 8.0 / 2.0;
        assert!((40.0..360.0).contains(&published), "{published}");
    }

    #[test]
    fn what_it_says() {
        insta::assert_snapshot!(plan("paper", &[], 40).to_text());
    }
}
