//! Occlusion, rollout, baselines, and all methods through one door.

use attribution::{
    Attentions, AttributedFunctions, Attribution, Baseline, BatchedFunction, BlockMass, Blocks,
    Error, GradientSum, Levels, Method, Node, Path, Point, Quadrature, Rule, Scores,
    attention_rollout,
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

fn occlusion(
    path: &Path,
    points_per_batch: usize,
    f: impl FnMut(&Tensor) -> candle_core::Result<Tensor>,
) -> attribution::Result<Attribution> {
    Method::Occlusion {}.attribute_function(path, points_per_batch, f)
}

#[test]
fn occlusion_of_a_sum_is_the_blocks_own_part() {
    let path = Path::new(&input(), Baseline::Zero, blocks()).unwrap();
    for batch in [1, 2, 100] {
        let result = occlusion(&path, batch, sum).unwrap();
        assert_eq!(result.scores, Scores::Blocks(vec![4.0, 0.0, 2.0, 4.0]));
        assert_eq!(result.f_input, 10.0);
        assert_eq!((result.forward_points, result.gradient_points), (4, 0));
        let drops = result.masses(path.blocks(), BlockMass::PositiveDrops);
        assert_eq!(drops.unwrap(), [4.0, 0.0, 2.0, 4.0]);
    }
}

/// `f = x₀ x₁` over two blocks: either occlusion takes all of it, so the drops count it twice. That is
/// no error of the method, so there is no gap.
#[test]
fn occlusions_of_blocks_that_need_each_other_overlap() {
    let input = Tensor::new(&[[3f64], [5.0]], &Device::Cpu).unwrap();
    let blocks = Blocks::new(vec![0, 1], 2).unwrap();
    let path = Path::new(&input, Baseline::Zero, blocks).unwrap();
    let product = |x: &Tensor| (x.narrow(1, 0, 1)? * x.narrow(1, 1, 1)?)?.sum((1, 2));
    let result = occlusion(&path, 4, product).unwrap();
    assert_eq!(result.scores, Scores::Blocks(vec![15.0, 15.0]));
    assert_eq!(result.completeness, None);
}

#[test]
fn occlusion_uses_values_alone_and_refuses_bad_ones() {
    let path = Path::new(&input(), Baseline::Zero, blocks()).unwrap();
    assert!(occlusion(&path, 4, |x| x.detach().sum((1, 2))).is_ok());
    let error = occlusion(&path, 4, |x| x.log()?.sum((1, 2))).unwrap_err();
    assert!(matches!(error, Error::NonFinite { .. }));
}

#[test]
fn baselines_are_what_they_say() {
    let (input, blocks) = (input(), blocks());
    let zero = Baseline::Zero.tensor(&input, &blocks).unwrap();
    assert_eq!(rows(&zero), vec![vec![0.0, 0.0]; 4]);
    let found = Baseline::BlockMean.tensor(&input, &blocks).unwrap();
    assert_eq!(
        rows(&found),
        [[0.75, 1.25], [3.0, -1.0], [0.75, 1.25], [4.0, 0.0]]
    );
    let given = input.to_dtype(DType::F64).unwrap();
    let path = Path::between(&given, &input, blocks).unwrap();
    assert_eq!(path.baseline().dtype(), DType::F32);
    assert_eq!(rows(path.baseline()), rows(&input));
    let short = Blocks::new(vec![0, 1], 2).unwrap();
    for baseline in [Baseline::Zero, Baseline::BlockMean] {
        let error = Path::new(&input, baseline, short.clone()).unwrap_err();
        assert!(matches!(error, Error::Length { .. }), "{error}");
    }
    let narrow = input.narrow(1, 0, 1).unwrap();
    let error = Path::between(&narrow, &input, short).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }), "{error}");
}

#[test]
fn a_point_moves_each_block_by_its_own_share() {
    let path = Path::new(&input(), Baseline::BlockMean, blocks()).unwrap();
    let rows_at = |shares: &[f64]| rows(&path.at(shares).unwrap());
    assert_eq!(rows_at(&[1.0; 4]), rows(path.input()));
    assert_eq!(rows_at(&[0.0; 4]), rows(path.baseline()));
    assert_eq!(
        rows_at(&[0.5, 0.0, 0.25, 1.0]),
        [[0.875, 1.625], [3.0, -1.0], [0.625, 0.875], [4.0, 0.0]]
    );
    assert!(matches!(path.at(&[1.0]), Err(Error::Length { .. })));
}

/// Two prompts with functions of their own, as a model with calls has them: `F_c = (c + 1) Σ x²`.
struct Scaled {
    calls: usize,
    /// How many points were asked for at once.
    asked: Vec<usize>,
}

