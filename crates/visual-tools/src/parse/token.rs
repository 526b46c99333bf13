//! The tokens of the small Python subset.

use super::limits::{MAX_BYTES, MAX_DEPTH};
use super::refusal::{Refusal, RefusalReason};

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'a> {
    Name(&'a str),
    Number(f64),
    Text(String),
    /// A bracket, `,` `:` `.` `=` `+` `-` `;`, or another operator, which the grammar refuses.
    Sign(&'a str),
    /// End of a logical line.
    Newline,
    /// White space before the first token of a logical line.
    Indent,
}

/// A token and its line, from 1.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Placed<'a> {
    pub token: Token<'a>,
    pub line: usize,
}

struct Scanner<'a> {
    code: &'a str,
    at: usize,
    line: usize,
    depth: usize,
    tokens: Vec<Placed<'a>>,
}

/// Longest first, so that `==` is not read as twice `=`.
const SIGNS: [&str; 48] = [
    "**=", "//=", ">>=", "<<=", "...", "**", "//", ">>", "<<", "==", "!=", "<=", ">=", "->", "+=",
    "-=", "*=", "/=", "%=", "&=", "|=", "^=", "@=", ":=", "(", ")", "[", "]", "{", "}", ",", ":",
    ".", "=", "+", "-", ";", "*", "/", "%", "<", ">", "&", "|", "^", "~", "@", "!",
];

/// Splits `code` (line ends already `\n`) into tokens; always ends with a newline token.
pub(super) fn tokens(code: &str) -> Result<Vec<Placed<'_>>, Refusal> {
    if code.len() > MAX_BYTES {
        return Err(Refusal::new(
            RefusalReason::TooLong,
            1,
            format!("{} bytes, at most {MAX_BYTES} are read", code.len()),
        ));
    }
    let mut scanner = Scanner {
        code,
        at: 0,
        line: 1,
        depth: 0,
        tokens: Vec::new(),
    };
    while scanner.step()? {}
    if scanner.depth > 0 {
        return Err(scanner.refuse(RefusalReason::Syntax, "a bracket is not closed"));
    }
    scanner.newline();
    Ok(scanner.tokens)
}

impl<'a> Scanner<'a> {
    fn refuse(&self, reason: RefusalReason, detail: impl AsRef<str>) -> Refusal {
        Refusal::new(reason, self.line, detail)
    }

