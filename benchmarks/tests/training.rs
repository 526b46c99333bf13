//! The training questions, from small files of our own and from the real public ones.

use std::fs;
use std::io::Read;
use std::path::Path;

use benchmarks::TestSet;
use benchmarks::sources::{self, SourceError, TrainingSplit};
use image::{Rgb, RgbImage};
use serde_json::{Value, json};

fn region(x1: i32, y1: i32, x2: i32, y2: i32) -> Value {
    json!({ "x1": x1, "y1": y1, "x2": x2, "y2": y2 })
}

fn write_lines(file: &Path, rows: &[Value]) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(file, lines).unwrap();
}

#[test]
fn both_dialects_give_questions_with_counted_repairs() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("png")).unwrap();
    for stem in ["10", "20"] {
        RgbImage::from_pixel(200, 100, Rgb([9; 3]))
            .save(folder.path().join(format!("png/{stem}.png")))
            .unwrap();
    }
    let new = json!({
        "id": "10", "question": "How high?", "answer": "3", "source": "chartqa_v_bar",
        "split": "train", "image": "ChartQA/ChartQA Dataset/train/png/10.png",
        "x_values": ["A", ""], "y_values": [], "y_values_bbox": [],
        "x_values_bbox": [region(90, 0, 10, 50), region(100, 0, 300, 50)],
        "figure_bbox": region(0, 0, 200, 100), "thoughts": ["THOUGHT 0", "FINAL ANSWER: 3"],
        "edited_image": "", "focus_areas_bbox": [region(1, 2, 3, 4)],
    });
    let old = json!({
        "id": "train-20", "query": "How long?", "answer": ["1", "2"], "source": "h_bar",
        "conversations": [{ "images": ["data/ChartQAtrain/png/20.png"], "user": "How long?" }],
        "x_values_bbox": {}, "y_values_bbox": { "B": region(5, 10, 195, 20) },
    });
    let without = json!({ "id": "30", "question": "?", "answer": "x", "source": "chartqa_h_bar",
        "image": "30.png" });
    let file = folder.path().join("chartqa_vcot/train.jsonl");
    write_lines(&file, &[new.clone(), old, without]);

    let [horizontal, vertical] =
        sources::load_training(folder.path(), TrainingSplit::Train).unwrap();
    assert_eq!(horizontal.report().without_image, ["30"]);
    assert_eq!(horizontal.report().rows, 2);
    let question = horizontal.question(0).unwrap().unwrap();
    assert_eq!(
        (question.id.as_str(), question.gold.as_str()),
        ("train-20", "1|||2")
    );
    assert_eq!(question.set, TestSet::ChartQaHorizontal);
    assert_eq!(question.task.request, "How long?");
    assert!(question.task.boxes.y_values.get("B").is_some());

    let report = vertical.report();
    assert_eq!(report.files, ["chartqa_vcot/train.jsonl"]);
    assert_eq!((report.boxes.inverted, report.boxes.clipped), (1, 1));
    let question = vertical.question(0).unwrap().unwrap();
    assert_eq!(question.task.image.dimensions(), (200, 100));
    let mended = question.task.boxes.x_values.get("A").unwrap();
    assert_eq!([mended.x1, mended.x2], [10.0, 90.0]);
    assert!(question.task.boxes.x_values.get("").is_some());

    let none = sources::load_training(folder.path(), TrainingSplit::Validation).unwrap_err();
    assert!(matches!(none, SourceError::NoData { .. }), "{none}");
    let mut nameless = new;
    nameless.as_object_mut().unwrap().remove("source");
    write_lines(&file, &[nameless]);
    let error = sources::load_training(folder.path(), TrainingSplit::Train).unwrap_err();
    let told = error.to_string();
    assert!(told.contains("train.jsonl:1, field `source`"), "{told}");
}

