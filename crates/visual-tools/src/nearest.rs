//! The region that a misspelt name most likely means, for the words of a refusal.
//!
//! A name never stands for another region than the one it spells: this only tells the reader.

/// Longest name that is compared, in characters: the time is quadratic in it.
const LONGEST: usize = 64;

/// The name among `known` that is nearest to `asked`: the same but for case, white space, full-width
/// or other look-alike characters; else one that differs by at most a third of its characters (edit
/// distance of Levenshtein). The first of equally near ones; `None` when none is near.
pub(crate) fn nearest<'a>(asked: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let asked = plain(asked);
    known
        .filter_map(|name| Some((distance(&asked, &plain(name))?, name)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// A name without what the eye does not tell apart.
fn plain(name: &str) -> Vec<char> {
    name.trim()
        .chars()
        .take(LONGEST + 1)
        .map(|c| match c {
            // Full-width forms of ASCII.
            '\u{ff01}'..='\u{ff5e}' => char::from((c as u32 - 0xff01) as u8 + b'!'),
            '\u{2010}'..='\u{2015}' | '\u{2212}' => '-',
            '\u{2018}' | '\u{2019}' => '\'',
            '\u{201c}' | '\u{201d}' => '"',
            c if c.is_whitespace() => ' ',
            c => c,
        })
        .flat_map(char::to_lowercase)
        .collect()
}

/// How many characters must be put in, left out or changed; `None` when more than a third.
fn distance(a: &[char], b: &[char]) -> Option<usize> {
    let allowed = a.len().max(b.len()) / 3;
    if a.len().max(b.len()) > LONGEST || a.len().abs_diff(b.len()) > allowed {
        return None;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    Some(row[b.len()]).filter(|distance| *distance <= allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_region_is_found_or_none() {
        let known = ["2005", "2006", "Year 2010", "São Paulo", "-5"];
        for (asked, expected) in [
            ("2005 ", Some("2005")),
            ("\u{a0}2006", Some("2006")),
            ("２００５", Some("2005")),
            ("−5", Some("-5")),
            ("YEAR 2010", Some("Year 2010")),
            ("Year 2011", Some("Year 2010")),
            ("Sao Paulo", Some("São Paulo")),
            ("2015", Some("2005")),
            ("1999", None),
            ("", None),
            ("population", None),
        ] {
            assert_eq!(nearest(asked, known.into_iter()), expected, "{asked:?}");
        }
        let long = "x".repeat(100_000);
        assert_eq!(nearest(&long, [long.as_str()].into_iter()), None);
    }
}
