//! Messages whose parts know which block of the prompt they belong to.

use std::ops::Deref;
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

/// Identifies a conversation by everything that it holds: roles, texts with their blocks, pixels.
pub type ConversationId = [u8; 32];

/// A chat from its beginning. It does not change once it is made, is cheap to clone, and knows its
/// identity: two conversations with the same content have the same [`Conversation::id`].
#[derive(Clone, Debug)]
pub struct Conversation {
    messages: Arc<[Message]>,
    id: ConversationId,
}

impl Conversation {
    /// A conversation of these messages.
    pub fn new(messages: Vec<Message>) -> Self {
        Conversation {
            id: identity(&messages),
            messages: messages.into(),
        }
    }

    /// Its identity, a BLAKE3 hash taken when it was made.
    pub fn id(&self) -> &ConversationId {
        &self.id
    }

    /// The conversation that goes on with these messages.
    pub fn followed_by(&self, more: impl IntoIterator<Item = Message>) -> Self {
        Self::new(self.messages.iter().cloned().chain(more).collect())
    }
}

impl Deref for Conversation {
    type Target = [Message];

    fn deref(&self) -> &[Message] {
        &self.messages
    }
}

impl<'a> IntoIterator for &'a Conversation {
    type Item = &'a Message;
    type IntoIter = std::slice::Iter<'a, Message>;

    fn into_iter(self) -> Self::IntoIter {
        self.messages.iter()
    }
}

impl From<Vec<Message>> for Conversation {
    fn from(messages: Vec<Message>) -> Self {
        Self::new(messages)
    }
}

fn identity(messages: &[Message]) -> ConversationId {
    let mut hasher = blake3::Hasher::new();
    for message in messages {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_in_anything_is_another_conversation() {
        let chat = |role, parts| Conversation::new(vec![Message { role, parts }]);
        let image = |value| {
            MessagePart::Image(Arc::new(RgbImage::from_pixel(2, 1, image::Rgb([value; 3]))))
        };
        let turned = MessagePart::Image(Arc::new(RgbImage::from_pixel(1, 2, image::Rgb([0; 3]))));
        let all = [
            chat(Role::User, vec![MessagePart::text(Block::R, "a")]),
            chat(Role::System, vec![MessagePart::text(Block::R, "a")]),
            chat(Role::User, vec![MessagePart::text(Block::P, "a")]),
            chat(Role::User, vec![MessagePart::text(Block::R, "ab")]),
            chat(Role::User, vec![image(0)]),
            chat(Role::User, vec![image(1)]),
            chat(Role::User, vec![turned]),
        ];
        for (index, one) in all.iter().enumerate() {
            assert_eq!(one.id(), Conversation::new(one.to_vec()).id());
            for other in &all[index + 1..] {
                assert_ne!(one.id(), other.id());
            }
        }
        let longer = all[0].followed_by(all[1].to_vec());
        assert_eq!(longer.len(), 2);
        assert_ne!(longer.id(), all[0].id());
    }
}
