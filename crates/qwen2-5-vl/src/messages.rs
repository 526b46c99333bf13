//! Messages as a chat template renders them, and where each text stands in the result.

use std::ops::Range;

use serde_json::{Map, Value, json};

use crate::chat_template::ChatTemplate;
use crate::processor_error::ProcessorError;

/// One turn of a chat.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What is said, in order.
    pub content: Vec<ChatPart>,
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum ChatPart {
    /// Text, taken literally.
    Text(String),
    /// The place of the next image.
    Image,
}

/// Where a token came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartIndex {
    /// Index of the message.
    pub message: usize,
    /// Index of the part in the message's content.
    pub part: usize,
}

/// The rendered text and the bytes of it that each text part occupies, in order.
///
/// Searching for a text could find it in the template's own words, so the template is rendered
/// with a marker in place of every text, and the markers are replaced.
pub(crate) fn render(
    template: &ChatTemplate,
    messages: &[ChatMessage],
    add_generation_prompt: bool,
) -> Result<Rendered, ProcessorError> {
    let texts: Vec<(PartIndex, &str)> = messages
        .iter()
        .enumerate()
        .flat_map(|(message, m)| {
            m.content.iter().enumerate().filter_map(move |(part, p)| {
                let ChatPart::Text(text) = p else { return None };
                Some((PartIndex { message, part }, text.as_str()))
            })
        })
        .collect();
    let marker = unused_marker(&texts);
    let arguments = Map::new();
    let marked = template.render(
        &to_json(messages, |at, _| {
            format!("{marker}{}.{}{marker}", at.message, at.part)
        }),
        add_generation_prompt,
        &arguments,
    )?;
    let literal = template.render(
        &to_json(messages, |_, text| text.to_owned()),
        add_generation_prompt,
        &arguments,
    )?;
    let rewritten = |at: PartIndex| ProcessorError::TemplateRewrites {
        path: template.path().to_owned(),
        message: at.message,
        part: at.part,
        role: messages[at.message].role.clone(),
    };
    for trim in [false, true] {
        let mut rendered = Rendered::default();
        let mut rest = marked.as_str();
        for &(at, text) in &texts {
            let name = format!("{marker}{}.{}{marker}", at.message, at.part);
            let (before, after) = rest.split_once(&name).ok_or_else(|| rewritten(at))?;
            rendered.text.push_str(before);
            let start = rendered.text.len();
            rendered
                .text
                .push_str(if trim { text.trim() } else { text });
            rendered.parts.push((start..rendered.text.len(), at));
            rest = after;
        }
        rendered.text.push_str(rest);
        if rendered.text == literal {
            return Ok(rendered);
        }
    }
    Err(rewritten(texts.first().map_or(
        PartIndex {
            message: 0,
            part: 0,
        },
        |&(at, _)| at,
    )))
}

/// A rendered prompt and where its text parts stand.
#[derive(Default)]
pub(crate) struct Rendered {
    /// The text.
    pub text: String,
    /// The bytes of each text part, ascending.
    pub parts: Vec<(Range<usize>, PartIndex)>,
}

impl Rendered {
    /// The first part that owns any byte of a span.
    pub fn owner(&self, span: &Range<usize>) -> Option<PartIndex> {
        let first = self.parts.partition_point(|(own, _)| own.end <= span.start);
        self.parts[first..]
            .iter()
            .take_while(|(own, _)| own.start < span.end)
            .find(|(own, _)| !own.is_empty())
            .map(|&(_, at)| at)
    }
}

/// Messages in the form that chat templates take.
fn to_json(messages: &[ChatMessage], text_of: impl Fn(PartIndex, &str) -> String) -> Value {
    let content = |message: usize, parts: &[ChatPart]| -> Vec<Value> {
        parts
            .iter()
            .enumerate()
            .map(|(part, content)| match content {
                ChatPart::Text(text) => {
                    json!({"type": "text", "text": text_of(PartIndex { message, part }, text)})
                }
                ChatPart::Image => json!({"type": "image"}),
            })
            .collect()
    };
    messages
        .iter()
        .enumerate()
        .map(|(index, m)| json!({"role": m.role, "content": content(index, &m.content)}))
        .collect()
}

/// A string that occurs in none of the texts.
fn unused_marker(texts: &[(PartIndex, &str)]) -> String {
    let mut marker = String::from("\u{e000}");
    while texts.iter().any(|(_, text)| text.contains(&marker)) {
        marker.push('\u{e001}');
    }
    marker
}
