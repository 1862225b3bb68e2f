//! What several test modules share.

mod grpc;
pub(crate) mod receiver;
pub(crate) mod spans;
pub(crate) mod tls;
pub(crate) mod tunnel;
