//! The command under test: a tiny experiment and an evaluation, run to their end or to a fault.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use results::{Runs, run_hashes};

/// A run that takes longer hangs.
const LONGEST: Duration = Duration::from_secs(120);

/// What is run again and again.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Replicate,
    EvalAll,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Replicate => "replicate",
            Kind::EvalAll => "eval-all",
        }
    }
}

/// The smallest schedule that has every stage and an arm with attribution.
const SMALL: [&str; 6] = [
    "schedule.teacher=1",
    "schedule.cold_start=1",
    "schedule.arm=2",
    "evaluation.questions=2",
    "evaluation.validation=1",
    "gates.replicates=10",
];

/// The command that makes a run in `out` or goes on with it.
pub fn command(kind: Kind, out: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(binary()?);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    match kind {
        Kind::Replicate => {
            command.args([
                "replicate",
                "--profile",
                "smoke",
                "--arms",
                "vtool-r1,iapo-occlusion",
            ]);
            for change in SMALL {
                command.args(["--set", change]);
            }
            command.arg("--resume");
        }
        Kind::EvalAll => {
            let student = "replicate/checkpoints/micro/student";
            command.args([
                "eval-all",
                "--model",
                student,
                "--limit",
                "24",
                "--concurrency",
                "4",
            ]);
        }
    }
    command.arg("--out").arg(out);
    Ok(command)
}

/// `iapo` beside the folder of this example.
pub fn binary() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let binary = own
        .parent()
        .and_then(Path::parent)
        .map(|dir| dir.join("iapo"));
    match binary {
        Some(binary) if binary.exists() => Ok(binary),
        _ => bail!("iapo is not built: use `just soak`"),
    }
}

/// A started command whose output goes to files.
pub struct Running {
    pub child: Child,
    output: tempfile::NamedTempFile,
}

/// How a command ended.
pub struct Ended {
    pub status: ExitStatus,
    /// Both of its outputs.
    pub text: String,
}

impl Ended {
    /// What must never be seen, whatever the fault.
    pub fn fell(&self) -> Option<String> {
        ["panicked at", "core dumped", "memory allocation of"]
            .iter()
            .any(|word| self.text.contains(word))
            .then(|| self.last_lines())
    }

    /// Whether its error names something: what it says of its work is not looked at.
    pub fn error_names(&self, what: &str) -> bool {
        let mut lines = self
            .text
            .lines()
            .skip_while(|line| !line.starts_with("error"));
        lines.any(|line| line.contains(what))
    }

    /// The end of what it said, on one line.
    pub fn last_lines(&self) -> String {
        let lines: Vec<&str> = self.text.trim().lines().rev().take(2).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }
}

/// Starts a command.
pub fn start(mut command: Command) -> anyhow::Result<Running> {
    let output = tempfile::NamedTempFile::new()?;
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::from(output.reopen()?))
        .stderr(Stdio::from(appending(output.path())?))
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    Ok(Running { child, output })
}

fn appending(path: &Path) -> std::io::Result<File> {
    File::options().append(true).open(path)
}

impl Running {
    /// Waits for its end.
    ///
    /// # Errors
    /// A command that does not end in two minutes.
    pub fn wait(mut self) -> anyhow::Result<Ended> {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if started.elapsed() > LONGEST {
                self.child.kill()?;
                self.child.wait()?;
                bail!("it ran for more than {} s", LONGEST.as_secs());
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let text = std::fs::read(self.output.path())?;
        Ok(Ended {
            status,
            text: String::from_utf8_lossy(&text).into_owned(),
        })
    }
}

/// Runs a command to its end.
pub fn run(command: Command) -> anyhow::Result<Ended> {
    start(command)?.wait()
}

/// What must be equal whatever happened on the way: the hashes of records and metrics of every run,
/// and the gates' file.
pub fn numbers(out: &Path) -> anyhow::Result<Vec<String>> {
    let runs = Runs::load(&[out.to_owned()])?;
    let mut found = Vec::new();
    for run in &runs.runs {
        let hashes = run_hashes(&run.folder)?;
        let folder = run.folder.strip_prefix(out)?.display().to_string();
        found.push(format!("{folder} {} {}", hashes.records, hashes.metrics));
    }
    found.sort();
    let gates = out.join("gates.json");
    if gates.exists() {
        found.push(std::fs::read_to_string(gates)?);
    }
    Ok(found)
}
