//! `iapo eval-all`: checkpoints or endpoints on the six test sets, a record a question.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use agent::{EpisodeOptions, ObservationMode, Policy, PromptStyle};
use anyhow::{Context, bail};
use benchmarks::endpoint::{ApiKey, Cache, Client, EndpointPolicy, Parameters, Prices, Settings};
use benchmarks::evaluation::{Answered, Scoring, Shard, answer};
use benchmarks::judge::{EndpointJudge, Judge};
use benchmarks::micro::{Split, question};
use benchmarks::sources::{self, LoadedSet};
use benchmarks::{Question, TestSet, Verdict, scorers};
use replicate::compute::{Compute, DeviceName, WeightType};
use replicate::policy::LocalPolicy;
use replicate::profile::{Profile, World};
use replicate::progress::Progress;
use replicate::provenance;
use results::{
    Appender, Arm, Format, MANIFEST, Manifest, Paper, RECORDS, Record, Runs, Table, TableOptions,
    peak_memory_bytes, read_json, read_lines, run_folder, write_json, write_lines,
};
use visual_tools::Style;

/// The environment variables with the keys.
const KEY: &str = "OPENAI_API_KEY";
const JUDGE_KEY: &str = "JUDGE_API_KEY";

/// Evaluates checkpoints, or a model behind an endpoint, on the six test sets.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A checkpoint's folder, several times for several; with --endpoint, the model's name there.
    #[arg(long = "model", required = true, value_name = "DIR|NAME")]
    models: Vec<String>,
    /// An OpenAI-compatible server; its key is read from OPENAI_API_KEY.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// `micro`, `hub`, or a folder with the data sets.
    #[arg(long, default_value = "micro", value_name = "micro|hub|DIR")]
    data: String,
    /// The sets, comma-separated; without it, all six.
    #[arg(long, value_delimiter = ',')]
    sets: Vec<TestSet>,
    /// At most this many questions of each set.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// This machine's share of the questions.
    #[arg(long, value_name = "i/n", default_value = "1/1")]
    shard: Shard,
    /// Where records, manifests and the caches of endpoints go. What is there already is not
    /// asked again, unless it was not judged.
    #[arg(long, default_value = "runs/eval-all", value_name = "DIR")]
    out: PathBuf,
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
    /// What a million prompt tokens cost, for the record.
    #[arg(long, requires = "completion_price")]
    prompt_price: Option<f64>,
    /// What a million completion tokens cost.
    #[arg(long, requires = "prompt_price")]
    completion_price: Option<f64>,
}

