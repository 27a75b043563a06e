//! The shop that all fuzz targets call.

use e2e::hostile::Entrances;

/// Opens the shop over the models that `make fuzz` has trained.
pub fn shop() -> Entrances {
    // The fuzzer's own hook aborts the process at every panic. Panics of handlers are caught and
    // answered with INTERNAL, which the targets check for.
    drop(std::panic::take_hook());
    let models =
        std::env::var_os("SHOPKEEPER_MODELS").expect("SHOPKEEPER_MODELS says where models are");
    Entrances::open(models.as_ref())
}
