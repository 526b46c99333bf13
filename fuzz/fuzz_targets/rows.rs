//! Any file of predictions is scored or refused, without a panic, and each row that comes out is JSON.
//!
//! Seeds: `mkdir -p corpus/rows && split -l 4 ../golden/scorers/pairs.jsonl corpus/rows/` in this folder.
#![no_main]

use benchmarks::predictions::{Scorer, score_rows};
use benchmarks::scorers::{Crashes, ScoredSet};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [first, rows @ ..] = data else { return };
    let sets = [
        "vwtq",
        "vtabfact",
        "chartqa-v-bar",
        "charxiv",
        "fintabnetqa",
    ];
    let set: ScoredSet = sets[usize::from(*first) % sets.len()].parse().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), rows).unwrap();
    for scorer in [
        Scorer::Official(Crashes::NotJudged),
        Scorer::Official(Crashes::Wrong),
        Scorer::Relaxed,
    ] {
        let mut out = Vec::new();
        let _ = score_rows(set, &scorer, file.path(), &mut out, "out".as_ref());
        for line in String::from_utf8(out).unwrap().lines() {
            assert!(line.starts_with('{') && line.ends_with('}'), "{line}");
        }
    }
});
