//! Every figure equals the one that a naive count over the lines gives, whatever is selected.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use transactions::{Line, LineKind, Money};

use super::*;

const DAY: i64 = 86_400_000_000;
const FREQUENCIES: [Frequency; 4] = [
    Frequency::Daily,
    Frequency::Weekly,
    Frequency::Monthly,
    Frequency::Yearly,
];
/// 2010-12-20.
const START: i64 = 1_292_803_200_000_000;

/// A line that owns its names.
#[derive(Debug, Clone)]
struct Owned {
    invoice: String,
    product: String,
    description: Option<String>,
    quantity: i64,
    time: i64,
    price: Money,
    customer: Option<String>,
    country: String,
    kind: LineKind,
}

impl Owned {
    fn line(&self, id: i64) -> Line<'_> {
        Line {
            id,
            invoice: &self.invoice,
            stock_code: &self.product,
            description: self.description.as_deref(),
            quantity: self.quantity,
            time: self.time,
            unit_price: self.price,
            customer: self.customer.as_deref(),
            country: &self.country,
            kind: self.kind,
            is_duplicate: id % 7 == 0,
        }
    }

    /// What lines of one receipt have in common.
    fn receipt(&self) -> (i64, &str, Option<&str>, &str) {
        let customer = self.customer.as_deref();
        (self.time, &self.invoice, customer, &self.country)
    }
}

fn arbitrary() -> impl Strategy<Value = Vec<Owned>> {
    // Few names, so that invoices cross customers, countries and months.
    let line = (
        0..12_u8,
        0..6_u8,
        0..3_u8,
        1..50_i64,
        0..100 * 24_i64,
        1..100_000_i64,
        0..6_u8,
        0..4_u8,
        0..8_u8,
    );
    let line = line.prop_map(
        |(invoice, product, words, quantity, hour, price, customer, country, kind)| {
            let kind = match kind {
                0..5 => LineKind::Sale,
                5 => LineKind::Cancellation,
                6 => LineKind::Service,
                _ => LineKind::Adjustment,
            };
            let is_sale = kind == LineKind::Sale;
            Owned {
                invoice: format!(
                    "{}{invoice}",
                    if kind == LineKind::Cancellation {
                        "C"
                    } else {
                        ""
                    }
                ),
                product: format!("P{product}"),
                description: (words > 0).then(|| format!("words {words}")),
                quantity: if is_sale { quantity } else { -quantity },
                time: START + hour * DAY / 24,
                price: Money::from_ten_thousandths(price),
                customer: (customer > 0).then(|| customer.to_string()),
                country: ["Germany", "EIRE", "United Kingdom", "Unspecified"][usize::from(country)]
                    .to_owned(),
                kind,
            }
        },
    );
    prop::collection::vec(line, 0..120)
}

fn load(lines: &[Owned]) -> InsightsModel {
    let mut builder = Builder::new();
    for (id, line) in (0..).zip(lines) {
        builder.push(&line.line(id)).unwrap();
    }
    let as_of = chrono::DateTime::from_timestamp_micros(START + 200 * DAY)
        .unwrap()
        .naive_utc();
    InsightsModel::load(&builder.finish("lines", as_of, 42).unwrap()).unwrap()
}

/// A filter that owns its names.
#[derive(Debug, Clone)]
struct Asked {
    from: Option<i64>,
    to: Option<i64>,
    countries: Vec<String>,
    products: Vec<String>,
}

