//! Tokens and dollars of the run, without counting anything twice.
//!
//! Three sources disagree by design (`reference/agent-streams.md` §0): a line's `usage` repeats per content block and
//! holds a placeholder for the output; `result.usage` is the main thread of one turn; `modelUsage` and `total_cost_usd`
//! are cumulative over the *session*, subagents included, and go on through a resume. So the ledger books each chat
//! once, and at each result replaces what it booked by the difference of the cumulative figures. If the session is
//! older than the process, the first figure is only a baseline, and that turn's cost comes from the price table.

use sandtrace_client::wire::{Cost, Usage as WireUsage};

use super::price::{CallCost, Price, TABLE_DATE};
use crate::agent::event::{ModelUsage, ResultMessage, Usage};

/// One LLM call as the stream told it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Call {
    pub(super) model: Option<String>,
    pub(super) usage: Usage,
    /// Whether `usage.output_tokens` is true or the placeholder.
    pub(super) output: Output,
}

/// Which thread of the conversation made a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thread {
    Main,
    Subagent,
}

impl Thread {
    /// The thread of a lane.
    pub(super) fn of(lane: Option<&str>) -> Self {
        match lane {
            None => Self::Main,
            Some(_) => Self::Subagent,
        }
    }
}

/// What is known of a call's output tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Output {
    /// Only the placeholder of `message_start`.
    #[default]
    Placeholder,
    Exact,
}

impl Call {
    /// The cost by the price table; `None` if the model or the output is unknown.
    pub(super) fn cost(&self) -> Option<CallCost> {
        if self.output == Output::Placeholder {
            return None;
        }
        Some(Price::of(self.model.as_deref()?)?.cost(&self.usage))
    }
}

/// What one turn's finished calls of the main thread add up to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TurnCalls {
    pub(super) input: u64,
    pub(super) output: u64,
    /// Calls whose output is not in `output`.
    pub(super) unknown_outputs: u64,
}

impl TurnCalls {
    pub(super) fn book(&mut self, call: &Call) {
        self.input = self.input.saturating_add(total_input(&call.usage));
        match call.output {
            Output::Exact => self.output = self.output.saturating_add(call.usage.output_tokens),
            Output::Placeholder => self.unknown_outputs += 1,
        }
    }
}

/// The source of a cost that the price table gave.
pub(super) fn table_source() -> String {
    format!("table@{TABLE_DATE}")
}

/// Sums that grow; input is fresh + cache read + cache write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    input: u64,
    output: u64,
    cache_read: u64,
    cache_creation: u64,
}

impl Sum {
    fn of(usage: &Usage) -> Self {
        Self {
            input: total_input(usage),
            output: usage.output_tokens,
            cache_read: usage.cache_read_input_tokens,
            cache_creation: usage.cache_creation_input_tokens,
        }
    }

    fn of_models(models: &[ModelUsage<'_>]) -> Self {
        models.iter().fold(Self::default(), |sum, model| {
            sum.plus(Self::of(&model.usage))
        })
    }

    fn plus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_add)
    }

    fn minus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_sub)
    }

    fn max(self, other: Self) -> Self {
        self.zip(other, u64::max)
    }

    fn zip(self, other: Self, combine: fn(u64, u64) -> u64) -> Self {
        Self {
            input: combine(self.input, other.input),
            output: combine(self.output, other.output),
            cache_read: combine(self.cache_read, other.cache_read),
            cache_creation: combine(self.cache_creation, other.cache_creation),
        }
    }
}

/// Fresh + cache read + cache write.
pub(super) fn total_input(usage: &Usage) -> u64 {
    usage
        .input_tokens
        .saturating_add(usage.cache_read_input_tokens)
        .saturating_add(usage.cache_creation_input_tokens)
}

/// Where a cost came from, joined in the run's `source`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Money {
    /// Reported by the agent.
    agent: Option<f64>,
    /// By the price table.
    table: Option<f64>,
    /// Calls whose cost nobody knows.
    unknown_calls: u64,
}

impl Money {
    fn add_agent(&mut self, usd: f64) {
        *self.agent.get_or_insert(0.0) += usd;
    }

    fn add_call(&mut self, call: &Call) {
        match call.cost() {
            Some(cost) => *self.table.get_or_insert(0.0) += cost.usd(),
            None => self.unknown_calls += 1,
        }
    }

    fn add(&mut self, other: Self) {
        if let Some(usd) = other.agent {
            self.add_agent(usd);
        }
        if let Some(usd) = other.table {
            *self.table.get_or_insert(0.0) += usd;
        }
        self.unknown_calls += other.unknown_calls;
    }

