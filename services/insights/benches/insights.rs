//! How long each method takes over a shop of ten million lines, through a socket, filters at
//! random.
//!
//!     cargo bench -p insights                      10,000,000 lines, 200 calls of each method
//!     cargo bench -p insights -- LINES CALLS
//!
//! Time on a core is the processor time of all threads of this process, the client's among them:
//! the duration of a call on an idle machine. Exits 1 if the 99th percentile of a method is above
//! 50 ms.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark fails by panicking, and prints"
)]
#![expect(
    clippy::needless_update,
    reason = "some requests have no other fields than those that are asked with"
)]

use std::time::{Duration, Instant};

use model_store::ModelStore;
use prost_types::Timestamp;
use proto::insights::v1::{self as pb, insights_service_client::InsightsServiceClient};
use runtime::{Server, ServerArgs};
use scoring::{
    Artifact, Model,
    insights::{Builder, Filter, InsightsModel},
    segmentation::SegmentationModel,
};
use serving::Live;
use transactions::{Line, LineKind, Money};

/// 2009-01-01.
const START: i64 = 1_230_768_000;
const DAYS: i64 = 3 * 365;
const LIMIT: Duration = Duration::from_millis(50);
const COUNTRIES: [&str; 38] = [
    "Australia",
    "Austria",
    "Bahrain",
    "Belgium",
    "Brazil",
    "Canada",
    "Channel Islands",
    "Cyprus",
    "Czech Republic",
    "Denmark",
    "EIRE",
    "European Community",
    "Finland",
    "France",
    "Germany",
    "Greece",
    "Hong Kong",
    "Iceland",
    "Israel",
    "Italy",
    "Japan",
    "Lebanon",
    "Lithuania",
    "Malta",
    "Netherlands",
    "Norway",
    "Poland",
    "Portugal",
    "RSA",
    "Saudi Arabia",
    "Singapore",
    "Spain",
    "Sweden",
    "Switzerland",
    "USA",
    "United Arab Emirates",
    "United Kingdom",
    "Unspecified",
];

/// Numbers at random (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }

    /// Most often small: what sells is unevenly spread.
    fn skewed(&mut self, n: u64) -> u64 {
        let (a, b) = (self.below(n), self.below(n));
        a * b / n
    }
}

/// Orders of eight lines on average, one in fifty a cancellation; 100,000 customers, 5,000
/// products.
fn shop(lines: i64) -> Artifact {
    let (mut random, mut builder, mut id, mut invoice) = (Random(42), Builder::new(), 0, 0);
    while id < lines {
        invoice += 1;
        let is_cancelled = random.below(50) == 0;
        let name = format!("{}{invoice}", if is_cancelled { "C" } else { "" });
        let customer = (random.below(4) > 0).then(|| (10_000 + random.skewed(100_000)).to_string());
        let country = if random.below(10) > 0 {
            "United Kingdom"
        } else {
            COUNTRIES[random.below(38) as usize]
        };
        // Invoices are numbered in order of time, as in any shop.
        let time = (START + id * DAYS / lines * 86_400 + random.below(600) as i64 * 60) * 1_000_000;
        for _ in 0..=random.below(15) {
            let product = random.skewed(5_000);
            let kind = match (is_cancelled, random.below(100)) {
                (true, _) => LineKind::Cancellation,
                (false, 0) => LineKind::Service,
                (false, _) => LineKind::Sale,
            };
            let quantity = 1 + random.skewed(48) as i64;
            let line = Line {
                id,
                invoice: &name,
                stock_code: &format!("{}", 20_000 + product),
                description: Some(&format!("PRODUCT NUMBER {product}")),
                quantity: if is_cancelled { -quantity } else { quantity },
                time,
                unit_price: Money::from_ten_thousandths(2_500 + 500 * (product as i64 % 40)),
                customer: customer.as_deref(),
                country,
                kind,
                is_duplicate: false,
            };
            builder.push(&line).unwrap();
            id += 1;
        }
    }
    let as_of = chrono::DateTime::from_timestamp(START + DAYS * 86_400, 0)
        .unwrap()
        .naive_utc();
    builder.finish("lines", as_of, 42).unwrap()
}

/// What a caller asks for: any range of days, half the time some countries.
fn range(random: &mut Random) -> (Vec<String>, Option<Timestamp>, Option<Timestamp>) {
    let [a, b] = [(); 2].map(|()| START + random.below(DAYS as u64 * 86_400) as i64);
    let time = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let countries = match random.below(2) {
        0 => vec![],
        _ => (0..1 + random.below(3))
            .map(|_| COUNTRIES[random.below(38) as usize].to_owned())
            .collect(),
    };
    // One range in four is everything.
    if random.below(4) == 0 {
        (countries, None, None)
    } else {
        (countries, time(a.min(b)), time(a.max(b)))
    }
}

