//! What can go wrong between messages with images and the model's input.

use std::path::PathBuf;

/// An error of the processor, its image processor, its tokenizer or its chat template.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessorError {
    /// A file that a checkpoint needs could not be read.
    #[error("cannot read {path}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {path}", path = .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// None of the files that may hold something is there.
    #[error("{dir} has no {what}: looked for {looked_for}", dir = .dir.display())]
    Missing {
        /// The checkpoint's folder.
        dir: PathBuf,
        /// What was wanted.
        what: &'static str,
        /// Where it could have stood.
        looked_for: &'static str,
    },
    /// A file was read and does not hold what it should.
    #[error("{path}: {reason}", path = .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        reason: String,
    },
    /// The image's sides are outside what can be processed.
    #[error(
        "an image of {width}x{height} pixels cannot be processed: each side must have 1 to \
         {max} pixels; crop or scale it first"
    )]
    ImageSides {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// The largest side that is accepted.
        max: usize,
    },
    /// The image is too elongated.
    #[error(
        "an image of {width}x{height} pixels has an aspect ratio of {ratio:.1}, above the limit \
         of {max}; crop or pad it first"
    )]
    AspectRatio {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// Longer side over shorter side.
        ratio: f64,
        /// The largest ratio that is accepted.
        max: f64,
    },
    /// With `do_resize: false` an image must already have sides that divide into patches.
    #[error(
        "an image of {width}x{height} pixels does not divide into units of {factor} pixels and \
         do_resize is false in this checkpoint's preprocessor_config.json"
    )]
    Unaligned {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// Patch size times merge size.
        factor: usize,
    },
    /// An image would become more patches than can be processed.
    #[error(
        "an image of {width}x{height} pixels would take {bytes} bytes of patches, at most {max}: \
         lower max_pixels, temporal_patch_size, patch_size or merge_size in \
         preprocessor_config.json, or scale the image down"
    )]
    TooLarge {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// Bytes that its patches would take.
        bytes: usize,
        /// The most that are made.
        max: usize,
    },
    /// An image file could not be read, or not decoded whole.
    #[error(transparent)]
    ImageFile(#[from] image_files::ImageFileError),
    /// The chat template does not compile or does not render.
    #[error("the chat template of {path} {stage}: {reason}", path = .path.display())]
    Template {
        /// The file that holds the template.
        path: PathBuf,
        /// `does not compile` or `does not render`.
        stage: &'static str,
        /// What minijinja said, with the line.
        reason: String,
    },
    /// The template did more to a message's text than place or trim it, so that tokens cannot be
    /// assigned to messages.
    #[error(
        "the chat template of {path} changes the text of part {part} of message {message} \
         ({role}); only templates that place or trim texts are supported",
        path = .path.display()
    )]
    TemplateRewrites {
        /// The file that holds the template.
        path: PathBuf,
        /// Index of the message.
        message: usize,
        /// Index of its part.
        part: usize,
        /// The message's role.
        role: String,
    },
    /// A role contains a special token.
    #[error("the role of message {message}, {role:?}, contains the special token {token}")]
    Role {
        /// Index of the message.
        message: usize,
        /// The role.
        role: String,
        /// The special token.
        token: String,
    },
    /// The number of images differs from the number of image parts.
    #[error(
        "{images} images were given, but the messages have {placeholders} image parts; the first \
         that does not agree is message {message} ({role})"
    )]
    ImageCount {
        /// The message whose image part has no image, or the last message when images are left.
        message: usize,
        /// That message's role.
        role: String,
        /// Image parts in all messages.
        placeholders: usize,
        /// Images given.
        images: usize,
    },
    /// The rendered template has another number of image placeholders than there are image parts.
    #[error(
        "the chat template of {path} rendered {rendered} image placeholders for {parts} image \
         parts",
        path = .path.display()
    )]
    Placeholders {
        /// The file that holds the template.
        path: PathBuf,
        /// Placeholders in the rendered text.
        rendered: usize,
        /// Image parts in the messages.
        parts: usize,
    },
    /// The tokenizer could not encode or decode.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(String),
    /// A tensor could not be made.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}
