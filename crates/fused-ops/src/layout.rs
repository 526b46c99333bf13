//! Who sees whom in an attention over packed sequences.
//!
//! A layout is a list of runs of queries ([`QueryBlock`]), each with the runs of keys that all of
//! its queries see, and optionally one causal run. That covers packed causal sequences, windows
//! of a vision tower, a shared prompt prefix with suffixes blind to each other, and decoding
//! against a cache, without a mask of (queries, keys).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};

/// One contiguous run of queries and the keys that it may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryBlock {
    /// The queries of the run.
    pub queries: Range<usize>,
    /// Runs of keys that every query of the block sees.
    pub visible: Vec<Range<usize>>,
    /// With `Some(start)`, query `i` of the block also sees keys `start..=start + i`.
    pub causal: Option<usize>,
}

/// One segment of a packed tree of token sequences, see [`AttentionLayout::tree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The number of tokens.
    pub length: usize,
    /// The index of the segment that this one continues; it must come before.
    pub parent: Option<usize>,
}

/// Which keys each query sees. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AttentionLayout {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// In the order of their queries, none empty.
    blocks: Vec<QueryBlock>,
    queries: usize,
    keys: usize,
    plan: OnceLock<Plan>,
}

/// What the fused kernels derive from a layout, once.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The distinct runs of keys.
    pub(crate) runs: Vec<KeyRun>,
    /// Keys of all runs, each run filled up to whole panels.
    pub(crate) padded_keys: usize,
    /// The runs cut into tiles: (index of the run, keys).
    pub(crate) tiles: Vec<(usize, Range<usize>)>,
    /// For each block its runs: (index of the run, whether it is the causal one).
    pub(crate) block_runs: Vec<Vec<(usize, bool)>>,
    /// Indices of blocks that share keys, directly or through others; in the order of the keys.
    pub(crate) components: Vec<Vec<usize>>,
}

/// A run of keys that is packed for the kernels.
#[derive(Debug)]
pub(crate) struct KeyRun {
    /// The keys.
    pub(crate) keys: Range<usize>,
    /// Padded keys before it.
    pub(crate) offset: usize,
}

impl AttentionLayout {
    /// A layout of `queries` queries against `keys` keys.
    ///
    /// # Errors
    /// When a query is in no block or in two, a run of keys is reversed or ends beyond `keys`,
    /// the runs of one block overlap, or a query would see no key.
    pub fn new(blocks: Vec<QueryBlock>, queries: usize, keys: usize) -> Result<Self> {
        let mut blocks = blocks;
        for block in &mut blocks {
            let Range { start, end } = block.queries;
            if start > end || end > queries {
                return Err(Error::Layout(format!(
                    "a block's queries {start}..{end} are not within 0..{queries}"
                )));
            }
            block.visible.retain(|run| run.start != run.end);
            block.visible.sort_by_key(|run| (run.start, run.end));
        }
        blocks.retain(|block| !block.queries.is_empty());
        blocks.sort_by_key(|block| block.queries.start);
        let mut next = 0;
        for block in &blocks {
            let Range { start, end } = block.queries;
            if start != next {
                let fault = if start < next {
                    "two blocks"
                } else {
                    "no block"
                };
                return Err(Error::Layout(format!(
                    "query {} is in {fault}; every query must be in exactly one",
                    start.min(next)
                )));
            }
            next = end;
            check_keys(block, keys)?;
        }
        if next != queries {
            return Err(Error::Layout(format!(
                "query {next} is in no block; every query must be in exactly one"
            )));
        }
        Ok(Self::from_checked(blocks, queries, keys))
    }

    /// Packed independent causal sequences of these lengths; queries and keys are the same tokens.
    pub fn causal(lengths: &[usize]) -> Self {
        Self::packed(lengths, |run| QueryBlock {
            visible: Vec::new(),
            causal: Some(run.start),
            queries: run,
        })
    }

    /// Packed independent sequences, each attending to all of itself (windows of a vision tower).
    pub fn bidirectional(lengths: &[usize]) -> Self {
        Self::packed(lengths, |run| QueryBlock {
            visible: vec![run.clone()],
            causal: None,
            queries: run,
        })
    }

