//! How long a server is waited for: one that asks for it, one that is slow, one that is dead.

#[path = "support/questions.rs"]
mod questions;
mod support;

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use chat_endpoint::{Client, Error, SamplingParameters, Settings};
use questions::{all, ask, client, echo, header, questions, settings};
use support::{Behaviour, Received, Server};

#[test]
fn a_server_that_asks_for_peace_gets_it_from_all_threads() {
    let first = Mutex::new(true);
    let server = Server::start(move |received| {
        if std::mem::take(&mut *first.lock().unwrap()) {
            Behaviour::Status(429, vec![("retry-after", "1")], "")
        } else {
            echo(received)
        }
    });
    let client = Client::new(
        Settings {
            concurrency: 2,
            ..settings(&server)
        },
        None,
        None,
    )
    .unwrap();
    let conversations = questions(40);
    let replies = all(&client, &conversations).unwrap();
    assert!(replies.iter().all(Result::is_ok));
    let received = server.received();
    let refused = received[0].at;
    // The other thread may go on until the refusal has been read, which takes a busy machine a
    // while; without the wait, all 40 would come at once.
    let early = received
        .iter()
        .filter(|request| request.at - refused < Duration::from_millis(990))
        .count();
    assert!(early <= 10, "{early} requests within the second");
}

#[test]
fn a_used_up_allowance_is_respected_before_the_server_has_to_say_no() {
    let server = Server::start(|received| match received.last_text().as_str() {
        "question 0" => Behaviour::SayWith(
            "last one".to_owned(),
            vec![
                ("x-ratelimit-remaining-requests", "0"),
                ("x-ratelimit-reset-requests", "400ms"),
            ],
        ),
        _ => echo(received),
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
    all(&client, &questions(2)).unwrap();
    let received = server.received();
    assert!(received[1].at - received[0].at >= Duration::from_millis(390));
}

#[test]
fn an_answer_that_only_drips_is_late() {
    let server = Server::start(|_| Behaviour::Drip);
    let settings = Settings {
        timeout: Duration::from_millis(300),
        attempts: 2,
        ..settings(&server)
    };
    let client = Client::new(settings, None, None).unwrap();
    let error = client
        .chat(&ask("q"), &SamplingParameters::greedy(4))
        .unwrap_err();
    let Error::Exhausted { attempts: 2, last } = error else {
        panic!("{error:?}");
    };
    assert!(matches!(*last, Error::Timeout { .. }), "{last:?}");
}

/// The first `n` requests are refused so.
fn busy(
    n: usize,
    status: u16,
    headers: Vec<(String, String)>,
) -> impl Fn(&Received) -> Behaviour + Send + Sync + 'static {
    let left = Mutex::new(n);
    move |received| {
        let mut left = left.lock().unwrap();
        if *left == 0 {
            return echo(received);
        }
        *left -= 1;
        Behaviour::Answer(status, headers.clone(), b"{\"error\": \"busy\"}".to_vec())
    }
}

#[test]
fn a_busy_server_is_waited_for_and_no_question_is_lost() {
    for (status, headers) in [
        (429, header("retry-after", "0.3")),
        (503, header("retry-after", "0.3")),
        (529, header("retry-after-ms", "300")),
        (429, header("retry-after", "0")),
        (429, vec![]),
    ] {
        // More refusals than attempts are allowed.
        let server = Server::start(busy(8, status, headers));
        let settings = Settings {
            attempts: 2,
            give_up_after: Some(1),
            ..settings(&server)
        };
        let client = Client::new(settings, None, None).unwrap();
        let replies = all(&client, &questions(3)).unwrap();
        assert!(replies.iter().all(Result::is_ok), "{status}: {replies:?}");
        assert_eq!(client.given_up(), None);
        assert_eq!(client.usage().retries, 8);
        assert!(
            client
                .last_failure()
                .is_some_and(|reason| reason.contains("busy"))
        );
    }
}

#[test]
fn a_server_may_say_when_to_come_back_as_a_date() {
    let seconds = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs()
        + 2;
    let server = Server::start(busy(1, 429, header("retry-after", &http_date(seconds))));
    let client = client(&server);
    let replies = all(&client, &questions(3)).unwrap();
    assert!(replies.iter().all(Result::is_ok), "{replies:?}");
    let received = server.received();
    let late = received.last().unwrap().at - received[0].at;
    assert!(late >= Duration::from_millis(950), "{late:?}");
}

/// The date of a second of this century, as servers write it.
fn http_date(seconds: u64) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (mut days, clock) = (seconds / 86_400, seconds % 86_400);
    let mut year = 1970;
    let is_leap = |year: u64| year.is_multiple_of(4) && year != 2100;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 0;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!(
        "Mon, {:02} {} {year} {:02}:{:02}:{:02} GMT",
        days + 1,
        MONTHS[month],
        clock / 3600,
        clock / 60 % 60,
        clock % 60
    )
}

#[test]
fn a_server_that_stays_busy_or_broken_is_given_up_after_the_limit_for_all_questions() {
    for behaviour in [
        Behaviour::Status(429, vec![("retry-after", "0.2")], ""),
        Behaviour::Status(429, vec![], ""),
        Behaviour::Status(503, vec![("retry-after", "0.2")], ""),
        Behaviour::Status(500, vec![], ""),
        Behaviour::CutAtOnce,
        Behaviour::Body("{"),
    ] {
        let server = Server::start({
            let behaviour = behaviour.clone();
            move |_| behaviour.clone()
        });
        let settings = Settings {
            max_wait: Duration::from_secs(1),
            ..settings(&server)
        };
        let client = Client::new(settings, None, None).unwrap();
        let replies = all(&client, &questions(1200)).unwrap();
        assert!(replies.iter().all(Result::is_err));
        assert!(
            matches!(replies.last(), Some(Err(Error::NotAsked))),
            "{behaviour:?}"
        );
        let reason = client.given_up().unwrap();
        assert!(reason.contains("--max-wait"), "{reason}");
    }
}

#[test]
fn a_wait_beyond_the_limit_is_not_begun() {
    let server = Server::start(|_| Behaviour::Status(429, vec![("retry-after", "86400")], "quota"));
    let client = client(&server);
    let replies = all(&client, &questions(50)).unwrap();
    for reply in &replies {
        match reply {
            Err(Error::Exhausted { attempts: 1, last }) => {
                assert_eq!(last.retry_after(), Some(Duration::from_secs(86_400)));
            }
            other => assert!(matches!(other, Err(Error::NotAsked)), "{other:?}"),
        }
    }
    assert!(server.received().len() <= 2);
    let reason = client.given_up().unwrap();
    assert!(
        reason.contains("86400 s more to wait") && reason.contains("quota"),
        "{reason}"
    );
}
