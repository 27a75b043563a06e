//! What is known of every product while a request is answered.

use std::{
    ops::Index,
    sync::{Mutex, PoisonError},
};

use super::features::Signals;

/// What a request says of a product.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing.
    #[default]
    Untouched,
    /// It has signals.
    Touched,
    /// The customer has bought it.
    Held,
    /// It is in the basket, or excluded.
    LeftOut,
}

/// A product's signals and state.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Note {
    pub(super) signals: Signals,
    pub(super) state: State,
}

/// A note of every product.
#[derive(Debug)]
pub(super) struct Slate {
    notes: Vec<Note>,
    /// Rows of the products that have signals or were bought, in the order in which they were met.
    touched: Vec<usize>,
    left_out: Vec<usize>,
}

impl Slate {
    /// The note of a product, which becomes a touched one.
    pub(super) fn touch(&mut self, row: usize) -> &mut Note {
        let note = &mut self.notes[row];
        if note.state == State::Untouched {
            note.state = State::Touched;
            self.touched.push(row);
        }
        note
    }

    /// Leaves a product out of the candidates.
    pub(super) fn leave_out(&mut self, row: usize) {
        self.notes[row].state = State::LeftOut;
        self.left_out.push(row);
    }

    pub(super) fn touched(&self) -> impl Iterator<Item = usize> {
        self.touched.iter().copied()
    }
}

impl Index<usize> for Slate {
    type Output = Note;

    fn index(&self, row: usize) -> &Note {
        &self.notes[row]
    }
}

/// Clean slates that one request after the other uses, so that the cost of a request depends on the
/// products that it touches, not on how many there are.
#[derive(Debug, Default)]
pub(super) struct Slates(Mutex<Vec<Slate>>);

impl Slates {
    /// A slate that no other request uses.
    pub(super) fn take(&self, products: usize) -> Slate {
        let clean = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        clean.unwrap_or_else(|| Slate {
            notes: vec![Note::default(); products],
            touched: Vec::new(),
            left_out: Vec::new(),
        })
    }

    /// Takes a slate back and cleans the rows that were written.
    pub(super) fn give_back(&self, mut slate: Slate) {
        for row in slate.touched.drain(..).chain(slate.left_out.drain(..)) {
            slate.notes[row] = Note::default();
        }
        let mut slates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slates.push(slate);
    }
}