    /// Packed segments, each causal within itself and seeing all of its ancestors: a shared
    /// prompt prefix and suffixes blind to each other, for one. Queries and keys are the same
    /// tokens, in the order of the segments.
    ///
    /// # Errors
    /// When a segment's parent does not come before it.
    pub fn tree(segments: &[Segment]) -> Result<Self> {
        let mut runs: Vec<Range<usize>> = Vec::with_capacity(segments.len());
        let mut blocks = Vec::with_capacity(segments.len());
        let mut start = 0;
        for (index, segment) in segments.iter().enumerate() {
            let mut visible = Vec::new();
            let mut ancestor = segment.parent;
            let mut child = index;
            while let Some(parent) = ancestor {
                if parent >= child {
                    return Err(Error::Layout(format!(
                        "segment {child} names segment {parent} as its parent; \
                         a parent must come before its children"
                    )));
                }
                visible.push(runs[parent].clone());
                child = parent;
                ancestor = segments[parent].parent;
            }
            visible.retain(|run| !run.is_empty());
            visible.reverse();
            let run = start..start + segment.length;
            start = run.end;
            if !run.is_empty() {
                blocks.push(QueryBlock {
                    queries: run.clone(),
                    visible,
                    causal: Some(run.start),
                });
            }
            runs.push(run);
        }
        Ok(Self::from_checked(blocks, start, start))
    }

    /// The layout of some of the queries, which must ascend, against the same keys.
    ///
    /// # Errors
    /// When they do not ascend, or one is not below [`AttentionLayout::queries`].
    pub fn select(&self, queries: &[usize]) -> Result<Self> {
        let ascending = queries.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascending || queries.last().is_some_and(|&last| last >= self.queries()) {
            return Err(Error::Layout(format!(
                "selected queries must ascend and be below {}",
                self.queries()
            )));
        }
        let mut blocks = Vec::new();
        let mut first = 0;
        for block in self.blocks() {
            let own = queries[first..].partition_point(|&query| query < block.queries.end);
            // Neighbours stay one block.
            for run in queries[first..first + own].chunk_by(|a, b| a + 1 == *b) {
                let before = run[0] - block.queries.start;
                let mut visible = block.visible.clone();
                let mut causal = block.causal.map(|start| start + before);
                if let Some(start) = block.causal {
                    // What all of the run see is a run of keys like any other.
                    let alone = usize::from(run.len() == 1);
                    visible.push(start..start + before + alone);
                    causal = causal.filter(|_| alone == 0);
                }
                let from = blocks
                    .last()
                    .map_or(0, |last: &QueryBlock| last.queries.end);
                blocks.push(QueryBlock {
                    queries: from..from + run.len(),
                    visible,
                    causal,
                });
            }
            first += own;
        }
        Self::new(blocks, queries.len(), self.keys())
    }

    /// The blocks, in the order of their queries; none is empty, no run of keys is empty.
    pub fn blocks(&self) -> &[QueryBlock] {
        &self.inner.blocks
    }

    /// The number of queries.
    pub fn queries(&self) -> usize {
        self.inner.queries
    }

    /// The number of keys.
    pub fn keys(&self) -> usize {
        self.inner.keys
    }

    /// The number of (query, key) pairs that attend, a measure of the work.
    pub fn pairs(&self) -> usize {
        self.blocks()
            .iter()
            .map(|block| {
                let queries = block.queries.len();
                let shared: usize = block.visible.iter().map(Range::len).sum();
                let causal = block.causal.map_or(0, |_| queries * (queries + 1) / 2);
                queries * shared + causal
            })
            .sum()
    }

    /// The same as an additive mask of shape (queries, keys): 0 where the query sees the key,
    /// minus infinity elsewhere.
    ///
    /// # Errors
    /// When candle cannot allocate it or does not know the dtype on that device.
    pub fn dense_mask(&self, device: &Device, dtype: DType) -> Result<Tensor> {
        let (queries, keys) = (self.queries(), self.keys());
        let mut mask = vec![f32::NEG_INFINITY; queries * keys];
        for block in self.blocks() {
            for (index, query) in block.queries.clone().enumerate() {
                let row = &mut mask[query * keys..(query + 1) * keys];
                for run in &block.visible {
                    row[run.clone()].fill(0.0);
                }
                if let Some(start) = block.causal {
                    row[start..=start + index].fill(0.0);
                }
            }
        }
        Ok(Tensor::from_vec(mask, (queries, keys), device)?.to_dtype(dtype)?)
    }

