//! Quadrature rules on [0, 1]: `∫₀¹ g(α) dα ≈ Σ_k w_k g(α_k)`.
//!
//! The Riemann rules follow Captum 0.9 (`captum/attr/_utils/approximation_methods.py`) to the
//! letter, so that its numbers are reproduced: its trapezoid uses `α = linspace(0, 1, n)` with
//! weights `1/n`, halved at the ends, which sum to `1 − 1/n` rather than 1.
//!
//! Gauss-Legendre nodes are the roots of the Legendre polynomial P_n, found by Newton's method from
//! Tricomi's asymptotic guess; weights are `2 / ((1 − x²) P_n'(x)²)`, both mapped from [−1, 1].
//!
//! The log-spaced rule is for integrands that live near α = 0, as with a zero baseline before an
//! RMS norm: Gauss-Legendre in `u = ln α` on `[start, 1]`, where `∫ g dα = ∫ g(eᵘ) eᵘ du`, plus
//! Gauss-Legendre in α on `[0, start]`. With start = 1e-4 the log piece needs about six nodes before
//! it integrates even a constant: its weights sum to 5 % too little with three nodes, 0.4 % with
//! four, 1e-5 with six.
//!
//! The norm-midpoint rule is for the same integrands and needs fewer nodes, since it knows where they
//! change most. An RMS norm makes of an embedding `α e` a vector whose squared length is
//! `α² / (α² + knee²)` of its greatest, with `knee = √eps / rms(e)`: what follows sees the input
//! appear around the knee. The nodes are midpoints of equal parts of
//!
//! ```text
//! s(α) = even · (1 − ln α / ln start) + (1 − even) · α⁴ / (α⁴ + knee⁴)
//! ```
//!
//! on `[start, 1]`, each weighted by the part of [0, 1] between the borders beside it (the first part
//! begins at 0), so that a constant is integrated exactly. The rule is ours, and its fourth power, which
//! gathers nodes nearer to the knee than the norm's own square, was found by trial;
//! `results/attribution/nodes.md` has what it gives on trained models.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// One evaluation point of a rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Node {
    /// Position on the path from baseline (0) to input (1).
    pub alpha: f64,
    /// Its weight in the sum.
    pub weight: f64,
}

/// Where a Riemann sum takes its points, as Captum does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// `α = 0, 1/n, …, 1 − 1/n`.
    Left,
    /// `α = 1/n, …, 1`.
    Right,
    /// `α = 1/2n, 3/2n, …, 1 − 1/2n`.
    Middle,
    /// `α = linspace(0, 1, n)`, weights `1/n` with halved ends (sum `1 − 1/n`).
    Trapezoid,
}

/// A quadrature rule and its number of nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Quadrature {
    /// A Riemann sum of equal steps.
    Riemann {
        /// Where in a step the point lies.
        rule: Rule,
        /// Number of points.
        nodes: usize,
    },
    /// Gauss-Legendre: exact for polynomials up to degree `2 nodes − 1`.
    GaussLegendre {
        /// Number of points.
        nodes: usize,
    },
    /// Gauss-Legendre in `ln α` on `[start, 1]` and in `α` on `[0, start]`.
    LogGaussLegendre {
        /// Number of points on both pieces.
        nodes: usize,
        /// How many of them lie on `[0, start]`; at least one, and one remains for `[start, 1]`.
        linear_nodes: usize,
        /// Where the two pieces meet, in (0, 1); 1e-4 served well on small trained models.
        start: f64,
    },
    /// Midpoints spaced by how an RMS norm lets the input appear, and log-spaced besides.
    NormMidpoint {
        /// Number of points.
        nodes: usize,
        /// `√eps / rms(embedding)` of the model's first norm, above 0.
        knee: f64,
        /// The share of the nodes that is log-spaced, in (0, 1]; 0.7 served well on small trained models.
        even: f64,
        /// Where log-spacing begins, in (0, 1): a hundredth of the knee or less.
        start: f64,
    },
}

