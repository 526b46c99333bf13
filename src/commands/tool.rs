//! `iapo tool`: one visual tool on one image, painted as ReFocus paints with Pillow.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use image::RgbImage;
use visual_tools::{
    FigureBoxes, NamedBoxes, StepOutcome, Style, Tool, ToolCall, Unchanged, apply_reporting,
};

use super::png::{expect_png, write_png};

/// Applies one visual tool to one image.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The tool: focus_on_{columns,rows,x_values,y_values}_with_{mask,draw,highlight}.
    name: Tool,
    /// The image to edit.
    #[arg(long, value_name = "IN.png")]
    image: PathBuf,
    /// The named regions: {"name": {"x1", "y1", "x2", "y2"}} in pixels, origin top left.
    #[arg(long, value_name = "BOXES.json")]
    boxes: PathBuf,
    /// The names to focus on: A,B or, for names that hold commas, a JSON list.
    #[arg(long, value_name = "A,B")]
    names: String,
    /// Where the edited image goes.
    #[arg(long, value_name = "OUT.png")]
    out: PathBuf,
}

/// Edits the image and writes the result; notes go to standard error.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    for note in edit(&args)? {
        eprintln!("note: {note}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Does the work of [`run`] and returns what the user should know.
fn edit(args: &Args) -> anyhow::Result<Vec<String>> {
    expect_png(&args.out)?;
    let names = parse_names(&args.names)?;
    let mut boxes = read_boxes(&args.boxes)?;
    let image = read_image(&args.image)?;

    let mut notes = Vec::new();
    // Pillow clips what sticks out of the image by itself, and refuses inverted rectangles.
    let inverted = boxes.order_corners();
    if inverted > 0 {
        notes.push(format!("{inverted} inverted boxes were mended"));
    }
    let call = ToolCall::new(args.name, names);
    let figure = FigureBoxes::of(args.name.axis, boxes);
    let applied = apply_reporting(&image, &call, &figure, &Style::refocus())
        .with_context(|| format!("boxes of {}", args.boxes.display()))?;
    for outcome in &applied.outcomes {
        match outcome {
            StepOutcome::Painted { skipped, .. } if skipped.is_empty() => {}
            StepOutcome::Painted { skipped, .. } => {
                notes.push(format!(
                    "passed over, as ReFocus does: {}",
                    skipped.join(", ")
                ));
            }
            StepOutcome::Unchanged(why) => notes.push(format!(
                "the image is unchanged: {}",
                match why {
                    Unchanged::NoBoxes => "there are no boxes",
                    Unchanged::NoNames => "no names were given",
                    Unchanged::NothingRecognised => "no name is that of a region",
                    Unchanged::NothingToMask => "every region is named",
                }
            )),
        }
    }
    write_png(&args.out, &applied.image)?;
    Ok(notes)
}

/// `A,B`, blanks around names dropped, or a JSON list of strings. Nothing at all is no name.
fn parse_names(names: &str) -> anyhow::Result<Vec<String>> {
    let trimmed = names.trim();
    if trimmed.is_empty() {
        return Ok(Vec::new());
    }
    if trimmed.starts_with('[') {
        return serde_json::from_str(trimmed).with_context(|| {
            format!("--names {names}: begins with `[` and is not a JSON list of strings")
        });
    }
    Ok(trimmed
        .split(',')
        .map(|name| name.trim().to_owned())
        .collect())
}

fn read_boxes(path: &Path) -> anyhow::Result<NamedBoxes> {
    let text = super::read_text(path)
        .with_context(|| format!("cannot read the boxes {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| {
        format!(
            "{}: expected {{\"name\": {{\"x1\", \"y1\", \"x2\", \"y2\"}}}} in pixels",
            path.display()
        )
    })
}

fn read_image(path: &Path) -> anyhow::Result<RgbImage> {
    Ok(image_files::read(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOXES: &str = r#"{"a, b": {"x1": 2, "y1": 2, "x2": 30, "y2": 20},
                            "c": {"x1": 60, "y1": 20, "x2": 32, "y2": 2}}"#;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let place = Place(tempfile::tempdir().unwrap());
            RgbImage::from_pixel(64, 24, image::Rgb([200; 3]))
                .save(place.path("in.png"))
                .unwrap();
            std::fs::write(place.path("boxes.json"), BOXES).unwrap();
            place
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn args(&self, tool: &str, names: &str) -> Args {
            Args {
                name: tool.parse().unwrap(),
                image: self.path("in.png"),
                boxes: self.path("boxes.json"),
                names: names.to_owned(),
                out: self.path("out.png"),
            }
        }

        fn error(&self, args: &Args) -> String {
            let error = format!("{:#}", edit(args).unwrap_err());
            error.replace(&self.0.path().display().to_string(), "DIR")
        }
    }

    #[test]
    fn writes_the_edited_image_and_mends_inverted_boxes() {
        let place = Place::new();
        let notes = edit(&place.args("focus_on_columns_with_mask", r#"["a, b"]"#)).unwrap();
        assert_eq!(notes, ["1 inverted boxes were mended"]);
        let out = read_image(&place.path("out.png")).unwrap();
        assert_eq!(out.get_pixel(10, 10).0, [200; 3]);
        assert_eq!(out.get_pixel(34, 4).0, [255; 3]);
        assert_eq!(out.get_pixel(33, 4).0, [200; 3]);
    }

    #[test]
    fn says_when_nothing_changes() {
        let place = Place::new();
        for (names, note) in [
            (
                "nobody",
                "the image is unchanged: no name is that of a region",
            ),
            ("", "the image is unchanged: no names were given"),
            (
                r#"["c", "a, b"]"#,
                "the image is unchanged: every region is named",
            ),
        ] {
            let notes = edit(&place.args("focus_on_columns_with_mask", names)).unwrap();
            assert_eq!(notes.last().unwrap(), note);
            assert_eq!(
                read_image(&place.path("out.png")).unwrap(),
                read_image(&place.path("in.png")).unwrap()
            );
        }
    }

    #[test]
    fn bad_input_is_named_and_nothing_is_written() {
        let place = Place::new();
        let good = || place.args("focus_on_columns_with_draw", "c");
        assert_eq!(
            place.error(&place.args("focus_on_columns_with_draw", "c,d")),
            "boxes of DIR/boxes.json: focus_on_columns_with_draw: no region is called \"d\"; there are: \"a, b\", \"c\""
        );
        let error = place.error(&place.args("focus_on_columns_with_draw", "[c]"));
        assert!(
            error.starts_with("--names [c]: begins with `[` and is not a JSON list of strings")
        );
        let mut args = good();
        args.out = place.path("out.txt");
        assert_eq!(
            place.error(&args),
            "--out DIR/out.txt: expected a name that ends in .png"
        );
        args = good();
        args.image = place.path("none.png");
        assert!(
            place
                .error(&args)
                .starts_with("cannot read the image DIR/none.png")
        );
        args.image = place.path("boxes.json");
        let error = place.error(&args);
        assert!(
            error.starts_with("DIR/boxes.json: expected a PNG, JPEG, WebP, GIF or BMP image"),
            "{error}"
        );
        let whole = std::fs::read(place.path("in.png")).unwrap();
        std::fs::write(place.path("cut.png"), &whole[..whole.len() / 2]).unwrap();
        args.image = place.path("cut.png");
        let error = place.error(&args);
        assert!(
            error.starts_with("DIR/cut.png: the image is not whole"),
            "{error}"
        );
        args = good();
        args.boxes = place.path("in.png");
        assert!(
            place
                .error(&args)
                .starts_with("cannot read the boxes DIR/in.png")
        );
        std::fs::write(place.path("boxes.json"), r#"{"a": {"x1": 1}}"#).unwrap();
        let error = place.error(&good());
        assert!(error.starts_with("DIR/boxes.json: expected"), "{error}");
        assert!(!place.path("out.png").exists() && !place.path("out.txt").exists());
    }

    #[test]
    fn a_full_disk_is_told_by_its_file_and_leaves_nothing() {
        let place = Place::new();
        let full = place.path("full.png");
        if !Path::new("/dev/full").exists() {
            println!("skipped: this system has no /dev/full");
            return;
        }
        std::os::unix::fs::symlink("/dev/full", &full).unwrap();
        let mut args = place.args("focus_on_columns_with_draw", "c");
        args.out = full;
        let error = place.error(&args);
        assert!(
            error.contains("full.png") && error.contains("No space left on device"),
            "{error}"
        );
        // A folder that cannot be written to, or is not there: the old picture stays as it was.
        args = place.args("focus_on_columns_with_draw", "c");
        std::fs::write(place.path("out.png"), "old").unwrap();
        args.out = place.path("out.png/inside.png");
        let error = place.error(&args);
        assert!(error.contains("out.png"), "{error}");
        assert_eq!(std::fs::read(place.path("out.png")).unwrap(), b"old");
        let names: Vec<_> = std::fs::read_dir(place.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), 4, "no half of a picture is left: {names:?}");
    }

    #[test]
    fn a_misspelt_name_is_told_the_nearest_region() {
        let place = Place::new();
        let error = place.error(&place.args("focus_on_columns_with_draw", "C "));
        assert!(error.contains(r#"(the nearest is "c")"#), "{error}");
        let error = place.error(&place.args("focus_on_columns_with_draw", r#"["A, B"]"#));
        assert!(
            error.contains(r#"no region is called "A, B" (the nearest is "a, b")"#),
            "{error}"
        );
    }
}
