//! ChartQA's relaxed match.
//!
//! Source: Masry et al. 2022 (arXiv 2203.10244, end of section 5.1) as in Pix2Struct's
//! `relaxed_correctness`: two numbers match when `|prediction − gold| / |gold| ≤ 0.05`; the 5 % is
//! of the gold value. `x%` is the number x / 100. If one is no number, or the gold is 0, the texts
//! must be equal without regard to case. Python's `float` reads the numbers.
//!
//! Deviation: ReFocus' set has list golds, for which the reference has no rule. They are read as
//! VTool-R1's judge is told to: the same list in any order, each item by relaxed match. Gold
//! items stand between `|||`, predicted ones between `||`, or in `[…, …]`.

use std::borrow::Cow;

use super::python::{lower, parse_float, strip};
use super::scored::{Answer, Exception, Reason, Scored};

/// The largest change relative to the gold value.
const TOLERANCE: f64 = 0.05;

/// The verdict of relaxed match.
pub fn score(gold: &Answer<'_>, prediction: &Answer<'_>) -> Scored {
    if matches!(prediction, Answer::Null) {
        return Reason::NoPrediction.into();
    }
    let Some(golds) = items(gold, |text| text.split("|||").map(Cow::Borrowed).collect()) else {
        return Scored::crash(Exception::AttributeError);
    };
    let split = |text| {
        if golds.len() == 1 {
            vec![Cow::Borrowed(text)]
        } else {
            predicted(text)
        }
    };
    let Some(predictions) = items(prediction, split) else {
        return Scored::crash(Exception::AttributeError);
    };
    if golds.len() != predictions.len() {
        return Reason::DifferentCount.into();
    }
    let matches: Vec<Vec<Reason>> = golds
        .iter()
        .map(|gold| {
            predictions
                .iter()
                .map(|prediction| item(gold, prediction))
                .collect()
        })
        .collect();
    if !has_perfect_matching(&matches) {
        return Reason::Different.into();
    }
    // Equal if every gold has an equal partner, else within the tolerance.
    let equal = matches.iter().all(|row| row.contains(&Reason::Equal));
    if equal {
        Reason::Equal.into()
    } else {
        Reason::WithinTolerance.into()
    }
}

/// Whether the rule reads a prediction: a text, a number, a boolean, or a list of those.
pub(super) fn reads(prediction: &Answer<'_>) -> bool {
    items(prediction, |text| vec![Cow::Borrowed(text)]).is_some()
}

/// Whether the gold names years, each of which a prediction must then meet exactly: ChartQA's rule
/// takes 2008 for 2010, which is within 5 %. A year is four digits from 1700 to 2100.
pub fn is_about_years(gold: &Answer<'_>) -> bool {
    let year = |text: &str| {
        text.len() == 4
            && text
                .parse::<u16>()
                .is_ok_and(|n| (1700..=2100).contains(&n))
    };
    items(gold, |text| text.split("|||").map(Cow::Borrowed).collect())
        .is_some_and(|golds| golds.iter().any(|gold| year(strip(gold))))
}

/// One item against one item: equal, within the tolerance, or different.
fn item(gold: &str, prediction: &str) -> Reason {
    match (number(prediction), number(gold)) {
        (Some(p), Some(g)) if g != 0.0 => {
            if p == g && g.is_finite() {
                Reason::Equal
            } else if (p - g).abs() / g.abs() <= TOLERANCE {
                Reason::WithinTolerance
            } else {
                Reason::Different
            }
        }
        _ if lower(prediction) == lower(gold) => Reason::Equal,
        _ => Reason::Different,
    }
}

fn number(text: &str) -> Option<f64> {
    match text.strip_suffix('%') {
        Some(percent) => Some(parse_float(percent.trim_end_matches('%'))? / 100.0),
        None => parse_float(text),
    }
}

/// The items of an answer as text; `None` if it holds anything but texts, numbers and booleans.
fn items<'a>(
    answer: &'a Answer<'_>,
    split: impl Fn(&'a str) -> Vec<Cow<'a, str>>,
) -> Option<Vec<Cow<'a, str>>> {
    match answer {
        Answer::Text(text) => Some(split(text)),
        Answer::List(list) => list.iter().map(scalar).collect(),
        other => Some(vec![scalar(other)?]),
    }
}

fn scalar<'a>(answer: &'a Answer<'_>) -> Option<Cow<'a, str>> {
    match answer {
        Answer::Text(text) => Some(Cow::Borrowed(text)),
        Answer::Number(n) => Some(Cow::Owned(n.to_string())),
        Answer::Bool(b) => Some(Cow::Owned(b.to_string())),
        Answer::Null | Answer::List(_) | Answer::Object => None,
    }
}

