//! The cases of `../shared/cases` that concern a server, each played by that folder's own server.

#[path = "support/shared.rs"]
mod shared;

use std::time::Duration;

use agent::{Block, Conversation, Message, MessagePart, Role};
use chat_endpoint::{Client, Error, Reply, SamplingParameters, Settings};
use shared::SharedServer;

const ANSWER: &str = "ANSWER: True. FINAL ANSWER: True. TERMINATE";

/// Three questions to the server of a case.
fn three(server: &SharedServer) -> (Client, Vec<Result<Reply, Error>>) {
    let settings = Settings {
        concurrency: 2,
        first_wait: Duration::from_millis(10),
        ..Settings::new(server.url(), "m")
    };
    let client = Client::new(settings, None, None).unwrap();
    let questions: Vec<Conversation> = (0..3)
        .map(|index| {
            Conversation::new(vec![Message {
                role: Role::User,
                parts: vec![MessagePart::text(Block::R, format!("question {index}"))],
            }])
        })
        .collect();
    let requests: Vec<(&Conversation, SamplingParameters)> = questions
        .iter()
        .map(|question| (question, SamplingParameters::greedy(512)))
        .collect();
    let replies = client.chat_all(&requests).unwrap();
    (client, replies)
}

fn answers(replies: &[Result<Reply, Error>]) -> Vec<&str> {
    replies
        .iter()
        .map(|reply| reply.as_ref().unwrap().answer())
        .collect()
}

fn as_it_is(scenario: String) -> String {
    scenario
}

#[test]
fn case_01_max_completion_tokens() {
    let Some(server) = SharedServer::start("01-max-completion-tokens/scenario.json", as_it_is)
    else {
        return;
    };
    let (client, replies) = three(&server);
    assert_eq!(answers(&replies), [ANSWER; 3]);
    assert!(client.adaptations().max_completion_tokens);
    assert!(server.requests() <= 5, "{}", server.requests());
}

#[test]
fn case_03_content_null_length() {
    let Some(server) = SharedServer::start("03-content-null-length/scenario.json", as_it_is) else {
        return;
    };
    for reply in three(&server).1 {
        let told = reply.unwrap_err().to_string();
        assert!(
            told.contains("all 512 tokens went into reasoning"),
            "{told}"
        );
    }
    assert_eq!(server.requests(), 3);
}

#[test]
fn case_04_finish_error() {
    let Some(server) = SharedServer::start("04-finish-error/scenario.json", as_it_is) else {
        return;
    };
    for reply in three(&server).1 {
        let told = reply.unwrap_err().to_string();
        assert!(told.contains("Upstream provider disconnected"), "{told}");
    }
    assert_eq!(server.requests(), 12);
}

/// With seconds of a hundredth of a minute: what counts is that every question has its answer.
#[test]
fn case_06_retry_after() {
    let shorter = |scenario: String| scenario.replace("\"61\"", "\"1\"");
    let Some(server) = SharedServer::start("06-retry-after-61/scenario.json", shorter) else {
        return;
    };
    let (client, replies) = three(&server);
    assert_eq!(answers(&replies), [ANSWER; 3]);
    assert_eq!(client.usage().retries, 6);
    assert!(client.last_failure().unwrap().contains("retry after 1.0 s"));
}

#[test]
fn case_08_stream_only() {
    let Some(server) = SharedServer::start("08-stream-only/scenario.json", as_it_is) else {
        return;
    };
    let (_, replies) = three(&server);
    assert_eq!(answers(&replies), ["FINAL ANSWER: True. TERMINATE"; 3]);
    assert_eq!(server.requests(), 3);
}
