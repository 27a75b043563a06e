//! How a field is read: each date, number, id and sign rule once.

use chrono::{NaiveDate, NaiveDateTime};

/// Ten-thousandths in a unit of the shop's currency.
pub(crate) const SCALE: i64 = 10_000;

/// Largest absolute quantity and price that are believed.
const MOST_QUANTITY: i64 = 1_000_000_000;
const MOST_PRICE: i64 = 1_000_000_000 * SCALE;

/// One customer, one spelling: trimmed, and `17850.0` is `17850`. Empty: nobody is named.
pub(crate) fn customer_id(text: &str) -> Option<&str> {
    let id = text.trim();
    let whole = id
        .strip_suffix(".0")
        .filter(|whole| !whole.is_empty() && whole.bytes().all(|b| b.is_ascii_digit()));
    Some(whole.unwrap_or(id)).filter(|id| !id.is_empty())
}

/// An invoice or stock code; spreadsheets turn `536365` into `536365.0`.
pub(crate) fn code(text: &str) -> Option<&str> {
    customer_id(text)
}

/// A whole number of pieces; `6.0` is 6.
pub(crate) fn quantity(text: &str) -> Option<i64> {
    let text = text.trim();
    let whole = match text.split_once('.') {
        Some((whole, fraction)) if fraction.bytes().all(|b| b == b'0') => whole,
        Some(_) => return None,
        None => text,
    };
    whole
        .parse()
        .ok()
        .filter(|pieces: &i64| pieces.abs() <= MOST_QUANTITY)
}

/// A price in ten-thousandths, and whether digits beyond them were rounded away, half to even.
pub(crate) fn price(text: &str) -> Option<(i64, bool)> {
    let text = text.trim();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (
            mantissa,
            exponent.parse::<i32>().ok().filter(|e| e.abs() <= 30)?,
        ),
        None => (digits, 0),
    };
    // `1,50` is 1.50; `1,500` may be either and is neither, `0,125` is no thousands.
    let comma =
        |(whole, fraction): &(&str, &str)| fraction.len() != 3 || whole.bytes().all(|b| b == b'0');
    let decimal = mantissa
        .split_once('.')
        .or_else(|| mantissa.split_once(',').filter(comma));
    let (whole, fraction) = decimal.unwrap_or((mantissa, ""));
    let mut number = String::with_capacity(mantissa.len());
    number.push_str(whole);
    number.push_str(fraction);
    if number.is_empty() || number.len() > 30 || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // number * 10^shift, in ten-thousandths
    let shift = exponent - i32::try_from(fraction.len()).ok()? + 4;
    let number: i128 = number.parse().ok()?;
    let power = |n: i32| 10_i128.checked_pow(n.unsigned_abs());
    let (value, rounded) = if shift >= 0 {
        (number.checked_mul(power(shift)?)?, false)
    } else {
        let unit = power(shift)?;
        let (quotient, rest) = (number / unit, number % unit);
        let up = rest * 2 > unit || (rest * 2 == unit && quotient % 2 == 1);
        (quotient + i128::from(up), rest != 0)
    };
    let value = i64::try_from(value)
        .ok()
        .filter(|value| *value <= MOST_PRICE)?;
    Some((if negative { -value } else { value }, rounded))
}

/// Which comes first of a date whose year comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DateOrder {
    /// `12/31/2024`
    #[default]
    MonthFirst,
    /// `31/12/2024`
    DayFirst,
}

impl DateOrder {
    /// What comes first.
    pub(crate) const fn first(self) -> &'static str {
        match self {
            Self::MonthFirst => "month",
            Self::DayFirst => "day",
        }
    }

    pub(crate) const fn other(self) -> Self {
        match self {
            Self::MonthFirst => Self::DayFirst,
            Self::DayFirst => Self::MonthFirst,
        }
    }
}

