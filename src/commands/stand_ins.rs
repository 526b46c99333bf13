//! `iapo stand-ins`: what stands in for checkpoints and data that are not at hand.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::ensure;

use super::output::print;
use crate::stand_ins::{ModelSize, Sizes, write};

/// Makes random checkpoints of the real architecture and a few drawn charts, tables and questions of
/// every set, so that a profile of real data can be tried without any download. Nothing that comes of
/// them is a result.
#[derive(clap::Args)]
pub struct Args {
    /// The folder to make: `student`, `teacher` and `data` in it.
    folder: PathBuf,
    /// The sizes of the models.
    #[arg(long, value_enum, default_value_t = ModelSize::Tiny)]
    models: ModelSize,
    /// Test questions of each set.
    #[arg(long, value_name = "N", default_value_t = 2)]
    test: usize,
    /// Training charts of each direction.
    #[arg(long, value_name = "N", default_value_t = 6)]
    train: usize,
    /// Takes charts with their pictures, tables and questions from here in place of drawn ones:
    /// chartqa/refocus_chartqa_test.jsonl, tables/SET.jsonl, charxiv/reasoning_val.jsonl.
    #[arg(long, value_name = "DIR")]
    rows: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let folder = &args.folder;
    let occupied = std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    ensure!(
        !occupied,
        "{} is not empty; name a new folder",
        folder.display()
    );
    let sizes = Sizes {
        test: args.test,
        train: args.train,
    };
    write(folder, args.models, args.rows.as_deref(), &sizes)?;
    let at = folder.display();
    print(&format!(
        "{at} holds a student, a teacher and data. Profile paper in a minute, with a judge that finds \
         everything wrong:\n  python3 benches/cuda/judge.py & # prints URL\n  JUDGE_API_KEY=none \
         VERIFIER_API_KEY=none iapo replicate --profile paper --data {at}/data \\\n    --checkpoints {at} \
         --arms vtool-r1 --out {at}/run --set judge.server.url=URL \\\n    --set \
         checkpoints.student=student --set checkpoints.teacher=teacher --set compute.weights=f32 \\\n    \
         --set data.min_pixels=3136 --set data.max_pixels=12544 --set data.held_out=0.3 \\\n    --set \
         schedule.teacher=0 --set schedule.cold_start=1 --set schedule.arm=1 --set grpo.prompts=2 \\\n    \
         --set grpo.samples=4 --set grpo.max_new_tokens=4 --set evaluation.validation=1\n"
    ))?;
    Ok(ExitCode::SUCCESS)
}
