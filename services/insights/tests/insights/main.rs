//! The service over a real socket and a model store.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use chrono::{DateTime, NaiveDateTime};
use model_store::ModelStore;
use parquet::file::reader::{FileReader, SerializedFileReader};
use prost_types::Timestamp;
use proto::insights::v1::{self as pb, insights_service_client::InsightsServiceClient};
use runtime::{Server, ServerArgs};
use scoring::{
    Artifact, Table,
    insights::{Builder, InsightsModel},
    segmentation::SegmentationModel,
};
use serving::Live;
use tonic::{Code, transport::Channel};
use transactions::{Line, LineKind, Money};

/// invoice, code, description, quantity, time, price, customer, country, kind
type Row = (
    &'static str,
    &'static str,
    &'static str,
    i64,
    &'static str,
    i64,
    &'static str,
    &'static str,
    LineKind,
);

const ROWS: [Row; 8] = [
    (
        "536365",
        "85123A",
        "WHITE HANGING HEART",
        6,
        "2010-12-01T08:26:00",
        25_500,
        "17850",
        "United Kingdom",
        LineKind::Sale,
    ),
    (
        "536365",
        "POST",
        "POSTAGE",
        1,
        "2010-12-01T08:26:00",
        180_000,
        "17850",
        "United Kingdom",
        LineKind::Service,
    ),
    (
        "536370",
        "22728",
        "ALARM CLOCK, \"PINK\"\nSMALL",
        24,
        "2010-12-01T08:45:00",
        37_500,
        "12583",
        "France",
        LineKind::Sale,
    ),
    (
        "536371",
        "85123A",
        "WHITE HANGING HEART",
        12,
        "2011-01-03T09:00:00",
        25_500,
        "",
        "United Kingdom",
        LineKind::Sale,
    ),
    (
        "C536379",
        "85123A",
        "WHITE HANGING HEART",
        -2,
        "2011-01-03T09:41:00",
        25_500,
        "17850",
        "United Kingdom",
        LineKind::Cancellation,
    ),
    (
        "536380",
        "22728",
        "",
        1,
        "2011-02-10T10:00:00",
        37_500,
        "17850",
        "France",
        LineKind::Sale,
    ),
    (
        "536381",
        "=1+1",
        "PLAIN",
        10,
        "2011-02-10T11:00:00",
        1_250,
        "13047",
        "France",
        LineKind::Sale,
    ),
    (
        "A1",
        "B",
        "Adjust bad debt",
        1,
        "2011-02-11T00:00:00",
        -110_000,
        "",
        "United Kingdom",
        LineKind::Adjustment,
    ),
];

fn time(text: &str) -> NaiveDateTime {
    text.parse().unwrap()
}

fn artifact(rows: &[Row]) -> Artifact {
    let mut builder = Builder::new();
    for (
        id,
        (invoice, stock_code, description, quantity, when, unit_price, customer, country, kind),
    ) in (0..).zip(rows.iter().copied())
    {
        builder
            .push(&Line {
                id,
                invoice,
                stock_code,
                description: Some(description).filter(|text| !text.is_empty()),
                quantity,
                time: time(when).and_utc().timestamp_micros(),
                unit_price: Money::from_ten_thousandths(unit_price),
                customer: Some(customer).filter(|text| !text.is_empty()),
                country,
                kind,
                is_duplicate: false,
            })
            .unwrap();
    }
    builder
        .finish("lines", time("2011-03-01T00:00:00"), 42)
        .unwrap()
}

struct Running {
    client: InsightsServiceClient<Channel>,
    store: ModelStore,
    _folder: tempfile::TempDir,
}

async fn start(rows: &[Row]) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let store = ModelStore::open(folder.path().to_str().unwrap()).unwrap();
    store
        .publish(&artifact(rows), DateTime::UNIX_EPOCH)
        .await
        .unwrap();
    let every = Duration::from_millis(20);
    let live = Live::<InsightsModel>::follow(store.clone(), every).await;
    let segments = Live::<SegmentationModel>::follow(store.clone(), every).await;
    let server = Server::bind(&ServerArgs::local())
        .await
        .unwrap()
        .serving(insights::service(live, segments));
    let address = server.local_addr().unwrap();
    tokio::spawn(server.serve_until(std::future::pending()));
    let client = InsightsServiceClient::connect(format!("http://{address}"))
        .await
        .unwrap();
    Running {
        client,
        store,
        _folder: folder,
    }
}

