//! The API as Rust: messages, clients and servers generated from `shopkeeper/<area>/v1/*.proto` and
//! the Open Inference Protocol, and the descriptor set that reflection and the gateway's policies
//! are read from.

#![expect(
    clippy::allow_attributes,
    reason = "generated code allows what it must"
)]
#![expect(
    clippy::too_many_lines,
    reason = "a generated server has a match with an arm per method"
)]

/// All `.proto` files of the API and their imports, encoded as a
/// `google.protobuf.FileDescriptorSet` with all options and comments.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Maximum size of a message that a service or the gateway accepts, bytes.
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
    /// The gateway's policy for each method.
    policy,
    /// The models themselves.
    model,
    /// Customer segments.
    segmentation,
    /// Forecasts of sales.
    forecast,
    /// Product recommendations.
    recommendation,
    /// The risk that a customer stops buying.
    churn,
    /// Detection of lines that look like typing errors.
    anomaly,
    /// The shop's sales figures.
    insights,
}

/// The Open Inference Protocol, version 2, for clients of Triton and KServe.
pub mod inference {
    use repository_index_response::ModelIndex;

    include!(concat!(env!("OUT_DIR"), "/inference.rs"));

    impl ServerMetadataResponse {
        /// The name and version that every process reports.
        pub fn shopkeeper() -> Self {
            Self {
                name: "shopkeeper".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                extensions: Vec::new(),
            }
        }
    }

    impl ModelIndex {
        /// The index entry of a model. Without a version the model is unavailable, for `reason`.
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
        /// The index of these models. `ready_alone` leaves out models that are not ready.
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
