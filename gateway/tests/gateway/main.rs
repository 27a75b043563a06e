//! The gateway over real sockets, with services built on the real API and a real Redis.

mod shop;

use std::time::{Duration, Instant};

use proto::{
    anomaly::v1::{
        ScoreTransactionsRequest, anomaly_service_client::AnomalyServiceClient, scored_transaction_client_placeholder,
    },
};
