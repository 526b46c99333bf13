//! The endpoint client against a server that is slow, limits, fails, cuts, babbles, dies and
//! returns: no question lost, none answered by the network instead of the model.

mod support;

use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent::{
    Block, CompletionRequest, Conversation, EpisodeOptions, Message, MessagePart, ObservationMode,
    Policy, PromptStyle, Role, Task, run_episodes,
};
use chat_endpoint::{
    ApiKey, Cache, Client, EndpointPolicy, Error, Prices, SamplingParameters, Settings,
};
use image::{Rgb, RgbImage};
use support::{Behaviour, Received, Server};
use visual_tools::{FigureBoxes, NamedBoxes, PixelBox, Style};

/// Impatient settings: what takes seconds in life takes milliseconds here.
fn settings(server: &Server) -> Settings {
    Settings {
        timeout: Duration::from_millis(1500),
        first_wait: Duration::from_millis(2),
        longest_wait: Duration::from_millis(2500),
        ..Settings::new(server.url(), "m")
    }
}

fn ask(text: &str) -> Conversation {
    vec![Message {
        role: Role::User,
        parts: vec![
            MessagePart::Image(Arc::new(RgbImage::from_pixel(4, 3, Rgb([7, 7, 7])))),
            MessagePart::text(Block::R, text),
        ],
    }]
    .into()
}

fn questions(n: usize) -> Vec<Conversation> {
    (0..n)
        .map(|index| ask(&format!("question {index}")))
        .collect()
}

fn requests(conversations: &[Conversation]) -> Vec<(&Conversation, SamplingParameters)> {
    conversations
        .iter()
        .map(|conversation| (conversation, SamplingParameters::greedy(16)))
        .collect()
}

fn echo(received: &Received) -> Behaviour {
    Behaviour::Say(format!("answer to {}", received.last_text()))
}

/// A script that treats the attempts of each question by their number, from 0.
fn by_attempt(
    behave: impl Fn(&Received, usize) -> Behaviour + Send + Sync + 'static,
) -> impl Fn(&Received) -> Behaviour + Send + Sync + 'static {
    let attempts: Mutex<HashMap<String, usize>> = Mutex::default();
    move |received| {
        let mut attempts = attempts.lock().unwrap();
        let attempt = attempts.entry(received.last_text()).or_default();
        *attempt += 1;
        let attempt = *attempt - 1;
        drop(attempts);
        behave(received, attempt)
    }
}

