//! Conversations as prompts of a model: tokens, their blocks, and the features of their images.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent::{Block, Conversation, ConversationId, MessagePart};
use candle_core::{Device, Tensor};
use fused_ops::side_by_side;
use image::RgbImage;
use qwen2_5_vl::{ChatMessage, ChatPart, ImageCache, Model, Processor, Prompt, VisionKey};

use crate::{Error, Result};

/// A conversation as tokens, with the block of each.
#[derive(Clone, Debug)]
pub struct EncodedPrompt {
    /// The conversation that it encodes.
    pub id: ConversationId,
    /// Tokens, image features and grids.
    pub prompt: Prompt,
    /// The block of every token of the prompt.
    pub blocks: Vec<Block>,
    /// The images' patches, `(patches, values)`, where the vision tower is trained on them.
    pub pixel_values: Option<Tensor>,
}

/// Features of pictures that several policies of one experiment see, one after the other.
pub type SharedImages = Arc<Mutex<ImageCache>>;

/// The features of pictures that a policy has seen.
#[derive(Clone, Debug)]
pub struct SeenImages {
    cache: SharedImages,
    vision: VisionKey,
    /// Whether others see the same, and so forgetting is not ours to do.
    shared: bool,
}

impl SeenImages {
    /// Those of one policy, until they are forgotten.
    pub fn own() -> Self {
        SeenImages {
            cache: Arc::new(Mutex::new(ImageCache::new(usize::MAX))),
            vision: VisionKey::only(),
            shared: false,
        }
    }

    /// Those of all policies that were given `cache`, of this model's tower among them.
    ///
    /// # Errors
    /// When the tower's weights cannot be read.
    pub fn shared(cache: &SharedImages, model: &Model, processor: &Processor) -> Result<Self> {
        Ok(SeenImages {
            cache: cache.clone(),
            vision: model.vision_key(processor.image_processor().settings())?,
            shared: true,
        })
    }

    /// Forgets those that no other policy sees.
    pub fn forget(&mut self) {
        if !self.shared {
            self.cache().clear();
        }
    }

    fn cache(&self) -> MutexGuard<'_, ImageCache> {
        // Whoever panicked while holding it left whole entries.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Conversations as prompts of `model`. Pictures that were not seen yet go through the vision tower
/// together, as long as their patches fit `patch_budget`, without gradients; `keep_pixels` keeps the
/// patches of all. A conversation that cannot be encoded, for its image or for its words, is an `Err` in
/// its place.
pub fn encode(
    model: &Model,
    processor: &Processor,
    seen: &SeenImages,
    conversations: &[&Conversation],
    (patch_budget, keep_pixels): (usize, bool),
) -> Vec<Result<EncodedPrompt>> {
    let mut prompts = side_by_side(&Device::Cpu, conversations.len(), |index| {
        tokenize(processor, conversations[index], keep_pixels)
    });
    // Of those alone that have their tokens.
    let pictures: Vec<Vec<&RgbImage>> = prompts
        .iter()
        .zip(conversations)
        .map(|(prompt, conversation)| match prompt {
            Ok(_) => pictures(conversation),
            Err(_) => Vec::new(),
        })
        .collect();
    let features_of = |pictures: &[&RgbImage]| {
        let images = processor.image_processor();
        let cache = &mut seen.cache();
        model.cached_image_features(cache, seen.vision, images, pictures, patch_budget)
    };
    let mut all = features_of(&pictures.concat()).map(Vec::into_iter);
    for (prompt, pictures) in prompts.iter_mut().zip(&pictures) {
        let features = match &mut all {
            Ok(all) => Ok(all.by_ref().take(pictures.len()).collect()),
            // Whose fault it was is found out alone.
            Err(_) => features_of(pictures),
        };
        let joined = features.and_then(|features: Vec<Tensor>| {
            Ok(match &features[..] {
                [] => None,
                [one] => Some(one.clone()),
                several => Some(Tensor::cat(several, 0)?),
            })
        });
        match (prompt.as_mut(), joined) {
            (Ok(encoded), Ok(features)) => encoded.prompt.image_features = features,
            (Ok(_), Err(error)) => *prompt = Err(Error::Model(error)),
            (Err(_), _) => {}
        }
    }
    prompts
}

/// A conversation as tokens and blocks, still without image features; with its images' patches where
/// `keep_pixels` says so.
///
/// # Errors
/// Words or images that cannot be represented.
pub fn tokenize(
    processor: &Processor,
    conversation: &Conversation,
    keep_pixels: bool,
) -> Result<EncodedPrompt> {
    let (messages, pictures) = (chat_messages(conversation), pictures(conversation));
    let encoded = match keep_pixels {
        true => processor.encode(&messages, &pictures, true)?,
        false => {
            let images = processor.image_processor();
            let grids = pictures
                .iter()
                .map(|picture| images.grid(picture.height() as usize, picture.width() as usize))
                .collect::<std::result::Result<_, _>>()?;
            processor.encode_for_grids(&messages, grids, true)?
        }
    };
    let blocks = encoded
        .sources
        .iter()
        .map(|source| match source {
            None => Block::P,
            Some(index) => match &conversation[index.message].parts[index.part] {
                MessagePart::Text { block, .. } => *block,
                MessagePart::Image(_) => Block::I,
            },
        })
        .collect();
    Ok(EncodedPrompt {
        id: *conversation.id(),
        prompt: Prompt {
            input_ids: encoded.input_ids,
            image_features: None,
            grids: encoded.grids,
        },
        blocks,
        pixel_values: encoded.pixel_values,
    })
}

/// The images of a conversation in order.
fn pictures(conversation: &Conversation) -> Vec<&RgbImage> {
    let parts = conversation.iter().flat_map(|message| &message.parts);
    parts
        .filter_map(|part| match part {
            MessagePart::Image(image) => Some(image.as_ref()),
            MessagePart::Text { .. } => None,
        })
        .collect()
}

/// The agent's conversation in the processor's terms.
fn chat_messages(conversation: &Conversation) -> Vec<ChatMessage> {
    conversation
        .iter()
        .map(|message| ChatMessage {
            role: message.role.name().to_owned(),
            content: message
                .parts
                .iter()
                .map(|part| match part {
                    MessagePart::Text { text, .. } => ChatPart::Text(text.clone()),
                    MessagePart::Image(_) => ChatPart::Image,
                })
                .collect(),
        })
        .collect()
}
