#![doc = include_str!("../README.md")]
//!
//! # Conventions
//!
//! The model works on *packed* tokens: flat `(tokens, hidden)` tensors whose sequences stand one
//! after the other, and a [`fused_ops::AttentionLayout`] that says who sees whom. There is no
//! padding anywhere.

mod attentions;
mod batches;
mod chat_template;
mod checkpoint;
mod config;
mod config_json;
mod device_sampling;
mod encode;
mod error;
mod files;
mod generate;
mod generation_config;
mod image_cache;
mod image_processor;
mod kept;
mod layers;
mod lora;
mod messages;
mod model;
mod parameters;
mod parts;
mod peft;
mod positions;
mod prefix;
mod processor;
mod processor_error;
mod processor_files;
mod prompt;
mod recompute;
mod resize;
mod sampling;
mod save;
mod session;
mod template_source;
mod text;
mod tokenizer;
mod turns;
mod vision;
mod weights;

pub use batches::{cut, cut_by};
pub use chat_template::ChatTemplate;
pub use config::{Config, TextConfig, VisionConfig};
pub use error::{Error, Result};
pub use image_cache::{ImageCache, VisionKey};
pub use image_processor::{ImageProcessor, ImageSettings, read_image};
pub use kept::{KeptRows, TurnPrompt, TurnSample, keep_last};
pub use lora::LoraOptions;
pub use messages::{ChatMessage, ChatPart, PartIndex};
pub use model::Model;
pub use parameters::{Parameters, shapes};
pub use parts::ModelPart;
pub use positions::{Grid, Positions};
pub use prefix::{Continuations, Prefix};
pub use processor::{Encoded, Processor};
pub use processor_error::ProcessorError;
pub use prompt::{Prompt, Sampled};
pub use resize::{Backend, MAX_ASPECT_RATIO, MAX_SIDE, resize_bicubic, smart_resize};
pub use sampling::GenerationOptions;
pub use session::{SampleId, Session, SessionPrompt, SessionSample};
pub use tokenizer::Tokenizer;
pub use turns::{PackedTurns, SampledTurn};
pub use vision::{VisionLayout, VisionTrace};
pub use weights::{has_weights, weights_hash};
