//! A quantised chat model from a GGUF file, by candle-transformers, and what it answers as an
//! OpenAI-style endpoint.
//!
//! It is for judges and verifiers where no server is at hand: what asks an OpenAI-style endpoint asks
//! this one as any other, and its model's name holds the file's hash, so that every verdict says what
//! gave it. Replies are greedy: the same question gets the same reply.

#![cfg(feature = "gguf")]

mod chat;
mod completions;
mod error;
mod vocabulary;

pub use chat::{ChatModel, LocalReply, parameters};
pub use completions::{HttpReply, answer};
pub use error::{Error, Result};
