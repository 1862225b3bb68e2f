//! `sandtrace doctor`: checks what a run would need, and says of each thing in one line whether it works, or exactly why
//! it does not.
//!
//! It tries for real: a file in the journal's place, a cgroup, and for each destination a canary, one small request of
//! each signal, on the way that a run's telemetry takes. Nothing that it makes stays; only `--resend` changes something:
//! it delivers what earlier runs left.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;

use thiserror::Error;

use crate::cli::{DoctorConfig, SETTINGS_FILE};
use crate::journal::Journal;
use crate::process::{Abilities, Leaf};
use crate::supervise::{Exports, resource_of};
use crate::telemetry::canary::{self, Canary};
use crate::telemetry::resend::{Inventory, ResendReport, Waiting, inventory};
use crate::telemetry::resource::ResourceError;
use crate::telemetry::{
    Destination, DestinationError, OtlpDestination, Redactor, TelemetryError, resend_left,
};

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Works,
    /// A run goes on without it, with less to tell.
    Lacks,
    Broken,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub what: String,
    pub health: Health,
    /// What was found; where it does not work, why and what to do.
    pub finding: String,
}

/// All lines, in the order in which they are told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnosis {
    pub checks: Vec<Check>,
}

/// Why there is no diagnosis: the configuration itself cannot be read.
#[derive(Debug, Error)]
pub enum DoctorError {
    #[error(transparent)]
    Destination(#[from] DestinationError),
    #[error(transparent)]
    Resource(#[from] ResourceError),
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
}

impl Diagnosis {
    /// 0 if all that a run needs works, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        u8::from(
            self.checks
                .iter()
                .any(|check| check.health == Health::Broken),
        )
    }

    fn tell(&mut self, what: impl Into<String>, health: Health, finding: impl Into<String>) {
        self.checks.push(Check {
            what: what.into(),
            health,
            finding: finding.into(),
        });
    }

    /// The report as text, a line a check; with colours for a terminal.
    #[must_use]
    pub fn to_text(&self, coloured: bool) -> String {
        let width = self.checks.iter().map(|check| check.what.len()).max();
        let width = width.unwrap_or_default();
        let mut text = String::new();
        for Check {
            what,
            health,
            finding,
        } in &self.checks
        {
            let (word, colour) = match health {
                Health::Works => ("ok  ", "32"),
                Health::Lacks => ("note", "33"),
                Health::Broken => ("FAIL", "31"),
            };
            let line = if coloured {
                writeln!(
                    text,
                    "\x1b[{colour}m{word}\x1b[0m  {what:width$}  {finding}"
                )
            } else {
                writeln!(text, "{word}  {what:width$}  {finding}")
            };
            // Writing to a string does not fail.
            line.unwrap_or_default();
        }
        text
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text(false))
    }
}

/// Looks at everything. Needs a tokio runtime with I/O and time.
///
/// # Errors
///
/// A configuration that a run would refuse too.
pub async fn examine(config: &DoctorConfig) -> Result<Diagnosis, DoctorError> {
    let mut diagnosis = Diagnosis::default();
    let run = &config.run;
    let lookup = |name: &str| run.settings.get(name).map(str::to_owned);
    let exports = Exports::read(&lookup, None, run.echo)?;
    let run_id = format!("doctor-{}", uuid::Uuid::now_v7());
    let resource = resource_of(&run.settings, &run_id)?;
    diagnosis.tell(
        "settings",
        Health::Works,
        format!("what the environment and {SETTINGS_FILE} say can be understood"),
    );
    for notice in &run.notices {
        diagnosis.tell("settings", Health::Lacks, notice.to_string());
    }
    abilities(&mut diagnosis, &Abilities::observe(None));
    match run.journal.root() {
        Some(root) => journal(&mut diagnosis, root, &run_id),
        None => diagnosis.tell(
            "journal",
            Health::Lacks,
            "it is off: what a run cannot send is lost with it",
        ),
    }
    for (_, warning) in &exports.warnings {
        diagnosis.tell("destinations", Health::Lacks, warning);
    }
    if exports.destinations.is_empty() {
        let finding = "there is none, so the journal alone has the telemetry: set OTEL_EXPORTERS, or OTEL_EXPORTER_OTLP_ENDPOINT";
        diagnosis.tell("destinations", Health::Lacks, finding);
    }
    let mut backends = Vec::new();
    for destination in &exports.destinations {
        match destination {
            Destination::Otlp(backend) => backends.push(OtlpDestination::clone(backend)),
            local => self::local(&mut diagnosis, local).await,
        }
    }
    let redactor = Redactor::new(run.settings.all(), run.redact.clone());
    let canaries = canary::send(backends, resource, &redactor, &exports.proxies, &run_id);
    for canary in canaries.await {
        landed(&mut diagnosis, &canary);
    }
    if let Some(root) = run.journal.root() {
        if config.resend {
            let report = resend_left(root, &exports.destinations, &exports.proxies).await?;
            resent(&mut diagnosis, &report);
        } else {
            left(&mut diagnosis, &inventory(root));
        }
    }
    Ok(diagnosis)
}

