//! Faults of servers as people met them: which are told at the first request, which are mended,
//! and that none becomes an answer.

#[path = "support/questions.rs"]
mod questions;
mod support;

use std::sync::Mutex;
use std::time::Duration;

use chat_endpoint::{Cache, Client, Error, SamplingParameters, Settings};
use questions::{all, ask, client, echo, header, questions, settings};
use serde_json::{Value, json};
use support::{Behaviour, Received, Server};

fn json_answer(status: u16, headers: &[(&str, &str)], body: &Value) -> Behaviour {
    let headers = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Behaviour::Answer(status, headers, body.to_string().into_bytes())
}

fn choice(message: Value, finish: Value) -> Behaviour {
    let choice = json!({ "index": 0, "message": message, "finish_reason": finish });
    let usage = json!({ "prompt_tokens": 10, "completion_tokens": 16 });
    json_answer(
        200,
        &[],
        &json!({ "model": "m", "choices": [choice], "usage": usage }),
    )
}

/// Refuses the requests that have the field, and answers the others.
fn refusing(
    refused: &'static [(&'static str, &'static str)],
) -> impl Fn(&Received) -> Behaviour + Send + Sync + 'static {
    move |received| {
        for (name, body) in refused {
            if received.body.get(*name).is_some() {
                return Behaviour::Status(400, vec![], body);
            }
        }
        echo(received)
    }
}

const NO_MAX_TOKENS: (&str, &str) = (
    "max_tokens",
    r#"{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.","type":"invalid_request_error","param":"max_tokens","code":"unsupported_parameter"}}"#,
);
const NO_TEMPERATURE: (&str, &str) = (
    "temperature",
    r#"{"error":{"message":"Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported.","param":"temperature","code":"unsupported_value"}}"#,
);

#[test]
fn a_refused_max_tokens_is_sent_as_max_completion_tokens_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.jsonl");
    let conversations = questions(8);
    let server = Server::start(refusing(&[NO_MAX_TOKENS]));
    {
        let cache = Some(Cache::open(&path).unwrap());
        let client = Client::new(settings(&server), None, cache).unwrap();
        assert!(client.adaptations().sentences().is_empty());
        let replies = all(&client, &conversations).unwrap();
        assert!(replies.iter().all(Result::is_ok), "{replies:?}");
        assert!(client.adaptations().max_completion_tokens);
        assert!(!client.adaptations().no_temperature);
        assert_eq!(client.adaptations().sentences().len(), 1);
        assert_eq!((client.usage().failed, client.usage().retries), (0, 0));
    }
    let received = server.received();
    let refused = received
        .iter()
        .filter(|received| received.body.get("max_tokens").is_some())
        .count();
    assert!(
        (1..=2).contains(&refused),
        "once for each thread at most: {refused}"
    );
    let last = &received.last().unwrap().body;
    assert_eq!(last["max_completion_tokens"], 16);
    assert_eq!(last["temperature"], 0.0);

    // The limit's name changes nothing that was sampled: a server that takes the usual name goes
    // on with what is there.
    let other = Server::start(echo);
    let cache = Some(Cache::open(&path).unwrap());
    let client = Client::new(settings(&other), None, cache).unwrap();
    all(&client, &conversations).unwrap();
    assert!(other.received().is_empty());
}

#[test]
fn a_refused_temperature_is_left_out_and_tells_its_completions_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.jsonl");
    let conversations = questions(5);
    let server = Server::start(refusing(&[NO_TEMPERATURE, NO_MAX_TOKENS]));
    let run = |server: &Server| {
        let cache = Some(Cache::open(&path).unwrap());
        let client = Client::new(settings(server), None, cache).unwrap();
        let replies = all(&client, &conversations).unwrap();
        assert!(replies.iter().all(Result::is_ok), "{replies:?}");
        (client.adaptations(), client.usage())
    };
    let (adaptations, usage) = run(&server);
    assert!(adaptations.no_temperature && adaptations.max_completion_tokens);
    assert_eq!(adaptations.sentences().len(), 2);
    assert_eq!((usage.completions, usage.from_cache), (5, 0));
    // A run that goes on learns it again, and then finds what it has.
    let (adaptations, usage) = run(&server);
    assert!(adaptations.no_temperature);
    assert_eq!((usage.completions, usage.from_cache), (0, 5));
    // With a temperature they are other completions.
    let (adaptations, usage) = run(&Server::start(echo));
    assert_eq!(adaptations, Default::default());
    assert_eq!((usage.completions, usage.from_cache), (5, 0));
}

