//! The flags as typed: what clap knows. What they mean is [`super::config`]'s business, which is why every value is
//! still an `OsString` here: a flag, a variable and a line of the settings file are read by the same code.
//!
//! Help texts are laid out by hand for 80 columns.

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand};

const RUN_TEMPLATE: &str = "\
{about}

The agent behaves as it does alone: same output, same exit code, same speed.
Its run becomes spans, and if it fails, sandtrace says why.

{usage-heading} {usage}

{all-args}{after-help}";

const TEMPLATE: &str = "{about}\n\n{usage-heading} {usage}\n\n{all-args}{after-help}";

const TOP_AFTER: &str = "\
Examples:
  sandtrace run -- python3 agent.py
  sandtrace run --deadline 20m --attribute tenant=acme -- python3 agent.py
  sandtrace report 01968d3c-52a1-7cc0-9d41-6a0a4f1c2b77
  sandtrace attach 01968d3c-52a1-7cc0-9d41-6a0a4f1c2b77 --after 1042
  sandtrace stop 01968d3c-52a1-7cc0-9d41-6a0a4f1c2b77

Every run leaves a journal in ${XDG_STATE_HOME:-~/.local/state}/sandtrace/RUN.
`sandtrace run --help` lists all options and exit codes.";

const RUN_AFTER: &str = "\
Every option is also a variable: --idle-timeout is SANDTRACE_IDLE_TIMEOUT. The
flag wins over the environment, the environment (where an empty value counts as
unset) over KEY=VALUE lines of /etc/sandtrace/env, and these over the default.
SANDTRACE_ATTRIBUTE and SANDTRACE_PASS_ENV hold lists separated by commas, and
the places add up: for an attribute given twice, the stronger place wins.
SANDTRACE_REDACT holds one pattern a line, and its places add up as well.
DUR is 500ms, 10s, 1m30s, 2h, or a number of seconds.

Where telemetry goes is said by OpenTelemetry's own variables, for instance
OTEL_EXPORTER_OTLP_ENDPOINT, or by names of backends, OTEL_EXPORTERS=langfuse,
signoz,prometheus,console, each with its vendor's variables, LANGFUSE_SECRET_KEY
and the like. `sandtrace doctor` tries whether it gets there.
OTEL_SAMPLING_RATE=0.1 sends a tenth of the runs. A TRACEPARENT makes the run
part of the caller's trace.

The journal of a run is the directory DIR/RUN: events.ndjson (all that the run
printed), traces.jsonl, metrics.jsonl and logs.jsonl (its telemetry, as OTLP),
spool (what is not sent yet) and state.json. Without HOME and XDG_STATE_HOME,
DIR is /var/tmp/sandtrace-UID.

Examples:
  sandtrace run -- python3 agent.py
      Supervise an agent; its events, enriched, appear on stdout.
  sandtrace run --deadline 20m --grace 5s -- python3 agent.py
      Stop it after 20 minutes: TERM, and KILL 5 seconds later.
  sandtrace run --attribute tenant=acme --run-id nightly-7 -- python3 agent.py
      Find its spans by tenant, and its report by `sandtrace report nightly-7`.
  OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 sandtrace run -- ./agent
      Send its trace to a collector.

Exit codes:
  N      the agent's own
  128+N  signal N ended the agent
  124    a time limit of sandtrace's own ended it
  125    sandtrace itself failed, or was called wrongly
  126    the command is not executable
  127    the command was not found";

const REPORT_AFTER: &str = "\
RUN is a run id below the journal directory, the directory of a run, or an
events.ndjson or traces.jsonl file. A run that still goes on is shown as far as
it got.

The report is as wide as the terminal, or as COLUMNS says, but 60 at least. It
has colours only on a terminal and without NO_COLOR, and is plain ASCII where
the locale (LC_ALL, LC_CTYPE, LANG) is not UTF-8.

Examples:
  sandtrace report nightly-7
  sandtrace report ./journal/nightly-7
  sandtrace report downloads/events.ndjson

Exit codes:
  0    the report was printed, whatever became of the run
  125  there is no such run, or it cannot be read";

const ATTACH_AFTER: &str = "\
RUN is a run id below the journal directory, or the directory of a run. Its
lines come as they were printed, byte for byte: first those of its journal, then
each new one, up to sandtrace.run.finished. Whoever lost the connection to a run
asks for what follows the last `seq` that arrived, and misses nothing:

  sandtrace attach nightly-7 --after 1042

A number that is still to come is waited for. Numbers are missing only where a
full journal has dropped its oldest lines, which a warning in it counts. What a
run with `--echo raw` or `none` did not print is there as well; a run with
`--journal off` cannot be attached to. Any number may attach; none is waited
for.

Exit codes:
  0    the run has finished and its last line is printed, or the reader left
  3    its supervisor is gone without having finished the run
  125  there is no such run, or it cannot be read";

