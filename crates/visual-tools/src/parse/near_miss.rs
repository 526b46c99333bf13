//! Tool calls that a completion holds and the official extraction does not see.
//!
//! VTool-R1 reads the first ```` ```python ```` block and nothing else. A model that calls a tool
//! otherwise has called none, here as there: the verdict stays. How often that happens, and how, is
//! worth knowing of a model, so it can be counted.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::tool::Tool;

/// How a call missed the form that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NearMiss {
    /// In a python block behind a first one that holds no call.
    AfterAnotherBlock,
    /// In a block of another language than `python`, or of none: `Python`, `py`, `tool_code`.
    AnotherLanguage,
    /// Between `~~~`.
    TildeFence,
    /// In a python block that is not closed, with an answer behind it.
    UnclosedFence,
    /// In no block.
    NoFence,
    /// As a function call in JSON or XML, the way of chat templates with tools of their own.
    NativeCall,
}

impl NearMiss {
    /// The name in records and counts, for example `after_another_block`.
    pub fn name(self) -> &'static str {
        match self {
            NearMiss::AfterAnotherBlock => "after_another_block",
            NearMiss::AnotherLanguage => "another_language",
            NearMiss::TildeFence => "tilde_fence",
            NearMiss::UnclosedFence => "unclosed_fence",
            NearMiss::NoFence => "no_fence",
            NearMiss::NativeCall => "native_call",
        }
    }
}

impl fmt::Display for NearMiss {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How often each kind of near miss came up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NearMissCounts(pub BTreeMap<NearMiss, usize>);

impl NearMissCounts {
    /// Counts one near miss.
    pub fn add(&mut self, near_miss: NearMiss) {
        *self.0.entry(near_miss).or_default() += 1;
    }
}

/// How the text, in which no call was seen, calls one of the twelve tools nevertheless.
pub(super) fn near_miss_in(completion: &str) -> Option<NearMiss> {
    // As the extraction does.
    let text = completion.replace('\\', "");
    let mut from = 0;
    let mut native = false;
    while let Some(found) = text[from..].find("focus_on_") {
        let start = from + found;
        let name = text[start..]
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .next()
            .unwrap_or_default();
        from = start + name.len();
        let joined = text[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if joined || name.parse::<Tool>().is_err() {
            continue;
        }
        if text[from..]
            .trim_start_matches([' ', '\t'])
            .starts_with('(')
        {
            return Some(place_of(&text, start));
        }
        native |= is_native(&text[..start], &text[from..]);
    }
    native.then_some(NearMiss::NativeCall)
}

/// Whether a name between these texts is the name of a native call: `"name": "…"`, `name="…"`,
/// `<function=…>`.
fn is_native(before: &str, behind: &str) -> bool {
    let quoted = |quote: char| {
        behind.starts_with(quote)
            && before.strip_suffix(quote).is_some_and(|before| {
                let before = before.trim_end();
                before.ends_with(':') || before.ends_with('=')
            })
    };
    quoted('"') || quoted('\'') || (before.ends_with("function=") && behind.starts_with('>'))
}

/// What kind of block the place is in. Blocks open and close at the start of a line.
fn place_of(text: &str, place: usize) -> NearMiss {
    // The fence that is open, and what stands behind it.
    let mut open: Option<(&str, &str)> = None;
    let mut python_blocks = 0;
    let mut at = 0;
    for line in text[..place].split_inclusive('\n') {
        at += line.len();
        let start = line.trim_start();
        for fence in ["```", "~~~"] {
            let Some(rest) = start.strip_prefix(fence) else {
                continue;
            };
            open = match open {
                Some((opened, _)) if opened == fence => None,
                Some(other) => Some(other),
                None => {
                    let language = rest.trim_start_matches(['`', '~']);
                    python_blocks += usize::from(fence == "```" && language.starts_with("python"));
                    Some((fence, language))
                }
            };
        }
    }
    debug_assert_eq!(at, place);
    match open {
        None => NearMiss::NoFence,
        Some(("~~~", _)) => NearMiss::TildeFence,
        Some((_, language)) if !language.starts_with("python") => NearMiss::AnotherLanguage,
        Some(_) if python_blocks > 1 => NearMiss::AfterAnotherBlock,
        Some(_) => NearMiss::UnclosedFence,
    }
}
