//! Tokens and cost while the run goes on.
//!
//! A model call tells its tokens when its span ends, and its cost if the price table knew it. A turn tells its cost when
//! it ends, which is Claude Code's own word and counts for all its calls. Both are replaced by the run's last line.

use serde_json::{Map, Value};

use crate::attribute;
use crate::wire::{Cost, Usage};

/// What was spent.
#[derive(Debug, Clone, Default)]
pub(super) struct Spending {
    usage: Usage,
    /// Of turns that are over.
    settled: Option<Sum>,
    /// Of calls that no turn has settled yet.
    calls: Option<Sum>,
    exact: Option<Option<Cost>>,
}

#[derive(Debug, Clone)]
struct Sum {
    usd: f64,
    source: String,
}

impl Sum {
    /// What a span says of its cost.
    fn of(attributes: &Map<String, Value>) -> Option<Self> {
        let source = attributes.get(attribute::COST_SOURCE);
        Some(Self {
            usd: attributes.get(attribute::COST_USD)?.as_f64()?,
            source: source.and_then(Value::as_str).unwrap_or("agent").to_owned(),
        })
    }

    fn add(sum: &mut Option<Self>, more: Option<Self>) {
        match (sum.as_mut(), more) {
            (Some(sum), Some(more)) => {
                sum.usd += more.usd;
                if !sum.source.contains(&more.source) {
                    sum.source = format!("{}+{}", sum.source, more.source);
                }
            }
            (None, more) => *sum = more,
            (Some(_), None) => {}
        }
    }
}

impl Spending {
    /// A model call is over.
    pub(super) fn on_call(&mut self, attributes: &Map<String, Value>) {
        let tokens = |key| attributes.get(key).and_then(Value::as_u64);
        let usage = &mut self.usage;
        let add = |sum: &mut u64, key| *sum = sum.saturating_add(tokens(key).unwrap_or(0));
        add(&mut usage.input_tokens, attribute::INPUT_TOKENS);
        add(&mut usage.output_tokens, attribute::OUTPUT_TOKENS);
        add(
            &mut usage.cache_read_input_tokens,
            attribute::CACHE_READ_TOKENS,
        );
        add(
            &mut usage.cache_creation_input_tokens,
            attribute::CACHE_CREATION_TOKENS,
        );
        // A call that was refused has neither.
        if tokens(attribute::INPUT_TOKENS).is_some() && tokens(attribute::OUTPUT_TOKENS).is_none() {
            usage.incomplete_calls += 1;
        }
        Sum::add(&mut self.calls, Sum::of(attributes));
    }

    /// A turn is over.
    pub(super) fn on_turn(&mut self, attributes: &Map<String, Value>) {
        let calls = self.calls.take();
        Sum::add(&mut self.settled, Sum::of(attributes).or(calls));
    }

    /// The run's last line.
    pub(super) fn on_finish(&mut self, usage: Usage, cost: Option<Cost>) {
        self.usage = usage;
        self.exact = Some(cost);
    }

    pub(super) fn usage(&self) -> Usage {
        self.usage
    }

    pub(super) fn cost(&self) -> Option<Cost> {
        if let Some(exact) = &self.exact {
            return exact.clone();
        }
        let mut sum = self.settled.clone();
        Sum::add(&mut sum, self.calls.clone());
        sum.map(|Sum { usd, source }| Cost { usd, source })
    }
}
