//! What other languages write where JSON has another word.

/// Words of Python, pandas and JavaScript that JSON does not have, and what stands for them.
const WORDS: [(&str, &str); 8] = [
    ("-Infinity", "null"),
    ("Infinity", "null"),
    ("NaN", "null"),
    ("nan", "null"),
    ("None", "null"),
    ("undefined", "null"),
    ("True", "true"),
    ("False", "false"),
];

/// Why a text is no JSON: the foreign word in it, else what the parser said. To be called on a text
/// that the parser has refused.
pub(crate) fn problem(text: &str, error: &serde_json::Error) -> String {
    match foreign_word(text) {
        Some((word, instead)) => format!("{word} is no JSON; write {instead}"),
        None => error.to_string(),
    }
}

/// The first foreign word outside of strings.
fn foreign_word(text: &str) -> Option<(&'static str, &'static str)> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at += 1;
                while let Some(&inner) = bytes.get(at) {
                    at += match inner {
                        b'\\' => 2,
                        _ => 1,
                    };
                    if inner == b'"' {
                        break;
                    }
                }
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'-' => {
                let length = bytes[at + 1..]
                    .iter()
                    .take_while(|byte| byte.is_ascii_alphabetic())
                    .count();
                let word = &bytes[at..=at + length];
                let known = WORDS.iter().find(|(known, _)| known.as_bytes() == word);
                if known.is_some() {
                    return known.copied();
                }
                at += word.len();
            }
            _ => at += 1,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn words_of_other_languages_are_named_outside_of_strings() {
        let told = |text: &str| {
            let error = serde_json::from_str::<Value>(text).unwrap_err();
            problem(text, &error)
        };
        assert_eq!(told(r#"{"a": NaN}"#), "NaN is no JSON; write null");
        assert_eq!(
            told(r#"{"a \" NaN": -Infinity}"#),
            "-Infinity is no JSON; write null"
        );
        assert_eq!(told(r#"[1, Infinity]"#), "Infinity is no JSON; write null");
        assert_eq!(told(r#"[None]"#), "None is no JSON; write null");
        assert_eq!(told(r#"{"a": True}"#), "True is no JSON; write true");
        for text in [
            "{\"a\": \"NaN\"",
            "\"NaN",
            "{\"a\\",
            "[NaNs]",
            "-",
            "é NaNé",
            "[",
        ] {
            let message = told(text);
            assert!(
                !message.contains("is no JSON") || text.contains('é'),
                "{message}"
            );
        }
    }
}
