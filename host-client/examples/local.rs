//! An agent on this machine, without a sandbox:
//!
//! ```text
//! cargo run --example local --features local -- python3 template/agent.py --interactive "Say hello"
//! ```
//!
//! What is typed goes to the agent: `yes ID` and `no ID` answer its questions, an empty line ends the session, everything
//! else is the next message. `SANDTRACE` names the supervisor, if it is not in `PATH`.
#![expect(clippy::print_stdout, reason = "it is a program for a terminal")]

use std::error::Error;
use std::{env, io, thread};

use sandtrace_client::agent::Said;
use sandtrace_client::live::Voice;
use sandtrace_client::{Content, Event, Launch, local};
use tokio::sync::mpsc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let supervisor = env::var("SANDTRACE").unwrap_or_else(|_| "sandtrace".to_owned());
    let launch = Launch::new(env::args().skip(1)).program(supervisor);
    let mut live = local::start(&launch).await?;
    let voice = live.voice().by("you");
    let mut typed = typed();
    let mut is_open = true;
    loop {
        tokio::select! {
            event = live.next() => match event? {
                Some(event) => show(&event),
                None => break,
            },
            line = typed.recv(), if is_open => match line {
                Some(line) => say(&voice, &line).await?,
                None => {
                    is_open = false;
                    voice.end_input().await?;
                }
            },
        }
    }
    println!("{:#?}", live.conclude().await?);
    Ok(())
}

/// The lines of the terminal. By a thread of their own, which does not keep the program from ending.
fn typed() -> mpsc::Receiver<String> {
    let (tell, typed) = mpsc::channel(1);
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if tell.blocking_send(line).is_err() {
                break;
            }
        }
    });
    typed
}

async fn say(voice: &Voice<local::Line>, line: &str) -> Result<(), local::Error> {
    match line.trim().split_once(' ') {
        Some(("yes", id)) => voice.approve(id).await,
        Some(("no", id)) => voice.deny(id, "not now").await,
        _ if line.trim().is_empty() => voice.close().await,
        _ => voice.send_message(line).await,
    }
}

fn show(event: &Event) {
    let Content::Agent(line) = event.content() else {
        return;
    };
    for said in line.said() {
        match said {
            Said::Text(text) => println!("{text}"),
            Said::ToolUse(tool) => println!("[{} {}]", tool.name, tool.input),
            Said::ApprovalRequest(asked) => {
                println!(
                    "May {} run? {}",
                    asked.tool_name.unwrap_or("it"),
                    asked.input
                );
                println!("yes {id}, or no {id}", id = asked.id);
            }
            _ => {}
        }
    }
}
