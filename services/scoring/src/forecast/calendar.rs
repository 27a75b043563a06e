//! When the shop is open, and how its year goes.

use chrono::{Datelike, Days, NaiveDate};
use serde::{Deserialize, Serialize};

use super::smoothing::mean;
use crate::quantile;

/// When the shop is closed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Calendar {
    /// Weekdays without sales, 0 Monday to 6 Sunday.
    pub closed_weekdays: Vec<u32>,
    /// Days of the year without sales, month and day.
    pub closed_days: Vec<(u32, u32)>,
}

impl Calendar {
    /// Learns it from a shop's days up to, not including, `end`: a weekday of which nine in ten
    /// sold nothing is a closed one, and so are the days around the turn of the year that sold
    /// nothing.
    pub fn of(total: &[f64], end: NaiveDate) -> Self {
        let date = |at: usize| end - Days::new((total.len() - at) as u64);
        let (mut idle, mut weeks) = ([0_u32; 7], [0_u32; 7]);
        for (at, value) in total.iter().enumerate() {
            let weekday = date(at).weekday().num_days_from_monday() as usize;
            weeks[weekday] += 1;
            idle[weekday] += u32::from(*value <= 0.0);
        }
        let mut closed_weekdays: Vec<u32> = (0..7)
            .filter(|w| weeks[*w as usize] > 0 && idle[*w as usize] * 10 >= weeks[*w as usize] * 9)
            .collect();
        // A shop that sells once in ten days is open, and sells little.
        if closed_weekdays.len() == 7 {
            closed_weekdays.clear();
        }
        let mut calendar = Self {
            closed_weekdays,
            closed_days: Vec::new(),
        };
        let mut closed_days: Vec<(u32, u32)> = (0..total.len())
            .filter(|at| total[*at] <= 0.0)
            .map(date)
            .filter(|day| {
                day.month() == 12 && day.day() >= 20 || day.month() == 1 && day.day() <= 7
            })
            .filter(|day| calendar.is_open(*day))
            .map(|day| (day.month(), day.day()))
            .collect();
        closed_days.sort_unstable();
        closed_days.dedup();
        calendar.closed_days = closed_days;
        calendar
    }

    /// Whether the shop sells on a day.
    pub fn is_open(&self, day: NaiveDate) -> bool {
        !self
            .closed_weekdays
            .contains(&day.weekday().num_days_from_monday())
            && !self.closed_days.contains(&(day.month(), day.day()))
    }

    /// Open days of a usual week.
    pub fn week(&self) -> usize {
        7 - self.closed_weekdays.len()
    }
}

/// What all series of a shop share at the end of its history: its calendar, the days on which it
/// was open, how its year goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Shop {
    /// The day after the last of the history.
    pub end: NaiveDate,
    /// When it is closed.
    pub calendar: Calendar,
    /// Days of history.
    pub days: usize,
    /// Places in the history of the days on which it was open.
    pub open: Vec<usize>,
    /// Their weekdays, 0 Monday to 6 Sunday.
    pub weekdays: Vec<usize>,
    season: Season,
}

impl Shop {
    /// From the shop's days up to, not including, `end`, the oldest first.
    pub fn of(total: &[f64], end: NaiveDate) -> Self {
        Self::with(Calendar::of(total, end), total, end)
    }

    /// The same by a calendar that is known.
    pub fn with(calendar: Calendar, total: &[f64], end: NaiveDate) -> Self {
        let weekday = |at: usize| {
            (end - Days::new((total.len() - at) as u64))
                .weekday()
                .num_days_from_monday() as usize
        };
        let usual: Vec<usize> = (0..total.len())
            .filter(|at| !calendar.closed_weekdays.contains(&(weekday(*at) as u32)))
            .collect();
        // Few days without a sale are holidays; many are days without a sale.
        let idle = usual.iter().filter(|at| total[**at] <= 0.0).count();
        let rare = idle * 10 <= usual.len();
        let open: Vec<usize> = usual
            .into_iter()
            .filter(|at| !rare || total[*at] > 0.0)
            .collect();
        let season = Season::of(total, &open);
        let weekdays = open.iter().map(|at| weekday(*at)).collect();
        Self {
            end,
            calendar,
            days: total.len(),
            open,
            weekdays,
            season,
        }
    }

