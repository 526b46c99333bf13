//! Keys and values of a sample, kept for a later turn that goes on with it.
//!
//! Rows are copied out of a generation's cache when it ends: those that were filled, none that were only
//! set aside. Samples of one prompt share its rows.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;

use crate::error::Result;
use crate::model::Model;
use crate::positions::{Grid, Positions};
use crate::prompt::{Prompt, Sampled};

/// A run of rows; each layer's keys and values are `(rows, kv heads, dim)`.
#[derive(Debug)]
pub(crate) struct Segment {
    layers: Vec<[Tensor; 2]>,
    rows: usize,
}

/// Keys and values of a conversation up to a sample and with it, under the weights that sampled it.
#[derive(Clone, Debug)]
pub struct KeptRows {
    /// In order; those of the prompt are shared with its other samples.
    segments: Vec<Arc<Segment>>,
    /// Prompt and sample; the last token was never run and has no row.
    pub(crate) tokens: Vec<u32>,
    pub(crate) grids: Vec<Grid>,
}

impl KeptRows {
    /// Tokens that have rows.
    pub fn rows(&self) -> usize {
        self.segments.iter().map(|segment| segment.rows).sum()
    }

    /// Rows that none of `others` holds.
    pub fn rows_beside<'a>(&self, others: impl Iterator<Item = &'a KeptRows> + Clone) -> usize {
        let held = |own: &&Arc<Segment>| {
            let mut theirs = others.clone().flat_map(|other| &other.segments);
            theirs.any(|other| Arc::ptr_eq(own, other))
        };
        let own = self.segments.iter().filter(|own| !held(own));
        own.map(|segment| segment.rows).sum()
    }

    /// Whether a prompt goes on with these tokens, and has images of the same sizes at the same places.
    /// That they are the same images is for the caller to know.
    pub fn begin(&self, prompt: &Prompt) -> bool {
        prompt.input_ids.len() > self.tokens.len()
            && prompt.input_ids.starts_with(&self.tokens)
            && prompt.grids.starts_with(&self.grids)
    }
}

/// Drops kept rows, those of the first samples, until at most `most` are left; how many are. Rows that
/// samples share count once.
pub fn keep_last<'a>(
    samples: impl DoubleEndedIterator<Item = &'a mut Option<KeptRows>>,
    most: usize,
) -> usize {
    let mut held: HashSet<*const Segment> = HashSet::new();
    let (mut rows, mut full) = (0, false);
    for sample in samples.rev() {
        let Some(kept) = sample else { continue };
        let others = kept
            .segments
            .iter()
            .filter(|own| !held.contains(&Arc::as_ptr(own)));
        let more: usize = others.map(|own| own.rows).sum();
        full |= rows + more > most;
        if full {
            *sample = None;
            continue;
        }
        rows += more;
        held.extend(kept.segments.iter().map(Arc::as_ptr));
    }
    rows
}

/// A prompt that may go on with an earlier sample.
#[derive(Clone, Debug)]
pub struct TurnPrompt<'a> {
    /// The whole conversation before the turn.
    pub prompt: &'a Prompt,
    /// The sample that it goes on with, of the same weights, with the same images: only what was said
    /// since is run.
    pub follows: Option<&'a KeptRows>,
    /// A seed for each sample; one without is greedy.
    pub seeds: Vec<Option<u64>>,
    /// Whether its samples' rows are kept.
    pub keep: bool,
}

/// A sample, with its rows where they are kept.
#[derive(Clone, Debug, Default)]
pub struct TurnSample {
    /// What was generated.
    pub sampled: Sampled,
    /// Its keys and values.
    pub kept: Option<KeptRows>,
}

/// Where kept rows stand in a cache, each segment once.
pub(crate) struct Placed {
    segments: Vec<(usize, Arc<Segment>)>,
    /// For each prompt the rows that it sees.
    pub visible: Vec<Vec<Range<usize>>>,
    /// The row after them.
    pub end: usize,
}

