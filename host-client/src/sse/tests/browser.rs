//! A reader of event streams, by the standard's algorithm and its words ("9.2.6 Interpreting an event stream").

/// An event that was dispatched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    /// `message` if the stream gave none.
    pub(super) name: String,
    pub(super) data: String,
    pub(super) last_id: String,
}

#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) messages: Vec<Message>,
    pub(super) retry: Option<u64>,
    line: String,
    /// A line ended with a carriage return: a line feed that follows belongs to it.
    after_return: bool,
    data: String,
    name: String,
    /// The last event ID buffer, and the last event ID string.
    id: String,
    last_id: String,
}

impl Stream {
    pub(super) fn feed(&mut self, text: &str) {
        for char in text.chars() {
            let after_return = std::mem::take(&mut self.after_return);
            match char {
                '\n' if after_return => {}
                '\n' => self.end_line(),
                '\r' => {
                    self.after_return = true;
                    self.end_line();
                }
                char => self.line.push(char),
            }
        }
    }

    /// What the browser would send as `Last-Event-ID`.
    pub(super) fn last_id(&self) -> &str {
        &self.last_id
    }

    /// The connection broke: what was not dispatched is discarded.
    pub(super) fn reconnect(&mut self) {
        self.line.clear();
        self.after_return = false;
        self.data.clear();
        self.name.clear();
        self.id.clone_from(&self.last_id);
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.name = value.to_owned(),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => self.id = value.to_owned(),
            "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry = value.parse().ok();
            }
            _ => {}
        }
    }

    fn dispatch(&mut self) {
        self.last_id.clone_from(&self.id);
        let name = std::mem::take(&mut self.name);
        let mut data = std::mem::take(&mut self.data);
        if data.is_empty() {
            return;
        }
        data.pop();
        self.messages.push(Message {
            name: if name.is_empty() {
                "message".to_owned()
            } else {
                name
            },
            data,
            last_id: self.last_id.clone(),
        });
    }
}
