//! Statements and expressions, read with a stack of our own instead of recursion.
//!
//! ```text
//! block      = { statement ( ";" | newline ) }
//! statement  = [ NAME "=" ] expression
//! expression = operand { "+" operand }
//! operand    = ( text+ | [ "-" ] number | NAME | "(" … ")" | "[" … "]" | "{" … "}" | call )
//!              { "[" expression "]" | ".keys()" }
//! call       = NAME "(" [ argument { "," argument } [ "," ] ] ")"
//! argument   = [ NAME "=" ] expression
//! ```

use std::collections::HashMap;
use std::rc::Rc;

use super::limits::MAX_ITEMS;
use super::program::{Focus, Function, Program};
use super::refusal::{Refusal, RefusalReason};
use super::token::{Placed, Token, tokens};
use super::value::{Fault, Value};
use crate::call::ToolCall;

/// Reads a block.
pub(super) fn read(code: &str) -> Result<ToolCall, Refusal> {
    let code = code.replace("\r\n", "\n").replace('\r', "\n");
    let tokens = tokens(&code)?;
    let mut reader = Reader {
        tokens: &tokens,
        at: 0,
        program: Program::new(),
    };
    reader.block()?;
    let line = tokens.last().map_or(1, |placed| placed.line);
    reader.program.finish(line)
}

/// An open bracket.
enum Frame<'a> {
    /// No bracket: the statement itself.
    Statement,
    Paren {
        items: Vec<Value>,
        comma: bool,
    },
    List(Vec<Value>),
    Dict {
        entries: Vec<(String, Value)>,
        places: HashMap<String, usize>,
        key: Option<String>,
    },
    Index(Value),
    Call {
        function: Function,
        positional: Vec<Value>,
        keywords: Vec<(&'a str, Value)>,
        keyword: Option<&'a str>,
    },
}

/// An open bracket and the left side of the `+` that is being read within it.
struct Level<'a> {
    frame: Frame<'a>,
    left: Option<Value>,
}

struct Reader<'a, 't> {
    tokens: &'t [Placed<'a>],
    at: usize,
    program: Program<'a>,
}

impl<'a, 't> Reader<'a, 't> {
    fn peek(&self, ahead: usize) -> Option<&'t Token<'a>> {
        self.tokens.get(self.at + ahead).map(|placed| &placed.token)
    }

    fn is_sign(&self, ahead: usize, sign: &str) -> bool {
        matches!(self.peek(ahead), Some(Token::Sign(found)) if *found == sign)
    }

    fn line(&self) -> usize {
        let place = self.at.min(self.tokens.len().saturating_sub(1));
        self.tokens.get(place).map_or(1, |placed| placed.line)
    }

    fn refuse(&self, reason: RefusalReason, detail: impl AsRef<str>) -> Refusal {
        Refusal::new(reason, self.line(), detail)
    }

    fn fault(&self, (reason, detail): Fault) -> Refusal {
        self.refuse(reason, detail)
    }

    fn block(&mut self) -> Result<(), Refusal> {
        while let Some(token) = self.peek(0) {
            if *token == Token::Newline {
                self.at += 1;
                continue;
            }
            if *token == Token::Indent {
                return Err(self.refuse(RefusalReason::Indentation, ""));
            }
            self.program.statements += 1;
            if self.program.statements > MAX_ITEMS {
                let detail = format!("more than {MAX_ITEMS} statements");
                return Err(self.refuse(RefusalReason::TooLong, detail));
            }
            self.statement()?;
            match self.peek(0) {
                None => {}
                Some(Token::Newline) => self.at += 1,
                Some(Token::Sign(";")) => self.at += 1,
                Some(Token::Sign(sign @ ("=" | ","))) => {
                    let detail = format!("`{sign}`: only `name = value` is read");
                    return Err(self.refuse(RefusalReason::Statement, detail));
                }
                Some(token) => return Err(self.refuse(RefusalReason::Syntax, describe(token))),
            }
        }
        Ok(())
    }

    fn statement(&mut self) -> Result<(), Refusal> {
        let target = match self.peek(0) {
            Some(Token::Name(name)) if self.is_sign(1, "=") => {
                self.check_keyword(name)?;
                if Function::named(name).is_some() || matches!(*name, "True" | "False" | "None") {
                    let detail = format!("an assignment to {name}");
                    return Err(self.refuse(RefusalReason::Statement, detail));
                }
                self.at += 2;
                Some(*name)
            }
            _ => None,
        };
        let (value, is_focus) = self.expression()?;
        let result = match value {
            Value::Image(image) if is_focus => Some(image),
            _ => None,
        };
        let place = target.map(|name| self.program.assign(name, value));
        if let Some(image) = result {
            self.program.last_focus = Some(match place {
                Some(place) => Focus::Variable(place),
                None => Focus::Result(image),
            });
        }
        Ok(())
    }

