//! Calls that the official extraction does not see: no call, and counted by their kind.

use visual_tools::{NearMiss, NearMissCounts, Parsed, near_miss, parse};

const CALL: &str = "display(focus_on_x_values_with_draw(image_1, ['2005'], x_values_bbox))";

fn fenced(fence: &str, language: &str) -> String {
    format!("THOUGHT 0: so.\nACTION 0:\n{fence}{language}\n{CALL}\n{fence}\n")
}

#[test]
fn each_kind_of_near_miss_is_no_call_and_is_named() {
    let arithmetic = "```python\n110 - 30\n```\n";
    let json = r#"{"name": "focus_on_rows_with_mask", "arguments": {"names": ["a"]}}"#;
    let cases = [
        (
            format!("{arithmetic}so:\n{}", fenced("```", "python")),
            NearMiss::AfterAnotherBlock,
        ),
        (
            format!("{arithmetic}{arithmetic}{}", fenced("```", "python")),
            NearMiss::AfterAnotherBlock,
        ),
        (fenced("```", "Python"), NearMiss::AnotherLanguage),
        (fenced("```", "py"), NearMiss::AnotherLanguage),
        (fenced("```", ""), NearMiss::AnotherLanguage),
        (fenced("```", " tool_code"), NearMiss::AnotherLanguage),
        (fenced("~~~", "python"), NearMiss::TildeFence),
        (fenced("~~~", ""), NearMiss::TildeFence),
        (format!("ACTION 0: {CALL}\n"), NearMiss::NoFence),
        (format!("I call `{CALL}`."), NearMiss::NoFence),
        (format!("{arithmetic}{CALL}"), NearMiss::NoFence),
        (
            format!("```python\n{CALL}\nANSWER: 5. FINAL ANSWER: 5. TERMINATE"),
            NearMiss::UnclosedFence,
        ),
        (
            format!("<tool_call>\n{json}\n</tool_call>"),
            NearMiss::NativeCall,
        ),
        (format!("```json\n{json}\n```"), NearMiss::NativeCall),
        (
            "<function=focus_on_rows_with_mask><parameter=names>a</parameter></function>"
                .to_owned(),
            NearMiss::NativeCall,
        ),
        (
            "<invoke name=\"focus_on_rows_with_mask\"></invoke>".to_owned(),
            NearMiss::NativeCall,
        ),
        (
            fenced("```", "Python").replace('_', "\\_"),
            NearMiss::AnotherLanguage,
        ),
        (
            fenced("```", "Python").replace("draw(", "draw ("),
            NearMiss::AnotherLanguage,
        ),
    ];
    let mut counts = NearMissCounts::default();
    for (text, expected) in cases {
        assert_eq!(parse(&text), Parsed::NoTool, "{text}");
        assert_eq!(near_miss(&text), Some(expected), "{text}");
        counts.add(expected);
    }
    assert_eq!(counts.0.len(), 6);
    assert_eq!(
        serde_json::to_value(&counts).unwrap()["after_another_block"],
        2
    );
}

#[test]
fn talk_about_tools_and_calls_that_are_seen_are_no_near_misses() {
    for text in [
        "FINAL ANSWER: 5. TERMINATE".to_owned(),
        "I could use focus_on_x_values_with_draw to look closer.".to_owned(),
        "`focus_on_x_values_with_draw` draws; focus_on_ alone does nothing(x).".to_owned(),
        "focus_on_something_else(image_1)".to_owned(),
        "my_focus_on_rows_with_mask(image_1)".to_owned(),
        "The tools are \"focus_on_rows_with_mask\" and others.".to_owned(),
        "```python\n1 + 1\n```".to_owned(),
        // Seen: a plain block in front does not count as the first.
        format!("```\n2005: 80\n```\n{}", fenced("```", "python")),
        fenced("```", "python"),
        // Seen and refused.
        fenced("```", "python").replace("image_1", "image_9"),
        String::new(),
    ] {
        assert_eq!(near_miss(&text), None, "{text}");
    }
}

#[test]
fn long_texts_take_linear_time() {
    for text in [
        "focus_on_".repeat(300_000),
        "focus_on_rows_with_mask ".repeat(100_000),
        "```\n~~~\n".repeat(200_000) + CALL,
        "\"name\": \"focus_on_rows_with_mask\" ".repeat(60_000),
    ] {
        near_miss(&text);
    }
}

/// The collected cases, where `../shared` is there.
#[test]
fn the_collected_cases() {
    let cases = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/cases/33-thought-fence-first");
    let Ok(first) = std::fs::read_to_string(cases.join("call.txt")) else {
        println!("skipped: ../shared is absent");
        return;
    };
    assert_eq!(parse(&first), Parsed::NoTool);
    assert_eq!(near_miss(&first), Some(NearMiss::AfterAnotherBlock));
    let plain = std::fs::read_to_string(cases.join("call-plain-fence.txt")).unwrap();
    assert!(matches!(parse(&plain), Parsed::Call(_)));
    assert_eq!(near_miss(&plain), None);
}
