//! The checkpoint's `tokenizer.json`, with a way to encode text that cannot become structure.
//!
//! [`Tokenizer::encode`] does what transformers does: special tokens written in the text become
//! those tokens. [`Tokenizer::encode_plain`] never yields a special token, whatever the text says;
//! the processor uses it for everything that did not come from the chat template.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::Value;

use crate::files;
use crate::processor_error::ProcessorError;

/// A tokenizer loaded from a `tokenizer.json`.
pub struct Tokenizer {
    full: tokenizers::Tokenizer,
    plain: tokenizers::Tokenizer,
    special: BTreeMap<String, u32>,
}

impl Tokenizer {
    /// Parses the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// Says why the bytes are not a tokenizer.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        check_parts(&files::json(bytes)?)?;
        // The library panics on some damage that its types allow.
        let parsed = std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(bytes));
        let mut full = parsed
            .map_err(|_| "not a tokenizer: the library that reads it gave up".to_string())?
            .map_err(|e| e.to_string())?;
        // What a file says of these is what its last user did; transformers resets both.
        full.with_truncation(None).map_err(|e| e.to_string())?;
        full.with_padding(None);
        let mut plain = full.clone();
        plain.set_encode_special_tokens(true);
        let special = full
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special)
            .map(|(id, token)| (token.content, id))
            .collect();
        Ok(Self {
            full,
            plain,
            special,
        })
    }

    /// The ids of a text; special tokens written in it become those tokens.
    ///
    /// # Errors
    /// When the tokenizer's model cannot represent the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ProcessorError> {
        let encoding = self.full.encode_fast(text, false).map_err(failed)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of a text and the bytes that each came from. No id is a special token: one that is
    /// written in the text is encoded as ordinary characters.
    ///
    /// # Errors
    /// When the tokenizer's model cannot represent the text, or has a special token as its only
    /// way to write a part of one.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>, ProcessorError> {
        let tokens = self.encode_stretch(text, 0)?;
        if !tokens.iter().any(|(id, _)| self.is_special(*id)) {
            return Ok(tokens);
        }
        // A word-level vocabulary holds special tokens as words: cut each after its first
        // character, so that no word covers it.
        let mut cuts: Vec<usize> = self
            .special_spans(text, |_| true)
            .into_iter()
            .map(|(span, _)| {
                let first = text[span.start..].chars().next();
                span.start + first.map_or(1, char::len_utf8)
            })
            .collect();
        cuts.push(text.len());
        let mut tokens = Vec::new();
        let mut start = 0;
        for end in cuts {
            tokens.extend(self.encode_stretch(&text[start..end], start)?);
            start = end;
        }
        match tokens.iter().find(|(id, _)| self.is_special(*id)) {
            Some((id, span)) => Err(ProcessorError::Tokenizer(format!(
                "the text {:?} can only be encoded as the special token {id}; remove it from the \
                 message",
                &text[span.clone()]
            ))),
            None => Ok(tokens),
        }
    }

    fn encode_stretch(
        &self,
        text: &str,
        at: usize,
    ) -> Result<Vec<(u32, Range<usize>)>, ProcessorError> {
        let encoding = self.plain.encode(text, false).map_err(failed)?;
        let spans = encoding.get_offsets().iter();
        Ok(encoding
            .get_ids()
            .iter()
            .zip(spans)
            .map(|(&id, &(start, end))| (id, at + start..at + end))
            .collect())
    }

    /// The special tokens in a text at places that `wanted` accepts: from left to right, the
    /// longest first, without overlaps.
    pub(crate) fn special_spans(
        &self,
        text: &str,
        wanted: impl Fn(&Range<usize>) -> bool,
    ) -> Vec<(Range<usize>, u32)> {
        let mut spans: Vec<(Range<usize>, u32)> = self
            .special
            .iter()
            .filter(|(token, _)| !token.is_empty())
            .flat_map(|(token, &id)| {
                text.match_indices(token.as_str())
                    .map(move |(start, found)| (start..start + found.len(), id))
            })
            .filter(|(span, _)| wanted(span))
            .collect();
        spans.sort_by_key(|(span, _)| (span.start, usize::MAX - span.end));
        let mut end = 0;
        spans.retain(|(span, _)| {
            let free = span.start >= end;
            if free {
                end = span.end;
            }
            free
        });
        spans
    }

    /// The text of ids. Ids outside the vocabulary add nothing.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, ProcessorError> {
        self.full.decode(ids, skip_special_tokens).map_err(failed)
    }

    /// The id of a token, if the vocabulary has it.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.full.token_to_id(token)
    }

    /// Whether an id is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.values().any(|&special| special == id)
    }

    /// The special tokens and their ids.
    pub fn special_tokens(&self) -> &BTreeMap<String, u32> {
        &self.special
    }

    /// Whether another tokenizer has the same tokens under the same ids.
    pub fn same_vocabulary(&self, other: &Self) -> bool {
        self.full.get_vocab(true) == other.full.get_vocab(true)
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.full.get_vocab_size(true)
    }
}

/// Refuses parts that no tokenizer of a Qwen2.5-VL checkpoint has: of some of them damaged settings make
/// the library panic.
fn check_parts(file: &Value) -> Result<(), String> {
    const KNOWN: [(&str, &[&str]); 4] = [
        (
            "normalizer",
            &[
                "NFC",
                "NFD",
                "NFKC",
                "NFKD",
                "Lowercase",
                "Strip",
                "StripAccents",
            ],
        ),
        (
            "pre_tokenizer",
            &[
                "Split",
                "ByteLevel",
                "Whitespace",
                "WhitespaceSplit",
                "Digits",
                "Punctuation",
            ],
        ),
        ("post_processor", &["TemplateProcessing", "ByteLevel"]),
        ("decoder", &["ByteLevel", "Fuse"]),
    ];
    for (key, known) in KNOWN {
        let mut parts = vec![&file[key]];
        while let Some(part) = parts.pop() {
            // Sequences hold their parts under names of their own.
            let inner = ["normalizers", "pretokenizers", "processors", "decoders"]
                .iter()
                .filter_map(|list| part[list].as_array());
            parts.extend(inner.flatten());
            let kind = part["type"].as_str().unwrap_or_default();
            if !part.is_null() && kind != "Sequence" && !known.contains(&kind) {
                return Err(format!(
                    "{key} is {kind:?}, expected none or one of {}",
                    known.join(", ")
                ));
            }
        }
    }
    let model = &file["model"];
    let kind = model["type"].as_str().unwrap_or_default();
    // Files of old versions of the library leave the type of a BPE out.
    let is_bpe = kind == "BPE" || model["type"].is_null() && !model["merges"].is_null();
    if !is_bpe && kind != "WordLevel" {
        return Err(format!("model is {kind:?}, expected BPE or WordLevel"));
    }
    for key in ["continuing_subword_prefix", "end_of_word_suffix", "dropout"] {
        let value = &model[key];
        if !value.is_null() && value != "" && value.as_f64() != Some(0.0) {
            return Err(format!("model.{key} is {value}, expected none"));
        }
    }
    Ok(())
}

fn failed(error: tokenizers::Error) -> ProcessorError {
    ProcessorError::Tokenizer(error.to_string())
}