impl Quadrature {
    /// The rule's points in ascending α.
    ///
    /// # Errors
    /// A rule without points, a trapezoid of fewer than two, or `start` outside of (0, 1).
    pub fn nodes(&self) -> Result<Vec<Node>> {
        match *self {
            Quadrature::Riemann { rule, nodes } => riemann(rule, nodes),
            Quadrature::GaussLegendre { nodes } => gauss_legendre(nodes, 0.0, 1.0),
            Quadrature::LogGaussLegendre {
                nodes,
                linear_nodes,
                start,
            } => {
                if !(start > 0.0 && start < 1.0) {
                    return Err(Error::Setting {
                        what: "quadrature.start",
                        why: format!("{start} is not inside (0, 1); 1e-4 is a good start"),
                    });
                }
                if linear_nodes == 0 || linear_nodes >= nodes {
                    return Err(Error::Setting {
                        what: "quadrature.linear_nodes",
                        why: format!(
                            "{linear_nodes} of {nodes} nodes on [0, {start}]: a zero baseline needs at \
                             least 1 there, where most of the change can lie, and 1 on the rest of \
                             the path; 4 of 32 are a good start"
                        ),
                    });
                }
                let mut points = gauss_legendre(linear_nodes, 0.0, start)?;
                let log = gauss_legendre(nodes - linear_nodes, libm::log(start), 0.0)?;
                points.extend(log.into_iter().map(|Node { alpha, weight }| Node {
                    alpha: libm::exp(alpha),
                    weight: weight * libm::exp(alpha),
                }));
                Ok(points)
            }
            Quadrature::NormMidpoint {
                nodes,
                knee,
                even,
                start,
            } => norm_midpoint(nodes, knee, even, start),
        }
    }

    /// Number of points, the price of an attribution in forward-backward passes.
    pub fn len(&self) -> usize {
        match *self {
            Quadrature::Riemann { nodes, .. }
            | Quadrature::GaussLegendre { nodes }
            | Quadrature::LogGaussLegendre { nodes, .. }
            | Quadrature::NormMidpoint { nodes, .. } => nodes,
        }
    }

    /// Whether the rule has no points, which [`Quadrature::nodes`] refuses.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Display for Quadrature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Quadrature::Riemann { rule, nodes } => {
                let rule = match rule {
                    Rule::Left => "left",
                    Rule::Right => "right",
                    Rule::Middle => "middle",
                    Rule::Trapezoid => "trapezoid",
                };
                write!(f, "{nodes} nodes of the {rule} Riemann sum")
            }
            Quadrature::GaussLegendre { nodes } => write!(f, "{nodes} Gauss-Legendre nodes"),
            Quadrature::LogGaussLegendre {
                nodes,
                linear_nodes,
                start,
            } => write!(
                f,
                "{nodes} Gauss-Legendre nodes, {linear_nodes} on [0, {start}] and the others log-spaced"
            ),
            Quadrature::NormMidpoint {
                nodes,
                knee,
                even,
                start,
            } => write!(
                f,
                "{nodes} midpoints, {even} of them log-spaced on [{start}, 1] and the others as a norm \
                 lets the input appear around {knee}"
            ),
        }
    }
}

fn at_least(nodes: usize, least: usize) -> Result<()> {
    if nodes >= least {
        return Ok(());
    }
    Err(Error::Setting {
        what: "quadrature.nodes",
        why: format!("{nodes} points are too few: give at least {least}"),
    })
}

fn riemann(rule: Rule, n: usize) -> Result<Vec<Node>> {
    at_least(n, if rule == Rule::Trapezoid { 2 } else { 1 })?;
    let step = 1.0 / n as f64;
    Ok((0..n)
        .map(|k| {
            let k_real = k as f64;
            match rule {
                Rule::Left => Node {
                    alpha: k_real * step,
                    weight: step,
                },
                Rule::Right => Node {
                    alpha: (k_real + 1.0) * step,
                    weight: step,
                },
                Rule::Middle => Node {
                    alpha: (k_real + 0.5) * step,
                    weight: step,
                },
                Rule::Trapezoid => Node {
                    alpha: k_real / (n - 1) as f64,
                    weight: if k == 0 || k == n - 1 {
                        step / 2.0
                    } else {
                        step
                    },
                },
            }
        })
        .collect())
}

