//! `iapo view`: the page's data come back out of it, nothing is fetched, and where Chromium is a
//! browser goes through it.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use results::{EPISODES, EpisodeRecord, GROUPS, RECORDS, Record, VALIDATION, read_lines};
use serde_json::Value;

fn iapo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_iapo"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The chunks of a page, decompressed.
fn chunks(page: &str) -> BTreeMap<String, Vec<u8>> {
    page.split("<script type=\"text/plain\" id=\"chunk-")
        .skip(1)
        .map(|part| {
            let (name, rest) = part.split_once("\">").unwrap();
            let (text, _) = rest.split_once('<').unwrap();
            let packed = base64::engine::general_purpose::STANDARD.decode(text);
            let mut bytes = Vec::new();
            flate2::read::GzDecoder::new(packed.unwrap().as_slice())
                .read_to_end(&mut bytes)
                .unwrap();
            (name.to_owned(), bytes)
        })
        .collect()
}

fn json(chunks: &BTreeMap<String, Vec<u8>>, name: &str) -> Value {
    serde_json::from_slice(&chunks[name]).unwrap()
}

/// Nothing in the page leads out of it.
fn stays_alone(page: &str) {
    let markup: String = page
        .split("<script type=\"text/plain\"")
        .map(|part| part.split_once("</script>").map_or(part, |(_, rest)| rest))
        .collect();
    for word in ["http:", "https:", "//cdn", "src=\"", "@import", "url("] {
        assert!(!markup.contains(word), "the page holds {word}");
    }
}

