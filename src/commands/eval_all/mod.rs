//! `iapo eval-all`: checkpoints or endpoints on the six test sets, one record per question.
//!
//! Records here have no attribution: it takes gradients of the model for every call, which an
//! endpoint does not give and which cost a checkpoint more than its answers; `iapo attribute`
//! measures that of one call.

mod calls;
mod data;
mod run;
mod tally;
mod watch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use benchmarks::TestSet;
use benchmarks::data::{AnswerRule, EpisodeStyle};
use benchmarks::evaluation::{Scoring, Shard};
use benchmarks::judge::{EndpointJudge, Judge};
use benchmarks::scorers::{self, Reason};
use benchmarks::sources;
use chat_endpoint::{
    ApiKey, Cache, CachedPolicy, Client, EndpointPolicy, Prices, SamplingParameters, Settings,
};
use replicate::checkpoint::weights_hash;
use replicate::compute::{Compute, DeviceName, WeightType};
use replicate::policy::LocalPolicy;
use results::{
    ArmName, Format, RECORDS, Runs, Table, plain_table, repeats, repeats_table, run_folder,
    share_name, share_of,
};

use super::output::{print, width, within};
use super::signals::{self, OnSignal};
use data::Asked;
use run::Evaluation;
use tally::Tally;

/// The environment variables with the keys.
const KEY: &str = "OPENAI_API_KEY";
const JUDGE_KEY: &str = "JUDGE_API_KEY";

/// What the model said, beside its records: kept also where there is no verdict yet.
const COMPLETIONS: &str = "completions.jsonl";

/// Questions in a row without a connection after which a server is given up.
const GIVE_UP_AFTER: u32 = 3;

/// Evaluates checkpoints, or a model behind an endpoint, on the six test sets.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A checkpoint's folder or a hub id (ORG/NAME[@REVISION], feature `hub`), several times for
    /// several; with --endpoint, the model's name there.
    #[arg(
        long = "model",
        required_unless_present = "list",
        value_name = "DIR|NAME"
    )]
    models: Vec<String>,
    /// An OpenAI-compatible server; its key is read from OPENAI_API_KEY.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// `micro`, `hub`, or a folder with the data sets or with questions of your own (questions.jsonl).
    #[arg(long, default_value = "micro", value_name = "micro|hub|DIR")]
    data: String,
    /// The sets, comma-separated; without it, all six.
    #[arg(long, value_delimiter = ',')]
    sets: Vec<TestSet>,
    /// Only say which sets there are, with their size, where they are published, and who scores them.
    #[arg(long)]
    list: bool,
    /// At most this many questions of each set.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// This process' share of the questions. Shares may be asked at the same time into one
    /// --out; `iapo tables` shows them together.
    #[arg(long, value_name = "i/n", default_value = "1/1")]
    shard: Shard,
    /// The form of the table: terminal, markdown, csv, latex or json.
    #[arg(long, default_value = "terminal")]
    format: Format,
    /// Where records, manifests and completions go. What is there already is not asked again;
    /// what was not judged is judged again on the completion that is there.
    #[arg(long, default_value = "runs/eval-all", value_name = "DIR")]
    out: PathBuf,
    /// Judge the completions of this earlier --out, and ask only for those that are missing there.
    #[arg(long, value_name = "DIR")]
    completions: Option<PathBuf>,
    /// How often each question is asked, with other random numbers each time: accuracy is the mean, and
    /// pass@k is told. Needs a --temperature.
    #[arg(long, value_name = "N", default_value_t = 1)]
    epochs: u64,
    /// Temperature of sampling; 0 is greedy.
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f64,
    /// Sample from the smallest set of tokens with this probability together.
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// The judge's OpenAI-compatible server, for CharXiv; its key is read from JUDGE_API_KEY.
    #[arg(long, value_name = "URL", requires = "judge_model")]
    judge: Option<String>,
    /// The judge's model.
    #[arg(long, value_name = "NAME", requires = "judge")]
    judge_model: Option<String>,
    /// Let the judge decide on every set, not on CharXiv alone.
    #[arg(long, requires = "judge")]
    judge_all: bool,
    /// Longest completion of a turn, tokens.
    #[arg(long, default_value_t = 512)]
    max_new_tokens: u32,
    /// Where the model runs: `cpu`, `cuda` or `cuda:N`.
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: DeviceName,
    /// The type of its weights: `f32`, `bf16` or `f16`.
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    weights: WeightType,
    /// Requests in flight at an endpoint; questions at once for a checkpoint.
    #[arg(long, default_value_t = 8)]
    concurrency: usize,
    /// Seconds until one attempt at an endpoint counts as failed.
    #[arg(long, default_value_t = 120)]
    timeout: u64,
    /// Seconds without any completion, waits that a server asks for included, after which it is
    /// given up; what was answered is kept.
    #[arg(long, default_value_t = 900, value_name = "SECONDS")]
    max_wait: u64,
    /// What a million prompt tokens cost, for the record.
    #[arg(long, requires = "completion_price")]
    prompt_price: Option<f64>,
    /// What a million completion tokens cost.
    #[arg(long, requires = "prompt_price")]
    completion_price: Option<f64>,
    /// Stop when this command's requests have cost more; what was answered is kept.
    #[arg(long, requires = "prompt_price", value_name = "AMOUNT")]
    spending_limit: Option<f64>,
}

