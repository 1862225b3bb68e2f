//! The rows. Where a fact comes from stands above its row: `observability.md` is the project's reference of that name,
//! the rest are the vendors' own pages and sources, as of 2026.

use super::row::{Backend, Counting, Header, Holds, Names, Need, Origin, Own, Place, Speaks};
use crate::telemetry::destination::{Compression, Dialect, Signals, Temporality};

/// Every backend that OTEL_EXPORTERS knows by name.
pub(in super::super) static BACKENDS: [&Backend; 12] = [
    &LANGFUSE,
    &SIGNOZ,
    &PHOENIX,
    &HONEYCOMB,
    &DATADOG,
    &BRAINTRUST,
    &GRAFANA,
    &LOGFIRE,
    &LANGSMITH,
    &TRACELOOP,
    &JAEGER,
    &PROMETHEUS_PUSH,
];

const TRACES: Signals = Signals {
    traces: true,
    metrics: false,
    logs: false,
};
const METRICS: Signals = Signals {
    traces: false,
    metrics: true,
    logs: false,
};
const LOGS: Signals = Signals {
    traces: false,
    metrics: false,
    logs: true,
};
const AUTHORIZATION: &str = "authorization";
const CUMULATIVE: Counting = Counting::Prefers(Temporality::Cumulative);

macro_rules! own {
    ($prefix:literal) => {
        Own {
            endpoint: concat!($prefix, "_OTLP_ENDPOINT"),
            headers: concat!($prefix, "_OTLP_HEADERS"),
            protocol: concat!($prefix, "_OTLP_PROTOCOL"),
            compression: concat!($prefix, "_OTLP_COMPRESSION"),
            timeout: concat!($prefix, "_OTLP_TIMEOUT"),
            certificate: concat!($prefix, "_OTLP_CERTIFICATE"),
        }
    };
}

/// A header of every request.
const fn always(name: &'static str, is: Holds) -> Header {
    of(Signals::ALL, name, is)
}

/// A header of the requests for these signals.
const fn of(signals: Signals, name: &'static str, is: Holds) -> Header {
    Header { name, is, signals }
}

// langfuse.com/integrations/native/opentelemetry: path, Basic with the project's keys, ingestion version 4 for real
// time, protobuf and JSON, no gRPC. observability.md §2.1: gzip is read; metrics are taken and thrown away, logs
// refused, so neither is sent. LANGFUSE_BASE_URL is what the SDKs call LANGFUSE_HOST since 3.
static LANGFUSE: Backend = Backend {
    name: "langfuse",
    own: own!("LANGFUSE"),
    signals: TRACES,
    place: Place {
        sites: &["LANGFUSE_HOST", "LANGFUSE_BASE_URL"],
        path: "/api/public/otel",
        origin: Origin::Site("https://cloud.langfuse.com"),
    },
    headers: &[
        always(
            AUTHORIZATION,
            Holds::Basic(
                &["LANGFUSE_PUBLIC_KEY"],
                &["LANGFUSE_SECRET_KEY"],
                Need::Always,
            ),
        ),
        always("x-langfuse-ingestion-version", Holds::Fixed("4")),
    ],
    lists: &[],
    resource: &[],
    speaks: Speaks::ProtobufAndJson,
    compression: Compression::Gzip,
    dialect: Dialect::Langfuse,
    counts: CUMULATIVE,
};

// signoz.io/docs/ingestion/signoz-cloud/overview and .../self-hosted/overview: ingest.REGION.signoz.cloud:443 for both
// protocols with signoz-ingestion-key, once called signoz-access-token; a server of one's own has no key, on 4317 and
// 4318. There is no address to guess: the region is part of it.
static SIGNOZ: Backend = Backend {
    name: "signoz",
    own: own!("SIGNOZ"),
    signals: Signals::ALL,
    place: Place {
        sites: &["SIGNOZ_ENDPOINT"],
        path: "",
        origin: Origin::Said("SIGNOZ_ENDPOINT, for instance to https://ingest.eu.signoz.cloud"),
    },
    headers: &[
        always(
            "signoz-ingestion-key",
            Holds::Raw(&["SIGNOZ_INGESTION_KEY"], Need::Never),
        ),
        always(
            "signoz-access-token",
            Holds::Raw(&["SIGNOZ_ACCESS_TOKEN"], Need::Never),
        ),
    ],
    lists: &[],
    resource: &[],
    speaks: Speaks::All,
    compression: Compression::Gzip,
    dialect: Dialect::Signoz,
    counts: CUMULATIVE,
};