/// Goes through a page in Chromium, where there is one.
fn look(page: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/view/look.py");
    let output = Command::new("python3").arg(script).arg(page).output();
    let Ok(output) = output else {
        println!("skipped: no python3");
        return;
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.starts_with("no Chromium") {
        println!("skipped: {errors}");
        return;
    }
    assert!(output.status.success(), "{errors}");
    println!("{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_recorded_run_of_an_earlier_version_is_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("view.html");
    let path = out.to_str().unwrap();
    let said = iapo(&["view", "results/runs/micro", "--out", path]);
    assert!(said.starts_with(path) && said.ends_with("MB)\n"), "{said}");
    let page = std::fs::read_to_string(&out).unwrap();
    assert!(page.len() < 20_000_000, "{} bytes", page.len());
    stays_alone(&page);
    let chunks = chunks(&page);
    let meta = json(&chunks, "meta");
    let columns = meta["columns"].as_array().unwrap();
    assert_eq!(columns.len(), 42);
    assert_eq!(meta["asked"], 1200);
    // Every figure was made again.
    let questions = json(&chunks, "questions");
    let questions = questions.as_array().unwrap();
    assert!(questions.iter().all(|question| question["figure"].is_u64()));
    // The letters are the records'.
    let letters = json(&chunks, "letters");
    for (column, letters) in columns.iter().zip(letters.as_array().unwrap()) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(column["folder"].as_str().unwrap());
        let records: Vec<Record> = read_lines(&folder.join(RECORDS)).unwrap();
        let right = records
            .iter()
            .filter(|record| record.verdict == benchmarks::Verdict::Right)
            .count();
        let verdicts = letters["verdict"].as_str().unwrap();
        assert_eq!(verdicts.matches('r').count(), right);
    }
    // The differences are those of the table.
    let verdict = meta["sources"][0]["verdict"][0].as_str().unwrap();
    assert!(iapo(&["tables", "results/runs/micro"]).contains(&verdict[..40]));
    look(&out);
}

#[test]
fn a_run_of_this_version_shows_episodes_groups_and_validation() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("<img src=x onerror=alert(1)>");
    let run = run.to_str().unwrap();
    let small = [
        "replicate",
        "--profile",
        "smoke",
        "--out",
        run,
        "--arms",
        "vtool-r1,iapo-occlusion",
        "--set",
        "episodes.groups=2",
        "--set",
        "episodes.validation=4",
    ];
    iapo(&small);
    let arm = Path::new(run).join("iapo-occlusion/seed-0");
    let episodes: Vec<EpisodeRecord> = read_lines(&arm.join(EPISODES)).unwrap();
    let records: Vec<Record> = read_lines(&arm.join(RECORDS)).unwrap();
    // Greedy and sampled.
    assert_eq!(episodes.len(), 2 * records.len());
    assert!(!arm.join(EPISODES).exists(), "it is kept compressed");
    let measured: Vec<&EpisodeRecord> = episodes
        .iter()
        .filter(|episode| episode.student.is_some())
        .collect();
    let attributed = records.iter().filter(|record| record.attribution.is_some());
    assert_eq!(measured.len(), attributed.count());
    for episode in &measured {
        assert!(episode.teacher.is_some() && episode.divergence.unwrap() >= 0.0);
    }
    let groups: Vec<EpisodeRecord> = read_lines(&arm.join(GROUPS)).unwrap();
    // Four updates, two of them of the cold start, two groups of four each.
    assert_eq!(groups.len(), 4 * 2 * 4);
    for episode in &groups {
        let sample = episode.training.as_ref().unwrap();
        let sum: f64 = sample.reward_parts.values().sum();
        assert!((sum - sample.reward.unwrap()).abs() < 1e-6);
        assert_eq!(episode.arm.name(), "iapo-occlusion");
    }
    let validation: Vec<EpisodeRecord> = read_lines(&arm.join(VALIDATION)).unwrap();
    assert_eq!(validation.len(), 2 * 4);
    let said = iapo(&["check", run]);
    assert_eq!(said, "all files whole, all questions answered\n");

    let out = dir.path().join("view.html");
    iapo(&["view", run, "--out", out.to_str().unwrap()]);
    let page = std::fs::read_to_string(&out).unwrap();
    assert!(!page.contains("<img"), "the title is markup");
    stays_alone(&page);
    let chunks = chunks(&page);
    let meta = json(&chunks, "meta");
    let column = meta["columns"].as_array().unwrap();
    let column = column
        .iter()
        .position(|column| column["arm"] == "iapo-occlusion")
        .unwrap();
    let shown = json(&chunks, &format!("groups-{column}"));
    let shown = shown.as_array().unwrap();
    assert_eq!(shown.len(), 8);
    for group in shown {
        assert!(group["question"].is_u64(), "it was drawn again: {group}");
        assert_eq!(group["samples"].as_array().unwrap().len(), 4);
    }
    // What the tool made of the figure is there for every call that ran.
    let letters = json(&chunks, "letters");
    let outcomes = letters[column]["outcome"].as_str().unwrap();
    let details = json(&chunks, &format!("column-{column}"));
    for (question, outcome) in outcomes.chars().enumerate() {
        let answer = &details["answers"][question.to_string()];
        assert_eq!(answer[5].is_u64(), outcome == 's', "{answer}");
    }
    look(&out);
}

/// Before anything is answered there are learning curves to look at.
#[test]
fn training_on_its_way_is_a_page_of_curves() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("torl/seed-0");
    std::fs::create_dir_all(&folder).unwrap();
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("results/runs/micro/torl/seed-0")
        .join(results::METRICS);
    let lines = results::read_stored(&recorded).unwrap();
    let begun: Vec<&[u8]> = lines.split_inclusive(|&byte| byte == b'\n').collect();
    // The last of 30 lines is being written.
    let begun = [&begun[..29].concat()[..], b"{\"stage\": \"to"].concat();
    std::fs::write(folder.join(results::METRICS), begun).unwrap();
    let out = dir.path().join("view.html");
    iapo(&[
        "view",
        dir.path().to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ]);
    let page = std::fs::read_to_string(&out).unwrap();
    stays_alone(&page);
    let chunks = chunks(&page);
    let meta = json(&chunks, "meta");
    assert_eq!(meta["arms"].as_array().unwrap().len(), 0);
    assert_eq!(meta["unfinished"][0]["arm"], "torl");
    assert_eq!(meta["unfinished"][0]["update"], 29);
    let curves = json(&chunks, "curves");
    let reward = curves.as_array().unwrap().iter();
    let reward: Vec<&Value> = reward.filter(|curve| curve["key"] == "reward").collect();
    assert_eq!(reward.len(), 1);
    assert_eq!(reward[0]["points"].as_array().unwrap().len(), 29);
    look(&out);
}
