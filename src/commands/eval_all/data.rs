//! The questions of an evaluation: the micro world's, or test sets in a folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use benchmarks::TestSet;
use benchmarks::data::{Data, EpisodeStyle, LoadedData};
use benchmarks::sources::{self, LoadedSet};
use replicate::profile::Profile;
use results::write_json;

use super::Args;

/// The questions that the arguments name, and which of their sets are wanted.
pub(super) struct Asked {
    pub data: Data,
    sets: Vec<TestSet>,
    /// Whether the questions are of one's own.
    pub own: bool,
}

impl Asked {
    /// The sets that the arguments name. Real ones are loaded, from the hub after a download. `styles`
    /// are how the checkpoints say that they are asked: one that is asked in VTool-R1's own words needs
    /// their template.
    pub fn open(args: &Args, styles: &[EpisodeStyle]) -> anyhow::Result<Self> {
        let mut sets = args.sets.clone();
        if sets.is_empty() {
            sets.extend(TestSet::ALL);
        }
        sets.sort();
        sets.dedup();
        if args.data == "micro" {
            let profile = Profile::load("micro", &[])?;
            let world = profile.world.context("the micro profile has no [world]")?;
            let data = Data::micro(world, profile.evaluation.questions);
            return Ok(Asked {
                data,
                sets,
                own: false,
            });
        }
        let folder = match args.data.as_str() {
            "hub" => PathBuf::from("hub-data"),
            folder => PathBuf::from(folder),
        };
        if args.data == "hub" {
            for set in &sets {
                sources::download(*set, &folder)?;
            }
            if styles.contains(&EpisodeStyle::VtoolR1) {
                sources::download_prompt(&folder)?;
            }
        }
        let own = sources::own_sets(&folder)?;
        if args.sets.is_empty() && !own.is_empty() {
            sets.clone_from(&own);
        }
        let loaded = LoadedData::test_sets(&folder, &sets)?;
        let loaded = match styles.contains(&EpisodeStyle::VtoolR1) {
            true if styles.iter().any(|style| *style != EpisodeStyle::VtoolR1) => bail!(
                "these models are asked in different words ({}): evaluate them one by one",
                benchmarks::data::EPISODE_FILE
            ),
            true => loaded.with_vtool_r1_prompt(&folder)?,
            false => loaded,
        };
        for report in loaded.loaded_sets().iter().map(LoadedSet::report) {
            eprintln!(
                "{}: {} of {} questions ({} in {}, {} without an image)",
                report.set,
                report.questions,
                report.official,
                report.rows,
                report.files.join(", "),
                report.without_image.len(),
            );
        }
        if loaded.loaded_sets().iter().all(LoadedSet::is_empty) {
            bail!(
                "{}: none of these sets has a question with an image",
                folder.display()
            );
        }
        Ok(Asked {
            data: Data::loaded(loaded),
            sets,
            own: !own.is_empty(),
        })
    }

    /// How a checkpoint is asked that says it is asked in a style, `None` for an endpoint. The micro
    /// world has words of its own.
    pub fn style(&self, of_checkpoint: Option<EpisodeStyle>) -> EpisodeStyle {
        match &self.data {
            Data::Micro { .. } => self.data.style(),
            Data::Loaded(_) => of_checkpoint.unwrap_or_else(|| self.data.style()),
        }
    }

    /// The wanted sets, each with its number of questions.
    pub fn sets(&self) -> Vec<(TestSet, usize)> {
        let wanted = |set: &TestSet| self.sets.contains(set);
        let sets = self.data.sets().into_iter();
        sets.filter(|(set, _)| wanted(set)).collect()
    }

    /// The sets that were loaded from files.
    pub fn loaded_sets(&self) -> &[LoadedSet] {
        match &self.data {
            Data::Micro { .. } => &[],
            Data::Loaded(loaded) => loaded.loaded_sets(),
        }
    }

    /// What was mended, clipped or missing in the loaded sets, by name.
    pub fn counts(&self) -> Vec<(String, u64)> {
        self.loaded_sets()
            .iter()
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
        for report in self.loaded_sets().iter().map(LoadedSet::report) {
            write_json(&folder.join(format!("load-{}.json", report.set)), report)?;
        }
        Ok(())
    }
}
