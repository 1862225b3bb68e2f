//! A client that sends the very bytes it is told to, and takes nothing for granted of what comes back.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::fake_envd::FakeEnvd;

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const STREAM: &str = "application/connect+json";
pub(crate) const UNARY: &str = "application/json";

/// Calls `ready` until it gives something.
pub(crate) fn poll<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < deadline, "still waiting: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// An envelope around a message.
pub(crate) fn envelope(flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[flags], &length[..], payload].concat()
}

/// A request that is to be sent.
pub(crate) struct Request {
    method: &'static str,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    pub(crate) fn new(method: &'static str, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// A call of envd's process service.
    pub(crate) fn call(procedure: &str, kind: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", format!("/process.Process/{procedure}"))
            .header("content-type", kind)
            .body(body)
    }

    /// A unary call.
    pub(crate) fn unary(procedure: &str, message: &Value) -> Self {
        Self::call(procedure, UNARY, message.to_string())
    }

    /// A call that is answered by a stream.
    pub(crate) fn streaming(procedure: &str, message: &Value) -> Self {
        let payload = message.to_string();
        Self::call(procedure, STREAM, envelope(0, payload.as_bytes()))
    }

    /// A command, as the SDKs start it.
    pub(crate) fn start(command: &str) -> Self {
        Self::streaming(
            "Start",
            &json!({
                "process": {"cmd": "/bin/bash", "args": ["-l", "-c", command]},
                "stdin": false,
            }),
        )
    }

    pub(crate) fn connect(pid: i64) -> Self {
        Self::streaming("Connect", &json!({"process": {"pid": pid}}))
    }

    pub(crate) fn header(mut self, name: &str, value: impl Display) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends it, and waits for the head of the answer.
    pub(crate) fn send(self, fake: &FakeEnvd) -> io::Result<Answer> {
        let mut stream = TcpStream::connect(fake.address())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut head = format!(
            "{} {} HTTP/1.1\r\nhost: localhost\r\n",
            self.method, self.path
        );
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", self.body.len()));
        stream.write_all(&[head.as_bytes(), &self.body].concat())?;
        Answer::begin(stream)
    }

    /// Sends it, and reads the answer to its end.
    pub(crate) fn whole(self, fake: &FakeEnvd) -> Whole {
        let mut answer = self.send(fake).unwrap();
        let mut body = Vec::new();
        while let Some(piece) = answer.piece().unwrap() {
            body.extend(piece);
        }
        Whole {
            status: answer.status,
            headers: answer.headers,
            body,
        }
    }
}

/// An answer that was read to its end.
pub(crate) struct Whole {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Whole {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The envelopes of a stream: all of it, and nothing else.
    pub(crate) fn envelopes(&self) -> Vec<(u8, Value)> {
        let mut envelopes = Vec::new();
        let mut rest = self.body.as_slice();
        while let Some((head, after)) = rest.split_first_chunk::<5>() {
            let [flags, length @ ..] = *head;
            let (payload, after) = after.split_at(u32::from_be_bytes(length) as usize);
            envelopes.push((flags, serde_json::from_slice(payload).unwrap()));
            rest = after;
        }
        assert!(rest.is_empty(), "{} bytes too many", rest.len());
        envelopes
    }

    /// The error at the end of a stream that has no more than that.
    pub(crate) fn error(&self) -> Value {
        let mut envelopes = self.envelopes();
        assert_eq!(envelopes.len(), 1, "{envelopes:?}");
        let (flags, end) = envelopes.remove(0);
        assert_eq!(flags, 2);
        end["error"].clone()
    }
}

/// An answer that is being read.
pub(crate) struct Answer {
    stream: TcpStream,
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    buffer: Vec<u8>,
    /// What is left of a body whose length is known.
    left: Option<usize>,
    /// Of the body's envelopes, what no message was made of yet.
    envelopes: Vec<u8>,
    is_over: bool,
}

impl Answer {
    fn begin(stream: TcpStream) -> io::Result<Self> {
        let mut answer = Self {
            stream,
            status: 0,
            headers: BTreeMap::new(),
            buffer: Vec::new(),
            left: None,
            envelopes: Vec::new(),
            is_over: false,
        };
        let head = answer.until(b"\r\n\r\n")?;
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        answer.status = status.parse().unwrap();
        let headers = lines.filter_map(|line| line.split_once(": "));
        answer.headers = headers
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        if !answer.headers.contains_key("transfer-encoding") {
            let length = answer.headers.get("content-length");
            answer.left = Some(length.map_or(0, |length| length.parse().unwrap()));
        }
        Ok(answer)
    }

