//! The answers, one function for each method.

use std::{cmp::Reverse, ops::Range};

use prost_types::Timestamp;
use proto::insights::v1::{self as pb};
use runtime::{Page, Refusal, within};
use scoring::{
    insights::{self as model, Frequency, InsightsModel, Selection, Shop, Sums},
    segmentation::SegmentationModel,
};
use serving::Loaded;
use transactions::Money;

use crate::ask::{Asked, customer, frequency, timestamp};

/// Periods that a cohort is followed for, by default.
const COHORT_PERIODS: usize = 13;
const MOST_COHORT_PERIODS: usize = 120;
/// Most characters of a query.
const MOST_QUERY: usize = 200;
/// Products of a profile.
const TOP: usize = 10;
/// Seconds of a day.
const DAY: f64 = 86_400.0;
/// Name of the group of lines without a customer in any segment.
const NO_SEGMENT: &str = "No segment";

/// The fields that requests have in common.
macro_rules! asked {
    ($request:expr) => {
        Asked {
            countries: &$request.countries,
            start_time: $request.start_time.as_ref(),
            end_time: $request.end_time.as_ref(),
            ..Asked::default()
        }
    };
    ($request:expr, stock_codes) => {
        Asked {
            stock_codes: &$request.stock_codes,
            ..asked!($request)
        }
    };
}

type Answer<T> = Result<T, Refusal>;

/// A part of a whole; 0 if the whole is 0.
fn share(part: i64, whole: i64) -> f64 {
    if whole > 0 {
        part as f64 / whole as f64
    } else {
        0.0
    }
}

/// A part of an amount; 0 if the whole is 0.
fn amount_share(part: Money, whole: Money) -> f64 {
    share(part.ten_thousandths(), whole.ten_thousandths())
}

fn count(items: usize) -> i32 {
    i32::try_from(items).unwrap_or(i32::MAX)
}

fn sales(
    model::Sales {
        sums,
        orders,
        customers,
    }: model::Sales,
) -> pb::Sales {
    pb::Sales {
        transactions: sums.lines,
        orders,
        customers,
        items: sums.units,
        returned_items: sums.returned,
        gross_revenue: sums.gross.to_f64(),
        returns: sums.returns.to_f64(),
        revenue: sums.revenue().to_f64(),
        average_order_value: if orders > 0 {
            sums.gross.to_f64() / orders as f64
        } else {
            0.0
        },
        returns_rate: amount_share(sums.returns, sums.gross),
    }
}

fn span(shop: &Shop) -> (Option<Timestamp>, Option<Timestamp>) {
    shop.span()
        .map(|(first, last)| (timestamp(first), timestamp(last)))
        .unzip()
}

pub(crate) fn summary(
    loaded: &Loaded<InsightsModel>,
    request: &pb::GetSummaryRequest,
) -> Answer<pb::GetSummaryResponse> {
    let shop = loaded.model.shop();
    let (selection, _) = asked!(request, stock_codes).select(shop)?;
    let (first_time, last_time) = span(shop);
    let sales = Some(sales(shop.sales(&selection)));
    Ok(pb::GetSummaryResponse {
        sales,
        first_time,
        last_time,
        model: Some(loaded.info.clone()),
    })
}

pub(crate) fn by_country(
    loaded: &Loaded<InsightsModel>,
    request: &pb::ListSalesByCountryRequest,
) -> Answer<pb::ListSalesByCountryResponse> {
    let shop = loaded.model.shop();
    let (selection, filter) = asked!(request, stock_codes).select(shop)?;
    let page = Page::of(
        "by country",
        request.page_size,
        &request.page_token,
        filter,
        &loaded.info.version,
    )?;
    let all = shop.by_country(&selection);
    let total: Money = all.iter().map(|(_, sales)| sales.sums.revenue()).sum();
    let (part, next_page_token) = page.cut(&all);
    let countries = part.iter().map(|(country, of)| pb::CountrySales {
        country: shop.countries().get(*country).to_owned(),
        sales: Some(sales(*of)),
        revenue_share: amount_share(of.sums.revenue(), total),
    });
    Ok(pb::ListSalesByCountryResponse {
        countries: countries.collect(),
        next_page_token,
        total_size: count(all.len()),
        model: Some(loaded.info.clone()),
    })
}

