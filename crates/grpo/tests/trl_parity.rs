//! TRL 1.16's numbers, from `../shared/parity/grpo`: advantages, losses and gradients.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, Var};
use grpo::{
    Clip, KlEstimator, KlPenalty, LossAggregation, LossInputs, LossOptions, RatioLevel, ScaleByStd,
    Totals, advantages_of_scored, loss, zero_variance_share,
};
use serde_json::Value;

/// `tolerances.json`: grpo/*.
const ATOL: f64 = 2e-6;
const RTOL: f64 = 1e-5;

type Tensors = HashMap<String, Tensor>;

fn folder() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let folder = root.join("shared/parity/grpo");
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: ../shared is absent");
    None
}

fn tensors(folder: &Path, name: &str) -> Tensors {
    candle_core::safetensors::load(folder.join(format!("{name}.safetensors")), &Device::Cpu)
        .unwrap()
}

fn cases(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("grpo.json")).unwrap()).unwrap()
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor
        .flatten_all()
        .unwrap()
        .to_dtype(DType::F32)
        .unwrap()
        .to_vec1()
        .unwrap()
}

fn close(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (&f, &e)) in found.iter().zip(expected).enumerate() {
        let (f, e) = (f64::from(f), f64::from(e));
        let bound = ATOL + RTOL * e.abs();
        assert!(
            (f - e).abs() <= bound,
            "{what}[{i}]: found {f}, expected {e}"
        );
    }
}

/// One of the two data sets, packed: every position of the padded batch is a token.
struct Data {
    tensors: Tensors,
    log_probs: Vec<f32>,
    old: Vec<f32>,
    reference: Vec<f32>,
    advantages: Vec<f32>,
    sequence: Vec<usize>,
    mask: Vec<bool>,
    columns: usize,
}

impl Data {
    fn load(folder: &Path, name: &str) -> Self {
        let tensors = tensors(folder, name);
        let get = |key: &str| floats(&tensors[key]);
        let columns = tensors["in.mask"].dims()[1];
        let mask: Vec<bool> = get("in.mask").into_iter().map(|m| m != 0.0).collect();
        Data {
            log_probs: get("out.logps"),
            old: get("in.old_logps"),
            reference: get("in.ref_logps"),
            advantages: get("in.advantages"),
            sequence: (0..mask.len()).map(|t| t / columns).collect(),
            mask,
            columns,
            tensors,
        }
    }

    fn totals(&self) -> Totals {
        Totals {
            tokens: self.mask.iter().filter(|&&m| m).count(),
            sequences: self.advantages.len(),
        }
    }

    /// Loss and gradient with respect to the log-probabilities of rows `rows`.
    fn run(
        &self,
        rows: std::ops::Range<usize>,
        options: &LossOptions,
        totals: Option<Totals>,
    ) -> (grpo::LossOutput, Vec<f32>) {
        let tokens = rows.start * self.columns..rows.end * self.columns;
        let log_probs = Var::new(&self.log_probs[tokens.clone()], &Device::Cpu).unwrap();
        let sequence: Vec<usize> = self.sequence[tokens.clone()]
            .iter()
            .map(|s| s - rows.start)
            .collect();
        let inputs = LossInputs {
            log_probs: log_probs.as_tensor(),
            old: Some(&self.old[tokens.clone()]),
            reference: Some(&self.reference[tokens.clone()]),
            entropy: None,
            sequence: &sequence,
            advantages: &self.advantages[rows],
            mask: Some(&self.mask[tokens]),
            totals,
        };
        let output = loss(&inputs, options).unwrap();
        let gradients = output.loss.backward().unwrap();
        let gradient = floats(gradients.get(&log_probs).unwrap());
        (output, gradient)
    }
}

fn options(case: &Value) -> LossOptions {
    let number = |key: &str| case[key].as_f64().unwrap();
    LossOptions {
        clip: Clip {
            low: number("eps_low"),
            high: number("eps_high"),
            dual: None,
        },
        ratio: match case["is_level"].as_str().unwrap() {
            "token" => RatioLevel::Token,
            _ => RatioLevel::Sequence,
        },
        kl: Some(KlPenalty {
            estimator: KlEstimator::K3,
            coefficient: number("beta"),
        }),
        aggregation: match case["loss_type"].as_str().unwrap() {
            "grpo" => LossAggregation::SequenceMean,
            "bnpo" | "dapo" => LossAggregation::TokenMean,
            _ => LossAggregation::ConstantLength {
                max_tokens: case["max_completion_length"].as_u64().unwrap() as usize,
            },
        },
    }
}

