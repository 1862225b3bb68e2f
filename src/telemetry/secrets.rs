//! The variables that hold credentials of a telemetry backend.
//!
//! The supervisor exports, so the agent does not need them, and a prompt injection must not find them. They are taken
//! out of the agent's environment by name alone; an agent with an exporter of its own gets a variable back with
//! `--pass-env NAME`.

/// One variable, and what it opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExporterSecret {
    /// The variable's exact name.
    pub name: &'static str,
    /// What it is a credential of.
    pub of: &'static str,
}

const fn secret(name: &'static str, of: &'static str) -> ExporterSecret {
    ExporterSecret { name, of }
}

/// The published list, in the order of the documentation.
pub const EXPORTER_SECRETS: &[ExporterSecret] = &[
    secret(
        "OTEL_EXPORTER_OTLP_HEADERS",
        "any OTLP backend: usually holds `authorization`",
    ),
    secret(
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
        "the OTLP backend for traces",
    ),
    secret(
        "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
        "the OTLP backend for metrics",
    ),
    secret(
        "OTEL_EXPORTER_OTLP_LOGS_HEADERS",
        "the OTLP backend for logs",
    ),
    secret(
        "OTEL_EXPORTER_OTLP_PROFILES_HEADERS",
        "the OTLP backend for profiles",
    ),
    secret("LANGFUSE_SECRET_KEY", "Langfuse: the project's secret key"),
    secret(
        "LANGFUSE_PUBLIC_KEY",
        "Langfuse: the other half of its Basic credentials",
    ),
    secret("LANGFUSE_OTLP_HEADERS", "Langfuse: further headers"),
    secret(
        "SIGNOZ_ACCESS_TOKEN",
        "SigNoz: the older name of the ingestion key",
    ),
    secret("SIGNOZ_INGESTION_KEY", "SigNoz Cloud: the ingestion key"),
    secret("SIGNOZ_OTLP_HEADERS", "SigNoz: further headers"),
    secret("PHOENIX_API_KEY", "Phoenix: the bearer token"),
    secret(
        "PHOENIX_CLIENT_HEADERS",
        "Phoenix: headers of its client, with the token",
    ),
    secret("PHOENIX_OTLP_HEADERS", "Phoenix: further headers"),
    secret(
        "HONEYCOMB_API_KEY",
        "Honeycomb: the team's key, `x-honeycomb-team`",
    ),
    secret(
        "HONEYCOMB_TRACES_APIKEY",
        "Honeycomb: the key for traces alone",
    ),
    secret(
        "HONEYCOMB_METRICS_APIKEY",
        "Honeycomb: the key for metrics alone",
    ),
    secret("HONEYCOMB_OTLP_HEADERS", "Honeycomb: further headers"),
    secret("DD_API_KEY", "Datadog: the intake key"),
    secret(
        "DATADOG_API_KEY",
        "Datadog: the intake key under its longer name",
    ),
    secret("DD_APP_KEY", "Datadog: the application key"),
    secret("DATADOG_OTLP_HEADERS", "Datadog: further headers"),
    secret("BRAINTRUST_API_KEY", "Braintrust: the bearer token"),
    secret("BRAINTRUST_OTLP_HEADERS", "Braintrust: further headers"),
    secret(
        "GRAFANA_CLOUD_API_KEY",
        "Grafana Cloud: the older name of the access policy token",
    ),
    secret(
        "GRAFANA_CLOUD_TOKEN",
        "Grafana Cloud: the access policy token",
    ),
    secret(
        "GRAFANA_CLOUD_API_TOKEN",
        "Grafana Cloud: the same under its longer name",
    ),
    secret("GRAFANA_OTLP_HEADERS", "Grafana Cloud: further headers"),
    secret("LOGFIRE_TOKEN", "Logfire: the write token"),
    secret("LOGFIRE_OTLP_HEADERS", "Logfire: further headers"),
    secret("LANGSMITH_API_KEY", "LangSmith: `x-api-key`"),
    secret(
        "LANGCHAIN_API_KEY",
        "LangSmith: the same key under its older name",
    ),
    secret("LANGSMITH_OTLP_HEADERS", "LangSmith: further headers"),
    secret("TRACELOOP_API_KEY", "Traceloop: the bearer token"),
    secret(
        "TRACELOOP_HEADERS",
        "Traceloop: headers of its client, with the token",
    ),
    secret("TRACELOOP_OTLP_HEADERS", "Traceloop: further headers"),
    secret(
        "JAEGER_OTLP_HEADERS",
        "Jaeger: headers, if a proxy wants any",
    ),
    secret(
        "PROMETHEUS_OTLP_HEADERS",
        "Prometheus: headers of what is pushed",
    ),
];

/// Whether a variable of this name is kept from the agent.
#[must_use]
pub fn is_exporter_secret(name: &str) -> bool {
    EXPORTER_SECRETS.iter().any(|secret| secret.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_on_the_list_and_addresses_are_not() {
        for name in [
            "OTEL_EXPORTER_OTLP_HEADERS",
            "LANGFUSE_SECRET_KEY",
            "DD_API_KEY",
        ] {
            assert!(is_exporter_secret(name), "{name}");
        }
        for name in [
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "ANTHROPIC_API_KEY",
            "LANGFUSE_HOST",
            "dd_api_key",
        ] {
            assert!(!is_exporter_secret(name), "{name}");
        }
    }

    #[test]
    fn no_name_is_listed_twice() {
        for (index, secret) in EXPORTER_SECRETS.iter().enumerate() {
            assert!(
                EXPORTER_SECRETS[..index]
                    .iter()
                    .all(|other| other.name != secret.name)
            );
        }
    }
}
