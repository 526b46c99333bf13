//! Generation over several turns with one cache, the tokens chosen where the model is.
//!
//! Rows of keys and values are set aside once. A prompt's rows are shared by its samples, each of
//! which has rows of its own; they stay, so that a later turn that goes on with a sample runs only
//! what was said since. A step sends positions to the device and brings back a token and a
//! log-probability for each sample: scores never leave it. [`Model::generate`] uses a session on every
//! device but the CPU.

use std::ops::Range;

use candle_core::{DType, Tensor};
use fused_ops::{AttentionLayout, QueryBlock};

use crate::device_sampling::{DeviceSampler, Draws, draws};
use crate::error::{Error, Result};
use crate::kept::{self, Finished, Placed, Rest, TurnPrompt, TurnSample};
use crate::model::Model;
use crate::positions::{Grid, Positions};
use crate::prompt::{Prompt, Sampled};
use crate::sampling::GenerationOptions;

/// A sample of a session, for a prompt that goes on with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SampleId(usize);

/// A prompt of one turn of a session.
#[derive(Clone, Debug)]
pub struct SessionPrompt<'a> {
    /// The whole conversation before the turn.
    pub prompt: &'a Prompt,
    /// The sample that it goes on with: its images are the first of this prompt's. Where the tokens do
    /// not begin with the sample's, the prompt is run whole, and counted.
    pub follows: Option<SampleId>,
    /// A seed for each sample; one without is greedy.
    pub seeds: Vec<Option<u64>>,
}

/// A sample, and what it is called in its session.
#[derive(Clone, Debug)]
pub struct SessionSample {
    /// For a prompt that goes on with it.
    pub id: SampleId,
    /// What was generated.
    pub sampled: Sampled,
}

/// Keys and values of conversations on their way, and what they belong to.
#[derive(Debug)]
pub struct Session {
    model: Model,
    /// Keys and values of each layer, `(rows, kv heads, dim)` each.
    layers: Vec<[Tensor; 2]>,
    rows: usize,
    used: usize,
    samples: Vec<Kept>,
    prefilled: usize,
    not_continued: usize,
}

/// A finished sample.
#[derive(Debug)]
struct Kept {
    /// The prompt and what was sampled; all but the last have rows.
    tokens: Vec<u32>,
    grids: Vec<Grid>,
    visible: Vec<Range<usize>>,
}

/// A prompt of which some tokens have rows already.
struct Start<'a> {
    prompt: &'a Prompt,
    known: usize,
    visible: Vec<Range<usize>>,
}

/// A sample on its way.
struct Running {
    request: usize,
    draws: Draws,
    visible: Vec<Range<usize>>,
    /// Its own rows: those filled so far.
    own: Range<usize>,
    position: u32,
    sampled: Sampled,
}

impl Model {
    /// A session with room for `rows` tokens of prompts and samples; it grows where that is too little.
    /// It is for inference, and updates of this model show in it: their rows would be of other weights,
    /// so begin a new one after an update.
    ///
    /// # Errors
    /// When the device has not the memory.
    pub fn session(&self, rows: usize) -> Result<Session> {
        let model = self.detached()?;
        let mut session = Session {
            layers: Vec::new(),
            rows: 0,
            used: 0,
            samples: Vec::new(),
            prefilled: 0,
            not_continued: 0,
            model,
        };
        session.reserve(rows)?;
        Ok(session)
    }
}

impl Session {
    /// Tokens of prompts that were run: those with rows already are not run again.
    pub fn prefilled(&self) -> usize {
        self.prefilled
    }

    /// Prompts that did not begin with the sample that they follow.
    pub fn not_continued(&self) -> usize {
        self.not_continued
    }

    /// Makes room for `more` rows.
    fn reserve(&mut self, more: usize) -> Result<()> {
        let needed = self.used + more;
        if needed <= self.rows && !self.layers.is_empty() {
            return Ok(());
        }
        let text = &self.model.config().text;
        let shape = (needed.max(1), text.num_key_value_heads, text.head_dim());
        let mut layers = Vec::with_capacity(text.num_hidden_layers);
        for index in 0..text.num_hidden_layers {
            let new = || Tensor::zeros(shape, self.model.dtype(), self.model.device());
            let larger = [new()?, new()?];
            if let Some(old) = self.layers.get_mut(index) {
                for (larger, old) in larger.iter().zip(old.iter()) {
                    larger.slice_set(old, 0, 0)?;
                }
                // One layer at a time is held twice.
                *old = larger;
            } else {
                layers.push(larger);
            }
        }
        self.layers.extend(layers);
        self.rows = shape.0;
        Ok(())
    }

