//! Messages with images to the model's input, and ids back to text.
//!
//! The chat template is rendered, every image placeholder becomes as many `<|image_pad|>` as the
//! image has merged patches, and the result is tokenised; the ids of benign messages are those of
//! transformers' `Qwen2_5_VLProcessor`. Two things go beyond it:
//!
//! * Every token is traced to the (message, part) it came from, so that prompts can be split into
//!   blocks to the token.
//! * Text cannot forge structure. Only special tokens that the *template* wrote become special
//!   tokens; `<|im_end|>` or `<|image_pad|>` in a message's text is encoded as ordinary characters
//!   (transformers would take it for the token). Text is escaped, not refused, because a policy's
//!   own words come back as text in its second turn and must never end an episode with an error.

use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use image::RgbImage;
use serde_json::{Map, Value, json};

use crate::{ChatTemplate, Grid, ImageProcessor, ImageSettings, ProcessorError, Tokenizer};

/// One turn of a chat.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What is said, in order.
    pub content: Vec<ChatPart>,
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum ChatPart {
    /// Text, taken literally.
    Text(String),
    /// The place of the next image.
    Image,
}

/// Where a token came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartIndex {
    /// Index of the message.
    pub message: usize,
    /// Index of the part in the message's content.
    pub part: usize,
}

/// The model's input for one sequence.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// Token ids, image placeholders expanded.
    pub input_ids: Vec<u32>,
    /// For each token the part that it came from; `None` for the template's own tokens. An image's
    /// tokens are those from `<|vision_start|>` to `<|vision_end|>`, both included. A token that
    /// straddles a border belongs to the first part that owns any of its characters.
    pub sources: Vec<Option<PartIndex>>,
    /// Patches of all images, `(patches, 3 * temporal_patch_size * patch_size^2)`, f32 on the CPU;
    /// `None` without images.
    pub pixel_values: Option<Tensor>,
    /// The grid of each image, in patches.
    pub grids: Vec<Grid>,
}

/// Chat template, tokenizer and image processor of a checkpoint.
pub struct Processor {
    tokenizer: Tokenizer,
    template: ChatTemplate,
    images: ImageProcessor,
    vision: VisionIds,
    stop_ids: Vec<u32>,
    files: Vec<(&'static str, Vec<u8>)>,
}

struct VisionIds {
    start: u32,
    pad: u32,
    end: u32,
}

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

impl Processor {
    /// Reads the processor of a checkpoint in the hub's layout.
    ///
    /// # Errors
    /// When a file is missing, is not what it should be, or the chat template does not compile.
    pub fn load(dir: &Path) -> Result<Self, ProcessorError> {
        let mut files = Vec::new();
        for name in FILES {
            if let Some(bytes) = read_optional(&dir.join(name))? {
                files.push((name, bytes));
            }
        }
        let folder = Folder { dir, files: &files };
        let tokenizer = folder.tokenizer()?;
        let template = folder.template()?;
        let images = folder.image_processor()?;
        let vision = folder.vision_ids(&tokenizer)?;
        let stop_ids = folder.stop_ids(&tokenizer)?;
        Ok(Self {
            tokenizer,
            template,
            images,
            vision,
            stop_ids,
            files,
        })
    }

    /// Writes the files that this processor was loaded from into `dir`, which is made if needed.
    /// Changed settings ([`Self::set_image_settings`]) are not written.
    ///
    /// # Errors
    /// When the folder or a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), ProcessorError> {
        let failed = |path: &Path, source| ProcessorError::Write {
            path: path.to_owned(),
            source,
        };
        std::fs::create_dir_all(dir).map_err(|e| failed(dir, e))?;
        for (name, bytes) in &self.files {
            let path = dir.join(name);
            std::fs::write(&path, bytes).map_err(|e| failed(&path, e))?;
        }
        Ok(())
    }

