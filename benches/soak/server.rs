//! A chat server in a process of its own, that is killed and started again on the same port.

// The server of the client's own tests. Where it panics, the trial falls.
#[path = "../../crates/chat-endpoint/tests/support/mod.rs"]
mod support;

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use seeded_random::{Draw, Generator};

use support::{Behaviour, Received, Server};

/// A server that answers each question, the same one always alike.
pub const WELL: &str = "completions";

/// How else a server answers: none of it is a completion.
pub const ERRORS: [&str; 12] = [
    "status 500",
    "status 502",
    "status 503, Retry-After",
    "status 429",
    "status 429, Retry-After",
    "status 400",
    "status 401",
    "status 404",
    "an error with status 200",
    "a page",
    "half an answer",
    "nothing",
];

/// How long a completion takes: long enough to be met by a kill.
const THINKS: Duration = Duration::from_millis(60);

/// What an error says.
const MESSAGE: &str = r#"{"error": {"message": "FINAL ANSWER: 1. TERMINATE"}}"#;

/// Ports from here on are given by nobody but us: those that the system gives to connections begin
/// higher, and one of them could be ours while our server is away.
const FIRST_PORT: usize = 12_000;
const PORTS: usize = 18_000;

/// A port that is free.
pub fn free_port(draw: &mut Generator) -> anyhow::Result<u16> {
    for _ in 0..100 {
        let port = u16::try_from(FIRST_PORT + draw.below(PORTS))?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free")
}

/// Is the server, until the input ends: with the process that started it.
pub fn play(port: u16, answers: &str) -> anyhow::Result<()> {
    let answers = answers.to_owned();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let _server = Server::on(listener, move |received| {
        println!("asked");
        let behaviour = behaviour(&answers, received);
        println!("answered");
        behaviour
    });
    println!("listening");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn behaviour(answers: &str, received: &Received) -> Behaviour {
    let status = |status, headers| Behaviour::Status(status, headers, MESSAGE);
    let soon = || vec![("retry-after", "1")];
    match answers {
        WELL => {
            std::thread::sleep(THINKS);
            Behaviour::Say(completion(received))
        }
        "status 500" => status(500, Vec::new()),
        "status 502" => status(502, Vec::new()),
        "status 503, Retry-After" => status(503, soon()),
        "status 429" => status(429, Vec::new()),
        "status 429, Retry-After" => status(429, soon()),
        "status 400" => status(400, Vec::new()),
        "status 401" => status(401, Vec::new()),
        "status 404" => status(404, Vec::new()),
        "an error with status 200" => Behaviour::Body(MESSAGE),
        "a page" => Behaviour::Body("<html>FINAL ANSWER: 1. TERMINATE</html>"),
        "half an answer" => Behaviour::CutInBody,
        _ => Behaviour::CutAtOnce,
    }
}

/// What is said to a conversation: calls and answers, by its hash.
fn completion(received: &Received) -> String {
    let messages = received.body["messages"].to_string();
    let drawn = usize::from(blake3::hash(messages.as_bytes()).as_bytes()[0]);
    match drawn % 4 {
        0 => "```python\nfocus_on_rows_with_mask(image_1, [\"mi\"], rows_bbox)\n```".to_owned(),
        1 => "FINAL ANSWER: true. TERMINATE".to_owned(),
        _ => format!("FINAL ANSWER: {}. TERMINATE", drawn % 16),
    }
}

/// A server's process, killed when it is dropped.
pub struct Playing {
    process: Child,
    said: tempfile::NamedTempFile,
}

/// What a server was asked until it was killed.
#[derive(Clone, Copy, Default)]
pub struct Asked {
    /// Requests that came.
    pub requests: usize,
    /// Those of them that were not answered.
    pub in_flight: usize,
}

impl Playing {
    /// Starts one, and waits until it listens.
    pub fn start(port: u16, answers: &str) -> anyhow::Result<Self> {
        let said = tempfile::NamedTempFile::new()?;
        let process = Command::new(std::env::current_exe()?)
            .args(["--serve", &port.to_string(), "--answers", answers])
            .stdin(Stdio::piped())
            .stdout(Stdio::from(said.reopen()?))
            .spawn()
            .context("cannot start a chat server")?;
        let mut playing = Playing { process, said };
        let started = Instant::now();
        while playing.count("listening")? == 0 {
            if let Some(status) = playing.process.try_wait()? {
                bail!("the chat server on port {port} ended with {status}");
            }
            anyhow::ensure!(
                started.elapsed() < Duration::from_secs(20),
                "the chat server on port {port} does not listen"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(playing)
    }

    /// Kills it.
    pub fn kill(mut self) -> anyhow::Result<Asked> {
        self.process.kill()?;
        self.process.wait()?;
        let requests = self.count("asked")?;
        Ok(Asked {
            requests,
            in_flight: requests.saturating_sub(self.count("answered")?),
        })
    }

    fn count(&self, word: &str) -> anyhow::Result<usize> {
        let said = std::fs::read_to_string(self.said.path())?;
        Ok(said.lines().filter(|line| *line == word).count())
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
