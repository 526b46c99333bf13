//! Questions to ask a server of a test, and what is done with them.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::time::Duration;

use agent::{Block, Conversation, Message, MessagePart, Role};
use chat_endpoint::{Client, Error, Reply, SamplingParameters, Settings};

use crate::support::{Behaviour, Received, Server};

/// Impatient settings: what takes seconds in life takes milliseconds here.
pub fn settings(server: &Server) -> Settings {
    Settings {
        timeout: Duration::from_millis(1500),
        first_wait: Duration::from_millis(2),
        longest_wait: Duration::from_millis(100),
        concurrency: 2,
        ..Settings::new(server.url(), "m")
    }
}

pub fn client(server: &Server) -> Client {
    Client::new(settings(server), None, None).unwrap()
}

pub fn ask(text: &str) -> Conversation {
    vec![Message {
        role: Role::User,
        parts: vec![MessagePart::text(Block::R, text)],
    }]
    .into()
}

pub fn questions(n: usize) -> Vec<Conversation> {
    (0..n)
        .map(|index| ask(&format!("question {index}")))
        .collect()
}

pub type Replies = Result<Vec<Result<Reply, Error>>, Error>;

pub fn all(client: &Client, conversations: &[Conversation]) -> Replies {
    let requests: Vec<(&Conversation, SamplingParameters)> = conversations
        .iter()
        .map(|conversation| (conversation, SamplingParameters::greedy(16)))
        .collect();
    client.chat_all(&requests)
}

pub fn echo(received: &Received) -> Behaviour {
    Behaviour::Say(format!("answer to {}", received.last_text()))
}

pub fn header(name: &str, value: &str) -> Vec<(String, String)> {
    vec![(name.to_owned(), value.to_owned())]
}