    fn cost(self) -> Option<Cost> {
        let source = match (self.agent, self.table) {
            (None, None) => return None,
            (Some(_), None) => "agent".to_owned(),
            (None, Some(_)) => table_source(),
            (Some(_), Some(_)) => format!("agent+{}", table_source()),
        };
        let source = if self.unknown_calls > 0 {
            format!("{source}+incomplete")
        } else {
            source
        };
        Some(Cost {
            usd: self.agent.unwrap_or(0.0) + self.table.unwrap_or(0.0),
            source,
        })
    }
}

/// One model, none, or several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum OneModel {
    #[default]
    None,
    One(String),
    Several,
}

impl OneModel {
    fn note(&mut self, model: Option<&str>) {
        *self = match (std::mem::take(self), model) {
            (Self::None, Some(model)) => Self::One(model.to_owned()),
            (Self::One(known), Some(model)) if known == model => Self::One(known),
            _ => Self::Several,
        };
    }
}

/// The cumulative figures of the session at the last result.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Baseline {
    models: Sum,
    usd: Option<f64>,
}

/// The books of a run.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Settled by results.
    settled: Sum,
    settled_money: Money,
    /// Chats since the last result.
    pending: Sum,
    pending_money: Money,
    pending_unknown: u64,
    pending_unknown_subagents: u64,
    pending_subagents_money: Money,
    /// The models of the main thread's calls since the last result.
    main_models: OneModel,
    /// The command said that the session is older than the run.
    resumed: bool,
    /// Models whose calls the stream showed since the last result.
    pending_models: Vec<String>,
    /// The session of the baseline.
    session: Option<String>,
    /// Calls whose output tokens no result ever told.
    settled_unknown: u64,
    /// The largest input of one call so far: bounds what an unseen call can have added.
    largest_call: u64,
    /// Calls that the stream does not show: a foreground subagent's last one, a compaction's summary.
    unseen_calls: u64,
    baseline: Option<Baseline>,
}

impl Ledger {
    /// The books of a run that begins a session, or goes on with one.
    pub(super) fn new(resumed: bool) -> Self {
        Self {
            resumed,
            ..Self::default()
        }
    }

    /// Books a finished chat.
    pub(super) fn book(&mut self, call: &Call, thread: Thread) {
        let mut sum = Sum::of(&call.usage);
        if call.output == Output::Placeholder {
            sum.output = 0;
            self.pending_unknown += 1;
            if thread == Thread::Subagent {
                self.pending_unknown_subagents += 1;
            }
        }
        match thread {
            Thread::Main => self.main_models.note(call.model.as_deref()),
            Thread::Subagent => self.pending_subagents_money.add_call(call),
        }
        self.pending = self.pending.plus(sum);
        self.pending_money.add_call(call);
        if let Some(model) = &call.model
            && !self.pending_models.contains(model)
        {
            self.pending_models.push(model.clone());
        }
        self.largest_call = self.largest_call.max(sum.input);
    }

    /// Notes that a call took place which the stream does not show.
    pub(super) fn note_unseen_call(&mut self) {
        self.unseen_calls += 1;
    }

    /// Settles a turn. Returns the turn's cost.
    pub(super) fn settle(&mut self, result: &ResultMessage<'_>) -> Option<Cost> {
        let models = Sum::of_models(&result.model_usage);
        let turn = result.usage.as_ref().map(Sum::of).unwrap_or_default();
        let seen = self.pending.max(turn);
        // Another session counts from its own start, unless it is a fork, which goes on from where it left.
        let other =
            result.session_id.is_some() && self.session.as_deref() != result.session_id.as_deref();
        let known = self
            .baseline
            .filter(|_| !(other && self.is_fresh_session(result, models, seen)));
        let before = match (known, result.model_usage_delta.is_empty()) {
            (Some(baseline), _) if models_grew(baseline, models, result) => Some(baseline),
            // A fork or a cleared session starts its figures again.
            (Some(_), _) => Some(Baseline::default()),
            (None, false) => {
                let delta = Sum::of_models(&result.model_usage_delta);
                let delta_usd: Option<f64> = result
                    .model_usage_delta
                    .iter()
                    .map(|model| model.cost_usd)
                    .sum();
                let usd = result
                    .total_cost_usd
                    .zip(delta_usd)
                    .map(|(total, delta)| (total - delta).max(0.0));
                Some(Baseline {
                    models: models.minus(delta),
                    usd: usd.or(Some(0.0)),
                })
            }
            (None, true) => self
                .is_fresh_session(result, models, seen)
                .then(Baseline::default),
        };
        let mut money = Money::default();
        match (before, result.total_cost_usd) {
            (Some(before), Some(total)) => {
                money.add_agent((total - before.usd.unwrap_or(0.0)).max(0.0))
            }
            _ => money = self.by_table(result.usage.as_ref()),
        }
        let tokens = match before {
            Some(before) if !result.model_usage.is_empty() => models.minus(before.models),
            _ => seen,
        };
        self.settled = self.settled.plus(tokens);
        if before.is_none() {
            // The turn's own usage has the main thread's output and no subagent's.
            self.settled_unknown += match result.usage {
                Some(_) => self.pending_unknown_subagents,
                None => self.pending_unknown,
            };
        }
        self.pending_unknown = 0;
        self.pending_unknown_subagents = 0;
        self.pending_subagents_money = Money::default();
        self.main_models = OneModel::None;
        self.settled_money.add(money);
        self.pending = Sum::default();
        self.pending_money = Money::default();
        self.unseen_calls = 0;
        self.pending_models.clear();
        self.session = result
            .session_id
            .as_deref()
            .map(str::to_owned)
            .or(self.session.take());
        if result.total_cost_usd.is_some() || !result.model_usage.is_empty() {
            self.baseline = Some(Baseline {
                models,
                usd: result.total_cost_usd,
            });
        }
        money.cost()
    }

