//! How much of a block is read.

/// Longest block that is read, bytes.
pub(super) const MAX_BYTES: usize = 64 * 1024;
/// Deepest nesting of brackets.
pub(super) const MAX_DEPTH: usize = 16;
/// Longest list or dict, and most statements of a block.
pub(super) const MAX_ITEMS: usize = 1024;
/// Most tool calls of a block.
pub(super) const MAX_CALLS: usize = 32;
