//! A hub in this process: the endpoints that hf-hub uses, large files behind a redirect as on the
//! real one, listings in pages, and tricks on request.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};
use sha1::{Digest, Sha1};
use sha2::Sha256;

/// The newest commit of every repository here; any other commit holds the same files.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What happens to the next answer with bytes of a file.
#[derive(Clone, Copy, Debug)]
pub enum Trick {
    /// The connection closes after so many bytes of the body.
    Cut(usize),
    /// The whole file, whatever range is asked for.
    NoRange,
    /// Every byte is changed.
    Damage,
    /// This status and no bytes.
    Status(u16),
}

/// A file and whether it is kept in LFS.
struct File {
    bytes: Vec<u8>,
    large: bool,
}

#[derive(Default)]
struct Shared {
    /// By `datasets/owner/name`, `models/owner/name` or `github/owner/name`, then by path.
    repositories: Mutex<BTreeMap<String, BTreeMap<String, File>>>,
    tricks: Mutex<Vec<Trick>>,
    /// Requests for bytes: path and range.
    asked: Mutex<Vec<(String, String)>>,
    stopping: AtomicBool,
}

/// Serves until it is dropped.
pub struct Hub {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Hub {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
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
        Hub {
            address,
            shared,
            acceptor: Some(acceptor),
        }
    }

    pub fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Puts a file in a repository, replacing one of that path.
    pub fn put(&self, repository: &str, path: &str, bytes: impl Into<Vec<u8>>, large: bool) {
        let mut repositories = self.shared.repositories.lock().unwrap();
        let bytes = bytes.into();
        repositories
            .entry(repository.to_owned())
            .or_default()
            .insert(path.to_owned(), File { bytes, large });
    }

    /// What happens to the next answers with bytes, in order.
    pub fn play(&self, tricks: &[Trick]) {
        *self.shared.tricks.lock().unwrap() = tricks.iter().rev().copied().collect();
    }

    /// The requests for bytes so far, as `path range`.
    pub fn asked(&self) -> Vec<(String, String)> {
        self.shared.asked.lock().unwrap().clone()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor, which then drops the listener.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().unwrap();
        }
    }
}

struct Request {
    method: String,
    target: String,
    host: String,
    range: Option<String>,
}

impl Request {
    fn read(connection: &TcpStream) -> std::io::Result<Self> {
        let mut reader = BufReader::new(connection.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split(' ').map(str::to_owned);
        let mut request = Request {
            method: words.next().unwrap_or_default(),
            target: words.next().unwrap_or_default(),
            host: String::new(),
            range: None,
        };
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(": ") else {
                return Ok(request);
            };
            match name.to_lowercase().as_str() {
                "host" => request.host = value.to_owned(),
                "range" => request.range = Some(value.to_owned()),
                _ => {}
            }
        }
    }
}

impl Shared {
    fn serve(&self, mut connection: TcpStream) -> std::io::Result<()> {
        let request = Request::read(&connection)?;
        let (path, query) = request
            .target
            .split_once('?')
            .unwrap_or((&request.target, ""));
        let path = path.trim_start_matches('/');
        let repositories = self.repositories.lock().unwrap();
        let Some((id, rest, files)) = repositories
            .iter()
            .find_map(|(id, files)| Some((id, rest_of(path, id)?, files)))
        else {
            return send(&mut connection, &request, 404, &[], b"{\"error\":\"no\"}");
        };
        let name = id.split_once('/').unwrap().1;
        match rest {
            Rest::Info => {
                let body = json!({ "id": name, "sha": COMMIT }).to_string();
                send(&mut connection, &request, 200, &[], body.as_bytes())
            }
            Rest::Tree => {
                // Two pages, so that the client has to follow the link.
                let entries: Vec<Value> =
                    files.iter().map(|(path, file)| entry(path, file)).collect();
                let half = entries.len().div_ceil(2);
                let (page, headers) = if query.contains("cursor") {
                    (&entries[half..], vec![])
                } else {
                    let next = format!("<http://{}/{path}?cursor=1>; rel=\"next\"", request.host);
                    (&entries[..half], vec![("link", next)])
                };
                let body = Value::from(page.to_vec()).to_string();
                send(&mut connection, &request, 200, &headers, body.as_bytes())
            }
            Rest::File(file_path) => {
                let Some(file) = files.get(file_path) else {
                    let headers = [("x-error-code", "EntryNotFound".to_owned())];
                    return send(&mut connection, &request, 404, &headers, b"");
                };
                if file.large && !query.contains("cdn") {
                    let location = format!("http://{}/{path}?cdn=1", request.host);
                    let headers = [
                        ("location", location),
                        ("x-linked-size", file.bytes.len().to_string()),
                        ("x-repo-commit", COMMIT.to_owned()),
                    ];
                    return send(&mut connection, &request, 302, &headers, b"");
                }
                self.send_file(&mut connection, &request, file_path, &file.bytes)
            }
        }
    }

