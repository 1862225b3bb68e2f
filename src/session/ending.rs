//! The end of a run: the verdict, the spans still open, and the sums.

use opentelemetry::{Array, StringValue, Value};
use sandtrace_client::failure::{Evidence, Failure};
use sandtrace_client::wire::{AgentExited, Exit, Outcome, RunFinished, Survivor, Telemetry};

use super::failure::{Ending, Facts, Intent, SpawnFailure, classify};
use super::semconv::key;
use super::span::SpanStatus;
use super::tree::Closing;
use super::{Action, Effects, Session, int, millis};
use crate::process::exit::{Termination, signal_name};
use crate::time::Now;

impl Session {
    /// Everything is over: reaches the verdict and closes what is open.
    pub(super) fn finish(&mut self, now: Now, effects: &mut Effects) {
        let exited = self.finish_spans(now, effects);
        effects.actions.push(Action::Finish(Box::new(exited)));
    }

    /// Reaches the verdict once, and closes every span with it.
    pub(super) fn finish_spans(&mut self, now: Now, effects: &mut Effects) -> AgentExited {
        if let Some(verdict) = &self.verdict {
            return verdict.clone();
        }
        if self.ended <= self.started {
            self.ended = now.wall;
        }
        let verdict = self.reach_verdict();
        self.verdict = Some(verdict.clone());
        self.phases.tools_ms = self.tools.busy_ms(self.exit_uptime.unwrap_or(now.uptime));
        self.phases.paused_ms = self.life.paused_ms();
        self.close_all(effects);
        self.describe_run(&verdict);
        self.tree
            .close(self.root, self.ended, Closing::Finished, &mut effects.spans);
        // Lines of the drain come after the exit, and the run's span holds theirs.
        if let Some(root) = effects.spans.closed.last() {
            self.ended = root.end;
        }
        verdict
    }

    fn reach_verdict(&mut self) -> AgentExited {
        let intent = self.stop.intent();
        let (outcome, mut failure, exit) = self.judge(|facts| {
            let (outcome, failure) = classify(facts);
            (outcome, failure, exit_of(facts.ending, intent, outcome))
        });
        if let Some(failure) = &mut failure {
            self.recall_pause(failure);
        }
        self.exit = exit;
        AgentExited {
            outcome,
            failure,
            exit: self.exit.clone(),
        }
    }

