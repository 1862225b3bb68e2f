//! What became of telemetry itself, by destination: what the run's last line says, while the run goes on.
//!
//! As of the moment of collecting, so what a collection itself exports shows in the next.

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Meter, UpDownCounter};
use sandtrace_client::wire;

use super::resources::Level;
use crate::session::semconv::{key, metric};

/// The instruments.
#[derive(Debug)]
pub(super) struct PipelineInstruments {
    exported: Counter<u64>,
    dropped: Counter<u64>,
    queued: UpDownCounter<i64>,
    /// By destination and signal.
    told: Vec<(String, &'static str, Told)>,
}

#[derive(Debug)]
struct Told {
    exported: u64,
    dropped: u64,
    queued: Level,
}

impl PipelineInstruments {
    pub(super) fn new(meter: &Meter) -> Self {
        let counter = |name: &'static str, about: &'static str| {
            let builder = meter.u64_counter(name).with_unit("{item}");
            builder.with_description(about).build()
        };
        Self {
            exported: counter(
                metric::TELEMETRY_EXPORTED,
                "Spans, data points and log records that a destination took.",
            ),
            dropped: counter(
                metric::TELEMETRY_DROPPED,
                "Spans, data points and log records that a destination will not get.",
            ),
            queued: meter
                .i64_up_down_counter(metric::TELEMETRY_QUEUED)
                .with_unit("{item}")
                .with_description(
                    "Spans, data points and log records on their way to a destination.",
                )
                .build(),
            told: Vec::new(),
        }
    }

    /// The same for somebody else: what was told stays told.
    pub(super) fn anew(self, meter: &Meter) -> Self {
        let mut new = Self::new(meter);
        for (name, signal, told) in self.told {
            let told = Told {
                queued: Level::new(new.queued.clone(), attributes(&name, signal)),
                ..told
            };
            new.told.push((name, signal, told));
        }
        new
    }

    pub(super) fn measure(&mut self, report: &wire::Telemetry) {
        for row in &report.destinations {
            let spans = wire::SignalCounts {
                exported: row.exported,
                dropped: row.dropped,
                queued: row.queued,
            };
            self.signal(&row.name, "traces", spans);
            for (signal, counts) in [("metrics", row.metrics), ("logs", row.logs)] {
                if let Some(counts) = counts {
                    self.signal(&row.name, signal, counts);
                }
            }
        }
    }

    fn signal(&mut self, name: &str, signal: &'static str, counts: wire::SignalCounts) {
        let attributes = attributes(name, signal);
        let is_it = |(of, what, _): &(String, &'static str, Told)| of == name && *what == signal;
        let at = self.told.iter().position(is_it).unwrap_or_else(|| {
            let queued = Level::new(self.queued.clone(), attributes.clone());
            let told = Told {
                exported: 0,
                dropped: 0,
                queued,
            };
            self.told.push((name.to_owned(), signal, told));
            self.told.len() - 1
        });
        let told = &mut self.told[at].2;
        let exported = counts.exported.saturating_sub(told.exported);
        self.exported.add(exported, &attributes);
        told.exported += exported;
        let dropped = counts.dropped.saturating_sub(told.dropped);
        self.dropped.add(dropped, &attributes);
        told.dropped += dropped;
        told.queued.set(counts.queued);
    }
}

fn attributes(name: &str, signal: &'static str) -> Vec<KeyValue> {
    vec![
        KeyValue::new(key::DESTINATION, name.to_owned()),
        KeyValue::new(key::SIGNAL, signal),
    ]
}
