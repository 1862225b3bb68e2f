use std::collections::BTreeMap;

use opentelemetry::trace::{SpanId, SpanKind, TraceId};
use opentelemetry::{Key, KeyValue, Value};
use opentelemetry_sdk::metrics::data::{Metric, MetricData};
use proptest::prelude::*;

use super::*;
use crate::session::semconv::{key, metric};
use crate::session::span::SpanStatus;
use crate::time::UnixNanos;

const BOTH: &[Temporality] = &[Temporality::Cumulative, Temporality::Delta];

fn resource(id: &'static str) -> Resource {
    Resource::builder_empty()
        .with_attribute(KeyValue::new("service.instance.id", id))
        .build()
}

fn metrics(wanted: &[Temporality]) -> Metrics {
    Metrics::new(&resource("first"), wanted, Arc::default())
}

fn chat(model: &str, output: i64, usd: f64) -> FinishedSpan {
    let attributes: [(&'static str, Value); 4] = [
        (key::GEN_AI_REQUEST_MODEL, model.to_owned().into()),
        (key::GEN_AI_INPUT_TOKENS, 100.into()),
        (key::GEN_AI_OUTPUT_TOKENS, output.into()),
        (key::COST_USD, usd.into()),
    ];
    FinishedSpan {
        trace_id: TraceId::from(1),
        span_id: SpanId::from(2),
        parent_span_id: None,
        parent_is_remote: false,
        name: format!("chat {model}").into(),
        kind: SpanKind::Client,
        start: UnixNanos(0),
        end: UnixNanos(2_000_000_000),
        status: SpanStatus::Unset,
        attributes: attributes
            .into_iter()
            .map(|(key, value)| (Key::from_static_str(key), value))
            .collect(),
        events: Vec::new(),
        dropped_events: 0,
        link: None,
        content: Vec::new(),
    }
}

type Series = BTreeMap<String, f64>;

/// Every figure by metric and attributes; histograms by sum and by bucket.
fn series(collected: Option<&ResourceMetrics>) -> Series {
    let mut found = Series::new();
    let metrics = collected.into_iter().flat_map(|it| it.scope_metrics());
    for metric in metrics.flat_map(|scope| scope.metrics()) {
        match metric.data() {
            AggregatedMetrics::F64(data) => figures(&mut found, metric, data, |value| value),
            AggregatedMetrics::U64(data) => figures(&mut found, metric, data, |value| value as f64),
            AggregatedMetrics::I64(data) => figures(&mut found, metric, data, |value| value as f64),
        }
    }
    found
}

fn figures<T: Copy>(
    found: &mut Series,
    metric: &Metric,
    data: &MetricData<T>,
    real: impl Fn(T) -> f64,
) {
    fn name<'a>(metric: &Metric, attributes: impl Iterator<Item = &'a KeyValue>) -> String {
        let mut pairs: Vec<_> = attributes
            .map(|pair| format!("{}={}", pair.key, pair.value))
            .collect();
        pairs.sort();
        format!("{} {}", metric.name(), pairs.join(" "))
            .trim()
            .to_owned()
    }
    match data {
        MetricData::Gauge(it) => found.extend(
            it.data_points()
                .map(|point| (name(metric, point.attributes()), real(point.value()))),
        ),
        MetricData::Sum(it) => found.extend(
            it.data_points()
                .map(|point| (name(metric, point.attributes()), real(point.value()))),
        ),
        MetricData::Histogram(it) => {
            for point in it.data_points() {
                let name = name(metric, point.attributes());
                for (index, count) in point.bucket_counts().enumerate() {
                    found.insert(format!("{name} bucket {index}"), count as f64);
                }
                found.insert(format!("{name} sum"), real(point.sum()));
            }
        }
        MetricData::ExponentialHistogram(_) => panic!("{}", metric.name()),
    }
}