    /// Samples the turn after each prompt; results in the order of the seeds. Vision tokens are never
    /// chosen.
    ///
    /// # Errors
    /// As [`Model::generate`]; a repetition penalty, which is not applied here; a sample of another
    /// session.
    pub fn generate(
        &mut self,
        requests: &[SessionPrompt<'_>],
        options: &GenerationOptions,
    ) -> Result<Vec<Vec<SessionSample>>> {
        options.check()?;
        if options.repetition_penalty.is_some_and(|p| p != 1.0) {
            return Err(Error::Argument(
                "a session applies no repetition_penalty: leave it out, or use `generate` on the CPU"
                    .to_string(),
            ));
        }
        let starts = requests
            .iter()
            .enumerate()
            .map(|(index, request)| self.start(index, request))
            .collect::<Result<Vec<_>>>()?;
        if requests.is_empty() || options.max_new_tokens == 0 {
            return Ok(requests.iter().map(|_| Vec::new()).collect());
        }
        let fresh: usize = starts
            .iter()
            .map(|s| s.prompt.input_ids.len() - s.known)
            .sum();
        let count: usize = requests.iter().map(|request| request.seeds.len()).sum();
        self.reserve(fresh + count * options.max_new_tokens)?;
        let (logits, mut running) = self.prefill(&starts, requests, options)?;
        self.decode(logits, &mut running, options)?;
        let mut results: Vec<Vec<SessionSample>> = requests.iter().map(|_| Vec::new()).collect();
        for running in running {
            let prompt = requests[running.request].prompt;
            let id = SampleId(self.samples.len());
            let mut visible = running.visible;
            visible.push(running.own);
            self.samples.push(Kept {
                tokens: [&prompt.input_ids[..], &running.sampled.token_ids].concat(),
                grids: prompt.grids.clone(),
                visible,
            });
            results[running.request].push(SessionSample {
                id,
                sampled: running.sampled,
            });
        }
        Ok(results)
    }

    /// As [`Model::generate_turns`], with this session's cache.
    ///
    /// # Errors
    /// As [`Session::generate`].
    pub fn generate_turns(
        &mut self,
        turns: &[TurnPrompt<'_>],
        options: &GenerationOptions,
        most_rows: usize,
    ) -> Result<Vec<Vec<TurnSample>>> {
        let placed = Placed::new(turns, self.used);
        self.reserve(placed.end - self.used)?;
        placed.write(&self.layers)?;
        self.used = placed.end;
        let requests: Vec<SessionPrompt> = turns
            .iter()
            .zip(placed.visible)
            .map(|(turn, visible)| SessionPrompt {
                prompt: turn.prompt,
                follows: turn.follows.map(|own| {
                    self.samples.push(Kept {
                        tokens: own.tokens.clone(),
                        grids: own.grids.clone(),
                        visible,
                    });
                    SampleId(self.samples.len() - 1)
                }),
                seeds: turn.seeds.clone(),
            })
            .collect();
        let found = self.generate(&requests, options)?;
        let counts: Vec<usize> = found.iter().map(Vec::len).collect();
        let finished = turns.iter().zip(found).flat_map(|(turn, samples)| {
            samples.into_iter().map(|own| Finished {
                prompt: turn.prompt,
                visible: self.samples[own.id.0].visible.clone(),
                sampled: own.sampled,
                keep: turn.keep,
            })
        });
        let kept = kept::keep(&self.layers, finished.collect(), most_rows)?;
        let mut kept = kept.into_iter();
        let of_prompt = |count| kept.by_ref().take(count).collect();
        Ok(counts.into_iter().map(of_prompt).collect())
    }

    /// What of a prompt has rows.
    fn start<'a>(&mut self, index: usize, request: &SessionPrompt<'a>) -> Result<Start<'a>> {
        let prompt = request.prompt;
        if prompt.input_ids.is_empty() {
            return Err(Error::Argument(format!("prompt {index} has no tokens")));
        }
        let whole = Start {
            prompt,
            known: 0,
            visible: Vec::new(),
        };
        let Some(SampleId(sample)) = request.follows else {
            return Ok(whole);
        };
        let Some(kept) = self.samples.get(sample) else {
            return Err(Error::Argument(format!(
                "prompt {index} follows sample {sample}, the session has {}",
                self.samples.len()
            )));
        };
        let goes_on = prompt.input_ids.len() > kept.tokens.len()
            && prompt.input_ids.starts_with(&kept.tokens)
            && prompt.grids.starts_with(&kept.grids);
        if !goes_on {
            self.not_continued += 1;
            return Ok(whole);
        }
        Ok(Start {
            prompt,
            known: kept.tokens.len() - 1,
            visible: kept.visible.clone(),
        })
    }

