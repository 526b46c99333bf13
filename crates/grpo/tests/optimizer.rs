//! AdamW against torch, its saved state, and gradient clipping.

use candle_core::{DType, Device, Tensor, Var};
use grpo::{AdamW, AdamWOptions, Error, Gradients, OptimizerPlace, clip_grad_norm};
use proptest::prelude::*;

const OPTIONS: AdamWOptions = AdamWOptions {
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    weight_decay: 0.01,
};

fn parameters(values: &[f32], dtype: DType) -> Vec<(String, Var)> {
    let tensor = Tensor::new(values, &Device::Cpu)
        .unwrap()
        .to_dtype(dtype)
        .unwrap();
    vec![("p".to_owned(), Var::from_tensor(&tensor).unwrap())]
}

fn values(var: &Var) -> Vec<f64> {
    var.flatten_all()
        .unwrap()
        .to_dtype(DType::F64)
        .unwrap()
        .to_vec1()
        .unwrap()
}

fn gradients(parameters: &[(String, Var)], values: &[f32]) -> Gradients {
    let (name, var) = &parameters[0];
    let gradient = Tensor::new(values, &Device::Cpu).unwrap();
    let gradient = gradient.reshape(var.dims()).unwrap();
    let mut gradients = Gradients::new();
    gradients
        .add(name, var, &gradient.to_dtype(var.dtype()).unwrap())
        .unwrap();
    gradients
}

/// The fixture's gradient at update s, from 1.
fn fixture_gradient(s: i32) -> [f32; 5] {
    let s = s as f32;
    let sign = if s % 2.0 == 0.0 { 1.0 } else { -1.0 };
    [0.1 * s, -0.2, 1e-4 * sign, 3.0 / s, 0.0]
}

const START: [f32; 5] = [0.5, -1.25, 2.0, 1e-3, 0.0];

/// torch 2.15.0, CPU, f32: `AdamW([p], lr, (0.9, 0.999), 1e-8, 0.01)` with lr = 0.1 / s and the
/// gradients above at s = 1..=5.
const TORCH: [[f32; 5]; 5] = [
    [0.399_5, -1.148_75, 2.097_99, -0.099_001, 0.0],
    [0.351_041_14, -1.098_175_6, 2.094_309_6, -0.145_560_49, 0.0],
    [0.318_990_77, -1.064_476_4, 2.104_803_6, -0.174_617_26, 0.0],
    [0.294_900_75, -1.039_210_3, 2.102_961_8, -0.195_104_58, 0.0],
    [0.275_497_02, -1.019_002_6, 2.106_629_1, -0.210_563_26, 0.0],
];

#[test]
fn fused_updates_are_torchs() {
    let parameters = parameters(&START, DType::F32);
    let mut optimizer = AdamW::new(OPTIONS).unwrap();
    for (s, expected) in (1..).zip(TORCH) {
        let gradients = gradients(&parameters, &fixture_gradient(s));
        optimizer
            .step(&parameters, &gradients, 0.1 / f64::from(s))
            .unwrap();
        for (found, expected) in values(&parameters[0].1).into_iter().zip(expected) {
            // At most about one unit in the last place an update.
            let bound = 1.5e-7 * f64::from(s) * f64::from(expected.abs());
            assert!(
                (found - f64::from(expected)).abs() <= bound,
                "update {s}: {found} {expected}"
            );
        }
    }
    assert_eq!(optimizer.updates("p"), 5);
}

/// The equations, in f64.
struct Reference {
    value: Vec<f64>,
    first: Vec<f64>,
    second: Vec<f64>,
    step: i32,
}

impl Reference {
    fn new(value: &[f32]) -> Self {
        Reference {
            value: value.iter().map(|&v| f64::from(v)).collect(),
            first: vec![0.0; value.len()],
            second: vec![0.0; value.len()],
            step: 0,
        }
    }