// Arize-ai/phoenix, packages/phoenix-otel/src/phoenix/otel/settings.py: the variables and which of them wins, Bearer.
// observability.md §2.1: protobuf only (415 on JSON), gzip, gRPC, the project by a resource attribute.
static PHOENIX: Backend = Backend {
    name: "phoenix",
    own: own!("PHOENIX"),
    signals: TRACES,
    place: Place {
        sites: &["PHOENIX_COLLECTOR_ENDPOINT"],
        path: "",
        origin: Origin::Local {
            http: 6006,
            grpc: 4317,
        },
    },
    headers: &[always(
        AUTHORIZATION,
        Holds::Bearer(&["PHOENIX_API_KEY"], Need::Never),
    )],
    lists: &["PHOENIX_CLIENT_HEADERS"],
    resource: &[(
        "openinference.project.name",
        &["PHOENIX_PROJECT", "PHOENIX_PROJECT_NAME"],
    )],
    speaks: Speaks::ProtobufAndGrpc,
    compression: Compression::Gzip,
    dialect: Dialect::Phoenix,
    counts: CUMULATIVE,
};

// honeycombio/honeycomb-opentelemetry-python, options.py, and docs.honeycomb.io/send-data/opentelemetry: the variables,
// a key and a data set of their own for metrics, all three protocols. The data set for spans counts with classic keys
// only, elsewhere it is ignored.
static HONEYCOMB: Backend = Backend {
    name: "honeycomb",
    own: own!("HONEYCOMB"),
    signals: Signals::ALL,
    place: Place {
        sites: &["HONEYCOMB_API_ENDPOINT"],
        path: "",
        origin: Origin::Site("https://api.honeycomb.io"),
    },
    headers: &[
        of(
            TRACES,
            HONEYCOMB_TEAM,
            Holds::Raw(
                &["HONEYCOMB_TRACES_APIKEY", "HONEYCOMB_API_KEY"],
                Need::Always,
            ),
        ),
        of(
            METRICS,
            HONEYCOMB_TEAM,
            Holds::Raw(
                &["HONEYCOMB_METRICS_APIKEY", "HONEYCOMB_API_KEY"],
                Need::Always,
            ),
        ),
        of(
            LOGS,
            HONEYCOMB_TEAM,
            Holds::Raw(&["HONEYCOMB_API_KEY"], Need::Always),
        ),
        of(
            TRACES,
            HONEYCOMB_DATASET,
            Holds::Plain(&["HONEYCOMB_DATASET"], None),
        ),
        of(
            METRICS,
            HONEYCOMB_DATASET,
            Holds::Plain(&["HONEYCOMB_METRICS_DATASET"], None),
        ),
    ],
    lists: &[],
    resource: &[],
    speaks: Speaks::All,
    compression: Compression::Gzip,
    dialect: Dialect::Honeycomb,
    counts: CUMULATIVE,
};
const HONEYCOMB_TEAM: &str = "x-honeycomb-team";
const HONEYCOMB_DATASET: &str = "x-honeycomb-dataset";