    /// Runs what has no rows yet; scores of the next token of each prompt, and the samples to come.
    fn prefill(
        &mut self,
        starts: &[Start<'_>],
        requests: &[SessionPrompt<'_>],
        options: &GenerationOptions,
    ) -> Result<(Tensor, Vec<Running>)> {
        let model = &self.model;
        let first_row = self.used;
        let (mut embeddings, mut positions) = (Vec::new(), Positions::default());
        let (mut blocks, mut ends) = (Vec::new(), Vec::new());
        let mut running = Vec::new();
        for (index, (start, request)) in starts.iter().zip(requests).enumerate() {
            let rest = Rest::new(model, start.prompt, start.known);
            let rest = rest.map_err(Error::of_prompt(index))?;
            embeddings.push(rest.embeddings);
            let from = positions.len();
            positions.extend(&rest.positions);
            let rows = first_row + from..first_row + positions.len();
            blocks.push(QueryBlock {
                queries: from..positions.len(),
                visible: start.visible.clone(),
                causal: Some(rows.start),
            });
            ends.push(positions.len() - 1);
            let mut visible = start.visible.clone();
            visible.push(rows);
            running.extend(request.seeds.iter().map(|&seed| Running {
                request: index,
                draws: draws(seed, options),
                visible: visible.clone(),
                own: 0..0,
                position: rest.next,
                sampled: Sampled::default(),
            }));
        }
        let layout = AttentionLayout::new(blocks, positions.len(), self.rows)?;
        let some = model.some_tokens(&ends, &positions, &layout)?;
        let rotary = model
            .text
            .rotary(&positions, model.dtype(), model.device())?;
        let mut x = Tensor::cat(&embeddings, 0)?;
        drop(embeddings);
        let (last, others) = model.text.split_last()?;
        for (layer, buffers) in others.iter().zip(&self.layers) {
            let (q, k, v) = layer.project(&x, &rotary)?;
            write(buffers, &k, &v, first_row)?;
            let [keys, values] = buffers;
            x = layer.finish(&x, &layer.attend(&q, keys, values, &layout)?)?;
        }
        let (q, k, v) = last.project_some(&x, &rotary, &some)?;
        let buffers = &self.layers[others.len()];
        write(buffers, &k, &v, first_row)?;
        let attended = last.attend(&q, &buffers[0], &buffers[1], &some.layout)?;
        let x = last.finish(&x.index_select(&some.index, 0)?, &attended)?;
        let logits = scores(model, &x)?;
        self.used += positions.len();
        self.prefilled += positions.len();
        for running in &mut running {
            running.own = self.used..self.used;
            self.used += options.max_new_tokens;
        }
        Ok((logits, running))
    }

    /// Samples until every sample has stopped or is full; `logits` has a row for each prompt.
    fn decode(
        &self,
        logits: Tensor,
        running: &mut [Running],
        options: &GenerationOptions,
    ) -> Result<()> {
        let model = &self.model;
        let device = model.device();
        let vocab = model.config().text.vocab_size;
        let banned = model.config().vision_token_ids();
        let sampler = DeviceSampler::new(&banned, vocab, options, device)?;
        let mut active: Vec<&mut Running> = running.iter_mut().collect();
        if active.is_empty() {
            return Ok(());
        }
        let of_request: Vec<u32> = active.iter().map(|own| own.request as u32).collect();
        let mut logits = logits.index_select(&Tensor::new(of_request, device)?, 0)?;
        let mut rows = rows_of(&active, device)?;
        for step in 1..=options.max_new_tokens {
            let mut own: Vec<&mut Draws> = active.iter_mut().map(|own| &mut own.draws).collect();
            let chosen = sampler.choose(&logits, &mut own)?;
            let mut going = Vec::with_capacity(active.len());
            for (place, (own, (token, log_prob))) in
                active.iter_mut().zip(chosen.on_host).enumerate()
            {
                own.sampled.token_ids.push(token);
                own.sampled.log_probs.push(log_prob);
                own.sampled.stopped = options.stop_ids.contains(&token);
                if !own.sampled.stopped {
                    going.push(place as u32);
                }
            }
            if going.is_empty() || step == options.max_new_tokens {
                break;
            }
            let mut tokens = chosen.tokens;
            if going.len() < active.len() {
                active.retain(|own| !own.sampled.stopped);
                tokens = tokens.index_select(&Tensor::new(going, device)?, 0)?;
                rows = rows_of(&active, device)?;
            }
            logits = self.step(&tokens, &rows, &mut active)?;
            rows = (rows + 1.0)?;
        }
        Ok(())
    }

    /// Runs the last token of every active sample; scores `(active, vocab)` of the next. `rows`
    /// `(active, 1)` u32 are where their keys and values go.
    fn step(&self, tokens: &Tensor, rows: &Tensor, active: &mut [&mut Running]) -> Result<Tensor> {
        let model = &self.model;
        let text = &model.config().text;
        let width = text.num_key_value_heads * text.head_dim();
        let mut blocks = Vec::with_capacity(active.len());
        let mut at = Vec::with_capacity(active.len());
        for (index, own) in active.iter_mut().enumerate() {
            at.push(own.position);
            own.position += 1;
            own.own.end += 1;
            let mut visible = own.visible.clone();
            visible.push(own.own.clone());
            blocks.push(QueryBlock {
                queries: index..index + 1,
                visible,
                causal: None,
            });
        }
        let layout = AttentionLayout::new(blocks, active.len(), self.rows)?;
        let positions = Positions::from_axes([at.clone(), at.clone(), at])?;
        let rotary = model
            .text
            .rotary(&positions, model.dtype(), model.device())?;
        let index = rows.broadcast_as((active.len(), width))?.contiguous()?;
        let mut x = model.text.embedding.index_select(tokens, 0)?;
        for (layer, buffers) in model.text.layers.iter().zip(&self.layers) {
            let (q, k, v) = layer.project(&x, &rotary)?;
            for (buffer, new) in buffers.iter().zip([&k, &v]) {
                let new = new.contiguous()?.reshape(((), width))?;
                // A view of the same storage: the buffer itself is written.
                let view = buffer.reshape((self.rows, width))?;
                view.scatter_set(&index, &new, 0)?;
            }
            let [keys, values] = buffers;
            x = layer.finish(&x, &layer.attend(&q, keys, values, &layout)?)?;
        }
        scores(model, &x)
    }
}

/// The next row of every sample, `(active, 1)` u32.
fn rows_of(active: &[&mut Running], device: &candle_core::Device) -> Result<Tensor> {
    let rows: Vec<u32> = active.iter().map(|own| own.own.end as u32).collect();
    Ok(Tensor::from_vec(rows, (active.len(), 1), device)?)
}

fn write(buffers: &[Tensor; 2], keys: &Tensor, values: &Tensor, row: usize) -> Result<()> {
    buffers[0].slice_set(&keys.contiguous()?, 0, row)?;
    Ok(buffers[1].slice_set(&values.contiguous()?, 0, row)?)
}

/// Scores over the vocabulary of residual rows, f32.
fn scores(model: &Model, x: &Tensor) -> Result<Tensor> {
    let hidden = model.text.final_norm(x)?;
    Ok(model.logits(&hidden)?.to_dtype(DType::F32)?)
}
