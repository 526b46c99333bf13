//! What the project is built of: licences that are allowed, one registry, and every version that is
//! there twice by name, so that a new one is noticed.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;
use spdx::{Expression, ParseMode};

/// Licences that ask nothing of who builds on this project but their text: MPL-2.0 binds who changes
/// its files, and none is changed here; CDLA-Permissive-2.0 is that of certificates.
const LICENCES: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MPL-2.0",
    "Unicode-3.0",
    "Zlib",
];

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// All packages of the default build on this platform and of the feature `hub`.
fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(["--features", "hub", "--filter-platform"])
        .arg("x86_64-unknown-linux-gnu")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let built: BTreeSet<&str> = metadata["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|node| node["id"].as_str())
        .collect();
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|package| package["id"].as_str().is_some_and(|id| built.contains(id)))
        .cloned()
        .collect()
}

#[test]
fn licences_sources_and_doubles_are_known() {
    let packages = packages();
    assert!(packages.len() > 100, "{}", packages.len());
    let mut faults = Vec::new();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in &packages {
        let name = package["name"].as_str().unwrap();
        let version = package["version"].as_str().unwrap();
        versions.entry(name).or_default().insert(version);
        match package["source"].as_str() {
            // A member of this workspace.
            None => continue,
            Some(REGISTRY) => {}
            Some(other) => faults.push(format!("{name} {version} comes from {other}")),
        }
        let Some(licence) = package["license"].as_str() else {
            faults.push(format!("{name} {version} names no licence"));
            continue;
        };
        let allowed = Expression::parse_mode(licence, ParseMode::LAX).is_ok_and(|expression| {
            expression.evaluate(|required| {
                let id = required.license.id();
                id.is_some_and(|id| LICENCES.contains(&id.name))
            })
        });
        if !allowed {
            faults.push(format!("{name} {version} is under {licence}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    versions.retain(|_, known| known.len() > 1);
    let doubles: Vec<String> = versions
        .iter()
        .map(|(name, known)| {
            let known: Vec<&str> = known.iter().copied().collect();
            format!("{name} {}", known.join(" "))
        })
        .collect();
    insta::assert_snapshot!(doubles.join("\n"));
}

/// Crates that are built into the command, or into the tests too, each with its features.
fn features(edges: &str) -> BTreeMap<String, String> {
    let output = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["tree", "--workspace", "--locked", "--prefix", "none"])
        .args(["--target", "x86_64-unknown-linux-gnu"])
        .args(["--edges", edges, "--format", "{p}|{f}"])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.trim_end_matches(" (*)").split_once('|'))
        .map(|(package, features)| (package.to_string(), features.to_string()))
        .collect()
}

/// A feature that a crate has for the tests alone builds the crate and all above it again.
#[test]
fn tests_build_no_crate_a_second_time() {
    let (command, tests) = (features("normal"), features("normal,dev"));
    assert!(command.len() > 100, "{}", command.len());
    for (package, features) in command {
        assert_eq!(tests[&package], features, "the features of {package}");
    }
}
