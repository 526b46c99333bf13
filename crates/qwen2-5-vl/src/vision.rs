//! The vision tower: patches to merged tokens.
//!
//! Patches are embedded by one matrix product (the convolution's kernel is its stride), run through
//! transformer blocks with two-dimensional rotary positions, most of which see only their window of
//! `window_size` pixels, and `merge x merge` patches become one token by a two-layer perceptron with
//! the exact GELU.
//!
//! Source: `Qwen2_5_VisionTransformerPretrainedModel` of transformers 5.23. Deviation: the reference
//! embeds the patches and then sorts them by window; here the pixel rows are sorted, which is the
//! same and needs no gradient. The product runs over (frame, row, column, channel), the order in which
//! the reference's convolution adds up: a sum of 1,176 f32 products in another order differs by
//! 5e-6, and six blocks make 2e-4 of that.

use candle_core::{DType, Device, Tensor, WithDType};
use fused_ops::AttentionLayout;
use rayon::prelude::*;

use crate::config::VisionConfig;
use crate::error::{Error, Result};
use crate::layers::{FeedForward, Linear, Rotary, Source, inverse_frequencies};
use crate::positions::Grid;

/// The tower's norms always use this, whatever the language model's configuration says.
const EPS: f64 = 1e-6;

#[derive(Clone, Debug)]
pub(crate) struct VisionTower {
    config: VisionConfig,
    /// `(hidden, channels, frames, patch, patch)`, as it is stored: reordered when it is used, since a copy
    /// would not see updates.
    patches: Tensor,
    blocks: Vec<Block>,
    merger_norm: Tensor,
    merger_in: Linear,
    merger_out: Linear,
}

#[derive(Clone, Debug)]
struct Block {
    norm1: Tensor,
    qkv: Linear,
    projection: Linear,
    norm2: Tensor,
    mlp: FeedForward,
}

/// How the patches of given grids are ordered, positioned and grouped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VisionLayout {
    /// The merged unit (in the order of `pixel_values`) at each place of the window order.
    pub window_index: Vec<u32>,
    /// Patches in each window, in window order; none is empty.
    pub window_lengths: Vec<usize>,
    /// Patches in each frame.
    pub frame_lengths: Vec<usize>,
    /// Row and column of each patch, in the order of `pixel_values`.
    pub positions: Vec<[u32; 2]>,
}

impl VisionLayout {
    /// The layout of images of these grids.
    ///
    /// Fails when a grid cannot be cut into merged units.
    pub fn new(config: &VisionConfig, grids: &[Grid]) -> Result<Self> {
        let merge = config.spatial_merge_size;
        let window = config.window_size / config.patch_size / merge;
        let mut layout = VisionLayout {
            window_index: Vec::new(),
            window_lengths: Vec::new(),
            frame_lengths: Vec::new(),
            positions: Vec::new(),
        };
        let mut first = 0;
        for grid in grids {
            grid.check(merge)?;
            let (rows, columns) = (grid.h / merge, grid.w / merge);
            for _ in 0..grid.t {
                layout.frame_lengths.push(grid.h * grid.w);
                for top in (0..rows).step_by(window) {
                    for left in (0..columns).step_by(window) {
                        let before = layout.window_index.len();
                        for y in top..rows.min(top + window) {
                            for x in left..columns.min(left + window) {
                                layout.window_index.push((first + y * columns + x) as u32);
                            }
                        }
                        let units = layout.window_index.len() - before;
                        layout.window_lengths.push(units * merge * merge);
                    }
                }
                for unit in 0..rows * columns {
                    for inner in 0..merge * merge {
                        let y = unit / columns * merge + inner / merge;
                        let x = unit % columns * merge + inner % merge;
                        layout.positions.push([y as u32, x as u32]);
                    }
                }
                first += rows * columns;
            }
        }
        Ok(layout)
    }

    /// For each merged unit in the order of `pixel_values`, its place in the window order.
    fn inverse(&self) -> Vec<u32> {
        let mut inverse = vec![0; self.window_index.len()];
        for (place, &unit) in self.window_index.iter().enumerate() {
            inverse[unit as usize] = place as u32;
        }
        inverse
    }
}

/// What the tower computes on the way, for comparison with a reference.
#[derive(Debug)]
pub struct VisionTrace {
    /// Order, positions and groups of the patches.
    pub layout: VisionLayout,
    /// `(patches, vision hidden)` after each block, in window order.
    pub blocks: Vec<Tensor>,
    /// `(merged, hidden)` in the order of `pixel_values`.
    pub merged: Tensor,
}

