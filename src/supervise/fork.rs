//! Is this still the same sandbox? Asked after a pause, and now and then.

use std::thread;
use std::time::Duration;

use sandtrace_client::wire::{Body, ForkedFrom};
use uuid::Uuid;

use super::Supervisor;
use super::clock::sandbox_id;
use super::prepare::forked_resource_of;

/// How soon the file of the sandbox's id is whole.
const WRITTEN_WITHIN: Duration = Duration::from_millis(5);

impl Supervisor {
    /// Reads the sandbox's id again. Another one means that the sandbox was copied, and that we are the copy.
    pub(super) fn check_identity(&mut self) {
        let now = sandbox_id();
        if now.is_none() || now == self.sandbox_id {
            return;
        }
        // A file that is being written may be read in part, and half an id is no copy's. The next look will tell.
        thread::sleep(WRITTEN_WITHIN);
        if sandbox_id() != now {
            return;
        }
        let before = std::mem::replace(&mut self.sandbox_id, now);
        // Outside of a sandbox that says who it is, a first id tells nothing of a copy.
        if before.is_some() {
            self.fork(before);
        }
    }

    /// Goes on as a run of its own. The numbers of the lines go on, for the host that reads them is the same.
    fn fork(&mut self, from_sandbox: Option<String>) {
        let run_id = Uuid::now_v7().to_string();
        let now = self.clock.now();
        self.effects.clear();
        let forked = self.session.fork(now, &run_id, &mut self.effects);
        let renamed = self.transcript.fork(now, &run_id, &forked);
        let resource = forked_resource_of(&self.settings, &run_id);
        // What the host has not been told yet, the original tells it.
        while let Some(Ok(request)) = self.host_requests.as_mut().map(|it| it.try_recv()) {
            request.leave();
        }
        if let (Some(telemetry), Ok(resource)) = (&self.telemetry, resource) {
            telemetry.identify(resource);
        }
        let from_run = std::mem::replace(&mut self.state.run_id, run_id.clone());
        self.state.trace_id = forked.trace_id.to_string();
        self.started.run_id = run_id;
        self.started.trace_id = forked.trace_id.to_string();
        self.started.root_span_id = forked.root.to_string();
        self.started.parent_span_id = None;
        self.started.journal = self.journal_directory();
        self.started.forked_from = Some(ForkedFrom {
            run_id: from_run,
            trace_id: forked.from_trace_id.to_string(),
            root_span_id: forked.from_root.to_string(),
            sandbox_id: from_sandbox,
        });
        let started = Body::RunStarted(Box::new(self.started.clone()));
        self.transcript.body(now, None, &started);
        for span in std::mem::take(&mut self.effects.spans.opened) {
            self.transcript.opened(now, &span);
        }
        if let Err(error) = renamed {
            let message = format!(
                "the journal keeps the directory of the run that this one was forked from: {error}"
            );
            self.warn("journal_not_renamed", &message);
        }
        self.transcript.commit(now);
        self.write_state();
    }
}