impl Args {
    /// How completions are decoded.
    fn decoding(&self) -> SamplingParameters {
        SamplingParameters {
            temperature: self.temperature,
            top_p: self.top_p,
            ..SamplingParameters::greedy(self.max_new_tokens)
        }
    }

    /// Refuses what contradicts itself.
    fn check(&self) -> anyhow::Result<()> {
        if self.endpoint.is_some() && self.models.len() > 1 {
            bail!("--endpoint takes one --model, found {}", self.models.len());
        }
        if self.concurrency == 0 {
            bail!("--concurrency must be at least 1");
        }
        if self.max_new_tokens == 0 {
            bail!("--max-new-tokens must be at least 1");
        }
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            bail!(
                "--temperature must be 0 or more, found {}",
                self.temperature
            );
        }
        let nucleus = self.top_p.filter(|mass| !(*mass > 0.0 && *mass <= 1.0));
        if let Some(mass) = nucleus {
            bail!("--top-p must lie above 0 and be at most 1, found {mass}");
        }
        if self.temperature == 0.0 && self.top_p.is_some() {
            bail!(
                "--top-p says how to sample, and --temperature 0 is greedy: give a --temperature"
            );
        }
        match self.epochs {
            0 => bail!("--epochs must be at least 1"),
            1 => {}
            n if self.temperature == 0.0 => {
                bail!(
                    "--epochs {n} would have the same greedy answer {n} times: give a --temperature"
                )
            }
            _ => {}
        }
        if let Some(limit) = self.spending_limit
            && !(limit.is_finite() && limit > 0.0)
        {
            bail!("--spending-limit must be above 0, found {limit}");
        }
        Ok(())
    }
}

/// What is shown of a table on a terminal, and what is to be known beside it.
fn shown(table: &Table, runs: &Runs, args: &Args) -> String {
    let mut text = table.for_terminal(width());
    let repeated = repeats_table(&repeats(runs));
    if !repeated.is_empty() {
        text += &format!("\nIn percent; each question was asked several times:\n{repeated}\n");
    }
    if args.shard.count() > 1 {
        text += &format!(
            "Share {} of {} alone: `iapo tables {}` shows all that are there.\n",
            args.shard.number(),
            args.shard.count(),
            args.out.display()
        );
    }
    text
}

