//! Whole files of predictions.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{PredictionsError, ScoreSummary, Scorer, score_file};
use crate::judge::{Case, Judge, JudgeError, Judgement, Rubric};
use crate::scorers::{Crashes, ScoredSet};
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
    let (summary, out) = scored(
        "in.jsonl",
        &input,
        set("vwtq"),
        &Scorer::Official(Crashes::NotJudged),
    );
    insta::assert_snapshot!(out.expect("an output"), @r#"
    {"qa_id": "a", "gt": "5", "pred": "5.0", "x": [1.50],"score":1,"reason":"equal"}
    {"gt":"5","pred":"6","score":0,"reason":"different"}
    {"gt":"5","pred":null,"given_score":1,"given_reason":"r","score":0,"reason":"no_prediction"}
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
    {"given_reason" : "x", "gt": 1.50, "given_score": {"score": 1}, "pred": "1.5","score":1,"score_years_exact":1,"reason":"equal"}
    {"gt":"1","given_score":0,"pred":"1","score":1,"score_years_exact":1,"reason":"equal"}
    "#);
}

#[test]
fn a_null_score_stays_in_the_denominator_for_both_labels() {
    let input = "{\"gt\":1,\"pred\":\"true\"}\n{\"gt\":1,\"pred\":\"true, false\"}\n";
    let (summary, out) = scored(
        "in.jsonl",
        input,
        set("vtabfact"),
        &Scorer::Official(Crashes::NotJudged),
    );
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
    let (summary, out) = scored(
        "vwtq.json",
        list,
        set("vwtq"),
        &Scorer::Official(Crashes::NotJudged),
    );
    assert_eq!(summary.expect("scored").right, 1);
    assert_eq!(out.expect("an output").lines().count(), 2);
    let evaluated = format!(r#"{{"instances": {list}, "evaluation_meta": {{}}}}"#);
    let (summary, _) = scored(
        "vwtq.json",
        &evaluated,
        set("vwtq"),
        &Scorer::Official(Crashes::NotJudged),
    );
    assert_eq!(summary.expect("scored").rows, 2);
    let graded = r#"{"1": {"figure_id": "1", "extracted_answer": "b", "score": 1},
        "2": {"figure_id": "2", "extracted_answer": "Failed to parse response", "score": -1}}"#;
    let (summary, _) = scored(
        "scores.json",
        graded,
        set("charxiv"),
        &Scorer::Official(Crashes::NotJudged),
    );
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
    let (summary, out) = scored(
        "in.jsonl",
        &input,
        set("vwtq"),
        &Scorer::Official(Crashes::NotJudged),
    );
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
        let (summary, out) = scored(
            "in.jsonl",
            input,
            set,
            &Scorer::Official(Crashes::NotJudged),
        );
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

/// The verdict of each row, or the error.
fn verdicts(set_name: &str, input: &str, scorer: &Scorer<'_>) -> Result<Vec<Value>, String> {
    let (summary, out) = scored("in.jsonl", input, set(set_name), scorer);
    summary.map_err(|error| error.to_string())?;
    let rows = out.expect("an output");
    Ok(rows
        .lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).expect("a row");
            row["score"].clone()
        })
        .collect())
}

const OFFICIAL: Scorer<'static> = Scorer::Official(Crashes::NotJudged);

#[test]
fn a_gold_that_no_rule_can_read_is_an_error_with_its_line() {
    let row = |gold: &str| {
        format!("{{\"gt\":\"1\",\"pred\":\"1\"}}\n\n{{\"gt\":{gold},\"pred\":\"1\"}}\n")
    };
    for name in [
        "vwtq",
        "vwtq-syn",
        "vtabfact",
        "chartqa-h-bar",
        "fintabnetqa",
    ] {
        for gold in ["null", "{}", "{\"answer\":1}", "[]", "[null]", "[[1]]"] {
            let error = verdicts(name, &row(gold), &OFFICIAL).unwrap_err();
            assert!(
                error.contains("in.jsonl, line 3: `gt`: the gold must be"),
                "{error}"
            );
            let relaxed = verdicts(name, &row(gold), &Scorer::Relaxed).unwrap_err();
            assert!(relaxed.contains("line 3: `gt`"), "{relaxed}");
        }
    }
    let chart = ScoredSet::Set(TestSet::ChartQaVertical);
    let judge = Scorer::Judge(&Echo, Rubric::RefocusChart);
    let input = "{\"question\":\"q\",\"gt\":null,\"pred\":\"1\"}";
    let (summary, out) = scored("in.jsonl", input, chart, &judge);
    assert!(summary.unwrap_err().to_string().contains("line 1: `gt`"));
    assert_eq!(out, None);
}