fn asked() -> impl Strategy<Value = Asked> {
    let bound = || prop::option::of((-10..110 * 24_i64).prop_map(|hour| START + hour * DAY / 24));
    (bound(), bound(), 0..16_u8, 0..64_u8).prop_map(|(from, to, countries, products)| {
        let pick = |names: &[&str], bits: u8| {
            let picked = names
                .iter()
                .enumerate()
                .filter(|(at, _)| bits >> at & 1 == 1);
            picked
                .map(|(_, name)| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        Asked {
            from,
            to: to.map(|to| from.map_or(to, |from| from.max(to))),
            countries: pick(
                &["Germany", "EIRE", "United Kingdom", "Unspecified"],
                countries,
            ),
            products: pick(&["P0", "P1", "P2", "P3", "P4", "P5"], products),
        }
    })
}

impl Asked {
    /// Without names that no line has.
    fn known(mut self, shop: &Shop) -> Self {
        self.countries
            .retain(|name| shop.countries().find(name).is_some());
        self.products
            .retain(|name| shop.product_number(name).is_some());
        self
    }

    fn filter(&self) -> Filter<'_> {
        let Self {
            from,
            to,
            countries,
            products,
        } = self;
        Filter {
            countries,
            stock_codes: products,
            customers: &[],
            from: *from,
            to: *to,
        }
    }

    fn takes(&self, line: &Owned) -> bool {
        (self.countries.is_empty() || self.countries.contains(&line.country))
            && (self.products.is_empty() || self.products.contains(&line.product))
            && self.from.is_none_or(|from| line.time >= from)
            && self.to.is_none_or(|to| line.time < to)
    }
}

/// Counted line by line, with sets.
fn naive<'a>(lines: impl Iterator<Item = &'a Owned>) -> Sales {
    let (mut sums, mut orders, mut customers) = (Sums::default(), BTreeSet::new(), BTreeSet::new());
    for line in lines {
        match line.kind {
            LineKind::Sale => {
                sums.units += line.quantity;
                sums.gross += line.price * line.quantity;
                orders.insert(&line.invoice);
                customers.extend(&line.customer);
            }
            LineKind::Cancellation => {
                sums.returned -= line.quantity;
                sums.returns -= line.price * line.quantity;
            }
            LineKind::Service | LineKind::Adjustment => continue,
        }
        sums.lines += 1;
    }
    Sales {
        sums,
        orders: orders.len() as i64,
        customers: customers.len() as i64,
    }
}

fn naive_of(lines: &[&Owned]) -> Sales {
    naive(lines.iter().copied())
}

fn first_purchase<'a>(lines: &'a [Owned], customer: &str) -> Option<&'a Owned> {
    let bought =
        |line: &&Owned| line.kind == LineKind::Sale && line.customer.as_deref() == Some(customer);
    // Of several at one instant the first by invoice, then country, as receipts lie.
    lines
        .iter()
        .filter(bought)
        .min_by_key(|line| (line.time, &line.invoice, &line.country))
}

