//! Why code is refused, as a closed set that can be counted.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalReason {
    /// The block is not closed by a fence.
    UnclosedFence,
    /// The block is empty, or holds comments alone.
    Empty,
    /// More bytes, statements, items or calls than are read.
    TooLong,
    /// Brackets nested too deeply.
    TooDeep,
    /// A string without its end.
    Unterminated,
    /// A line that starts with white space.
    Indentation,
    /// A character outside of ASCII (or a control character) outside of strings and comments.
    Character,
    /// Not Python, or Python that has no place here (a misplaced bracket, a missing comma).
    Syntax,
    /// `import` or `from`.
    Import,
    /// Access to an attribute other than `.keys()`.
    Attribute,
    /// `for` or `while` as a statement.
    Loop,
    /// `for` within brackets.
    Comprehension,
    /// `if`, `else`, `elif`, `match` and the like.
    Conditional,
    /// `def`, `class`, `lambda`.
    Definition,
    /// Another statement: `del`, `global`, `with`, `try`, `return`, …
    Statement,
    /// An operator other than `+` between lists or strings.
    Operator,
    /// An f-string, or bytes.
    FormatString,
    /// A call of a function that is not offered.
    UnknownFunction,
    /// A variable that is not bound.
    UnknownName,
    /// An index or key that is not there, or of no constant kind; a slice.
    LookUp,
    /// Too many, too few, repeated or unknown arguments.
    Arguments,
    /// An argument of the wrong kind: not an image, not names, not boxes.
    ArgumentKind,
    /// The code runs, and shows no edited image.
    NothingEdited,
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            RefusalReason::UnclosedFence => "the python block is not closed",
            RefusalReason::Empty => "the python block is empty",
            RefusalReason::TooLong => "the code is too long",
            RefusalReason::TooDeep => "brackets are nested too deeply",
            RefusalReason::Unterminated => "a string is not terminated",
            RefusalReason::Indentation => "unexpected indent",
            RefusalReason::Character => "a character that code may not hold",
            RefusalReason::Syntax => "invalid syntax",
            RefusalReason::Import => "imports are not allowed",
            RefusalReason::Attribute => "attributes are not allowed",
            RefusalReason::Loop => "loops are not allowed",
            RefusalReason::Comprehension => "comprehensions are not allowed",
            RefusalReason::Conditional => "conditions are not allowed",
            RefusalReason::Definition => "definitions are not allowed",
            RefusalReason::Statement => "this statement is not allowed",
            RefusalReason::Operator => "this operator is not allowed",
            RefusalReason::FormatString => "formatted strings and bytes are not allowed",
            RefusalReason::UnknownFunction => "unknown function",
            RefusalReason::UnknownName => "unknown name",
            RefusalReason::LookUp => "nothing stands under this index",
            RefusalReason::Arguments => "wrong arguments",
            RefusalReason::ArgumentKind => "an argument is of the wrong kind",
            RefusalReason::NothingEdited => "no edited image is shown",
        })
    }
}

/// A refusal: the reason, the line of the block, and a few words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The kind.
    pub reason: RefusalReason,
    /// The line within the block, from 1.
    pub line: usize,
    /// What was found there; at most 80 characters of the code.
    pub detail: String,
}

impl Refusal {
    pub(crate) fn new(reason: RefusalReason, line: usize, detail: impl AsRef<str>) -> Self {
        const LONGEST: usize = 80;
        let detail = detail.as_ref();
        let short: String = detail.chars().take(LONGEST).collect();
        Self {
            reason,
            line,
            detail: match short.len() < detail.len() {
                true => short + "…",
                false => short,
            },
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)?;
        match self.detail.is_empty() {
            true => Ok(()),
            false => write!(f, ": {}", self.detail),
        }
    }
}

/// How often each reason came up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RefusalCounts(pub BTreeMap<RefusalReason, usize>);

impl RefusalCounts {
    /// Counts one refusal.
    pub fn add(&mut self, refusal: &Refusal) {
        *self.0.entry(refusal.reason).or_default() += 1;
    }
}
