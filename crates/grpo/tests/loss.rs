//! Figures and refusals of the loss.

use candle_core::{Device, Tensor};
use grpo::{
    Clip, Error, KlEstimator, KlPenalty, LossAggregation, LossInputs, LossOptions, RatioLevel, loss,
};

fn options() -> LossOptions {
    LossOptions {
        clip: Clip {
            low: 0.2,
            high: 0.2,
            dual: None,
        },
        ratio: RatioLevel::Token,
        kl: None,
        aggregation: LossAggregation::TokenMean,
    }
}

fn tensor(values: &[f32]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

fn inputs<'a>(log_probs: &'a Tensor, old: &'a [f32], advantages: &'a [f32]) -> LossInputs<'a> {
    LossInputs {
        log_probs,
        old: Some(old),
        reference: None,
        entropy: None,
        sequence: &[0, 0, 1, 1],
        advantages,
        mask: None,
        totals: None,
    }
}

const OLD: [f32; 4] = [-0.25, -0.5, -1.0, -2.0];

#[test]
fn at_the_first_step_the_ratio_is_exactly_one() {
    let log_probs = tensor(&OLD);
    let given = inputs(&log_probs, &OLD, &[1.0, -1.0]);
    let implied = LossInputs { old: None, ..given };
    for inputs in [given, implied] {
        let metrics = loss(&inputs, &options()).unwrap().metrics;
        assert_eq!(metrics.mean_ratio, 1.0);
        assert_eq!(metrics.max_ratio, 1.0);
        assert_eq!(metrics.clip_fraction, 0.0);
        assert_eq!(metrics.approximate_kl, 0.0);
        assert_eq!(metrics.loss, 0.0);
    }
}

/// Ratios 2, 1, 1/2 and 4 under advantages + + - -, worked out by hand.
#[test]
fn clips_are_counted_by_kind() {
    let ln2 = std::f32::consts::LN_2;
    let log_probs = tensor(&[OLD[0] + ln2, OLD[1], OLD[2] - ln2, OLD[3] + 2.0 * ln2]);
    let entropy = [1.0, 2.0, 3.0, 6.0];
    let given = LossInputs {
        entropy: Some(&entropy),
        ..inputs(&log_probs, &OLD, &[1.0, -1.0])
    };
    let mut options = options();
    options.clip.dual = Some(3.0);
    let metrics = loss(&given, &options).unwrap().metrics;
    assert_eq!(metrics.clip_fraction_high, 0.25);
    assert_eq!(metrics.clip_fraction_low, 0.25);
    assert_eq!(metrics.clip_fraction_dual, 0.25);
    assert_eq!(metrics.clip_fraction, 0.75);
    assert!((metrics.mean_ratio - 7.5 / 4.0).abs() < 1e-6);
    assert!((metrics.max_ratio - 4.0).abs() < 1e-6);
    assert!((metrics.policy_loss - (-1.2 - 1.0 + 0.8 + 3.0) / 4.0).abs() < 1e-6);
    assert_eq!(metrics.entropy, Some(3.0));
    assert_eq!(metrics.kl, None);
    let expected = (7.5 - 4.0 - f64::from(ln2) * 2.0) / 4.0;
    assert!((metrics.approximate_kl - expected).abs() < 1e-6);
}

#[test]
fn kl_estimators_have_their_known_values_and_slopes() {
    let (log_prob, reference) = (-1.0, -1.5);
    let expected = [
        (KlEstimator::K1, 0.5),
        (KlEstimator::K2, 0.125),
        (KlEstimator::K3, (-0.5f64).exp() - 1.0 + 0.5),
    ];
    for (estimator, value) in expected {
        assert!((estimator.value(log_prob, reference) - value).abs() < 1e-15);
        assert_eq!(estimator.value(-0.7, -0.7), 0.0);
        let h = 1e-6;
        let difference =
            estimator.value(log_prob + h, reference) - estimator.value(log_prob - h, reference);
        let slope = estimator.slope(log_prob, reference);
        assert!((difference / (2.0 * h) - slope).abs() < 1e-9);
    }
}

#[test]
fn no_tokens_are_a_loss_of_zero() {
    let log_probs = tensor(&OLD);
    let given = LossInputs {
        mask: Some(&[false; 4]),
        ..inputs(&log_probs, &OLD, &[1.0, -1.0])
    };
    for aggregation in [LossAggregation::TokenMean, LossAggregation::SequenceMean] {
        let output = loss(
            &given,
            &LossOptions {
                aggregation,
                ..options()
            },
        )
        .unwrap();
        assert_eq!(output.metrics.loss, 0.0);
        assert_eq!(output.metrics.tokens, 0);
    }
}

#[test]
fn bad_input_is_refused_with_its_name() {
    let log_probs = tensor(&OLD);
    let good = inputs(&log_probs, &OLD, &[1.0, -1.0]);
    let message = |inputs: LossInputs<'_>, options: &LossOptions| -> String {
        loss(&inputs, options).unwrap_err().to_string()
    };
    let old_nan = [-0.25, f32::NAN, -1.0, -2.0];
    let infinite = tensor(&[-0.25, -0.5, f32::NEG_INFINITY, -2.0]);
    let penalised = LossOptions {
        kl: Some(KlPenalty {
            estimator: KlEstimator::K3,
            coefficient: 0.01,
        }),
        ..options()
    };
    for (found, expected) in [
        (
            message(
                LossInputs {
                    old: Some(&OLD[1..]),
                    ..good
                },
                &options(),
            ),
            "old: expected 4",
        ),
        (
            message(
                LossInputs {
                    old: Some(&old_nan),
                    ..good
                },
                &options(),
            ),
            "`old` of token 1",
        ),
        (
            message(
                LossInputs {
                    log_probs: &infinite,
                    ..good
                },
                &options(),
            ),
            "of token 2 is -inf",
        ),
        (
            message(
                LossInputs {
                    advantages: &[1.0],
                    ..good
                },
                &options(),
            ),
            "sequence 1",
        ),
        (
            message(
                LossInputs {
                    advantages: &[1.0, f32::NAN],
                    ..good
                },
                &options(),
            ),
            "of sequence 1",
        ),
        (
            message(
                LossInputs {
                    mask: Some(&[true]),
                    ..good
                },
                &options(),
            ),
            "mask: expected 4",
        ),
        (message(good, &penalised), "reference"),
    ] {
        assert!(found.contains(expected), "{found}");
    }
    let clip = |low, high, dual| LossOptions {
        clip: Clip { low, high, dual },
        ..options()
    };
    for bad in [
        clip(0.0, 0.2, None),
        clip(0.2, f64::NAN, None),
        clip(0.2, 0.2, Some(1.1)),
        LossOptions {
            aggregation: LossAggregation::ConstantLength { max_tokens: 0 },
            ..options()
        },
    ] {
        assert!(
            matches!(loss(&good, &bad), Err(Error::Setting { .. })),
            "{bad:?}"
        );
    }
}