    fn update(&mut self, gradient: &[f32], rate: f64, o: AdamWOptions) {
        self.step += 1;
        for (i, &g) in gradient.iter().enumerate() {
            let g = f64::from(g);
            self.first[i] = o.beta1 * self.first[i] + (1.0 - o.beta1) * g;
            self.second[i] = o.beta2 * self.second[i] + (1.0 - o.beta2) * g * g;
            let first = self.first[i] / (1.0 - o.beta1.powi(self.step));
            let second = self.second[i] / (1.0 - o.beta2.powi(self.step));
            self.value[i] -= rate * o.weight_decay * self.value[i];
            self.value[i] -= rate * first / (second.sqrt() + o.eps);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Fused f32, composed f64 and half precision with a master copy, against the equations.
    #[test]
    fn every_path_follows_the_equations(
        start in prop::collection::vec(-2.0..2.0f32, 6),
        steps in prop::collection::vec((prop::collection::vec(-3.0..3.0f32, 6), 1e-4..0.1f64), 1..8),
        decay in 0.0..0.1f64,
    ) {
        let options = AdamWOptions { weight_decay: decay, ..OPTIONS };
        let mut reference = Reference::new(&start);
        let kinds = [(DType::F32, 3e-6), (DType::F64, 1e-12), (DType::BF16, 8e-3)];
        let all = kinds.map(|(dtype, bound)| (parameters(&start, dtype), bound));
        // The master copy starts from the rounded weights.
        let rounded: Vec<f32> = values(&all[2].0[0].1).iter().map(|&v| v as f32).collect();
        let mut half = Reference::new(&rounded);
        let mut optimizers = kinds.map(|_| AdamW::new(options).unwrap());
        for (gradient, rate) in &steps {
            reference.update(gradient, *rate, options);
            let gradient16: Vec<f32> = {
                let tensor = Tensor::new(gradient.as_slice(), &Device::Cpu).unwrap();
                let tensor = tensor.to_dtype(DType::BF16).unwrap();
                tensor.to_dtype(DType::F32).unwrap().to_vec1().unwrap()
            };
            half.update(&gradient16, *rate, options);
            for (optimizer, (parameters, _)) in optimizers.iter_mut().zip(&all) {
                let gradients = gradients(parameters, gradient);
                optimizer.step(parameters, &gradients, *rate).unwrap();
            }
        }
        for (i, (parameters, bound)) in all.iter().enumerate() {
            let expected = if i == 2 { &half.value } else { &reference.value };
            for (found, expected) in values(&parameters[0].1).iter().zip(expected) {
                let error = (found - expected).abs();
                prop_assert!(error <= bound * expected.abs().max(0.1), "{i}: {found} {expected}");
            }
        }
    }
}

#[test]
fn half_precision_keeps_updates_below_its_rounding() {
    let parameters = parameters(&[1.0], DType::BF16);
    let mut optimizer = AdamW::new(AdamWOptions {
        weight_decay: 0.0,
        ..OPTIONS
    })
    .unwrap();
    for _ in 0..100 {
        let gradients = gradients(&parameters, &[1.0]);
        optimizer.step(&parameters, &gradients, 1e-4).unwrap();
    }
    assert!((values(&parameters[0].1)[0] - 0.99).abs() < 4e-3);
}

/// Saved after three updates and loaded, the next three give the same bits as six in a row.
#[test]
fn a_resumed_run_is_the_same_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("optimizer.safetensors");
    for dtype in [DType::F32, DType::F64, DType::BF16] {
        let straight = parameters(&START, dtype);
        let mut optimizer = AdamW::new(OPTIONS).unwrap();
        let run = |optimizer: &mut AdamW, parameters: &[(String, Var)], updates| {
            for s in updates {
                let gradients = gradients(parameters, &fixture_gradient(s));
                optimizer.step(parameters, &gradients, 0.01).unwrap();
            }
        };
        run(&mut optimizer, &straight, 1..4);
        optimizer.save(&path).unwrap();
        let copy = straight[0].1.copy().unwrap();
        let resumed = vec![("p".to_owned(), Var::from_tensor(&copy).unwrap())];
        let mut loaded = AdamW::new(OPTIONS).unwrap().load(&path, &resumed).unwrap();
        assert_eq!(loaded.updates("p"), 3);
        run(&mut optimizer, &straight, 4..7);
        run(&mut loaded, &resumed, 4..7);
        assert_eq!(values(&straight[0].1), values(&resumed[0].1));
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        optimizer.save(&a).unwrap();
        loaded.save(&b).unwrap();
        assert_eq!(std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
    }
}

/// bf16 parameters here stand for those of a card: neither is updated by the fused pass itself.
#[test]
fn a_state_on_the_host_makes_the_same_updates_and_changes_places() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("optimizer.safetensors");
    let at = |place| AdamW::new(OPTIONS).unwrap().placed(place);
    let run = |optimizer: &mut AdamW, parameters: &[(String, Var)], updates| {
        for s in updates {
            let gradients = gradients(parameters, &fixture_gradient(s));
            optimizer.step(parameters, &gradients, 0.01).unwrap();
        }
    };
    let master = |optimizer: &AdamW| -> Vec<f32> {
        let file = folder.path().join("state");
        optimizer.save(&file).unwrap();
        let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        tensors["p.master"].to_vec1().unwrap()
    };
    let close = |found: Vec<f32>, expected: Vec<f32>| {
        for (found, expected) in found.iter().zip(&expected) {
            assert!(
                (found - expected).abs() <= 2e-7 * expected.abs().max(0.1),
                "{found} {expected}"
            );
        }
    };
    let places = [OptimizerPlace::Device, OptimizerPlace::Host];
    let all = places.map(|place| (at(place), parameters(&START, DType::BF16)));
    let [(mut device, on_device), (mut host, on_host)] = all;
    run(&mut device, &on_device, 1..4);
    run(&mut host, &on_host, 1..4);
    close(master(&host), master(&device));
    assert_eq!(values(&on_host[0].1), values(&on_device[0].1));

    // A state that was saved at one place goes on at the other.
    host.save(&path).unwrap();
    let mut moved = at(OptimizerPlace::Device).load(&path, &on_host).unwrap();
    assert_eq!(master(&moved), master(&host));
    device.save(&path).unwrap();
    let mut back = at(OptimizerPlace::Host).load(&path, &on_device).unwrap();
    run(&mut moved, &on_host, 4..7);
    run(&mut back, &on_device, 4..7);
    close(master(&moved), master(&back));

    // f32 parameters on the host are updated in place, wherever the state should be; f64 stay.
    for dtype in [DType::F32, DType::F64] {
        let both = places.map(|place| (at(place), parameters(&START, dtype)));
        let after = both.map(|(mut optimizer, parameters)| {
            run(&mut optimizer, &parameters, 1..4);
            values(&parameters[0].1)
        });
        assert_eq!(after[0], after[1]);
    }
}

#[test]
fn foreign_and_damaged_state_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("optimizer.safetensors");
    let ours = parameters(&START, DType::F32);
    let refuse = |parameters: &[(String, Var)]| {
        AdamW::new(OPTIONS)
            .unwrap()
            .load(&path, parameters)
            .unwrap_err()
            .to_string()
    };
    assert!(refuse(&ours).contains("optimizer.safetensors"));
    let mut optimizer = AdamW::new(OPTIONS).unwrap();
    optimizer
        .step(&ours, &gradients(&ours, &[1.0; 5]), 0.1)
        .unwrap();
    optimizer.save(&path).unwrap();
    let shorter = parameters(&START[1..], DType::F32);
    assert!(
        refuse(&shorter).contains("should be F32 [4]"),
        "{}",
        refuse(&shorter)
    );
    let other = vec![("q".to_owned(), ours[0].1.clone())];
    assert!(refuse(&other).contains("another run"), "{}", refuse(&other));
    let bytes = std::fs::read(&path).unwrap();
    for length in [0, 4, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        assert!(refuse(&ours).contains("not a readable safetensors file"));
    }
}

