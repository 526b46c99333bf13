//! The whole model: loading, running, freezing, saving.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use fused_ops::{AttentionLayout, TokenLogProbs};
use seeded_random::Stream;

use crate::checkpoint;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::layers::{Adapter, Source};
use crate::lora::{Lora, LoraOptions};
use crate::parameters::Parameters;
use crate::parts::ModelPart;
use crate::peft;
use crate::positions::{Grid, Positions};
use crate::save::{self, Lazy};
use crate::text::{SomeTokens, TextDecoder};
use crate::vision::VisionTower;

/// A Qwen2.5-VL model. Its parameters are variables, so it trains as well as it runs.
#[derive(Debug)]
pub struct Model {
    config: Arc<Config>,
    parameters: Parameters,
    lora: Option<Lora>,
    /// Names of parameters, adapters' too, that enter the graph detached.
    frozen: BTreeSet<String>,
    pub(crate) vision: VisionTower,
    pub(crate) text: TextDecoder,
    device: Device,
    dtype: DType,
}

/// The largest shard of a saved model, as the hub's libraries cut them.
const SHARD_BYTES: usize = 5_000_000_000;

/// Parameters as they enter the graph.
struct Leaves<'a> {
    parameters: &'a Parameters,
    lora: Option<&'a Lora>,
    frozen: &'a BTreeSet<String>,
}

impl Leaves<'_> {
    fn leaf(&self, name: &str, variable: &Var) -> Tensor {
        if self.frozen.contains(name) {
            variable.as_detached_tensor()
        } else {
            variable.as_tensor().clone()
        }
    }
}

impl Source for Leaves<'_> {
    fn tensor(&self, name: &str) -> Result<Tensor> {
        let variable = self
            .parameters
            .get(name)
            .ok_or_else(|| Error::Argument(format!("the model has no parameter {name}")))?;
        Ok(self.leaf(name, variable))
    }

    fn adapter(&self, name: &str) -> Result<Option<Adapter>> {
        let frozen = self.frozen.contains(&format!("{name}.lora_A.weight"));
        Ok(self.lora.and_then(|lora| {
            lora.adapter(name, |variable| {
                if frozen {
                    variable.as_detached_tensor()
                } else {
                    variable.as_tensor().clone()
                }
            })
        }))
    }
}

impl Model {
    /// Reads a checkpoint folder in the hub's layout: both styles of `config.json`, one weight file
    /// or shards, both naming schemes. Weights become `dtype` on `device`. Peak memory is that of the
    /// model and one tensor.
    ///
    /// A folder with an adapter in PEFT's layout is loaded with its base
    /// ([`Model::load_adapter`]) where `base_model_name_or_path` is a folder: as it stands, or relative
    /// to the adapter's folder or its parent.
    ///
    /// # Errors
    /// Names the file, what was expected and found, and what to do: for damaged, incomplete, quantised
    /// or wrapped weights, Git LFS pointers, numbers that are not finite (by tensor), impossible
    /// configurations (by key), and adapters whose base is not on this machine.
    pub fn load(dir: &Path, device: &Device, dtype: DType) -> Result<Self> {
        match peft::base_of(dir)? {
            Some(base) => Self::load_adapter(&base, dir, device, dtype),
            None => Self::load_whole(dir, device, dtype),
        }
    }

    /// Reads the checkpoint in `base` and puts the adapter in `adapter`, a folder in PEFT's layout
    /// (`adapter_config.json`, `adapter_model.safetensors`), on it. The base is frozen and the
    /// adapters train, as after [`Model::add_lora`].
    ///
    /// # Errors
    /// As [`Model::load`]; and for adapters of another kind than LoRA, or of another base.
    pub fn load_adapter(
        base: &Path,
        adapter: &Path,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let mut model = Self::load_whole(base, device, dtype)?;
        let lora = peft::load(adapter, &model.parameters, device, dtype)?;
        model.adapt(lora)?;
        Ok(model)
    }

    fn load_whole(dir: &Path, device: &Device, dtype: DType) -> Result<Self> {
        let config = Config::load(&dir.join("config.json"))?;
        let parameters = checkpoint::load(dir, &config, device, dtype)?;
        Self::new(Arc::new(config), parameters, None, BTreeSet::new())
    }

