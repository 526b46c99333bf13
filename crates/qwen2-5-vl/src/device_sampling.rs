//! Choosing tokens where the scores are, for all samples of a step, composed of operators of every
//! device.
//!
//! With scores `x = l / T` (banned ones at minus infinity) the weight of token i is the whole number
//! `w_i = ⌊e^(x_i − max x) · 2^b⌋`, b so that any sum of weights is below 2⁵²: sums in f64 are then
//! exact in every order, and the same token is chosen by every device that gives the same weights.
//! With u in [0, 1) of the sample's own stream, `d = ⌊u Σ w⌋` and the first token whose cumulative
//! weight exceeds d is drawn, by blocks of the vocabulary first. Top-p sets to zero all weights below
//! the largest threshold t with `Σ_{w ≥ t} w ≥ p Σ w`, found bit by bit.
//!
//! Deviations from [`crate::sampling`], whose draws are the same but for rounding: weights below 2^-b
//! of the likeliest token are never drawn, and tokens as likely as the last of the nucleus all stay.

use candle_core::{D, DType, Device, Tensor};
use seeded_random::{Draw, Generator, Stream};

use crate::error::{Error, Result};
use crate::sampling::GenerationOptions;

/// Ids of a block of the vocabulary.
const BLOCK: usize = 512;
/// Scores that are held at once in f64: 128 MiB.
const ELEMENTS: usize = 1 << 24;

/// A sample's draws; none takes the likeliest token.
pub(crate) type Draws = Option<Generator>;

/// The draws of a sample with a seed: those of [`crate::sampling::Sampler`].
pub(crate) fn draws(seed: Option<u64>, options: &GenerationOptions) -> Draws {
    let seed = seed.filter(|_| options.temperature > 0.0)?;
    Some(Stream::new(seed).purpose("sampling").generator())
}

/// What a step chose.
pub(crate) struct Chosen {
    /// (samples) u32, where the scores are.
    pub tokens: Tensor,
    /// The same and the log-probabilities at the temperature (at 1 for greedy), before top-p.
    pub on_host: Vec<(u32, f32)>,
}

/// What a generation's choices share.
pub(crate) struct DeviceSampler {
    /// 0, or minus infinity for banned ids, (vocab).
    mask: Tensor,
    vocab: usize,
    temperature: f64,
    top_p: Option<f64>,
    /// b of the module's equation.
    bits: u32,
    /// (n, n): 1 where the row is not after the column, for cumulative sums; of a block, of all blocks.
    within: Tensor,
    between: Tensor,
}

impl DeviceSampler {
    pub fn new(
        banned: &[u32],
        vocab: usize,
        options: &GenerationOptions,
        device: &Device,
    ) -> Result<Self> {
        let mut mask = vec![0f32; vocab];
        for &id in banned {
            if let Some(score) = mask.get_mut(id as usize) {
                *score = f32::NEG_INFINITY;
            }
        }
        let triangle = |n: usize| -> Result<Tensor> {
            let places = Tensor::arange(0u32, n as u32, device)?;
            let upper = places.unsqueeze(1)?.broadcast_le(&places.unsqueeze(0)?)?;
            Ok(upper.to_dtype(DType::F64)?)
        };
        Ok(DeviceSampler {
            mask: Tensor::from_vec(mask, vocab, device)?,
            vocab,
            temperature: options.temperature,
            top_p: options.top_p.filter(|&p| p < 1.0),
            bits: 52 - vocab.max(2).next_power_of_two().ilog2(),
            within: triangle(BLOCK)?,
            between: triangle(vocab.div_ceil(BLOCK))?,
        })
    }

    /// A token for each row of `logits` `(samples, vocab)` f32. One small copy comes to the host.
    ///
    /// Fails when scores are not finite.
    pub fn choose(&self, logits: &Tensor, draws: &mut [&mut Draws]) -> Result<Chosen> {
        let rows = (ELEMENTS / self.vocab).max(1);
        let mut found = Vec::new();
        for (index, draws) in draws.chunks_mut(rows).enumerate() {
            let logits = logits.narrow(0, index * rows, draws.len())?;
            found.push(self.choose_rows(&logits, draws)?);
        }
        // (samples, 3): token, log-probability, and 0 where all scores were finite.
        let found = Tensor::cat(&found, 0)?;
        let mut on_host = Vec::with_capacity(draws.len());
        for row in found.to_vec2::<f64>()? {
            let [token, log_prob, check] = row[..] else {
                continue;
            };
            if check != 0.0 || !log_prob.is_finite() {
                return Err(Error::Argument(
                    "the model's scores are not finite: its weights or its input are damaged"
                        .to_string(),
                ));
            }
            on_host.push((token as u32, log_prob as f32));
        }
        let tokens = found.narrow(1, 0, 1)?.to_dtype(DType::U32)?.flatten_all()?;
        Ok(Chosen { tokens, on_host })
    }

