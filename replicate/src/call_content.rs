//! Which tokens of a tool call say what it does: its tools and their names, as the parser reads them.
//!
//! The fence, the arguments that never change and the punctuation are the same in every call; they
//! add their predictability to a log-probability and nothing else.

use std::collections::BTreeSet;
use std::ops::Range;

use qwen2_5_vl::Tokenizer;
use visual_tools::{BoxSource, Names, Parsed, Tool, parse};

use crate::Result;

/// For each token of a completion whether a part of it writes a tool or one of the names that the
/// tools are given. Nothing is content where there is no call.
///
/// # Errors
/// When the tokenizer's decoder fails.
pub fn content_tokens(tokenizer: &Tokenizer, token_ids: &[u32]) -> Result<Vec<bool>> {
    let text = tokenizer.decode(token_ids, true)?;
    let spans = content_spans(&text);
    let ranges = token_ranges(tokenizer, token_ids, &text)?;
    let overlaps = |token: &Range<usize>| {
        let shared = |span: &Range<usize>| token.start < span.end && span.start < token.end;
        spans.iter().any(shared)
    };
    Ok(ranges.iter().map(overlaps).collect())
}

/// The bytes of the decoded text that each token writes. Tokens that share a character, as those of
/// a byte-level vocabulary do, all get the whole of it; special tokens write nothing.
fn token_ranges(tokenizer: &Tokenizer, token_ids: &[u32], text: &str) -> Result<Vec<Range<usize>>> {
    // A prefix whose last character is not complete yet ends in a replacement character, which is
    // not in the text: what agrees with the text is what has been written.
    let mut written = vec![0; token_ids.len() + 1];
    for end in 1..=token_ids.len() {
        let prefix = tokenizer.decode(&token_ids[..end], true)?;
        let agreeing = prefix.char_indices().zip(text.char_indices());
        let agreeing = agreeing.take_while(|(own, all)| own == all);
        written[end] = agreeing.last().map_or(0, |((at, c), _)| at + c.len_utf8());
    }
    let mut ranges = Vec::with_capacity(token_ids.len());
    let mut next_end = text.len();
    for (index, id) in token_ids.iter().enumerate().rev() {
        let (start, end) = (written[index], written[index + 1]);
        if tokenizer.is_special(*id) {
            ranges.push(start..start);
            continue;
        }
        if end > start {
            next_end = end;
        }
        ranges.push(start..next_end.max(start));
    }
    ranges.reverse();
    Ok(ranges)
}

/// Where the tools and names of a completion's call stand in its text: of a call that the parser
/// accepts those of its steps, of a refused one every tool and every string.
fn content_spans(text: &str) -> Vec<Range<usize>> {
    let (tools, names) = match parse(text) {
        Parsed::NoTool => return Vec::new(),
        Parsed::Call(call) => {
            let tools: BTreeSet<String> = call.steps.iter().map(|s| s.tool.to_string()).collect();
            let names = call.steps.into_iter().flat_map(|step| match step.names {
                Names::List(names) => names,
                Names::Text(name) => vec![name],
                Names::AllOf(BoxSource::Literal(boxes)) => {
                    boxes.into_iter().map(|(name, _)| name).collect()
                }
                Names::AllOf(BoxSource::Figure(_)) => Vec::new(),
            });
            (tools, Some(names.collect::<BTreeSet<String>>()))
        }
        Parsed::Refused(_) => (Tool::all().map(|tool| tool.to_string()).collect(), None),
    };
    let plain = WithoutBackslashes::of(text);
    let mut spans = Vec::new();
    for tool in &tools {
        for (start, found) in plain.text.match_indices(tool.as_str()) {
            let end = start + found.len();
            let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let before = plain.text[..start].ends_with(is_word);
            if !before && !plain.text[end..].starts_with(is_word) {
                spans.push(start..end);
            }
        }
    }
    spans.extend(strings(&plain.text).filter(|span| match &names {
        Some(names) => names.contains(&plain.text[span.clone()]),
        None => true,
    }));
    let back = |span: Range<usize>| plain.place(span.start)..plain.place(span.end - 1) + 1;
    let spans = spans.into_iter().filter(|span| !span.is_empty());
    spans.map(back).collect()
}

/// What stands between quotes; a string that is not closed ends with its line.
fn strings(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + text[at..].find(['"', '\''])? + 1;
        let quote = char::from(text.as_bytes()[start - 1]);
        let rest = &text[start..];
        let end = start + rest.find([quote, '\n']).unwrap_or(rest.len());
        at = end + usize::from(text[end..].starts_with(quote));
        Some(start..end)
    })
}

/// A text as the parser reads it, without its backslashes, and where each byte stood.
struct WithoutBackslashes {
    text: String,
    places: Vec<usize>,
}

impl WithoutBackslashes {
    fn of(text: &str) -> Self {
        let kept = |(place, byte): (usize, u8)| (byte != b'\\').then_some(place);
        WithoutBackslashes {
            text: text.replace('\\', ""),
            places: text.bytes().enumerate().filter_map(kept).collect(),
        }
    }

    /// Where the byte at `at` stood.
    fn place(&self, at: usize) -> usize {
        self.places[at]
    }
}
