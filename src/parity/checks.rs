//! Comparing and counting.

use std::fmt::Debug;

use anyhow::{Result, anyhow};
use candle_core::{DType, Device, Tensor};
use regex::Regex;
use serde::Serialize;

use super::tolerances::{Tolerance, Tolerances};

/// How many checks passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckSummary {
    pub passed: usize,
    pub failed: usize,
}

/// What came of one check. Its name is `FILE KEY`: the file it is of, relative to the folder, and what
/// in it.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub passed: bool,
    pub file: String,
    /// Empty for what the whole file rests on.
    pub key: String,
    /// How far apart, or what went wrong.
    pub detail: String,
}

impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verdict = if self.passed { "PASS" } else { "FAIL" };
        let space = if self.key.is_empty() { "" } else { " " };
        let Check {
            file, key, detail, ..
        } = self;
        write!(f, "{verdict} {file}{space}{key}: {detail}")
    }
}

/// Where checks go as they are made.
pub type Sink<'a> = dyn FnMut(Check) -> std::io::Result<()> + 'a;

/// Runs checks: decides which are wanted, compares, hands each to a sink, and counts.
pub struct Checks<'a> {
    tolerances: Tolerances,
    only: Option<&'a Regex>,
    sink: &'a mut Sink<'a>,
    summary: CheckSummary,
}

impl<'a> Checks<'a> {
    pub fn new(tolerances: Tolerances, only: Option<&'a Regex>, sink: &'a mut Sink<'a>) -> Self {
        Self {
            tolerances,
            only,
            sink,
            summary: CheckSummary::default(),
        }
    }

    pub fn summary(&self) -> CheckSummary {
        self.summary
    }

    /// Whether a check is to be run.
    pub fn wants(&self, file: &str, key: &str) -> bool {
        self.only
            .is_none_or(|only| only.is_match(&format!("{file} {key}")))
    }

    /// The tolerance of a tensor.
    pub fn tolerance(&self, file: &str, key: &str) -> Tolerance {
        self.tolerances.of(file, key)
    }

