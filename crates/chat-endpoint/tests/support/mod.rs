//! A chat server in this process that misbehaves on request.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// What the server does with one request.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// A completion with this text.
    Say(String),
    /// A completion that the length limit ended.
    SayCutOff(String),
    /// A completion after a pause.
    SayLate(String, Duration),
    /// A completion with headers of its own.
    SayWith(String, Vec<(&'static str, &'static str)>),
    /// A status with headers and a body.
    Status(u16, Vec<(&'static str, &'static str)>, &'static str),
    /// Status 200 with this body.
    Body(&'static str),
    /// A status with headers and a body that are made up as the test goes.
    Answer(u16, Vec<(String, String)>, Vec<u8>),
    /// Status 200 and a body that never ends.
    Endless,
    /// The same, a byte now and then.
    Drip,
    /// The connection closed before the status line.
    CutAtOnce,
    /// The connection closed in the middle of the body.
    CutInBody,
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    pub at: Instant,
    pub authorization: Option<String>,
    pub body: Value,
}

impl Received {
    /// The text of the last message.
    pub fn last_text(&self) -> String {
        let messages = self.body["messages"].as_array().unwrap();
        match &messages.last().unwrap()["content"] {
            Value::String(text) => text.clone(),
            parts => parts
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|part| part["text"].as_str())
                .collect(),
        }
    }
}

type Script = dyn Fn(&Received) -> Behaviour + Send + Sync;

struct Shared {
    script: Box<Script>,
    received: Mutex<Vec<Received>>,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    stopping: AtomicBool,
}

/// Serves until it is dropped.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// On a free port.
    pub fn start(script: impl Fn(&Received) -> Behaviour + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), script)
    }

    /// On a port that was taken before.
    pub fn on(
        listener: TcpListener,
        script: impl Fn(&Received) -> Behaviour + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script: Box::new(script),
            received: Mutex::default(),
            at_once: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        });
        let acceptor = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for connection in listener.incoming() {
                    if shared.stopping.load(Ordering::SeqCst) {
                        return;
                    }
                    let shared = Arc::clone(&shared);
                    std::thread::spawn(move || {
                        // A client that hangs up is part of the game.
                        let _ = connection.and_then(|connection| shared.serve(connection));
                    });
                }
            }
        });
        Server {
            address,
            shared,
            acceptor: Some(acceptor),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    pub fn most_at_once(&self) -> usize {
        self.shared.most_at_once.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor, which then drops the listener.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().unwrap();
        }
    }
}

impl Shared {
    fn serve(&self, connection: TcpStream) -> std::io::Result<()> {
        let at = Instant::now();
        let mut reader = BufReader::new(connection.try_clone()?);
        let (mut length, mut authorization) = (0, None);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        assert!(line.starts_with("POST /v1/chat/completions "), "{line}");
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(": ") else {
                break;
            };
            match name.to_lowercase().as_str() {
                "content-length" => length = value.parse().unwrap(),
                "authorization" => authorization = Some(value.to_owned()),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let received = Received {
            at,
            authorization,
            body: serde_json::from_slice(&body).unwrap(),
        };
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        self.received.lock().unwrap().push(received.clone());
        let result = self.answer(connection, (self.script)(&received));
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        result
    }

    fn answer(&self, mut connection: TcpStream, behaviour: Behaviour) -> std::io::Result<()> {
        let say = |text: &str, finish: &str| {
            json!({
                "model": "served",
                "choices": [{
                    "message": { "role": "assistant", "content": text },
                    "finish_reason": finish,
                }],
                "usage": { "prompt_tokens": 10, "completion_tokens": 2 },
            })
            .to_string()
        };
        if let Behaviour::Answer(status, headers, body) = behaviour {
            let headers: Vec<(&str, &str)> = headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            return write_answer(&mut connection, status, &headers, &body);
        }
        let (status, headers, body) = match behaviour {
            Behaviour::Say(text) => (200, Vec::new(), say(&text, "stop")),
            Behaviour::SayCutOff(text) => (200, Vec::new(), say(&text, "length")),
            Behaviour::SayLate(text, pause) => {
                std::thread::sleep(pause);
                (200, Vec::new(), say(&text, "stop"))
            }
            Behaviour::SayWith(text, headers) => (200, headers, say(&text, "stop")),
            Behaviour::Status(status, headers, body) => (status, headers, body.to_owned()),
            Behaviour::Body(body) => (200, Vec::new(), body.to_owned()),
            Behaviour::Answer(..) => unreachable!("answered above"),
            Behaviour::Drip => {
                write!(connection, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")?;
                loop {
                    connection.write_all(b" ")?;
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            Behaviour::Endless => {
                write!(connection, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")?;
                loop {
                    connection.write_all(&[b' '; 1 << 16])?;
                }
            }
            Behaviour::CutAtOnce => return connection.shutdown(Shutdown::Both),
            Behaviour::CutInBody => {
                write!(
                    connection,
                    "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{{\"choices\": ["
                )?;
                return connection.shutdown(Shutdown::Both);
            }
        };
        write_answer(&mut connection, status, &headers, body.as_bytes())
    }
}

fn write_answer(
    connection: &mut TcpStream,
    status: u16,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<()> {
    write!(
        connection,
        "HTTP/1.1 {status} Whatever\r\ncontent-length: {}\r\nconnection: close\r\n",
        body.len()
    )?;
    for (name, value) in headers {
        write!(connection, "{name}: {value}\r\n")?;
    }
    write!(connection, "\r\n")?;
    connection.write_all(body)?;
    connection.flush()
}
