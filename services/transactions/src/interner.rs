//! Names as small numbers.

use std::{collections::HashMap, sync::Arc};

/// Names numbered from 0 in the order of their first appearance.
///
/// A name is stored once and shared by both directions of the look-up. Numbers stay below 2^31, so
/// that they fit into an `i32` column and leave `u32::MAX` free as a mark.
#[derive(Debug, Clone, Default)]
pub struct Interner {
    names: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u32>,
}

/// More names than there are numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are more than 2^31 names")]
pub struct TooManyNames;

impl Interner {
    /// The number of a name; a new name gets the next one.
    ///
    /// # Errors
    /// [`TooManyNames`].
    pub fn intern(&mut self, name: &str) -> Result<u32, TooManyNames> {
        if let Some(number) = self.numbers.get(name) {
            return Ok(*number);
        }
        let number = i32::try_from(self.names.len()).map_err(|_| TooManyNames)?;
        let number = number.unsigned_abs();
        let name: Arc<str> = name.into();
        self.names.push(Arc::clone(&name));
        self.numbers.insert(name, number);
        Ok(number)
    }

    /// The number of a name that is known.
    pub fn get(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    /// The name of a number.
    ///
    /// # Panics
    /// If this interner did not give out the number.
    pub fn name(&self, number: u32) -> &str {
        &self.names[number as usize]
    }

    /// All names in the order of their numbers.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }

    /// Numbers in the order of their names: the first is the number of the smallest name.
    pub fn sorted(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = (0..self.names.len() as u32).collect();
        numbers.sort_unstable_by_key(|number| self.name(*number));
        numbers
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_numbered_in_the_order_in_which_they_come() {
        let mut interner = Interner::default();
        let numbers = ["b", "a", "b", ""].map(|name| interner.intern(name).unwrap());
        assert_eq!(numbers, [0, 1, 0, 2]);
        assert_eq!(interner.names().collect::<Vec<_>>(), ["b", "a", ""]);
        assert_eq!((interner.get("a"), interner.get("c")), (Some(1), None));
        assert_eq!((interner.name(0), interner.len()), ("b", 3));
        assert_eq!(interner.sorted(), [2, 1, 0]);
    }
}
