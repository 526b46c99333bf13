//! Loaders on small folders of our own in every layout, and on the real public data where it is.

use std::fs;
use std::path::{Path, PathBuf};

use benchmarks::sources::{self, LoadReport, LoadedSet, SourceError};
use benchmarks::{Question, TestSet};
use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with a 200 × 100 image for each of `images`.
fn folder(images: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for image in images {
        let path = folder.path().join(image);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        RgbImage::from_pixel(200, 100, Rgb([1, 2, 3]))
            .save(path)
            .unwrap();
    }
    folder
}

fn write(folder: &TempDir, name: &str, text: &str) {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

fn all(set: &LoadedSet) -> Vec<Question> {
    set.questions().collect::<Result<_, _>>().unwrap()
}

fn corners(question: &Question, label: &str) -> [f64; 4] {
    let boxes = &question.task.boxes;
    let found = [
        &boxes.x_values,
        &boxes.y_values,
        &boxes.columns,
        &boxes.rows,
    ]
    .into_iter()
    .find_map(|named| named.get(label))
    .unwrap();
    [found.x1, found.y1, found.x2, found.y2]
}

fn region(x1: f64, y1: f64, x2: f64, y2: f64) -> Value {
    json!({ "x1": x1, "y1": y1, "x2": x2, "y2": y2 })
}

#[test]
fn dialect_a_charts() {
    let folder = folder(&["data/chartqa/7.png"]);
    let record = json!({
        "query": "Which?", "answer": "B", "figure_path": "data/chartqa/7.png",
        "x_values": [], "x_bboxes": [], "y_values": ["A", "B"],
        "y_bboxes": [region(0.025, 0.1, 0.975, 0.5), region(0.025, 0.5, 0.975, 1.1)],
    });
    write(
        &folder,
        "chartQA_h_bar_wbb.json",
        &json!({ "7": record, "7_2": record }).to_string(),
    );
    let set = sources::load(folder.path(), TestSet::ChartQaHorizontal).unwrap();
    let questions = all(&set);
    assert_eq!(set.ids(), ["7", "7_2"]);
    assert_eq!(questions[1].image_id, "7");
    assert_eq!(questions[0].gold, "B");
    assert_eq!(questions[0].task.request, "Which?");
    assert_eq!(questions[0].task.image.dimensions(), (200, 100));
    assert_eq!(corners(&questions[0], "A"), [5.0, 10.0, 195.0, 50.0]);
    assert_eq!(
        corners(&questions[0], "B"),
        [5.0, 50.0, 195.0, 100.0],
        "clipped"
    );
    assert_eq!(set.report().boxes.clipped, 2);
    assert_eq!(set.report().official, 444);
    let other = sources::load(folder.path(), TestSet::ChartQaVertical);
    assert!(matches!(other, Err(SourceError::NoData { .. })));
}

#[test]
fn dialects_b_and_c_in_one_file_and_the_metadata_of_vtool() {
    let folder = folder(&["images/ChartQA/test/png/1.png", "images/2.png"]);
    let b = json!({
        "id": "test-1", "query": "How much?", "answer": [1.34, 2], "source": "v_bar",
        "conversations": [{ "images": ["data/ChartQAtest/png/1.png"], "user": "How much?" }],
        "x_values_bbox": { "A": region(90.0, 0.0, 10.0, 50.0) }, "y_values_bbox": {},
    });
    let c = json!({
        "id": "2_2", "question": "How many?", "answer": "4", "source": "chartqa_v_bar",
        "image": "ChartQA/ChartQA Dataset/test/png/2.png",
        "x_values": ["A", "A", "B&amp;C"], "y_values": [], "y_values_bbox": [],
        "x_values_bbox": [region(0.0, 0.0, 9.0, 9.0), region(1.0, 0.0, 9.0, 9.0), region(2.0, 0.0, 9.0, 9.0)],
    });
    let h = json!({ "id": "3", "question": "?", "answer": "x", "source": "chartqa_h_bar", "image": "no.png" });
    let metadata = json!({ "type": "v_bar", "x_values_bbox": { "Z": region(1.0, 2.0, 3.0, 4.0) },
        "y_values_bbox": { "x1": "none" } });
    let vtool = json!({
        "id": "4", "source": "v_bar", "image": "2.png",
        "extra_info": { "question": "Why?", "answer": "so", "tools_kwargs": { "metadata": metadata.to_string() } },
    });
    write(
        &folder,
        "chartqa_vcot/test.jsonl",
        &lines(&[b, c, h, vtool]),
    );

    let set = sources::load(folder.path(), TestSet::ChartQaVertical).unwrap();
    let questions = all(&set);
    assert_eq!(set.ids(), ["test-1", "2_2", "4"]);
    assert_eq!(questions[0].gold, "1.34|||2");
    assert_eq!(
        corners(&questions[0], "A"),
        [10.0, 0.0, 90.0, 50.0],
        "mended"
    );
    assert_eq!(
        corners(&questions[1], "A"),
        [1.0, 0.0, 9.0, 9.0],
        "the last box of a label"
    );
    assert_eq!(questions[1].image_id, "2");
    assert_eq!(questions[2].task.request, "Why?");
    assert_eq!(corners(&questions[2], "Z"), [1.0, 2.0, 3.0, 4.0]);
    let LoadReport {
        boxes,
        duplicate_labels,
        labels_with_markup,
        list_answers,
        ..
    } = set.report();
    assert_eq!(
        (
            boxes.inverted,
            *duplicate_labels,
            *labels_with_markup,
            *list_answers
        ),
        (1, 1, 1, 1)
    );

    let set = sources::load(folder.path(), TestSet::ChartQaHorizontal).unwrap();
    assert!(set.is_empty());
    assert_eq!(set.report().without_image, ["3"]);
    assert_eq!(set.report().rows, 1);
}

#[test]
fn tables_with_boxes_and_without() {
    let folder = folder(&["tables/nu-1.png", "images/vtabfact_9.png"]);
    let record = |answer: Value| {
        json!({
            "figure_id": "nu-1", "query": "which?", "answer": answer, "figure_path": "tables/nu-1.png",
            "column_headers": ["Name", "Age"],
            "columns_bbox": [region(0.0, 0.0, 0.5, 1.0), region(0.5, 0.0, 1.0, 1.0)],
            "row_starters": [], "rows_bbox": [], "text_html_table": "<table>",
        })
    };
    // The name that the ReFocus script asks for, and the one its producer writes. Some editors put a
    // byte order mark before the text.
    write(
        &folder,
        "table-vwtq_syn_wbb.json",
        &format!("\u{feff}{}", json!({ "nu-1": record(json!("a|b")) })),
    );
    write(
        &folder,
        "data/tablevqa_wbb.json",
        &json!({ "nu-1": record(json!(["a|b", "c"])), "nu-2": record(json!("7")) }).to_string(),
    );
    let synthetic = all(&sources::load(folder.path(), TestSet::VwtqSyn).unwrap());
    assert_eq!(synthetic[0].gold, "a|b");
    let set = sources::load(folder.path(), TestSet::Vwtq).unwrap();
    let questions = all(&set);
    assert_eq!(questions[0].gold, "a\\pb|c");
    assert_eq!(questions[0].image_id, questions[1].image_id, "one table");
    assert_eq!(corners(&questions[0], "Age"), [100.0, 0.0, 200.0, 100.0]);
    assert!(questions[0].task.boxes.rows.is_empty());

    write(
        &folder,
        "tables/vtabfact.jsonl",
        &lines(&[
            json!({ "qa_id": "9", "question": "all are old", "gt": 0 }),
            json!({ "qa_id": "10", "question": "all are old", "gt": 1 }),
        ]),
    );
    let set = sources::load(folder.path(), TestSet::VTabFact).unwrap();
    let questions = all(&set);
    assert_eq!(questions.len(), 1);
    assert_eq!(questions[0].gold, "false");
    assert!(questions[0].task.request.ends_with("\nall are old"));
    assert_eq!(set.report().without_image, ["10"]);
    assert_eq!(set.report().boxes.figures_without_boxes, 1);
}

#[test]
fn charxiv_prompts_carry_their_instructions() {
    let folder = folder(&["images/0.png"]);
    fs::rename(
        folder.path().join("images/0.png"),
        folder.path().join("images/0.jpg"),
    )
    .unwrap();
    write(&folder, "data/reasoning_val.json", &json!({
        "0": { "figure_id": 0, "query": "How much {x}?", "answer": "0.25", "inst_category": 4, "qa_source": 1 },
        "2": { "figure_id": 2, "query": "Which?", "answer": "B", "inst_category": 1, "qa_source": 3 },
    }).to_string());
    let set = sources::load(folder.path(), TestSet::CharXiv).unwrap();
    let questions = all(&set);
    assert_eq!(questions[0].category, Some(4));
    assert_eq!(questions[0].image_id, "0");
    assert!(questions[0].task.request.contains("2 decimal places"));
    assert_eq!(
        sources::bare_question(&questions[0].task.request),
        "How much {x}?"
    );
    assert_eq!(set.report().without_image, ["2"]);
}

/// Every way in which a file can be wrong, and how it is told. The folder's name is cut out.
#[test]
fn errors_say_where_what_was_expected_and_what_was_found() {
    let good = json!({ "id": "1", "question": "?", "answer": "x", "source": "v_bar", "image": "1.png",
        "x_values": [], "x_values_bbox": [], "y_values": [], "y_values_bbox": [] });
    let with = |field: &str, value: Value| {
        let mut row = good.clone();
        row[field] = value;
        row
    };
    let files: Vec<(&str, String)> = vec![
        ("not JSON", format!("{good}\n{{\"id\": ")),
        ("not an object", "\n[1, 2]\n".to_owned()),
        ("no question", lines(&[with("question", Value::Null)])),
        ("answer", lines(&[with("answer", json!({ "a": 1 }))])),
        ("answers", lines(&[with("answer", json!([null]))])),
        ("empty list of answers", lines(&[with("answer", json!([]))])),
        ("bars", lines(&[with("source", json!("pie"))])),
        ("id", lines(&[with("id", json!(1.5))])),
        ("twice", lines(&[good.clone(), good.clone()])),
        ("labels", lines(&[with("x_values", json!(["A"]))])),
        (
            "box",
            lines(&[with("x_values_bbox", json!([[1, 2, 3, 4]]))]),
        ),
        ("metadata", lines(&[with("metadata", json!("{"))])),
    ];
    let folder = folder(&["1.png"]);
    let root = folder.path().display().to_string();
    let mut told = String::new();
    for (case, text) in files {
        write(&folder, "chartqa_vcot/test.jsonl", &text);
        let error = sources::load(folder.path(), TestSet::ChartQaVertical).unwrap_err();
        told += &format!("{case}: {}\n", error.to_string().replace(&root, "DIR"));
    }
    write(&folder, "reasoning_val.json", "[]");
    let error = sources::load(folder.path(), TestSet::CharXiv).unwrap_err();
    told += &format!("list: {}\n", error.to_string().replace(&root, "DIR"));
    write(
        &folder,
        "reasoning_val.json",
        &json!({ "7": { "query": "?", "answer": "x", "inst_category": 5 } }).to_string(),
    );
    let error = sources::load(folder.path(), TestSet::CharXiv).unwrap_err();
    told += &format!("category: {}\n", error.to_string().replace(&root, "DIR"));
    let error = sources::load(folder.path(), TestSet::VTabFact).unwrap_err();
    told += &format!("nothing: {}\n", error.to_string().replace(&root, "DIR"));
    write(
        &folder,
        "tables/vtabfact.jsonl",
        &lines(&[json!({ "qa_id": "1", "question": "?", "gt": 2 })]),
    );
    let error = sources::load(folder.path(), TestSet::VTabFact).unwrap_err();
    told += &format!("truth: {}\n", error.to_string().replace(&root, "DIR"));
    insta::assert_snapshot!(told);
}

#[test]
fn a_broken_image_costs_its_question_alone() {
    let folder = folder(&["1.png", "2.png"]);
    write(&folder, "no-image.png", "this is no PNG");
    let whole = fs::read(folder.path().join("1.png")).unwrap();
    fs::write(folder.path().join("cut.png"), &whole[..whole.len() / 2]).unwrap();
    let row = |id: &str, image: &str| {
        json!({ "id": id, "question": "?", "answer": ["x", "y"], "source": "v_bar", "image": image,
            "x_values": ["A"], "x_values_bbox": [region(1.0, 2.0, 3.0, 4.0)] })
    };
    let rows = [
        row("1", "1.png"),
        row("2", "no-image.png"),
        row("3", "cut.png"),
        row("4", "2.png"),
    ];
    write(&folder, "chartqa_vcot/test.jsonl", &lines(&rows));
    let set = sources::load(folder.path(), TestSet::ChartQaVertical).unwrap();
    assert_eq!(set.ids(), ["1", "2", "3", "4"]);
    let taken: Vec<bool> = set.questions().map(|question| question.is_ok()).collect();
    assert_eq!(taken, [true, false, false, true]);
    for (index, name) in [(1, "no-image.png"), (2, "cut.png")] {
        let error = set.question(index).unwrap().unwrap_err().to_string();
        let expected = format!("test.jsonl:{}: cannot decode the image ", index + 1);
        assert!(error.contains(&expected) && error.contains(name), "{error}");
        let listing = set.listing(index).unwrap();
        assert_eq!(listing.id, (index + 1).to_string());
        assert_eq!(listing.gold, "x|||y");
    }
    assert_eq!(set.listing(4), None);
}

#[test]
fn a_path_in_the_data_does_not_lead_out_of_the_folder() {
    let outer = folder(&["secret.png", "data/other.png"]);
    let row = |path: String| json!({ "id": "1", "question": "?", "answer": "x", "source": "v_bar", "image": path });
    for path in [
        "../secret.png".to_owned(),
        outer.path().join("secret.png").display().to_string(),
    ] {
        write(&outer, "data/chartqa_vcot/test.jsonl", &lines(&[row(path)]));
        let set = sources::load(&outer.path().join("data"), TestSet::ChartQaVertical).unwrap();
        assert!(set.is_empty());
    }
}

#[test]
fn without_the_feature_a_parquet_file_says_what_it_needs() {
    if cfg!(feature = "hub") {
        return;
    }
    let folder = folder(&[]);
    write(&folder, "data/vwtq-00000-of-00001.parquet", "PAR1");
    let error = sources::load(folder.path(), TestSet::Vwtq).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("needs the feature `hub` (parquet)"),
        "{error}"
    );
}

