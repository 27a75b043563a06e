//! What the targets share.

use e2e::hostile::Entrances;

/// The shop whose models `make fuzz` has trained.
pub fn shop() -> Entrances {
    // The fuzzer's own hook ends the process at every panic. One that is caught is answered, and the answer is looked at.
    drop(std::panic::take_hook());
    let models =
        std::env::var_os("SHOPKEEPER_MODELS").expect("SHOPKEEPER_MODELS says where models are");
    Entrances::open(models.as_ref())
}