    /// Renders, expands and tokenises messages. Images are taken in the order of the image parts.
    ///
    /// # Errors
    /// When the numbers of images and image parts differ, an image cannot be processed, the
    /// template does not render, or the tokenizer cannot represent a text.
    pub fn encode(
        &self,
        messages: &[ChatMessage],
        images: &[&RgbImage],
        add_generation_prompt: bool,
    ) -> Result<Encoded, ProcessorError> {
        let image_parts = check_images(messages, images.len())?;
        self.check_roles(messages)?;
        let (pixel_values, grids) = if images.is_empty() {
            (None, Vec::new())
        } else {
            let (pixels, grids) = self.images.process(images)?;
            (Some(pixels), grids)
        };
        let rendered = self.render(messages, add_generation_prompt)?;
        let mut encoded = Encoded {
            input_ids: Vec::new(),
            sources: Vec::new(),
            pixel_values,
            grids,
        };
        self.tokenize(&rendered, &image_parts, &mut encoded)?;
        Ok(encoded)
    }

    /// The text of ids.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, ProcessorError> {
        self.tokenizer.decode(ids, skip_special_tokens)
    }

    /// The ids that end a generation.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The chat template.
    pub fn chat_template(&self) -> &ChatTemplate {
        &self.template
    }

    /// The image processor.
    pub fn image_processor(&self) -> &ImageProcessor {
        &self.images
    }

    /// Replaces the settings of the image processor, for example its pixel limits.
    ///
    /// # Errors
    /// When a setting is impossible.
    pub fn set_image_settings(&mut self, settings: ImageSettings) -> Result<(), ProcessorError> {
        self.images = ImageProcessor::new(settings).map_err(|reason| ProcessorError::Invalid {
            path: PathBuf::from("image settings"),
            reason,
        })?;
        Ok(())
    }

    fn check_roles(&self, messages: &[ChatMessage]) -> Result<(), ProcessorError> {
        for (message, ChatMessage { role, .. }) in messages.iter().enumerate() {
            if let Some((span, _)) = self.tokenizer.special_spans(role, |_| true).first() {
                return Err(ProcessorError::Role {
                    message,
                    role: role.clone(),
                    token: role[span.clone()].to_owned(),
                });
            }
        }
        Ok(())
    }

    /// The rendered text and the bytes of it that each text part occupies, in order.
    ///
    /// Searching for a text could find it in the template's own words, so the template is rendered
    /// with a marker in place of every text, and the markers are replaced.
    fn render(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
    ) -> Result<Rendered, ProcessorError> {
        let texts: Vec<(PartIndex, &str)> = messages
            .iter()
            .enumerate()
            .flat_map(|(message, m)| {
                m.content.iter().enumerate().filter_map(move |(part, p)| {
                    let ChatPart::Text(text) = p else { return None };
                    Some((PartIndex { message, part }, text.as_str()))
                })
            })
            .collect();
        let marker = unused_marker(&texts);
        let arguments = Map::new();
        let marked = self.template.render(
            &to_json(messages, |at, _| {
                format!("{marker}{}.{}{marker}", at.message, at.part)
            }),
            add_generation_prompt,
            &arguments,
        )?;
        let literal = self.template.render(
            &to_json(messages, |_, text| text.to_owned()),
            add_generation_prompt,
            &arguments,
        )?;
        let rewritten = |at: PartIndex| ProcessorError::TemplateRewrites {
            path: self.template.path().to_owned(),
            message: at.message,
            part: at.part,
            role: messages[at.message].role.clone(),
        };
        for trim in [false, true] {
            let mut rendered = Rendered::default();
            let mut rest = marked.as_str();
            for &(at, text) in &texts {
                let name = format!("{marker}{}.{}{marker}", at.message, at.part);
                let (before, after) = rest.split_once(&name).ok_or_else(|| rewritten(at))?;
                rendered.text.push_str(before);
                let start = rendered.text.len();
                rendered
                    .text
                    .push_str(if trim { text.trim() } else { text });
                rendered.parts.push((start..rendered.text.len(), at));
                rest = after;
            }
            rendered.text.push_str(rest);
            if rendered.text == literal {
                return Ok(rendered);
            }
        }
        Err(rewritten(texts.first().map_or(
            PartIndex {
                message: 0,
                part: 0,
            },
            |&(at, _)| at,
        )))
    }

    /// Tokenises between the template's special tokens, and traces every token.
    fn tokenize(
        &self,
        rendered: &Rendered,
        image_parts: &[PartIndex],
        encoded: &mut Encoded,
    ) -> Result<(), ProcessorError> {
        let specials = self
            .tokenizer
            .special_spans(&rendered.text, |span| rendered.owner(span).is_none());
        let placeholders = specials
            .iter()
            .filter(|(_, id)| *id == self.vision.pad)
            .count();
        if placeholders != image_parts.len() {
            return Err(ProcessorError::Placeholders {
                path: self.template.path().to_owned(),
                rendered: placeholders,
                parts: image_parts.len(),
            });
        }
        let merge = self.images.settings().merge_size;
        let mut start = 0;
        let mut image = 0;
        let mut inside = false;
        for (span, id) in specials {
            self.stretch(rendered, start..span.start, encoded)?;
            start = span.end;
            inside |= id == self.vision.start;
            let source = (inside || id == self.vision.pad)
                .then(|| image_parts.get(image).copied())
                .flatten();
            let copies = if id == self.vision.pad {
                encoded.grids[image].tokens(merge)
            } else {
                1
            };
            encoded.input_ids.extend(std::iter::repeat_n(id, copies));
            encoded.sources.extend(std::iter::repeat_n(source, copies));
            // Without vision_start .. vision_end around it a placeholder ends its image by itself.
            if id == self.vision.end && inside || id == self.vision.pad && !inside {
                image += 1;
                inside = false;
            }
        }
        self.stretch(rendered, start..rendered.text.len(), encoded)
    }

    /// Tokenises a stretch of rendered text that has no special tokens of the template.
    fn stretch(
        &self,
        rendered: &Rendered,
        range: Range<usize>,
        encoded: &mut Encoded,
    ) -> Result<(), ProcessorError> {
        for (id, span) in self.tokenizer.encode_plain(&rendered.text[range.clone()])? {
            encoded.input_ids.push(id);
            let span = range.start + span.start..range.start + span.end;
            encoded.sources.push(rendered.owner(&span));
        }
        Ok(())
    }
}

