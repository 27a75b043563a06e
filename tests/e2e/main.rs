//! The whole chain on the real file, from raw transactions to answers through the gateway.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod bad_input;
mod dashboard;
mod hostile;
mod insights;
mod planted;
mod scoring;
mod services;
mod serving;
mod traces;
mod training;
