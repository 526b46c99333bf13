//! What can go wrong in the recipe.

use std::path::PathBuf;

/// An error of the recipe, with what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A profile that cannot be used.
    #[error("profile {origin}: {problem}")]
    Profile {
        /// The file or name.
        origin: String,
        /// What is wrong and what to type.
        problem: String,
    },
    /// A run directory that cannot be used.
    #[error("{}: {problem}", path.display())]
    RunDirectory {
        /// The directory or file.
        path: PathBuf,
        /// What is wrong and what to type.
        problem: String,
    },
    /// A file that cannot be read or written.
    #[error("cannot read or write {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A device that cannot be used.
    #[error("device {device}: {problem}")]
    Device {
        /// Its name.
        device: String,
        /// What is wrong and what to type.
        problem: String,
    },
    /// A conversation that cannot be given to the model: its image or its words.
    #[error("{0}")]
    Prompt(String),
    /// Questions from files.
    #[error(transparent)]
    Source(#[from] benchmarks::sources::SourceError),
    /// A server of the profile that cannot be asked.
    #[error("the profile's {name}: {problem}")]
    Server {
        /// `judge` or `verifier`.
        name: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A judge that cannot go on.
    #[error(transparent)]
    Judge(#[from] benchmarks::judge::JudgeError),
    /// Training that has gone wrong.
    #[error("training went wrong in {stage}, update {update}: {problem}")]
    Training {
        /// The stage.
        stage: String,
        /// The update, counted from 1 through all stages.
        update: u64,
        /// What was seen, and which setting to look at.
        problem: String,
    },
    /// The process was asked to stop.
    #[error("stopped by a signal; what is saved is whole: give the same command with --resume")]
    Stopped,
    /// A tool call without a token, to which no log-probability belongs.
    #[error("call {call} of prompt {prompt} has no token to attribute")]
    EmptyCall {
        /// The prompt's place among those given.
        prompt: usize,
        /// The call's place among the prompt's.
        call: usize,
    },
    /// The model.
    #[error(transparent)]
    Model(#[from] qwen2_5_vl::Error),
    /// Tokens, templates or images.
    #[error(transparent)]
    Processor(#[from] qwen2_5_vl::ProcessorError),
    /// A tensor operation.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A fused operator.
    #[error(transparent)]
    Operator(#[from] fused_ops::Error),
    /// Attribution.
    #[error(transparent)]
    Attribution(#[from] attribution::Error),
    /// Optimisation.
    #[error(transparent)]
    Optimisation(#[from] grpo::Error),
    /// Records and tables.
    #[error(transparent)]
    Results(#[from] results::Error),
}

/// The recipe's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Names the file in an input or output error.
pub(crate) fn at(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |source| Error::File {
        path: path.to_owned(),
        source,
    }
}
