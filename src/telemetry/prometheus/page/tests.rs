use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;

use super::*;
use crate::telemetry::metrics::Reader;

fn rendered(
    resource: &[(&'static str, &'static str)],
    measure: impl FnOnce(&opentelemetry::metrics::Meter),
) -> String {
    let pairs = resource.iter();
    let reader = Reader::new(opentelemetry_sdk::metrics::Temporality::Cumulative);
    let provider = SdkMeterProvider::builder()
        .with_resource(
            Resource::builder_empty()
                .with_attributes(pairs.map(|(key, value)| KeyValue::new(*key, *value)))
                .build(),
        )
        .with_reader(reader.clone())
        .build();
    measure(&provider.meter("test"));
    let mut metrics = ResourceMetrics::default();
    opentelemetry_sdk::metrics::reader::MetricReader::collect(&reader, &mut metrics).unwrap();
    page(&metrics)
}

#[test]
fn a_page_says_who_and_then_each_metric_in_prometheus_words() {
    let page = rendered(&[("service.name", "it")], |meter| {
        let counter = meter.f64_counter("sandtrace.cost").with_unit("USD");
        let counter = counter.with_description("Money.\nAll \\ of it").build();
        counter.add(
            0.25,
            &[KeyValue::new("gen_ai.request.model", "a \"b\" \\ c\nd")],
        );
        let histogram = meter.f64_histogram("some.duration").with_unit("s");
        let histogram = histogram
            .with_boundaries(vec![0.01, 1.0, 67_108_864.0])
            .build();
        for value in [0.005, 0.5, 0.6, 1e9] {
            histogram.record(value, &[]);
        }
        let level = meter
            .i64_up_down_counter("some.memory")
            .with_unit("By")
            .build();
        level.add(7, &[]);
        meter
            .f64_gauge("some.share")
            .with_unit("1")
            .build()
            .record(0.5, &[]);
    });
    let mut blocks: Vec<&str> = page.split_inclusive("# HELP").collect();
    // The SDK gives metrics in an order of its own.
    blocks.sort_unstable();
    let all = page.as_str();
    for expected in [
        "# HELP target_info Who is scraped.\n# TYPE target_info gauge\ntarget_info{service_name=\"it\"} 1\n",
        "# HELP sandtrace_cost_USD_total Money.\\nAll \\\\ of it\n# TYPE sandtrace_cost_USD_total counter\n\
         sandtrace_cost_USD_total{gen_ai_request_model=\"a \\\"b\\\" \\\\ c\\nd\"} 0.25\n",
        "# TYPE some_duration_seconds histogram\n\
         some_duration_seconds_bucket{le=\"0.01\"} 1\n\
         some_duration_seconds_bucket{le=\"1\"} 3\n\
         some_duration_seconds_bucket{le=\"67108864\"} 3\n\
         some_duration_seconds_bucket{le=\"+Inf\"} 4\n\
         some_duration_seconds_sum 1000000001.105\n\
         some_duration_seconds_count 4\n",
        "# TYPE some_memory_bytes gauge\nsome_memory_bytes 7\n",
        "# TYPE some_share_ratio gauge\nsome_share_ratio 0.5\n",
    ] {
        assert!(all.contains(expected), "{expected}\nis not in\n{all}");
    }
}

#[test]
fn names_and_units_are_put_together_once() {
    for (otel, unit, suffix, expected) in [
        (
            "process.cpu.time",
            "s",
            Suffix::Total,
            "process_cpu_time_seconds_total",
        ),
        (
            "process.memory.usage",
            "By",
            Suffix::Nothing,
            "process_memory_usage_bytes",
        ),
        (
            "system.cpu.utilization",
            "1",
            Suffix::Ratio,
            "system_cpu_utilization_ratio",
        ),
        (
            "gen_ai.client.token.usage",
            "{token}",
            Suffix::Nothing,
            "gen_ai_client_token_usage",
        ),
        (
            "sandtrace.runs",
            "{run}",
            Suffix::Total,
            "sandtrace_runs_total",
        ),
        (
            "wait.seconds.total",
            "s",
            Suffix::Total,
            "wait_seconds_total",
        ),
        ("2nd-try", "1", Suffix::Nothing, "_2nd_try"),
    ] {
        assert_eq!(name(otel, unit, suffix), expected);
    }
}

#[test]
fn two_keys_that_come_to_the_same_label_share_it() {
    let page = rendered(&[("a.b", "dot"), ("a_b", "line"), ("1st", "x")], |_| {});
    assert!(
        page.contains("target_info{_1st=\"x\",a_b=\"dot;line\"} 1\n"),
        "{page}"
    );
}
