//! The written-out loss against the same formula composed of candle operators and differentiated
//! by candle, over every combination of settings.

use candle_core::{Device, Tensor, Var};
use grpo::{
    Clip, KlEstimator, KlPenalty, LossAggregation, LossInputs, LossOptions, RatioLevel, Totals,
    loss,
};
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Case {
    log_probs: Vec<f64>,
    old: Vec<f32>,
    reference: Vec<f32>,
    sequence: Vec<usize>,
    mask: Vec<bool>,
    advantages: Vec<f32>,
}

/// Up to 24 tokens of 4 sequences, in any order; sequence 3 is often empty.
fn case() -> impl Strategy<Value = Case> {
    let token = (
        -3.0..-0.01f64,
        -0.8..0.8f32,
        -1.0..1.0f32,
        0..4usize,
        prop::bool::weighted(0.8),
    );
    let tokens = prop::collection::vec(token, 1..24);
    (tokens, prop::collection::vec(-2.0..2.0f32, 4)).prop_map(|(tokens, advantages)| Case {
        log_probs: tokens.iter().map(|t| t.0).collect(),
        old: tokens.iter().map(|t| t.0 as f32 + t.1).collect(),
        reference: tokens.iter().map(|t| t.0 as f32 + t.2).collect(),
        sequence: tokens.iter().map(|t| t.3).collect(),
        mask: tokens.iter().map(|t| t.4).collect(),
        advantages,
    })
}

fn settings() -> impl Strategy<Value = LossOptions> {
    let ratio = prop_oneof![Just(RatioLevel::Token), Just(RatioLevel::Sequence)];
    let estimator = prop_oneof![
        Just(KlEstimator::K1),
        Just(KlEstimator::K2),
        Just(KlEstimator::K3)
    ];
    let aggregation = prop_oneof![
        Just(LossAggregation::TokenMean),
        Just(LossAggregation::SequenceMean),
        Just(LossAggregation::ConstantLength { max_tokens: 7 }),
    ];
    let clip = prop_oneof![
        Just(Clip {
            low: 0.2,
            high: 0.2,
            dual: None
        }),
        Just(Clip {
            low: 0.2,
            high: 0.28,
            dual: None
        }),
        Just(Clip {
            low: 0.1,
            high: 0.15,
            dual: Some(1.5)
        }),
    ];
    let kl = prop::option::of((estimator, 0.0..0.5f64));
    (clip, ratio, kl, aggregation).prop_map(|(clip, ratio, kl, aggregation)| LossOptions {
        clip,
        ratio,
        kl: kl.map(|(estimator, coefficient)| KlPenalty {
            estimator,
            coefficient,
        }),
        aggregation,
    })
}

/// The formula in operators, f64: `segments (4, tokens)` sums over sequences by matrix product.
fn composed(case: &Case, options: &LossOptions, log_probs: &Tensor) -> Tensor {
    let device = &Device::Cpu;
    let tokens = case.log_probs.len();
    let column = |values: Vec<f64>| Tensor::from_vec(values, (tokens, 1), device).unwrap();
    let wide = |values: &[f32]| column(values.iter().map(|&v| f64::from(v)).collect());
    let mask = column(case.mask.iter().map(|&m| f64::from(u8::from(m))).collect());
    let mut segments = vec![0f64; 4 * tokens];
    for (t, &sequence) in case.sequence.iter().enumerate() {
        segments[sequence * tokens + t] = 1.0;
    }
    let segments = Tensor::from_vec(segments, (4, tokens), device).unwrap();
    let spread = segments.t().unwrap().contiguous().unwrap();
    let lengths = segments.matmul(&mask).unwrap().maximum(1.0).unwrap();
    let advantages: Vec<f64> = case.advantages.iter().map(|&a| f64::from(a)).collect();
    let advantages = Tensor::from_vec(advantages, (4, 1), device).unwrap();
    let advantages = spread.matmul(&advantages).unwrap();

    let log_probs = log_probs.unsqueeze(1).unwrap();
    let mut log_ratio = (&log_probs - wide(&case.old)).unwrap();
    if options.ratio == RatioLevel::Sequence {
        let sums = segments.matmul(&(&log_ratio * &mask).unwrap()).unwrap();
        log_ratio = spread.matmul(&(sums / &lengths).unwrap()).unwrap();
    }
    let ratio = log_ratio.exp().unwrap();
    let plain = (&ratio * &advantages).unwrap();
    let Clip { low, high, dual } = options.clip;
    let clipped = (ratio.clamp(1.0 - low, 1.0 + high).unwrap() * &advantages).unwrap();
    let mut objective = plain.minimum(&clipped).unwrap();
    if let Some(dual) = dual {
        let bounded = objective.maximum(&(&advantages * dual).unwrap()).unwrap();
        let negative = advantages.lt(0.0).unwrap();
        objective = negative.where_cond(&bounded, &objective).unwrap();
    }
    let mut losses = objective.neg().unwrap();
    if let Some(kl) = options.kl {
        let d = (&log_probs - wide(&case.reference)).unwrap();
        let estimate = match kl.estimator {
            KlEstimator::K1 => d,
            KlEstimator::K2 => (d.sqr().unwrap() / 2.0).unwrap(),
            KlEstimator::K3 => ((d.neg().unwrap().exp().unwrap() + d).unwrap() - 1.0).unwrap(),
        };
        losses = (losses + (estimate * kl.coefficient).unwrap()).unwrap();
    }
    let losses = (losses * &mask).unwrap();
    match options.aggregation {
        LossAggregation::TokenMean => {
            let tokens = case.mask.iter().filter(|&&m| m).count().max(1);
            (losses.sum_all().unwrap() / tokens as f64).unwrap()
        }
        LossAggregation::SequenceMean => {
            let means = (segments.matmul(&losses).unwrap() / lengths).unwrap();
            (means.sum_all().unwrap() / 4.0).unwrap()
        }
        LossAggregation::ConstantLength { max_tokens } => {
            (losses.sum_all().unwrap() / (4 * max_tokens) as f64).unwrap()
        }
    }
}

