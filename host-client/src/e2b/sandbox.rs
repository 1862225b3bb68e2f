//! A sandbox: made, kept, ended, and runs started in it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::config::Config;
use super::error::Error;
use super::moment;
use super::rest::{Api, Made, Metrics, whole_seconds};
use super::start;
use super::stream::Stream;
use super::telemetry::{Recorder, Trace};
use crate::launch::Launch;
use crate::live::{Asked, Live};
use crate::run::{Loss, LossReason};

/// How long a sandbox lives when nothing else is asked for, as E2B's SDKs have it. The API's own default is 15 s.
const TIMEOUT: Duration = Duration::from_secs(300);

/// The one sandbox of debug mode, by the name that E2B's SDKs give it.
const DEBUG_SANDBOX: &str = "debug_sandbox_id";

/// What a run needs after its deadline: to stop the agent, to say how it ended, to send its telemetry. A sandbox that
/// was made with a timeout of a minute more than the deadline has this even if it took its time to start.
const GOODBYE: Duration = Duration::from_secs(60);
const GOODBYE_AT_LEAST: Duration = Duration::from_secs(30);

/// How often, and how long after each other, E2B is asked why a sandbox was killed: its events come a little late.
const REASON_TRIES: u32 = 5;
const REASON_WAIT: Duration = Duration::from_millis(500);

/// A sandbox that was over this long before its time was not ended by its timeout.
const TIMEOUT_SLACK: Duration = Duration::from_secs(2);

/// E2B, for one API key. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    api: Arc<Api>,
    recorder: Recorder,
}

impl Client {
    /// A client for what the environment says: `E2B_API_KEY`, and the other variables of [`Config`].
    ///
    /// # Errors
    ///
    /// [`Error::Config`] without a key.
    pub fn from_env() -> Result<Self, Error> {
        Self::new(Config::from_env())
    }

    /// A client.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] without a key, but for debug mode, and for a key or a URL that cannot be sent.
    pub fn new(config: Config) -> Result<Self, Error> {
        config.check_urls()?;
        let api = Arc::new(Api::new(config)?);
        Ok(Self {
            api,
            recorder: Recorder::new(),
        })
    }

    /// Records what its sandboxes do by these, and not by the global providers as they were when the client was made.
    #[cfg(feature = "otel")]
    #[must_use]
    pub fn instruments(mut self, instruments: crate::otel::Instruments) -> Self {
        self.recorder = Recorder(instruments);
        self
    }

    /// A new sandbox of a template: what it is to have, and then [`send`](Create::send).
    pub fn create(&self, template: impl Into<String>) -> Create {
        Create {
            api: Arc::clone(&self.api),
            recorder: self.recorder.clone(),
            template: template.into(),
            timeout: TIMEOUT,
            env: BTreeMap::new(),
            metadata: BTreeMap::new(),
            internet: None,
        }
    }

    /// A sandbox that is there. If it is paused it is resumed; it lives at least 5 minutes from now.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when it is gone.
    pub async fn connect(&self, sandbox: &str) -> Result<Sandbox, Error> {
        if self.api.config.debug {
            return Ok(Sandbox::debug(
                &self.api,
                self.recorder.connected(DEBUG_SANDBOX),
            ));
        }
        let made = self.api.connect(sandbox, TIMEOUT).await?;
        let details = self.api.details(sandbox).await?;
        let trace = self.recorder.connected(sandbox);
        Ok(Sandbox::new(&self.api, made, details.ends_at(), trace))
    }
}

/// A sandbox that is to be made.
#[derive(Clone)]
#[must_use = "nothing is made before `send`"]
pub struct Create {
    api: Arc<Api>,
    recorder: Recorder,
    template: String,
    timeout: Duration,
    env: BTreeMap<String, String>,
    metadata: BTreeMap<String, String>,
    internet: Option<bool>,
}

impl Create {
    /// How long it lives, in whole seconds; 5 minutes by default. E2B ends it then without a warning, so give it a minute
    /// more than the deadline of the run.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// A variable for every process in it.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// A note that E2B keeps with it.
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// Whether it reaches the internet; it does by default.
    pub fn allow_internet(mut self, allow: bool) -> Self {
        self.internet = Some(allow);
        self
    }

