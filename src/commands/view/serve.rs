//! The page over HTTP on this machine alone, made again each time that it is asked for.

use crate::commands::loopback::{Loopback, Request, Response};

/// How often a page that could not be made yet is asked for again, seconds.
const AGAIN: u64 = 5;

/// Serves `page` at the loopback address until the process ends; `started` gets the address.
pub(super) fn serve(
    port: u16,
    page: impl Fn() -> anyhow::Result<String>,
    started: impl FnOnce(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let server = Loopback::bind(port)?;
    started(&format!("{}/", server.address()))?;
    server.serve(0, |request, _| answer(request, &page));
    Ok(())
}

fn answer(request: &Request, page: &impl Fn() -> anyhow::Result<String>) -> Response {
    let plain = |status: &'static str, again, body| Response {
        status,
        kind: "text/plain",
        again,
        body,
    };
    let refused = match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/") => None,
        ("GET", _) => Some("404 Not Found"),
        _ => Some("405 Method Not Allowed"),
    };
    if let Some(status) = refused {
        return plain(status, None, format!("{status}\n"));
    }
    match page() {
        Ok(page) => Response {
            status: "200 OK",
            kind: "text/html",
            again: None,
            body: page,
        },
        // A run that has only begun has nothing to show.
        Err(error) => plain(
            "503 Service Unavailable",
            Some(AGAIN),
            format!("{error:#}\n"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_page_is_given_and_one_that_is_not_there_yet_is_asked_for_again() {
        let asked = std::cell::Cell::new(0);
        let page = || {
            asked.set(asked.get() + 1);
            anyhow::ensure!(asked.get() > 1, "nothing is finished");
            Ok("<p>page</p>".to_owned())
        };
        let of = |method: &str, path: &str| {
            let request = Request {
                method: method.into(),
                path: path.into(),
            };
            answer(&request, &page)
        };
        assert_eq!(of("GET", "/etc/passwd").status, "404 Not Found");
        assert_eq!(of("POST", "/").status, "405 Method Not Allowed");
        let first = of("GET", "/");
        assert_eq!(
            (first.status, first.again, first.body.as_str()),
            (
                "503 Service Unavailable",
                Some(AGAIN),
                "nothing is finished\n"
            )
        );
        let second = of("GET", "/");
        assert_eq!((second.status, second.again), ("200 OK", None));
        assert_eq!(second.body, "<p>page</p>");
    }
}
