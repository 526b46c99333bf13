//! What an answer with status 200 says.
//!
//! A completion counts only when its end is known to be good; everything else is an [`Error`].
//! What a server keeps apart as reasoning (`reasoning`, `reasoning_content`) is no part of the
//! text.

use serde::Deserialize;
use serde_json::Value;

use crate::cache::Cached;
use crate::error::Error;
use crate::excerpt::excerpt;
use crate::finish::{End, end};
use crate::key::ApiKey;
use crate::refusal;
use crate::stream;
use crate::thinking::without_thinking;

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

/// Reads the body of an answer with status 200, without the key should the server quote it.
pub(crate) fn read(body: &[u8], key: Option<&ApiKey>) -> Result<Cached, Error> {
    let text = std::str::from_utf8(body).map_err(|error| Error::MalformedJson {
        reason: format!("it is not UTF-8: {error}"),
        excerpt: hidden(key, &String::from_utf8_lossy(body)),
    })?;
    let text = text.trim_start_matches('\u{feff}').trim();
    // Once before the text is read, for the errors that quote it, and once after it is put
    // together: JSON may escape a key, and a stream may cut it.
    let text = key.map_or_else(|| text.to_owned(), |key| key.blot_out(text));
    let mut answer = match stream::is_stream(&text) {
        true => stream::assemble(&text)?,
        false => parse(&text)?,
    };
    if let Some(key) = key {
        key.blot_out_of(&mut answer);
    }
    completion(&answer)
}

fn hidden(key: Option<&ApiKey>, text: &str) -> String {
    excerpt(&key.map_or_else(|| text.to_owned(), |key| key.blot_out(text)))
}

/// One JSON value; what is not even meant as one is told apart from what was damaged.
fn parse(text: &str) -> Result<Value, Error> {
    let malformed = |reason: String| Error::MalformedJson {
        reason,
        excerpt: excerpt(text),
    };
    let other = |what: &str| Error::NotACompletion {
        found: format!("{what}: {}", excerpt(text)),
    };
    if text.is_empty() {
        return Err(malformed("it is empty".to_owned()));
    }
    if text.starts_with('<') {
        return Err(other("HTML or XML"));
    }
    if !text.starts_with(['{', '[']) && serde_json::from_str::<Value>(text).is_err() {
        return Err(other("plain text"));
    }
    serde_json::from_str(text).map_err(|error| {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        let is_first_whole = values.next().is_some_and(|first| first.is_ok());
        match is_first_whole && matches!(values.next(), Some(Ok(_))) {
            true => other("several JSON values, perhaps a stream of another API"),
            false => malformed(error.to_string()),
        }
    })
}

/// An error object that says something.
fn error_in(value: &Value) -> Option<&Value> {
    value.get("error").filter(|error| match error {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.trim().is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    })
}

