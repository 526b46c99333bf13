//! A client for OpenAI-compatible chat servers (vLLM, llama.cpp, a vendor's), blocking, with a
//! bounded number of requests in flight.
//!
//! What a network does is kept apart from what a model says: a request that fails is an
//! [`Error`] in its place and becomes "not judged" above, never a wrong answer. Every completion
//! is in the [`Cache`] on disk before it is handed out, so a run that dies asks only for the rest.
//! Wire format: <https://platform.openai.com/docs/api-reference/chat>, images as PNG data URLs.

mod cache;
mod cached_policy;
mod client;
mod error;
mod gate;
mod key;
mod outage;
mod policy;
mod retry;
mod usage;
mod wire;

pub use cache::{Cache, CacheError, Cached};
pub use cached_policy::{CachedPolicy, CachedPolicyError};
pub use client::{Client, Settings};
pub use error::Error;
pub use key::ApiKey;
pub use policy::EndpointPolicy;
pub use usage::{Prices, Usage};
pub use wire::{Reply, SamplingParameters, cache_key};
