//! Numbers as text: shares in percent, differences in points, p-values, and what was not measured.

use crate::statistics::Estimate;

/// What stands in a table where nothing was measured.
pub const NOT_MEASURED: &str = "–";

/// A number with `decimals` places, or [`NOT_MEASURED`] where there is none or it is not finite.
pub fn number(value: Option<f64>, decimals: usize) -> String {
    match value.filter(|value| value.is_finite()) {
        Some(value) => format!("{value:.decimals$}"),
        None => NOT_MEASURED.to_string(),
    }
}

/// A share as percent with one decimal.
pub fn percent(share: f64) -> String {
    number(Some(100.0 * share), 1)
}

/// A difference of shares in points, with its sign; a rounded zero has none.
pub fn points(difference: f64) -> String {
    let text = format!("{:+.1}", 100.0 * difference);
    if text == "-0.0" || text == "+0.0" {
        "0.0".to_string()
    } else {
        text
    }
}

/// The ends of an interval of differences, in points.
pub(crate) fn interval(estimate: &Estimate) -> String {
    format!("[{}, {}]", points(estimate.low), points(estimate.high))
}

/// A p-value with three decimals.
pub fn p_value(p: f64) -> String {
    if p < 0.001 {
        "<0.001".to_string()
    } else {
        format!("{p:.3}")
    }
}

/// A count with its thousands set off.
pub(crate) fn thousands(number: usize) -> String {
    if number < 1000 {
        number.to_string()
    } else {
        format!("{},{:03}", number / 1000, number % 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_a_dash() {
        assert_eq!(number(None, 2), "–");
        assert_eq!(number(Some(f64::NAN), 2), "–");
        assert_eq!(number(Some(0.5), 2), "0.50");
        assert_eq!(points(-0.0001), "0.0");
        assert_eq!(points(0.0118), "+1.2");
        assert_eq!(thousands(60_000), "60,000");
    }
}