fn completion(answer: &Value) -> Result<Cached, Error> {
    let wrong = |expected: &'static str, found: &Value| Error::WrongSchema {
        expected,
        found: excerpt(&found.to_string()),
    };
    if let Some(error) = error_in(answer) {
        return Err(refusal::in_answer(error));
    }
    if answer.get("object").and_then(Value::as_str) == Some("error") {
        return Err(refusal::in_answer(answer));
    }
    let Some(choices) = answer.get("choices").and_then(Value::as_array) else {
        return Err(Error::NotACompletion {
            found: format!("JSON without `choices`: {}", excerpt(&answer.to_string())),
        });
    };
    let choice = choices
        .first()
        .ok_or_else(|| wrong("`choices[0]`", answer))?;
    if let Some(error) = error_in(choice) {
        return Err(refusal::in_answer(error));
    }
    if choice.get("delta").is_some() && choice.get("message").is_none() {
        let whole = stream::of_one(answer.clone())?;
        return completion(&whole);
    }
    let finish = choice.get("finish_reason").and_then(Value::as_str);
    let message = choice.get("message");
    if finish == Some("content_filter") {
        return Err(Error::Filtered);
    }
    let Some(message) = message else {
        return Err(match choice.get("text").is_some() {
            true => Error::NotACompletion {
                found: format!(
                    "a completion of plain text (`choices[0].text`): {}",
                    excerpt(&choice.to_string())
                ),
            },
            false => wrong("`choices[0].message`", choice),
        });
    };
    if let Some(error) = error_in(message) {
        return Err(refusal::in_answer(error));
    }
    if let Some(name) = native_call(message, finish) {
        return Err(Error::NativeToolCall { name });
    }
    let Some(end) = finish.and_then(end) else {
        return Err(Error::BadEnd {
            reason: excerpt(finish.unwrap_or("null")),
        });
    };
    let usage: Option<Usage> = answer
        .get("usage")
        .and_then(|usage| Usage::deserialize(usage).ok());
    let completion_tokens = usage.as_ref().and_then(|usage| usage.completion_tokens);
    let content = content(message)?;
    let has_reasoning = ["reasoning", "reasoning_content", "reasoning_details"]
        .iter()
        .any(|name| match message.get(name) {
            Some(Value::String(text)) => !text.trim().is_empty(),
            Some(Value::Array(parts)) => !parts.is_empty(),
            _ => false,
        });
    let refusal = message.get("refusal").and_then(Value::as_str);
    let text = match (content, refusal) {
        (Some(text), None) => text,
        (Some(text), Some(_)) if !text.is_empty() => text,
        // The model itself declined: that is its answer.
        (_, Some(refusal)) => refusal.to_owned(),
        (None, None) if has_reasoning || end == End::Length => String::new(),
        (None, None) => return Err(wrong("a string in `choices[0].message.content`", message)),
    };
    // White space alone is what a model said, unless its reasoning stands beside it; a parser
    // that took an answer for reasoning looks the same, so this is no empty answer.
    let is_thought = match end {
        End::Length => {
            text.is_empty()
                || (!text.trim().is_empty() && without_thinking(&text).trim().is_empty())
        }
        End::Stopped => false,
    };
    if is_thought || (has_reasoning && text.trim().is_empty()) {
        return Err(Error::ReasoningOnly {
            tokens: completion_tokens,
        });
    }
    Ok(Cached {
        text,
        stopped: end == End::Stopped,
        finish_reason: finish.map(str::to_owned),
        served_by: answer
            .get("model")
            .and_then(Value::as_str)
            .map(str::to_owned),
        prompt_tokens: usage.and_then(|usage| usage.prompt_tokens),
        completion_tokens,
    })
}

/// The text of a message, in one string or in parts, those of reasoning left out; `None` where
/// there is none.
fn content(message: &Value) -> Result<Option<String>, Error> {
    let wrong = |expected| Error::WrongSchema {
        expected,
        found: excerpt(&message.to_string()),
    };
    match message.get("content") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Array(parts)) => parts
            .iter()
            .filter(|part| {
                let kind = part.get("type").and_then(Value::as_str);
                !matches!(kind, Some("thinking" | "reasoning" | "redacted_thinking"))
            })
            .map(|part| part.get("text").and_then(Value::as_str))
            .collect::<Option<String>>()
            .map(Some)
            .ok_or_else(|| wrong("text parts in `choices[0].message.content`")),
        Some(_) => Err(wrong("a string in `choices[0].message.content`")),
    }
}

/// The name of the tool that the server thinks was called through its own interface.
fn native_call(message: &Value, finish: Option<&str>) -> Option<String> {
    let call = message
        .get("tool_calls")
        .and_then(|calls| calls.get(0))
        .or_else(|| message.get("function_call").filter(|call| call.is_object()));
    let is_end = matches!(finish, Some("tool_calls" | "function_call" | "tool_use"));
    match call {
        Some(call) => {
            let name = call.pointer("/function/name").or_else(|| call.get("name"));
            Some(excerpt(name.and_then(Value::as_str).unwrap_or("a tool")))
        }
        None => is_end.then(|| "a tool".to_owned()),
    }
}

#[cfg(test)]
mod tests;
