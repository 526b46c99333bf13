//! Questions from files as data.

use std::path::Path;

use seeded_random::Stream;

use super::order::positions;
use super::{Item, Origin, TestItem, TrainingQuestions};
use crate::sources::{LoadedSet, SourceError, TrainingSplit, load, load_training};
use crate::{Question, TestSet};

/// A training question that cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undecodable {
    /// Its identifier.
    pub id: String,
    /// Why.
    pub reason: String,
}

/// Sets that were read from a folder. Images are decoded when a question is taken.
#[derive(Clone, Debug, Default)]
pub struct LoadedData {
    test: Vec<LoadedSet>,
    train: Vec<LoadedSet>,
    validation: Vec<LoadedSet>,
}

impl LoadedData {
    /// The test sets of a folder, and nothing to train on.
    ///
    /// # Errors
    /// Files that are missing or cannot be read.
    pub fn test_sets(folder: &Path, sets: &[TestSet]) -> Result<Self, SourceError> {
        let test = sets
            .iter()
            .map(|set| load(folder, *set))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(LoadedData {
            test,
            ..LoadedData::default()
        })
    }

    /// The same with the training and validation questions of the folder.
    ///
    /// # Errors
    /// Files that are missing or cannot be read.
    pub fn with_training(mut self, folder: &Path) -> Result<Self, SourceError> {
        self.train = load_training(folder, TrainingSplit::Train)?.into();
        self.validation = load_training(folder, TrainingSplit::Validation)?.into();
        Ok(self)
    }

    /// The test sets with what was found while loading them.
    pub fn loaded_sets(&self) -> &[LoadedSet] {
        &self.test
    }

    pub(super) fn sets(&self) -> Vec<(TestSet, usize)> {
        self.test
            .iter()
            .map(|set| (set.report().set, set.len()))
            .collect()
    }

    pub(super) fn training(
        &self,
        stream: &Stream,
        update: usize,
        count: usize,
    ) -> Result<TrainingQuestions, SourceError> {
        let size: usize = self.train.iter().map(LoadedSet::len).sum();
        if size == 0 {
            return Err(SourceError::NoQuestions {
                what: "training questions",
            });
        }
        let mut found = TrainingQuestions::default();
        for position in positions(&stream.purpose("order"), size, update * count, count) {
            let Some((set, index)) = locate(&self.train, position) else {
                continue;
            };
            match set.question(index) {
                Some(Ok(question)) => found.items.push(item(set, index, question)),
                Some(Err(error)) => found.undecodable.push(Undecodable {
                    id: set.ids()[index].clone(),
                    reason: error.to_string(),
                }),
                None => {}
            }
        }
        Ok(found)
    }

    pub(super) fn validation(&self, count: usize) -> Result<Vec<Item>, SourceError> {
        self.validation
            .iter()
            .flat_map(|set| (0..count.min(set.len())).map(move |index| (set, index)))
            .filter_map(|(set, index)| Some((set, index, set.question(index)?)))
            .map(|(set, index, question)| Ok(item(set, index, question?)))
            .collect()
    }

    pub(super) fn place(
        &self,
        set: TestSet,
        index: usize,
        known: impl Fn(&str) -> bool,
    ) -> Result<TestItem, SourceError> {
        let missing = || SourceError::NoQuestions {
            what: "questions at this position of this set",
        };
        let loaded = self.test.iter().find(|loaded| loaded.report().set == set);
        let loaded = loaded.ok_or_else(missing)?;
        let listing = loaded.listing(index).ok_or_else(missing)?;
        if known(&listing.id) {
            return Ok(TestItem::Known(listing.id));
        }
        Ok(match loaded.question(index).ok_or_else(missing)? {
            Ok(question) => TestItem::Ready(Box::new(item(loaded, index, question))),
            Err(error) => TestItem::Undecodable(listing, error.to_string()),
        })
    }
}

/// Question `index` of a set: nobody knows its right call.
fn item(set: &LoadedSet, index: usize, question: Question) -> Item {
    Item {
        question,
        truth: None,
        origin: Origin::Image(set.image_name(index).unwrap_or_default()),
    }
}

/// The set and the index within it of a position in all sets one after the other.
fn locate(sets: &[LoadedSet], mut position: usize) -> Option<(&LoadedSet, usize)> {
    for set in sets {
        if position < set.len() {
            return Some((set, position));
        }
        position -= set.len();
    }
    None
}