fn stamp(text: &str) -> Option<Timestamp> {
    Some(Timestamp {
        seconds: time(text).and_utc().timestamp(),
        nanos: 0,
    })
}

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::too_many_lines,
    reason = "a list of figures of one small shop, method by method"
)]
async fn figures_are_what_the_lines_say() {
    let Running { mut client, .. } = start(&ROWS).await;
    let answer = client
        .get_summary(pb::GetSummaryRequest::default())
        .await
        .unwrap();
    assert!(answer.metadata().get("x-model-version").is_some());
    let answer = answer.into_inner();
    assert_eq!(answer.model.unwrap().name, "insights");
    let wanted = pb::Sales {
        transactions: 6,
        orders: 5,
        customers: 3,
        items: 53,
        returned_items: 2,
        gross_revenue: 140.9,
        returns: 5.1,
        revenue: 135.8,
        average_order_value: 28.18,
        returns_rate: 5.1 / 140.9,
    };
    let sales = answer.sales.unwrap();
    assert!((sales.returns_rate - wanted.returns_rate).abs() < 1e-12);
    assert_eq!(
        pb::Sales {
            returns_rate: wanted.returns_rate,
            ..sales
        },
        wanted
    );
    assert_eq!(
        (answer.first_time, answer.last_time),
        (stamp("2010-12-01T08:26:00"), stamp("2011-02-11T00:00:00"))
    );

    // Half-open, to the instant.
    let request = pb::GetSummaryRequest {
        countries: vec!["United Kingdom".into(), "France".into()],
        start_time: stamp("2010-12-01T08:45:00"),
        end_time: stamp("2011-01-03T09:41:00"),
        ..Default::default()
    };
    assert_eq!(
        client
            .get_summary(request)
            .await
            .unwrap()
            .into_inner()
            .sales
            .unwrap()
            .revenue,
        120.6
    );
    let request = pb::GetSummaryRequest {
        start_time: stamp("2020-01-01T00:00:00"),
        ..Default::default()
    };
    assert_eq!(
        client
            .get_summary(request)
            .await
            .unwrap()
            .into_inner()
            .sales,
        Some(pb::Sales::default())
    );

    let answer = client
        .list_sales_by_country(pb::ListSalesByCountryRequest::default())
        .await
        .unwrap()
        .into_inner();
    let countries: Vec<_> = answer
        .countries
        .iter()
        .map(|c| (c.country.as_str(), c.sales.unwrap().revenue))
        .collect();
    assert_eq!(countries, [("France", 95.0), ("United Kingdom", 40.8)]);

    let request = pb::ListSalesTrendRequest {
        frequency: pb::Frequency::Monthly.into(),
        ..Default::default()
    };
    let answer = client.list_sales_trend(request).await.unwrap().into_inner();
    let months: Vec<_> = answer
        .periods
        .iter()
        .map(|p| (p.period_start, p.sales.unwrap().revenue))
        .collect();
    let month = |number: u32| {
        stamp(&format!(
            "{}-{:02}-01T00:00:00",
            2010 + number / 12,
            number % 12 + 1
        ))
    };
    assert_eq!(
        months,
        [(month(11), 105.3), (month(12), 25.5), (month(13), 5.0)]
    );

    let request = pb::ListTopProductsRequest {
        order: pb::ProductOrder::Quantity.into(),
        ..Default::default()
    };
    let answer = client
        .list_top_products(request)
        .await
        .unwrap()
        .into_inner();
    let products: Vec<_> = answer
        .products
        .iter()
        .map(|p| (p.rank, p.stock_code.as_str(), p.items))
        .collect();
    assert_eq!(
        products,
        [(1, "22728", 25), (2, "85123A", 18), (3, "=1+1", 10)]
    );

    let request = pb::ListCustomerGrowthRequest {
        frequency: pb::Frequency::Monthly.into(),
        ..Default::default()
    };
    let answer = client
        .list_customer_growth(request)
        .await
        .unwrap()
        .into_inner();
    let growth: Vec<_> = answer
        .periods
        .iter()
        .map(|p| (p.new_customers, p.returning_customers))
        .collect();
    assert_eq!(growth, [(2, 0), (0, 0), (1, 1)]);

    let answer = client
        .list_cohort_retention(pb::ListCohortRetentionRequest::default())
        .await
        .unwrap()
        .into_inner();
    let first = &answer.cohorts[0];
    assert_eq!((first.customers, first.periods.len()), (2, 3));
    assert_eq!(
        first
            .periods
            .iter()
            .map(|p| p.retention)
            .collect::<Vec<_>>(),
        [1.0, 0.0, 0.5]
    );

    let answer = client
        .list_countries(pb::ListCountriesRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        answer
            .countries
            .iter()
            .map(|c| c.country.as_str())
            .collect::<Vec<_>>(),
        ["France", "United Kingdom"]
    );

    let request = pb::SearchProductsRequest {
        query: "clock alarm".into(),
        ..Default::default()
    };
    let answer = client.search_products(request).await.unwrap().into_inner();
    assert_eq!(
        answer
            .products
            .iter()
            .map(|p| p.stock_code.as_str())
            .collect::<Vec<_>>(),
        ["22728"]
    );
}

