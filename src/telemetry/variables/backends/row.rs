//! What a row of the table can say.

use crate::telemetry::destination::{Compression, Dialect, Protocol, Signals, Temporality};

/// Variables that say the same thing; the first that is set counts.
pub(in super::super) type Names = &'static [&'static str];

/// One row.
#[derive(Debug)]
pub(in super::super) struct Backend {
    /// As OTEL_EXPORTERS names it, in any case, and as the counts do.
    pub(in super::super) name: &'static str,
    pub(in super::super) own: Own,
    /// What it takes at most.
    pub(in super::super) signals: Signals,
    pub(in super::super) place: Place,
    pub(in super::super) headers: &'static [Header],
    /// The vendor's variables for further headers, written as OTEL_EXPORTER_OTLP_HEADERS is.
    pub(in super::super) lists: Names,
    /// Resource attributes for this backend alone.
    pub(in super::super) resource: &'static [(&'static str, Names)],
    pub(in super::super) speaks: Speaks,
    /// Unless a variable says otherwise. Gzip where the vendor says that it is read.
    pub(in super::super) compression: Compression,
    pub(in super::super) dialect: Dialect,
    pub(in super::super) counts: Counting,
}

/// The variables that every backend has.
#[derive(Debug)]
pub(in super::super) struct Own {
    /// The OTLP address, with or without the path of a signal. It wins over the vendor's.
    pub(in super::super) endpoint: &'static str,
    pub(in super::super) headers: &'static str,
    pub(in super::super) protocol: &'static str,
    pub(in super::super) compression: &'static str,
    pub(in super::super) timeout: &'static str,
    pub(in super::super) certificate: &'static str,
}

/// Where a backend is.
#[derive(Debug)]
pub(in super::super) struct Place {
    /// The vendor's variables for the address of its site.
    pub(in super::super) sites: Names,
    /// What follows the site, before `/v1/traces`.
    pub(in super::super) path: &'static str,
    pub(in super::super) origin: Origin,
}

/// Where a backend is if nobody says so.
#[derive(Debug)]
pub(in super::super) enum Origin {
    /// At the vendor's.
    Site(&'static str),
    /// On this machine, on these ports over HTTP and gRPC.
    Local { http: u16, grpc: u16 },
    /// At an address of the vendor's that has a variable in it.
    Part {
        before: &'static str,
        variables: Names,
        /// What it is if no variable says so.
        usual: Option<&'static str>,
        after: &'static str,
        example: &'static str,
    },
    /// At an address of the vendor's that has the region from a token in it: `pylf_v1_eu_...`.
    Region {
        before: &'static str,
        token: &'static str,
        regions: Names,
        after: &'static str,
    },
    /// It must be said: what to set.
    Said(&'static str),
}

/// A header of every request for some signals.
#[derive(Debug)]
pub(in super::super) struct Header {
    pub(in super::super) name: &'static str,
    pub(in super::super) is: Holds,
    pub(in super::super) signals: Signals,
}

/// What a header holds.
#[derive(Debug)]
pub(in super::super) enum Holds {
    Fixed(&'static str),
    /// No credential; without the variable there is no header, unless a usual value is given.
    Plain(Names, Option<&'static str>),
    /// A key as it is.
    Raw(Names, Need),
    Bearer(Names, Need),
    /// `user:password` in base64; the user is a name and no secret by itself.
    Basic(Names, Names, Need),
}

/// Whether there is no sending without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Need {
    Always,
    Never,
    /// Only at the vendor's own address; elsewhere anybody may listen. A list of headers takes its place.
    AtHome,
}

/// Which protocols a backend reads. All of them read protobuf over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Speaks {
    Protobuf,
    ProtobufAndJson,
    ProtobufAndGrpc,
    All,
}

/// How a backend wants counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Counting {
    /// So, unless OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE says otherwise.
    Prefers(Temporality),
    /// It refuses or misreads anything else.
    Only(Temporality),
}

impl Speaks {
    pub(super) fn has(self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::HttpProtobuf => true,
            Protocol::HttpJson => matches!(self, Self::ProtobufAndJson | Self::All),
            Protocol::Grpc => matches!(self, Self::ProtobufAndGrpc | Self::All),
        }
    }

    pub(super) fn allowed(self) -> &'static str {
        match self {
            Self::Protobuf => "http/protobuf",
            Self::ProtobufAndJson => "http/protobuf or http/json",
            Self::ProtobufAndGrpc => "http/protobuf or grpc",
            Self::All => "http/protobuf, http/json or grpc",
        }
    }
}