/// The norm-midpoint rule's points, ascending.
fn norm_midpoint(n: usize, knee: f64, even: f64, start: f64) -> Result<Vec<Node>> {
    at_least(n, 1)?;
    let setting = |what, why| Err(Error::Setting { what, why });
    if !(start > 0.0 && start < 1.0) {
        return setting(
            "quadrature.start",
            format!("{start} is not inside (0, 1); a hundredth of the knee is a good start"),
        );
    }
    if !(knee > 0.0 && knee.is_finite()) {
        return setting(
            "quadrature.knee",
            format!("{knee} is not above 0: expected √eps / rms(embedding) of the first norm"),
        );
    }
    if !(even > 0.0 && even <= 1.0) {
        return setting(
            "quadrature.even",
            format!("{even} is not in (0, 1]; 0.7 is a good start"),
        );
    }
    let (log_start, log_knee) = (libm::log(start), libm::log(knee));
    // As a function of u = ln α, in which it is smooth.
    let s = |u: f64| {
        even * (1.0 - u / log_start) + (1.0 - even) / (1.0 + libm::exp(4.0 * (log_knee - u)))
    };
    let (first, last) = (s(log_start), s(0.0));
    let alpha = |part: f64| {
        let wanted = first + part * (last - first);
        let (mut low, mut high) = (log_start, 0.0);
        // Halving an interval of some tens until it is a last digit.
        for _ in 0..64 {
            let middle = (low + high) / 2.0;
            match s(middle) < wanted {
                true => low = middle,
                false => high = middle,
            }
        }
        libm::exp((low + high) / 2.0)
    };
    let parts = n as f64;
    let mut nodes = Vec::with_capacity(n);
    let mut border = 0.0;
    for k in 0..n {
        let next = match k + 1 == n {
            true => 1.0,
            false => alpha((k + 1) as f64 / parts),
        };
        nodes.push(Node {
            alpha: alpha((k as f64 + 0.5) / parts),
            weight: next - border,
        });
        border = next;
    }
    Ok(nodes)
}

/// Gauss-Legendre points on `[low, high]`, ascending.
fn gauss_legendre(n: usize, low: f64, high: f64) -> Result<Vec<Node>> {
    at_least(n, 1)?;
    let (centre, half) = ((low + high) / 2.0, (high - low) / 2.0);
    let mut points = vec![
        Node {
            alpha: centre,
            weight: 0.0
        };
        n
    ];
    for k in 0..n.div_ceil(2) {
        // The k-th largest root; the rule is symmetric, so the other half follows.
        let (x, weight) = legendre_root(n, k);
        points[k] = Node {
            alpha: centre - half * x,
            weight: half * weight,
        };
        points[n - 1 - k] = Node {
            alpha: centre + half * x,
            weight: half * weight,
        };
    }
    Ok(points)
}

/// The k-th largest root of P_n (k from 0) and its weight on [−1, 1].
fn legendre_root(n: usize, k: usize) -> (f64, f64) {
    if n % 2 == 1 && k == n / 2 {
        let (_, slope) = legendre(n, 0.0);
        return (0.0, 2.0 / (slope * slope));
    }
    let n_real = n as f64;
    let angle = PI * (k as f64 + 0.75) / (n_real + 0.5);
    let mut x = libm::cos(angle) * (1.0 - (1.0 - 1.0 / n_real) / (8.0 * n_real * n_real));
    // Newton doubles its digits a step from a guess that is good to O(n⁻⁴): five suffice; the
    // bound only keeps rounding noise in the last digit from looping.
    for _ in 0..10 {
        let (value, slope) = legendre(n, x);
        let step = value / slope;
        x -= step;
        if step.abs() <= f64::EPSILON {
            break;
        }
    }
    let (_, slope) = legendre(n, x);
    (x, 2.0 / ((1.0 - x * x) * slope * slope))
}

