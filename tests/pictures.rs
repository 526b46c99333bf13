//! Pictures that a model cannot be shown: each costs its own question, by name.

use std::path::Path;
use std::process::{Command, Output};

use benchmarks::Verdict;
use image::{Rgb, RgbImage};
use results::{RECORDS, Record, read_lines};
use serde_json::json;

fn iapo(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_iapo"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap()
}

fn records(data: &Path, out: &Path) -> Vec<Record> {
    let output = iapo(&[
        "eval-all",
        "--model",
        "golden/parity/checkpoints/teacher",
        "--data",
        data.to_str().unwrap(),
        "--sets",
        "chartqa-v-bar",
        "--max-new-tokens",
        "2",
        "--out",
        out.to_str().unwrap(),
    ]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    read_lines(&out.join("teacher/seed-0").join(RECORDS)).unwrap()
}

#[test]
fn a_picture_that_cannot_be_processed_costs_its_question_alone() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir_all(data.join("chartqa_vcot")).unwrap();
    let picture = |width, height| RgbImage::from_pixel(width, height, Rgb([9, 90, 200]));
    let good = data.join("good.png");
    picture(60, 40).save(&good).unwrap();
    picture(1, 300).save(data.join("thin.png")).unwrap();
    picture(500, 2).save(data.join("flat.png")).unwrap();
    let whole = std::fs::read(&good).unwrap();
    std::fs::write(data.join("cut.png"), &whole[..whole.len() * 6 / 10]).unwrap();
    std::fs::write(data.join("none.png"), "").unwrap();
    let names = ["good", "thin", "cut", "flat", "none", "again"];
    picture(64, 48).save(data.join("again.png")).unwrap();
    let rows: String = names
        .iter()
        .map(|name| {
            let row = json!({
                "id": name, "question": "which?", "answer": "7", "source": "v_bar",
                "image": format!("{name}.png"), "x_values": ["A"],
                "x_values_bbox": [{ "x1": 0, "y1": 0, "x2": 1, "y2": 2 }],
            });
            format!("{row}\n")
        })
        .collect();
    std::fs::write(data.join("chartqa_vcot/test.jsonl"), rows).unwrap();

    let records = records(&data, &folder.path().join("out"));
    let reason = |name: &str| {
        let record = records.iter().find(|record| record.qa_id == name).unwrap();
        match record.verdict {
            Verdict::NotJudged => Some(record.reason.clone().unwrap()),
            Verdict::Right | Verdict::Wrong => None,
        }
    };
    assert_eq!(records.len(), names.len());
    for name in ["good", "again"] {
        assert_eq!(reason(name), None, "{name} has a verdict");
    }
    let told = |name: &str, expected: &str| {
        let reason = reason(name).unwrap();
        assert!(reason.contains(expected), "{name}: {reason}");
    };
    told("thin", "1x300 pixels has an aspect ratio of 300.0");
    told("flat", "500x2 pixels has an aspect ratio of 250.0");
    told("cut", "cut.png: the image is not whole");
    told(
        "none",
        "none.png: expected a PNG, JPEG, WebP, GIF or BMP image",
    );
}

/// `40-broken-images-in-set`, where `../shared` is there.
#[test]
fn the_collected_case_of_broken_pictures() {
    let case =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/cases/40-broken-images-in-set/data");
    if !case.is_dir() {
        println!("skipped: ../shared is absent");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let records = records(&case, folder.path());
    let open: Vec<&str> = records
        .iter()
        .filter(|record| record.verdict == Verdict::NotJudged)
        .map(|record| record.qa_id.as_str())
        .collect();
    assert_eq!(records.len(), 4);
    assert_eq!(open, ["cut.jpg", "thin.png"]);
}
