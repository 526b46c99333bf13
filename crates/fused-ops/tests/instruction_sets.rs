//! Every operator, forward and backward, gives the same bits by every instruction set of this
//! machine, on 1 and 2 threads, with and without what the system's mathematics library would use
//! of the processor.

// A list of one range is meant.
#![allow(clippy::single_range_in_vec_init)]

mod common;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::process::Command;

use candle_core::{Tensor, Var};
use common::*;
use fused_ops::{
    AttentionLayout, FeedForwardWeights, InstructionSet, PackedWeight, Projection, QueryBlock,
    Segment, SelfAttentionOptions, SelfAttentionWeights, composed,
};
use seeded_random::{Draw, Stream};

/// Runs this test's own binary for the ignored test that prints, with `environment` set.
fn printed(test: &str, environment: &[(&str, &str)]) -> (bool, String) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", test, "--nocapture"])
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.success(), text.concat())
}

#[test]
fn every_operator_gives_the_same_bits_by_every_instruction_set() {
    let digests = |environment: &[(&str, &str)]| -> Vec<String> {
        let (success, text) = printed("print_digests", environment);
        assert!(success, "{environment:?}: {text}");
        let lines = text.lines().filter(|line| line.starts_with("digest "));
        lines.map(str::to_owned).collect()
    };
    let expected = digests(&[("RAYON_NUM_THREADS", "1")]);
    assert!(expected.len() > 300, "{}", expected.len());
    for set in InstructionSet::ALL {
        if !set.is_available() {
            println!("skipped: this processor lacks {set}");
            continue;
        }
        for threads in ["1", "2"] {
            let forced = [
                ("FUSED_OPS_SIMD", set.name()),
                ("RAYON_NUM_THREADS", threads),
            ];
            // glibc then takes the functions that it has for older processors.
            let older = (
                "GLIBC_TUNABLES",
                "glibc.cpu.hwcaps=-AVX512F,-AVX2,-FMA,-FMA4",
            );
            let found = match threads {
                "1" => digests(&forced),
                _ => digests(&[forced[0], forced[1], older]),
            };
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(found, expected, "{set}, {threads} threads");
            }
        }
    }
}

#[test]
fn an_unknown_instruction_set_is_refused_by_every_operator() {
    let (success, text) = printed("print_digests", &[("FUSED_OPS_SIMD", "avx1024")]);
    assert!(!success);
    assert!(text.contains("FUSED_OPS_SIMD is `avx1024`"), "{text}");
    assert!(text.contains("portable"), "{text}");
}

/// Prints a digest of the value and of each gradient.
fn print(name: &str, inputs: &[Var], operator: Operator) {
    let (out, grads) = gradients(inputs, operator);
    for (part, tensor) in std::iter::once(&out).chain(&grads).enumerate() {
        print_value(&format!("{name}, part {part}"), tensor);
    }
}

fn print_value(name: &str, tensor: &Tensor) {
    let mut hasher = DefaultHasher::new();
    for value in values(tensor) {
        assert!(value.is_finite(), "{name}: {value}");
        value.to_bits().hash(&mut hasher);
    }
    println!(
        "digest {name}, {:?}: {:016x}",
        tensor.dims(),
        hasher.finish()
    );
}

