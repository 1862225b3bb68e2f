//! Metrics in Prometheus' text format 0.0.4, named as Prometheus itself names what comes to it by OTLP: dots become
//! underscores, the unit goes to the end, and so does `_total` of what only rises.

use std::fmt::{Display, Write as _};

use crate::order::by_name;
use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::metrics::data::{
    AggregatedMetrics, Metric, MetricData, ResourceMetrics, Sum,
};

/// The whole page. Metrics must be cumulative.
pub(in crate::telemetry) fn page(metrics: &ResourceMetrics) -> String {
    let mut page = String::new();
    let resource = metrics.resource().iter();
    let who = labels(resource.map(|(key, value)| (key.as_str(), value)));
    head(&mut page, "target_info", "gauge", "Who is scraped.");
    sample(&mut page, "target_info", &who, None, 1);
    for metric in metrics.scope_metrics().flat_map(|scope| scope.metrics()) {
        match metric.data() {
            AggregatedMetrics::F64(data) => family(&mut page, metric, data),
            AggregatedMetrics::U64(data) => family(&mut page, metric, data),
            AggregatedMetrics::I64(data) => family(&mut page, metric, data),
        }
    }
    page
}

fn family<T: Copy + Display>(page: &mut String, metric: &Metric, data: &MetricData<T>) {
    let name = name(metric.name(), metric.unit(), suffix(data));
    let about = metric.description();
    match data {
        MetricData::Gauge(gauge) => {
            head(page, &name, "gauge", about);
            for point in gauge.data_points() {
                sample(page, &name, &own(point.attributes()), None, point.value());
            }
        }
        MetricData::Sum(sum) => {
            head(page, &name, kind(sum), about);
            for point in sum.data_points() {
                sample(page, &name, &own(point.attributes()), None, point.value());
            }
        }
        MetricData::Histogram(histogram) => {
            head(page, &name, "histogram", about);
            for point in histogram.data_points() {
                let labels = own(point.attributes());
                let bucket = format!("{name}_bucket");
                let mut below = 0;
                let bounds = point.bounds().map(|bound| bound.to_string());
                let bounds = bounds.chain(["+Inf".to_owned()]);
                for (bound, count) in bounds.zip(point.bucket_counts()) {
                    below += count;
                    sample(page, &bucket, &labels, Some(&bound), below);
                }
                sample(page, &format!("{name}_sum"), &labels, None, point.sum());
                sample(page, &format!("{name}_count"), &labels, None, point.count());
            }
        }
        // None of our instruments makes one.
        MetricData::ExponentialHistogram(_) => {}
    }
}

fn kind<T>(sum: &Sum<T>) -> &'static str {
    if sum.is_monotonic() {
        "counter"
    } else {
        "gauge"
    }
}

/// What a name ends with, besides the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Suffix {
    Total,
    /// A gauge without a dimension is a ratio.
    Ratio,
    Nothing,
}

fn suffix<T>(data: &MetricData<T>) -> Suffix {
    match data {
        MetricData::Sum(sum) if sum.is_monotonic() => Suffix::Total,
        MetricData::Gauge(_) => Suffix::Ratio,
        _ => Suffix::Nothing,
    }
}

fn name(name: &str, unit: &str, suffix: Suffix) -> String {
    let mut name = word(name);
    let unit = match unit {
        "s" => "seconds",
        "By" => "bytes",
        "1" if suffix == Suffix::Ratio => "ratio",
        "1" => "",
        annotation if annotation.starts_with('{') => "",
        other => other,
    };
    for end in [unit, if suffix == Suffix::Total { "total" } else { "" }] {
        if !end.is_empty() && !name.split('_').any(|part| part == end) {
            name.push('_');
            name.push_str(&word(end));
        }
    }
    name
}

/// A text as a name: letters, digits and underscores, no digit first.
fn word(text: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric();
    let letters = text.chars();
    let word: String = letters
        .map(|letter| if is_plain(letter) { letter } else { '_' })
        .collect();
    if word.starts_with(|first: char| first.is_ascii_digit()) {
        format!("_{word}")
    } else {
        word
    }
}

fn own<'a>(attributes: impl Iterator<Item = &'a KeyValue>) -> String {
    labels(attributes.map(|pair| (pair.key.as_str(), &pair.value)))
}

/// Labels, each name once: Prometheus refuses a whole page for one that stands twice. Two keys that come to the same
/// name share it.
fn labels<'a>(attributes: impl Iterator<Item = (&'a str, &'a Value)>) -> String {
    let sorted = by_name(attributes.collect(), |(key, _)| key);
    let mut labels: Vec<(String, String)> = Vec::new();
    for (key, value) in sorted {
        let (name, value) = (word(key), escaped(&value.as_str(), true));
        match labels.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => {
                known.push(';');
                known.push_str(&value);
            }
            None => labels.push((name, value)),
        }
    }
    let pairs = by_name(labels, |(name, _)| name).into_iter();
    let pairs: Vec<_> = pairs
        .map(|(name, value)| format!("{name}=\"{value}\""))
        .collect();
    pairs.join(",")
}

fn escaped(text: &str, quoted: bool) -> String {
    let text = text.replace('\\', r"\\").replace('\n', r"\n");
    if quoted {
        text.replace('"', "\\\"")
    } else {
        text
    }
}

fn head(page: &mut String, name: &str, kind: &str, about: &str) {
    let about = escaped(about, false);
    // Writing to a String cannot fail.
    write!(page, "# HELP {name} {about}\n# TYPE {name} {kind}\n").unwrap_or_default();
}

fn sample(page: &mut String, name: &str, labels: &str, bound: Option<&str>, value: impl Display) {
    let written = match (labels, bound) {
        ("", None) => writeln!(page, "{name} {value}"),
        ("", Some(bound)) => writeln!(page, "{name}{{le=\"{bound}\"}} {value}"),
        (_, None) => writeln!(page, "{name}{{{labels}}} {value}"),
        (_, Some(bound)) => writeln!(page, "{name}{{{labels},le=\"{bound}\"}} {value}"),
    };
    written.unwrap_or_default();
}

#[cfg(test)]
mod tests;