fn predicted(text: &str) -> Vec<Cow<'_, str>> {
    let text = strip(text);
    let bracketed = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let parts: Vec<&str> = match bracketed {
        Some(inner) if !text.contains("||") => inner.split(',').collect(),
        _ => text.split("||").collect(),
    };
    parts
        .into_iter()
        .map(|part| Cow::Borrowed(strip(part)))
        .collect()
}

/// Whether every row can have a column of its own that is not [`Reason::Different`].
fn has_perfect_matching(matches: &[Vec<Reason>]) -> bool {
    fn place(
        row: usize,
        matches: &[Vec<Reason>],
        owner: &mut [Option<usize>],
        seen: &mut [bool],
    ) -> bool {
        for column in 0..owner.len() {
            if matches[row][column] == Reason::Different || seen[column] {
                continue;
            }
            seen[column] = true;
            if owner[column].is_none_or(|other| place(other, matches, owner, seen)) {
                owner[column] = Some(row);
                return true;
            }
        }
        false
    }
    let mut owner = vec![None; matches.len()];
    (0..matches.len()).all(|row| place(row, matches, &mut owner, &mut vec![false; matches.len()]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Verdict;

    fn verdict(gold: &str, prediction: &str) -> Verdict {
        score(&gold.into(), &prediction.into()).verdict
    }

    #[test]
    fn the_tolerance_is_of_the_gold_value() {
        assert_eq!(verdict("100", "105"), Verdict::Right);
        assert_eq!(verdict("105", "100"), Verdict::Right);
        assert_eq!(verdict("100", "95"), Verdict::Right);
        assert_eq!(verdict("95", "100"), Verdict::Wrong);
        assert_eq!(verdict("100", "105.01"), Verdict::Wrong);
        assert_eq!(verdict("-100", "-104"), Verdict::Right);
        assert_eq!(verdict("-100", "100"), Verdict::Wrong);
    }

    #[test]
    fn percent_zero_and_text() {
        assert_eq!(verdict("69%", "0.69"), Verdict::Right);
        assert_eq!(verdict("69", "69%"), Verdict::Wrong);
        assert_eq!(verdict("5%%", "0.05"), Verdict::Right);
        assert_eq!(verdict("0", "0"), Verdict::Right);
        assert_eq!(verdict("0", "0.0"), Verdict::Wrong);
        assert_eq!(verdict("5", "0"), Verdict::Wrong);
        assert_eq!(verdict("Yes", "yes"), Verdict::Right);
        assert_eq!(verdict("Yes", "yes."), Verdict::Wrong);
        assert_eq!(verdict("1000", "1,000"), Verdict::Wrong);
        assert_eq!(verdict("nan", "nan"), Verdict::Wrong);
        assert_eq!(verdict("inf", "inf"), Verdict::Wrong);
        assert_eq!(
            score(&"5".into(), &Answer::Null).reason,
            Reason::NoPrediction
        );
    }

    #[test]
    fn lists_match_in_any_order() {
        assert_eq!(verdict("1.34|||1.37", "1.37||1.34"), Verdict::Right);
        assert_eq!(verdict("1.34|||1.37", "[1.34, 1.37]"), Verdict::Right);
        assert_eq!(verdict("1.34|||1.37", "1.34"), Verdict::Wrong);
        assert_eq!(verdict("a|||b", "a||a"), Verdict::Wrong);
        // 100 accepts both, 104 only one of them: a greedy match would fail.
        assert_eq!(verdict("100|||108", "105||100"), Verdict::Right);
        let gold = Answer::from(serde_json::json!([1.34, 1.37]));
        assert_eq!(score(&gold, &"1.34||1.37".into()).verdict, Verdict::Right);
        assert_eq!(verdict("[Italy , 22]", "[italy , 22]"), Verdict::Right);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn any_two_texts_get_a_verdict(gold in any::<String>(), prediction in any::<String>()) {
            let verdict = verdict(&gold, &prediction);
            prop_assert!(verdict != Verdict::NotJudged);
        }

        #[test]
        fn the_boundary_is_five_percent(gold in 1.0_f64..1e6, share in 0.0_f64..0.1) {
            let prediction = gold * (1.0 + share);
            let expected = if (prediction - gold).abs() / gold <= 0.05 { Verdict::Right } else { Verdict::Wrong };
            prop_assert_eq!(verdict(&gold.to_string(), &prediction.to_string()), expected);
        }
    }
}
