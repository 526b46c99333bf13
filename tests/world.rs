//! The micro world from outside: its questions as files, and the model of the repository asked them.

use std::path::Path;
use std::process::{Command, Output};

use image::RgbImage;
use serde_json::Value;

/// The micro student, from the repository's root.
const STUDENT: &str = "replicate/checkpoints/micro/student";

fn iapo(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_iapo"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap()
}

fn succeed(arguments: &[&str]) -> String {
    let output = iapo(arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// `iapo world` of the set vwtq, and its lines.
fn world(out: &Path, more: &[&str]) -> Vec<Value> {
    let arguments = [&["world", "--set", "vwtq", "--out", text(out)], more].concat();
    succeed(&arguments);
    let lines = std::fs::read_to_string(out.join("questions.jsonl")).unwrap();
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn picture(path: &Path) -> RgbImage {
    image::open(path).unwrap().to_rgb8()
}

#[test]
fn questions_lie_in_a_folder_with_pictures_of_three_kinds() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let rows = world(out, &["--n", "2", "--first", "17", "--boxes"]);
    assert_eq!(rows.len(), 2);
    insta::assert_snapshot!(serde_json::to_string_pretty(&rows[0]).unwrap());
    let figure = picture(&out.join(rows[0]["image"].as_str().unwrap()));
    let large = picture(&out.join("vwtq-test-17.large.png"));
    let boxes = picture(&out.join("vwtq-test-17.boxes.png"));
    assert_eq!(
        large.dimensions(),
        (8 * figure.width(), 8 * figure.height())
    );
    for (x, y, pixel) in large.enumerate_pixels() {
        assert_eq!(pixel, figure.get_pixel(x / 8, y / 8), "{x}, {y}");
    }
    // A region's corner is outlined, and its inside is the figure's.
    let columns = rows[0]["boxes"]["columns"].as_object().unwrap();
    let region = columns.values().next().unwrap();
    let [left, top] = ["x1", "y1"].map(|key| 8 * region[key].as_f64().unwrap() as u32);
    assert_eq!(boxes.get_pixel(left, top).0, [0, 114, 178]);
    assert_eq!(
        boxes.get_pixel(left + 4, top + 4),
        large.get_pixel(left + 4, top + 4)
    );
    assert!(out.join("vwtq-test-18.png").is_file());

    let other = tempfile::tempdir().unwrap();
    let other = other.path();
    let again = world(other, &["--n", "1", "--first", "17"]);
    assert_eq!(again[0], rows[0]);
    assert_eq!(picture(&other.join("vwtq-test-17.png")), figure);
    assert!(!other.join("vwtq-test-17.boxes.png").exists());
    let reseeded = world(other, &["--n", "1", "--first", "17", "--seed", "1"]);
    assert_eq!(reseeded[0]["world_seed"], 1);
    assert_ne!(picture(&other.join("vwtq-test-17.png")), figure);
}

#[test]
fn what_cannot_be_shown_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    let out = folder.path().join("out");
    let last = usize::MAX.to_string();
    for (set, n, first, out, told) in [
        (
            "wtq",
            "1",
            "0",
            &out,
            "unknown test set 'wtq': expected one of charxiv,",
        ),
        ("vwtq", "0", "0", &out, "invalid value '0' for '--n <N>'"),
        ("vwtq", "1", "0", &file, "expected a folder, found a file"),
        ("vwtq", "1", &last, &out, "questions are counted from 0 to"),
    ] {
        let out = text(out);
        let output = iapo(&[
            "world", "--set", set, "--n", n, "--first", first, "--out", out,
        ]);
        assert!(!output.status.success());
        assert!(stderr(&output).contains(told), "{}", stderr(&output));
    }
    assert!(!out.exists());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    let both = iapo(&["ask", "--micro", "vwtq/1", "--image", "a.png", "what?"]);
    assert!(
        stderr(&both).contains("cannot be used with"),
        "{}",
        stderr(&both)
    );
    let neither = iapo(&["ask", "--model", STUDENT]);
    assert!(
        stderr(&neither).contains("--image <FILE>"),
        "{}",
        stderr(&neither)
    );
    let jpeg = iapo(&["ask", "--micro", "vwtq/1", "--out", "a.jpg"]);
    assert!(stderr(&jpeg).contains("--out a.jpg: expected a name that ends in .png"));
}

/// The model of the repository calls a tool, and its call is told right.
#[test]
fn the_micro_student_calls_a_tool() {
    let folder = tempfile::tempdir().unwrap();
    let edited = folder.path().join("edited.png");
    let said = succeed(&["ask", "--micro", "vwtq/17", "--out", text(&edited)]);
    insta::assert_snapshot!(said.replace(text(folder.path()), "DIR"));
    assert_eq!(picture(&edited).dimensions(), (512, 384));
    let names = std::fs::read_dir(folder.path()).unwrap();
    assert_eq!(names.count(), 1, "nothing unfinished is left");
}

#[test]
fn calls_of_the_world_are_right_and_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let rows = world(&folder.path().join("world"), &["--n", "1", "--first", "17"]);
    let out = folder.path().join("edited.png");
    for (call, told) in [
        ("right_call", "=== the call is right"),
        ("wrong_call", "=== the call is wrong; right would be ==="),
    ] {
        let call = rows[0][call].as_str().unwrap();
        let said = succeed(&[
            "ask",
            "--micro",
            "vwtq/17",
            "--call",
            call,
            "--out",
            text(&out),
        ]);
        assert!(said.contains("=== the tool ran ==="), "{said}");
        assert!(said.contains(told), "{said}");
    }
}