#[test]
fn parameters_without_gradient_are_left_alone_and_named() {
    let used = Var::new(&[1f32, 2.0], &Device::Cpu).unwrap();
    let unused = Var::new(&[3f32], &Device::Cpu).unwrap();
    let parameters = vec![
        ("used".to_owned(), used.clone()),
        ("unused".to_owned(), unused.clone()),
    ];
    let mut gradients = Gradients::new();
    let store = used.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    gradients.accumulate(&parameters, &store).unwrap();
    gradients.accumulate(&parameters, &store).unwrap();
    let sum: Vec<f32> = gradients.get("used").unwrap().to_vec1().unwrap();
    assert_eq!(sum, [4.0, 8.0]);
    assert_eq!(gradients.missing(&parameters), ["unused"]);
    let mut optimizer = AdamW::new(OPTIONS).unwrap();
    optimizer.step(&parameters, &gradients, 0.1).unwrap();
    assert_eq!(unused.to_vec1::<f32>().unwrap(), [3.0]);
    assert_ne!(used.to_vec1::<f32>().unwrap(), [1.0, 2.0]);
    let error = optimizer
        .step(&parameters[1..], &gradients, 0.1)
        .unwrap_err();
    assert!(matches!(error, Error::UnknownParameter { .. }));
    assert!(optimizer.step(&parameters, &gradients, f64::NAN).is_err());
}

