//! A synthetic shop with known truth: the models find what was planted. The bounds are well below
//! the measured quality and well above chance.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    process::Command,
    sync::LazyLock,
};

use e2e::{Standalone, Trained, stdout, trained_well};
use serde_json::Value;

/// The shop has 20 months; the models see the first 17.
const START: &str = "2023-01-02";
const AS_OF: &str = "2024-06-01";
const DAYS: &str = "610";

struct Shop {
    trained: Trained,
    truth: Value,
    file: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

static SHOP: LazyLock<Shop> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.csv");
    let written = file.to_str().unwrap();
    trained_well(
        [
            "synth",
            "--output",
            written,
            "--customers",
            "1500",
            "--products",
            "600",
            "--days",
            DAYS,
            "--start",
            START,
        ]
        .into_iter()
        .chain(["--seed", "11"]),
    );
    let truth = fs_err::read_to_string(file.with_added_extension("truth.json")).unwrap();
    let trained = Trained::empty();
    let run = ["run", "--as-of", AS_OF, "--input", written].map(Into::into);
    trained_well(run.into_iter().chain(trained.flags()));
    Shop {
        trained,
        truth: serde_json::from_str(&truth).unwrap(),
        file,
        _folder: folder,
    }
});

impl Shop {
    /// The rows of `trainer score`: columns by name.
    fn scored(&self, model: &str, flags: &[&str]) -> Vec<HashMap<String, String>> {
        let output = self.file.with_file_name(format!("{model}.csv"));
        let arguments = [
            "score".into(),
            model.into(),
            "--output".into(),
            output.clone().into_os_string(),
        ];
        trained_well(
            arguments
                .into_iter()
                .chain(self.trained.flags().skip(2))
                .chain(flags.iter().map(Into::into)),
        );
        rows(&output)
    }

    /// Customer, habit, taste and the day on which the customer stopped buying.
    fn customers(&self) -> HashMap<&str, (&str, u64, Option<&str>)> {
        let all = self.truth["customers"].as_array().unwrap().iter();
        all.map(|customer| {
            let text = |at: usize| customer[at].as_str().unwrap();
            (
                text(0),
                (text(1), customer[2].as_u64().unwrap(), customer[3].as_str()),
            )
        })
        .collect()
    }
}

fn rows(file: &Path) -> Vec<HashMap<String, String>> {
    let text = fs_err::read_to_string(file).unwrap();
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    lines
        .map(|line| {
            header
                .iter()
                .zip(line.split(','))
                .map(|(k, v)| ((*k).to_owned(), v.to_owned()))
                .collect()
        })
        .collect()
}

fn number(row: &HashMap<String, String>, column: &str) -> f64 {
    row[column].parse().unwrap()
}

/// Area under the ROC curve: the chance that a random `yes` is above a random `no`.
fn auc(scored: impl Iterator<Item = (f64, bool)>) -> f64 {
    let (yes, no): (Vec<_>, Vec<_>) = scored.partition(|(_, yes)| *yes);
    let pairs = yes.iter().flat_map(|(a, _)| {
        no.iter().map(move |(b, _)| {
            if a > b {
                1.0
            } else if a == b {
                0.5
            } else {
                0.0
            }
        })
    });
    pairs.sum::<f64>() / (yes.len() * no.len()) as f64
}

#[test]
fn segments_tell_wholesale_from_who_buys_now_and_then() {
    let (shop, segments) = (&*SHOP, SHOP.scored("segmentation", &[]));
    let customers = shop.customers();
    let alive = segments.iter().filter_map(|row| {
        let (habit, _, stopped) = customers.get(row["customer_id"].as_str())?;
        stopped
            .is_none_or(|day| day >= AS_OF)
            .then(|| (number(row, "expected_spend"), *habit))
    });
    let alive: Vec<_> = alive
        .filter(|(_, habit)| matches!(*habit, "wholesale" | "occasional"))
        .collect();
    let found = auc(alive
        .into_iter()
        .map(|(spend, habit)| (spend, habit == "wholesale")));
    println!("wholesale is told from occasional by expected spend: AUC {found:.3}");
    assert!(found > 0.9, "{found}");
}

#[test]
fn churn_finds_who_has_stopped() {
    let (shop, risks) = (&*SHOP, SHOP.scored("churn", &[]));
    let customers = shop.customers();
    let of = |row: &HashMap<String, String>| {
        let (_, _, stopped) = customers.get(row["customer_id"].as_str())?;
        Some((
            number(row, "probability"),
            stopped.is_some_and(|day| day < AS_OF),
        ))
    };
    let found = auc(risks.iter().filter_map(of));
    println!("who has stopped is found: AUC {found:.3}");
    assert!(found > 0.75, "{found}");
}

