//! The model behind an address on this machine: the part of OpenAI's interface that judges use.
//!
//! `POST /v1/chat/completions` and `GET /v1/models`, one question after the other. What would change a
//! reply and is not done here (sampling, several choices, streams, tools, images) is refused with its
//! name.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use crate::chat::ChatModel;
use crate::error::{Error, Result};

/// The longest request that is read, bytes.
const LONGEST_REQUEST: usize = 8 << 20;

/// Tokens of a reply where the question sets no limit.
const MOST_TOKENS: usize = 1024;

/// How long a client may take to send its question, or to take the reply.
const PATIENCE: Duration = Duration::from_secs(30);

/// A port of this machine.
pub struct Server {
    listener: TcpListener,
    address: String,
}

/// A question that was answered, for whoever watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// The status that was sent.
    pub status: u16,
    /// Tokens of the reply.
    pub completion_tokens: usize,
}

impl Server {
    /// Takes a port of the loopback address; 0 takes a free one.
    ///
    /// # Errors
    /// A port that cannot be had.
    pub fn bind(port: u16) -> Result<Self> {
        let taken = |reason: std::io::Error| Error::Port {
            port,
            reason: reason.to_string(),
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(taken)?;
        let port = listener.local_addr().map_err(taken)?.port();
        Ok(Server {
            listener,
            address: format!("http://127.0.0.1:{port}/v1"),
        })
    }

    /// What a client is given as its endpoint.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Answers until the process ends; `served` hears of every answer. A client that hangs up ends its
    /// own connection alone.
    pub fn serve(&self, model: &mut ChatModel, mut served: impl FnMut(Served)) {
        for stream in self.listener.incoming().flatten() {
            if let Ok(one) = answer(stream, model) {
                served(one);
            }
        }
    }
}

/// What is sent back: a status and its JSON.
struct Answer {
    status: u16,
    body: Value,
    completion_tokens: usize,
}

impl Answer {
    fn refusal(status: u16, message: impl Into<String>) -> Self {
        let message = message.into();
        Answer {
            status,
            body: json!({"error": {"message": message, "type": "invalid_request_error", "code": null}}),
            completion_tokens: 0,
        }
    }
}

fn answer(mut stream: TcpStream, model: &mut ChatModel) -> std::io::Result<Served> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let answer = match read_request(&mut stream)? {
        Ok((first, body)) => route(&first, &body, model),
        Err(refusal) => refusal,
    };
    let body = answer.body.to_string();
    let reason = match answer.status {
        200 => "OK",
        404 => "Not Found",
        413 => "Content Too Large",
        500 => "Internal Server Error",
        _ => "Bad Request",
    };
    write!(
        stream,
        "HTTP/1.1 {} {reason}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: \
         close\r\n\r\n{body}",
        answer.status,
        body.len()
    )?;
    stream.flush()?;
    Ok(Served {
        status: answer.status,
        completion_tokens: answer.completion_tokens,
    })
}

/// The first line and the body of a request.
fn read_request(
    stream: &mut TcpStream,
) -> std::io::Result<std::result::Result<(String, Vec<u8>), Answer>> {
    let mut bytes = Vec::new();
    let mut part = [0; 8192];
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        let read = stream.read(&mut part)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&part[..read]);
        if bytes.len() > LONGEST_REQUEST {
            return Ok(Err(Answer::refusal(413, "the request's head has no end")));
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    let length = length.unwrap_or(0);
    if length > LONGEST_REQUEST {
        let told = format!("the request has {length} bytes, at most {LONGEST_REQUEST}");
        return Ok(Err(Answer::refusal(413, told)));
    }
    let mut body = bytes.split_off(head + 4);
    while body.len() < length {
        let read = stream.read(&mut part)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        body.extend_from_slice(&part[..read]);
    }
    let first = text.lines().next().unwrap_or_default().to_owned();
    Ok(Ok((first, body)))
}