/// A time in the shop's own zone: `2009-12-01 07:45:00`, with a `T`, `12/1/2010 8:26`, `1.12.2010`
/// (the day always first), or a day alone. A zone or an offset behind it is passed over: the clock
/// on the shop's wall is what counts.
pub(crate) fn time(text: &str, order: DateOrder) -> Option<NaiveDateTime> {
    let text = text.trim();
    let (day, clock) = match text.find([' ', 'T']) {
        Some(at) => (&text[..at], text[at + 1..].trim()),
        None => (text, ""),
    };
    let number = |part: &str| -> Option<u32> {
        (1..=4)
            .contains(&part.len())
            .then(|| part.parse().ok())
            .flatten()
            .filter(|_| part.bytes().all(|b| b.is_ascii_digit()))
    };
    let separator = day.find(['/', '-', '.'])?;
    let dots = day[separator..].starts_with('.');
    let mut parts = day.split(&day[separator..=separator]).map(number);
    let three = [parts.next()??, parts.next()??, parts.next()??];
    if parts.next().is_some() {
        return None;
    }
    let [year, month, day] = match (three, order) {
        (three, _) if separator == 4 => three,
        ([day, month, year], _) if dots => [year, month, day],
        ([month, day, year], DateOrder::MonthFirst) | ([day, month, year], DateOrder::DayFirst) => {
            [year, month, day]
        }
    };
    let date = NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, month, day)
        .filter(|_| (1900..=2200).contains(&year))?;
    if clock.is_empty() {
        return date.and_hms_opt(0, 0, 0);
    }
    let (clock, offset) = clock.split_at(clock.find(['Z', '+', '-']).unwrap_or(clock.len()));
    let of_offset = |b: u8| b.is_ascii_digit() || matches!(b, b':' | b'Z' | b'+' | b'-');
    let (clock, fraction) = clock
        .trim_end()
        .split_once('.')
        .unwrap_or((clock.trim_end(), ""));
    if !offset.bytes().all(of_offset) || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let mut parts = clock.split(':').map(number);
    let (hour, minute) = (parts.next()??, parts.next()??);
    let second = match parts.next() {
        Some(second) => second?,
        None => 0,
    };
    if parts.next().is_some() {
        return None;
    }
    date.and_hms_opt(hour, minute, second)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_customer_has_one_spelling() {
        for (text, id) in [
            ("17850", Some("17850")),
            ("17850.0", Some("17850")),
            (" ad1cb06f ", Some("ad1cb06f")),
            ("12.50", Some("12.50")),
            ("", None),
            ("  ", None),
        ] {
            assert_eq!(customer_id(text), id, "{text:?}");
        }
    }

    #[test]
    fn numbers_are_exact_or_refused() {
        for (text, pieces) in [
            ("6", Some(6)),
            ("-6", Some(-6)),
            ("6.0", Some(6)),
            ("6.5", None),
            ("six", None),
            ("", None),
            ("99999999999", None),
        ] {
            assert_eq!(quantity(text), pieces, "{text:?}");
        }
        for (text, value) in [
            ("2.55", Some((25_500, false))),
            ("-11062.06", Some((-110_620_600, false))),
            ("0.001", Some((10, false))),
            ("0", Some((0, false))),
            (".5", Some((5_000, false))),
            ("1e-3", Some((10, false))),
            ("2.5500000000000003", Some((25_500, true))),
            ("0.00005", Some((0, true))),
            ("0.00015", Some((2, true))),
            ("NaN", None),
            ("inf", None),
            ("", None),
            ("-", None),
            ("1,5", Some((15_000, false))),
            ("-1,50", Some((-15_000, false))),
            ("0,125", Some((1_250, false))),
            ("1,500", None),
            ("1,500.00", None),
            ("1.500,00", None),
            ("1,5,0", None),
            ("1e999", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(price(text), value, "{text:?}");
        }
    }

    #[test]
    fn times_are_read_in_every_published_form() {
        let at = |text: &str| text.parse::<NaiveDateTime>().unwrap();
        for (text, instant) in [
            ("12/1/2010 8:26", Some(at("2010-12-01T08:26:00"))),
            ("2009-12-01 07:45:00", Some(at("2009-12-01T07:45:00"))),
            ("2009-12-01T07:45:00Z", Some(at("2009-12-01T07:45:00"))),
            ("2009-12-01T07:45:00+02:00", Some(at("2009-12-01T07:45:00"))),
            (
                "2009-12-01 07:45:00.123 -0500",
                Some(at("2009-12-01T07:45:00")),
            ),
            ("2009-12-01T07:45:00.x", None),
            ("2009-12-01T07:45:00+two", None),
            ("2009/12/01", Some(at("2009-12-01T00:00:00"))),
            ("31.12.2024 8:26", Some(at("2024-12-31T08:26:00"))),
            ("12-31-2024", Some(at("2024-12-31T00:00:00"))),
            (
                "2009-12-01 07:45:00.000000",
                Some(at("2009-12-01T07:45:00")),
            ),
            ("2011-09-01", Some(at("2011-09-01T00:00:00"))),
            ("13/1/2010 8:26", None),
            ("13-1-2010", None),
            ("12.31.2024", None),
            ("1/12-2010", None),
            ("2010-02-30", None),
            ("yesterday", None),
            ("", None),
            ("1/2/3/2010", None),
            ("2010-12-01 25:00", None),
        ] {
            assert_eq!(time(text, DateOrder::MonthFirst), instant, "{text:?}");
        }
        for (text, day) in [
            ("03/04/2024", Some("2024-04-03")),
            ("25-04-2024 8:26", Some("2024-04-25")),
            ("25.04.2024", Some("2024-04-25")),
            ("2024-04-03", Some("2024-04-03")),
            ("12/25/2024", None),
        ] {
            let found = time(text, DateOrder::DayFirst).map(|time| time.date().to_string());
            assert_eq!(found.as_deref(), day, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_price_comes_back_as_it_was_written(value in -MOST_PRICE..=MOST_PRICE) {
            let text = format!("{}{}.{:04}", if value < 0 { "-" } else { "" }, value.abs() / SCALE, value.abs() % SCALE);
            prop_assert_eq!(price(&text), Some((value, false)));
        }

        #[test]
        fn a_time_comes_back_as_it_was_written(seconds in -2_208_988_800_i64..7_258_118_400) {
            let instant = chrono::DateTime::from_timestamp(seconds, 0).unwrap().naive_utc();
            prop_assert_eq!(time(&instant.format("%Y-%m-%d %H:%M:%S").to_string(), DateOrder::MonthFirst), Some(instant));
            prop_assert_eq!(time(&instant.format("%-m/%-d/%Y %-H:%M:%S").to_string(), DateOrder::MonthFirst), Some(instant));
            prop_assert_eq!(time(&instant.format("%d/%m/%Y %H:%M:%S").to_string(), DateOrder::DayFirst), Some(instant));
        }

        #[test]
        fn no_text_is_too_odd(text in ".*") {
            let _ = (customer_id(&text), quantity(&text), price(&text), time(&text, DateOrder::DayFirst));
        }
    }
}
