//! A completion that came in pieces, put together.
//!
//! Some servers and proxies stream whatever they are asked for. Format: server-sent events
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>) whose data are
//! `chat.completion.chunk` objects, then `[DONE]`. The body is read to its end first, so it is
//! bounded in bytes and time like any other.

use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::excerpt::excerpt;

/// Whether a body is a stream of events rather than JSON.
pub(crate) fn is_stream(body: &str) -> bool {
    let body = body.trim_start();
    body.starts_with(':')
        || ["data:", "event:", "id:", "retry:"]
            .iter()
            .any(|field| body.starts_with(field))
}

/// The completion that the events of `body` make up, in the shape of one that came whole.
pub(crate) fn assemble(body: &str) -> Result<Value, Error> {
    let mut completion = Pieces::default();
    let mut data: Vec<&str> = Vec::new();
    let mut is_error = false;
    // The blank line ends an event that the server left open.
    for line in body.lines().chain([""]) {
        if line.is_empty() {
            let text = std::mem::take(&mut data).join("\n");
            match text.trim() {
                "" => {}
                "[DONE]" => {
                    completion.done = true;
                    break;
                }
                text if is_error => completion.error = Some(Value::String(text.to_owned())),
                text => completion.add(read(text)?),
            }
            is_error = false;
        } else if let Some(text) = field(line, "data:") {
            data.push(text);
        } else if let Some(name) = field(line, "event:") {
            is_error = name.trim() == "error";
        }
    }
    completion.whole()
}

/// One piece alone, as some servers answer that were asked for no stream.
pub(crate) fn of_one(piece: Value) -> Result<Value, Error> {
    let mut completion = Pieces::default();
    completion.add(piece);
    completion.whole()
}

fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let value = line.strip_prefix(name)?;
    Some(value.strip_prefix(' ').unwrap_or(value))
}

fn read(text: &str) -> Result<Value, Error> {
    serde_json::from_str(text).map_err(|error| match error.is_eof() {
        true => Error::Cut {
            reason: "the stream ended in the middle of a piece".to_owned(),
        },
        false => Error::MalformedJson {
            reason: error.to_string(),
            excerpt: excerpt(text),
        },
    })
}

#[derive(Default)]
struct Pieces {
    text: Option<String>,
    reasoning: String,
    refusal: Option<String>,
    tool_calls: Vec<Value>,
    finish_reason: Option<String>,
    error: Option<Value>,
    model: Option<String>,
    usage: Option<Value>,
    /// Whether any piece had choices, were they empty.
    has_choices: bool,
    done: bool,
    /// What came instead of a piece.
    other: Option<String>,
}

impl Pieces {
    fn add(&mut self, piece: Value) {
        if let Some(error) = piece.get("error").filter(|error| !error.is_null()) {
            self.error = Some(error.clone());
        }
        if let Some(model) = piece.get("model").and_then(Value::as_str) {
            self.model = Some(model.to_owned());
        }
        if let Some(usage) = piece.get("usage").filter(|usage| usage.is_object()) {
            self.usage = Some(usage.clone());
        }
        let Some(choices) = piece.get("choices").and_then(Value::as_array) else {
            self.other
                .get_or_insert_with(|| excerpt(&piece.to_string()));
            return;
        };
        self.has_choices = true;
        let is_first = |choice: &&Value| {
            matches!(choice.get("index"), None | Some(Value::Null))
                || choice.get("index").and_then(Value::as_u64) == Some(0)
        };
        for choice in choices.iter().filter(is_first) {
            if let Some(error) = choice.get("error").filter(|error| !error.is_null()) {
                self.error = Some(error.clone());
            }
            if let Some(reason) = choice.get("finish_reason").and_then(Value::as_str) {
                self.finish_reason = Some(reason.to_owned());
            }
            if let Some(delta) = choice.get("delta").and_then(Value::as_object) {
                self.extend(delta);
            } else if let Some(message) = choice.get("message").and_then(Value::as_object) {
                // A whole message takes the place of its pieces.
                self.text = None;
                self.reasoning.clear();
                self.tool_calls.clear();
                self.extend(message);
            }
        }
    }

    fn extend(&mut self, delta: &Map<String, Value>) {
        match delta.get("content") {
            Some(Value::String(text)) => self.text.get_or_insert_default().push_str(text),
            Some(Value::Array(parts)) => {
                for part in parts {
                    if let Some(text) = part.get("text").and_then(Value::as_str) {
                        self.text.get_or_insert_default().push_str(text);
                    }
                }
            }
            _ => {}
        }
        for name in ["reasoning_content", "reasoning"] {
            if let Some(text) = delta.get(name).and_then(Value::as_str) {
                self.reasoning.push_str(text);
            }
        }
        if let Some(text) = delta.get("refusal").and_then(Value::as_str) {
            self.refusal.get_or_insert_default().push_str(text);
        }
        if let Some(calls) = delta.get("tool_calls").and_then(Value::as_array) {
            self.tool_calls.extend(calls.iter().cloned());
        }
        if let Some(call) = delta.get("function_call").filter(|call| call.is_object()) {
            self.tool_calls.push(json!({ "function": call }));
        }
    }

    fn whole(self) -> Result<Value, Error> {
        if self.error.is_none() {
            if !self.has_choices
                && let Some(found) = self.other
            {
                return Err(Error::NotACompletion {
                    found: format!("a stream of something else: {found}"),
                });
            }
            if self.finish_reason.is_none() && !self.done {
                return Err(Error::Cut {
                    reason: "the stream ended before the completion did".to_owned(),
                });
            }
        }
        Ok(json!({
            "model": self.model,
            "error": self.error,
            "usage": self.usage,
            "choices": [{
                "message": {
                    "content": self.text,
                    "reasoning_content": self.reasoning,
                    "refusal": self.refusal,
                    "tool_calls": self.tool_calls,
                },
                "finish_reason": self.finish_reason,
            }],
        }))
    }
}
