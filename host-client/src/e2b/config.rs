//! How E2B is reached.

use std::time::Duration;

use super::error::Error;

/// Domains on which one host name serves every sandbox (`reference/e2b.md` §3).
const SHARED_HOST: [&str; 3] = ["e2b.app", "e2b.dev", "e2b.pro"];

/// The port of envd, the daemon that starts processes in a sandbox.
pub(super) const ENVD_PORT: u16 = 49_983;

/// How E2B is reached, in the words of E2B's own SDKs.
#[derive(Clone)]
#[non_exhaustive]
pub struct Config {
    /// `E2B_API_KEY`. Not needed in debug mode.
    pub api_key: Option<String>,
    /// `E2B_DOMAIN`, by default `e2b.app`.
    pub domain: String,
    /// `E2B_API_URL`: the REST API, instead of `https://api.DOMAIN`.
    pub api_url: Option<String>,
    /// `E2B_SANDBOX_URL`: every sandbox's envd, instead of a host name made of the domain.
    pub sandbox_url: Option<String>,
    /// `E2B_DEBUG`: there is one sandbox, at `sandbox_url` or `http://localhost:49983`, and the REST API is not asked.
    pub debug: bool,
    /// Who processes belong to in the sandbox; by default the template's user.
    pub user: Option<String>,
    /// How long an answer may take. It bounds no run.
    pub request_timeout: Duration,
    /// How often a quiet stream gives a sign of life, whole seconds. One that is silent for three times as long counts as
    /// broken.
    pub keepalive: Duration,
    /// How long a connection is tried to be made for what was not begun yet.
    pub connect_for: Duration,
    /// How long a run is looked for whose stream broke, before it counts as lost.
    pub reconnect_for: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            api_key: None,
            domain: "e2b.app".to_owned(),
            api_url: None,
            sandbox_url: None,
            debug: false,
            user: None,
            request_timeout: Duration::from_secs(60),
            keepalive: Duration::from_secs(15),
            connect_for: Duration::from_secs(10),
            reconnect_for: Duration::from_secs(120),
        }
    }
}

impl Config {
    /// What the environment says.
    #[must_use]
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// What some variables say; an empty one is none.
    pub fn from_variables(value: impl Fn(&str) -> Option<String>) -> Self {
        let value = |name| value(name).filter(|value| !value.is_empty());
        let default = Self::default();
        Self {
            api_key: value("E2B_API_KEY"),
            domain: value("E2B_DOMAIN").unwrap_or(default.domain),
            api_url: value("E2B_API_URL"),
            sandbox_url: value("E2B_SANDBOX_URL"),
            debug: value("E2B_DEBUG").is_some_and(|debug| debug.eq_ignore_ascii_case("true")),
            ..Self::default()
        }
    }