impl Scaled {
    fn f(call: usize, x: &Tensor) -> candle_core::Result<Tensor> {
        x.sqr()?.sum((1, 2))? * (call + 1) as f64
    }
}

impl AttributedFunctions for Scaled {
    type Error = Error;

    fn values(&mut self, paths: &[Path], points: &[Point]) -> attribution::Result<Vec<Vec<f64>>> {
        self.asked.push(points.len());
        points
            .iter()
            .map(|point| {
                let x = paths[point.path].at(&point.shares)?.unsqueeze(0)?;
                (0..self.calls)
                    .map(|call| Ok(f64::from(Self::f(call, &x)?.to_vec1::<f32>()?[0])))
                    .collect()
            })
            .collect()
    }

    fn gradients(
        &mut self,
        paths: &[Path],
        nodes: &[Node],
    ) -> attribution::Result<Vec<Vec<GradientSum>>> {
        let of_path = |path: &Path| {
            let points = path.along(nodes)?;
            (0..self.calls)
                .map(|call| {
                    let mut sum = GradientSum::new(path);
                    sum.add(nodes, &points, &Self::f(call, points.as_tensor())?)?;
                    Ok(sum)
                })
                .collect()
        };
        paths.iter().map(of_path).collect()
    }
}

/// Prompts of different lengths and all calls at once give what one function at a time gives.
#[test]
fn many_prompts_and_calls_equal_one_function_at_a_time() {
    let short = input().narrow(0, 1, 2).unwrap();
    let paths = [
        Path::new(&input(), Baseline::BlockMean, blocks()).unwrap(),
        Path::new(&short, Baseline::Zero, Blocks::new(vec![1, 3], 4).unwrap()).unwrap(),
    ];
    for (method, points) in [
        (Method::Occlusion {}, 4 + 3),
        (
            Method::PathDifferences(Levels {
                steps: 2,
                exponent: 1.0,
            }),
            7 + 5,
        ),
        (
            Method::IntegratedGradients {
                quadrature: Quadrature::GaussLegendre { nodes: 3 },
            },
            2 + 2,
        ),
        (Method::GradientXInput {}, 2 + 2),
    ] {
        let mut functions = Scaled {
            calls: 2,
            asked: Vec::new(),
        };
        let found = method.attribute(&paths, &mut functions).unwrap();
        assert_eq!(functions.asked, [points], "{method:?}");
        for (path, calls) in paths.iter().zip(found) {
            assert_eq!(calls.len(), 2);
            for (call, found) in calls.into_iter().enumerate() {
                let f = |x: &Tensor| Scaled::f(call, x);
                let alone = method.attribute_function(path, 2, f).unwrap();
                assert_eq!(found.scores, alone.scores, "{method:?}");
                assert_eq!(found.completeness, alone.completeness);
                assert_eq!(found.forward_points, alone.forward_points);
            }
        }
    }
}

/// An implementor that forgets a point or a call is told so.
#[test]
fn functions_that_lose_a_value_are_refused() {
    struct Forgetful(BatchedFunction<fn(&Tensor) -> candle_core::Result<Tensor>>);
    impl AttributedFunctions for Forgetful {
        type Error = Error;
        fn values(
            &mut self,
            paths: &[Path],
            points: &[Point],
        ) -> attribution::Result<Vec<Vec<f64>>> {
            let mut values = self.0.values(paths, points)?;
            values.pop();
            Ok(values)
        }
        fn gradients(
            &mut self,
            paths: &[Path],
            nodes: &[Node],
        ) -> attribution::Result<Vec<Vec<GradientSum>>> {
            self.0.gradients(paths, nodes)
        }
    }
    let path = [Path::new(&input(), Baseline::Zero, blocks()).unwrap()];
    let mut forgetful = Forgetful(BatchedFunction {
        points_per_batch: 4,
        function: sum,
    });
    for method in [Method::Occlusion {}, Method::GradientXInput {}] {
        let error = method.attribute(&path, &mut forgetful).unwrap_err();
        assert!(matches!(error, Error::Length { .. }), "{error}");
    }
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
    let layers = vec![first.unwrap(), Tensor::new(&heads, &Device::Cpu).unwrap()];
    // Â₂[2] = [0, ¼, ¾]; Â₁[1] = [¼, ¾, 0], Â₁[2] = [0, ½, ½].
    let with = |layers: &[Tensor], targets| Attentions {
        layers: layers.to_vec(),
        targets,
    };
    let found = attention_rollout(&with(&layers, 2..3), 3).unwrap();
    for (found, expected) in found.iter().zip([1.0 / 16.0, 9.0 / 16.0, 6.0 / 16.0]) {
        assert!((found - expected).abs() < 1e-12);
    }
    // Averaged with target 1, whose Â₂ = [½, ½, 0] gives [5/8, 3/8, 0]; prompt of two tokens.
    let found = attention_rollout(&with(&layers, 1..3), 2).unwrap();
    assert_eq!(found.len(), 2);
    assert!((found[0] - (1.0 / 16.0 + 5.0 / 8.0) / 2.0).abs() < 1e-12);

    let odd = [Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap()];
    let nan = [Tensor::full(f32::NAN, (3, 3), &Device::Cpu).unwrap()];
    for (bad, tokens) in [
        (with(&layers, 3..3), 3),
        (with(&layers, 2..4), 3),
        (with(&layers, 2..3), 4),
        (with(&[], 2..3), 3),
        (with(&odd, 2..3), 3),
        (with(&nan, 2..3), 3),
    ] {
        assert!(attention_rollout(&bad, tokens).is_err(), "{bad:?}");
    }
}

