//! What it uses: processor, memory, network.

use std::io::Write as _;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::sys::resource::{UsageWho, getrusage};

use crate::Agent;
use crate::output::Noise;
use crate::script::{Flow, Outcome};

const MIB: usize = 1 << 20;
const PAGE: usize = 4 << 10;
const PATIENCE: Duration = Duration::from_secs(60);

impl Agent {
    /// By its own account, so that a busy machine makes it take longer and not use less.
    pub(crate) fn burn_cpu(&mut self, duration: Duration) -> Outcome {
        let used = || {
            let usage = getrusage(UsageWho::RUSAGE_SELF)?;
            let (user, system) = (usage.user_time(), usage.system_time());
            let micros = (user + system).tv_sec() * 1_000_000 + (user + system).tv_usec();
            Ok::<_, nix::errno::Errno>(Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
        };
        // Not the script's own noise: how often is the machine's business, and what is printed must not be.
        let mut work = Noise::new(self.settings.seed);
        let until = used()? + duration;
        while used()? < until {
            for _ in 0..10_000 {
                std::hint::black_box(work.next());
            }
        }
        Ok(Flow::Next)
    }

    pub(crate) fn eat_memory(&mut self, bytes: usize) -> Outcome {
        let mut left = bytes;
        while left > 0 {
            let part = left.min(MIB);
            let mut block = Vec::new();
            if block.try_reserve_exact(part).is_err() {
                return self.memory_error();
            }
            // Not zeros, which the kernel might share or squeeze.
            let filling = self.noise.next();
            block.resize(part, 0);
            for page in block.chunks_mut(PAGE) {
                let mark = filling.to_le_bytes();
                let length = page.len().min(mark.len());
                page[..length].copy_from_slice(&mark[..length]);
            }
            self.memory.push(block);
            left -= part;
            self.pause();
        }
        Ok(Flow::Next)
    }

    pub(crate) fn connect(&mut self, address: String) -> Outcome {
        let connected = address
            .to_socket_addrs()
            .and_then(|mut found| {
                found
                    .next()
                    .ok_or_else(|| std::io::Error::other("no address"))
            })
            .and_then(|found| TcpStream::connect_timeout(&found, PATIENCE));
        match connected {
            Ok(mut connection) => {
                let request = format!(
                    "POST /v1/messages HTTP/1.1\r\nhost: {address}\r\ncontent-length: 2\r\n\r\n{{}}"
                );
                if let Err(error) = connection.write_all(request.as_bytes()) {
                    self.output
                        .write_to(2, format!("write {address}: {error}\n").as_bytes())?;
                }
                self.connections.push(connection);
            }
            Err(error) => {
                let code = error.raw_os_error().map(nix::errno::Errno::from_raw);
                let name = code.map_or_else(|| "ENOTFOUND".to_owned(), |code| format!("{code:?}"));
                let text = format!("Error: connect {name} {address}: {error}\n");
                self.output.write_to(2, text.as_bytes())?;
            }
        }
        Ok(Flow::Next)
    }

    pub(crate) fn wait_for(&mut self, path: String) -> Outcome {
        let until = Instant::now() + PATIENCE;
        while !Path::new(&path).exists() && Instant::now() < until {
            thread::sleep(Duration::from_millis(2));
        }
        Ok(Flow::Next)
    }

    pub(crate) fn touch(&mut self, path: String) -> Outcome {
        fs::write(path, "")?;
        Ok(Flow::Next)
    }
}
