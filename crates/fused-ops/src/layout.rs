//! Who sees whom in an attention over packed sequences.
//!
//! A layout is a list of runs of queries ([`QueryBlock`]), each with the runs of keys that all of
//! its queries see, and optionally one causal run. That covers packed causal sequences, windows
//! of a vision tower, a shared prompt prefix with suffixes blind to each other, and decoding
//! against a cache, without a mask of (queries, keys).

use std::ops::Range;
use std::sync::Arc;

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
            }),
        }
    }
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
