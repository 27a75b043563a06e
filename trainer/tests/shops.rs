//! Shops unlike those on which the models were developed: young or old, with a single product or
//! country, never closed, closed for weeks; and a shop with other names of customers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use chrono::{Datelike, Days, NaiveDate};
use lake::{CurateOptions, IngestOptions, Lake, NoProgress, SynthOptions};
use scoring::{
    Model,
    anomaly::AnomalyModel,
    churn::ChurnModel,
    forecast::{ForecastModel, Frequency, Level, Point},
    recommendation::{Query, RecommendationModel},
    segmentation::SegmentationModel,
};
use tch::Device;
use tempfile::TempDir;
use trainer::learn::{
    LearnError, Learner, Training, anomaly::AnomalyLearner, churn::ChurnLearner,
    forecast::ForecastLearner, recommendation::RecommendationLearner,
    segmentation::SegmentationLearner,
};

const END: NaiveDate = NaiveDate::from_ymd_opt(2024, 6, 3).unwrap();

/// A temporary lake with the lines of a file before a day.
struct Curated {
    lake: Lake,
    as_of: NaiveDate,
    _folder: TempDir,
}

impl Curated {
    fn of(file: &Path, as_of: NaiveDate) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lake = Lake::create(folder.path()).unwrap();
        lake::ingest(
            &[file.to_owned()],
            &lake,
            &IngestOptions::default(),
            &NoProgress,
        )
        .unwrap();
        lake::curate(
            &lake,
            &CurateOptions {
                as_of: Some(as_of.into()),
            },
            &NoProgress,
        )
        .unwrap();
        Self {
            lake,
            as_of,
            _folder: folder,
        }
    }

    /// The model that a learner trains.
    fn trained<M: Model>(&self, learner: &dyn Learner) -> Result<M, LearnError> {
        // As in the trainer's `main`.
        tch::set_num_threads(1);
        let training = Training {
            transactions: self.lake.transactions().unwrap(),
            as_of: self.as_of.into(),
            seed: 42,
            device: Device::Cpu,
            recipe: None,
            previous: None,
            progress: &NoProgress,
        };
        Ok(M::load(&learner.train(&training)?).unwrap())
    }
}

/// A shop up to `END`.
#[derive(Clone, Copy)]
struct Shop {
    days: u64,
    products: u64,
    countries: u64,
    open: fn(NaiveDate) -> bool,
    /// The factor of a day's sales.
    season: fn(NaiveDate) -> f64,
}

const USUAL: Shop = Shop {
    days: 300,
    products: 12,
    countries: 3,
    open: |day| day.weekday().num_days_from_monday() != 5,
    season: |_| 1.0,
};

