//! A local checkpoint as the agent's policy.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use agent::{Conversation, ConversationId};
use benchmarks::data::{EPISODE_FILE, EpisodeStyle};
use qwen2_5_vl::{Model, Processor};

use crate::compute::Compute;
use crate::encoding::{EncodedPrompt, SeenImages, SharedImages, encode};
use crate::kept_turns::{KeptTurns, Reused};
use crate::{Error, Result, error};

/// How much a policy holds at once. On a processor no result depends on it, but for the rounding of second
/// turns that go on with a first or, where there is no room, are run whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budgets {
    /// Image patches that go through the vision tower together, unless one image has more.
    pub vision_patches: usize,
    /// Prompt tokens that are sampled from together, unless one prompt has more; and tokens whose keys and
    /// values are kept for a later turn.
    pub rollout_tokens: usize,
    /// Tokens of a forward pass that attributes calls, unless one prompt with its calls has more.
    pub attribution_tokens: usize,
    /// Tokens of a forward and backward pass that attributes a call, likewise; on a processor all calls
    /// of a prompt count, which go through one pass. Small models are fastest where their activations
    /// stay in the second-level cache.
    pub attribution_gradient_tokens: usize,
}

impl Default for Budgets {
    /// Those of the micro profile: tens of megabytes there, some gigabytes at three billion parameters.
    fn default() -> Self {
        Budgets {
            vision_patches: 3072,
            rollout_tokens: 16384,
            attribution_tokens: 4096,
            attribution_gradient_tokens: 512,
        }
    }
}

/// A model with its processor, sampling at given settings.
pub struct LocalPolicy {
    /// The model.
    pub model: Model,
    /// Its processor.
    pub processor: Arc<Processor>,
    /// How the model was trained to be asked.
    pub style: EpisodeStyle,
    /// Of samples, that is of requests with a seed; 0 is greedy.
    pub temperature: f64,
    /// Nucleus that is sampled from; `None`: the whole distribution. Log-probabilities are those of
    /// the whole distribution in either case.
    pub top_p: Option<f64>,
    /// Longest completion of a turn, tokens.
    pub max_new_tokens: usize,
    /// How much is held at once.
    pub budgets: Budgets,
    /// Whether encoded prompts keep their images' patches, for a vision tower that is trained.
    pub keeps_pixels: bool,
    /// What of later turns was not run again, of all so far.
    pub reused: Reused,
    /// Turns of the last call.
    pub(crate) kept: KeptTurns,
    /// Completions that were given a name.
    pub(crate) named: u64,
    images: SeenImages,
    encoded: HashMap<ConversationId, Arc<EncodedPrompt>>,
}

impl LocalPolicy {
    /// Loads a checkpoint's folder.
    pub fn load(dir: &Path, compute: &Compute, max_new_tokens: usize) -> Result<Self> {
        let processor = Processor::load(dir)?;
        let model = Model::load(dir, &compute.device, compute.dtype)?;
        let mut policy = Self::new(model, Arc::new(processor), max_new_tokens);
        policy.style = EpisodeStyle::of_checkpoint(dir).map_err(error::at(dir))?;
        Ok(policy)
    }

    /// A policy over a model; greedy until told otherwise, asked in VTool-R1's words.
    pub fn new(model: Model, processor: Arc<Processor>, max_new_tokens: usize) -> Self {
        LocalPolicy {
            model,
            processor,
            style: EpisodeStyle::default(),
            temperature: 0.0,
            top_p: None,
            max_new_tokens,
            budgets: Budgets::default(),
            keeps_pixels: false,
            reused: Reused::default(),
            kept: KeptTurns::default(),
            named: 0,
            images: SeenImages::own(),
            encoded: HashMap::new(),
        }
    }

