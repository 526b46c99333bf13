//! Turns whose keys and values are kept for the turns that go on with them.
//!
//! What is kept of a call of the policy is there for the next call and goes with it, so that its memory is
//! bounded by the budget of tokens, whatever the number of questions.

use std::collections::HashMap;
use std::sync::Arc;

use agent::{CompletionId, Conversation, MessagePart};
use image::RgbImage;
use qwen2_5_vl::{KeptRows, Prompt, keep_last};

/// What of later turns' prompts was not run again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reused {
    /// Tokens of prompts whose keys and values were kept.
    pub tokens: u64,
    /// Prompts that go on with a turn and were run whole: their tokens or images are others, or the turn
    /// was dropped for the budget.
    pub run_whole: u64,
}

/// A sampled turn.
struct KeptTurn {
    id: CompletionId,
    images: Vec<Arc<RgbImage>>,
    rows: Option<KeptRows>,
}

/// The turns of one call, in order.
#[derive(Default)]
pub(crate) struct KeptTurns {
    turns: Vec<KeptTurn>,
    place: HashMap<CompletionId, usize>,
}

impl KeptTurns {
    /// Keeps turns after a conversation, each with its rows; the first turns go where all would have more
    /// than `budget` rows.
    pub fn keep(
        &mut self,
        conversation: &Conversation,
        turns: impl IntoIterator<Item = (CompletionId, Option<KeptRows>)>,
        budget: usize,
    ) {
        let mut turns = turns.into_iter().peekable();
        if turns.peek().is_none() {
            return;
        }
        let images: Vec<Arc<RgbImage>> = images(conversation).cloned().collect();
        for (id, rows) in turns {
            self.place.insert(id, self.turns.len());
            self.turns.push(KeptTurn {
                id,
                images: images.clone(),
                rows,
            });
        }
        keep_last(self.turns.iter_mut().map(|turn| &mut turn.rows), budget);
        // A turn without rows says nothing.
        self.turns.retain(|turn| turn.rows.is_some());
        self.place = self
            .turns
            .iter()
            .enumerate()
            .map(|(place, turn)| (turn.id, place))
            .collect();
    }

    /// The rows of a turn that a conversation, with its prompt, goes on with: the tokens are its first, the
    /// images its first images.
    pub fn before(
        &self,
        id: CompletionId,
        conversation: &Conversation,
        prompt: &Prompt,
    ) -> Option<&KeptRows> {
        let turn = self.turns.get(*self.place.get(&id)?)?;
        let rows = turn.rows.as_ref()?;
        let mut own = images(conversation);
        let same = |image: &Arc<RgbImage>| {
            let equal = |own: &Arc<RgbImage>| Arc::ptr_eq(own, image) || own == image;
            own.next().is_some_and(equal)
        };
        (rows.begin(prompt) && turn.images.iter().all(same)).then_some(rows)
    }

    /// Rows that are held, those that turns share once.
    pub fn rows(&self) -> usize {
        let rows: Vec<&KeptRows> = self.turns.iter().filter_map(|t| t.rows.as_ref()).collect();
        let own = rows.iter().enumerate();
        own.map(|(index, own)| own.rows_beside(rows[..index].iter().copied()))
            .sum()
    }
}

fn images(conversation: &Conversation) -> impl Iterator<Item = &Arc<RgbImage>> {
    let parts = conversation.iter().flat_map(|message| &message.parts);
    parts.filter_map(|part| match part {
        MessagePart::Image(image) => Some(image),
        MessagePart::Text { .. } => None,
    })
}
