//! CPython 3.11's reading of white space, numbers and case, on which the official verdicts rest.
//!
//! Source: CPython `unicodeobject.c` (`_PyUnicode_TransformDecimalAndSpaceToASCII`, `str.lower`),
//! `longobject.c`, `pystrtod.c`; checked against `golden/scorers/numbers.jsonl`, `text.jsonl` and
//! a digest over every code point. `str.strip` and `\s` take U+001C to U+001F for white space,
//! `int` and `float` do not.

use std::borrow::Cow;
use std::fmt;

use super::unicode::{DECIMAL, UNASSIGNED, WORD};

/// `int` refuses more digits than this (`sys.int_info.default_max_str_digits`).
const MAX_DIGITS: usize = 4300;

/// Where `c` stands in a table of sorted, inclusive ranges: the start of its range.
pub(super) fn range_start(table: &[(u32, u32)], c: char) -> Option<u32> {
    let code = c as u32;
    let after = table.partition_point(|&(first, _)| first <= code);
    let (first, last) = *table.get(after.checked_sub(1)?)?;
    (code <= last).then_some(first)
}

/// `str.isspace` of one character, and the regular expression `\s`.
pub fn is_space(c: char) -> bool {
    matches!(c, '\u{1c}'..='\u{1f}') || c.is_whitespace()
}

/// The regular expression `\w`.
pub fn is_word(c: char) -> bool {
    if c.is_ascii() {
        c.is_ascii_alphanumeric() || c == '_'
    } else {
        range_start(&WORD, c).is_some()
    }
}

/// The value of a decimal digit of any script.
pub fn decimal(c: char) -> Option<u8> {
    if c.is_ascii() {
        return c.to_digit(10).map(|digit| digit as u8);
    }
    let first = range_start(&DECIMAL, c)?;
    Some(((c as u32 - first) % 10) as u8)
}

/// Whether Python's Unicode version has no such character.
pub(super) fn is_unassigned(c: char) -> bool {
    !c.is_ascii() && range_start(&UNASSIGNED, c).is_some()
}

/// `str.strip()`.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.lower()`, final sigma included.
pub fn lower(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    if !text.contains(is_unassigned) {
        return text.to_lowercase();
    }
    // A character that Python does not know stays, and ends a word like a space does.
    let mut lowered = String::with_capacity(text.len());
    for part in text.split_inclusive(is_unassigned) {
        let known = part.trim_end_matches(is_unassigned);
        lowered += &known.to_lowercase();
        lowered += &part[known.len()..];
    }
    lowered
}

/// An integer of any size: canonical decimal digits, `-` in front of a negative one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Integer(String);

impl Integer {
    fn new(negative: bool, digits: &str) -> Self {
        match digits.trim_start_matches('0') {
            "" => Integer("0".to_owned()),
            digits if negative => Integer(format!("-{digits}")),
            digits => Integer(digits.to_owned()),
        }
    }

    /// `int(x)`: a finite float without its fraction.
    pub fn truncated(x: f64) -> Self {
        // Rust prints every digit of the exact value.
        let digits = format!("{:.0}", x.trunc().abs());
        Integer::new(x < 0.0, &digits)
    }

    /// `float(n)`; `None` where Python raises OverflowError.
    pub fn to_float(&self) -> Option<f64> {
        let x: f64 = self.0.parse().ok()?;
        x.is_finite().then_some(x)
    }

    /// The value, if it fits.
    pub fn small(&self) -> Option<i64> {
        self.0.parse().ok()
    }
}

impl fmt::Display for Integer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text as `int` and `float` see it: digits and white space of other scripts become ASCII,
/// anything else becomes `?`; then white space of the C locale is cut off both ends.
fn number_text(text: &str) -> Cow<'_, str> {
    let c_space = |c: char| matches!(c, '\t'..='\r' | ' ');
    if text.is_ascii() {
        return Cow::Borrowed(text.trim_matches(c_space));
    }
    let ascii = text.chars().map(|c| match c {
        '\0'..='\x7e' => c,
        c if is_space(c) => ' ',
        c => decimal(c).map_or('?', |digit| char::from(b'0' + digit)),
    });
    let ascii: String = ascii.collect();
    Cow::Owned(ascii.trim_matches(c_space).to_owned())
}

/// Removes underscores; `None` if one does not stand between two digits.
fn without_underscores(text: Cow<'_, str>) -> Option<Cow<'_, str>> {
    if !text.contains('_') {
        return Some(text);
    }
    let bytes = text.as_bytes();
    let digit = |at: Option<usize>| {
        at.and_then(|at| bytes.get(at))
            .is_some_and(u8::is_ascii_digit)
    };
    let well_placed = bytes
        .iter()
        .enumerate()
        .all(|(i, &byte)| byte != b'_' || (digit(i.checked_sub(1)) && digit(Some(i + 1))));
    well_placed.then(|| Cow::Owned(text.replace('_', "")))
}

/// `int(text)`; `None` where Python raises ValueError.
pub fn parse_int(text: &str) -> Option<Integer> {
    let text = without_underscores(number_text(text))?;
    let negative = text.starts_with('-');
    let digits = text.strip_prefix(['+', '-']).unwrap_or(&text);
    let well_formed = !digits.is_empty()
        && digits.len() <= MAX_DIGITS
        && digits.bytes().all(|byte| byte.is_ascii_digit());
    well_formed.then(|| Integer::new(negative, digits))
}

/// `float(text)`, infinities and NaN included; `None` where Python raises ValueError.
pub fn parse_float(text: &str) -> Option<f64> {
    // After white space and underscores the two languages read the same grammar.
    without_underscores(number_text(text))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn large_floats_become_exact_integers() {
        assert_eq!(
            Integer::truncated(1e23).to_string(),
            "99999999999999991611392"
        );
        assert_eq!(Integer::truncated(-0.9).to_string(), "0");
        assert_eq!(Integer::truncated(-2.5).to_string(), "-2");
        let huge = parse_int(&"9".repeat(400)).expect("digits");
        assert_eq!((huge.to_float(), huge.small()), (None, None));
    }

    #[test]
    fn an_unknown_character_ends_a_word() {
        assert_eq!(lower("ΑΣ\u{378}ΑΣ"), "ας\u{378}ας");
        // U+A7DC is a capital letter since Unicode 16.
        assert_eq!(lower("\u{a7dc}A"), "\u{a7dc}a");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn any_text_is_read(text in any::<String>()) {
            let stripped = strip(&text);
            prop_assert_eq!(strip(stripped), stripped);
            let _ = (lower(&text), parse_float(&text));
            if parse_int(&text).is_some() {
                prop_assert!(parse_float(&text).is_some());
            }
        }

        #[test]
        fn integers_come_back(n in any::<i64>()) {
            prop_assert_eq!(parse_int(&format!(" {n}\u{2003}")).and_then(|n| n.small()), Some(n));
        }

        #[test]
        fn floats_come_back(x in any::<f64>()) {
            let back = parse_float(&format!("{x:?}")).expect("Rust's notation is Python's");
            prop_assert!(back == x || x.is_nan());
        }
    }
}
