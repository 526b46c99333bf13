//! The size of an image in patches.

/// Number of patches of one image in time, height and width (`image_grid_thw` of transformers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grid {
    /// Frames over the temporal patch size: 1 for a still image.
    pub t: usize,
    /// Rows of patches.
    pub h: usize,
    /// Columns of patches.
    pub w: usize,
}

impl Grid {
    /// Number of patches, the rows of `pixel_values`.
    pub fn patches(&self) -> usize {
        self.t * self.h * self.w
    }

    /// Number of tokens after `merge_size` x `merge_size` patches became one.
    pub fn merged(&self, merge_size: usize) -> usize {
        self.patches() / (merge_size * merge_size)
    }
}
