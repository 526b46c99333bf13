#![doc = include_str!("../README.md")]

mod adaptations;
mod cache;
mod cached_policy;
mod client;
mod error;
mod excerpt;
mod finish;
mod key;
mod outage;
mod pause;
mod policy;
mod refusal;
mod request;
mod response;
mod retry_after;
mod settings;
mod stream;
mod thinking;
mod transport;
mod usage;

pub use adaptations::Adaptations;
pub use cache::{Cache, CacheError, Cached};
pub use cached_policy::{CachedPolicy, CachedPolicyError};
pub use client::Client;
pub use error::Error;
pub use key::ApiKey;
pub use policy::EndpointPolicy;
pub use request::{Reply, SamplingParameters, cache_key};
pub use settings::Settings;
pub use thinking::without_thinking;
pub use usage::{Prices, Usage};