fn route(first: &str, body: &[u8], model: &mut ChatModel) -> Answer {
    let mut words = first.split(' ');
    match (words.next(), words.next()) {
        (Some("GET"), Some("/v1/models")) => Answer {
            status: 200,
            body: json!({"object": "list", "data": [{"id": model.name(), "object": "model"}]}),
            completion_tokens: 0,
        },
        (Some("POST"), Some("/v1/chat/completions")) => complete(body, model),
        _ => Answer::refusal(404, "expected POST /v1/chat/completions or GET /v1/models"),
    }
}

fn complete(body: &[u8], model: &mut ChatModel) -> Answer {
    let request: Value = match serde_json::from_slice(body) {
        Ok(request) => request,
        Err(error) => return Answer::refusal(400, format!("the body is no JSON: {error}")),
    };
    if request["model"] != model.name() {
        let told = format!(
            "the model {} is not here: this is '{}'; its name holds the hash of its file, so that a \
             verdict says what gave it",
            request["model"],
            model.name()
        );
        return Answer::refusal(404, told);
    }
    if let Some(refused) = refused_setting(&request) {
        return Answer::refusal(400, refused);
    }
    let messages = match texts(&request["messages"]) {
        Ok(messages) => messages,
        Err(reason) => return Answer::refusal(400, reason),
    };
    let limit = ["max_completion_tokens", "max_tokens"]
        .iter()
        .find_map(|key| request[*key].as_u64());
    let limit = limit.map_or(MOST_TOKENS, |limit| limit as usize);
    match model.reply(&messages, limit) {
        Err(Error::Question(reason)) => Answer::refusal(400, reason),
        Err(error) => Answer::refusal(500, error.to_string()),
        Ok(reply) => Answer {
            status: 200,
            body: json!({
                "id": "chatcmpl-local",
                "object": "chat.completion",
                "created": 0,
                "model": model.name(),
                "choices": [{
                    "index": 0,
                    "message": {"role": "assistant", "content": reply.text},
                    "finish_reason": if reply.finished { "stop" } else { "length" },
                }],
                "usage": {
                    "prompt_tokens": reply.prompt_tokens,
                    "completion_tokens": reply.completion_tokens,
                    "total_tokens": reply.prompt_tokens + reply.completion_tokens,
                },
            }),
            completion_tokens: reply.completion_tokens,
        },
    }
}

/// A setting that would change the reply and is not honoured here.
fn refused_setting(request: &Value) -> Option<String> {
    let sampled = request["temperature"].as_f64().is_some_and(|t| t != 0.0);
    if sampled {
        return Some("temperature: replies are greedy here; send 0 or leave it out".into());
    }
    if request["n"].as_u64().is_some_and(|n| n != 1) {
        return Some("n: one choice is given here; send 1 or leave it out".into());
    }
    let asked = |key: &&&str| !matches!(request[**key], Value::Null | Value::Bool(false));
    let other = [
        "stream",
        "tools",
        "functions",
        "response_format",
        "logprobs",
    ];
    let found = other.iter().find(asked)?;
    Some(format!("{found}: not done here; leave it out"))
}

/// Messages with the text of their parts; an image is refused.
fn texts(messages: &Value) -> std::result::Result<Value, String> {
    let list = messages.as_array().filter(|list| !list.is_empty());
    let list = list.ok_or("messages: expected a list of at least one")?;
    let told = list.iter().map(|message| {
        let role = message["role"]
            .as_str()
            .ok_or("messages: a role is missing")?;
        let content = match &message["content"] {
            Value::String(text) => text.clone(),
            Value::Array(parts) => parts
                .iter()
                .map(|part| match part["type"].as_str() {
                    Some("text") => Ok(part["text"].as_str().unwrap_or_default()),
                    other => Err(format!(
                        "messages: a part of the type {other:?}; this model reads text alone"
                    )),
                })
                .collect::<std::result::Result<String, String>>()?,
            _ => return Err("messages: expected text as content".to_owned()),
        };
        Ok(json!({"role": role, "content": content}))
    });
    told.collect::<std::result::Result<Vec<_>, String>>()
        .map(Value::Array)
}
