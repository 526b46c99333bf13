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

use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use image::RgbImage;

use crate::chat_template::ChatTemplate;
use crate::files::write_whole;
use crate::generation_config;
use crate::image_processor::{ImageProcessor, ImageSettings};
use crate::messages::{ChatMessage, ChatPart, PartIndex, Rendered, render};
use crate::positions::Grid;
use crate::processor_error::ProcessorError;
use crate::processor_files::{File, Folder, VisionIds};
use crate::tokenizer::Tokenizer;

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
    ignored: Vec<String>,
    files: Vec<File>,
}

impl Encoded {
    /// The patches `(patches, 3 * temporal_patch_size * patch_size^2)` and the grid of each image, for
    /// [`crate::Model::image_features`].
    pub fn images(&self) -> Result<Vec<(Tensor, Grid)>, ProcessorError> {
        let Some(pixel_values) = &self.pixel_values else {
            return Ok(Vec::new());
        };
        let mut first = 0;
        self.grids
            .iter()
            .map(|&grid| {
                let own = pixel_values.narrow(0, first, grid.patches())?;
                first += grid.patches();
                Ok((own, grid))
            })
            .collect()
    }
}

impl Processor {
    /// Reads the processor of a checkpoint in the hub's layout. Files that an adapter's folder (PEFT's
    /// layout) lacks are read from its base's, where that is on this machine.
    ///
    /// # Errors
    /// When a file is missing, is not what it should be, or the chat template does not compile.
    pub fn load(dir: &Path) -> Result<Self, ProcessorError> {
        let folder = Folder::read(dir)?;
        let tokenizer = folder.tokenizer()?;
        let template = folder.template()?;
        let images = folder.image_processor()?;
        let vision = folder.vision_ids(&tokenizer)?;
        let stop_ids = folder.stop_ids(&tokenizer)?;
        let generation = folder.json(generation_config::FILE)?.unwrap_or_default();
        Ok(Self {
            tokenizer,
            template,
            images,
            vision,
            stop_ids,
            ignored: generation_config::ignored(&generation),
            files: folder.into_files(),
        })
    }

    /// Writes the files that this processor was loaded from into `dir`, which is made if needed.
    /// Each is written whole. Changed settings ([`Self::set_image_settings`]) are not written.
    ///
    /// # Errors
    /// When the folder or a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), ProcessorError> {
        let failed = |path: &Path, source| ProcessorError::Write {
            path: path.to_owned(),
            source,
        };
        std::fs::create_dir_all(dir).map_err(|e| failed(dir, e))?;
        for file in &self.files {
            write_whole(dir, file.name, |out| out.write_all(&file.bytes))
                .map_err(|e| failed(&dir.join(file.name), e))?;
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
        let (pixel_values, grids) = if images.is_empty() {
            (None, Vec::new())
        } else {
            check_images(messages, images.len())?;
            let (pixels, grids) = self.images.process(images)?;
            (Some(pixels), grids)
        };
        let encoded = self.encode_for_grids(messages, grids, add_generation_prompt)?;
        Ok(Encoded {
            pixel_values,
            ..encoded
        })
    }

    /// [`Processor::encode`] for images whose features are there: of each the grid of its patches
    /// ([`ImageProcessor::grid`]) is known, and `pixel_values` is `None`.
    ///
    /// # Errors
    /// As [`Processor::encode`], but that no image is processed.
    pub fn encode_for_grids(
        &self,
        messages: &[ChatMessage],
        grids: Vec<Grid>,
        add_generation_prompt: bool,
    ) -> Result<Encoded, ProcessorError> {
        let image_parts = check_images(messages, grids.len())?;
        self.check_roles(messages)?;
        let rendered = render(&self.template, messages, add_generation_prompt)?;
        let mut encoded = Encoded {
            input_ids: Vec::new(),
            sources: Vec::new(),
            pixel_values: None,
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

    /// What the checkpoint's `generation_config.json` asks of sampling and nobody here heeds, one plain
    /// sentence each: sampling is done as [`crate::GenerationOptions`] say. For a run's manifest.
    pub fn ignored_generation_settings(&self) -> &[String] {
        &self.ignored
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
