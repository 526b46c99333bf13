//! The micro world keeps its promises: exact answers, disjoint splits, tools that help.

use std::collections::HashSet;

use agent::use_tool;
use benchmarks::TestSet;
use benchmarks::micro::{
    CELL, Difficulty, GRID_COLUMNS, GRID_ROWS, Kind, MicroQuestion, Split, is_right, language,
    question,
};
use proptest::prelude::*;
use seeded_random::Stream;
use visual_tools::{Effect, Style};

fn difficulty() -> Difficulty {
    Difficulty {
        table_rows: [3, 5],
        table_columns: [2, 5],
        bars: [3, 6],
        named: [2, 4],
        noise: 0.01,
    }
}

fn make(set: TestSet, split: Split, seed: u64, index: u64) -> MicroQuestion {
    question(set, split, &difficulty(), &Stream::new(seed), index)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn questions_are_sound(seed: u64, index in 0u64..1000, which in 0usize..6) {
        let set = TestSet::ALL[which];
        let micro = make(set, Split::Train, seed, index);
        let again = make(set, Split::Train, seed, index);
        prop_assert_eq!(&micro.question.task.image, &again.question.task.image);
        prop_assert_eq!(&micro.asked, &again.asked);
        prop_assert!(is_right(&micro, Some(&micro.asked.answer)));
        prop_assert!(!is_right(&micro, None));
        let image = &micro.question.task.image;
        prop_assert_eq!(image.width() as usize, CELL * GRID_COLUMNS);
        prop_assert_eq!(image.height() as usize, CELL * GRID_ROWS);
        // Every word of the prompt and of the completions is in the vocabulary.
        let words = language::vocabulary();
        let known = |text: &str| {
            let mut rest = text;
            while !rest.is_empty() {
                let longest = words.iter().filter(|word| rest.starts_with(word.as_str()))
                    .map(|word| word.len()).max();
                match longest {
                    Some(length) => rest = &rest[length..],
                    None => return false,
                }
            }
            true
        };
        prop_assert!(known(&micro.asked.text), "{}", micro.asked.text);
        let tools = micro.question.task.tools.clone().unwrap_or_default();
        prop_assert!(known(&tools), "{}", tools);
        prop_assert!(known(&language::render_answer(&micro.asked.answer)));
        // Right and wrong focuses run, and differ.
        for focus in micro.asked.right.iter().chain(&micro.asked.wrong) {
            let call = focus.call(Effect::Mask);
            prop_assert!(known(&call), "{}", call);
            let (_, outcome, observation) =
                use_tool(&micro.question.task, &call, &Style::micro());
            prop_assert!(outcome.succeeded(), "{}: {:?}", call, outcome);
            prop_assert!(observation.is_some());
        }
        for wrong in &micro.asked.wrong {
            prop_assert!(!micro.asked.right.contains(wrong));
        }
        // The focus names what the question names, never the answer to `which`.
        if matches!(micro.asked.kind, Kind::WhichLargest | Kind::WhichSmallest) {
            prop_assert!(micro.asked.right[0].names.iter().all(|name|
                micro.asked.text.contains(name.as_str())));
        }
    }
}

#[test]
fn splits_share_no_figure() {
    let mut seen: Vec<HashSet<String>> = Vec::new();
    for split in [Split::Train, Split::Validation, Split::Test] {
        let mut figures = HashSet::new();
        for set in TestSet::ALL {
            for index in 0..300 {
                let micro = make(set, split, 3, index);
                assert_eq!(Split::of(&micro.figure), split);
                figures.insert(format!("{:?}", micro.figure));
            }
        }
        assert!(figures.len() > 1500, "figures repeat: {}", figures.len());
        for earlier in &seen {
            assert!(earlier.is_disjoint(&figures));
        }
        seen.push(figures);
    }
}

#[test]
fn one_question_of_each_set() {
    let shown: Vec<String> = TestSet::ALL
        .into_iter()
        .map(|set| {
            let micro = make(set, Split::Test, 5, 1);
            format!(
                "{set}\nT: {}\nR: {}\nanswer: {}\nright: {}\n",
                micro.question.task.tools.as_deref().unwrap_or(""),
                micro.asked.text,
                micro.asked.answer,
                micro.asked.right[0].call(Effect::Mask),
            )
        })
        .collect();
    insta::assert_snapshot!(shown.join("\n"));
}