// docs.datadoghq.com/llm_observability/instrumentation/otel_instrumentation and .../opentelemetry/setup/agentless:
// otlp.SITE, protobuf over HTTP only, dd-api-key, and metrics as deltas. dd-otlp-source=llmobs brings spans to LLM
// Observability; some editions of that page say `datadog`, which DATADOG_OTLP_HEADERS can say too.
static DATADOG: Backend = Backend {
    name: "datadog",
    own: own!("DATADOG"),
    signals: Signals::ALL,
    place: Place {
        sites: &[],
        path: "",
        origin: Origin::Part {
            before: "https://otlp.",
            variables: &["DD_SITE"],
            usual: Some("datadoghq.com"),
            after: "",
            example: "datadoghq.eu",
        },
    },
    headers: &[
        always(
            "dd-api-key",
            Holds::Raw(&["DD_API_KEY", "DATADOG_API_KEY"], Need::Always),
        ),
        of(TRACES, "dd-otlp-source", Holds::Fixed("llmobs")),
    ],
    lists: &[],
    resource: &[],
    speaks: Speaks::Protobuf,
    compression: Compression::Gzip,
    dialect: Dialect::Datadog,
    counts: Counting::Only(Temporality::Delta),
};

// www.braintrust.dev/docs/integrations/sdk-integrations/opentelemetry and the SDK's braintrust/otel: the variables,
// Bearer, the parent and what it is if nobody says so. Logs would be taken, but observability.md §2.1: each becomes a
// row beside the spans, so none are sent.
static BRAINTRUST: Backend = Backend {
    name: "braintrust",
    own: own!("BRAINTRUST"),
    signals: TRACES,
    place: Place {
        sites: &["BRAINTRUST_API_URL"],
        path: "/otel",
        origin: Origin::Site("https://api.braintrust.dev"),
    },
    headers: &[
        always(
            AUTHORIZATION,
            Holds::Bearer(&["BRAINTRUST_API_KEY"], Need::Always),
        ),
        always(
            "x-bt-parent",
            Holds::Plain(
                &["BRAINTRUST_PARENT"],
                Some("project_name:default-otel-project"),
            ),
        ),
    ],
    lists: &[],
    resource: &[],
    speaks: Speaks::ProtobufAndJson,
    compression: Compression::None,
    dialect: Dialect::Braintrust,
    counts: CUMULATIVE,
};

// grafana.com/docs/grafana-cloud/observe-and-act/send-data/otlp/send-data-otlp: otlp-gateway-ZONE.grafana.net/otlp,
// Basic with instance and token, over HTTP. The vendor names no variables but OpenTelemetry's; these are the usual
// ones. Its metrics store takes cumulative counters only.
static GRAFANA: Backend = Backend {
    name: "grafana",
    own: own!("GRAFANA"),
    signals: Signals::ALL,
    place: Place {
        sites: &["GRAFANA_CLOUD_OTLP_ENDPOINT"],
        path: "/otlp",
        origin: Origin::Part {
            before: "https://otlp-gateway-",
            variables: &["GRAFANA_CLOUD_ZONE"],
            usual: None,
            after: ".grafana.net",
            example: "prod-eu-west-2",
        },
    },
    headers: &[always(
        AUTHORIZATION,
        Holds::Basic(GRAFANA_INSTANCE, GRAFANA_TOKEN, Need::Always),
    )],
    lists: &[],
    resource: &[],
    speaks: Speaks::ProtobufAndJson,
    compression: Compression::Gzip,
    dialect: Dialect::Grafana,
    counts: Counting::Only(Temporality::Cumulative),
};
const GRAFANA_INSTANCE: Names = &["GRAFANA_CLOUD_INSTANCE_ID"];
const GRAFANA_TOKEN: Names = &[
    "GRAFANA_CLOUD_TOKEN",
    "GRAFANA_CLOUD_API_TOKEN",
    "GRAFANA_CLOUD_API_KEY",
];

// logfire.pydantic.dev/docs/how-to-guides/alternative-clients: the two regions, the raw token, protobuf and JSON over
// HTTP, all three signals. The SDK takes the region from the token (`pylf_v1_eu_...`), and the first region else.
static LOGFIRE: Backend = Backend {
    name: "logfire",
    own: own!("LOGFIRE"),
    signals: Signals::ALL,
    place: Place {
        sites: &["LOGFIRE_BASE_URL"],
        path: "",
        origin: Origin::Region {
            before: "https://logfire-",
            token: "LOGFIRE_TOKEN",
            regions: &["us", "eu"],
            after: ".pydantic.dev",
        },
    },
    headers: &[always(
        AUTHORIZATION,
        Holds::Raw(&["LOGFIRE_TOKEN"], Need::Always),
    )],
    lists: &[],
    resource: &[],
    speaks: Speaks::ProtobufAndJson,
    compression: Compression::Gzip,
    dialect: Dialect::Logfire,
    counts: CUMULATIVE,
};

