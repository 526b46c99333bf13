//! The files of a checkpoint's folder that a processor is made from.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::chat_template::ChatTemplate;
use crate::files;
use crate::image_processor::{ImageProcessor, ImageSettings};
use crate::processor_error::ProcessorError;
use crate::tokenizer::Tokenizer;
use crate::weights::{ADAPTER_CONFIG, adapter_base};

/// Every file of the hub's layout that a processor reads or that belongs beside those.
const FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];

/// A file of the hub's layout.
pub(crate) struct File {
    /// Its name in the folder.
    pub name: &'static str,
    /// Where it was found.
    path: PathBuf,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// The ids of the tokens around and for images.
pub(crate) struct VisionIds {
    pub start: u32,
    pub pad: u32,
    pub end: u32,
}

fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, ProcessorError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ProcessorError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// The files of a checkpoint while it is loaded.
pub(crate) struct Folder {
    dir: PathBuf,
    files: Vec<File>,
    /// `config.json` where there is one; the model reads and checks it for itself.
    model: Value,
}

impl Folder {
    /// Reads the files of a folder, and those that it lacks from its base's if it is an adapter's.
    pub fn read(dir: &Path) -> Result<Self, ProcessorError> {
        let mut folders = vec![dir.to_owned()];
        if dir.join(ADAPTER_CONFIG).is_file()
            && let Ok((_, Some(base))) = adapter_base(dir)
        {
            folders.push(base);
        }
        let find = |name: &'static str| -> Result<Option<File>, ProcessorError> {
            for folder in &folders {
                let path = folder.join(name);
                if let Some(bytes) = read_optional(&path)? {
                    return match files::stand_in(&bytes) {
                        Some(reason) => Err(ProcessorError::Invalid { path, reason }),
                        None => Ok(Some(File { name, path, bytes })),
                    };
                }
            }
            Ok(None)
        };
        let mut files = Vec::new();
        for name in FILES {
            files.extend(find(name)?);
        }
        let model = match find("config.json")? {
            Some(file) => parse(&file)?,
            None => Value::Null,
        };
        Ok(Folder {
            dir: dir.to_owned(),
            files,
            model,
        })
    }

    /// The files, as they were read.
    pub fn into_files(self) -> Vec<File> {
        self.files
    }

    fn file(&self, name: &str) -> Option<&File> {
        self.files.iter().find(|file| file.name == name)
    }

    fn invalid(&self, name: &str, reason: impl ToString) -> ProcessorError {
        ProcessorError::Invalid {
            path: self
                .file(name)
                .map_or_else(|| self.dir.join(name), |file| file.path.clone()),
            reason: reason.to_string(),
        }
    }

    fn missing(&self, what: &'static str, looked_for: &'static str) -> ProcessorError {
        ProcessorError::Missing {
            dir: self.dir.clone(),
            what,
            looked_for,
        }
    }

    /// The content of a JSON file, where it is there.
    pub fn json(&self, name: &str) -> Result<Option<Value>, ProcessorError> {
        self.file(name).map(parse).transpose()
    }

    pub fn tokenizer(&self) -> Result<Tokenizer, ProcessorError> {
        let name = "tokenizer.json";
        let file = self
            .file(name)
            .ok_or_else(|| self.missing("tokenizer", name))?;
        Tokenizer::from_bytes(&file.bytes).map_err(|e| self.invalid(name, e))
    }

    pub fn template(&self) -> Result<ChatTemplate, ProcessorError> {
        let jinja = "chat_template.jinja";
        if let Some(file) = self.file(jinja) {
            let source = std::str::from_utf8(&file.bytes).map_err(|e| self.invalid(jinja, e))?;
            return ChatTemplate::new(source.to_owned(), &file.path);
        }
        for name in ["chat_template.json", "tokenizer_config.json"] {
            let Some(file) = self.file(name) else {
                continue;
            };
            if let Some(source) = ChatTemplate::source_in(&parse(file)?) {
                return ChatTemplate::new(source, &file.path);
            }
        }
        Err(self.missing(
            "chat template",
            "chat_template.jinja, or the key chat_template in chat_template.json or \
             tokenizer_config.json",
        ))
    }

    /// `processor_config.json` of transformers 5 wins over `preprocessor_config.json`, as there.
    pub fn image_processor(&self) -> Result<ImageProcessor, ProcessorError> {
        let (new, old) = ("processor_config.json", "preprocessor_config.json");
        let nested = self
            .json(new)?
            .and_then(|mut config| config.get_mut("image_processor").map(Value::take));
        let (name, config) = match nested {
            Some(config) => (new, config),
            None => {
                let looked_for =
                    "preprocessor_config.json, or the key image_processor in processor_config.json";
                let config = self.json(old)?;
                (
                    old,
                    config.ok_or_else(|| self.missing("image processor settings", looked_for))?,
                )
            }
        };
        ImageSettings::from_json(&config)
            .and_then(ImageProcessor::new)
            .map_err(|reason| self.invalid(name, reason))
    }

    pub fn vision_ids(&self, tokenizer: &Tokenizer) -> Result<VisionIds, ProcessorError> {
        let id = |token: &str| {
            tokenizer
                .special_tokens()
                .get(token)
                .copied()
                .ok_or_else(|| {
                    self.invalid(
                        "tokenizer.json",
                        format!("{token} is not a special token of it"),
                    )
                })
        };
        let vision = VisionIds {
            start: id("<|vision_start|>")?,
            pad: id("<|image_pad|>")?,
            end: id("<|vision_end|>")?,
        };
        if let Some(expected) = self.model.get("image_token_id").and_then(Value::as_u64)
            && expected != u64::from(vision.pad)
        {
            return Err(self.invalid(
                "config.json",
                format!(
                    "image_token_id is {expected}, but <|image_pad|> is {} in tokenizer.json",
                    vision.pad
                ),
            ));
        }
        Ok(vision)
    }

    /// `eos_token_id` of `generation_config.json`, else of `config.json`, else `eos_token` of
    /// `tokenizer_config.json`.
    pub fn stop_ids(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>, ProcessorError> {
        let generation = self.json("generation_config.json")?.unwrap_or_default();
        let model = &self.model;
        for (name, value) in [
            ("generation_config.json", &generation["eos_token_id"]),
            ("config.json", &model["eos_token_id"]),
            ("config.json", &model["text_config"]["eos_token_id"]),
        ] {
            let listed = match value {
                Value::Null => continue,
                Value::Array(list) => list.as_slice(),
                one => std::slice::from_ref(one),
            };
            let ids: Option<Vec<u32>> = listed
                .iter()
                .map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()))
                .collect();
            return ids.filter(|ids| !ids.is_empty()).ok_or_else(|| {
                self.invalid(
                    name,
                    format!("eos_token_id is {value}, expected an id or a list"),
                )
            });
        }
        let config = self.json("tokenizer_config.json")?.unwrap_or_default();
        let token = &config["eos_token"];
        let name = token.as_str().or_else(|| token["content"].as_str());
        name.and_then(|token| tokenizer.token_to_id(token))
            .map(|id| vec![id])
            .ok_or_else(|| {
                self.missing(
                    "token that ends a generation",
                    "eos_token_id in generation_config.json or config.json, or eos_token in \
                     tokenizer_config.json",
                )
            })
    }
}

fn parse(file: &File) -> Result<Value, ProcessorError> {
    files::json(&file.bytes).map_err(|reason| ProcessorError::Invalid {
        path: file.path.clone(),
        reason,
    })
}