    /// Whether any of a file's checks is to be run.
    pub fn wants_any<'k>(&self, file: &str, keys: impl IntoIterator<Item = &'k str>) -> bool {
        keys.into_iter().any(|key| self.wants(file, key))
    }

    /// Runs the computation that several checks of a file rest on; its failure is a failed check.
    pub fn case(&mut self, file: &str, run: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        match run(self) {
            // What cannot be written cannot be reported either.
            Err(error) if error.is::<WriteError>() => Err(error),
            Err(error) => self.line(false, file, "", &format!("{error:#}")),
            Ok(()) => Ok(()),
        }
    }

    /// Values that must be equal: ids, positions, grids, texts.
    pub fn exact<T: PartialEq + Debug>(
        &mut self,
        file: &str,
        key: &str,
        reference: &T,
        ours: &T,
    ) -> Result<()> {
        if !self.wants(file, key) {
            return Ok(());
        }
        if reference == ours {
            return self.line(true, file, key, "exact");
        }
        let detail = format!(
            "reference {}, ours {}",
            shortened(reference),
            shortened(ours)
        );
        self.line(false, file, key, &detail)
    }

    /// Integers that must be equal, element by element.
    pub fn exact_list<T: PartialEq + Debug>(
        &mut self,
        file: &str,
        key: &str,
        reference: &[T],
        ours: &[T],
    ) -> Result<()> {
        if !self.wants(file, key) {
            return Ok(());
        }
        if reference == ours {
            return self.line(true, file, key, &format!("exact, {} values", ours.len()));
        }
        let detail = if reference.len() == ours.len() {
            let differ = || {
                reference
                    .iter()
                    .zip(ours)
                    .enumerate()
                    .filter(|(_, (a, b))| a != b)
            };
            let first = differ().next();
            let first = first.map(|(at, (a, b))| format!("[{at}] reference {a:?}, ours {b:?}"));
            format!(
                "{} of {} values differ, first {}",
                differ().count(),
                ours.len(),
                first.unwrap_or_default()
            )
        } else {
            format!(
                "reference has {} values, ours {}",
                reference.len(),
                ours.len()
            )
        };
        self.line(false, file, key, &detail)
    }

    /// A tensor within its tolerance, wherever `valid` (one flag for each of the leading elements).
    pub fn tensor(
        &mut self,
        file: &str,
        key: &str,
        reference: &Tensor,
        ours: &Tensor,
        valid: Option<&[bool]>,
    ) -> Result<()> {
        if !self.wants(file, key) {
            return Ok(());
        }
        if reference.dims() != ours.dims() {
            let (theirs, ours) = (reference.dims(), ours.dims());
            let detail = format!("shape {theirs:?} in the reference, {ours:?} in ours");
            return self.line(false, file, key, &detail);
        }
        let (reference, ours) = (to_f64(reference)?, to_f64(ours)?);
        self.values(file, key, &reference, &ours, valid)
    }

    /// Numbers within the tolerance of a key.
    pub fn values(
        &mut self,
        file: &str,
        key: &str,
        reference: &[f64],
        ours: &[f64],
        valid: Option<&[bool]>,
    ) -> Result<()> {
        let tolerance = self.tolerances.of(file, key);
        self.within(file, key, reference, ours, valid, tolerance)
    }

    /// Numbers within a given tolerance.
    pub fn within(
        &mut self,
        file: &str,
        key: &str,
        reference: &[f64],
        ours: &[f64],
        valid: Option<&[bool]>,
        tolerance: Tolerance,
    ) -> Result<()> {
        if !self.wants(file, key) {
            return Ok(());
        }
        if reference.len() != ours.len() {
            let detail = format!(
                "reference has {} values, ours {}",
                reference.len(),
                ours.len()
            );
            return self.line(false, file, key, &detail);
        }
        let found = Difference::of(reference, ours, valid, tolerance);
        self.line(
            found.over == 0,
            file,
            key,
            &format!("{found}  tolerance {tolerance}"),
        )
    }

    /// Counts one check and hands it on.
    pub fn line(&mut self, passed: bool, file: &str, key: &str, detail: &str) -> Result<()> {
        match passed {
            true => self.summary.passed += 1,
            false => self.summary.failed += 1,
        }
        let check = Check {
            passed,
            file: file.to_owned(),
            key: key.to_owned(),
            detail: detail.to_owned(),
        };
        (self.sink)(check).map_err(|error| anyhow!(WriteError(error)))
    }
}

/// The report cannot be written.
#[derive(Debug)]
struct WriteError(std::io::Error);

impl std::fmt::Display for WriteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot write the report: {}", self.0)
    }
}

impl std::error::Error for WriteError {}

/// How far two lists of numbers are apart.
struct Difference {
    absolute: f64,
    relative: f64,
    over: usize,
    compared: usize,
    worst: Option<(usize, f64, f64)>,
}