fn memory(of: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with(of))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<u64>().ok())
        .unwrap_or_default()
        / 1024
}

/// Time that all threads of this process have been on a core.
fn on_core() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let nanos = threads.map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        text.split(' ')
            .next()
            .and_then(|nanos| nanos.parse().ok())
            .unwrap_or(0)
    });
    Duration::from_nanos(nanos.sum())
}

struct Bench {
    calls: usize,
    is_slow: bool,
}

impl Bench {
    fn report(&mut self, name: &str, took: Vec<(Duration, Duration)>) {
        let (mut wall, mut core): (Vec<_>, Vec<_>) = took.into_iter().unzip();
        wall.sort_unstable();
        core.sort_unstable();
        let at = |of: &[Duration], share: f64| {
            of[((of.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3
        };
        let over = if at(&core, 0.99) > LIMIT.as_secs_f64() * 1e3 {
            "  over the limit"
        } else {
            ""
        };
        self.is_slow |= !over.is_empty();
        print!(
            "{name:<34} {:>8.2} {:>8.2} {:>8.2}",
            at(&core, 0.5),
            at(&core, 0.99),
            at(&core, 1.0)
        );
        println!(
            "   {:>8.2} {:>8.2} {:>8.2}{over}",
            at(&wall, 0.5),
            at(&wall, 0.99),
            at(&wall, 1.0)
        );
    }

    async fn ask<F: Future>(&mut self, name: &str, mut call: impl FnMut(&mut Random) -> F) {
        let (mut random, mut took) = (Random(7), Vec::new());
        for _ in 0..self.calls {
            let call = call(&mut random);
            let (core, start) = (on_core(), Instant::now());
            call.await;
            let wall = start.elapsed();
            took.push((wall, on_core().saturating_sub(core)));
        }
        self.report(name, took);
    }
}

#[tokio::main(worker_threads = 2)]
#[expect(
    clippy::too_many_lines,
    reason = "a list of calls to measure, in the order of the report"
)]
async fn main() {
    let mut numbers = std::env::args().filter_map(|argument| argument.parse::<i64>().ok());
    let (lines, calls) = (
        numbers.next().unwrap_or(10_000_000),
        numbers.next().unwrap_or(200) as usize,
    );

    let start = Instant::now();
    let artifact = shop(lines);
    let size: u64 = artifact.manifest().files.iter().map(|file| file.size).sum();
    println!(
        "made {lines} lines in {:.1} s; the artifact has {} MiB",
        start.elapsed().as_secs_f64(),
        size >> 20
    );
    let start = Instant::now();
    let model = InsightsModel::load(&artifact).unwrap();
    let loaded = start.elapsed().as_secs_f64();
    let [lines, receipts, cells] = model.shop().size();
    println!(
        "loaded in {loaded:.1} s: {lines} lines, {receipts} receipts, {cells} cells of the cube; \
         {} MiB in use, {} bytes a line",
        model.shop().bytes() >> 20,
        model.shop().bytes() / lines.max(1)
    );

    let shop = std::sync::Arc::clone(model.shop());
    let live = Live::<InsightsModel>::fixed(&artifact).unwrap();
    drop((model, artifact));
    let folder = tempfile::tempdir().unwrap();
    let store = ModelStore::open(folder.path().to_str().unwrap()).unwrap();
    let segments = Live::<SegmentationModel>::follow(store, Duration::from_secs(60)).await;
    let server = Server::bind(&ServerArgs::local())
        .await
        .unwrap()
        .serving(insights::service(live, segments));
    let address = server.local_addr().unwrap();
    tokio::spawn(server.serve_until(std::future::pending()));
    let client = InsightsServiceClient::connect(format!("http://{address}"))
        .await
        .unwrap();
    let client = client.max_decoding_message_size(usize::MAX);

    println!(
        "\n{:<34} {:>26}   {:>26}   ms, {calls} calls",
        "", "on a core", "by the clock"
    );
    let heads = ["p50", "p99", "most"]
        .map(|head| format!("{head:>8}"))
        .join(" ");
    println!("{:<34} {heads}   {heads}", "method");
    let mut bench = Bench {
        calls,
        is_slow: false,
    };
    macro_rules! ask {
        (
            $name:literal,
            $method:ident,
            $request:ident { $($field:ident: $value:expr),* $(,)? }
            $(, $random:ident)?
        ) => {
            bench
                .ask($name, |random| {
                    let (countries, start_time, end_time) = range(random);
                    $(let $random = random;)?
                    let request = pb::$request {
                        countries,
                        start_time,
                        end_time,
                        $($field: $value,)*
                        ..Default::default()
                    };
                    let mut client = client.clone();
                    async move { client.$method(request).await.unwrap() }
                })
                .await;
        };
    }
    let products = |random: &mut Random| -> Vec<String> {
        (0..20)
            .map(|_| (20_000 + random.skewed(2_000)).to_string())
            .collect()
    };
    ask!("GetSummary", get_summary, GetSummaryRequest {});
    ask!(
        "GetSummary, 20 products",
        get_summary,
        GetSummaryRequest {
            stock_codes: products(random)
        },
        random
    );
    ask!(
        "ListSalesByCountry",
        list_sales_by_country,
        ListSalesByCountryRequest {}
    );
    ask!(
        "ListSalesByCountry, 20 products",
        list_sales_by_country,
        ListSalesByCountryRequest {
            stock_codes: products(random)
        },
        random
    );
    ask!(
        "ListSalesTrend, days",
        list_sales_trend,
        ListSalesTrendRequest {
            frequency: 1,
            page_size: 1000
        }
    );
    ask!(
        "ListSalesTrend, weeks",
        list_sales_trend,
        ListSalesTrendRequest { frequency: 2 }
    );
    ask!(
        "ListSalesTrend, months",
        list_sales_trend,
        ListSalesTrendRequest { frequency: 3 }
    );
    ask!(
        "ListSalesTrend, 20 products",
        list_sales_trend,
        ListSalesTrendRequest {
            frequency: 3,
            stock_codes: products(random)
        },
        random
    );
    ask!(
        "ListTopProducts",
        list_top_products,
        ListTopProductsRequest {}
    );
    ask!(
        "ListTopProducts, 1000 a page",
        list_top_products,
        ListTopProductsRequest { page_size: 1000 }
    );
    ask!(
        "ListCustomerGrowth",
        list_customer_growth,
        ListCustomerGrowthRequest { frequency: 3 }
    );
    ask!(
        "ListCohortRetention",
        list_cohort_retention,
        ListCohortRetentionRequest { frequency: 3 }
    );
    ask!(
        "ListCohortRetention, weeks",
        list_cohort_retention,
        ListCohortRetentionRequest {
            frequency: 2,
            page_size: 1000
        }
    );
    let customer = |random: &mut Random| (10_000 + random.skewed(50_000)).to_string();
    ask!(
        "GetCustomerProfile",
        get_customer_profile,
        GetCustomerProfileRequest {
            customer_id: customer(random)
        },
        random
    );
    ask!(
        "ListCustomerOrders",
        list_customer_orders,
        ListCustomerOrdersRequest {
            customer_id: customer(random)
        },
        random
    );
    bench
        .ask("SearchProducts", |random| {
            let request = pb::SearchProductsRequest {
                query: format!("{}", random.below(1000)),
                ..Default::default()
            };
            let mut client = client.clone();
            async move { client.search_products(request).await.unwrap() }
        })
        .await;
    bench
        .ask("ListCountries", |_| {
            let mut client = client.clone();
            async move {
                client
                    .list_countries(pb::ListCountriesRequest::default())
                    .await
                    .unwrap()
            }
        })
        .await;

    // The service needs a segmentation model for this method; the bench calls the function below
    // it.
    let group_of: Vec<u16> = (0..shop.customers().len())
        .map(|customer| (customer % 11) as u16)
        .collect();
    let (mut random, mut took) = (Random(7), Vec::new());
    for _ in 0..calls {
        let (countries, from, to) = range(&mut random);
        let (core, start) = (on_core(), Instant::now());
        let micros = |time: Option<Timestamp>| time.map(|time| time.seconds * 1_000_000);
        let filter = Filter {
            countries: &countries,
            from: micros(from),
            to: micros(to),
            ..Filter::default()
        };
        std::hint::black_box(shop.by_group(&shop.select(&filter).unwrap(), &group_of, 11));
        let wall = start.elapsed();
        took.push((wall, on_core().saturating_sub(core)));
    }
    bench.report("ListRevenueBySegment, its sums", took);

    println!();
    for (format, name) in [(1, "CSV"), (2, "Parquet")] {
        let start = Instant::now();
        let request = pb::ExportTransactionsRequest {
            format,
            ..Default::default()
        };
        let mut pieces = client
            .clone()
            .export_transactions(request)
            .await
            .unwrap()
            .into_inner();
        let (mut bytes, mut rows, mut first) = (0, 0, None);
        while let Some(piece) = pieces.message().await.unwrap() {
            first.get_or_insert_with(|| start.elapsed());
            bytes += piece.data.len();
            rows = piece.rows;
        }
        let took = start.elapsed().as_secs_f64();
        println!(
            "ExportTransactions as {name}: {rows} lines, {} MiB in {took:.1} s ({:.2} million \
             lines/s), the first piece after {:.1} ms",
            bytes >> 20,
            rows as f64 / took / 1e6,
            first.unwrap_or_default().as_secs_f64() * 1e3,
        );
    }
    println!(
        "memory of this process: {} MiB now, {} MiB at most (while the lines were made)",
        memory("VmRSS"),
        memory("VmHWM")
    );
    std::process::exit(i32::from(bench.is_slow));
}
