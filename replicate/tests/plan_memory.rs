//! The plan's memory beside what runs on the CPU allocate.

#[path = "../../crates/qwen2-5-vl/tests/common/allocations.rs"]
mod allocations;

use allocations::{in_use, peak_of};
use candle_core::{Device, Tensor};
use fused_ops::AttentionLayout;
use grpo::{AdamWOptions, Gradients};
use qwen2_5_vl::{Config, LoraOptions, Model, ModelPart, Positions};
use replicate::plan::{Card, Plan, StageMemory, Workload};
use replicate::profile::Profile;
use seeded_random::Stream;

const TOKENS: usize = 4096;

fn config() -> Config {
    let json = serde_json::json!({
        "model_type": "qwen2_5_vl",
        "vocab_size": 512, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6,
        "num_attention_heads": 8, "num_key_value_heads": 2, "tie_word_embeddings": true,
        "rope_scaling": { "type": "mrope", "mrope_section": [4, 6, 6] },
        "image_token_id": 508, "video_token_id": 509,
        "vision_start_token_id": 510, "vision_end_token_id": 511,
        "vision_config": {
            "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
            "out_hidden_size": 256, "patch_size": 4, "window_size": 16,
            "fullatt_block_indexes": [],
        },
    });
    Config::parse(&json.to_string(), "test").unwrap()
}

/// The planned memory of a stage of plain GRPO.
fn planned(profile: &str, changes: &[&str]) -> (Profile, StageMemory) {
    let sizes = format!("compute.update_tokens={TOKENS}");
    let changes: Vec<String> = ["compute.weights=f32", &sizes]
        .iter()
        .chain(changes)
        .map(|change| (*change).to_owned())
        .collect();
    let profile = Profile::load(profile, &changes).unwrap();
    let mut workload = Workload::of(&profile);
    (workload.prompt_tokens, workload.image_patches) = (100, 64);
    let card = Card {
        count: 1,
        memory: 1 << 34,
        flops: 1e12,
        decoded: 1e3,
        price: 0.0,
    };
    let arms = ["vtool-r1".to_owned()];
    let plan = Plan::new(&profile, &arms, &config(), &config(), workload, card);
    let stage = plan.memory.into_iter().find(|own| own.stage == "vtool-r1");
    (profile, stage.unwrap())
}

#[track_caller]
fn within_a_tenth(what: &str, planned: u64, measured: usize) {
    within(what, planned, measured, 0.1);
}

/// At most a tenth below what is measured, and at most this share of it above.
#[track_caller]
fn within(what: &str, planned: u64, measured: usize, above: f64) {
    let (planned, measured) = (planned as f64 / 1e6, measured as f64 / 1e6);
    println!("{what}: planned {planned:.1} MB, measured {measured:.1} MB");
    assert!(
        planned >= 0.9 * measured && planned <= (1.0 + above) * measured,
        "{what}: planned {planned:.1} MB, measured {measured:.1} MB"
    );
}

/// Weights, optimiser and the second micro-batch of an update, beside the plan.
fn compare(name: &str, profile: &str, changes: &[&str]) {
    let (profile, plan) = planned(profile, changes);
    let before = in_use();
    let mut model = Model::random(config(), Stream::new(1), &Device::Cpu).unwrap();
    within_a_tenth(
        &format!("{name}, weights"),
        plan.part("policy"),
        in_use() - before,
    );
    match &profile.grpo.lora {
        None => model
            .freeze(&[ModelPart::Vision, ModelPart::Merger])
            .unwrap(),
        Some(lora) => {
            let options = LoraOptions {
                rank: lora.rank,
                alpha: lora.alpha,
                targets: lora.targets.clone(),
            };
            model.add_lora(&options, Stream::new(2)).unwrap();
        }
    }
    let lengths = [TOKENS / 8; 8];
    let ids: Vec<u32> = (0..TOKENS as u32).map(|i| i * i % 499).collect();
    let positions = Positions::concat(&lengths.map(|length| Positions::text(0, length)));
    let layout = AttentionLayout::causal(&lengths);
    let parameters = model.trainable();
    let recompute = profile.compute.recompute;
    let micro_batch = |sum: &mut Gradients| {
        let loss = |hidden: &Tensor| -> candle_core::Result<Tensor> {
            let scored = model.token_log_probs(hidden, &ids, 1.0).unwrap();
            scored.log_probs.mean_all()
        };
        let embeddings = model.embed(&ids, None).unwrap();
        let store = match recompute {
            true => {
                let found = model.backward_with_recompute(&embeddings, &positions, &layout, loss);
                found.unwrap().1
            }
            false => {
                let hidden = model.hidden(&embeddings, &positions, &layout).unwrap();
                loss(&hidden).unwrap().backward().unwrap()
            }
        };
        let mut own = Gradients::new();
        own.accumulate(&parameters, &store).unwrap();
        sum.merge(own).unwrap();
    };
    // Pools and buffers of the first pass stay.
    micro_batch(&mut Gradients::new());
    let start = in_use();
    let (sum, peak) = peak_of(|| {
        let mut sum = Gradients::new();
        micro_batch(&mut sum);
        micro_batch(&mut sum);
        sum
    });
    let update = plan.part("update: gradients and activations") + plan.part("logits");
    let what = format!("{name}, update");
    match profile.grpo.lora {
        Some(_) => within_a_tenth(&what, update, peak),
        // The plan is a card's, where a layer is made of operators. Without adapters the processor's is
        // two, which add gradients up in place.
        None => within(&what, update, peak, 0.2),
    }
    let options = AdamWOptions {
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.0,
    };
    let held = in_use() - start;
    let mut optimizer = grpo::AdamW::new(options).unwrap();
    optimizer.step(&parameters, &sum, 1e-3).unwrap();
    let moments = in_use() - start - held;
    within_a_tenth(
        &format!("{name}, moments"),
        plan.part("masters and moments"),
        moments,
    );
}

/// One test: the counts are of the whole process.
#[test]
fn the_plan_is_near_what_is_measured() {
    compare("adapters", "paper", &[]);
    compare(
        "adapters, activations kept",
        "paper",
        &["compute.recompute=false"],
    );
    let frozen = "grpo.frozen=[\"vision\",\"merger\"]";
    compare("all weights", "paper-full", &[frozen]);
}