impl Difference {
    /// NaN in the reference means that it is not defined there. The relative error is taken
    /// against at least a millionth of the largest reference value, so that zeros do not rule it.
    fn of(reference: &[f64], ours: &[f64], valid: Option<&[bool]>, tolerance: Tolerance) -> Self {
        let repeat = valid
            .map_or(1, |valid| reference.len() / valid.len().max(1))
            .max(1);
        let compared = |at: usize| {
            !reference[at].is_nan()
                && valid.is_none_or(|valid| valid.get(at / repeat) == Some(&true))
        };
        let indices = || (0..reference.len()).filter(|&at| compared(at));
        let largest = indices().map(|at| reference[at].abs()).fold(0.0, f64::max);
        let mut found = Self {
            absolute: 0.0,
            relative: 0.0,
            over: 0,
            compared: 0,
            worst: None,
        };
        for at in indices() {
            let (theirs, ours) = (reference[at], ours[at]);
            found.compared += 1;
            let error = if theirs == ours {
                0.0
            } else {
                (theirs - ours).abs()
            };
            // NaN and infinity are never within a tolerance.
            let error = if error.is_nan() { f64::INFINITY } else { error };
            if error > tolerance.atol + tolerance.rtol * theirs.abs() || error.is_infinite() {
                found.over += 1;
            }
            let floor = (1e-6 * largest).max(f64::MIN_POSITIVE);
            found.relative = found.relative.max(error / theirs.abs().max(floor));
            if error > found.absolute {
                found.absolute = error;
                found.worst = Some((at, theirs, ours));
            }
        }
        found
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "max_abs {:.2e} max_rel {:.2e}",
            self.absolute, self.relative
        )?;
        if let (1.., Some((at, theirs, ours))) = (self.over, self.worst) {
            let (over, all) = (self.over, self.compared);
            write!(
                f,
                "  {over} of {all} over, worst [{at}] reference {theirs}, ours {ours}"
            )?;
        }
        Ok(())
    }
}

/// A tensor's elements, widened.
pub fn to_f64(tensor: &Tensor) -> Result<Vec<f64>> {
    let here = tensor.to_device(&Device::Cpu)?;
    Ok(here.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

/// The elements of a tensor of integers.
pub fn to_i64(tensor: &Tensor) -> Result<Vec<i64>> {
    Ok(tensor.to_dtype(DType::I64)?.flatten_all()?.to_vec1()?)
}

fn shortened(value: &impl Debug) -> String {
    const LIMIT: usize = 200;
    let text = format!("{value:?}");
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(
        run: impl FnOnce(&mut Checks<'_>) -> Result<()>,
        only: Option<&str>,
    ) -> (String, CheckSummary) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tolerances.json");
        std::fs::write(
            &path,
            r#"{"rules": [{"file": "*", "atol": 0.1, "rtol": 0.01}]}"#,
        )
        .unwrap();
        let only = only.map(|only| Regex::new(only).unwrap());
        let mut lines = String::new();
        let mut sink = |check: Check| {
            lines += &format!("{check}\n");
            Ok(())
        };
        let mut checks = Checks::new(Tolerances::read(&path).unwrap(), only.as_ref(), &mut sink);
        run(&mut checks).unwrap();
        let summary = checks.summary();
        (lines, summary)
    }

    #[test]
    fn lines_say_what_differs() {
        let (lines, summary) = checks(
            |checks| {
                checks.values("f", "within", &[1.0, -20.0], &[1.1, -20.2], None)?;
                checks.values("f", "above", &[1.0, 2.0], &[1.0, 2.2], None)?;
                checks.values(
                    "f",
                    "masked",
                    &[1.0, 1.0, 2.0, 2.0],
                    &[1.0, 1.0, 9.0, 9.0],
                    Some(&[true, false]),
                )?;
                checks.values("f", "nan", &[1.0], &[f64::NAN], None)?;
                checks.values("f", "undefined", &[f64::NAN], &[3.0], None)?;
                checks.values("f", "length", &[1.0], &[], None)?;
                checks.exact("f", "text", &"a", &"b")?;
                checks.exact_list("f", "ids", &[1, 2, 3], &[1, 5, 3])?;
                checks.exact_list("f", "same", &[1, 2], &[1, 2])?;
                checks.case("f", |_| Err(anyhow!("no such file")))
            },
            None,
        );
        insta::assert_snapshot!(lines);
        assert_eq!(
            summary,
            CheckSummary {
                passed: 4,
                failed: 6
            }
        );
    }

    #[test]
    fn only_selects_by_file_and_key() {
        let (lines, _) = checks(
            |checks| {
                checks.exact("model/a", "out.ids", &1, &1)?;
                checks.exact("model/b", "out.ids", &1, &1)
            },
            Some("/b out"),
        );
        assert_eq!(lines, "PASS model/b out.ids: exact\n");
    }
}
