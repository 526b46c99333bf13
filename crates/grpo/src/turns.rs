//! Which of the policy's tokens are trained on.

use serde::{Deserialize, Serialize};

use crate::error::{Result, expect_length};

/// Which assistant turns of an episode the loss covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrainedTurns {
    /// Every turn: the tool call and the final answer.
    All,
    /// The last turn of each sequence alone, as VTool-R1 v2 does once a tool is called.
    Final,
}

/// The loss mask of packed tokens: `turn` is the assistant turn that wrote a token, `None` for
/// tokens that the policy did not write (prompt, observation); `sequence` is each token's sequence.
///
/// # Errors
/// Lengths that differ.
pub fn turn_mask(
    turn: &[Option<usize>],
    sequence: &[usize],
    trained: TrainedTurns,
) -> Result<Vec<bool>> {
    expect_length("sequence", turn.len(), sequence.len())?;
    let mut last = vec![None; sequence.iter().max().map_or(0, |&largest| largest + 1)];
    for (&turn, &sequence) in turn.iter().zip(sequence) {
        last[sequence] = last[sequence].max(turn);
    }
    let is_trained = |(&turn, &sequence): (&Option<usize>, &usize)| match trained {
        TrainedTurns::All => turn.is_some(),
        TrainedTurns::Final => turn.is_some() && turn == last[sequence],
    };
    Ok(turn.iter().zip(sequence).map(is_trained).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_turns_or_the_final_answer_alone() {
        let turn = [None, Some(0), Some(0), None, Some(1), None, Some(0)];
        let sequence = [0, 0, 0, 0, 0, 1, 1];
        let all = turn_mask(&turn, &sequence, TrainedTurns::All).unwrap();
        assert_eq!(all, [false, true, true, false, true, false, true]);
        let last = turn_mask(&turn, &sequence, TrainedTurns::Final).unwrap();
        assert_eq!(last, [false, false, false, false, true, false, true]);
        assert!(turn_mask(&turn, &sequence[1..], TrainedTurns::All).is_err());
    }
}