/// A rendered prompt and where its text parts stand.
#[derive(Default)]
struct Rendered {
    text: String,
    parts: Vec<(Range<usize>, PartIndex)>,
}

impl Rendered {
    /// The first part that owns any byte of a span.
    fn owner(&self, span: &Range<usize>) -> Option<PartIndex> {
        let first = self.parts.partition_point(|(own, _)| own.end <= span.start);
        self.parts[first..]
            .iter()
            .take_while(|(own, _)| own.start < span.end)
            .find(|(own, _)| !own.is_empty())
            .map(|&(_, at)| at)
    }
}

/// The image parts in order, if there are as many as images.
fn check_images(messages: &[ChatMessage], images: usize) -> Result<Vec<PartIndex>, ProcessorError> {
    let mut parts = Vec::new();
    for (message, m) in messages.iter().enumerate() {
        for (part, content) in m.content.iter().enumerate() {
            if *content == ChatPart::Image {
                parts.push(PartIndex { message, part });
            }
        }
    }
    if parts.len() == images {
        return Ok(parts);
    }
    // The first image part that has no image, or else where the last image part could have stood.
    let message = parts
        .get(images)
        .map_or(messages.len().saturating_sub(1), |at| at.message);
    Err(ProcessorError::ImageCount {
        message,
        role: messages.get(message).map_or("none", |m| &m.role).to_owned(),
        placeholders: parts.len(),
        images,
    })
}

