//! From a name or file and `--set` changes to a checked profile.

use std::path::Path;

use benchmarks::suggestion;

use super::Profile;
use crate::{Error, Result, error};

/// The profiles that are built in, by name.
const BUILT_IN: [(&str, &str); 4] = [
    ("micro", include_str!("../../profiles/micro.toml")),
    ("smoke", include_str!("../../profiles/smoke.toml")),
    ("paper", include_str!("../../profiles/paper.toml")),
    ("paper-full", include_str!("../../profiles/paper-full.toml")),
];

/// The profiles of the studies in this repository, whose files stand beside their parts.
const OF_STUDIES: [&str; 2] = ["study", "ablations"];

/// Parents of parents at most.
const GENERATIONS: usize = 8;

impl Profile {
    /// The names of the profiles that this repository has.
    pub fn known_names() -> Vec<&'static str> {
        let built_in = BUILT_IN.iter().map(|(name, _)| *name);
        built_in.chain(OF_STUDIES).collect()
    }

    /// A built-in profile by name, or a profile's file; then `key=value` changes, keys dotted.
    ///
    /// # Errors
    /// A file that is not there or is no profile, an unknown key, a value out of its range: named as
    /// it was typed.
    pub fn load(name_or_file: &str, changes: &[String]) -> Result<Self> {
        let wrong = |text: String| problem(name_or_file, text);
        let mut table = with_parents(name_or_file)?;
        for change in changes {
            apply_change(&mut table, change).map_err(wrong)?;
        }
        let profile: Profile = toml::Value::Table(table)
            .try_into()
            .map_err(|error: toml::de::Error| wrong(error.to_string()))?;
        match profile.problem() {
            Some(text) => Err(wrong(text)),
            None => Ok(profile),
        }
    }

    /// The profile as TOML, every value resolved.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("a profile holds only tables, numbers and strings")
    }
}

/// The table of a profile over its parents'.
fn with_parents(name_or_file: &str) -> Result<toml::Table> {
    let mut layers = Vec::new();
    let mut next = Some(name_or_file.to_owned());
    while let Some(name) = next {
        if layers.len() == GENERATIONS {
            return Err(problem(
                name_or_file,
                format!(
                    "'parent' leads through more than {GENERATIONS} profiles: does it lead in a circle?"
                ),
            ));
        }
        let mut table: toml::Table = text_of(&name)?
            .parse()
            .map_err(|error| problem(&name, format!("not TOML: {error}")))?;
        next = match table.remove("parent") {
            None => None,
            Some(toml::Value::String(parent)) => Some(relative_to(&name, parent)),
            Some(other) => {
                return Err(problem(
                    &name,
                    format!("parent is {other}: expected a profile's name or file"),
                ));
            }
        };
        layers.push(table);
    }
    let mut whole = toml::Table::new();
    for layer in layers.into_iter().rev() {
        overlay(&mut whole, layer);
    }
    Ok(whole)
}

fn text_of(name_or_file: &str) -> Result<String> {
    if let Some((_, text)) = BUILT_IN.iter().find(|(name, _)| *name == name_or_file) {
        return Ok((*text).to_owned());
    }
    let path = Path::new(name_or_file);
    if !path.exists() {
        let known = BUILT_IN.map(|(name, _)| name);
        return Err(problem(
            name_or_file,
            format!(
                "neither a file nor one of the built-in profiles: {}{}",
                known.join(", "),
                suggestion(name_or_file, known)
            ),
        ));
    }
    std::fs::read_to_string(path).map_err(error::at(path))
}

/// A parent's file is meant relative to its child's.
fn relative_to(child: &str, parent: String) -> String {
    if BUILT_IN.iter().any(|(name, _)| *name == parent) {
        return parent;
    }
    match Path::new(child).parent() {
        Some(folder) => folder.join(&parent).to_string_lossy().into_owned(),
        None => parent,
    }
}

