//! The same jobs on engines that exist: the command for HyperQueue, the script for Slurm.
//!
//! Both run one process per line of `jobs.jsonl`, with one core each.

use std::path::{Path, PathBuf};

use super::files;

/// How the command is called for one job.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments before the job.
    pub arguments: Vec<String>,
    /// The folder of the study's cells.
    pub out: PathBuf,
}

impl Invocation {
    fn jobs(&self) -> PathBuf {
        self.out.join(files::JOBS)
    }

    /// The call with the job in a variable of the shell.
    fn shell(&self, variable: &str) -> String {
        let words = std::iter::once(quoted(&self.program.to_string_lossy()))
            .chain(self.arguments.iter().map(|argument| quoted(argument)));
        let words: Vec<String> = words.collect();
        format!("exec {} --job \"${variable}\"", words.join(" "))
    }
}

/// A word that a POSIX shell takes as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The arguments of `hq` that submit the jobs and wait for them. A task whose worker is lost is started
/// again by HyperQueue.
pub fn hyperqueue_command(call: &Invocation) -> Vec<String> {
    [
        "submit",
        "--name",
        "iapo-study",
        "--each-line",
        &call.jobs().to_string_lossy(),
        "--cpus",
        "1",
        "--env",
        "RAYON_NUM_THREADS=1",
        "--wait",
        "--",
        "bash",
        "-c",
        &call.shell("HQ_ENTRY"),
    ]
    .map(str::to_owned)
    .to_vec()
}

/// A script for `sbatch` that runs `jobs` jobs as an array; each may take `minutes`.
pub fn slurm_script(call: &Invocation, jobs: usize, minutes: u64) -> String {
    let file = call.jobs();
    let log = |path: &Path| quoted(&path.join("slurm-%A-%a.log").to_string_lossy());
    format!(
        "#!/usr/bin/env bash\n\
         #SBATCH --job-name=iapo-study\n\
         #SBATCH --array=1-{jobs}\n\
         #SBATCH --ntasks=1\n\
         #SBATCH --cpus-per-task=1\n\
         #SBATCH --mem=4G\n\
         #SBATCH --time={minutes}\n\
         #SBATCH --output={}\n\
         set -euo pipefail\n\
         export RAYON_NUM_THREADS=1\n\
         job=$(sed -n \"${{SLURM_ARRAY_TASK_ID}}p\" {})\n\
         {}\n",
        log(&call.out),
        quoted(&file.to_string_lossy()),
        call.shell("job"),
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    fn call(out: &Path) -> Invocation {
        Invocation {
            program: "echo".into(),
            arguments: vec!["a b".into(), "it's".into()],
            out: out.to_owned(),
        }
    }

    #[test]
    fn the_script_is_one_that_bash_takes_and_that_runs_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("a folder");
        std::fs::create_dir(&out).unwrap();
        std::fs::write(out.join(files::JOBS), "{\"n\":1}\n{\"n\":2}\n").unwrap();
        let script = slurm_script(&call(&out), 2, 90);
        let mut bash = Command::new("bash")
            .args(["-n", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = bash.stdin.take().unwrap();
        input.write_all(script.as_bytes()).unwrap();
        drop(input);
        assert!(bash.wait().unwrap().success());
        let ran = Command::new("bash")
            .args(["-c", &script])
            .env("SLURM_ARRAY_TASK_ID", "2")
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&ran.stdout),
            "a b it's --job {\"n\":2}\n"
        );
        let placed = script.replace(&*dir.path().to_string_lossy(), "DIR");
        insta::assert_snapshot!(placed);
    }

    #[test]
    fn hyperqueue_gets_a_task_per_line() {
        let words = hyperqueue_command(&call(Path::new("out")));
        insta::assert_snapshot!(words.join("\n"));
        let ran = Command::new("bash")
            .args(["-c", words.last().unwrap()])
            .env("HQ_ENTRY", "{\"n\":1}")
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&ran.stdout),
            "a b it's --job {\"n\":1}\n"
        );
    }
}