fn shared() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    if !folder.is_dir() {
        println!("skipped: ../shared is absent");
        return None;
    }
    Some(folder)
}

/// The counts that the data's own README gives.
#[test]
fn the_real_public_data_loads_whole() {
    let Some(data) = shared() else { return };
    let expected = [
        (TestSet::CharXiv, 1000, 0),
        (TestSet::ChartQaHorizontal, 272, 230),
        (TestSet::ChartQaVertical, 226, 174),
        (TestSet::Vwtq, 436, 1),
        (TestSet::VwtqSyn, 140, 0),
        (TestSet::VTabFact, 153, 0),
    ];
    let mut charts = 0;
    for (set, rows, questions) in expected {
        let loaded = sources::load(&data, set).unwrap();
        let report = loaded.report();
        println!(
            "{set}: {} rows, {} questions, {:?}",
            report.rows, report.questions, report.boxes
        );
        if matches!(set, TestSet::ChartQaHorizontal | TestSet::ChartQaVertical) {
            charts += report.rows;
            assert_eq!(report.boxes.figures_without_boxes, 0);
        } else {
            assert_eq!(report.rows, rows, "{set}");
        }
        assert_eq!(report.questions, questions, "{set}");
        assert_eq!(report.ids.len() + report.without_image.len(), report.rows);
    }
    assert_eq!(charts, 498);
}

