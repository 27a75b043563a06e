//! What a recommendation costs that training has not found: `cargo bench -p scoring --bench
//! recommendation`.
//!
//! The shops are synthetic: `n` products with 64 factors, each with 30 links by taste and 10 by
//! order, and two rankers of 150 trees of depth 4. The customer has bought a hundred products, or
//! has ten in the basket, or the request is for similar products. The answer has ten. One core.
#![expect(clippy::print_stdout, reason = "what was measured is the output")]

mod draw;

use std::{hint::black_box, sync::Arc, time::Instant};

use parquet::{
    basic::{LogicalType, Repetition, Type as Physical},
    column::writer::{ColumnWriter, ColumnWriterImpl},
    data_type::{ByteArray, DataType},
    errors::ParquetError,
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::types::Type,
};
use scoring::{
    Artifact, Forest, Model, ModelKind, TensorFile,
    recommendation::{HALF_LIVES, Parameters, Query, RecommendationModel, WIDTH, WINDOWS, column},
};

use draw::Draw;

const FACTORS: usize = 64;
const TASTE: usize = 30;
const TOGETHER: usize = 10;
const TREES: usize = 150;
const DEPTH: u32 = 4;
const HELD: usize = 100;
const BASKET: usize = 10;
const LIMIT: usize = 10;
/// Distance between the rows of products that the customer has bought.
const APART: usize = 997;

type Done<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Done<()> {
    println!(
        "{:>10} {:>16} {:>16} {:>16}",
        "products", "customer, µs", "basket, µs", "similar, µs"
    );
    for products in [4_000, 100_000, 1_000_000] {
        let model = shop(products)?;
        let customer = Query {
            customer: Some(0),
            limit: LIMIT,
            ..Query::default()
        };
        let basket = (0..BASKET).map(|at| at * APART % products).collect();
        let basket = Query {
            basket,
            limit: LIMIT,
            ..Query::default()
        };
        let customer = median(|| model.recommend(&customer).len());
        let basket = median(|| model.recommend(&basket).len());
        let similar = median(|| model.similar(products / 2, LIMIT).len());
        println!("{products:>10} {customer:>16.0} {basket:>16.0} {similar:>16.0}");
    }
    Ok(())
}