fn number(received: &Received) -> usize {
    received
        .last_text()
        .rsplit(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn every_question_gets_its_own_answer_whatever_the_network_does() {
    const N: usize = 48;
    const TROUBLES: usize = 3;
    let server = Server::start(by_attempt(|received, attempt| {
        if attempt >= TROUBLES {
            return echo(received);
        }
        match (number(received) + attempt) % 9 {
            0 => Behaviour::Status(500, vec![], "oops"),
            1 => Behaviour::Status(429, vec![("retry-after", "0.02")], "slow down"),
            2 => Behaviour::CutAtOnce,
            3 => Behaviour::CutInBody,
            4 => Behaviour::Body("{\"choices\": [{\"message\""),
            5 => Behaviour::Body(r#"{"error": "overloaded"}"#),
            6 => Behaviour::Status(503, vec![("retry-after-ms", "10")], ""),
            7 => Behaviour::Status(429, vec![], "no hint"),
            _ => Behaviour::SayLate("late answer".to_owned(), Duration::from_millis(2500)),
        }
    }));
    let client = Client::new(
        Settings {
            prices: Some(Prices {
                prompt: 2.0,
                completion: 10.0,
            }),
            concurrency: 8,
            ..settings(&server)
        },
        None,
        None,
    )
    .unwrap();
    let conversations = questions(N);
    let replies = client.chat_all(&requests(&conversations)).unwrap();
    for (index, reply) in replies.iter().enumerate() {
        let reply = reply.as_ref().unwrap();
        assert_eq!(reply.completion.text, format!("answer to question {index}"));
        assert!(!reply.from_cache);
    }
    let usage = client.usage();
    assert_eq!(usage.completions, N as u64);
    assert_eq!(usage.retries, (N * TROUBLES) as u64);
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (480, 96));
    assert!((usage.cost.unwrap() - (480.0 * 2.0 + 96.0 * 10.0) / 1e6).abs() < 1e-12);
    assert_eq!(server.received().len(), N * (TROUBLES + 1));
}

/// The one error of one request to a server that always behaves so.
fn error_of(behaviour: Behaviour) -> (Error, usize) {
    let server = Server::start(move |_| behaviour.clone());
    let settings = Settings {
        attempts: 2,
        timeout: Duration::from_millis(200),
        ..settings(&server)
    };
    let client = Client::new(settings, None, None).unwrap();
    let error = client
        .chat(&ask("q"), &SamplingParameters::greedy(4))
        .unwrap_err();
    assert_eq!(client.usage().failed, 1);
    (error, server.received().len())
}

#[test]
fn what_happened_has_a_name() {
    macro_rules! exhausted {
        ($behaviour:expr, $pattern:pat) => {
            let (error, asked) = error_of($behaviour);
            assert_eq!(asked, 2);
            match error {
                Error::Exhausted { attempts: 2, last } => {
                    assert!(matches!(*last, $pattern), "{last:?}");
                    assert!(!last.ends_run());
                }
                other => panic!("{other:?}"),
            }
        };
    }
    exhausted!(
        Behaviour::SayLate(String::new(), Duration::from_millis(600)),
        Error::Timeout { .. }
    );
    exhausted!(
        Behaviour::Status(500, vec![], ""),
        Error::Server { status: 500, .. }
    );
    exhausted!(
        Behaviour::Status(408, vec![], ""),
        Error::Server { status: 408, .. }
    );
    exhausted!(Behaviour::CutAtOnce, Error::Cut { .. });
    exhausted!(Behaviour::CutInBody, Error::Cut { .. });
    exhausted!(Behaviour::Body("{"), Error::MalformedJson { .. });
    exhausted!(Behaviour::Body(""), Error::MalformedJson { .. });
    exhausted!(
        Behaviour::Body(r#"{"choices": []}"#),
        Error::WrongSchema { .. }
    );
    exhausted!(
        Behaviour::Body(r#"{"error": "busy"}"#),
        Error::InAnswer { .. }
    );
    exhausted!(
        Behaviour::Body(r#"{"choices": [{"finish_reason": "content_filter"}]}"#),
        Error::Filtered
    );

    macro_rules! at_once {
        ($behaviour:expr, $pattern:pat, $ends_run:expr) => {
            let (error, asked) = error_of($behaviour);
            assert_eq!(asked, 1);
            assert!(matches!(error, $pattern), "{error:?}");
            assert_eq!(error.ends_run(), $ends_run);
        };
    }
    at_once!(
        Behaviour::Status(401, vec![], "no"),
        Error::Unauthorized { .. },
        true
    );
    at_once!(
        Behaviour::Status(403, vec![], "no"),
        Error::Unauthorized { .. },
        true
    );
    at_once!(
        Behaviour::Status(400, vec![], "no"),
        Error::Rejected { status: 400, .. },
        false
    );
    at_once!(
        Behaviour::Status(302, vec![("location", "http://127.0.0.1:9/")], ""),
        Error::NotServed { status: 302, .. },
        true
    );
    at_once!(
        Behaviour::Status(429, vec![], r#"{"error": {"code": "insufficient_quota"}}"#),
        Error::QuotaExhausted { .. },
        true
    );
}

#[test]
fn a_refused_key_ends_the_run_instead_of_being_tried_on_every_question() {
    let server = Server::start(|_| Behaviour::Status(401, vec![], "bad key"));
    let client = Client::new(settings(&server), None, None).unwrap();
    let error = client.chat_all(&requests(&questions(200))).unwrap_err();
    assert!(
        matches!(error, Error::Unauthorized { status: 401, .. }),
        "{error:?}"
    );
    assert!(server.received().len() <= client.settings().concurrency);
}

#[test]
fn one_question_refused_costs_that_question_alone() {
    let server = Server::start(|received| match number(received) {
        3 => Behaviour::Status(400, vec![], "image too large"),
        _ => echo(received),
    });
    let client = Client::new(settings(&server), None, None).unwrap();
    let mut policy = EndpointPolicy::new(&client, SamplingParameters::greedy(16));
    let conversations = questions(6);
    let requests: Vec<CompletionRequest<'_>> = conversations
        .iter()
        .map(|conversation| CompletionRequest::new(conversation, None))
        .collect();
    let completions = policy.complete(&requests).unwrap();
    for (index, completion) in completions.iter().enumerate() {
        match completion {
            Ok(completion) => assert_eq!(completion.text, format!("answer to question {index}")),
            Err(error) => {
                assert_eq!(index, 3);
                assert!(error.to_string().contains("image too large"), "{error}");
            }
        }
    }
    assert_eq!(
        completions
            .iter()
            .filter(|completion| completion.is_err())
            .count(),
        1
    );
}

#[test]
fn no_more_requests_in_flight_than_allowed() {
    let server = Server::start(|received| {
        Behaviour::SayLate(received.last_text(), Duration::from_millis(30))
    });
    let client = Client::new(
        Settings {
            concurrency: 3,
            ..settings(&server)
        },
        None,
        None,
    )
    .unwrap();
    let replies = client.chat_all(&requests(&questions(18))).unwrap();
    assert!(replies.iter().all(Result::is_ok));
    assert_eq!(server.most_at_once(), 3);
}

#[test]
fn a_run_goes_on_where_the_server_died() {
    const N: usize = 30;
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("completions.jsonl");
    let conversations = questions(N);

    // The first server answers twelve requests and then cuts every connection.
    let left = Mutex::new(12);
    let dying = Server::start(move |received| {
        let mut left = left.lock().unwrap();
        if *left == 0 {
            return Behaviour::CutAtOnce;
        }
        *left -= 1;
        echo(received)
    });
    let client = Client::new(
        Settings {
            attempts: 2,
            ..settings(&dying)
        },
        None,
        Some(Cache::open(&cache).unwrap()),
    )
    .unwrap();
    let replies = client.chat_all(&requests(&conversations)).unwrap();
    assert_eq!(replies.iter().filter(|reply| reply.is_ok()).count(), 12);
    for reply in replies.iter().filter_map(|reply| reply.as_ref().err()) {
        let Error::Exhausted { last, .. } = reply else {
            panic!("{reply:?}");
        };
        assert!(matches!(**last, Error::Cut { .. }), "{last:?}");
    }

    // Then it is gone altogether.
    drop(dying);
    let replies = client.chat_all(&requests(&conversations)).unwrap();
    assert_eq!(
        replies.iter().filter(|reply| reply.is_ok()).count(),
        12,
        "from the cache"
    );
    assert!(replies.iter().filter_map(|reply| reply.as_ref().err()).all(|error| {
        matches!(error, Error::Exhausted { last, .. } if matches!(**last, Error::Unreachable { .. }))
    }));
    drop(client);

    // It returns at another address, and is asked for the rest alone.
    let returned = Server::start(echo);
    let client = Client::new(
        settings(&returned),
        None,
        Some(Cache::open(&cache).unwrap()),
    )
    .unwrap();
    let replies = client.chat_all(&requests(&conversations)).unwrap();
    for (index, reply) in replies.iter().enumerate() {
        let reply = reply.as_ref().unwrap();
        assert_eq!(reply.completion.text, format!("answer to question {index}"));
    }
    assert_eq!(returned.received().len(), N - 12);
    assert_eq!(
        (client.usage().from_cache, client.usage().completions),
        (12, N as u64 - 12)
    );
}

#[test]
fn a_server_that_is_not_there_is_given_up_within_moments() {
    // A port that was free a moment ago.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let client = Client::new(
        Settings {
            concurrency: 1,
            first_wait: Duration::from_millis(2),
            give_up_after: Some(3),
            ..Settings::new(format!("http://{address}/v1"), "m")
        },
        None,
        None,
    )
    .unwrap();
    let replies = client.chat_all(&requests(&questions(10))).unwrap();
    for reply in &replies[..3] {
        let error = reply.as_ref().unwrap_err();
        assert!(matches!(error, Error::Exhausted { attempts: 3, .. }));
        assert!(error.is_of_connection(), "{error}");
    }
    assert!(
        replies[3..]
            .iter()
            .all(|reply| matches!(reply, Err(Error::NotAsked))),
        "{replies:?}"
    );
    let usage = client.usage();
    assert_eq!((usage.requests, usage.retries, usage.failed), (9, 6, 3));
    let reason = client.given_up().unwrap();
    assert!(reason.contains("cannot reach http://127."), "{reason}");
}

#[test]
fn an_answer_ends_an_outage() {
    const N: usize = 9;
    let server = Server::start(|received| match number(received) % 3 {
        2 => echo(received),
        _ => Behaviour::CutAtOnce,
    });
    let client = Client::new(
        Settings {
            concurrency: 1,
            attempts: 2,
            give_up_after: Some(3),
            ..settings(&server)
        },
        None,
        None,
    )
    .unwrap();
    let replies = client.chat_all(&requests(&questions(N))).unwrap();
    assert_eq!(
        replies.iter().filter(|reply| reply.is_ok()).count(),
        N / 3,
        "two in a row are no outage"
    );
    assert_eq!(client.given_up(), None);
}

#[test]
fn samples_differ_by_their_seed_and_greedy_decoding_has_none() {
    let server = Server::start(|received| Behaviour::Say(received.body["seed"].to_string()));
    let client = Client::new(settings(&server), None, None).unwrap();
    let conversation = ask("q");
    let requests: Vec<CompletionRequest<'_>> = [Some(5), Some(u64::MAX), None]
        .into_iter()
        .map(|seed| CompletionRequest::new(&conversation, seed))
        .collect();
    let mut parameters = SamplingParameters::greedy(4);
    let texts = |parameters: &SamplingParameters| -> Vec<String> {
        let completions = EndpointPolicy::new(&client, parameters.clone()).complete(&requests);
        completions
            .unwrap()
            .into_iter()
            .map(|completion| completion.unwrap().text)
            .collect()
    };
    assert_eq!(texts(&parameters), ["null", "null", "null"]);
    parameters.temperature = 1.0;
    assert_eq!(texts(&parameters), ["5", "2147483647", "null"]);
}

#[test]
fn a_whole_episode_with_a_tool_runs_through_an_endpoint() {
    let server = Server::start(|received| {
        Behaviour::Say(
            if received.body["messages"].as_array().unwrap().len() == 2 {
                "ACTION 0:\n```python\nimage = focus_on_x_values_with_mask(image_1, ['A'], x_values_bbox)\ndisplay(image)\n```"
                .to_owned()
            } else {
                "ANSWER: it is 4. FINAL ANSWER: 4. TERMINATE".to_owned()
            },
        )
    });
    let client = Client::new(settings(&server), None, None).unwrap();
    let halves = [("A", 0.0), ("B", 20.0)].map(|(name, x1)| {
        let half = PixelBox {
            x1,
            y1: 0.0,
            x2: x1 + 20.0,
            y2: 30.0,
        };
        (name.to_owned(), half)
    });
    let task = Task {
        image: Arc::new(RgbImage::from_pixel(40, 30, Rgb([0, 0, 200]))),
        boxes: Arc::new(FigureBoxes {
            x_values: NamedBoxes(halves.to_vec()),
            ..FigureBoxes::default()
        }),
        request: "How high is A?".to_owned(),
        tools: None,
    };
    let options = EpisodeOptions {
        prompt: PromptStyle::Vtool,
        observation: ObservationMode::Append,
        tools: Style::refocus(),
    };
    let mut policy = EndpointPolicy::new(&client, SamplingParameters::greedy(64));
    let episodes = run_episodes(&mut policy, &[(&task, Some(1))], &options).unwrap();
    let episode = episodes[0].as_ref().unwrap();
    assert!(episode.outcome.succeeded(), "{:?}", episode.outcome);
    assert!(
        episode
            .answer
            .as_deref()
            .is_some_and(|answer| answer.starts_with('4'))
    );

    // The second turn carries the tool's pixels: B is white now.
    let second = &server.received()[1].body.to_string();
    let urls: Vec<&str> = second.split("data:image/png;base64,").skip(1).collect();
    assert_eq!(urls.len(), 2, "the original and the edited image");
    let data = urls[1].split('"').next().unwrap();
    let png = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, data).unwrap();
    let edited = image::load_from_memory(&png).unwrap().to_rgb8();
    assert_eq!(edited.get_pixel(30, 15), &Rgb([255, 255, 255]));
    assert_eq!(edited.get_pixel(10, 15), &Rgb([0, 0, 200]));
}

/// The key goes into one header and nowhere else. Its value here is a variable that cargo sets
/// for tests, because a test cannot set one safely.
#[test]
fn the_key_is_sent_and_kept_nowhere() {
    const VARIABLE: &str = "CARGO_MANIFEST_DIR";
    let Ok(value) = std::env::var(VARIABLE) else {
        println!("skipped: not run by cargo");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.jsonl");
    let server = Server::start(echo);
    let key = ApiKey::from_env(VARIABLE);
    assert!(key.is_some());
    let client = Client::new(settings(&server), key, Some(Cache::open(&path).unwrap())).unwrap();
    let reply = client
        .chat(&ask("q"), &SamplingParameters::greedy(4))
        .unwrap();
    assert_eq!(
        server.received()[0].authorization,
        Some(format!("Bearer {value}"))
    );
    assert!(!server.received()[0].body.to_string().contains(&value));
    assert!(!format!("{client:?} {reply:?}").contains(&value));
    assert!(!std::fs::read_to_string(&path).unwrap().contains(&value));
    assert!(ApiKey::from_env("IAPO_NO_SUCH_KEY").is_none());
}
