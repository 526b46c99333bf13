//! A layout as what the kernels of `attention.cu` walk through.

use std::ops::Range;

use crate::layout::AttentionLayout;

/// Rows of a tile of queries (a row is a query and one of the heads that share a head of keys), and
/// keys of a tile of keys: `ROWS` and `KEYS` of the kernels.
pub(crate) const ROWS: usize = 32;
pub(crate) const KEYS: usize = 16;

/// Tiles of queries with the runs of keys that they see.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    /// First query, queries, first run, runs.
    pub(crate) tiles: Vec<[u32; 4]>,
    /// First key, keys that the tile's first query sees, how many more each later query sees.
    pub(crate) runs: Vec<[u32; 3]>,
}

/// For each tile of keys the tiles of queries that see some of it.
#[derive(Debug, Default)]
pub(crate) struct KeySchedule {
    /// First entry, entries.
    pub(crate) key_tiles: Vec<[u32; 2]>,
    /// Tile and run of a [`Schedule`].
    pub(crate) entries: Vec<[u32; 2]>,
}

impl Schedule {
    /// Of a layout whose query heads share a head of keys in groups of `group`, which is at most
    /// [`ROWS`].
    pub(crate) fn new(layout: &AttentionLayout, group: usize) -> Self {
        let side = (ROWS / group).max(1);
        let number = |value: usize| value as u32;
        let mut schedule = Schedule::default();
        for block in layout.blocks() {
            let Range { start, end } = block.queries;
            for first in (start..end).step_by(side) {
                let from = schedule.runs.len();
                for run in &block.visible {
                    schedule
                        .runs
                        .push([number(run.start), number(run.len()), 0]);
                }
                if let Some(key) = block.causal {
                    schedule
                        .runs
                        .push([number(key), number(first - start + 1), 1]);
                }
                let count = side.min(end - first);
                let runs = schedule.runs.len() - from;
                schedule
                    .tiles
                    .push([number(first), number(count), number(from), number(runs)]);
            }
        }
        schedule
    }

    /// The same from the side of `keys` keys.
    pub(crate) fn by_keys(&self, keys: usize) -> KeySchedule {
        let mut of_tile: Vec<Vec<[u32; 2]>> = vec![Vec::new(); keys.div_ceil(KEYS)];
        for (tile, &[_, count, from, runs]) in self.tiles.iter().enumerate() {
            for run in from..from + runs {
                let [first, seen, more] = self.runs[run as usize];
                let end = (first + seen + more * (count - 1)) as usize;
                for own in &mut of_tile[first as usize / KEYS..end.div_ceil(KEYS)] {
                    own.push([tile as u32, run]);
                }
            }
        }
        let mut by_keys = KeySchedule::default();
        for own in of_tile {
            let from = by_keys.entries.len() as u32;
            by_keys.key_tiles.push([from, own.len() as u32]);
            by_keys.entries.extend(own);
        }
        by_keys
    }
}
