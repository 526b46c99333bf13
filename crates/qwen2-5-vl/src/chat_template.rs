//! The checkpoint's own chat template, rendered as transformers renders it: Jinja with
//! `trim_blocks` and `lstrip_blocks`, Python's string and dict methods, `raise_exception`, and
//! generation blocks.
//!
//! A template is a program that came with a download, so what it may do is bounded by what it is given:
//! the steps it takes, the bytes it writes and the texts it makes on the way.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, Serde, Value as Jinja, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::{Map, Value};

use crate::processor_error::ProcessorError;
use crate::template_source::{self, GROWN, HELD};

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    path: PathBuf,
}

const NAME: &str = "chat_template";

/// No chat template comes near (Qwen2.5-VL's has 1,100 bytes, the longest known some 30,000).
const LARGEST_SOURCE: usize = 1 << 20;

/// What one rendering may use.
#[derive(Clone, Copy)]
struct Limits {
    /// Steps of minijinja's machine.
    steps: u64,
    /// Bytes of the output, and of any text on the way to it.
    bytes: usize,
}

impl Limits {
    /// Real templates take some 60 steps for a part of a message and write every text once.
    fn of(context: &Map<String, Value>) -> Self {
        let (mut values, mut bytes) = (0, 0);
        context
            .values()
            .for_each(|value| measure(value, &mut values, &mut bytes));
        Limits {
            steps: 100_000 + 2_000 * values,
            bytes: (1 << 20) + 16 * bytes,
        }
    }
}

fn measure(value: &Value, values: &mut u64, bytes: &mut usize) {
    *values += 1;
    match value {
        Value::String(text) => *bytes += text.len(),
        Value::Array(list) => list.iter().for_each(|value| measure(value, values, bytes)),
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            *bytes += key.len();
            measure(value, values, bytes);
        }),
        _ => {}
    }
}

impl ChatTemplate {
    /// Compiles a template; `path` is the file that errors name.
    ///
    /// # Errors
    /// [`ProcessorError::Template`] when it does not compile.
    pub fn new(source: String, path: &Path) -> Result<Self, ProcessorError> {
        let stage = "does not compile";
        if source.len() > LARGEST_SOURCE {
            return Err(ProcessorError::Template {
                path: path.to_owned(),
                stage,
                reason: format!("it has {} bytes, at most {LARGEST_SOURCE}", source.len()),
            });
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|error| failed(path, stage, &error))?;
        environment.set_syntax(syntax.clone());
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.add_function(
            "raise_exception",
            |message: String| -> Result<String, Error> {
                Err(Error::new(ErrorKind::InvalidOperation, message))
            },
        );
        // Called when rendering, which puts the one that counts in its place.
        environment.add_function(GROWN, |value: Jinja| value);
        environment.add_filter(HELD, |value: Jinja| -> Result<Jinja, Error> {
            let mut left = MOST_HELD;
            match holds_namespace(&value, 0, &mut left) {
                false if left > 0 => Ok(value),
                _ => Err(Error::new(
                    ErrorKind::InvalidOperation,
                    "a namespace may hold neither a namespace nor more than 100,000 values",
                )),
            }
        });
        let prepared = template_source::prepare(&source, &syntax).map_err(|reason| {
            ProcessorError::Template {
                path: path.to_owned(),
                stage,
                reason,
            }
        })?;
        environment
            .add_template_owned(NAME, prepared)
            .map_err(|error| failed(path, stage, &error))?;
        Ok(Self {
            environment,
            path: path.to_owned(),
        })
    }

    /// Finds the template in the content of a `chat_template.json` or `tokenizer_config.json`: the
    /// string `chat_template`, or the one named `default` in a list.
    pub(crate) fn source_in(config: &Value) -> Option<String> {
        let template = config.get("chat_template")?;
        let named = |list: &Vec<Value>| {
            list.iter()
                .find(|entry| entry["name"] == "default")
                .and_then(|entry| entry["template"].as_str())
                .map(str::to_owned)
        };
        template
            .as_str()
            .map(str::to_owned)
            .or_else(|| template.as_array().and_then(named))
    }