    /// Refuses the words of Python's grammar.
    fn check_keyword(&self, name: &str) -> Result<(), Refusal> {
        let reason = match name {
            "import" | "from" => RefusalReason::Import,
            "for" | "while" => RefusalReason::Loop,
            "if" | "elif" | "else" => RefusalReason::Conditional,
            "def" | "class" | "lambda" => RefusalReason::Definition,
            "and" | "or" | "not" | "in" | "is" => RefusalReason::Operator,
            "as" | "assert" | "async" | "await" | "break" | "continue" | "del" | "except"
            | "finally" | "global" | "nonlocal" | "pass" | "raise" | "return" | "try" | "with"
            | "yield" => RefusalReason::Statement,
            _ => return Ok(()),
        };
        Err(self.refuse(reason, name))
    }

    /// Reads an expression, up to what cannot belong to it. Also tells whether the expression is
    /// nothing but the call of a tool.
    fn expression(&mut self) -> Result<(Value, bool), Refusal> {
        let mut levels = vec![Level {
            frame: Frame::Statement,
            left: None,
        }];
        let mut is_focus = false;
        // The operand that has just been read, its look-ups included; none where one is due.
        let mut operand: Option<Value> = None;
        loop {
            // There is always the level of the statement itself.
            let Some(level) = levels.last_mut() else {
                return Err(self.refuse(RefusalReason::Syntax, ""));
            };
            let Some(value) = operand.take() else {
                is_focus = false;
                match self.operand(level)? {
                    Due::Operand(value) => operand = Some(value),
                    Due::Open(frame) => levels.push(Level { frame, left: None }),
                    Due::Keyword => {}
                    Due::Close => {
                        operand = Some(self.close(&mut levels)?);
                    }
                }
                continue;
            };
            match self.peek(0) {
                Some(Token::Sign("[")) => {
                    self.at += 1;
                    levels.push(Level {
                        frame: Frame::Index(value),
                        left: None,
                    });
                }
                Some(Token::Sign(".")) => {
                    operand = Some(self.attribute(&value)?);
                    is_focus = false;
                }
                Some(Token::Sign("(")) => {
                    let detail = format!("{} is called", value.kind());
                    return Err(self.refuse(RefusalReason::UnknownFunction, detail));
                }
                Some(Token::Sign("+")) => {
                    let sum = self.sum(level, value)?;
                    self.at += 1;
                    level.left = Some(sum);
                    is_focus = false;
                }
                Some(Token::Sign("," | ")" | "]" | "}" | ":" | "=" | ";") | Token::Newline)
                | None => {
                    let value = self.sum(level, value)?;
                    if matches!(level.frame, Frame::Statement) {
                        return Ok((value, is_focus));
                    }
                    is_focus = is_focus && matches!(level.frame, Frame::Paren { .. });
                    self.deliver(level, value)?;
                    match self.peek(0) {
                        Some(Token::Sign("," | ":")) => self.at += 1,
                        _ => {
                            let made_by_tool = matches!(
                                level.frame,
                                Frame::Call {
                                    function: Function::Tool(_),
                                    ..
                                }
                            );
                            let is_plain = matches!(&level.frame, Frame::Paren { items, comma: false } if items.len() == 1);
                            is_focus = made_by_tool || (is_focus && is_plain);
                            operand = Some(self.close(&mut levels)?);
                        }
                    }
                }
                Some(Token::Name("for")) if levels.len() > 1 => {
                    return Err(self.refuse(RefusalReason::Comprehension, "for"));
                }
                Some(Token::Name(name)) => {
                    self.check_keyword(name)?;
                    return Err(self.refuse(RefusalReason::Syntax, name));
                }
                Some(Token::Sign(sign)) => return Err(self.refuse(RefusalReason::Operator, sign)),
                Some(token) => return Err(self.refuse(RefusalReason::Syntax, describe(token))),
            }
        }
    }

    fn sum(&self, level: &mut Level<'a>, value: Value) -> Result<Value, Refusal> {
        match level.left.take() {
            Some(left) => left.plus(&value).map_err(|fault| self.fault(fault)),
            None => Ok(value),
        }
    }