impl Shop {
    /// One invoice for each day and country, of all products in turn.
    fn forecast(self) -> Result<ForecastModel, LearnError> {
        let mut text = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,\
                        Country\n"
            .to_owned();
        for day in (0..self.days)
            .map(|at| END - Days::new(self.days - at))
            .filter(|day| (self.open)(*day))
        {
            let n = u64::try_from(day.num_days_from_ce()).unwrap();
            for country in 0..self.countries {
                for product in (0..self.products)
                    .filter(|product| (n + product + country) % 3 > 0 || self.products == 1)
                {
                    let usual =
                        (3 + (n * 7 + product * 5 + country) % 11) as f64 * (self.season)(day);
                    writeln!(
                        text,
                        "{},{},THING {product},{},{} 10:00,2.50,{},Country {country}",
                        n * 10 + country,
                        20_000 + product,
                        usual.round().max(1.0),
                        day.format("%m/%d/%Y"),
                        12_000 + n % 40,
                    )
                    .unwrap();
                }
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("shop.csv");
        fs_err::write(&file, text).unwrap();
        Curated::of(&file, END).trained(&ForecastLearner)
    }
}

/// Checks that every forecast is a number of at least 0, that its quantiles are in order, and that
/// the countries add up to the shop. Returns the forecast of the shop's days.
fn sound(name: &str, model: &ForecastModel) -> Vec<Point> {
    for frequency in Frequency::ALL {
        let horizon = frequency.horizons().0;
        let mut countries = vec![0.0; horizon];
        for series in model.series() {
            let points = model.forecast(series, frequency, horizon, &[0.1, 0.5, 0.9]);
            assert_eq!(points.len(), horizon, "{name}: {series:?}");
            for (point, sum) in points.iter().zip(&mut countries) {
                let numbers = point.quantiles.iter().chain([&point.mean]);
                assert!(
                    numbers.into_iter().all(|x| x.is_finite() && *x >= 0.0),
                    "{name}: {series:?} {point:?}"
                );
                assert!(point.quantiles.is_sorted(), "{name}: {series:?} {point:?}");
                *sum += if series.level == Level::Country {
                    point.mean
                } else {
                    0.0
                };
            }
        }
        let shop = model.forecast(
            model.find(Level::Total, "").unwrap(),
            frequency,
            horizon,
            &[],
        );
        for (point, sum) in shop.iter().zip(countries) {
            assert!(
                (point.mean - sum).abs() <= 1e-6 * point.mean.max(1.0),
                "{name}: {point:?} {sum}"
            );
        }
    }
    model.forecast(
        model.find(Level::Total, "").unwrap(),
        Frequency::Daily,
        28,
        &[],
    )
}

#[test]
fn forecasts_of_shops_of_all_kinds_are_sound() {
    let young = sound("100 days", &Shop { days: 100, ..USUAL }.forecast().unwrap());
    assert!(
        young
            .iter()
            .all(|day| (day.start.weekday().num_days_from_monday() == 5) == (day.mean == 0.0)),
        "{young:?}"
    );
    let one = Shop {
        products: 1,
        countries: 1,
        ..USUAL
    }
    .forecast()
    .unwrap();
    sound("one product, one country", &one);
    assert_eq!(one.series().len(), 3);
    let daily = sound(
        "never closed",
        &Shop {
            open: |_| true,
            ..USUAL
        }
        .forecast()
        .unwrap(),
    );
    assert!(daily.iter().all(|day| day.mean > 0.0), "{daily:?}");
    // Closed for three weeks, then open for four.
    let open = |day: NaiveDate| (USUAL.open)(day) && !(28..49).contains(&(END - day).num_days());
    let (gap, usual) = (
        Shop { open, ..USUAL }.forecast().unwrap(),
        USUAL.forecast().unwrap(),
    );
    let sum = |days: Vec<Point>| days.iter().map(|day| day.mean).sum::<f64>();
    let (gap, usual) = (
        sum(sound("a gap of three weeks", &gap)),
        sum(sound("usual", &usual)),
    );
    assert!((gap / usual - 1.0).abs() < 0.15, "{gap} {usual}");
}

#[test]
fn a_season_that_was_seen_twice_is_forecast() {
    let summer = |day: NaiveDate| {
        if (6..9).contains(&day.month()) {
            2.0
        } else {
            1.0
        }
    };
    let two_years = |season| {
        Shop {
            days: 730,
            season,
            ..USUAL
        }
        .forecast()
        .unwrap()
    };
    let sum = |model: &ForecastModel| {
        sound("two years", model)
            .iter()
            .map(|day| day.mean)
            .sum::<f64>()
    };
    let (seasonal, level) = (sum(&two_years(summer)), sum(&two_years(|_| 1.0)));
    assert!(
        seasonal > 1.2 * level && seasonal < 2.2 * level,
        "{seasonal} {level}"
    );
}

#[test]
fn a_shop_that_is_too_young_is_refused() {
    let refused = Shop { days: 69, ..USUAL }.forecast().unwrap_err();
    assert!(
        matches!(
            refused,
            LearnError::TooLittle {
                what: "days",
                needed: 70,
                found: 69,
                ..
            }
        ),
        "{refused}"
    );
}

/// A customer's segment, probability of churn and recommended products.
type Customer = (usize, f64, Vec<usize>);

/// Each customer, and each unusual line with its customer and score.
type Answers = (BTreeMap<String, Customer>, BTreeMap<i64, (String, f64)>);

/// The answers of the models other than forecast. `name` maps the models' names of customers to the
/// original ones.
fn answers(file: &Path, name: impl Fn(&str) -> String) -> Answers {
    let curated = Curated::of(file, "2023-10-01".parse().unwrap());
    let segments: SegmentationModel = curated.trained(&SegmentationLearner).unwrap();
    let churn: ChurnModel = curated.trained(&ChurnLearner).unwrap();
    let recommended: RecommendationModel = curated.trained(&RecommendationLearner).unwrap();
    let anomaly: AnomalyModel = curated.trained(&AnomalyLearner).unwrap();
    let customers = segments.customers().filter_map(|(id, customer)| {
        let probability = churn.customer(id.as_str())?.probability;
        let query = Query {
            customer: Some(recommended.customer(id.as_str())?),
            limit: 5,
            ..Query::default()
        };
        let products = recommended
            .recommend(&query)
            .iter()
            .map(|found| found.product)
            .collect();
        Some((name(id.as_str()), (customer.segment, probability, products)))
    });
    let lines = anomaly.recorded().iter();
    (
        customers.collect(),
        lines
            .map(|line| (line.line_id, (name(&line.customer_id), line.score.score)))
            .collect(),
    )
}

#[test]
fn names_of_customers_do_not_change_the_answers() {
    let folder = tempfile::tempdir().unwrap();
    let (file, other) = (
        folder.path().join("shop.csv"),
        folder.path().join("renamed.csv"),
    );
    let start = "2023-01-02".parse().unwrap();
    let options = SynthOptions {
        customers: 200,
        products: 60,
        days: 300,
        start,
        seed: 5,
    };
    lake::synth(&options, &file, &NoProgress).unwrap();
    // The names are reversed in order, so that sorting by name would change the answers.
    let turned = |id: &str| {
        id.parse::<u32>()
            .map_or_else(|_| id.to_owned(), |id| (99_999 - id).to_string())
    };
    let mut renamed = String::new();
    for line in fs_err::read_to_string(&file).unwrap().lines() {
        let mut cells: Vec<String> = line.split(',').map(str::to_owned).collect();
        cells[6] = turned(&cells[6]);
        renamed.push_str(&cells.join(","));
        renamed.push('\n');
    }
    fs_err::write(&other, renamed).unwrap();
    let (ours, lines) = answers(&file, str::to_owned);
    let (theirs, their_lines) = answers(&other, turned);
    assert!(
        ours.len() > 100 && ours.keys().eq(theirs.keys()),
        "{} {}",
        ours.len(),
        theirs.len()
    );
    for (id, (segment, probability, products)) in &ours {
        let (their_segment, their_probability, their_products) = &theirs[id];
        assert!(
            (segment, products) == (their_segment, their_products),
            "{id}"
        );
        assert!(
            (probability - their_probability).abs() < 1e-6,
            "{id}: {probability} {their_probability}"
        );
    }
    assert!(lines.keys().eq(their_lines.keys()));
    assert!(
        lines
            .iter()
            .all(|(id, (customer, score))| *customer == their_lines[id].0
                && (score - their_lines[id].1).abs() < 1e-6)
    );
}
