//! The checkpoint's own chat template, rendered as transformers renders it: Jinja with
//! `trim_blocks` and `lstrip_blocks`, Python's string and dict methods, and `raise_exception`.

use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Error, ErrorKind};
use serde_json::{Map, Value};

use crate::ProcessorError;

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    path: PathBuf,
}

const NAME: &str = "chat_template";

impl ChatTemplate {
    /// Compiles a template; `path` is the file that errors name.
    ///
    /// # Errors
    /// [`ProcessorError::Template`] when it does not compile.
    pub fn new(source: String, path: &Path) -> Result<Self, ProcessorError> {
        let mut environment = Environment::new();
        environment.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .build()
                .map_err(|error| failed(path, "does not compile", &error))?,
        );
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function(
            "raise_exception",
            |message: String| -> Result<String, Error> {
                Err(Error::new(ErrorKind::InvalidOperation, message))
            },
        );
        environment
            .add_template_owned(NAME, source)
            .map_err(|error| failed(path, "does not compile", &error))?;
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
    /// [`ProcessorError::Template`] when it does not render.
    pub fn render(
        &self,
        messages: &Value,
        add_generation_prompt: bool,
        arguments: &Map<String, Value>,
    ) -> Result<String, ProcessorError> {
        let mut context = arguments.clone();
        context.insert("messages".into(), messages.clone());
        context.insert("add_generation_prompt".into(), add_generation_prompt.into());
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render(Serde(&context)))
            .map_err(|error| failed(&self.path, "does not render", &error))
    }

    /// The file that the template came from.
    pub fn path(&self) -> &Path {
        &self.path
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
