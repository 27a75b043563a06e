//! gRPC calls with arbitrary framing and compression.

#![no_main]

use std::sync::LazyLock;

use e2e::hostile::Entrances;

static SHOP: LazyLock<Entrances> = LazyLock::new(fuzz::shop);

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| SHOP.grpc(bytes));