/// A micro question's files given one by one are the same question; unknown words are warned of.
#[test]
fn a_question_from_files_is_the_same_question() {
    let folder = tempfile::tempdir().unwrap();
    let rows = world(folder.path(), &["--n", "1", "--first", "17"]);
    let [boxes, tools, out] =
        ["boxes.json", "tools.txt", "edited.png"].map(|n| folder.path().join(n));
    std::fs::write(&boxes, rows[0]["boxes"].to_string()).unwrap();
    std::fs::write(&tools, format!("{}\n", rows[0]["tools"].as_str().unwrap())).unwrap();
    let image = folder.path().join("vwtq-test-17.png");
    let ask = |question: &str| {
        let output = iapo(&[
            "ask",
            "--model",
            STUDENT,
            "--image",
            text(&image),
            "--boxes",
            text(&boxes),
            "--tools",
            text(&tools),
            "--out",
            text(&out),
            question,
        ]);
        assert!(output.status.success(), "{}", stderr(&output));
        (
            String::from_utf8(output.stdout.clone()).unwrap(),
            stderr(&output),
        )
    };
    let (said, warned) = ask(rows[0]["request"].as_str().unwrap());
    assert_eq!(warned, "");
    let micro = succeed(&["ask", "--micro", "vwtq/17", "--out", text(&out)]);
    let (same, _) = micro.split_once("=== gold").unwrap();
    assert_eq!(said, same);
    let (_, warned) = ask("which is largest of row re, please?");
    insta::assert_snapshot!(warned);

    std::fs::write(&tools, "\n").unwrap();
    let empty = iapo(&[
        "ask",
        "--model",
        STUDENT,
        "--image",
        text(&image),
        "--tools",
        text(&tools),
        "what?",
    ]);
    assert!(
        stderr(&empty).contains("the file is empty"),
        "{}",
        stderr(&empty)
    );
}

#[test]
fn a_folder_of_checkpoints_names_them() {
    let models = "replicate/checkpoints/micro";
    let folder = tempfile::tempdir().unwrap();
    let out = text(folder.path());
    for command in [
        &["ask", "--model", models, "--micro", "vwtq/17"][..],
        &["attribute", "--model", models, "--micro", "vwtq/17"],
        &[
            "eval-all", "--model", models, "--data", "micro", "--out", out,
        ],
    ] {
        let output = iapo(command);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(
            stderr(&output),
            "error: replicate/checkpoints/micro: expected a checkpoint, and this folder has no \
             config.json; name one of the checkpoints in it: replicate/checkpoints/micro/student, \
             replicate/checkpoints/micro/teacher\n"
        );
    }
}
