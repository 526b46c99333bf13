//! How a table and its verdict are computed.

use crate::statistics::Bootstrap;

/// How a table is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TableOptions {
    /// The resampling.
    pub bootstrap: Bootstrap,
    /// The share of answers without a verdict above which a cell is invalid.
    pub not_judged_limit: f64,
}

impl Default for TableOptions {
    /// Cells are invalid above 5 % not judged: those could then move it by more than an interval.
    fn default() -> Self {
        TableOptions {
            bootstrap: Bootstrap::default(),
            not_judged_limit: 0.05,
        }
    }
}
