//! Insights: nothing is learnt. The lines go to the model store in the form that they are asked in,
//! and the figures that come out are compared with a query over the curated table.

use std::collections::BTreeMap;

use polars::prelude::*;
use scoring::{
    Artifact, Gate, Metric, Model, ModelKind,
    insights::{Builder, Frequency, Insights as Published, Sales, Shop, Sums},
};
use transactions::{Line, LineKind, Money};

use super::{Evaluation, LearnError, Learner, Training, known_recipe};

/// The learner.
#[derive(Debug, Clone, Copy)]
pub struct Insights;

impl Learner for Insights {
    const KIND: ModelKind = ModelKind::Insights;
    const RECIPES: &'static [&'static str] = &["lines"];

    fn train(training: &Training<'_>) -> Result<Artifact, LearnError> {
        let recipe = known_recipe::<Self>(training.recipe)?;
        let frame = training.lines().collect()?;
        if frame.height() == 0 {
            return Err(LearnError::TooLittle {
                model: Self::KIND,
                what: "lines",
                needed: 1,
                found: 0,
                as_of: training.as_of,
            });
        }
        training
            .progress
            .begin("train insights: lines", Some(frame.height() as u64));
        let mut builder = Builder::new();
        each_line(&frame, |line| builder.push(line).map_err(LearnError::from))?;
        training.progress.advance(frame.height() as u64);
        let artifact = builder.finish(recipe, training.as_of, training.seed)?;
        training.progress.end();
        Ok(artifact)
    }

    fn evaluate(training: &Training<'_>) -> Result<Evaluation, LearnError> {
        let published = Published::load(&Self::train(training)?)?;
        let shop = published.shop();
        let Sales {
            sums,
            orders,
            customers,
        } = shop.sales(&shop.all());
        let metrics = vec![
            Metric::new("revenue", sums.revenue().to_f64()),
            Metric::new("transactions", sums.lines as f64),
            Metric::new("orders", orders as f64),
            Metric::new("customers", customers as f64),
        ];
        let queries = [
            ("country", col("country"), by_country(shop)),
            (
                "month",
                col("invoice_time").dt().strftime("%Y-%m"),
                by_month(shop),
            ),
            ("product", col("stock_code"), by_product(shop)),
        ];
        let gates = queries.into_iter().map(|(name, key, ours)| {
            let queried = query(training.lines(), key)?;
            let differing = queried
                .iter()
                .filter(|(key, sales)| ours.get(*key) != Some(*sales))
                .count()
                + ours
                    .keys()
                    .filter(|key| !queried.contains_key(*key))
                    .count();
            Ok(Gate {
                name: format!("figures by {name} equal a query over the curated lines"),
                passed: differing == 0,
                detail: format!("{differing} of {} differ", queried.len()),
            })
        });
        Ok(Evaluation {
            metrics,
            gates: gates.collect::<Result<_, LearnError>>()?,
            ..Evaluation::default()
        })
    }
}

