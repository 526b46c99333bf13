//! One server, asked by a bounded number of threads, each request until it has an answer or has
//! used up its attempts or its time.
//!
//! The wait before attempt k+1 is `first_wait · 2^(k-1)`, at most `longest_wait`, plus a jitter
//! drawn uniformly from (0, that); where the server says when to come back, that instead, for all
//! threads, plus the first wait's jitter so that they do not come back at once. A server that is
//! busy is there, so its refusals are not counted as attempts; what bounds them is `max_wait`, the
//! time without any completion.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use agent::Conversation;
use backon::{BackoffBuilder, ExponentialBuilder};

use crate::adaptations::Adaptations;
use crate::cache::{Cache, Cached};
use crate::error::Error;
use crate::key::ApiKey;
use crate::outage::Outage;
use crate::pause::{self, Pause};
use crate::request::{self, Outgoing, Reply, SamplingParameters};
use crate::settings::Settings;
use crate::transport::Transport;
use crate::usage::Usage;

/// Attempts for one request at a server that has never answered: a wrong address shows within
/// seconds, where one that answered before may be coming back.
const FIRST_ATTEMPTS: u32 = 3;

/// Attempts for one request whose answers are no completions: a server that is there and says
/// the same thing four times over a quarter of a minute will say it again.
const ANSWER_ATTEMPTS: u32 = 4;

/// A server, a key, a cache. Shared by reference between threads.
#[derive(Debug)]
pub struct Client {
    settings: Settings,
    transport: Transport,
    cache: Option<Cache>,
    pause: Pause,
    usage: Mutex<Usage>,
    outage: Outage,
    adaptations: Mutex<Adaptations>,
    /// Whether the server has ever answered, were it with an error.
    answered: AtomicBool,
}