#[test]
#[ignore = "printed for the other tests"]
fn print_digests() {
    let kept = kept_layers::Case::new().by_kept_layers();
    for (part, tensor) in kept.iter().enumerate() {
        print_value(&format!("kept layers, part {part}"), tensor);
    }
    let mut random = Stream::new(7).purpose("shapes").generator();
    // Small sizes with every tail of 16 lanes, and now and then one that crosses a block.
    let mut size = |most: usize| match random.below(8) {
        0 => 1 + random.below(4 * most),
        _ => 1 + random.below(most),
    };
    for _ in 0..12 {
        let (rows, width, outputs) = (size(70), size(90), size(70));
        let inputs = [
            variable(&[rows, width], 1),
            variable(&[outputs, width], 2),
            variable(&[outputs], 3),
        ];
        print("linear", &inputs, &|v| {
            Ok(fused_ops::linear(&v[0], &v[1], Some(&v[2]))?)
        });
        let inputs = [variable(&[rows, width], 1), variable(&[width], 2)];
        print("rms_norm", &inputs, &|v| {
            Ok(fused_ops::rms_norm(&v[0], &v[1], 1e-6)?)
        });
        let inputs = [variable(&[rows, width], 1), variable(&[rows, width], 2)];
        print("swiglu", &inputs, &|v| Ok(fused_ops::swiglu(&v[0], &v[1])?));
        print("exp", &inputs[..1], &|v| Ok(fused_ops::exp(&v[0])?));
        print("gelu", &inputs[..1], &|v| Ok(fused_ops::gelu(&v[0])?));
        print("log", &inputs[..1], &|v| {
            Ok(fused_ops::log(&(v[0].sqr()? + 1e-3)?)?)
        });
        let inputs = [variable(&[rows, width], 1), variable(&[outputs, width], 2)];
        if let Some(packed) = PackedWeight::new(&inputs[1]).unwrap() {
            print_value("packed weight", &packed.linear(&inputs[0], None).unwrap());
        }
        // Tokens enough that both halves of a layer run as one operator.
        let (tokens, hidden, inner) = (128 + rows, 2 * width.min(40), outputs.min(60));
        let inputs = [
            variable(&[tokens, hidden], 1),
            variable(&[hidden], 2),
            variable(&[inner, hidden], 3),
            variable(&[inner, hidden], 4),
            variable(&[hidden, inner], 5),
        ];
        print("feed_forward", &inputs, &|v| {
            let weights = FeedForwardWeights {
                norm: &v[1],
                eps: 1e-6,
                gate: &v[2],
                up: &v[3],
                down: &v[4],
            };
            Ok(fused_ops::feed_forward(&v[0], &weights)?)
        });
        let layout = AttentionLayout::causal(&[tokens]);
        let inputs = [
            variable(&[tokens, hidden], 1),
            variable(&[hidden], 2),
            variable(&[hidden, hidden], 3),
            variable(&[hidden], 4),
        ];
        let (cos, sin) = (normal(&[tokens, hidden], 5), normal(&[tokens, hidden], 6));
        print("self_attention", &inputs, &|v| {
            let one = Projection {
                weight: &v[2],
                bias: &v[3],
            };
            let weights = SelfAttentionWeights {
                norm: &v[1],
                eps: 1e-6,
                q: one,
                k: one,
                v: one,
                o: &v[2],
                heads: 1,
                kv_heads: 1,
            };
            let options = SelfAttentionOptions {
                rotary: [&cos, &sin],
                layout: &layout,
                scale: 0.2,
                queries: None,
            };
            Ok(fused_ops::self_attention(&v[0], &weights, &options)?)
        });
        let inputs = [
            variable(&[3, rows, width], 1),
            variable(&[3, width, outputs], 2),
        ];
        print("matmul", &inputs, &|v| Ok(fused_ops::matmul(&v[0], &v[1])?));
        let (heads, half) = (size(4), size(40));
        let (cos, sin) = (normal(&[rows, 2 * half], 3), normal(&[rows, 2 * half], 4));
        print("rotary", &[variable(&[rows, heads, 2 * half], 1)], &|v| {
            Ok(fused_ops::rotary(&v[0], &cos, &sin)?)
        });
        let ids: Vec<u32> = (0..rows).map(|i| (i * i % outputs) as u32).collect();
        print("embedding", &[variable(&[outputs, width], 1)], &|v| {
            Ok(fused_ops::embedding(&v[0], &ids)?)
        });
        let vocab = outputs + 20;
        let inputs = [variable(&[rows, width], 1), variable(&[vocab, width], 2)];
        let banned = [outputs as u32, vocab as u32 - 1];
        let scored = |v: &[Var]| {
            let (hidden, weight) = (&v[0], &v[1]);
            fused_ops::token_log_probs(hidden, weight, &ids, 0.7, &banned)
        };
        print("token_log_probs", &inputs, &|v| Ok(scored(v)?.log_probs));
        print_value("entropy", &scored(&inputs).unwrap().entropy);

        let lengths = [size(40), size(150), size(20)];
        let (kv_heads, group, dim) = (size(2), size(4), size(50));
        let segment = |length, parent| Segment { length, parent };
        let tree = [
            segment(lengths[0], None),
            segment(lengths[1], Some(0)),
            segment(lengths[2], Some(1)),
        ];
        let own = lengths[0] + lengths[1];
        let single = vec![
            QueryBlock {
                queries: 0..1,
                visible: vec![0..lengths[0], lengths[0]..own],
                causal: None,
            },
            QueryBlock {
                queries: 1..2,
                visible: vec![0..lengths[0]],
                causal: Some(own),
            },
        ];
        for (name, layout) in [
            ("causal", AttentionLayout::causal(&lengths)),
            ("windows", AttentionLayout::bidirectional(&lengths)),
            ("tree", AttentionLayout::tree(&tree).unwrap()),
            ("mixed", mixed_layout()),
            ("single", AttentionLayout::new(single, 2, own + 1).unwrap()),
        ] {
            let (queries, keys) = (layout.queries(), layout.keys());
            let inputs = [
                variable(&[queries, kv_heads * group, dim], 1),
                variable(&[keys, kv_heads, dim], 2),
                variable(&[keys, kv_heads, dim], 3),
            ];
            let scale = 1.0 / (dim as f64).sqrt();
            print(&format!("attention, {name}"), &inputs, &|v| {
                Ok(fused_ops::attention(&v[0], &v[1], &v[2], &layout, scale)?)
            });
            let weights = composed::attention_weights(&inputs[0], &inputs[1], &layout, scale);
            print_value(&format!("weights, {name}"), &weights.unwrap());
        }
    }
    // Rows of A longer than a block, and a vocabulary of several pieces.
    let inputs = [variable(&[13, 1301], 1), variable(&[1301, 45], 2)];
    print("matmul of long rows", &inputs, &|v| {
        Ok(fused_ops::matmul(&v[0], &v[1])?)
    });
    let targets: Vec<u32> = (0..9000).map(|i| (i * 7) % 250).collect();
    let inputs = [variable(&[9000, 4], 1), variable(&[257, 4], 2)];
    print("token_log_probs of pieces", &inputs, &|v| {
        Ok(fused_ops::token_log_probs(&v[0], &v[1], &targets, 1.0, &[250])?.log_probs)
    });
}
