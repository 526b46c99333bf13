//! The rules of the house, held by reading the sources: floors, circles, names, lengths.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The crates by floor; imports run strictly downward, except among those of floor 1, which are
/// ordered by cargo itself, and results' use of what it records.
const FLOORS: [(u8, &[&str]); 5] = [
    (
        1,
        &[
            "crates/seeded-random",
            "crates/fused-ops",
            "crates/qwen2-5-vl",
            "crates/visual-tools",
            "crates/attribution",
            "crates/grpo",
            "crates/agent",
        ],
    ),
    (2, &["benchmarks"]),
    (3, &["baselines", "results"]),
    (4, &["replicate"]),
    (5, &["."]),
];

const LONGEST_FILE: usize = 600;

/// 25 MiB.
const LARGEST_REPOSITORY: u64 = 25 << 20;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else {
        return found;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A crate's floor, every folder of `crates/` that is not listed being on the first.
fn crates() -> Vec<(u8, PathBuf)> {
    let mut found: Vec<(u8, PathBuf)> = FLOORS
        .iter()
        .flat_map(|(floor, names)| names.iter().map(|name| (*floor, root().join(name))))
        .collect();
    for entry in std::fs::read_dir(root().join("crates")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !found.iter().any(|(_, known)| *known == path) {
            found.push((1, path));
        }
    }
    found
}

/// A file without its tests, comments and strings that could be taken for code.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn no_file_is_too_long() {
    let long: Vec<String> = [
        "crates",
        "benchmarks",
        "baselines",
        "results",
        "replicate",
        "src",
        "tests",
        "benches",
    ]
    .iter()
    .flat_map(|folder| sources(&root().join(folder)))
    .filter_map(|path| {
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        (lines > LONGEST_FILE).then(|| format!("{}: {lines} lines", path.display()))
    })
    .collect();
    assert!(long.is_empty(), "split by subject:\n{}", long.join("\n"));
}

#[test]
fn the_repository_stays_small() {
    let listed = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root())
        .output();
    // An archive of the sources has no list of what is tracked.
    let Some(listed) = listed.ok().filter(|listed| listed.status.success()) else {
        println!("skipped: no git, or no repository");
        return;
    };
    let names = String::from_utf8(listed.stdout).unwrap();
    let size = |name: &str| std::fs::metadata(root().join(name)).map_or(0, |file| file.len());
    let bytes: u64 = names.split_terminator('\0').map(size).sum();
    assert!(
        bytes < LARGEST_REPOSITORY,
        "tracked files have {bytes} bytes, {LARGEST_REPOSITORY} at most; results/recompress.py and \
         `iapo study --pack` make kept runs smaller"
    );
}

#[test]
fn imports_run_downward() {
    let floors: BTreeMap<String, u8> = crates()
        .iter()
        .map(|(floor, path)| (package_name(path), *floor))
        .collect();
    let mut upward = Vec::new();
    for (floor, path) in crates() {
        for dependency in workspace_dependencies(&path) {
            let other = floors.get(&dependency).copied().unwrap_or(0);
            if other > floor {
                upward.push(format!(
                    "{} (floor {floor}) on {dependency} (floor {other})",
                    package_name(&path)
                ));
            }
        }
    }
    assert!(upward.is_empty(), "{}", upward.join("\n"));
}