const STOP_AFTER: &str = "\
RUN is a run id below the journal directory, or the directory of a run. The
request does what SIGTERM to the supervisor does: the agent gets TERM, and KILL
once the run's --grace is over. `stop` does not wait for the end.

Asked a second time, a run kills its agent at once; asked a third time, it also
stops waiting for its telemetry.

Examples:
  sandtrace stop nightly-7
  sandtrace stop ./journal/nightly-7

Exit codes:
  0    the run was asked to stop, or has finished before
  3    its supervisor is gone without having finished the run
  125  there is no such run, or it cannot be asked";

const DOCTOR_AFTER: &str = "\
Each destination that the environment or /etc/sandtrace/env names gets a canary:
one span, one data point, one log record, as far as it takes them, under the
name sandtrace.doctor. Each line says `ok`, `note` (a run goes on without it) or
`FAIL` with the reason. Nothing that doctor makes in the sandbox stays.

What a run could not send waits in its journal. The next run sends it, and so
does `--resend`, to the destination of the same name and address.

Examples:
  sandtrace doctor
  OTEL_EXPORTERS=langfuse sandtrace doctor
  sandtrace doctor --resend

Exit codes:
  0    all that is configured works
  1    something does not
  125  the configuration cannot be understood";

/// Supervises a Claude agent and turns its run into an OpenTelemetry trace
#[derive(Debug, Parser)]
#[command(name = "sandtrace", version, help_template = TEMPLATE, after_help = TOP_AFTER)]
#[command(disable_help_subcommand = true)]
pub(super) struct Flags {
    #[command(subcommand)]
    pub(super) command: Subcommands,
}

#[derive(Debug, Subcommand)]
pub(super) enum Subcommands {
    Run(Box<RunFlags>),
    Attach(AttachFlags),
    Report(ReportFlags),
    Stop(StopFlags),
    Doctor(DoctorFlags),
}

/// Runs an agent under supervision
#[derive(Debug, Default, Args)]
#[command(help_template = RUN_TEMPLATE, after_help = RUN_AFTER)]
#[command(override_usage = "sandtrace run [OPTIONS] -- COMMAND [ARG]...")]
pub(super) struct RunFlags {
    /// The agent and its arguments
    #[arg(last = true, value_name = "COMMAND", hide = true)]
    pub(super) command: Vec<OsString>,

    #[arg(
        long,
        value_name = "DUR",
        allow_hyphen_values = true,
        help_heading = "Limits"
    )]
    #[arg(help = "Stop the whole run after this long, exit 124\n[default: off]")]
    pub(super) deadline: Option<OsString>,

    #[arg(
        long,
        value_name = "DUR",
        allow_hyphen_values = true,
        help_heading = "Limits"
    )]
    #[arg(help = "\
Stop a turn without a sign of life for this
long, exit 124. Between turns it closes the
session, exit 0. `off` for never [default: 30m]")]
    pub(super) idle_timeout: Option<OsString>,

    #[arg(long, value_name = "TIME", help_heading = "Limits")]
    #[arg(help = "\
When the sandbox ends, 2026-01-31T12:00:00Z: in
its last 30 s all is exported each second
[default: not known]")]
    pub(super) sandbox_ends_at: Option<OsString>,

    #[arg(
        long,
        value_name = "DUR",
        allow_hyphen_values = true,
        help_heading = "Limits"
    )]
    #[arg(help = "Longest time from TERM to KILL [default: 10s]")]
    pub(super) grace: Option<OsString>,

    #[arg(
        long,
        value_name = "DUR",
        allow_hyphen_values = true,
        help_heading = "Limits"
    )]
    #[arg(help = "Longest time for the final export [default: 5s]")]
    pub(super) flush_timeout: Option<OsString>,

    #[arg(long, value_name = "WHAT", help_heading = "Limits")]
    #[arg(help = "\
`leave` or `kill` what the agent left running
[default: leave after its own exit, kill after a
signal or a stop]")]
    pub(super) survivors: Option<OsString>,

    #[arg(long, value_name = "on|off", help_heading = "Limits")]
    #[arg(help = "\
When the network failed the run, try once
whether the API's host takes connections;
nothing is sent [default: on]")]
    pub(super) probe: Option<OsString>,

    #[arg(long, value_name = "MODE", help_heading = "Output")]
    #[arg(help = "\
stdout: `enriched` events, the agent's `raw`
bytes, or `none` [default: enriched]")]
    pub(super) echo: Option<OsString>,

    #[arg(long, value_name = "LEVEL", help_heading = "Output")]
    #[arg(help = "\
Content on spans: `none`, `preview` (the first
100 characters of prompts and answers), `full`
[default: preview]")]
    pub(super) capture: Option<OsString>,

    #[arg(
        long,
        value_name = "PATTERN",
        allow_hyphen_values = true,
        help_heading = "Output"
    )]
    #[arg(help = "\
