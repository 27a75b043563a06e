//! What every process of Shopkeeper needs: options, telemetry, a listener with health and
//! reflection, deadlines, a bounded drain, refusals that say what the caller can do, and exit
//! codes.

mod allocator;
mod call;
mod call_metrics;
mod check;
mod connections;
mod exit;
mod files;
mod heartbeat;
mod http2_io;
pub mod metrics;
mod page;
mod process;
mod refusal;
mod resets;
mod server;
pub mod telemetry;
mod tls;
mod write_coalescing;

pub use allocator::give_memory_back;
pub use call::{
    Call, CallLayer, MalformedTimeout, code_name, deadline, grpc_timeout, is_grpc, unreadable,
};
pub use check::{at_least_one, finite, item_status, non_negative, positive, required, within};
pub use connections::{ConnectionArgs, WINDOW, WINDOWS};
pub use exit::{exit, shutdown};
pub use files::Files;
pub use page::Page;
pub use refusal::{DOMAIN, Refusal, error_info};
pub use server::{Server, ServerArgs, Service, health_and_reflection};
pub use tls::{ClientTls, ClientTlsArgs, Tls, TlsArgs};
pub use write_coalescing::{CoalescedWrites, Polls};
