//! What stands where in a parity folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use candle_core::{DType, Device, Tensor};
use qwen2_5_vl::{ChatMessage, ChatPart, Grid, Model, Processor};
use serde_json::Value;

use super::checks::to_i64;
use super::tolerances::Tolerances;

/// What the images are called and how they were processed.
pub const IMAGE_INDEX: &str = "images/preprocess.json";

/// A parity folder.
pub struct Folder {
    dir: PathBuf,
    /// Where models run.
    pub device: Device,
}

/// The tensors of one safetensors file.
pub struct Tensors {
    /// The file, relative to the folder, with forward slashes.
    pub file: String,
    tensors: BTreeMap<String, Tensor>,
}

impl Tensors {
    /// The tensor of a key, if the file has it.
    pub fn find(&self, key: &str) -> Option<&Tensor> {
        self.tensors.get(key)
    }

    /// The tensor of a key.
    pub fn get(&self, key: &str) -> Result<&Tensor> {
        self.find(key)
            .ok_or_else(|| anyhow!("{} has no tensor {key}", self.file))
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// What follows `prefix` in the keys that begin with it, and their tensors.
    pub fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Tensor)> {
        self.tensors
            .iter()
            .filter_map(move |(key, tensor)| Some((key.strip_prefix(prefix)?, tensor)))
    }

    /// The integers of a key as token ids.
    pub fn ids(&self, key: &str) -> Result<Vec<u32>> {
        to_i64(self.get(key)?)?
            .into_iter()
            .map(|id| {
                u32::try_from(id).with_context(|| format!("{key} of {} holds {id}", self.file))
            })
            .collect()
    }

    /// The grids of `in.image_grid_thw`; none where the file has no such key.
    pub fn grids(&self) -> Result<Vec<Grid>> {
        self.find("in.image_grid_thw")
            .map_or(Ok(Vec::new()), grids_of)
    }
}

/// The rows of an `image_grid_thw` tensor.
pub fn grids_of(tensor: &Tensor) -> Result<Vec<Grid>> {
    let flat = to_i64(tensor)?;
    flat.chunks_exact(3)
        .map(|row| {
            Ok(Grid {
                t: usize::try_from(row[0])?,
                h: usize::try_from(row[1])?,
                w: usize::try_from(row[2])?,
            })
        })
        .collect()
}

impl Folder {
    /// A folder that has a `tolerances.json`; models and their inputs are put on `device`.
    pub fn open(dir: &Path, device: &Device) -> Result<Self> {
        let folder = Self {
            dir: dir.to_owned(),
            device: device.clone(),
        };
        ensure!(
            folder.path("tolerances.json").is_file(),
            "{} is not a parity folder: it has no tolerances.json",
            dir.display()
        );
        Ok(folder)
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.join(relative)
    }

    pub fn exists(&self, relative: &str) -> bool {
        self.path(relative).exists()
    }

    pub fn tolerances(&self) -> Result<Tolerances> {
        Tolerances::read(&self.path("tolerances.json"))
    }

