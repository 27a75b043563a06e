//! What the targets share.

use e2e::hostile::Entrances;

/// The shop whose models `make fuzz` has trained.
pub fn shop() -> Entrances {
    let models = std::env::var_os("SHOPKEEPER_MODELS").expect("SHOPKEEPER_MODELS says where models are");
    Entrances::open(models.as_ref())
}
