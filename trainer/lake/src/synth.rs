//! A made-up shop: customers with habits and hearts that cool, products that go together, seasons,
//! closed days, returns, services, strangers and typing errors. What was planted is told beside it.

use std::{
    fmt,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use chrono::{Datelike, Days, NaiveDate, Weekday};
use serde::Serialize;

use crate::{LakeError, Progress, Random};

/// What kind of shop.
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

/// What was made.
#[derive(Debug, Clone, Serialize)]
pub struct SynthReport {
    /// The transactions.
    pub file: PathBuf,
    /// What was planted.
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

/// `truth.json`: what models should find.
#[derive(Serialize)]
struct Truth {
    seed: u64,
    closed_weekday: &'static str,
    segments: Vec<&'static str>,
    /// Customer, segment, taste, the day on which they stopped for good.
    customers: Vec<(String, &'static str, usize, Option<NaiveDate>)>,
    /// Pairs of products that go together.
    affinities: Vec<(String, String)>,
    /// Line (from 0) and what is wrong with it.
    errors: Vec<(u64, &'static str)>,
}

/// Groups of products that customers have a taste for: every eighth product is of a group.
const TASTES: usize = 8;
/// How often a customer keeps to their taste.
const FAITHFUL: f64 = 0.75;

/// Share of customers, mean days between orders, mean lines an order, pieces a line, chance of
/// stopping an order.
const HABITS: [(&str, f64, f64, f64, f64, f64); 4] = [
    ("wholesale", 0.05, 14.0, 30.0, 24.0, 0.01),
    ("regular", 0.25, 30.0, 18.0, 8.0, 0.03),
    ("occasional", 0.45, 75.0, 10.0, 5.0, 0.08),
    ("once", 0.25, 400.0, 7.0, 3.0, 0.5),
];
const COUNTRIES: [(&str, f64); 6] = [
    ("United Kingdom", 0.88),
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
    /// Bought in the same order more often than not.
    partner: usize,
}

/// Writes a shop's transactions in the layout of UCI Online Retail, and what was planted beside
/// them.
///
/// # Errors
/// [`LakeError::Disk`].
pub fn synth(
    options: &SynthOptions,
    out: &Path,
    progress: &dyn Progress,
) -> Result<SynthReport, LakeError> {
    let failed = |source| LakeError::Disk {
        action: "write",
        path: out.to_owned(),
        source,
    };
    if let Some(folder) = out.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(LakeError::disk("make", folder))?;
    }
    let mut random = Random::new(options.seed);
    let products = products(options.products.max(2), &mut random);
    let mut shop = Shop::new(options, &mut random);
    let mut file = BufWriter::new(std::fs::File::create(out).map_err(failed)?);
    writeln!(
        file,
        "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"
    )
    .map_err(failed)?;

    progress.begin("synth: days", Some(u64::from(options.days)));
    let mut errors = Vec::new();
    let (mut invoice, mut lines) = (100_000_u64, 0_u64);
    for offset in 0..options.days {
        progress.advance(1);
        let Some(day) = options.start.checked_add_days(Days::new(u64::from(offset))) else {
            break;
        };
        if is_closed(day) {
            continue;
        }
        for order in shop.orders_of(day, offset, &mut random) {
            invoice += 1;
            let minute = 8 * 60 + random.below(10 * 60);
            let time = format!(
                "{} {}:{:02}",
                day.format("%-m/%-d/%Y"),
                minute / 60,
                minute % 60
            );
            let mut last = None;
            for _ in 0..order.lines {
                // An order follows an affinity half of the time, else its customer's taste: few
                // products sell much.
                let product = match last {
                    Some(before) if random.chance(0.5) => products_partner(&products, before),
                    Some(_) | None => {
                        let popular = random.zipf(products.len());
                        let own = popular / TASTES * TASTES + order.taste;
                        if own < products.len() && random.chance(FAITHFUL) {
                            own
                        } else {
                            popular
                        }
                    }
                };
                last = Some(product);
                let Product {
                    code,
                    description,
                    price,
                    ..
                } = &products[product];
                let mut quantity = 1 + random.exponential(order.pieces) as u64;
                let mut price = *price;
                if random.chance(0.001) {
                    let (what, factor) = [
                        ("quantity", 50.0),
                        ("price", 10.0),
                        ("price", 0.1),
                        ("price", 100.0),
                    ][random.below(4)];
                    if what == "quantity" {
                        quantity *= 50
                    } else {
                        price *= factor
                    }
                    errors.push((lines, what));
                }
                let customer = order.customer.as_deref().unwrap_or_default();
                writeln!(
                    file,
                    "{invoice},{code},{description},{quantity},{time},{price:.2},{customer},{}",
                    order.country
                )
                .map_err(failed)?;
                lines += 1;
                if random.chance(0.015) {
                    let back = 1 + random.below(usize::try_from(quantity).unwrap_or(1)) as u64;
                    writeln!(
                        file,
                        "C{},{code},{description},-{back},{time},{price:.2},{customer},{}",
                        invoice + 500_000,
                        order.country
                    )
                    .map_err(failed)?;
                    lines += 1;
                }
            }
            if order.country != "United Kingdom" || random.chance(0.01) {
                let customer = order.customer.as_deref().unwrap_or_default();
                writeln!(
                    file,
                    "{invoice},POST,POSTAGE,1,{time},18.00,{customer},{}",
                    order.country
                )
                .map_err(failed)?;
                lines += 1;
            }
        }
    }
    file.into_inner()
        .map_err(|e| failed(e.into_error()))?
        .sync_all()
        .map_err(failed)?;
    progress.end();

    let truth = Truth {
        seed: options.seed,
        closed_weekday: "Saturday",
        segments: HABITS.map(|habit| habit.0).to_vec(),
        customers: shop
            .customers
            .iter()
            .map(|c| (c.id.clone(), HABITS[c.habit].0, c.taste, c.stopped))
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

fn products_partner(products: &[Product], of: usize) -> usize {
    products[of].partner
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
            // Neighbours in popularity and of one taste go together, so that pairs are seen.
            partner: if (at / TASTES).is_multiple_of(2) {
                (at + TASTES).min(count - 1)
            } else {
                at - TASTES
            },
        })
        .collect()
}

/// Saturdays, and from Christmas to New Year.
fn is_closed(day: NaiveDate) -> bool {
    day.weekday() == Weekday::Sat
        || (day.month() == 12 && day.day() >= 24)
        || (day.month() == 1 && day.day() <= 3)
}

/// Twice as much from mid-September to mid-December, less in summer and on Sundays.
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
    joined: u32,
    stopped: Option<NaiveDate>,
}

struct Order {
    customer: Option<String>,
    country: &'static str,
    taste: usize,
    lines: u64,
    pieces: f64,
}

struct Shop {
    customers: Vec<Customer>,
}

impl Shop {
    fn new(options: &SynthOptions, random: &mut Random) -> Self {
        let customers = (0..options.customers).map(|at| Customer {
            id: (12_000 + u64::from(at)).to_string(),
            habit: random.pick(&HABITS.map(|habit| habit.1)),
            country: COUNTRIES[random.pick(&COUNTRIES.map(|country| country.1))].0,
            taste: random.below(TASTES),
            // Half are there from the beginning; the others come one by one.
            joined: if random.chance(0.5) {
                0
            } else {
                random.below(options.days.max(1) as usize) as u32
            },
            stopped: None,
        });
        Self {
            customers: customers.collect(),
        }
    }

    fn orders_of(&mut self, day: NaiveDate, offset: u32, random: &mut Random) -> Vec<Order> {
        let mut orders = Vec::new();
        for customer in &mut self.customers {
            let (_, _, gap, lines, pieces, stop) = HABITS[customer.habit];
            let first = offset == customer.joined;
            if customer.stopped.is_some()
                || offset < customer.joined
                || !(first || random.chance(season(day) / gap))
            {
                continue;
            }
            if random.chance(stop) {
                customer.stopped = Some(day);
            }
            // One order in six is placed without an account.
            let id = (!random.chance(0.16)).then(|| customer.id.clone());
            let lines = 1 + random.exponential(lines) as u64;
            orders.push(Order {
                customer: id,
                country: customer.country,
                taste: customer.taste,
                lines,
                pieces,
            });
        }
        orders
    }
}
