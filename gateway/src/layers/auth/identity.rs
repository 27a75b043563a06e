//! A caller, as its credentials name it.

use super::{pattern::Pattern, quota::Rate};
use crate::{caller::Caller, method::Method};

/// A caller with valid credentials.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) caller: Caller,
    /// Methods that the caller may call; none if all.
    pub(super) methods: Option<Vec<Pattern>>,
    /// How often the caller may call, if the credentials say so.
    pub(super) rate: Option<Rate>,
}

impl Identity {
    pub(super) fn may_call(&self, method: &Method) -> bool {
        self.methods
            .as_ref()
            .is_none_or(|methods| methods.iter().any(|pattern| pattern.matches(method)))
    }
}