/// Runs the command: records first, then the table of everything in `--out`.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.endpoint.is_some() && args.models.len() > 1 {
        bail!("--endpoint takes one --model, found {}", args.models.len());
    }
    if args.concurrency == 0 {
        bail!("--concurrency must be at least 1");
    }
    let arms = args
        .models
        .iter()
        .map(|model| arm_of(model))
        .collect::<anyhow::Result<Vec<Arm>>>()?;
    if let Some(arm) = (1..arms.len()).find_map(|i| arms[..i].contains(&arms[i]).then(|| &arms[i]))
    {
        bail!("two models would both be called '{arm}': rename a folder");
    }
    let data = Data::open(&args)?;
    let judging = match (&args.judge, &args.judge_model) {
        (Some(url), Some(model)) => {
            let cache = Cache::open(args.out.join("judge.jsonl"))?;
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
    let scoring = match judge {
        _ if matches!(data, Data::Micro(_)) => Scoring::Exact,
        Some(judge) if args.judge_all => Scoring::Judged(judge),
        charxiv => Scoring::Official { charxiv },
    };

    for (model, arm) in args.models.iter().zip(&arms) {
        let run = Evaluation::open(&args, &data, arm)?;
        if let Some(url) = &args.endpoint {
            let cache = Cache::open(run.folder.join("completions.jsonl"))?;
            let client = Client::new(
                settings(&args, url, model),
                ApiKey::from_env(KEY),
                Some(cache),
            )?;
            let mut policy = EndpointPolicy::new(&client, Parameters::greedy(args.max_new_tokens));
            let mut run = run.of_checkpoint(model.clone())?;
            let result = run.all(&mut policy, scoring, 4 * args.concurrency, |_| ());
            run.count_usage("policy", &client);
            if let Some(judging) = &judging {
                run.count_usage("judge", judging);
            }
            run.finish(result)?;
        } else {
            let folder = Path::new(model);
            if !folder.is_dir() {
                bail!(
                    "--model {model}: no such folder; download the checkpoint first \
                     (`hf download {model} --local-dir DIR`), or name its server with --endpoint"
                );
            }
            let mut run = run.of_checkpoint(checkpoint_hash(folder)?)?;
            let compute = Compute::open(args.device, args.weights)?;
            let mut policy = LocalPolicy::load(folder, &compute, args.max_new_tokens as usize)?;
            // Encoded prompts of answered questions would fill the memory.
            let result = run.all(&mut policy, scoring, args.concurrency, LocalPolicy::forget);
            run.finish(result)?;
        }
    }
    let runs = Runs::load(std::slice::from_ref(&args.out))?;
    let table = Table::new(&runs, &Paper::committed()?, &TableOptions::default());
    print!("{}", table.render(Format::Terminal));
    Ok(ExitCode::SUCCESS)
}

fn settings(args: &Args, url: &str, model: &str) -> Settings {
    Settings {
        concurrency: args.concurrency,
        timeout: Duration::from_secs(args.timeout),
        prices: args
            .prompt_price
            .zip(args.completion_price)
            .map(|(prompt, completion)| Prices { prompt, completion }),
        ..Settings::new(url, model)
    }
}

/// A row's name from a folder or a model's name: `Qwen/Qwen2.5-VL-3B` is `qwen2-5-vl-3b`.
fn arm_of(model: &str) -> anyhow::Result<Arm> {
    let last = model
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or(model);
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
    Ok(name.trim_matches('-').parse::<Arm>()?)
}

/// BLAKE3 over the weight files of a checkpoint, in the order of their names.
fn checkpoint_hash(folder: &Path) -> anyhow::Result<String> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|file| {
            file.extension()
                .is_some_and(|extension| extension == "safetensors")
        })
        .collect();
    files.sort();
    if files.is_empty() {
        bail!("{}: no *.safetensors, so no checkpoint", folder.display());
    }
    let mut hasher = blake3::Hasher::new();
    for file in files {
        let opened = std::fs::File::open(&file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        hasher
            .update_reader(opened)
            .with_context(|| format!("cannot read {}", file.display()))?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Where the questions come from.
enum Data {
    Micro(Box<Micro>),
    Loaded(Vec<LoadedSet>),
}

struct Micro {
    world: World,
    sets: Vec<TestSet>,
    questions: usize,
}

impl Data {
    fn open(args: &Args) -> anyhow::Result<Self> {
        let mut sets = args.sets.clone();
        if sets.is_empty() {
            sets.extend(TestSet::ALL);
        }
        sets.sort();
        sets.dedup();
        if args.data == "micro" {
            let profile = Profile::load("micro", &[])?;
            return Ok(Data::Micro(Box::new(Micro {
                questions: profile.evaluation.questions,
                world: profile.world,
                sets,
            })));
        }
        let folder = match args.data.as_str() {
            "hub" => PathBuf::from("hub-data"),
            folder => PathBuf::from(folder),
        };
        let mut loaded = Vec::new();
        for set in sets {
            if args.data == "hub" {
                sources::download(set, &folder)?;
            }
            let set = sources::load(&folder, set)?;
            let report = set.report();
            eprintln!(
                "{}: {} of {} questions ({} in {}, {} without an image)",
                report.set,
                report.questions,
                report.official,
                report.rows,
                report.files.join(", "),
                report.without_image.len(),
            );
            loaded.push(set);
        }
        if loaded.iter().all(LoadedSet::is_empty) {
            bail!(
                "{}: none of these sets has a question with an image",
                folder.display()
            );
        }
        Ok(Data::Loaded(loaded))
    }

    fn sets(&self) -> Vec<(TestSet, usize)> {
        match self {
            Data::Micro(micro) => micro
                .sets
                .iter()
                .map(|set| (*set, micro.questions))
                .collect(),
            Data::Loaded(sets) => sets
                .iter()
                .map(|set| (set.report().set, set.len()))
                .collect(),
        }
    }

    fn question(&self, set: TestSet, index: usize) -> anyhow::Result<Question> {
        match self {
            Data::Micro(micro) => {
                let stream = seeded_random::Stream::new(micro.world.seed);
                let difficulty = &micro.world.difficulty;
                Ok(question(set, Split::Test, difficulty, &stream, index as u64).question)
            }
            Data::Loaded(sets) => sets
                .iter()
                .find(|loaded| loaded.report().set == set)
                .and_then(|loaded| loaded.question(index))
                .context("a question beyond the last of its set")?
                .map_err(Into::into),
        }
    }

    fn episodes(&self) -> EpisodeOptions {
        match self {
            Data::Micro(_) => replicate::evaluation::episode_options(),
            Data::Loaded(_) => EpisodeOptions {
                prompt: PromptStyle::Vtool,
                observation: ObservationMode::Append,
                tools: Style::refocus(),
            },
        }
    }
}

/// One model's records, as they grow.
struct Evaluation<'a> {
    args: &'a Args,
    data: &'a Data,
    folder: PathBuf,
    manifest: Manifest,
    known: Vec<Record>,
    started: Instant,
}

impl<'a> Evaluation<'a> {
    /// Opens the run's folder and keeps the verdicts that are in it.
    fn open(args: &'a Args, data: &'a Data, arm: &Arm) -> anyhow::Result<Self> {
        let folder = run_folder(&args.out, arm, 0);
        // What shapes an answer or its verdict; not which questions are asked.
        let resolved = serde_json::json!({
            "data": args.data,
            "max_new_tokens": args.max_new_tokens,
            "judge": args.judge_model,
            "judge_all": args.judge_all,
        });
        let profile = results::Profile {
            name: "eval-all".to_owned(),
            hash: blake3::hash(resolved.to_string().as_bytes())
                .to_hex()
                .to_string(),
            resolved,
        };
        let mut manifest = Manifest::new(arm.clone(), 0, profile);
        manifest.commit = provenance::commit();
        manifest.versions = provenance::versions();
        let mut known = Vec::new();
        if folder.join(MANIFEST).is_file() {
            let before: Manifest = read_json(&folder.join(MANIFEST))?;
            if before.profile.hash != manifest.profile.hash {
                bail!(
                    "{}: made with {}, this run has {}; name another --out",
                    folder.display(),
                    before.profile.resolved,
                    manifest.profile.resolved
                );
            }
            manifest.checkpoints = before.checkpoints;
            manifest.seconds = before.seconds;
            manifest.counts = before.counts;
        }
        let records = folder.join(RECORDS);
        if records.is_file() {
            // A line that a kill cut off is dropped; what was not judged is asked again.
            let lines = std::fs::read(&records)?
                .iter()
                .filter(|byte| **byte == b'\n')
                .count();
            drop(Appender::open::<Record>(&records, lines)?);
            known = read_lines(&records)?;
            known.retain(|record: &Record| record.verdict != results::Verdict::NotJudged);
        }
        Ok(Evaluation {
            args,
            data,
            folder,
            manifest,
            known,
            started: Instant::now(),
        })
    }

    /// Names the checkpoint; records of another are refused.
    fn of_checkpoint(mut self, hash: String) -> anyhow::Result<Self> {
        match self.manifest.checkpoints.get("final") {
            Some(before) if *before != hash => bail!(
                "{}: holds records of the checkpoint {before}, this one is {hash}; name another --out",
                self.folder.display()
            ),
            _ => self.manifest.checkpoints.insert("final".to_owned(), hash),
        };
        Ok(self)
    }

    /// Asks what is not known yet, set by set.
    fn all<P: Policy>(
        &mut self,
        policy: &mut P,
        scoring: Scoring<'_>,
        batch: usize,
        after_batch: fn(&mut P),
    ) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot make {}", self.folder.display()))?;
        write_json(&self.folder.join(MANIFEST), &self.manifest)?;
        let records = self.folder.join(RECORDS);
        write_lines(&records, &self.known)?;
        let (mut records, _) = Appender::open::<Record>(&records, self.known.len())?;
        let options = self.data.episodes();
        let mut progress = Progress::new();
        for (set, size) in self.data.sets() {
            let known: HashSet<&str> = self
                .known
                .iter()
                .filter(|record| record.set == set.name())
                .map(|record| record.qa_id.as_str())
                .collect();
            let wanted: Vec<usize> = (0..self.args.limit.map_or(size, |limit| limit.min(size)))
                .filter(|position| self.args.shard.holds(*position))
                .collect();
            let (mut done, mut right, mut open) = (0, 0, 0);
            for positions in wanted.chunks(batch) {
                let mut questions = Vec::with_capacity(positions.len());
                for position in positions {
                    let question = self.data.question(set, *position)?;
                    if !known.contains(question.id.as_str()) {
                        questions.push(question);
                    }
                }
                let asked: Vec<(&Question, u64)> =
                    questions.iter().map(|question| (question, 0)).collect();
                for (question, answered) in questions
                    .iter()
                    .zip(answer(policy, &asked, &options, scoring)?)
                {
                    right += usize::from(answered.verdict == Verdict::Right);
                    open += usize::from(answered.verdict == Verdict::NotJudged);
                    records.append(&self.record(question, answered))?;
                }
                after_batch(policy);
                done += positions.len();
                let figures = format!("{right} right, {open} not judged");
                progress.report(set.name(), done, wanted.len(), &figures);
            }
            self.manifest
                .questions
                .insert(set.name().to_owned(), wanted.len() as u64);
        }
        records.sync()?;
        Ok(())
    }

    fn record(&self, question: &Question, answered: Answered) -> Record {
        let judged_by = match (&self.args.judge_model, question.set) {
            (Some(judge), set) if self.args.judge_all || set == TestSet::CharXiv => {
                Some(format!("judge {judge}"))
            }
            _ => None,
        };
        let micro = matches!(self.data, Data::Micro(_));
        Record {
            set: question.set.name().to_owned(),
            qa_id: question.id.clone(),
            image_id: question.image_id.clone(),
            arm: self.manifest.arm.clone(),
            seed: 0,
            prediction: answered.prediction.unwrap_or_default(),
            gt: question.gold.clone(),
            verdict: match answered.verdict {
                Verdict::Right => results::Verdict::Right,
                Verdict::Wrong => results::Verdict::Wrong,
                Verdict::NotJudged => results::Verdict::NotJudged,
            },
            reason: None,
            tool_called: answered.tool_called,
            tool_succeeded: answered.tool_succeeded,
            attribution: None,
            checkpoint: self
                .manifest
                .checkpoints
                .get("final")
                .cloned()
                .unwrap_or_default(),
            scorer: match judged_by {
                _ if micro => "exact".to_owned(),
                Some(judge) => judge,
                None => "official".to_owned(),
            },
            scorer_version: scorers::VERSION.to_string(),
        }
    }

    /// Adds what a client did to the manifest's counts, and shows it.
    fn count_usage(&mut self, role: &str, client: &Client) {
        let usage = client.usage();
        eprintln!("{role}: {usage:?}");
        for (name, value) in [
            ("completions", usage.completions),
            ("failed", usage.failed),
            ("retries", usage.retries),
            ("prompt_tokens", usage.prompt_tokens),
            ("completion_tokens", usage.completion_tokens),
        ] {
            *self
                .manifest
                .counts
                .entry(format!("{role}_{name}"))
                .or_default() += value;
        }
    }

    /// Writes the manifest, also of a run that ended early, and passes its end on.
    fn finish(mut self, result: anyhow::Result<()>) -> anyhow::Result<()> {
        if let Data::Loaded(sets) = self.data {
            for report in sets.iter().map(LoadedSet::report) {
                for (name, count) in [
                    ("without_image", report.without_image.len()),
                    ("boxes_inverted", report.boxes.inverted),
                    ("boxes_clipped", report.boxes.clipped),
                    ("boxes_dropped", report.boxes.dropped),
                    ("figures_without_boxes", report.boxes.figures_without_boxes),
                    ("duplicate_labels", report.duplicate_labels),
                    ("labels_with_markup", report.labels_with_markup),
                    ("list_answers", report.list_answers),
                ] {
                    let key = format!("{}_{name}", report.set);
                    self.manifest.counts.insert(key, count as u64);
                }
                write_json(
                    &self.folder.join(format!("load-{}.json", report.set)),
                    report,
                )?;
            }
        }
        *self
            .manifest
            .seconds
            .entry("evaluation".to_owned())
            .or_default() += self.started.elapsed().as_secs_f64();
        self.manifest.peak_memory_bytes = peak_memory_bytes();
        write_json(&self.folder.join(MANIFEST), &self.manifest)?;
        result
    }
}