#[test]
fn advantages_match() {
    let Some(folder) = folder() else { return };
    let tensors = tensors(&folder, "advantages");
    let eps = |eps| ScaleByStd::Group { eps, floor: 0.0 };
    let listed = cases(&folder)["advantages"].clone();
    assert_eq!(listed.as_array().unwrap().len(), 4);
    for case in listed.as_array().unwrap() {
        let name = case["case"].as_str().unwrap();
        let size = case["group_size"].as_u64().unwrap() as usize;
        let rewards = floats(&tensors[&format!("{name}.in.rewards")]);
        let groups: Vec<usize> = (0..rewards.len()).map(|i| i / size).collect();
        for (variant, scale) in [
            ("group_eps1e-4", eps(1e-4)),
            ("group_eps1e-6", eps(1e-6)),
            (
                "batch_eps1e-4",
                ScaleByStd::Batch {
                    eps: 1e-4,
                    floor: 0.0,
                },
            ),
            ("none", ScaleByStd::None),
        ] {
            let expected = floats(&tensors[&format!("{name}.out.adv.{variant}")]);
            let found = advantages_of_scored(&rewards, &groups, scale).unwrap();
            close(&format!("{name} {variant}"), &found, &expected);
        }
        let share = zero_variance_share(&rewards, &groups).unwrap();
        let expected = match name {
            "case0" => 1.0 / 3.0,
            "case2" => 2.0 / 5.0,
            _ => 0.0,
        };
        assert_eq!(share, expected, "{name}");
    }
}

#[test]
fn losses_gradients_and_metrics_match() {
    let Some(folder) = folder() else { return };
    let mut seen = 0;
    for name in ["data0", "data1"] {
        let data = Data::load(&folder, name);
        let rows = data.advantages.len();
        for case in cases(&folder)["losses"].as_array().unwrap() {
            if case["data"] != name {
                continue;
            }
            seen += 1;
            let key = case["key"].as_str().unwrap();
            let what = format!("{name} {key}");
            let options = options(case);
            let (output, gradient) = data.run(0..rows, &options, None);

            close(
                &what,
                &floats(&output.loss),
                &floats(&data.tensors[&format!("out.loss.{key}")]),
            );
            // f32 inputs, f64 arithmetic on both sides.
            let exact = &data.tensors[&format!("out.loss_f64.{key}")];
            let exact = exact.to_scalar::<f64>().unwrap();
            let found = output.metrics.loss;
            assert!((found - exact).abs() <= 1e-6, "{what}: {found} {exact}");
            let expected = floats(&data.tensors[&format!("out.grad_logps.{key}")]);
            close(&format!("{what} gradient"), &gradient, &expected);
            assert!(expected.iter().any(|&g| g != 0.0));
            if options.ratio == RatioLevel::Token {
                let (_, shape) = key.split_once(".token.").unwrap();
                let expected = floats(&data.tensors[&format!("out.per_token_loss.{shape}")]);
                close(
                    &format!("{what} per token"),
                    &output.token_losses,
                    &expected,
                );
                let ratio = floats(&data.tensors["out.ratio"]);
                close("ratio", &output.token_ratios, &ratio);
            }
            close("k3", &output.token_kl, &floats(&data.tensors["out.k3_kl"]));

            let metric = |name: &str| case["metrics"][name].as_f64();
            let same = |found: f64, expected: Option<f64>| {
                let expected = expected.unwrap();
                assert!(
                    (found - expected).abs() < 1e-6,
                    "{what}: {found} {expected}"
                );
            };
            same(
                output.metrics.clip_fraction,
                metric("clip_ratio/region_mean"),
            );
            same(
                output.metrics.clip_fraction_low,
                metric("clip_ratio/low_mean"),
            );
            same(
                output.metrics.clip_fraction_high,
                metric("clip_ratio/high_mean"),
            );
            if let Some(kl) = metric("kl") {
                same(output.metrics.kl.unwrap(), Some(kl));
            }
        }
    }
    assert_eq!(seen, 36);
}

