//! A layout as a list of tiles: rectangles of queries and keys small enough for all their scores.
//!
//! A run of keys that neighbouring blocks see (the prompt of several branches, the image of several
//! samples) is one rectangle, whatever the number of blocks. A causal run is cut into squares on the
//! diagonal and the rectangles below them. Small rectangles of one shape whose queries follow one
//! another (windows of a tower, branches of one length, steps of decoding) are one batch.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::layout::AttentionLayout;

/// `batch` rectangles of `queries` queries against `keys` keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    /// Rectangles that are computed together.
    pub(crate) batch: usize,
    /// The first query; rectangles follow one another.
    pub(crate) first_query: usize,
    /// Queries of each rectangle.
    pub(crate) queries: usize,
    /// The first key of the first rectangle.
    pub(crate) first_key: usize,
    /// Keys of each rectangle.
    pub(crate) keys: usize,
    /// From the first key of a rectangle to that of the next; `batch * stride` keys exist.
    pub(crate) stride: usize,
    /// Whether query `i` of a rectangle sees its keys `0..=i` alone; it is square then.
    pub(crate) causal: bool,
}

struct Rectangle {
    queries: Range<usize>,
    keys: Range<usize>,
    causal: bool,
}

/// The tiles of a layout: every pair of a query and a key that it sees is in exactly one. A tile has
/// at most `side` queries a rectangle and `side²` scores a head.
pub(crate) fn tiles(layout: &AttentionLayout, side: usize) -> Vec<Tile> {
    let side = side.max(1);
    let mut rectangles = rectangles(layout, side);
    let small = |own: &Rectangle| {
        own.queries.len() <= side && own.queries.len() * own.keys.len() <= side * side
    };
    // Of one shape side by side, in the order of their queries.
    rectangles.sort_by_key(|own| {
        let shape = match small(own) {
            true => (own.queries.len(), own.keys.len()),
            false => (usize::MAX, usize::MAX),
        };
        (own.causal, shape, own.queries.start, own.keys.start)
    });
    let mut tiles: Vec<Tile> = Vec::new();
    for own in rectangles {
        if small(&own) {
            match tiles.last_mut() {
                Some(last) if joins(last, &own, layout.keys(), side) => {
                    last.stride = (own.keys.start - last.first_key) / last.batch;
                    last.batch += 1;
                }
                _ => tiles.push(single(&own, own.keys.len())),
            }
            continue;
        }
        for queries in cut(own.queries, side) {
            // Few queries see many keys at once.
            for keys in cut(own.keys.clone(), side * side / queries.len()) {
                let part = Rectangle {
                    queries: queries.clone(),
                    keys,
                    causal: false,
                };
                // Cut ones are not batched: the stride says that nothing follows.
                tiles.push(single(&part, usize::MAX));
            }
        }
    }
    for tile in &mut tiles {
        if tile.batch == 1 {
            tile.stride = tile.keys;
        }
    }
    tiles
}

fn single(own: &Rectangle, stride: usize) -> Tile {
    Tile {
        batch: 1,
        first_query: own.queries.start,
        queries: own.queries.len(),
        first_key: own.keys.start,
        keys: own.keys.len(),
        stride,
        causal: own.causal,
    }
}

/// Whether a small rectangle can be the next of a batch.
fn joins(tile: &Tile, next: &Rectangle, all_keys: usize, side: usize) -> bool {
    let count = tile.batch + 1;
    let same = tile.stride != usize::MAX
        && tile.causal == next.causal
        && (tile.queries, tile.keys) == (next.queries.len(), next.keys.len())
        && tile.first_query + tile.batch * tile.queries == next.queries.start
        && count * tile.queries * tile.keys <= side * side
        && next.keys.start >= tile.first_key + tile.keys;
    if !same {
        return false;
    }
    let way = next.keys.start - tile.first_key;
    let even = match tile.batch {
        1 => true,
        batch => way == batch * tile.stride,
    };
    even && tile.first_key + way / tile.batch * count <= all_keys
}

/// Runs of at most `most`.
fn cut(run: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let end = run.end;
    run.step_by(most)
        .map(move |start| start..(start + most).min(end))
}

