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
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: &str) -> Result<Cached, Error> {
        super::read(body.as_bytes(), None)
    }

    fn said(message: Value, finish: Value) -> Result<Cached, Error> {
        let choice = json!({ "message": message, "finish_reason": finish });
        read(&json!({ "choices": [choice], "usage": { "completion_tokens": 512 } }).to_string())
    }

    macro_rules! all {
        ($pattern:pat, $bodies:expr) => {
            for body in $bodies {
                let found = read(&body.to_string());
                assert!(matches!(found, Err($pattern)), "{body}: {found:?}");
            }
        };
    }

    #[test]
    fn a_good_answer_is_read_whole() {
        let good = read(r#"{"model":"m-1","choices":[{"message":{"content":"4"},"finish_reason":"length"}],"usage":{"prompt_tokens":9,"completion_tokens":2}}"#).unwrap();
        assert_eq!(
            good,
            Cached {
                text: "4".into(),
                stopped: false,
                finish_reason: Some("length".into()),
                served_by: Some("m-1".into()),
                prompt_tokens: Some(9),
                completion_tokens: Some(2),
            }
        );
        for (content, text) in [
            (json!("4"), "4"),
            (json!(""), ""),
            (json!(" \n"), " \n"),
            (
                json!([{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }]),
                "ab",
            ),
            (
                json!([{ "type": "thinking", "thinking": [] }, { "type": "text", "text": "b" }]),
                "b",
            ),
            (json!("<think>a</think>b"), "<think>a</think>b"),
        ] {
            assert_eq!(
                said(json!({ "content": content }), json!("stop"))
                    .unwrap()
                    .text,
                text
            );
        }
        let others = json!({ "content": "4", "reasoning_content": "FINAL ANSWER: 3", "reasoning": "x",
            "refusal": null, "tool_calls": [], "function_call": null, "error": null });
        let good = said(others, json!("eos_token")).unwrap();
        assert_eq!((good.text.as_str(), good.stopped), ("4", true));
        let declined = json!({ "content": null, "refusal": "no" });
        assert_eq!(said(declined, json!("stop")).unwrap().text, "no");
        let body = "\u{feff} {\"error\": null, \"choices\": [{\"message\": {\"content\": \"4\"}, \"finish_reason\": \"stop\", \"error\": {}}]}\n";
        assert_eq!(read(body).unwrap().text, "4");
    }

    #[test]
    fn an_end_that_is_not_known_to_be_good_is_no_completion() {
        for finish in [
            json!(null),
            json!("error"),
            json!("abort"),
            json!("ERROR"),
            json!("cancelled"),
            json!("insufficient_system_resource"),
            json!("network_error"),
            json!(""),
            json!(0),
            json!({ "type": "stop" }),
            json!("something new"),
            json!("safety"),
        ] {
            for content in [json!("FINAL ANSWER: 4"), json!(""), json!(null)] {
                let found = said(json!({ "content": content }), finish.clone());
                assert!(
                    matches!(found, Err(Error::BadEnd { .. })),
                    "{finish}: {found:?}"
                );
            }
        }
        let found = said(json!({ "content": "half" }), json!("content_filter"));
        assert!(matches!(found, Err(Error::Filtered)), "{found:?}");
        let found = read(r#"{"choices":[{"message":{"content":"4"}}]}"#);
        assert!(matches!(found, Err(Error::BadEnd { .. })), "{found:?}");
    }

    #[test]
    fn an_error_beside_a_choice_is_no_completion() {
        let choice = json!({ "message": { "content": "4" }, "finish_reason": "stop" });
        for error in [
            json!("busy"),
            json!({ "message": "x" }),
            json!({ "code": 502, "message": "x" }),
            json!({ "code": "500" }),
            json!(["x"]),
            json!(true),
            json!({ "code": 503.5 }),
            json!({ "type": "server_error", "code": null }),
        ] {
            let mut with_error = choice.clone();
            with_error["error"] = error.clone();
            let mut in_message = choice.clone();
            in_message["message"]["error"] = error.clone();
            all!(
                Error::InAnswer { .. },
                [
                    json!({ "error": error, "choices": [choice] }),
                    json!({ "error": error }),
                    json!({ "error": error, "choices": [] }),
                    json!({ "choices": [with_error] }),
                    json!({ "choices": [in_message] }),
                ]
            );
        }
        all!(
            Error::InAnswer { .. },
            [json!({ "object": "error", "message": "x", "code": 500 })]
        );
        all!(
            Error::Unauthorized { .. },
            [json!({ "error": { "code": 401, "message": "x" } })]
        );
        all!(
            Error::RateLimited { .. },
            [json!({ "error": { "code": 429, "message": "x" } })]
        );
        all!(
            Error::RateLimited { .. },
            [json!({ "error": { "code": "429", "message": "x" } })]
        );
        all!(
            Error::Rejected { .. },
            [json!({ "error": { "code": 400, "message": "x" } })]
        );
        all!(
            Error::QuotaExhausted { .. },
            [json!({ "error": { "code": "insufficient_quota", "message": "x" } })]
        );
    }

    #[test]
    fn what_is_no_chat_completion_at_all_is_told_from_a_damaged_one() {
        all!(
            Error::NotACompletion { .. },
            [
                "<html>",
                "<!DOCTYPE html><p>",
                "<?xml version=\"1.0\"?>",
                "Ollama is running",
                "OK",
                "[]",
                "null",
                "{}",
                "true",
                "\"hello\"",
                "4",
                r#"{"detail":"Not Found"}"#,
                r#"{"choices":{"0":{}}}"#,
                r#"{"choices":null}"#,
                r#"{"choices":[{"text":"4","finish_reason":"stop"}]}"#,
                r#"{"message":{"role":"assistant","content":"4"},"done":true}"#,
                "{\"message\":{\"content\":\"4\"},\"done\":false}\n{\"done\":true}",
                r#"{"type":"message","content":[{"type":"text","text":"4"}],"stop_reason":"end_turn"}"#,
                r#"{"object":"response","output":[]}"#,
                r#"{"object":"list","data":[]}"#,
                r#"{"error":"Unexpected endpoint or method. (POST /chat/completions). Returning 200 anyway"}"#,
                r#"{"error":"Not Found"}"#,
                "data: {\"type\":\"message_start\"}\n\n",
                "event: message_start\ndata: {\"type\":\"message_start\"}\n\n",
            ]
        );
        all!(
            Error::MalformedJson { .. },
            [
                "",
                "  \n",
                "{",
                "{\"choices\": [",
                "{\"choices\": [{]}",
                "{\"a\": NaN}",
                "{\"a\": 1}x"
            ]
        );
        assert!(matches!(
            super::read(b"{\"choices\": \"\xff\"}", None),
            Err(Error::MalformedJson { .. })
        ));
        all!(
            Error::WrongSchema { .. },
            [
                r#"{"choices":[]}"#,
                r#"{"choices":[{}]}"#,
                r#"{"choices":[null]}"#,
                r#"{"choices":[{"message":{"content":null},"finish_reason":"stop"}]}"#,
                r#"{"choices":[{"message":{},"finish_reason":"stop"}]}"#,
                r#"{"choices":[{"message":{"content":4},"finish_reason":"stop"}]}"#,
                r#"{"choices":[{"message":{"content":{"text":"4"}},"finish_reason":"stop"}]}"#,
                r#"{"choices":[{"message":{"content":[{"type":"image"}]},"finish_reason":"stop"}]}"#,
            ]
        );
    }

    #[test]
    fn tokens_that_all_went_into_reasoning_are_no_empty_answer() {
        for (message, finish) in [
            (json!({ "content": null }), "length"),
            (json!({ "content": "" }), "length"),
            (json!({}), "length"),
            (json!({ "content": null, "reasoning": "a" }), "length"),
            (
                json!({ "content": "\n", "reasoning_content": "a" }),
                "length",
            ),
            (json!({ "content": null, "reasoning_content": "a" }), "stop"),
            (
                json!({ "content": "", "reasoning_details": [{ "text": "a" }] }),
                "max_tokens",
            ),
            (
                json!({ "content": [{ "type": "thinking", "thinking": "a" }] }),
                "length",
            ),
            (json!({ "content": "<think>a" }), "length"),
            (json!({ "content": "<think>a</think>\n" }), "length"),
            (json!({ "content": "a</think>" }), "length"),
        ] {
            let found = said(message.clone(), json!(finish));
            let Err(error @ Error::ReasoningOnly { tokens: Some(512) }) = found else {
                panic!("{message}: {found:?}");
            };
            assert!(!error.is_transient() && !error.ends_run());
            assert_eq!(
                error.to_string(),
                "all 512 tokens went into reasoning and none into an answer; raise --max-new-tokens"
            );
        }
        // A model that was cut off in the middle of an answer, or only said white space.
        assert!(said(json!({ "content": "<think>a</think>b" }), json!("length")).is_ok());
        assert!(said(json!({ "content": "\n\n" }), json!("length")).is_ok());
    }

    #[test]
    fn a_native_call_is_named() {
        let call =
            json!([{ "type": "function", "function": { "name": "focus", "arguments": "{}" } }]);
        for (message, finish) in [
            (json!({ "content": null, "tool_calls": call }), "tool_calls"),
            (json!({ "content": "I call", "tool_calls": call }), "stop"),
            (
                json!({ "content": null, "function_call": { "name": "focus" } }),
                "function_call",
            ),
        ] {
            let found = said(message, json!(finish));
            let Err(error @ Error::NativeToolCall { .. }) = found else {
                panic!("{found:?}");
            };
            assert!(error.to_string().contains("`focus`") && !error.is_transient());
        }
        let found = said(json!({ "content": "4" }), json!("tool_calls"));
        assert!(
            matches!(found, Err(Error::NativeToolCall { .. })),
            "{found:?}"
        );
    }

    #[test]
    fn a_stream_is_put_together() {
        let piece = |content: &str| {
            format!(
                "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{content}\"}}}}]}}\n\n"
            )
        };
        let end = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
        let usage = "data: {\"model\":\"m-1\",\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n";
        let (a, b) = (piece("FINAL "), piece("ANSWER: 4"));
        let whole = format!("{a}{b}{end}{usage}data: [DONE]\n\n");
        let good = read(&whole).unwrap();
        assert_eq!(good.text, "FINAL ANSWER: 4");
        assert_eq!(
            (good.prompt_tokens, good.completion_tokens),
            (Some(3), Some(2))
        );
        assert_eq!(good.served_by.as_deref(), Some("m-1"));
        for body in [
            whole.replace('\n', "\r\n"),
            format!(": keep-alive\n\n{whole}"),
            format!("event: message\nid: 1\n{whole}"),
            format!("retry: 3\n\n{whole}data: after the end\n\n"),
            whole.replace("data: ", "data:"),
            format!("{a}{b}{end}"),
            format!("{a}{b}{}", end.trim_end()),
            format!("{a}data: {{\"choices\":[{{\"index\":1,\"delta\":{{\"content\":\"other\"}},\"finish_reason\":\"error\"}}]}}\n\n{b}{end}"),
            "data: {\"choices\":[\ndata: {\"message\":{\"content\":\"FINAL ANSWER: 4\"},\"finish_reason\":\"stop\"}]}\n\n".to_owned(),
            r#"{"choices":[{"delta":{"content":"FINAL ANSWER: 4"},"finish_reason":"stop"}]}"#.to_owned(),
        ] {
            assert_eq!(read(&body).unwrap().text, "FINAL ANSWER: 4", "{body}");
        }
        // Cut anywhere before its end, it is no completion.
        for length in 1..(a.len() + b.len() + end.len() - 3) {
            assert!(read(&whole[..length]).is_err(), "{}", &whole[..length]);
        }
        all!(
            Error::Cut { .. },
            [a.clone(), format!("{a}{b}"), ": ping\n\n".to_owned()]
        );
        all!(
            Error::BadEnd { .. },
            [
                format!("{a}data: [DONE]\n\n"),
                format!("{a}{}", end.replace("stop", "error")),
            ]
        );
        all!(
            Error::InAnswer { .. },
            [
                format!("{a}data: {{\"error\":{{\"message\":\"x\"}}}}\n\n"),
                format!("{a}event: error\ndata: overloaded\n\n"),
                format!(
                    "{a}data: {{\"error\":\"x\",\"choices\":[{{\"delta\":{{}},\"finish_reason\":\"stop\"}}]}}\n\n"
                ),
            ]
        );
        all!(
            Error::NativeToolCall { .. },
            [format!(
                "data: {{\"choices\":[{{\"delta\":{{\"tool_calls\":[{{\"function\":{{\"name\":\"f\"}}}}]}}}}]}}\n\n{end}"
            )]
        );
        all!(
            Error::ReasoningOnly { .. },
            [format!(
                "data: {{\"choices\":[{{\"delta\":{{\"reasoning\":\"a\"}}}}]}}\n\n{}",
                end.replace("stop", "length")
            )]
        );
    }

    #[test]
    fn a_key_that_the_server_quotes_is_hidden_however_it_is_written() {
        let key = ApiKey::for_test("sk-a/b");
        for body in [
            r#"{"model":"sk-a/b","choices":[{"message":{"content":"your key: sk-a/b"},"finish_reason":"stop"}]}"#,
            r#"{"model":"sk-a\/b","choices":[{"message":{"content":"your key: \u0073k-a\/b"},"finish_reason":"stop"}]}"#,
            "data: {\"model\":\"sk-a/b\",\"choices\":[{\"delta\":{\"content\":\"your key: sk-\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"a/b\"},\"finish_reason\":\"stop\"}]}\n\n",
        ] {
            let good = super::read(body.as_bytes(), Some(&key)).unwrap();
            assert_eq!(good.text, "your key: [key]");
            assert_eq!(good.served_by.as_deref(), Some("[key]"));
        }
        for body in [
            "<p>sk-a/b",
            "{ sk-a/b",
            r#"{"error":"sk-a\/b"}"#,
            r#"{"detail":"sk-\u0061/b"}"#,
            r#"{"choices":[{"message":{"content":"4"},"finish_reason":"sk-a\/b"}]}"#,
        ] {
            let error = super::read(body.as_bytes(), Some(&key)).unwrap_err();
            assert!(
                !format!("{error} {error:?}").contains("sk-a/b"),
                "{error:?}"
            );
        }
        // A word that stands for no key is a word.
        let key = ApiKey::for_test("EMPTY");
        let body = r#"{"choices":[{"message":{"content":"EMPTY"},"finish_reason":"stop"}]}"#;
        assert_eq!(
            super::read(body.as_bytes(), Some(&key)).unwrap().text,
            "EMPTY"
        );
    }
}