#[test]
fn a_parameter_refused_for_good_ends_the_run_at_once() {
    // Refused under both names, and one that nothing stands in for.
    const NEITHER: (&str, &str) = (
        "max_completion_tokens",
        r#"{"error":{"message":"max_completion_tokens is not supported","param":"max_completion_tokens"}}"#,
    );
    let server = Server::start(refusing(&[NO_MAX_TOKENS, NEITHER]));
    let error = all(&client(&server), &questions(50)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::ParameterRefused {
                parameter: "max_completion_tokens",
                ..
            }
        ),
        "{error:?}"
    );
    assert!(server.received().len() <= 4);

    let server = Server::start(|received| match received.body.get("response_format") {
        Some(_) => Behaviour::Status(400, vec![], "response_format is not supported"),
        None => echo(received),
    });
    let mut parameters = SamplingParameters::greedy(4);
    parameters.json_object = true;
    let error = client(&server).chat(&ask("q"), &parameters).unwrap_err();
    assert!(error.to_string().contains("`response_format`"), "{error}");
}

/// Tells what one request to a server that always behaves so costs, and how it ends.
fn outcome_of(behaviour: Behaviour) -> (Error, usize, Option<String>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.jsonl");
    let server = Server::start(move |_| behaviour.clone());
    let client = Client::new(settings(&server), None, Some(Cache::open(&path).unwrap())).unwrap();
    let error = client
        .chat(&ask("q"), &SamplingParameters::greedy(16))
        .unwrap_err();
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        "",
        "nothing is kept"
    );
    (error, server.received().len(), client.given_up())
}

#[test]
fn a_wrong_address_is_named_at_the_first_request() {
    for body in [
        "<!doctype html><html>Sign in</html>",
        "Ollama is running",
        r#"{"detail": "Not Found"}"#,
        r#"{"status": "ok"}"#,
        "[]",
        r#"{"choices": [{"text": "4", "finish_reason": "stop"}]}"#,
        r#"{"error": "Unexpected endpoint or method. (POST /chat/completions). Returning 200 anyway"}"#,
    ] {
        let (error, asked, given_up) = outcome_of(Behaviour::Body(body));
        assert_eq!(asked, 1, "{body}");
        assert!(matches!(error, Error::WrongAddress { .. }), "{error:?}");
        assert!(error.ends_run() && given_up.is_some());
        let told = error.to_string();
        assert!(
            told.contains("http://127.") && told.contains("base address"),
            "{told}"
        );
    }
    for status in [204, 301, 302, 307, 308, 404, 405, 415, 501] {
        let location = vec![("location", "http://127.0.0.1:9/elsewhere")];
        let (error, asked, _) = outcome_of(Behaviour::Status(status, location, "no"));
        assert_eq!(asked, 1, "{status}");
        assert!(matches!(error, Error::NotServed { .. }), "{error:?}");
    }
    // The run ends with it, whatever its length.
    let server = Server::start(|_| Behaviour::Body("<html>"));
    let error = all(&client(&server), &questions(200)).unwrap_err();
    assert!(matches!(error, Error::WrongAddress { .. }), "{error:?}");
    assert!(server.received().len() <= 2);
}

