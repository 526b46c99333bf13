//! Whole files of predictions.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{PredictionsError, ScoreSummary, Scorer, score_file};
use crate::judge::{Case, Judge, JudgeError, Judgement, Rubric};
use crate::scorers::ScoredSet;
use crate::{TestSet, Verdict};

fn set(name: &str) -> ScoredSet {
    name.parse().expect("a set")
}

/// A folder with a predictions file, and the result of scoring it.
fn scored(
    name: &str,
    input: &str,
    set: ScoredSet,
    scorer: &Scorer<'_>,
) -> (Result<ScoreSummary, PredictionsError>, Option<String>) {
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