/// Runs the command: records first, then the table of everything in `--out`, or of this share.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.list {
        print(&listing())?;
        return Ok(ExitCode::SUCCESS);
    }
    args.check()?;
    let arms = arms_of(&args.models)?;
    for arm in &arms {
        refuse_other_shares(&args.out, args.shard, arm)?;
    }
    let out = share_folder(&args.out, args.shard);
    let folders = match &args.endpoint {
        Some(_) => vec![None; args.models.len()],
        None => args
            .models
            .iter()
            .map(|model| super::checkpoint::resolve(model).map(Some))
            .collect::<anyhow::Result<Vec<Option<PathBuf>>>>()?,
    };
    let styles = folders
        .iter()
        .flatten()
        .map(|folder| EpisodeStyle::of_checkpoint(folder))
        .collect::<std::io::Result<Vec<_>>>()?;
    let data = Asked::open(&args, &styles)?;
    let judging = match (&args.judge, &args.judge_model) {
        (Some(url), Some(model)) => {
            let cache = Cache::open(out.join("judge.jsonl"))?;
            Some(Client::new(
                settings(&args, url, model),
                ApiKey::from_env(JUDGE_KEY),
                Some(cache),
            )?)
        }
        _ => None,
    };
    let judge = judging.as_ref().map(EndpointJudge::of_sets);
    let judge = judge.as_ref().map(|judge| judge as &dyn Judge);
    let scoring = match (data.data.rule(), judge) {
        (AnswerRule::Official, Some(judge)) if args.judge_all => Scoring::Judged(judge),
        (rule, charxiv) => Scoring::of(rule, charxiv),
    };

    signals::watch(
        OnSignal::AtOnce,
        format!(
            "what was answered is kept in {}: give the same command again",
            out.display()
        ),
    )?;
    let mut tally = Tally::default();
    for ((place, model), arm) in args.models.iter().enumerate().zip(&arms) {
        let local = folders.get(place).and_then(Option::as_ref);
        let style = data.style(styles.get(place).copied());
        let checkpoint = match local {
            Some(folder) => weights_hash(folder)?,
            None => model.clone(),
        };
        for epoch in 0..args.epochs {
            let folder = run_folder(&out, arm, epoch);
            let mut run = Evaluation::open(
                &args,
                &data,
                scoring,
                folder,
                (arm, epoch),
                (checkpoint.clone(), style),
            )?
            .after_spending(tally.spent());
            if let Some(judging) = &judging {
                run = run.watching("judge", judging);
            }
            if let Some(earlier) = &args.completions {
                let earlier = run_folder(&share_folder(earlier, args.shard), arm, epoch);
                take_completions(&earlier, run.folder())?;
            }
            let cache = Cache::open(run.folder().join(COMPLETIONS))?;
            if let Some(checkpoint_folder) = local {
                let compute = Compute::open(args.device, args.weights)?;
                let mut local =
                    LocalPolicy::load(checkpoint_folder, &compute, args.max_new_tokens as usize)?;
                local.temperature = args.temperature;
                local.top_p = args.top_p;
                // Other types of weights give other answers.
                let name = format!("{checkpoint} {}", compute.dtype.as_str());
                let mut policy = CachedPolicy::new(local, cache, name, args.decoding());
                // Encoded prompts of answered questions would fill the memory.
                let result = run.all(&mut policy, args.concurrency, |kept| {
                    kept.policy_mut().forget();
                });
                tally.add(run.finish(result)?);
            } else if let Some(url) = &args.endpoint {
                let client = Client::new(
                    settings(&args, url, model),
                    ApiKey::from_env(KEY),
                    Some(cache),
                )?;
                let mut run = run.watching("policy", &client);
                let mut policy = EndpointPolicy::new(&client, args.decoding());
                let result = run.all(&mut policy, 4 * args.concurrency, |_| ());
                tally.add(run.finish(result)?);
            }
        }
    }
    let runs = Runs::load(std::slice::from_ref(&out))?;
    let table = Table::committed(&runs)?;
    match args.format {
        Format::Terminal => print(&within(&shown(&table, &runs, &args)))?,
        format => print(&table.render(format))?,
    }
    if let Some((reason, questions)) = tally.nothing_judged() {
        let next = match reason == Reason::NeedsJudge.name() {
            true => "give a judge with --judge and --judge-model",
            false => "mend that, and give the same command again",
        };
        bail!(
            "none of {questions} questions has a verdict, most for this reason: {reason}; {next}: \
             completions are kept in {}",
            out.display()
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The sets that can be asked.
fn listing() -> String {
    let rows: Vec<Vec<String>> = TestSet::ALL
        .iter()
        .map(|set| {
            vec![
                set.name().to_owned(),
                set.published_size().to_string(),
                sources::published_in(*set).to_owned(),
                scorers::official_rule(*set).to_owned(),
            ]
        })
        .collect();
    let header = ["set", "questions", "published in", "official rule"];
    format!("{}\n", plain_table(&header, &rows))
}

/// Copies the completions of an earlier run to where a run that has none will look for them.
fn take_completions(earlier: &Path, folder: &Path) -> anyhow::Result<()> {
    let (from, to) = (earlier.join(COMPLETIONS), folder.join(COMPLETIONS));
    if to.exists() {
        return Ok(());
    }
    let completions = std::fs::read(&from).with_context(|| {
        format!(
            "--completions: cannot read {}; give an --out that eval-all wrote, with the same --model",
            from.display()
        )
    })?;
    Ok(results::write_atomically(&to, &completions)?)
}

/// Where a share of the questions is recorded. Shares may be evaluated at the same time, so each
/// has files of its own; together they are read as one run.
fn share_folder(out: &Path, shard: Shard) -> PathBuf {
    match shard.count() {
        1 => out.to_owned(),
        count => out.join(share_name(shard.number(), count)),
    }
}

/// Refuses an `--out` in which the same model was evaluated in other shares: some questions would
/// stand in its tables twice.
fn refuse_other_shares(out: &Path, shard: Shard, arm: &ArmName) -> anyhow::Result<()> {
    let mut shares = vec![(out.to_owned(), 1)];
    if out.is_dir() {
        let cannot = || format!("cannot list {}", out.display());
        for entry in std::fs::read_dir(out).with_context(cannot)? {
            let folder = entry.with_context(cannot)?.path();
            let name = folder.file_name().and_then(|name| name.to_str());
            let share = name.and_then(share_of);
            shares.extend(share.map(|(_, count)| (folder, count)));
        }
    }
    for (folder, count) in shares {
        if count != shard.count() && run_folder(&folder, arm, 0).join(RECORDS).is_file() {
            bail!(
                "{}: '{arm}' was evaluated there with --shard i/{count}, this is --shard {}/{}, and \
                 some questions would count twice; go on with --shard i/{count}, or name another --out",
                folder.display(),
                shard.number(),
                shard.count()
            );
        }
    }
    Ok(())
}

fn settings(args: &Args, url: &str, model: &str) -> Settings {
    Settings {
        concurrency: args.concurrency,
        timeout: Duration::from_secs(args.timeout),
        max_wait: Duration::from_secs(args.max_wait),
        prices: args
            .prompt_price
            .zip(args.completion_price)
            .map(|(prompt, completion)| Prices { prompt, completion }),
        give_up_after: Some(GIVE_UP_AFTER),
        ..Settings::new(url, model)
    }
}

/// The rows of models: the last name of each address, and those before it where two would be called alike.
fn arms_of(models: &[String]) -> anyhow::Result<Vec<ArmName>> {
    let mut names = vec![1; models.len()];
    loop {
        let arms = models
            .iter()
            .zip(&names)
            .map(|(model, &names)| arm_of(model, names))
            .collect::<anyhow::Result<Vec<ArmName>>>()?;
        let alike = |arm: &ArmName| arms.iter().filter(|other| *other == arm).count() > 1;
        let Some(arm) = arms.iter().find(|arm| alike(arm)) else {
            return Ok(arms);
        };
        let longest = models.iter().map(|model| parts(model).len()).max();
        if longest.is_none_or(|longest| names.iter().max() >= Some(&longest)) {
            bail!("two models would both be called '{arm}': rename a folder");
        }
        for (arm, names) in arms.iter().zip(&mut names) {
            *names += usize::from(alike(arm));
        }
    }
}

fn parts(model: &str) -> Vec<&str> {
    let parts = model.split('/');
    parts.filter(|part| !["", "."].contains(part)).collect()
}

/// A row's name from the last `names` of a folder or a model's name: `Qwen/Qwen2.5-VL-3B` is `qwen2-5-vl-3b`.
fn arm_of(model: &str, names: usize) -> anyhow::Result<ArmName> {
    let parts = parts(model);
    let last = parts[parts.len().saturating_sub(names)..].join("-");
    let name: String = last
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .collect();
    Ok(name.trim_matches('-').parse::<ArmName>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_of_one_folder_name_have_rows_that_differ() {
        let rows = |models: &[&str]| -> anyhow::Result<Vec<String>> {
            let models: Vec<String> = models.iter().map(|model| (*model).to_owned()).collect();
            let arms = arms_of(&models)?;
            Ok(arms.iter().map(|arm| arm.name().to_owned()).collect())
        };
        let alone = rows(&["Qwen/Qwen2.5-VL-3B", "./b/c/"]).unwrap();
        assert_eq!(alone, ["qwen2-5-vl-3b", "c"]);
        let two = rows(&["a/x/m", "b/x/m", "other"]).unwrap();
        assert_eq!(two, ["a-x-m", "b-x-m", "other"]);
        assert_eq!(rows(&["m", "b/m"]).unwrap(), ["m", "b-m"]);
        assert!(rows(&["m", "./m"]).is_err());
    }
}
