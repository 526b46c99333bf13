//! The scorers against recorded verdicts: this project's vectors in `golden/scorers/`, and the
//! official verdicts in `../shared/data/scorer/` where that folder is present.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::Value;

use super::python::{self, Integer};
use super::rows::{RowsError, Scorer, score_file};
use super::{
    Answer, Exception, Reason, ScoreSummary, ScoredSet, denotation, fintabnet,
    normalize::normalize, score, tabfact,
};
use crate::judge::{Case, Judge, JudgeError, Judgement, Rubric};
use crate::{TestSet, Verdict};

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
        let scored = score(
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
            let scored = score(set(name), &answer(&row, "gt"), &answer(&row, "pred"));
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
            score(set(name), &gold.as_str().into(), &prediction.as_str().into());
            score(set(name), &prediction.as_str().into(), &gold.as_str().into());
        }
    }

    #[test]
    fn the_gold_itself_is_right(gold in "[0-9a-z .,()\\[\\]-]{0,16}") {
        // A gold that the official program cannot read crashes it, whatever the prediction.
        let scored = score(set("vwtq"), &gold.as_str().into(), &gold.as_str().into());
        let crash = Reason::Crash(Exception::AssertionError);
        prop_assert!(scored.verdict == Verdict::Right || scored.reason == crash, "{scored:?}");
    }

    #[test]
    fn items_may_come_in_any_order(mut items in proptest::collection::vec("[a-e1-5]{1,2}", 1..6), turn in 0_usize..6) {
        let gold = items.join("|");
        let by = turn % items.len();
        items.rotate_left(by);
        let prediction = items.join("||");
        let scored = score(set("vwtq"), &gold.as_str().into(), &prediction.as_str().into());
        prop_assert_eq!(scored.reason, Reason::Equal);
    }

    #[test]
    fn a_normal_form_matches_its_source(gold in "[A-Za-zÀ-ÿ‘’“”–. *†]{0,16}") {
        let normal = normalize(&gold);
        if !normal.ends_with('.') && normalize(&normal) == normal {
            let scored = score(set("vwtq"), &gold.as_str().into(), &normal.as_str().into());
            prop_assert!(scored.verdict == Verdict::Right || matches!(scored.reason, Reason::Crash(_)));
        }
    }
}

/// A folder with a predictions file, and the result of scoring it.
fn scored(
    name: &str,
    input: &str,
    set: ScoredSet,
    scorer: &Scorer<'_>,
) -> (Result<ScoreSummary, RowsError>, Option<String>) {
    let folder = tempfile::tempdir().expect("a folder");
    let (given, out) = (folder.path().join(name), folder.path().join("out.jsonl"));
    fs::write(&given, input).expect("written");
    let summary = score_file(set, scorer, &given, &out);
    (summary, fs::read_to_string(out).ok())
}