    /// Shows the facts as they are now to a `judge`.
    pub(super) fn judge<T>(&self, judge: impl FnOnce(&Facts<'_>) -> T) -> T {
        let ending = match (&self.spawn_failure, self.stop.termination()) {
            (Some((failure, message)), _) => Ending::NotSpawned {
                failure: *failure,
                message: message.clone(),
            },
            (None, Some(termination)) => Ending::Terminated(termination),
            // The supervisor leaves, after a third signal or because KILL has no effect.
            (None, None) => Ending::StillRunning {
                signal: self.stop.last_signal().unwrap_or(nix::libc::SIGKILL),
            },
        };
        judge(&Facts {
            intent: self.stop.intent(),
            ending: &ending,
            result: self.last_result.as_ref(),
            api_error: self.result_error.as_ref(),
            stderr: &self.stderr,
            memory: &self.memory,
            network: &self.network,
            agent_error: self.agent_error.as_deref(),
            saw_event: self.counts.events > 0,
            turn_open: self.turns.iter().any(super::turns::Turn::awaits_result),
        })
    }

    fn close_all(&mut self, effects: &mut Effects) {
        let changes = &mut effects.spans;
        let retries = self.orphan_retries();
        let turn = self.current_span();
        if let Some(span) = self.tree.get_mut(turn) {
            for retry in retries {
                span.event(retry);
            }
        }
        let below = self.tree.all_below_root();
        for lane in self.lanes.keys() {
            self.close_chat(lane.as_deref(), Closing::Abandoned, changes);
        }
        self.settle_approvals(&below, changes);
        self.open_unassigned_wait(changes);
        self.tree.abandon_all(self.ended, changes);
    }

    /// The run's span carries the verdict and the sums.
    fn describe_run(&mut self, verdict: &AgentExited) {
        let usage = self.ledger.usage();
        let cost = self.ledger.cost();
        let (phases, peaks, counts) = (self.phases, self.peaks.clone(), self.counts);
        let ratio = self.cache_hit_ratio();
        let (message, evidence) = verdict
            .failure
            .as_ref()
            .map(|failure| {
                (
                    self.words_for_span(&failure.kind, &failure.message),
                    self.evidence_for_span(failure),
                )
            })
            .unwrap_or_default();
        let Some(span) = self.tree.get_mut(self.root) else {
            return;
        };
        span.set(key::OUTCOME, verdict.outcome.as_str());
        if let Some(exit) = &verdict.exit {
            span.set_opt(key::PROCESS_EXIT_CODE, exit.code.map(i64::from));
            span.set_opt(key::EXIT_SIGNAL, exit.signal.clone());
        }
        if let Some(failure) = &verdict.failure {
            span.set(key::ERROR_TYPE, failure.kind.to_string());
            span.set(key::FAILURE_CLASS, failure.kind.class().to_owned());
            span.set_opt(
                key::FAILURE_REASON,
                failure.kind.reason().map(str::to_owned),
            );
            span.set(key::FAILURE_CONFIDENCE, failure.confidence);
            let facts = evidence;
            span.set(key::FAILURE_EVIDENCE, Value::Array(Array::String(facts)));
            // A cancelled run did what it was told; that is no error of the agent.
            if verdict.outcome == Outcome::Failure {
                span.status = SpanStatus::Error {
                    message: message.into(),
                };
            }
        }
        span.set(key::USAGE_INPUT, int(usage.input_tokens));
        span.set(key::USAGE_OUTPUT, int(usage.output_tokens));
        span.set(key::USAGE_CACHE_READ, int(usage.cache_read_input_tokens));
        span.set(
            key::USAGE_CACHE_CREATION,
            int(usage.cache_creation_input_tokens),
        );
        if usage.incomplete_calls > 0 {
            span.set(key::USAGE_INCOMPLETE_CALLS, int(usage.incomplete_calls));
        }
        span.set_opt(key::CACHE_HIT_RATIO, ratio);
        if let Some(cost) = cost {
            span.set(key::COST_USD, cost.usd);
            span.set(key::COST_SOURCE, cost.source);
        }
        span.set(key::TURNS, int(counts.turns));
        span.set(key::CHATS, int(counts.chats));
        span.set(key::TOOLS, int(counts.tools));
        span.set(key::SUBAGENTS, int(counts.subagents));
        span.set(key::RETRIES, int(counts.retries));
        span.set_opt(key::PHASE_SPAWN_MS, phases.spawn_ms);
        span.set_opt(key::PHASE_FIRST_LINE_MS, phases.first_line_ms);
        span.set_opt(key::PHASE_FIRST_TOKEN_MS, phases.first_token_ms);
        span.set_opt(key::PHASE_TOOLS_MS, phases.tools_ms);
        span.set_opt(key::PHASE_RESULT_MS, phases.result_ms);
        span.set_opt(key::PHASE_EXIT_MS, phases.exit_ms);
        span.set_opt(key::PHASE_PAUSED_MS, phases.paused_ms);
        if peaks.samples > 0 {
            span.set(key::PEAK_CPU, peaks.cpu_utilization_max);
            span.set(key::PEAK_MEMORY, int(peaks.memory_used_bytes_max));
        }
        if peaks.tree_processes_max > 0 {
            span.set(key::TREE_CPU_SECONDS, peaks.tree_cpu_seconds);
            span.set(key::TREE_MEMORY_PEAK, int(peaks.tree_rss_bytes_max));
            span.set(key::TREE_PROCESSES_PEAK, int(peaks.tree_processes_max));
            span.set_opt(
                key::LARGEST_PROCESS,
                peaks.largest_process.map(|it| it.command),
            );
            span.set_opt(
                key::LARGEST_TOOL,
                peaks.largest_tool.map(|it| it.tool_use_id),
            );
        }
    }

    /// Evidence that quotes somebody goes to a backend only as far as `--capture` allows; on the wire it is whole.
    fn evidence_for_span(&self, failure: &Failure) -> Vec<StringValue> {
        let clip = |item: &Evidence| match item.source.as_str() {
            "message" | "stderr" | "stream" => self.config.capture.clip(&item.fact),
            _ => Some(item.fact.clone()),
        };
        let facts = failure.evidence.iter();
        facts
            .filter_map(|item| Some(format!("{}: {}", item.source, clip(item)?).into()))
            .collect()
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a ratio of token counts needs no 53 bits"
    )]
    fn cache_hit_ratio(&self) -> Option<f64> {
        let usage = self.ledger.usage();
        (usage.input_tokens > 0)
            .then(|| usage.cache_read_input_tokens as f64 / usage.input_tokens as f64)
    }

