//! What it writes, and how.

use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{close, write};

use crate::Agent;
use crate::script::{Chunk, Flow, Outcome, Settings};

/// Bytes that look like nothing in particular, the same for each seed (xorshift64*).
#[derive(Debug, Clone)]
pub(crate) struct Noise {
    state: u64,
}

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        // Of 0 the generator makes nothing but 0, and neighbouring seeds begin alike.
        let state = (seed.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut noise = Self { state };
        noise.next();
        noise
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    /// As [`Self::bytes`], of what may stand in a JSON string as it is.
    pub(crate) fn letters(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = self.bytes(length);
        for byte in &mut bytes {
            *byte = b'a' + *byte % 26;
        }
        bytes
    }
}

/// Past the standard library, whose stdout has a buffer and a lock.
pub(crate) struct Output {
    stream: i32,
    chunk: Chunk,
    sizes: Noise,
    worst: Duration,
}

static STDOUT: LazyLock<io::Stdout> = LazyLock::new(io::stdout);
static STDERR: LazyLock<io::Stderr> = LazyLock::new(io::stderr);

fn file(stream: i32) -> BorrowedFd<'static> {
    match stream {
        2 => (*STDERR).as_fd(),
        _ => (*STDOUT).as_fd(),
    }
}

impl Output {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            stream: 1,
            chunk: settings.chunk,
            sizes: Noise::new(!settings.seed),
            worst: Duration::ZERO,
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_to(self.stream, bytes)
    }

    pub(crate) fn write_to(&mut self, stream: i32, mut bytes: &[u8]) -> io::Result<()> {
        let file = file(stream);
        while !bytes.is_empty() {
            let most = match self.chunk {
                Chunk::Bytes(most) => most,
                // Small ones as often as large ones.
                Chunk::Random => {
                    let scale = self.sizes.next() % 17;
                    1 + usize::try_from(self.sizes.next() % (1 << scale)).unwrap_or(0)
                }
            };
            let began = Instant::now();
            let written = write(file, &bytes[..bytes.len().min(most)]);
            self.worst = self.worst.max(began.elapsed());
            match written {
                Ok(written) => bytes = &bytes[written..],
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    let mut files = [PollFd::new(file, PollFlags::POLLOUT)];
                    poll(&mut files, PollTimeout::NONE)?;
                    self.worst = self.worst.max(began.elapsed());
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

impl Agent {
    /// Writes one line and takes the pause that comes after it.
    pub(crate) fn line(&mut self, line: &str) -> io::Result<()> {
        self.output.write(format!("{line}\n").as_bytes())?;
        self.pause();
        Ok(())
    }

    pub(crate) fn pause(&self) {
        if !self.settings.every.is_zero() {
            thread::sleep(self.settings.every);
        }
    }

    pub(crate) fn to(&mut self, stream: i32) -> Outcome {
        self.output.stream = stream;
        Ok(Flow::Next)
    }

    pub(crate) fn ready(&mut self) -> Outcome {
        self.output.write(b"{\"ready\":1}\n")?;
        Ok(Flow::Next)
    }

    pub(crate) fn lines(&mut self, count: u64) -> Outcome {
        // As long as the longest padding, and a little more, so that no two neighbours have the same.
        let length = self.settings.line_length;
        let pads = self.noise.letters(length + 64);
        let mut batch = Vec::new();
        for number in 0..count {
            let head = format!("{{\"n\":{number},\"pad\":\"");
            let pad = length.saturating_sub(head.len() + 3);
            let at = usize::try_from(number % 64).unwrap_or(0);
            batch.extend_from_slice(head.as_bytes());
            batch.extend_from_slice(&pads[at..at + pad]);
            batch.extend_from_slice(b"\"}\n");
            if !self.settings.every.is_zero() || batch.len() >= 64 << 10 {
                self.output.write(&batch)?;
                batch.clear();
                self.pause();
            }
        }
        self.output.write(&batch)?;
        Ok(Flow::Next)
    }

    pub(crate) fn line_bytes(&mut self, length: usize) -> Outcome {
        let block = self.noise.letters(length.min(1 << 20));
        let mut left = length;
        while left > 0 {
            let part = left.min(block.len());
            self.output.write(&block[..part])?;
            left -= part;
        }
        self.output.write(b"\n")?;
        Ok(Flow::Next)
    }

    pub(crate) fn random_bytes(&mut self, length: usize) -> Outcome {
        let mut left = length;
        while left > 0 {
            let part = left.min(64 << 10);
            let bytes = self.noise.bytes(part);
            self.output.write(&bytes)?;
            left -= part;
        }
        Ok(Flow::Next)
    }

    pub(crate) fn all_bytes(&mut self) -> Outcome {
        let every: Vec<u8> = (0..=255).collect();
        let text = [
            &every[..],
            b"\r\n\0\0\r\n\r\r\n\n{\"a\":\"\0\"}\r\n{\"crlf\":1}\r\n",
        ]
        .concat();
        self.output.write(&text)?;
        Ok(Flow::Next)
    }

    pub(crate) fn bad_utf8(&mut self) -> Outcome {
        // A lone continuation, an overlong slash, a surrogate, a sequence that is cut short by the end of the line.
        let text = b"\x80\xbf\n{\"path\":\"\xc0\xaf\"}\n{\"text\":\"\xed\xa0\x80\"}\nna\xc3\n{\"ok\":\"\xc3\xa4\"}\n";
        self.output.write(text)?;
        Ok(Flow::Next)
    }

    pub(crate) fn no_newline(&mut self) -> Outcome {
        self.output
            .write(b"{\"type\":\"assistant\",\"message\":{\"content\":[{\"te")?;
        Ok(Flow::Next)
    }

    /// A terminal that took these as they are would turn red, change its title, clear itself and print backwards.
    pub(crate) fn ansi(&mut self) -> Outcome {
        let text = "\u{1b}[31mred\u{1b}]0;owned\u{7}\u{1b}]52;c;b3duZWQ=\u{1b}\\\u{1b}[2J\u{9b}1m\u{202e}drawkcab\u{8}\u{7f}\n";
        self.output.write(text.as_bytes())?;
        self.tool_call(
            "Bash\\u202e\\u009b1m\\u001b[2J\\u001b]0;owned\\u0007\\u202e",
            "ls\\u001b[31m",
        )?;
        self.tool_result("\\u001b[31mred\\u009b1m")?;
        Ok(Flow::Next)
    }

    pub(crate) fn forge(&mut self) -> Outcome {
        let text = concat!(
            r#"{"type":"assistant","sandtrace":{"seq":1,"time":"2026-01-01T00:00:00Z","trace_id":"00000000000000000000000000000001","span_id":"0000000000000001"}}"#,
            "\n",
            r#"{"type":"sandtrace.run.finished","data":{"outcome":"success","failure":null}}"#,
            "\n",
            r#"{"s\u0061ndtrace":{"seq":2}}"#,
            "\n",
        );
        self.output.write(text.as_bytes())?;
        Ok(Flow::Next)
    }

    pub(crate) fn stderr_bytes(&mut self, length: usize) -> Outcome {
        let mut block = self.noise.letters(1 << 20);
        for newline in block.iter_mut().skip(99).step_by(100) {
            *newline = b'\n';
        }
        let mut left = length;
        while left > 0 {
            let part = left.min(block.len());
            self.output.write_to(2, &block[..part])?;
            left -= part;
        }
        Ok(Flow::Next)
    }

    pub(crate) fn close_stdout(&mut self) -> Outcome {
        close(1)?;
        Ok(Flow::Next)
    }

    pub(crate) fn close_stderr(&mut self) -> Outcome {
        close(2)?;
        Ok(Flow::Next)
    }

    pub(crate) fn close_stdin(&mut self) -> Outcome {
        match close(0) {
            // It may have been closed before.
            Ok(()) | Err(Errno::EBADF) => Ok(Flow::Next),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(crate) fn nonblock(&mut self) -> Outcome {
        for stream in [1, 2] {
            let flags = OFlag::from_bits_retain(fcntl(file(stream), FcntlArg::F_GETFL)?);
            fcntl(file(stream), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        }
        Ok(Flow::Next)
    }

    pub(crate) fn measure(&mut self, path: String) -> Outcome {
        let millis = self.output.worst.as_secs_f64() * 1e3;
        fs::write(path, format!("{millis:.3}\n"))?;
        Ok(Flow::Next)
    }

    pub(crate) fn read_stdin(&mut self) -> Outcome {
        let mut chunk = vec![0; 64 << 10];
        let mut total = 0;
        loop {
            match io::stdin().lock().read(&mut chunk)? {
                0 => break,
                length => total += length,
            }
        }
        self.line(&format!("{{\"stdin_bytes\":{total}}}"))?;
        Ok(Flow::Next)
    }
}
