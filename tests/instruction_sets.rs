//! The smoke experiment gives one set of hashes by every instruction set of this machine, on 1 and
//! 2 threads, and with the functions that the C library has for older processors.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use fused_ops::InstructionSet;
use results::{Runs, run_hashes};

/// Runs the smoke profile with the given environment; the hashes of each run's records and metrics
/// by its folder.
fn hashes(out: &Path, environment: &[(&str, &str)]) -> BTreeMap<String, (String, String)> {
    let output = Command::new(env!("CARGO_BIN_EXE_iapo"))
        .args(["replicate", "--profile", "smoke", "--out"])
        .arg(out)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{environment:?}: {errors}");
    let runs = Runs::load(&[out.to_owned()]).unwrap();
    let found = runs.runs.iter().map(|run| {
        let hashes = run_hashes(&run.folder).unwrap();
        let folder = run.folder.strip_prefix(out).unwrap().display().to_string();
        (folder, (hashes.records, hashes.metrics))
    });
    found.collect()
}

/// The hashes that the smoke profile gives on every machine. A change of them is a change of what is
/// computed: its reason belongs into the commit that writes them anew, from what this test prints.
fn golden() -> BTreeMap<String, (String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/smoke.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// glibc then takes the functions that it has for processors without these.
const OLDER: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.cpu.hwcaps=-AVX512F,-AVX2,-FMA,-FMA4",
);

fn expect_the_same(sets: &[InstructionSet]) {
    let dir = tempfile::tempdir().unwrap();
    let expected = hashes(&dir.path().join("chosen"), &[("RAYON_NUM_THREADS", "2")]);
    assert_eq!(
        expected,
        golden(),
        "not the bytes that golden/smoke.json holds"
    );
    for set in sets {
        if !set.is_available() {
            println!("skipped: this processor lacks {set}");
            continue;
        }
        let forced = [
            ("FUSED_OPS_SIMD", set.name()),
            ("RAYON_NUM_THREADS", "1"),
            OLDER,
        ];
        let found = hashes(&dir.path().join(set.name()), &forced);
        assert_eq!(found, expected, "{set}");
    }
}

#[test]
fn records_and_metrics_are_the_same_by_every_vector_instruction_set() {
    expect_the_same(&[InstructionSet::Avx512, InstructionSet::Avx2]);
}

#[test]
#[ignore = "minutes: without the instruction a multiply-add is arithmetic in f64"]
fn records_and_metrics_are_the_same_by_the_portable_path() {
    expect_the_same(&[InstructionSet::Portable]);
}

#[test]
fn an_unknown_instruction_set_is_refused_with_what_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_iapo"))
        .args(["replicate", "--profile", "smoke", "--out"])
        .arg(dir.path().join("refused"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("FUSED_OPS_SIMD", "sse2")
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(errors.contains("FUSED_OPS_SIMD is `sse2`"), "{errors}");
    assert!(errors.contains("portable"), "{errors}");
}