    fn rest(&self) -> &'a str {
        &self.code[self.at..]
    }

    fn push(&mut self, token: Token<'a>) {
        let line = self.line;
        self.tokens.push(Placed { token, line });
    }

    /// Ends the logical line, unless brackets are open or the line is empty.
    fn newline(&mut self) {
        let is_empty = matches!(
            self.tokens.last(),
            None | Some(Placed {
                token: Token::Newline,
                ..
            })
        );
        if self.depth == 0 && !is_empty {
            self.push(Token::Newline);
        }
    }

    /// Whether the next token opens a logical line.
    fn at_line_start(&self) -> bool {
        self.depth == 0 && (self.at == 0 || self.code[..self.at].ends_with('\n'))
    }

    /// Reads one token; false at the end.
    fn step(&mut self) -> Result<bool, Refusal> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return Ok(false);
        };
        match first {
            '\n' => {
                self.newline();
                self.at += 1;
                self.line += 1;
            }
            ' ' | '\t' | '\x0c' => {
                let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\x0c']).len();
                let next = self.code[self.at + blank..].chars().next();
                // Blank lines and lines with a comment alone may be indented; a form feed resets.
                let counts = rest[..blank].contains([' ', '\t']);
                if self.at_line_start() && counts && !matches!(next, None | Some('\n' | '#')) {
                    self.push(Token::Indent);
                }
                self.at += blank;
            }
            '#' => self.at += rest.find('\n').unwrap_or(rest.len()),
            '"' | '\'' => self.string()?,
            '0'..='9' => self.number()?,
            '.' if rest[1..].starts_with(|c: char| c.is_ascii_digit()) => self.number()?,
            c if c.is_ascii_alphabetic() || c == '_' => {
                let end = rest
                    .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                    .unwrap_or(rest.len());
                let word = &rest[..end];
                if rest[end..].starts_with(['"', '\'']) {
                    self.at += end;
                    match word.to_ascii_lowercase().as_str() {
                        // Without backslashes a raw string is an ordinary one.
                        "r" | "u" => self.string()?,
                        "f" | "b" | "rf" | "fr" | "rb" | "br" | "t" | "rt" | "tr" => {
                            return Err(self.refuse(RefusalReason::FormatString, word));
                        }
                        _ => {
                            return Err(
                                self.refuse(RefusalReason::Syntax, format!("{word} and a string"))
                            );
                        }
                    }
                } else {
                    self.push(Token::Name(word));
                    self.at += end;
                }
            }
            _ => self.sign(first)?,
        }
        Ok(true)
    }

    fn sign(&mut self, first: char) -> Result<(), Refusal> {
        let rest = self.rest();
        let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) else {
            let shown = match first.is_control() {
                true => format!("U+{:04X}", u32::from(first)),
                false => format!("{first:?} (U+{:04X})", u32::from(first)),
            };
            return Err(self.refuse(RefusalReason::Character, shown));
        };
        match sign {
            "(" | "[" | "{" => {
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    let detail = format!("more than {MAX_DEPTH}");
                    return Err(self.refuse(RefusalReason::TooDeep, detail));
                }
            }
            ")" | "]" | "}" => match self.depth.checked_sub(1) {
                Some(depth) => self.depth = depth,
                None => return Err(self.refuse(RefusalReason::Syntax, format!("unmatched {sign}"))),
            },
            _ => {}
        }
        // The slice of the code lives as long as the tokens; the constant would do as well.
        self.push(Token::Sign(&rest[..sign.len()]));
        self.at += sign.len();
        Ok(())
    }

    fn number(&mut self) -> Result<(), Refusal> {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        let mut end = 0;
        while let Some(&byte) = bytes.get(end) {
            let exponent_sign = matches!(byte, b'+' | b'-')
                && end > 0
                && matches!(bytes[end - 1], b'e' | b'E')
                && bytes[..end - 1]
                    .iter()
                    .all(|b| matches!(b, b'0'..=b'9' | b'.' | b'_'));
            if !(byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_' || exponent_sign) {
                break;
            }
            end += 1;
        }
        let word = &rest[..end];
        let plain = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-' | '_');
        let value = match word.chars().all(plain) && !word.contains("__") && !word.ends_with('_') {
            true => word.replace('_', "").parse::<f64>().ok(),
            false => None,
        };
        let Some(value) = value else {
            return Err(self.refuse(RefusalReason::Syntax, format!("number {word}")));
        };
        self.push(Token::Number(value));
        self.at += end;
        Ok(())
    }

    fn string(&mut self) -> Result<(), Refusal> {
        let rest = self.rest();
        let quote = &rest[..1];
        let triple = rest.len() >= 3
            && rest.as_bytes()[..3]
                .iter()
                .all(|b| *b == quote.as_bytes()[0]);
        let open = if triple { 3 } else { 1 };
        let body = &rest[open..];
        let Some(end) = body.find(&rest[..open]) else {
            return Err(self.refuse(RefusalReason::Unterminated, first_line(rest)));
        };
        let content = &body[..end];
        if !triple && content.contains('\n') {
            return Err(self.refuse(RefusalReason::Unterminated, first_line(rest)));
        }
        if content.contains('\0') {
            return Err(self.refuse(RefusalReason::Character, "U+0000"));
        }
        self.push(Token::Text(content.to_owned()));
        self.line += content.matches('\n').count();
        self.at += open + end + open;
        Ok(())
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
