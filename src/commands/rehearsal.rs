//! `iapo rehearsal`: what a profile of real data can be rehearsed with.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::ensure;

use super::output::print;
use crate::rehearsal::{ModelSize, Sizes, write};

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
        "{at} holds a student, a teacher and data. A rehearsal of profile paper in a minute:\n  iapo \
         replicate --profile paper --data {at}/data --checkpoints {at} --arms vtool-r1 \\\n    --set \
         checkpoints.student=student --set checkpoints.teacher=teacher --set compute.weights=f32 \\\n    \
         --set data.min_pixels=3136 --set data.max_pixels=12544 --set data.held_out=0.3 \\\n    --set \
         schedule.teacher=0 --set schedule.cold_start=1 --set schedule.arm=1 --set grpo.prompts=2 \\\n    \
         --set grpo.samples=4 --set grpo.max_new_tokens=4 --set evaluation.validation=1 \\\n    --out \
         {at}/run\n"
    ))?;
    Ok(ExitCode::SUCCESS)
}