/// The periods of a page: figures are computed for these only.
struct Paged {
    selection: Selection,
    periods: model::Periods,
    places: Range<usize>,
    next_page_token: String,
}

impl Paged {
    fn of(
        list: &'static str,
        loaded: &Loaded<InsightsModel>,
        asked: Asked<'_>,
        frequency: Frequency,
        (size, token): (i32, &str),
        more: impl std::hash::Hash,
    ) -> Answer<Self> {
        let shop = loaded.model.shop();
        let (selection, filter) = asked.select(shop)?;
        let page = Page::of(
            list,
            size,
            token,
            (filter, frequency, more),
            &loaded.info.version,
        )?;
        let periods = shop.periods(&selection, frequency);
        let (places, next_page_token) = page.places(periods.starts.len());
        Ok(Self {
            selection,
            periods,
            places,
            next_page_token,
        })
    }

    /// The start of each period of the page, with its figures.
    fn with<T>(&self, all: Vec<T>) -> impl Iterator<Item = (Option<Timestamp>, T)> {
        self.periods.starts[self.places.clone()]
            .iter()
            .map(|start| Some(timestamp(*start)))
            .zip(all)
    }
}

pub(crate) fn trend(
    loaded: &Loaded<InsightsModel>,
    request: &pb::ListSalesTrendRequest,
) -> Answer<pb::ListSalesTrendResponse> {
    let frequency = frequency(request.frequency)?.unwrap_or(Frequency::Daily);
    let asked = asked!(request, stock_codes);
    let paged = Paged::of(
        "trend",
        loaded,
        asked,
        frequency,
        (request.page_size, &request.page_token),
        (),
    )?;
    let all = loaded
        .model
        .shop()
        .trend(&paged.selection, &paged.periods, paged.places.clone());
    let periods = paged
        .with(all)
        .map(|(period_start, of)| pb::PeriodSales {
            period_start,
            sales: Some(sales(of)),
        })
        .collect();
    Ok(pb::ListSalesTrendResponse {
        periods,
        total_size: count(paged.periods.starts.len()),
        next_page_token: paged.next_page_token,
        model: Some(loaded.info.clone()),
    })
}

pub(crate) fn growth(
    loaded: &Loaded<InsightsModel>,
    request: &pb::ListCustomerGrowthRequest,
) -> Answer<pb::ListCustomerGrowthResponse> {
    let frequency = frequency(request.frequency)?.unwrap_or(Frequency::Daily);
    let paged = Paged::of(
        "growth",
        loaded,
        asked!(request),
        frequency,
        (request.page_size, &request.page_token),
        (),
    )?;
    let all = loaded
        .model
        .shop()
        .growth(&paged.selection, &paged.periods, paged.places.clone());
    let periods = paged
        .with(all)
        .map(|(period_start, of)| pb::CustomerGrowth {
            period_start,
            new_customers: of.new_customers,
            returning_customers: of.returning_customers,
            new_revenue: of.new_revenue.to_f64(),
            returning_revenue: of.returning_revenue.to_f64(),
            other_revenue: of.other_revenue.to_f64(),
        });
    Ok(pb::ListCustomerGrowthResponse {
        periods: periods.collect(),
        total_size: count(paged.periods.starts.len()),
        next_page_token: paged.next_page_token,
        model: Some(loaded.info.clone()),
    })
}

