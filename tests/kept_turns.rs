//! Second turns of the recipe's policy that go on from what the first left: the same episodes as from
//! nothing, within the budget of tokens.

use std::process::Command;
use std::sync::Arc;

use agent::{
    Completion, CompletionRequest, Episode, EpisodeOptions, MessagePart, ObservationMode, Policy,
    PromptStyle, Task, run_episodes, second_turn,
};
use image::{Rgb, RgbImage};
use replicate::compute::Compute;
use replicate::kept_turns::Reused;
use replicate::policy::LocalPolicy;
use visual_tools::{FigureBoxes, NamedBoxes, PixelBox, Style};

/// Asks every turn for itself.
struct FromNothing<'a>(&'a mut LocalPolicy);

impl Policy for FromNothing<'_> {
    type Error = replicate::Error;

    fn complete(
        &mut self,
        requests: &[CompletionRequest<'_>],
    ) -> replicate::Result<Vec<replicate::Result<Completion>>> {
        let alone: Vec<CompletionRequest<'_>> = requests
            .iter()
            .map(|request| CompletionRequest::new(request.conversation, request.seed))
            .collect();
        self.0.complete(&alone)
    }
}

/// A random model of the real architecture, whose vocabulary has whole calls.
fn policy() -> LocalPolicy {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_iapo"));
    command.arg("stand-ins").arg(folder.path());
    let written = command.args(["--test", "1", "--train", "1"]).output();
    assert!(written.unwrap().status.success());
    let model = folder.path().join("student");
    let mut policy = LocalPolicy::load(&model, &Compute::cpu(), 6).unwrap();
    policy.temperature = 1.0;
    policy
}

fn task(request: &str, shade: u8) -> Task {
    let region = PixelBox {
        x1: 4.0,
        y1: 4.0,
        x2: 20.0,
        y2: 30.0,
    };
    let years = ["2014", "2015", "2016", "2018"];
    let named = years.map(|year| (year.to_owned(), region));
    Task {
        image: Arc::new(RgbImage::from_pixel(84, 56, Rgb([shade; 3]))),
        boxes: Arc::new(FigureBoxes {
            x_values: NamedBoxes(named.to_vec()),
            ..FigureBoxes::default()
        }),
        request: request.to_owned(),
        tools: None,
    }
}

fn episodes<P: Policy>(policy: &mut P, tasks: &[Task], mode: ObservationMode) -> Vec<Episode> {
    let asked: Vec<(&Task, Option<u64>)> = tasks
        .iter()
        .enumerate()
        .flat_map(|(index, task)| {
            let seeds = (0..24).map(move |seed| Some(100 * index as u64 + seed));
            seeds.chain([None]).map(move |seed| (task, seed))
        })
        .collect();
    let options = EpisodeOptions {
        prompt: PromptStyle::Vtool,
        observation: mode,
        tools: Style::refocus(),
    };
    let found = run_episodes(policy, &asked, &options).unwrap();
    found.into_iter().map(Result::unwrap).collect()
}

#[track_caller]
fn same(found: &Completion, expected: &Completion) {
    assert_eq!(found.prompt_ids, expected.prompt_ids);
    assert_eq!(found.token_ids, expected.token_ids);
    assert_eq!(found.text, expected.text);
    for (found, expected) in found.log_probs.iter().zip(&expected.log_probs) {
        assert!((found - expected).abs() < 1e-4, "{found} is not {expected}");
    }
}

#[test]
fn second_turns_say_what_they_say_from_nothing() {
    let mut policy = policy();
    let tasks = [
        task("Which is higher?", 10),
        task("How many?", 200),
        task("Why?", 90),
    ];
    let mode = ObservationMode::Append;
    let expected = episodes(&mut FromNothing(&mut policy), &tasks, mode);
    assert_eq!(policy.reused, Reused::default());
    let seconds = expected.iter().filter(|own| own.turns.len() == 2).count() as u64;
    assert!(seconds > 10, "{seconds} calls are too few to tell");
    let prompt = expected[0].turns[0].completion.prompt_ids.len();
    // Room for all; for one question at a time; for one and not for all of its samples; for none.
    let mut reused = Vec::new();
    for budget in [65_536, 2 * prompt + 100, prompt + 40, prompt / 2] {
        policy.budgets.rollout_tokens = budget;
        policy.reused = Reused::default();
        let found = episodes(&mut policy, &tasks, mode);
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.turns.len(), expected.turns.len());
            assert_eq!(found.answer, expected.answer);
            for (found, expected) in found.turns.iter().zip(&expected.turns) {
                same(&found.completion, &expected.completion);
            }
        }
        println!(
            "{budget} tokens, prompts of {prompt}: {:?} of {seconds}",
            policy.reused
        );
        assert!(policy.reused.run_whole <= seconds);
        reused.push(policy.reused.tokens);
        policy.forget();
    }
    assert!(reused[0] > 5 * prompt as u64, "{reused:?}");
    assert!(reused[2] > 0 && reused[2] < reused[0], "{reused:?}");
    assert_eq!(reused[3], 0);
    // A figure that replaces the first leaves nothing to go on with.
    policy.budgets.rollout_tokens = 65_536;
    policy.reused = Reused::default();
    episodes(&mut policy, &tasks, ObservationMode::Replace);
    assert_eq!(policy.reused, Reused::default());
}