#[test]
fn a_page_from_a_gateway_in_the_middle_of_a_run_costs_no_question() {
    let count = Mutex::new(0);
    let server = Server::start(move |received| {
        let mut count = count.lock().unwrap();
        *count += 1;
        match *count % 5 {
            3 => Behaviour::Body("<html>one moment</html>"),
            4 => Behaviour::Body(r#"{"detail": "try again"}"#),
            _ => echo(received),
        }
    });
    let client = Client::new(
        Settings {
            concurrency: 1,
            ..settings(&server)
        },
        None,
        None,
    )
    .unwrap();
    let replies = all(&client, &questions(20)).unwrap();
    assert!(replies.iter().all(Result::is_ok), "{replies:?}");
    assert!(
        client
            .last_failure()
            .is_some_and(|reason| reason.contains("no chat completion"))
    );
}

#[test]
fn tokens_spent_on_reasoning_and_native_calls_cost_one_request() {
    let reasoning = json!({ "content": null, "reasoning_content": "let me look" });
    let (error, asked, given_up) = outcome_of(choice(reasoning, json!("length")));
    assert_eq!((asked, given_up), (1, None));
    assert!(
        error
            .to_string()
            .contains("all 16 tokens went into reasoning"),
        "{error}"
    );
    assert!(error.to_string().contains("--max-new-tokens"), "{error}");
    let call = json!([{ "id": "1", "function": { "name": "focus", "arguments": "{}" } }]);
    let native = json!({ "content": null, "tool_calls": call });
    let (error, asked, _) = outcome_of(choice(native, json!("tool_calls")));
    assert_eq!(asked, 1);
    assert!(
        error.to_string().contains("native call of `focus`"),
        "{error}"
    );
}

#[test]
fn a_completion_that_ended_badly_is_asked_for_again_and_then_not_counted() {
    let message = json!({ "content": "FINAL ANSWER: 4" });
    for finish in [
        json!("error"),
        json!("abort"),
        json!("content_filter"),
        json!("odd"),
        json!(null),
    ] {
        let (error, asked, given_up) = outcome_of(choice(message.clone(), finish));
        assert_eq!((asked, given_up), (4, None));
        assert!(
            matches!(error, Error::Exhausted { attempts: 4, .. }),
            "{error:?}"
        );
    }
    // The provider behind a router was gone for one attempt.
    let first = Mutex::new(true);
    let server = Server::start(
        move |received| match std::mem::take(&mut *first.lock().unwrap()) {
            true => {
                let gone = json!({ "code": 502, "message": "Upstream provider disconnected" });
                let choice = json!({ "message": { "content": "" }, "finish_reason": "error", "error": gone });
                json_answer(200, &[], &json!({ "choices": [choice] }))
            }
            false => echo(received),
        },
    );
    let client = client(&server);
    let reply = client
        .chat(&ask("q"), &SamplingParameters::greedy(4))
        .unwrap();
    assert_eq!(reply.answer(), "answer to q");
    assert_eq!(client.usage().retries, 1);
    assert!(
        client
            .last_failure()
            .unwrap()
            .contains("Upstream provider disconnected")
    );
}

#[test]
fn a_stream_that_nobody_asked_for_is_read() {
    let server = Server::start(|received| {
        let text = received.last_text();
        let pieces: String = format!("answer to {text}")
            .split_inclusive(' ')
            .map(|word| {
                let delta = json!({ "choices": [{ "index": 0, "delta": { "content": word } }] });
                format!("data: {delta}\n\n")
            })
            .collect();
        let end = json!({ "choices": [{ "delta": {}, "finish_reason": "stop" }] });
        let body = format!(": hello\n\n{pieces}data: {end}\n\ndata: [DONE]\n\n");
        let header = ("content-type".to_owned(), "text/event-stream".to_owned());
        Behaviour::Answer(200, vec![header], body.into_bytes())
    });
    let replies = all(&client(&server), &questions(3)).unwrap();
    for (index, reply) in replies.iter().enumerate() {
        assert_eq!(
            reply.as_ref().unwrap().answer(),
            format!("answer to question {index}")
        );
    }
    assert_eq!(server.received().len(), 3);
}

#[test]
fn an_answer_without_end_is_cut_off() {
    let server = Server::start(|_| Behaviour::Endless);
    let settings = Settings {
        timeout: Duration::from_secs(60),
        ..settings(&server)
    };
    let client = Client::new(settings, None, None).unwrap();
    let error = client
        .chat(&ask("q"), &SamplingParameters::greedy(4))
        .unwrap_err();
    assert!(matches!(error, Error::TooLong { .. }), "{error:?}");
    assert_eq!(server.received().len(), 1);
}

#[test]
fn no_redirect_is_followed() {
    let other = Server::start(echo);
    let to = format!("{}/chat/completions", other.url());
    for status in [301, 302, 303, 307, 308] {
        let headers = header("location", &to);
        let (error, asked, _) = outcome_of(Behaviour::Answer(status, headers, vec![]));
        assert_eq!(asked, 1);
        assert!(error.to_string().contains(&to), "{error}");
    }
    assert!(other.received().is_empty());
}

#[test]
fn a_refusal_of_everything_ends_the_run_where_servers_are_given_up() {
    let server = Server::start(|_| Behaviour::Status(400, vec![], "no images, please"));
    let settings = Settings {
        give_up_after: Some(3),
        ..settings(&server)
    };
    let client = Client::new(settings, None, None).unwrap();
    let replies = all(&client, &questions(500)).unwrap();
    assert!(replies.iter().all(Result::is_err));
    assert!(server.received().len() <= 12, "{}", server.received().len());
    assert!(client.given_up().unwrap().contains("no images, please"));
}

/// Entries that were kept before ends were: what the length limit ended is known, what "stopped"
/// may have ended in any way.
#[test]
fn an_old_entry_is_used_only_where_its_end_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.jsonl");
    let conversations = questions(4);
    let mut lines = String::new();
    for (conversation, (text, stopped, finish)) in conversations.iter().zip([
        ("old, stopped", true, None),
        ("old, cut off", false, None),
        ("new", true, Some("stop")),
        ("damaged", true, Some("error")),
    ]) {
        let key = chat_endpoint::cache_key("m", conversation, &SamplingParameters::greedy(16));
        let mut entry = json!({ "key": key.to_hex().as_str(), "text": text, "stopped": stopped,
            "served_by": "m", "prompt_tokens": 1, "completion_tokens": 1 });
        if let Some(finish) = finish {
            entry["finish_reason"] = json!(finish);
        }
        lines += &format!("{entry}\n");
    }
    std::fs::write(&path, lines).unwrap();
    let server = Server::start(echo);
    for from_cache in [2, 4] {
        let cache = Some(Cache::open(&path).unwrap());
        let client = Client::new(settings(&server), None, cache).unwrap();
        let texts: Vec<String> = all(&client, &conversations)
            .unwrap()
            .into_iter()
            .map(|reply| reply.unwrap().completion.text)
            .collect();
        let expected = [
            "answer to question 0",
            "old, cut off",
            "new",
            "answer to question 3",
        ];
        assert_eq!(texts, expected);
        assert_eq!(client.usage().from_cache, from_cache);
    }
}

#[test]
fn a_thought_is_kept_in_the_cache_and_out_of_the_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.jsonl");
    let said = "<think>FINAL ANSWER: 3</think>\nFINAL ANSWER: 4";
    let server = Server::start(move |_| Behaviour::Say(said.to_owned()));
    let client = Client::new(settings(&server), None, Some(Cache::open(&path).unwrap())).unwrap();
    let greedy = SamplingParameters::greedy(4);
    for _ in 0..2 {
        let reply = client.chat(&ask("q"), &greedy).unwrap();
        assert_eq!(reply.completion.text, said);
        assert_eq!(reply.answer(), "FINAL ANSWER: 4");
    }
    let mut policy = chat_endpoint::EndpointPolicy::new(&client, greedy);
    let conversation = ask("q");
    let request = agent::CompletionRequest::new(&conversation, None);
    let completions = agent::Policy::complete(&mut policy, &[request]).unwrap();
    assert_eq!(completions[0].as_ref().unwrap().text, "FINAL ANSWER: 4");
    assert_eq!(server.received().len(), 1);
}