    /// The turn by the price table: its own usage is exact, and if one model made all of it, so is its price.
    fn by_table(&self, turn: Option<&Usage>) -> Money {
        let (Some(usage), OneModel::One(model)) = (turn, &self.main_models) else {
            return self.pending_money;
        };
        let mut money = self.pending_subagents_money;
        money.add_call(&Call {
            model: Some(model.clone()),
            usage: *usage,
            output: Output::Exact,
        });
        money
    }

    /// Whether the session began with this process: its figures are no larger than what this process saw, give or take
    /// the calls that the stream never shows. Without figures per model there is nothing to compare, and the total is
    /// taken as it stands.
    fn is_fresh_session(&self, result: &ResultMessage<'_>, models: Sum, seen: Sum) -> bool {
        if self.resumed && self.baseline.is_none() {
            return false;
        }
        let unseen = self
            .unseen_calls
            .saturating_add(result.subagents_spawned.unwrap_or(0));
        // A later call of a lane carries the conversation so far, so it may be somewhat larger than any we saw.
        let allowance = unseen.saturating_mul(self.largest_call.saturating_mul(3) / 2);
        // Claude Code's helpers (titles, fetched pages) call a small model of which the stream shows nothing.
        let helpers: u64 = result
            .model_usage
            .iter()
            .filter(|model| !self.pending_models.iter().any(|seen| *seen == model.model))
            .map(|model| total_input(&model.usage))
            .sum();
        let shown = if self.pending_models.is_empty() {
            models.input
        } else {
            models.input.saturating_sub(helpers)
        };
        result.model_usage.is_empty() || shown <= seen.input.saturating_add(allowance)
    }

    /// Tokens of the run so far.
    pub(super) fn usage(&self) -> WireUsage {
        let sum = self.settled.plus(self.pending);
        WireUsage {
            input_tokens: sum.input,
            output_tokens: sum.output,
            cache_read_input_tokens: sum.cache_read,
            cache_creation_input_tokens: sum.cache_creation,
            incomplete_calls: self.settled_unknown + self.pending_unknown,
        }
    }

    /// Cost of the run so far; `None` when nothing of it is known.
    pub(super) fn cost(&self) -> Option<Cost> {
        let mut money = self.settled_money;
        money.add(self.pending_money);
        money.cost()
    }
}