    /// Sets limits to the area of a figure as the model sees it, in pixels, in place of the checkpoint's
    /// own.
    ///
    /// # Errors
    /// Limits that cannot be met.
    pub fn limit_pixels(&mut self, least: Option<usize>, most: Option<usize>) -> Result<()> {
        if least.is_none() && most.is_none() {
            return Ok(());
        }
        let mut settings = self.processor.image_processor().settings().clone();
        settings.min_pixels = least.unwrap_or(settings.min_pixels);
        settings.max_pixels = most.unwrap_or(settings.max_pixels);
        // A processor that is shared keeps its limits for the others.
        match Arc::get_mut(&mut self.processor) {
            Some(processor) => processor.set_image_settings(settings)?,
            None => {
                return Err(Error::Prompt(
                    "the processor is in use elsewhere: set its limits when it is loaded".into(),
                ));
            }
        }
        Ok(())
    }

    /// Looks for the features of images among those that other policies have seen, and leaves its own
    /// there. The vision tower and its limits must not change from here on.
    ///
    /// # Errors
    /// When the tower's weights cannot be read.
    pub fn share_images(&mut self, images: &SharedImages) -> Result<()> {
        self.images = SeenImages::shared(images, &self.model, &self.processor)?;
        Ok(())
    }

    /// Writes the checkpoint's folder: weights, processor, and how the model is asked.
    pub fn save(&self, dir: &Path) -> Result<()> {
        self.model.save(dir)?;
        self.processor.save(dir)?;
        let path = dir.join(EPISODE_FILE);
        Ok(results::write_atomically(
            &path,
            self.style.to_json().as_bytes(),
        )?)
    }

    /// Tokens whose keys and values are kept for the next call; those that turns share count once.
    pub fn kept_tokens(&self) -> usize {
        self.kept.rows()
    }

    /// Forgets encoded conversations and kept turns: after an update, whose weights are others, or to save
    /// memory. Features of images that are shared stay.
    pub fn forget(&mut self) {
        self.kept = KeptTurns::default();
        self.images.forget();
        self.encoded.clear();
    }

    /// Conversations as prompts. Images that were not seen yet go through the vision tower together.
    ///
    /// # Errors
    /// The first conversation that cannot be encoded.
    pub fn encode(&mut self, conversations: &[&Conversation]) -> Result<Vec<Arc<EncodedPrompt>>> {
        self.encode_each(conversations)?.into_iter().collect()
    }

    /// As [`LocalPolicy::encode`]; a conversation that cannot be encoded, for its image or for its
    /// words, is an `Err` in its place.
    pub fn encode_each(
        &mut self,
        conversations: &[&Conversation],
    ) -> Result<Vec<Result<Arc<EncodedPrompt>>>> {
        let mut fresh: Vec<&Conversation> = Vec::new();
        let mut met = HashSet::new();
        for &conversation in conversations {
            if !self.encoded.contains_key(conversation.id()) && met.insert(conversation.id()) {
                fresh.push(conversation);
            }
        }
        let how = (self.budgets.vision_patches, self.keeps_pixels);
        let encoded = encode(&self.model, &self.processor, &self.images, &fresh, how);
        let mut refused: HashMap<ConversationId, String> = HashMap::new();
        for (conversation, encoded) in fresh.iter().zip(encoded) {
            let id = *conversation.id();
            match encoded {
                Ok(prompt) => {
                    self.encoded.insert(id, Arc::new(prompt));
                }
                Err(error @ (Error::Processor(_) | Error::Model(_))) => {
                    refused.insert(id, error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(conversations
            .iter()
            .map(|conversation| match self.encoded.get(conversation.id()) {
                Some(prompt) => Ok(prompt.clone()),
                None => Err(Error::Prompt(
                    refused.get(conversation.id()).cloned().unwrap_or_default(),
                )),
            })
            .collect())
    }

    /// Conversations as another model sees them: its own vision tower looks at the images, through this
    /// policy's processor. Nothing is kept.
    ///
    /// # Errors
    /// The first conversation that cannot be encoded.
    pub fn encode_for(
        &self,
        other: &Model,
        conversations: &[&Conversation],
    ) -> Result<Vec<EncodedPrompt>> {
        let how = (self.budgets.vision_patches, false);
        let seen = SeenImages::own();
        encode(other, &self.processor, &seen, conversations, how)
            .into_iter()
            .collect()
    }
}
