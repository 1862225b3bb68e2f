//! `sandtrace`: flags → Config → supervise → exit code. The only place that knows anyhow, and that prints for people.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use sandtrace::cli::{self, CliError, Command, RunConfig, SETTINGS_FILE, Settings};
use sandtrace::process::{Protection, Stderr, keep_stdout};
use sandtrace::supervise::{Ended, supervise};
use sandtrace::{attach, doctor, report, stop, summary};

/// The supervisor itself failed, or was asked for something impossible (DESIGN §3).
const OWN_FAILURE: u8 = 125;

fn main() -> ExitCode {
    // Before anything else may open a file or print a byte.
    let stdout = keep_stdout();
    let protection = Protection::begin();
    let code = stdout
        .context("failed to keep stdout")
        .and_then(|stdout| run(stdout, protection));
    ExitCode::from(code.unwrap_or_else(|error| {
        say(&format!("sandtrace: {error:#}\n"));
        OWN_FAILURE
    }))
}

fn run(mut stdout: File, protection: Protection) -> anyhow::Result<u8> {
    let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let settings = Settings::merge(
        environment.clone(),
        SETTINGS_FILE,
        cli::read_settings(SETTINGS_FILE),
    );
    match cli::parse(std::env::args_os(), settings) {
        Ok(Command::Run(config)) => run_agent(*config, environment, stdout, protection),
        Ok(Command::Report(config)) => {
            let view = report::View::detect(|name| config.settings.get(name), &stdout);
            match report::print(&config, view, &mut stdout) {
                Ok(()) => Ok(0),
                Err(error) => {
                    say(&format!("sandtrace: {error}\n"));
                    Ok(error.exit_code())
                }
            }
        }
        Ok(Command::Attach(config)) => match attach::attach(&config, stdout) {
            Ok(()) => Ok(0),
            Err(error) => {
                say(&format!("sandtrace: {error}\n"));
                Ok(error.exit_code())
            }
        },
        Ok(Command::Stop(config)) => match stop::stop(&config) {
            Ok(stopped) => {
                say(&format!("sandtrace: {stopped}\n"));
                Ok(0)
            }
            Err(error) => {
                say(&format!("sandtrace: {error}\n"));
                Ok(error.exit_code())
            }
        },
        Ok(Command::Doctor(config)) => {
            let coloured = stdout.is_terminal() && config.run.settings.get("NO_COLOR").is_none();
            let diagnosis = runtime()?.block_on(doctor::examine(&config));
            match diagnosis {
                Ok(diagnosis) => {
                    // A reader that has left wants no diagnosis.
                    stdout
                        .write_all(diagnosis.to_text(coloured).as_bytes())
                        .ok();
                    Ok(diagnosis.exit_code())
                }
                Err(error) => {
                    say(&format!("sandtrace: {:#}\n", anyhow::Error::from(error)));
                    Ok(OWN_FAILURE)
                }
            }
        }
        Err(CliError::Help(text) | CliError::Version(text)) => {
            // A reader that has left wants no help.
            stdout.write_all(text.as_bytes()).ok();
            Ok(0)
        }
        Err(error) => {
            say(&format!("sandtrace: {error}\n"));
            Ok(error.exit_code())
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .context("failed to start the runtime")
}

fn run_agent(
    config: RunConfig,
    environment: Vec<(OsString, OsString)>,
    stdout: File,
    protection: Protection,
) -> anyhow::Result<u8> {
    let talk = config.verbose || io::stderr().is_terminal();
    let runtime = runtime()?;
    let Ended {
        code,
        spawn_error,
        finished,
        delivery,
        journal,
        ..
    } = runtime.block_on(supervise(config, environment, stdout, protection))?;
    if let Some(error) = spawn_error {
        say(&format!("sandtrace: {error}\n"));
    } else if talk {
        say(&summary::of(journal.as_deref(), &finished, delivery));
    } else if journal.is_none()
        && let Some(undelivered) = summary::undelivered(None, delivery)
    {
        // Nothing is lost quietly: no journal has it, and the host is not there to be told.
        say(&undelivered);
    }
    // A writer that is stuck in a pipe nobody reads ends with the process.
    runtime.shutdown_background();
    Ok(code)
}

/// One message for people, on stderr. Nobody's fate hangs on it.
fn say(text: &str) {
    if let Ok(mut stderr) = Stderr::open() {
        stderr.write(text.as_bytes());
        stderr.flush(std::time::Duration::from_millis(500));
    }
}
