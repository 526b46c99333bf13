//! What a misspelt name was probably meant to be.

/// Below this similarity a name is another name (clap suggests flags from here on too).
const ALIKE: f64 = 0.7;

/// `; did you mean 'NAME'?` with the name that is most like `word` by Jaro's measure, or nothing where
/// none is.
pub fn suggestion<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let likenesses = names
        .into_iter()
        .map(|name| (strsim::jaro(word, name), name));
    match likenesses.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((likeness, name)) if likeness > ALIKE => format!("; did you mean '{name}'?"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_that_changed_places_are_seen_and_other_names_are_not() {
        let names = ["micro", "smoke", "paper"];
        assert_eq!(suggestion("mirco", names), "; did you mean 'micro'?");
        assert_eq!(suggestion("xyz", names), "");
        assert_eq!(suggestion("xyz", []), "");
    }
}
