//! The micro world as data: which generated question stands where.

use seeded_random::{Draw, Stream};
use serde::{Deserialize, Serialize};
use visual_tools::Effect;

use super::truth::Truth;
use super::{Item, Origin};
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
                self.item(question(set, Split::Train, &self.difficulty, &own, 0))
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
        self.item(question(set, Split::Test, &self.difficulty, &stream, index))
    }

    /// The validation or test question of an identifier such as `vwtq-test-17`, made again; `None`
    /// where this world has no such question.
    pub fn by_id(&self, id: &str) -> Option<Item> {
        let (rest, index) = id.rsplit_once('-')?;
        let (set, split) = rest.rsplit_once('-')?;
        let split = match split {
            "validation" => Split::Validation,
            "test" => Split::Test,
            _ => return None,
        };
        let stream = Stream::new(self.seed);
        let (set, index) = (set.parse().ok()?, index.parse().ok()?);
        Some(self.item(question(set, split, &self.difficulty, &stream, index)))
    }

    fn split(&self, set: TestSet, split: Split, count: usize) -> impl Iterator<Item = Item> + '_ {
        let stream = Stream::new(self.seed);
        (0..count as u64)
            .map(move |index| self.item(question(set, split, &self.difficulty, &stream, index)))
    }

    fn item(&self, micro: MicroQuestion) -> Item {
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
            origin: Origin::World(self.seed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::micro::Difficulty;

    #[test]
    fn an_identifier_makes_its_question_again() {
        let world = World {
            seed: 3,
            difficulty: Difficulty::default(),
        };
        for item in [
            world.test(TestSet::VwtqSyn, 7),
            world.validation_of(TestSet::Vwtq, 2).remove(1),
        ] {
            let again = world.by_id(&item.question.id).unwrap();
            assert_eq!(again.question.task.image, item.question.task.image);
            assert_eq!(again.question.gold, item.question.gold);
            assert_eq!(again.truth, item.truth);
        }
        for id in ["vwtq-train-0", "vwtq-test-x", "wtq-test-1", "17", ""] {
            assert!(world.by_id(id).is_none(), "{id}");
        }
    }
}
