//! F of the calls of a prompt, and its gradient, at points of the prompt's path.
//!
//! The prompt is run once a point for all its calls, but for its last token, which predicts a call's first
//! and is run with it. On a processor the calls go on from there in one pass, and their gradients go back
//! through the prompt together; on a card one call follows the other, whose activations are all that is
//! held beside the prompt's.

use candle_core::{D, Tensor};
use fused_ops::{AttentionLayout, QueryBlock};
use qwen2_5_vl::{Model, Positions, Prefix};

use crate::Result;
use crate::called_prompt::{AttributedCall, CalledPrompt};

/// F of a call at some points, and its gradient.
pub(crate) struct CallGradient {
    /// (points)
    pub(crate) values: Tensor,
    /// (points, prompt, hidden)
    pub(crate) gradients: Tensor,
}

/// Every call of a prompt at `points` (points, prompt, hidden) of its path; `counts` says of a token's
/// being content whether it is attributed.
pub(crate) fn call_gradients(
    model: &Model,
    called: &CalledPrompt<'_>,
    points: &Tensor,
    counts: impl Fn(bool) -> bool,
) -> Result<Vec<CallGradient>> {
    let prompt = &called.prompt.prompt;
    let positions = model.positions(&prompt.input_ids, &prompt.grids)?;
    let points = points.detach();
    let (count, tokens, hidden) = points.dims3()?;
    let before = tokens.saturating_sub(1);
    let own = positions.narrow(0..before)?;
    let prefix = model.prefix(
        &points
            .narrow(1, 0, before)?
            .reshape((count * before, hidden))?,
        &Positions::concat(std::iter::repeat_n(&own, count)),
        &AttentionLayout::causal(&vec![before; count]),
    )?;
    let continued = Continued {
        model,
        last: points.narrow(1, before, 1)?,
        prefix,
        positions,
        before,
    };
    let together = match model.device().is_cpu() {
        true => called.calls.len(),
        false => 1,
    };
    let mut found = Vec::with_capacity(called.calls.len());
    for calls in called.calls.chunks(together.max(1)) {
        found.extend(continued.by(calls, &counts)?);
    }
    Ok(found)
}

/// A prompt that was run at some points but for its last token.
struct Continued<'a> {
    model: &'a Model,
    prefix: Prefix,
    positions: Positions,
    /// Tokens that were run.
    before: usize,
    /// The last token's embedding (points, 1, hidden).
    last: Tensor,
}

impl Continued<'_> {
    /// The prompt's last token and calls after it, in one pass: the points of a call one after the other.
    fn by(
        &self,
        calls: &[AttributedCall<'_>],
        counts: impl Fn(bool) -> bool,
    ) -> Result<Vec<CallGradient>> {
        let (count, _, hidden) = self.last.dims3()?;
        let prompts = calls.len() * count * self.before;
        let (mut parts, mut positions, mut blocks) = (Vec::new(), Vec::new(), Vec::new());
        let (mut targets, mut weights) = (Vec::new(), Vec::new());
        let (mut starts, mut rows) = (Vec::new(), 0);
        for (index, call) in calls.iter().enumerate() {
            let length = call.token_ids.len();
            parts.push(self.embedded(call)?.reshape((count * length, hidden))?);
            let mut own = self.positions.narrow(self.before..self.before + 1)?;
            own.extend(&Positions::text(self.positions.next(), length - 1));
            starts.push(rows);
            for point in 0..count {
                let first = (index * count + point) * self.before;
                let prompt = first..first + self.before;
                blocks.push(QueryBlock {
                    queries: rows..rows + length,
                    visible: vec![prompt],
                    causal: Some(prompts + rows),
                });
                rows += length;
                positions.push(own.clone());
                targets.extend_from_slice(call.token_ids);
            }
            let own = call.content.iter();
            weights.push(own.map(|&content| f32::from(counts(content))).collect());
        }
        let after = self.model.continuations(
            &self.prefix,
            calls.len(),
            &Tensor::cat(&parts, 0)?,
            &Positions::concat(&positions),
            &AttentionLayout::new(blocks, rows, prompts + rows)?,
        )?;
        let scored = self.model.token_log_probs(after.hidden(), &targets, 1.0)?;
        let values = weights.into_iter().zip(&starts);
        let values = values.map(|(weights, &start): (Vec<f32>, _)| {
            let length = weights.len();
            let weights = Tensor::from_vec(weights, (1, length), self.model.device())?;
            let own = scored.log_probs.narrow(0, start, count * length)?;
            let own = own.reshape((count, length))?.broadcast_mul(&weights)?;
            Ok(own.sum(D::Minus1)?)
        });
        let values: Vec<Tensor> = values.collect::<Result<_>>()?;
        let gradients = Tensor::cat(&values, 0)?.sum_all()?.backward()?;
        let [of_prefix, of_rows] = self.prefix.backward(&after, &gradients)?;
        let calls = calls.iter().zip(values).zip(starts).enumerate();
        calls
            .map(|(index, ((call, values), start))| {
                let length = call.token_ids.len();
                let of_last = of_rows.narrow(0, start, count * length)?;
                let of_last = of_last.reshape((count, length, hidden))?.narrow(1, 0, 1)?;
                let others = of_prefix.get(index)?;
                let others = others.reshape((count, self.before, hidden))?;
                Ok(CallGradient {
                    values,
                    gradients: Tensor::cat(&[others, of_last], 1)?,
                })
            })
            .collect()
    }

    /// The input embeddings of the prompt's last token and a call but for its last, (points, tokens,
    /// hidden).
    fn embedded(&self, call: &AttributedCall<'_>) -> Result<Tensor> {
        let (count, _, hidden) = self.last.dims3()?;
        let others = call.token_ids.len() - 1;
        if others == 0 {
            return Ok(self.last.clone());
        }
        let words = self.model.embed(&call.token_ids[..others], None)?;
        let words = words.detach().unsqueeze(0)?;
        let words = words.expand((count, others, hidden))?;
        Ok(Tensor::cat(&[&self.last, &words], 1)?)
    }
}