impl Client {
    /// A client of the server at `settings.url`. Nothing is asked yet.
    ///
    /// # Errors
    /// [`Error::Setting`] for an address that is not http(s), no model, or no concurrency or
    /// attempts.
    pub fn new(
        settings: Settings,
        key: Option<ApiKey>,
        cache: Option<Cache>,
    ) -> Result<Self, Error> {
        Ok(Client {
            transport: Transport::new(&settings, key)?,
            cache,
            pause: Pause::default(),
            usage: Mutex::new(Usage {
                cost: settings.prices.map(|_| 0.0),
                ..Usage::default()
            }),
            outage: Outage::default(),
            adaptations: Mutex::default(),
            answered: AtomicBool::new(false),
            settings,
        })
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What it has done so far.
    pub fn usage(&self) -> Usage {
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it changed about its requests because the server refused them as they were. It belongs
    /// into the manifest of whatever is made of the completions.
    pub fn adaptations(&self) -> Adaptations {
        *self
            .adaptations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the server was given up ([`Settings::give_up_after`], [`Settings::max_wait`], an error
    /// that ends the run); `None` while it is not. From then on only the cache answers.
    pub fn given_up(&self) -> Option<String> {
        self.outage.given_up()
    }

    /// What the last failed attempt met: the reason of the retries that [`Client::usage`] counts.
    pub fn last_failure(&self) -> Option<String> {
        self.outage.last_failure()
    }

    /// Completions of all `requests`, in their order, a failed one as an error in its place.
    ///
    /// # Errors
    /// What ends the run ([`Error::ends_run`]): the rest is then not asked. Completions that came
    /// before are in the cache.
    pub fn chat_all(
        &self,
        requests: &[(&Conversation, SamplingParameters)],
    ) -> Result<Vec<Result<Reply, Error>>, Error> {
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let threads = self.settings.concurrency.min(requests.len());
        let mut answered: Vec<(usize, Result<Reply, Error>)> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| {
                        let mut answered = Vec::new();
                        loop {
                            let index = next.fetch_add(1, Ordering::Relaxed);
                            let Some((conversation, parameters)) = requests.get(index) else {
                                return answered;
                            };
                            let reply = if stop.load(Ordering::Relaxed) {
                                Err(Error::NotAsked)
                            } else {
                                self.chat(conversation, parameters)
                            };
                            if reply.as_ref().is_err_and(Error::ends_run) {
                                stop.store(true, Ordering::Relaxed);
                            }
                            answered.push((index, reply));
                        }
                    })
                })
                .collect();
            workers
                .into_iter()
                .flat_map(|worker| match worker.join() {
                    Ok(answered) => answered,
                    Err(panic) => std::panic::resume_unwind(panic),
                })
                .collect()
        });
        if let Some(place) = answered
            .iter()
            .position(|(_, reply)| reply.as_ref().is_err_and(Error::ends_run))
            && let (_, Err(error)) = answered.swap_remove(place)
        {
            return Err(error);
        }
        answered.sort_by_key(|(index, _)| *index);
        Ok(answered.into_iter().map(|(_, reply)| reply).collect())
    }

    /// One completion: from the cache, or from the server and then into the cache.
    ///
    /// # Errors
    /// [`Error::Exhausted`] when every attempt failed in a way that another might not have, the
    /// error itself where no further attempt could help.
    pub fn chat(
        &self,
        conversation: &Conversation,
        parameters: &SamplingParameters,
    ) -> Result<Reply, Error> {
        loop {
            let adaptations = self.adaptations();
            let key =
                request::adapted_key(&self.settings.model, conversation, parameters, adaptations);
            let kept = self.cache.as_ref().and_then(|cache| cache.get(&key));
            if let Some(completion) = kept.filter(Cached::ended_well) {
                self.count(|usage| usage.from_cache += 1);
                return Ok(Reply {
                    completion,
                    from_cache: true,
                });
            }
            if self.given_up().is_some() {
                return Err(Error::NotAsked);
            }
            let completion =
                Outgoing::new(&self.settings.model, conversation, parameters, adaptations)
                    .and_then(|outgoing| self.persist(&outgoing, &key, adaptations));
            let completion = match completion {
                Ok(Some(completion)) => completion,
                Ok(None) => continue,
                Err(error) => {
                    self.count(|usage| usage.failed += 1);
                    return Err(error);
                }
            };
            if let Some(cache) = &self.cache {
                cache.put(key, completion.clone())?;
            }
            self.count_completion(&completion);
            return Ok(Reply {
                completion,
                from_cache: false,
            });
        }
    }

    fn count_completion(&self, completion: &Cached) {
        self.count(|usage| {
            usage.completions += 1;
            match (completion.prompt_tokens, completion.completion_tokens) {
                (None, None) => usage.uncounted += 1,
                (prompt, completion) => {
                    let (prompt, completion) = (prompt.unwrap_or(0), completion.unwrap_or(0));
                    usage.prompt_tokens += prompt;
                    usage.completion_tokens += completion;
                    if let (Some(prices), Some(cost)) = (self.settings.prices, &mut usage.cost) {
                        *cost += (prompt as f64 * prices.prompt
                            + completion as f64 * prices.completion)
                            / 1e6;
                    }
                }
            }
        });
    }

    /// Attempts until one succeeds, cannot succeed, or was the last; `None` where the request has
    /// to be made anew, because the server takes it in another form than that of `adaptations`.
    fn persist(
        &self,
        outgoing: &Outgoing,
        key: &blake3::Hash,
        adaptations: Adaptations,
    ) -> Result<Option<Cached>, Error> {
        self.outage.begin();
        let reply = self.attempts(outgoing, key);
        if let Err(Error::ParameterRefused { parameter, .. }) = &reply
            && let Some(mended) = adaptations.mending(parameter)
        {
            let mut known = self
                .adaptations
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *known = known.and(mended);
            drop(known);
            self.outage.end(Some(&Error::NotAsked), None);
            return Ok(None);
        }
        self.outage
            .end(reply.as_ref().err(), self.settings.give_up_after);
        reply.map(Some)
    }

    fn attempts(&self, outgoing: &Outgoing, key: &blake3::Hash) -> Result<Cached, Error> {
        let settings = &self.settings;
        // Each request has a jitter of its own, the same in every run.
        let [a, b, c, d, e, f, g, h, ..] = *key.as_bytes();
        let mut waits = ExponentialBuilder::new()
            .with_min_delay(settings.first_wait)
            .with_max_delay(settings.longest_wait)
            .without_max_times()
            .with_jitter()
            .with_jitter_seed(settings.seed ^ u64::from_le_bytes([a, b, c, d, e, f, g, h]))
            .build();
        let mut wait = waits.next().unwrap_or(settings.first_wait);
        let jitter = wait.saturating_sub(settings.first_wait);
        let is_vain = || self.given_up().is_some();
        let (mut attempts, mut busy, mut of_answer) = (0, 0, 0);
        let mut first_failure = None;
        let mut last: Option<Error> = None;
        loop {
            self.pause.wait(is_vain);
            if is_vain() {
                return Err(match last {
                    Some(last) => Error::Exhausted {
                        attempts,
                        last: Box::new(last),
                    },
                    None => Error::NotAsked,
                });
            }
            attempts += 1;
            self.count(|usage| usage.requests += 1);
            let exchange = self.transport.exchange(
                &outgoing.body,
                &outgoing.parameters,
                self.outage.is_proven(),
            );
            self.answered
                .fetch_or(exchange.is_answered, Ordering::Relaxed);
            let error = match exchange.outcome {
                Ok(completion) => {
                    if let Some(wait) = exchange.used_up {
                        self.pause.extend_to(wait.min(settings.max_wait));
                    }
                    return Ok(completion);
                }
                Err(error) if !error.is_transient() => return Err(error),
                Err(error) => error,
            };
            let failing = self.outage.attempt_failed(&error);
            let begun = *first_failure.get_or_insert_with(Instant::now);
            busy += u32::from(error.is_busy());
            of_answer += u32::from(error.is_of_answer());
            let asked = error.retry_after();
            let next = asked.map_or(wait, |asked| asked.saturating_add(jitter));
            let never_there = matches!(error, Error::Unreachable { .. })
                && !self.answered.load(Ordering::Relaxed)
                && attempts >= FIRST_ATTEMPTS;
            let is_last =
                attempts - busy >= settings.attempts || of_answer >= ANSWER_ATTEMPTS || never_there;
            let asked_or_wait = asked.unwrap_or(next);
            let is_over = |spent: std::time::Duration| {
                spent.saturating_add(asked_or_wait) > settings.max_wait
            };
            if !is_last && is_over(failing) {
                self.outage.give_up(format!(
                    "no completion for {:.0} s, and {:.0} s more to wait, which is beyond the limit \
                     of {:.0} s (--max-wait): {error}",
                    failing.as_secs_f64(),
                    asked_or_wait.as_secs_f64(),
                    settings.max_wait.as_secs_f64(),
                ));
            }
            if is_last || is_over(begun.elapsed()) || is_vain() {
                return Err(Error::Exhausted {
                    attempts,
                    last: Box::new(error),
                });
            }
            if let Some(asked) = asked {
                self.pause.extend_to(asked);
            }
            // Counted before the wait, so that whoever watches sees what it is for.
            self.count(|usage| usage.retries += 1);
            last = Some(error);
            pause::sleep(next, is_vain);
            wait = waits.next().unwrap_or(settings.longest_wait);
        }
    }

    fn count(&self, change: impl FnOnce(&mut Usage)) {
        change(&mut self.usage.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
