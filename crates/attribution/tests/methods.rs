//! Occlusion, rollout, baselines, and all methods through one door.

use attribution::{
    Attentions, AttributionRequest, Baseline, BlockMass, Blocks, Error, Method, Quadrature, Rule,
    attention_rollout, occlusion,
};
use candle_core::{DType, Device, Tensor};

fn input() -> Tensor {
    let rows = [[1f32, 2.0], [3.0, -1.0], [0.5, 0.5], [4.0, 0.0]];
    Tensor::new(&rows, &Device::Cpu).unwrap()
}

/// Tokens 0 and 2 are block 0, 1 is block 2, 3 is block 3; block 1 is empty.
fn blocks() -> Blocks {
    Blocks::new(vec![0, 2, 0, 3], 4).unwrap()
}

fn sum(x: &Tensor) -> candle_core::Result<Tensor> {
    x.sum((1, 2))
}

fn rows(tensor: &Tensor) -> Vec<Vec<f32>> {
    tensor.to_vec2().unwrap()
}

#[test]
fn occlusion_of_a_sum_is_the_blocks_own_part() {
    let input = input();
    let zero = Baseline::Zero.tensor(&input, &blocks()).unwrap();
    for batch in [1, 2, 100] {
        let result = occlusion(&input, &zero, &blocks(), batch, &mut sum).unwrap();
        assert_eq!(result.scores, [2.0, 2.0, 2.0, 4.0]);
        assert_eq!(
            (result.f_input, result.f_baseline, result.gap),
            (10.0, 0.0, 0.0)
        );
        assert_eq!((result.forward_points, result.gradient_points), (5, 0));
        let drops = blocks()
            .masses(&result.scores, BlockMass::PositiveDrops, None)
            .unwrap();
        assert_eq!(drops, [4.0, 0.0, 2.0, 4.0]);
    }
}

/// `f = x₀ x₁` over two blocks: either occlusion takes all of it, so the drops count it twice.
#[test]
fn occlusions_gap_is_the_interaction() {
    let input = Tensor::new(&[[3f64], [5.0]], &Device::Cpu).unwrap();
    let zero = input.zeros_like().unwrap();
    let blocks = Blocks::new(vec![0, 1], 2).unwrap();
    let mut product = |x: &Tensor| (x.narrow(1, 0, 1)? * x.narrow(1, 1, 1)?)?.sum((1, 2));
    let result = occlusion(&input, &zero, &blocks, 4, &mut product).unwrap();
    assert_eq!(result.scores, [15.0, 15.0]);
    assert_eq!(result.gap, 15.0);
    assert_eq!(result.relative_gap, Some(1.0));
}

#[test]
fn occlusion_uses_values_alone_and_refuses_bad_ones() {
    let input = input();
    let zero = input.zeros_like().unwrap();
    let mut cut = |x: &Tensor| x.detach().sum((1, 2));
    assert!(occlusion(&input, &zero, &blocks(), 4, &mut cut).is_ok());
    let mut log = |x: &Tensor| x.log()?.sum((1, 2));
    let error = occlusion(&input, &zero, &blocks(), 4, &mut log).unwrap_err();
    assert!(matches!(error, Error::NonFinite { .. }));
    let short = Blocks::new(vec![0, 1], 2).unwrap();
    let error = occlusion(&input, &zero, &short, 4, &mut sum).unwrap_err();
    assert!(matches!(error, Error::Length { .. }));
}

#[test]
fn baselines_are_what_they_say() {
    let (input, blocks) = (input(), blocks());
    let mean = Tensor::new(&[0.25f32, -1.0], &Device::Cpu).unwrap();
    let zero = Baseline::Zero.tensor(&input, &blocks).unwrap();
    assert_eq!(rows(&zero), vec![vec![0.0, 0.0]; 4]);
    let found = Baseline::Mean(mean.clone())
        .tensor(&input, &blocks)
        .unwrap();
    assert_eq!(rows(&found), vec![vec![0.25, -1.0]; 4]);
    let found = Baseline::BlockMean.tensor(&input, &blocks).unwrap();
    assert_eq!(
        rows(&found),
        [[0.75, 1.25], [3.0, -1.0], [0.75, 1.25], [4.0, 0.0]]
    );
    let given = Baseline::Given(input.to_dtype(DType::F64).unwrap());
    let found = given.tensor(&input, &blocks).unwrap();
    assert_eq!(found.dtype(), DType::F32);
    assert_eq!(rows(&found), rows(&input));
    for bad in [Baseline::Mean(input.clone()), Baseline::Given(mean)] {
        assert!(matches!(
            bad.tensor(&input, &blocks),
            Err(Error::Shape { .. })
        ));
    }
    let short = Blocks::new(vec![0, 1], 2).unwrap();
    assert!(matches!(
        Baseline::BlockMean.tensor(&input, &short),
        Err(Error::Length { .. })
    ));
}

