//! A prompt with the calls that were made on it.

use qwen2_5_vl::Tokenizer;

use crate::Result;
use crate::call_content::content_tokens;
use crate::encoding::EncodedPrompt;

/// A tool call as it is attributed.
#[derive(Clone, Debug)]
pub struct AttributedCall<'a> {
    /// The completion's tokens.
    pub token_ids: &'a [u32],
    /// Which of them are content: tool and names.
    pub content: Vec<bool>,
}

impl<'a> AttributedCall<'a> {
    /// A call whose content is found by its parser.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn new(tokenizer: &Tokenizer, token_ids: &'a [u32]) -> Result<Self> {
        let content = content_tokens(tokenizer, token_ids)?;
        Ok(AttributedCall { token_ids, content })
    }
}

/// A prompt with the distinct tool calls that were made on it.
#[derive(Clone, Debug)]
pub struct CalledPrompt<'a> {
    /// The prompt of the first turn.
    pub prompt: &'a EncodedPrompt,
    /// Its distinct calls.
    pub calls: Vec<AttributedCall<'a>>,
}

impl<'a> CalledPrompt<'a> {
    /// A prompt with calls given as tokens; their content is found by the parser.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn new(
        prompt: &'a EncodedPrompt,
        calls: impl IntoIterator<Item = &'a [u32]>,
        tokenizer: &Tokenizer,
    ) -> Result<Self> {
        let calls = calls.into_iter();
        let calls = calls.map(|token_ids| AttributedCall::new(tokenizer, token_ids));
        Ok(CalledPrompt {
            prompt,
            calls: calls.collect::<Result<_>>()?,
        })
    }
}
