//! The JSON that goes out and comes in, and the key under which a completion is kept.

use std::io::Cursor;

use agent::{Conversation, MessagePart};
use base64::Engine;
use image::{ImageFormat, RgbImage};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cache::Cached;
use crate::error::Error;

/// How to decode. Everything here is part of the cache key.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SamplingParameters {
    /// 0 is greedy.
    pub temperature: f64,
    /// Nucleus mass, 1 where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Longest completion in tokens.
    pub max_tokens: u32,
    /// Seed of the sample; servers accept 31 bits of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u32>,
    /// Ask for a JSON object (`response_format`).
    #[serde(skip)]
    pub json_object: bool,
}

impl SamplingParameters {
    /// Greedy decoding of at most `max_tokens` tokens.
    pub fn greedy(max_tokens: u32) -> Self {
        SamplingParameters {
            temperature: 0.0,
            top_p: None,
            max_tokens,
            seed: None,
            json_object: false,
        }
    }
}

/// A completion, new or from the cache.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// What is kept of it.
    pub completion: Cached,
    /// Whether it came from the cache.
    pub from_cache: bool,
}

/// The key of a completion: blake3 over the model, the messages (images by the hash of their
/// pixels) and the parameters. The server's address is not part of it, so a run can go on
/// against another server of the same model.
pub fn cache_key(
    model: &str,
    conversation: &Conversation,
    parameters: &SamplingParameters,
) -> blake3::Hash {
    let messages = messages(conversation, |image| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&image.width().to_le_bytes());
        hasher.update(&image.height().to_le_bytes());
        hasher.update(image.as_raw());
        Ok::<_, std::convert::Infallible>(hasher.finalize().to_hex().to_string())
    });
    let Ok(messages) = messages;
    blake3::hash(request(model, &messages, parameters).to_string().as_bytes())
}

/// The body of a request.
pub(crate) fn body(
    model: &str,
    conversation: &Conversation,
    parameters: &SamplingParameters,
) -> Result<String, Error> {
    let messages = messages(conversation, data_url)?;
    Ok(request(model, &messages, parameters).to_string())
}

fn request(model: &str, messages: &Value, parameters: &SamplingParameters) -> Value {
    let mut request = json!({ "model": model, "messages": messages });
    // A struct of numbers always serialises to an object; anything else would add no field.
    if let (Some(request), Ok(Value::Object(parameters))) =
        (request.as_object_mut(), serde_json::to_value(parameters))
    {
        request.extend(parameters);
    }
    if parameters.json_object {
        request["response_format"] = json!({ "type": "json_object" });
    }
    request
}

/// Messages of text alone have a string as content, which every server accepts; those with an
/// image have a list of parts.
fn messages<E>(
    conversation: &Conversation,
    image_url: impl Fn(&RgbImage) -> Result<String, E>,
) -> Result<Value, E> {
    let mut messages = Vec::with_capacity(conversation.len());
    for message in conversation {
        let has_image = message
            .parts
            .iter()
            .any(|part| matches!(part, MessagePart::Image(_)));
        let content = if has_image {
            let mut parts = Vec::with_capacity(message.parts.len());
            for part in &message.parts {
                parts.push(match part {
                    MessagePart::Text { text, .. } => json!({ "type": "text", "text": text }),
                    MessagePart::Image(image) => {
                        json!({ "type": "image_url", "image_url": { "url": image_url(image)? } })
                    }
                });
            }
            Value::Array(parts)
        } else {
            let text: String = message
                .parts
                .iter()
                .filter_map(|part| match part {
                    MessagePart::Text { text, .. } => Some(text.as_str()),
                    MessagePart::Image(_) => None,
                })
                .collect();
            Value::String(text)
        };
        messages.push(json!({ "role": message.role.name(), "content": content }));
    }
    Ok(Value::Array(messages))
}

/// A PNG as a data URL: lossless, so that the model sees the tool's pixels.
fn data_url(image: &RgbImage) -> Result<String, Error> {
    let mut png = Cursor::new(Vec::new());
    image
        .write_to(&mut png, ImageFormat::Png)
        .map_err(|error| Error::Image {
            width: image.width(),
            height: image.height(),
            reason: error.to_string(),
        })?;
    let data = base64::engine::general_purpose::STANDARD.encode(png.into_inner());
    Ok(format!("data:image/png;base64,{data}"))
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

/// Reads the body of an answer with status 200.
pub(crate) fn read(body: &str) -> Result<Cached, Error> {
    let answer: Value = serde_json::from_str(body).map_err(|error| Error::MalformedJson {
        reason: error.to_string(),
        excerpt: excerpt(body),
    })?;
    let wrong = |expected: &'static str, found: &Value| Error::WrongSchema {
        expected,
        found: excerpt(&found.to_string()),
    };
    let choice = answer
        .get("choices")
        .and_then(|choices| choices.get(0))
        .ok_or_else(|| wrong("`choices[0]`", &answer))?;
    let finish = choice.get("finish_reason").and_then(Value::as_str);
    if finish == Some("content_filter") {
        return Err(Error::Filtered);
    }
    let message = choice
        .get("message")
        .ok_or_else(|| wrong("`choices[0].message`", choice))?;
    let text = match (message.get("content"), message.get("refusal")) {
        (Some(Value::String(text)), _) => text.clone(),
        (Some(Value::Array(parts)), _) => parts
            .iter()
            .map(|part| part.get("text").and_then(Value::as_str))
            .collect::<Option<String>>()
            .ok_or_else(|| wrong("text parts in `choices[0].message.content`", message))?,
        // The model itself declined: that is its answer.
        (_, Some(Value::String(refusal))) => refusal.clone(),
        _ => return Err(wrong("a string in `choices[0].message.content`", message)),
    };
    let usage: Option<Usage> = answer
        .get("usage")
        .and_then(|usage| Usage::deserialize(usage).ok());
    Ok(Cached {
        text,
        stopped: finish != Some("length"),
        served_by: answer
            .get("model")
            .and_then(Value::as_str)
            .map(str::to_owned),
        prompt_tokens: usage.as_ref().and_then(|usage| usage.prompt_tokens),
        completion_tokens: usage.and_then(|usage| usage.completion_tokens),
    })
}

