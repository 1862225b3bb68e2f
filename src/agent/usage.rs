//! Token counts and costs.

use super::event::{ModelUsage, Usage};
use super::json::{Json, fields};

fields! {
    /// The API's spelling, and the camel case of `modelUsage`.
    Counts {
        input: "input_tokens" | "inputTokens",
        output: "output_tokens" | "outputTokens",
        cache_read: "cache_read_input_tokens" | "cacheReadInputTokens",
        cache_creation: "cache_creation_input_tokens" | "cacheCreationInputTokens",
        by_life: "cache_creation",
        creation_5m: "cacheCreationEphemeral5mInputTokens",
        creation_1h: "cacheCreationEphemeral1hInputTokens",
        cost_usd: "costUSD" | "cost_usd",
    }
}

fields! {
    CacheLife {
        creation_5m: "ephemeral_5m_input_tokens",
        creation_1h: "ephemeral_1h_input_tokens",
    }
}

/// An API `usage` object; `None` if it counts nothing (the boilerplate prints `{}` for no usage).
pub(super) fn usage(json: Json<'_>) -> Option<Usage> {
    let counts: Counts<'_> = json.fields();
    let counted = counts
        .input
        .or(counts.output)
        .or(counts.cache_read)
        .or(counts.cache_creation);
    counted.unsigned()?;
    Some(tokens(&counts))
}

/// The members of `modelUsage`, one for each model.
pub(super) fn by_model(json: Json<'_>) -> Vec<ModelUsage<'_>> {
    let mut models = Vec::new();
    json.members(&mut |model, value| {
        let counts: Counts<'_> = value.fields();
        models.push(ModelUsage {
            model: model.to_owned().into(),
            usage: tokens(&counts),
            cost_usd: counts.cost_usd.number(),
        });
    });
    models
}

fn tokens(counts: &Counts<'_>) -> Usage {
    let life: CacheLife<'_> = counts.by_life.fields();
    let count = |json: Json<'_>| json.unsigned().unwrap_or(0);
    Usage {
        input_tokens: count(counts.input),
        output_tokens: count(counts.output),
        cache_read_input_tokens: count(counts.cache_read),
        cache_creation_input_tokens: count(counts.cache_creation),
        cache_creation_5m: life.creation_5m.or(counts.creation_5m).unsigned(),
        cache_creation_1h: life.creation_1h.or(counts.creation_1h).unsigned(),
    }
}
