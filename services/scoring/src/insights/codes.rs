//! How kinds of lines, and names that are missing, stand in columns.

use transactions::LineKind;

/// Stands for the number of a name that is missing.
pub(super) const NONE: u32 = u32::MAX;

/// Bits of a line's code that hold its kind.
pub(super) const KIND: u8 = 3;
/// The bit of a line that repeats an earlier one.
pub(super) const DUPLICATE: u8 = 4;
pub(super) const SALE: u8 = 0;
pub(super) const CANCELLATION: u8 = 1;

/// The code of a line in column `kind`: its kind's place in [`LineKind::ALL`], and the bit of a
/// duplicate.
pub(super) const fn code(kind: LineKind, is_duplicate: bool) -> u8 {
    let kind = match kind {
        LineKind::Sale => SALE,
        LineKind::Cancellation => CANCELLATION,
        LineKind::Service => 2,
        LineKind::Adjustment => 3,
    };
    if is_duplicate { kind | DUPLICATE } else { kind }
}

/// The kind of a line by its code.
pub(super) fn kind_of(code: u8) -> LineKind {
    LineKind::ALL[usize::from(code & KIND)]
}
