//! `iapo world`: questions of the micro world as files that people can look at.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use benchmarks::TestSet;
use benchmarks::data::{Data, Item};
use image::{Rgb, RgbImage};
use serde::Serialize;
use visual_tools::{Axis, FigureBoxes};

use super::micro::{TestPosition, world};
use super::output::print;
use super::png::{READABLE, readable, write_png};

/// Writes questions of the micro world: pictures, and a line of JSON for each.
#[derive(clap::Args)]
pub struct Args {
    /// The set whose stand-in is wanted: charxiv, chartqa-h-bar, chartqa-v-bar, vwtq, vwtq-syn or
    /// vtabfact.
    #[arg(long)]
    set: TestSet,
    /// How many questions.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    n: u32,
    /// The first of them, counted from 0.
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    first: usize,
    /// Seed of the world; without it, the micro profile's: the questions of recorded runs.
    #[arg(long)]
    seed: Option<u64>,
    /// Also writes each figure with its named regions outlined.
    #[arg(long)]
    boxes: bool,
    /// The folder for `questions.jsonl`, `ID.png` as the model sees it and `ID.large.png`, eight
    /// times the size (`ID.boxes.png` with --boxes).
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// The file of all questions.
const QUESTIONS: &str = "questions.jsonl";

/// A question, as a line of [`QUESTIONS`].
#[derive(Serialize)]
struct Row<'a> {
    id: &'a str,
    set: TestSet,
    world_seed: u64,
    /// The figure as the model sees it, from the folder.
    image: String,
    /// The request, the prompt's block R.
    request: &'a str,
    gold: &'a str,
    /// What is asked of the named entries, for example `largest`.
    kind: Option<&'a str>,
    /// How many entries the question is about.
    entries_named: Option<usize>,
    /// A completion that focuses on what the question names.
    right_call: Option<&'a str>,
    /// A completion that focuses on something else, where there is something else.
    wrong_call: Option<&'a str>,
    /// The tools' text, the prompt's block T.
    tools: Option<&'a str>,
    /// Regions in pixels of `image`, both corners included.
    boxes: &'a FigureBoxes,
}

impl<'a> Row<'a> {
    fn new(item: &'a Item, world_seed: u64) -> Self {
        let (question, truth) = (&item.question, item.truth.as_ref());
        Row {
            id: &question.id,
            set: question.set,
            world_seed,
            image: format!("{}.png", question.id),
            request: &question.task.request,
            gold: &question.gold,
            kind: truth.map(|truth| truth.kind),
            entries_named: truth.map(|truth| truth.named),
            right_call: truth.map(|truth| truth.right_call.as_str()),
            wrong_call: truth.and_then(|truth| truth.wrong_call.as_deref()),
            tools: question.task.tools.as_deref(),
            boxes: &question.task.boxes,
        }
    }
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let out = &args.out;
    if out.exists() && !out.is_dir() {
        bail!("--out {}: expected a folder, found a file", out.display());
    }
    let end = args.first.checked_add(args.n as usize);
    let end = end.with_context(|| {
        format!(
            "--first {} with --n {}: questions are counted from 0 to {}",
            args.first,
            args.n,
            usize::MAX - 1
        )
    })?;
    let world = world(args.seed)?;
    let seed = world.seed;
    let data = Data::micro(world, end);
    let mut lines = String::new();
    let mut said = String::new();
    for index in args.first..end {
        let position = TestPosition {
            set: args.set,
            index,
        };
        let item = position.item(&data)?;
        let (id, task) = (&item.question.id, &item.question.task);
        let large = readable(&task.image);
        write_png(&out.join(format!("{id}.png")), &task.image)?;
        write_png(&out.join(format!("{id}.large.png")), &large)?;
        if args.boxes {
            let outlined = outlined(large, &task.boxes);
            write_png(&out.join(format!("{id}.boxes.png")), &outlined)?;
        }
        lines += &serde_json::to_string(&Row::new(&item, seed))?;
        lines.push('\n');
        said += &format!("{id}: {} -> {}\n", task.request, item.question.gold);
    }
    let questions = out.join(QUESTIONS);
    results::write_atomically(&questions, lines.as_bytes())?;
    print(&format!("{said}{}\n", questions.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Outlines the regions, given in pixels of the true picture, on the readable one: a colour for
/// each axis, columns and rows set in by different widths so that neither hides the other.
fn outlined(mut image: RgbImage, boxes: &FigureBoxes) -> RgbImage {
    for (axis, regions, inset) in [
        (Axis::Columns, &boxes.columns, 0),
        (Axis::Rows, &boxes.rows, 2),
        (Axis::XValues, &boxes.x_values, 0),
        (Axis::YValues, &boxes.y_values, 2),
    ] {
        for (_, region) in &regions.0 {
            let scale = f64::from(READABLE);
            // A fraction of a pixel is cut off; what lies outside ends at the border.
            let near = |corner: f64| (corner * scale) as u32 + inset;
            let far = |corner: f64, size: u32| {
                (((corner + 1.0) * scale) as u32)
                    .min(size)
                    .saturating_sub(1 + inset)
            };
            let corners = (
                (near(region.x1), near(region.y1)),
                (
                    far(region.x2, image.width()),
                    far(region.y2, image.height()),
                ),
            );
            outline(&mut image, corners, colour(axis));
        }
    }
    image
}

/// Blue, vermilion, green and purple: apart for colour-blind people (Okabe and Ito).
fn colour(axis: Axis) -> Rgb<u8> {
    Rgb(match axis {
        Axis::Columns => [0, 114, 178],
        Axis::Rows => [213, 94, 0],
        Axis::XValues => [0, 158, 115],
        Axis::YValues => [204, 121, 167],
    })
}

/// An outline of two pixels, inwards, of the region with these corners, both included.
fn outline(image: &mut RgbImage, ((x1, y1), (x2, y2)): ((u32, u32), (u32, u32)), colour: Rgb<u8>) {
    for y in y1..=y2 {
        for x in x1..=x2 {
            let edge = (x - x1).min(x2 - x).min(y - y1).min(y2 - y);
            if edge < 2 {
                image.put_pixel(x, y, colour);
            }
        }
    }
}
