//! The offline side: transactions in, published models out.

mod args;
mod bulk;
mod catalog;
mod columns;
mod commands;
mod console;
mod context;
mod device;
mod failure;
mod layout;
pub mod learn;
mod output;
mod pipeline;
mod usage;
mod versions;

pub use commands::Cli;
pub use console::Console;
pub use context::Context;
pub use device::DeviceChoice;
pub use failure::Failure;