/// The orders of customer 17850, read two a page.
async fn all_orders(client: &mut InsightsServiceClient<Channel>) -> Vec<pb::CustomerOrder> {
    let mut orders = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListCustomerOrdersRequest {
            customer_id: "17850".into(),
            page_size: 2,
            page_token,
            ..Default::default()
        };
        let answer = client
            .list_customer_orders(request)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(answer.total_size, 3);
        orders.extend(answer.orders);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return orders;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_is_told_with_orders_and_products() {
    let Running { mut client, .. } = start(&ROWS).await;
    let request = pb::GetCustomerProfileRequest {
        customer_id: "17850.0".into(),
        ..Default::default()
    };
    let profile = client
        .get_customer_profile(request)
        .await
        .unwrap()
        .into_inner()
        .profile
        .unwrap();
    assert_eq!(
        (
            profile.customer_id.as_str(),
            profile.country.as_str(),
            profile.products
        ),
        ("17850", "France", 2)
    );
    let sales = profile.sales.unwrap();
    assert_eq!(
        (sales.orders, sales.revenue, sales.average_order_value),
        (2, 13.95, 9.525)
    );
    assert_eq!(profile.last_order_time, stamp("2011-02-10T10:00:00"));
    assert!((profile.average_gap_days.unwrap() - 71.0653).abs() < 1e-3);
    assert_eq!(profile.top_products[0].stock_code, "85123A");

    let orders = all_orders(&mut client).await;
    let orders: Vec<_> = orders
        .iter()
        .map(|o| (o.invoice.as_str(), o.is_cancellation, o.lines, o.revenue))
        .collect();
    assert_eq!(
        orders,
        [
            ("536380", false, 1, 3.75),
            ("C536379", true, 1, -5.1),
            ("536365", false, 1, 15.3)
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::too_many_lines,
    reason = "a list with an entry per mistake in a request"
)]
async fn what_cannot_be_answered_is_refused_by_name() {
    let Running {
        mut client, store, ..
    } = start(&ROWS).await;
    macro_rules! refused {
        (
            $method:ident,
            $request:ident { $($field:ident: $value:expr),* },
            $code:ident,
            $message:literal
        ) => {
            let request = pb::$request { $($field: $value,)* ..Default::default() };
            let status = client.$method(request).await.unwrap_err();
            assert_eq!((status.code(), status.message()), (Code::$code, $message));
        };
    }
    refused!(
        get_summary,
        GetSummaryRequest {
            countries: vec!["Atlantis".into()]
        },
        NotFound,
        "country `Atlantis` is not in the model"
    );
    refused!(
        get_summary,
        GetSummaryRequest {
            stock_codes: vec!["x".into()]
        },
        NotFound,
        "product `x` is not in the model"
    );
    refused!(
        get_summary,
        GetSummaryRequest {
            countries: vec!["France".into(), " ".into()]
        },
        InvalidArgument,
        "countries[1] is empty"
    );
    refused!(
        get_summary,
        GetSummaryRequest {
            countries: vec!["France".into(); 1001]
        },
        InvalidArgument,
        "countries has 1001 items; 1000 is the most"
    );
    refused!(
        get_summary,
        GetSummaryRequest {
            start_time: stamp("2011-01-02T00:00:00"),
            end_time: stamp("2011-01-01T00:00:00")
        },
        InvalidArgument,
        "end_time is before start_time"
    );
    refused!(
        get_summary,
        GetSummaryRequest {
            start_time: Some(Timestamp {
                seconds: i64::MAX,
                nanos: 0
            })
        },
        InvalidArgument,
        "start_time is not an instant in the years 1 to 9999"
    );
    refused!(
        get_summary,
        GetSummaryRequest {
            end_time: Some(Timestamp {
                seconds: 0,
                nanos: -1
            })
        },
        InvalidArgument,
        "end_time is not an instant in the years 1 to 9999"
    );
    refused!(
        list_sales_trend,
        ListSalesTrendRequest { frequency: 9 },
        InvalidArgument,
        "frequency is 9, which is none"
    );
    refused!(
        list_sales_trend,
        ListSalesTrendRequest { page_size: -1 },
        InvalidArgument,
        "page_size is -1; it must not be negative"
    );
    refused!(
        list_top_products,
        ListTopProductsRequest { order: -1 },
        InvalidArgument,
        "order is -1, which is none"
    );
    refused!(
        list_cohort_retention,
        ListCohortRetentionRequest { frequency: 1 },
        InvalidArgument,
        "frequency is a day; a cohort's is a week or longer"
    );
    refused!(
        list_cohort_retention,
        ListCohortRetentionRequest { max_periods: 121 },
        InvalidArgument,
        "max_periods is 121; 120 is the most"
    );
    refused!(
        search_products,
        SearchProductsRequest {
            query: "x".repeat(201)
        },
        InvalidArgument,
        "query has 201 characters; 200 is the most"
    );
    refused!(
        get_customer_profile,
        GetCustomerProfileRequest {},
        InvalidArgument,
        "customer_id is empty"
    );
    refused!(
        get_customer_profile,
        GetCustomerProfileRequest {
            customer_id: "nobody".into()
        },
        NotFound,
        "customer `nobody` is not in the model"
    );
    refused!(
        list_customer_orders,
        ListCustomerOrdersRequest {
            customer_id: "nobody".into()
        },
        NotFound,
        "customer `nobody` is not in the model"
    );
    refused!(
        export_transactions,
        ExportTransactionsRequest { kinds: vec![1, 0] },
        InvalidArgument,
        "kinds[1] is 0, which is no kind of line"
    );
    refused!(
        export_transactions,
        ExportTransactionsRequest { format: 7 },
        InvalidArgument,
        "format is 7, which is none"
    );
    refused!(
        export_transactions,
        ExportTransactionsRequest {
            customer_ids: vec!["nobody".into()]
        },
        NotFound,
        "customer `nobody` is not in the model"
    );
    refused!(
        list_revenue_by_segment,
        ListRevenueBySegmentRequest {},
        Unavailable,
        "no segmentation model is loaded yet"
    );

    // A token is good for its filter and version alone.
    let request = pb::ListSalesByCountryRequest {
        page_size: 1,
        ..Default::default()
    };
    let token = client
        .list_sales_by_country(request)
        .await
        .unwrap()
        .into_inner()
        .next_page_token;
    refused!(
        list_sales_by_country,
        ListSalesByCountryRequest {
            page_token: token.clone(),
            countries: vec!["France".into()]
        },
        InvalidArgument,
        "page_token is not one that this list gave out"
    );
    store
        .publish(&artifact(&ROWS[..4]), DateTime::UNIX_EPOCH)
        .await
        .unwrap();
    for _ in 0..500 {
        let request = pb::ListSalesByCountryRequest {
            page_token: token.clone(),
            ..Default::default()
        };
        if let Err(status) = client.list_sales_by_country(request).await {
            assert_eq!(status.code(), Code::FailedPrecondition);
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the token of the version before is still taken");
}

async fn export(
    client: &mut InsightsServiceClient<Channel>,
    request: pb::ExportTransactionsRequest,
) -> (Vec<u8>, i64) {
    let mut pieces = client
        .export_transactions(request)
        .await
        .unwrap()
        .into_inner();
    let (mut data, mut rows) = (Vec::new(), 0);
    while let Some(piece) = pieces.message().await.unwrap() {
        assert!(
            piece.rows >= rows && piece.rows <= piece.total_rows && piece.data.len() <= 1 << 20
        );
        assert_eq!(piece.model.unwrap().name, "insights");
        data.extend(piece.data);
        rows = piece.rows;
    }
    (data, rows)
}

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::too_many_lines,
    reason = "one export, compared in both formats with the same rows"
)]
async fn an_export_is_one_file_of_either_format() {
    let Running { mut client, .. } = start(&ROWS).await;
    let request = pb::ExportTransactionsRequest {
        kinds: vec![1, 2, 3, 4],
        ..Default::default()
    };
    let (csv, rows) = export(&mut client, request.clone()).await;
    assert_eq!(rows, 8);
    let text = String::from_utf8(csv).unwrap();
    assert!(
        text.starts_with("line_id,invoice,stock_code,") && text.ends_with("\r\n"),
        "{text}"
    );
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let column = |at: usize| records.iter().map(|record| &record[at]).collect::<Vec<_>>();
    assert_eq!(
        column(1),
        [
            "536365", "536365", "536370", "536371", "C536379", "536380", "536381", "A1"
        ]
    );
    assert_eq!(records[2][3], *"ALARM CLOCK, \"PINK\"\nSMALL");
    assert_eq!(
        records[6].iter().collect::<Vec<_>>(),
        [
            "6",
            "536381",
            "=1+1",
            "PLAIN",
            "10",
            "2011-02-10 11:00:00",
            "0.1250",
            "13047",
            "France",
            "sale",
            "false",
            "1.25",
        ]
    );

    let request = pb::ExportTransactionsRequest {
        format: pb::ExportFormat::Parquet.into(),
        ..request
    };
    let (bytes, rows) = export(&mut client, request).await;
    assert_eq!(rows, 8);
    let table = Table::parse("export", bytes.into()).unwrap();
    let texts = |name: &str| {
        table
            .text(name)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(texts("invoice"), column(1));
    assert_eq!(
        table.int("line_total").unwrap(),
        [
            153_000, 180_000, 900_000, 306_000, -51_000, 37_500, 12_500, -110_000
        ]
    );
    assert_eq!(
        table.time("invoice_time").unwrap()[0],
        time("2010-12-01T08:26:00")
    );
    let customers = table.optional_text("customer_id").unwrap();
    assert_eq!(
        (customers[0].as_deref(), customers[3].as_deref()),
        (Some("17850"), None)
    );

    // Without `kinds` an export has the lines that make revenue; a file without lines is a file.
    let (_, rows) = export(&mut client, pb::ExportTransactionsRequest::default()).await;
    assert_eq!(rows, 6);
    for (format, head) in [(1, &b"line_id"[..]), (2, b"PAR1")] {
        let start_time = stamp("2020-01-01T00:00:00");
        let request = pb::ExportTransactionsRequest {
            start_time,
            format,
            ..Default::default()
        };
        let (data, rows) = export(&mut client, request).await;
        assert!(data.starts_with(head) && rows == 0, "{format}");
    }
    let request = pb::ExportTransactionsRequest {
        customer_ids: vec!["17850".into()],
        stock_codes: vec!["22728".into()],
        ..Default::default()
    };
    assert_eq!(export(&mut client, request).await.1, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_export_comes_in_pieces_and_waits_for_its_caller() {
    let rows: Vec<Row> = std::iter::repeat_n(ROWS[0], 150_000).collect();
    let Running {
        mut client, store, ..
    } = start(&rows).await;
    for format in [pb::ExportFormat::Csv, pb::ExportFormat::Parquet] {
        let request = pb::ExportTransactionsRequest {
            format: format.into(),
            ..Default::default()
        };
        let mut pieces = client
            .export_transactions(request)
            .await
            .unwrap()
            .into_inner();
        let first = pieces.message().await.unwrap().unwrap();
        assert!(
            first.rows < 150_000 && first.total_rows == 150_000,
            "{}",
            first.rows
        );
        // The file ends with the lines that it began with, whatever is published meanwhile.
        store
            .publish(&artifact(&ROWS), DateTime::UNIX_EPOCH)
            .await
            .unwrap();
        let (mut data, mut last) = (first.data, first.rows);
        while let Some(piece) = pieces.message().await.unwrap() {
            data.extend(piece.data);
            last = piece.rows;
        }
        assert_eq!(last, 150_000);
        match format {
            pb::ExportFormat::Parquet => {
                let file = SerializedFileReader::new(bytes::Bytes::from(data)).unwrap();
                assert_eq!(file.metadata().file_metadata().num_rows(), 150_000);
                assert_eq!(file.num_row_groups(), 3);
            }
            pb::ExportFormat::Csv | pb::ExportFormat::Unspecified => {
                assert_eq!(data.iter().filter(|byte| **byte == b'\n').count(), 150_001)
            }
        }
        store
            .publish(&artifact(&rows), DateTime::UNIX_EPOCH)
            .await
            .unwrap();
        for _ in 0..500 {
            let answer = client
                .get_summary(pb::GetSummaryRequest::default())
                .await
                .unwrap()
                .into_inner();
            if answer.sales.unwrap().transactions == 150_000 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