/// Median time of a question that finds [`LIMIT`], µs.
fn median(ask: impl Fn() -> usize) -> f64 {
    let mut times: Vec<f64> = (0..101)
        .map(|_| {
            let start = Instant::now();
            assert_eq!(black_box(ask()), LIMIT, "found");
            1e6 * start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

#[expect(
    clippy::too_many_lines,
    reason = "one file of a made-up model after another, all from the same random numbers"
)]
fn shop(products: usize) -> Done<RecommendationModel> {
    let mut draw = Draw(1);
    let mut factors = |rows: usize| {
        (0..rows * FACTORS)
            .map(|_| draw.below(1000) as f32 / 1000.0 - 0.5)
            .collect::<Vec<_>>()
    };
    let (product, customer) = (factors(products), factors(1));
    let mut tensors = TensorFile::new();
    for (name, rows) in [("product", &product), ("customer", &customer)] {
        tensors = tensors.with(name, &[rows.len() / FACTORS, FACTORS], rows);
    }
    for (name, each) in [("taste", TASTE), ("together", TOGETHER), ("words", 0)] {
        let start: Vec<u32> = (0..=products).map(|row| (row * each) as u32).collect();
        let other: Vec<u32> = (0..products * each)
            .map(|_| draw.below(products) as u32)
            .collect();
        let weight: Vec<f32> = other
            .iter()
            .map(|_| (1 + draw.below(100)) as f32 / 100.0)
            .collect();
        tensors = tensors
            .with(&format!("{name}.start"), &[products + 1], &start)
            .with(&format!("{name}.other"), &[other.len()], &other)
            .with(&format!("{name}.weight"), &[weight.len()], &weight);
    }
    let inner = (1 << DEPTH) - 1;
    let features: Vec<i32> = (0..TREES * inner)
        .map(|_| draw.below(WIDTH) as i32)
        .collect();
    let thresholds: Vec<f32> = features
        .iter()
        .map(|_| draw.below(100) as f32 / 50.0)
        .collect();
    let values: Vec<f32> = (0..TREES * (2 * inner + 1))
        .map(|_| draw.below(100) as f32 / 1000.0)
        .collect();
    let ranker = Forest::new(WIDTH, DEPTH, &features, &thresholds, &values)?;
    let tensors = ranker.write(ranker.write(tensors, "next."), "new.");

    let floats = |rows: usize, least: usize, draw: &mut Draw| {
        Column::Floats(
            (0..rows)
                .map(|_| (least + draw.below(100)) as f64)
                .collect(),
        )
    };
    let names = |stem: &str, rows: usize| {
        Column::Texts((0..rows).map(|row| format!("{stem}{row}")).collect())
    };
    let of_products = |draw: &mut Draw| {
        let mut columns = vec![("stock_code".into(), names("P", products))];
        for name in [
            "price",
            "quantity",
            "days",
            "first_days",
            "repeats",
            "repeat_share",
        ] {
            columns.push((name.to_owned(), floats(products, 1, draw)));
        }
        columns.push(("description".into(), names("product ", products)));
        columns
            .extend((0..WINDOWS.len()).map(|at| (column("buyers", at), floats(products, 0, draw))));
        columns
    };
    let of_customers = |draw: &mut Draw| {
        let mut columns = vec![("customer_id".into(), names("C", 1))];
        for name in ["orders", "recency_days", "tenure_days", "price", "quantity"] {
            columns.push((name.to_owned(), floats(1, 1, draw)));
        }
        columns
    };
    let of_interactions = |draw: &mut Draw| {
        let held = (0..HELD).map(|at| (at * APART % products) as i64).collect();
        let mut columns = vec![
            ("customer".into(), Column::Ints(vec![0; HELD])),
            ("product".into(), Column::Ints(held)),
        ];
        for name in ["purchases", "quantity", "days", "first_days"] {
            columns.push((name.to_owned(), floats(HELD, 1, draw)));
        }
        columns
            .extend((0..HALF_LIVES.len()).map(|at| (column("fresh", at), floats(HELD, 1, draw))));
        columns
    };
    let of_rules =
        ["product", "other", "orders"].map(|name| (name.to_owned(), Column::Ints(vec![])));
    let shares =
        ["support", "confidence", "lift"].map(|name| (name.to_owned(), Column::Floats(vec![])));

    let artifact = Artifact::builder(
        ModelKind::Recommendation,
        "ranked",
        chrono::NaiveDateTime::default(),
        1,
    )
    .parameters(&Parameters {
        unobserved: 1.0,
        lambda: 0.003,
        ranked: true,
    })?
    .file("model.safetensors", tensors.into_bytes()?)
    .file("products.parquet", table(&of_products(&mut draw))?)
    .file("customers.parquet", table(&of_customers(&mut draw))?)
    .file("interactions.parquet", table(&of_interactions(&mut draw))?)
    .file(
        "rules.parquet",
        table(&of_rules.into_iter().chain(shares).collect::<Vec<_>>())?,
    );
    Ok(RecommendationModel::load(&artifact.finish())?)
}

enum Column {
    Texts(Vec<String>),
    Ints(Vec<i64>),
    Floats(Vec<f64>),
}

/// A Parquet file of these columns.
fn table(columns: &[(String, Column)]) -> Result<Vec<u8>, ParquetError> {
    let fields = columns.iter().map(|(name, column)| {
        let (physical, logical) = match column {
            Column::Texts(_) => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            Column::Ints(_) => (Physical::INT64, None),
            Column::Floats(_) => (Physical::DOUBLE, None),
        };
        let field =
            Type::primitive_type_builder(name, physical).with_repetition(Repetition::REQUIRED);
        field.with_logical_type(logical).build().map(Arc::new)
    });
    let schema = Type::group_type_builder("schema")
        .with_fields(fields.collect::<Result<_, _>>()?)
        .build()?;
    let mut file = SerializedFileWriter::new(
        Vec::new(),
        Arc::new(schema),
        Arc::new(WriterProperties::default()),
    )?;
    let mut group = file.next_row_group()?;
    for (name, column) in columns {
        let Some(mut writer) = group.next_column()? else {
            break;
        };
        match (column, writer.untyped()) {
            (Column::Texts(texts), ColumnWriter::ByteArrayColumnWriter(writer)) => {
                put(
                    writer,
                    &texts
                        .iter()
                        .map(|text| ByteArray::from(text.as_str()))
                        .collect::<Vec<_>>(),
                )?;
            }
            (Column::Ints(values), ColumnWriter::Int64ColumnWriter(writer)) => put(writer, values)?,
            (Column::Floats(values), ColumnWriter::DoubleColumnWriter(writer)) => {
                put(writer, values)?
            }
            (Column::Texts(_) | Column::Ints(_) | Column::Floats(_), _) => {
                return Err(ParquetError::General(format!("{name} is not of its type")));
            }
        }
        writer.close()?;
    }
    group.close()?;
    file.into_inner()
}

fn put<D: DataType>(
    writer: &mut ColumnWriterImpl<'_, D>,
    values: &[D::T],
) -> Result<(), ParquetError> {
    writer.write_batch(values, None, None).map(drop)
}
