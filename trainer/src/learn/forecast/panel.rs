//! The daily series of a shop: revenue of the shop and its countries, units of its products.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Days, NaiveDate, NaiveDateTime};
use scoring::{ModelKind, forecast::DAYS};
use transactions::{LineKind, Money};

use crate::learn::{
    LearnError, Training,
    lines::{Line, Lines, seconds},
};

/// Days of history that a forecast needs.
const LEAST_DAYS: u64 = 70;
/// Days without a sale before which the history is ignored: those sales are a row with a wrong
/// year, or another shop.
const PAUSE_DAYS: i64 = 364;

/// A series with a value for each day of the panel.
pub(super) struct Daily {
    pub(super) key: String,
    pub(super) name: String,
    /// The first day with a sale.
    pub(super) first: NaiveDate,
    pub(super) values: Vec<f64>,
}

impl Daily {
    /// The days before an origin that a forecast from there reads.
    pub(super) fn past(&self, origin: usize) -> &[f64] {
        &self.values[origin.saturating_sub(DAYS)..origin]
    }
}

/// The series to which a line belongs, and what it adds to the series.
type Key<'l> = &'l dyn Fn(&Line) -> Option<(&'l str, f64)>;

/// All series of a shop.
pub(super) struct Panel {
    /// Revenue of the shop, then of each country.
    pub(super) revenue: Vec<Daily>,
    /// Units of each product.
    pub(super) products: Vec<Daily>,
    /// Units of all products.
    pub(super) all_units: Vec<f64>,
    /// The day after the last.
    pub(super) end: NaiveDate,
    pub(super) days: usize,
}

impl Panel {
    #[expect(
        clippy::too_many_lines,
        reason = "the series share the days, names and lines that are found first"
    )]
    pub(super) fn of(lines: &Lines, as_of: NaiveDateTime) -> Option<Self> {
        // The day of the as-of time is incomplete and left out.
        let end = as_of.date();
        let day_of =
            |line: &Line| DateTime::from_timestamp(line.time, 0).map(|time| time.date_naive());
        // Gross of returns and with services, since postage is revenue as well.
        let sold = |line: &&Line| {
            line.quantity > 0
                && line.price > Money::ZERO
                && line.kind != LineKind::Cancellation
                && !lines.invoices.name(line.invoice).starts_with(['A', 'a'])
        };
        let mut lines_sold: Vec<(NaiveDate, &Line)> = lines
            .before(seconds(end.into()))
            .filter(sold)
            .filter_map(|line| Some((day_of(line)?, line)))
            .collect();
        let start = beginning(&lines_sold.iter().map(|(day, _)| *day).collect(), end)?;
        lines_sold.retain(|(day, _)| *day >= start);
        let days = usize::try_from((end - start).num_days()).ok()?;
        let at = |day: NaiveDate| usize::try_from((day - start).num_days()).unwrap_or_default();
        let descriptions: BTreeMap<&str, &str> = (0..lines.products.len())
            .filter_map(|number| {
                Some((
                    lines.products.name(number as u32),
                    lines.descriptions[number].as_deref()?,
                ))
            })
            .collect();
        let gather = |key: Key<'_>| -> Vec<Daily> {
            let mut sums: BTreeMap<&str, (NaiveDate, Vec<f64>)> = BTreeMap::new();
            for (day, line) in &lines_sold {
                let Some((key, value)) = key(line) else {
                    continue;
                };
                let series = sums.entry(key).or_insert_with(|| (*day, vec![0.0; days]));
                series.0 = series.0.min(*day);
                series.1[at(*day)] += value;
            }
            let series = sums.into_iter().map(|(key, (first, values))| Daily {
                key: key.to_owned(),
                name: descriptions.get(key).copied().unwrap_or(key).to_owned(),
                first,
                values,
            });
            series.collect()
        };
        let mut revenue: Vec<Daily> = gather(&|line| Some(("", line.total.to_f64())));
        for shop in &mut revenue {
            "whole shop".clone_into(&mut shop.name);
        }
        let mut countries: Vec<Daily> =
            gather(&|line| Some((lines.countries.name(line.country), line.total.to_f64())));
        for country in &mut countries {
            country.name.clone_from(&country.key);
        }
        revenue.append(&mut countries);
        let products: Vec<Daily> = gather(&|line| {
            (line.kind == LineKind::Sale)
                .then(|| (lines.products.name(line.product), line.quantity as f64))
        });
        let all_units = (0..days)
            .map(|day| products.iter().map(|product| product.values[day]).sum())
            .collect();
        Some(Self {
            revenue,
            products,
            all_units,
            end,
            days,
        })
    }

    /// The date of a day of the panel.
    pub(super) fn date(&self, at: usize) -> NaiveDate {
        self.end - Days::new((self.days - at) as u64)
    }

    /// The shop's revenue.
    pub(super) fn total(&self) -> &Daily {
        &self.revenue[0]
    }
}

