//! `iapo score`: verdicts of the official rules on given predictions.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use benchmarks::TestSet;
use benchmarks::judge::{EndpointJudge, Rubric};
use benchmarks::predictions::{PredictionsError, ScoreSummary, Scorer, score_file, score_rows};
use benchmarks::scorers::{Crashes, ScoredSet};
use chat_endpoint::{ApiKey, Cache, Client, Settings};

use super::output::{Form, print};

/// The environment variable with the judge's key.
const KEY: &str = "OPENAI_API_KEY";

/// Rows in a row without a connection after which the judge's server is given up.
const GIVE_UP_AFTER: u32 = 3;

/// Scores predictions made elsewhere.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// charxiv, chartqa-h-bar, chartqa-v-bar, vwtq, vwtq-syn, vtabfact, or fintabnetqa.
    #[arg(long)]
    set: ScoredSet,
    /// JSONL with `gt` and `pred` (null for no prediction: wrong), `question` and CharXiv's `category`
    /// for judges; or a prediction file of TableVQA-Bench, or a grading file of CharXiv.
    #[arg(long, value_name = "FILE.jsonl")]
    predictions: PathBuf,
    /// The rule: the set's own, ChartQA's relaxed match, or a judge.
    #[arg(long, value_enum, default_value_t = Rule::Official)]
    scorer: Rule,
    /// Predictions that the official program cannot read (lists, objects, numbers, booleans) are
    /// wrong, as if its crash were a verdict; without it they are not judged.
    #[arg(long)]
    crash_is_wrong: bool,
    /// Where the rows go, each with `score` (1, 0, or null for not judged) and `reason`; without it
    /// to the standard output, and the accuracy to standard error.
    #[arg(long, value_name = "FILE.jsonl")]
    out: Option<PathBuf>,
    /// How the accuracy is told: `text`, or `json`: set, accuracy, interval and counts as one object.
    #[arg(long, value_enum, default_value_t = Form::Text)]
    format: Form,
    /// The judge's OpenAI-compatible server; its key is read from OPENAI_API_KEY.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// The judge's model; without it, the one that the authors of the set used.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Whose judge to follow; without it, that of the authors of the set.
    #[arg(long, value_enum)]
    rubric: Option<RubricName>,
    /// Keeps the judge's replies, so that a run that stopped asks only for the rest.
    #[arg(long, value_name = "FILE.jsonl")]
    cache: Option<PathBuf>,
    /// Seconds without any reply of the judge, waits that its server asks for included, after
    /// which it is given up; without it, a quarter of an hour.
    #[arg(long, value_name = "SECONDS")]
    max_wait: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Rule {
    Official,
    Relaxed,
    Judge,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum RubricName {
    Charxiv,
    RefocusChart,
    RefocusTable,
    VtoolV1,
    VtoolV2,
    VtoolV2Eval,
}

impl RubricName {
    fn rubric(self) -> Rubric {
        match self {
            RubricName::Charxiv => Rubric::CharXiv,
            RubricName::RefocusChart => Rubric::RefocusChart,
            RubricName::RefocusTable => Rubric::RefocusTable,
            RubricName::VtoolV1 => Rubric::VtoolV1,
            RubricName::VtoolV2 => Rubric::VtoolV2,
            RubricName::VtoolV2Eval => Rubric::VtoolV2Eval,
        }
    }
}

/// Scores the file, then prints accuracy, n, not judged and a 95 % interval.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let judge_only = [
        ("--endpoint", args.endpoint.is_some()),
        ("--model", args.model.is_some()),
        ("--rubric", args.rubric.is_some()),
        ("--cache", args.cache.is_some()),
        ("--max-wait", args.max_wait.is_some()),
    ];
    if args.crash_is_wrong && args.scorer != Rule::Official {
        bail!("--crash-is-wrong is for --scorer official");
    }
    if args.scorer != Rule::Judge
        && let Some((flag, _)) = judge_only.iter().find(|(_, given)| *given)
    {
        bail!("{flag} is for --scorer judge");
    }
    let summary = match args.scorer {
        Rule::Official => {
            let crashes = match args.crash_is_wrong {
                true => Crashes::Wrong,
                false => Crashes::NotJudged,
            };
            scored(&args, &Scorer::Official(crashes))?
        }
        Rule::Relaxed => scored(&args, &Scorer::Relaxed)?,
        Rule::Judge => judged(&args)?,
    };
    let report = match args.format {
        Form::Text => report(args.set, &summary),
        Form::Json => object(args.set, &summary)?,
    };
    match file(&args) {
        Some(_) => print(&report)?,
        None => eprint!("{report}"),
    }
    if summary.nothing_judged() {
        bail!(
            "none of {} rows of {} has a verdict: the reasons stand in the rows; mend that, and give \
             the same command again",
            summary.rows,
            args.predictions.display()
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The file that the rows go to, unless that is the standard output.
fn file(args: &Args) -> Option<&Path> {
    args.out
        .as_deref()
        .filter(|out| *out != Path::new("/dev/stdout"))
}

fn scored(args: &Args, scorer: &Scorer<'_>) -> Result<ScoreSummary, PredictionsError> {
    match file(args) {
        Some(out) => score_file(args.set, scorer, &args.predictions, out),
        None => {
            let name = Path::new("the standard output");
            let mut out = std::io::stdout();
            score_rows(args.set, scorer, &args.predictions, &mut out, name)
        }
    }
}

fn judged(args: &Args) -> anyhow::Result<ScoreSummary> {
    let ScoredSet::Set(set) = args.set else {
        bail!(
            "{} has no judge: use --scorer official or relaxed",
            args.set
        );
    };
    let rubric = args
        .rubric
        .map_or_else(|| Rubric::of_set(set), RubricName::rubric);
    let Some(endpoint) = &args.endpoint else {
        bail!(
            "--scorer judge needs --endpoint URL, an OpenAI-compatible server, and --model NAME where the model differs from that of the authors"
        );
    };
    let model = args.model.as_deref().unwrap_or(rubric.settings().model);
    let cache = args
        .cache
        .as_ref()
        .map(|path| {
            Cache::open(path).with_context(|| format!("the judge's cache {}", path.display()))
        })
        .transpose()?;
    let mut settings = Settings::new(endpoint, model);
    settings.give_up_after = Some(GIVE_UP_AFTER);
    if let Some(seconds) = args.max_wait {
        settings.max_wait = Duration::from_secs(seconds);
    }
    let client = Client::new(settings, ApiKey::from_env(KEY), cache)?;
    let judge = EndpointJudge::with_rubric(&client, rubric);
    let summary = scored(args, &Scorer::Judge(&judge, rubric))?;
    for sentence in client.adaptations().sentences() {
        eprintln!("judge: {sentence}");
    }
    Ok(summary)
}

/// A summary as one object: its fields, the set, accuracy and interval as shares of 1, null without a
/// verdict.
fn object(set: ScoredSet, summary: &ScoreSummary) -> anyhow::Result<String> {
    let mut object = serde_json::to_value(summary)?;
    object["set"] = set.to_string().into();
    object["accuracy"] = summary.accuracy().into();
    object["interval"] = serde_json::to_value(summary.interval())?;
    Ok(format!("{object:#}\n"))
}

/// What is printed of a summary.
fn report(set: ScoredSet, summary: &ScoreSummary) -> String {
    let mut text = match (summary.accuracy(), summary.interval()) {
        (Some(accuracy), Some((low, high))) => format!(
            "{set}: accuracy {:.2} % (95 % interval {:.2} to {:.2}, Wilson), {} right of n = {}",
            100.0 * accuracy,
            100.0 * low,
            100.0 * high,
            summary.right,
            summary.n,
        ),
        _ => format!("{set}: no row has a verdict, so there is no accuracy (n = 0)"),
    };
    text += &format!(", not judged {}", summary.not_judged);
    if set == ScoredSet::Set(TestSet::VTabFact) && summary.not_judged > 0 {
        text += " (a row that says both true and false counts in n, as in the official accuracy)";
    }
    text.push('\n');
    if let (Some(right), 1..) = (summary.right_years_exact, summary.n) {
        text += &format!(
            "  with years exact: accuracy {:.2} %, {right} right\n",
            100.0 * right as f64 / summary.n as f64
        );
    }
    for (reason, count) in &summary.reasons {
        text += &format!("  {reason}: {count}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn parsed(arguments: &str) -> Args {
        let command = Command::try_parse_from(["score"].into_iter().chain(arguments.split(' ')));
        command.unwrap_or_else(|error| panic!("{error}")).args
    }

    #[test]
    fn a_file_is_scored_and_reported() {
        let folder = tempfile::tempdir().expect("a folder");
        let (given, out) = (
            folder.path().join("in.jsonl"),
            folder.path().join("out.jsonl"),
        );
        std::fs::write(
            &given,
            "{\"gt\":1,\"pred\":\"true\"}\n{\"gt\":0,\"pred\":\"true and false\"}\n",
        )
        .expect("written");
        let flags = format!(
            "--set vtabfact --predictions {} --out {}",
            given.display(),
            out.display()
        );
        run(parsed(&flags)).expect("scored");
        let summary = score_file(
            parsed(&flags).set,
            &Scorer::Official(Crashes::NotJudged),
            &given,
            &out,
        )
        .expect("scored");
        let object: serde_json::Value =
            serde_json::from_str(&object(parsed(&flags).set, &summary).expect("told"))
                .expect("an object");
        assert_eq!(object["accuracy"], 0.5);
        assert_eq!(object["reasons"]["both_labels"], 1);
        insta::assert_snapshot!(report(parsed(&flags).set, &summary), @r"
        vtabfact: accuracy 50.00 % (95 % interval 9.45 to 90.55, Wilson), 1 right of n = 2, not judged 1 (a row that says both true and false counts in n, as in the official accuracy)
          both_labels: 1
          equal: 1
        ");
    }

    #[test]
    fn flags_that_do_not_fit_are_refused() {
        let base = "--predictions a.jsonl --out b.jsonl --set";
        for (flags, expected) in [
            (
                format!("{base} vwtq --cache c"),
                "--cache is for --scorer judge",
            ),
            (format!("{base} charxiv --scorer judge"), "needs --endpoint"),
            (format!("{base} fintabnetqa --scorer judge"), "has no judge"),
            (
                format!("{base} vwtq"),
                "cannot read the predictions a.jsonl",
            ),
        ] {
            let message = format!("{:#}", run(parsed(&flags)).expect_err("refused"));
            assert!(message.contains(expected), "{message}");
        }
        let unknown = Command::try_parse_from("score --set wtq --predictions a --out b".split(' '));
        assert!(unknown.is_err_and(|error| error.to_string().contains("unknown test set 'wtq'")));
    }
}
