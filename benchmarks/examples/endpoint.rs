//! Asks a running OpenAI-compatible server some questions, shows what came back, and fails when
//! another number of questions than expected stayed without an answer.
//!
//! `endpoint URL MODEL CACHE.jsonl QUESTIONS [--expect-failures N]`, the key in `OPENAI_API_KEY`
//! where one is needed. `tests/real-server/run.sh` runs it.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use agent::{Block, Conversation, Message, MessagePart, Role};
use benchmarks::judge::{Case, EndpointJudge, Judge, Rubric};
use benchmarks::{TestSet, Verdict};
use chat_endpoint::{ApiKey, Cache, Client, SamplingParameters, Settings};

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (url, model, cache, questions, expected) = match arguments.as_slice() {
        [url, model, cache, questions] => (url, model, cache, questions, 0),
        [url, model, cache, questions, flag, failures] if flag == "--expect-failures" => {
            (url, model, cache, questions, failures.parse()?)
        }
        _ => {
            return Err(
                "usage: endpoint URL MODEL CACHE.jsonl QUESTIONS [--expect-failures N]".into(),
            );
        }
    };
    let settings = Settings {
        concurrency: 2,
        attempts: 3,
        first_wait: Duration::from_millis(200),
        ..Settings::new(url, model)
    };
    let key = ApiKey::from_env("OPENAI_API_KEY");
    let client = Client::new(settings, key, Some(Cache::open(cache)?))?;

    let conversations: Vec<Conversation> = (1..=questions.parse::<usize>()?)
        .map(|number| {
            let text =
                format!("Write the number that comes after {number}. Reply with the number only.");
            Conversation::new(vec![Message {
                role: Role::User,
                parts: vec![MessagePart::text(Block::R, text)],
            }])
        })
        .collect();
    let requests: Vec<(&Conversation, SamplingParameters)> = conversations
        .iter()
        .map(|conversation| (conversation, SamplingParameters::greedy(16)))
        .collect();
    let start = Instant::now();
    let replies = client.chat_all(&requests)?;
    for (number, reply) in (1..).zip(&replies) {
        match reply {
            Ok(reply) => println!(
                "{number}: {:?}{}",
                reply.completion.text,
                if reply.from_cache { " (cached)" } else { "" }
            ),
            Err(error) => println!("{number}: {error}"),
        }
    }
    println!(
        "{:.1} s, {:?}",
        start.elapsed().as_secs_f64(),
        client.usage()
    );
    let failures = replies.iter().filter(|reply| reply.is_err()).count();

    // A model this small is no judge; what counts is that it is asked and that nothing breaks.
    let case = Case {
        set: TestSet::Vwtq,
        question: "how many?",
        gold: questions,
        prediction: questions,
        category: None,
    };
    let judge = EndpointJudge::with_rubric(&client, Rubric::VtoolV2);
    let judgement = judge.judge(&[case])?.remove(0);
    println!("judge: {:?}: {:?}", judgement.verdict, judgement.reason);
    if expected > 0 && judgement.verdict != Verdict::NotJudged {
        println!("a dead server gave a verdict");
        return Ok(ExitCode::FAILURE);
    }
    println!("{failures} questions without an answer, {expected} expected");
    Ok(if failures == expected {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