    /// Renders messages in the form that transformers takes: a list of
    /// `{"role", "content": string or list of {"type": "text", "text"} and {"type": "image"}}`.
    /// `arguments` are further variables of the template, such as `add_vision_id`.
    ///
    /// # Errors
    /// [`ProcessorError::Template`] when it does not render, or takes more steps, bytes or memory than
    /// messages of this size can ask for.
    pub fn render(
        &self,
        messages: &Value,
        add_generation_prompt: bool,
        arguments: &Map<String, Value>,
    ) -> Result<String, ProcessorError> {
        let mut context = arguments.clone();
        context.insert("messages".into(), messages.clone());
        context.insert("add_generation_prompt".into(), add_generation_prompt.into());
        let limits = Limits::of(&context);
        let environment = self.bounded(limits);
        let mut output = Bounded {
            written: Vec::new(),
            limit: limits.bytes,
        };
        let rendered = environment
            .get_template(NAME)
            .and_then(|template| {
                template
                    .render_captured_to(Serde(&context), &mut output)
                    .map(|_| ())
            })
            .map_err(|error| {
                let out_of_steps = error.kind() == ErrorKind::OutOfFuel;
                let too_long = output.written.len() > limits.bytes;
                let reason = if out_of_steps {
                    format!("it took more than {} steps", limits.steps)
                } else if too_long {
                    format!("it wrote more than {} bytes", limits.bytes)
                } else {
                    return failed(&self.path, "does not render", &error);
                };
                ProcessorError::Template {
                    path: self.path.clone(),
                    stage: "does not render",
                    reason: format!("{reason}, the limit for these messages: does it loop?"),
                }
            });
        rendered?;
        String::from_utf8(output.written).map_err(|error| ProcessorError::Template {
            path: self.path.clone(),
            stage: "does not render",
            reason: error.to_string(),
        })
    }

    /// The environment with limits that count for one rendering.
    fn bounded(&self, limits: Limits) -> Environment<'static> {
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(limits.steps));
        let made = Arc::new(Made {
            limits,
            bytes: AtomicUsize::new(0),
        });
        let counter = made.clone();
        environment.add_function(GROWN, move |value: Jinja| -> Result<Jinja, Error> {
            counter.count(size(&value))?;
            Ok(value)
        });
        // Also what is written into `{% set x %} … {% endset %}` and by macros.
        let counter = made.clone();
        environment.set_formatter(move |out, state, value| {
            counter.count(size(value))?;
            minijinja::escape_formatter(out, state, value)
        });
        let counter = made.clone();
        environment.add_filter(
            "replace",
            move |state: &mut State, text: Jinja, from: Jinja, to: Jinja| -> Result<Jinja, Error> {
                counter.product("replace", &text, &to)?;
                state
                    .env()
                    .empty_state()
                    .apply_filter("__replace", &[text, from, to])
            },
        );
        environment.add_filter("__replace", minijinja::filters::replace);
        let counter = made.clone();
        environment.add_filter(
            "join",
            move |state: &mut State, items: Jinja, by: Rest<Jinja>| -> Result<Jinja, Error> {
                if let Some(by) = by.first() {
                    counter.product("join", &items, by)?;
                }
                let all: Vec<Jinja> = std::iter::once(items).chain(by.0).collect();
                state.env().empty_state().apply_filter("__join", &all)
            },
        );
        environment.add_filter("__join", minijinja::filters::join);
        let counter = made.clone();
        environment.add_filter(
            "indent",
            move |state: &mut State, text: Jinja, by: Rest<Jinja>| -> Result<Jinja, Error> {
                if let Some(width) = by.first() {
                    counter.product("indent", &text, width)?;
                }
                let all: Vec<Jinja> = std::iter::once(text).chain(by.0).collect();
                state.env().empty_state().apply_filter("__indent", &all)
            },
        );
        environment.add_filter("__indent", minijinja::filters::indent);
        environment.add_filter(
            "format",
            |state: &mut State, text: Jinja, arguments: Rest<Jinja>| -> Result<Jinja, Error> {
                bounded_widths(&text)?;
                let all: Vec<Jinja> = std::iter::once(text).chain(arguments.0).collect();
                state.env().empty_state().apply_filter("__format", &all)
            },
        );
        environment.add_filter("__format", minijinja::filters::format);
        environment.set_unknown_method_callback(move |state, value, method, arguments| {
            match (method, arguments) {
                ("replace", [_, to, ..]) => made.product("replace", value, to)?,
                ("format", _) => bounded_widths(value)?,
                ("join", [items, ..]) => made.product("join", items, value)?,
                _ => {}
            }
            unknown_method_callback(state, value, method, arguments)
        });
        environment
    }

    /// The file that the template came from.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Bytes that were made while a template renders.