impl Placed {
    /// Gives the rows of what prompts follow their places, from row `first` on.
    pub fn new(turns: &[TurnPrompt<'_>], first: usize) -> Self {
        let mut placed = Placed {
            segments: Vec::new(),
            visible: Vec::with_capacity(turns.len()),
            end: first,
        };
        let mut place_of: HashMap<*const Segment, usize> = HashMap::new();
        for turn in turns {
            let mut visible: Vec<Range<usize>> = Vec::new();
            for segment in turn.follows.iter().flat_map(|kept| &kept.segments) {
                let start = *place_of.entry(Arc::as_ptr(segment)).or_insert_with(|| {
                    let start = placed.end;
                    placed.segments.push((start, segment.clone()));
                    placed.end += segment.rows;
                    start
                });
                match visible.last_mut() {
                    Some(last) if last.end == start => last.end += segment.rows,
                    _ => visible.push(start..start + segment.rows),
                }
            }
            placed.visible.push(visible);
        }
        placed
    }

    /// Writes the rows into a cache's layers.
    pub fn write(&self, layers: &[[Tensor; 2]]) -> Result<()> {
        for (start, segment) in &self.segments {
            for (buffers, own) in layers.iter().zip(&segment.layers) {
                for (buffer, own) in buffers.iter().zip(own) {
                    buffer.slice_set(own, 0, *start)?;
                }
            }
        }
        Ok(())
    }
}

/// A finished sample and where its rows are.
pub(crate) struct Finished<'a> {
    pub prompt: &'a Prompt,
    /// Rows of prompt and sample, but for the sample's last token.
    pub visible: Vec<Range<usize>>,
    pub sampled: Sampled,
    pub keep: bool,
}

/// Samples with their rows, copied out of a cache's layers: at most `most` rows in all, those of the last
/// samples. The other rows go with the cache.
pub(crate) fn keep(
    layers: &[[Tensor; 2]],
    finished: Vec<Finished<'_>>,
    most: usize,
) -> Result<Vec<TurnSample>> {
    let mut known: HashMap<Range<usize>, Arc<Segment>> = HashMap::new();
    let mut left = most;
    let mut samples = Vec::with_capacity(finished.len());
    for own in finished.into_iter().rev() {
        let visible = own.visible.iter().filter(|run| !run.is_empty());
        let more = visible.clone().filter(|run| !known.contains_key(run));
        let more: usize = more.map(ExactSizeIterator::len).sum();
        let kept = if own.keep && more <= left {
            left -= more;
            let mut segments = Vec::new();
            for run in visible {
                let segment = match known.get(run) {
                    Some(segment) => segment.clone(),
                    None => {
                        let segment = Arc::new(copy_of(layers, run)?);
                        known.insert(run.clone(), segment.clone());
                        segment
                    }
                };
                segments.push(segment);
            }
            Some(KeptRows {
                segments,
                tokens: [&own.prompt.input_ids[..], &own.sampled.token_ids].concat(),
                grids: own.prompt.grids.clone(),
            })
        } else {
            // Those before it are older.
            if own.keep {
                left = 0;
            }
            None
        };
        samples.push(TurnSample {
            sampled: own.sampled,
            kept,
        });
    }
    samples.reverse();
    Ok(samples)
}

/// Rows of a cache, which they do not hold on to.
fn copy_of(layers: &[[Tensor; 2]], run: &Range<usize>) -> Result<Segment> {
    let copied = |buffer: &Tensor| -> Result<Tensor> {
        let view = buffer.narrow(0, run.start, run.len())?;
        Ok(view.force_contiguous()?)
    };
    let layers = layers
        .iter()
        .map(|[keys, values]| Ok([copied(keys)?, copied(values)?]))
        .collect::<Result<_>>()?;
    Ok(Segment {
        layers,
        rows: run.len(),
    })
}

/// What of a prompt is run: its tokens from `known` on.
pub(crate) struct Rest {
    /// `(tokens, hidden)`.
    pub embeddings: Tensor,
    pub positions: Positions,
    /// The position after the prompt.
    pub next: u32,
}

impl Rest {
    pub fn new(model: &Model, prompt: &Prompt, known: usize) -> Result<Self> {
        let image = model.config().image_token_id;
        let images = model.image_tokens(&prompt.input_ids, prompt.image_features.as_ref())?;
        let (known_ids, rest) = prompt.input_ids.split_at(known);
        let seen = known_ids.iter().filter(|&&id| id == image).count();
        let features = match &prompt.image_features {
            Some(features) if images > seen => {
                Some(features.detach().narrow(0, seen, images - seen)?)
            }
            _ => None,
        };
        let whole = model.positions(&prompt.input_ids, &prompt.grids)?;
        Ok(Rest {
            embeddings: model.embed(rest, features.as_ref())?,
            positions: whole.narrow(known..whole.len())?,
            next: whole.next(),
        })
    }
}