// docs.langchain.com/langsmith/trace-with-opentelemetry: ENDPOINT/otel, also below /api/v1 of a server of one's own,
// x-api-key, Langsmith-Project. X-Tenant-Id is how the SDK says LANGSMITH_WORKSPACE_ID. LANGCHAIN_* are older names.
static LANGSMITH: Backend = Backend {
    name: "langsmith",
    own: own!("LANGSMITH"),
    signals: TRACES,
    place: Place {
        sites: &["LANGSMITH_ENDPOINT", "LANGCHAIN_ENDPOINT"],
        path: "/otel",
        origin: Origin::Site("https://api.smith.langchain.com"),
    },
    headers: &[
        always(
            "x-api-key",
            Holds::Raw(&["LANGSMITH_API_KEY", "LANGCHAIN_API_KEY"], Need::Always),
        ),
        always(
            "langsmith-project",
            Holds::Plain(&["LANGSMITH_PROJECT", "LANGCHAIN_PROJECT"], None),
        ),
        always(
            "x-tenant-id",
            Holds::Plain(&["LANGSMITH_WORKSPACE_ID"], None),
        ),
    ],
    lists: &[],
    resource: &[],
    speaks: Speaks::Protobuf,
    compression: Compression::None,
    dialect: Dialect::Langsmith,
    counts: CUMULATIVE,
};

// traceloop/openllmetry, packages/traceloop-sdk/traceloop/sdk/__init__.py: the variables; the key is needed at the
// vendor's own address, and a list of headers takes its place; spans and metrics by default.
static TRACELOOP: Backend = Backend {
    name: "traceloop",
    own: own!("TRACELOOP"),
    signals: Signals {
        traces: true,
        metrics: true,
        logs: false,
    },
    place: Place {
        sites: &["TRACELOOP_BASE_URL"],
        path: "",
        origin: Origin::Site("https://api.traceloop.com"),
    },
    headers: &[always(
        AUTHORIZATION,
        Holds::Bearer(&["TRACELOOP_API_KEY"], Need::AtHome),
    )],
    lists: &["TRACELOOP_HEADERS"],
    resource: &[],
    speaks: Speaks::ProtobufAndGrpc,
    compression: Compression::None,
    dialect: Dialect::Traceloop,
    counts: CUMULATIVE,
};

// observability.md §2.1: OTLP on 4317 and 4318, traces only, no key. The variables of Jaeger's retired clients
// (JAEGER_ENDPOINT and the like) name ports that speak another protocol, so they are not read.
static JAEGER: Backend = Backend {
    name: "jaeger",
    own: own!("JAEGER"),
    signals: TRACES,
    place: Place {
        sites: &[],
        path: "",
        origin: Origin::Local {
            http: 4318,
            grpc: 4317,
        },
    },
    headers: &[],
    lists: &[],
    resource: &[],
    speaks: Speaks::All,
    compression: Compression::None,
    dialect: Dialect::Jaeger,
    counts: CUMULATIVE,
};

// prometheus.io/docs/guides/opentelemetry: --web.enable-otlp-receiver, the path, cumulative counters. There are no
// variables but OpenTelemetry's. Named alone by its own name, and beside the page by `prometheus` where its address is
// set.
pub(in super::super) static PROMETHEUS_PUSH: Backend = Backend {
    name: "prometheus-push",
    own: own!("PROMETHEUS"),
    signals: METRICS,
    place: Place {
        sites: &[],
        path: "/api/v1/otlp",
        origin: Origin::Local {
            http: 9090,
            grpc: 9090,
        },
    },
    headers: &[],
    lists: &[],
    resource: &[],
    speaks: Speaks::Protobuf,
    compression: Compression::None,
    dialect: Dialect::Prometheus,
    counts: Counting::Only(Temporality::Cumulative),
};