struct Made {
    limits: Limits,
    bytes: AtomicUsize,
}

impl Made {
    /// Texts that grow step by step are made again at every step: all together may be larger.
    const STEPS: usize = 64;

    fn count(&self, bytes: usize) -> Result<(), Error> {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let all = before.saturating_add(bytes);
        if bytes > self.limits.bytes || all > Self::STEPS * self.limits.bytes {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                format!(
                    "it made a text of more than {} bytes, the limit for these messages: does it \
                     double one in a loop?",
                    self.limits.bytes
                ),
            ));
        }
        Ok(())
    }

    /// Refuses what could become as long as two sizes multiplied, if that is far above the limit.
    fn product(&self, name: &str, one: &Jinja, other: &Jinja) -> Result<(), Error> {
        let most = size(one).saturating_mul(size(other).max(1));
        if most > Self::STEPS * self.limits.bytes {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                format!("{name} could make a text of {most} bytes, far above the limit"),
            ));
        }
        Ok(())
    }
}

/// Refuses a format with a width or precision of five digits or more, or taken from an argument: as
/// many characters would be made at once.
fn bounded_widths(format: &Jinja) -> Result<(), Error> {
    let text = format.as_str().unwrap_or_default();
    for specification in text.split(['%', ':']).skip(1) {
        let end = specification.find(|c: char| !"-+ #<>^=_,.*0123456789".contains(c));
        let specification = &specification[..end.unwrap_or(specification.len())];
        let long = |digits: &str| digits.trim_start_matches('0').len() > 4;
        let too_wide = specification.split(|c: char| !c.is_ascii_digit()).any(long);
        // After `:` an asterisk may fill, and a text such as `**a:** 5` is no format.
        let taken = specification.contains('*') && text.contains(&format!("%{specification}"));
        if too_wide || taken {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                format!("the format '{specification}' is wider than 9,999 or names no width"),
            ));
        }
    }
    Ok(())
}

/// Most values in what is put into a namespace at once.
const MOST_HELD: usize = 100_000;

/// Whether a namespace is in a value, which could then hold itself; `left` is the number of values that
/// are still looked at.
fn holds_namespace(value: &Jinja, depth: usize, left: &mut usize) -> bool {
    *left = left.saturating_sub(1);
    if *left == 0 {
        return false;
    }
    let is_namespace = value
        .as_object()
        .is_some_and(|object| object.type_name().ends_with("::Namespace"));
    if is_namespace || depth > 64 {
        return true;
    }
    let keyed = value.kind() == ValueKind::Map;
    if !keyed && value.kind() != ValueKind::Seq {
        return false;
    }
    value.try_iter().is_ok_and(|mut items| {
        items.any(|item| {
            let inner = match keyed {
                true => value.get_item(&item).unwrap_or_default(),
                false => item,
            };
            holds_namespace(&inner, depth + 1, left)
        })
    })
}

/// Bytes of a text, items of a list, an integer itself.
fn size(value: &Jinja) -> usize {
    match value.kind() {
        ValueKind::String => value.as_str().map_or(0, str::len),
        ValueKind::Number => value.as_usize().unwrap_or(0).min(1 << 40),
        _ => value.len().unwrap_or(0),
    }
}

/// Keeps what is written, up to a limit.
struct Bounded {
    written: Vec<u8>,
    limit: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written.extend_from_slice(bytes);
        if self.written.len() > self.limit {
            return Err(io::Error::other("the output is too long"));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn failed(path: &Path, stage: &'static str, error: &Error) -> ProcessorError {
    let line = error.line().map(|line| format!(" (line {line})"));
    ProcessorError::Template {
        path: path.to_owned(),
        stage,
        reason: format!("{error}{}", line.unwrap_or_default()),
    }
}