    /// The next bytes of the body; None at its proper end.
    pub(crate) fn piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.is_over {
            return Ok(None);
        }
        if let Some(left) = self.left.take() {
            self.is_over = true;
            return Ok(Some(self.take(left)?));
        }
        let size = self.until(b"\r\n")?;
        let size = usize::from_str_radix(str::from_utf8(&size).unwrap().trim(), 16).unwrap();
        let mut chunk = self.take(size + 2)?;
        chunk.truncate(size);
        self.is_over = size == 0;
        Ok((size > 0).then_some(chunk))
    }

    /// All that comes before the connection ends, properly or not.
    pub(crate) fn rest(mut self) -> (Vec<u8>, io::Result<()>) {
        let mut bytes = std::mem::take(&mut self.envelopes);
        loop {
            match self.piece() {
                Ok(Some(piece)) => bytes.extend(piece),
                Ok(None) => return (bytes, Ok(())),
                Err(error) => return (bytes, Err(error)),
            }
        }
    }

    /// The next envelope of a stream; None at the end of its body.
    pub(crate) fn envelope(&mut self) -> io::Result<Option<(u8, Value)>> {
        loop {
            if let Some((head, rest)) = self.envelopes.split_first_chunk::<5>() {
                let [flags, length @ ..] = *head;
                let length = u32::from_be_bytes(length) as usize;
                if rest.len() >= length {
                    let message = serde_json::from_slice(&rest[..length]).unwrap();
                    self.envelopes.drain(..5 + length);
                    return Ok(Some((flags, message)));
                }
            }
            match self.piece()? {
                Some(piece) => self.envelopes.extend(piece),
                None => return Ok(None),
            }
        }
    }

    /// The next event of a process, of the shape `{kind: …}`.
    pub(crate) fn event(&mut self) -> Value {
        let (flags, message) = self.envelope().unwrap().unwrap();
        assert_eq!(flags, 0, "{message}");
        message["event"].clone()
    }

    /// The process id, which is the first event.
    pub(crate) fn pid(&mut self) -> i64 {
        self.event()["start"]["pid"].as_i64().unwrap()
    }

    /// Reads on to the end of the stream.
    pub(crate) fn output(&mut self) -> Output {
        let mut output = Output::default();
        while let Some((flags, message)) = self.envelope().unwrap() {
            if flags == 2 {
                output.error = message.get("error").cloned();
            }
            output.add(&message["event"]);
        }
        output
    }

    /// Reads on until stdout holds a text.
    pub(crate) fn until_printed(&mut self, text: &str) -> Output {
        let mut output = Output::default();
        while !output.stdout.contains(text) {
            output.add(&self.event());
        }
        output
    }

    fn until(&mut self, mark: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.buffer, mark) {
                return self.take(at + mark.len());
            }
            self.fill()?;
        }
    }

    fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            self.fill()?;
        }
        Ok(self.buffer.drain(..count).collect())
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut bytes = [0; 16 << 10];
        match self.stream.read(&mut bytes)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.buffer.extend_from_slice(&bytes[..count]);
                Ok(())
            }
        }
    }
}

/// What a stream told of a process.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) chunks: Vec<usize>,
    pub(crate) keepalives: usize,
    /// The end event.
    pub(crate) end: Option<Value>,
    /// The error at the end of the stream.
    pub(crate) error: Option<Value>,
}

impl Output {
    fn add(&mut self, event: &Value) {
        for (name, text) in [("stdout", &mut self.stdout), ("stderr", &mut self.stderr)] {
            if let Some(data) = event["data"][name].as_str() {
                let bytes = STANDARD.decode(data).unwrap();
                self.chunks.push(bytes.len());
                text.push_str(str::from_utf8(&bytes).unwrap());
            }
        }
        self.keepalives += usize::from(event.get("keepalive").is_some());
        if let Some(end) = event.get("end") {
            self.end = Some(end.clone());
        }
    }
}

/// Runs a command to its end.
pub(crate) fn run(fake: &FakeEnvd, command: &str) -> Output {
    let mut answer = Request::start(command).send(fake).unwrap();
    answer.pid();
    answer.output()
}