Take what matches this regular expression (or
its first group) out of all telemetry, as known
keys and secret variables are (repeatable)")]
    pub(super) redact: Vec<OsString>,

    #[arg(
        long,
        value_name = "DUR",
        allow_hyphen_values = true,
        help_heading = "Output"
    )]
    #[arg(help = "\
Export a run that took longer than this, or
failed, also where sampling would keep it back
[default: off, so only if it failed]")]
    pub(super) slow: Option<OsString>,

    #[arg(
        long,
        value_name = "DUR",
        allow_hyphen_values = true,
        help_heading = "Output"
    )]
    #[arg(help = "How often to sample CPU and memory, or `off`\n[default: 1s]")]
    pub(super) sample_interval: Option<OsString>,

    #[arg(long, value_name = "DIR", help_heading = "Output")]
    #[arg(help = "\
Directory of the runs' journals, or `off`
[default: ${XDG_STATE_HOME:-~/.local/state}
/sandtrace]")]
    pub(super) journal: Option<OsString>,

    #[arg(long, help_heading = "Output")]
    #[arg(help = "Lines for people on stderr, terminal or not")]
    pub(super) verbose: bool,

    #[arg(long, value_name = "K=V", help_heading = "Attribution")]
    #[arg(help = "Put this on every span (repeatable)")]
    pub(super) attribute: Vec<OsString>,

    #[arg(long, value_name = "ID", help_heading = "Attribution")]
    #[arg(help = "Name of the run, 1 to 64 of A-Z a-z 0-9 . _ -\n[default: a new UUID]")]
    pub(super) run_id: Option<OsString>,

    #[arg(long, value_name = "NAME", help_heading = "Attribution")]
    #[arg(help = "Name of the agent on spans [default: claude]")]
    pub(super) agent_name: Option<OsString>,

    #[arg(long, value_name = "ID", help_heading = "Attribution")]
    #[arg(help = "Session of the run [default: the agent's own]")]
    pub(super) session_id: Option<OsString>,

    #[arg(long, value_name = "ID", help_heading = "Attribution")]
    #[arg(help = "User of the run [default: user.id in BAGGAGE]")]
    pub(super) user_id: Option<OsString>,

    #[arg(long, value_name = "NAME", help_heading = "Attribution")]
    #[arg(help = "\
Let the agent keep a variable that would be held
back from it, an exporter's key (repeatable)")]
    pub(super) pass_env: Vec<OsString>,
}

/// Prints a run's lines once more, then follows it
#[derive(Debug, Default, Args)]
#[command(help_template = TEMPLATE, after_help = ATTACH_AFTER)]
#[command(override_usage = "sandtrace attach [OPTIONS] RUN")]
pub(super) struct AttachFlags {
    #[arg(value_name = "RUN", hide = true, required = true)]
    pub(super) run: Option<OsString>,

    #[arg(long, value_name = "SEQ", allow_hyphen_values = true)]
    #[arg(help = "\
Only the lines after the one with this number
[default: 0, so all]")]
    pub(super) after: Option<OsString>,

    #[arg(long, value_name = "DIR")]
    #[arg(help = "\
Directory of the runs' journals
[default: as for `sandtrace run`]")]
    pub(super) journal: Option<OsString>,
}

/// Shows a run as a waterfall in the terminal
#[derive(Debug, Default, Args)]
#[command(help_template = TEMPLATE, after_help = REPORT_AFTER)]
pub(super) struct ReportFlags {
    #[arg(value_name = "RUN", hide = true, required = true)]
    pub(super) run: Option<OsString>,

    #[arg(long, value_name = "DIR")]
    #[arg(help = "\
Directory of the runs' journals
[default: as for `sandtrace run`]")]
    pub(super) journal: Option<OsString>,
}

/// Asks a run to stop, as SIGTERM does
#[derive(Debug, Default, Args)]
#[command(help_template = TEMPLATE, after_help = STOP_AFTER)]
#[command(override_usage = "sandtrace stop [OPTIONS] RUN")]
pub(super) struct StopFlags {
    #[arg(value_name = "RUN", hide = true, required = true)]
    pub(super) run: Option<OsString>,

    #[arg(long, value_name = "DIR")]
    #[arg(help = "\
Directory of the runs' journals
[default: as for `sandtrace run`]")]
    pub(super) journal: Option<OsString>,
}

/// Checks configuration, destinations and sandbox
#[derive(Debug, Default, Args)]
#[command(help_template = TEMPLATE, after_help = DOCTOR_AFTER)]
pub(super) struct DoctorFlags {
    #[arg(long)]
    #[arg(help = "Send what earlier runs could not")]
    pub(super) resend: bool,

    #[arg(long, value_name = "DIR")]
    #[arg(help = "\
Directory of the runs' journals
[default: as for `sandtrace run`]")]
    pub(super) journal: Option<OsString>,
}
