//! Batched generation with a key-value cache.
//!
//! All prompts are run once, packed. A prompt's keys and values are stored once and shared by its
//! samples; each sample adds rows of its own. One step runs the last token of every sample that has
//! not stopped, which sees its prompt's rows and its own. Rows are set aside for a number of steps
//! at a time, so samples that stop early cost no memory later.
//!
//! A sample's tokens depend on its prompt and its seed, not on what else is in the batch (up to the
//! rounding of matrix products of different heights).

use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use fused_ops::{AttentionLayout, QueryBlock, side_by_side, write_rows};
use rayon::prelude::*;

use crate::config::TextConfig;
use crate::error::{Error, Result};
use crate::kept::{self, Finished, KeptRows, Placed, Rest, TurnPrompt, TurnSample};
use crate::model::Model;
use crate::positions::Positions;
use crate::prompt::{Prompt, Sampled};
use crate::sampling::{GenerationOptions, Sampler};

/// Steps for which cache rows are set aside at a time.
const STEPS_AHEAD: usize = 32;

/// A sample on its way.
struct Running {
    prompt: usize,
    sampler: Sampler,
    /// Cache rows that its next token sees.
    visible: Vec<Range<usize>>,
    position: u32,
    sampled: Sampled,
}

impl Running {
    fn advance(
        &mut self,
        logits: &[f32],
        banned: &[u32],
        options: &GenerationOptions,
    ) -> Result<()> {
        let (token, log_prob) = self.sampler.choose(logits, banned, options)?;
        self.sampled.token_ids.push(token);
        self.sampled.log_probs.push(log_prob);
        self.sampled.stopped = options.stop_ids.contains(&token);
        Ok(())
    }
}

/// Keys and values of every layer, `(rows, kv heads, dim)` each.
struct Cache {
    layers: Vec<[Tensor; 2]>,
    rows: usize,
    row_shape: (usize, usize),
}

impl Cache {
    fn new(config: &TextConfig, rows: usize, dtype: DType, device: &Device) -> Result<Self> {
        let row_shape = (config.num_key_value_heads, config.head_dim());
        let buffer = || Tensor::zeros((rows, row_shape.0, row_shape.1), dtype, device);
        let layers = (0..config.num_hidden_layers)
            .map(|_| Ok([buffer()?, buffer()?]))
            .collect::<Result<_>>()?;
        Ok(Cache {
            layers,
            rows,
            row_shape,
        })
    }

    /// Adds `more` rows at the end; returns the first.
    fn grow(&mut self, more: usize) -> Result<usize> {
        let first = self.rows;
        self.rows += more;
        for buffer in self.layers.iter_mut().flatten() {
            let shape = (self.rows, self.row_shape.0, self.row_shape.1);
            let larger = Tensor::zeros(shape, buffer.dtype(), buffer.device())?;
            larger.slice_set(buffer, 0, 0)?;
            *buffer = larger;
        }
        Ok(first)
    }

    /// Writes keys and values `(n, kv heads, dim)` of a layer to these rows.
    fn write(&self, layer: usize, rows: &[u32], keys: &Tensor, values: &Tensor) -> Result<()> {
        for (buffer, new) in self.layers[layer].iter().zip([keys, values]) {
            let width = self.row_shape.0 * self.row_shape.1;
            let new = new.contiguous()?.reshape(((), width))?;
            // A view of the same storage: the buffer itself is written.
            write_rows(&buffer.reshape((self.rows, width))?, rows, &new)?;
        }
        Ok(())
    }
}