/// torch 2.15.0: `clip_grad_norm_` of [3, 0, -4] and [12, 0] to norm 1.
#[test]
fn clipping_is_torchs() {
    let build = || {
        let mut gradients = Gradients::new();
        for (name, values) in [("a", &[3f32, 0.0, -4.0][..]), ("b", &[12.0, 0.0])] {
            let tensor = Tensor::new(values, &Device::Cpu).unwrap();
            gradients
                .add(name, &Var::from_tensor(&tensor).unwrap(), &tensor)
                .unwrap();
        }
        gradients
    };
    let get = |gradients: &Gradients, name| -> Vec<f32> {
        gradients.get(name).unwrap().to_vec1().unwrap()
    };
    let mut clipped = build();
    assert_eq!(clip_grad_norm(&mut clipped, Some(1.0)).unwrap(), 13.0);
    assert_eq!(get(&clipped, "a"), [0.230_769_22, 0.0, -0.307_692_3]);
    assert_eq!(get(&clipped, "b"), [0.923_076_87, 0.0]);
    let mut loose = build();
    clip_grad_norm(&mut loose, Some(20.0)).unwrap();
    assert_eq!(get(&loose, "a"), [3.0, 0.0, -4.0]);
    assert_eq!(clip_grad_norm(&mut loose, None).unwrap(), 13.0);
    assert!(clip_grad_norm(&mut loose, Some(0.0)).is_err());
}

#[test]
fn a_gradient_that_is_not_finite_is_named() {
    for bad in [f32::NAN, f32::INFINITY] {
        let parameters = parameters(&[1.0, 2.0], DType::F32);
        let mut gradients = gradients(&parameters, &[0.5, bad]);
        let error = clip_grad_norm(&mut gradients, Some(1.0)).unwrap_err();
        assert!(error.to_string().contains("`p`"), "{error}");
    }
}

/// More elements than one thread's share: norm and update have the same bits for any pool.
#[test]
fn results_do_not_depend_on_the_thread_count() {
    let n = 100_003;
    let wave = |scale: f32| {
        (0..n)
            .map(|i| (i as f32 * scale).sin())
            .collect::<Vec<f32>>()
    };
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let parameters = parameters(&wave(0.37), DType::F32);
            let mut optimizer = AdamW::new(OPTIONS).unwrap();
            let mut gradients = gradients(&parameters, &wave(0.11));
            let norm = clip_grad_norm(&mut gradients, Some(1.0)).unwrap();
            optimizer.step(&parameters, &gradients, 0.1).unwrap();
            (norm, values(&parameters[0].1))
        })
    };
    assert_eq!(run(1), run(3));
}

/// candle's gradients of matrix products are transposed views.
#[test]
fn gradients_need_not_be_contiguous() {
    let weight = Var::new(&[[1f32, 2.0, 3.0], [4.0, 5.0, 6.0]], &Device::Cpu).unwrap();
    let parameters = vec![("w".to_owned(), weight.clone())];
    let transposed = Tensor::new(&[[1f32, 4.0], [2.0, 5.0], [3.0, -6.0]], &Device::Cpu).unwrap();
    let mut gradients = Gradients::new();
    gradients
        .add("w", &weight, &transposed.t().unwrap())
        .unwrap();
    let mut optimizer = AdamW::new(AdamWOptions {
        weight_decay: 0.0,
        ..OPTIONS
    })
    .unwrap();
    optimizer.step(&parameters, &gradients, 0.5).unwrap();
    let found: Vec<f32> = weight.flatten_all().unwrap().to_vec1().unwrap();
    for (found, expected) in found.iter().zip([0.5, 1.5, 2.5, 3.5, 4.5, 6.5]) {
        assert!((found - expected).abs() < 1e-6);
    }
}
