//! The API as Rust: messages, clients and servers generated from `shopkeeper/<area>/v1/*.proto`, and the descriptor set
//! that reflection and the gateway's policies are read from.

#![expect(clippy::allow_attributes, reason = "generated code allows what it must")]

/// Every .proto of the API and what it imports, encoded as a `google.protobuf.FileDescriptorSet` with all options kept.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Largest message a service or the gateway takes, bytes.
pub const MAX_MESSAGE: usize = 4 << 20;

macro_rules! area {
    ($($(#[$doc:meta])* $area:ident),* $(,)?) => {$(
        $(#[$doc])*
        pub mod $area {
            /// Version 1.
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/shopkeeper.", stringify!($area), ".v1.rs"));
            }
        }
    )*};
}

area! {
    /// What the gateway may do with calls of a method.
    policy,
    /// The models themselves.
    model,
    /// Which kind of customer somebody is.
    segmentation,
    /// What will sell.
    forecast,
    /// What to put beside the till.
    recommendation,
    /// Who is about to stop buying.
    churn,
    /// Which transaction line looks wrong.
    anomaly,
    /// What the shop's figures are.
    insights,
}