/// Counts as the data's own contract measured them. Its images are not public here: one image, as
/// large as any chart, stands for each of them.
#[test]
fn the_real_annotations_load_whole() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/chartqa");
    if !data.is_dir() {
        println!("skipped: ../shared is absent");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let png = folder.path().join("png");
    fs::create_dir(&png).unwrap();
    let any = folder.path().join("any.png");
    RgbImage::new(4000, 4000).save(&any).unwrap();
    for (split, name, sizes, inverted) in [
        (TrainingSplit::Train, "train", [4722, 9622], 1290),
        (TrainingSplit::Validation, "val", [323, 490], 86),
    ] {
        let packed = fs::File::open(data.join(format!("chartqa_vcot_{name}.jsonl.gz"))).unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(packed)
            .read_to_string(&mut text)
            .unwrap();
        let file = folder
            .path()
            .join(format!("chartqa/chartqa_vcot_{name}.jsonl.gz"));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        for line in text.lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            let image = row["image"].as_str().unwrap().rsplit('/').next().unwrap();
            fs::hard_link(&any, png.join(image)).unwrap();
        }
        fs::copy(data.join(format!("chartqa_vcot_{name}.jsonl.gz")), file).unwrap();
        let sets = sources::load_training(folder.path(), split).unwrap();
        let mut found = 0;
        for (set, size) in sets.iter().zip(sizes) {
            let report = set.report();
            println!("{name} {}: {:?}", report.set, report.boxes);
            assert_eq!((report.rows, report.questions), (size, size));
            assert_eq!(report.official, size);
            assert_eq!(report.boxes.clipped, 0);
            found += report.boxes.inverted;
        }
        assert_eq!(found, inverted, "{name}");
    }
}

/// VTool-R1's tables are questions of the test sets: what is tested is not trained on, and what is held
/// out for validation is not either.
#[test]
fn what_is_tested_or_held_out_is_not_trained_on() {
    use benchmarks::data::{Data, LoadedData, TrainingFigures, ValidationSource};
    use seeded_random::Stream;
    use std::collections::BTreeSet;
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("images")).unwrap();
    let mut rows = Vec::new();
    let mut tested = serde_json::Map::new();
    for index in 0..40 {
        let name = format!("images/{index}.png");
        RgbImage::from_pixel(60, 40, Rgb([index as u8; 3]))
            .save(folder.path().join(&name))
            .unwrap();
        let id = format!("nu-{index}");
        let metadata = json!({
            "type": "table", "columns_bbox": { "Year": region(0, 0, 30, 40) },
            "row_starters": { "1999": region(0, 20, 60, 40) },
        });
        rows.push(json!({
            "figure_id": id, "query": "How many?", "answer": "3", "figure_path": name,
            "metadata": metadata.to_string(),
        }));
        if index < 10 {
            tested.insert(
                id,
                json!({ "query": "How many?", "answer": "3", "figure_path": name,
                    "column_headers": [], "columns_bbox": [], "row_starters": [], "rows_bbox": [] }),
            );
        }
    }
    write_lines(&folder.path().join("table_train.jsonl"), &rows);
    let text = Value::Object(tested).to_string();
    fs::write(folder.path().join("tablevqa_wbb.json"), text).unwrap();
    let loaded = LoadedData::test_sets(folder.path(), &[TestSet::Vwtq])
        .unwrap()
        .with_training(
            folder.path(),
            TrainingFigures::Tables,
            ValidationSource::HeldOut(0.3),
        )
        .unwrap();
    let [train, validation, left_out] = loaded.training_sizes();
    assert_eq!((train + validation, left_out), (30, 10));
    assert!((3..=18).contains(&validation), "{validation}");
    let data = Data::loaded(loaded);
    let ids = |items: &[benchmarks::data::Item]| -> BTreeSet<String> {
        let ids = items.iter().map(|item| item.question.id.clone());
        ids.collect()
    };
    let epoch = data.training(&Stream::new(1), 0, train).unwrap().items;
    let held_out = data.validation(100).unwrap();
    assert_eq!(
        (ids(&epoch).len(), ids(&held_out).len()),
        (train, validation)
    );
    assert!(ids(&epoch).is_disjoint(&ids(&held_out)));
    for index in 0..10 {
        assert!(!ids(&epoch).contains(&format!("nu-{index}")));
    }
    let boxes = &epoch[0].question.task.boxes;
    assert!(boxes.columns.get("Year").is_some() && boxes.rows.get("1999").is_some());
}
