//! `iapo completions` and `iapo man`: what shells and `man` want to know of the command.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;

use super::output::print;

/// Prints completions for a shell: `iapo completions bash > /etc/bash_completion.d/iapo`.
#[derive(clap::Args)]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Writes a man page for the command and each subcommand.
#[derive(clap::Args)]
pub struct ManArgs {
    /// The folder, for example `~/.local/share/man/man1`.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Prints completions.
pub fn completions<C: CommandFactory>(args: CompletionsArgs) -> anyhow::Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut C::command(), "iapo", &mut text);
    print(&String::from_utf8(text).context("completions are text")?)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes man pages.
pub fn man<C: CommandFactory>(args: ManArgs) -> anyhow::Result<ExitCode> {
    let mut command = C::command();
    command.build();
    let pages = std::iter::once(&command).chain(command.get_subcommands());
    let mut said = String::new();
    for page in pages {
        // `iapo-view` and the like, once the command is built.
        let name = page.get_display_name().unwrap_or(page.get_name());
        let mut text = Vec::new();
        clap_mangen::Man::new(page.clone()).render(&mut text)?;
        let path = args.out.join(format!("{name}.1"));
        results::write_atomically(&path, &text)
            .with_context(|| format!("give another --out than {}", args.out.display()))?;
        said += &format!("{}\n", path.display());
    }
    print(&said)?;
    Ok(ExitCode::SUCCESS)
}
