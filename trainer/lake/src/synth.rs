//! A synthetic shop: customers with habits and churn, products that are bought together, seasons,
//! closed days, returns, services, orders without a customer and typing errors. What was planted is
//! written beside it.

use std::{
    fmt,
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use chrono::{Datelike, Days, NaiveDate, Weekday};
use serde::Serialize;

use crate::{error::LakeError, progress::Progress, random::Random};

/// The size of the shop.
#[derive(Debug, Clone)]
pub struct SynthOptions {
    /// Customers.
    pub customers: u32,
    /// Products.
    pub products: u32,
    /// Days, from the first.
    pub days: u32,
    /// First day.
    pub start: NaiveDate,
    /// The same seed gives the same bytes.
    pub seed: u64,
}

/// What was written.
#[derive(Debug, Clone, Serialize)]
pub struct SynthReport {
    /// File of the transactions.
    pub file: PathBuf,
    /// File of what was planted.
    pub truth: PathBuf,
    /// Lines.
    pub lines: u64,
    /// Typing errors among them.
    pub errors: u64,
}

impl fmt::Display for SynthReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            truth,
            lines,
            errors,
        } = self;
        write!(
            f,
            "{lines} lines in {}, {errors} of them wrong; what was planted is in {}",
            file.display(),
            truth.display()
        )
    }
}

/// `FILE.truth.json`: what models should find.
#[derive(Serialize)]
struct Truth {
    seed: u64,
    closed_weekday: &'static str,
    segments: Vec<&'static str>,
    /// Customer, segment, taste, day of churn.
    customers: Vec<(String, &'static str, usize, Option<NaiveDate>)>,
    /// Pairs of products that are bought together.
    affinities: Vec<(String, String)>,
    /// Index of a line from 0, and its wrong field.
    errors: Vec<(u64, &'static str)>,
}

/// Tastes: every eighth product belongs to the same taste, and each customer has one.
const TASTES: usize = 8;
/// Probability that a line follows the customer's taste.
const FAITHFUL: f64 = 0.75;

/// Probability that a line follows the affinity of the line before it.
const AFFINITY: f64 = 0.5;
/// Probability of a typing error in a line.
const ERROR: f64 = 0.001;
/// Typing errors: the wrong field, and what its value is multiplied by.
const ERRORS: [(&str, f64); 4] = [
    ("quantity", 50.0),
    ("price", 10.0),
    ("price", 0.1),
    ("price", 100.0),
];
/// Probability that some units of a line are returned.
const RETURN: f64 = 0.015;
/// Probability that a domestic order pays postage; all others do.
const DOMESTIC_POSTAGE: f64 = 0.01;
const HOME: &str = "United Kingdom";
/// Probability that an order names no customer.
const NO_CUSTOMER: f64 = 0.16;

/// How a segment of customers buys.
struct Habit {
    segment: &'static str,
    /// Share of all customers.
    share: f64,
    /// Mean days between orders.
    gap_days: f64,
    /// Mean lines of an order.
    lines: f64,
    /// Mean units of a line.
    units: f64,
    /// Probability of churn with each order.
    churn: f64,
}

const HABITS: [Habit; 4] = [
    Habit {
        segment: "wholesale",
        share: 0.05,
        gap_days: 14.0,
        lines: 30.0,
        units: 24.0,
        churn: 0.01,
    },
    Habit {
        segment: "regular",
        share: 0.25,
        gap_days: 30.0,
        lines: 18.0,
        units: 8.0,
        churn: 0.03,
    },
    Habit {
        segment: "occasional",
        share: 0.45,
        gap_days: 75.0,
        lines: 10.0,
        units: 5.0,
        churn: 0.08,
    },
    Habit {
        segment: "once",
        share: 0.25,
        gap_days: 400.0,
        lines: 7.0,
        units: 3.0,
        churn: 0.5,
    },
];
/// Countries and their shares of customers.
const COUNTRIES: [(&str, f64); 6] = [
    (HOME, 0.88),
    ("Germany", 0.04),
    ("France", 0.035),
    ("EIRE", 0.025),
    ("Spain", 0.015),
    ("Netherlands", 0.005),
];
const ADJECTIVES: [&str; 10] = [
    "RED", "BLUE", "VINTAGE", "WOODEN", "SMALL", "LARGE", "PAPER", "METAL", "GLASS", "CERAMIC",
];
const NOUNS: [&str; 12] = [
    "LANTERN", "MUG", "HEART", "CLOCK", "BAG", "CANDLE", "FRAME", "BOWL", "CUSHION", "CARD", "TIN",
    "HOOK",
];

struct Product {
    code: String,
    description: String,
    price: f64,
    /// Index of the product that is often bought with it.
    partner: usize,
}

/// Writes a shop's transactions in the layout of UCI Online Retail, and what was planted beside
/// them.
///
/// # Errors
/// [`LakeError::Disk`].
#[expect(
    clippy::too_many_lines,
    reason = "the file and its truth are written in order, with one source of random numbers"
)]
pub fn synth(
    options: &SynthOptions,
    out: &Path,
    progress: &dyn Progress,
) -> Result<SynthReport, LakeError> {
    if let Some(folder) = out.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(LakeError::disk("create", folder))?;
    }
    let mut random = Random::new(options.seed);
    let products = products(options.products.max(2), &mut random);
    let mut shop = Shop::new(options, &mut random);
    let file = File::create(out).map_err(LakeError::disk("write", out))?;
    let mut writer = Writer {
        file: BufWriter::new(file),
        invoice: 100_000,
        lines: 0,
        errors: Vec::new(),
    };
    let failed = |source| LakeError::disk("write", out)(source);
    writeln!(
        writer.file,
        "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"
    )
    .map_err(failed)?;

    progress.begin("synth: days", Some(u64::from(options.days)));
    for offset in 0..options.days {
        progress.advance(1);
        let Some(day) = options.start.checked_add_days(Days::new(u64::from(offset))) else {
            break;
        };
        if is_closed(day) {
            continue;
        }
        for order in shop.orders_of(day, offset, &mut random) {
            writer
                .order(&order, day, &products, &mut random)
                .map_err(failed)?;
        }
    }
    let Writer {
        file,
        lines,
        errors,
        ..
    } = writer;
    let file = file
        .into_inner()
        .map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    progress.end();

    let truth = Truth {
        seed: options.seed,
        closed_weekday: "Saturday",
        segments: HABITS.map(|habit| habit.segment).to_vec(),
        customers: shop
            .customers
            .iter()
            .map(|c| (c.id.clone(), HABITS[c.habit].segment, c.taste, c.churned))
            .collect(),
        affinities: products
            .iter()
            .map(|p| (p.code.clone(), products[p.partner].code.clone()))
            .collect(),
        errors,
    };
    let path = out.with_added_extension("truth.json");
    let text = serde_json::to_string(&truth).unwrap_or_default();
    std::fs::write(&path, text).map_err(LakeError::disk("write", &path))?;
    Ok(SynthReport {
        file: out.to_owned(),
        truth: path,
        lines,
        errors: truth.errors.len() as u64,
    })
}