pub(crate) fn cohorts(
    loaded: &Loaded<InsightsModel>,
    request: &pb::ListCohortRetentionRequest,
) -> Answer<pb::ListCohortRetentionResponse> {
    let frequency = match frequency(request.frequency)? {
        None => Frequency::Monthly,
        Some(Frequency::Daily) => {
            return Err(Refusal::field(
                "frequency",
                "is a day; a cohort's is a week or longer",
            ));
        }
        Some(frequency) => frequency,
    };
    let most = within(
        "max_periods",
        request.max_periods,
        COHORT_PERIODS,
        MOST_COHORT_PERIODS,
    )?;
    let paged = Paged::of(
        "cohorts",
        loaded,
        asked!(request),
        frequency,
        (request.page_size, &request.page_token),
        most,
    )?;
    let all =
        loaded
            .model
            .shop()
            .cohorts(&paged.selection, &paged.periods, paged.places.clone(), most);
    let cohorts = paged.with(all).map(|(period_start, of)| {
        let periods = of
            .cells
            .iter()
            .enumerate()
            .map(|(offset, cell)| pb::CohortPeriod {
                offset: count(offset),
                customers: cell.customers,
                retention: share(cell.customers, of.customers),
                revenue: cell.revenue.to_f64(),
            });
        pb::Cohort {
            period_start,
            customers: of.customers,
            periods: periods.collect(),
        }
    });
    Ok(pb::ListCohortRetentionResponse {
        cohorts: cohorts.collect(),
        total_size: count(paged.periods.starts.len()),
        next_page_token: paged.next_page_token,
        model: Some(loaded.info.clone()),
    })
}

pub(crate) fn top_products(
    loaded: &Loaded<InsightsModel>,
    request: &pb::ListTopProductsRequest,
) -> Answer<pb::ListTopProductsResponse> {
    let unknown = |_| Refusal::field("order", format!("is {}, which is none", request.order));
    let by_quantity = match pb::ProductOrder::try_from(request.order).map_err(unknown)? {
        pb::ProductOrder::Unspecified | pb::ProductOrder::Revenue => false,
        pb::ProductOrder::Quantity => true,
    };
    let shop = loaded.model.shop();
    let (selection, filter) = asked!(request).select(shop)?;
    let page = Page::of(
        "top products",
        request.page_size,
        &request.page_token,
        (filter, by_quantity),
        &loaded.info.version,
    )?;
    let all = shop.products(&selection);
    let total = all.iter().map(|(_, sums)| sums.revenue()).sum();
    let ranked = ranked(all, total, by_quantity);
    let (part, next_page_token) = page.cut(&ranked);
    Ok(pb::ListTopProductsResponse {
        products: part.iter().map(|ranked| ranked.message(shop)).collect(),
        next_page_token,
        total_size: count(ranked.len()),
        model: Some(loaded.info.clone()),
    })
}

/// A product's place in a ranking.
struct Ranked {
    rank: usize,
    product: u32,
    sums: Sums,
    total: Money,
}

fn ranked(mut all: Vec<(u32, Sums)>, total: Money, by_quantity: bool) -> Vec<Ranked> {
    // Numbers of products are in the order of their codes.
    all.sort_unstable_by_key(|(product, sums)| {
        (
            Reverse(if by_quantity {
                sums.units
            } else {
                sums.revenue().ten_thousandths()
            }),
            *product,
        )
    });
    all.into_iter()
        .enumerate()
        .map(|(at, (product, sums))| Ranked {
            rank: at + 1,
            product,
            sums,
            total,
        })
        .collect()
}

impl Ranked {
    fn message(&self, shop: &Shop) -> pb::ProductSales {
        let Self {
            rank,
            product,
            sums,
            total,
        } = self;
        pb::ProductSales {
            rank: count(*rank),
            stock_code: shop.products_by_name().get(*product).to_owned(),
            description: shop.description(*product).to_owned(),
            transactions: sums.lines,
            items: sums.units,
            returned_items: sums.returned,
            gross_revenue: sums.gross.to_f64(),
            returns: sums.returns.to_f64(),
            revenue: sums.revenue().to_f64(),
            revenue_share: amount_share(sums.revenue(), *total),
        }
    }
}

/// The segment of each customer, for a version of each of the two models.
pub(crate) struct Groups {
    versions: [String; 2],
    /// The place of each customer's segment among the model's.
    of: Vec<u16>,
}