fn by_key<'a, K: Ord>(
    lines: &[&'a Owned],
    key: impl Fn(&'a Owned) -> K,
) -> BTreeMap<K, Vec<&'a Owned>> {
    let mut groups: BTreeMap<K, Vec<&Owned>> = BTreeMap::new();
    lines
        .iter()
        .for_each(|line| groups.entry(key(line)).or_default().push(line));
    groups
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn figures_equal_a_naive_count(
        lines in arbitrary(),
        asked in asked(),
        frequency in prop::sample::select(FREQUENCIES.to_vec()),
    ) {
        let insights = load(&lines);
        let shop = insights.shop();
        let asked = asked.known(shop);
        let selection = shop.select(&asked.filter()).unwrap();
        let taken: Vec<&Owned> = lines.iter().filter(|line| asked.takes(line)).collect();
        prop_assert_eq!(shop.sales(&selection), naive(taken.iter().copied()));

        let countries = shop.by_country(&selection);
        let wanted = by_key(&taken, |line| &line.country);
        let wanted = wanted.iter().map(|(name, lines)| (name.as_str(), naive_of(lines)));
        let wanted: BTreeMap<_, _> = wanted.filter(|(_, sales)| sales.sums.lines > 0).collect();
        let revenue = |(_, sales): &(u32, Sales)| std::cmp::Reverse(sales.sums.revenue());
        prop_assert!(countries.is_sorted_by_key(revenue));
        let countries = countries.iter().map(|(c, sales)| (shop.countries().get(*c), *sales));
        prop_assert_eq!(countries.collect::<BTreeMap<_, _>>(), wanted);

        let products = shop.products(&selection);
        let wanted = by_key(&taken, |line| &line.product);
        let wanted = wanted.iter().map(|(name, lines)| (name.as_str(), naive_of(lines).sums));
        let wanted: BTreeMap<_, _> = wanted.filter(|(_, sums)| sums.lines > 0).collect();
        let products = products.iter().map(|(p, sums)| (shop.products_by_name().get(*p), *sums));
        prop_assert_eq!(products.collect::<BTreeMap<_, _>>(), wanted);

        let periods = shop.periods(&selection, frequency);
        let count = periods.starts.len();
        // In two parts, as pages are.
        let parts = [0..count / 2, count / 2..count];
        let in_parts = || parts.iter().cloned();
        let trend = in_parts().flat_map(|part| shop.trend(&selection, &periods, part));
        let trend: Vec<Sales> = trend.collect();
        let growth = in_parts().flat_map(|part| shop.growth(&selection, &periods, part));
        let growth: Vec<Growth> = growth.collect();
        let period = |at: usize| periods.starts[at]..frequency.next(periods.starts[at]);
        let in_period = |at: usize| {
            let period = period(at);
            taken.iter().copied().filter(move |line| period.contains(&line.time))
        };
        for at in 0..count {
            let sales = naive(in_period(at));
            prop_assert_eq!(trend[at], sales);
            let begins = periods.starts[at].max(asked.from.unwrap_or(i64::MIN));
            let bought = in_period(at).filter(|line| line.kind == LineKind::Sale);
            let customers: BTreeSet<&str> = bought.filter_map(|l| l.customer.as_deref()).collect();
            let is_new = |c: &&&str| first_purchase(&lines, c).unwrap().time >= begins;
            let new = customers.iter().filter(is_new).count() as i64;
            let growth = growth[at];
            prop_assert_eq!(growth.new_customers, new);
            prop_assert_eq!(growth.returning_customers, sales.customers - new);
            let known = growth.new_revenue + growth.returning_revenue;
            prop_assert_eq!(known + growth.other_revenue, sales.sums.revenue());
        }

        let cohorts = in_parts().flat_map(|part| shop.cohorts(&selection, &periods, part, 4));
        let cohorts: Vec<Cohort> = cohorts.collect();
        for (at, cohort) in cohorts.iter().enumerate() {
            let is_member = |customer: &String| {
                first_purchase(&lines, customer).is_some_and(|first| {
                    // A receipt is selected as a whole, whichever of its lines is the first.
                    let is_same = |line: &&Owned| line.receipt() == first.receipt();
                    let is_taken = lines.iter().filter(is_same).any(|line| asked.takes(line));
                    is_taken && period(at).contains(&first.time)
                })
            };
            let customers = (1..6).map(|customer: u8| customer.to_string());
            let members: BTreeSet<String> = customers.filter(is_member).collect();
            prop_assert_eq!(cohort.customers, members.len() as i64);
            prop_assert_eq!(cohort.cells.len(), 4.min(count - at));
            for (offset, cell) in cohort.cells.iter().enumerate() {
                let is_theirs = |line: &&Owned| {
                    let customer = line.customer.as_ref();
                    customer.is_some_and(|customer| members.contains(customer))
                };
                let sales = naive(in_period(at + offset).filter(is_theirs));
                prop_assert_eq!(cell.customers, sales.customers);
                prop_assert_eq!(cell.revenue, sales.sums.revenue());
            }
        }

        let customers = 0..shop.customers().len() as u16;
        let group_of: Vec<u16> = customers.map(|customer| customer % 3).collect();
        for (group, sales) in shop.by_group(&selection, &group_of, 2).into_iter().enumerate() {
            let of = |line: &&Owned| {
                let customer = line.customer.as_ref();
                let number = customer.and_then(|name| shop.customer_number(name));
                let of = |number: u32| usize::from(group_of[number as usize]).min(2);
                number.map_or(2, of) == group
            };
            prop_assert_eq!(sales, naive(taken.iter().copied().filter(of)));
        }
    }

    #[test]
    fn an_export_holds_every_line_once_and_in_order(
        lines in arbitrary(),
        asked in asked(),
        most in 1..9_usize,
    ) {
        let insights = load(&lines);
        let shop = insights.shop();
        let asked = asked.known(shop);
        let selection = shop.select(&asked.filter()).unwrap();
        for kinds in [Kinds::REVENUE, Kinds::of(LineKind::ALL)] {
            let (mut cursor, mut seen) = (Cursor::default(), Vec::new());
            let mut page = || shop.lines(&selection, kinds, &mut cursor, most, |l| seen.push(l));
            while page() == most {}
            prop_assert!(seen.is_sorted_by_key(|line| (line.time, line.invoice)));
            let is_revenue = |kind| matches!(kind, LineKind::Sale | LineKind::Cancellation);
            let is_kind = |kind| kinds != Kinds::REVENUE || is_revenue(kind);
            let is_wanted =
                |(_, line): &(i64, &Owned)| asked.takes(line) && is_kind(line.kind);
            let wanted: BTreeMap<i64, &Owned> = (0..).zip(&lines).filter(is_wanted).collect();
            prop_assert_eq!(shop.count(&selection, kinds), wanted.len() as u64);
            let ids: BTreeSet<i64> = seen.iter().map(|line| line.id).collect();
            prop_assert_eq!(ids, wanted.keys().copied().collect());
            prop_assert_eq!(seen.len(), wanted.len());
            for line in seen {
                let owned = wanted[&line.id];
                prop_assert_eq!(line, owned.line(line.id));
            }
        }
    }

    #[test]
    fn a_customer_is_what_their_lines_are(lines in arbitrary(), asked in asked()) {
        let insights = load(&lines);
        let shop = insights.shop();
        let asked = Asked { products: vec![], ..asked.known(shop) };
        let selection = shop.select(&asked.filter()).unwrap();
        for (number, customer) in (0..).zip(shop.customers().iter()) {
            let is_theirs = |line: &&Owned| line.customer.as_deref() == Some(customer);
            let theirs = lines.iter().filter(is_theirs);
            let theirs: Vec<&Owned> = theirs.filter(|line| asked.takes(line)).collect();
            let profile = shop.profile(number, &selection);
            let sales = naive(theirs.iter().copied());
            prop_assert_eq!(profile.sales, sales);
            let lines = profile.products.iter().map(|(_, sums)| sums.lines);
            prop_assert_eq!(lines.sum::<i64>(), sales.sums.lines);
            let orders = shop.orders(number, &selection);
            let sold = orders.iter().filter(|order| order.sums.sold()).count();
            prop_assert_eq!(sold as i64, sales.orders);
            let revenue: Money = orders.iter().map(|order| order.sums.revenue()).sum();
            prop_assert_eq!(revenue, sales.sums.revenue());
            prop_assert!(orders.is_sorted_by_key(|order| std::cmp::Reverse(order.time)));
        }
    }
}

