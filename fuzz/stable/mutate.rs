//! Seeded mutations of seed inputs.

use seeded_random::{Draw, Generator};

/// What breaks readers: ends of ranges, nesting, foreign bytes.
const TOKENS: [&str; 36] = [
    "0",
    "-1",
    "1e308",
    "-1e-320",
    "NaN",
    "Infinity",
    "18446744073709551616",
    "-9223372036854775808",
    "4294967296",
    "16000000",
    "0.5",
    "null",
    "true",
    "\"\"",
    "[]",
    "{}",
    "[[[[[[[[[[[[[[[[",
    "((((((((((((((((",
    "{{",
    "}}",
    "{%",
    "%}",
    "\\",
    "\\u0000",
    "\\ud800",
    "\u{feff}",
    "\u{202e}",
    "\u{ff11}",
    "é",
    "\0",
    "\n",
    "```",
    "<think>",
    "</think>",
    "'",
    "\"",
];

/// Draws inputs without end.
pub struct Mutator {
    seeds: Vec<Vec<u8>>,
    generator: Generator,
}

/// Longer inputs only cost time.
const LONGEST: usize = 1 << 16;

impl Mutator {
    /// Over seeds, of which there is at least one.
    pub fn new(seeds: Vec<Vec<u8>>, generator: Generator) -> Self {
        assert!(!seeds.is_empty(), "a target has seeds");
        Mutator { seeds, generator }
    }

    /// The next input: a seed after one to eight changes.
    pub fn next(&mut self) -> Vec<u8> {
        let draw = &mut self.generator;
        let mut bytes = self.seeds[draw.below(self.seeds.len())].clone();
        for _ in 0..=draw.below(8) {
            let at = draw.below(bytes.len() + 1);
            let end = (at + 1 + draw.below(32)).min(bytes.len());
            match draw.below(8) {
                0 if at < bytes.len() => bytes[at] ^= 1 << draw.below(8),
                1 if at < bytes.len() => bytes[at] = draw.below(256) as u8,
                2 => drop(bytes.drain(at..end)),
                3 => {
                    let piece = bytes[at..end].to_vec();
                    let times = 1 + draw.below(16);
                    bytes.splice(at..at, piece.repeat(times));
                }
                4 | 5 => {
                    let token = TOKENS[draw.below(TOKENS.len())].bytes();
                    // In the place of a number or a word as often as between two.
                    let to = match draw.below(2) {
                        0 => at,
                        _ => word_end(&bytes, at),
                    };
                    bytes.splice(at..to, token);
                }
                6 => {
                    let other = &self.seeds[draw.below(self.seeds.len())];
                    let from = draw.below(other.len() + 1);
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[from..]);
                }
                _ => bytes.truncate(bytes.len() - draw.below(bytes.len().min(16) + 1)),
            }
        }
        bytes.truncate(LONGEST);
        bytes
    }
}

fn word_end(bytes: &[u8], at: usize) -> usize {
    let word = bytes[at..]
        .iter()
        .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    at + word.count()
}