/// A gold at which the official program itself ends has no verdict, unless that is asked for.
#[test]
fn a_gold_that_crashes_the_official_program_is_not_judged() {
    let input = "{\"gt\":\"nan\",\"pred\":\"1\"}\n{\"gt\":\"1|inf\",\"pred\":\"1\"}\n{\"gt\":\"1\",\"pred\":\"nan\"}\n";
    let found = verdicts("vwtq", input, &OFFICIAL).unwrap();
    assert_eq!(Value::from(found).to_string(), "[null,null,0]");
    let found = verdicts("vwtq", input, &Scorer::Official(Crashes::Wrong)).unwrap();
    assert_eq!(Value::from(found).to_string(), "[0,0,0]");
}

#[test]
fn labels_of_vtabfact_are_read_however_they_are_written() {
    let golds = ["1", "\"1\"", "true", "\"true\"", "\"True\"", "1.0", "[1]"];
    let input: String = golds
        .iter()
        .map(|gold| format!("{{\"gt\":{gold},\"pred\":\"True\"}}\n"))
        .collect();
    let found = verdicts("vtabfact", &input, &OFFICIAL).unwrap();
    assert_eq!(found, vec![Value::from(1); golds.len()]);
    let error = verdicts(
        "vtabfact",
        "{\"gt\":\"entailed\",\"pred\":\"True\"}",
        &OFFICIAL,
    );
    assert_eq!(
        error.unwrap_err().split_once("line 1: ").unwrap().1,
        "`gt`: the gold must be 0, 1, true or false, found the text \"entailed\"; a row without a gold cannot be scored"
    );
}

#[test]
fn words_that_are_no_json_are_named() {
    for (word, instead) in [
        ("NaN", "null"),
        ("Infinity", "null"),
        ("-Infinity", "null"),
        ("None", "null"),
        ("True", "true"),
    ] {
        let input =
            format!("{{\"gt\":\"5\",\"pred\":\"NaN\"}}\n{{\"gt\":\"7\",\"pred\":{word}}}\n");
        let error = verdicts("vwtq", &input, &OFFICIAL).unwrap_err();
        let expected = format!(
            "line 2: expected a JSON object with `gt` and `pred`, found {word} is no JSON; write {instead}"
        );
        assert!(error.ends_with(&expected), "{error}");
    }
    let (error, _) = scored(
        "in.json",
        "[{\"gt\": 1,\n \"pred\": NaN}]",
        set("vwtq"),
        &OFFICIAL,
    );
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("line 2: not a JSON document: NaN is no JSON; write null"),
        "{error}"
    );
}

/// Something between a model and its file went wrong: no verdict, unless the official rule is asked
/// for to the letter.
#[test]
fn predictions_that_are_no_texts_are_not_judged() {
    let predictions = ["[\"5\"]", "{\"answer\":\"5\"}", "5", "true", "[]"];
    let input: String = predictions
        .iter()
        .map(|prediction| format!("{{\"gt\":\"5\",\"pred\":{prediction}}}\n"))
        .collect();
    for name in ["vwtq", "vwtq-syn", "fintabnetqa"] {
        let found = verdicts(name, &input, &OFFICIAL).unwrap();
        assert_eq!(found, vec![Value::Null; predictions.len()], "{name}");
        let found = verdicts(name, &input, &Scorer::Official(Crashes::Wrong)).unwrap();
        assert_eq!(found, vec![Value::from(0); predictions.len()], "{name}");
    }
    // ChartQA's rule reads numbers and lists.
    let found = verdicts("chartqa-v-bar", &input, &OFFICIAL).unwrap();
    assert_eq!(Value::from(found).to_string(), "[1,null,1,0,0]");
    let found = verdicts(
        "vtabfact",
        &input.replace("\"5\",\"pred\"", "1,\"pred\""),
        &OFFICIAL,
    );
    assert_eq!(found.unwrap(), vec![Value::Null; predictions.len()]);
    // No prediction is a wrong one.
    let none = "{\"gt\":\"1\",\"pred\":null}\n";
    for name in ["vwtq", "vtabfact", "chartqa-h-bar", "fintabnetqa"] {
        assert_eq!(verdicts(name, none, &OFFICIAL).unwrap(), [0], "{name}");
    }
    let judge = Scorer::Judge(&Echo, Rubric::RefocusChart);
    let rows = input.replace("{\"gt\"", "{\"question\":\"q\",\"gt\"");
    let found = verdicts("chartqa-v-bar", &rows, &judge).unwrap();
    assert_eq!(found, vec![Value::Null; predictions.len()]);
}

