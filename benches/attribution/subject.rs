//! What the measurements of this folder start from: models, profile, and where the page goes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use benchmarks::data::{Data, Item};
use qwen2_5_vl::Model;
use replicate::compute::Compute;
use replicate::policy::LocalPolicy;
use replicate::profile::Profile;
use seeded_random::Stream;

/// The models that are measured.
pub struct Subject {
    /// The micro profile.
    pub profile: Profile,
    /// The student, sampling at the profile's temperature.
    pub student: LocalPolicy,
    /// The teacher, without a graph.
    pub teacher: Model,
    /// The profile's world.
    pub data: Data,
    out: PathBuf,
}

impl Subject {
    /// From the command line: `[STUDENT] [TEACHER] [--out FILE]`. Sets the thread regime of the `iapo`
    /// command, so call it before anything else.
    pub fn from_arguments(out: &str) -> Result<Self> {
        if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
            // SAFETY: no other thread has been started.
            unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
        }
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
        let world = profile.world.clone().context("the profile has no world")?;
        let data = Data::micro(world, profile.evaluation.questions);
        student.style = data.style();
        let teacher = LocalPolicy::load(&folder(1, "teacher"), &compute, 1)?
            .model
            .detached()?;
        Ok(Subject {
            profile,
            student,
            teacher,
            data,
            out,
        })
    }

    /// Validation questions, so many of each family, and the stream of a measurement.
    pub fn validation(&self, of_each: usize, purpose: &str) -> Result<(Vec<Item>, Stream)> {
        let world = self
            .profile
            .world
            .as_ref()
            .context("the profile has no world")?;
        let stream = Stream::new(world.seed).purpose(purpose);
        Ok((self.data.validation(of_each)?, stream))
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
