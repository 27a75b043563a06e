//! Names for methods: in the file of API keys, and in the scope of tokens.

use crate::method::Method;

/// Methods by the beginning of their full names.
#[derive(Debug)]
pub(super) struct Pattern {
    beginning: String,
    whole: bool,
}

impl Pattern {
    /// A method's full name, or its beginning and `*`.
    pub(super) fn of(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(beginning) => Self {
                beginning: beginning.to_owned(),
                whole: false,
            },
            None => Self {
                beginning: text.to_owned(),
                whole: true,
            },
        }
    }

    /// Whether this is one of them.
    pub(super) fn takes(&self, method: &Method) -> bool {
        let name = method.name();
        if self.whole {
            name == self.beginning
        } else {
            name.starts_with(&self.beginning)
        }
    }
}