/// Two micro-batches of as many rows each: TRL's `bnpo` averages their means; all others equal one big
/// batch, for which ours need no equal parts.
#[test]
fn accumulation_matches() {
    let Some(folder) = folder() else { return };
    for name in ["data0", "data1"] {
        let data = Data::load(&folder, name);
        let rows = data.advantages.len();
        for case in cases(&folder)["losses"].as_array().unwrap() {
            let key = case["key"].as_str().unwrap();
            let Some(kind) = key.strip_suffix(".token.lo0.2.hi0.28.beta0.04") else {
                continue;
            };
            if case["data"] != name {
                continue;
            }
            let own = kind == "bnpo";
            let totals = (!own).then(|| data.totals());
            let factor = if own { 0.5 } else { 1.0 };
            let (a, mut gradient) = data.run(0..rows / 2, &options(case), totals);
            let (b, rest) = data.run(rows / 2..rows, &options(case), totals);
            gradient.extend(rest);
            let gradient: Vec<f32> = gradient.into_iter().map(|g| g * factor).collect();
            let value = ((a.metrics.loss + b.metrics.loss) * f64::from(factor)) as f32;
            let what = format!("{name} {kind}");
            let expected = |part: &str| floats(&data.tensors[&format!("out.micro2_{part}.{kind}")]);
            close(&what, &[value], &expected("loss"));
            close(&what, &gradient, &expected("grad_logps"));
            if !own {
                let whole = data.run(0..rows, &options(case), None).0;
                let merged = a.metrics.merge(&b.metrics);
                assert!((merged.loss - whole.metrics.loss).abs() < 1e-12);
                assert!((merged.kl.unwrap() - whole.metrics.kl.unwrap()).abs() < 1e-12);
                assert!((merged.mean_ratio - whole.metrics.mean_ratio).abs() < 1e-12);
                assert!((merged.clip_fraction - whole.metrics.clip_fraction).abs() < 1e-12);
                assert_eq!(merged.max_ratio, whole.metrics.max_ratio);
                assert_eq!(merged.tokens, whole.metrics.tokens);
            }
        }
    }
}

/// From logits: the loss reaches whatever the log-probabilities depend on.
#[test]
fn the_gradient_reaches_the_logits() {
    let Some(folder) = folder() else { return };
    for name in ["data0", "data1"] {
        let data = Data::load(&folder, name);
        let logits = Var::from_tensor(&data.tensors["in.logits"].flatten_to(1).unwrap()).unwrap();
        let ids = data.tensors["in.ids"]
            .flatten_all()
            .unwrap()
            .unsqueeze(1)
            .unwrap();
        let log_sum = logits.exp().unwrap().sum_keepdim(1).unwrap().log().unwrap();
        let log_probs = logits
            .broadcast_sub(&log_sum)
            .unwrap()
            .gather(&ids, 1)
            .unwrap();
        let log_probs = log_probs.squeeze(1).unwrap();
        close("log-probabilities", &floats(&log_probs), &data.log_probs);
        let key = "dapo.token.lo0.2.hi0.28.beta0.04";
        let listed = cases(&folder)["losses"].clone();
        let case = listed.as_array().unwrap().iter();
        let case = case
            .clone()
            .find(|c| c["key"] == key && c["data"] == name)
            .unwrap();
        let inputs = LossInputs {
            log_probs: &log_probs,
            old: Some(&data.old),
            reference: Some(&data.reference),
            entropy: None,
            sequence: &data.sequence,
            advantages: &data.advantages,
            mask: Some(&data.mask),
            totals: None,
        };
        let output = loss(&inputs, &options(case)).unwrap();
        let gradients = output.loss.backward().unwrap();
        let found = floats(gradients.get(&logits).unwrap());
        let expected = floats(&data.tensors[&format!("out.grad_logits.{key}")]);
        close("gradient of logits", &found, &expected);
    }
}
