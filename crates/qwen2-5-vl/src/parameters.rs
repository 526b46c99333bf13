//! A model's parameters by their names on disk.
//!
//! The names are those of the released checkpoints (`model.layers.…`, `visual.…`, `lm_head.weight`),
//! whichever scheme a file used.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use seeded_random::{Draw, Stream};

use crate::config::Config;
use crate::error::Result;

/// A model's parameters, ordered by name. Cloning shares the variables.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    variables: BTreeMap<String, Var>,
}

impl Parameters {
    /// The parameter of that name.
    pub fn get(&self, name: &str) -> Option<&Var> {
        self.variables.get(name)
    }

    /// Names and variables in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.variables
            .iter()
            .map(|(name, variable)| (name.as_str(), variable))
    }

    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.variables.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.variables.is_empty()
    }

    /// The number of scalars in all tensors.
    pub fn elements(&self) -> usize {
        self.variables
            .values()
            .map(|variable| variable.elem_count())
            .sum()
    }

    pub(crate) fn insert(&mut self, name: String, value: &Tensor) -> Result<()> {
        self.variables.insert(name, Var::from_tensor(value)?);
        Ok(())
    }

    /// Normal weights of standard deviation `initializer_range`, zero biases, norm weights of one.
    /// Every tensor has its own stream, so one model's tensors do not depend on another's shape.
    pub(crate) fn random(config: &Config, stream: Stream, device: &Device) -> Result<Self> {
        let std = config.text.initializer_range;
        let mut parameters = Parameters::default();
        for (name, shape) in shapes(config) {
            let count = shape.iter().product();
            let values = if name.ends_with(".bias") {
                vec![0f32; count]
            } else if shape.len() == 1 {
                vec![1f32; count]
            } else {
                let mut generator = stream.purpose(&name).generator();
                (0..count)
                    .map(|_| (generator.normal() * std) as f32)
                    .collect()
            };
            parameters.insert(name, &Tensor::from_vec(values, shape, device)?)?;
        }
        Ok(parameters)
    }
}

/// The name and shape of every parameter that a model of this configuration has.
pub fn shapes(config: &Config) -> BTreeMap<String, Vec<usize>> {
    let (text, vision) = (&config.text, &config.vision);
    let hidden = text.hidden_size;
    let kv = text.num_key_value_heads * text.head_dim();
    let mut shapes = BTreeMap::new();
    let mut add = |name: String, shape: &[usize]| {
        shapes.insert(name, shape.to_vec());
    };
    add(
        "model.embed_tokens.weight".into(),
        &[text.vocab_size, hidden],
    );
    add("model.norm.weight".into(), &[hidden]);
    if !config.tie_word_embeddings {
        add("lm_head.weight".into(), &[text.vocab_size, hidden]);
    }
    for layer in 0..text.num_hidden_layers {
        let mut add =
            |suffix: &str, shape: &[usize]| add(format!("model.layers.{layer}.{suffix}"), shape);
        add("input_layernorm.weight", &[hidden]);
        add("post_attention_layernorm.weight", &[hidden]);
        for (name, width) in [("q_proj", hidden), ("k_proj", kv), ("v_proj", kv)] {
            add(&format!("self_attn.{name}.weight"), &[width, hidden]);
            add(&format!("self_attn.{name}.bias"), &[width]);
        }
        add("self_attn.o_proj.weight", &[hidden, hidden]);
        add("mlp.gate_proj.weight", &[text.intermediate_size, hidden]);
        add("mlp.up_proj.weight", &[text.intermediate_size, hidden]);
        add("mlp.down_proj.weight", &[hidden, text.intermediate_size]);
    }
    let width = vision.hidden_size;
    let patch = vision.patch_size;
    add(
        "visual.patch_embed.proj.weight".into(),
        &[
            width,
            vision.in_channels,
            vision.temporal_patch_size,
            patch,
            patch,
        ],
    );
    for block in 0..vision.depth {
        let mut add =
            |suffix: &str, shape: &[usize]| add(format!("visual.blocks.{block}.{suffix}"), shape);
        add("norm1.weight", &[width]);
        add("norm2.weight", &[width]);
        let inner = vision.intermediate_size;
        for (name, output, input) in [
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.gate_proj", inner, width),
            ("mlp.up_proj", inner, width),
            ("mlp.down_proj", width, inner),
        ] {
            add(&format!("{name}.weight"), &[output, input]);
            add(&format!("{name}.bias"), &[output]);
        }
    }
    let merged = width * vision.merge_unit();
    add("visual.merger.ln_q.weight".into(), &[width]);
    add("visual.merger.mlp.0.weight".into(), &[merged, merged]);
    add("visual.merger.mlp.0.bias".into(), &[merged]);
    add("visual.merger.mlp.2.weight".into(), &[hidden, merged]);
    add("visual.merger.mlp.2.bias".into(), &[hidden]);
    shapes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_names_one_model() {
        let config = crate::config::tests::tiny();
        let make = |seed| Parameters::random(&config, Stream::new(seed), &Device::Cpu).unwrap();
        let values = |parameters: &Parameters, name: &str| -> Vec<f32> {
            parameters
                .get(name)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1()
                .unwrap()
        };
        let (a, b, c) = (make(1), make(1), make(2));
        let name = "model.layers.1.mlp.up_proj.weight";
        assert_eq!(values(&a, name), values(&b, name));
        assert_ne!(values(&a, name), values(&c, name));
        assert_eq!(values(&a, "model.norm.weight"), vec![1.0; 24]);
        assert_eq!(
            values(&a, "model.layers.0.self_attn.q_proj.bias"),
            vec![0.0; 24]
        );
        let all = values(&a, "model.embed_tokens.weight");
        let mean_square = all.iter().map(|v| v * v).sum::<f32>() / all.len() as f32;
        assert!((mean_square.sqrt() - 0.2).abs() < 0.02, "{mean_square}");
        assert_eq!(a.len(), shapes(&config).len());
    }
}
