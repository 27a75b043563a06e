//! A row as a line: its fields typed, its kind derived, or the reason why not.

use std::collections::HashSet;

use chrono::NaiveDateTime;
use transactions::{CustomerId, InvoiceNumber, LineKind, Money, StockCode};

use super::{
    columns::FIELDS,
    options::IngestOptions,
    parse::{self, DateOrder},
};

/// The largest total of a line that is accepted, in ten-thousandths, plus one.
const TOTAL_LIMIT: i64 = 1_000_000_000_000_000_000;

/// The country of a line without one.
const NO_COUNTRY: &str = "Unspecified";

/// Marks the reason of a date that is valid only with day and month exchanged; the other order's
/// name follows.
pub(super) const EXCHANGED: &str = "is --date-order";

/// Why a row is in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The field at fault.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

impl Rejection {
    /// The rejection of a field for its content, or for having none.
    fn of(field: &'static str, content: &str, problem: &str) -> Self {
        let reason = match content.trim() {
            "" => "is missing".to_owned(),
            content => format!("{problem} `{content}`"),
        };
        Self { field, reason }
    }
}

/// How the fields of a row are read.
pub(super) struct Rules {
    /// In capitals.
    service_codes: HashSet<String>,
    pub(super) date_order: DateOrder,
    /// Whether the user chose the order of dates.
    pub(super) date_order_is_given: bool,
}

impl Rules {
    pub(super) fn of(options: &IngestOptions) -> Self {
        let mapping = options.mapping.as_ref();
        let date_order = options
            .date_order
            .or_else(|| mapping.and_then(|mapping| mapping.date_order));
        let service_codes = options.service_codes.iter();
        Self {
            service_codes: service_codes
                .map(|code| code.to_ascii_uppercase())
                .collect(),
            date_order: date_order.unwrap_or_default(),
            date_order_is_given: date_order.is_some(),
        }
    }

    /// What a line is, decided in this order: by the letter of the invoice, by the stock code, by
    /// the signs of quantity and price.
    fn kind(&self, invoice: &str, stock_code: &str, quantity: i64, price: Money) -> LineKind {
        let starts_with = |letter: char| {
            invoice.starts_with(letter) || invoice.starts_with(letter.to_ascii_lowercase())
        };
        if starts_with('A') {
            LineKind::Adjustment
        } else if starts_with('C') {
            LineKind::Cancellation
        } else if self
            .service_codes
            .contains(&stock_code.to_ascii_uppercase())
        {
            LineKind::Service
        } else if quantity <= 0 || price <= Money::ZERO {
            LineKind::Adjustment
        } else {
            LineKind::Sale
        }
    }
}

/// A row that was accepted.
pub(super) struct AcceptedLine {
    pub(super) invoice: String,
    pub(super) stock_code: String,
    pub(super) description: Option<String>,
    pub(super) quantity: i64,
    pub(super) time: NaiveDateTime,
    pub(super) price: Money,
    /// Whether digits of the price beyond the fourth decimal place were rounded away.
    pub(super) price_was_rounded: bool,
    pub(super) customer: Option<String>,
    pub(super) country: String,
    pub(super) kind: LineKind,
    pub(super) is_duplicate: bool,
}