    /// A model with random f32 weights: normal of standard deviation `initializer_range`, biases 0,
    /// norms 1. The same stream gives the same model everywhere.
    pub fn random(config: Config, stream: Stream, device: &Device) -> Result<Self> {
        config.validate()?;
        config.check_affordable()?;
        let parameters = Parameters::random(&config, stream, device)?;
        Self::new(Arc::new(config), parameters, None, BTreeSet::new())
    }

    fn new(
        config: Arc<Config>,
        parameters: Parameters,
        lora: Option<Lora>,
        frozen: BTreeSet<String>,
    ) -> Result<Self> {
        let leaves = Leaves {
            parameters: &parameters,
            lora: lora.as_ref(),
            frozen: &frozen,
        };
        let vision = VisionTower::new(&config.vision, &leaves)?;
        let text = TextDecoder::new(&config.text, config.tie_word_embeddings, &leaves)?;
        let (device, dtype) = (text.embedding.device().clone(), text.embedding.dtype());
        Ok(Model {
            config,
            parameters,
            lora,
            frozen,
            vision,
            text,
            device,
            dtype,
        })
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The model's own parameters, frozen or not, without adapters.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Where the parameters are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The parameters' type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Freezes parts: their parameters enter the graph detached and cost no gradient.
    ///
    /// Fails when the model has no such part.
    pub fn freeze(&mut self, parts: &[ModelPart]) -> Result<()> {
        for part in parts {
            let names = self.names_of(*part)?;
            self.frozen.extend(names);
        }
        self.rebuild()
    }

    /// Undoes [`Model::freeze`] for parts.
    ///
    /// Fails when the model has no such part.
    pub fn unfreeze(&mut self, parts: &[ModelPart]) -> Result<()> {
        for part in parts {
            for name in self.names_of(*part)? {
                self.frozen.remove(&name);
            }
        }
        self.rebuild()
    }

    fn names_of(&self, part: ModelPart) -> Result<Vec<String>> {
        let names: Vec<String> = self
            .parameters
            .iter()
            .filter(|(name, _)| ModelPart::of(name) == Some(part))
            .map(|(name, _)| name.to_string())
            .collect();
        if names.is_empty() {
            return Err(Error::Argument(format!("the model has no part {part}")));
        }
        Ok(names)
    }

    fn rebuild(&mut self) -> Result<()> {
        *self = Self::new(
            self.config.clone(),
            self.parameters.clone(),
            self.lora.clone(),
            std::mem::take(&mut self.frozen),
        )?;
        Ok(())
    }

    /// Freezes the whole model and puts fresh trainable adapters on the named projections.
    ///
    /// Fails when a target names no projection, or when the model has adapters already.
    pub fn add_lora(&mut self, options: &LoraOptions, stream: Stream) -> Result<()> {
        if self.lora.is_some() {
            return Err(Error::Argument(
                "the model has adapters already; merge them first with `copy`".to_string(),
            ));
        }
        let lora = Lora::new(options, &self.parameters, stream, &self.device, self.dtype)?;
        self.adapt(lora)
    }

    /// Freezes the model and puts adapters on it.
    fn adapt(&mut self, lora: Lora) -> Result<()> {
        self.frozen = self
            .parameters
            .iter()
            .map(|(name, _)| name.to_string())
            .collect();
        self.lora = Some(lora);
        self.rebuild()
    }

    /// The parameters that train, adapters included, in the order of their names.
    pub fn trainable(&self) -> Vec<(String, Var)> {
        let mut trainable: Vec<(String, Var)> = self
            .all_parameters()
            .filter(|(name, _)| !self.frozen.contains(*name))
            .map(|(name, variable)| (name.to_string(), variable.clone()))
            .collect();
        trainable.sort_by(|a, b| a.0.cmp(&b.0));
        trainable
    }

    /// The adapters' parameters, frozen or not, in the order of their names: what a state of training
    /// or a checkpoint has to hold where nothing else trains. Empty without adapters.
    pub fn adapters(&self) -> Vec<(String, Var)> {
        let adapters = self.lora.iter().flat_map(|lora| lora.parameters.iter());
        adapters
            .map(|(name, variable)| (name.to_string(), variable.clone()))
            .collect()
    }

    /// The model without its adapters, all frozen: the reference policy of a model that trains nothing
    /// but adapters, at no cost in memory, since it shares the parameters. Updates of the adapters do
    /// not show in it.
    ///
    /// # Errors
    /// When one of the model's own parameters trains (or when there is no adapter and nothing is
    /// frozen): it would move with the policy. [`Model::copy`] is the reference then.
    pub fn reference(&self) -> Result<Self> {
        let own = self.parameters.iter().map(|(name, _)| name.to_string());
        let own: BTreeSet<String> = own.collect();
        if let Some(trained) = own.difference(&self.frozen).next() {
            return Err(Error::Argument(format!(
                "{trained} trains, so the model without its adapters would move with it: use a copy as \
                 the reference, or freeze all but the adapters"
            )));
        }
        Self::new(self.config.clone(), self.parameters.clone(), None, own)
    }

    fn all_parameters(&self) -> impl Iterator<Item = (&str, &Var)> {
        let adapters = self.lora.iter().flat_map(|lora| lora.parameters.iter());
        self.parameters.iter().chain(adapters)
    }

    /// The same parameters, all frozen: runs without building a graph, or with one of activations
    /// only when its input tracks gradients. Updates of this model show in it.
    pub fn detached(&self) -> Result<Self> {
        Self::new(
            self.config.clone(),
            self.parameters.clone(),
            self.lora.clone(),
            self.all_parameters()
                .map(|(name, _)| name.to_string())
                .collect(),
        )
    }

    /// A model of its own with equal parameters in `dtype`, adapters merged, nothing frozen: what
    /// happens to one does not show in the other.
    pub fn copy(&self, dtype: DType) -> Result<Self> {
        let parameters = self.copied(dtype, &self.device)?;
        Self::new(self.config.clone(), parameters, None, BTreeSet::new())
    }

    /// The model on a device, all frozen: with these parameters where they are there already, else with
    /// a copy of them, adapters merged, which later updates do not show in.
    pub fn on(&self, device: &Device) -> Result<Self> {
        if self.device.same_device(device) {
            return self.detached();
        }
        let parameters = self.copied(self.dtype, device)?;
        Self::new(self.config.clone(), parameters, None, BTreeSet::new())?.detached()
    }

    /// Its parameters in another place, adapters merged.
    fn copied(&self, dtype: DType, device: &Device) -> Result<Parameters> {
        let mut parameters = Parameters::default();
        for (name, variable) in self.parameters.iter() {
            let merged = self.merged_weight(name, variable)?.to_dtype(dtype)?;
            parameters.insert(name.to_string(), &merged.to_device(device)?)?;
        }
        Ok(parameters)
    }

    /// Writes `config.json` and the weights in the hub's layout, adapters merged, in shards of at most
    /// 5 GB (the hub's own size): [`Model::save_sharded`].
    pub fn save(&self, dir: &Path) -> Result<()> {
        self.save_sharded(dir, SHARD_BYTES)
    }

    /// Writes `config.json` and the weights in the hub's layout, adapters merged. Weights of more than
    /// `shard_bytes` become shards of at most that, a larger tensor one of its own, with
    /// `model.safetensors.index.json`. One tensor is in memory at a time. A reader finds the old files,
    /// none or the whole new ones; files of an earlier save that no longer belong are removed.
    ///
    /// # Errors
    /// Names the file that could not be written and the system's reason.
    pub fn save_sharded(&self, dir: &Path, shard_bytes: usize) -> Result<()> {
        let tensors: Vec<Lazy> = self
            .parameters
            .iter()
            .map(|(name, variable)| Lazy {
                name: name.to_string(),
                shape: variable.dims().to_vec(),
                dtype: variable.dtype(),
                make: Box::new(move || self.merged_weight(name, variable)),
            })
            .collect();
        save::save(dir, &self.config, self.dtype, &tensors, shard_bytes)
    }

    /// Writes the adapters alone in PEFT's layout, `adapter_model.safetensors` and
    /// `adapter_config.json`, which names `base` as the model that they belong to: a folder, or a name
    /// on the hub.
    ///
    /// # Errors
    /// When the model has no adapters, or a file cannot be written.
    pub fn save_adapter(&self, dir: &Path, base: &str) -> Result<()> {
        match &self.lora {
            Some(lora) => peft::save(dir, lora, base),
            None => Err(Error::Argument(
                "the model has no adapters to save; save it whole, or add them first".to_string(),
            )),
        }
    }

    fn merged_weight(&self, name: &str, variable: &Var) -> Result<Tensor> {
        let weight = variable.as_detached_tensor();
        match &self.lora {
            Some(lora) => lora.merged(name, &weight),
            None => Ok(weight),
        }
    }

    /// The number of image tokens among token ids, one for each of the image features
    /// `(merged, hidden)`.
    ///
    /// Fails when their counts differ, naming both.
    pub fn image_tokens(
        &self,
        input_ids: &[u32],
        image_features: Option<&Tensor>,
    ) -> Result<usize> {
        let image = self.config.image_token_id;
        let slots = input_ids.iter().filter(|&&id| id == image).count();
        let features = image_features.map_or(Ok(0), |features| features.dim(0))?;
        if slots != features {
            return Err(Error::Images(format!(
                "the input has {slots} image tokens, but there are {features} image features"
            )));
        }
        Ok(slots)
    }

    /// Where the first RMS norm of the decoder begins to let an input appear: the factor `√eps / rms(e)`
    /// at which its mean square is that norm's epsilon, for the token embedding of median size. Rules of
    /// integration from a zero baseline are spaced by it.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn norm_knee(&self) -> Result<f64> {
        let squares = self.text.embedding.to_dtype(DType::F32)?.sqr()?;
        let mut squares: Vec<f32> = squares.mean(candle_core::D::Minus1)?.to_vec1()?;
        squares.sort_by(f32::total_cmp);
        // A checked configuration has a vocabulary.
        let median = f64::from(squares[squares.len() / 2]);
        Ok((self.config.text.rms_norm_eps / median).sqrt())
    }