/// Our prompts are those of CharXiv's authors, for all thousand questions.
#[test]
fn charxiv_prompts_equal_the_official_ones() {
    let Some(data) = shared() else { return };
    let text = fs::read_to_string(data.join("charxiv/reasoning_val.jsonl")).unwrap();
    let mut n = 0;
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let text = |field: &str| row[field].as_str().unwrap();
        let category = row["inst_category"].as_u64().unwrap() as u8;
        let prompt = sources::response_prompt(text("query"), category, text("answer")).unwrap();
        assert_eq!(prompt, text("prompt"), "figure {}", row["figure_id"]);
        assert_eq!(sources::bare_question(&prompt), text("query"));
        n += 1;
    }
    assert_eq!(n, 1000);
}

#[test]
fn questions_of_ones_own() {
    let folder = folder(&["figures/sales.png", "t.png"]);
    let chart = json!({
        "id": "sales", "set": "chartqa-v-bar", "image": "figures/sales.png",
        "request": "How many in May?", "gold": ["12", "twelve"],
        "boxes": {"x_values": {"May": region(10.0, 0.0, 30.0, 90.0), "June": region(40.0, 0.0, 260.0, 90.0)}},
        "figure": "sales-2026", "tools": "Tools: mask.",
    });
    let table = json!({"id": 7, "set": "vtabfact", "image": "t.png", "request": "true or false: a", "gold": "true"});
    write(
        &folder,
        sources::OWN_QUESTIONS,
        &lines(&[chart.clone(), table.clone()]),
    );
    let data = folder.path();
    assert_eq!(
        sources::own_sets(data).unwrap(),
        [TestSet::ChartQaVertical, TestSet::VTabFact]
    );
    let set = sources::load(data, TestSet::ChartQaVertical).unwrap();
    let questions = all(&set);
    assert_eq!(questions.len(), 1);
    let question = &questions[0];
    assert_eq!(
        (question.id.as_str(), question.image_id.as_str()),
        ("sales", "sales-2026")
    );
    assert_eq!(question.task.request, "How many in May?");
    assert_eq!(question.task.tools.as_deref(), Some("Tools: mask."));
    assert_eq!(question.gold, "12|||twelve");
    assert_eq!(corners(question, "May"), [10.0, 0.0, 30.0, 90.0]);
    assert_eq!(
        corners(question, "June")[2],
        200.0,
        "clipped to the picture"
    );
    assert_eq!((set.report().official, set.report().boxes.clipped), (1, 1));
    let other = all(&sources::load(data, TestSet::VTabFact).unwrap());
    assert_eq!(
        (other[0].id.as_str(), other[0].task.tools.as_deref()),
        ("7", None)
    );

    let refused = |change: &dyn Fn(&mut Value)| {
        let mut row = chart.clone();
        change(&mut row);
        write(
            &folder,
            sources::OWN_QUESTIONS,
            &lines(&[table.clone(), row]),
        );
        let own =
            sources::own_sets(data).and_then(|_| sources::load(data, TestSet::ChartQaVertical));
        own.unwrap_err().to_string()
    };
    for (change, words) in [
        (
            (&|row: &mut Value| row["set"] = json!("chartqa")) as &dyn Fn(&mut Value),
            "questions.jsonl:2",
        ),
        (&|row| row["answer"] = json!("12"), "no such field"),
        (&|row| row["boxes"]["x"] = json!({}), "no such axis"),
        (&|row| row["gold"] = json!({"a": 1}), "`gold`"),
        (
            &|row| row["set"] = json!("vwtq"),
            "no data of chartqa-v-bar",
        ),
    ] {
        let said = refused(change);
        assert!(said.contains(words), "{said}");
    }
}
