//! The page as one file: template, style, scripts, and data in compressed chunks.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use results::plot::{Look, SLOTS};
use serde_json::Value;

const TEMPLATE: &str = include_str!("assets/template.html");
const STYLE: &str = include_str!("assets/style.css");

/// The scripts in the order in which they run.
const SCRIPTS: [&str; 12] = [
    include_str!("assets/base.js"),
    include_str!("assets/data.js"),
    include_str!("assets/charts.js"),
    include_str!("assets/verdict.js"),
    include_str!("assets/grid.js"),
    include_str!("assets/episode.js"),
    include_str!("assets/attribution.js"),
    include_str!("assets/groups.js"),
    include_str!("assets/time.js"),
    include_str!("assets/calls.js"),
    include_str!("assets/compare.js"),
    include_str!("assets/main.js"),
];

/// The arms' colours by their place in the palette of all pictures, light and dark.
fn palette() -> String {
    let theme = |selector: &str, place: usize| {
        let colors: Vec<String> = (0..SLOTS)
            .map(|slot| format!("--arm-{slot}: {};", Look::slot(slot).colors()[place]))
            .collect();
        format!("{selector} {{ {} }}\n", colors.join(" "))
    };
    theme(":root", 0) + &theme(":root[data-theme=\"dark\"]", 1)
}

/// Data by name, each compressed.
#[derive(Default)]
pub struct Chunks(Vec<(String, Vec<u8>)>);

impl Chunks {
    /// Adds JSON.
    pub fn json(&mut self, name: impl Into<String>, value: &Value) {
        self.bytes(name, value.to_string().as_bytes());
    }

    /// Adds bytes.
    pub fn bytes(&mut self, name: impl Into<String>, bytes: &[u8]) {
        self.0.push((name.into(), results::gzip(bytes)));
    }

    /// The page. Names of chunks are ours, the title is escaped, and the data are Base64: nothing of
    /// what a model wrote is in the markup.
    pub fn page(&self, title: &str) -> String {
        let mut chunks = String::new();
        for (name, packed) in &self.0 {
            chunks += &format!(
                "<script type=\"text/plain\" id=\"chunk-{name}\">{}</script>\n",
                STANDARD.encode(packed)
            );
        }
        let mut page = TEMPLATE.to_owned();
        for (mark, text) in [
            ("{{title}}", escaped(title)),
            ("{{style}}", palette() + STYLE),
            ("{{script}}", SCRIPTS.join("\n")),
            // Last: nothing is looked for in the data.
            ("{{chunks}}", chunks),
        ] {
            page = page.replacen(mark, &text, 1);
        }
        page
    }
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '{' => escaped += "&#123;",
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_is_text_and_no_script_can_end_early() {
        let mut chunks = Chunks::default();
        chunks.json("meta", &serde_json::json!("</script><b>{{script}}"));
        let page = chunks.page("a</title><script>{{chunks}}");
        assert!(page.contains("<title>a&lt;/title&gt;&lt;script&gt;&#123;&#123;chunks}}"));
        assert!(!page.contains("<b>"));
        for script in SCRIPTS.iter().chain([&STYLE]) {
            assert!(!script.contains("</s"), "it would end its element");
            assert!(!script.contains("innerHTML") && !script.contains("://"));
        }
    }
}
