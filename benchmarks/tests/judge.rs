//! Judges over an endpoint: a network's failure or an unreadable reply is never a wrong answer.

#[path = "../../crates/chat-endpoint/tests/support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use benchmarks::judge::{Case, EndpointJudge, Judge, Rubric, not_judged_share};
use benchmarks::{TestSet, Verdict};
use chat_endpoint::{Cache, Client, Settings};
use support::{Behaviour, Received, Server};

fn client(server: &Server, cache: Option<Cache>) -> Client {
    let settings = Settings {
        attempts: 2,
        timeout: Duration::from_millis(500),
        first_wait: Duration::from_millis(2),
        ..Settings::new(server.url(), "judge")
    };
    Client::new(settings, None, cache).unwrap()
}

/// Twenty cases of every set in turn; the odd ones are right.
fn cases(texts: &[String]) -> Vec<Case<'_>> {
    texts
        .iter()
        .enumerate()
        .map(|(index, text)| Case {
            set: TestSet::ALL[index % 6],
            question: "How many are there?",
            gold: text,
            prediction: if index % 2 == 1 { text } else { "none of them" },
            category: Some(1 + (index % 4) as u8),
        })
        .collect()
}

fn texts() -> Vec<String> {
    (0..20).map(|index| format!("<gold {index}>")).collect()
}

/// What an honest judge says: the gold answer stands in the prompt twice when it is also the
/// prediction.
fn honest(received: &Received) -> String {
    let prompt = received.last_text();
    let gold = prompt
        .rfind("<gold ")
        .map(|start| &prompt[start..])
        .unwrap();
    let gold = &gold[..=gold.find('>').unwrap()];
    let right = u8::from(prompt.matches(gold).count() == 2);
    if received.body["response_format"]["type"] == "json_object" {
        format!("{{\"extracted_answer\": \"x\", \"score\": {right}}}")
    } else {
        right.to_string()
    }
}

fn expected(index: usize) -> Verdict {
    if index % 2 == 1 {
        Verdict::Right
    } else {
        Verdict::Wrong
    }
}

#[test]
fn unreadable_replies_are_asked_for_again_and_network_errors_are_not_judged() {
    let seen = Mutex::new(std::collections::HashMap::<String, usize>::new());
    let server = Server::start(move |received| {
        let prompt = received.last_text();
        if prompt.contains("<gold 4>") || prompt.contains("<gold 5>") {
            return Behaviour::Status(500, vec![], "down");
        }
        let mut seen = seen.lock().unwrap();
        let tries = seen.entry(prompt).or_default();
        *tries += 1;
        match *tries {
            1 => Behaviour::Say("Well, let me think.".to_owned()),
            2 => Behaviour::SayCutOff("{\"extracted_answer\": \"x".to_owned()),
            _ => Behaviour::Say(honest(received)),
        }
    });
    let client = client(&server, None);
    let texts = texts();
    let judgements = EndpointJudge::of_sets(&client)
        .judge(&cases(&texts))
        .unwrap();
    for (index, judgement) in judgements.iter().enumerate() {
        if index == 4 || index == 5 {
            assert_eq!(judgement.verdict, Verdict::NotJudged);
            assert!(
                judgement.reason.contains("status 500"),
                "{}",
                judgement.reason
            );
        } else {
            assert_eq!(
                judgement.verdict,
                expected(index),
                "{index}: {}",
                judgement.reason
            );
        }
    }
    assert!((not_judged_share(&judgements) - 0.1).abs() < 1e-12);

    // CharXiv's reply that was cut off is asked for again with twice the tokens, to 1,024.
    let charxiv: Vec<u64> = server
        .received()
        .iter()
        .filter(|received| received.last_text().contains("<gold 0>"))
        .map(|received| received.body["max_tokens"].as_u64().unwrap())
        .collect();
    assert_eq!(charxiv, [256, 256, 512]);
}

#[test]
fn a_judge_that_never_makes_sense_judges_nothing() {
    let server = Server::start(|_| Behaviour::Say("maybe".to_owned()));
    let client = client(&server, None);
    let texts = texts();
    let judgements = EndpointJudge::of_sets(&client)
        .judge(&cases(&texts))
        .unwrap();
    assert!(
        judgements
            .iter()
            .all(|judgement| judgement.verdict == Verdict::NotJudged)
    );
    assert_eq!(not_judged_share(&judgements), 1.0);
    assert_eq!(not_judged_share(&[]), 0.0);
}

#[test]
fn a_judges_run_goes_on_from_its_cache() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("verdicts.jsonl");
    let down = Arc::new(AtomicBool::new(false));
    let server = Server::start({
        let down = Arc::clone(&down);
        move |received| {
            if down.load(Ordering::SeqCst) {
                Behaviour::CutAtOnce
            } else {
                Behaviour::Say(honest(received))
            }
        }
    });
    let texts = texts();
    let cases = cases(&texts);
    {
        let client = client(&server, Some(Cache::open(&path).unwrap()));
        let judge = EndpointJudge::of_sets(&client);
        judge.judge(&cases[..8]).unwrap();
        down.store(true, Ordering::SeqCst);
        let judgements = judge.judge(&cases).unwrap();
        assert!((not_judged_share(&judgements) - 0.6).abs() < 1e-12);
        assert!((0..8).all(|index| judgements[index].verdict == expected(index)));
    }
    down.store(false, Ordering::SeqCst);
    let before = server.received().len();
    let client = client(&server, Some(Cache::open(&path).unwrap()));
    let judgements = EndpointJudge::of_sets(&client).judge(&cases).unwrap();
    assert!((0..20).all(|index| judgements[index].verdict == expected(index)));
    assert_eq!(server.received().len() - before, 12);
    assert_eq!(client.usage().from_cache, 8);
}

#[test]
fn charxiv_without_a_category_is_not_judged_and_not_asked() {
    let server = Server::start(|_| Behaviour::Say("1".to_owned()));
    let client = client(&server, None);
    let case = Case {
        set: TestSet::CharXiv,
        question: "?",
        gold: "1",
        prediction: "1",
        category: None,
    };
    let judge = EndpointJudge::of_sets(&client);
    let judgements = judge.judge(&[case]).unwrap();
    assert_eq!(judgements[0].verdict, Verdict::NotJudged);
    assert!(server.received().is_empty());
    // ReFocus' judge, which needs none, may be asked instead.
    let judge = EndpointJudge::with_rubric(&client, Rubric::RefocusTable);
    assert_eq!(judge.judge(&[case]).unwrap()[0].verdict, Verdict::Right);
}
