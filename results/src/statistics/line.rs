//! A line through points by least squares, with Student's intervals.

use super::crossed::{CrossedEstimate, VarianceComponents, mean};

/// `y = value(mean x) + slope · (x − mean x)`.
#[derive(Clone, Debug, PartialEq)]
pub struct LineFit {
    /// The means of x and y, where the line goes through.
    pub middle: (f64, f64),
    /// The slope with its interval.
    pub slope: CrossedEstimate,
    /// The residual variance.
    pub residual: f64,
    /// Points.
    pub count: usize,
    /// The sum of the squared distances of x from its mean.
    spread: f64,
}

impl LineFit {
    /// The line of points (x, y); `None` of fewer than three or of one x alone.
    pub fn of(points: &[(f64, f64)]) -> Option<Self> {
        let x = mean(points.iter().map(|one| one.0));
        let y = mean(points.iter().map(|one| one.1));
        let spread: f64 = points.iter().map(|one| (one.0 - x).powi(2)).sum();
        if points.len() < 3 || spread <= 0.0 {
            return None;
        }
        let both: f64 = points.iter().map(|one| (one.0 - x) * (one.1 - y)).sum();
        let slope = both / spread;
        let left = points.iter().map(|one| one.1 - y - slope * (one.0 - x));
        let degrees_of_freedom = (points.len() - 2) as f64;
        let residual = left.map(|one| one.powi(2)).sum::<f64>() / degrees_of_freedom;
        Some(LineFit {
            middle: (x, y),
            slope: CrossedEstimate {
                value: slope,
                standard_error: (residual / spread).sqrt(),
                degrees_of_freedom,
                components: VarianceComponents {
                    seed: None,
                    question: 0.0,
                    residual,
                },
            },
            residual,
            count: points.len(),
            spread,
        })
    }

    /// The line at x, with the interval of its mean there.
    pub fn at(&self, x: f64) -> CrossedEstimate {
        let away = x - self.middle.0;
        let share = 1.0 / self.count as f64 + away.powi(2) / self.spread;
        CrossedEstimate {
            value: self.middle.1 + self.slope.value * away,
            standard_error: (self.residual * share).sqrt(),
            ..self.slope.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_least_squares() {
        // S_xy = 5.5, S_xx = 5, squares left 2.7, two degrees of freedom.
        let found = LineFit::of(&[(0.0, 1.0), (1.0, 3.0), (2.0, 2.0), (3.0, 5.0)]).unwrap();
        assert!((found.slope.value - 1.1).abs() < 1e-12);
        assert!((found.slope.standard_error - (2.7f64 / 2.0 / 5.0).sqrt()).abs() < 1e-12);
        // At the end: 2.75 + 1.1 · 1.5, variance 1.35 (1/4 + 1.5² / 5).
        let end = found.at(3.0);
        assert!((end.value - 4.4).abs() < 1e-12);
        assert!((end.standard_error - (1.35f64 * 0.7).sqrt()).abs() < 1e-12);
        assert!(end.high() - end.low() > found.at(1.5).high() - found.at(1.5).low());
        assert!(LineFit::of(&[(1.0, 2.0), (1.0, 3.0), (1.0, 4.0)]).is_none());
        assert!(LineFit::of(&[(0.0, 1.0), (1.0, 3.0)]).is_none());
    }
}