    /// The data of `sandtrace.run.finished`; `None` before the verdict.
    #[must_use]
    pub fn run_finished(
        &self,
        telemetry: Telemetry,
        survivors: Vec<Survivor>,
    ) -> Option<RunFinished> {
        let verdict = self.verdict.as_ref()?;
        Some(RunFinished {
            outcome: verdict.outcome,
            failure: verdict.failure.clone(),
            exit: verdict.exit.clone(),
            duration_ms: millis(self.ended.since(self.started)),
            usage: self.ledger.usage(),
            cost: self.ledger.cost(),
            cache_hit_ratio: self.cache_hit_ratio(),
            phases: self.phases,
            counts: self.counts,
            resources: (self.peaks.samples > 0).then(|| self.peaks.clone()),
            telemetry,
            survivors,
        })
    }

    /// Spans that were closed.
    #[must_use]
    pub fn finished_spans(&self) -> u64 {
        self.tree.finished
    }
}

/// The wait status, and the code that the supervisor exits with (DESIGN §3).
fn exit_of(ending: &Ending, intent: Option<Intent>, outcome: Outcome) -> Option<Exit> {
    let termination = match ending {
        Ending::Terminated(termination) => termination,
        Ending::StillRunning { signal } => {
            let reported_code = u8::try_from(128 + signal).unwrap_or(u8::MAX);
            return Some(no_status(reported_code));
        }
        Ending::NotSpawned { failure, .. } => {
            return Some(no_status(match failure {
                SpawnFailure::NotFound => 127,
                SpawnFailure::NotExecutable => 126,
                SpawnFailure::Failed => 125,
            }));
        }
    };
    let own = match *termination {
        Termination::Exited(code) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
        Termination::Signaled { signal, .. } => u8::try_from(128 + signal).unwrap_or(u8::MAX),
    };
    let reported_code = match intent {
        Some(Intent::Deadline(_) | Intent::Idle(_)) => 124,
        // Closing an idle session is a success whatever TERM made of the agent.
        Some(Intent::SessionIdle(_)) if outcome == Outcome::Success => 0,
        _ => own,
    };
    Some(match *termination {
        Termination::Exited(code) => Exit {
            code: Some(code),
            signal: None,
            core_dumped: false,
            reported_code,
        },
        Termination::Signaled {
            signal,
            core_dumped,
        } => Exit {
            code: None,
            signal: Some(signal_name(signal).to_string()),
            core_dumped,
            reported_code,
        },
    })
}

/// There is no wait status: the agent never ran, or runs still.
fn no_status(reported_code: u8) -> Exit {
    Exit {
        code: None,
        signal: None,
        core_dumped: false,
        reported_code,
    }
}
