//! What the measurements of this folder start from: models, profile, and where the page goes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use qwen2_5_vl::Model;
use replicate::compute::Compute;
use replicate::policy::LocalPolicy;
use replicate::profile::Profile;

/// The models that are measured.
pub struct Subject {
    /// The micro profile.
    pub profile: Profile,
    /// The student, sampling at the profile's temperature.
    pub student: LocalPolicy,
    /// The teacher, without a graph.
    pub teacher: Model,
    out: PathBuf,
}

impl Subject {
    /// From the command line: `[STUDENT] [TEACHER] [--out FILE]`.
    pub fn from_arguments(out: &str) -> Result<Self> {
        let mut arguments: Vec<String> = std::env::args().skip(1).collect();
        let mut out = PathBuf::from(out);
        if let Some(at) = arguments.iter().position(|argument| argument == "--out") {
            out = arguments.get(at + 1).context("--out needs a file")?.into();
            arguments.drain(at..=at + 1);
        }
        let folder = |index: usize, name: &str| {
            arguments.get(index).map_or_else(
                || Path::new("replicate/checkpoints/micro").join(name),
                PathBuf::from,
            )
        };
        let profile = Profile::load("micro", &[])?;
        let compute = Compute::cpu();
        let tokens = profile.grpo.max_new_tokens;
        let mut student = LocalPolicy::load(&folder(0, "student"), &compute, tokens)?;
        student.temperature = profile.grpo.temperature;
        let teacher = LocalPolicy::load(&folder(1, "teacher"), &compute, 1)?
            .model
            .detached()?;
        Ok(Subject {
            profile,
            student,
            teacher,
            out,
        })
    }

    /// Prints the page and writes it.
    pub fn publish(&self, page: &str) -> Result<()> {
        print!("{page}");
        if let Some(parent) = self.out.parent() {
            std::fs::create_dir_all(parent)?;
        }
        results::write_atomically(&self.out, page.as_bytes())?;
        Ok(())
    }
}
