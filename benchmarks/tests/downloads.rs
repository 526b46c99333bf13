//! `--data hub` and `--model ORG/NAME` from one end to the other, with a hub in this process.
#![cfg(feature = "hub")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use benchmarks::TestSet;
use benchmarks::sources::{self, TrainingSplit, checkpoint};

#[path = "../../crates/hub-files/tests/support/hub.rs"]
mod hub;
#[path = "support/shard.rs"]
mod shard;

use hub::{COMMIT, Hub};

/// Names the folder in which a case works when it runs as a process of its own.
const WORKPLACE: &str = "IAPO_TEST_WORKPLACE";

/// Runs the test `case` again, as a process with `HF_ENDPOINT` and `IAPO_CACHE` set: a process has
/// one environment, its tests run side by side.
fn run_apart(case: &str, hub: &Hub, workplace: &Path) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", case, "--nocapture"])
        .env("HF_ENDPOINT", hub.address())
        .env("IAPO_CACHE", workplace.join("cache"))
        .env(WORKPLACE, workplace)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("1 passed"), "{told}");
}

fn workplace() -> Option<PathBuf> {
    std::env::var_os(WORKPLACE).map(PathBuf::from)
}

/// Puts a file that `write` makes on the hub.
fn put(hub: &Hub, repository: &str, path: &str, write: impl Fn(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file.parquet");
    write(&file);
    hub.put(repository, path, fs::read(file).unwrap(), true);
}

#[test]
fn test_sets_and_training_questions_come_from_the_hub() {
    if let Some(workplace) = workplace() {
        let data = workplace.join("data");
        for (set, ids) in [
            (TestSet::Vwtq, ["nu-1", "nu-2"].as_slice()),
            (TestSet::VTabFact, &["nu-1", "nu-2"]),
            (TestSet::ChartQaHorizontal, &["200_2"]),
            (TestSet::ChartQaVertical, &["100"]),
        ] {
            sources::download(set, &data).unwrap();
            let loaded = sources::load(&data, set).unwrap();
            assert_eq!(loaded.ids(), ids);
            assert!(loaded.questions().all(|question| question.is_ok()));
        }
        sources::download_training(&data).unwrap();
        let [horizontal, vertical] = sources::load_training(&data, TrainingSplit::Train).unwrap();
        assert_eq!((horizontal.len(), vertical.len()), (1, 1));
        return;
    }
    let hub = Hub::start();
    let tables = "datasets/terryoo/TableVQA-Bench";
    for set in ["vwtq", "vwtq_syn", "vtabfact"] {
        put(
            &hub,
            tables,
            &format!("data/{set}-00000-of-00001.parquet"),
            |path| {
                shard::write_tables(path, ["1", "0"]);
            },
        );
    }
    let refocus = "datasets/ReFocus/ReFocus_Data";
    for split in ["test", "train"] {
        let path = format!("data/{split}-00000-of-00001.parquet");
        put(&hub, refocus, &path, shard::write_charts);
    }
    put(&hub, refocus, "images/ChartQA.zip", |path| {
        let writer = zip::ZipWriter::new(fs::File::create(path).unwrap());
        writer.finish().unwrap();
    });
    let case = "test_sets_and_training_questions_come_from_the_hub";
    let workplace = tempfile::tempdir().unwrap();
    run_apart(case, &hub, workplace.path());
    let asked = hub.asked().len();
    // Charts and tables share files of ReFocus; nothing is asked for twice, not even by a new run.
    assert_eq!(asked, 3 + 2 + 1);
    run_apart(case, &hub, workplace.path());
    assert_eq!(hub.asked().len(), asked);
    let lock = fs::read_to_string(workplace.path().join("data/hub.lock.json")).unwrap();
    assert!(
        lock.contains("6af42739216fd58047121bb51dba683277cfdfe3"),
        "{lock}"
    );
    assert!(lock.contains(COMMIT), "{lock}");
}

#[test]
fn a_model_of_the_hub_becomes_a_folder() {
    if let Some(workplace) = workplace() {
        let models = workplace.join("cache/models/o");
        let folder = checkpoint::resolve("o/model").unwrap();
        assert_eq!(folder, models.join("model"));
        let mut files: Vec<String> = fs::read_dir(&folder)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        assert_eq!(
            files,
            [
                "chat_template.json",
                "config.json",
                "hub.lock.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
                "tokenizer.json",
            ]
        );
        let pinned = format!("o/model@{COMMIT}");
        let folder = checkpoint::resolve(&pinned).unwrap();
        assert_eq!(folder, models.join(format!("model@{COMMIT}")));
        let error = checkpoint::resolve("o/no-checkpoint").unwrap_err();
        assert!(error.to_string().contains("no config.json"), "{error}");
        let error = checkpoint::resolve("o/nothing").unwrap_err();
        assert!(error.to_string().contains("o/nothing"), "{error}");
        return;
    }
    let hub = Hub::start();
    for (path, large) in [
        ("README.md", false),
        ("chat_template.json", false),
        ("config.json", false),
        ("model-00001-of-00002.safetensors", true),
        ("model-00002-of-00002.safetensors", true),
        ("model.safetensors.index.json", false),
        ("onnx/model.onnx", true),
        ("pytorch_model.bin", true),
        ("tokenizer.json", true),
    ] {
        hub.put("models/o/model", path, path, large);
    }
    hub.put("models/o/no-checkpoint", "tokenizer.json", "{}", false);
    let workplace = tempfile::tempdir().unwrap();
    run_apart(
        "a_model_of_the_hub_becomes_a_folder",
        &hub,
        workplace.path(),
    );
    assert_eq!(hub.asked().len(), 6 + 6 + 1);
}