    /// Makes it.
    ///
    /// # Errors
    ///
    /// [`Error`] says which; after [`Error::Timeout`] and [`Error::AnswerLost`] there may be a sandbox that nobody knows,
    /// which ends by its timeout.
    pub async fn send(self) -> Result<Sandbox, Error> {
        if self.api.config.debug {
            let creating = self.recorder.creating(&self.template);
            return Ok(Sandbox::debug(&self.api, creating.done(DEBUG_SANDBOX)));
        }
        let mut new = json!({
            "templateID": self.template,
            "timeout": whole_seconds(self.timeout),
            "envVars": self.env,
            "metadata": self.metadata,
            "secure": true,
        });
        if let Some(internet) = self.internet {
            new["allow_internet_access"] = Value::Bool(internet);
        }
        // By our clock, and before it was made: rather a little too early than too late.
        let ends_at = SystemTime::now().checked_add(self.timeout);
        let creating = self.recorder.creating(&self.template);
        match self.api.create(&new).await {
            Ok(made) => {
                let trace = creating.done(&made.id);
                Ok(Sandbox::new(&self.api, made, ends_at, trace))
            }
            Err(error) => {
                creating.failed(&error);
                Err(error)
            }
        }
    }
}

impl fmt::Debug for Create {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Create")
            .field("template", &self.template)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// A sandbox. Cheap to clone. Dropping it ends nothing: it lives until its time is over or [`kill`](Self::kill).
#[derive(Debug, Clone)]
pub struct Sandbox {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) api: Arc<Api>,
    pub(super) id: String,
    pub(super) trace: Trace,
    access: watch::Sender<Access>,
}

/// How to get into a sandbox, which may change while it is there.
#[derive(Clone)]
pub(super) struct Access {
    pub(super) token: Option<String>,
    pub(super) domain: Option<String>,
    ends_at: Option<SystemTime>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("domain", &self.domain)
            .field("ends_at", &self.ends_at)
            .finish_non_exhaustive()
    }
}

/// What has become of a sandbox, as the REST API sees it.
#[derive(Debug)]
pub(super) enum Presence {
    There,
    Paused,
    Gone(Box<Loss>),
    /// The API cannot be asked, or does not answer.
    Unknown,
}

impl Sandbox {
    fn new(api: &Arc<Api>, made: Made, ends_at: Option<SystemTime>, trace: Trace) -> Self {
        let access = Access {
            token: made.token,
            domain: made.domain,
            ends_at,
        };
        Self {
            inner: Arc::new(Inner {
                api: Arc::clone(api),
                id: made.id,
                trace,
                access: watch::Sender::new(access),
            }),
        }
    }

