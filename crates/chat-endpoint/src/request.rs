//! The JSON that goes out, and the key under which a completion is kept.

use std::io::Cursor;

use agent::{Conversation, MessagePart};
use base64::Engine;
use image::{ImageFormat, RgbImage};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::adaptations::Adaptations;
use crate::cache::Cached;
use crate::error::Error;
use crate::thinking::without_thinking;

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

    /// How to decode a request with this seed: where these sample (`temperature` above 0) its own seed
    /// replaces theirs, and a request without one is greedy.
    pub(crate) fn of_request(&self, seed: Option<u64>) -> Self {
        let mut parameters = self.clone();
        if parameters.temperature > 0.0 {
            parameters.seed = seed.map(|seed| (seed & 0x7fff_ffff) as u32);
            if seed.is_none() {
                parameters.temperature = 0.0;
            }
        }
        parameters
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

impl Reply {
    /// The completion's text without the model's thinking, which is neither call nor answer.
    pub fn answer(&self) -> &str {
        without_thinking(&self.completion.text)
    }
}

/// The key of a completion: blake3 over the model, the messages (images by the hash of their
/// pixels) and the parameters. The server's address is not part of it, so a run can go on
/// against another server of the same model.
pub fn cache_key(
    model: &str,
    conversation: &Conversation,
    parameters: &SamplingParameters,
) -> blake3::Hash {
    adapted_key(model, conversation, parameters, Adaptations::default())
}

/// The key of a completion that was asked for with `adaptations`.
pub(crate) fn adapted_key(
    model: &str,
    conversation: &Conversation,
    parameters: &SamplingParameters,
    adaptations: Adaptations,
) -> blake3::Hash {
    let messages = messages(conversation, |image| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&image.width().to_le_bytes());
        hasher.update(&image.height().to_le_bytes());
        hasher.update(image.as_raw());
        Ok::<_, std::convert::Infallible>(hasher.finalize().to_hex().to_string())
    });
    let Ok(messages) = messages;
    // The limit's name changes nothing that is sampled.
    let adaptations = Adaptations {
        max_completion_tokens: false,
        ..adaptations
    };
    let request = request(model, &messages, parameters, adaptations);
    blake3::hash(Value::Object(request).to_string().as_bytes())
}

/// A request that is ready to be sent.
pub(crate) struct Outgoing {
    /// The JSON text.
    pub body: String,
    /// The names of its fields other than the model's and the messages'.
    pub parameters: Vec<&'static str>,
}

impl Outgoing {
    pub(crate) fn new(
        model: &str,
        conversation: &Conversation,
        parameters: &SamplingParameters,
        adaptations: Adaptations,
    ) -> Result<Self, Error> {
        let messages = messages(conversation, data_url)?;
        let request = request(model, &messages, parameters, adaptations);
        let has = |name: &&str| request.contains_key(*name);
        Ok(Outgoing {
            parameters: PARAMETERS.into_iter().filter(has).collect(),
            body: Value::Object(request).to_string(),
        })
    }
}

/// Every field that a request may have beside its model and its messages.
const PARAMETERS: [&str; 6] = [
    "temperature",
    "top_p",
    LIMIT,
    LIMIT_OF_COMPLETION,
    "seed",
    "response_format",
];

const LIMIT: &str = "max_tokens";
const LIMIT_OF_COMPLETION: &str = "max_completion_tokens";

fn request(
    model: &str,
    messages: &Value,
    parameters: &SamplingParameters,
    adaptations: Adaptations,
) -> Map<String, Value> {
    let mut request = Map::new();
    request.insert("model".to_owned(), json!(model));
    request.insert("messages".to_owned(), messages.clone());
    // A struct of numbers always serialises to an object; anything else would add no field.
    if let Ok(Value::Object(parameters)) = serde_json::to_value(parameters) {
        request.extend(parameters);
    }
    if parameters.json_object {
        request.insert(
            "response_format".to_owned(),
            json!({ "type": "json_object" }),
        );
    }
    if adaptations.no_temperature {
        request.shift_remove("temperature");
    }
    if adaptations.max_completion_tokens
        && let Some(limit) = request.shift_remove(LIMIT)
    {
        request.insert(LIMIT_OF_COMPLETION.to_owned(), limit);
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
        .into()
    }

    #[test]
    fn the_body_is_what_servers_expect() {
        let mut parameters = SamplingParameters::greedy(64);
        parameters.seed = Some(7);
        parameters.json_object = true;
        let none = Adaptations::default();
        let outgoing = Outgoing::new("m", &conversation(255), &parameters, none).unwrap();
        let body: Value = serde_json::from_str(&outgoing.body).unwrap();
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
        let mut messages = conversation(1).to_vec();
        messages[0].parts.push(MessagePart::text(Block::P, " "));
        let longer = Conversation::new(messages);
        others.push(cache_key("m", &longer, &greedy));
        for (index, other) in others.iter().enumerate() {
            assert_ne!(key, *other, "change {index} left the key as it was");
        }
    }
}