impl Groups {
    pub(crate) fn new(
        loaded: &Loaded<InsightsModel>,
        segments: &Loaded<SegmentationModel>,
    ) -> Self {
        let customers = loaded.model.shop().customers().iter();
        let segment = |id| {
            segments
                .model
                .customer(id)
                .and_then(|customer| u16::try_from(customer.segment).ok())
        };
        // The manifests' versions, not those of the answers: a shadow answers under another name.
        let versions = [
            loaded.manifest.version.clone(),
            segments.manifest.version.clone(),
        ];
        Self {
            versions,
            of: customers
                .map(|id| segment(id).unwrap_or(u16::MAX))
                .collect(),
        }
    }

    /// Whether the groups belong to these versions.
    pub(crate) fn are_of(
        &self,
        loaded: &Loaded<InsightsModel>,
        segments: &Loaded<SegmentationModel>,
    ) -> bool {
        self.versions == [&*loaded.manifest.version, &*segments.manifest.version]
    }
}

pub(crate) fn by_segment(
    loaded: &Loaded<InsightsModel>,
    segments: &Loaded<SegmentationModel>,
    groups: &Groups,
    request: &pb::ListRevenueBySegmentRequest,
) -> Answer<pb::ListRevenueBySegmentResponse> {
    let shop = loaded.model.shop();
    let (selection, filter) = asked!(request).select(shop)?;
    // Either model may change between two pages.
    let version = [&*loaded.info.version, &*segments.info.version].join(" ");
    let page = Page::of(
        "by segment",
        request.page_size,
        &request.page_token,
        filter,
        &version,
    )?;
    let known = &segments.model.parameters().segments;
    let mut figures = shop.by_group(&selection, &groups.of, known.len());
    let total = figures.iter().map(|sales| sales.sums.revenue()).sum();
    let other = figures.pop().unwrap_or_default();
    let mut all: Vec<_> = known
        .iter()
        .zip(figures)
        .map(|(segment, of)| (segment.id, segment.name.as_str(), of))
        .collect();
    all.sort_by_key(|(id, _, of)| (Reverse(of.sums.revenue()), *id));
    if other.sums.lines > 0 {
        all.push((0, NO_SEGMENT, other));
    }
    let (part, next_page_token) = page.cut(&all);
    let segment = |(id, name, of): &(u32, &str, model::Sales)| pb::SegmentSales {
        segment_id: i32::try_from(*id).unwrap_or(i32::MAX),
        segment_name: (*name).to_owned(),
        sales: Some(sales(*of)),
        revenue_share: amount_share(of.sums.revenue(), total),
    };
    Ok(pb::ListRevenueBySegmentResponse {
        segments: part.iter().map(segment).collect(),
        next_page_token,
        total_size: count(all.len()),
        segmentation_model: Some(segments.info.clone()),
        model: Some(loaded.info.clone()),
    })
}

pub(crate) fn countries(
    loaded: &Loaded<InsightsModel>,
    request: &pb::ListCountriesRequest,
) -> Answer<pb::ListCountriesResponse> {
    let shop = loaded.model.shop();
    let page = Page::of(
        "countries",
        request.page_size,
        &request.page_token,
        (),
        &loaded.info.version,
    )?;
    let total = shop.countries().len();
    let (places, next_page_token) = page.places(total);
    let country = |place: usize| {
        let number = u32::try_from(place).ok()?;
        let (first, last, sums) = shop.country(number)?;
        Some(pb::Country {
            country: shop.countries().get(number).to_owned(),
            first_time: Some(timestamp(first)),
            last_time: Some(timestamp(last)),
            revenue: sums.revenue().to_f64(),
        })
    };
    let (first_time, last_time) = span(shop);
    Ok(pb::ListCountriesResponse {
        countries: places.filter_map(country).collect(),
        next_page_token,
        total_size: count(total),
        first_time,
        last_time,
        model: Some(loaded.info.clone()),
    })
}