    fn debug(api: &Arc<Api>, trace: Trace) -> Self {
        let made = Made {
            id: DEBUG_SANDBOX.to_owned(),
            token: None,
            domain: None,
        };
        Self::new(api, made, None, trace)
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// When E2B ends it, as far as this handle knows. `None` in debug mode.
    #[must_use]
    pub fn ends_at(&self) -> Option<SystemTime> {
        self.inner.access().ends_at
    }

    /// Starts a run. It gets a random id if it has none, stdin, and `--sandbox-ends-at`; it goes on when the `Live` is
    /// dropped.
    ///
    /// It is started once or not at all: only what never had a connection is tried again. When the answer to the start is
    /// lost, the run is looked for, and followed from its first event if it is found.
    ///
    /// # Errors
    ///
    /// [`Error::Launch`], [`Error::SandboxTooShort`] and [`Error::Unfollowable`] before anything is done; [`Error::NeverStarted`] when the
    /// answer was lost and there is no trace of the run; else why it was refused. A supervisor that refuses its options, or
    /// is not there, is an error of [`Live::next`].
    pub async fn start(&self, launch: &Launch) -> Result<Live<Stream>, Error> {
        launch.check()?;
        let asked = Asked::of(launch)?;
        let mut launch = self.inner.trace.hand_to(launch.clone());
        if let Some(ends_at) = self.ends_at() {
            if let Some(deadline) = asked.deadline {
                let left = ends_at.duration_since(SystemTime::now());
                let left = left.unwrap_or(Duration::ZERO);
                if left < deadline.saturating_add(GOODBYE_AT_LEAST) {
                    return Err(Error::SandboxTooShort {
                        deadline,
                        left,
                        needed: deadline.saturating_add(GOODBYE),
                    });
                }
            }
            if asked.sandbox_ends_at.is_none() {
                launch = launch.sandbox_ends_at(moment::written(ends_at));
            }
        }
        start::started(&self.inner, launch, asked.without_journal).await
    }

    /// Follows a run that was started before, perhaps by another process, from its first event on. It is looked for by the
    /// first [`Live::next`]. A run whose launch had another [`program`](Launch::program) or
    /// [`journal`](Launch::journal) directory than the default is for [`follow_as`](Self::follow_as).
    #[must_use]
    pub fn follow(&self, run_id: &str) -> Live<Stream> {
        self.follow_as(&Launch::new(Vec::<String>::new()), run_id)
    }

    /// Follows a run as [`follow`](Self::follow) does, by the supervisor and the journal directory of this launch. Nothing
    /// else of it counts; its command may be empty.
    #[must_use]
    pub fn follow_as(&self, launch: &Launch, run_id: &str) -> Live<Stream> {
        let launch = launch.clone().run_id(run_id);
        Live::resuming(Stream::searching(&self.inner, launch, run_id.to_owned()))
    }

    /// Has it end so long from now. A run that is going on is not told, and believes in the earlier end.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when it is gone.
    pub async fn set_timeout(&self, timeout: Duration) -> Result<(), Error> {
        if self.inner.api.config.debug {
            return Ok(());
        }
        let ends_at = SystemTime::now().checked_add(timeout);
        self.inner.api.set_timeout(self.id(), timeout).await?;
        self.inner
            .access
            .send_modify(|access| access.ends_at = ends_at);
        Ok(())
    }

    /// Stops it as it is, its processes included, until [`resume`](Self::resume).
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when it is gone.
    pub async fn pause(&self) -> Result<(), Error> {
        if self.inner.api.config.debug {
            return Ok(());
        }
        self.inner.api.pause(self.id()).await
    }

    /// Wakes it if it is paused; it lives at least so long from now. Runs that are followed are followed on.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when it is gone.
    pub async fn resume(&self, timeout: Duration) -> Result<(), Error> {
        if self.inner.api.config.debug {
            return Ok(());
        }
        let made = self.inner.api.connect(self.id(), timeout).await?;
        // Kept before anything else can fail: the old token may be good no more.
        self.inner.access.send_modify(|access| {
            access.token = made.token.or(access.token.take());
            access.domain = made.domain.or(access.domain.take());
        });
        let ends_at = self.inner.api.details(self.id()).await?.ends_at();
        self.inner
            .access
            .send_modify(|access| access.ends_at = ends_at.or(access.ends_at));
        Ok(())
    }

    /// Ends it, without a word to what runs in it: cancel the run first, and read its conclusion.
    ///
    /// # Errors
    ///
    /// Not when it is gone already.
    pub async fn kill(&self) -> Result<(), Error> {
        let killing = self.inner.trace.killing();
        let killed = if self.inner.api.config.debug {
            Ok(())
        } else {
            match self.inner.api.kill(self.id()).await {
                Err(Error::NotFound { .. }) => Ok(()),
                killed => killed,
            }
        };
        killing.ended(&killed);
        killed
    }

    /// What it used, as E2B sees it from outside, the oldest first. Empty in debug mode.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when it is gone.
    pub async fn metrics(&self) -> Result<Vec<Metrics>, Error> {
        if self.inner.api.config.debug {
            return Ok(Vec::new());
        }
        self.inner.api.metrics(self.id()).await
    }

    /// Why it was killed, in E2B's word: `request`, `timeout`, `admin`, `orphaned`, …; `None` if E2B does not say.
    ///
    /// # Errors
    ///
    /// When the key does not allow to ask, among others.
    pub async fn kill_reason(&self) -> Result<Option<String>, Error> {
        if self.inner.api.config.debug {
            return Ok(None);
        }
        self.inner.api.kill_reason(self.id()).await
    }
}

impl Inner {
    pub(super) fn access(&self) -> Access {
        self.access.borrow().clone()
    }

    /// Asks what has become of it, and remembers a token that has changed.
    pub(super) async fn presence(&self) -> Presence {
        if self.api.config.debug {
            return Presence::Unknown;
        }
        match self.api.details(&self.id).await {
            Ok(details) if details.is_paused() => Presence::Paused,
            Ok(details) => {
                self.access.send_modify(|access| {
                    access.ends_at = details.ends_at().or(access.ends_at);
                    if details.token.is_some() {
                        access.token.clone_from(&details.token);
                    }
                });
                Presence::There
            }
            Err(Error::NotFound { .. }) => {
                self.trace.gone();
                Presence::Gone(Box::new(self.loss().await))
            }
            Err(_) => Presence::Unknown,
        }
    }

    /// How it was lost.
    async fn loss(&self) -> Loss {
        // Looked at before the questions, which take time.
        let ends_at = self.access().ends_at;
        let over = ends_at.is_some_and(|ends_at| SystemTime::now() + TIMEOUT_SLACK >= ends_at);
        let mut says = None;
        for _ in 0..REASON_TRIES {
            match self.api.kill_reason(&self.id).await {
                Ok(None) => tokio::time::sleep(REASON_WAIT).await,
                Ok(reason) => {
                    says = reason;
                    break;
                }
                // Not every key may ask.
                Err(_) => break,
            }
        }
        let timeout = says.as_deref().map_or(over, |says| says == "timeout");
        let mut loss = Loss::new(match timeout {
            true => LossReason::SandboxTimeout,
            false => LossReason::SandboxGone,
        });
        loss.provider_says = says;
        loss
    }
}
