//! Low-rank adapters on named projections: `y = x W^T + b + (alpha / rank) (x A^T) B^T`.
//!
//! Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685), with
//! the names of the PEFT library. A is drawn normal with variance `1 / in` (the paper: "a random
//! Gaussian initialization"), B is zero, so that an adapted model starts as the model it adapts. No
//! dropout.

use candle_core::{DType, Device, Tensor, Var};
use seeded_random::{Draw, Stream};

use crate::error::{Error, Result};
use crate::layers::Adapter;
use crate::parameters::Parameters;

/// Which projections get adapters, and how large.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraOptions {
    /// Inner width of an adapter.
    pub rank: usize,
    /// The addition is scaled by `alpha / rank`.
    pub alpha: f64,
    /// Projections by the end of their names, for example `q_proj` or `mlp.up_proj`: in every
    /// decoder layer, or in every vision block and the merger when the name begins with `visual.`,
    /// for example `visual.attn.qkv`.
    pub targets: Vec<String>,
}

/// The adapters of a model.
#[derive(Clone, Debug)]
pub(crate) struct Lora {
    /// Inner width of every adapter.
    pub rank: usize,
    /// The addition is scaled by `alpha / rank`, or `alpha / sqrt(rank)` with `rank_stabilised`.
    pub alpha: f64,
    /// As in Kalajdzievski, arXiv 2312.03732; PEFT's `use_rslora`.
    pub rank_stabilised: bool,
    /// `NAME.lora_A.weight` `(rank, in)` and `NAME.lora_B.weight` `(out, rank)`.
    pub parameters: Parameters,
}

impl Lora {
    pub fn new(
        options: &LoraOptions,
        base: &Parameters,
        stream: Stream,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        if options.rank == 0 {
            return Err(Error::Argument(
                "an adapter needs a rank of at least 1".into(),
            ));
        }
        let mut parameters = Parameters::default();
        for target in &options.targets {
            let mut found = false;
            for (name, weight) in base.iter() {
                let Some(path) = name.strip_suffix(".weight") else {
                    continue;
                };
                if weight.rank() != 2 || !targets(target, path) {
                    continue;
                }
                found = true;
                let (output, input) = weight.dims2()?;
                let mut generator = stream.purpose(name).generator();
                let std = 1.0 / (input as f64).sqrt();
                let down: Vec<f32> = (0..options.rank * input)
                    .map(|_| (generator.normal() * std) as f32)
                    .collect();
                let down =
                    Tensor::from_vec(down, (options.rank, input), device)?.to_dtype(dtype)?;
                let up = Tensor::zeros((output, options.rank), dtype, device)?;
                parameters.insert(format!("{path}.lora_A.weight"), &down)?;
                parameters.insert(format!("{path}.lora_B.weight"), &up)?;
            }
            if !found {
                return Err(Error::Argument(format!(
                    "no projection is named {target:?}; expected for example \"q_proj\", \
                     \"mlp.up_proj\" or \"visual.attn.qkv\""
                )));
            }
        }
        Ok(Lora {
            rank: options.rank,
            alpha: options.alpha,
            rank_stabilised: false,
            parameters,
        })
    }

    fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha
            / if self.rank_stabilised {
                rank.sqrt()
            } else {
                rank
            }
    }

    /// The adapter of a projection, its tensors as `leaf` hands them out.
    pub fn adapter(&self, path: &str, leaf: impl Fn(&Var) -> Tensor) -> Option<Adapter> {
        let part = |which: &str| self.parameters.get(&format!("{path}.{which}.weight"));
        Some(Adapter {
            down: leaf(part("lora_A")?),
            up: leaf(part("lora_B")?),
            scale: self.scale(),
        })
    }

    /// The weight of a projection with its adapter added, where it has one.
    pub fn merged(&self, name: &str, weight: &Tensor) -> Result<Tensor> {
        let adapter = name
            .strip_suffix(".weight")
            .and_then(|path| self.adapter(path, Var::as_detached_tensor));
        match adapter {
            None => Ok(weight.clone()),
            Some(adapter) => {
                let f32 = |t: &Tensor| t.to_dtype(DType::F32);
                let added =
                    (fused_ops::matmul(&f32(&adapter.up)?, &f32(&adapter.down)?)? * self.scale())?;
                Ok((f32(weight)? + added)?.to_dtype(weight.dtype())?)
            }
        }
    }
}

/// Whether a projection of the path `model.layers.3.self_attn.q_proj` is one that `target` names.
fn targets(target: &str, path: &str) -> bool {
    let (wanted, within) = match target.strip_prefix("visual.") {
        Some(rest) => (rest, path.strip_prefix("visual.")),
        None => (target, path.strip_prefix("model.layers.")),
    };
    within.is_some_and(|within| {
        within
            .strip_suffix(wanted)
            .is_some_and(|before| before.is_empty() || before.ends_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::targets;

    #[test]
    fn targets_are_whole_ends_of_names() {
        assert!(targets("q_proj", "model.layers.3.self_attn.q_proj"));
        assert!(targets("mlp.up_proj", "model.layers.3.mlp.up_proj"));
        assert!(!targets("proj", "model.layers.3.self_attn.q_proj"));
        assert!(!targets("up_proj", "visual.blocks.0.mlp.up_proj"));
        assert!(targets("visual.mlp.up_proj", "visual.blocks.0.mlp.up_proj"));
        assert!(targets("visual.merger.mlp.0", "visual.merger.mlp.0"));
    }
}
