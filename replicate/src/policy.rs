//! A local checkpoint as the agent's policy.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use agent::{Block, Completion, CompletionRequest, Conversation, MessagePart, Policy};
use candle_core::Tensor;
use fused_ops::side_by_side;
use qwen2_5_vl::{ChatMessage, ChatPart, GenerationOptions, Grid, Model, Processor, Prompt};

use crate::compute::Compute;
use crate::{Error, Result};

/// A conversation as tokens, with the block of each.
#[derive(Clone, Debug)]
pub struct EncodedPrompt {
    /// Tokens, image features and grids.
    pub prompt: Prompt,
    /// The block of every token of the prompt.
    pub blocks: Vec<Block>,
}

/// Identifies a conversation by its content.
pub type ConversationKey = [u8; 32];

/// A model with its processor, sampling at given settings.
pub struct LocalPolicy {
    /// The model.
    pub model: Model,
    /// Its processor.
    pub processor: Arc<Processor>,
    /// 0 is greedy.
    pub temperature: f64,
    /// Longest completion of a turn, tokens.
    pub max_new_tokens: usize,
    encoded: HashMap<ConversationKey, Arc<EncodedPrompt>>,
}

impl LocalPolicy {
    /// Loads a checkpoint's folder.
    pub fn load(dir: &Path, compute: &Compute, max_new_tokens: usize) -> Result<Self> {
        let processor = Processor::load(dir)?;
        let model = Model::load(dir, &compute.device, compute.dtype)?;
        Ok(Self::new(model, Arc::new(processor), max_new_tokens))
    }

    /// A policy over a model; greedy until told otherwise.
    pub fn new(model: Model, processor: Arc<Processor>, max_new_tokens: usize) -> Self {
        LocalPolicy {
            model,
            processor,
            temperature: 0.0,
            max_new_tokens,
            encoded: HashMap::new(),
        }
    }

    /// Forgets encoded conversations: after an update of the vision tower, or to save memory.
    pub fn forget(&mut self) {
        self.encoded.clear();
    }

    /// Conversations as prompts. Images of conversations that were not seen yet go through the
    /// vision tower together.
    ///
    /// # Errors
    /// That of the first conversation that cannot become a prompt; what the model says.
    pub fn encode(&mut self, conversations: &[&Conversation]) -> Result<Vec<Arc<EncodedPrompt>>> {
        self.encode_each(conversations)?.into_iter().collect()
    }

    /// As [`LocalPolicy::encode`]; a conversation that cannot become a prompt (an image that the
    /// processor refuses) is an `Err` in its place and costs no other.
    ///
    /// # Errors
    /// What the model says.
    pub fn encode_each(
        &mut self,
        conversations: &[&Conversation],
    ) -> Result<Vec<Result<Arc<EncodedPrompt>>>> {
        let keys: Vec<ConversationKey> = conversations
            .iter()
            .map(|conversation| conversation_key(conversation))
            .collect();
        let mut fresh = Vec::new();
        for (key, conversation) in keys.iter().zip(conversations) {
            if !self.encoded.contains_key(key) && !fresh.iter().any(|(known, _)| known == key) {
                fresh.push((*key, *conversation));
            }
        }
        // Bounded batches keep the vision tower's memory bounded.
        let device = self.model.device();
        let size = if device.is_cpu() { 16 } else { 64 };
        let batches: Vec<_> = fresh.chunks(size).collect();
        let encoded = side_by_side(device, batches.len(), |index| {
            let batch: Vec<_> = batches[index].iter().map(|(_, own)| *own).collect();
            encode_possible(&self.model, &self.processor, &batch)
        });
        let mut refused: HashMap<ConversationKey, Arc<Error>> = HashMap::new();
        for (batch, encoded) in batches.into_iter().zip(encoded) {
            for ((key, _), encoded) in batch.iter().zip(encoded?) {
                match encoded {
                    Ok(prompt) => {
                        self.encoded.insert(*key, Arc::new(prompt));
                    }
                    Err(error) => {
                        refused.insert(*key, Arc::new(error));
                    }
                }
            }
        }
        Ok(keys
            .iter()
            .map(|key| match refused.get(key) {
                Some(error) => Err(Error::Shared(Arc::clone(error))),
                None => Ok(Arc::clone(&self.encoded[key])),
            })
            .collect())
    }
}

impl Policy for LocalPolicy {
    type Error = Error;