pub(crate) fn search(
    loaded: &Loaded<InsightsModel>,
    request: &pb::SearchProductsRequest,
) -> Answer<pb::SearchProductsResponse> {
    let length = request.query.chars().count();
    if length > MOST_QUERY {
        return Err(Refusal::field(
            "query",
            format!("has {length} characters; {MOST_QUERY} is the most"),
        ));
    }
    let page = Page::of(
        "search",
        request.page_size,
        &request.page_token,
        &request.query,
        &loaded.info.version,
    )?;
    let shop = loaded.model.shop();
    let found = shop.search(&request.query);
    let (part, next_page_token) = page.cut(&found);
    let products = part.iter().map(|product| {
        let sums = shop.product(*product);
        pb::Product {
            stock_code: shop.products_by_name().get(*product).to_owned(),
            description: shop.description(*product).to_owned(),
            items: sums.units,
            revenue: sums.revenue().to_f64(),
        }
    });
    Ok(pb::SearchProductsResponse {
        products: products.collect(),
        next_page_token,
        total_size: count(found.len()),
        model: Some(loaded.info.clone()),
    })
}

pub(crate) fn profile(
    loaded: &Loaded<InsightsModel>,
    request: &pb::GetCustomerProfileRequest,
) -> Answer<pb::GetCustomerProfileResponse> {
    let shop = loaded.model.shop();
    let customer = customer(shop, &request.customer_id)?;
    let (selection, _) = asked!(request).select(shop)?;
    let model::Profile {
        sales: figures,
        country,
        span,
        products,
    } = shop.profile(customer, &selection);
    let gaps = figures.orders - 1;
    let average_gap_days = span
        .filter(|_| gaps > 0)
        .map(|(first, last)| (last - first) as f64 / 1e6 / DAY / gaps as f64);
    let total = products.iter().map(|(_, sums)| sums.revenue()).sum();
    let bought = products.iter().filter(|(_, sums)| sums.sold()).count();
    let top = ranked(products, total, false);
    let profile = pb::CustomerProfile {
        customer_id: shop.customers().get(customer).to_owned(),
        country: country
            .map(|country| shop.countries().get(country).to_owned())
            .unwrap_or_default(),
        first_order_time: span.map(|(first, _)| timestamp(first)),
        last_order_time: span.map(|(_, last)| timestamp(last)),
        sales: Some(sales(figures)),
        products: i64::from(count(bought)),
        average_gap_days,
        top_products: top
            .iter()
            .take(TOP)
            .map(|ranked| ranked.message(shop))
            .collect(),
    };
    Ok(pb::GetCustomerProfileResponse {
        profile: Some(profile),
        model: Some(loaded.info.clone()),
    })
}

pub(crate) fn orders(
    loaded: &Loaded<InsightsModel>,
    request: &pb::ListCustomerOrdersRequest,
) -> Answer<pb::ListCustomerOrdersResponse> {
    let shop = loaded.model.shop();
    let customer = customer(shop, &request.customer_id)?;
    let (selection, filter) = asked!(request).select(shop)?;
    let page = Page::of(
        "orders",
        request.page_size,
        &request.page_token,
        (customer, filter),
        &loaded.info.version,
    )?;
    let all = shop.orders(customer, &selection);
    let (part, next_page_token) = page.cut(&all);
    let order = |order: &model::Order| {
        let model::Order {
            invoice,
            time,
            country,
            sums,
        } = order;
        pb::CustomerOrder {
            invoice: shop.invoices().get(*invoice).to_owned(),
            order_time: Some(timestamp(*time)),
            country: shop.countries().get(*country).to_owned(),
            is_cancellation: !sums.sold(),
            lines: sums.lines,
            items: if sums.sold() {
                sums.units
            } else {
                sums.returned
            },
            revenue: sums.revenue().to_f64(),
        }
    };
    Ok(pb::ListCustomerOrdersResponse {
        orders: part.iter().map(order).collect(),
        next_page_token,
        total_size: count(all.len()),
        model: Some(loaded.info.clone()),
    })
}
