//! The API as Rust: messages, clients and servers generated from `shopkeeper/<area>/v1/*.proto` and
//! the Open Inference Protocol, and the descriptor set that reflection and the gateway's policies
//! are read from.

#![expect(
    clippy::allow_attributes,
    reason = "generated code allows what it must"
)]

/// Every .proto of the API and what it imports, encoded as a `google.protobuf.FileDescriptorSet`
/// with all options kept.
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

/// The Open Inference Protocol, version 2: the models as clients of Triton and KServe ask them.
pub mod inference {
    use repository_index_response::ModelIndex;

    include!(concat!(env!("OUT_DIR"), "/inference.rs"));

    impl ServerMetadataResponse {
        /// What every process calls itself.
        pub fn shopkeeper() -> Self {
            Self {
                name: "shopkeeper".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                extensions: Vec::new(),
            }
        }
    }

    impl ModelIndex {
        /// A model of which this version answers, where one does.
        pub fn new(name: &str, version: Option<&str>, reason: &str) -> Self {
            Self {
                name: name.to_owned(),
                version: version.unwrap_or_default().to_owned(),
                state: if version.is_some() {
                    "READY"
                } else {
                    "UNAVAILABLE"
                }
                .to_owned(),
                reason: reason.to_owned(),
            }
        }
    }

    impl RepositoryIndexResponse {
        /// These models, without those that are not ready where only ready ones are asked for.
        pub fn of(models: impl IntoIterator<Item = ModelIndex>, ready_alone: bool) -> Self {
            Self {
                models: models
                    .into_iter()
                    .filter(|model| !ready_alone || model.state == "READY")
                    .collect(),
            }
        }
    }
}