fn one(change: impl FnOnce(&mut Owned)) -> Vec<Owned> {
    let mut line = Owned {
        invoice: "536365".to_owned(),
        product: "85123A".to_owned(),
        description: Some("WHITE HANGING HEART".to_owned()),
        quantity: 6,
        time: START,
        price: Money::from_ten_thousandths(25_500),
        customer: Some("17850".to_owned()),
        country: "United Kingdom".to_owned(),
        kind: LineKind::Sale,
    };
    change(&mut line);
    vec![line]
}

#[test]
fn the_same_lines_in_another_order_are_the_same_artifact() {
    let build = |ids: [i64; 2]| {
        let mut builder = Builder::new();
        for id in ids {
            let (line, sale) = (&one(|_| {})[0], LineKind::Sale);
            let line = Line {
                id,
                invoice: &line.invoice,
                stock_code: ["A", "B"][id as usize],
                description: None,
                quantity: 1,
                time: START - id,
                unit_price: Money::from_ten_thousandths(1),
                customer: None,
                country: "EIRE",
                kind: sale,
                is_duplicate: false,
            };
            builder.push(&line).unwrap();
        }
        builder
            .finish("lines", chrono::NaiveDateTime::default(), 42)
            .unwrap()
    };
    assert_eq!(build([0, 1]).manifest(), build([1, 0]).manifest());
}

