//! Where questions come from: the one place that training, validation, evaluation, gates and the
//! commands see them through.
//!
//! Data are either generated ([`Data::micro`], where the generator also knows what a right call is)
//! or loaded from files ([`Data::loaded`], where nobody does). An [`Item`] is a question with its
//! optional [`Truth`]; what needs the truth says so and is left out where there is none.

mod loaded;
mod order;
mod style;
mod truth;
mod world;

use agent::EpisodeOptions;
use seeded_random::Stream;

pub use loaded::{LoadedData, TrainingFigures, Undecodable, ValidationSource};
pub use style::{EPISODE_FILE, EpisodeStyle};
pub use truth::Truth;
pub use world::World;

use crate::sources::{Listing, SourceError};
use crate::{Question, TestSet};

/// A question as training and evaluation see it.
#[derive(Clone, Debug)]
pub struct Item {
    /// What is asked, and the gold answer.
    pub question: Question,
    /// What only a generator knows; `None` for loaded questions.
    pub truth: Option<Truth>,
    /// Where it comes from, so that it can be had again.
    pub origin: Origin,
}

/// Where a question comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A generated world of this seed. A training question follows the run's random stream too.
    World(u64),
    /// A figure by the name of its file, or of its place in a row or an archive.
    Image(String),
}

/// What stands at a position of a test set.
#[derive(Clone, Debug)]
pub enum TestItem {
    /// A question, by its id, that need not be asked.
    Known(String),
    /// A question to ask.
    Ready(Box<Item>),
    /// A question whose image cannot be decoded, and why.
    Undecodable(Listing, String),
}

/// The questions of one training update.
#[derive(Clone, Debug, Default)]
pub struct TrainingQuestions {
    /// Those that can be asked.
    pub items: Vec<Item>,
    /// Those whose image cannot be decoded: they are left out, and whoever trains names them.
    pub undecodable: Vec<Undecodable>,
}

/// How answers are compared with gold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerRule {
    /// The answer is the gold text, nothing else.
    Exact,
    /// Each set's official rule.
    Official,
}

/// Training, validation and test questions.
#[derive(Clone, Debug)]
pub enum Data {
    /// A generated world.
    Micro {
        /// Its seed and sizes.
        world: World,
        /// Test questions of each set.
        questions: usize,
    },
    /// Questions from files.
    Loaded(LoadedData),
}

impl Data {
    /// A generated world with `questions` test questions in each of the six sets.
    pub fn micro(world: World, questions: usize) -> Self {
        Data::Micro { world, questions }
    }

    /// Questions from files.
    pub fn loaded(data: LoadedData) -> Self {
        Data::Loaded(data)
    }

    /// The `count` questions of training update `update`. `stream` is the run's own: the same stream
    /// and update give the same questions.
    ///
    /// # Errors
    /// Loaded data without training questions.
    pub fn training(
        &self,
        stream: &Stream,
        update: usize,
        count: usize,
    ) -> Result<TrainingQuestions, SourceError> {
        match self {
            Data::Micro { world, .. } => Ok(TrainingQuestions {
                items: world.training(stream, update, count),
                undecodable: Vec::new(),
            }),
            Data::Loaded(data) => data.training(stream, update, count),
        }
    }

    /// Held-out questions for learning curves: `count` of each family that may be trained on, or the
    /// first of each loaded validation set. None of them is a test question.
    ///
    /// # Errors
    /// An image that cannot be decoded.
    pub fn validation(&self, count: usize) -> Result<Vec<Item>, SourceError> {
        match self {
            Data::Micro { world, .. } => Ok(world.validation(count)),
            Data::Loaded(data) => data.validation(count),
        }
    }

    /// The test sets, each with its number of questions.
    pub fn sets(&self) -> Vec<(TestSet, usize)> {
        match self {
            Data::Micro { questions, .. } => {
                TestSet::ALL.iter().map(|set| (*set, *questions)).collect()
            }
            Data::Loaded(data) => data.sets(),
        }
    }

    /// What stands at a position of a test set; `known` tells whether a question, by its id, need
    /// not be asked: its image is then not decoded.
    ///
    /// # Errors
    /// A set that was not loaded, or a position beyond its last question.
    pub fn place(
        &self,
        set: TestSet,
        index: usize,
        known: impl Fn(&str) -> bool,
    ) -> Result<TestItem, SourceError> {
        match self {
            Data::Micro { world, .. } => {
                let item = world.test(set, index as u64);
                Ok(match known(&item.question.id) {
                    true => TestItem::Known(item.question.id),
                    false => TestItem::Ready(Box::new(item)),
                })
            }
            Data::Loaded(data) => data.place(set, index, known),
        }
    }

    /// How these questions are asked.
    pub fn style(&self) -> EpisodeStyle {
        match self {
            Data::Micro { .. } => EpisodeStyle::Micro,
            Data::Loaded(data) if data.brings_tools() => EpisodeStyle::VtoolR1,
            Data::Loaded(_) => EpisodeStyle::Vtool,
        }
    }

    /// [`Data::style`] as options of an episode.
    pub fn episodes(&self) -> EpisodeOptions {
        self.style().options()
    }

    /// How answers are compared with gold.
    pub fn rule(&self) -> AnswerRule {
        match self {
            Data::Micro { .. } => AnswerRule::Exact,
            Data::Loaded(_) => AnswerRule::Official,
        }
    }

    /// Whether items carry their truth.
    pub fn knows_truth(&self) -> bool {
        matches!(self, Data::Micro { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::micro::Difficulty;

    fn data() -> Data {
        Data::micro(
            World {
                seed: 3,
                difficulty: Difficulty::default(),
            },
            2,
        )
    }

    #[test]
    fn splits_share_no_figure_and_repeat_themselves() {
        let data = data();
        let stream = Stream::new(1);
        let first = data.training(&stream, 0, 8).unwrap().items;
        let again = data.training(&stream, 0, 8).unwrap().items;
        let ids = |items: &[Item]| -> Vec<Vec<u8>> {
            let image = |item: &Item| item.question.task.image.as_raw().clone();
            items.iter().map(image).collect()
        };
        assert_eq!(ids(&first), ids(&again));
        let next = data.training(&stream, 1, 8).unwrap().items;
        assert_ne!(ids(&first), ids(&next));
        let validation = data.validation(2).unwrap();
        assert_eq!(validation.len(), 10);
        for image in ids(&validation) {
            assert!(!ids(&first).contains(&image));
        }
    }

    #[test]
    fn a_known_question_is_not_asked() {
        let place = |known: bool| data().place(TestSet::Vwtq, 1, |_| known).unwrap();
        assert!(matches!(place(true), TestItem::Known(id) if id == "vwtq-test-1"));
        match place(false) {
            TestItem::Ready(item) => assert!(item.truth.is_some()),
            other => panic!("{other:?}"),
        }
    }
}