    /// With this API key.
    #[must_use]
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = Some(key.into());
        self
    }

    /// With both the REST API and envd at one URL, as a test's double has them.
    #[must_use]
    pub fn all_at(mut self, url: impl Into<String>) -> Self {
        let url = url.into();
        self.api_url = Some(url.clone());
        self.sandbox_url = Some(url);
        self
    }

    /// The REST API, without a last slash.
    pub(super) fn api(&self) -> String {
        let url = match &self.api_url {
            Some(url) => url.clone(),
            None if self.debug => "http://localhost:3000".to_owned(),
            None => format!("https://api.{}", self.domain),
        };
        url.trim_end_matches('/').to_owned()
    }

    /// A sandbox's envd, without a last slash. `domain` is what the API said of this sandbox, if anything.
    pub(super) fn envd(&self, sandbox: &str, domain: Option<&str>) -> String {
        let domain = domain.unwrap_or(&self.domain);
        let url = match &self.sandbox_url {
            Some(url) => url.clone(),
            None if self.debug => format!("http://localhost:{ENVD_PORT}"),
            None if SHARED_HOST.contains(&domain) => format!("https://sandbox.{domain}"),
            None => format!("https://{ENVD_PORT}-{sandbox}.{domain}"),
        };
        url.trim_end_matches('/').to_owned()
    }

    /// The key, where one is needed.
    pub(super) fn key(&self) -> Result<&str, Error> {
        let missing = "no E2B API key: set E2B_API_KEY, or Config::api_key";
        let unfit = "the E2B API key holds a line break or another character that no HTTP header can have: check E2B_API_KEY, or Config::api_key";
        let key = self.api_key.as_deref();
        let key = key.ok_or_else(|| Error::Config(missing.to_owned()))?;
        match http::HeaderValue::from_str(key) {
            Ok(_) => Ok(key),
            Err(_) => Err(Error::Config(unfit.to_owned())),
        }
    }

    /// Whether the URLs are some. They are not repeated, for they may hold a password.
    pub(super) fn check_urls(&self) -> Result<(), Error> {
        for (url, name) in [
            (self.api(), "E2B_API_URL or E2B_DOMAIN"),
            (self.envd("sandbox", None), "E2B_SANDBOX_URL or E2B_DOMAIN"),
        ] {
            let uri = url.parse::<http::Uri>().ok();
            let is_one = uri.is_some_and(|uri| {
                matches!(uri.scheme_str(), Some("http" | "https"))
                    && uri.host().is_some_and(|host| !host.is_empty())
            });
            if !is_one {
                let why =
                    format!("{name} makes no URL of the form https://HOST or http://HOST:PORT");
                return Err(Error::Config(why));
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("api_key", &self.api_key.as_ref().map(|_| "…"))
            .field("domain", &self.domain)
            .field("api_url", &self.api_url)
            .field("sandbox_url", &self.sandbox_url)
            .field("debug", &self.debug)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::Config;

    fn config(variables: &[(&str, &str)]) -> Config {
        Config::from_variables(|wanted| {
            let found = variables.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn e2bs_own_variables_say_where_it_is() {
        for (variables, api, envd) in [
            (&[][..], "https://api.e2b.app", "https://sandbox.e2b.app"),
            (
                &[("E2B_DOMAIN", "")],
                "https://api.e2b.app",
                "https://sandbox.e2b.app",
            ),
            (
                &[("E2B_DOMAIN", "e2b.dev")],
                "https://api.e2b.dev",
                "https://sandbox.e2b.dev",
            ),
            (
                &[("E2B_DOMAIN", "e2b.example.com")],
                "https://api.e2b.example.com",
                "https://49983-i1.e2b.example.com",
            ),
            (
                &[("E2B_DEBUG", "True")],
                "http://localhost:3000",
                "http://localhost:49983",
            ),
            (
                &[
                    ("E2B_API_URL", "http://here:1/"),
                    ("E2B_SANDBOX_URL", "http://there:2/"),
                ],
                "http://here:1",
                "http://there:2",
            ),
        ] {
            let config = config(variables);
            assert_eq!(
                (config.api().as_str(), config.envd("i1", None).as_str()),
                (api, envd)
            );
        }
        let config = config(&[]);
        assert_eq!(
            config.envd("i1", Some("e2b.pro")),
            "https://sandbox.e2b.pro"
        );
    }

    #[test]
    fn the_key_is_not_printed() {
        let config = Config::default().api_key("e2b_secret");
        assert!(!format!("{config:?}").contains("secret"));
        assert!(Config::default().key().is_err());
    }

    #[test]
    fn a_key_or_a_url_that_cannot_be_sent_is_refused_without_being_repeated() {
        let broken = Config::default().api_key("e2b_hush\n");
        let error = broken.key().unwrap_err().to_string();
        assert!(
            error.contains("E2B_API_KEY") && !error.contains("hush"),
            "{error}"
        );
        assert!(Config::default().check_urls().is_ok());
        assert!(
            Config::default()
                .all_at("http://127.0.0.1:8080")
                .check_urls()
                .is_ok()
        );
        for url in [
            "hush",
            "hush.example:1",
            "ftp://hush",
            "http://",
            "https://hush hush",
        ] {
            let error = Config::default()
                .all_at(url)
                .check_urls()
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("E2B_API_URL") && !error.contains("hush"),
                "{error}"
            );
        }
    }
}