/// Cumulative figures never shrink within a session.
fn models_grew(before: Baseline, models: Sum, result: &ResultMessage<'_>) -> bool {
    let usd_grew = match (before.usd, result.total_cost_usd) {
        (Some(before), Some(total)) => total >= before - 1e-9,
        _ => true,
    };
    usd_grew && (result.model_usage.is_empty() || models.input >= before.models.input)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Usage = Usage {
        input_tokens: 12,
        output_tokens: 60,
        cache_read_input_tokens: 4000,
        cache_creation_input_tokens: 300,
        cache_creation_5m: None,
        cache_creation_1h: None,
    };

    fn call(output: Output) -> Call {
        Call {
            model: Some("claude-opus-5-5".to_owned()),
            usage: CALL,
            output,
        }
    }

    fn times(n: u64) -> Usage {
        Usage {
            input_tokens: 12 * n,
            output_tokens: 60 * n,
            cache_read_input_tokens: 4000 * n,
            cache_creation_input_tokens: 300 * n,
            ..Usage::default()
        }
    }

    fn result(turn_calls: u64, session_calls: u64, usd: f64) -> ResultMessage<'static> {
        ResultMessage {
            usage: Some(times(turn_calls)),
            model_usage: vec![ModelUsage {
                model: "claude-opus-5-5".into(),
                usage: times(session_calls),
                cost_usd: Some(usd),
            }],
            total_cost_usd: Some(usd),
            ..ResultMessage::default()
        }
    }

    fn usd(cost: Option<Cost>) -> (f64, String) {
        let cost = cost.unwrap();
        ((cost.usd * 1e6).round() / 1e6, cost.source)
    }

    #[test]
    fn three_turns_of_one_session_cost_their_differences() {
        let mut ledger = Ledger::default();
        for (turn, total, expected) in [
            (1, 0.003_548, 0.003_548),
            (2, 0.010_644, 0.007_096),
            (1, 0.014_192, 0.003_548),
        ] {
            for _ in 0..turn {
                ledger.book(&call(Output::Placeholder), Thread::Main);
            }
            let session = (total / 0.003_548_f64).round() as u64;
            assert_eq!(
                usd(ledger.settle(&result(turn, session, total))),
                (expected, "agent".to_owned())
            );
        }
        assert_eq!(usd(ledger.cost()), (0.014_192, "agent".to_owned()));
        assert_eq!(ledger.usage().output_tokens, 240);
        assert_eq!(ledger.usage().input_tokens, 4 * 4312);
    }

    #[test]
    fn a_resumed_session_is_not_billed_for_its_past() {
        let mut ledger = Ledger::default();
        ledger.book(&call(Output::Exact), Thread::Main);
        let cost = ledger.settle(&result(1, 10, 0.035_48));
        assert_eq!(usd(cost), (0.003_548, table_source()));
        assert_eq!(ledger.usage().input_tokens, 4312);
        ledger.book(&call(Output::Placeholder), Thread::Main);
        assert_eq!(
            usd(ledger.settle(&result(1, 11, 0.039_028))),
            (0.003_548, "agent".to_owned())
        );
        assert_eq!(
            usd(ledger.cost()),
            (0.007_096, format!("agent+{}", table_source()))
        );
    }

    #[test]
    fn a_subagents_unseen_last_call_does_not_make_the_session_look_resumed() {
        let mut ledger = Ledger::default();
        for _ in 0..4 {
            ledger.book(&call(Output::Placeholder), Thread::Main);
        }
        ledger.note_unseen_call();
        assert_eq!(
            usd(ledger.settle(&result(2, 5, 0.017_74))),
            (0.017_74, "agent".to_owned())
        );
        assert_eq!(ledger.usage().output_tokens, 300);
    }

    #[test]
    fn a_run_that_dies_before_its_result_is_priced_by_the_table() {
        let mut ledger = Ledger::default();
        ledger.book(&call(Output::Exact), Thread::Main);
        assert_eq!(usd(ledger.cost()), (0.003_548, table_source()));
        ledger.book(&call(Output::Placeholder), Thread::Main);
        assert_eq!(
            usd(ledger.cost()),
            (0.003_548, format!("{}+incomplete", table_source()))
        );
    }

    #[test]
    fn an_unknown_model_has_no_cost() {
        let mut ledger = Ledger::default();
        ledger.book(
            &Call {
                model: Some("claude-next-9".to_owned()),
                usage: CALL,
                output: Output::Exact,
            },
            Thread::Main,
        );
        assert_eq!(ledger.cost(), None);
        assert_eq!(ledger.usage().input_tokens, 4312);
    }

    #[test]
    fn a_session_that_starts_again_starts_its_figures_again() {
        let mut ledger = Ledger::default();
        ledger.book(&call(Output::Placeholder), Thread::Main);
        ledger.settle(&result(1, 1, 0.003_548));
        ledger.book(&call(Output::Placeholder), Thread::Main);
        ledger.book(&call(Output::Placeholder), Thread::Main);
        ledger.settle(&result(2, 2, 0.007_096));
        ledger.book(&call(Output::Placeholder), Thread::Main);
        assert_eq!(
            usd(ledger.settle(&result(1, 1, 0.003_548))),
            (0.003_548, "agent".to_owned())
        );
    }

    #[test]
    fn a_result_without_a_cost_is_priced_by_the_table() {
        let mut ledger = Ledger::default();
        ledger.book(&call(Output::Exact), Thread::Main);
        let bare = ResultMessage {
            usage: Some(CALL),
            ..ResultMessage::default()
        };
        assert_eq!(usd(ledger.settle(&bare)), (0.003_548, table_source()));
    }
}