    /// The input embeddings `(tokens, hidden)` of token ids, with image features `(merged, hidden)`
    /// in the places of the image tokens, in order.
    ///
    /// Fails when their counts differ, or when an id is outside the vocabulary.
    pub fn embed(&self, input_ids: &[u32], image_features: Option<&Tensor>) -> Result<Tensor> {
        let vocab = self.config.text.vocab_size;
        if let Some((token, id)) = input_ids
            .iter()
            .enumerate()
            .find(|(_, id)| **id as usize >= vocab)
        {
            return Err(Error::Argument(format!(
                "token {token} has id {id}, the model's vocabulary has {vocab} entries: does the \
                 tokenizer belong to this checkpoint?"
            )));
        }
        let slots = self.image_tokens(input_ids, image_features)?;
        let image = self.config.image_token_id;
        let Some(features) = image_features.filter(|_| slots > 0) else {
            return Ok(fused_ops::embedding(&self.text.embedding, input_ids)?);
        };
        let text: Vec<u32> = input_ids
            .iter()
            .copied()
            .filter(|&id| id != image)
            .collect();
        let features = features.to_dtype(self.dtype)?;
        let rows = if text.is_empty() {
            features
        } else {
            let words = fused_ops::embedding(&self.text.embedding, &text)?;
            Tensor::cat(&[&words, &features], 0)?
        };
        let (mut word, mut feature) = (0, text.len() as u32);
        let order: Vec<u32> = input_ids
            .iter()
            .map(|&id| {
                let next = if id == image { &mut feature } else { &mut word };
                *next += 1;
                *next - 1
            })
            .collect();
        Ok(fused_ops::embedding(&rows, &order)?)
    }

