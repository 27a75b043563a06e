//! Amounts of the shop's currency, exact to four decimal places.

use std::{
    fmt,
    iter::Sum,
    ops::{Add, AddAssign, Mul, Neg, Sub, SubAssign},
};

/// An amount of the shop's currency, counted in ten-thousandths of its unit.
///
/// Sums and products are exact. As with the integer types, an amount beyond 64 bits panics if
/// overflow checks are on; [`Money::checked_mul`] and [`Money::checked_add`] return `None` instead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Money(i64);

/// Why a text or a number is not an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// The text is not a decimal number.
    #[error("is not an amount of money")]
    NotANumber,
    /// The amount does not fit into 64 bits.
    #[error("is an amount of money beyond 64 bits")]
    OutOfRange,
}

impl Money {
    /// Ten-thousandths in a unit of the currency.
    pub const SCALE: i64 = 10_000;
    /// Decimal places.
    pub const DECIMALS: usize = 4;
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From ten-thousandths of the currency's unit.
    pub const fn from_ten_thousandths(amount: i64) -> Self {
        Self(amount)
    }

    /// In ten-thousandths of the currency's unit.
    pub const fn ten_thousandths(self) -> i64 {
        self.0
    }

    /// In units of the currency: the nearest double.
    pub fn to_f64(self) -> f64 {
        self.0 as f64 / Self::SCALE as f64
    }

    /// Without its sign; `None` for the least amount, which has no opposite.
    pub const fn checked_abs(self) -> Option<Self> {
        match self.0.checked_abs() {
            Some(amount) => Some(Self(amount)),
            None => None,
        }
    }

    /// This price times a number of units.
    pub const fn checked_mul(self, units: i64) -> Option<Self> {
        match self.0.checked_mul(units) {
            Some(amount) => Some(Self(amount)),
            None => None,
        }
    }

    /// The sum of two amounts.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(amount) => Some(Self(amount)),
            None => None,
        }
    }

    /// Reads a decimal number, and says whether digits beyond the fourth place were rounded away,
    /// half to even. A decimal comma is read as a point, except in `1,500`, which may mean either
    /// 1.5 or 1500 and is refused.
    ///
    /// # Errors
    /// [`MoneyError`].
    pub fn parse(text: &str) -> Result<(Self, bool), MoneyError> {
        let text = text.trim();
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => {
                let exponent: i32 = exponent.parse().map_err(|_| MoneyError::NotANumber)?;
                (mantissa, exponent)
            }
            None => (digits, 0),
        };
        let (whole, fraction) = split_decimal(mantissa).unwrap_or((mantissa, ""));
        let number = format!("{whole}{fraction}");
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(MoneyError::NotANumber);
        }
        // Bounds that keep `number * 10^shift` within 128 bits; no amount needs more.
        if number.len() > 30 || exponent.unsigned_abs() > 30 {
            return Err(MoneyError::OutOfRange);
        }
        let number: i128 = number.parse().map_err(|_| MoneyError::OutOfRange)?;
        let places = fraction.len() as i32;
        let shift = exponent - places + Self::DECIMALS as i32;
        let (value, rounded) = scaled(number, shift).ok_or(MoneyError::OutOfRange)?;
        let value = Self::try_from(value)?;
        Ok((if negative { -value } else { value }, rounded))
    }
}

/// The digits before and after the decimal point or comma.
fn split_decimal(mantissa: &str) -> Option<(&str, &str)> {
    // `1,50` is 1.50; `1,500` may be either and is neither, `0,125` is no thousands.
    let is_comma =
        |(whole, fraction): &(&str, &str)| fraction.len() != 3 || whole.bytes().all(|b| b == b'0');
    let point = mantissa.split_once('.');
    point.or_else(|| mantissa.split_once(',').filter(is_comma))
}

/// `number * 10^shift`, and whether that was rounded, half to even.
fn scaled(number: i128, shift: i32) -> Option<(i128, bool)> {
    let power = 10_i128.checked_pow(shift.unsigned_abs())?;
    if shift >= 0 {
        return Some((number.checked_mul(power)?, false));
    }
    let (quotient, rest) = (number / power, number % power);
    let up = rest * 2 > power || (rest * 2 == power && quotient % 2 == 1);
    Some((quotient + i128::from(up), rest != 0))
}

impl TryFrom<i128> for Money {
    type Error = MoneyError;