impl Model {
    /// Generates `samples[i].len()` samples for each prompt `i`, each from its own seed; one
    /// without a seed is greedy, whatever the temperature. Vision tokens are never chosen.
    ///
    /// Fails on an empty prompt, on image features that do not fit (naming the prompt and both
    /// counts), on options outside their range, and when the model's scores are not finite.
    pub fn generate(
        &self,
        prompts: &[Prompt],
        samples: &[Vec<Option<u64>>],
        options: &GenerationOptions,
    ) -> Result<Vec<Vec<Sampled>>> {
        if prompts.len() != samples.len() {
            return Err(Error::Argument(format!(
                "{} prompts but seeds for {}",
                prompts.len(),
                samples.len()
            )));
        }
        let turns: Vec<TurnPrompt> = prompts
            .iter()
            .zip(samples)
            .map(|(prompt, seeds)| TurnPrompt {
                prompt,
                follows: None,
                seeds: seeds.clone(),
                keep: false,
            })
            .collect();
        let found = self.generate_turns(&turns, options, 0)?;
        let sampled = |own: Vec<TurnSample>| own.into_iter().map(|own| own.sampled).collect();
        Ok(found.into_iter().map(sampled).collect())
    }

    /// As [`Model::generate`], for prompts that may go on with earlier samples. Of prompts that say so the
    /// rows of their samples are kept, at most `most_rows` in all, those of the last samples.
    ///
    /// # Errors
    /// As [`Model::generate`]; a prompt that does not go on with the sample that it follows.
    pub fn generate_turns(
        &self,
        turns: &[TurnPrompt<'_>],
        options: &GenerationOptions,
        most_rows: usize,
    ) -> Result<Vec<Vec<TurnSample>>> {
        options.check()?;
        for (index, turn) in turns.iter().enumerate() {
            if turn.prompt.input_ids.is_empty() {
                return Err(Error::Argument(format!("prompt {index} has no tokens")));
            }
            if let Some(kept) = turn.follows.filter(|kept| !kept.begin(turn.prompt)) {
                return Err(Error::Argument(format!(
                    "prompt {index} of {} tokens does not go on with the {} tokens that it follows",
                    turn.prompt.input_ids.len(),
                    kept.tokens.len()
                )));
            }
        }
        if turns.is_empty() || options.max_new_tokens == 0 {
            let nothing = |turn: &TurnPrompt| vec![TurnSample::default(); turn.seeds.len()];
            return Ok(turns.iter().map(nothing).collect());
        }
        let rows: usize = turns
            .iter()
            .map(|turn| {
                let known = turn.follows.map_or(0, KeptRows::rows);
                turn.prompt.input_ids.len() - known + turn.seeds.len() * options.max_new_tokens
            })
            .sum();
        let rows = rows + Placed::new(turns, 0).end;
        let penalised = options.repetition_penalty.is_some_and(|p| p != 1.0);
        if !self.device().is_cpu() && !penalised {
            let mut session = self.session(rows)?;
            return session.generate_turns(turns, options, most_rows);
        }
        let model = self.for_generation()?;
        let share = turns.len().div_ceil(self.shares(rows));
        let shares: Vec<_> = turns.chunks(share).collect();
        let finished = side_by_side(self.device(), shares.len(), |index| {
            let generation = Generation::new(&model, index * share, shares[index], options)?;
            generation.run(shares[index], options, most_rows)
        });
        let mut results = Vec::with_capacity(turns.len());
        for (turns, samples) in shares.iter().zip(finished) {
            let mut samples = samples?.into_iter();
            results.extend(turns.iter().map(|turn| {
                let own = samples.by_ref().take(turn.seeds.len());
                own.collect::<Vec<_>>()
            }));
        }
        // Each share kept as many.
        let all = results.iter_mut().flatten();
        kept::keep_last(all.map(|own| &mut own.kept), most_rows);
        Ok(results)
    }

    /// The same parameters without a graph, the decoder's packed as they are now unless that would take
    /// more than a gigabyte.
    fn for_generation(&self) -> Result<Model> {
        const PACKED: usize = 256 << 20;
        let mut model = self.detached()?;
        if self.parameters().elements() <= PACKED {
            model.text.pack()?;
        }
        Ok(model)
    }

    /// Into how many batches prompts are shared out that need `rows` rows of cache. A small model's
    /// steps are too short to split each over the threads, and read their keys and values faster
    /// where these stay in a processor's cache; a large one's weights should pass through it once.
    fn shares(&self, rows: usize) -> usize {
        const SMALL: usize = 4_000_000;
        // Two threads and their weights share 32 MiB of third-level cache on the machine measured.
        const BYTES: usize = 5 << 20;
        if !self.device().is_cpu() || self.parameters().elements() > SMALL {
            return 1;
        }
        let text = &self.config().text;
        let of_row = text.num_key_value_heads * text.head_dim() * text.num_hidden_layers;
        let bytes = 2 * rows * of_row * self.dtype().size_in_bytes();
        let threads = rayon::current_num_threads();
        bytes.div_ceil(BYTES).next_multiple_of(threads).max(threads)
    }
}

/// A batch in the middle of generation.
struct Generation<'a> {
    model: &'a Model,
    banned: Vec<u32>,
    cache: Cache,
    running: Vec<Running>,
    /// Scores of the next token: one row per prompt at first, then one an active sample.
    logits: Vec<f32>,
}

