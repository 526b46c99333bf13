//! ToRL: the outcome minus a penalty for a tool call that fails to execute.
//!
//! `r = outcome − penalty · [call failed]`. ToRL (tool-integrated reinforcement learning) takes 0.5
//! off a reward in {−1, 1}; the weight is the profile's. Deviation: our calls are parsed and never
//! executed, so a call that the parser refuses or whose boxes do not exist is what fails.

use agent::ToolOutcome;

/// The term of an episode; `None` without a call.
pub fn term(outcome: &ToolOutcome, penalty: f32) -> Option<f32> {
    match outcome {
        ToolOutcome::NotCalled => None,
        ToolOutcome::Succeeded => Some(0.0),
        ToolOutcome::Refused(_) | ToolOutcome::Failed(_) => Some(-penalty),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_cost() {
        assert_eq!(term(&ToolOutcome::NotCalled, 0.3), None);
        assert_eq!(term(&ToolOutcome::Succeeded, 0.3), Some(0.0));
        assert_eq!(term(&ToolOutcome::Refused("loop".into()), 0.3), Some(-0.3));
        assert_eq!(term(&ToolOutcome::Failed("no box".into()), 0.3), Some(-0.3));
    }
}