/// Writes orders as lines.
struct Writer {
    file: BufWriter<File>,
    /// Number of the last invoice.
    invoice: u64,
    /// Lines written.
    lines: u64,
    errors: Vec<(u64, &'static str)>,
}

impl Writer {
    /// The same seed must give the same file: the order of draws from `random` is part of the
    /// format.
    fn order(
        &mut self,
        order: &Order,
        day: NaiveDate,
        products: &[Product],
        random: &mut Random,
    ) -> io::Result<()> {
        self.invoice += 1;
        let invoice = self.invoice;
        let minute = 8 * 60 + random.below(10 * 60);
        let (day, hour, minute) = (day.format("%-m/%-d/%Y"), minute / 60, minute % 60);
        let time = format!("{day} {hour}:{minute:02}");
        let customer = order.customer.as_deref().unwrap_or_default();
        let country = order.country;
        let mut last = None;
        for _ in 0..order.lines {
            let product = next_product(order.taste, last, products, random);
            last = Some(product);
            let Product {
                code,
                description,
                price,
                ..
            } = &products[product];
            let mut quantity = 1 + random.exponential(order.units) as u64;
            let mut price = *price;
            if random.chance(ERROR) {
                let (field, factor) = ERRORS[random.below(ERRORS.len())];
                if field == "quantity" {
                    quantity *= factor as u64;
                } else {
                    price *= factor;
                }
                self.errors.push((self.lines, field));
            }
            writeln!(
                self.file,
                "{invoice},{code},{description},{quantity},{time},{price:.2},{customer},{country}"
            )?;
            self.lines += 1;
            if random.chance(RETURN) {
                let returned = 1 + random.below(usize::try_from(quantity).unwrap_or(1));
                let cancellation = invoice + 500_000;
                writeln!(
                    self.file,
                    "C{cancellation},{code},{description},-{returned},{time},{price:.2},\
                     {customer},{country}"
                )?;
                self.lines += 1;
            }
        }
        if country != HOME || random.chance(DOMESTIC_POSTAGE) {
            writeln!(
                self.file,
                "{invoice},POST,POSTAGE,1,{time},18.00,{customer},{country}"
            )?;
            self.lines += 1;
        }
        Ok(())
    }
}

/// The product of an order's next line: it follows an affinity or else the customer's taste, and
/// few products have most of the sales.
fn next_product(
    taste: usize,
    last: Option<usize>,
    products: &[Product],
    random: &mut Random,
) -> usize {
    if let Some(last) = last
        && random.chance(AFFINITY)
    {
        return products[last].partner;
    }
    let popular = random.zipf(products.len());
    let of_taste = popular / TASTES * TASTES + taste;
    if of_taste < products.len() && random.chance(FAITHFUL) {
        of_taste
    } else {
        popular
    }
}

fn products(count: u32, random: &mut Random) -> Vec<Product> {
    let count = count as usize;
    (0..count)
        .map(|at| Product {
            code: format!("{}", 20_000 + at),
            description: format!(
                "{} {}",
                ADJECTIVES[random.below(ADJECTIVES.len())],
                NOUNS[random.below(NOUNS.len())]
            ),
            price: (random.exponential(3.0) + 0.4).min(60.0),
            // Partners are close in popularity and of one taste, so that pairs are frequent.
            partner: if (at / TASTES).is_multiple_of(2) {
                (at + TASTES).min(count - 1)
            } else {
                at - TASTES
            },
        })
        .collect()
}

/// On Saturdays and from Christmas to New Year.
fn is_closed(day: NaiveDate) -> bool {
    day.weekday() == Weekday::Sat
        || (day.month() == 12 && day.day() >= 24)
        || (day.month() == 1 && day.day() <= 3)
}

/// A factor of orders: about 2 from mid-September to mid-December, lower in summer and on Sundays.
fn season(day: NaiveDate) -> f64 {
    let of_year = f64::from(day.ordinal());
    let autumn = (-(of_year - 320.0).powi(2) / 1800.0).exp();
    (0.85 + 1.3 * autumn)
        * if day.weekday() == Weekday::Sun {
            0.6
        } else {
            1.0
        }
}

struct Customer {
    id: String,
    habit: usize,
    country: &'static str,
    taste: usize,
    /// Day of the first order, from the first day.
    joined: u32,
    churned: Option<NaiveDate>,
}

struct Order {
    customer: Option<String>,
    country: &'static str,
    taste: usize,
    lines: u64,
    /// Mean units of a line.
    units: f64,
}

struct Shop {
    customers: Vec<Customer>,
}

impl Shop {
    fn new(options: &SynthOptions, random: &mut Random) -> Self {
        let customers = (0..options.customers).map(|at| Customer {
            id: (12_000 + u64::from(at)).to_string(),
            habit: random.pick(&HABITS.map(|habit| habit.share)),
            country: COUNTRIES[random.pick(&COUNTRIES.map(|country| country.1))].0,
            taste: random.below(TASTES),
            // Half of the customers order on the first day; the others join one by one.
            joined: if random.chance(0.5) {
                0
            } else {
                random.below(options.days.max(1) as usize) as u32
            },
            churned: None,
        });
        Self {
            customers: customers.collect(),
        }
    }

    fn orders_of(&mut self, day: NaiveDate, offset: u32, random: &mut Random) -> Vec<Order> {
        let mut orders = Vec::new();
        for customer in &mut self.customers {
            let habit = &HABITS[customer.habit];
            let first = offset == customer.joined;
            if customer.churned.is_some()
                || offset < customer.joined
                || !(first || random.chance(season(day) / habit.gap_days))
            {
                continue;
            }
            if random.chance(habit.churn) {
                customer.churned = Some(day);
            }
            let is_anonymous = random.chance(NO_CUSTOMER);
            let lines = 1 + random.exponential(habit.lines) as u64;
            orders.push(Order {
                customer: (!is_anonymous).then(|| customer.id.clone()),
                country: customer.country,
                taste: customer.taste,
                lines,
                units: habit.units,
            });
        }
        orders
    }
}