impl AcceptedLine {
    /// Reads a row; `is_duplicate` is left false.
    pub(super) fn parse(fields: &[String; FIELDS], rules: &Rules) -> Result<Self, Rejection> {
        let [
            invoice,
            stock_code,
            description,
            quantity,
            time,
            price,
            customer,
            country,
            _,
        ] = fields;
        let code = |field, written: &str, canonical: fn(&str) -> &str| match canonical(written) {
            "" => Err(Rejection::of(field, written, "")),
            code => Ok(code.to_owned()),
        };
        let line = Self {
            invoice: code("invoice", invoice, InvoiceNumber::canonical)?,
            stock_code: code("stock code", stock_code, StockCode::canonical)?,
            description: non_empty(description).map(str::to_owned),
            quantity: parse::quantity(quantity)
                .ok_or_else(|| Rejection::of("quantity", quantity, "is no whole number:"))?,
            time: time_of(time, rules.date_order)?,
            price: Money::ZERO,
            price_was_rounded: false,
            customer: non_empty(CustomerId::canonical(customer)).map(str::to_owned),
            country: non_empty(country).unwrap_or(NO_COUNTRY).to_owned(),
            kind: LineKind::Sale,
            is_duplicate: false,
        };
        let (price_of_one, price_was_rounded) = parse::price(price)
            .ok_or_else(|| Rejection::of("unit price", price, "is no price:"))?;
        let total = price_of_one.checked_mul(line.quantity);
        let size = total.and_then(Money::checked_abs);
        if size.is_none_or(|size| size.ten_thousandths() >= TOTAL_LIMIT) {
            let both = format!("{} times {}", quantity.trim(), price.trim());
            return Err(Rejection::of("line total", &both, "is too large:"));
        }
        let kind = rules.kind(&line.invoice, &line.stock_code, line.quantity, price_of_one);
        if kind == LineKind::Cancellation && line.quantity > 0 {
            let problem = "is above 0 in a cancellation:";
            return Err(Rejection::of("quantity", quantity, problem));
        }
        if kind == LineKind::Cancellation && price_of_one < Money::ZERO {
            let problem = "is below 0 in a cancellation:";
            return Err(Rejection::of("unit price", price, problem));
        }
        Ok(Self {
            price: price_of_one,
            price_was_rounded,
            kind,
            ..line
        })
    }

    /// Quantity times price; [`AcceptedLine::parse`] checked that it fits.
    pub(super) fn total(&self) -> Money {
        self.price * self.quantity
    }
}

fn non_empty(text: &str) -> Option<&str> {
    Some(text.trim()).filter(|text| !text.is_empty())
}

fn time_of(text: &str, order: DateOrder) -> Result<NaiveDateTime, Rejection> {
    parse::time(text, order).ok_or_else(|| {
        let problem = match parse::time(text, order.other()) {
            None => "is no date:".to_owned(),
            Some(_) => {
                let [read, other] = [order, order.other()].map(DateOrder::first);
                format!("is no date with the {read} first; {EXCHANGED} {other}-first meant?")
            }
        };
        Rejection::of("invoice date", text, &problem)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        invoice: &'static str,
        stock_code: &'static str,
        quantity: i64,
        price: i64,
        kind: LineKind,
    }

    fn case(
        (invoice, stock_code): (&'static str, &'static str),
        (quantity, price): (i64, i64),
        kind: LineKind,
    ) -> Case {
        Case {
            invoice,
            stock_code,
            quantity,
            price,
            kind,
        }
    }

    #[test]
    fn the_kind_of_a_line_follows_from_its_invoice_code_and_signs() {
        let rules = Rules::of(&IngestOptions::default());
        for Case {
            invoice,
            stock_code,
            quantity,
            price,
            kind,
        } in [
            case(("536365", "85123A"), (6, 25_500), LineKind::Sale),
            case(("C536379", "85123A"), (-1, 25_500), LineKind::Cancellation),
            case(("C536379", "M"), (-1, 25_500), LineKind::Cancellation),
            case(("A563186", "B"), (1, -110_620_600), LineKind::Adjustment),
            case(("536365", "POST"), (1, 180_000), LineKind::Service),
            case(("536365", "m"), (1, 180_000), LineKind::Service),
            case(("536365", "85123A"), (-6, 0), LineKind::Adjustment),
            case(("536365", "85123A"), (6, 0), LineKind::Adjustment),
        ] {
            let price = Money::from_ten_thousandths(price);
            let found = rules.kind(invoice, stock_code, quantity, price);
            assert_eq!(found, kind, "{invoice} {stock_code}");
        }
    }
}