impl<'a> Generation<'a> {
    /// Runs of the prompts, the first of which errors call `first`, what has no rows yet, and fills the
    /// cache.
    fn new(
        model: &'a Model,
        first: usize,
        turns: &[TurnPrompt<'_>],
        options: &GenerationOptions,
    ) -> Result<Self> {
        let placed = Placed::new(turns, 0);
        let first_row = placed.end;
        let mut embeddings = Vec::with_capacity(turns.len());
        let mut positions = Positions::default();
        let (mut blocks, mut ends) = (Vec::new(), Vec::new());
        let mut running = Vec::new();
        for (index, (turn, known)) in turns.iter().zip(&placed.visible).enumerate() {
            let rest = Rest::new(model, turn.prompt, turn.follows.map_or(0, KeptRows::rows));
            let rest = rest.map_err(Error::of_prompt(first + index))?;
            embeddings.push(rest.embeddings);
            let from = positions.len();
            positions.extend(&rest.positions);
            let rows = first_row + from..first_row + positions.len();
            blocks.push(QueryBlock {
                queries: from..positions.len(),
                visible: known.clone(),
                causal: Some(rows.start),
            });
            ends.push(positions.len() - 1);
            running.extend(turn.seeds.iter().map(|&seed| Running {
                prompt: index,
                sampler: Sampler::new(seed, options, &turn.prompt.input_ids),
                visible: known.iter().cloned().chain([rows.clone()]).collect(),
                position: rest.next,
                sampled: Sampled::default(),
            }));
        }
        let cache = Cache::new(
            &model.config().text,
            first_row + positions.len(),
            model.dtype(),
            model.device(),
        )?;
        placed.write(&cache.layers)?;
        let rotary = model
            .text
            .rotary(&positions, model.dtype(), model.device())?;
        let layout = AttentionLayout::new(blocks, positions.len(), cache.rows)?;
        let mut x = Tensor::cat(&embeddings, 0)?;
        let (last, others) = model.text.split_last()?;
        for (layer, buffers) in others.iter().zip(&cache.layers) {
            let (q, k, v) = layer.project(&x, &rotary)?;
            cache_prompts(buffers, &k, &v, first_row)?;
            let [keys, values] = buffers;
            x = layer.finish(&x, &layer.attend(&q, keys, values, &layout)?)?;
        }
        let some = model.some_tokens(&ends, &positions, &layout)?;
        let (q, k, v) = last.project_some(&x, &rotary, &some)?;
        let buffers = &cache.layers[others.len()];
        cache_prompts(buffers, &k, &v, first_row)?;
        let attended = last.attend(&q, &buffers[0], &buffers[1], &some.layout)?;
        let x = last.finish(&x.index_select(&some.index, 0)?, &attended)?;
        let logits = scores(model, &x)?;
        Ok(Generation {
            banned: model.config().vision_token_ids(),
            model,
            cache,
            running,
            logits,
        })
    }

    /// Samples until every sample has stopped or is full; samples in the order of the seeds.
    fn run(
        mut self,
        turns: &[TurnPrompt<'_>],
        options: &GenerationOptions,
        most_rows: usize,
    ) -> Result<Vec<TurnSample>> {
        let vocab = self.model.config().text.vocab_size;
        let (logits, banned) = (&self.logits, &self.banned);
        self.running.par_iter_mut().try_for_each(|running| {
            let row = &logits[running.prompt * vocab..][..vocab];
            running.advance(row, banned, options)
        })?;
        let mut ahead = 0;
        for step in 1..options.max_new_tokens {
            let mut active: Vec<&mut Running> = self
                .running
                .iter_mut()
                .filter(|running| !running.sampled.stopped)
                .collect();
            if active.is_empty() {
                break;
            }
            if ahead == 0 {
                ahead = STEPS_AHEAD.min(options.max_new_tokens - step);
                let first = self.cache.grow(ahead * active.len())?;
                for (index, running) in active.iter_mut().enumerate() {
                    let row = first + index * ahead;
                    running.visible.push(row..row);
                }
            }
            ahead -= 1;
            let logits = step_scores(self.model, &self.cache, &mut active)?;
            active
                .par_iter_mut()
                .zip(logits.par_chunks(vocab))
                .try_for_each(|(running, row)| running.advance(row, banned, options))?;
        }
        let finished = self.running.into_iter().map(|running| Finished {
            prompt: turns[running.prompt].prompt,
            visible: running.visible,
            sampled: running.sampled,
            keep: turns[running.prompt].keep,
        });
        kept::keep(&self.cache.layers, finished.collect(), most_rows)
    }
}

/// Writes the keys and values of the prompts to a layer's cache, from row `first` on.
fn cache_prompts(
    buffers: &[Tensor; 2],
    keys: &Tensor,
    values: &Tensor,
    first: usize,
) -> Result<()> {
    buffers[0].slice_set(&keys.contiguous()?, 0, first)?;
    Ok(buffers[1].slice_set(&values.contiguous()?, 0, first)?)
}

/// Runs the last token of every active sample; scores `(active, vocab)` of the next, flat.
fn step_scores(model: &Model, cache: &Cache, active: &mut [&mut Running]) -> Result<Vec<f32>> {
    let mut ids = Vec::with_capacity(active.len());
    let mut at = Vec::with_capacity(active.len());
    let mut rows = Vec::with_capacity(active.len());
    let mut blocks = Vec::with_capacity(active.len());
    for (index, running) in active.iter_mut().enumerate() {
        ids.extend(running.sampled.token_ids.last());
        at.push(running.position);
        running.position += 1;
        if let Some(own) = running.visible.last_mut() {
            rows.push(own.end as u32);
            own.end += 1;
        }
        blocks.push(QueryBlock {
            queries: index..index + 1,
            visible: running.visible.clone(),
            causal: None,
        });
    }
    let layout = AttentionLayout::new(blocks, active.len(), cache.rows)?;
    let positions = Positions::from_axes([at.clone(), at.clone(), at])?;
    let rotary = model
        .text
        .rotary(&positions, model.dtype(), model.device())?;
    let mut x = model.embed(&ids, None)?;
    for (number, layer) in model.text.layers.iter().enumerate() {
        let (q, k, v) = layer.project(&x, &rotary)?;
        cache.write(number, &rows, &k, &v)?;
        let [keys, values] = &cache.layers[number];
        x = layer.finish(&x, &layer.attend(&q, keys, values, &layout)?)?;
    }
    scores(model, &x)
}

/// Scores over the vocabulary of residual rows, flat and in f32.
fn scores(model: &Model, x: &Tensor) -> Result<Vec<f32>> {
    let hidden = model.text.final_norm(x)?;
    let logits = model.logits(&hidden)?.to_dtype(DType::F32)?;
    Ok(logits.flatten_all()?.to_vec1()?)
}
