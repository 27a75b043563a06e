//! Insights: nothing is learnt. The lines are published in the form in which they are queried, and
//! the evaluation compares the resulting figures with queries over the curated table.

use scoring::{
    Artifact, Metric, Model, ModelKind,
    insights::{Builder, InsightsModel, Sales},
};

mod figures;

use self::figures::{by_country, by_month, by_product, country, month, product, query};
use super::{Evaluation, LearnError, Learner, Training, gate, recipe};

/// The learner.
#[derive(Debug, Clone, Copy)]
pub struct InsightsLearner;

impl Learner for InsightsLearner {
    fn kind(&self) -> ModelKind {
        ModelKind::Insights
    }

    fn recipes(&self) -> &'static [&'static str] {
        &["lines"]
    }

    fn train(&self, training: &Training<'_>) -> Result<Artifact, LearnError> {
        let recipe = recipe(self, training.recipe)?;
        let table = training.lines().collect()?;
        let lines = table.height() as u64;
        if lines == 0 {
            return Err(LearnError::TooLittle {
                model: self.kind(),
                what: "lines",
                needed: 1,
                found: 0,
                as_of: training.as_of,
            });
        }
        training
            .progress
            .begin("train insights: lines", Some(lines));
        let mut builder = Builder::new();
        for line in lake::lines(&table)? {
            builder.push(&line?)?;
        }
        training.progress.advance(lines);
        let artifact = builder.finish(recipe, training.as_of, training.seed)?;
        training.progress.end();
        Ok(artifact)
    }

    fn evaluate(&self, training: &Training<'_>) -> Result<Evaluation, LearnError> {
        let published = InsightsModel::load(&self.train(training)?)?;
        let shop = published.shop();
        let Sales {
            sums,
            orders,
            customers,
        } = shop.sales(&shop.all());
        let comparisons = [
            ("country", by_country(shop, &shop.all()), country()),
            ("month", by_month(shop), month()),
            ("product", by_product(shop, &shop.all()), product()),
        ];
        let mut gates = Vec::new();
        for (name, published, key) in comparisons {
            let queried = query(training.lines(), key)?;
            let differing = queried
                .iter()
                .filter(|(key, sales)| published.get(*key) != Some(*sales));
            let unknown = published.keys().filter(|key| !queried.contains_key(*key));
            let differing = differing.count() + unknown.count();
            gates.push(gate(
                &format!("figures by {name} equal a query over the curated lines"),
                differing == 0,
                format!("{differing} of {} differ", queried.len()),
            ));
        }
        Ok(Evaluation {
            metrics: vec![
                Metric::new("revenue", sums.revenue().to_f64()),
                Metric::new("transactions", sums.lines as f64),
                Metric::new("orders", orders as f64),
                Metric::new("customers", customers as f64),
            ],
            gates,
            ..Evaluation::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use lake::{CurateOptions, IngestOptions, Lake, NoProgress, Random, SynthOptions};
    use polars::prelude::*;
    use scoring::insights::Filter;

    use super::*;

    /// A small synthetic shop, through the lake as any other.
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
        let published = InsightsModel::load(&InsightsLearner.train(&training).unwrap()).unwrap();
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
            let is_later = col("invoice_time").gt_eq(time(from));
            let is_earlier = col("invoice_time").lt(time(to));
            let mut lines = training.lines().filter(is_later.and(is_earlier));
            if !countries.is_empty() {
                let any = countries
                    .iter()
                    .map(|name| col("country").eq(lit(name.as_str())));
                lines = lines.filter(any.reduce(Expr::or).unwrap());
            }
            let queried = |key| query(lines.clone(), key).unwrap();
            assert_eq!(by_country(shop, &selection), queried(country()));
            assert_eq!(by_product(shop, &selection), queried(product()));
            let all = queried(lit("all"));
            let all = all.into_values().next().unwrap_or_default();
            assert_eq!(shop.sales(&selection), all);
        }
    }

    #[test]
    fn the_same_lines_are_the_same_artifact_and_pass_the_gates() {
        let (_folder, lake) = lake();
        let training = training(&lake);
        let manifest = || {
            let artifact = InsightsLearner.train(&training).unwrap();
            artifact.manifest().clone()
        };
        assert_eq!(manifest(), manifest());
        let evaluation = InsightsLearner.evaluate(&training).unwrap();
        let gates = &evaluation.gates;
        assert!(
            gates.len() == 3 && gates.iter().all(|gate| gate.passed),
            "{evaluation:?}"
        );
    }
}
