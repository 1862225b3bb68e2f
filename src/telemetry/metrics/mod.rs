//! Metrics, measured from finished spans and from samples of the sandbox.
//!
//! The SDK's instruments and aggregation, without its threads: the export thread measures, and collects when it is time.
//! A reader for each temporality that some destination wants; what nobody wants is not measured.

mod instruments;
mod pipeline;
mod resources;
mod spans;

use std::sync::{Arc, Weak};
use std::time::Duration;

use opentelemetry::InstrumentationScope;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{
    Instrument, InstrumentKind, ManualReader, Pipeline, SdkMeterProvider, Stream, Temporality,
};
use sandtrace_client::wire;

use self::instruments::Instruments;
use self::pipeline::PipelineInstruments;
use self::resources::ResourceInstruments;
use self::spans::Books;
use super::counts::Ledger;
use crate::session::span::FinishedSpan;

/// The most sets of attributes of one metric; what comes beyond is one series, marked `otel.metric.overflow`. The SDK's
/// own limit is 2000, and it makes room for all of them in advance.
const CARDINALITY: usize = 240;

/// All instruments of a run.
#[derive(Debug)]
pub(super) struct Metrics {
    ledger: Arc<Ledger>,
    books: Books,
    /// `None` if nobody wants metrics.
    set: Option<InstrumentSet>,
}

impl Metrics {
    /// Metrics for destinations that want these temporalities.
    pub(super) fn new(resource: &Resource, wanted: &[Temporality], ledger: Arc<Ledger>) -> Self {
        Self {
            ledger,
            books: Books::default(),
            set: (!wanted.is_empty()).then(|| InstrumentSet::new(resource, wanted)),
        }
    }

    /// Says from now on that the metrics are somebody else's, who starts from zero.
    pub(super) fn identify(&mut self, resource: &Resource) {
        self.set = self.set.take().map(|set| set.anew(resource));
    }

    /// Measures what a span says.
    pub(super) fn span(&mut self, span: &FinishedSpan) {
        if let Some(set) = &self.set {
            for measurement in self.books.measure(span) {
                set.spans.record(&measurement);
            }
        }
    }

    /// Measures a sample of the sandbox.
    pub(super) fn resources(&mut self, resources: &wire::Resources) {
        if let Some(set) = &mut self.set {
            set.resources.measure(resources);
        }
    }

    /// All that is to be told now; `None` if that is nothing. Delta is told once.
    pub(super) fn collect(&mut self, temporality: Temporality) -> Option<ResourceMetrics> {
        let set = self.set.as_mut()?;
        set.pipeline.measure(&self.ledger.report());
        let mut readers = set.readers.iter();
        let (_, reader) = readers.find(|(kind, _)| *kind == temporality)?;
        let mut metrics = ResourceMetrics::default();
        reader.collect(&mut metrics).ok()?;
        (points(&metrics) > 0).then_some(metrics)
    }
}

/// The instruments of one identity.
#[derive(Debug)]
struct InstrumentSet {
    readers: Vec<(Temporality, Reader)>,
    /// Keeps what the readers collect from.
    _provider: SdkMeterProvider,
    spans: Instruments,
    resources: ResourceInstruments,
    pipeline: PipelineInstruments,
}

impl InstrumentSet {
    fn new(resource: &Resource, wanted: &[Temporality]) -> Self {
        let (readers, provider) = provide(resource, wanted);
        let meter = provider.meter_with_scope(scope());
        Self {
            spans: Instruments::new(&meter),
            resources: ResourceInstruments::new(&meter),
            pipeline: PipelineInstruments::new(&meter),
            readers,
            _provider: provider,
        }
    }

    fn anew(self, resource: &Resource) -> Self {
        let wanted: Vec<_> = self.readers.iter().map(|(kind, _)| *kind).collect();
        let (readers, provider) = provide(resource, &wanted);
        let meter = provider.meter_with_scope(scope());
        Self {
            spans: Instruments::new(&meter),
            resources: self.resources.anew(&meter),
            pipeline: self.pipeline.anew(&meter),
            readers,
            _provider: provider,
        }
    }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope::builder("sandtrace")
        .with_version(env!("CARGO_PKG_VERSION"))
        .build()
}

fn provide(
    resource: &Resource,
    wanted: &[Temporality],
) -> (Vec<(Temporality, Reader)>, SdkMeterProvider) {
    let bounded = |_: &Instrument| {
        let stream = Stream::builder().with_cardinality_limit(CARDINALITY);
        stream.build().ok()
    };
    let mut builder = SdkMeterProvider::builder()
        .with_resource(resource.clone())
        .with_view(bounded);
    let mut readers: Vec<(Temporality, Reader)> = Vec::new();
    for temporality in wanted {
        if readers.iter().any(|(kind, _)| kind == temporality) {
            continue;
        }
        let reader = Reader::new(*temporality);
        builder = builder.with_reader(reader.clone());
        readers.push((*temporality, reader));
    }
    (readers, builder.build())
}

/// The SDK's reader that reads when asked. Shared, for the provider wants to own it, and gives it to nobody.
#[derive(Debug, Clone)]
pub(super) struct Reader(Arc<ManualReader>);

impl Reader {
    pub(super) fn new(temporality: Temporality) -> Self {
        let reader = ManualReader::builder().with_temporality(temporality);
        Self(Arc::new(reader.build()))
    }
}

impl MetricReader for Reader {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}

/// How many data points there are.
pub(super) fn points(metrics: &ResourceMetrics) -> u64 {
    let scopes = metrics.scope_metrics();
    let all = scopes.flat_map(|scope| scope.metrics());
    let counts = all.map(|metric| match metric.data() {
        AggregatedMetrics::F64(data) => points_of(data),
        AggregatedMetrics::U64(data) => points_of(data),
        AggregatedMetrics::I64(data) => points_of(data),
    });
    counts.sum::<usize>() as u64
}

fn points_of<T>(data: &MetricData<T>) -> usize {
    match data {
        MetricData::Gauge(it) => it.data_points().count(),
        MetricData::Sum(it) => it.data_points().count(),
        MetricData::Histogram(it) => it.data_points().count(),
        MetricData::ExponentialHistogram(it) => it.data_points().count(),
    }
}

#[cfg(test)]
mod tests;
