//! What a call costs, from a price table kept as data (`prices.tsv`).
//!
//! The agent's own figure is preferred (see `ledger`); the table serves single calls and runs whose result
//! never came. A model that is not in the table has no cost, which is not the same as a cost of zero.

use std::sync::LazyLock;

use crate::agent::event::Usage;

/// When the table was last checked against its sources; part of every cost's `source`.
pub const TABLE_DATE: &str = "2026-11-20";

/// Prices of one model, US dollars per million tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Price {
    model: &'static str,
    input: f64,
    output: f64,
    cache_write_5m: f64,
    cache_write_1h: f64,
    cache_read: f64,
}

static TABLE: LazyLock<Vec<Price>> = LazyLock::new(|| {
    include_str!("prices.tsv")
        .lines()
        .filter_map(parse_row)
        .collect()
});

fn parse_row(row: &'static str) -> Option<Price> {
    if row.starts_with('#') {
        return None;
    }
    let mut columns = row.split('\t');
    let model = columns.next()?;
    let mut number = || columns.next()?.parse().ok();
    Some(Price {
        model,
        input: number()?,
        output: number()?,
        cache_write_5m: number()?,
        cache_write_1h: number()?,
        cache_read: number()?,
    })
}

impl Price {
    /// Finds the price of a model by its name, with or without a date suffix or a `[1m]`-like marker.
    #[must_use]
    pub fn of(model: &str) -> Option<&'static Self> {
        let name = model.split_once('[').map_or(model, |(name, _)| name);
        let name = name.rsplit('/').next().unwrap_or(name);
        let undated = match name.rsplit_once('-') {
            Some((head, tail)) if tail.len() == 8 && tail.bytes().all(|b| b.is_ascii_digit()) => {
                head
            }
            _ => name,
        };
        TABLE.iter().find(|price| price.model == undated)
    }

    /// The cost of a call by kind of token. Cache writes of unknown life count as five-minute ones.
    #[must_use]
    pub fn cost(&self, usage: &Usage) -> CallCost {
        let one_hour = usage
            .cache_creation_1h
            .unwrap_or(0)
            .min(usage.cache_creation_input_tokens);
        let five_minutes = usage.cache_creation_input_tokens - one_hour;
        CallCost {
            input: count(usage.input_tokens) * self.input,
            output: count(usage.output_tokens) * self.output,
            cache_write_5m: count(five_minutes) * self.cache_write_5m,
            cache_write_1h: count(one_hour) * self.cache_write_1h,
            cache_read: count(usage.cache_read_input_tokens) * self.cache_read,
        }
    }
}

/// What a call costs by kind of token, in millionths of a US dollar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CallCost {
    /// Input that no cache had.
    pub input: f64,
    /// The answer.
    pub output: f64,
    /// Input kept for five minutes.
    pub cache_write_5m: f64,
    /// Input kept for an hour.
    pub cache_write_1h: f64,
    /// Input that a cache had.
    pub cache_read: f64,
}

impl CallCost {
    /// The whole cost in US dollars.
    #[must_use]
    pub fn usd(&self) -> f64 {
        let micros =
            self.input + self.output + self.cache_write_5m + self.cache_write_1h + self.cache_read;
        micros / 1e6
    }
}

/// Token counts stay far below 2^53, where `f64` is still exact.
#[expect(
    clippy::cast_precision_loss,
    reason = "token counts stay far below 2^53"
)]
fn count(tokens: u64) -> f64 {
    tokens as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_is_read() {
        let rows = include_str!("prices.tsv")
            .lines()
            .filter(|row| !row.starts_with('#'))
            .count();
        assert_eq!(TABLE.len(), rows);
        assert!(rows > 10);
    }

    #[test]
    fn the_table_agrees_with_claude_code() {
        // recordings/plain_text: total_cost_usd of one call.
        let usage = Usage {
            input_tokens: 12,
            output_tokens: 60,
            cache_read_input_tokens: 4000,
            cache_creation_input_tokens: 300,
            ..Usage::default()
        };
        let cost = Price::of("claude-opus-5-5").unwrap().cost(&usage).usd();
        assert!((cost - 0.003_548).abs() < 1e-9, "{cost}");
    }

    #[test]
    fn one_hour_cache_writes_cost_more() {
        let mut usage = Usage {
            cache_creation_input_tokens: 1_000_000,
            ..Usage::default()
        };
        let price = Price::of("claude-sonnet-5").unwrap();
        assert!((price.cost(&usage).usd() - 2.5).abs() < 1e-9);
        usage.cache_creation_1h = Some(1_000_000);
        assert!((price.cost(&usage).usd() - 4.0).abs() < 1e-9);
    }

    #[test]
    fn names_are_matched_whole_but_for_date_region_and_context() {
        for name in [
            "claude-opus-4-5",
            "claude-opus-4-5-20251101",
            "anthropic/claude-opus-4-5",
            "claude-opus-4-5[1m]",
        ] {
            assert_eq!(
                Price::of(name).map(|price| price.model),
                Some("claude-opus-4-5"),
                "{name}"
            );
        }
        for name in [
            "claude-opus-4",
            "claude-opus-4-55",
            "gpt-9",
            "<synthetic>",
            "",
        ] {
            assert_eq!(Price::of(name), None, "{name}");
        }
    }
}