    /// The values of the open days.
    pub fn open_days(&self, values: &[f64]) -> Vec<f64> {
        self.open.iter().map(|at| values[*at]).collect()
    }

    /// Weeks counted back from the end, the oldest first, each brought to the usual number of open
    /// days; weeks without one are left out.
    pub fn weeks(&self, values: &[f64]) -> Vec<f64> {
        let from = self.days % 7;
        let mut open = vec![0_u32; self.days / 7];
        for at in self.open.iter().filter(|at| **at >= from) {
            open[(at - from) / 7] += 1;
        }
        let weeks = values[from..]
            .chunks(7)
            .zip(open)
            .filter(|(_, open)| *open > 0);
        weeks
            .map(|(week, open)| {
                week.iter().sum::<f64>() * self.calendar.week() as f64 / f64::from(open)
            })
            .collect()
    }

    /// The days from the end on: weekday, and place among the open days ahead, 1 the first; `None`
    /// for a day on which the shop is closed.
    pub fn ahead(&self, days: usize) -> Vec<Option<(usize, usize)>> {
        let mut place = 0;
        let day = |at: usize| {
            let day = self.end + Days::new(at as u64);
            self.calendar.is_open(day).then(|| {
                place += 1;
                (day.weekday().num_days_from_monday() as usize, place)
            })
        };
        (0..days).map(day).collect()
    }

    /// What the year does to a day ahead, 0 the first, as the logarithm of a factor on the level
    /// now.
    pub fn season(&self, ahead: usize) -> f64 {
        self.season.log(ahead)
    }
}

/// Open days that the level now is the mean of.
const NOW: usize = 24;
/// Open days that the level at a time of last year is the mean of.
const THEN: usize = 18;
/// A year of whole weeks.
const YEAR: f64 = 364.0;
/// Days in which a season is grown into that history shows the end of, but not the way to.
const GROWTH_DAYS: f64 = 120.0;
/// A year never more than doubles or halves a level.
const MOST: f64 = std::f64::consts::LN_2;
/// What is believed of last year's way, known in full: one year's levels are as much chance as
/// season.
const TRUST: f64 = 2.0 / 3.0;

/// How last year went on from here.
///
/// With a year of history and more, last year's levels ahead over last year's level now. With less,
/// the history's first weeks are those of a season to come: the level grows into theirs in the last
/// 120 days before, and never falls.
#[derive(Debug, Clone, PartialEq)]
struct Season {
    /// Place of the first day ahead.
    start: f64,
    /// Places, a year on, and logarithms of what they do to the level now.
    path: Vec<(f64, f64)>,
}

impl Season {
    fn of(total: &[f64], open: &[usize]) -> Self {
        let start = total.len() as f64;
        let none = Self {
            start,
            path: Vec::new(),
        };
        if open.len() < NOW + THEN {
            return none;
        }
        let values: Vec<f64> = open.iter().map(|at| total[*at]).collect();
        let highest = quantile::linear(&values, 0.98);
        let window = |range: std::ops::Range<usize>| {
            let places: Vec<f64> = open[range.clone()].iter().map(|at| *at as f64).collect();
            let capped: Vec<f64> = values[range]
                .iter()
                .map(|value| value.min(highest))
                .collect();
            (mean(&places), mean(&capped).max(f64::MIN_POSITIVE).ln())
        };
        let (now, level) = window(open.len() - NOW..open.len());
        let past: Vec<(f64, f64)> = (0..=open.len() - THEN)
            .map(|from| window(from..from + THEN))
            .collect();
        let (first, first_level) = past[0];
        let whole_year = first + YEAR <= start + 6.0;
        let path = if whole_year {
            let reference = between(&past, now - YEAR);
            past.iter()
                .map(|(at, level)| (at + YEAR, TRUST * (level - reference).clamp(-MOST, MOST)))
                .collect()
        } else {
            let goal = (first_level - level).clamp(0.0, MOST);
            let from = now.max(first + YEAR - GROWTH_DAYS);
            let onward = past
                .iter()
                .map(|(at, level)| (at + YEAR, (goal + level - first_level).clamp(-MOST, MOST)));
            std::iter::once((from, 0.0)).chain(onward).collect()
        };
        Self { start, path }
    }

