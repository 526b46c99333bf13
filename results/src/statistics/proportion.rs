//! One proportion, and two on the same questions.
//!
//! - Wilson (1927): the `p` with `|p̂ − p| ≤ z · √(p (1 − p) / n)`; unlike the bootstrap it has a
//!   width when every answer is right.
//! - McNemar (1947) on the discordant pairs `b` and `c`: exact `2 · P(X ≤ min(b, c))` with
//!   `X ~ Binomial(b + c, 1/2)`, at most 1; mid-p takes away half of each tail's last term
//!   (Lancaster 1961), which undoes the exact test's excess of caution.

//! - P(X > Y) as rliable has it (Agarwal et al. 2021, arXiv 2108.13264): over all pairs of a run of
//!   X and a run of Y on one task, the share in which X is ahead, ties half (Mann-Whitney's U over
//!   n·m), averaged over tasks. Here a run is a seed and a task a set.

use super::level::Z_LEVEL;

/// The 95 % Wilson interval of `right` out of `n`, within [0, 1]; (0, 1) for `n` = 0.
pub fn wilson(right: f64, n: f64) -> (f64, f64) {
    if n <= 0.0 {
        return (0.0, 1.0);
    }
    let (share, z2) = (right / n, Z_LEVEL * Z_LEVEL);
    let center = (share + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z_LEVEL / (1.0 + z2 / n) * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    // At the ends the bound is the end itself, which rounding misses by a few 1e-17.
    let low = if right <= 0.0 {
        0.0
    } else {
        (center - half).max(0.0)
    };
    let high = if right >= n {
        1.0
    } else {
        (center + half).min(1.0)
    };
    (low, high)
}

/// McNemar's test of two arms on the same questions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct McNemar {
    /// Questions that only the first arm answers rightly.
    pub only_first: u64,
    /// Questions that only the second arm answers rightly.
    pub only_second: u64,
    /// The exact two-sided p-value.
    pub exact: f64,
    /// The mid-p value.
    pub mid: f64,
}

/// McNemar's test from the two counts of discordant questions. Questions count as independent:
/// clustering by figure is the bootstrap's matter.
pub fn mcnemar(only_first: u64, only_second: u64) -> McNemar {
    let n = only_first + only_second;
    let fewer = only_first.min(only_second);
    // ln of C(n, k) / 2^n, by recurrence from k = 0.
    let mut log_term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = log_term.exp();
    for k in 1..=fewer {
        log_term += (((n - k + 1) as f64) / (k as f64)).ln();
        tail += log_term.exp();
    }
    let last = log_term.exp();
    let (exact, mid) = if n == 0 {
        (1.0, 1.0)
    } else {
        (2.0 * tail, 2.0 * tail - last)
    };
    McNemar {
        only_first,
        only_second,
        exact: exact.min(1.0),
        mid: mid.min(1.0),
    }
}

/// P(X > Y): `first[task][run]` against `second[task][run]`; `None` where a task has no run.
pub fn probability_of_improvement(first: &[Vec<f64>], second: &[Vec<f64>]) -> Option<f64> {
    let mut sum = 0.0;
    for (x, y) in first.iter().zip(second) {
        if x.is_empty() || y.is_empty() {
            return None;
        }
        let ahead: f64 = x
            .iter()
            .flat_map(|one| y.iter().map(move |other| one - other))
            // Accuracies that are the same count of right answers are equal to the last bit.
            .map(|difference| match difference {
                above if above > 0.0 => 1.0,
                0.0 => 0.5,
                _ => 0.0,
            })
            .sum();
        sum += ahead / (x.len() * y.len()) as f64;
    }
    let tasks = first.len().min(second.len());
    (tasks > 0).then(|| sum / tasks as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // scipy 1.17.1:
    //   ci = stats.binomtest(k, n).proportion_ci(0.95, "wilson")
    const WILSON: [(u32, u32, f64, f64); 5] = [
        (0, 10, 0.0, 0.27753279986288926),
        (10, 10, 0.7224672001371109, 1.0),
        (7, 10, 0.39677814746114526, 0.892208732593699),
        (263, 500, 0.4822016483694956, 0.5694018859265038),
        (1, 1, 0.20654931437723745, 1.0),
    ];

    // scipy 1.17.1, n = b + c, m = min(b, c):
    //   exact = stats.binomtest(m, n).pvalue
    //   mid = min(1, 2 * stats.binom.cdf(m, n, 0.5) - stats.binom.pmf(m, n, 0.5))
    const MCNEMAR: [(u64, u64, f64, f64); 5] = [
        (0, 0, 1.0, 1.0),
        (3, 9, 0.14599609375, 0.09228515624999999),
        (12, 12, 1.0, 1.0),
        (1, 20, 2.09808349609375e-05, 1.0967254638671865e-05),
        (40, 25, 0.08168153394154003, 0.06401750413722561),
    ];

    #[test]
    fn wilson_equals_scipy() {
        for (right, n, low, high) in WILSON {
            let found = wilson(f64::from(right), f64::from(n));
            assert!(
                (found.0 - low).abs() < 1e-12 && (found.1 - high).abs() < 1e-12,
                "{right}/{n}: {found:?}"
            );
        }
        assert_eq!(wilson(0.0, 0.0), (0.0, 1.0));
    }

    #[test]
    fn probability_of_improvement_is_rliables() {
        // scipy 1.17.1: np.mean([mannwhitneyu(x, y).statistic / (len(x) * len(y)) for x, y in tasks])
        let x = [vec![0.5, 0.6, 0.7], vec![0.1, 0.2, 0.3]];
        let y = [vec![0.5, 0.65], vec![0.3, 0.4]];
        let found = probability_of_improvement(&x, &y).unwrap();
        assert!(
            (found - (3.5 / 6.0 + 0.5 / 6.0) / 2.0).abs() < 1e-15,
            "{found}"
        );
        assert_eq!(probability_of_improvement(&x, &x), Some(0.5));
        assert_eq!(probability_of_improvement(&[vec![]], &[vec![1.0]]), None);
    }

    #[test]
    fn mcnemar_equals_scipy() {
        for (first, second, exact, mid) in MCNEMAR {
            let found = mcnemar(first, second);
            assert!(
                (found.exact - exact).abs() < 1e-12 && (found.mid - mid).abs() < 1e-12,
                "{found:?}"
            );
        }
        // 2^-n underflows here; the tail must not become NaN.
        let far = mcnemar(1500, 1800);
        assert!(far.exact > 0.0 && far.exact < 1e-6, "{far:?}");
    }

    proptest! {
        #[test]
        fn wilson_holds_the_share(n in 1u32..5000, part in 0.0f64..=1.0) {
            let right = (f64::from(n) * part).floor();
            let (low, high) = wilson(right, f64::from(n));
            prop_assert!(0.0 <= low && low < high && high <= 1.0);
            prop_assert!(low <= right / f64::from(n) && right / f64::from(n) <= high);
        }

        #[test]
        fn mcnemar_is_symmetric_and_a_probability(first in 0u64..400, second in 0u64..400) {
            let (a, b) = (mcnemar(first, second), mcnemar(second, first));
            prop_assert_eq!((a.exact, a.mid), (b.exact, b.mid));
            prop_assert!(a.mid <= a.exact && a.exact <= 1.0 && a.mid > 0.0);
        }
    }
}