/// A record of a question that a network kept from an answer is no wrong answer when it is scored
/// again.
#[test]
fn records_without_an_answer_are_not_judged() {
    let row = |prediction: &str, verdict: &str| {
        format!(
            "{{\"set\":\"vwtq\",\"question\":\"q\",\"gt\":\"5\",\"prediction\":\"{prediction}\",\"verdict\":\"{verdict}\"}}\n"
        )
    };
    let input = row("", "not_judged") + &row("5", "not_judged") + &row("", "wrong");
    for scorer in [
        OFFICIAL,
        Scorer::Official(Crashes::Wrong),
        Scorer::Relaxed,
        Scorer::Judge(&Echo, Rubric::RefocusTable),
    ] {
        let found = verdicts("vwtq", &input, &scorer).unwrap();
        assert_eq!(Value::from(found).to_string(), "[null,1,0]");
    }
}

#[test]
fn rows_of_another_set_are_refused() {
    let row = |set: &str| format!("{{\"set\":\"{set}\",\"gt\":\"1\",\"pred\":\"1\"}}\n");
    assert_eq!(
        verdicts("vwtq-syn", &row("vwtq_syn"), &OFFICIAL).unwrap(),
        [1]
    );
    assert_eq!(
        verdicts("vwtq-syn", &row("vwtq-syn"), &OFFICIAL).unwrap(),
        [1]
    );
    for (scored_as, other) in [
        ("vwtq", "vwtq-syn"),
        ("vtabfact", "vwtq"),
        ("chartqa-h-bar", "chartqa-v-bar"),
        ("vwtq", "gsm8k"),
    ] {
        let error = verdicts(scored_as, &(row(scored_as) + &row(other)), &OFFICIAL).unwrap_err();
        let expected = format!(
            "line 2: the row says that it is of the set '{other}', and it is scored as {scored_as}"
        );
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn years_are_exact_in_a_column_of_their_own() {
    let input = [
        ("2010", "2008"),
        ("2010", "2010"),
        ("2010", "2010.0"),
        ("100", "104"),
        ("2010|||12", "2009||12"),
        ("2010|||12", "12||2010"),
        ("1699", "1700"),
        ("5%", "0.05"),
    ]
    .map(|(gold, prediction)| format!("{{\"gt\":\"{gold}\",\"pred\":\"{prediction}\"}}\n"))
    .concat();
    let (summary, out) = scored("in.jsonl", &input, set("chartqa-v-bar"), &OFFICIAL);
    let summary = summary.expect("scored");
    assert_eq!((summary.right, summary.right_years_exact), (8, Some(6)));
    let exact: Vec<Value> = out
        .expect("an output")
        .lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).expect("a row");
            assert_eq!(row["score"], 1, "{row}");
            row["score_years_exact"].clone()
        })
        .collect();
    assert_eq!(Value::from(exact).to_string(), "[0,1,1,1,0,1,1,1]");
    // Another rule has no such column.
    let (summary, out) = scored("in.jsonl", &input, set("vwtq"), &OFFICIAL);
    assert_eq!(summary.expect("scored").right_years_exact, None);
    assert!(!out.expect("an output").contains("years"));
}

#[test]
fn a_line_without_an_end_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (given, out) = (
        folder.path().join("in.jsonl"),
        folder.path().join("out.jsonl"),
    );
    let file = fs::File::create(&given).expect("made");
    // A hole of zeros: 1 GB that takes no room on the disk and must take none in memory.
    file.set_len(1 << 30).expect("grown");
    let error = score_file(set("vwtq"), &OFFICIAL, &given, &out).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("line 1: the row is longer than 64 MiB"),
        "{error}"
    );
    assert!(!out.exists());
}

/// The collected cases of rows, where `../shared` is there.
#[test]
fn the_collected_cases() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/cases");
    let Ok(read) = fs::read_to_string(cases.join("29-vtabfact-words/predictions.jsonl")) else {
        println!("skipped: ../shared is absent");
        return;
    };
    let found = Value::from(verdicts("vtabfact", &read, &OFFICIAL).unwrap()).to_string();
    assert_eq!(found, "[1,1,1,null,1,1,0,0,0,1,1,null,1,1,null,1,0]");
    let case = |name: &str| fs::read_to_string(cases.join(name).join("predictions.jsonl")).unwrap();
    let error = verdicts("vwtq", &case("27-json-nan"), &OFFICIAL).unwrap_err();
    assert!(
        error.contains("line 2") && error.contains("NaN is no JSON; write null"),
        "{error}"
    );
    let relaxed = verdicts("chartqa-v-bar", &case("31-relaxed"), &OFFICIAL).unwrap();
    let right = relaxed.iter().filter(|score| **score == 1).count();
    assert_eq!((relaxed.len(), right), (29, 14));
    let found = verdicts("vwtq", &case("32-row-types"), &OFFICIAL).unwrap();
    assert_eq!(Value::from(found).to_string(), "[null,null,null,1,0]");
}