    /// Reads the beginning of an operand.
    fn operand(&mut self, level: &mut Level<'a>) -> Result<Due<'a>, Refusal> {
        let token = match self.peek(0) {
            Some(token) => token,
            None => {
                return Err(self.refuse(RefusalReason::Syntax, "the code ends in an expression"));
            }
        };
        match token {
            Token::Text(_) => {
                let mut joined = String::new();
                while let Some(Token::Text(text)) = self.peek(0) {
                    joined.push_str(text);
                    self.at += 1;
                }
                Ok(Due::Operand(Value::Text(joined.into())))
            }
            Token::Number(number) => {
                self.at += 1;
                Ok(Due::Operand(Value::Number(*number)))
            }
            Token::Sign("-") => match self.peek(1) {
                Some(Token::Number(number)) => {
                    self.at += 2;
                    Ok(Due::Operand(Value::Number(-number)))
                }
                _ => Err(self.refuse(RefusalReason::Operator, "-")),
            },
            Token::Sign("(") => {
                self.at += 1;
                Ok(Due::Open(Frame::Paren {
                    items: Vec::new(),
                    comma: false,
                }))
            }
            Token::Sign("[") => {
                self.at += 1;
                Ok(Due::Open(Frame::List(Vec::new())))
            }
            Token::Sign("{") => {
                self.at += 1;
                Ok(Due::Open(Frame::Dict {
                    entries: Vec::new(),
                    places: HashMap::new(),
                    key: None,
                }))
            }
            Token::Sign(")" | "]" | "}") => {
                // Nothing, or a comma, stands before the bracket.
                let is_due = level.left.is_some()
                    || match &level.frame {
                        Frame::Statement | Frame::Index(_) => true,
                        Frame::Paren { .. } | Frame::List(_) => false,
                        Frame::Dict { key, .. } => key.is_some(),
                        Frame::Call { keyword, .. } => keyword.is_some(),
                    };
                match is_due {
                    true => Err(self.refuse(RefusalReason::Syntax, describe(token))),
                    false => Ok(Due::Close),
                }
            }
            Token::Sign(sign @ ("*" | "**" | "+" | "~")) => {
                Err(self.refuse(RefusalReason::Operator, sign))
            }
            Token::Sign(_) | Token::Newline | Token::Indent => {
                Err(self.refuse(RefusalReason::Syntax, describe(token)))
            }
            Token::Name(name) => self.name(name, level),
        }
    }

    fn name(&mut self, name: &'a str, level: &mut Level<'a>) -> Result<Due<'a>, Refusal> {
        self.check_keyword(name)?;
        if matches!(name, "True" | "False" | "None") {
            self.at += 1;
            return Ok(Due::Operand(Value::Constant));
        }
        if self.is_sign(1, "(") {
            let Some(function) = Function::named(name) else {
                return Err(self.refuse(RefusalReason::UnknownFunction, name));
            };
            self.at += 2;
            return Ok(Due::Open(Frame::Call {
                function,
                positional: Vec::new(),
                keywords: Vec::new(),
                keyword: None,
            }));
        }
        if let Frame::Call { keyword, .. } = &mut level.frame
            && self.is_sign(1, "=")
            && keyword.is_none()
            && level.left.is_none()
        {
            *keyword = Some(name);
            self.at += 2;
            return Ok(Due::Keyword);
        }
        match self.program.get(name) {
            Some(value) => {
                let value = value.clone();
                self.at += 1;
                Ok(Due::Operand(value))
            }
            None if self.is_sign(1, ".") => Err(self.refuse(RefusalReason::Attribute, name)),
            None if self.is_comprehension(level) => {
                Err(self.refuse(RefusalReason::Comprehension, "for"))
            }
            None => Err(self.refuse(RefusalReason::UnknownName, name)),
        }
    }

    /// Whether the bracket being read holds a `for`: its variable is not known before it.
    fn is_comprehension(&self, level: &Level) -> bool {
        let mut depth = 0_usize;
        if matches!(level.frame, Frame::Statement) {
            return false;
        }
        for placed in &self.tokens[self.at..] {
            match placed.token {
                Token::Sign("(" | "[" | "{") => depth += 1,
                Token::Sign(")" | "]" | "}") if depth == 0 => return false,
                Token::Sign(")" | "]" | "}") => depth -= 1,
                Token::Name("for") if depth == 0 => return true,
                _ => {}
            }
        }
        false
    }

    /// `.keys()`, the only attribute.
    fn attribute(&mut self, value: &Value) -> Result<Value, Refusal> {
        let is_keys = matches!(self.peek(1), Some(Token::Name("keys")))
            && self.is_sign(2, "(")
            && self.is_sign(3, ")");
        if !is_keys {
            let detail = match self.peek(1) {
                Some(Token::Name(name)) => format!(".{name}"),
                _ => ".".to_owned(),
            };
            return Err(self.refuse(RefusalReason::Attribute, detail));
        }
        let keys = value.keys().map_err(|fault| self.fault(fault))?;
        self.at += 4;
        Ok(keys)
    }

