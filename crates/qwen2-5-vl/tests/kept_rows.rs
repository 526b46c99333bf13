//! Keys and values kept from turn to turn: the same samples as from nothing.

mod common;

use common::{continued, largest_difference, model, options, prompt};
use qwen2_5_vl::{GenerationOptions, Grid, KeptRows, Prompt, TurnPrompt, TurnSample};

fn turn<'a>(prompt: &'a Prompt, follows: Option<&'a KeptRows>, keep: bool) -> TurnPrompt<'a> {
    TurnPrompt {
        prompt,
        follows,
        seeds: vec![Some(7), Some(8), None],
        keep,
    }
}

type Generate<'a> =
    dyn Fn(&[TurnPrompt<'_>], &GenerationOptions, usize) -> Vec<Vec<TurnSample>> + 'a;

#[test]
fn later_turns_sample_what_they_do_from_nothing() {
    let model = model(false, 3);
    let firsts: Vec<Prompt> = (0..3).map(|i| prompt(&model, i, 4)).collect();
    let by_model = |turns: &[TurnPrompt<'_>], options: &GenerationOptions, most| {
        model.generate_turns(turns, options, most).unwrap()
    };
    let by_session = |turns: &[TurnPrompt<'_>], options: &GenerationOptions, most| {
        let mut session = model.session(0).unwrap();
        session.generate_turns(turns, options, most).unwrap()
    };
    let ways: [&Generate<'_>; 2] = [&by_model, &by_session];
    for generate in ways {
        let options = options(1.0);
        let turns: Vec<_> = firsts.iter().map(|own| turn(own, None, true)).collect();
        let mut before = generate(&turns, &options, 10_000);
        let mut prompts = firsts.clone();
        // A second and a third turn, each after the middle sample of the one before.
        for number in 0..2u64 {
            let nexts: Vec<(Prompt, KeptRows)> = prompts
                .iter()
                .zip(&before)
                .map(|(prompt, samples)| {
                    let said = &samples[1].sampled.token_ids;
                    let next = continued(&model, prompt, 50 + number, said);
                    let kept = samples[1].kept.clone().unwrap();
                    // The last token that was sampled has no row.
                    assert_eq!(kept.rows(), prompt.input_ids.len() + said.len() - 1);
                    assert!(kept.begin(&next) && !kept.begin(prompt));
                    (next, kept)
                })
                .collect();
            let turns: Vec<_> = nexts
                .iter()
                .map(|(prompt, kept)| turn(prompt, Some(kept), true))
                .collect();
            let found = generate(&turns, &options, 10_000);
            let turns: Vec<_> = nexts.iter().map(|own| turn(&own.0, None, false)).collect();
            let expected = generate(&turns, &options, 10_000);
            for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                assert!(expected.kept.is_none());
                let (found, expected) = (&found.sampled, &expected.sampled);
                assert_eq!(found.token_ids, expected.token_ids);
                assert_eq!(found.stopped, expected.stopped);
                assert!(largest_difference(&found.log_probs, &expected.log_probs) < 1e-4);
            }
            before = found;
            prompts = nexts.into_iter().map(|own| own.0).collect();
        }
    }
}

#[test]
fn other_words_and_other_images_are_not_what_was_kept() {
    let model = model(true, 3);
    let first = prompt(&model, 0, 4);
    let found = model
        .generate_turns(&[turn(&first, None, true)], &options(1.0), 1000)
        .unwrap();
    let said = found[0][0].sampled.token_ids.clone();
    let kept = found[0][0].kept.as_ref().unwrap();
    let next = continued(&model, &first, 1, &said);
    assert!(kept.begin(&next));
    let mut other = next.clone();
    other.input_ids[first.input_ids.len()] ^= 1;
    let mut turned = next.clone();
    turned.grids[0] = Grid { t: 1, h: 6, w: 12 };
    for wrong in [other, turned] {
        assert!(!kept.begin(&wrong));
        let refused = model
            .generate_turns(&[turn(&wrong, Some(kept), false)], &options(1.0), 0)
            .unwrap_err();
        let expected = "does not go on with";
        assert!(refused.to_string().contains(expected), "{refused}");
    }
}
