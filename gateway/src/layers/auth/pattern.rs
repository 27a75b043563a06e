//! Patterns of method names, as the file of API keys and the scopes of tokens have them.

use crate::method::Method;

/// Methods by their full names, or the beginning of these.
#[derive(Debug)]
pub(super) struct Pattern {
    text: String,
    is_prefix: bool,
}

impl Pattern {
    /// Reads a full name, or the beginning of one and `*`.
    pub(super) fn of(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Self {
                text: prefix.to_owned(),
                is_prefix: true,
            },
            None => Self {
                text: text.to_owned(),
                is_prefix: false,
            },
        }
    }

    /// Whether this is one of the methods.
    pub(super) fn matches(&self, method: &Method) -> bool {
        let name = method.name();
        if self.is_prefix {
            name.starts_with(&self.text)
        } else {
            name == self.text
        }
    }
}