/// The beginning of a text, for an error message.
pub(crate) fn excerpt(text: &str) -> String {
    const LONGEST: usize = 200;
    let text = text.trim();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use agent::{Block, Message, Role};
    use image::Rgb;

    use super::*;

    fn conversation(colour: u8) -> Conversation {
        vec![
            Message {
                role: Role::System,
                parts: vec![
                    MessagePart::text(Block::P, "Be "),
                    MessagePart::text(Block::T, "brief."),
                ],
            },
            Message {
                role: Role::User,
                parts: vec![
                    MessagePart::Image(Arc::new(RgbImage::from_pixel(3, 2, Rgb([colour, 0, 0])))),
                    MessagePart::text(Block::R, "How many?"),
                ],
            },
        ]
    }

    #[test]
    fn the_body_is_what_servers_expect() {
        let mut parameters = SamplingParameters::greedy(64);
        parameters.seed = Some(7);
        parameters.json_object = true;
        let body: Value =
            serde_json::from_str(&body("m", &conversation(255), &parameters).unwrap()).unwrap();
        let url = body["messages"][1]["content"][0]["image_url"]["url"]
            .as_str()
            .unwrap();
        let data = url.strip_prefix("data:image/png;base64,").unwrap();
        let png = base64::engine::general_purpose::STANDARD
            .decode(data)
            .unwrap();
        let image = image::load_from_memory(&png).unwrap().to_rgb8();
        assert_eq!(image, RgbImage::from_pixel(3, 2, Rgb([255, 0, 0])));

        let mut rest = body.clone();
        rest["messages"][1]["content"][0]["image_url"]["url"] = Value::Null;
        assert_eq!(
            rest,
            json!({
                "model": "m",
                "messages": [
                    { "role": "system", "content": "Be brief." },
                    { "role": "user", "content": [
                        { "type": "image_url", "image_url": { "url": null } },
                        { "type": "text", "text": "How many?" },
                    ] },
                ],
                "temperature": 0.0,
                "max_tokens": 64,
                "seed": 7,
                "response_format": { "type": "json_object" },
            })
        );
    }

    #[test]
    fn the_key_knows_model_pixels_text_and_parameters() {
        let greedy = SamplingParameters::greedy(64);
        let key = cache_key("m", &conversation(1), &greedy);
        assert_eq!(key, cache_key("m", &conversation(1), &greedy));
        let mut others = vec![
            cache_key("n", &conversation(1), &greedy),
            cache_key("m", &conversation(2), &greedy),
            cache_key("m", &conversation(1), &SamplingParameters::greedy(65)),
        ];
        let mut changed = greedy.clone();
        changed.json_object = true;
        others.push(cache_key("m", &conversation(1), &changed));
        changed.json_object = false;
        changed.seed = Some(0);
        others.push(cache_key("m", &conversation(1), &changed));
        let mut longer = conversation(1);
        longer[0].parts.push(MessagePart::text(Block::P, " "));
        others.push(cache_key("m", &longer, &greedy));
        for (index, other) in others.iter().enumerate() {
            assert_ne!(key, *other, "change {index} left the key as it was");
        }
    }

    #[test]
    fn answers_are_read_or_refused_by_name() {
        let good = read(r#"{"model":"m-1","choices":[{"message":{"content":"4"},"finish_reason":"length"}],"usage":{"prompt_tokens":9,"completion_tokens":2}}"#).unwrap();
        assert_eq!(
            good,
            Cached {
                text: "4".into(),
                stopped: false,
                served_by: Some("m-1".into()),
                prompt_tokens: Some(9),
                completion_tokens: Some(2),
            }
        );
        let parts = r#"{"choices":[{"message":{"content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}}]}"#;
        assert_eq!(read(parts).unwrap().text, "ab");
        let refusal =
            r#"{"choices":[{"message":{"content":null,"refusal":"no"},"finish_reason":"stop"}]}"#;
        assert_eq!(read(refusal).unwrap().text, "no");

        assert!(matches!(read("<html>"), Err(Error::MalformedJson { .. })));
        assert!(matches!(read(""), Err(Error::MalformedJson { .. })));
        for body in [
            "[]",
            "null",
            r#"{"error":"busy"}"#,
            r#"{"choices":[]}"#,
            r#"{"choices":[{}]}"#,
            r#"{"choices":[{"message":{"content":null}}]}"#,
            r#"{"choices":[{"message":{"content":4}}]}"#,
            r#"{"choices":[{"message":{"content":[{"type":"image"}]}}]}"#,
        ] {
            assert!(
                matches!(read(body), Err(Error::WrongSchema { .. })),
                "{body}"
            );
        }
        let filtered =
            r#"{"choices":[{"message":{"content":""},"finish_reason":"content_filter"}]}"#;
        assert!(matches!(read(filtered), Err(Error::Filtered)));
    }
}