/// P_n(x) and its derivative by the three-term recurrence.
fn legendre(n: usize, x: f64) -> (f64, f64) {
    let (mut previous, mut current) = (1.0, x);
    for k in 1..n {
        let k = k as f64;
        let next = ((2.0 * k + 1.0) * x * current - k * previous) / (k + 1.0);
        previous = current;
        current = next;
    }
    let n = n as f64;
    (current, n * (previous - x * current) / (1.0 - x * x))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integrate(quadrature: &Quadrature, g: impl Fn(f64) -> f64) -> f64 {
        let nodes = quadrature.nodes().unwrap();
        nodes.iter().map(|n| n.weight * g(n.alpha)).sum()
    }

    /// Abramowitz and Stegun, table 25.4, n = 5, on [−1, 1].
    #[test]
    fn gauss_legendre_matches_the_printed_table() {
        let nodes = gauss_legendre(5, -1.0, 1.0).unwrap();
        let expected = [
            (-0.906179845938664, 0.236926885056189),
            (-0.538469310105683, 0.478628670499366),
            (0.0, 0.568888888888889),
            (0.538469310105683, 0.478628670499366),
            (0.906179845938664, 0.236926885056189),
        ];
        for (node, (x, w)) in nodes.iter().zip(expected) {
            assert!((node.alpha - x).abs() < 1e-15, "{node:?}");
            assert!((node.weight - w).abs() < 1e-15, "{node:?}");
        }
    }

    #[test]
    fn gauss_legendre_is_exact_up_to_its_degree_and_not_beyond() {
        for n in [1usize, 2, 3, 7, 16, 33, 64] {
            let rule = Quadrature::GaussLegendre { nodes: n };
            let degree = 2 * n as i32 - 1;
            let exact = 1.0 / (degree as f64 + 1.0);
            assert!((integrate(&rule, |a| a.powi(degree)) - exact).abs() < 1e-14);
            if n <= 3 {
                let above = integrate(&rule, |a| a.powi(degree + 1));
                assert!((above - 1.0 / (degree as f64 + 2.0)).abs() > 1e-6);
            }
        }
    }

    #[test]
    fn many_nodes_ascend_and_sum_to_one() {
        for n in [256usize, 2048, 2049] {
            let nodes = Quadrature::GaussLegendre { nodes: n }.nodes().unwrap();
            assert!(nodes.windows(2).all(|w| w[0].alpha < w[1].alpha));
            assert!(nodes[0].alpha > 0.0 && nodes[n - 1].alpha < 1.0);
            let sum: f64 = nodes.iter().map(|n| n.weight).sum();
            assert!((sum - 1.0).abs() < 1e-12, "{n}: {sum}");
        }
    }

    /// What a zero baseline before an RMS norm looks like: almost all of the change below 0.01.
    #[test]
    fn log_spacing_resolves_a_steep_start_where_plain_rules_do_not() {
        let width = 1e-3;
        let steep = |a: f64| width / ((a + width) * (a + width));
        let exact = 1.0 - width / (1.0 + width);
        let log = Quadrature::LogGaussLegendre {
            nodes: 32,
            linear_nodes: 4,
            start: 1e-4,
        };
        let gauss = Quadrature::GaussLegendre { nodes: 32 };
        assert!((integrate(&log, steep) - exact).abs() < 1e-6);
        assert!((integrate(&gauss, steep) - exact).abs() > 1e-2);
        let weights: f64 = log.nodes().unwrap().iter().map(|n| n.weight).sum();
        assert!((weights - 1.0).abs() < 1e-12);
    }

    fn norm(nodes: usize, knee: f64) -> Quadrature {
        Quadrature::NormMidpoint {
            nodes,
            knee,
            even: 0.7,
            start: knee / 300.0,
        }
    }

    /// What trained models do: their answer to the input's appearing is steeper than the norm's.
    #[test]
    fn norm_midpoints_resolve_a_steep_answer_at_the_knee() {
        let knee = 7e-3;
        // d/dα of α¹⁶ / (α¹⁶ + knee¹⁶).
        let g = |a: f64| {
            let ratio = (a / knee).powi(16);
            16.0 * ratio / (a * (1.0 + ratio) * (1.0 + ratio))
        };
        let error = |rule: &Quadrature| (integrate(rule, g) - 1.0).abs();
        for nodes in [8, 12, 16] {
            let log = Quadrature::LogGaussLegendre {
                nodes,
                linear_nodes: nodes / 8,
                start: 1e-4,
            };
            let (found, log) = (error(&norm(nodes, knee)), error(&log));
            assert!(
                found < log / 2.0,
                "{nodes} nodes: {found}, log-spaced {log}"
            );
        }
        assert!(error(&norm(256, knee)) < 1e-4);
    }

    #[test]
    fn norm_midpoints_ascend_between_their_borders_and_sum_to_one() {
        for nodes in [1usize, 2, 12, 333] {
            let found = norm(nodes, 9e-3).nodes().unwrap();
            assert_eq!(found.len(), nodes);
            let sum: f64 = found.iter().map(|n| n.weight).sum();
            assert!((sum - 1.0).abs() < 1e-12, "{nodes}: {sum}");
            let mut border = 0.0;
            for Node { alpha, weight } in found {
                assert!(
                    border < alpha && alpha < border + weight,
                    "{nodes}: {alpha}"
                );
                border += weight;
            }
        }
    }

    /// All of it log-spaced: borders are a geometric sequence, nodes the geometric means of two.
    #[test]
    fn an_even_share_of_one_is_log_spaced() {
        let rule = Quadrature::NormMidpoint {
            nodes: 4,
            knee: 0.1,
            even: 1.0,
            start: 1e-4,
        };
        let nodes = rule.nodes().unwrap();
        for (k, node) in nodes.iter().enumerate() {
            let expected = 10f64.powf(-4.0 + k as f64 + 0.5);
            assert!((node.alpha / expected - 1.0).abs() < 1e-12, "{node:?}");
        }
        assert!((nodes[3].weight - 0.9).abs() < 1e-12);
        assert!((nodes[0].weight - 1e-3).abs() < 1e-12);
    }

    #[test]
    fn riemann_rules_follow_captum() {
        let rule = |rule| Quadrature::Riemann { rule, nodes: 4 }.nodes().unwrap();
        let alphas = |r| rule(r).iter().map(|n| n.alpha).collect::<Vec<_>>();
        assert_eq!(alphas(Rule::Left), [0.0, 0.25, 0.5, 0.75]);
        assert_eq!(alphas(Rule::Right), [0.25, 0.5, 0.75, 1.0]);
        assert_eq!(alphas(Rule::Middle), [0.125, 0.375, 0.625, 0.875]);
        assert_eq!(alphas(Rule::Trapezoid), [0.0, 1.0 / 3.0, 2.0 / 3.0, 1.0]);
        let weights: Vec<_> = rule(Rule::Trapezoid).iter().map(|n| n.weight).collect();
        assert_eq!(weights, [0.125, 0.25, 0.25, 0.125]);
    }

    #[test]
    fn settings_out_of_range_are_errors() {
        let log = |start| Quadrature::LogGaussLegendre {
            nodes: 4,
            linear_nodes: 1,
            start,
        };
        for bad in [
            Quadrature::GaussLegendre { nodes: 0 },
            Quadrature::Riemann {
                rule: Rule::Trapezoid,
                nodes: 1,
            },
            log(0.0),
            log(1.0),
            log(f64::NAN),
            Quadrature::LogGaussLegendre {
                nodes: 4,
                linear_nodes: 4,
                start: 1e-4,
            },
            Quadrature::LogGaussLegendre {
                nodes: 4,
                linear_nodes: 0,
                start: 1e-4,
            },
            norm(0, 9e-3),
            norm(4, 0.0),
            norm(4, f64::NAN),
            norm(4, 400.0),
            Quadrature::NormMidpoint {
                nodes: 4,
                knee: 9e-3,
                even: 0.0,
                start: 1e-4,
            },
        ] {
            assert!(bad.nodes().is_err(), "{bad:?}");
        }
    }
}