/// Two layers of three positions, worked out by hand.
#[test]
fn rollout_multiplies_the_layers() {
    let first = Tensor::new(
        &[[1f32, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0]],
        &Device::Cpu,
    );
    // Two heads whose mean is [[1, 0, 0], [1, 0, 0], [0, 0.5, 0.5]].
    let heads = [
        [[1f32, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
        [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]],
    ];
    let layers = [first.unwrap(), Tensor::new(&heads, &Device::Cpu).unwrap()];
    // Â₂[2] = [0, ¼, ¾]; Â₁[1] = [¼, ¾, 0], Â₁[2] = [0, ½, ½].
    let attentions = Attentions {
        layers: &layers,
        first_target: 2,
        end_target: 3,
    };
    let found = attention_rollout(attentions, 3).unwrap();
    for (found, expected) in found.iter().zip([1.0 / 16.0, 9.0 / 16.0, 6.0 / 16.0]) {
        assert!((found - expected).abs() < 1e-12);
    }
    // Averaged with target 1, whose Â₂ = [½, ½, 0] gives [5/8, 3/8, 0]; prompt of two tokens.
    let both = Attentions {
        first_target: 1,
        ..attentions
    };
    let found = attention_rollout(both, 2).unwrap();
    assert_eq!(found.len(), 2);
    assert!((found[0] - (1.0 / 16.0 + 5.0 / 8.0) / 2.0).abs() < 1e-12);

    for (bad, tokens) in [
        (
            Attentions {
                first_target: 3,
                ..attentions
            },
            3,
        ),
        (
            Attentions {
                end_target: 4,
                ..attentions
            },
            3,
        ),
        (attentions, 4),
        (
            Attentions {
                layers: &[],
                ..attentions
            },
            3,
        ),
    ] {
        assert!(attention_rollout(bad, tokens).is_err());
    }
    let odd = [Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap()];
    assert!(
        attention_rollout(
            Attentions {
                layers: &odd,
                ..attentions
            },
            3
        )
        .is_err()
    );
    let nan = [Tensor::full(f32::NAN, (3, 3), &Device::Cpu).unwrap()];
    assert!(
        attention_rollout(
            Attentions {
                layers: &nan,
                ..attentions
            },
            3
        )
        .is_err()
    );
}

#[test]
fn every_method_goes_through_one_door() {
    let (input, blocks) = (input(), blocks());
    let zero = input.zeros_like().unwrap();
    let uniform = [Tensor::full(0.25f32, (4, 4), &Device::Cpu).unwrap()];
    let attentions = Attentions {
        layers: &uniform,
        first_target: 3,
        end_target: 4,
    };
    let request = AttributionRequest {
        input: &input,
        baseline: &zero,
        blocks: &blocks,
        nodes_per_batch: 3,
        attentions: Some(attentions),
    };
    let quadrature = Quadrature::LogGaussLegendre {
        nodes: 12,
        linear_nodes: 1,
        start: 1e-4,
    };
    // A linear function: the gradient methods agree on it.
    for (method, expected) in [
        (
            Method::IntegratedGradients { quadrature },
            [3.0, 2.0, 1.0, 4.0],
        ),
        (Method::GradientXInput, [3.0, 2.0, 1.0, 4.0]),
        (Method::Occlusion, [2.0, 2.0, 2.0, 4.0]),
        (Method::AttentionRollout, [0.125, 0.125, 0.125, 0.625]),
    ] {
        let result = method.attribute(&request, &mut sum).unwrap();
        for (found, expected) in result.scores.iter().zip(expected) {
            assert!(
                (found - expected).abs() < 2e-6,
                "{method:?} {:?}",
                result.scores
            );
        }
        assert_eq!(result.f_input, 10.0);
        let text = serde_json::to_string(&method).unwrap();
        assert_eq!(
            serde_json::from_str::<Method>(&text).unwrap(),
            method,
            "{text}"
        );
    }
    let without = AttributionRequest {
        attentions: None,
        ..request
    };
    let error = Method::AttentionRollout
        .attribute(&without, &mut sum)
        .unwrap_err();
    assert!(matches!(error, Error::NoAttentions));
}

#[test]
fn a_profile_names_a_method_in_words() {
    let text = r#"{"method": "integrated_gradients",
                   "quadrature": {"kind": "riemann", "rule": "middle", "nodes": 8}}"#;
    let method: Method = serde_json::from_str(text).unwrap();
    let quadrature = Quadrature::Riemann {
        rule: Rule::Middle,
        nodes: 8,
    };
    assert_eq!(method, Method::IntegratedGradients { quadrature });
    assert!(serde_json::from_str::<Method>(r#"{"method": "saliency"}"#).is_err());
}