fn rectangles(layout: &AttentionLayout, side: usize) -> Vec<Rectangle> {
    let mut found: Vec<Rectangle> = Vec::new();
    // The last rectangle of each run of keys.
    let mut last_of: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for block in layout.blocks() {
        for run in &block.visible {
            let key = (run.start, run.end);
            match last_of.get(&key) {
                Some(&index) if found[index].queries.end == block.queries.start => {
                    found[index].queries.end = block.queries.end;
                }
                _ => {
                    last_of.insert(key, found.len());
                    found.push(Rectangle {
                        queries: block.queries.clone(),
                        keys: run.clone(),
                        causal: false,
                    });
                }
            }
        }
        let Some(start) = block.causal else { continue };
        for queries in cut(block.queries.clone(), side) {
            let before = queries.start - block.queries.start;
            let own = start + before..start + before + queries.len();
            if before > 0 {
                found.push(Rectangle {
                    queries: queries.clone(),
                    keys: start..own.start,
                    causal: false,
                });
            }
            found.push(Rectangle {
                causal: queries.len() > 1,
                queries,
                keys: own,
            });
        }
    }
    found
}

#[cfg(test)]
// A list of one range is meant.
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::{QueryBlock, Segment};

    /// Counts the tiles that hold each pair, beside the layout's mask.
    fn check(layout: &AttentionLayout, side: usize) -> Vec<Tile> {
        let tiles = tiles(layout, side);
        let (queries, keys) = (layout.queries(), layout.keys());
        let mut met = vec![0u32; queries * keys];
        for tile in &tiles {
            assert!(tile.queries <= side, "{tile:?}");
            assert!(
                tile.batch * tile.queries * tile.keys <= side * side,
                "{tile:?}"
            );
            assert!(tile.first_key + (tile.batch - 1) * tile.stride + tile.keys <= keys);
            assert!(tile.batch == 1 || tile.first_key + tile.batch * tile.stride <= keys);
            assert!(tile.stride >= tile.keys);
            assert!(!tile.causal || tile.queries == tile.keys);
            for index in 0..tile.batch {
                for query in 0..tile.queries {
                    let seen = if tile.causal { query + 1 } else { tile.keys };
                    let row = tile.first_query + index * tile.queries + query;
                    for key in 0..seen {
                        met[row * keys + tile.first_key + index * tile.stride + key] += 1;
                    }
                }
            }
        }
        let mask = layout.dense_mask(&Device::Cpu, DType::F32).unwrap();
        let mask: Vec<f32> = mask.flatten_all().unwrap().to_vec1().unwrap();
        for (met, mask) in met.iter().zip(mask) {
            assert_eq!(*met, u32::from(mask == 0.0));
        }
        tiles
    }

    #[test]
    fn every_pair_is_in_one_tile() {
        for side in [1, 3, 8, 64] {
            check(&AttentionLayout::causal(&[1, 30, 0, 30, 7]), side);
            check(&AttentionLayout::bidirectional(&[9, 9, 9, 4, 20]), side);
            let block = |query: usize, visible: Vec<Range<usize>>| QueryBlock {
                queries: query..query + 1,
                visible,
                causal: None,
            };
            let samples = [
                block(0, vec![0..37, 60..63]),
                block(1, vec![0..37, 66..69]),
                block(2, vec![37..50, 72..75]),
            ];
            for keys in [75, 80] {
                check(
                    &AttentionLayout::new(samples.to_vec(), 3, keys).unwrap(),
                    side,
                );
            }
        }
    }

    #[test]
    fn windows_branches_and_samples_are_batched() {
        let batches = |layout: &AttentionLayout| -> Vec<(usize, usize, usize)> {
            check(layout, 64)
                .iter()
                .map(|tile| (tile.batch, tile.queries, tile.keys))
                .collect()
        };
        // 7 windows of 16 patches and one of 4.
        let windows = AttentionLayout::bidirectional(&[16, 16, 16, 16, 16, 16, 4, 16]);
        assert_eq!(batches(&windows), [(1, 4, 4), (6, 16, 16), (1, 16, 16)]);
        // A prompt with four branches: the branches see it as one rectangle.
        let mut segments = vec![Segment {
            length: 20,
            parent: None,
        }];
        segments.extend([5, 5, 5, 5].map(|length| Segment {
            length,
            parent: Some(0),
        }));
        let tree = AttentionLayout::tree(&segments).unwrap();
        assert_eq!(batches(&tree), [(1, 20, 20), (4, 5, 5), (1, 20, 20)]);
        // Samples of one prompt, each with three rows of its own out of eight.
        let blocks = (0..4)
            .map(|sample| QueryBlock {
                queries: sample..sample + 1,
                visible: vec![0..30, 30 + 8 * sample..33 + 8 * sample],
                causal: None,
            })
            .collect();
        let samples = AttentionLayout::new(blocks, 4, 62).unwrap();
        assert_eq!(batches(&samples), [(4, 1, 3), (1, 4, 30)]);
    }
}