    fn packed(lengths: &[usize], block: impl Fn(Range<usize>) -> QueryBlock) -> Self {
        let mut blocks = Vec::with_capacity(lengths.len());
        let mut start = 0;
        for &length in lengths.iter().filter(|&&length| length > 0) {
            blocks.push(block(start..start + length));
            start += length;
        }
        Self::from_checked(blocks, start, start)
    }

    fn from_checked(blocks: Vec<QueryBlock>, queries: usize, keys: usize) -> Self {
        AttentionLayout {
            inner: Arc::new(Inner {
                blocks,
                queries,
                keys,
                plan: OnceLock::new(),
            }),
        }
    }

    /// What the fused kernels need.
    pub(crate) fn plan(&self) -> &Plan {
        self.inner.plan.get_or_init(|| Plan::new(self.blocks()))
    }
}

impl Plan {
    fn new(blocks: &[QueryBlock]) -> Self {
        /// A multiple of every panel's width.
        const PANEL: usize = 32;
        /// Keys packed by a task: a multiple of the above.
        const TILE: usize = 192;
        let mut runs: Vec<KeyRun> = Vec::new();
        let mut index_of = BTreeMap::new();
        let mut padded_keys = 0;
        let mut block_runs = Vec::with_capacity(blocks.len());
        // (run of keys, block), to find who shares keys with whom.
        let mut uses: Vec<(Range<usize>, usize)> = Vec::new();
        for (index, block) in blocks.iter().enumerate() {
            let causal = block.causal.map(|start| start..start + block.queries.len());
            let mut of_block = Vec::new();
            let visible = block.visible.iter().map(|run| (run, false));
            for (run, is_causal) in visible.chain(causal.iter().map(|run| (run, true))) {
                let run_index = *index_of.entry((run.start, run.end)).or_insert_with(|| {
                    runs.push(KeyRun {
                        keys: run.clone(),
                        offset: padded_keys,
                    });
                    padded_keys += run.len().next_multiple_of(PANEL);
                    runs.len() - 1
                });
                of_block.push((run_index, is_causal));
                uses.push((run.clone(), index));
            }
            block_runs.push(of_block);
        }
        let mut tiles = Vec::new();
        for (index, run) in runs.iter().enumerate() {
            for start in run.keys.clone().step_by(TILE) {
                tiles.push((index, start..(start + TILE).min(run.keys.end)));
            }
        }
        Plan {
            components: components(blocks.len(), uses),
            runs,
            padded_keys,
            tiles,
            block_runs,
        }
    }
}

/// Groups blocks whose runs of keys overlap, directly or through other blocks.
fn components(blocks: usize, mut uses: Vec<(Range<usize>, usize)>) -> Vec<Vec<usize>> {
    let mut leader: Vec<usize> = (0..blocks).collect();
    fn find(leader: &mut [usize], mut block: usize) -> usize {
        while leader[block] != block {
            leader[block] = leader[leader[block]];
            block = leader[block];
        }
        block
    }
    uses.sort_by_key(|(run, _)| (run.start, run.end));
    let mut reach: Option<(usize, usize)> = None;
    for (run, block) in uses {
        reach = match reach {
            Some((end, other)) if run.start < end => {
                let (a, b) = (find(&mut leader, other), find(&mut leader, block));
                leader[a.max(b)] = a.min(b);
                Some((end.max(run.end), other))
            }
            _ => Some((run.end, block)),
        };
    }
    let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for block in 0..blocks {
        let first = find(&mut leader, block);
        members.entry(first).or_default().push(block);
    }
    members.into_values().collect()
}

/// Checks a block's runs of keys; `visible` is sorted and holds no empty run.
fn check_keys(block: &QueryBlock, keys: usize) -> Result<()> {
    let Range { start, end } = block.queries;
    let causal = block.causal.map(|first| first..first + block.queries.len());
    let mut runs: Vec<&Range<usize>> = block.visible.iter().chain(&causal).collect();
    runs.sort_by_key(|run| run.start);
    if runs.is_empty() {
        return Err(Error::Layout(format!(
            "queries {start}..{end} see no key; give each at least one"
        )));
    }
    let mut last = 0;
    for run in runs {
        if run.start > run.end || run.end > keys {
            return Err(Error::Layout(format!(
                "queries {start}..{end} see keys {}..{}, which are not within 0..{keys}",
                run.start, run.end
            )));
        }
        if run.start < last {
            return Err(Error::Layout(format!(
                "queries {start}..{end} see key {} twice; the runs of a block must not overlap",
                run.start
            )));
        }
        last = run.end;
    }
    Ok(())
}