fn inputs<'a>(case: &'a Case, log_probs: &'a Tensor) -> LossInputs<'a> {
    LossInputs {
        log_probs,
        old: Some(&case.old),
        reference: Some(&case.reference),
        entropy: None,
        sequence: &case.sequence,
        advantages: &case.advantages,
        mask: Some(&case.mask),
        totals: None,
    }
}

fn gradient(loss: &Tensor, log_probs: &Var) -> Vec<f64> {
    let gradients = loss.backward().unwrap();
    gradients.get(log_probs).unwrap().to_vec1().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn value_and_gradient_are_those_of_the_composed_formula(case in case(), options in settings()) {
        let log_probs = Var::new(case.log_probs.as_slice(), &Device::Cpu).unwrap();
        let ours = loss(&inputs(&case, &log_probs), &options).unwrap();
        let theirs = composed(&case, &options, &log_probs);
        let expected = theirs.to_scalar::<f64>().unwrap();
        prop_assert!((ours.metrics.loss - expected).abs() < 1e-10);
        prop_assert!((f64::from(ours.loss.to_scalar::<f32>().unwrap()) - expected).abs() < 1e-6);
        let found = gradient(&ours.loss, &log_probs);
        for (f, e) in found.iter().zip(gradient(&theirs, &log_probs)) {
            prop_assert!((f - e).abs() < 1e-6 + 1e-6 * e.abs(), "{found:?}");
        }
    }

    /// Packing order, and what masked tokens hold, change nothing.
    #[test]
    fn masked_tokens_do_not_count(case in case(), options in settings()) {
        let mut dirty = case.clone();
        for t in 0..case.mask.len() {
            if !case.mask[t] {
                dirty.log_probs[t] = f64::NAN;
                dirty.old[t] = f32::INFINITY;
                dirty.reference[t] = f32::NAN;
            }
        }
        let run = |case: &Case| {
            let log_probs = Var::new(case.log_probs.as_slice(), &Device::Cpu).unwrap();
            let output = loss(&inputs(case, &log_probs), &options).unwrap();
            let gradient = gradient(&output.loss, &log_probs);
            (output.metrics, output.loss.to_scalar::<f32>().unwrap(), gradient)
        };
        prop_assert_eq!(run(&case), run(&dirty));
    }

    /// Any split into micro-batches of whole sequences sums to the batch.
    #[test]
    fn micro_batches_sum_to_the_batch(case in case(), options in settings(), cut in 0..5usize) {
        let log_probs = Tensor::new(case.log_probs.as_slice(), &Device::Cpu).unwrap();
        let whole = loss(&inputs(&case, &log_probs), &options).unwrap().metrics;
        let totals = Totals { tokens: whole.tokens, sequences: 4 };
        let part = |range: std::ops::Range<usize>| {
            let keep = |t: &usize| range.contains(&case.sequence[*t]);
            let of: Vec<usize> = (0..case.mask.len()).filter(keep).collect();
            let part = Case {
                log_probs: of.iter().map(|&t| case.log_probs[t]).collect(),
                old: of.iter().map(|&t| case.old[t]).collect(),
                reference: of.iter().map(|&t| case.reference[t]).collect(),
                sequence: of.iter().map(|&t| case.sequence[t] - range.start).collect(),
                mask: of.iter().map(|&t| case.mask[t]).collect(),
                advantages: case.advantages[range.clone()].to_vec(),
            };
            let log_probs = Tensor::new(part.log_probs.as_slice(), &Device::Cpu).unwrap();
            let inputs = LossInputs { totals: Some(totals), ..inputs(&part, &log_probs) };
            loss(&inputs, &options).unwrap().metrics
        };
        let cut = cut.min(4);
        let merged = part(0..cut).merge(&part(cut..4));
        prop_assert!((merged.loss - whole.loss).abs() < 1e-12);
        prop_assert!((merged.policy_loss - whole.policy_loss).abs() < 1e-12);
        prop_assert_eq!(merged.tokens, whole.tokens);
        prop_assert_eq!(merged.sequences, whole.sequences);
    }
}