/// Messages in the form that chat templates take.
fn to_json(messages: &[ChatMessage], text_of: impl Fn(PartIndex, &str) -> String) -> Value {
    let content = |message: usize, parts: &[ChatPart]| -> Vec<Value> {
        parts
            .iter()
            .enumerate()
            .map(|(part, content)| match content {
                ChatPart::Text(text) => {
                    json!({"type": "text", "text": text_of(PartIndex { message, part }, text)})
                }
                ChatPart::Image => json!({"type": "image"}),
            })
            .collect()
    };
    messages
        .iter()
        .enumerate()
        .map(|(index, m)| json!({"role": m.role, "content": content(index, &m.content)}))
        .collect()
}

/// A string that occurs in none of the texts.
fn unused_marker(texts: &[(PartIndex, &str)]) -> String {
    let mut marker = String::from("\u{e000}");
    while texts.iter().any(|(_, text)| text.contains(&marker)) {
        marker.push('\u{e001}');
    }
    marker
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
struct Folder<'a> {
    dir: &'a Path,
    files: &'a [(&'static str, Vec<u8>)],
}

impl Folder<'_> {
    fn bytes(&self, name: &str) -> Option<&[u8]> {
        let found = self.files.iter().find(|(file, _)| *file == name);
        found.map(|(_, bytes)| bytes.as_slice())
    }

    fn invalid(&self, name: &str, reason: impl ToString) -> ProcessorError {
        ProcessorError::Invalid {
            path: self.dir.join(name),
            reason: reason.to_string(),
        }
    }

    fn missing(&self, what: &'static str, looked_for: &'static str) -> ProcessorError {
        ProcessorError::Missing {
            dir: self.dir.to_owned(),
            what,
            looked_for,
        }
    }

    fn json(&self, name: &str) -> Result<Option<Value>, ProcessorError> {
        self.bytes(name)
            .map(|bytes| serde_json::from_slice(bytes).map_err(|e| self.invalid(name, e)))
            .transpose()
    }

    fn tokenizer(&self) -> Result<Tokenizer, ProcessorError> {
        let name = "tokenizer.json";
        let bytes = self
            .bytes(name)
            .ok_or_else(|| self.missing("tokenizer", name))?;
        Tokenizer::from_bytes(bytes).map_err(|e| self.invalid(name, e))
    }

    fn template(&self) -> Result<ChatTemplate, ProcessorError> {
        let jinja = "chat_template.jinja";
        if let Some(bytes) = self.bytes(jinja) {
            let source = std::str::from_utf8(bytes).map_err(|e| self.invalid(jinja, e))?;
            return ChatTemplate::new(source.to_owned(), &self.dir.join(jinja));
        }
        for name in ["chat_template.json", "tokenizer_config.json"] {
            if let Some(source) = self.json(name)?.as_ref().and_then(ChatTemplate::source_in) {
                return ChatTemplate::new(source, &self.dir.join(name));
            }
        }
        Err(self.missing(
            "chat template",
            "chat_template.jinja, or the key chat_template in chat_template.json or \
             tokenizer_config.json",
        ))
    }

    /// `processor_config.json` of transformers 5 wins over `preprocessor_config.json`, as there.
    fn image_processor(&self) -> Result<ImageProcessor, ProcessorError> {
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

    fn vision_ids(&self, tokenizer: &Tokenizer) -> Result<VisionIds, ProcessorError> {
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
        let config = self.model_config()?;
        if let Some(expected) = config.get("image_token_id").and_then(Value::as_u64)
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

    /// `config.json` where there is one; the model reads and checks it for itself.
    fn model_config(&self) -> Result<Value, ProcessorError> {
        let name = "config.json";
        match read_optional(&self.dir.join(name))? {
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|e| self.invalid(name, e)),
            None => Ok(Value::Null),
        }
    }

    /// `eos_token_id` of `generation_config.json`, else of `config.json`, else `eos_token` of
    /// `tokenizer_config.json`.
    fn stop_ids(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>, ProcessorError> {
        let generation = self.json("generation_config.json")?.unwrap_or_default();
        let model = self.model_config()?;
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
