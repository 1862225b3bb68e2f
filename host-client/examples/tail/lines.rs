//! What each event is worth saying.

use std::collections::HashMap;
use std::time::Instant;

use sandtrace_client::agent::Said;
use sandtrace_client::wire::{Body, SpanEnded, SpanStarted, Stream};
use sandtrace_client::{Conclusion, Content, Event, Outcome, Run};
use serde_json::{Map, Value};

use crate::screen::{Look, Text};

/// The most characters of a text that is the agent's.
const TEXT_CHARS: usize = 400;
/// And of a tool's input.
const INPUT_CHARS: usize = 100;

/// Turns events into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// The inputs of tools that were called, by their calls.
    inputs: HashMap<String, String>,
    began: Option<Instant>,
}

impl Lines {
    pub(crate) fn of(&mut self, event: &Event) -> Vec<Text> {
        match event.content() {
            Content::Supervisor(body) => self.supervisor(body).into_iter().collect(),
            Content::Agent(line) => {
                let is_subagent = line.parent_tool_use_id().is_some();
                let said = line.said().into_iter();
                said.filter_map(|said| self.said(&said, is_subagent))
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    /// A line of nobody's.
    pub(crate) fn noise(&self, text: &str) -> Text {
        mark(' ', Look::Faint).with(Look::Faint, &cut(text, TEXT_CHARS))
    }

    fn said(&mut self, said: &Said<'_>, is_subagent: bool) -> Option<Text> {
        Some(match said {
            Said::Text(text) if !is_subagent && !text.trim().is_empty() => {
                mark('●', Look::Busy).with(Look::Plain, &cut(text.trim(), TEXT_CHARS))
            }
            Said::ToolUse(tool) => {
                self.inputs.insert(tool.id.to_owned(), brief(tool.input));
                return None;
            }
            Said::ApprovalRequest(asked) => {
                let name = asked.tool_name.unwrap_or("a tool");
                mark('?', Look::Wait)
                    .with(Look::Bold, &format!("May it use {name}? "))
                    .with(Look::Faint, &brief(asked.input))
            }
            Said::ApprovalDecision(decided) => {
                let by = decided.by.map(|by| format!(" by {by}")).unwrap_or_default();
                let why = decided
                    .reason
                    .map(|why| format!(": {why}"))
                    .unwrap_or_default();
                let word = match decided.decision {
                    sandtrace_client::agent::Decision::Allow => "approved",
                    _ => "denied",
                };
                mark('?', Look::Wait)
                    .with(Look::Faint, &cut(&format!("{word}{by}{why}"), TEXT_CHARS))
            }
            Said::Error(words) => mark('!', Look::Bad).with(Look::Bad, &cut(words, TEXT_CHARS)),
            _ => return None,
        })
    }

    fn supervisor(&mut self, body: &Body) -> Option<Text> {
        Some(match body {
            Body::RunStarted(started) => {
                self.began.get_or_insert_with(Instant::now);
                mark('▶', Look::Busy)
                    .with(Look::Bold, &format!("{} ", started.run_id))
                    .with(Look::Faint, &format!("trace {}", started.trace_id))
            }
            Body::SpanStarted(span) => return started(span),
            Body::SpanEnded(span) => return self.ended(span),
            Body::Output(output) if output.stream == Stream::Stderr => {
                let text = output.text.as_deref().unwrap_or("(bytes that are no text)");
                mark(' ', Look::Faint).with(Look::Faint, &cut(text, TEXT_CHARS))
            }
            Body::Warning(warning) => {
                mark('!', Look::Wait).with(Look::Wait, &cut(&warning.message, TEXT_CHARS))
            }
            _ => return None,
        })
    }

    fn ended(&mut self, span: &SpanEnded) -> Option<Text> {
        let has_failed = span.status == "error";
        let took = duration(span.duration_ms);
        let why = || match (&span.message, text(&span.attributes, "error.type")) {
            (Some(message), _) => format!("  {}", cut(message, TEXT_CHARS)),
            (None, Some(word)) => format!("  {word}"),
            (None, None) => String::new(),
        };
        let (kind, name) = span.name.split_once(' ').unwrap_or((&span.name, ""));
        Some(match kind {
            "execute_tool" => {
                let id = text(&span.attributes, "gen_ai.tool.call.id").unwrap_or_default();
                let input = self.inputs.remove(id).unwrap_or_default();
                let line = match has_failed {
                    true => mark('✕', Look::Bad),
                    false => mark('✓', Look::Good),
                };
                let line = line.with(Look::Bold, &format!("{name}  "));
                let line = line.with(Look::Plain, &input);
                let line = line.with(Look::Faint, &format!("  {took}"));
                if has_failed {
                    line.with(Look::Bad, &why())
                } else {
                    line
                }
            }
            "chat" => {
                let retries = span
                    .attributes
                    .get("sandtrace.retries")
                    .and_then(Value::as_u64);
                let retries = retries.filter(|count| *count > 0)?;
                mark('↻', Look::Wait)
                    .with(Look::Wait, &format!("{name}: {retries} retries, {took}"))
            }
            "invoke_agent" if span.attributes.contains_key("sandtrace.turn") => {
                let cost = span
                    .attributes
                    .get("sandtrace.cost.usd")
                    .and_then(Value::as_f64);
                let cost = cost.map(|usd| format!(", ${usd:.4}")).unwrap_or_default();
                let line = mark(' ', Look::Faint)
                    .with(Look::Faint, &format!("turn ended after {took}{cost}"));
                if has_failed {
                    line.with(Look::Bad, &why())
                } else {
                    line
                }
            }
            _ => return None,
        })
    }

    /// What it is doing, in one line.
    pub(crate) fn status(&self, run: &Run) -> String {
        let Some(began) = self.began else {
            return "waiting for the first line".to_owned();
        };
        let mut parts = vec![
            run.state().to_string().replace('_', " "),
            duration(began.elapsed().as_secs_f64() * 1000.0),
        ];
        let tools: Vec<_> = run.open_tools().map(|tool| tool.name.as_str()).collect();
        if !tools.is_empty() {
            parts[0] = format!("{}: {}", parts[0], tools.join(", "));
        }
        let usage = run.usage();
        if usage.input_tokens > 0 {
            parts.push(format!(
                "{} in, {} out",
                usage.input_tokens, usage.output_tokens
            ));
        }
        parts.extend(run.cost().map(|cost| format!("${:.4}", cost.usd)));
        parts.extend(run.resources().map(|used| {
            let sandbox = &used.sandbox;
            #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
            let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
            format!(
                "CPU {:.0} %, memory {:.1} of {:.1} GiB",
                sandbox.cpu_utilization * 100.0,
                gib(sandbox.memory_used_bytes),
                gib(sandbox.memory_total_bytes)
            )
        }));
        parts.join(" · ")
    }

    pub(crate) fn conclusion(&self, conclusion: &Conclusion) -> Vec<Text> {
        let (sign, look) = match conclusion.outcome {
            Outcome::Success => ('✓', Look::Good),
            Outcome::Cancelled => ('■', Look::Wait),
            _ => ('✕', Look::Bad),
        };
        let mut facts = String::new();
        if let Some(ms) = conclusion.duration_ms {
            facts.push_str(&format!("  {}", duration(ms)));
        }
        let usage = conclusion.usage;
        facts.push_str(&format!(
            ", {} tokens in, {} out",
            usage.input_tokens, usage.output_tokens
        ));
        if let Some(cost) = &conclusion.cost {
            facts.push_str(&format!(", ${:.4}", cost.usd));
        }
        let word = if conclusion.lost.is_some() {
            "lost"
        } else {
            conclusion.outcome.as_str()
        };
        let mut lines = vec![
            mark(sign, look)
                .with(Look::Bold, word)
                .with(Look::Faint, &facts),
        ];
        if let Some(failure) = &conclusion.failure {
            let line = mark(' ', Look::Plain).with(look, &format!("{}: ", failure.kind));
            lines.push(line.with(Look::Plain, &failure.message));
            for evidence in &failure.evidence {
                let line =
                    mark(' ', Look::Plain).with(Look::Faint, &format!("  {}: ", evidence.source));
                lines.push(line.with(Look::Plain, &cut(&evidence.fact, TEXT_CHARS)));
            }
        }
        lines
    }
}

fn started(span: &SpanStarted) -> Option<Text> {
    let turn = span
        .attributes
        .get("sandtrace.turn")
        .and_then(Value::as_u64);
    turn.filter(|_| span.name.starts_with("invoke_agent"))
        .map(|turn| mark('─', Look::Faint).with(Look::Bold, &format!("turn {turn}")))
}

fn mark(sign: char, look: Look) -> Text {
    Text::default().with(look, &format!("{sign} "))
}

fn text<'a>(attributes: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    attributes.get(key).and_then(Value::as_str)
}

/// What a tool is called with, in a few words.
fn brief(input: &Value) -> String {
    let told = [
        "command",
        "file_path",
        "path",
        "pattern",
        "url",
        "description",
    ];
    let told = told
        .into_iter()
        .find_map(|key| input.get(key).and_then(Value::as_str));
    let told = told.map_or_else(|| input.to_string(), str::to_owned);
    cut(&told.replace('\n', " "), INPUT_CHARS)
}

fn cut(text: &str, most: usize) -> String {
    let mut cut: String = text.chars().take(most).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut.replace('\n', " ⏎ ")
}

fn duration(ms: f64) -> String {
    let seconds = ms / 1000.0;
    if seconds < 1.0 {
        format!("{ms:.0} ms")
    } else if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        format!(
            "{:.0} min {:02.0} s",
            (seconds / 60.0).floor(),
            (seconds % 60.0).floor()
        )
    }
}