    fn log(&self, ahead: usize) -> f64 {
        // Beyond a year, the same year again.
        let ahead = if ahead as f64 >= YEAR {
            ahead as f64 - YEAR
        } else {
            ahead as f64
        };
        if self.path.is_empty() {
            0.0
        } else {
            between(&self.path, self.start + ahead)
        }
    }
}

/// Linear between points in order; the outermost hold beyond them.
fn between(points: &[(f64, f64)], x: f64) -> f64 {
    let after = points.partition_point(|(at, _)| *at <= x);
    match (
        after.checked_sub(1).map(|before| points[before]),
        points.get(after),
    ) {
        (Some((x0, y0)), Some((x1, y1))) => {
            y0 + (y1 - y0) * (x - x0) / (x1 - x0).max(f64::MIN_POSITIVE)
        }
        (Some((_, y)), None) => y,
        (None, Some((_, y))) => *y,
        (None, None) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shop(days: usize, end: &str, value: impl Fn(NaiveDate) -> f64) -> Shop {
        let end: NaiveDate = end.parse().unwrap();
        let total: Vec<f64> = (0..days)
            .map(|at| value(end - Days::new((days - at) as u64)))
            .collect();
        Shop::of(&total, end)
    }

    #[test]
    fn a_weekday_without_sales_is_closed_and_so_is_christmas() {
        let shop = shop(120, "2011-03-31", |day| {
            let closed = day.weekday().num_days_from_monday() == 5
                || matches!((day.month(), day.day()), (12, 25 | 27));
            if closed { 0.0 } else { 100.0 }
        });
        // 25 December 2010 was a Saturday already.
        assert_eq!(
            shop.calendar,
            Calendar {
                closed_weekdays: vec![5],
                closed_days: vec![(12, 27)]
            }
        );
        assert_eq!(shop.calendar.week(), 6);
        assert!(shop.weeks(&vec![1.0; 120]).len() == 17);
    }

    #[test]
    fn days_without_a_sale_are_closed_where_they_are_rare_and_count_where_they_are_not() {
        let rare = shop(140, "2011-05-20", |day| f64::from(u8::from(day.day() != 3)));
        let common = shop(140, "2011-05-20", |day| {
            f64::from(u8::from(day.day() % 3 != 0))
        });
        assert_eq!((rare.open.len(), common.open.len()), (140 - 5, 140));
    }

    #[test]
    fn a_season_that_history_begins_in_is_grown_into_and_not_before_its_time() {
        let high = |day: NaiveDate| {
            if day < "2011-01-10".parse().unwrap() {
                150.0
            } else {
                100.0
            }
        };
        let spring = shop(120, "2011-03-31", high);
        assert!(spring.season(0).abs() < 1e-9 && spring.season(55).abs() < 1e-9);
        let autumn = shop(300, "2011-09-27", high);
        let (first, last) = (autumn.season(0), autumn.season(80));
        assert!(
            first > 0.0 && first < 0.2 && (last - 1.5_f64.ln()).abs() < 0.02,
            "{first} {last}"
        );
    }

    #[test]
    fn a_known_year_is_followed_up_and_down() {
        let year = |day: NaiveDate| {
            100.0 * (1.0 + 0.4 * (f64::from(day.ordinal()) / 365.0 * std::f64::consts::TAU).sin())
        };
        let shop = shop(728, "2012-12-31", year);
        // From the turn of the year up until April, down until October.
        assert!(
            shop.season(80) > 0.15 && shop.season(270) < -0.2,
            "{} {}",
            shop.season(80),
            shop.season(270)
        );
    }
}
