//! Supervises one Claude agent inside a sandbox and says, as an OpenTelemetry trace and as lines to the host, what it
//! did, what it cost and how it ended.
//!
//! ```text
//! agent's stdout ─► agent ─► session ─► transcript ─► journal ─► echo ─► host
//!                   (lines,   │  ▲        (seq)
//!                    events)  │  └─ process: exit, EOF, signals; resources: samples
//!                             └────► telemetry: finished spans ─► destinations
//! ```
//!
//! The journey of a line: [`process`] reads a chunk of the agent's stdout; [`agent`] cuts it into bounded lines and
//! decodes each into an event; [`session`], which is pure, concludes which spans open and close and which span the
//! line belongs to; [`transcript`] numbers it by [`envelope`], writes it to the [`journal`] and hands it to the
//! [`echo`], whose thread writes it to the host; closed spans go to [`telemetry`], whose thread exports them; and
//! [`supervise`] is the loop that drives all of this and owns its state. Beside it, [`report`] shows a run, [`mod@attach`]
//! follows one and [`mod@stop`] asks one to stop, all by its journal alone. Time comes from the [`clock`], on which a pause of the sandbox does not
//! count.

pub mod agent;
pub mod attach;
pub mod cli;
pub mod clock;
pub mod doctor;
pub mod echo;
pub mod envelope;
pub mod journal;
pub mod network;
pub mod order;
pub mod process;
pub mod report;
pub mod resources;
pub mod session;
pub mod stop;
pub mod summary;
pub mod supervise;
pub mod telemetry;
pub mod time;
pub mod transcript;
