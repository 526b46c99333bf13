//! The sizes of an attention and of its tiles.

use crate::kernels::tile::panel_width;

/// Keys of a tile: a multiple of every panel width and of every tile height.
pub(super) const KEYS: usize = 96;
/// Rows (queries × query heads of a key head) that a tile aims at.
const ROWS: usize = 48;

/// The sizes of one attention.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) queries: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) dim: usize,
    pub(crate) scale: f32,
}

impl Sizes {
    /// Query heads that share a key head.
    pub(super) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// `dim` filled up to whole panels.
    pub(super) fn padded_dim(&self) -> usize {
        self.dim.next_multiple_of(panel_width())
    }

    /// Queries of a tile.
    pub(super) fn tile_queries(&self) -> usize {
        (ROWS / self.group()).max(1)
    }
}
