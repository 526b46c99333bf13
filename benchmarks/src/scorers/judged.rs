//! What the rules of all judges share.

/// How the source asks its judge model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct JudgeSettings {
    /// The model that the source names.
    pub model: &'static str,
    /// Sampling temperature.
    pub temperature: f64,
    /// Limit on the reply's tokens, where the source sets one.
    pub max_tokens: Option<u32>,
    /// Seed sent with the request, where the source sends one.
    pub seed: Option<u64>,
    /// Whether the reply must be a JSON object (`response_format`).
    pub json: bool,
    /// How often the source asks before it gives up.
    pub attempts: u32,
}

/// Puts values into a template, one placeholder after the other, as the sources do: a value that
/// itself holds a later placeholder is filled as well.
pub(super) fn fill(template: &str, values: &[(&str, &str)]) -> String {
    values
        .iter()
        .fold(template.to_owned(), |text, (name, value)| {
            text.replace(name, value)
        })
}
