//! Choosing one token from a row of scores.
//!
//! With logits `l`, banned tokens at minus infinity, `p_i = exp(l_i / T) / sum_j exp(l_j / T)`. The
//! draw is by inverse cumulative probability. Top-p keeps the likeliest tokens until the mass of
//! those before a token reaches p (Holtzman et al., arXiv 1904.09751), as candle-transformers'
//! `LogitsProcessor` does, but sorts only tokens that can be kept. The repetition penalty divides
//! positive and multiplies negative logits of every token seen (Keskar et al., arXiv 1909.05858;
//! transformers' `RepetitionPenaltyLogitsProcessor`).

use std::collections::BTreeSet;

use seeded_random::{Draw, Generator, Stream};

use crate::error::{Error, Result};

/// How tokens are chosen, and how many.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationOptions {
    /// Tokens at most, the stop token included.
    pub max_new_tokens: usize,
    /// Softmax temperature; 0 takes the likeliest token.
    pub temperature: f64,
    /// Nucleus mass in `(0, 1]`; none samples from the full distribution.
    pub top_p: Option<f64>,
    /// Penalty on tokens of the prompt and of what was generated; none or 1 does nothing.
    pub repetition_penalty: Option<f32>,
    /// Tokens that end a sample.
    pub stop_ids: Vec<u32>,
}

impl GenerationOptions {
    pub(crate) fn check(&self) -> Result<()> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return Err(Error::Argument(format!(
                "temperature is {}, expected 0 or more",
                self.temperature
            )));
        }
        if let Some(p) = self.top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return Err(Error::Argument(format!(
                "top_p is {p}, expected above 0 and at most 1"
            )));
        }
        let penalty = self.repetition_penalty;
        if let Some(penalty) = penalty.filter(|penalty| !(penalty.is_finite() && *penalty > 0.0)) {
            return Err(Error::Argument(format!(
                "repetition_penalty is {penalty}, expected a positive number"
            )));
        }
        Ok(())
    }
}

/// One sample's choices: its generator and what it has seen.
#[derive(Debug)]
pub(crate) struct Sampler {
    /// None takes the likeliest token.
    generator: Option<Generator>,
    seen: BTreeSet<u32>,
}

impl Sampler {
    pub fn new(seed: Option<u64>, options: &GenerationOptions, prompt: &[u32]) -> Self {
        let seen = match options.repetition_penalty {
            Some(penalty) if penalty != 1.0 => prompt.iter().copied().collect(),
            _ => BTreeSet::new(),
        };
        Sampler {
            generator: seed
                .filter(|_| options.temperature > 0.0)
                .map(|seed| Stream::new(seed).purpose("sampling").generator()),
            seen,
        }
    }

    /// The next token and its log-probability in the full distribution at the temperature (at 1 for
    /// greedy), before penalty and top-p. `banned` is ascending.
    pub fn choose(
        &mut self,
        logits: &[f32],
        banned: &[u32],
        options: &GenerationOptions,
    ) -> Result<(u32, f32)> {
        let mut scores = logits.to_vec();
        for &id in banned {
            if let Some(score) = scores.get_mut(id as usize) {
                *score = f32::NEG_INFINITY;
            }
        }
        let inverse = match self.generator {
            None => 1.0,
            Some(_) => (1.0 / options.temperature) as f32,
        };
        let top = largest(&scores)?;
        let penalty = options.repetition_penalty.filter(|&penalty| penalty != 1.0);
        let plain = penalty.is_some().then(|| scores.clone());
        if let Some(penalty) = penalty {
            for &id in &self.seen {
                if let Some(score) = scores.get_mut(id as usize) {
                    *score = if *score > 0.0 {
                        *score / penalty
                    } else {
                        *score * penalty
                    };
                }
            }
        }
        let total = |weights: &[f32]| weights.iter().map(|&weight| f64::from(weight)).sum::<f64>();
        let (token, log_total) = if let Some(generator) = &mut self.generator {
            let mut chances = weights(&scores, largest(&scores)?, inverse);
            let log_total = libm::log(match &plain {
                Some(plain) => total(&weights(plain, top, inverse)),
                None => total(&chances),
            });
            if let Some(p) = options.top_p.filter(|&p| p < 1.0) {
                keep_nucleus(&mut chances, p);
            }
            let drawn = generator.unit() * total(&chances);
            (inverse_cumulative(&chances, drawn), log_total)
        } else {
            let total = total(&weights(plain.as_ref().unwrap_or(&scores), top, inverse));
            (argmax(&scores), libm::log(total))
        };
        if penalty.is_some() {
            self.seen.insert(token as u32);
        }
        let score = plain.as_ref().unwrap_or(&scores)[token];
        let log_prob = f64::from((score - top) * inverse) - log_total;
        Ok((token as u32, log_prob as f32))
    }
}

/// The largest score; an error where no score is finite, for then the model is broken.
fn largest(scores: &[f32]) -> Result<f32> {
    let broken = scores
        .iter()
        .any(|score| score.is_nan() || *score == f32::INFINITY);
    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if broken || top == f32::NEG_INFINITY {
        return Err(Error::Argument(
            "the model's scores are not finite: its weights or its input are damaged".to_string(),
        ));
    }
    Ok(top)
}

fn argmax(scores: &[f32]) -> usize {
    let mut best = 0;
    for (id, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = id;
        }
    }
    best
}

/// `exp((score - top) / T)`.
fn weights(scores: &[f32], top: f32, inverse: f32) -> Vec<f32> {
    let mut weights: Vec<f32> = scores.iter().map(|score| (score - top) * inverse).collect();
    fused_ops::exp_in_place(&mut weights);
    weights
}

