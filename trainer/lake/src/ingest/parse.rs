//! How quantities, prices and times are read.

use chrono::{NaiveDate, NaiveDateTime};
use transactions::Money;

/// Largest absolute quantity and price that are accepted.
const MOST_QUANTITY: i64 = 1_000_000_000;
const MOST_PRICE: Money = Money::from_ten_thousandths(1_000_000_000 * Money::SCALE);

/// A whole number of units; `6.0` is 6.
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
        .filter(|units: &i64| units.abs() <= MOST_QUANTITY)
}

/// A price, and whether digits beyond the fourth decimal place were rounded away.
pub(crate) fn price(text: &str) -> Option<(Money, bool)> {
    let (price, rounded) = Money::parse(text).ok()?;
    let size = price.checked_abs()?;
    (size <= MOST_PRICE).then_some((price, rounded))
}

/// The order of day and month in dates that end with the year.
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
    /// The name of the first part.
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
/// (the day always first), or a day alone. A time zone or an offset is ignored: the time as written
/// is taken to be the shop's own.
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
    // A year of four digits in front decides by itself; with dots the day is always first.
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
    fn numbers_are_exact_or_refused() {
        for (text, units) in [
            ("6", Some(6)),
            ("-6", Some(-6)),
            ("6.0", Some(6)),
            ("6.5", None),
            ("six", None),
            ("", None),
            ("99999999999", None),
        ] {
            assert_eq!(quantity(text), units, "{text:?}");
        }
        for (text, value) in [
            ("-11062.06", Some((-110_620_600, false))),
            ("0.00015", Some((2, true))),
            ("1000000000", Some((10_000_000_000_000, false))),
            ("1000000000.0001", None),
            ("-1000000001", None),
            ("1,500", None),
            ("NaN", None),
            ("", None),
        ] {
            let value =
                value.map(|(amount, rounded)| (Money::from_ten_thousandths(amount), rounded));
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
        fn a_time_comes_back_as_it_was_written(seconds in -2_208_988_800_i64..7_258_118_400) {
            let instant = chrono::DateTime::from_timestamp(seconds, 0).unwrap().naive_utc();
            for (format, order) in [
                ("%Y-%m-%d %H:%M:%S", DateOrder::MonthFirst),
                ("%-m/%-d/%Y %-H:%M:%S", DateOrder::MonthFirst),
                ("%d/%m/%Y %H:%M:%S", DateOrder::DayFirst),
            ] {
                let text = instant.format(format).to_string();
                prop_assert_eq!(time(&text, order), Some(instant), "{}", text);
            }
        }

        #[test]
        fn no_text_makes_parsing_panic(text in ".*") {
            let _ = (quantity(&text), price(&text), time(&text, DateOrder::DayFirst));
        }
    }
}
