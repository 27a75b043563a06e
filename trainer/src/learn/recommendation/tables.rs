//! The tables of the model.

use polars::prelude::{Column, DataFrame};
use scoring::recommendation::{HALF_LIVES, WINDOWS, column as numbered};

use super::{
    matrix::Matrix,
    rules::{Rule, rules},
};
use crate::{
    columns::column,
    learn::{LearnError, lines::Lines},
};

/// A column of a value of each item.
fn of<T, V>(name: &str, items: &[T], value: impl Fn(&T) -> V) -> Column
where
    polars::prelude::Series: polars::prelude::NamedFrom<Vec<V>, [V]>,
{
    column(name, items.iter().map(value))
}

pub(super) fn products(lines: &Lines, matrix: &Matrix) -> Result<DataFrame, LearnError> {
    let standings = &matrix.standings;
    let mut columns = vec![
        of("stock_code", &matrix.products, |product| {
            lines.products.name(*product)
        }),
        of("description", &matrix.products, |product| {
            lines.descriptions[*product as usize].as_deref()
        }),
        of("price", standings, |standing| standing.price),
        of("quantity", standings, |standing| standing.quantity),
        of("days", standings, |standing| standing.days),
        of("first_days", standings, |standing| standing.first_days),
        of("repeats", standings, |standing| standing.repeats),
        of("repeat_share", standings, |standing| standing.repeat_share),
    ];
    for at in 0..WINDOWS.len() {
        let name = numbered("buyers", at);
        columns.push(of(&name, standings, |standing| standing.buyers[at]));
    }
    Ok(DataFrame::new_infer_height(columns)?)
}

pub(super) fn customers(lines: &Lines, matrix: &Matrix) -> Result<DataFrame, LearnError> {
    let shoppers = &matrix.shoppers;
    Ok(DataFrame::new_infer_height(vec![
        of("customer_id", &matrix.customers, |customer| {
            lines.customers.name(*customer)
        }),
        of("orders", shoppers, |shopper| shopper.orders),
        of("recency_days", shoppers, |shopper| shopper.recency_days),
        of("tenure_days", shoppers, |shopper| shopper.tenure_days),
        of("price", shoppers, |shopper| shopper.price),
        of("quantity", shoppers, |shopper| shopper.quantity),
    ])?)
}

pub(super) fn interactions(matrix: &Matrix) -> Result<DataFrame, LearnError> {
    let cells = &matrix.cells;
    let mut columns = vec![
        of("customer", cells, |(customer, _)| *customer as i64),
        of("product", cells, |(_, held)| held.product as i64),
        of("purchases", cells, |(_, held)| held.purchases),
        of("days", cells, |(_, held)| held.days),
        of("first_days", cells, |(_, held)| held.first_days),
        of("quantity", cells, |(_, held)| held.quantity),
    ];
    for at in 0..HALF_LIVES.len() {
        let name = numbered("fresh", at);
        columns.push(of(&name, cells, |(_, held)| held.fresh[at]));
    }
    Ok(DataFrame::new_infer_height(columns)?)
}

pub(super) fn association_rules(matrix: &Matrix) -> Result<DataFrame, LearnError> {
    let rules = rules(&matrix.orders, matrix.products.len());
    let int = |name: &str, value: fn(&Rule) -> u32| of(name, &rules, |rule| i64::from(value(rule)));
    Ok(DataFrame::new_infer_height(vec![
        int("product", |rule| rule.product),
        int("other", |rule| rule.other),
        int("orders", |rule| rule.orders),
        of("support", &rules, |rule| rule.support),
        of("confidence", &rules, |rule| rule.confidence),
        of("lift", &rules, |rule| rule.lift),
    ])?)
}
