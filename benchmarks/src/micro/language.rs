//! The words of the micro world, its tool texts, and the tokenizer and template files of its
//! checkpoints.
//!
//! The tokenizer is word-level: every entry of the vocabulary is one token, found by a split on
//! the longest entry first, so decoding is concatenation. It has Qwen's special tokens and loads in
//! the reference libraries.

use seeded_random::{Draw, Generator};
use serde_json::{Value, json};
use visual_tools::{Axis, Effect, Tool};

use super::figure::{LABELS, label_text};

/// Qwen2.5-VL's special tokens, in the order of their ids after the words.
pub const SPECIAL: [&str; 10] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|box_start|>",
    "<|box_end|>",
];

const WORDS: [&str; 36] = [
    "<unk>",
    "\n",
    "system\n",
    "user\n",
    "assistant\n",
    "Answer.",
    "Error.",
    "Tools: ",
    "mask",
    "draw",
    "highlight",
    ". Example: ",
    "value of ",
    "largest of ",
    "smallest of ",
    "which is largest of ",
    "which is smallest of ",
    "count above ",
    " of ",
    "row ",
    "column ",
    " at ",
    " is ",
    ", ",
    ": ",
    "true",
    "false",
    "FINAL ANSWER: ",
    ". TERMINATE",
    "```python\n",
    "\n```",
    "\", \"",
    "\"], columns_bbox)",
    "\"], rows_bbox)",
    "\"], x_values_bbox)",
    "\"], y_values_bbox)",
];

/// Every token text in the order of its id: words, labels, numbers, tool names, special tokens.
pub fn vocabulary() -> Vec<String> {
    let mut words: Vec<String> = WORDS.iter().map(|word| (*word).to_owned()).collect();
    words.extend((0..LABELS as u8).map(label_text));
    words.extend((0..100).map(|number: u8| number.to_string()));
    for tool in Tool::all() {
        words.push(format!("{tool}(image_1, [\""));
    }
    words.extend(SPECIAL.iter().map(|token| (*token).to_owned()));
    words
}

/// The id of a token text.
pub fn token_id(text: &str) -> Option<u32> {
    vocabulary()
        .iter()
        .position(|word| word == text)
        .map(|position| position as u32)
}

/// The name of an axis' boxes in code.
pub fn boxes_name(axis: Axis) -> &'static str {
    match axis {
        Axis::Columns => "columns_bbox",
        Axis::Rows => "rows_bbox",
        Axis::XValues => "x_values_bbox",
        Axis::YValues => "y_values_bbox",
    }
}

/// The completion that calls a tool.
pub fn render_call(tool: Tool, names: &[String]) -> String {
    format!(
        "```python\n{tool}(image_1, [\"{}\"], {})\n```",
        names.join("\", \""),
        boxes_name(tool.axis)
    )
}

/// The completion that answers.
pub fn render_answer(answer: &str) -> String {
    format!("FINAL ANSWER: {answer}. TERMINATE")
}

/// A worked example in the tools' text: a request and the call that serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The request's words.
    pub request: String,
    /// The tool of the example.
    pub tool: Tool,
    /// The names it focuses on.
    pub names: Vec<String>,
}

impl Example {
    /// An example with random names: about half of them name entries of `present` labels, so that
    /// copying an example runs and is wrong.
    pub fn random(present: &[String], effect: Effect, draw: &mut Generator) -> Self {
        let axes = [Axis::Columns, Axis::Rows, Axis::XValues, Axis::YValues];
        let axis = axes[draw.below(4)];
        let count = match axis {
            Axis::Columns | Axis::Rows => 1,
            Axis::XValues | Axis::YValues => 2 + draw.below(2),
        };
        let from_figure = draw.below(2) == 0 && present.len() >= count;
        let names: Vec<String> = if from_figure {
            draw.choose(present.len(), count)
                .into_iter()
                .map(|index| present[index].clone())
                .collect()
        } else {
            draw.choose(LABELS, count)
                .into_iter()
                .map(|label| label_text(label as u8))
                .collect()
        };
        let phrase = match axis {
            Axis::Columns => format!("column {}", names[0]),
            Axis::Rows => format!("row {}", names[0]),
            Axis::XValues | Axis::YValues => names.join(", "),
        };
        let verb = ["largest of ", "smallest of "][draw.below(2)];
        Example {
            request: format!("{verb}{phrase}"),
            tool: Tool { axis, effect },
            names,
        }
    }
}

