//! VTool-R1: GRPO with the outcome reward alone.
//!
//! `r = 1` for a right final answer, `0` otherwise (VTool-R1, the judge's verdict; here the set's
//! scorer). Deviations: the loss covers the assistant tokens of both turns, where the published
//! second version masks the first turn out once it holds a call.

/// There is no auxiliary term.
pub fn term() -> Option<f32> {
    Some(0.0)
}
