//! The page over HTTP on this machine alone, made again each time that it is asked for.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::Context;

/// The longest request that is read, bytes: a browser's is a few kilobytes.
const LONGEST_REQUEST: usize = 16 * 1024;

/// How long a browser may take to send its request, or to take a part of the page.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a page that could not be made yet is asked for again, seconds.
const AGAIN: u64 = 5;

/// Serves `page` at the loopback address until the process ends; `started` gets the address.
pub(super) fn serve(
    port: u16,
    page: impl Fn() -> anyhow::Result<String>,
    started: impl FnOnce(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| {
        format!("--serve {port}: the port cannot be had; give another, or none for a free one")
    })?;
    let port = listener.local_addr()?.port();
    started(&format!("http://127.0.0.1:{port}/"))?;
    for stream in listener.incoming() {
        // A browser that hangs up, or sends something else, ends its own connection alone.
        let answered = stream.and_then(|stream| answer(stream, port, &page));
        if let Err(error) = answered {
            eprintln!("view: a request was not answered: {error}");
        }
    }
    Ok(())
}

fn answer(
    mut stream: TcpStream,
    port: u16,
    page: &impl Fn() -> anyhow::Result<String>,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = read_head(&mut stream)?;
    let (status, kind, body) = match allowed(&request, port) {
        Err(status) => (status, "text/plain", format!("{status}\n")),
        Ok(()) => match page() {
            Ok(page) => ("200 OK", "text/html", page),
            // A run that has only begun has nothing to show.
            Err(error) => (
                "503 Service Unavailable",
                "text/plain",
                format!("{error:#}\n"),
            ),
        },
    };
    let again = match status.starts_with("503") {
        true => format!("Refresh: {AGAIN}\r\n"),
        false => String::new(),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n{again}Connection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(body.as_bytes())?;
    stream.flush()
}

/// The request's first line and headers.
fn read_head(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    let mut part = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = stream.read(&mut part)?;
        if read == 0 || head.len() + read > LONGEST_REQUEST {
            return Err(std::io::Error::other("it has no end, or is too long"));
        }
        head.extend_from_slice(&part[..read]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Whether a request is for the page, by somebody who calls this machine by its own name: another site's
/// page in the same browser does not.
fn allowed(request: &str, port: u16) -> Result<(), &'static str> {
    let mut lines = request.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    if first.next() != Some("GET") {
        return Err("405 Method Not Allowed");
    }
    let host = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("host").then(|| value.trim())
    });
    let own = ["127.0.0.1", "localhost"].map(|name| format!("{name}:{port}"));
    if !host.is_some_and(|host| own.iter().any(|own| own == host)) {
        return Err("403 Forbidden");
    }
    match first.next() {
        Some("/") => Ok(()),
        _ => Err("404 Not Found"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_page_is_given_and_only_to_this_machine() {
        let of = |first: &str, host: &str| allowed(&format!("{first}\r\nHost: {host}\r\n\r\n"), 80);
        assert_eq!(of("GET / HTTP/1.1", "127.0.0.1:80"), Ok(()));
        assert_eq!(of("GET / HTTP/1.1", "localhost:80"), Ok(()));
        assert_eq!(of("GET / HTTP/1.1", "example.org:80"), Err("403 Forbidden"));
        assert_eq!(
            of("GET /etc/passwd HTTP/1.1", "localhost:80"),
            Err("404 Not Found")
        );
        assert_eq!(
            of("POST / HTTP/1.1", "localhost:80"),
            Err("405 Method Not Allowed")
        );
        assert_eq!(allowed("GET / HTTP/1.1\r\n\r\n", 80), Err("403 Forbidden"));
        assert_eq!(allowed("", 80), Err("405 Method Not Allowed"));
    }

    #[test]
    fn a_page_that_is_not_there_yet_is_asked_for_again() {
        let (send, address) = std::sync::mpsc::channel();
        let asked = std::cell::Cell::new(0);
        std::thread::spawn(move || {
            let page = move || {
                asked.set(asked.get() + 1);
                anyhow::ensure!(asked.get() > 1, "nothing is finished");
                Ok("<p>page</p>".to_owned())
            };
            serve(0, page, |address| Ok(send.send(address.to_owned())?))
        });
        let address = address.recv().unwrap();
        let host = address.trim_start_matches("http://").trim_end_matches('/');
        let get = || {
            let mut stream = TcpStream::connect(host).unwrap();
            write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        };
        let first = get();
        assert!(
            first.starts_with("HTTP/1.1 503") && first.contains("\r\nRefresh: 5\r\n"),
            "{first}"
        );
        assert!(first.ends_with("nothing is finished\n"), "{first}");
        let second = get();
        assert!(
            second.starts_with("HTTP/1.1 200 OK") && second.ends_with("<p>page</p>"),
            "{second}"
        );
    }
}
