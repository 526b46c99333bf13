//! The sizes of a model, from its configuration.

use qwen2_5_vl::{Config, shapes};
use serde::Serialize;

use crate::profile::{Grpo, LoraSettings};

/// What memory and arithmetic follow from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelSizes {
    /// Which model it is.
    pub role: String,
    /// Parameters of the language model, embeddings and head included.
    pub language: u64,
    /// Of those, what every token is multiplied with: the decoder's layers.
    pub layers_parameters: u64,
    /// Parameters of the vision tower with its merger.
    pub tower: u64,
    /// Decoder layers.
    pub layers: u64,
    /// Width of a token.
    pub hidden: u64,
    /// Width inside the feed-forward layer.
    pub inner: u64,
    /// Width of a token's keys, and of its values.
    pub kv: u64,
    /// Query heads.
    pub heads: u64,
    /// Entries of the vocabulary.
    pub vocabulary: u64,
    /// Width of a patch, and inside the tower's feed-forward layer.
    pub patch: [u64; 2],
    /// Layers of the tower.
    pub tower_layers: u64,
    #[serde(skip)]
    shapes: Vec<(String, Vec<usize>)>,
}

impl ModelSizes {
    /// Of a configuration.
    pub fn of(role: &str, config: &Config) -> Self {
        let shapes: Vec<(String, Vec<usize>)> = shapes(config).into_iter().collect();
        let sum = |holds: &dyn Fn(&str) -> bool| -> u64 {
            let own = shapes.iter().filter(|(name, _)| holds(name));
            own.map(|(_, shape)| shape.iter().product::<usize>() as u64)
                .sum()
        };
        let (text, vision) = (&config.text, &config.vision);
        ModelSizes {
            role: role.to_owned(),
            language: sum(&|name| !name.starts_with("visual.")),
            layers_parameters: sum(&|name| name.starts_with("model.layers.")),
            tower: sum(&|name| name.starts_with("visual.")),
            layers: text.num_hidden_layers as u64,
            hidden: text.hidden_size as u64,
            inner: text.intermediate_size as u64,
            kv: (text.num_key_value_heads * text.head_dim()) as u64,
            heads: text.num_attention_heads as u64,
            vocabulary: text.vocab_size as u64,
            patch: [vision.hidden_size as u64, vision.intermediate_size as u64],
            tower_layers: vision.depth as u64,
            shapes,
        }
    }

    /// All parameters.
    pub fn parameters(&self) -> u64 {
        self.language + self.tower
    }

    /// Parameters that training changes.
    pub fn trained(&self, grpo: &Grpo) -> u64 {
        match &grpo.lora {
            Some(lora) => self.adapters(lora),
            None => {
                let frozen = |name: &str| {
                    let part = qwen2_5_vl::ModelPart::of(name).map(|part| part.to_string());
                    part.is_some_and(|part| grpo.frozen.contains(&part))
                };
                let trained = self.shapes.iter().filter(|(name, _)| !frozen(name));
                trained
                    .map(|(_, shape)| shape.iter().product::<usize>() as u64)
                    .sum()
            }
        }
    }

    /// Parameters of adapters: `rank (in + out)` for every projection that a target names.
    fn adapters(&self, lora: &LoraSettings) -> u64 {
        self.targets(lora)
            .map(|(_, shape)| lora.rank as u64 * (shape[0] + shape[1]) as u64)
            .sum()
    }

    /// Values that adapters add to what one token keeps in a decoder layer: the inner ones, and three
    /// times the output of each projection that has one (the addition, scaled, and the sum).
    pub(super) fn adapter_values(&self, lora: &LoraSettings) -> u64 {
        self.targets(lora)
            .filter(|(name, _)| name.starts_with("model.layers.0."))
            .map(|(_, shape)| (lora.rank + 3 * shape[0]) as u64)
            .sum()
    }

    /// Projections that get adapters, as [`qwen2_5_vl::LoraOptions`] names them.
    fn targets<'a>(
        &'a self,
        lora: &'a LoraSettings,
    ) -> impl Iterator<Item = (&'a str, &'a [usize])> {
        let named = |name: &str| {
            let path = name.strip_suffix(".weight")?;
            let is_target = lora.targets.iter().any(|target| {
                let (wanted, prefix) = match target.strip_prefix("visual.") {
                    Some(rest) => (rest, "visual."),
                    None => (target.as_str(), "model.layers."),
                };
                path.strip_prefix(prefix)
                    .and_then(|path| path.strip_suffix(wanted))
                    .is_some_and(|before| before.is_empty() || before.ends_with('.'))
            });
            is_target.then_some(())
        };
        self.shapes
            .iter()
            .filter(move |(name, shape)| shape.len() == 2 && named(name).is_some())
            .map(|(name, shape)| (name.as_str(), shape.as_slice()))
    }
}

/// The sizes in the published `config.json` of the paper's models, by a name on the hub; `None` for any
/// other.
pub fn published_config(name: &str) -> Option<Config> {
    let id = name.split('@').next().unwrap_or(name);
    let (hidden, inner, layers, heads, kv, vocabulary, tied) = match id {
        "Qwen/Qwen2.5-VL-3B-Instruct" => (2048, 11008, 36, 16, 2, 151_936, true),
        "Qwen/Qwen2.5-VL-7B-Instruct" => (3584, 18944, 28, 28, 4, 152_064, false),
        _ => return None,
    };
    let text = serde_json::json!({
        "model_type": "qwen2_5_vl",
        "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv,
        "tie_word_embeddings": tied,
        "rope_scaling": { "type": "mrope", "mrope_section": [16, 24, 24] },
        "image_token_id": 151_655, "video_token_id": 151_656,
        "vision_start_token_id": 151_652, "vision_end_token_id": 151_653,
        "vision_config": {
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
            "out_hidden_size": hidden, "patch_size": 14, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
    });
    Config::parse(&text.to_string(), id).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;

    #[test]
    fn the_papers_models_have_their_published_sizes() {
        let of = |name: &str| ModelSizes::of("", &published_config(name).unwrap());
        let billions = |count: u64| (count as f64 / 1e6).round() / 1e3;
        let student = of("Qwen/Qwen2.5-VL-3B-Instruct@main");
        assert_eq!(
            (billions(student.language), billions(student.tower)),
            (3.086, 0.669)
        );
        let teacher = of("Qwen/Qwen2.5-VL-7B-Instruct");
        assert_eq!(
            (billions(teacher.language), billions(teacher.tower)),
            (7.616, 0.677)
        );
        assert!(published_config("Qwen/Qwen2-VL-2B").is_none());
        // 36 layers of 16 (in + out) over seven projections.
        let paper = Profile::load("paper", &[]).unwrap();
        assert_eq!(student.trained(&paper.grpo), 29_933_568);
        let full = Profile::load("paper-full", &[]).unwrap();
        assert_eq!(student.trained(&full.grpo), student.parameters());
    }
}
