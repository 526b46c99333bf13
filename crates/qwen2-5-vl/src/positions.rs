//! Multimodal rotary positions: three indices (time, height, width) for every token.
//!
//! Text advances all three together. An image of `t x h x w` patches (merged `m x m`) that starts
//! at position `s` gives the token in merged row `y` and column `x` the triple `(s, s + y, s + x)`,
//! and the text after it goes on at `s + max(h, w) / m`.
//!
//! Source: `get_rope_index` of transformers' `modeling_qwen2_5_vl.py` (5.23), images only: videos
//! are refused. There is no padding here, so there are no masked positions either.

use crate::config::Config;
use crate::error::{Error, Result};

/// The size of one image (or of a video's frames) in patches, before merging.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grid {
    /// Temporal patches; 1 for an image.
    pub t: usize,
    /// Rows of patches.
    pub h: usize,
    /// Columns of patches.
    pub w: usize,
}

impl Grid {
    /// Patches of the grid: the rows of its pixel values.
    pub fn patches(&self) -> usize {
        self.t * self.h * self.w
    }

    /// Tokens of the grid once `merge x merge` patches are one token.
    pub fn tokens(&self, merge: usize) -> usize {
        self.patches() / (merge * merge)
    }

    /// An error unless the grid can be cut into `merge x merge` units.
    pub(crate) fn check(&self, merge: usize) -> Result<()> {
        let whole = self.h.is_multiple_of(merge) && self.w.is_multiple_of(merge);
        if self.patches() == 0 || !whole {
            return Err(Error::Images(format!(
                "an image grid of t={} h={} w={} patches: every side must be positive, and h and w \
                 multiples of the merge size {merge}",
                self.t, self.h, self.w
            )));
        }
        Ok(())
    }
}

/// Rotary positions of packed tokens: one index for each of time, height and width.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    axes: [Vec<u32>; 3],
}

impl Positions {
    /// `length` text tokens from `start` on: the three indices are equal.
    pub fn text(start: u32, length: usize) -> Self {
        let mut positions = Positions::default();
        positions.push_text(start, length);
        positions
    }

    /// The three indices of given tokens, in the order time, height, width.
    ///
    /// Fails unless the three have one length.
    pub fn from_axes(axes: [Vec<u32>; 3]) -> Result<Self> {
        if axes.iter().any(|axis| axis.len() != axes[0].len()) {
            return Err(Error::Argument(format!(
                "positions need one length for the three axes, not {:?}",
                axes.each_ref().map(Vec::len)
            )));
        }
        Ok(Positions { axes })
    }

    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.axes[0].len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The indices along one axis: 0 time, 1 height, 2 width.
    pub fn axis(&self, axis: usize) -> &[u32] {
        &self.axes[axis]
    }

    /// The positions of some tokens.
    ///
    /// Fails when one is not below [`Positions::len`].
    pub fn select(&self, tokens: &[usize]) -> Result<Self> {
        if let Some(beyond) = tokens.iter().find(|&&token| token >= self.len()) {
            return Err(Error::Argument(format!(
                "token {beyond} was selected, there are {}",
                self.len()
            )));
        }
        let axes = self.axes.each_ref();
        Ok(Positions {
            axes: axes.map(|axis| tokens.iter().map(|&token| axis[token]).collect()),
        })
    }

    /// The position at which text goes on after these tokens: the largest index plus one.
    pub fn next(&self) -> u32 {
        self.axes
            .iter()
            .flatten()
            .max()
            .map_or(0, |largest| largest + 1)
    }

    /// Appends another sequence's positions as they are (packing).
    pub fn extend(&mut self, other: &Positions) {
        for (mine, theirs) in self.axes.iter_mut().zip(&other.axes) {
            mine.extend_from_slice(theirs);
        }
    }

