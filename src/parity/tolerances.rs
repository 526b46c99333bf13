//! How far a number may be from its reference: `tolerances.json`.
//!
//! `|ours - reference| <= atol + rtol * |reference|` for every element; the first rule whose `file`
//! (a shell pattern on the path in the folder) and `key` (a regular expression) match counts.

use std::path::Path;

use anyhow::{Context, Result};
use regex::Regex;
use serde::Deserialize;

/// An absolute and a relative tolerance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    pub atol: f64,
    pub rtol: f64,
}

impl Tolerance {
    /// Without a rule, as the fixtures' own comparison script.
    const DEFAULT: Self = Self {
        atol: 1e-5,
        rtol: 1e-5,
    };
}

impl std::fmt::Display for Tolerance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1e} + {:.1e}*|ref|", self.atol, self.rtol)
    }
}

/// The rules of a folder.
pub struct Tolerances {
    rules: Vec<Rule>,
}

struct Rule {
    file: Regex,
    key: Regex,
    tolerance: Tolerance,
}

#[derive(Deserialize)]
struct File {
    rules: Vec<FileRule>,
}

#[derive(Deserialize)]
struct FileRule {
    #[serde(default = "everything")]
    file: String,
    #[serde(default)]
    key: String,
    atol: f64,
    rtol: f64,
}

fn everything() -> String {
    "*".to_owned()
}

impl Tolerances {
    /// Reads a `tolerances.json`.
    pub fn read(path: &Path) -> Result<Self> {
        let read = || -> Result<Self> {
            let file: File = serde_json::from_slice(&std::fs::read(path)?)?;
            let rules = file.rules.into_iter().map(|rule| {
                Ok(Rule {
                    file: shell_pattern(&rule.file)?,
                    key: Regex::new(&rule.key)?,
                    tolerance: Tolerance {
                        atol: rule.atol,
                        rtol: rule.rtol,
                    },
                })
            });
            Ok(Self {
                rules: rules.collect::<Result<_>>()?,
            })
        };
        read().with_context(|| format!("cannot read the tolerances {}", path.display()))
    }

    /// The tolerance of a tensor.
    pub fn of(&self, file: &str, key: &str) -> Tolerance {
        self.rules
            .iter()
            .find(|rule| rule.file.is_match(file) && rule.key.is_match(key))
            .map_or(Tolerance::DEFAULT, |rule| rule.tolerance)
    }
}

/// `*` stands for anything, slashes included, and `?` for one character, as in Python's `fnmatch`.
fn shell_pattern(pattern: &str) -> Result<Regex> {
    let mut expression = String::from("(?s)^");
    for character in pattern.chars() {
        match character {
            '*' => expression.push_str(".*"),
            '?' => expression.push('.'),
            other => expression.push_str(&regex::escape(&other.to_string())),
        }
    }
    expression.push('$');
    Ok(Regex::new(&expression)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_matching_rule_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tolerances.json");
        let rules = r#"{"note": "", "rules": [
            {"file": "ig/*", "key": "attr", "atol": 1, "rtol": 2},
            {"file": "ig/*", "atol": 3, "rtol": 4},
            {"file": "images/*pil*", "key": "u8", "atol": 5, "rtol": 0}]}"#;
        std::fs::write(&path, rules).unwrap();
        let tolerances = Tolerances::read(&path).unwrap();
        assert_eq!(tolerances.of("ig/a.safetensors", "out.attr.8").atol, 1.0);
        assert_eq!(tolerances.of("ig/a.safetensors", "out.scores").atol, 3.0);
        assert_eq!(tolerances.of("images/s1.pil.safetensors", "x_u8").atol, 5.0);
        assert_eq!(
            tolerances.of("images/s1.tv.safetensors", "x_u8"),
            Tolerance::DEFAULT
        );
        std::fs::write(&path, "{").unwrap();
        assert!(Tolerances::read(&path).is_err());
    }
}