impl VisionTower {
    pub fn new(config: &VisionConfig, source: &impl Source) -> Result<Self> {
        let patches = source.tensor("visual.patch_embed.proj.weight")?;
        let blocks = (0..config.depth)
            .map(|index| {
                let name = |suffix: &str| format!("visual.blocks.{index}.{suffix}");
                Ok(Block {
                    norm1: source.tensor(&name("norm1.weight"))?,
                    qkv: source.linear(&name("attn.qkv"))?,
                    projection: source.linear(&name("attn.proj"))?,
                    norm2: source.tensor(&name("norm2.weight"))?,
                    mlp: FeedForward {
                        gate: source.linear(&name("mlp.gate_proj"))?,
                        up: source.linear(&name("mlp.up_proj"))?,
                        down: source.linear(&name("mlp.down_proj"))?,
                    },
                })
            })
            .collect::<Result<_>>()?;
        Ok(VisionTower {
            config: config.clone(),
            patches,
            blocks,
            merger_norm: source.tensor("visual.merger.ln_q.weight")?,
            merger_in: source.linear("visual.merger.mlp.0")?,
            merger_out: source.linear("visual.merger.mlp.2")?,
        })
    }

    /// `(patches, channels * frames * patch * patch)` to `(merged, hidden)`. `each_block` sees the
    /// result of every block.
    pub fn forward(
        &self,
        pixel_values: &Tensor,
        grids: &[Grid],
        mut each_block: impl FnMut(&Tensor),
    ) -> Result<(Tensor, VisionLayout)> {
        let config = &self.config;
        if grids.is_empty() {
            return Err(Error::Images("no image grid was given".to_string()));
        }
        let layout = VisionLayout::new(config, grids)?;
        let patches = layout.positions.len();
        if pixel_values.dims() != [patches, config.patch_values()] {
            return Err(Error::Images(format!(
                "pixel values have shape {:?}, the {} grids need ({patches}, {})",
                pixel_values.dims(),
                grids.len(),
                config.patch_values()
            )));
        }
        let (device, dtype) = (self.patches.device(), self.patches.dtype());
        let unit = config.merge_unit();
        let units = patches / unit;
        let pixels = match pixel_values.dtype() {
            DType::F64 => arranged::<f64>(config, &layout, pixel_values, device)?,
            _ => arranged::<f32>(config, &layout, &pixel_values.to_dtype(DType::F32)?, device)?,
        };
        let pixels = pixels.to_dtype(dtype)?;
        let rotary = self.rotary(&layout, dtype)?;
        let windows = AttentionLayout::bidirectional(&layout.window_lengths);
        let frames = AttentionLayout::bidirectional(&layout.frame_lengths);
        let kernel = channels_last(config, &self.patches)?;
        let mut x = fused_ops::linear(&pixels, &kernel, None)?;
        for (index, block) in self.blocks.iter().enumerate() {
            let full = config.fullatt_block_indexes.contains(&index);
            let seen = if full { &frames } else { &windows };
            x = block.forward(&x, &rotary, seen, config.num_heads)?;
            each_block(&x);
        }
        let x = fused_ops::rms_norm(&x, &self.merger_norm, EPS)?
            .reshape((units, unit * config.hidden_size))?;
        let x = self
            .merger_out
            .forward(&fused_ops::gelu(&self.merger_in.forward(&x)?)?)?;
        let merged = fused_ops::embedding(&x, &layout.inverse())?;
        Ok((merged, layout))
    }

    /// Half of the rotary pairs turn by the row, half by the column.
    fn rotary(&self, layout: &VisionLayout, dtype: DType) -> Result<Rotary> {
        let frequencies = inverse_frequencies(self.config.rope_theta, self.config.head_dim() / 2);
        let unit = self.config.merge_unit();
        let mut angles = Vec::with_capacity(layout.positions.len() * 2 * frequencies.len());
        for &place in &layout.window_index {
            let first = place as usize * unit;
            for position in &layout.positions[first..first + unit] {
                for &at in position {
                    angles.extend(frequencies.iter().map(|frequency| at as f32 * frequency));
                }
            }
        }
        Rotary::from_angles(
            &angles,
            layout.positions.len(),
            dtype,
            self.patches.device(),
        )
    }
}

/// The rows of `pixel_values` in window order, each with its channels last, on `device`. Both orders at once
/// and on the host, where pixels come from: candle would copy the rows twice, the second time value by
/// value.
fn arranged<T: WithDType + Send + Sync>(
    config: &VisionConfig,
    layout: &VisionLayout,
    pixel_values: &Tensor,
    device: &Device,
) -> Result<Tensor> {
    /// Values that are worth a task of their own.
    const TASK: usize = 64 * 1024;
    let rows = pixel_values.flatten_all()?.to_vec1::<T>()?;
    let (channels, row) = (config.in_channels, config.patch_values());
    let (unit, plane) = (config.merge_unit() * row, row / channels);
    let mut out = vec![T::zero(); rows.len()];
    out.par_chunks_exact_mut(unit)
        .zip(&layout.window_index)
        .with_min_len(TASK.div_ceil(unit))
        .for_each(|(to, &place)| {
            let from = &rows[place as usize * unit..][..unit];
            for (to, from) in to.chunks_exact_mut(row).zip(from.chunks_exact(row)) {
                for (channel, values) in from.chunks_exact(plane).enumerate() {
                    for (pixel, value) in to.chunks_exact_mut(channels).zip(values) {
                        pixel[channel] = *value;
                    }
                }
            }
        });
    let shape = (layout.positions.len(), row);
    Ok(Tensor::from_vec(out, shape, device)?)
}

