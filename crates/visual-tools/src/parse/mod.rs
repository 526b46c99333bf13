//! Finds the code in a completion and reads it as data. Nothing is ever executed.
//!
//! Extraction, as VTool-R1 does it (`verl/tooluse/parse.py`, `recipe/vtool/refocus_tools.py`):
//! 1. `\_` becomes `_`, then every backslash is deleted (the code has no escapes therefore);
//! 2. the code is what follows the first ```` ```python ```` up to the next ```` ``` ````;
//!    without such a fence there is no tool call;
//! 3. a block that has none of `focus_on_`, `display(`, `image_1`, `columns_bbox`, `rows_bbox` is
//!    arithmetic, not a tool call; we add `x_values_bbox` and `y_values_bbox`, which ReFocus binds;
//! 4. a fence that is not closed is no tool call when `ANSWER:` follows, else refused;
//! 5. an empty block is refused.
//!
//! The code is then read by a small grammar of its own: assignments to one name, expression
//! statements, comments, `;`; strings (adjacent ones joined), numbers, lists, tuples, dicts, names,
//! look-ups by a constant, `+` between lists or strings; calls of the twelve tools, `display`,
//! `print`, `list`, and `D.keys()` of a dict of boxes. These last forms are safe because they can
//! only list names that the prompt has shown. Everything else is refused with a [`RefusalReason`].
//!
//! Where there is no `display`, the last statement that calls a tool is what is shown, as VTool-R1
//! adds a `display` for it; where `display` got something else than an image, the last variable
//! that holds an image. As Python would, one faulty statement fails the whole block.
//!
//! Deviations: showing `image_1` unedited counts as a refusal ([`RefusalReason::NothingEdited`]), not as a
//! successful call; imports, numbers among the names, f-strings and nested lists are refused
//! although Python would run some of them.

mod grammar;
mod limits;
mod near_miss;
mod program;
mod refusal;
mod token;
mod value;

pub use near_miss::{NearMiss, NearMissCounts};
pub use refusal::{Refusal, RefusalCounts, RefusalReason};

use crate::call::ToolCall;

/// What a completion asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Parsed {
    /// It holds no tool call: a direct answer.
    NoTool,
    /// A call, or several.
    Call(ToolCall),
    /// There is code, and it is not accepted.
    Refused(Refusal),
}

/// Reads the tool call of a completion. Never panics, takes linear time, executes nothing.
pub fn parse(completion: &str) -> Parsed {
    let Some(block) = find_block(completion) else {
        return Parsed::NoTool;
    };
    let code = match block {
        Block::Closed(code) => code,
        Block::Open => return Parsed::Refused(Refusal::new(RefusalReason::UnclosedFence, 1, "")),
    };
    match grammar::read(&code) {
        Ok(call) => Parsed::Call(call),
        Err(refusal) => Parsed::Refused(refusal),
    }
}

/// How a completion without a call, as [`parse`] sees it, calls one of the twelve tools nevertheless;
/// `None` for one that does not, or whose call is seen. The verdict of [`parse`] stands: such a
/// completion is a direct answer, as in VTool-R1. Linear time.
pub fn near_miss(completion: &str) -> Option<NearMiss> {
    match parse(completion) {
        Parsed::NoTool => near_miss::near_miss_in(completion),
        Parsed::Call(_) | Parsed::Refused(_) => None,
    }
}

enum Block {
    Closed(String),
    Open,
}

/// Words by which VTool-R1 tells a tool call from arithmetic, and ReFocus' two chart variables.
const HINTS: [&str; 7] = [
    "focus_on_",
    "display(",
    "image_1",
    "columns_bbox",
    "rows_bbox",
    "x_values_bbox",
    "y_values_bbox",
];

const FENCE: &str = "```";

fn find_block(completion: &str) -> Option<Block> {
    // Deleting every backslash turns `\_` into `_` on the way.
    let text = completion.replace('\\', "");
    let (_, rest) = text.split_once("```python")?;
    let (code, closed) = match rest.split_once(FENCE) {
        Some((code, _)) => (code, true),
        None => (rest, false),
    };
    let is_blank = code.trim().is_empty();
    if !is_blank && !HINTS.iter().any(|hint| code.contains(hint)) {
        return None;
    }
    if closed {
        return Some(Block::Closed(code.to_owned()));
    }
    match has_answer(code) {
        true => None,
        false => Some(Block::Open),
    }
}

/// Whether `ANSWER:` stands in `text` at the start of a word, in any case, with white space
/// allowed before the colon.
fn has_answer(text: &str) -> bool {
    const WORD: &str = "answer";
    let lower = text.to_ascii_lowercase();
    let mut from = 0;
    while let Some(found) = lower[from..].find(WORD) {
        let start = from + found;
        let end = start + WORD.len();
        let joined = lower[..start]
            .chars()
            .next_back()
            .is_some_and(|c| c.is_alphanumeric() || c == '_');
        if !joined && lower[end..].trim_start().starts_with(':') {
            return true;
        }
        from = end;
    }
    false
}
