//! An agent in an E2B sandbox, with a person who allows what it asks for.
//!
//! ```text
//! export E2B_API_KEY=… ANTHROPIC_API_KEY=…
//! export AGENT='/opt/sandtrace/venv/bin/python /opt/sandtrace/agent.py --interactive --approve Bash,Write'
//! cargo run -p sandtrace-client --example e2b --features e2b
//! ```
#![expect(clippy::print_stdout, reason = "it is a program for a terminal")]

use sandtrace_client::{Content, Launch, agent::Said, e2b};
use std::{env, time::Duration};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (agent, key) = (env::var("AGENT")?, env::var("ANTHROPIC_API_KEY")?);
    let new = e2b::Client::from_env()?.create("sandtrace-agent");
    let new = new.env("ANTHROPIC_API_KEY", key);
    let sandbox = new.timeout(Duration::from_secs(900)).send().await?;
    let launch = Launch::new(agent.split(' ').chain(["Tidy up."]));
    let launch = launch.deadline(Duration::from_secs(600));
    let mut live = sandbox.start(&launch).await?;
    let voice = live.voice().by("alice");
    // A lost connection is not seen here: the stream goes on where it was.
    while let Some(event) = live.next().await? {
        if let Content::Agent(line) = event.content() {
            for said in line.said() {
                match said {
                    Said::Text(text) => println!("{text}"),
                    Said::ApprovalRequest(asked) => voice.approve(asked.id).await?,
                    Said::Result(_) => voice.close().await?,
                    _ => {}
                }
            }
        }
    }
    println!("{:#?}", live.conclude().await?);
    Ok(sandbox.kill().await?)
}