    fn send_file(
        &self,
        connection: &mut TcpStream,
        request: &Request,
        path: &str,
        bytes: &[u8],
    ) -> std::io::Result<()> {
        let headers = [("x-repo-commit", COMMIT.to_owned())];
        if request.method == "HEAD" {
            return send(connection, request, 200, &headers, bytes);
        }
        let range = request.range.clone().unwrap_or_default();
        self.asked
            .lock()
            .unwrap()
            .push((path.to_owned(), range.clone()));
        let span = range
            .strip_prefix("bytes=")
            .and_then(|range| range.split_once('-'))
            .map(|(from, to)| from.parse().unwrap()..to.parse::<usize>().unwrap() + 1);
        let (status, part) = match span {
            Some(span) => (206, &bytes[span]),
            None => (200, bytes),
        };
        let trick = self.tricks.lock().unwrap().pop();
        match trick {
            None => send(connection, request, status, &headers, part),
            Some(Trick::NoRange) => send(connection, request, 200, &headers, bytes),
            Some(Trick::Status(status)) => send(connection, request, status, &headers, b""),
            Some(Trick::Damage) => {
                let damaged: Vec<u8> = part.iter().map(|byte| !byte).collect();
                send(connection, request, status, &headers, &damaged)
            }
            Some(Trick::Cut(after)) => {
                write!(
                    connection,
                    "HTTP/1.1 {status} Whatever\r\ncontent-length: {}\r\n\r\n",
                    part.len()
                )?;
                connection.write_all(&part[..after])?;
                connection.shutdown(Shutdown::Both)
            }
        }
    }
}

enum Rest<'a> {
    Info,
    Tree,
    File(&'a str),
}

/// What a path asks of the repository `id`.
fn rest_of<'a>(path: &'a str, id: &str) -> Option<Rest<'a>> {
    let behind_commit = |path: &'a str| path.split_at_checked(40).map(|(_, rest)| rest);
    if let Some(rest) = path
        .strip_prefix("api/")
        .and_then(|path| path.strip_prefix(id))
    {
        return match rest.strip_prefix("/tree/").and_then(behind_commit) {
            Some("") => Some(Rest::Tree),
            _ if rest.is_empty() || rest.starts_with("/revision/") => Some(Rest::Info),
            _ => None,
        };
    }
    // Files of models lie below their name alone, those of GitHub beside their commit.
    let (kind, name) = id.split_once('/').unwrap();
    let below = path.strip_prefix(if kind == "datasets" { id } else { name })?;
    let below = below.strip_prefix(if kind == "github" { "/" } else { "/resolve/" })?;
    behind_commit(below)?.strip_prefix('/').map(Rest::File)
}

/// A file of a listing, as the hub describes it.
fn entry(path: &str, file: &File) -> Value {
    let size = file.bytes.len();
    if !file.large {
        return json!({ "type": "file", "oid": git_name(&file.bytes), "size": size, "path": path });
    }
    let sha256 = hex(&Sha256::digest(&file.bytes));
    let pointer =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n");
    json!({
        "type": "file", "oid": git_name(pointer.as_bytes()), "size": size, "path": path,
        "lfs": { "oid": sha256, "size": size, "pointerSize": pointer.len() },
    })
}

fn git_name(bytes: &[u8]) -> String {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    hex(&hasher.finalize())
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn send(
    connection: &mut TcpStream,
    request: &Request,
    status: u16,
    headers: &[(&str, String)],
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
    connection.write_all(b"\r\n")?;
    if request.method != "HEAD" {
        connection.write_all(body)?;
    }
    connection.flush()
}
