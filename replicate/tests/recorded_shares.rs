//! The block shares of the micro student's calls are those that were recorded when each method still had
//! its own arithmetic beside the model (commit 1a630fc). New checkpoints need new records.

use std::path::Path;

use agent::{PromptStyle, first_turn};
use attribution::{Baseline, BlockMass, Method};
use baselines::attribution_settings::{AttributedTokens, AttributionSettings};
use benchmarks::TestSet;
use benchmarks::micro::{Difficulty, Split, question};
use replicate::alignment::{CallAttribution, CalledPrompt, attribute};
use replicate::compute::Compute;
use replicate::policy::LocalPolicy;
use seeded_random::Stream;
use serde::Deserialize;
use visual_tools::Effect;

/// One recorded call.
#[derive(Deserialize)]
struct Recorded {
    method: String,
    nodes: usize,
    baseline: Baseline,
    tokens: AttributedTokens,
    prompt: usize,
    call: usize,
    log_prob: f64,
    shares: [f64; 4],
}

impl Recorded {
    fn settings(&self) -> AttributionSettings {
        let baseline = self.baseline;
        AttributionSettings {
            method: match self.method.as_str() {
                "occlusion" => Method::Occlusion {},
                "path-differences" => {
                    Method::PathDifferences(AttributionSettings::levels(baseline, self.nodes))
                }
                _ => Method::IntegratedGradients {
                    quadrature: AttributionSettings::quadrature(baseline, self.nodes),
                },
            },
            baseline,
            masses: BlockMass::Signed,
            tokens: self.tokens,
            ..AttributionSettings::paper()
        }
    }
}

#[test]
fn shares_are_as_recorded() {
    let recorded: Vec<Recorded> =
        serde_json::from_str(include_str!("recorded_shares.json")).unwrap();
    assert_eq!(recorded.len(), 48);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/micro/student");
    let mut policy = LocalPolicy::load(&folder, &Compute::cpu(), 16).unwrap();
    let difficulty = Difficulty {
        table_rows: [4, 5],
        table_columns: [3, 5],
        bars: [5, 6],
        named: [2, 4],
        noise: 0.01,
    };
    let micros = [0, 1].map(|index| {
        let set = TestSet::ALL[index as usize];
        question(set, Split::Train, &difficulty, &Stream::new(9), index)
    });
    let conversations = micros
        .each_ref()
        .map(|micro| first_turn(&micro.question.task, PromptStyle::Micro));
    let prompts = policy.encode(&conversations.each_ref()).unwrap();
    let tokenizer = policy.processor.tokenizer();
    let calls = micros.each_ref().map(|micro| -> Vec<Vec<u32>> {
        let focuses = micro.asked.right.iter().chain(&micro.asked.wrong).take(3);
        focuses
            .map(|focus| {
                let mut ids = tokenizer.encode(&focus.call(Effect::Mask)).unwrap();
                ids.push(policy.processor.stop_ids()[0]);
                ids
            })
            .collect()
    });
    let called: Vec<CalledPrompt> = prompts
        .iter()
        .zip(&calls)
        .map(|(prompt, calls)| {
            let calls = calls.iter().map(Vec::as_slice);
            CalledPrompt::new(prompt, calls, tokenizer).unwrap()
        })
        .collect();
    let model = policy.model.detached().unwrap();
    let mut known: Option<(AttributionSettings, Vec<Vec<CallAttribution>>)> = None;
    for expected in &recorded {
        let settings = expected.settings();
        if known.as_ref().is_none_or(|(of, _)| *of != settings) {
            let found = attribute(&model, &called, &settings, policy.budgets).unwrap();
            known = Some((settings.clone(), found));
        }
        let found = &known.as_ref().unwrap().1[expected.prompt][expected.call];
        assert!((found.log_prob - expected.log_prob).abs() < 1e-4);
        // Processors multiply in other orders, which a hundred tokens add up.
        for (a, b) in found.shares.shares().iter().zip(&expected.shares) {
            assert!((a - b).abs() < 1e-4, "{settings:?}: {a} {b}");
        }
    }
}
