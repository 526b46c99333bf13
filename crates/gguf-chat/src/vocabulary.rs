//! The vocabulary that a GGUF file holds, as a `tokenizer.json`.
//!
//! Source: llama.cpp's `gguf-py/gguf/constants.py` for the keys and kinds of tokens, and the
//! `tokenizer.json` of the models whose way of cutting words `tokenizer.ggml.pre` names.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value as Metadata;
use serde_json::{Map, Value, json};

use crate::chat::text_of;

/// The kind of tokens that are never cut and no text of a reply.
const CONTROL: i32 = 3;
/// The kind of tokens that are never cut.
const USER_DEFINED: i32 = 4;

/// How text is prepared before pairs are merged.
struct Cutting {
    /// Whether it is composed (NFC) first.
    composed: bool,
    /// Whether a word that is a token is taken whole, whatever the merges say.
    whole_words: bool,
    /// The pieces that it is cut into.
    cut: Value,
}

/// The cutting by its name in the file.
fn cutting(pre: &str) -> Option<Cutting> {
    let bytes = |own_rule: bool| {
        json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
            "use_regex": own_rule,
        })
    };
    let by_regex = |regex: &str| {
        let split = json!({
            "type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false,
        });
        json!([split, bytes(false)])
    };
    Some(match pre {
        "qwen2" => Cutting {
            composed: true,
            whole_words: false,
            cut: by_regex(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ),
        },
        "llama-bpe" => Cutting {
            composed: false,
            whole_words: true,
            cut: by_regex(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ),
        },
        "smollm" => Cutting {
            composed: false,
            whole_words: false,
            cut: json!([{"type": "Digits", "individual_digits": true}, bytes(true)]),
        },
        _ => return None,
    })
}

/// The `tokenizer.json` of a file's metadata.
///
/// # Errors
/// What was expected of the vocabulary and what was found.
pub(crate) fn tokenizer_json(metadata: &HashMap<String, Metadata>) -> Result<Value, String> {
    let kind = text_of(metadata, "tokenizer.ggml.model").unwrap_or_default();
    let pre = text_of(metadata, "tokenizer.ggml.pre").unwrap_or_default();
    let Some(cutting) = cutting(&pre).filter(|_| kind == "gpt2") else {
        return Err(format!(
            "expected a vocabulary of the kind gpt2, cut as qwen2, llama-bpe or smollm, found '{kind}', \
             cut as '{pre}'"
        ));
    };
    let list = |key: &str| {
        let values = metadata.get(key).and_then(|value| value.to_vec().ok());
        values.ok_or_else(|| format!("expected the list {key}, and there is none"))
    };
    let texts = |key: &str| -> Result<Vec<&String>, String> {
        let texts = list(key)?.iter().map(|value| value.to_string());
        let texts: candle_core::Result<_> = texts.collect();
        texts.map_err(|error| format!("{key}: {error}"))
    };
    let tokens = texts("tokenizer.ggml.tokens")?;
    let merges = texts("tokenizer.ggml.merges")?;
    let kinds = list("tokenizer.ggml.token_type").ok();
    let kind_of = |id: usize| kinds.and_then(|kinds| kinds.get(id)?.to_i32().ok());
    let added: Vec<Value> = tokens
        .iter()
        .enumerate()
        .filter_map(|(id, token)| {
            let kind = kind_of(id).filter(|kind| [CONTROL, USER_DEFINED].contains(kind))?;
            Some(json!({
                "id": id, "content": token, "special": kind == CONTROL, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false,
            }))
        })
        .collect();
    let vocabulary: Map<String, Value> = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| ((*token).clone(), json!(id)))
        .collect();
    Ok(json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": cutting.composed.then(|| json!({"type": "NFC"})),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": cutting.cut},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": cutting.whole_words, "vocab": vocabulary, "merges": merges,
        },
    }))
}
