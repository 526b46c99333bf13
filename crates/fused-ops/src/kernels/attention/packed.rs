//! Keys and values in the panels that products read.

use std::collections::BTreeMap;
use std::ops::Range;

use super::rows::Rows;
use super::sizes::Sizes;
use crate::kernels::memory::{Scratch, parallel};
use crate::kernels::tile::{pack_panel, panel_width};
use crate::layout::AttentionLayout;

/// Keys or values of every run of the layout and every key head, packed.
pub(super) struct Packed {
    values: Scratch,
    /// Values of one key head.
    head_stride: usize,
    /// Values for one key.
    key_stride: usize,
    /// Padded keys before each run; runs of copies have one place.
    offsets: Vec<usize>,
}

impl Packed {
    /// Where the run of this index begins for key head `head`.
    pub(super) fn run(&self, head: usize, index: usize) -> *const f32 {
        let at = head * self.head_stride + self.offsets[index] * self.key_stride;
        self.values.start().wrapping_add(at)
    }

    /// Panels of keys: B of `q kᵀ`, (panel of keys, dim, width).
    pub(super) fn across(x: Rows<'_>, layout: &AttentionLayout, sizes: &Sizes) -> Self {
        Self::pack(
            x,
            layout,
            sizes,
            sizes.dim,
            |from, stride, run, keys, to| {
                let width = panel_width();
                for key in keys.clone().step_by(width) {
                    let columns = (run.end - key).min(width);
                    // SAFETY: the keys lie within the run, the panel within its share.
                    unsafe {
                        let from = from.add((key - run.start) * stride);
                        let to = to.add((key - run.start) * sizes.dim);
                        pack_panel(from, 1, stride, sizes.dim, columns, to);
                    }
                }
            },
        )
    }

    /// Panels of dimensions: B of `p v`, (panel of dimensions, key of the run, width).
    pub(super) fn along(x: Rows<'_>, layout: &AttentionLayout, sizes: &Sizes) -> Self {
        Self::pack(
            x,
            layout,
            sizes,
            sizes.padded_dim(),
            |from, stride, run, keys, to| {
                let width = panel_width();
                for first in (0..sizes.dim).step_by(width) {
                    let columns = (sizes.dim - first).min(width);
                    // SAFETY: as above.
                    unsafe {
                        let from = from.add((keys.start - run.start) * stride + first);
                        let to = to.add(first * run.len() + (keys.start - run.start) * width);
                        pack_panel(from, stride, 1, keys.len(), columns, to);
                    }
                }
            },
        )
    }

    /// `part` packs some keys of a run, whose first key's values are where it is told.
    fn pack(
        x: Rows<'_>,
        layout: &AttentionLayout,
        sizes: &Sizes,
        key_stride: usize,
        part: impl Fn(*const f32, usize, &Range<usize>, Range<usize>, *mut f32) + Sync + Send,
    ) -> Self {
        let plan = layout.plan();
        let head_stride = plan.padded_keys * key_stride;
        let mut buffer = Scratch::new(head_stride * sizes.kv_heads);
        let to = buffer.pointer();
        let stride = sizes.kv_heads * sizes.dim;
        let mut known = BTreeMap::new();
        let offsets = plan.runs.iter().map(|run| {
            let start = x.from(run.keys.start * stride).as_ptr();
            *known.entry((start, run.keys.len())).or_insert(run.offset)
        });
        let offsets: Vec<usize> = offsets.collect();
        let tiles = plan.tiles.iter();
        let tiles = tiles.filter(|(run, _)| offsets[*run] == plan.runs[*run].offset);
        let tiles: Vec<_> = tiles.collect();
        parallel(tiles.len() * sizes.kv_heads, |task| {
            let (head, (run, keys)) = (task / tiles.len(), tiles[task % tiles.len()]);
            let run = &plan.runs[*run];
            let from = x.from(run.keys.start * stride).as_ptr();
            let from = from.wrapping_add(head * sizes.dim);
            // SAFETY: each tile of each head has a place of its own.
            let to = unsafe { to.at(head * head_stride + run.offset * key_stride) };
            part(from, stride, &run.keys, keys.clone(), to);
        });
        Packed {
            values: buffer,
            head_stride,
            key_stride,
            offsets,
        }
    }
}
