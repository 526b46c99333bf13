//! The parser against a corpus of good, broken and hostile completions, and against random ones.

use std::fmt::Write;

use proptest::prelude::*;
use visual_tools::{
    Axis, BoxSource, Effect, FigureBoxes, ImageSource, NamedBoxes, Names, Parsed, PixelBox,
    RefusalCounts, RefusalReason, Style, Tool, ToolCall, apply, parse,
};

fn entries() -> Vec<(&'static str, &'static str)> {
    include_str!("corpus/calls.txt")
        .split("=== ")
        .skip(1)
        .map(|entry| {
            let (name, text) = entry.split_once('\n').expect("a name and a text");
            (name, text.strip_suffix('\n').unwrap_or(text))
        })
        .collect()
}

fn verdict(parsed: &Parsed) -> String {
    match parsed {
        Parsed::NoTool => "no tool".to_owned(),
        Parsed::Refused(refusal) => format!("refused, {refusal}"),
        Parsed::Call(call) => {
            let mut text = format!("shows {:?}", call.shown);
            for step in &call.steps {
                let names = match &step.names {
                    Names::List(names) => format!("{names:?}"),
                    Names::Text(name) => format!("{name:?}"),
                    Names::AllOf(_) => "all names".to_owned(),
                };
                let boxes = match &step.boxes {
                    BoxSource::Figure(axis) => axis.boxes_variable().to_owned(),
                    BoxSource::Literal(boxes) => format!("{boxes:?}"),
                };
                let _ = write!(
                    text,
                    "\n    {} of {:?}: {names} in {boxes}",
                    step.tool, step.image
                );
            }
            text
        }
    }
}

#[test]
fn verdicts_on_the_corpus() {
    let mut verdicts = String::new();
    for (name, text) in entries() {
        let _ = writeln!(verdicts, "{name}\n    {}", verdict(&parse(text)));
    }
    insta::assert_snapshot!(verdicts);
}

#[test]
fn refusals_are_counted_by_reason() {
    let mut counts = RefusalCounts::default();
    for (_, text) in entries() {
        if let Parsed::Refused(refusal) = parse(text) {
            counts.add(&refusal);
        }
    }
    insta::assert_snapshot!(serde_json::to_string_pretty(&counts).unwrap());
}

fn reason(code: &str) -> Option<RefusalReason> {
    match parse(&format!("```python\n{code}\n```")) {
        Parsed::Refused(refusal) => Some(refusal.reason),
        _ => None,
    }
}

#[test]
fn size_is_bounded() {
    let call =
        |names: &str| format!("display(focus_on_rows_with_draw(image_1, {names}, rows_bbox))");
    let deep = |n: usize| call(&format!("{}'a'{}", "(".repeat(n), ")".repeat(n)));
    assert_eq!(reason(&deep(10)), None);
    assert_eq!(reason(&deep(50)), Some(RefusalReason::TooDeep));
    assert_eq!(reason(&deep(30_000)), Some(RefusalReason::TooDeep));
    assert_eq!(reason(&call(&format!("[{}]", "'a',".repeat(1000)))), None);
    assert_eq!(
        reason(&call(&format!("[{}]", "'a',".repeat(5000)))),
        Some(RefusalReason::TooLong)
    );
    assert_eq!(
        reason(&call(&format!("['{}']", "a".repeat(100_000)))),
        Some(RefusalReason::TooLong)
    );
    assert_eq!(
        reason(&"image_1\n".repeat(5000)),
        Some(RefusalReason::TooLong)
    );
    assert_eq!(
        reason(&(call("['a']") + "\n").repeat(100)),
        Some(RefusalReason::TooLong)
    );
    // Doubling a list or a string thirty times must not take memory.
    for start in ["a = ['x']", "a = 'x'"] {
        let code = format!("{start}\n{}{}", "a = a + a\n".repeat(30), call("a"));
        assert_eq!(reason(&code), Some(RefusalReason::TooLong));
    }
}

