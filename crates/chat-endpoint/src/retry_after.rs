//! What a server's headers say about when to come back.
//!
//! Sources: RFC 9110 section 10.2.3 (`Retry-After`: seconds or an HTTP date); OpenAI's
//! `retry-after-ms` and `x-ratelimit-{remaining,reset}-{requests,tokens}`, whose resets are
//! written like `20ms`, `1.5s` or `6m0s`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The wait that a refusal's headers ask for. `header` looks up a value by lower-case name.
pub(crate) fn retry_after<'a>(
    header: impl Fn(&str) -> Option<&'a str>,
    now: SystemTime,
) -> Option<Duration> {
    if let Some(milliseconds) = header("retry-after-ms").and_then(|text| text.trim().parse().ok()) {
        return Some(Duration::from_millis(milliseconds));
    }
    if let Some(text) = header("retry-after") {
        let text = text.trim();
        if let Some(wait) = seconds(text) {
            return Some(wait);
        }
        if let Some(date) = http_date(text) {
            return Some(date.duration_since(now).unwrap_or_default());
        }
    }
    used_up(header)
}

/// The wait until a used-up allowance is renewed, `None` while something remains.
pub(crate) fn used_up<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Option<Duration> {
    ["requests", "tokens"]
        .into_iter()
        .filter(|kind| {
            header(&format!("x-ratelimit-remaining-{kind}"))
                .and_then(|text| text.trim().parse::<i64>().ok())
                .is_some_and(|remaining| remaining <= 0)
        })
        .filter_map(|kind| header(&format!("x-ratelimit-reset-{kind}")))
        .filter_map(|text| compound(text.trim()).or_else(|| seconds(text.trim())))
        .max()
}

/// `12` or `0.5`, in seconds.
fn seconds(text: &str) -> Option<Duration> {
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    plain
        .then(|| text.parse::<f64>().ok())
        .flatten()
        .and_then(|value| Duration::try_from_secs_f64(value).ok())
}

/// `6m0s`, `1h2m3.5s`, `20ms`.
fn compound(text: &str) -> Option<Duration> {
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let unit_end = rest
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(rest.len());
        total += value
            * match &rest[..unit_end] {
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "d" => 86_400.0,
                _ => return None,
            };
        rest = &rest[unit_end..];
    }
    (!text.is_empty())
        .then(|| Duration::try_from_secs_f64(total).ok())
        .flatten()
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, the only form that servers may send.
fn http_date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (_, date) = text.split_once(", ")?;
    let fields: Vec<&str> = date.split(' ').collect();
    let [day, month, year, clock, "GMT"] = fields[..] else {
        return None;
    };
    let day: u64 = day.parse().ok().filter(|day| (1..=31).contains(day))?;
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let year: u64 = year
        .parse()
        .ok()
        .filter(|year| (1970..=9999).contains(year))?;
    let clock: Vec<u64> = clock
        .split(':')
        .map(|part| part.parse().ok())
        .collect::<Option<_>>()?;
    let [hour, minute, second] = clock[..] else {
        return None;
    };
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days since 1970-01-01 with the year beginning in March, so that leap days come last.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(UNIX_EPOCH + Duration::from_secs(((days * 24 + hour) * 60 + minute) * 60 + second))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(headers: &[(&str, &str)]) -> Option<Duration> {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777 - 30);
        retry_after(
            |name| {
                headers
                    .iter()
                    .find(|(known, _)| *known == name)
                    .map(|(_, value)| *value)
            },
            now,
        )
    }

    #[test]
    fn every_way_to_say_when() {
        let seconds = |value| Some(Duration::from_secs_f64(value));
        assert_eq!(wait(&[("retry-after", "12")]), seconds(12.0));
        assert_eq!(wait(&[("retry-after", "0.5")]), seconds(0.5));
        assert_eq!(
            wait(&[("retry-after-ms", "250"), ("retry-after", "9")]),
            seconds(0.25)
        );
        // 784111777 is the example of RFC 9110.
        assert_eq!(
            wait(&[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")]),
            seconds(30.0)
        );
        assert_eq!(
            wait(&[("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")]),
            seconds(0.0),
            "a date that has passed"
        );
        let limits = |remaining, reset| {
            wait(&[
                ("x-ratelimit-remaining-tokens", remaining),
                ("x-ratelimit-reset-tokens", reset),
            ])
        };
        assert_eq!(limits("0", "6m0s"), seconds(360.0));
        assert_eq!(limits("0", "20ms"), seconds(0.02));
        assert_eq!(limits("0", "1h2m3.5s"), seconds(3723.5));
        assert_eq!(limits("1", "6m0s"), None);
    }

    #[test]
    fn nonsense_is_no_wait() {
        for text in [
            "",
            "soon",
            "-3",
            "nan",
            "1e400",
            "Sun, 06 Nov 1994",
            "Sun, 99 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
        ] {
            assert_eq!(wait(&[("retry-after", text)]), None, "{text:?}");
        }
        for text in ["", "5x", "s", "m5"] {
            assert_eq!(compound(text), None, "{text:?}");
        }
    }
}
