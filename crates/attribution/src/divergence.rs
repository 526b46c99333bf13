//! Distributions over blocks and how far apart two of them are.
//!
//! `p_b = mass_b / Σ mass` (uniform where all masses are 0), smoothed to
//! `p'_b = (p_b + ε) / Σ (p + ε)`. In nats:
//! `KL(p ‖ q) = Σ p ln(p / q)`, `JS = ½ KL(p ‖ m) + ½ KL(q ‖ m)` with `m = (p + q) / 2`,
//! `TV = ½ Σ |p − q|`.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, finite};

/// Shares of blocks: non-negative, summing to 1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Distribution(Vec<f64>);

impl Distribution {
    /// Normalises masses and smooths them with `eps` (1e-8 is usual; 0 for none).
    ///
    /// # Errors
    /// No masses at all, a negative or non-finite mass or `eps`.
    pub fn new(masses: &[f64], eps: f64) -> Result<Self> {
        if masses.is_empty() {
            return Err(Error::Length {
                what: "masses",
                expected: 1,
                found: 0,
            });
        }
        if !(eps >= 0.0 && eps.is_finite()) {
            return Err(Error::Setting {
                what: "eps",
                why: format!("{eps} is not a finite non-negative number; 1e-8 is usual"),
            });
        }
        for (block, &mass) in masses.iter().enumerate() {
            finite(|| format!("the mass of block {block}"), mass)?;
            if mass < 0.0 {
                return Err(Error::Setting {
                    what: "masses",
                    why: format!("block {block} has the negative mass {mass}; aggregate first"),
                });
            }
        }
        let total: f64 = finite(|| "the sum of masses".to_owned(), masses.iter().sum())?;
        let shares: Vec<f64> = if total == 0.0 {
            vec![1.0 / masses.len() as f64; masses.len()]
        } else {
            masses.iter().map(|mass| mass / total).collect()
        };
        let total: f64 = shares.iter().map(|share| share + eps).sum();
        Ok(Distribution(
            shares
                .into_iter()
                .map(|share| (share + eps) / total)
                .collect(),
        ))
    }

    /// The share of each block.
    pub fn shares(&self) -> &[f64] {
        &self.0
    }
}

/// Which divergence, from the first distribution (the student's) to the second (the teacher's).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Divergence {
    /// `KL(first ‖ second)`.
    Kl,
    /// `KL(second ‖ first)`.
    ReverseKl,
    /// Jensen-Shannon, at most ln 2.
    JensenShannon,
    /// Total variation, at most 1.
    TotalVariation,
}

impl Divergence {
    /// The divergence in nats (total variation: without unit). See [`kl`] for errors.
    pub fn between(self, first: &Distribution, second: &Distribution) -> Result<f64> {
        match self {
            Divergence::Kl => kl(first, second),
            Divergence::ReverseKl => reverse_kl(first, second),
            Divergence::JensenShannon => jensen_shannon(first, second),
            Divergence::TotalVariation => total_variation(first, second),
        }
    }
}

/// `KL(p ‖ q)` in nats.
///
/// # Errors
/// Different numbers of blocks, or a block with share 0 in `q` alone (smooth with a positive eps).
pub fn kl(p: &Distribution, q: &Distribution) -> Result<f64> {
    expect_same(p, q)?;
    let sum = relative_entropy(p.shares().iter().zip(q.shares()).map(|(&p, &q)| (p, q)));
    finite(|| "KL over a block of share 0 (eps = 0?)".to_owned(), sum)
}

/// `KL(q ‖ p)` in nats. Errors as [`kl`].
pub fn reverse_kl(p: &Distribution, q: &Distribution) -> Result<f64> {
    kl(q, p)
}

/// Jensen-Shannon divergence in nats, from 0 to ln 2.
///
/// # Errors
/// Different numbers of blocks.
pub fn jensen_shannon(p: &Distribution, q: &Distribution) -> Result<f64> {
    expect_same(p, q)?;
    let pairs = || p.shares().iter().zip(q.shares());
    let left = relative_entropy(pairs().map(|(&p, &q)| (p, (p + q) / 2.0)));
    let right = relative_entropy(pairs().map(|(&p, &q)| (q, (p + q) / 2.0)));
    Ok((left + right) / 2.0)
}

/// Total variation distance, from 0 to 1.
///
/// # Errors
/// Different numbers of blocks.
pub fn total_variation(p: &Distribution, q: &Distribution) -> Result<f64> {
    expect_same(p, q)?;
    let pairs = p.shares().iter().zip(q.shares());
    Ok(pairs.map(|(p, q)| (p - q).abs()).sum::<f64>() / 2.0)
}

/// `Σ a ln(a / b)`, at least 0: rounding may leave a nearly equal pair at −1e-17.
fn relative_entropy(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    let terms = pairs
        .filter(|(a, _)| *a > 0.0)
        .map(|(a, b)| a * libm::log(a / b));
    let sum: f64 = terms.sum();
    if sum < 0.0 { 0.0 } else { sum }
}

fn expect_same(p: &Distribution, q: &Distribution) -> Result<()> {
    if p.0.len() == q.0.len() {
        return Ok(());
    }
    Err(Error::Length {
        what: "the second distribution",
        expected: p.0.len(),
        found: q.0.len(),
    })
}