#[test]
fn recommendations_follow_the_taste_and_rules_the_affinities() {
    let (shop, lists) = (
        &*SHOP,
        SHOP.scored("recommendation", &["--top", "5", "--new-only"]),
    );
    let customers = shop.customers();
    let own = lists.iter().filter(|row| {
        let taste = customers[row["customer_id"].as_str()].1;
        row["stock_code"]
            .parse::<u64>()
            .is_ok_and(|code| (code - 20_000) % 8 == taste)
    });
    let share = own.count() as f64 / lists.len() as f64;
    println!(
        "{:.0} % of what is recommended is of the customer's taste; by chance 12.5 %",
        share * 100.0
    );
    assert!(share > 0.5, "{share}");

    let standalone = Standalone::start(&shop.trained);
    let partners: HashMap<&str, &str> = shop.truth["affinities"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| (pair[0].as_str().unwrap(), pair[1].as_str().unwrap()))
        .collect();
    let found = (20_000..20_016).filter(|code| {
        let code = code.to_string();
        let request = format!(r#"{{"stockCode": "{code}", "limit": 1}}"#);
        let name =
            "shopkeeper.recommendation.v1.RecommendationService/ListBoughtTogether".to_owned();
        let output = e2e::python("client.py", [standalone.address.to_string(), name, request]);
        let rules: Value = serde_json::from_str(&stdout(&output)).unwrap();
        rules["rules"][0]["stockCode"].as_str() == Some(partners[code.as_str()])
    });
    let found = found.count();
    println!("of the 16 best sellers {found} have their planted partner as the first rule");
    assert!(found >= 12, "{found}");
}

#[test]
fn forecasts_know_closed_days_and_the_season() {
    let days = SHOP.scored(
        "forecast",
        &[
            "--level",
            "total",
            "--frequency",
            "daily",
            "--horizon",
            "28",
        ],
    );
    let weekday = |row: &HashMap<String, String>| {
        let stamp = row["timestamp"].get(..10).unwrap().to_owned();
        let day = Command::new("date")
            .args(["-u", "-d", &stamp, "+%u"])
            .output()
            .unwrap();
        String::from_utf8(day.stdout)
            .unwrap()
            .trim()
            .parse::<u8>()
            .unwrap()
    };
    let mean = |of: &[u8]| {
        let of: Vec<_> = days
            .iter()
            .filter(|row| of.contains(&weekday(row)))
            .map(|row| number(row, "mean"))
            .collect();
        of.iter().sum::<f64>() / of.len() as f64
    };
    let (saturdays, sundays, others) = (mean(&[6]), mean(&[7]), mean(&[1, 2, 3, 4, 5]));
    println!(
        "forecast: Saturdays {saturdays:.0}, Sundays {:.2} of other days; planted 0 and 0.6",
        sundays / others
    );
    assert!(saturdays == 0.0 && (0.4..0.8).contains(&(sundays / others)));
}

#[test]
fn anomalies_are_the_planted_errors() {
    let shop = &*SHOP;
    let wrong: HashSet<u64> = shop.truth["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error[0].as_u64().unwrap())
        .collect();
    let as_of: Vec<u32> = AS_OF.split('-').map(|part| part.parse().unwrap()).collect();
    let text = fs_err::read_to_string(&shop.file).unwrap();
    let mut lines = text.lines();
    let mut later = format!("line_id,{}\n", lines.next().unwrap());
    let mut planted = HashSet::new();
    for (at, line) in lines.enumerate() {
        let day: Vec<u32> = line
            .split(',')
            .nth(4)
            .unwrap()
            .split([' ', '/'])
            .take(3)
            .map(|p| p.parse().unwrap())
            .collect();
        if [day[2], day[0], day[1]] >= [as_of[0], as_of[1], as_of[2]] {
            later.push_str(&format!("{at},{line}\n"));
            if wrong.contains(&(at as u64)) {
                planted.insert(at.to_string());
            }
        }
    }
    let file = shop.file.with_file_name("later.csv");
    fs_err::write(&file, later).unwrap();
    let rows = shop.scored("anomaly", &["--input", file.to_str().unwrap()]);
    let high: Vec<_> = rows
        .iter()
        .filter(|row| row["severity"] == "high")
        .collect();
    let found = high
        .iter()
        .filter(|row| planted.contains(&row["line_id"]))
        .count();
    let (recall, false_alerts) = (
        found as f64 / planted.len() as f64,
        (high.len() - found) as f64 / rows.len() as f64,
    );
    println!(
        "of {} planted errors {found} are high, and {:.3} % of the other lines",
        planted.len(),
        false_alerts * 100.0
    );
    assert!(
        planted.len() > 15 && recall > 0.8 && false_alerts < 0.002,
        "{recall} {false_alerts}"
    );
}
