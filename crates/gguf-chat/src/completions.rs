//! The part of OpenAI's interface that judges use, as a function of a request.
//!
//! `POST /v1/chat/completions` and `GET /v1/models`. What would change a reply and is not done here
//! (sampling, several choices, streams, tools, images) is refused with its name.

use serde_json::{Value, json};

use crate::chat::ChatModel;
use crate::error::Error;

/// Tokens of a reply where the question sets no limit.
const MOST_TOKENS: usize = 1024;

/// What the server replies.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpReply {
    /// The HTTP status: 200, 400, 404 or 500.
    pub status: u16,
    /// The JSON.
    pub body: Value,
    /// Tokens of the reply.
    pub completion_tokens: usize,
}

impl HttpReply {
    fn refusal(status: u16, message: impl Into<String>) -> Self {
        let message = message.into();
        HttpReply {
            status,
            body: json!({"error": {"message": message, "type": "invalid_request_error", "code": null}}),
            completion_tokens: 0,
        }
    }
}

/// Answers a request by its method, path and body.
pub fn answer(method: &str, path: &str, body: &[u8], model: &mut ChatModel) -> HttpReply {
    match (method, path) {
        ("GET", "/v1/models") => HttpReply {
            status: 200,
            body: json!({"object": "list", "data": [{"id": model.name(), "object": "model"}]}),
            completion_tokens: 0,
        },
        ("POST", "/v1/chat/completions") => complete(body, model),
        _ => HttpReply::refusal(404, "expected POST /v1/chat/completions or GET /v1/models"),
    }
}

fn complete(body: &[u8], model: &mut ChatModel) -> HttpReply {
    let request: Value = match serde_json::from_slice(body) {
        Ok(request) => request,
        Err(error) => return HttpReply::refusal(400, format!("the body is no JSON: {error}")),
    };
    if request["model"] != model.name() {
        let told = format!(
            "the model {} is not here: this is '{}'; its name holds the hash of its file, so that a \
             verdict says what gave it",
            request["model"],
            model.name()
        );
        return HttpReply::refusal(404, told);
    }
    if let Some(refused) = refused_setting(&request) {
        return HttpReply::refusal(400, refused);
    }
    let messages = match texts(&request["messages"]) {
        Ok(messages) => messages,
        Err(reason) => return HttpReply::refusal(400, reason),
    };
    let limit = ["max_completion_tokens", "max_tokens"]
        .iter()
        .find_map(|key| request[*key].as_u64());
    let limit = limit.map_or(MOST_TOKENS, |limit| limit as usize);
    match model.reply(&messages, limit) {
        Err(Error::Question(reason)) => HttpReply::refusal(400, reason),
        Err(error) => HttpReply::refusal(500, error.to_string()),
        Ok(reply) => HttpReply {
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