/// What the sandbox lets a supervisor do. None of it is needed for a run; each makes a verdict surer.
fn abilities(diagnosis: &mut Diagnosis, abilities: &Abilities) {
    let mut tell = |what, works: bool, yes: &str, no: &str| {
        let (health, finding) = if works {
            (Health::Works, yes)
        } else {
            (Health::Lacks, no)
        };
        diagnosis.tell(what, health, finding);
    };
    tell(
        "processes",
        abilities.proc,
        "can be seen in /proc",
        "cannot be seen: what the agent starts is not sampled, and is found only as far as it comes to us",
    );
    tell(
        "pidfd",
        abilities.pidfd,
        "signals reach processes, not pids",
        "the kernel has none, so signals go to pids",
    );
    tell(
        "memory cgroup",
        abilities.cgroup.is_some(),
        "its counters can be read",
        "there is none to be read: who was short of memory is told by other signs",
    );
    tell(
        "kernel log",
        abilities.kernel_log,
        "it tells whom the kernel killed for memory",
        "it cannot be read (it takes root, or kernel.dmesg_restrict=0): such kills are told by counters",
    );
    let leaf = Leaf::make();
    let refused = leaf.as_ref().err().map(ToString::to_string);
    if let Ok(leaf) = leaf {
        leaf.dissolve();
    }
    match refused {
        None => diagnosis.tell(
            "own cgroup",
            Health::Works,
            "the agent gets one, so that all it starts can be ended at once",
        ),
        Some(why) => diagnosis.tell(
            "own cgroup",
            Health::Lacks,
            format!("the agent gets none ({why}): what it starts is swept up process by process"),
        ),
    }
}

/// Makes a run's directory there, as a run does, and removes it.
fn journal(diagnosis: &mut Diagnosis, root: &Path, run_id: &str) {
    let made = Journal::create(root, run_id);
    let removed = made
        .as_ref()
        .map(|journal| fs::remove_dir_all(journal.directory()));
    let (health, finding) = match (&made, removed) {
        (Err(error), _) => {
            let why = std::error::Error::source(error).map(|source| format!(": {source}"));
            let why = why.unwrap_or_default();
            (
                Health::Broken,
                format!("{error}{why}; name another by --journal"),
            )
        }
        (Ok(_), Ok(Err(error))) => {
            let root = root.display();
            (
                Health::Broken,
                format!("{root} does not let go of files: {error}"),
            )
        }
        (Ok(_), _) => (Health::Works, format!("{} can be written", root.display())),
    };
    diagnosis.tell("journal", health, finding);
}

/// What needs no network.
async fn local(diagnosis: &mut Diagnosis, destination: &Destination) {
    match destination {
        Destination::Console(_) => {
            diagnosis.tell("console", Health::Works, "on stderr, as text");
        }
        Destination::File => {
            diagnosis.tell("file", Health::Works, "the journal has it in any case");
        }
        Destination::Host(_) => diagnosis.tell(
            "host",
            Health::Works,
            "as lines of the echo, for whoever reads them to export",
        ),
        Destination::Prometheus(address) => {
            match tokio::net::TcpListener::bind(address).await {
                Ok(_) => diagnosis.tell(
                    "prometheus",
                    Health::Works,
                    format!("http://{address}/metrics can be served while a run lasts"),
                ),
                Err(error) => diagnosis.tell(
                    "prometheus",
                    Health::Broken,
                    format!(
                        "{address} cannot be served ({error}): choose a port by PROMETHEUS_EXPORTER_PORT"
                    ),
                ),
            }
        }
        Destination::Otlp(_) => {}
    }
}