/// Puts `over`'s values in place of `under`'s, table by table.
fn overlay(under: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) => overlay(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

fn problem(origin: &str, problem: impl Into<String>) -> Error {
    Error::Profile {
        origin: origin.to_owned(),
        problem: problem.into(),
    }
}

/// Sets `a.b = value` in a table; the key must exist, so that a misspelt one is an error.
fn apply_change(table: &mut toml::Table, change: &str) -> std::result::Result<(), String> {
    let (key, text) = change
        .split_once('=')
        .ok_or_else(|| format!("--set {change}: expected key=value"))?;
    if change.contains(['\n', '\r']) {
        return Err(format!(
            "--set {change:?}: one key and its value; give --set again for another"
        ));
    }
    let parsed: toml::Table = format!("value = {text}")
        .parse()
        .or_else(|_| format!("value = {text:?}").parse())
        .map_err(|_| format!("--set {change}: '{text}' is not a TOML value"))?;
    let mut place = table;
    let mut path: Vec<&str> = key.split('.').collect();
    let last = path.pop().unwrap_or_default();
    for (depth, part) in path.iter().enumerate() {
        let known = known_keys(place, part, |value| value.is_table());
        place = place
            .get_mut(*part)
            .and_then(toml::Value::as_table_mut)
            .ok_or_else(|| {
                let section = path[..=depth].join(".");
                format!("--set {key}: there is no section '{section}'; {known}")
            })?;
    }
    let known = known_keys(place, last, |_| true);
    let value = place
        .get_mut(last)
        .ok_or_else(|| format!("--set {key}: unknown key '{last}'; {known}"))?;
    // An integer given for a fraction is meant as one.
    *value = match (&*value, parsed["value"].clone()) {
        (toml::Value::Float(_), toml::Value::Integer(whole)) => toml::Value::Float(whole as f64),
        (_, new) => new,
    };
    Ok(())
}

/// The keys that there are, and the one that `key` was probably meant to be.
fn known_keys(table: &toml::Table, key: &str, wanted: impl Fn(&toml::Value) -> bool) -> String {
    let known: Vec<&str> = table
        .iter()
        .filter(|(_, value)| wanted(value))
        .map(|(key, _)| key.as_str())
        .collect();
    format!(
        "here are {}{}",
        known.join(", "),
        suggestion(key, known.iter().copied())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_profiles_are_valid() {
        for (name, _) in BUILT_IN {
            let profile = Profile::load(name, &[]).unwrap();
            assert_eq!(profile.name, name);
            for arm in &profile.trained {
                assert!(profile.arms.contains_key(arm), "{arm}");
            }
        }
    }

    #[test]
    fn a_child_states_what_differs() {
        let folder = tempfile::tempdir().unwrap();
        let parent = folder.path().join("parent.toml");
        let child = folder.path().join("child.toml");
        std::fs::write(
            &parent,
            "parent = \"smoke\"\n[grpo]\nprompts = 7\nwarmup = 2\n",
        )
        .unwrap();
        std::fs::write(
            &child,
            "parent = \"parent.toml\"\nname = \"c\"\n[grpo]\nwarmup = 5\n",
        )
        .unwrap();
        let profile = Profile::load(child.to_str().unwrap(), &[]).unwrap();
        assert_eq!((profile.grpo.prompts, profile.grpo.warmup), (7, 5));
        assert_eq!(profile.name, "c");
        std::fs::write(&parent, "parent = \"child.toml\"").unwrap();
        let circle = Profile::load(child.to_str().unwrap(), &[]).unwrap_err();
        assert!(circle.to_string().contains("circle"), "{circle}");
    }

    #[test]
    fn bad_profiles_say_what_is_wrong() {
        let errors: Vec<String> = [
            ("micro", "grpo.sample=3"),
            ("micro", "gpro.samples=3"),
            ("micro", "nothing"),
            ("micro", "grpo.samples=1"),
            ("micro", "grpo.samples=\"many\""),
            ("micro", "grpo.samples=-3"),
            ("micro", "grpo.learning_rate=nan"),
            ("micro", "grpo.learning_rate=1\n[x]"),
            ("micro", "grpo.temperature=nan"),
            ("micro", "grpo.temperature=1e-30"),
            ("micro", "grpo.clip_high=0"),
            ("micro", "grpo.kl_coefficient=-1"),
            ("micro", "grpo.frozen=[\"eyes\"]"),
            ("micro", "arms.iapo.weight=nan"),
            ("micro", "arms.iapo.attribution.method.name=\"guess\""),
            ("micro", "arms=[]"),
            ("micro", "trained=[]"),
            ("micro", "trained=[\"iapo\",\"iapo\"]"),
            ("micro", "trained=[\"iapi\"]"),
            ("micro", "world.difficulty.bars=[6,5]"),
            ("micro", "world.difficulty.named=[0,0]"),
            ("micro", "evaluation.questions=0"),
            ("mikro", "seeds=1"),
        ]
        .iter()
        .map(|(name, change)| {
            Profile::load(name, &[(*change).to_owned()])
                .unwrap_err()
                .to_string()
        })
        .collect();
        insta::assert_snapshot!(errors.join("\n---\n"));
    }
}
