//! The micro world as data: which generated question stands where.

use seeded_random::{Draw, Stream};
use serde::{Deserialize, Serialize};
use visual_tools::Effect;

use super::Item;
use super::truth::Truth;
use crate::TestSet;
use crate::micro::{Difficulty, MicroQuestion, Split, TRAINED, question};

/// A generated world: a profile's `[world]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct World {
    /// Seed of the validation and test questions; training questions follow the run's seed.
    pub seed: u64,
    /// Size and noise of the figures.
    pub difficulty: Difficulty,
}

impl World {
    /// Training questions of one update; `stream` is the run's.
    pub(super) fn training(&self, stream: &Stream, update: usize, count: usize) -> Vec<Item> {
        let stream = stream.purpose("prompts").index(update as u64);
        (0..count as u64)
            .map(|prompt| {
                let own = stream.index(prompt);
                let set = TRAINED[own.purpose("set").generator().below(TRAINED.len())];
                question(set, Split::Train, &self.difficulty, &own, 0).into()
            })
            .collect()
    }

    /// `count` validation questions of each family that may be trained on.
    pub(super) fn validation(&self, count: usize) -> Vec<Item> {
        TRAINED
            .iter()
            .flat_map(|set| self.split(*set, Split::Validation, count))
            .collect()
    }

    /// `count` validation questions of any family, the untrained one included.
    pub fn validation_of(&self, set: TestSet, count: usize) -> Vec<Item> {
        self.split(set, Split::Validation, count).collect()
    }

    /// Test question `index` of a set.
    pub(super) fn test(&self, set: TestSet, index: u64) -> Item {
        let stream = Stream::new(self.seed);
        question(set, Split::Test, &self.difficulty, &stream, index).into()
    }

    fn split(&self, set: TestSet, split: Split, count: usize) -> impl Iterator<Item = Item> + '_ {
        let stream = Stream::new(self.seed);
        (0..count as u64)
            .map(move |index| question(set, split, &self.difficulty, &stream, index).into())
    }
}

impl From<MicroQuestion> for Item {
    fn from(micro: MicroQuestion) -> Self {
        let asked = micro.asked;
        Item {
            truth: asked.right.first().map(|right| Truth {
                kind: asked.kind.name(),
                named: asked.entries.len(),
                right_call: right.call(Effect::Mask),
                wrong_call: asked.wrong.first().map(|focus| focus.call(Effect::Mask)),
                right: asked.right.clone(),
            }),
            question: micro.question,
        }
    }
}
