//! The scorers against recorded verdicts: this project's vectors in `golden/scorers/`, and the
//! official verdicts in `../shared/data/scorer/` where that folder is present.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::Value;

use super::python::{self, Integer};
use super::{
    Answer, Crashes, Exception, Reason, Scored, ScoredSet, denotation, fintabnet,
    normalize::normalize, score, tabfact,
};
use crate::Verdict;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn golden(name: &str) -> Vec<Value> {
    rows(&root().join("golden/scorers").join(name))
}

fn rows(path: &Path) -> Vec<Value> {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let rows: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("a JSON row"))
        .collect();
    assert!(!rows.is_empty(), "{} is empty", path.display());
    rows
}

fn shared(name: &str) -> Option<PathBuf> {
    let path = root().join("../shared/data/scorer").join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: ../shared is absent");
    None
}

fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field]
        .as_str()
        .unwrap_or_else(|| panic!("{field} of {row}"))
}

fn answer(row: &Value, field: &str) -> Answer<'static> {
    Answer::from(row[field].clone())
}

fn set(name: &str) -> ScoredSet {
    name.replace('_', "-").parse().expect("a set")
}

/// The official verdict, crashes and all.
fn official(set: ScoredSet, gold: &Answer<'_>, prediction: &Answer<'_>) -> Scored {
    score(set, gold, prediction, Crashes::Wrong).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn numbers_are_read_as_cpython_reads_them() {
    for row in golden("numbers.jsonl") {
        let text = text(&row, "text");
        let int = python::parse_int(text).map(|n: Integer| n.to_string());
        assert_eq!(int.as_deref(), row["int"].as_str(), "int({text:?})");
        let float = python::parse_float(text);
        let expected = row["float"].as_str().map(|repr| match repr {
            "inf" => f64::INFINITY,
            "-inf" => f64::NEG_INFINITY,
            "nan" => f64::NAN,
            repr => repr.parse().expect("a float"),
        });
        let same = match (float, expected) {
            (Some(a), Some(b)) => a == b || (a.is_nan() && b.is_nan()),
            (a, b) => a == b,
        };
        assert!(same, "float({text:?}): {float:?}, expected {expected:?}");
    }
}

#[test]
fn text_is_stripped_and_lowered_as_cpython_does() {
    for row in golden("text.jsonl") {
        let given = text(&row, "text");
        assert_eq!(
            python::strip(given),
            text(&row, "strip"),
            "strip({given:?})"
        );
        assert_eq!(
            python::lower(given),
            text(&row, "lower"),
            "lower({given:?})"
        );
    }
}

/// Every code point through every character rule, a digest for each block of 4,096.
#[test]
fn every_code_point_is_treated_as_in_cpython() {
    let every: Vec<char> = ('\0'..=char::MAX).collect();
    let digests: Value = serde_json::from_str(
        &fs::read_to_string(root().join("golden/scorers/digests.json")).expect("digests"),
    )
    .expect("JSON");
    type Treatment = fn(char) -> String;
    let rule: [(&str, Treatment); 4] = [
        ("lower", |c| python::lower(&c.to_string())),
        ("space", |c| u8::from(python::is_space(c)).to_string()),
        ("word", |c| u8::from(python::is_word(c)).to_string()),
        ("decimal", |c| {
            python::decimal(c).map_or(-1, i32::from).to_string()
        }),
    ];
    for (name, rule) in rule {
        check_digests(name, &digests[name], &every, rule);
    }
    check_digests("decomposed", &digests["decomposed"], &every, |c| {
        super::normalize::decomposed(&format!("a{c}\u{323}"))
    });
}

fn check_digests(name: &str, digests: &Value, every: &[char], rule: impl Fn(char) -> String) {
    for (block, expected) in every
        .chunks(0x1000)
        .zip(digests.as_array().expect("a list"))
    {
        let mut digest = 0xcbf2_9ce4_8422_2325_u64;
        for &c in block {
            for byte in rule(c).into_bytes().into_iter().chain([0xff]) {
                digest = (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        let found = format!("{digest:016x}");
        assert_eq!(
            expected, &found,
            "{name}, block from U+{:04X}",
            block[0] as u32
        );
    }
}

#[test]
fn our_own_pairs() {
    for row in golden("pairs.jsonl") {
        let scored = official(
            set(text(&row, "set")),
            &answer(&row, "gt"),
            &answer(&row, "pred"),
        );
        assert_eq!(scored.reason.name(), text(&row, "reason"), "{row}");
    }
}

#[test]
fn every_official_verdict() {
    let mut checked = 0;
    for name in ["vwtq", "vwtq_syn", "vtabfact", "fintabnetqa"] {
        let Some(path) = shared(&format!("official_{name}.jsonl")) else {
            return;
        };
        for row in rows(&path) {
            let scored = official(set(name), &answer(&row, "gt"), &answer(&row, "pred"));
            check(&row, scored.verdict, &row["score"]);
            if let Some(strict) = row["exact_score"].as_i64() {
                assert_eq!(scored.reason == Reason::Equal, strict == 1, "strict: {row}");
            }
            checked += 1;
        }
    }
    println!("{checked} official verdicts reproduced");
}

#[test]
fn every_adversarial_verdict() {
    let Some(path) = shared("adversarial.jsonl") else {
        return;
    };
    for row in rows(&path) {
        let (gold, prediction) = (answer(&row, "gt"), answer(&row, "pred"));
        let scored = match text(&row, "evaluator") {
            "wtq" => denotation::score(&gold, &prediction),
            "tabfact" => tabfact::score(&gold, &prediction),
            "fintabnet" => fintabnet::score(&gold, &prediction),
            other => panic!("unknown evaluator {other}"),
        };
        match row["raises"].as_str() {
            Some(exception) => {
                assert_eq!(scored.verdict, Verdict::Wrong, "{row}");
                assert_eq!(scored.reason.name(), format!("crash:{exception}"), "{row}");
            }
            None => {
                check(&row, scored.verdict, &row["score"]);
                assert!(!matches!(scored.reason, Reason::Crash(_)), "{row}");
            }
        }
        if let Some(strict) = row["exact_score"].as_i64() {
            assert_eq!(scored.reason == Reason::Equal, strict == 1, "strict: {row}");
        }
    }
}

fn check(row: &Value, verdict: Verdict, official: &Value) {
    let ours = match verdict {
        Verdict::Right => Value::from(1),
        Verdict::Wrong => Value::from(0),
        Verdict::NotJudged => Value::Null,
    };
    assert_eq!(&ours, official, "{row}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_text_panics(gold in "[0-9a-f .|\\\\n\"()\\[\\]xX_%$\u{661}é−-]{0,20}|\\PC{0,12}", prediction in any::<String>()) {
        for name in ["vwtq", "vtabfact", "chartqa-h-bar", "charxiv", "fintabnetqa"] {
            let _ = score(set(name), &gold.as_str().into(), &prediction.as_str().into(), Crashes::Wrong);
            let _ = score(set(name), &prediction.as_str().into(), &gold.as_str().into(), Crashes::Wrong);
        }
    }

    #[test]
    fn the_gold_itself_is_right(gold in "[0-9a-z .,()\\[\\]-]{0,16}") {
        // A gold that the official program cannot read crashes it, whatever the prediction.
        let scored = official(set("vwtq"), &gold.as_str().into(), &gold.as_str().into());
        let crash = Reason::Crash(Exception::AssertionError);
        prop_assert!(scored.verdict == Verdict::Right || scored.reason == crash, "{scored:?}");
    }

    #[test]
    fn items_may_come_in_any_order(mut items in proptest::collection::vec("[a-e1-5]{1,2}", 1..6), turn in 0_usize..6) {
        let gold = items.join("|");
        let by = turn % items.len();
        items.rotate_left(by);
        let prediction = items.join("||");
        let scored = official(set("vwtq"), &gold.as_str().into(), &prediction.as_str().into());
        prop_assert_eq!(scored.reason, Reason::Equal);
    }

    #[test]
    fn a_normal_form_matches_its_source(gold in "[A-Za-zÀ-ÿ‘’“”–. *†]{0,16}") {
        let normal = normalize(&gold);
        if !normal.ends_with('.') && normalize(&normal) == normal {
            let scored = official(set("vwtq"), &gold.as_str().into(), &normal.as_str().into());
            prop_assert!(scored.verdict == Verdict::Right || matches!(scored.reason, Reason::Crash(_)));
        }
    }
}