fn sample(cpu_seconds: f64, rss_bytes: u64, kills: u64) -> wire::Resources {
    wire::Resources {
        sandbox: wire::SandboxResources {
            cpu_utilization: 0.5,
            cpus: 4,
            memory_total_bytes: 1_000,
            memory_used_bytes: 600,
            swap_used_bytes: 10,
            swap_total_bytes: 30,
            load_1m: 1.5,
            disk_free_bytes: Some(77),
            pressure: Some(wire::Pressure {
                memory_full: 12.5,
                ..wire::Pressure::default()
            }),
            oom_kills: Some(kills),
        },
        tree: Some(wire::TreeResources {
            processes: 3,
            cpu_seconds,
            cpu_used: 2.0,
            rss_bytes,
            pss_bytes: None,
            open_files: Some(9),
        }),
        cgroup: Some(wire::CgroupResources {
            memory_used_bytes: 400,
            memory_limit_bytes: Some(500),
            oom_kills: Some(kills),
        }),
    }
}

#[test]
fn a_sample_is_told_in_the_conventions_names() {
    let mut metrics = metrics(&[Temporality::Cumulative]);
    // Two processes were killed before there was a run.
    metrics.resources(&sample(1.0, 5_000, 2));
    metrics.resources(&sample(3.5, 4_000, 3));
    let collected = metrics.collect(Temporality::Cumulative);
    let found = series(collected.as_ref());
    for (name, value) in [
        (metric::PROCESS_CPU_TIME, 3.5),
        (metric::PROCESS_CPU_UTILIZATION, 0.5),
        (metric::PROCESS_MEMORY_USAGE, 4_000.0),
        (metric::PROCESS_OPEN_FILES, 9.0),
        (metric::TREE_PROCESSES, 3.0),
        (metric::SYSTEM_CPU_UTILIZATION, 0.5),
        (metric::SYSTEM_CPU_COUNT, 4.0),
        (metric::SYSTEM_LOAD, 1.5),
        ("system.memory.usage system.memory.state=used", 600.0),
        (metric::SYSTEM_MEMORY_LIMIT, 1_000.0),
        ("system.paging.usage system.paging.state=used", 10.0),
        ("system.paging.usage system.paging.state=free", 20.0),
        ("system.filesystem.usage system.filesystem.state=free", 77.0),
        (metric::CONTAINER_MEMORY_USAGE, 400.0),
        (metric::CONTAINER_MEMORY_AVAILABLE, 100.0),
        (
            "sandtrace.pressure.stall_ratio sandtrace.pressure.resource=memory sandtrace.pressure.share=full",
            0.125,
        ),
        (metric::SANDBOX_OOM_KILLS, 1.0),
        (metric::CGROUP_OOM_KILLS, 1.0),
    ] {
        assert_eq!(found.get(name), Some(&value), "{name} in {found:#?}");
    }
    assert_eq!(points(&collected.unwrap()), 22);
}

#[test]
fn a_fork_starts_from_zero_under_its_own_name() {
    let mut metrics = metrics(BOTH);
    metrics.span(&chat("a", 5, 0.5));
    metrics.resources(&sample(10.0, 5_000, 2));
    metrics.identify(&resource("second"));
    metrics.span(&chat("a", 7, 0.25));
    metrics.resources(&sample(11.5, 6_000, 3));
    let collected = metrics.collect(Temporality::Cumulative).unwrap();
    let id = Key::from_static_str("service.instance.id");
    assert_eq!(collected.resource().get(&id), Some(Value::from("second")));
    let found = series(Some(&collected));
    assert_eq!(found["sandtrace.cost gen_ai.request.model=a"], 0.25);
    assert_eq!(found[metric::PROCESS_CPU_TIME], 1.5);
    assert_eq!(found[metric::PROCESS_MEMORY_USAGE], 6_000.0);
    assert_eq!(found[metric::CGROUP_OOM_KILLS], 1.0);
}