    fn complete(&mut self, requests: &[CompletionRequest<'_>]) -> Result<Vec<Result<Completion>>> {
        let conversations: Vec<&Conversation> = requests
            .iter()
            .map(|request| request.conversation)
            .collect();
        let mut completions: Vec<Option<Result<Completion>>> = Vec::new();
        let mut encoded = Vec::new();
        for (index, prompt) in self.encode_each(&conversations)?.into_iter().enumerate() {
            match prompt {
                Ok(prompt) => {
                    encoded.push((index, prompt));
                    completions.push(None);
                }
                Err(error) => completions.push(Some(Err(error))),
            }
        }
        // Requests with the same prompt share its prefill.
        let mut groups: Vec<(Arc<EncodedPrompt>, Vec<usize>)> = Vec::new();
        let mut group_of: HashMap<*const EncodedPrompt, usize> = HashMap::new();
        for (index, prompt) in encoded {
            let group = *group_of.entry(Arc::as_ptr(&prompt)).or_insert_with(|| {
                groups.push((prompt.clone(), Vec::new()));
                groups.len() - 1
            });
            groups[group].1.push(index);
        }
        let options = GenerationOptions {
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            top_p: None,
            repetition_penalty: None,
            stop_ids: self.processor.stop_ids().to_vec(),
        };
        for batch in groups.chunks(128) {
            let prompts: Vec<Prompt> = batch.iter().map(|(e, _)| e.prompt.clone()).collect();
            let seeds: Vec<Vec<u64>> = batch
                .iter()
                .map(|(_, members)| members.iter().map(|&index| requests[index].seed).collect())
                .collect();
            let sampled = self.model.generate(&prompts, &seeds, &options)?;
            for ((encoded, members), samples) in batch.iter().zip(sampled) {
                for (&index, sample) in members.iter().zip(samples) {
                    let text = self.processor.decode(&sample.token_ids, true)?;
                    completions[index] = Some(Ok(Completion {
                        text,
                        prompt_ids: encoded.prompt.input_ids.clone(),
                        token_ids: sample.token_ids,
                        log_probs: sample.log_probs,
                        stopped: sample.stopped,
                    }));
                }
            }
        }
        Ok(completions
            .into_iter()
            .map(|completion| {
                completion.expect("every request is in exactly one group, or refused")
            })
            .collect())
    }
}

/// A conversation as tokens and blocks, still without image features, with the pixel values of its
/// images and their grids.
pub fn tokenize(
    processor: &Processor,
    conversation: &Conversation,
) -> Result<(EncodedPrompt, Option<Tensor>, Vec<Grid>)> {
    let (messages, images) = chat_messages(conversation);
    let encoded = processor.encode(&messages, &images, true)?;
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
    let prompt = Prompt {
        input_ids: encoded.input_ids,
        image_features: None,
        grids: encoded.grids.clone(),
    };
    let tokenized = EncodedPrompt { prompt, blocks };
    Ok((tokenized, encoded.pixel_values, encoded.grids))
}

/// Conversations as prompts; their images go through the vision tower together, without gradients.
///
/// # Errors
/// That of the first conversation that cannot become a prompt; what the model says.
pub fn encode_batch(
    model: &Model,
    processor: &Processor,
    conversations: &[&Conversation],
) -> Result<Vec<EncodedPrompt>> {
    encode_possible(model, processor, conversations)?
        .into_iter()
        .collect()
}

/// As [`encode_batch`]; a conversation that the processor refuses is an `Err` in its place.
fn encode_possible(
    model: &Model,
    processor: &Processor,
    conversations: &[&Conversation],
) -> Result<Vec<Result<EncodedPrompt>>> {
    let mut prompts = Vec::with_capacity(conversations.len());
    let (mut pixels, mut grids) = (Vec::new(), Vec::new());
    for conversation in conversations {
        prompts.push(match tokenize(processor, conversation) {
            Ok((encoded, values, own)) => {
                if let Some(values) = values {
                    pixels.push(values.to_device(model.device())?);
                }
                grids.extend_from_slice(&own);
                Ok(encoded)
            }
            Err(error) => Err(error),
        });
    }
    if pixels.is_empty() {
        return Ok(prompts);
    }
    let features = model
        .encode_images(&Tensor::cat(&pixels, 0)?, &grids)?
        .detach();
    let merge = model.config().vision.spatial_merge_size;
    let mut offset = 0;
    for encoded in prompts.iter_mut().flatten() {
        let own = encoded.prompt.grids.iter().map(|grid| grid.tokens(merge));
        let tokens: usize = own.sum();
        if tokens > 0 {
            encoded.prompt.image_features = Some(features.narrow(0, offset, tokens)?);
        }
        offset += tokens;
    }
    Ok(prompts)
}

/// The agent's conversation in the processor's terms, and its images in order.
fn chat_messages(conversation: &Conversation) -> (Vec<ChatMessage>, Vec<&image::RgbImage>) {
    let mut images = Vec::new();
    let messages = conversation
        .iter()
        .map(|message| ChatMessage {
            role: message.role.name().to_owned(),
            content: message
                .parts
                .iter()
                .map(|part| match part {
                    MessagePart::Text { text, .. } => ChatPart::Text(text.clone()),
                    MessagePart::Image(image) => {
                        images.push(image.as_ref());
                        ChatPart::Image
                    }
                })
                .collect(),
        })
        .collect();
    (messages, images)
}

/// A hash of everything a prompt is made from.
pub fn conversation_key(conversation: &Conversation) -> ConversationKey {
    let mut hasher = blake3::Hasher::new();
    for message in conversation {
        hasher.update(message.role.name().as_bytes());
        for part in &message.parts {
            match part {
                MessagePart::Text { text, block } => {
                    hasher.update(&[1, *block as u8]);
                    hasher.update(&(text.len() as u64).to_le_bytes());
                    hasher.update(text.as_bytes());
                }
                MessagePart::Image(image) => {
                    hasher.update(&[2]);
                    hasher.update(&image.width().to_le_bytes());
                    hasher.update(&image.height().to_le_bytes());
                    hasher.update(image.as_raw());
                }
            }
        }
    }
    *hasher.finalize().as_bytes()
}