    fn choose_rows(&self, logits: &Tensor, draws: &mut [&mut Draws]) -> Result<Tensor> {
        let device = logits.device();
        let column = |values: Vec<f64>| Tensor::from_vec(values, ((), 1), device);
        let sampled: Vec<bool> = draws.iter().map(|draw| draw.is_some()).collect();
        let units = draws
            .iter_mut()
            .map(|draw| draw.as_mut().map_or(0.0, Draw::unit));
        let units = column(units.collect())?;
        let inverse = sampled.iter().map(|&sampled| match sampled {
            true => 1.0 / self.temperature,
            false => 1.0,
        });
        let inverse = column(inverse.collect())?.to_dtype(DType::F32)?;
        // 0 · x is NaN where x is not finite.
        let check = (logits * 0.0)?.sum_keepdim(1)?.to_dtype(DType::F64)?;
        let masked = logits.broadcast_add(&self.mask)?;
        let top = masked.max_keepdim(1)?;
        let below = masked.broadcast_sub(&top)?.broadcast_mul(&inverse)?;
        let chances = fused_ops::exp(&below)?;
        let log_total = chances.to_dtype(DType::F64)?.sum_keepdim(1)?.log()?;
        let weights = (chances * 2f64.powi(self.bits as i32))?
            .floor()?
            .to_dtype(DType::F64)?;
        let weights = match self.top_p {
            Some(p) => self.nucleus(weights, p)?,
            None => weights,
        };
        let weights = match sampled.contains(&false) {
            true => {
                let greedy = sampled.iter().map(|&sampled| f64::from(u8::from(!sampled)));
                let greedy = column(greedy.collect())?;
                let likeliest = masked.broadcast_eq(&top)?.to_dtype(DType::F64)?;
                // One or the other, exactly.
                let drawn = weights.broadcast_mul(&(1.0 - &greedy)?)?;
                (drawn + likeliest.broadcast_mul(&greedy)?)?
            }
            false => weights,
        };
        let tokens = self.inverse_cumulative(&weights, &units)?;
        let chosen = below.gather(&tokens.to_dtype(DType::U32)?, 1)?;
        let log_probs = (chosen.to_dtype(DType::F64)? - log_total)?;
        Ok(Tensor::cat(&[&tokens, &log_probs, &check], 1)?)
    }

    /// Weights (rows, vocab) with those outside the nucleus at zero.
    fn nucleus(&self, weights: Tensor, p: f64) -> Result<Tensor> {
        let wanted = (weights.sum_keepdim(1)? * p)?;
        let mut threshold = wanted.zeros_like()?;
        for bit in (0..=self.bits).rev() {
            let higher = (&threshold + 2f64.powi(bit as i32))?;
            let kept = weights.broadcast_ge(&higher)?.to_dtype(DType::F64)?;
            let enough = (kept * &weights)?.sum_keepdim(1)?.ge(&wanted)?;
            threshold = enough.where_cond(&higher, &threshold)?;
        }
        let kept = weights.broadcast_ge(&threshold)?.to_dtype(DType::F64)?;
        Ok((kept * weights)?)
    }

