#![doc = include_str!("../README.md")]

mod cache;
mod cached_policy;
mod client;
mod error;

mod key;
mod outage;
mod pause;
mod policy;
mod retry_after;
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
