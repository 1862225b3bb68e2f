//! From flags, environment and settings file to a [`Command`]: a pure function of its inputs.
//!
//! `flags` is what was typed, `settings` what lies below it, `config` what both mean. Nothing here prints or
//! exits: help and version come back as [`CliError`] variants, and `main` decides where a text goes.
//!
//! ```text
//! flag  >  environment (empty = unset)  >  /etc/sandtrace/env  >  default
//! ```

mod config;
mod duration;
mod error;
mod flags;
mod settings;
mod values;

#[cfg(test)]
mod tests;

use std::ffi::OsString;

use clap::Parser;

pub use config::{
    AttachConfig, Capture, DoctorConfig, EchoMode, Journal, Notice, ProbePolicy, ReportConfig,
    RunConfig, StopConfig, SurvivorPolicy, homeless_journal,
};
pub use duration::{DurationError, parse as parse_duration};
pub use error::{CliError, UsageError, ValueProblem};
pub use settings::{LineProblem, Origin, SETTINGS_FILE, Settings, SettingsError, read_settings};
pub use values::is_run_id;

use flags::{Flags, Subcommands};

/// What to do.
#[derive(Debug)]
pub enum Command {
    Run(Box<RunConfig>),
    Attach(AttachConfig),
    Report(ReportConfig),
    Stop(StopConfig),
    Doctor(DoctorConfig),
}

/// Reads a command line; `args` starts with the program's own name.
///
/// The settings come as a result because `--help` must answer even where the settings file is broken.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    settings: Result<Settings, SettingsError>,
) -> Result<Command, CliError> {
    let args: Vec<OsString> = args.into_iter().collect();
    let flags = Flags::try_parse_from(&args).map_err(|error| explained(error, &args))?;
    let settings = settings?;
    match flags.command {
        Subcommands::Run(flags) => Ok(Command::Run(Box::new(config::run(*flags, settings)?))),
        Subcommands::Attach(flags) => Ok(Command::Attach(config::attach(flags, &settings)?)),
        Subcommands::Report(flags) => Ok(Command::Report(config::report(flags, settings)?)),
        Subcommands::Stop(flags) => Ok(Command::Stop(config::stop(flags, &settings)?)),
        Subcommands::Doctor(flags) => Ok(Command::Doctor(config::doctor(flags, settings)?)),
    }
}

/// clap does not know that a stray word in front of `--` is most likely the agent's command, nor which subcommand lacks
/// its run.
fn explained(error: clap::Error, args: &[OsString]) -> CliError {
    let is_for = |name: &str| args.get(1).is_some_and(|subcommand| subcommand == name);
    match error.into() {
        CliError::Usage(UsageError::ExtraArgument(argument)) if is_for("run") => {
            UsageError::CommandBeforeDashes(argument).into()
        }
        CliError::Usage(UsageError::NoRun { .. }) => {
            let known = ["attach", "stop"].into_iter().find(|name| is_for(name));
            let subcommand = known.unwrap_or("report");
            UsageError::NoRun { subcommand }.into()
        }
        error => error,
    }
}
