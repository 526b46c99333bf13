//! VTool-R1's description of its tools, as it is published: it is downloaded and never kept here.
//!
//! Source: VTool-R1/VTool-R1, `examples/format_prompt/chartQA.jinja`: the question's three lines in
//! place of `{{ content | trim }}`, and after them the tools with worked examples, which is block T of
//! the prompt. Nothing else in the file is a template's.

use std::path::Path;

use super::error::SourceError;

/// Where the template stands in its repository, and so below the data folder.
pub const VTOOL_R1_TEMPLATE: &str = "examples/format_prompt/chartQA.jinja";

/// BLAKE3 of the file at the commit that [`super::download_prompt`] takes.
const HASH: &str = "cd5d028fa56e03ae89e6f6d5a42d8ea26f0e8881ca0a5c1c2552d1ad46d9825e";

/// What stands in the template for the question.
const CONTENT: &str = "{{ content | trim }}";

/// The text that follows the question in VTool-R1's prompt, from the template below the folder
/// `data`.
///
/// # Errors
/// A template that is not there, or is not the published one.
pub fn vtool_r1_tools(data: &Path) -> Result<String, SourceError> {
    let file = data.join(VTOOL_R1_TEMPLATE);
    let bytes = std::fs::read(&file).map_err(|source| SourceError::NoTemplate {
        file: file.clone(),
        problem: source.to_string(),
    })?;
    let found = blake3::hash(&bytes).to_hex();
    if found.as_str() != HASH {
        return Err(SourceError::NoTemplate {
            file,
            problem: format!(
                "its BLAKE3 hash is {}…, that of the published file {}…",
                &found[..16],
                &HASH[..16]
            ),
        });
    }
    let text = String::from_utf8_lossy(&bytes);
    Ok(tools_of(&text))
}

/// The template without the place of the question; as its renderer, without blanks at both ends.
fn tools_of(template: &str) -> String {
    let template = template.trim();
    template
        .strip_prefix(CONTENT)
        .unwrap_or(template)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_template_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let absent = vtool_r1_tools(folder.path()).unwrap_err().to_string();
        assert!(
            absent.contains("chartQA.jinja") && absent.contains("data.prompt"),
            "{absent}"
        );
        let file = folder.path().join(VTOOL_R1_TEMPLATE);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "{{ content | trim }} \n\ntools").unwrap();
        let other = vtool_r1_tools(folder.path()).unwrap_err().to_string();
        assert!(other.contains("cd5d028fa56e03ae"), "{other}");
        assert_eq!(tools_of("{{ content | trim }} \n\ntools\n"), " \n\ntools");
    }
}
