//! gRPC on the wire: frames, compression, timeouts and trace headers. No message
//! is decoded here.

pub(crate) mod compression;
pub(crate) mod frame;
pub(crate) mod timeout;
pub(crate) mod trace;