#[test]
fn what_is_kept_stays_below_the_budget_and_goes_with_the_next_call() {
    let mut policy = policy();
    let tasks: Vec<Task> = (0..6).map(|shade| task("Which?", 40 * shade)).collect();
    let conversations: Vec<_> = tasks
        .iter()
        .map(|task| agent::first_turn(task, PromptStyle::Vtool))
        .collect();
    let requests: Vec<CompletionRequest<'_>> = conversations
        .iter()
        .flat_map(|conversation| {
            (0..8).map(move |seed| CompletionRequest {
                may_be_followed: true,
                ..CompletionRequest::new(conversation, Some(seed))
            })
        })
        .collect();
    let prompt = policy.encode(&[&conversations[0]]).unwrap()[0]
        .prompt
        .input_ids
        .len();
    // Six tokens a sample, of which the last has no row.
    let question = prompt + 8 * 5;
    for (budget, least) in [
        (10 * question, 5 * prompt),
        (3 * question, 2 * prompt),
        (prompt, 0),
    ] {
        policy.budgets.rollout_tokens = budget;
        policy.complete(&requests).unwrap();
        let kept = policy.kept_tokens();
        assert!(kept >= least && kept <= budget, "{kept} of {budget}");
        let parts = policy.parts(&requests).unwrap();
        assert_eq!(parts.concat(), (0..48).collect::<Vec<_>>());
        for part in parts {
            let part = part.len() / 8;
            assert!(part == 1 || 2 * part * prompt <= budget, "{part} questions");
        }
    }
    policy.budgets.rollout_tokens = 10 * question;
    policy.complete(&requests).unwrap();
    assert!(policy.kept_tokens() > 0);
    policy
        .complete(&[CompletionRequest::new(&conversations[0], None)])
        .unwrap();
    assert_eq!(policy.kept_tokens(), 0);
}

#[test]
fn a_turn_with_another_image_or_other_words_is_run_whole() {
    let mut policy = policy();
    let own = task("Which?", 10);
    let first = agent::first_turn(&own, PromptStyle::Vtool);
    let request = CompletionRequest {
        may_be_followed: true,
        ..CompletionRequest::new(&first, Some(3))
    };
    // One that is tokenised as it was sampled.
    let seeds = 0..200u64;
    let seed = seeds.map(Some).find(|&seed| {
        let asked = CompletionRequest {
            seed,
            ..request.clone()
        };
        let said = policy.complete(&[asked]).unwrap().remove(0).unwrap();
        let ids = policy.processor.tokenizer().encode(&said.text).unwrap();
        !said.stopped && ids == said.token_ids
    });
    let request = CompletionRequest {
        seed: seed.unwrap(),
        ..request
    };
    let edited = Arc::new(RgbImage::from_pixel(84, 56, Rgb([50; 3])));
    let after = |task: &Task, text: &str| {
        let first = agent::first_turn(task, PromptStyle::Vtool);
        let mode = ObservationMode::Append;
        second_turn(task, &first, text, Ok(&edited), PromptStyle::Vtool, mode)
    };
    // The same tokens with a figure of the same size; other words.
    for (task, more, whole) in [
        (own.clone(), "", 0),
        (task("Which?", 11), "", 1),
        (own.clone(), "?", 0),
        (task("What?", 10), "", 1),
    ] {
        let said = policy.complete(std::slice::from_ref(&request)).unwrap();
        let said = said.into_iter().next().unwrap().unwrap();
        let next = after(&task, &format!("{}{more}", said.text));
        let images = next.iter().flat_map(|message| &message.parts);
        let images = images.filter(|part| matches!(part, MessagePart::Image(_)));
        assert_eq!(images.count(), 2);
        policy.reused = Reused::default();
        let following = CompletionRequest {
            follows: said.id,
            ..CompletionRequest::new(&next, Some(5))
        };
        let found = policy.complete(&[following]).unwrap().remove(0).unwrap();
        assert_eq!(policy.reused.run_whole, whole, "{:?}", policy.reused);
        assert_eq!(policy.reused.tokens > 0, whole == 0);
        let alone = CompletionRequest::new(&next, Some(5));
        same(
            &found,
            &policy.complete(&[alone]).unwrap().remove(0).unwrap(),
        );
    }
}
