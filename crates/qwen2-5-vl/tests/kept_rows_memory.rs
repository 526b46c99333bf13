//! What is kept of a generation takes the memory of its rows, and of no other.
//!
//! Its one test has a file, and so a process, of its own: other tests would allocate beside it.

#[allow(dead_code, reason = "the peak is not asked for")]
#[path = "common/allocations.rs"]
mod allocations;
mod common;

use allocations::in_use;
use common::{model, options, prompt};
use qwen2_5_vl::{KeptRows, Prompt, TurnPrompt};

/// Nine samples of three prompts: what is kept is the rows of the last of them, a prompt's once, and
/// nothing of the cache that they were sampled in.
#[test]
fn only_rows_that_were_filled_are_kept_and_no_more_than_asked() {
    let model = model(true, 3);
    let firsts: Vec<Prompt> = (0..3).map(|i| prompt(&model, i, 2000)).collect();
    let turns: Vec<_> = firsts
        .iter()
        .map(|prompt| TurnPrompt {
            prompt,
            follows: None,
            seeds: vec![Some(7), Some(8), None],
            keep: true,
        })
        .collect();
    let options = options(1.0);
    let text = &model.config().text;
    let of_row = 2 * 4 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim();
    let generate = |most| model.generate_turns(&turns, &options, most).unwrap();
    // What is made at the first use and stays.
    drop(generate(0));
    for (most, expected) in [(10_000, 3), (5_000, 2), (2_100, 1), (2_000, 0)] {
        let before = in_use();
        let found = generate(most);
        let held = in_use() - before;
        let kept: Vec<&KeptRows> = found
            .iter()
            .flatten()
            .filter_map(|own| own.kept.as_ref())
            .collect();
        let rows: usize = (0..kept.len())
            .map(|index| kept[index].rows_beside(kept[..index].iter().copied()))
            .sum();
        let prompts = found
            .iter()
            .filter(|own| own.iter().any(|own| own.kept.is_some()))
            .count();
        assert!(rows <= most, "{rows} of {most}");
        assert_eq!(prompts, expected);
        // Beside the rows the tokens, and the tensors' own fields.
        let of_tokens = kept.iter().map(|own| 4 * own.rows() + 8_000).sum::<usize>();
        let spare = of_tokens + 20_000;
        println!("{most}: {rows} rows, {held} bytes");
        assert!(
            held >= rows * of_row && held <= rows * of_row + spare,
            "{held}"
        );
    }
}
