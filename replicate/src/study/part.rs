//! The parts of a study as data: `parts.toml`. A part is a list of variants of the profile, each with
//! the arms that are trained in it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::Result;

use super::files::{self, problem};

/// What a part is for, which decides its seeds and which settings are already fixed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The world and what all arms share are chosen: tuning seeds, the profile as it is.
    World,
    /// The arms' own settings are chosen: tuning seeds, `settings` of the preregistration.
    Tuning,
    /// What is reported: counted seeds, `settings` and `tuned`, a world that nobody knew.
    Counted,
}

/// A part of a study.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Its name, which is a folder's.
    pub name: String,
    /// What it is for.
    pub phase: Phase,
    /// How many of the phase's seeds; all where it is not given.
    #[serde(default)]
    pub seeds: Option<u64>,
    /// Settings of all its variants, by dotted key.
    #[serde(default)]
    pub set: BTreeMap<String, toml::Value>,
    /// The arms of variants that name none.
    #[serde(default)]
    pub arms: Vec<String>,
    /// Bases made from nothing with this seed, in place of the profile's.
    #[serde(default)]
    pub base_seed: Option<u64>,
    /// The variants; one called `main`, without changes, where neither these nor searches are given.
    #[serde(default)]
    pub variants: Vec<Variant>,
    /// Values of one setting, each a variant with one arm.
    #[serde(default)]
    pub searches: Vec<Search>,
}

/// A variant of the profile.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Its name, which is a folder's.
    pub label: String,
    /// What differs, by dotted key.
    #[serde(default)]
    pub set: BTreeMap<String, toml::Value>,
    /// Its arms, where they are not the part's.
    #[serde(default)]
    pub arms: Option<Vec<String>>,
}

/// A search over one setting of one arm.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// The arm.
    pub arm: String,
    /// The dotted key.
    pub key: String,
    /// The values that are tried.
    pub values: Vec<toml::Value>,
}

impl Search {
    /// The name of the variant with one of its values.
    pub fn label(&self, value: &toml::Value) -> String {
        let key = self.key.rsplit('.').next().unwrap_or_default();
        format!("{}-{}-{value}", self.arm, key.replace('_', "-"))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    parts: Vec<Part>,
}

/// Reads and checks a file of parts.
///
/// # Errors
/// No such file, unknown or missing keys, names that are no folder's or are taken twice.
pub fn read(path: &Path) -> Result<Vec<Part>> {
    let text = files::read_text(path)?;
    parse(&text).map_err(|text| problem(path, text))
}

fn parse(text: &str) -> std::result::Result<Vec<Part>, String> {
    let Parts { parts } = toml::from_str(text).map_err(|error| error.to_string())?;
    unique("parts", parts.iter().map(|part| part.name.as_str()))?;
    for part in &parts {
        let labels = part.all_variants();
        let name = format!("part {}", part.name);
        unique(&name, labels.iter().map(|variant| variant.label.as_str()))?;
        if part.name == files::SHARED {
            return Err(format!(
                "{name}: the name is taken by the folder of shared stages"
            ));
        }
        for variant in labels {
            if part.arms_of(&variant).is_empty() {
                return Err(format!("{name}, {}: no arm is named", variant.label));
            }
        }
    }
    Ok(parts)
}

fn unique<'n>(
    place: &str,
    names: impl Iterator<Item = &'n str>,
) -> std::result::Result<(), String> {
    let mut known: Vec<&str> = Vec::new();
    for name in names {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(allowed) {
            return Err(format!(
                "{place}: '{name}': a name is made of letters, digits, hyphens and points: it names a \
                 folder"
            ));
        }
        if known.contains(&name) {
            return Err(format!("{place}: '{name}' is named twice"));
        }
        known.push(name);
    }
    Ok(())
}

impl Part {
    /// Its variants, those of its searches after the others.
    pub fn all_variants(&self) -> Vec<Variant> {
        let mut all = self.variants.clone();
        for search in &self.searches {
            for value in &search.values {
                all.push(Variant {
                    label: search.label(value),
                    set: BTreeMap::from([(search.key.clone(), value.clone())]),
                    arms: Some(vec![search.arm.clone()]),
                });
            }
        }
        if all.is_empty() {
            all.push(Variant {
                label: "main".into(),
                set: BTreeMap::new(),
                arms: None,
            });
        }
        all
    }

    /// The arms of a variant.
    pub fn arms_of<'v>(&'v self, variant: &'v Variant) -> &'v [String] {
        variant.arms.as_deref().unwrap_or(&self.arms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_is_a_variant_a_value() {
        let parts = parse(
            "[[parts]]\nname = \"A\"\nphase = \"tuning\"\n\
             [[parts.searches]]\narm = \"torl\"\nkey = \"arms.torl.penalty\"\nvalues = [0.1, 3]\n\
             [[parts]]\nname = \"B\"\nphase = \"counted\"\narms = [\"trm\"]\n",
        )
        .unwrap();
        let labels: Vec<String> = parts
            .iter()
            .flat_map(Part::all_variants)
            .map(|variant| variant.label)
            .collect();
        assert_eq!(labels, ["torl-penalty-0.1", "torl-penalty-3", "main"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let part = "[[parts]]\nname = \"A\"\nphase = \"tuning\"\n";
        let errors: Vec<String> = [
            "",
            "arms = [\"torl\"]\ncolour = 1",
            "arms = [\"torl\"]\n[[parts]]\nname = \"A\"\nphase = \"counted\"\narms = [\"trm\"]",
            "[[parts.variants]]\nlabel = \"a/b\"",
            "[[parts.variants]]\nlabel = \"..\"",
        ]
        .iter()
        .map(|more| {
            let error = parse(&format!("{part}{more}")).unwrap_err();
            error.lines().last().unwrap_or_default().to_owned()
        })
        .collect();
        insta::assert_snapshot!(errors.join("\n"));
    }
}
