//! Judges over an endpoint: a network's failure or an unreadable reply is never a wrong answer.

#[path = "../../crates/chat-endpoint/tests/support/shared.rs"]
mod shared;
#[path = "../../crates/chat-endpoint/tests/support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use benchmarks::judge::{Case, EndpointJudge, Judge, Rubric, not_judged_share};
use benchmarks::{TestSet, Verdict};
use chat_endpoint::{Cache, Client, Settings};
use shared::SharedServer;
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

/// One case of CharXiv whose answer is right.
const PEAKS: Case<'static> = Case {
    set: TestSet::CharXiv,
    question: "How many peaks?",
    gold: "5",
    prediction: "5",
    category: Some(3),
};

#[test]
fn a_verdict_is_read_at_the_first_reply_through_what_stands_around_it() {
    for (reply, verdict) in [
        (
            "```json\n{\"extracted_answer\": \"5\", \"score\": 1}\n```",
            Verdict::Right,
        ),
        (
            "<think>{\"score\": 0} at first sight.</think>\n{\"extracted_answer\": \"5\", \"score\": 1}",
            Verdict::Right,
        ),
        (
            "Sure: {\"extracted_answer\": \"5\", \"score\": \"0\"}. That is all.",
            Verdict::Wrong,
        ),
    ] {
        let server = Server::start(move |_| Behaviour::Say(reply.to_owned()));
        let client = client(&server, None);
        let judgements = EndpointJudge::of_sets(&client).judge(&[PEAKS]).unwrap();
        assert_eq!(judgements[0].verdict, verdict, "{reply}");
        assert_eq!(judgements[0].reason, reply);
        assert_eq!(server.received().len(), 1);
    }
    for reply in [
        "{\"extracted_answer\": \"5\", \"score\": -1}",
        "{\"extracted_answer\": \"5\", \"score\": 0}\n{\"extracted_answer\": \"5\", \"score\": 1}",
    ] {
        let server = Server::start(move |_| Behaviour::Say(reply.to_owned()));
        let client = client(&server, None);
        let judgements = EndpointJudge::of_sets(&client).judge(&[PEAKS]).unwrap();
        assert_eq!(judgements[0].verdict, Verdict::NotJudged, "{reply}");
        assert_eq!(server.received().len(), 10, "as often as the source asks");
    }
}

/// VTool-R1's judges of training keep their rules, but for what no judge meant as a verdict.
#[test]
fn the_judges_of_training_are_read_as_there_without_their_thoughts() {
    let asked = |rubric: Rubric, reply: &'static str| {
        let server = Server::start(move |_| Behaviour::Say(reply.to_owned()));
        let client = client(&server, None);
        let judge = EndpointJudge::with_rubric(&client, rubric);
        judge.judge(&[PEAKS]).unwrap().remove(0).verdict
    };
    assert_eq!(
        asked(Rubric::VtoolV1, "<think><|NO|></think><|YES|>"),
        Verdict::Right
    );
    assert_eq!(asked(Rubric::VtoolV1, "<|NO|>"), Verdict::Wrong);
    assert_eq!(asked(Rubric::VtoolV1, "<think><|YES|>"), Verdict::NotJudged);
    assert_eq!(
        asked(Rubric::VtoolV2, "<think>0?</think> 1"),
        Verdict::Right
    );
    assert_eq!(
        asked(Rubric::VtoolV2, "1, for they are the same"),
        Verdict::Right
    );
    assert_eq!(asked(Rubric::VtoolV2, "-1"), Verdict::NotJudged);
    assert_eq!(asked(Rubric::VtoolV2, "10"), Verdict::NotJudged);
    assert_eq!(asked(Rubric::VtoolV2Eval, "score: -1"), Verdict::NotJudged);
    assert_eq!(asked(Rubric::VtoolV2Eval, "score: 1"), Verdict::Right);
}

#[test]
fn a_judge_that_thinks_all_its_tokens_away_is_given_more() {
    let server = Server::start(|received| match received.body["max_tokens"].as_u64() {
        Some(1024) => Behaviour::Say(honest(received)),
        _ => Behaviour::SayCutOff("<think>hm".to_owned()),
    });
    let client = client(&server, None);
    let texts = texts();
    let judgements = EndpointJudge::of_sets(&client)
        .judge(&[Case {
            set: TestSet::CharXiv,
            ..cases(&texts)[1]
        }])
        .unwrap();
    assert_eq!(
        judgements[0].verdict,
        Verdict::Right,
        "{}",
        judgements[0].reason
    );
    let limits: Vec<u64> = server
        .received()
        .iter()
        .map(|received| received.body["max_tokens"].as_u64().unwrap())
        .collect();
    assert_eq!(limits, [256, 512, 1024]);
}

/// The replies of `../shared/cases`, played by that folder's own server.
#[test]
fn case_41_judge_replies() {
    for (scenario, verdict) in [
        ("fenced", Verdict::Right),
        ("think", Verdict::Right),
        ("minus-one", Verdict::NotJudged),
        ("two-objects", Verdict::NotJudged),
    ] {
        let file = format!("41-judge-replies/{scenario}.json");
        let Some(server) = SharedServer::start(&file, |text| text) else {
            return;
        };
        let client = Client::new(Settings::new(server.url(), "judge"), None, None).unwrap();
        let judgements = EndpointJudge::of_sets(&client).judge(&[PEAKS]).unwrap();
        assert_eq!(judgements[0].verdict, verdict, "{scenario}");
        let asked = if verdict == Verdict::NotJudged { 10 } else { 1 };
        assert_eq!(server.requests(), asked, "{scenario}");
    }
}
