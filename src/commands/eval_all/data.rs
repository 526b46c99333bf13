//! Where the questions come from: the micro world, or test sets in a folder.

use std::path::{Path, PathBuf};

use agent::{EpisodeOptions, ObservationMode, PromptStyle};
use anyhow::{Context, bail};
use benchmarks::micro::{Split, question};
use benchmarks::sources::{self, Listing, LoadedSet};
use benchmarks::{Question, TestSet};
use replicate::profile::{Profile, World};
use results::write_json;
use visual_tools::Style;

use super::Args;

/// The sets of one evaluation.
pub(super) enum Data {
    Micro(Box<Micro>),
    Loaded(Vec<LoadedSet>),
}

/// The micro world's sets.
pub(super) struct Micro {
    world: World,
    sets: Vec<TestSet>,
    questions: usize,
}

/// What stands at a position of a set.
pub(super) enum Item {
    /// A question, by its id, that need not be asked.
    Known(String),
    /// A question to ask.
    Ready(Question),
    /// A question whose image cannot be decoded, and why.
    Undecodable(Listing, String),
}

impl Data {
    /// The sets that the arguments name. Real ones are loaded, from the hub after a download.
    pub fn open(args: &Args) -> anyhow::Result<Self> {
        let mut sets = args.sets.clone();
        if sets.is_empty() {
            sets.extend(TestSet::ALL);
        }
        sets.sort();
        sets.dedup();
        if args.data == "micro" {
            let profile = Profile::load("micro", &[])?;
            return Ok(Data::Micro(Box::new(Micro {
                questions: profile.evaluation.questions,
                world: profile.world,
                sets,
            })));
        }
        let folder = match args.data.as_str() {
            "hub" => PathBuf::from("hub-data"),
            folder => PathBuf::from(folder),
        };
        let mut loaded = Vec::new();
        for set in sets {
            if args.data == "hub" {
                sources::download(set, &folder)?;
            }
            let set = sources::load(&folder, set)?;
            let report = set.report();
            eprintln!(
                "{}: {} of {} questions ({} in {}, {} without an image)",
                report.set,
                report.questions,
                report.official,
                report.rows,
                report.files.join(", "),
                report.without_image.len(),
            );
            loaded.push(set);
        }
        if loaded.iter().all(LoadedSet::is_empty) {
            bail!(
                "{}: none of these sets has a question with an image",
                folder.display()
            );
        }
        Ok(Data::Loaded(loaded))
    }

    /// Whether this is the micro world.
    pub fn is_micro(&self) -> bool {
        matches!(self, Data::Micro(_))
    }

    /// The sets, each with its number of questions.
    pub fn sets(&self) -> Vec<(TestSet, usize)> {
        match self {
            Data::Micro(micro) => micro
                .sets
                .iter()
                .map(|set| (*set, micro.questions))
                .collect(),
            Data::Loaded(sets) => sets
                .iter()
                .map(|set| (set.report().set, set.len()))
                .collect(),
        }
    }

    /// What stands at a position of a set; `known` tells whether a question, by its id, need not
    /// be asked: its image is then not decoded.
    pub fn item(
        &self,
        set: TestSet,
        index: usize,
        known: impl Fn(&str) -> bool,
    ) -> anyhow::Result<Item> {
        match self {
            Data::Micro(micro) => {
                let stream = seeded_random::Stream::new(micro.world.seed);
                let difficulty = &micro.world.difficulty;
                let question =
                    question(set, Split::Test, difficulty, &stream, index as u64).question;
                Ok(match known(&question.id) {
                    true => Item::Known(question.id),
                    false => Item::Ready(question),
                })
            }
            Data::Loaded(sets) => {
                let beyond = "a question beyond the last of its set";
                let loaded = sets
                    .iter()
                    .find(|loaded| loaded.report().set == set)
                    .context("a set that was not loaded")?;
                let listing = loaded.listing(index).context(beyond)?;
                if known(&listing.id) {
                    return Ok(Item::Known(listing.id));
                }
                Ok(match loaded.question(index).context(beyond)? {
                    Ok(question) => Item::Ready(question),
                    Err(error) => Item::Undecodable(listing, error.to_string()),
                })
            }
        }
    }

    /// How episodes are run on these questions.
    pub fn episodes(&self) -> EpisodeOptions {
        match self {
            Data::Micro(_) => replicate::evaluation::episode_options(),
            Data::Loaded(_) => EpisodeOptions {
                prompt: PromptStyle::Vtool,
                observation: ObservationMode::Append,
                tools: Style::refocus(),
            },
        }
    }

    /// What was mended, clipped or missing in the loaded sets, by name.
    pub fn counts(&self) -> Vec<(String, u64)> {
        let Data::Loaded(sets) = self else {
            return Vec::new();
        };
        sets.iter()
            .map(LoadedSet::report)
            .flat_map(|report| {
                [
                    ("without_image", report.without_image.len()),
                    ("boxes_inverted", report.boxes.inverted),
                    ("boxes_clipped", report.boxes.clipped),
                    ("boxes_dropped", report.boxes.dropped),
                    ("figures_without_boxes", report.boxes.figures_without_boxes),
                    ("duplicate_labels", report.duplicate_labels),
                    ("labels_with_markup", report.labels_with_markup),
                    ("list_answers", report.list_answers),
                ]
                .map(|(name, count)| (format!("{}_{name}", report.set), count as u64))
            })
            .collect()
    }

    /// Writes `load-SET.json` of each loaded set into `folder`.
    pub fn write_reports(&self, folder: &Path) -> anyhow::Result<()> {
        if let Data::Loaded(sets) = self {
            for report in sets.iter().map(LoadedSet::report) {
                write_json(&folder.join(format!("load-{}.json", report.set)), report)?;
            }
        }
        Ok(())
    }
}
