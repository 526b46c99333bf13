//! Messages whose parts know which block of the prompt they belong to.

use std::sync::Arc;

use image::RgbImage;
use serde::{Deserialize, Serialize};

/// The four blocks over which IAPO compares attributions (DESIGN: plain context P, request R,
/// image I, tool definitions T).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Block {
    /// Plain context: system text, template tokens, instructions.
    P,
    /// The request.
    R,
    /// The image.
    I,
    /// Tool definitions and their worked examples.
    T,
}

impl Block {
    /// All blocks, in the order in which distributions are written.
    pub const ALL: [Block; 4] = [Block::P, Block::R, Block::I, Block::T];
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The system prompt.
    System,
    /// The user, and the tool's observations.
    User,
    /// The policy.
    Assistant,
}

impl Role {
    /// The name in chat templates and endpoints.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// One piece of a message.
#[derive(Clone, Debug)]
pub enum MessagePart {
    /// Text of one block.
    Text {
        /// The text itself.
        text: String,
        /// The block it belongs to.
        block: Block,
    },
    /// An image; its tokens are block I.
    Image(Arc<RgbImage>),
}

impl MessagePart {
    /// A text part.
    pub fn text(block: Block, text: impl Into<String>) -> Self {
        MessagePart::Text {
            text: text.into(),
            block,
        }
    }
}

/// One turn of the chat.
#[derive(Clone, Debug)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said, in order.
    pub parts: Vec<MessagePart>,
}

/// A chat from its beginning.
pub type Conversation = Vec<Message>;
