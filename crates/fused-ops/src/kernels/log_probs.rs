//! Log-probabilities of given tokens, and their gradients, a piece of the vocabulary at a time.
//!
//! Forward: running maximum, sum and weighted sum of each token's logits (the recurrence of
//! [`super::softmax`]). Backward: with p recomputed from the saved log-sum-exp,
//! `d logit_j = g (1[j = target] − p_j) / T`. The logits of all tokens and the whole vocabulary
//! never exist at once.

use super::gemm::{Matrix, Start, gemm};
use super::memory::{Buffer, Pointer, parallel_chunks};
use super::softmax::{BANNED, RowState, observe, scale, weigh};

/// Values of a piece of the logits: 4 MiB.
const PIECE: usize = 1024 * 1024;
/// Tokens of a task.
const TASK_ROWS: usize = 32;

/// What the log-probabilities are of.
pub(crate) struct Problem<'a> {
    /// (tokens, size)
    pub(crate) hidden: &'a [f32],
    /// (vocab, size)
    pub(crate) weight: &'a [f32],
    pub(crate) size: usize,
    /// (tokens)
    pub(crate) targets: &'a [u32],
    /// Sorted, each once.
    pub(crate) banned: &'a [u32],
    pub(crate) temperature: f32,
}

impl Problem<'_> {
    fn tokens(&self) -> usize {
        self.targets.len()
    }

    fn vocab(&self) -> usize {
        self.weight.len() / self.size
    }

    /// Ids of a piece.
    fn piece(&self) -> usize {
        (PIECE / self.tokens()).max(64).min(self.vocab())
    }

    /// Puts the logits of ids first..first + ids, divided by the temperature, at `to`, then runs
    /// `row(token, logits)` for each token on the thread pool.
    ///
    /// # Safety
    /// `to` has room for tokens · ids values.
    unsafe fn logits(
        &self,
        first: usize,
        ids: usize,
        to: Pointer,
        row: impl Fn(usize, *mut f32) + Sync + Send,
    ) {
        let weight = &self.weight[first * self.size..(first + ids) * self.size];
        // SAFETY: as the caller promises.
        unsafe {
            gemm(
                (self.tokens(), ids, self.size),
                Matrix::rows(self.hidden, self.size),
                Matrix::rows(weight, self.size).transposed(),
                Start::Zero,
                to,
            );
        }
        let from = self.banned.partition_point(|&id| (id as usize) < first);
        let until = self
            .banned
            .partition_point(|&id| (id as usize) < first + ids);
        let banned = &self.banned[from..until];
        let factor = 1.0 / self.temperature;
        parallel_chunks(self.tokens(), TASK_ROWS, |start, end| {
            for token in start..end {
                // SAFETY: the row lies within the piece and belongs to this task.
                unsafe {
                    let logits = to.at(token * ids);
                    if factor != 1.0 {
                        scale(ids, factor, logits);
                    }
                    for &id in banned {
                        *logits.add(id as usize - first) = BANNED;
                    }
                    row(token, logits);
                }
            }
        });
    }
}

/// Gives log-probabilities, log-sum-exps and entropies, each (tokens).
pub(crate) fn forward(problem: &Problem) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let piece = problem.piece();
    let mut buffer = Buffer::new(problem.tokens() * piece);
    let logits = buffer.pointer();
    let mut states = vec![RowState::EMPTY; problem.tokens()];
    let shared = States(states.as_mut_ptr());
    for first in (0..problem.vocab()).step_by(piece) {
        let ids = piece.min(problem.vocab() - first);
        // SAFETY: the buffer has room for a piece; each token has a state of its own.
        unsafe {
            problem.logits(first, ids, logits, |token, row| {
                let state = shared.at(token);
                observe(ids, row, state);
                let target = problem.targets[token] as usize;
                if (first..first + ids).contains(&target) {
                    state.target = *row.add(target - first);
                }
            });
        }
    }
    let log_sums: Vec<f32> = states.iter().map(RowState::log_sum).collect();
    let log_probs = states
        .iter()
        .zip(&log_sums)
        .map(|(state, sum)| state.target - sum);
    (
        log_probs.collect(),
        log_sums.clone(),
        states.iter().map(RowState::entropy).collect(),
    )
}

/// The states of the rows, shared among tasks.
struct States(*mut RowState);

// SAFETY: tasks reach states through `at` alone, whose caller keeps them apart.
unsafe impl Sync for States {}
// SAFETY: likewise.
unsafe impl Send for States {}

impl States {
    /// # Safety
    /// No two tasks may ask for the same row.
    #[allow(clippy::mut_from_ref)]
    unsafe fn at(&self, row: usize) -> &mut RowState {
        // SAFETY: the row exists, and no other task has it, as the caller promises.
        unsafe { &mut *self.0.add(row) }
    }
}

/// The gradients of hidden and weight, where wanted.
pub(crate) fn backward(
    problem: &Problem,
    log_sums: &[f32],
    grad: &[f32],
    wants_hidden: bool,
    wants_weight: bool,
) -> (Option<Vec<f32>>, Option<Vec<f32>>) {
    let piece = problem.piece();
    let (tokens, size) = (problem.tokens(), problem.size);
    let mut buffer = Buffer::new(tokens * piece);
    let logits = buffer.pointer();
    let mut hidden_grad = wants_hidden.then(|| Buffer::new(problem.hidden.len()));
    let mut weight_grad = wants_weight.then(|| Buffer::new(problem.weight.len()));
    for first in (0..problem.vocab()).step_by(piece) {
        let ids = piece.min(problem.vocab() - first);
        // SAFETY: the buffers have room; every value of the piece is written before the products
        // read it, the first piece overwrites the gradient of hidden, and each piece writes
        // rows of its own of the gradient of the weight.
        unsafe {
            problem.logits(first, ids, logits, |token, row| {
                let factor = grad[token] / problem.temperature;
                weigh(ids, log_sums[token], -factor, row);
                let target = problem.targets[token] as usize;
                if (first..first + ids).contains(&target) {
                    *row.add(target - first) += factor;
                }
            });
            let slopes = std::slice::from_raw_parts(logits.at(0), tokens * ids);
            let slopes = Matrix::rows(slopes, ids);
            if let Some(to) = &mut hidden_grad {
                let weight = &problem.weight[first * size..(first + ids) * size];
                let start = if first == 0 {
                    Start::Zero
                } else {
                    Start::Current
                };
                let weight = Matrix::rows(weight, size);
                gemm((tokens, size, ids), slopes, weight, start, to.pointer());
            }
            if let Some(to) = &mut weight_grad {
                let to = Pointer::of(to.pointer().at(first * size));
                let hidden = Matrix::rows(problem.hidden, size);
                gemm(
                    (ids, size, tokens),
                    slopes.transposed(),
                    hidden,
                    Start::Zero,
                    to,
                );
            }
        }
    }
    // SAFETY: the pieces cover the vocabulary, and each wrote all of its share.
    unsafe {
        (
            hidden_grad.map(|buffer| buffer.filled()),
            weight_grad.map(|buffer| buffer.filled()),
        )
    }
}
