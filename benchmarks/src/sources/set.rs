//! One set as loaded: its entries, and the report of what was found.

use std::collections::HashSet;
use std::sync::Arc;

use agent::Task;
use serde::{Deserialize, Serialize};
use visual_tools::{BoxRepairs, FigureBoxes};

use super::boxes::Read;
use super::error::{Place, SourceError};
use super::images::ImageRef;
use super::row::{Gold, Row};
use crate::{Question, TestSet};

/// What was found while loading one set; part of every run's record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// The set.
    pub set: TestSet,
    /// The files it was read from, relative to the data folder.
    pub files: Vec<String>,
    /// How many questions the published set has: [`TestSet::published_size`] for a test set.
    pub official: usize,
    /// How many of them the files hold.
    pub rows: usize,
    /// How many of those have an image here. One that cannot be decoded is found when its question
    /// is taken.
    pub questions: usize,
    /// blake3 of the asked ids, one a line: equal hashes, equal questions.
    pub ids_hash: String,
    /// The ids that can be asked, in their order.
    pub ids: Vec<String>,
    /// The ids whose image is not here.
    pub without_image: Vec<String>,
    /// Boxes that were mended, clipped or dropped, and figures without any.
    pub boxes: BoxRepairs,
    /// Labels that came again in one figure; their last box counts.
    pub duplicate_labels: usize,
    /// Labels with an HTML tag or entity in them, kept as they are.
    pub labels_with_markup: usize,
    /// Gold answers given as a list.
    pub list_answers: usize,
}

/// Odd labels of one figure.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Oddities {
    duplicates: usize,
    marked_up: usize,
}

impl Oddities {
    pub fn count(&mut self, read: &Read) {
        self.duplicates += read.duplicates;
        self.marked_up += read.marked_up;
    }
}

/// One question, its image not yet decoded.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    id: String,
    request: String,
    gold: Gold,
    image_id: String,
    category: Option<u8>,
    tools: Option<String>,
    place: Place,
    seen: Option<Seen>,
}

/// What only an entry with an image has.
#[derive(Clone, Debug)]
struct Seen {
    image: ImageRef,
    boxes: Arc<FigureBoxes>,
    repairs: BoxRepairs,
    oddities: Oddities,
}

impl Entry {
    /// `read_boxes` is given the width and height of the image; its boxes are mended here. An image
    /// whose size cannot be read has no boxes, and its question fails when it is taken: one broken
    /// file does not cost the set.
    pub fn new(
        row: &Row,
        id: String,
        request: String,
        gold: Gold,
        image: Option<ImageRef>,
        read_boxes: impl FnOnce(u32, u32, &mut Oddities) -> Result<FigureBoxes, SourceError>,
    ) -> Result<Self, SourceError> {
        let seen = match image {
            None => None,
            Some(image) => {
                let mut oddities = Oddities::default();
                let (boxes, repairs) = match image.size(&row.place) {
                    Ok((width, height)) => {
                        let mut boxes = read_boxes(width, height, &mut oddities)?;
                        let repairs = boxes.repair(width, height);
                        (boxes, repairs)
                    }
                    Err(_) => Default::default(),
                };
                Some(Seen {
                    image,
                    boxes: Arc::new(boxes),
                    repairs,
                    oddities,
                })
            }
        };
        Ok(Entry {
            image_id: id.clone(),
            id,
            request,
            gold,
            category: None,
            tools: None,
            place: row.place.clone(),
            seen,
        })
    }

    pub fn of_figure(self, image_id: String) -> Self {
        Entry { image_id, ..self }
    }

    pub fn with_tools(self, tools: Option<String>) -> Self {
        Entry { tools, ..self }
    }

    pub fn in_category(self, category: Option<u8>) -> Self {
        Entry { category, ..self }
    }
}

/// What is known of a question without its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Its identifier within the set.
    pub id: String,
    /// The figure's identifier.
    pub image_id: String,
    /// The gold answer in the set's own notation.
    pub gold: String,
}

/// One set from a folder. Images are decoded when a question is taken, so a set of a thousand
/// figures costs no memory until then.
#[derive(Clone, Debug)]
pub struct LoadedSet {
    report: LoadReport,
    /// Those with an image.
    entries: Vec<Entry>,
}

