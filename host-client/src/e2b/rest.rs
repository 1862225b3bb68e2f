//! E2B's REST API: sandboxes made, kept, ended (`reference/e2b.md` §4).

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::backoff::Backoff;
use super::config::Config;
use super::error::Error;
use super::http::{Call, Failed, Web};
use super::moment;

/// What all handles of one client share.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) web: Web,
    pub(super) config: Config,
}

/// A sandbox as it is told of when it is made or connected to.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Made {
    #[serde(rename = "sandboxID")]
    pub(super) id: String,
    #[serde(rename = "envdAccessToken")]
    pub(super) token: Option<String>,
    pub(super) domain: Option<String>,
}

/// A sandbox as it is told of when asked for.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Details {
    #[serde(rename = "envdAccessToken")]
    pub(super) token: Option<String>,
    #[serde(rename = "endAt")]
    end_at: Option<String>,
    state: Option<String>,
}

impl Details {
    pub(super) fn is_paused(&self) -> bool {
        self.state.as_deref() == Some("paused")
    }

    pub(super) fn ends_at(&self) -> Option<SystemTime> {
        moment::read(self.end_at.as_deref()?)
    }
}

/// What a sandbox uses at a moment, as E2B measures it from outside, every 5 s.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Metrics {
    /// Seconds since 1970.
    #[serde(default)]
    pub timestamp_unix: i64,
    /// How many CPUs it has.
    #[serde(default)]
    pub cpu_count: u32,
    /// Of all of them, percent.
    #[serde(default)]
    pub cpu_used_pct: f64,
    /// Bytes in use.
    #[serde(default)]
    pub mem_used: u64,
    /// Bytes that there are.
    #[serde(default)]
    pub mem_total: u64,
    /// Bytes of cache.
    #[serde(default)]
    pub mem_cache: u64,
    /// Bytes in use.
    #[serde(default)]
    pub disk_used: u64,
    /// Bytes that there are.
    #[serde(default)]
    pub disk_total: u64,
}

impl Api {
    pub(super) fn new(config: Config) -> Result<Self, Error> {
        if !config.debug {
            config.key()?;
        }
        let web = Web::new()?;
        Ok(Self { web, config })
    }

    pub(super) async fn create(&self, new: &Value) -> Result<Made, Error> {
        let what = "creating a sandbox";
        let body = self
            .ask(what, Method::POST, "/sandboxes", Some(new))
            .await?;
        parsed(what, &body)
    }

    /// Resumes it if it is paused, and has it live at least so long.
    pub(super) async fn connect(&self, sandbox: &str, timeout: Duration) -> Result<Made, Error> {
        let what = format!("connecting to sandbox {sandbox}");
        let path = format!("/sandboxes/{}/connect", escaped(sandbox));
        let body = json!({ "timeout": whole_seconds(timeout) });
        let body = self.ask(&what, Method::POST, &path, Some(&body)).await?;
        parsed(&what, &body)
    }

    pub(super) async fn details(&self, sandbox: &str) -> Result<Details, Error> {
        let what = format!("asking for sandbox {sandbox}");
        let path = format!("/sandboxes/{}", escaped(sandbox));
        let body = self.ask(&what, Method::GET, &path, None).await?;
        parsed(&what, &body)
    }

    pub(super) async fn set_timeout(&self, sandbox: &str, timeout: Duration) -> Result<(), Error> {
        let what = format!("setting the timeout of sandbox {sandbox}");
        let path = format!("/sandboxes/{}/timeout", escaped(sandbox));
        let body = json!({ "timeout": whole_seconds(timeout) });
        self.ask(&what, Method::POST, &path, Some(&body))
            .await
            .map(drop)
    }

    pub(super) async fn pause(&self, sandbox: &str) -> Result<(), Error> {
        let what = format!("pausing sandbox {sandbox}");
        let path = format!("/sandboxes/{}/pause", escaped(sandbox));
        let body = json!({ "memory": true });
        self.ask(&what, Method::POST, &path, Some(&body))
            .await
            .map(drop)
    }

    pub(super) async fn kill(&self, sandbox: &str) -> Result<(), Error> {
        let what = format!("killing sandbox {sandbox}");
        let path = format!("/sandboxes/{}", escaped(sandbox));
        self.ask(&what, Method::DELETE, &path, None).await.map(drop)
    }

    pub(super) async fn metrics(&self, sandbox: &str) -> Result<Vec<Metrics>, Error> {
        let what = format!("asking for the metrics of sandbox {sandbox}");
        let path = format!("/sandboxes/{}/metrics", escaped(sandbox));
        let body = self.ask(&what, Method::GET, &path, None).await?;
        parsed(&what, &body)
    }

    /// Why a sandbox was killed, in E2B's word; `None` while it is not told.
    pub(super) async fn kill_reason(&self, sandbox: &str) -> Result<Option<String>, Error> {
        let what = format!("asking for the events of sandbox {sandbox}");
        let path = format!(
            "/events/sandboxes/{}?limit=10&orderAsc=false",
            escaped(sandbox)
        );
        let body = self.ask(&what, Method::GET, &path, None).await?;
        let events: Vec<Value> = parsed(&what, &body)?;
        let mut killed = events
            .iter()
            .filter(|event| event["type"] == "sandbox.lifecycle.killed");
        let reason = killed.find_map(|event| {
            let data = event.get("eventData").or_else(|| event.get("event_data"))?;
            data.get("kill_reason")?.as_str()
        });
        Ok(reason.map(str::to_owned))
    }

    /// Asks, again and again for as long as there is no connection, as nothing is done then.
    async fn ask(
        &self,
        what: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Bytes, Error> {
        let url = self.config.api();
        let mut headers = vec![("x-api-key", self.config.key()?.to_owned())];
        if body.is_some() {
            headers.push(("content-type", "application/json".to_owned()));
        }
        let call = Call {
            method,
            url: format!("{url}{path}"),
            headers,
            body: body.map(Value::to_string).unwrap_or_default().into(),
        };
        let until = Instant::now() + self.config.connect_for;
        let mut backoff = Backoff::new();
        loop {
            let failed = match self.web.call(&call, self.config.request_timeout).await {
                Ok(answer) => return answer.accepted(what),
                Err(failed) => failed,
            };
            let wait = backoff.wait();
            if !matches!(failed, Failed::Connect(_)) || Instant::now() + wait >= until {
                return Err(failed.into_error(what, &url));
            }
            tokio::time::sleep(wait).await;
        }
    }
}

fn parsed<T: DeserializeOwned>(what: &str, body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|error| Error::Protocol {
        what: what.to_owned(),
        why: error.to_string(),
    })
}

/// A part of a path: an id has nothing to escape, and what is none shall not ask for something else.
fn escaped(part: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(byte);
    let bytes = part.bytes().map(|byte| match plain(&byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    bytes.collect()
}

/// E2B counts in whole seconds.
pub(super) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs()
        .saturating_add(u64::from(time.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::whole_seconds;

    #[test]
    fn seconds_are_rounded_up_as_far_as_there_are_any() {
        for (time, seconds) in [
            (Duration::ZERO, 0),
            (Duration::from_millis(1), 1),
            (Duration::from_secs(2), 2),
            (Duration::MAX, u64::MAX),
        ] {
            assert_eq!(whole_seconds(time), seconds);
        }
    }
}