#[test]
fn lines_that_cannot_be_added_up_are_refused() {
    for (lines, message) in [
        (
            one(|line| line.price = Money::from_ten_thousandths(i64::MAX / 2)),
            "unit_price makes sums that are too large",
        ),
        (one(|line| line.quantity = -1), "quantity is -1 in a sale"),
        (
            one(|line| line.time = i64::MAX),
            "time is not in order, or not in the years 1 to 9999",
        ),
    ] {
        let mut builder = Builder::new();
        let Owned {
            invoice,
            product,
            quantity,
            time,
            price,
            country,
            kind,
            ..
        } = &lines[0];
        builder
            .push(&Line {
                id: 0,
                invoice,
                stock_code: product,
                description: None,
                quantity: *quantity,
                time: *time,
                unit_price: *price,
                customer: None,
                country,
                kind: *kind,
                is_duplicate: false,
            })
            .unwrap();
        let artifact = builder
            .finish("lines", chrono::NaiveDateTime::default(), 42)
            .unwrap();
        assert_eq!(
            InsightsModel::load(&artifact).unwrap_err().to_string(),
            message
        );
    }
}

#[test]
fn names_are_found_in_every_spelling_or_refused() {
    let insights = load(&one(|_| {}));
    let shop = insights.shop();
    assert_eq!(shop.customer_number(" 17850.0 "), Some(0));
    let asked = |countries: &[&str]| {
        let countries: Vec<String> = countries.iter().map(|name| (*name).to_owned()).collect();
        shop.select(&Filter {
            countries: &countries,
            ..Filter::default()
        })
        .map(|selection| shop.sales(&selection).orders)
    };
    assert_eq!(asked(&["United Kingdom"]), Ok(1));
    assert_eq!(
        asked(&["Atlantis"]).unwrap_err(),
        Unknown {
            kind: "country",
            name: "Atlantis".to_owned()
        }
    );
}

#[test]
fn a_search_takes_words_in_any_order_and_codes_first() {
    let line = |product: &str, description: &str, price: i64| {
        let price = Money::from_ten_thousandths(price);
        one(|line| {
            (line.product, line.description, line.price) =
                (product.into(), Some(description.into()), price)
        })
    };
    let lines = [
        line("22423", "REGENCY CAKESTAND 3 TIER", 100),
        line("22", "HEART", 1),
        line("9", "box of 22 hearts", 900),
        line("85123A", "WHITE HANGING HEART", 500),
    ];
    let insights = load(&lines.concat());
    let shop = insights.shop();
    let search = |query: &str| -> Vec<&str> {
        shop.search(query)
            .into_iter()
            .map(|product| shop.products_by_name().get(product))
            .collect()
    };
    for (query, found) in [
        ("22", &["22", "22423", "9"][..]),
        (" heart HANG ", &["85123A"]),
        ("85123a", &["85123A"]),
        ("heart", &["9", "85123A", "22"]),
        ("", &["9", "85123A", "22423", "22"]),
        ("no such", &[]),
    ] {
        assert_eq!(search(query), found, "{query}");
    }
}

#[test]
fn a_shop_without_lines_answers_with_zeros() {
    let insights = load(&[]);
    let shop = insights.shop();
    let all = shop.all();
    assert_eq!((shop.sales(&all), shop.span()), (Sales::default(), None));
    assert!(shop.by_country(&all).is_empty() && shop.products(&all).is_empty());
    assert!(shop.periods(&all, Frequency::Daily).starts.is_empty());
    assert_eq!(shop.by_group(&all, &[], 3).len(), 4);
}
