//! HTTP on this machine alone, one request after the other: pages and models that nobody else may ask.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::Context;

/// How long a client may take to send its request, or to take a part of the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest first line and headers, bytes: a browser's are a few kilobytes.
const LONGEST_HEAD: usize = 16 * 1024;

/// The first line of what was asked.
pub struct Request {
    /// `GET`, `POST`, …
    pub method: String,
    /// The path.
    pub path: String,
}

/// What is answered.
pub struct Response {
    /// Number and words, for example `200 OK`.
    pub status: &'static str,
    /// The media type.
    pub kind: &'static str,
    /// After how many seconds a browser asks again.
    pub again: Option<u64>,
    /// The text.
    pub body: String,
}

/// A port of the loopback address.
pub struct Loopback {
    listener: TcpListener,
    port: u16,
}

impl Loopback {
    /// Takes a port; 0 takes a free one.
    ///
    /// # Errors
    /// A port that cannot be had.
    pub fn bind(port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| {
            format!("port {port} cannot be had; give another, or none for a free one")
        })?;
        let port = listener.local_addr()?.port();
        Ok(Loopback { listener, port })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Answers requests, each with its body of at most `longest` bytes, until the process ends. Who does not call
    /// this machine by its own name, as another site's page in a browser here does not, is refused; a
    /// client that hangs up ends its own connection alone.
    pub fn serve(&self, longest: usize, mut answer: impl FnMut(&Request, &[u8]) -> Response) {
        for stream in self.listener.incoming() {
            let answered = stream.and_then(|stream| self.exchange(stream, longest, &mut answer));
            if let Err(error) = answered {
                eprintln!("a request was not answered: {error}");
            }
        }
    }

    fn exchange(
        &self,
        mut stream: TcpStream,
        longest: usize,
        answer: &mut impl FnMut(&Request, &[u8]) -> Response,
    ) -> std::io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let read = self.read(&mut stream, longest)?;
        // Who waited for the answers before this one may have given up, and asks again.
        stream.set_nonblocking(true)?;
        let hung_up = matches!(stream.peek(&mut [0]), Ok(0));
        stream.set_nonblocking(false)?;
        if hung_up {
            return Err(std::io::Error::other("its client hung up"));
        }
        let response = match read {
            Ok((request, body)) => answer(&request, &body),
            Err(status) => Response {
                status,
                kind: "text/plain",
                again: None,
                body: format!("{status}\n"),
            },
        };
        let again = response.again;
        let again = again.map_or_else(String::new, |seconds| format!("Refresh: {seconds}\r\n"));
        write!(
            stream,
            "HTTP/1.1 {}\r\nContent-Type: {}; charset=utf-8\r\nContent-Length: {}\r\n\
             Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n{again}Connection: \
             close\r\n\r\n",
            response.status,
            response.kind,
            response.body.len()
        )?;
        stream.write_all(response.body.as_bytes())?;
        stream.flush()
    }

    /// A request with its body, or the status that refuses it.
    fn read(
        &self,
        stream: &mut TcpStream,
        longest: usize,
    ) -> std::io::Result<Result<(Request, Vec<u8>), &'static str>> {
        let mut bytes = Vec::new();
        let mut part = [0; 8192];
        let mut more = |bytes: &mut Vec<u8>| -> std::io::Result<()> {
            match stream.read(&mut part)? {
                0 => Err(std::io::Error::other("it has no end")),
                read => {
                    bytes.extend_from_slice(&part[..read]);
                    Ok(())
                }
            }
        };
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            if bytes.len() > LONGEST_HEAD {
                return Ok(Err("431 Request Header Fields Too Large"));
            }
            more(&mut bytes)?;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let header = |wanted: &str| {
            head.lines().skip(1).find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case(wanted).then(|| value.trim())
            })
        };
        let own = ["127.0.0.1", "localhost"].map(|name| format!("{name}:{}", self.port));
        if !header("host").is_some_and(|host| own.iter().any(|own| own == host)) {
            return Ok(Err("403 Forbidden"));
        }
        let length = match header("content-length").map(str::parse::<usize>) {
            None => 0,
            Some(Ok(length)) => length,
            Some(Err(_)) => return Ok(Err("400 Bad Request")),
        };
        if length > longest {
            return Ok(Err("413 Content Too Large"));
        }
        let mut body = bytes.split_off(end + 4);
        while body.len() < length {
            more(&mut body)?;
        }
        let mut words = head.split([' ', '\r', '\n']);
        let mut word = || words.next().unwrap_or_default().to_owned();
        let (method, path) = (word(), word());
        Ok(Ok((Request { method, path }, body)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends bytes and reads the answer.
    fn exchange(address: &str, sent: &str) -> String {
        let host = address.trim_start_matches("http://");
        let mut stream = TcpStream::connect(host).unwrap();
        write!(stream, "{}", sent.replace("HOST", host)).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn only_this_machine_is_answered_within_bounds() {
        let server = Loopback::bind(0).unwrap();
        let address = server.address();
        std::thread::spawn(move || {
            server.serve(5, |request, body| Response {
                status: "200 OK",
                kind: "text/plain",
                again: None,
                body: format!("{} {} {}", request.method, request.path, body.len()),
            });
        });
        for (sent, status, told) in [
            ("GET / HTTP/1.1\r\nHost: HOST\r\n\r\n", "200", "GET / 0"),
            (
                "POST /a HTTP/1.1\r\nhost: HOST\r\ncontent-length: 5\r\n\r\nabcde",
                "200",
                "POST /a 5",
            ),
            (
                "POST /a HTTP/1.1\r\nhost: HOST\r\ncontent-length: 6\r\n\r\n",
                "413",
                "",
            ),
            (
                "POST /a HTTP/1.1\r\nhost: HOST\r\ncontent-length: x\r\n\r\n",
                "400",
                "",
            ),
            ("GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", "403", ""),
            ("GET / HTTP/1.1\r\n\r\n", "403", ""),
        ] {
            let found = exchange(&address, sent);
            assert!(found.starts_with(&format!("HTTP/1.1 {status}")), "{found}");
            assert!(found.ends_with(told), "{found}");
        }
        let endless = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(40_000));
        // The answer may meet a connection that still has what was not read.
        let host = address.trim_start_matches("http://");
        let mut stream = TcpStream::connect(host).unwrap();
        let _ = stream.write_all(endless.as_bytes());
        let mut found = Vec::new();
        let _ = stream.read_to_end(&mut found);
        assert!(!String::from_utf8_lossy(&found).contains("200"));
    }
}
