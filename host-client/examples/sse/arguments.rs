//! The command line.

use std::net::SocketAddr;

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) listen: SocketAddr,
    /// Where the supervisor is, if not in `PATH`.
    pub(crate) sandtrace: Option<String>,
    /// The template of E2B sandboxes; `None` for child processes.
    pub(crate) e2b: Option<String>,
    pub(crate) command: Vec<String>,
}

impl Arguments {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            sandtrace: None,
            e2b: None,
            command: Vec::new(),
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match &*word {
                "--listen" => {
                    let value = value()?;
                    let address: SocketAddr = value
                        .parse()
                        .map_err(|_| format!("{value} is no address like 127.0.0.1:8080"))?;
                    if !address.ip().is_loopback() {
                        return Err(format!(
                            "{address} is not loopback, and this example lets everybody in"
                        ));
                    }
                    arguments.listen = address;
                }
                "--sandtrace" => arguments.sandtrace = Some(value()?),
                "--e2b" => arguments.e2b = Some(value()?),
                "--" => {
                    arguments.command = words.collect();
                    break;
                }
                _ => return Err(format!("{word} is no option of this example")),
            }
        }
        if arguments.command.is_empty() {
            return Err("name the agent: -- python3 template/agent.py --interactive".to_owned());
        }
        Ok(arguments)
    }
}