impl LoadedSet {
    /// `official` is how many questions the published file has.
    pub(super) fn new(
        set: TestSet,
        official: usize,
        files: Vec<String>,
        entries: Vec<Entry>,
    ) -> Result<Self, SourceError> {
        let mut report = LoadReport {
            set,
            files,
            official,
            rows: entries.len(),
            questions: 0,
            ids_hash: String::new(),
            ids: Vec::new(),
            without_image: Vec::new(),
            boxes: BoxRepairs::default(),
            duplicate_labels: 0,
            labels_with_markup: 0,
            list_answers: 0,
        };
        let mut known = HashSet::new();
        for entry in &entries {
            if !known.insert(entry.id.as_str()) {
                return Err(SourceError::DuplicateId {
                    place: entry.place.clone(),
                    id: entry.id.clone(),
                });
            }
            report.list_answers += usize::from(entry.gold.is_list);
            match &entry.seen {
                None => report.without_image.push(entry.id.clone()),
                Some(seen) => {
                    report.ids.push(entry.id.clone());
                    report.boxes += seen.repairs;
                    report.duplicate_labels += seen.oddities.duplicates;
                    report.labels_with_markup += seen.oddities.marked_up;
                }
            }
        }
        report.questions = report.ids.len();
        report.ids_hash = blake3::hash(report.ids.join("\n").as_bytes())
            .to_hex()
            .to_string();
        let entries = entries
            .into_iter()
            .filter(|entry| entry.seen.is_some())
            .collect();
        Ok(LoadedSet { report, entries })
    }

    /// What was found while loading.
    pub fn report(&self) -> &LoadReport {
        &self.report
    }

    /// Takes the questions out that `chosen` names by id and figure: as a set of their own. Both
    /// reports tell of the files what they told before.
    pub fn split_off(&mut self, chosen: impl Fn(&str, &str) -> bool) -> LoadedSet {
        let (taken, kept): (Vec<Entry>, Vec<Entry>) = std::mem::take(&mut self.entries)
            .into_iter()
            .partition(|entry| chosen(&entry.id, &entry.image_id));
        let of = |entries: Vec<Entry>| {
            let mut report = self.report.clone();
            report.ids = entries.iter().map(|entry| entry.id.clone()).collect();
            LoadedSet { report, entries }
        };
        let taken = of(taken);
        *self = of(kept);
        taken
    }

    /// How many questions can be asked.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none can.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The ids of the questions, in order.
    pub fn ids(&self) -> &[String] {
        &self.report.ids
    }

    /// What is known of question `index` without its image; `None` beyond the last.
    pub fn listing(&self, index: usize) -> Option<Listing> {
        self.entries.get(index).map(|entry| Listing {
            id: entry.id.clone(),
            image_id: entry.image_id.clone(),
            gold: entry.gold.text.clone(),
        })
    }

    /// Where the image of question `index` is: a file, or its place in a row or an archive; `None`
    /// beyond the last.
    pub fn image_name(&self, index: usize) -> Option<String> {
        let seen = self.entries.get(index)?.seen.as_ref()?;
        Some(seen.image.name())
    }

    /// Question `index`, its image decoded; `None` beyond the last.
    ///
    /// # Errors
    /// [`SourceError::Image`] when the image cannot be decoded.
    pub fn question(&self, index: usize) -> Option<Result<Question, SourceError>> {
        let entry = self.entries.get(index)?;
        let seen = entry.seen.as_ref()?;
        Some(seen.image.decode(&entry.place).map(|image| Question {
            set: self.report.set,
            id: entry.id.clone(),
            task: Task {
                image: Arc::new(image),
                boxes: Arc::clone(&seen.boxes),
                request: entry.request.clone(),
                tools: entry.tools.clone(),
            },
            gold: entry.gold.text.clone(),
            image_id: entry.image_id.clone(),
            category: entry.category,
        }))
    }

    /// All questions in order, each decoded when its turn comes.
    pub fn questions(&self) -> impl Iterator<Item = Result<Question, SourceError>> + '_ {
        (0..self.len()).filter_map(|index| self.question(index))
    }
}
