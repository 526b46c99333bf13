//! Entry points of what is kept in folders: weights, records, questions of one's own.

use std::path::Path;

use benchmarks::TestSet;
use benchmarks::sources::{self, OWN_QUESTIONS};
use candle_core::{DType, Device};
use qwen2_5_vl::Model;
use results::{EpisodeRecord, Record, UpdateMetrics, read_lines, read_stored};
use serde_json::json;

use super::targets::{Run, file, root, scratch};

/// The checkpoint whose first shard is mutated.
const CHECKPOINT: &str = "golden/parity/checkpoints/student";
const SHARD: &str = "model-00001-of-00003.safetensors";

/// Bytes before a safetensors header: its length.
const LENGTH: usize = 8;

/// Where the header of a safetensors file ends.
fn header_end(shard: &[u8]) -> usize {
    let length = shard.first_chunk::<LENGTH>().expect("it has a length");
    LENGTH + u64::from_le_bytes(*length) as usize
}

/// A byte that says whether the length follows the header, the length, the header.
pub fn weight_seeds() -> Vec<Vec<u8>> {
    let shard = file(&format!("{CHECKPOINT}/{SHARD}"));
    let head = &shard[..header_end(&shard)];
    [0, 1].map(|mended| [&[mended], head].concat()).to_vec()
}

/// Loads a checkpoint whose shard has a mutated header before the weights as they were.
pub fn weights() -> Run {
    let folder = scratch();
    for entry in std::fs::read_dir(root().join(CHECKPOINT)).expect("it is in the repository") {
        let from = entry.expect("it can be listed").path();
        let name = from.file_name().expect("a file has a name");
        std::fs::copy(&from, folder.path().join(name)).expect("it can be copied");
    }
    let shard = file(&format!("{CHECKPOINT}/{SHARD}"));
    let body = shard[header_end(&shard)..].to_vec();
    Box::new(move |data| {
        let Some((mended, head)) = data.split_first() else {
            return;
        };
        let mut bytes = head.to_vec();
        if mended % 2 == 0
            && let Some(length) = head.len().checked_sub(LENGTH)
        {
            bytes[..LENGTH].copy_from_slice(&(length as u64).to_le_bytes());
        }
        bytes.extend_from_slice(&body);
        std::fs::write(folder.path().join(SHARD), bytes).expect("it can be written");
        // Failing is fine, panicking is not.
        let _ = Model::load(folder.path(), &Device::Cpu, DType::F32);
    })
}

/// Lines of records, metrics and episodes, and the same compressed.
pub fn record_seeds() -> Vec<Vec<u8>> {
    let run = root().join("results/runs/micro/vtool-r1/seed-0");
    let lines = |name: &str| -> Vec<u8> {
        let bytes = read_stored(&run.join(name)).expect("it is in the repository");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let first: Vec<&str> = text.lines().take(3).collect();
        format!("{}\n", first.join("\n")).into_bytes()
    };
    let (records, metrics) = (lines(results::RECORDS), lines(results::METRICS));
    let packed = results::gzip(&records);
    vec![records, metrics, packed]
}

/// Reads them as what they may be, plain or compressed.
pub fn records() -> Run {
    let folder = scratch();
    Box::new(move |data| {
        let path = folder.path().join("lines.jsonl");
        std::fs::write(&path, data).expect("it can be written");
        let _ = read_lines::<Record>(&path);
        let _ = read_lines::<UpdateMetrics>(&path);
        let _ = read_lines::<EpisodeRecord>(&path);
        let packed = folder.path().join("packed.jsonl");
        for ending in [".gz", ".delta.gz"] {
            let stored = format!("{}{ending}", packed.display());
            std::fs::write(&stored, data).expect("it can be written");
            let _ = read_lines::<Record>(&packed);
            std::fs::remove_file(Path::new(&stored)).expect("it can be removed");
        }
    })
}

/// A file of questions of one's own.
pub fn question_seeds() -> Vec<Vec<u8>> {
    let region = json!({ "x1": 1.0, "y1": 0.0, "x2": 9.0, "y2": 9.5 });
    let chart = json!({
        "id": "a", "set": "vwtq", "image": "7.png", "request": "Which?", "gold": ["B", "C"],
        "boxes": {"columns": {"B": region}, "rows": {}, "x_values": {}}, "tools": "Tools.", "figure": "f",
    });
    let plain =
        json!({"id": 7, "set": "vtabfact", "image": "7.png", "request": "a", "gold": "true"});
    vec![
        format!("{chart}\n{plain}\n").into_bytes(),
        format!("{plain}\n").into_bytes(),
    ]
}

/// Loads them; boxes that are accepted lie in the picture.
pub fn questions() -> Run {
    let folder = scratch();
    let picture = image::RgbImage::new(40, 20).save(folder.path().join("7.png"));
    picture.expect("it can be written");
    Box::new(move |data| {
        std::fs::write(folder.path().join(OWN_QUESTIONS), data).expect("it can be written");
        let Ok(sets) = sources::own_sets(folder.path()) else {
            return;
        };
        for set in sets {
            let Ok(loaded) = sources::load(folder.path(), set) else {
                continue;
            };
            for question in loaded.questions().flatten() {
                let boxes = &question.task.boxes;
                for (_, found) in boxes.columns.0.iter().chain(&boxes.rows.0) {
                    assert!(
                        found.x1 >= 0.0 && found.x2 <= 40.0 && found.y2 <= 20.0,
                        "{found:?}"
                    );
                }
            }
        }
        // A folder with questions of one's own has no others.
        let _ = sources::load(folder.path(), TestSet::CharXiv);
    })
}
