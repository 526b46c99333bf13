//! Where the final answer stands in a completion, as each evaluator extracts it.
//!
//! Sources: ReFocus `chart_data.py`; VTool-R1 v1 `refocus_llm.py` and `eval_qwen.py`; VTool-R1 v2
//! `reward_utils.py` and `result_io.py`. The patterns are theirs, in this crate's syntax:
//! Python's `\s` also holds U+001C to U+001F, `$` also stands before a final line feed, and a
//! look-ahead becomes an ordinary tail, which finds the same groups because no tail can begin
//! another answer.

use std::sync::LazyLock;

use regex::Regex;

use super::python::strip;

/// Python's `\s`.
const S: &str = r"[\s\x1c-\x1f]";

fn pattern(source: &str) -> Regex {
    Regex::new(&source.replace("{s}", S)).expect("the pattern is a literal of this file")
}

static LINE_TO_TERMINATE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"FINAL ANSWER:{s}*(.*?){s}*TERMINATE"));
static TO_PERIOD: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"FINAL ANSWER:{s}*(.*?)(?:\.{s}|\.?\n?\z)"));
static TEXT_TO_TERMINATE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?s)FINAL ANSWER:{s}*(.*?){s}*TERMINATE"));
static FINAL_TO_BAR: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?s)FINAL ANSWER:{s}*(.*?){s}*(?:\||\z)"));
static ANSWER_TO_BAR: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?s)ANSWER:{s}*(.*?){s}*(?:\||\z)"));
static TAGGED: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?is)<answer>(.*?)</answer>"));
// Python folds `ı` and `İ` onto `i` when it ignores case.
static FINAL_ANY_CASE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?is)F[iıİ]NAL ANSWER:{s}*(.*?){s}*(?:TERM[iıİ]NATE|\z)"));
static ANSWER_ANY_CASE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?is)ANSWER:{s}*(.*?){s}*(?:TERM[iıİ]NATE|\z)"));
static BOXED: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?s)\\boxed\{(.+?)\}"));

fn group<'a>(pattern: &Regex, text: &'a str) -> Option<&'a str> {
    Some(pattern.captures(text)?.get(1)?.as_str())
}

/// ReFocus: `||` becomes `|`, then the first `FINAL ANSWER: … TERMINATE` on one line, else the
/// whole text. A final period stays.
pub fn refocus(completion: &str) -> String {
    let text = completion.replace("||", "|");
    group(&LINE_TO_TERMINATE, &text).unwrap_or(&text).to_owned()
}

/// VTool-R1 v1, reward: the first `FINAL ANSWER:` up to a period before white space or the end
/// of the text. `None` when there is none, which its reward counts as 0.
pub fn vtool_v1(completion: &str) -> Option<&str> {
    group(&TO_PERIOD, completion)
}

/// VTool-R1 v1, evaluation with tools: as [`vtool_v1`], but the last one.
pub fn vtool_v1_eval(completion: &str) -> Option<&str> {
    let last = TO_PERIOD.captures_iter(completion).last()?;
    Some(last.get(1)?.as_str())
}

/// VTool-R1 v2, reward: `||` becomes `|`, then the first that is found of `FINAL ANSWER: …
/// TERMINATE`, `FINAL ANSWER:` up to `|` or the end, `ANSWER:` likewise, the whole text; stripped.
pub fn vtool_v2(completion: &str) -> String {
    let text = completion.replace("||", "|");
    let found = [&TEXT_TO_TERMINATE, &FINAL_TO_BAR, &ANSWER_TO_BAR]
        .into_iter()
        .find_map(|pattern| group(pattern, &text));
    strip(found.unwrap_or(&text)).to_owned()
}

/// VTool-R1 v2, evaluation: `||` becomes `|`, then the first that is found of `<answer>…</answer>`,
/// `FINAL ANSWER:` and `ANSWER:` up to `TERMINATE` or the end (any case), `\boxed{…}`, the whole
/// text; stripped.
pub fn vtool_v2_eval(completion: &str) -> String {
    let text = completion.replace("||", "|");
    let text = strip(&text);
    let found = [&TAGGED, &FINAL_ANY_CASE, &ANSWER_ANY_CASE, &BOXED]
        .into_iter()
        .find_map(|pattern| group(pattern, text));
    strip(found.unwrap_or(text)).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refocus_takes_the_first_answer_on_one_line() {
        assert_eq!(refocus("ANSWER: 3. FINAL ANSWER: 3. TERMINATE"), "3.");
        assert_eq!(refocus("FINAL ANSWER:\n 3 \nTERMINATE"), "3");
        assert_eq!(refocus("FINAL ANSWER: a||b TERMINATE"), "a|b");
        assert_eq!(
            refocus("FINAL ANSWER: a\nb TERMINATE"),
            "FINAL ANSWER: a\nb TERMINATE"
        );
        assert_eq!(
            refocus("FINAL ANSWER: 1 TERMINATE FINAL ANSWER: 2 TERMINATE"),
            "1"
        );
        assert_eq!(refocus("no answer"), "no answer");
        assert_eq!(refocus("FINAL ANSWER: 7\u{1c}TERMINATE"), "7");
    }

    #[test]
    fn vtool_v1_stops_at_a_period_before_space() {
        assert_eq!(
            vtool_v1("FINAL ANSWER: U.S. dollars. TERMINATE"),
            Some("U.S")
        );
        assert_eq!(vtool_v1("FINAL ANSWER: 3.5. TERMINATE"), Some("3.5"));
        assert_eq!(vtool_v1("FINAL ANSWER: 3 TERMINATE"), Some("3 TERMINATE"));
        assert_eq!(vtool_v1("FINAL ANSWER: 3.\n"), Some("3"));
        assert_eq!(vtool_v1("FINAL ANSWER: 3\n"), Some("3"));
        assert_eq!(vtool_v1("FINAL ANSWER: 3\nand more"), None);
        assert_eq!(vtool_v1("nothing"), None);
        let two = "FINAL ANSWER: 1. FINAL ANSWER: 2. TERMINATE";
        assert_eq!((vtool_v1(two), vtool_v1_eval(two)), (Some("1"), Some("2")));
    }

    #[test]
    fn vtool_v2_prefers_the_terminated_answer() {
        assert_eq!(
            vtool_v2("THOUGHT ANSWER: 41 FINAL ANSWER: 42. TERMINATE"),
            "42."
        );
        assert_eq!(vtool_v2("FINAL ANSWER: a\nb\nTERMINATE"), "a\nb");
        assert_eq!(vtool_v2("FINAL ANSWER: a||b"), "a");
        assert_eq!(vtool_v2("ANSWER: 5 | 6"), "5");
        assert_eq!(vtool_v2("  5 "), "5");
    }

    #[test]
    fn vtool_v2_eval_reads_tags_and_boxes() {
        assert_eq!(vtool_v2_eval("x <ANSWER> 4 </answer> FINAL ANSWER: 5"), "4");
        assert_eq!(vtool_v2_eval("final answer: 5 terminate"), "5");
        assert_eq!(vtool_v2_eval("the answer: 6"), "6");
        assert_eq!(vtool_v2_eval(r"so \boxed{7}"), "7");
        assert_eq!(vtool_v2_eval(""), "");
    }
}