/// Sets to zero what is outside the smallest set of likeliest tokens whose mass reaches `p`.
fn keep_nucleus(chances: &mut [f32], p: f64) {
    let total: f64 = chances.iter().map(|&chance| f64::from(chance)).sum();
    // All tokens below this have less than 1 - p together: they are never kept.
    let floor = (1.0 - p) * total / chances.len() as f64;
    let mut order: Vec<usize> = (0..chances.len())
        .filter(|&id| f64::from(chances[id]) >= floor)
        .collect();
    order.sort_by(|&a, &b| chances[b].total_cmp(&chances[a]));
    let mut before = 0.0;
    let mut kept = 0;
    while kept < order.len() && before < p * total {
        before += f64::from(chances[order[kept]]);
        kept += 1;
    }
    let mut nucleus: Vec<(usize, f32)> =
        order[..kept].iter().map(|&id| (id, chances[id])).collect();
    nucleus.sort_unstable_by_key(|&(id, _)| id);
    chances.fill(0.0);
    for (id, chance) in nucleus {
        chances[id] = chance;
    }
}

/// The first token at which the cumulative weight exceeds `drawn`; never one of weight zero.
fn inverse_cumulative(chances: &[f32], drawn: f64) -> usize {
    let mut cumulative = 0.0;
    let mut last = 0;
    for (id, &chance) in chances.iter().enumerate() {
        if chance > 0.0 {
            cumulative += f64::from(chance);
            last = id;
            if cumulative > drawn {
                break;
            }
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn options(temperature: f64, top_p: Option<f64>, penalty: Option<f32>) -> GenerationOptions {
        GenerationOptions {
            max_new_tokens: 1,
            temperature,
            top_p,
            repetition_penalty: penalty,
            stop_ids: vec![],
        }
    }

    #[test]
    fn frequencies_follow_the_temperature() {
        let logits = [0.0, 1.0, 2.0, 5.0];
        let options = options(2.0, None, None);
        let mut counts = [0usize; 4];
        let mut sampler = Sampler::new(Some(3), &options, &[]);
        let draws = 20_000;
        for _ in 0..draws {
            let (token, log_prob) = sampler.choose(&logits, &[3], &options).unwrap();
            counts[token as usize] += 1;
            let z: f64 = [0.0, 0.5, 1.0].iter().map(|v: &f64| v.exp()).sum();
            let expected = f64::from(logits[token as usize]) / 2.0 - z.ln();
            assert!((f64::from(log_prob) - expected).abs() < 1e-6);
        }
        assert_eq!(counts[3], 0);
        let z: f64 = [0.0, 0.5, 1.0].iter().map(|v: &f64| v.exp()).sum();
        for (token, half) in [0.0, 0.5, 1.0f64].iter().enumerate() {
            let share = counts[token] as f64 / draws as f64;
            assert!((share - half.exp() / z).abs() < 0.015, "{counts:?}");
        }
    }

    #[test]
    fn top_p_keeps_the_smallest_set() {
        let mut chances = [0.1, 0.5, 0.05, 0.35];
        keep_nucleus(&mut chances, 0.6);
        assert_eq!(chances, [0.0, 0.5, 0.0, 0.35]);
        let mut chances = [0.1, 0.5, 0.05, 0.35];
        keep_nucleus(&mut chances, 0.4);
        assert_eq!(chances, [0.0, 0.5, 0.0, 0.0]);
    }

    #[test]
    fn the_penalty_moves_the_choice_but_not_the_log_prob() {
        let options = options(0.0, None, Some(2.0));
        let mut sampler = Sampler::new(Some(0), &options, &[1]);
        let (token, log_prob) = sampler.choose(&[1.5, 2.0, -1.0], &[], &options).unwrap();
        assert_eq!(token, 0);
        let z: f64 = [1.5, 2.0, -1.0].iter().map(|v: &f64| v.exp()).sum();
        assert!((f64::from(log_prob) - (1.5 - z.ln())).abs() < 1e-6);
        assert!(sampler.seen.contains(&0));
    }

    #[test]
    fn broken_scores_are_an_error() {
        let options = options(1.0, None, None);
        let mut sampler = Sampler::new(Some(0), &options, &[]);
        assert!(sampler.choose(&[f32::NAN, 1.0], &[], &options).is_err());
        assert!(sampler.choose(&[0.0], &[0], &options).is_err());
        assert!(
            super::GenerationOptions {
                temperature: -1.0,
                ..options.clone()
            }
            .check()
            .is_err()
        );
        assert!(
            super::GenerationOptions {
                top_p: Some(0.0),
                ..options.clone()
            }
            .check()
            .is_err()
        );
        assert!(
            super::GenerationOptions {
                repetition_penalty: Some(0.0),
                ..options
            }
            .check()
            .is_err()
        );
    }

    proptest! {
        #[test]
        fn a_nucleus_is_never_empty_and_reaches_its_mass(
            chances in proptest::collection::vec(0.0f32..1.0, 1..40), p in 0.01f64..1.0,
        ) {
            prop_assume!(chances.iter().sum::<f32>() > 0.0);
            let total: f64 = chances.iter().map(|&c| f64::from(c)).sum();
            let mut kept = chances.clone();
            keep_nucleus(&mut kept, p);
            let mass: f64 = kept.iter().map(|&c| f64::from(c)).sum();
            prop_assert!(mass >= p * total * (1.0 - 1e-9));
            let smallest = kept.iter().copied().filter(|&c| c > 0.0).fold(f32::MAX, f32::min);
            prop_assert!(mass - f64::from(smallest) < p * total);
            let drawn = inverse_cumulative(&kept, 0.999_999 * mass);
            prop_assert!(kept[drawn] > 0.0);
        }
    }
}
