//! The beginning of a text, for an error message.

/// The first 200 characters of `text`, on one line.
pub(crate) fn excerpt(text: &str) -> String {
    const LONGEST: usize = 200;
    let shown = match text.trim().char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text.trim()[..end]),
        None => text.trim().to_owned(),
    };
    // What a server says must not move the terminal's cursor.
    shown.replace(|c: char| c.is_control(), " ")
}
