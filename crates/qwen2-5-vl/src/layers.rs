//! Parts that the vision tower and the language model share.

use candle_core::Tensor;
use fused_ops::PackedWeight;

use crate::error::Result;

/// Hands out a parameter as it shall enter the graph: as a variable, or detached when frozen.
pub(crate) trait Source {
    /// The tensor of that name.
    fn tensor(&self, name: &str) -> Result<Tensor>;

    /// The adapter of a projection, where it has one.
    fn adapter(&self, name: &str) -> Result<Option<Adapter>>;

    /// A projection with a bias.
    fn linear(&self, name: &str) -> Result<Linear> {
        Ok(Linear {
            bias: Some(self.tensor(&format!("{name}.bias"))?),
            ..self.linear_without_bias(name)?
        })
    }

    /// A projection without a bias.
    fn linear_without_bias(&self, name: &str) -> Result<Linear> {
        Ok(Linear {
            weight: self.tensor(&format!("{name}.weight"))?,
            bias: None,
            adapter: self.adapter(name)?,
            packed: None,
        })
    }
}

/// A low-rank addition to a projection: `scale * (x A^T) B^T`.
#[derive(Clone, Debug)]
pub(crate) struct Adapter {
    /// `(rank, in)`
    pub down: Tensor,
    /// `(out, rank)`
    pub up: Tensor,
    pub scale: f64,
}

/// `x W^T + b`, with a low-rank addition where one is set.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
    pub adapter: Option<Adapter>,
    /// The weight packed, in a model that generates.
    pub packed: Option<PackedWeight>,
}

impl Linear {
    /// Whether it has no adapter and is not packed.
    pub fn is_weight_alone(&self) -> bool {
        self.adapter.is_none() && self.packed.is_none()
    }

    /// Packs the weight as it is now.
    pub fn pack(&mut self) -> Result<()> {
        self.packed = PackedWeight::new(&self.weight)?;
        Ok(())
    }

    /// `(tokens, in)` to `(tokens, out)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = match &self.packed {
            Some(packed) => packed.linear(x, self.bias.as_ref())?,
            None => fused_ops::linear(x, &self.weight, self.bias.as_ref())?,
        };
        match &self.adapter {
            None => Ok(y),
            Some(adapter) => {
                let low = fused_ops::linear(x, &adapter.down, None)?;
                let added = fused_ops::linear(&low, &adapter.up, None)?;
                Ok((y + (added * adapter.scale)?)?)
            }
        }
    }
}

/// The gated feed-forward layer: `down(silu(gate(x)) * up(x))`.
#[derive(Clone, Debug)]
pub(crate) struct FeedForward {
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
}

impl FeedForward {
    /// `(tokens, hidden)` to `(tokens, hidden)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let inner = fused_ops::swiglu(&self.gate.forward(x)?, &self.up.forward(x)?)?;
        self.down.forward(&inner)
    }
}

/// Cosines and sines of rotary angles, `(tokens, head dim)` each.
#[derive(Clone, Debug)]
pub(crate) struct Rotary {
    pub cos: Tensor,
    pub sin: Tensor,
}

impl Rotary {
    /// From the angles of the first half of the dimensions, `tokens * dim / 2` values; the second
    /// half repeats them. For a model of `dtype` the tables are at least f32: in bf16 the angles of far
    /// tokens would differ by more than those of neighbours.
    pub fn from_angles(
        angles: &[f32],
        tokens: usize,
        dtype: candle_core::DType,
        device: &candle_core::Device,
    ) -> Result<Self> {
        let half = angles.len().checked_div(tokens).unwrap_or(0);
        let wide = match dtype {
            candle_core::DType::F64 => dtype,
            _ => candle_core::DType::F32,
        };
        let table = |of: fn(f32) -> f32| -> Result<Tensor> {
            let mut values = Vec::with_capacity(angles.len() * 2);
            for row in angles.chunks(half.max(1)) {
                let start = values.len();
                values.extend(row.iter().map(|&angle| of(angle)));
                values.extend_from_within(start..);
            }
            Ok(Tensor::from_vec(values, (tokens, 2 * half), device)?.to_dtype(wide)?)
        };
        Ok(Rotary {
            cos: table(libm::cosf)?,
            sin: table(libm::sinf)?,
        })
    }

    /// Cosines and sines.
    pub fn tables(&self) -> [&Tensor; 2] {
        [&self.cos, &self.sin]
    }

    /// Some rows, by their u32 indices.
    pub fn rows(&self, index: &Tensor) -> Result<Self> {
        Ok(Rotary {
            cos: self.cos.index_select(index, 0)?,
            sin: self.sin.index_select(index, 0)?,
        })
    }

    /// Turns `(tokens, heads, dim)`.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        Ok(fused_ops::rotary(x, &self.cos, &self.sin)?)
    }
}

/// `theta^(-2 i / dim)` for the `dim / 2` frequencies, in f32 as the reference computes them.
pub(crate) fn inverse_frequencies(theta: f64, dim: usize) -> Vec<f32> {
    (0..dim / 2)
        .map(|i| 1.0 / libm::powf(theta as f32, (2 * i) as f32 / dim as f32))
        .collect()
}