    /// A JSON file.
    pub fn json(&self, relative: &str) -> Result<Value> {
        let path = self.path(relative);
        let bytes =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&bytes).with_context(|| format!("{} is not JSON", path.display()))
    }

    /// A JSON file that need not be there.
    pub fn json_if_any(&self, relative: &str) -> Result<Option<Value>> {
        self.exists(relative)
            .then(|| self.json(relative))
            .transpose()
    }

    /// The tensors of a safetensors file.
    pub fn tensors(&self, relative: &str) -> Result<Tensors> {
        let path = self.path(relative);
        let tensors = candle_core::safetensors::load(&path, &Device::Cpu)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Tensors {
            file: relative.to_owned(),
            tensors: tensors.into_iter().collect(),
        })
    }

    /// The names in a sub-folder that end in `suffix`, without it, in order; none where there is no
    /// such folder.
    pub fn names(&self, relative: &str, suffix: &str) -> Result<Vec<String>> {
        let path = self.path(relative);
        if !path.is_dir() {
            return Ok(Vec::new());
        }
        let mut names = Vec::new();
        for entry in
            std::fs::read_dir(&path).with_context(|| format!("cannot list {}", path.display()))?
        {
            let name = entry?.file_name();
            if let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(suffix)) {
                names.push(stem.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// The names of the checkpoints.
    pub fn checkpoints(&self) -> Result<Vec<String>> {
        let mut names = self.names("checkpoints", "")?;
        names.retain(|name| self.exists(&format!("checkpoints/{name}/config.json")));
        Ok(names)
    }

    /// The file of a named image: what `images/preprocess.json` says, or else `NAME.png`.
    pub fn image(&self, name: &str) -> Result<PathBuf> {
        let index = self.json_if_any(IMAGE_INDEX)?.unwrap_or_default();
        let file = match index["images"][name]["file"].as_str() {
            Some(file) => format!("images/{file}"),
            None => format!("images/{name}.png"),
        };
        Ok(self.path(&file))
    }

    /// The pixel values `(patches, _)` that the reference gave its model for named images of given
    /// grids: those of the first `images/*.torchvision.safetensors` that has them all.
    pub fn pixel_values(&self, images: &[String], grids: &[Grid]) -> Result<Tensor> {
        ensure!(
            images.len() == grids.len(),
            "{} images are named, but there are {} grids",
            images.len(),
            grids.len()
        );
        for setting in self.names("images", ".torchvision.safetensors")? {
            let file = self.tensors(&format!("images/{setting}.torchvision.safetensors"))?;
            let found: Option<Vec<&Tensor>> = images
                .iter()
                .zip(grids)
                .map(|(image, grid)| {
                    let own = file.find(&format!("{image}.out.image_grid_thw"))?;
                    let same = grids_of(own).ok()? == [*grid];
                    file.find(&format!("{image}.out.pixel_values"))
                        .filter(|_| same)
                })
                .collect();
            if let Some(found) = found {
                return Ok(Tensor::cat(&found, 0)?.to_device(&self.device)?);
            }
        }
        bail!("no images/*.torchvision.safetensors has the pixel values of {images:?} at {grids:?}")
    }
}

/// A checkpoint whose model and processor are loaded when first asked for.
pub struct Loaded {
    /// Its name in the folder.
    pub name: String,
    dir: PathBuf,
    device: Device,
    model: Option<Model>,
    processor: Option<Processor>,
}

impl Loaded {
    pub fn new(folder: &Folder, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            dir: folder.path(&format!("checkpoints/{name}")),
            device: folder.device.clone(),
            model: None,
            processor: None,
        }
    }

    pub fn model(&mut self) -> Result<&Model> {
        match &mut self.model {
            Some(model) => Ok(model),
            empty => {
                let model = Model::load(&self.dir, &self.device, DType::F32)?;
                Ok(empty.insert(model))
            }
        }
    }

    pub fn processor(&mut self) -> Result<&Processor> {
        match &mut self.processor {
            Some(processor) => Ok(processor),
            empty => Ok(empty.insert(Processor::load(&self.dir)?)),
        }
    }
}

/// Messages as transformers takes them; an image part names its image.
pub fn messages_of(value: &Value) -> Result<(Vec<ChatMessage>, Vec<String>)> {
    let mut images = Vec::new();
    let list = value.as_array().context("messages are not a list")?;
    let mut messages = Vec::new();
    for message in list {
        let role = message["role"].as_str().context("a message has no role")?;
        let mut content = Vec::new();
        match &message["content"] {
            Value::String(text) => content.push(ChatPart::Text(text.clone())),
            Value::Array(parts) => {
                for part in parts {
                    if let Some(text) = part["text"].as_str() {
                        content.push(ChatPart::Text(text.to_owned()));
                    } else {
                        let image = part["image"]
                            .as_str()
                            .context("an image part names no image")?;
                        images.push(image.to_owned());
                        content.push(ChatPart::Image);
                    }
                }
            }
            other => bail!("a message's content is {other}"),
        }
        messages.push(ChatMessage {
            role: role.to_owned(),
            content,
        });
    }
    Ok((messages, images))
}

/// The strings of a JSON list.
pub fn strings_of(value: &Value) -> Result<Vec<String>> {
    let list = value.as_array().context("expected a list of names")?;
    list.iter()
        .map(|name| Ok(name.as_str().context("expected a name")?.to_owned()))
        .collect()
}

/// The numbers of a JSON list.
pub fn numbers_of(value: &Value) -> Result<Vec<f64>> {
    let list = value.as_array().context("expected a list of numbers")?;
    list.iter().map(number_of).collect()
}

/// A JSON number.
pub fn number_of(value: &Value) -> Result<f64> {
    value
        .as_f64()
        .with_context(|| format!("expected a number, found {value}"))
}

/// A JSON number as a count.
pub fn count_of(value: &Value) -> Result<usize> {
    let number = value.as_u64();
    number
        .map(|number| number as usize)
        .with_context(|| format!("expected a count, found {value}"))
}
