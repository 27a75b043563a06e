//! Days, weeks, months and years, each by its start.

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveTime};

/// Length of a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Frequency {
    /// A day.
    Daily,
    /// A week from Monday.
    Weekly,
    /// A calendar month.
    Monthly,
    /// A calendar year.
    Yearly,
}

impl Frequency {
    /// Start of the period that an instant is in, microseconds since 1970.
    pub fn floor(self, micros: i64) -> i64 {
        let date = date(micros);
        let start = match self {
            Self::Daily => Some(date),
            Self::Weekly => {
                date.checked_sub_days(Days::new(date.weekday().num_days_from_monday().into()))
            }
            Self::Monthly => date.with_day(1),
            Self::Yearly => NaiveDate::from_ymd_opt(date.year(), 1, 1),
        };
        start.map_or(i64::MIN, midnight)
    }

    /// Start of the period after the one that starts at `start`.
    pub fn next(self, start: i64) -> i64 {
        let date = date(start);
        let next = match self {
            Self::Daily => date.checked_add_days(Days::new(1)),
            Self::Weekly => date.checked_add_days(Days::new(7)),
            Self::Monthly => date.checked_add_months(Months::new(1)),
            Self::Yearly => date.checked_add_months(Months::new(12)),
        };
        next.map_or(i64::MAX, midnight)
    }

    /// Starts of the periods that reach into `from..to`.
    pub fn starts(self, from: i64, to: i64) -> Vec<i64> {
        if from >= to {
            return Vec::new();
        }
        std::iter::successors(Some(self.floor(from)), |start| Some(self.next(*start)))
            .take_while(|start| *start < to)
            .collect()
    }
}

fn date(micros: i64) -> NaiveDate {
    // Instants are checked when they come in; beyond the calendar there is nothing to count.
    DateTime::from_timestamp_micros(micros).map_or(NaiveDate::MAX, |time| time.date_naive())
}

fn midnight(date: NaiveDate) -> i64 {
    date.and_time(NaiveTime::MIN).and_utc().timestamp_micros()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(text: &str) -> i64 {
        text.parse::<DateTime<chrono::Utc>>()
            .unwrap()
            .timestamp_micros()
    }

    #[test]
    fn a_period_begins_and_ends_where_the_calendar_says() {
        for (frequency, time, start, next) in [
            (
                Frequency::Daily,
                "2012-02-28T23:59:59Z",
                "2012-02-28T00:00:00Z",
                "2012-02-29T00:00:00Z",
            ),
            (
                Frequency::Weekly,
                "2011-01-02T12:00:00Z",
                "2010-12-27T00:00:00Z",
                "2011-01-03T00:00:00Z",
            ),
            (
                Frequency::Weekly,
                "2011-01-03T00:00:00Z",
                "2011-01-03T00:00:00Z",
                "2011-01-10T00:00:00Z",
            ),
            (
                Frequency::Monthly,
                "2010-12-31T23:59:59Z",
                "2010-12-01T00:00:00Z",
                "2011-01-01T00:00:00Z",
            ),
            (
                Frequency::Yearly,
                "1969-07-20T20:17:40Z",
                "1969-01-01T00:00:00Z",
                "1970-01-01T00:00:00Z",
            ),
        ] {
            let floor = frequency.floor(micros(time));
            assert_eq!(
                (floor, frequency.next(floor)),
                (micros(start), micros(next)),
                "{time}"
            );
        }
        let (from, to) = (
            micros("2010-12-15T10:00:00Z"),
            micros("2011-03-01T00:00:00Z"),
        );
        assert_eq!(Frequency::Monthly.starts(from, to).len(), 3);
        assert!(Frequency::Yearly.starts(to, to).is_empty());
    }
}