    /// Hands a finished value to the bracket that it stands in; the next token is looked at only.
    fn deliver(&self, level: &mut Level<'a>, value: Value) -> Result<(), Refusal> {
        let next = match self.peek(0) {
            Some(Token::Sign(sign)) => *sign,
            _ => "",
        };
        let syntax = || match self.peek(0) {
            Some(token) => self.refuse(RefusalReason::Syntax, describe(token)),
            None => self.refuse(RefusalReason::Syntax, "the code ends in an expression"),
        };
        let is_keying = next == ":" && matches!(&level.frame, Frame::Dict { key: None, .. });
        if matches!(next, ":" | "=" | ";" | "") && !is_keying {
            return Err(match (&level.frame, next) {
                (Frame::Index(_), ":") => self.refuse(RefusalReason::LookUp, "a slice"),
                _ => syntax(),
            });
        }
        let full = |length: usize| match length < MAX_ITEMS {
            true => Ok(()),
            false => Err(self.refuse(
                RefusalReason::TooLong,
                format!("more than {MAX_ITEMS} items"),
            )),
        };
        match &mut level.frame {
            Frame::Statement => return Err(syntax()),
            Frame::Paren { items, comma } => {
                full(items.len())?;
                *comma |= next == ",";
                items.push(value);
            }
            Frame::List(items) => {
                full(items.len())?;
                value.check_item().map_err(|fault| self.fault(fault))?;
                items.push(value);
            }
            Frame::Dict {
                entries,
                places,
                key,
            } => match key.take() {
                None if is_keying => match value {
                    Value::Text(text) => *key = Some(text.to_string()),
                    other => {
                        let detail = format!("{} as a key", other.kind());
                        return Err(self.refuse(RefusalReason::ArgumentKind, detail));
                    }
                },
                None => return Err(self.refuse(RefusalReason::ArgumentKind, "a set")),
                Some(name) => {
                    full(entries.len())?;
                    value.check_entry().map_err(|fault| self.fault(fault))?;
                    match places.get(&name) {
                        Some(&place) => entries[place].1 = value,
                        None => {
                            places.insert(name.clone(), entries.len());
                            entries.push((name, value));
                        }
                    }
                }
            },
            Frame::Index(target) => {
                if next == "," {
                    return Err(self.refuse(RefusalReason::LookUp, "several indices"));
                }
                *target = target.look_up(&value).map_err(|fault| self.fault(fault))?;
            }
            Frame::Call {
                positional,
                keywords,
                keyword,
                ..
            } => {
                full(positional.len() + keywords.len())?;
                match keyword.take() {
                    Some(name) => keywords.push((name, value)),
                    None if keywords.is_empty() => positional.push(value),
                    None => {
                        let detail = "a positional argument after a keyword";
                        return Err(self.refuse(RefusalReason::Syntax, detail));
                    }
                }
            }
        }
        Ok(())
    }

    /// Closes the innermost bracket, at its closing sign, and returns what it is worth.
    fn close(&mut self, levels: &mut Vec<Level<'a>>) -> Result<Value, Refusal> {
        let found = match self.peek(0) {
            Some(Token::Sign(sign)) => *sign,
            _ => "",
        };
        let Some(Level { frame, .. }) = levels.pop() else {
            return Err(self.refuse(RefusalReason::Syntax, found));
        };
        let expected = match frame {
            Frame::Statement => "",
            Frame::Paren { .. } | Frame::Call { .. } => ")",
            Frame::List(_) | Frame::Index(_) => "]",
            Frame::Dict { .. } => "}",
        };
        if found != expected || found.is_empty() {
            let detail = format!("expected {expected}, found {found}");
            return Err(self.refuse(RefusalReason::Syntax, detail));
        }
        let value = match frame {
            Frame::Statement => Value::Constant,
            Frame::Paren { mut items, comma } => match (items.len(), comma) {
                (1, false) => items.swap_remove(0),
                _ => {
                    for item in &items {
                        item.check_item().map_err(|fault| self.fault(fault))?;
                    }
                    Value::List(Rc::new(items))
                }
            },
            Frame::List(items) => Value::List(Rc::new(items)),
            Frame::Dict { entries, .. } => Value::Dict(Rc::new(entries)),
            Frame::Index(value) => value,
            Frame::Call {
                function,
                positional,
                keywords,
                ..
            } => self
                .program
                .call(function, positional, keywords)
                .map_err(|fault| self.fault(fault))?,
        };
        self.at += 1;
        Ok(value)
    }
}

/// What stands where an operand is due.
enum Due<'a> {
    Operand(Value),
    Open(Frame<'a>),
    /// `name =` in a call: the operand is still due.
    Keyword,
    /// The bracket ends here.
    Close,
}

fn describe(token: &Token) -> String {
    match token {
        Token::Name(name) => format!("`{name}`"),
        Token::Number(number) => format!("number {number}"),
        Token::Text(text) => format!("string {text:?}"),
        Token::Sign(sign) => format!("`{sign}`"),
        Token::Newline => "end of line".to_owned(),
        Token::Indent => "indent".to_owned(),
    }
}
