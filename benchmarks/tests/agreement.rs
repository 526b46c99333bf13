//! `score` and `eval-all` give one verdict on every row: golds are read by one function, rules are one.

use std::fs;
use std::path::Path;

use agent::{Completion, CompletionRequest, EpisodeOptions, ObservationMode, Policy, PromptStyle};
use benchmarks::evaluation::{Scoring, answer};
use benchmarks::predictions::{Scorer, score_file};
use benchmarks::scorers::{Crashes, ScoredSet};
use benchmarks::{Question, TestSet, Verdict, sources};
use serde_json::{Value, json};
use visual_tools::Style;

/// Says the same to every question.
struct Says(&'static str);

impl Policy for Says {
    type Error = std::convert::Infallible;

    fn complete(
        &mut self,
        requests: &[CompletionRequest<'_>],
    ) -> Result<Vec<Result<Completion, Self::Error>>, Self::Error> {
        let said = Completion {
            text: format!("ANSWER: so. FINAL ANSWER: {}. TERMINATE", self.0),
            stopped: true,
            ..Completion::default()
        };
        Ok(requests.iter().map(|_| Ok(said.clone())).collect())
    }
}

/// The question of a row in a data folder, as `eval-all` loads it, or why the row is refused.
fn loaded(set: TestSet, file: &str, row: &Value) -> Result<Question, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, format!("{row}\n")).unwrap();
    image::RgbImage::new(30, 20)
        .save(folder.path().join("1.png"))
        .unwrap();
    let loaded = sources::load(folder.path(), set).map_err(|error| error.to_string())?;
    Ok(loaded.question(0).unwrap().unwrap())
}

/// The verdict of `eval-all` on an answer.
fn evaluated(question: &Question, says: &'static str) -> Verdict {
    let options = EpisodeOptions {
        prompt: PromptStyle::Vtool,
        observation: ObservationMode::Append,
        tools: Style::refocus(),
    };
    let rule = Scoring::Official { charxiv: None };
    let answered = answer(&mut Says(says), &[(question, None)], &options, rule).unwrap();
    assert_eq!(answered[0].prediction.as_deref(), Some(says));
    answered[0].verdict
}

/// The verdict of `score`, or why the row is refused.
fn scored(set: TestSet, gold: &Value, prediction: &str) -> Result<Verdict, String> {
    let folder = tempfile::tempdir().unwrap();
    let (given, out) = (
        folder.path().join("in.jsonl"),
        folder.path().join("out.jsonl"),
    );
    fs::write(
        &given,
        json!({ "gt": gold, "pred": prediction }).to_string(),
    )
    .unwrap();
    let scorer = Scorer::Official(Crashes::NotJudged);
    score_file(ScoredSet::Set(set), &scorer, &given, &out).map_err(|error| error.to_string())?;
    let row: Value = serde_json::from_str(&fs::read_to_string(&out).unwrap()).unwrap();
    Ok(match row["score"].as_u64() {
        Some(1) => Verdict::Right,
        Some(_) => Verdict::Wrong,
        None => Verdict::NotJudged,
    })
}

#[test]
fn golds_of_every_kind_have_one_verdict() {
    let golds = [
        json!(1),
        json!(0),
        json!(1.0),
        json!(true),
        json!(false),
        json!("1"),
        json!("0"),
        json!("true"),
        json!("True"),
        json!(" FALSE "),
        json!("yes"),
        json!(2),
        json!(0.5),
        json!(null),
        json!({"a": 1}),
        json!([]),
        json!([1]),
        json!(["true"]),
        json!([1, 2]),
        json!("5"),
        json!(5),
        json!("2010"),
        json!("nan"),
        json!("inf|5"),
        json!("a|b"),
        json!(["a", "b"]),
        json!(["a|b"]),
        json!([null]),
        json!([["a"]]),
        json!(""),
        json!("a|||b"),
        json!(vec!["x"; 300]),
        json!("5%"),
        json!("１"),
    ];
    let says = [
        "True",
        "false",
        "5",
        "a|b",
        "b||a",
        "0.05",
        "2008",
        "nan",
        "True and false",
        "1",
    ];
    let mut refused = 0;
    for set in [
        TestSet::VTabFact,
        TestSet::Vwtq,
        TestSet::VwtqSyn,
        TestSet::ChartQaHorizontal,
        TestSet::ChartQaVertical,
    ] {
        let (file, source) = match set {
            TestSet::VTabFact => ("tables/vtabfact.jsonl", None),
            TestSet::Vwtq => ("tables/vwtq.jsonl", None),
            TestSet::VwtqSyn => ("tables/vwtq_syn.jsonl", None),
            TestSet::ChartQaHorizontal => ("chartqa_vcot/test.jsonl", Some("h_bar")),
            _ => ("chartqa_vcot/test.jsonl", Some("v_bar")),
        };
        for gold in &golds {
            let row = json!({
                "qa_id": "1", "id": "1", "question": "so?", "image": "1.png", "source": source,
                "gt": gold, "answer": gold,
            });
            let question = loaded(set, file, &row);
            for says in says {
                match (&question, scored(set, gold, says)) {
                    (Ok(question), Ok(scored)) => {
                        assert_eq!(evaluated(question, says), scored, "{set} {gold} {says}");
                    }
                    (Err(refusal), Err(scored)) => {
                        refused += 1;
                        let line = Path::new(file).file_name().unwrap().to_str().unwrap();
                        assert!(refusal.contains(&format!("{line}:1, field ")), "{refusal}");
                        assert!(scored.contains("in.jsonl, line 1: `gt`"), "{scored}");
                    }
                    (question, scored) => panic!(
                        "{set} {gold} {says}: eval-all {:?}, score {scored:?}",
                        question.as_ref().err()
                    ),
                }
            }
        }
    }
    assert!(refused > 100, "{refused}");
}