/// `Σ x` with attention that is everywhere the same.
struct WithAttention(BatchedFunction<fn(&Tensor) -> candle_core::Result<Tensor>>);

impl AttributedFunctions for WithAttention {
    type Error = Error;

    fn values(&mut self, paths: &[Path], points: &[Point]) -> attribution::Result<Vec<Vec<f64>>> {
        self.0.values(paths, points)
    }

    fn gradients(
        &mut self,
        paths: &[Path],
        nodes: &[Node],
    ) -> attribution::Result<Vec<Vec<GradientSum>>> {
        self.0.gradients(paths, nodes)
    }

    fn attentions(&mut self, _path: usize, _call: usize) -> attribution::Result<Attentions> {
        Ok(Attentions {
            layers: vec![Tensor::full(0.25f32, (4, 4), &Device::Cpu)?],
            targets: 3..4,
        })
    }
}

#[test]
fn every_method_goes_through_one_door() {
    let path = [Path::new(&input(), Baseline::Zero, blocks()).unwrap()];
    let mut functions = WithAttention(BatchedFunction {
        points_per_batch: 3,
        function: sum,
    });
    let quadrature = Quadrature::LogGaussLegendre {
        nodes: 13,
        linear_nodes: 1,
        start: 1e-4,
    };
    let levels = Levels {
        steps: 2,
        exponent: 3.0,
    };
    // A linear function: what looks at it agrees on it.
    for (method, expected, has_gap) in [
        (
            Method::IntegratedGradients { quadrature },
            [3.0, 2.0, 1.0, 4.0],
            true,
        ),
        (Method::GradientXInput {}, [3.0, 2.0, 1.0, 4.0], true),
        (Method::PathDifferences(levels), [4.0, 0.0, 2.0, 4.0], true),
        (Method::Occlusion {}, [4.0, 0.0, 2.0, 4.0], false),
        (
            Method::AttentionRollout {},
            [0.125, 0.125, 0.125, 0.625],
            false,
        ),
    ] {
        let found = method.attribute(&path, &mut functions).unwrap();
        let found = &found[0][0];
        let (Scores::Tokens(scores) | Scores::Blocks(scores)) = &found.scores;
        for (found, expected) in scores.iter().zip(expected) {
            assert!((found - expected).abs() < 2e-6, "{method:?} {scores:?}");
        }
        assert_eq!(found.token_scores().is_some(), method.scores_tokens());
        assert_eq!(found.completeness.is_some(), has_gap, "{method:?}");
        assert_eq!(found.f_input, 10.0);
        let text = serde_json::to_string(&method).unwrap();
        assert_eq!(
            serde_json::from_str::<Method>(&text).unwrap(),
            method,
            "{text}"
        );
    }
    let rollout = Method::AttentionRollout {};
    let error = rollout.attribute_function(&path[0], 3, sum).unwrap_err();
    assert!(matches!(error, Error::NoAttentions));
}

#[test]
fn a_profile_names_a_method_in_words() {
    let text = r#"{"name": "integrated-gradients",
                   "quadrature": {"kind": "riemann", "rule": "middle", "nodes": 8}}"#;
    let method: Method = serde_json::from_str(text).unwrap();
    let quadrature = Quadrature::Riemann {
        rule: Rule::Middle,
        nodes: 8,
    };
    assert_eq!(method, Method::IntegratedGradients { quadrature });
    for unknown in [
        r#"{"name": "saliency"}"#,
        r#"{"name": "integrated_gradients", "quadrature": {"kind": "gauss-legendre", "nodes": 8}}"#,
        r#"{"name": "occlusion", "nodes": 8}"#,
        r#"{"name": "path-differences", "steps": 8, "exponent": 1.0, "nodes": 8}"#,
    ] {
        assert!(
            serde_json::from_str::<Method>(unknown).is_err(),
            "{unknown}"
        );
    }
}