#[test]
fn all_tools_go_by_their_names() {
    assert_eq!(Tool::all().count(), 12);
    for tool in Tool::all() {
        assert_eq!(tool.to_string().parse(), Ok(tool));
        let code = format!(
            "```python\n{tool}(image_1, ['a'], {})\n```",
            tool.axis.boxes_variable()
        );
        assert_eq!(
            parse(&code),
            Parsed::Call(ToolCall::new(tool, vec!["a".to_owned()]))
        );
    }
    let tool = Tool {
        axis: Axis::XValues,
        effect: Effect::Mask,
    };
    assert_eq!(
        serde_json::to_string(&tool).unwrap(),
        "\"focus_on_x_values_with_mask\""
    );
    for wrong in [
        "",
        "focus_on_x_values",
        "focus_on_X_values_with_mask",
        "focus_on__with_",
        "focus_on_rows_with_mask ",
    ] {
        assert!(wrong.parse::<Tool>().is_err(), "{wrong}");
    }
}

#[test]
fn the_tool_that_counts_is_the_last_on_the_shown_image() {
    let code = "```python\na = focus_on_rows_with_highlight(image_1, ['a'], rows_bbox)\n\
                b = focus_on_rows_with_draw(image_1, ['b'], rows_bbox)\ndisplay(a)\n```";
    let Parsed::Call(call) = parse(code) else {
        panic!("{:?}", parse(code));
    };
    assert_eq!(
        (call.tool.effect, call.names.as_slice()),
        (Effect::Highlight, &["a".to_owned()][..])
    );
    assert_eq!((call.steps.len(), call.shown), (2, ImageSource::Step(0)));
}

const WORDS: [&str; 40] = [
    "focus_on_rows_with_mask",
    "focus_on_y_values_with_draw",
    "focus_on_columns_with_highlight",
    "display",
    "print",
    "list",
    "image_1",
    "rows_bbox",
    "columns_bbox",
    "y_values_bbox",
    "a",
    "b",
    "'a'",
    "\"b\"",
    "'''c'''",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "=",
    "+",
    ".",
    "keys",
    "\n",
    ";",
    "-",
    "1",
    "2.5",
    " ",
    "#",
    "for",
    "import",
    "'x1'",
    "```",
    "é",
    "(image_1, ['a'], rows_bbox)",
];

fn figure() -> FigureBoxes {
    let boxes = NamedBoxes::from_pairs([
        ("a".to_owned(), PixelBox::new(1.0, 1.0, 14.0, 5.0)),
        ("b".to_owned(), PixelBox::new(1.0, 6.0, 14.0, 11.0)),
    ]);
    FigureBoxes::table(boxes.clone(), boxes)
}

/// Parsing and, where it is a call, painting: neither may panic.
fn carry_out(completion: &str) {
    if let Parsed::Call(call) = parse(completion) {
        let image = image::RgbImage::new(16, 12);
        for style in [Style::refocus(), Style::vtool_v2(), Style::micro()] {
            let _ = apply(&image, &call, &figure(), &style);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read(text in any::<String>()) {
        carry_out(&text);
        carry_out(&format!("```python\nimage_1{text}\n```"));
    }

    #[test]
    fn any_words_are_read(words in prop::collection::vec(prop::sample::select(&WORDS[..]), 0..60)) {
        carry_out(&format!("```python\nimage_1\n{}\n```", words.concat()));
    }

    #[test]
    fn damaged_calls_are_read(
        entry in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        length in 0usize..6,
        word in prop::sample::select(&WORDS[..]),
    ) {
        let entries = entries();
        let mut text: Vec<char> = entries[entry.index(entries.len())].1.chars().collect();
        let from = at.index(text.len() + 1);
        let to = (from + length).min(text.len());
        text.splice(from..to, word.chars());
        carry_out(&text.into_iter().collect::<String>());
    }

    #[test]
    fn written_calls_come_back(
        names in prop::collection::vec("[^'\\\\\r\n\0`]{0,12}", 1..6),
        tool in prop::sample::select(Tool::all().collect::<Vec<_>>()),
    ) {
        let list: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
        let boxes = tool.axis.boxes_variable();
        let text = format!("so:\n```python\nx = {tool}(image_1, [{}], {boxes})\ndisplay(x)\n```", list.join(", "));
        prop_assert_eq!(parse(&text), Parsed::Call(ToolCall::new(tool, names)));
    }
}