/// What the generator of the micro world knows comes through `benchmarks::data` and
/// `benchmarks::curriculum`.
#[test]
fn nothing_above_the_benchmarks_imports_the_micro_world() {
    let mut found = Vec::new();
    for folder in ["baselines/src", "results/src", "replicate/src", "src"] {
        for path in sources(&root().join(folder)) {
            if code(&path).contains("benchmarks::micro") {
                found.push(path.display().to_string());
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Names that every crate has.
const COMMON_NAMES: [&str; 3] = ["Error", "Result", "Args"];

/// What shapes weights and records is computed by functions that give the same bits on every machine:
/// those of the C library and candle's products do not. `fused-ops` is where the two are told apart.
#[test]
fn nothing_that_shapes_a_run_uses_functions_that_differ_between_machines() {
    let differing = [
        "exp", "exp2", "ln", "log2", "log10", "tanh", "sin", "cos", "tan", "sinh", "cosh",
    ]
    .map(|name| format!(".{name}()"));
    let mut differing: Vec<String> = differing.to_vec();
    differing.extend([".powf(".to_string(), ".matmul(".to_string()]);
    let mut found = Vec::new();
    for (floor, folder) in crates() {
        // Statistics and commands shape no run.
        let shapes = floor < 5 && !folder.ends_with("results") && !folder.ends_with("fused-ops");
        for path in sources(&folder.join("src")).iter().filter(|_| shapes) {
            let code = code(path);
            let uses = differing.iter().filter(|name| code.contains(name.as_str()));
            found.extend(uses.map(|name| format!("{}: {name}", path.display())));
        }
    }
    assert!(
        found.is_empty(),
        "use libm or fused_ops instead:\n{}",
        found.join("\n")
    );
}

#[test]
fn no_public_type_has_two_meanings() {
    let mut places: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (_, path) in crates() {
        for file in sources(&path.join("src")) {
            for line in code(&file).lines() {
                let Some(rest) = line.trim_start().strip_prefix("pub ") else {
                    continue;
                };
                let mut words = rest.split(|c: char| !(c.is_alphanumeric() || c == '_'));
                if !matches!(words.next(), Some("struct" | "enum" | "trait" | "type")) {
                    continue;
                }
                let name = words.next().unwrap_or_default().to_owned();
                // An associated type of a trait is no name of its own.
                if !COMMON_NAMES.contains(&name.as_str()) && !line.starts_with("    ") {
                    places
                        .entry(name)
                        .or_default()
                        .insert(file.display().to_string());
                }
            }
        }
    }
    let twice: Vec<String> = places
        .iter()
        .filter(|(_, files)| files.len() > 1)
        .map(|(name, files)| format!("{name}: {files:?}"))
        .collect();
    assert!(twice.is_empty(), "{}", twice.join("\n"));
}

#[test]
fn no_circle_among_the_files_of_a_crate() {
    let mut circles = Vec::new();
    for (_, path) in crates() {
        let graph = Graph::read(&path.join("src"));
        for circle in graph.circles() {
            let circle = circle.join(" -> ");
            circles.push(format!("{}: {circle}", package_name(&path)));
        }
    }
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

fn package_name(folder: &Path) -> String {
    let text = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    let line = text.lines().find(|line| line.starts_with("name = "));
    line.unwrap()
        .trim_start_matches("name = ")
        .trim_matches('"')
        .to_owned()
}

/// The packages of this workspace that a crate depends on, tests aside.
fn workspace_dependencies(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with('[') {
            inside = line == "[dependencies]";
        } else if inside {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            found.push(name.to_owned());
        }
    }
    found
}

/// The modules of a crate, by their path (`a::b`), and which uses which.
struct Graph {
    uses: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn read(src: &Path) -> Self {
        let files: BTreeMap<String, String> = sources(src)
            .iter()
            .map(|path| (module_of(src, path), code(path)))
            .collect();
        let uses = files
            .iter()
            .map(|(module, text)| {
                let used = paths(module, text)
                    .iter()
                    .filter_map(|path| resolve(&files, path, 0))
                    .filter(|other| other != module)
                    .collect();
                (module.clone(), used)
            })
            .collect();
        Graph { uses }
    }

    /// One circle for each module that reaches itself, each circle once.
    fn circles(&self) -> Vec<Vec<String>> {
        let mut found: Vec<Vec<String>> = Vec::new();
        for start in self.uses.keys() {
            let mut path = vec![start.clone()];
            let mut seen = BTreeSet::new();
            if self.reach(start, start, &mut path, &mut seen) {
                let known = found.iter().any(|circle| circle.contains(start));
                if !known {
                    found.push(path);
                }
            }
        }
        found
    }

    fn reach(
        &self,
        from: &str,
        goal: &str,
        path: &mut Vec<String>,
        seen: &mut BTreeSet<String>,
    ) -> bool {
        for next in &self.uses[from] {
            if next == goal {
                path.push(next.clone());
                return true;
            }
            if seen.insert(next.clone()) {
                path.push(next.clone());
                if self.reach(next, goal, path, seen) {
                    return true;
                }
                path.pop();
            }
        }
        false
    }
}

/// `src/a/mod.rs` and `src/a.rs` are module `a`; the crate's root is the empty path.
fn module_of(src: &Path, file: &Path) -> String {
    let relative = file.strip_prefix(src).unwrap().with_extension("");
    let mut parts: Vec<String> = relative
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if matches!(
        parts.last().map(String::as_str),
        Some("mod" | "lib" | "main")
    ) {
        parts.pop();
    }
    parts.join("::")
}

/// The paths below `crate::`, `self::` and `super::` that a module names, from the crate's root.
fn paths(module: &str, text: &str) -> Vec<Vec<String>> {
    let own: Vec<String> = module
        .split("::")
        .filter(|p| !p.is_empty())
        .map(str::to_owned)
        .collect();
    let mut found = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in text.match_indices(start) {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let mut base = match start {
                "crate::" => Vec::new(),
                _ => own[..own.len().saturating_sub(1)].to_vec(),
            };
            let mut rest = &text[at + start.len()..];
            while let Some(next) = rest.strip_prefix("super::") {
                base.pop();
                rest = next;
            }
            expand(&base, rest, &mut found);
        }
    }
    // What a module takes from its own children.
    for (at, _) in text.match_indices("use ") {
        let rest = &text[at + 4..];
        let first: String = rest
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        let is_public = text[..at].trim_end().ends_with("pub");
        if !is_public && !first.is_empty() && rest[first.len()..].starts_with("::") {
            let mut child = own.clone();
            child.push(first);
            found.push(child);
        }
    }
    found
}

/// `a::{b, c::d}` as paths.
fn expand(base: &[String], text: &str, found: &mut Vec<Vec<String>>) {
    let mut path = base.to_vec();
    let mut rest = text;
    loop {
        let name: String = rest
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        rest = &rest[name.len()..];
        if name.is_empty() {
            break;
        }
        path.push(name);
        match rest.strip_prefix("::") {
            Some(next) => rest = next,
            None => {
                found.push(path);
                return;
            }
        }
    }
    let Some(inside) = rest.strip_prefix('{') else {
        found.push(path);
        return;
    };
    let (mut depth, mut start) = (0, 0);
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            ',' if depth == 0 => {
                expand(&path, inside[start..at].trim_start(), found);
                start = at + 1;
            }
            '}' if depth == 0 => {
                expand(&path, inside[start..at].trim_start(), found);
                return;
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
}

/// The module in which the item of a path is defined: as deep as modules go, then along
/// `pub use child::Item`.
fn resolve(files: &BTreeMap<String, String>, path: &[String], depth: usize) -> Option<String> {
    let mut module = String::new();
    let mut rest = path;
    while let [next, more @ ..] = rest {
        let child = match module.as_str() {
            "" => next.clone(),
            _ => format!("{module}::{next}"),
        };
        if !files.contains_key(&child) {
            break;
        }
        module = child;
        rest = more;
    }
    if path.len() > rest.len() || files.contains_key("") {
        let item = rest.first()?;
        if depth < 8
            && let Some(text) = files.get(&module)
        {
            for (at, _) in text.match_indices("use ") {
                if !text[..at].trim_end().ends_with(['b', ')']) {
                    continue;
                }
                let base: Vec<String> = module
                    .split("::")
                    .filter(|p| !p.is_empty())
                    .map(str::to_owned)
                    .collect();
                let mut exported = Vec::new();
                let body = text[at + 4..].trim_start_matches("self::");
                if let Some(rest) = body.strip_prefix("crate::") {
                    expand(&[], rest, &mut exported);
                } else {
                    expand(&base, body, &mut exported);
                }
                if let Some(found) = exported
                    .iter()
                    .find(|e| e.last() == Some(item) && e.as_slice() != path)
                {
                    return resolve(files, found, depth + 1);
                }
            }
        }
        return files.contains_key(&module).then_some(module);
    }
    None
}