    /// For each row the first token whose cumulative weight exceeds ⌊unit · total⌋, (rows, 1) f64.
    fn inverse_cumulative(&self, weights: &Tensor, units: &Tensor) -> Result<Tensor> {
        let rows = weights.dim(0)?;
        let blocks = self.vocab.div_ceil(BLOCK);
        let weights = weights
            .pad_with_zeros(1, 0, blocks * BLOCK - self.vocab)?
            .reshape((rows, blocks, BLOCK))?;
        let of_blocks = weights.sum(D::Minus1)?;
        let drawn = (of_blocks.sum_keepdim(1)? * units)?.floor()?;
        let passed = fused_ops::matmul(&of_blocks, &self.between)?
            .broadcast_le(&drawn)?
            .to_dtype(DType::F64)?;
        let left = (drawn - (of_blocks * &passed)?.sum_keepdim(1)?)?;
        let block = passed.sum_keepdim(1)?;
        let index = block
            .to_dtype(DType::U32)?
            .unsqueeze(2)?
            .broadcast_as((rows, 1, BLOCK))?
            .contiguous()?;
        let within = weights.contiguous()?.gather(&index, 1)?.squeeze(1)?;
        let place = fused_ops::matmul(&within, &self.within)?
            .broadcast_le(&left)?
            .to_dtype(DType::F64)?
            .sum_keepdim(1)?;
        Ok(((block * BLOCK as f64)? + place)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::Sampler;

    fn options(temperature: f64, top_p: Option<f64>) -> GenerationOptions {
        GenerationOptions {
            max_new_tokens: 1,
            temperature,
            top_p,
            repetition_penalty: None,
            stop_ids: vec![],
        }
    }

    /// The module's equation in plain loops over one row.
    fn twin(logits: &[f32], banned: &[u32], options: &GenerationOptions, unit: Option<f64>) -> u32 {
        let bits = 52 - logits.len().max(2).next_power_of_two().ilog2();
        let banned = |id: usize| banned.contains(&(id as u32));
        let top = (0..logits.len())
            .filter(|&id| !banned(id))
            .fold(f32::NEG_INFINITY, |most, id| most.max(logits[id]));
        let Some(unit) = unit else {
            let likeliest = (0..logits.len()).find(|&id| !banned(id) && logits[id] == top);
            return likeliest.unwrap() as u32;
        };
        let inverse = (1.0 / options.temperature) as f32;
        let mut weights: Vec<u64> = (0..logits.len())
            .map(|id| match banned(id) {
                true => 0,
                false => (libm::expf((logits[id] - top) * inverse) * 2f32.powi(bits as i32)) as u64,
            })
            .collect();
        if let Some(p) = options.top_p {
            let wanted = weights.iter().sum::<u64>() as f64 * p;
            let mut sorted = weights.clone();
            sorted.sort_unstable_by(|a, b| b.cmp(a));
            let mut sum = 0;
            let last = sorted.iter().find(|&&weight| {
                sum += weight;
                sum as f64 >= wanted
            });
            let threshold = *last.unwrap();
            weights.iter_mut().for_each(|weight| {
                if *weight < threshold {
                    *weight = 0;
                }
            });
        }
        let drawn = (weights.iter().sum::<u64>() as f64 * unit).floor() as u64;
        let mut cumulative = 0;
        let found = weights.iter().position(|weight| {
            cumulative += weight;
            cumulative > drawn
        });
        found.unwrap() as u32
    }

    /// Rows of scores of several spreads, with a vocabulary of more than a block and a part of one.
    #[test]
    fn the_operators_choose_what_plain_loops_choose() {
        const VOCAB: usize = 1300;
        let banned = [0, 700, 1299];
        let mut noise = Stream::new(5).generator();
        let rows: Vec<Vec<f32>> = (0..60)
            .map(|row| {
                let spread = [0.01, 1.0, 5.0, 30.0][row % 4];
                (0..VOCAB)
                    .map(|_| (noise.normal() * spread) as f32)
                    .collect()
            })
            .collect();
        let logits = Tensor::new(rows.clone(), &Device::Cpu).unwrap();
        let (mut same, mut all) = (0, 0);
        for (temperature, top_p) in [(1.0, None), (0.7, Some(0.9)), (1.0, Some(0.02))] {
            let options = options(temperature, top_p);
            let sampler = DeviceSampler::new(&banned, VOCAB, &options, &Device::Cpu).unwrap();
            // Every fifth is greedy.
            let seeds = (0..60u64).map(|row| (row % 5 != 0).then_some(row));
            let seeds: Vec<Option<u64>> = seeds.collect();
            let mut own: Vec<Draws> = seeds.iter().map(|&seed| draws(seed, &options)).collect();
            let mut twins = own.clone();
            let mut samplers: Vec<Sampler> = seeds
                .iter()
                .map(|&seed| Sampler::new(seed, &options, &[]))
                .collect();
            for _ in 0..20 {
                let mut of_rows: Vec<&mut Draws> = own.iter_mut().collect();
                let chosen = sampler.choose(&logits, &mut of_rows).unwrap();
                let tokens: Vec<u32> = chosen.tokens.to_vec1().unwrap();
                for (row, (token, log_prob)) in chosen.on_host.into_iter().enumerate() {
                    let unit = twins[row].as_mut().map(Draw::unit);
                    assert_eq!(
                        token,
                        twin(&rows[row], &banned, &options, unit),
                        "row {row}"
                    );
                    assert_eq!(token, tokens[row]);
                    let (other, expected) =
                        samplers[row].choose(&rows[row], &banned, &options).unwrap();
                    all += 1;
                    if other == token {
                        same += 1;
                        assert!((log_prob - expected).abs() < 1e-5 * (1.0 + expected.abs()));
                    }
                }
            }
        }
        // The sampler of other paths draws the same but where rounding decides.
        assert!(same * 1000 >= all * 999, "{same} of {all}");
    }

    #[test]
    fn broken_scores_are_an_error() {
        let options = options(1.0, None);
        let sampler = DeviceSampler::new(&[], 3, &options, &Device::Cpu).unwrap();
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let logits = Tensor::new(&[[0.0, wrong, 1.0]], &Device::Cpu).unwrap();
            let mut draw = draws(Some(1), &options);
            assert!(
                sampler.choose(&logits, &mut [&mut draw]).is_err(),
                "{wrong}"
            );
        }
    }
}
