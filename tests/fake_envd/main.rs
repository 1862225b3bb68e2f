//! The fake envd by itself, for clients in other languages and for trying things by hand. It prints its address, and
//! runs until SIGINT or SIGTERM.
#![expect(
    clippy::unwrap_used,
    reason = "what goes wrong in here is a finding, and told as one"
)]

#[path = "mod.rs"]
#[expect(
    dead_code,
    reason = "shared with the tests of the client, which use all of it"
)]
mod fake_envd;

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use self::fake_envd::{Cuts, Edge, Ending, FakeEnvd, Faults, Options};

const USAGE: &str = "usage: fake-envd [OPTION]...

  --port N             where to listen on loopback; 49983, envd's own. 0 for any
  --api-key KEY        what X-API-Key must be; fake-api-key
  --home DIR           HOME of the commands; an empty directory
  --retention SECONDS  how long an exit is remembered; 30

Faults:
  --refuse N           reset the next N connections
  --black-holes N      take the next N connections, and never read them
  --delay MS           let each connection wait
  --proxy-errors N     answer the next N requests to envd with the edge's 502
  --rate-limits N      answer the next N requests to the REST API with 429
  --retry-after S      what a 429 says in Retry-After; 0
  --lose-starts N      cut the next N Starts after their process runs, before the first byte
  --cut-next N,N,...   cut the next streams, each after its number of bytes
  --cut-every N        cut every stream after N bytes
  --cut-below N        cut every stream after a random number of bytes below N, from --seed
  --reset              make each cut a reset
  --stall-after N      after N bytes say nothing more on the next stream
  --seed S             random sizes of reads and of pieces of envelopes; 1 with --cut-below
  --read-delay MS      how long a process's output lies in its pipe before it is read
  --edge-says          end a stream by 'unavailable' when its sandbox disappears, instead of silence
";

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        port: 49983,
        ..Options::default()
    };
    let mut faults = Faults::default();
    let mut seed = None;
    let mut cut_below = None;
    while let Some(flag) = arguments.next() {
        match flag.as_str() {
            "--help" | "-h" => return Err(String::new()),
            "--reset" => faults.ending = Ending::Reset,
            "--edge-says" => faults.edge = Edge::Unavailable,
            _ => {
                let value = arguments.next();
                let value = value.ok_or_else(|| format!("{flag} is unknown, or takes a value"))?;
                let number = || {
                    let number = value.parse::<u64>();
                    number.map_err(|_| format!("{flag}: '{value}' is no number"))
                };
                let count = || number().map(|number| usize::try_from(number).unwrap_or(usize::MAX));
                match flag.as_str() {
                    "--port" => {
                        let port = value.parse();
                        options.port = port.map_err(|_| format!("{flag}: '{value}' is no port"))?;
                    }
                    "--api-key" => options.api_key = value,
                    "--home" => options.home = Some(value.into()),
                    "--retention" => options.exit_retention = Duration::from_secs(number()?),
                    "--refuse" => faults.refuse_connections = count()?,
                    "--black-holes" => faults.black_holes = count()?,
                    "--delay" => faults.delay_connections = Duration::from_millis(number()?),
                    "--proxy-errors" => faults.proxy_errors = count()?,
                    "--rate-limits" => faults.rate_limits = count()?,
                    "--retry-after" => faults.retry_after = Duration::from_secs(number()?),
                    "--lose-starts" => faults.lose_starts = count()?,
                    "--cut-next" => {
                        let after = value.split(',').map(str::parse::<u64>);
                        let after: Result<Vec<u64>, _> = after.collect();
                        let after =
                            after.map_err(|_| format!("{flag}: '{value}' are no numbers"))?;
                        faults.cuts = Cuts::next(after);
                    }
                    "--cut-every" => faults.cuts = Cuts::Every(number()?),
                    "--cut-below" => cut_below = Some(number()?),
                    "--stall-after" => faults.stall_next_after = Some(number()?),
                    "--seed" => seed = Some(number()?),
                    "--read-delay" => faults.read_delay = Duration::from_millis(number()?),
                    _ => return Err(format!("{flag} is unknown")),
                }
            }
        }
    }
    faults.pieces = seed;
    if let Some(limit) = cut_below {
        let seed = seed.unwrap_or(1);
        faults.cuts = Cuts::Random { seed, limit };
    }
    options.faults = faults;
    Ok(options)
}

/// Until somebody wants it to end.
async fn wait() {
    let mut interrupt = signal(SignalKind::interrupt()).unwrap();
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) if error.is_empty() => {
            io::stdout().write_all(USAGE.as_bytes()).unwrap();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let mut stderr = io::stderr().lock();
            write!(stderr, "fake-envd: {error}\n\n{USAGE}").unwrap();
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let waiting = wait();
        let fake = FakeEnvd::with(options);
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{}", fake.url()).unwrap();
        drop(stdout);
        waiting.await;
        drop(fake);
    });
    ExitCode::SUCCESS
}
