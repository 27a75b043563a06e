//! The offline side: raw transactions in, published models out.

mod cli;
mod console;
mod device;
mod execute;
mod failure;
pub mod learn;
mod models;
mod output;
mod score;
mod usage;

pub use cli::Cli;
pub use console::Console;
pub use device::DeviceChoice;
pub use execute::execute;
pub use failure::Failure;
