//! Sessions: the tokens that `generate` samples, with scores that stay on the device, and turns that
//! run only what was said since.

mod common;

use std::collections::BTreeSet;

use common::{continued, largest_difference, model, options, prompt};
use qwen2_5_vl::{GenerationOptions, Prompt, SampleId, Sampled, SessionPrompt};

fn requests<'a>(prompts: &'a [Prompt], seeds: &[Vec<Option<u64>>]) -> Vec<SessionPrompt<'a>> {
    let pairs = prompts.iter().zip(seeds);
    let requests = pairs.map(|(prompt, seeds)| SessionPrompt {
        prompt,
        follows: None,
        seeds: seeds.clone(),
    });
    requests.collect()
}

fn same(found: &Sampled, expected: &Sampled) {
    assert_eq!(found.token_ids, expected.token_ids);
    assert_eq!(found.stopped, expected.stopped);
    assert!(largest_difference(&found.log_probs, &expected.log_probs) < 1e-4);
}

#[test]
fn a_session_samples_what_generate_samples() {
    let model = model(true, 3);
    let prompts: Vec<Prompt> = (0..4)
        .map(|i| prompt(&model, i, 3 + 2 * i as usize))
        .collect();
    let seeds: Vec<Vec<Option<u64>>> = (0..4u64)
        .map(|i| (0..=i).map(|s| Some(100 * i + s)).chain([None]).collect())
        .collect();
    for (temperature, top_p) in [(1.0, None), (0.8, Some(0.9)), (0.0, None)] {
        let options = GenerationOptions {
            top_p,
            ..options(temperature)
        };
        let expected = model.generate(&prompts, &seeds, &options).unwrap();
        // Enough rows, and too few.
        for rows in [1000, 0] {
            let mut session = model.session(rows).unwrap();
            let requests = requests(&prompts, &seeds);
            let found = session.generate(&requests, &options).unwrap();
            let mut ids = BTreeSet::new();
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(found.len(), expected.len());
                for (found, expected) in found.iter().zip(expected) {
                    same(&found.sampled, expected);
                    ids.insert(format!("{:?}", found.id));
                }
            }
            assert_eq!(ids.len(), 2 + 3 + 4 + 5);
        }
    }
}

#[test]
fn a_later_turn_runs_only_what_was_said_since() {
    let model = model(false, 3);
    let firsts: Vec<Prompt> = (0..2).map(|i| prompt(&model, i, 4)).collect();
    let seeds = [vec![Some(1), Some(2)], vec![Some(3), None]];
    let options = options(1.0);
    let mut session = model.session(2000).unwrap();
    let found = session
        .generate(&requests(&firsts, &seeds), &options)
        .unwrap();
    let first_tokens: usize = firsts.iter().map(|prompt| prompt.input_ids.len()).sum();
    assert_eq!(session.prefilled(), first_tokens);
    let mut seconds: Vec<(Prompt, SampleId, usize)> = Vec::new();
    for (first, samples) in firsts.iter().zip(&found) {
        for (seed, sample) in samples.iter().enumerate() {
            let said = &sample.sampled;
            let prompt = continued(&model, first, 50 + seed as u64, &said.token_ids);
            // The last token that was sampled has not been run.
            let fresh = prompt.input_ids.len() - first.input_ids.len() - said.token_ids.len() + 1;
            seconds.push((prompt, sample.id, fresh));
        }
    }
    let later: Vec<SessionPrompt> = seconds
        .iter()
        .map(|(prompt, id, _)| SessionPrompt {
            prompt,
            follows: Some(*id),
            seeds: vec![Some(7), Some(8), None],
        })
        .collect();
    let answers = session.generate(&later, &options).unwrap();
    let fresh: usize = seconds.iter().map(|(.., fresh)| fresh).sum();
    assert_eq!(session.prefilled(), first_tokens + fresh);
    assert_eq!(session.not_continued(), 0);
    let prompts: Vec<Prompt> = seconds.iter().map(|(prompt, ..)| prompt.clone()).collect();
    let seeds = vec![vec![Some(7), Some(8), None]; prompts.len()];
    let expected = model.generate(&prompts, &seeds, &options).unwrap();
    for (found, expected) in answers.iter().flatten().zip(expected.iter().flatten()) {
        same(&found.sampled, expected);
    }
    // A third turn that goes on with another sample's words is run whole.
    let wrong = SessionPrompt {
        prompt: &firsts[0],
        follows: Some(answers[0][0].id),
        seeds: vec![Some(1)],
    };
    let again = session.generate(&[wrong], &options).unwrap();
    assert_eq!(session.not_continued(), 1);
    same(&again[0][0].sampled, &found[0][0].sampled);
}

#[test]
fn what_a_session_cannot_do_is_said() {
    let model = model(true, 1);
    let own = prompt(&model, 1, 3);
    let mut session = model.session(100).unwrap();
    let ask = |prompt, follows| SessionPrompt {
        prompt,
        follows,
        seeds: vec![Some(1)],
    };
    let penalised = GenerationOptions {
        repetition_penalty: Some(1.2),
        ..options(1.0)
    };
    let refused = session
        .generate(&[ask(&own, None)], &penalised)
        .unwrap_err();
    assert!(
        refused.to_string().contains("repetition_penalty"),
        "{refused}"
    );
    let fewer = Prompt {
        image_features: None,
        ..own.clone()
    };
    let refused = session
        .generate(&[ask(&fewer, None)], &options(1.0))
        .unwrap_err();
    assert!(refused.to_string().starts_with("prompt 0: "), "{refused}");
    let elsewhere = {
        let mut other = model.session(100).unwrap();
        other.generate(&[ask(&own, None)], &options(1.0)).unwrap()[0][0].id
    };
    let refused = session
        .generate(&[ask(&own, Some(elsewhere))], &options(1.0))
        .unwrap_err();
    assert!(
        refused.to_string().contains("follows sample 0"),
        "{refused}"
    );
    assert!(session.generate(&[], &options(1.0)).unwrap().is_empty());
}