fn landed(diagnosis: &mut Diagnosis, canary: &Canary) {
    let Canary {
        destination,
        signal,
        address,
        outcome,
    } = canary;
    match outcome {
        Ok(took) => diagnosis.tell(
            *destination,
            Health::Works,
            format!("{signal}: {address} took one in {} ms", took.as_millis()),
        ),
        Err(why) => diagnosis.tell(
            *destination,
            Health::Broken,
            format!("{signal}: {address} did not take one: {why}"),
        ),
    }
}

fn left(diagnosis: &mut Diagnosis, inventory: &Inventory) {
    for waiting in &inventory.waiting {
        let finding = format!(
            "{}; the next run sends it, or `sandtrace doctor --resend`",
            waits(waiting)
        );
        diagnosis.tell("spool", Health::Lacks, finding);
    }
    if inventory.damaged > 0 {
        let finding = format!(
            "{} requests are damaged and cannot be sent",
            inventory.damaged
        );
        diagnosis.tell("spool", Health::Lacks, finding);
    }
    let untouched = [(inventory.newer, NEWER), (inventory.elsewhere, ELSEWHERE)];
    for (count, what) in untouched.into_iter().filter(|(count, _)| *count > 0) {
        diagnosis.tell("spool", Health::Lacks, format!("{count} {what}"));
    }
    let others = inventory.damaged + inventory.newer + inventory.elsewhere;
    if inventory.waiting.is_empty() && others == 0 {
        diagnosis.tell(
            "spool",
            Health::Works,
            "earlier runs have left nothing unsent",
        );
    }
}

/// What is said of files of a version that we do not know.
const NEWER: &str = "requests were written by a newer sandtrace and are left alone: only one that new can send them";

/// Likewise of requests that another sandbox made.
const ELSEWHERE: &str = "requests were made in another sandbox, of which this is a copy: they are sent from there alone";

fn waits(waiting: &Waiting) -> String {
    let oldest = jiff::Timestamp::try_from(waiting.oldest);
    let since = oldest.map_or_else(|_| "some time".to_owned(), |time| format!("{time:.0}"));
    format!(
        "{} requests with {} ({} KiB) wait for {} at {} since {since}",
        waiting.requests,
        waiting.signal,
        waiting.bytes.div_ceil(1024),
        waiting.destination,
        waiting.endpoint,
    )
}

fn resent(diagnosis: &mut Diagnosis, report: &ResendReport) {
    for resent in &report.destinations {
        let health = if resent.left > 0 || resent.refused > 0 {
            Health::Broken
        } else {
            Health::Works
        };
        let why = resent.last_error.as_ref();
        let why = why.map_or_else(String::new, |error| format!(": {error}"));
        let finding = format!(
            "{} {}: {} requests sent, {} refused, {} left{why}",
            resent.destination, resent.signal, resent.sent, resent.refused, resent.left
        );
        diagnosis.tell("spool", health, finding);
    }
    for waiting in &report.others {
        let finding = format!("{}, which this configuration does not name", waits(waiting));
        diagnosis.tell("spool", Health::Lacks, finding);
    }
    for (count, what) in [
        (report.damaged, "requests were damaged and are gone"),
        (
            report.over_cap,
            "requests are gone, for there were too many",
        ),
        (report.newer, NEWER),
        (report.elsewhere, ELSEWHERE),
        (report.in_use, "spools are in use by a run that goes on"),
    ] {
        if count > 0 {
            diagnosis.tell("spool", Health::Lacks, format!("{count} {what}"));
        }
    }
    let untouched = report.newer + report.elsewhere;
    if report.destinations.is_empty() && report.others.is_empty() && untouched == 0 {
        diagnosis.tell(
            "spool",
            Health::Works,
            "earlier runs have left nothing unsent",
        );
    }
}