#[test]
fn what_nobody_wants_is_not_measured() {
    let mut metrics = metrics(&[]);
    metrics.span(&chat("a", 5, 0.5));
    assert!(metrics.collect(Temporality::Cumulative).is_none());
    let mut metrics = self::metrics(&[Temporality::Cumulative]);
    assert!(metrics.collect(Temporality::Delta).is_none());
    assert!(metrics.collect(Temporality::Cumulative).is_none());
}

#[test]
fn names_that_a_model_makes_up_are_bounded_and_nothing_is_lost() {
    let mut metrics = metrics(&[Temporality::Cumulative]);
    for number in 0..1_000 {
        metrics.span(&chat(&format!("model-{number}"), 1, 1.0));
    }
    let collected = metrics.collect(Temporality::Cumulative);
    let found = series(collected.as_ref());
    let costs = found
        .iter()
        .filter(|(name, _)| name.starts_with("sandtrace.cost "));
    let costs: Vec<_> = costs.map(|(_, usd)| *usd).collect();
    assert_eq!(costs.len(), CARDINALITY + 1);
    assert_eq!(costs.iter().sum::<f64>(), 1_000.0);
    assert_eq!(found["sandtrace.cost otel.metric.overflow=true"], 760.0);
}

#[test]
fn the_pipeline_tells_of_itself_by_destination() {
    let mut ledger = Ledger::default();
    let counts = ledger.add("otlp", true);
    let ledger = Arc::new(ledger);
    let mut metrics = Metrics::new(
        &resource("first"),
        &[Temporality::Cumulative],
        Arc::clone(&ledger),
    );
    for _ in 0..5 {
        ledger.finished();
    }
    counts.spans.exported(2);
    counts.spans.dropped(1, "why");
    let told = |metrics: &mut Metrics| {
        let found = series(metrics.collect(Temporality::Cumulative).as_ref());
        ["exported", "dropped", "queued"].map(|what| {
            found[&format!(
                "sandtrace.telemetry.{what} sandtrace.destination=otlp sandtrace.signal=traces"
            )]
        })
    };
    assert_eq!(told(&mut metrics), [2.0, 1.0, 2.0]);
    counts.spans.exported(2);
    assert_eq!(told(&mut metrics), [4.0, 1.0, 0.0]);
    // The counts go on; the fork tells what came after it.
    metrics.identify(&resource("second"));
    ledger.finished();
    assert_eq!(told(&mut metrics), [0.0, 0.0, 1.0]);
}

proptest! {
    /// Whenever it is collected, what delta told adds up to what cumulative tells.
    #[test]
    fn deltas_add_up_to_the_cumulative(
        steps in prop::collection::vec((0usize..3, 0i64..100_000, 0u32..1_000, any::<bool>()), 1..40)
    ) {
        let mut metrics = metrics(BOTH);
        let mut added = Series::new();
        let mut cpu = 0.0;
        let is_level = |name: &str| {
            ["usage system", "process.memory", "file_descriptor", "processes", "count", "limit", "container", "queued"]
                .iter()
                .any(|part| name.contains(part) && !name.starts_with("gen_ai"))
        };
        let mut collect = |metrics: &mut Metrics| {
            for (name, value) in series(metrics.collect(Temporality::Delta).as_ref()) {
                // Levels are told as they are in either, and so are gauges.
                if is_level(&name) || name.contains("utilization") || name.contains("load") || name.contains("stall") {
                    added.insert(name, value);
                } else {
                    *added.entry(name).or_default() += value;
                }
            }
        };
        for (model, tokens, work, collects) in steps {
            metrics.span(&chat(["a", "b", "c"][model], tokens, f64::from(work) / 64.0));
            cpu += f64::from(work) / 64.0;
            metrics.resources(&sample(cpu, u64::from(work), u64::from(work)));
            if collects {
                collect(&mut metrics);
            }
        }
        collect(&mut metrics);
        let mut whole = series(metrics.collect(Temporality::Cumulative).as_ref());
        // A bucket without a count may not have been told.
        whole.retain(|_, value| *value != 0.0);
        added.retain(|_, value| *value != 0.0);
        prop_assert_eq!(added, whole);
    }
}
