//! Questions from files as data.

use std::collections::HashSet;
use std::path::Path;

use seeded_random::Stream;
use serde::{Deserialize, Serialize};

use super::order::positions;
use super::{Item, Origin, TestItem, TrainingQuestions};
use crate::sources::{
    LoadedSet, SourceError, TrainingSplit, load, load_training, load_training_tables,
    vtool_r1_tools,
};
use crate::{Question, TestSet};

/// A training question that cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undecodable {
    /// Its identifier.
    pub id: String,
    /// Why.
    pub reason: String,
}

/// Which figures are trained on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrainingFigures {
    /// ReFocus' charts.
    #[default]
    Charts,
    /// VTool-R1's tables.
    Tables,
    /// Both, in one order.
    ChartsAndTables,
}

/// Where validation questions come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ValidationSource {
    /// The published validation split of the charts.
    Published,
    /// This share of the figures that are trained on, chosen by the hash of their names and left out
    /// of training.
    HeldOut(f64),
}

/// Sets that were read from a folder. Images are decoded when a question is taken.
#[derive(Clone, Debug, Default)]
pub struct LoadedData {
    test: Vec<LoadedSet>,
    train: Vec<LoadedSet>,
    validation: Vec<LoadedSet>,
    /// Training questions that are test questions too, and are left out.
    tested: usize,
    /// The tools' text of VTool-R1's prompt, which every question then brings.
    tools: Option<String>,
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

    /// The same with the training and validation questions of the folder. What the loaded test sets
    /// ask, by question or by figure, is not trained on.
    ///
    /// # Errors
    /// Files that are missing or cannot be read.
    pub fn with_training(
        mut self,
        folder: &Path,
        figures: TrainingFigures,
        validation: ValidationSource,
    ) -> Result<Self, SourceError> {
        if figures != TrainingFigures::Tables {
            self.train
                .extend(load_training(folder, TrainingSplit::Train)?);
        }
        if figures != TrainingFigures::Charts {
            self.train.extend(load_training_tables(folder)?);
        }
        for set in &mut self.train {
            let figures = kind_of_figure(set.report().set);
            let alike = |test: &&LoadedSet| kind_of_figure(test.report().set) == figures;
            let tested: HashSet<String> = self
                .test
                .iter()
                .filter(alike)
                .flat_map(|test| (0..test.len()).filter_map(|index| test.listing(index)))
                .flat_map(|listing| [listing.id, listing.image_id])
                .collect();
            let out = set.split_off(|id, figure| tested.contains(id) || tested.contains(figure));
            self.tested += out.len();
        }
        match validation {
            ValidationSource::Published => {
                self.validation = load_training(folder, TrainingSplit::Validation)?.into();
            }
            ValidationSource::HeldOut(share) => {
                for set in &mut self.train {
                    let held_out = set.split_off(|_, figure| place_of(figure) < share);
                    self.validation.push(held_out);
                }
            }
        }
        Ok(self)
    }

    /// The same, asked with VTool-R1's own description of its tools, whose published template is in
    /// the folder.
    ///
    /// # Errors
    /// As [`vtool_r1_tools`].
    pub fn with_vtool_r1_prompt(mut self, folder: &Path) -> Result<Self, SourceError> {
        self.tools = Some(vtool_r1_tools(folder)?);
        Ok(self)
    }

    /// Whether questions bring VTool-R1's description of its tools.
    pub(super) fn brings_tools(&self) -> bool {
        self.tools.is_some()
    }

    /// The test sets with what was found while loading them.
    pub fn loaded_sets(&self) -> &[LoadedSet] {
        &self.test
    }

    /// Training and validation questions that can be asked, and training questions that are left out
    /// because a test set asks them.
    pub fn training_sizes(&self) -> [usize; 3] {
        let sum = |sets: &[LoadedSet]| sets.iter().map(LoadedSet::len).sum();
        [sum(&self.train), sum(&self.validation), self.tested]
    }

    /// Training rows whose image is not in the folder.
    pub fn training_without_image(&self) -> usize {
        let absent = |set: &LoadedSet| set.report().without_image.len();
        self.train.iter().map(absent).sum()
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
                Some(Ok(question)) => found.items.push(self.item(set, index, question)),
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
            .map(|(set, index, question)| Ok(self.item(set, index, question?)))
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
            Ok(question) => TestItem::Ready(Box::new(self.item(loaded, index, question))),
            Err(error) => TestItem::Undecodable(listing, error.to_string()),
        })
    }

    /// Question `index` of a set as it is asked: nobody knows its right call.
    fn item(&self, set: &LoadedSet, index: usize, mut question: Question) -> Item {
        if let Some(tools) = &self.tools {
            question.task.tools = Some(tools.clone());
        }
        Item {
            question,
            truth: None,
            origin: Origin::Image(set.image_name(index).unwrap_or_default()),
        }
    }
}

/// Which figures a set is about: names are unique among those of one kind.
fn kind_of_figure(set: TestSet) -> &'static str {
    match set {
        TestSet::CharXiv => "arXiv figure",
        TestSet::ChartQaHorizontal | TestSet::ChartQaVertical => "chart",
        TestSet::Vwtq | TestSet::VwtqSyn | TestSet::VTabFact => "table",
    }
}

/// A figure's place in [0, 1), by the hash of its name: the same in every folder and for every seed.
fn place_of(figure: &str) -> f64 {
    let hash = blake3::hash(figure.as_bytes());
    let first = hash.as_bytes().first_chunk().copied().unwrap_or_default();
    f64::from(u32::from_le_bytes(first)) / 2f64.powi(32)
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