/// Rows of (channel, frame, y, x) values to rows of (frame, y, x, channel).
fn channels_last(config: &VisionConfig, rows: &Tensor) -> Result<Tensor> {
    let (count, values) = (rows.dim(0)?, config.patch_values());
    let channels = config.in_channels;
    Ok(rows
        .reshape((count, channels, values / channels))?
        .transpose(1, 2)?
        .reshape((count, values))?)
}

impl Block {
    fn forward(
        &self,
        x: &Tensor,
        rotary: &Rotary,
        layout: &AttentionLayout,
        heads: usize,
    ) -> Result<Tensor> {
        let (patches, width) = x.dims2()?;
        let inner = fused_ops::rms_norm(x, &self.norm1, EPS)?;
        // One matrix of queries, keys and values is cut by rows, so that the three come out
        // contiguous.
        let part = |index: usize| -> Result<Tensor> {
            let cut = |t: &Tensor| t.narrow(0, index * width, width);
            let part = Linear {
                weight: cut(&self.qkv.weight)?,
                bias: self.qkv.bias.as_ref().map(cut).transpose()?,
                adapter: match &self.qkv.adapter {
                    None => None,
                    Some(adapter) => Some(crate::layers::Adapter {
                        up: cut(&adapter.up)?,
                        ..adapter.clone()
                    }),
                },
                packed: None,
            };
            Ok(part
                .forward(&inner)?
                .reshape((patches, heads, width / heads))?)
        };
        let q = rotary.apply(&part(0)?)?;
        let k = rotary.apply(&part(1)?)?;
        let scale = 1.0 / ((width / heads) as f64).sqrt();
        let attended = fused_ops::attention(&q, &k, &part(2)?, layout, scale)?;
        let x = (x + self
            .projection
            .forward(&attended.reshape((patches, width))?)?)?;
        let inner = fused_ops::rms_norm(&x, &self.norm2, EPS)?;
        Ok((&x + self.mlp.forward(&inner)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pixels_are_arranged_as_by_candles_operators() {
        let config = crate::config::tests::tiny().vision;
        let grids = [Grid { t: 1, h: 10, w: 6 }, Grid { t: 2, h: 4, w: 8 }];
        let layout = VisionLayout::new(&config, &grids).unwrap();
        let (patches, row) = (layout.positions.len(), config.patch_values());
        let values = Tensor::arange(0f32, (patches * row) as f32, &Device::Cpu).unwrap();
        let pixels = values.reshape((patches, row)).unwrap();
        let units = layout.window_index.len();
        let order = Tensor::from_slice(&layout.window_index, units, &Device::Cpu).unwrap();
        let sorted = pixels
            .reshape((units, config.merge_unit() * row))
            .and_then(|units| units.index_select(&order, 0))
            .and_then(|units| units.reshape((patches, row)));
        let wanted = channels_last(&config, &sorted.unwrap()).unwrap();
        let wanted: Vec<Vec<f32>> = wanted.to_vec2().unwrap();
        let found = arranged::<f32>(&config, &layout, &pixels, &Device::Cpu).unwrap();
        assert_eq!(found.to_vec2::<f32>().unwrap(), wanted);
        let wide = pixels.to_dtype(DType::F64).unwrap();
        let found = arranged::<f64>(&config, &layout, &wide, &Device::Cpu).unwrap();
        let found = found.to_dtype(DType::F32).unwrap();
        assert_eq!(found.to_vec2::<f32>().unwrap(), wanted);
    }

    proptest! {
        #[test]
        fn a_layout_is_a_permutation_in_windows(
            sides in proptest::collection::vec((1usize..9, 1usize..9), 1..4),
        ) {
            let config = crate::config::tests::tiny().vision;
            let grids: Vec<Grid> = sides.iter().map(|&(h, w)| Grid { t: 1, h: 2 * h, w: 2 * w }).collect();
            let layout = VisionLayout::new(&config, &grids).unwrap();
            let patches: usize = grids.iter().map(Grid::patches).sum();
            prop_assert_eq!(layout.window_lengths.iter().sum::<usize>(), patches);
            prop_assert_eq!(layout.frame_lengths.iter().sum::<usize>(), patches);
            prop_assert_eq!(layout.positions.len(), patches);
            let mut sorted = layout.window_index.clone();
            sorted.sort_unstable();
            prop_assert!(sorted.iter().enumerate().all(|(i, &unit)| i as u32 == unit));
            // A window of the tiny model is 2 x 2 merged units; patches of one window are near.
            let mut place = 0;
            for &length in &layout.window_lengths {
                prop_assert!(length > 0 && length <= 16);
                let ids = &layout.window_index[place..place + length / 4];
                let rows: Vec<u32> = ids.iter().map(|&u| layout.positions[u as usize * 4][0] / 4).collect();
                prop_assert!(rows.iter().all(|row| row == &rows[0]));
                place += length / 4;
            }
        }
    }
}
