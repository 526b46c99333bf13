//! Features of pictures that come again: those of a question in each of its conversations, those of
//! questions that several runs ask.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Tensor};
use fused_ops::side_by_side;
use image::RgbImage;

use crate::batches::cut;
use crate::error::{Error, Result};
use crate::image_processor::{ImageProcessor, ImageSettings};
use crate::model::Model;
use crate::parts::ModelPart;
use crate::processor_error::ProcessorError;

/// What a picture's features depend on beside the picture: the weights that look at it and the settings of
/// the image processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VisionKey(blake3::Hash);

/// Features of pictures by what they depend on. Those that were asked for longest ago go when all together
/// would take more bytes than the limit.
///
/// On a processor a picture's features are the same bits whatever is encoded together with it, so that a
/// cache changes nothing; on other devices they may differ in their last bits.
#[derive(Clone, Debug)]
pub struct ImageCache {
    limit: usize,
    bytes: usize,
    features: HashMap<blake3::Hash, Kept>,
    /// Pictures by the time at which they were last asked for.
    by_use: BTreeMap<u64, blake3::Hash>,
    time: u64,
    encoded: u64,
}

#[derive(Clone, Debug)]
struct Kept {
    features: Tensor,
    used: u64,
}

impl ImageCache {
    /// A cache that holds at most so many bytes of features.
    pub fn new(limit: usize) -> Self {
        ImageCache {
            limit,
            bytes: 0,
            features: HashMap::new(),
            by_use: BTreeMap::new(),
            time: 0,
            encoded: 0,
        }
    }

    /// Forgets all features.
    pub fn clear(&mut self) {
        self.bytes = 0;
        self.features.clear();
        self.by_use.clear();
    }

    /// Pictures that went through a tower since the cache was made.
    pub fn encoded(&self) -> u64 {
        self.encoded
    }

    /// Bytes of the features that are held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn get(&mut self, key: &blake3::Hash) -> Option<Tensor> {
        let kept = self.features.get_mut(key)?;
        self.by_use.remove(&kept.used);
        self.time += 1;
        kept.used = self.time;
        self.by_use.insert(self.time, *key);
        Some(kept.features.clone())
    }

    fn insert(&mut self, key: blake3::Hash, features: Tensor) {
        self.encoded += 1;
        self.time += 1;
        self.bytes += size(&features);
        self.by_use.insert(self.time, key);
        let used = self.time;
        if let Some(before) = self.features.insert(key, Kept { features, used }) {
            self.bytes -= size(&before.features);
            self.by_use.remove(&before.used);
        }
        while self.bytes > self.limit
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            if let Some(gone) = self.features.remove(&oldest) {
                self.bytes -= size(&gone.features);
            }
        }
    }
}

fn size(features: &Tensor) -> usize {
    features.elem_count() * features.dtype().size_in_bytes()
}

/// A picture seen by what `vision` names.
fn picture_key(vision: VisionKey, picture: &RgbImage) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(vision.0.as_bytes());
    hasher.update(&picture.width().to_le_bytes());
    hasher.update(&picture.height().to_le_bytes());
    hasher.update(picture.as_raw());
    hasher.finalize()
}

impl VisionKey {
    /// For a cache that sees one tower and one processor, and is cleared when either changes.
    pub fn only() -> Self {
        VisionKey(blake3::hash(b"the only vision tower"))
    }
}

impl Model {
    /// Names the weights of the vision tower and its merger, with their adapters, and the settings of a
    /// processor. It reads all those weights once.
    ///
    /// # Errors
    /// When weights cannot be read from their device.
    pub fn vision_key(&self, settings: &ImageSettings) -> Result<VisionKey> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(
            format!("{settings:?} {:?} {:?}", self.config().vision, self.dtype()).as_bytes(),
        );
        let adapters = self.adapters();
        let weights = self.parameters().iter().chain(
            adapters
                .iter()
                .map(|(name, variable)| (name.as_str(), variable)),
        );
        for (name, weight) in weights {
            if !matches!(
                ModelPart::of(name),
                Some(ModelPart::Vision | ModelPart::Merger)
            ) {
                continue;
            }
            hasher.update(name.as_bytes());
            let values = weight
                .as_detached_tensor()
                .to_device(&Device::Cpu)?
                .to_dtype(DType::F32)?
                .flatten_all()?
                .to_vec1::<f32>()?;
            for value in values {
                hasher.update(&value.to_le_bytes());
            }
        }
        Ok(VisionKey(hasher.finalize()))
    }

    /// The features `(merged, hidden)` of each of some pictures, for inference. Of equal pictures one is
    /// processed and encoded, and none that the cache has. The others go through the tower together as
    /// long as their patches fit `patch_budget`, one with more alone; on a processor such batches run
    /// side by side.
    ///
    /// # Errors
    /// For a picture whose sides cannot be processed; features of others in other batches are kept then.
    pub fn cached_image_features(
        &self,
        cache: &mut ImageCache,
        vision: VisionKey,
        processor: &ImageProcessor,
        pictures: &[&RgbImage],
        patch_budget: usize,
    ) -> Result<Vec<Tensor>> {
        let keys: Vec<blake3::Hash> = pictures
            .iter()
            .map(|picture| picture_key(vision, picture))
            .collect();
        let mut known: HashMap<blake3::Hash, Option<Tensor>> = HashMap::new();
        let mut fresh: Vec<(blake3::Hash, &RgbImage, usize)> = Vec::new();
        for (&picture, &key) in pictures.iter().zip(&keys) {
            if known.contains_key(&key) {
                continue;
            }
            let found = cache.get(&key);
            if found.is_none() {
                let (height, width) = (picture.height() as usize, picture.width() as usize);
                let grid = processor.grid(height, width).map_err(unprocessed)?;
                fresh.push((key, picture, grid.patches()));
            }
            known.insert(key, found);
        }
        if fresh.is_empty() {
            return Ok(keys.iter().filter_map(|key| known[key].clone()).collect());
        }
        let model = self.detached()?;
        let batches = cut(&fresh, patch_budget, |&(_, _, patches)| patches);
        let encoded = side_by_side(self.device(), batches.len(), |index| {
            model.features_of(processor, batches[index])
        });
        let mut failed = None;
        for (batch, features) in batches.into_iter().zip(encoded) {
            match features {
                Ok(features) => {
                    for ((key, ..), own) in batch.iter().zip(features) {
                        cache.insert(*key, own.clone());
                        known.insert(*key, Some(own));
                    }
                }
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(keys.iter().filter_map(|key| known[key].clone()).collect()),
        }
    }

    /// The features of pictures that go through the tower together.
    fn features_of(
        &self,
        processor: &ImageProcessor,
        pictures: &[(blake3::Hash, &RgbImage, usize)],
    ) -> Result<Vec<Tensor>> {
        let pictures: Vec<&RgbImage> = pictures.iter().map(|(_, picture, _)| *picture).collect();
        let (pixels, grids) = processor.process(&pictures).map_err(unprocessed)?;
        self.encode_each(&pixels, &grids)
    }
}

fn unprocessed(error: ProcessorError) -> Error {
    Error::Images(error.to_string())
}