fn each_line(
    frame: &DataFrame,
    mut take: impl FnMut(&Line<'_>) -> Result<(), LearnError>,
) -> Result<(), LearnError> {
    let text = |name: &str| frame.column(name)?.str();
    let (invoice, product, customer) =
        (text("invoice")?, text("stock_code")?, text("customer_id")?);
    let (country, kind, description) = (text("country")?, text("kind")?, text("description")?);
    let (id, quantity) = (
        frame.column("line_id")?.i64()?,
        frame.column("quantity")?.i64()?,
    );
    let time = frame.column("invoice_time")?.datetime()?.physical().clone();
    let price = frame.column("unit_price")?.decimal()?.physical().clone();
    let duplicate = frame.column("is_duplicate")?.bool()?;
    for row in 0..frame.height() {
        take(&Line {
            id: id.get(row).unwrap_or_default(),
            invoice: invoice.get(row).unwrap_or_default(),
            stock_code: product.get(row).unwrap_or_default(),
            description: description.get(row),
            quantity: quantity.get(row).unwrap_or_default(),
            time: time.get(row).unwrap_or_default(),
            unit_price: Money::from_ten_thousandths(
                i64::try_from(price.get(row).unwrap_or_default()).unwrap_or(i64::MAX),
            ),
            customer: customer.get(row),
            country: country.get(row).unwrap_or_default(),
            kind: match kind.get(row) {
                Some("sale") => LineKind::Sale,
                Some("cancellation") => LineKind::Cancellation,
                Some("service") => LineKind::Service,
                Some(_) | None => LineKind::Adjustment,
            },
            is_duplicate: duplicate.get(row).unwrap_or_default(),
        })?;
    }
    Ok(())
}

/// Figures by name.
type Figures = BTreeMap<String, Sales>;

fn by_country(shop: &Shop) -> Figures {
    let name = |(country, sales)| (shop.countries().get(country).to_owned(), sales);
    shop.by_country(&shop.all()).into_iter().map(name).collect()
}

fn by_month(shop: &Shop) -> Figures {
    let all = shop.all();
    let periods = shop.periods(&all, Frequency::Monthly);
    let sales = shop.trend(&all, &periods, 0..periods.starts.len());
    let name = |start: &i64| {
        let time = chrono::DateTime::from_timestamp_micros(*start).unwrap_or_default();
        time.format("%Y-%m").to_string()
    };
    periods
        .starts
        .iter()
        .map(name)
        .zip(sales)
        .filter(|(_, sales)| sales.sums.lines > 0)
        .collect()
}

/// Orders and customers of products are not kept, nor compared.
fn by_product(shop: &Shop) -> Figures {
    let name = |(product, sums)| {
        let name = shop.products_by_name().get(product).to_owned();
        (
            name,
            Sales {
                sums,
                ..Sales::default()
            },
        )
    };
    shop.products(&shop.all()).into_iter().map(name).collect()
}

/// The same figures by a query over the curated lines. Products have no orders and customers here
/// either.
fn query(lines: LazyFrame, key: Expr) -> Result<Figures, LearnError> {
    let (sale, cancellation) = (
        col("kind").eq(lit("sale")),
        col("kind").eq(lit("cancellation")),
    );
    let is_product = key == col("stock_code");
    let frame = lines
        .filter(sale.clone().or(cancellation.clone()))
        .group_by([key.alias("key")])
        .agg([
            len().alias("lines"),
            col("quantity").filter(sale.clone()).sum().alias("units"),
            col("quantity")
                .filter(cancellation.clone())
                .sum()
                .alias("returned"),
            col("line_total").filter(sale.clone()).sum().alias("gross"),
            col("line_total")
                .filter(cancellation)
                .sum()
                .alias("returns"),
            col("invoice")
                .filter(sale.clone())
                .n_unique()
                .alias("orders"),
            col("customer_id")
                .filter(sale)
                .drop_nulls()
                .n_unique()
                .alias("customers"),
        ])
        .with_columns(
            [col("lines"), col("orders"), col("customers")]
                .map(|count| count.cast(DataType::Int64)),
        )
        .collect()?;
    let key = frame.column("key")?.str()?;
    let int = |name: &str| frame.column(name)?.i64();
    let money =
        |name: &str| Ok::<_, PolarsError>(frame.column(name)?.decimal()?.physical().clone());
    let (lines, units, returned) = (int("lines")?, int("units")?, int("returned")?);
    let (gross, returns) = (money("gross")?, money("returns")?);
    let (orders, customers) = (int("orders")?, int("customers")?);
    let figures = (0..frame.height()).map(|row| {
        let money = |of: &Int128Chunked| {
            let amount = i64::try_from(of.get(row).unwrap_or_default()).unwrap_or(i64::MAX);
            Money::from_ten_thousandths(amount)
        };
        let sums = Sums {
            lines: lines.get(row).unwrap_or_default(),
            units: units.get(row).unwrap_or_default(),
            returned: -returned.get(row).unwrap_or_default(),
            gross: money(&gross),
            returns: -money(&returns),
        };
        let counted = |of: &Int64Chunked| {
            if is_product {
                0
            } else {
                of.get(row).unwrap_or_default()
            }
        };
        let sales = Sales {
            sums,
            orders: counted(orders),
            customers: counted(customers),
        };
        (key.get(row).unwrap_or_default().to_owned(), sales)
    });
    Ok(figures.collect())
}

#[cfg(test)]
mod tests {
    use lake::{CurateOptions, IngestOptions, Lake, NoProgress, Random, SynthOptions};
    use scoring::insights::Filter;

    use super::*;

    /// A small made-up shop, through the lake as any other.
    fn lake() -> (tempfile::TempDir, Lake) {
        let folder = tempfile::tempdir().unwrap();
        let csv = folder.path().join("shop.csv");
        let options = SynthOptions {
            customers: 120,
            products: 60,
            days: 200,
            start: chrono::NaiveDate::from_ymd_opt(2023, 9, 4).unwrap(),
            seed: 7,
        };
        lake::synth(&options, &csv, &NoProgress).unwrap();
        let lake = Lake::create(folder.path().join("lake")).unwrap();
        lake::ingest(&[csv], &lake, &IngestOptions::default(), &NoProgress).unwrap();
        lake::curate(&lake, &CurateOptions::default(), &NoProgress).unwrap();
        (folder, lake)
    }

    fn training(lake: &Lake) -> Training<'static> {
        Training {
            transactions: lake.transactions().unwrap(),
            as_of: lake.as_of().unwrap(),
            seed: 42,
            device: tch::Device::Cpu,
            recipe: None,
            previous: None,
            progress: &NoProgress,
        }
    }

    #[test]
    fn every_filter_gives_what_a_query_over_the_curated_table_gives() {
        let (_folder, lake) = lake();
        let training = training(&lake);
        let published = Published::load(&Insights::train(&training).unwrap()).unwrap();
        let shop = published.shop();
        let (first, last) = shop.span().unwrap();
        let mut random = Random::new(42);
        for _ in 0..40 {
            let mut instant = || first + (random.unit() * (last - first) as f64) as i64;
            let (a, b) = (instant(), instant());
            let (from, to) = (a.min(b), a.max(b));
            let countries: Vec<String> = shop
                .countries()
                .iter()
                .filter(|_| random.unit() < 0.5)
                .map(str::to_owned)
                .collect();
            let filter = Filter {
                countries: &countries,
                from: Some(from),
                to: Some(to),
                ..Filter::default()
            };
            let selection = shop.select(&filter).unwrap();

            let unit = DataType::Datetime(TimeUnit::Microseconds, None);
            let time = |micros: i64| lit(micros).cast(unit.clone());
            let mut lines = training.lines().filter(
                col("invoice_time")
                    .gt_eq(time(from))
                    .and(col("invoice_time").lt(time(to))),
            );
            if !countries.is_empty() {
                let wanted = countries
                    .iter()
                    .map(|name| col("country").eq(lit(name.as_str())));
                lines = lines.filter(wanted.reduce(Expr::or).unwrap());
            }
            let by_country = shop.by_country(&selection).into_iter();
            let by_country: Figures = by_country
                .map(|(c, s)| (shop.countries().get(c).to_owned(), s))
                .collect();
            assert_eq!(by_country, query(lines.clone(), col("country")).unwrap());
            let products = shop.products(&selection).into_iter();
            let products: Figures = products
                .map(|(p, sums)| {
                    (
                        shop.products_by_name().get(p).to_owned(),
                        Sales {
                            sums,
                            ..Sales::default()
                        },
                    )
                })
                .collect();
            assert_eq!(products, query(lines.clone(), col("stock_code")).unwrap());
            let whole = query(lines, lit("all"))
                .unwrap()
                .into_values()
                .next()
                .unwrap_or_default();
            assert_eq!(shop.sales(&selection), whole);
        }
    }

    #[test]
    fn the_same_lines_are_the_same_artifact_and_pass_the_gates() {
        let (_folder, lake) = lake();
        let training = training(&lake);
        let manifest = |artifact: Artifact| artifact.manifest().clone();
        assert_eq!(
            manifest(Insights::train(&training).unwrap()),
            manifest(Insights::train(&training).unwrap())
        );
        let evaluation = Insights::evaluate(&training).unwrap();
        assert!(
            evaluation.gates.len() == 3 && evaluation.gates.iter().all(|gate| gate.passed),
            "{evaluation:?}"
        );
    }
}