    /// Packs several sequences one after the other; each keeps its own positions.
    pub fn concat<'a>(parts: impl IntoIterator<Item = &'a Positions>) -> Self {
        let mut packed = Positions::default();
        for part in parts {
            packed.extend(part);
        }
        packed
    }

    /// The tokens of a range.
    ///
    /// Fails when the range leaves the tokens.
    pub fn narrow(&self, range: std::ops::Range<usize>) -> Result<Self> {
        if range.start > range.end || range.end > self.len() {
            return Err(Error::Argument(format!(
                "positions {range:?} of a sequence of {} tokens",
                self.len()
            )));
        }
        Ok(Positions {
            axes: self
                .axes
                .each_ref()
                .map(|axis| axis[range.clone()].to_vec()),
        })
    }

    fn push_text(&mut self, start: u32, length: usize) {
        for axis in &mut self.axes {
            axis.extend((0..length as u32).map(|i| start + i));
        }
    }

    fn push_image(&mut self, start: u32, grid: &Grid, merge: usize) {
        for _ in 0..grid.t {
            for y in 0..(grid.h / merge) as u32 {
                for x in 0..(grid.w / merge) as u32 {
                    self.axes[0].push(start);
                    self.axes[1].push(start + y);
                    self.axes[2].push(start + x);
                }
            }
        }
    }

    /// The positions of one sequence whose image tokens stand for `grids`, in order.
    pub(crate) fn of_sequence(config: &Config, ids: &[u32], grids: &[Grid]) -> Result<Self> {
        let merge = config.vision.spatial_merge_size;
        let wanted: usize = grids.iter().map(|grid| grid.tokens(merge)).sum();
        let found = ids
            .iter()
            .filter(|&&id| id == config.image_token_id)
            .count();
        let disagree = || {
            Error::Images(format!(
                "the input has {found} image tokens, its {} image grids stand for {wanted}",
                grids.len()
            ))
        };
        if wanted != found {
            return Err(disagree());
        }
        let mut positions = Positions::default();
        let mut grids = grids.iter();
        let mut next = 0u32;
        let mut at = 0;
        while at < ids.len() {
            if ids[at] == config.video_token_id {
                return Err(Error::Images(format!(
                    "token {at} is a video token; this model reads images only"
                )));
            }
            if ids[at] == config.image_token_id {
                let grid = grids.next().ok_or_else(disagree)?;
                grid.check(merge)?;
                let length = grid.tokens(merge);
                let run = ids[at..]
                    .iter()
                    .take_while(|&&id| id == config.image_token_id)
                    .count();
                if run < length {
                    return Err(Error::Images(format!(
                        "an image of {length} tokens begins at token {at}, where only {run} image \
                         tokens stand together"
                    )));
                }
                positions.push_image(next, grid, merge);
                next += (grid.h.max(grid.w) / merge) as u32;
                at += length;
            } else {
                positions.push_text(next, 1);
                next += 1;
                at += 1;
            }
        }
        Ok(positions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(ids: &[u32], grids: &[Grid]) -> Result<Positions> {
        Positions::of_sequence(&crate::config::tests::tiny(), ids, grids)
    }

    #[test]
    fn an_image_advances_by_its_longer_side() {
        let image = crate::config::tests::tiny().image_token_id;
        let grid = Grid { t: 1, h: 4, w: 6 };
        let mut ids = vec![1, 2];
        ids.extend([image; 6]);
        ids.push(3);
        let found = positions(&ids, &[grid]).unwrap();
        assert_eq!(found.axis(0), [0, 1, 2, 2, 2, 2, 2, 2, 5]);
        assert_eq!(found.axis(1), [0, 1, 2, 2, 2, 3, 3, 3, 5]);
        assert_eq!(found.axis(2), [0, 1, 2, 3, 4, 2, 3, 4, 5]);
        assert_eq!(found.next(), 6);
        assert_eq!(Positions::concat([&found, &found]).len(), 18);
        assert_eq!(found.narrow(8..9).unwrap(), Positions::text(5, 1));
    }

    #[test]
    fn disagreements_name_both_counts() {
        let config = crate::config::tests::tiny();
        let image = config.image_token_id;
        let grid = Grid { t: 1, h: 4, w: 4 };
        let message = positions(&[image; 3], &[grid]).unwrap_err().to_string();
        assert!(
            message.contains("3 image tokens") && message.contains("4"),
            "{message}"
        );
        let split = [image, image, 1, image, image];
        let message = positions(&split, &[grid]).unwrap_err().to_string();
        assert!(message.contains("only 2"), "{message}");
        let odd = Grid { t: 1, h: 3, w: 4 };
        assert!(positions(&[image; 3], &[odd]).is_err());
        assert!(positions(&[config.video_token_id], &[]).is_err());
    }
}