/// The tools' text (block T): the listed effects, then the examples.
pub fn tools_text(effects: &[Effect], examples: &[Example]) -> String {
    let listed: Vec<&str> = effects
        .iter()
        .map(|effect| match effect {
            Effect::Mask => "mask",
            Effect::Draw => "draw",
            Effect::Highlight => "highlight",
        })
        .collect();
    let mut text = format!("Tools: {}", listed.join(", "));
    for example in examples {
        text += &format!(
            ". Example: {}: {}",
            example.request,
            render_call(example.tool, &example.names)
        );
    }
    text
}

/// The chat template of the micro checkpoints: ChatML as Qwen2.5-VL's, without its default system.
pub const CHAT_TEMPLATE: &str = "{% for message in messages %}<|im_start|>{{ message['role'] }}\n\
{% if message['content'] is string %}{{ message['content'] }}{% else %}\
{% for content in message['content'] %}\
{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}\
<|vision_start|><|image_pad|><|vision_end|>\
{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n\
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// The `tokenizer.json` of the micro checkpoints.
pub fn tokenizer_json() -> Value {
    let words = vocabulary();
    let first_special = words.len() - SPECIAL.len();
    let mut by_length: Vec<&String> = words[1..first_special].iter().collect();
    by_length.sort_by_key(|word| (usize::MAX - word.len(), (*word).clone()));
    let pattern: Vec<String> = by_length.iter().map(|word| escape(word)).collect();
    let vocab: serde_json::Map<String, Value> = words[..first_special]
        .iter()
        .enumerate()
        .map(|(id, word)| (word.clone(), json!(id)))
        .collect();
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(index, token)| {
            json!({
                "id": first_special + index,
                "content": token,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": true,
            })
        })
        .collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": pattern.join("|")},
            "behavior": "Isolated",
            "invert": false,
        },
        "post_processor": null,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    })
}

/// The remaining files of a micro checkpoint's processor, by name.
pub fn processor_files() -> Vec<(&'static str, String)> {
    let pretty = |value: Value| format!("{value:#}\n");
    vec![
        ("tokenizer.json", pretty(tokenizer_json())),
        (
            "tokenizer_config.json",
            pretty(json!({
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": "<|im_end|>",
                "pad_token": "<|endoftext|>",
                "unk_token": "<unk>",
                "clean_up_tokenization_spaces": false,
                "model_max_length": 4096,
            })),
        ),
        ("chat_template.jinja", CHAT_TEMPLATE.to_owned()),
        (
            "preprocessor_config.json",
            pretty(json!({
                "image_processor_type": "Qwen2VLImageProcessor",
                "do_convert_rgb": true,
                "do_rescale": true,
                "rescale_factor": 1.0 / 255.0,
                "do_normalize": true,
                "do_resize": true,
                "image_mean": [0.5, 0.5, 0.5],
                "image_std": [0.5, 0.5, 0.5],
                "min_pixels": 1024,
                "max_pixels": 16384,
                "patch_size": 4,
                "temporal_patch_size": 2,
                "merge_size": 2,
            })),
        ),
        (
            "generation_config.json",
            pretty(json!({
                "eos_token_id": [token_id("<|im_end|>"), token_id("<|endoftext|>")],
                "pad_token_id": token_id("<|endoftext|>"),
                "do_sample": true,
                "temperature": 1.0,
            })),
        ),
    ]
}

/// Escapes a text for the regular expressions of tokenizers.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        if "\\.+*?()|[]{}^$#&-~/".contains(character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vocabulary_has_no_duplicates() {
        let mut words = vocabulary();
        let count = words.len();
        words.sort();
        words.dedup();
        assert_eq!(words.len(), count);
    }

    #[test]
    fn a_call_renders_as_the_parser_reads_it() {
        let tool = Tool {
            axis: Axis::XValues,
            effect: Effect::Mask,
        };
        let text = render_call(tool, &["ka".into(), "lo".into()]);
        insta::assert_snapshot!(text);
        let visual_tools::Parsed::Call(call) = visual_tools::parse(&text) else {
            panic!("not a call: {text}");
        };
        assert_eq!(call.tool, tool);
        assert_eq!(call.names, ["ka", "lo"]);
    }
}