#[test]
fn a_file_keeps_its_fields_and_order() {
    let input = "{\"qa_id\": \"a\", \"gt\": \"5\", \"pred\": \"5.0\", \"x\": [1e400000]}\n"
        .replace("1e400000", "1.50")
        + "\n{\"gt\":\"5\",\"pred\":\"6\" }\r\n{\"gt\":\"5\",\"pred\":null,\"score\":1,\"reason\":\"r\"}";
    let (summary, out) = scored("in.jsonl", &input, set("vwtq"), &Scorer::Official);
    insta::assert_snapshot!(out.expect("an output"), @r#"
    {"qa_id": "a", "gt": "5", "pred": "5.0", "x": [1.50],"score":1,"reason":"equal"}
    {"gt":"5","pred":"6","score":0,"reason":"different"}
    {"gt":"5","pred":null,"given_score":1,"given_reason":"r","score":0,"reason":"crash:AttributeError"}
    "#);
    let summary = summary.expect("scored");
    assert_eq!(
        (summary.rows, summary.right, summary.n, summary.not_judged),
        (3, 1, 3, 0)
    );
}

#[test]
fn the_fields_that_a_row_brings_are_renamed_where_they_stand() {
    let input = r#"{"reason" : "x", "gt": 1.50, "score": {"score": 1}, "pred": "1.5" }
{"gt": "1", "sc\u006fre": 0, "pred": "1"}
"#;
    let (_, out) = scored("in.jsonl", input, set("vwtq"), &Scorer::Relaxed);
    insta::assert_snapshot!(out.expect("an output"), @r#"
    {"given_reason" : "x", "gt": 1.50, "given_score": {"score": 1}, "pred": "1.5","score":1,"reason":"equal"}
    {"gt":"1","given_score":0,"pred":"1","score":1,"reason":"equal"}
    "#);
}

#[test]
fn a_null_score_stays_in_the_denominator_for_both_labels() {
    let input = "{\"gt\":1,\"pred\":\"true\"}\n{\"gt\":1,\"pred\":\"true, false\"}\n";
    let (summary, out) = scored("in.jsonl", input, set("vtabfact"), &Scorer::Official);
    assert!(
        out.expect("an output")
            .contains("\"score\":null,\"reason\":\"both_labels\"")
    );
    let summary = summary.expect("scored");
    assert_eq!((summary.n, summary.right, summary.not_judged), (2, 1, 1));
}

#[test]
fn official_files_are_read_as_they_are() {
    let list =
        r#"[{"qa_id": "a", "gt": "2", "pred": "2"}, {"qa_id": "b", "gt": "2", "pred": "3"}]"#;
    let (summary, out) = scored("vwtq.json", list, set("vwtq"), &Scorer::Official);
    assert_eq!(summary.expect("scored").right, 1);
    assert_eq!(out.expect("an output").lines().count(), 2);
    let evaluated = format!(r#"{{"instances": {list}, "evaluation_meta": {{}}}}"#);
    let (summary, _) = scored("vwtq.json", &evaluated, set("vwtq"), &Scorer::Official);
    assert_eq!(summary.expect("scored").rows, 2);
    let graded = r#"{"1": {"figure_id": "1", "extracted_answer": "b", "score": 1},
        "2": {"figure_id": "2", "extracted_answer": "Failed to parse response", "score": -1}}"#;
    let (summary, _) = scored("scores.json", graded, set("charxiv"), &Scorer::Official);
    let summary = summary.expect("scored");
    assert_eq!((summary.right, summary.n, summary.not_judged), (1, 1, 1));
}

#[test]
fn many_blocks_give_the_rows_in_order() {
    let long = "x".repeat(5 << 20);
    let mut input = String::new();
    for i in 0..3000 {
        input += &format!(
            "{{\"qa_id\":{i},\"gt\":\"{i}\",\"pred\":\"{}\"}}\n",
            i - i % 3
        );
    }
    input += &format!("{{\"qa_id\":3000,\"gt\":\"{long}\",\"pred\":\"{long}\"}}\n");
    input = input.clone() + &input;
    let (summary, out) = scored("in.jsonl", &input, set("vwtq"), &Scorer::Official);
    let summary = summary.expect("scored");
    assert_eq!((summary.rows, summary.right), (6002, 2002));
    let ids = out.expect("an output");
    let ids = ids.lines().map(|line| {
        let row: Value = serde_json::from_str(line).expect("a row");
        row["qa_id"].as_i64().expect("an id")
    });
    assert!(ids.eq((0..3001).chain(0..3001)));
}

#[test]
fn bad_rows_are_named_and_nothing_is_written() {
    let charxiv = set("charxiv");
    for (set, input, expected) in [
        (
            set("vwtq"),
            "{\"gt\":\"1\",\"pred\":\"1\"}\n{\"gt\":\"1\"",
            "in.jsonl, line 2: expected a JSON object",
        ),
        (
            set("vwtq"),
            "\n{\"gt\":\"1\"}\n",
            "in.jsonl, line 2: the field `pred` is missing",
        ),
        (
            set("vwtq"),
            "{\"pred\":\"1\"}\n",
            "line 1: the field `gt` is missing",
        ),
        (set("vwtq"), "3\n", "line 1: expected a JSON object"),
        (
            charxiv,
            "{\"gt\":\"1\",\"pred\":\"1\"}\n",
            "CharXiv's official scorer is a judge",
        ),
    ] {
        let (summary, out) = scored("in.jsonl", input, set, &Scorer::Official);
        let message = summary.expect_err("a bad row").to_string();
        assert!(message.contains(expected), "{message}");
        assert_eq!(out, None, "{input}");
    }
    let missing = score_file(
        charxiv,
        &Scorer::Relaxed,
        Path::new("absent.jsonl"),
        Path::new("out.jsonl"),
    );
    assert!(
        missing
            .expect_err("no file")
            .to_string()
            .contains("cannot read the predictions absent.jsonl")
    );
    let (summary, _) = scored("in.jsonl", "\u{0}", set("vwtq"), &Scorer::Relaxed);
    assert!(summary.is_err());
}

/// Right if prediction and gold are equal; no verdict on "?".
struct Echo;

impl Judge for Echo {
    fn judge(&self, cases: &[Case<'_>]) -> Result<Vec<Judgement>, JudgeError> {
        let judgement = |case: &Case<'_>| match case.prediction {
            "?" => Judgement {
                verdict: Verdict::NotJudged,
                reason: "timed out".to_owned(),
            },
            prediction if prediction == case.gold => Judgement {
                verdict: Verdict::Right,
                reason: "1".to_owned(),
            },
            _ => Judgement {
                verdict: Verdict::Wrong,
                reason: "0".to_owned(),
            },
        };
        Ok(cases.iter().map(judgement).collect())
    }
}

#[test]
fn a_judge_sees_extracted_answers_and_its_silence_is_no_verdict() {
    let input = r#"{"question":"q","gt":"5","pred":"FINAL ANSWER: 5 TERMINATE"}
{"question":"q","gt":[1, 2],"pred":"1|||2"}
{"question":"q","gt":5,"pred":"?"}
{"question":"q","gt":5,"pred":null}"#;
    let chart = ScoredSet::Set(TestSet::ChartQaVertical);
    let (summary, out) = scored(
        "in.jsonl",
        input,
        chart,
        &Scorer::Judge(&Echo, Rubric::RefocusChart),
    );
    let summary = summary.expect("scored");
    assert_eq!((summary.right, summary.n, summary.not_judged), (1, 3, 1));
    let out = out.expect("an output");
    assert!(
        out.contains(r#""pred":"?","score":null,"reason":"timed out""#),
        "{out}"
    );
    assert!(
        out.contains(r#""pred":null,"score":0,"reason":"no_prediction""#),
        "{out}"
    );
    let (summary, _) = scored(
        "in.jsonl",
        input,
        chart,
        &Scorer::Judge(&Echo, Rubric::VtoolV1),
    );
    assert_eq!(
        summary.expect("scored").reasons.get("no_final_answer"),
        Some(&2)
    );
    let charxiv = ScoredSet::Set(TestSet::CharXiv);
    let (summary, _) = scored(
        "in.jsonl",
        input,
        charxiv,
        &Scorer::Judge(&Echo, Rubric::CharXiv),
    );
    assert!(
        summary
            .expect_err("no category")
            .to_string()
            .contains("`category`")
    );
    let (summary, _) = scored(
        "in.jsonl",
        input,
        ScoredSet::FinTabNetQa,
        &Scorer::Judge(&Echo, Rubric::RefocusTable),
    );
    assert!(summary.is_err());
}