/// The panel of a training; an error if it is too short.
pub(super) fn panel(lines: &Lines, training: &Training<'_>) -> Result<Panel, LearnError> {
    let panel = Panel::of(lines, training.as_of);
    let found = panel.as_ref().map_or(0, |panel| panel.days as u64);
    panel
        .filter(|panel| panel.days as u64 >= LEAST_DAYS)
        .ok_or(LearnError::TooLittle {
            model: ModelKind::Forecast,
            what: "days",
            needed: LEAST_DAYS,
            found,
            as_of: training.as_of,
        })
}

/// The first day of the history, given the days with sales: after the last long pause that is
/// followed by enough days.
fn beginning(days: &BTreeSet<NaiveDate>, end: NaiveDate) -> Option<NaiveDate> {
    let enough = |day: NaiveDate| (end - day).num_days() >= LEAST_DAYS as i64;
    let after_pause = days
        .iter()
        .zip(days.iter().skip(1))
        .rev()
        .filter(|(last, next)| (**next - **last).num_days() >= PAUSE_DAYS);
    after_pause
        .map(|(_, next)| *next)
        .find(|next| enough(*next))
        .or(days.first().copied())
}

/// The indices of the largest series by their past.
pub(super) fn largest(series: &[Daily], origin: usize, most: usize) -> Vec<usize> {
    let mut sizes: Vec<(f64, usize)> = series
        .iter()
        .enumerate()
        .map(|(at, series)| (series.past(origin).iter().sum(), at))
        .collect();
    sizes.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    sizes.into_iter().take(most).map(|(_, at)| at).collect()
}

#[cfg(test)]
mod tests {
    use chrono::Datelike;
    use scoring::forecast::calendar::Shop;

    use super::*;

    #[test]
    fn a_row_with_a_wrong_year_changes_nothing() {
        let shop: String = (0..200)
            .map(|day| chrono::NaiveDate::from_ymd_opt(2011, 1, 1).unwrap() + Days::new(day))
            .filter(|day| day.weekday() != chrono::Weekday::Sat)
            .map(|day| format!("1,10,A THING,{},{day} 8:00,1.5,12,EIRE\n", 1 + day.day()))
            .collect();
        let as_of = "2011-07-20T00:00:00".parse().unwrap();
        let panel =
            |rows: &str| Panel::of(&crate::learn::lines::tests::lines(rows), as_of).unwrap();
        let (good, stray) = (
            panel(&shop),
            panel(&(shop.clone() + "2,11,OLD,1,1900-01-01 8:00,1,13,EIRE\n")),
        );
        assert_eq!(
            (good.days, &good.total().values),
            (stray.days, &stray.total().values)
        );
        assert_eq!(
            Shop::of(stray.total().past(stray.days), stray.end)
                .calendar
                .closed_weekdays,
            [5]
        );
    }

    #[test]
    fn history_begins_after_a_long_pause_that_enough_follows() {
        let day = |text: &str| text.parse::<NaiveDate>().unwrap();
        let begins = |days: &[&str]| {
            let days = days.iter().map(|text| day(text)).collect();
            beginning(&days, day("2010-07-01"))
        };
        for (days, start) in [
            // No pause of a year.
            (
                &["2009-01-01", "2009-10-01", "2010-03-01"][..],
                "2009-01-01",
            ),
            (&["2009-01-01", "2010-03-01", "2010-03-02"], "2010-03-01"),
            // Too few days behind the pause.
            (&["2009-01-01", "2010-06-20"], "2009-01-01"),
            (&["1900-01-01", "2009-01-01", "2010-06-20"], "2009-01-01"),
        ] {
            assert_eq!(begins(days), Some(day(start)), "{days:?}");
        }
    }
}
