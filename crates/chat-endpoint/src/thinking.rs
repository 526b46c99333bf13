//! Where a model's thinking ends and its answer begins.

/// How models mark their thinking: Qwen, DeepSeek and most others; spellings of the same; Mistral;
/// Kimi-VL.
const MARKS: [(&str, &str); 6] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("[think]", "[/think]"),
    ("◁think▷", "◁/think▷"),
];

/// `text` without its thinking: what stands after the last closing mark, up to a mark that opens
/// again and never closes. A text that opens a thought and never closes it is thought from there
/// on. A closing mark needs no opening one: many chat templates put that into the prompt. Marks
/// are found in any case of letters.
pub fn without_thinking(text: &str) -> &str {
    // Changes no length and no boundary of a character.
    let lower = text.to_ascii_lowercase();
    let start = MARKS
        .iter()
        .filter_map(|(_, close)| Some(lower.rfind(close)? + close.len()))
        .max()
        .unwrap_or(0);
    let end = MARKS
        .iter()
        .filter_map(|(open, _)| Some(start + lower[start..].find(open)?))
        .min()
        .unwrap_or(text.len());
    match (start, end) {
        (0, end) if end == text.len() => text,
        (start, end) => text[start..end].trim_start(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_before_the_last_closing_mark_is_no_answer() {
        for (text, answer) in [
            ("FINAL ANSWER: 4", "FINAL ANSWER: 4"),
            ("  kept as it is\n", "  kept as it is\n"),
            (
                "<think>FINAL ANSWER: 3</think>\n\nFINAL ANSWER: 4",
                "FINAL ANSWER: 4",
            ),
            ("FINAL ANSWER: 3</think>4", "4"),
            ("<think>a</think>b<think>c</think>d", "d"),
            ("<think>never closed, FINAL ANSWER: 3", ""),
            ("a</think>b <think>c", "b "),
            ("say <think>it", "say "),
            ("<THINK>a</Think>4", "4"),
            ("<thinking>a</thinking> 4", "4"),
            ("[THINK]a[/THINK]4", "4"),
            ("◁think▷ä◁/think▷4", "4"),
            ("<thought>a</thought>4", "4"),
            ("<think></think>", ""),
            ("", ""),
            ("ÄÖ <think> ü", "ÄÖ "),
        ] {
            assert_eq!(without_thinking(text), answer, "{text:?}");
        }
    }
}
