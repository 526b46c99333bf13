//! Control: what a practitioner would do with the same teacher.
//!
//! `r = outcome + weight · mean_t log p_teacher(call_t | prompt, call_<t)`: on-policy distillation of
//! the tool call through the reward. It costs one forward pass of the teacher a call.

/// The term of a call with the teacher's log-probabilities of its tokens; `None` without a call.
pub fn term(teacher_log_probs: Option<&[f32]>, weight: f32) -> Option<f32> {
    let log_probs = teacher_log_probs?;
    let mean = log_probs.iter().sum::<f32>() / log_probs.len().max(1) as f32;
    Some(weight * mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_counts_not_the_length() {
        assert_eq!(term(Some(&[-1.0, -3.0]), 0.5), Some(-1.0));
        assert_eq!(term(None, 0.5), None);
    }
}