    /// From ten-thousandths of the currency's unit.
    fn try_from(ten_thousandths: i128) -> Result<Self, MoneyError> {
        let amount = i64::try_from(ten_thousandths);
        amount.map(Self).map_err(|_| MoneyError::OutOfRange)
    }
}

/// Two decimal places, or four if they are needed: `2.55`, `0.0625`.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scale = Self::SCALE.unsigned_abs();
        let (whole, rest) = (self.0.unsigned_abs() / scale, self.0.unsigned_abs() % scale);
        let sign = if self.0 < 0 { "-" } else { "" };
        match rest % 100 {
            0 => write!(f, "{sign}{whole}.{:02}", rest / 100),
            _ => write!(f, "{sign}{whole}.{rest:04}"),
        }
    }
}

impl Add for Money {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl AddAssign for Money {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl Sub for Money {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl SubAssign for Money {
    fn sub_assign(&mut self, other: Self) {
        self.0 -= other.0;
    }
}

impl Neg for Money {
    type Output = Self;

    fn neg(self) -> Self {
        Self(-self.0)
    }
}

/// A price times a number of units.
impl Mul<i64> for Money {
    type Output = Self;

    fn mul(self, units: i64) -> Self {
        Self(self.0 * units)
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Self::add)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Case {
        text: &'static str,
        amount: Result<i64, MoneyError>,
        rounded: bool,
    }

    fn exact(text: &'static str, amount: i64) -> Case {
        let (amount, rounded) = (Ok(amount), false);
        Case {
            text,
            amount,
            rounded,
        }
    }

    fn rounded(text: &'static str, amount: i64) -> Case {
        let rounded = true;
        Case {
            rounded,
            ..exact(text, amount)
        }
    }

    fn refused(text: &'static str, error: MoneyError) -> Case {
        let amount = Err(error);
        Case {
            amount,
            ..exact(text, 0)
        }
    }

    #[test]
    fn amounts_are_read_exactly_or_refused() {
        use MoneyError::{NotANumber, OutOfRange};
        for Case {
            text,
            amount,
            rounded,
        } in [
            exact("2.55", 25_500),
            exact(" +2.55 ", 25_500),
            exact("-11062.06", -110_620_600),
            exact("0.001", 10),
            exact("0", 0),
            exact(".5", 5_000),
            exact("1e-3", 10),
            exact("1,5", 15_000),
            exact("-1,50", -15_000),
            exact("0,125", 1_250),
            rounded("2.5500000000000003", 25_500),
            rounded("0.00005", 0),
            rounded("0.00015", 2),
            refused("NaN", NotANumber),
            refused("inf", NotANumber),
            refused("", NotANumber),
            refused("-", NotANumber),
            refused("1,500", NotANumber),
            refused("1,500.00", NotANumber),
            refused("1.500,00", NotANumber),
            refused("1,5,0", NotANumber),
            refused("1e999", OutOfRange),
            refused("1e99999999999", NotANumber),
            refused("99999999999999999999", OutOfRange),
            refused("1000000000000000000000000000000.5", OutOfRange),
        ] {
            let read = amount.map(|amount| (Money::from_ten_thousandths(amount), rounded));
            assert_eq!(Money::parse(text), read, "{text:?}");
        }
    }

    #[test]
    fn amounts_are_written_with_two_places_or_four() {
        for (amount, text) in [
            (25_500, "2.55"),
            (0, "0.00"),
            (-1, "-0.0001"),
            (-152_999_000, "-15299.90"),
            (625, "0.0625"),
            (i64::MIN, "-922337203685477.5808"),
        ] {
            assert_eq!(Money(amount).to_string(), text);
        }
    }

    #[test]
    fn an_amount_beyond_64_bits_is_none() {
        let most = Money(i64::MAX);
        assert_eq!(most.checked_add(Money(1)), None);
        assert_eq!(most.checked_mul(2), None);
        assert_eq!(Money(i64::MIN).checked_abs(), None);
        assert_eq!(Money::try_from(1_i128 << 63), Err(MoneyError::OutOfRange));
    }

    proptest! {
        #[test]
        fn an_amount_is_read_back_as_it_was_written(amount in -i64::MAX..=i64::MAX) {
            let amount = Money(amount);
            prop_assert_eq!(Money::parse(&amount.to_string()), Ok((amount, false)));
        }

        #[test]
        fn no_text_makes_parsing_panic(text in ".*") {
            let _ = Money::parse(&text);
        }
    }
}