    /// The rotary positions of one sequence whose image tokens stand for images of these grids.
    ///
    /// Fails when image tokens and grids do not agree, naming both counts.
    pub fn positions(&self, input_ids: &[u32], grids: &[Grid]) -> Result<Positions> {
        Positions::of_sequence(&self.config, input_ids, grids)
    }

    /// Runs the decoder: input embeddings `(tokens, hidden)` to hidden states `(tokens, hidden)`
    /// after the final norm. `layout` has one query and one key for every token.
    pub fn hidden(
        &self,
        embeddings: &Tensor,
        positions: &Positions,
        layout: &AttentionLayout,
    ) -> Result<Tensor> {
        self.check_tokens(embeddings, positions)?;
        let rotary = self.text.rotary(positions, self.dtype, &self.device)?;
        let mut x = embeddings.clone();
        for layer in &self.text.layers {
            x = layer.forward(&x, &rotary, layout)?;
        }
        self.text.final_norm(&x)
    }

    /// [`Model::hidden`] of some tokens alone, `(some, hidden)`, which must ascend. The last layer is
    /// run for them only: of the others it needs keys and values, and nothing reads more. Values and
    /// gradients are those of [`Model::hidden`] and a selection, up to the order of sums.
    pub fn hidden_of(
        &self,
        tokens: &[usize],
        embeddings: &Tensor,
        positions: &Positions,
        layout: &AttentionLayout,
    ) -> Result<Tensor> {
        self.check_tokens(embeddings, positions)?;
        let rotary = self.text.rotary(positions, self.dtype, &self.device)?;
        let (last, others) = self.text.split_last()?;
        let some = self.some_tokens(tokens, positions, layout)?;
        let mut x = embeddings.clone();
        for layer in others {
            x = layer.forward(&x, &rotary, layout)?;
        }
        self.text
            .final_norm(&last.forward_some(&x, &rotary, &some)?)
    }

