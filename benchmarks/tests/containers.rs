//! Parquet files of every published schema, images in archives, and both when they are damaged.
#![cfg(feature = "hub")]

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use benchmarks::sources::{self, LoadedSet, TrainingSplit};
use benchmarks::{Question, TestSet};
use serde_json::json;
use tempfile::TempDir;

#[path = "support/shard.rs"]
mod shard;

fn all(set: &LoadedSet) -> Vec<Question> {
    set.questions().collect::<Result<_, _>>().unwrap()
}

fn corners(question: &Question, label: &str) -> [f64; 4] {
    let boxes = &question.task.boxes;
    let found = boxes.x_values.get(label).or(boxes.y_values.get(label));
    let found = found.unwrap();
    [found.x1, found.y1, found.x2, found.y2]
}

fn zip_of(path: &Path, members: &[(&str, &[u8])]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = zip::ZipWriter::new(File::create(path).unwrap());
    for (name, bytes) in members {
        let options = zip::write::SimpleFileOptions::default();
        writer.start_file(*name, options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn charts_of_refocus_as_test_set_and_for_training() {
    let folder = tempfile::tempdir().unwrap();
    for split in ["test", "train"] {
        let name = format!("data/{split}-00000-of-00001.parquet");
        shard::write_charts(&folder.path().join(name));
    }
    let horizontal = sources::load(folder.path(), TestSet::ChartQaHorizontal).unwrap();
    let vertical = sources::load(folder.path(), TestSet::ChartQaVertical).unwrap();
    let training = sources::load_training(folder.path(), TrainingSplit::Train).unwrap();
    for ([horizontal, vertical], sizes) in [
        ([&horizontal, &vertical], [444, 382]),
        (training.each_ref(), [4722, 9622]),
    ] {
        assert_eq!(
            (horizontal.ids(), vertical.ids()),
            (&["200_2".to_owned()][..], &["100".to_owned()][..])
        );
        assert_eq!(
            [horizontal.report().official, vertical.report().official],
            sizes
        );
        assert_eq!(horizontal.report().boxes.clipped, 1);
        assert_eq!(vertical.report().boxes.inverted, 1);
        let [of_horizontal, of_vertical] = [&all(horizontal)[0], &all(vertical)[0]];
        assert_eq!(of_horizontal.set, TestSet::ChartQaHorizontal);
        assert_eq!(of_horizontal.gold, "8");
        assert_eq!(corners(of_horizontal, "C"), [5.0, 10.0, 30.0, 20.0]);
        assert_eq!(of_horizontal.image_id, "200");
        assert_eq!(of_vertical.task.request, "How high is A?");
        assert_eq!(of_vertical.task.image.dimensions(), (40, 20));
        assert_eq!(of_vertical.task.image.get_pixel(0, 0).0, [1, 2, 3]);
        assert_eq!(corners(of_vertical, "A"), [5.0, 0.0, 19.0, 20.0]);
        assert_eq!(corners(of_vertical, "B"), [20.0, 0.0, 39.0, 20.0]);
    }
}

#[test]
fn charts_of_vtool() {
    let folder = tempfile::tempdir().unwrap();
    shard::write_vtool(&folder.path().join("test.parquet"));
    shard::write_vtool(&folder.path().join("train.parquet"));
    let test = sources::load(folder.path(), TestSet::ChartQaVertical).unwrap();
    let [none, training] = sources::load_training(folder.path(), TrainingSplit::Train).unwrap();
    assert!(none.is_empty());
    for set in [test, training] {
        let question = &all(&set)[0];
        assert_eq!(
            (question.id.as_str(), question.gold.as_str()),
            ("300", "so")
        );
        assert_eq!(question.task.request, "Why?");
        assert_eq!(question.task.image.dimensions(), (40, 20));
        assert_eq!(corners(question, "Z"), [1.0, 2.0, 30.0, 18.0]);
    }
}

#[test]
fn tables_of_tablevqa_bench() {
    let folder = tempfile::tempdir().unwrap();
    let shard = |name: &str, gold| {
        shard::write_tables(&folder.path().join("data").join(name), gold);
    };
    shard("vwtq-00000-of-00001.parquet", ["a|b", "7"]);
    shard("vtabfact-00000-of-00001.parquet", ["0", "1"]);
    let set = sources::load(folder.path(), TestSet::Vwtq).unwrap();
    let questions = all(&set);
    assert_eq!(set.ids(), ["nu-1", "nu-2"]);
    assert_eq!(questions[0].gold, "a|b");
    assert_eq!(questions[0].image_id, questions[1].image_id, "one table");
    assert_eq!(questions[0].task.image.dimensions(), (8, 4));
    assert_eq!(set.report().boxes.figures_without_boxes, 2);
    let facts = all(&sources::load(folder.path(), TestSet::VTabFact).unwrap());
    assert_eq!([&facts[0].gold, &facts[1].gold], ["false", "true"]);
}

#[test]
fn images_inside_archives() {
    let folder = tempfile::tempdir().unwrap();
    let [small, large] = [shard::png(4, 4, [1; 3]), shard::png(8, 8, [2; 3])];
    // CharXiv, as its authors lay it out.
    zip_of(
        &folder.path().join("images.zip"),
        &[("images/0.jpg", &small), ("images/10.jpg", &large)],
    );
    fs::create_dir(folder.path().join("data")).unwrap();
    let question = |figure: u32| json!({ "figure_id": figure, "query": "?", "answer": "x", "inst_category": 1 });
    let questions = json!({ "0": question(0), "10": question(10), "11": question(11) });
    fs::write(
        folder.path().join("data/reasoning_val.json"),
        questions.to_string(),
    )
    .unwrap();
    let set = sources::load(folder.path(), TestSet::CharXiv).unwrap();
    let sizes: Vec<u32> = all(&set).iter().map(|q| q.task.image.width()).collect();
    assert_eq!(sizes, [4, 8]);
    assert_eq!(set.report().without_image, ["11"]);

    // Charts of ReFocus beside their archive; a name that leads out of it finds nothing else.
    zip_of(
        &folder.path().join("images/ChartQA.zip"),
        &[
            ("ChartQA/test/png/1.png", &small),
            ("ChartQA/train/png/1.png", &large),
        ],
    );
    let row = |id: &str, image: &str| json!({ "id": id, "question": "?", "answer": "x", "source": "h_bar", "image": image });
    let rows = [
        row("1", "ChartQA/ChartQA Dataset/train/png/1.png"),
        row("2", "../../ChartQA/test/png/1.png"),
        row("3", "/etc/passwd"),
        // Two members end so: which one is meant is not known.
        row("4", "1.png"),
    ];
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::create_dir(folder.path().join("chartqa_vcot")).unwrap();
    fs::write(folder.path().join("chartqa_vcot/test.jsonl"), lines).unwrap();
    let set = sources::load(folder.path(), TestSet::ChartQaHorizontal).unwrap();
    let sizes: Vec<u32> = all(&set).iter().map(|q| q.task.image.width()).collect();
    assert_eq!(sizes, [8, 4]);
    assert_eq!(set.report().without_image, ["3", "4"]);
}

/// The error of a set whose `file` was cut to `keep` bytes, with the folder's name cut out.
fn told_when_cut(folder: &TempDir, file: &str, keep: usize, set: TestSet) -> String {
    let path = folder.path().join(file);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..keep]).unwrap();
    let told = match sources::load(folder.path(), set) {
        Err(error) => error.to_string(),
        Ok(set) => set.question(0).unwrap().unwrap_err().to_string(),
    };
    fs::write(&path, whole).unwrap();
    told.replace(&folder.path().display().to_string(), "DIR")
}

#[test]
fn damaged_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let parquet = "data/test-00000-of-00001.parquet";
    shard::write_charts(&folder.path().join(parquet));
    for keep in [0, 3, 40] {
        let told = told_when_cut(&folder, parquet, keep, TestSet::ChartQaVertical);
        assert!(
            told.starts_with(&format!("cannot read DIR/{parquet}: ")),
            "{told}"
        );
    }
    // Damage in the middle: the footer is whole, the pages are not.
    let path = folder.path().join(parquet);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 4;
    bytes[4..middle].fill(0xff);
    fs::write(&path, bytes).unwrap();
    let error = sources::load(folder.path(), TestSet::ChartQaVertical).unwrap_err();
    assert!(error.to_string().contains(parquet), "{error}");

    let folder = tempfile::tempdir().unwrap();
    let png = shard::png(64, 64, [7; 3]);
    fs::create_dir(folder.path().join("data")).unwrap();
    fs::write(
        folder.path().join("data/reasoning_val.json"),
        json!({ "0": { "figure_id": 0, "query": "?", "answer": "x", "inst_category": 1 } })
            .to_string(),
    )
    .unwrap();
    zip_of(&folder.path().join("images.zip"), &[("0.jpg", &png)]);
    let told = told_when_cut(&folder, "images.zip", 50, TestSet::CharXiv);
    assert!(told.starts_with("cannot read DIR/images.zip: "), "{told}");
    // Neither bytes that are no image, nor the beginning of one: its size can be read, its pixels
    // cannot. The set loads, its question does not.
    for bytes in [b"no image".as_slice(), &png[..60]] {
        zip_of(&folder.path().join("images.zip"), &[("0.jpg", bytes)]);
        let set = sources::load(folder.path(), TestSet::CharXiv).unwrap();
        let error = set.question(0).unwrap().unwrap_err().to_string();
        assert!(error.contains("cannot decode the image 0.jpg"), "{error}");
    }
}
