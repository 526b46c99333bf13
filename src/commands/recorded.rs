//! A question of a recorded run as it was asked, to be asked again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent::Task;
use anyhow::{Context, bail, ensure};
use benchmarks::data::{Data, Item, World};
use image::RgbImage;
use results::{Decoding, EPISODES, EpisodeRecord, Run, RunKind, Runs};
use serde_json::Value;

/// Questions that an error names at most.
const NAMED: usize = 5;

/// A question of a run.
pub struct RecordedQuestion {
    /// Its identifier.
    pub id: String,
    /// The task.
    pub task: Task,
    /// Of a generated question: its data, gold answer and right call.
    pub generated: Option<(Data, Item)>,
    /// What the model said first, greedily, where the run stored its episodes.
    pub first_completion: Option<String>,
}

/// One run, and the questions of it that were asked for.
pub struct RecordedRun {
    run: Run,
    world: Option<World>,
    episodes: Vec<EpisodeRecord>,
}

impl RecordedRun {
    /// The one run in `folder`, `<arm>/seed-<n>` or a folder above it.
    ///
    /// # Errors
    /// Files that cannot be read; a folder of several runs, whose folders are named.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let mut runs = Runs::load(&[folder.to_path_buf()])?.runs;
        if runs.len() > 1 {
            let named: Vec<String> = runs
                .iter()
                .take(NAMED)
                .map(|run| run.folder.display().to_string())
                .collect();
            bail!(
                "--run {}: holds {} runs; name one of them, such as {}",
                folder.display(),
                runs.len(),
                named.join(", ")
            );
        }
        let run = runs.remove(0);
        let path = run.folder.join(EPISODES);
        let episodes = match results::is_stored(&path) {
            true => results::read_lines(&path)?,
            false => Vec::new(),
        };
        Ok(RecordedRun {
            world: world(&run)?,
            run,
            episodes,
        })
    }

    /// The checkpoint that it left.
    ///
    /// # Errors
    /// One that is not kept.
    pub fn checkpoint(&self) -> anyhow::Result<PathBuf> {
        let folder = self.run.folder.join("checkpoint");
        ensure!(
            folder.is_dir(),
            "{}: the run's checkpoint is not kept; give --model, or train it again with \
             `iapo replicate --resume`",
            folder.display()
        );
        Ok(folder)
    }

    /// A question by its identifier.
    ///
    /// # Errors
    /// One that was not asked, or cannot be had again: its figure is gone or another, its world is
    /// unknown.
    pub fn question(&self, id: &str) -> anyhow::Result<RecordedQuestion> {
        let asked = || self.run.records.iter();
        let record = asked().find(|record| record.qa_id == id);
        let record = record.with_context(|| {
            let named: Vec<&str> = asked().map(|r| r.qa_id.as_str()).take(NAMED).collect();
            format!(
                "--id {id}: {} was not asked it; it was asked {} questions, the first are {}",
                self.run.folder.display(),
                self.run.records.len(),
                named.join(", ")
            )
        })?;
        let episode = self.episodes.iter().find(|episode| {
            episode.qa_id == record.qa_id
                && episode.set == record.set
                && episode.decoding == Decoding::Greedy
        });
        let first_completion = episode.and_then(|episode| episode.first_completion.clone());
        let item = self.world.as_ref().and_then(|world| world.by_id(id));
        if let (Some(world), Some(item)) = (&self.world, item) {
            ensure!(
                item.question.gold == record.gt,
                "--id {id}: this version generates another question of that name (gold {:?}, recorded \
                 {:?})",
                item.question.gold,
                record.gt
            );
            return Ok(RecordedQuestion {
                id: id.to_owned(),
                task: item.question.task.clone(),
                generated: Some((Data::micro(world.clone(), 0), item)),
                first_completion,
            });
        }
        let episode = episode.with_context(|| {
            format!(
                "--id {id}: the run stored no episode of it ({}), so its figure is not known; give \
                 --image and the question",
                self.run.folder.join(EPISODES).display()
            )
        })?;
        let image = figure(episode).with_context(|| {
            format!(
                "--id {id}: its figure {} is gone, or is another than that of then",
                episode.image.as_deref().unwrap_or("(not named)")
            )
        })?;
        Ok(RecordedQuestion {
            id: id.to_owned(),
            task: task(episode, image),
            generated: None,
            first_completion,
        })
    }
}

/// The task of a stored episode whose figure is `image`.
pub fn task(episode: &EpisodeRecord, image: RgbImage) -> Task {
    Task {
        image: Arc::new(image),
        boxes: Arc::new(episode.boxes.clone().unwrap_or_default()),
        request: episode.request.clone(),
        tools: episode.tools.clone(),
    }
}

/// The figure that a stored episode names, if the file is still there, the same to the pixel.
pub fn figure(episode: &EpisodeRecord) -> Option<RgbImage> {
    let image = image_files::read(Path::new(episode.image.as_deref()?)).ok()?;
    let hash = replicate::records::pixels_hash(&image);
    (Some(&hash) == episode.image_blake3.as_ref()).then_some(image)
}

/// The generated world of a run's questions, as its manifest tells.
///
/// # Errors
/// A world that this version does not generate.
pub fn world(run: &Run) -> anyhow::Result<Option<World>> {
    let Some(manifest) = &run.manifest else {
        return Ok(None);
    };
    let profile = &manifest.profile;
    let data = profile.resolved.get("data").and_then(Value::as_str);
    if profile.name == RunKind::EVALUATION {
        return match data {
            Some("micro") => Ok(Some(super::micro::world(None)?)),
            _ => Ok(None),
        };
    }
    let Some(world) = profile
        .resolved
        .get("world")
        .filter(|world| !world.is_null())
    else {
        return Ok(None);
    };
    let world = serde_json::from_value(world.clone()).with_context(|| {
        format!(
            "{}: profile.resolved.world is none that this version generates",
            run.folder.join(results::MANIFEST).display()
        )
    })?;
    Ok(Some(world))
}