    pub(crate) fn some_tokens(
        &self,
        tokens: &[usize],
        positions: &Positions,
        layout: &AttentionLayout,
    ) -> Result<SomeTokens> {
        let (dtype, device) = (self.dtype, &self.device);
        SomeTokens::new(&self.text, tokens, positions, layout, dtype, device)
    }

    /// The residual stream before the first layer and after each, `(tokens, hidden)` each, before
    /// the final norm.
    pub fn residuals(
        &self,
        embeddings: &Tensor,
        positions: &Positions,
        layout: &AttentionLayout,
    ) -> Result<Vec<Tensor>> {
        self.check_tokens(embeddings, positions)?;
        let rotary = self.text.rotary(positions, self.dtype, &self.device)?;
        let mut residuals = vec![embeddings.clone()];
        for layer in &self.text.layers {
            let next = layer.forward(&residuals[residuals.len() - 1], &rotary, layout)?;
            residuals.push(next);
        }
        Ok(residuals)
    }

    /// The last of [`Model::residuals`] as [`Model::hidden`] gives it: after the final norm.
    pub fn final_norm(&self, residual: &Tensor) -> Result<Tensor> {
        self.text.final_norm(residual)
    }

    pub(crate) fn check_tokens(&self, embeddings: &Tensor, positions: &Positions) -> Result<()> {
        let hidden = self.config.text.hidden_size;
        if embeddings.dims() != [positions.len(), hidden] {
            return Err(Error::Argument(format!(
                "embeddings have shape {:?}, {} positions need ({}, {hidden})",
                embeddings.dims(),
                positions.len(),
                positions.len()
            )));
        }
        Ok(())
    }

    /// Scores over the vocabulary `(tokens, vocab)` of hidden states `(tokens, hidden)`, at least f32.
    /// Vision tokens are not masked here.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.text.logits(hidden)
    }

    /// The log-probability of each target after its hidden state `(tokens, hidden)`, at a
    /// temperature, in the distribution that generation samples from: vision tokens have none of it.
    pub fn token_log_probs(
        &self,
        hidden: &Tensor,
        targets: &[u32],
        temperature: f64,
    ) -> Result<TokenLogProbs> {
        let banned = self.config.vision_token_ids();
        Ok(fused_ops::token_log_probs(
            hidden,
            &self.text.head,
            targets,
            temperature,
            &banned,
        )?)
    }
}
