//! Which column of a file holds which field.

use std::path::Path;

use super::parse::DateOrder;
use crate::error::LakeError;

/// Fields of a line.
pub(super) const LINE_FIELDS: usize = 8;
/// Fields read of a row: those of a line, then its id if the file has ids.
pub(super) const FIELDS: usize = LINE_FIELDS + 1;

/// Name, usual spellings of its column, and whether every file must have it, of each field.
const SPELLINGS: [(&str, &[&str], bool); FIELDS] = [
    (
        "invoice",
        &[
            "invoice",
            "invoiceno",
            "invoicenumber",
            "order",
            "orderid",
            "orderno",
        ],
        true,
    ),
    (
        "stock code",
        &[
            "stockcode",
            "sku",
            "productid",
            "productcode",
            "itemid",
            "item",
        ],
        true,
    ),
    (
        "description",
        &["description", "productname", "product", "name", "title"],
        false,
    ),
    ("quantity", &["quantity", "qty", "units"], true),
    (
        "invoice date",
        &[
            "invoicedate",
            "date",
            "datetime",
            "timestamp",
            "orderdate",
            "invoicetime",
        ],
        true,
    ),
    ("unit price", &["unitprice", "price"], true),
    (
        "customer id",
        &["customerid", "customer", "userid", "clientid"],
        true,
    ),
    ("country", &["country", "region", "market"], false),
    ("line id", &["lineid"], false),
];

/// The column of each field in a file; `None`: it has no such column.
pub(super) type Places = [Option<usize>; FIELDS];

/// Names of columns with unusual names, and how their dates are written.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ColumnMapping {
    invoice: Option<String>,
    stock_code: Option<String>,
    description: Option<String>,
    quantity: Option<String>,
    invoice_date: Option<String>,
    unit_price: Option<String>,
    customer_id: Option<String>,
    country: Option<String>,
    pub(super) date_order: Option<DateOrder>,
}

impl ColumnMapping {
    /// Reads a TOML file such as `invoice = "Order"`.
    ///
    /// # Errors
    /// [`LakeError::Mapping`].
    pub fn read(path: &Path) -> Result<Self, LakeError> {
        let mapping = |reason: String| LakeError::Mapping {
            path: path.to_owned(),
            reason,
        };
        let text = std::fs::read_to_string(path).map_err(|e| mapping(e.to_string()))?;
        toml::from_str(&text).map_err(|e| mapping(e.message().to_owned()))
    }
}

/// How columns are found: by their mapped names, or else by their usual spellings.
pub(super) struct Columns([Option<String>; FIELDS]);

impl Columns {
    pub(super) fn new(mapping: Option<&ColumnMapping>) -> Self {
        let m = mapping.cloned().unwrap_or_default();
        Self([
            m.invoice,
            m.stock_code,
            m.description,
            m.quantity,
            m.invoice_date,
            m.unit_price,
            m.customer_id,
            m.country,
            None,
        ])
    }

    pub(super) fn find(&self, path: &Path, header: &[String]) -> Result<Places, LakeError> {
        let mut places = Places::default();
        let mut missing = Vec::new();
        for (field, (name, spellings, needed)) in SPELLINGS.iter().enumerate() {
            let mapped = self.0.get(field).and_then(Option::as_deref);
            let found = match mapped {
                Some(mapped) => header.iter().position(|column| column == mapped),
                None => place(header, spellings),
            };
            if found.is_none() && (*needed || mapped.is_some()) {
                missing.push(*name);
            }
            if let Some(slot) = places.get_mut(field) {
                *slot = found;
            }
        }
        if missing.is_empty() {
            return Ok(places);
        }
        let found = header.iter().map(|column| format!("`{column}`")).collect();
        Err(LakeError::MissingColumns {
            path: path.to_owned(),
            missing,
            found,
        })
    }
}

/// The index of a column in a header. A name of a field, such as `customer_id`, matches all of that
/// field's usual spellings.
pub fn place_of(header: &[String], name: &str) -> Option<usize> {
    let name = plain(name);
    let own = [name.as_str()];
    let usual = SPELLINGS
        .iter()
        .map(|(_, spellings, _)| *spellings)
        .find(|spellings| spellings.contains(&own[0]));
    place(header, usual.unwrap_or(&own))
}

/// The first spelling wins, not the first column: `Invoice` before `Order` if a file has both.
fn place(header: &[String], spellings: &[&str]) -> Option<usize> {
    spellings
        .iter()
        .find_map(|spelling| header.iter().position(|column| plain(column) == *spelling))
}

/// Only letters and digits, in lower case.
fn plain(name: &str) -> String {
    name.chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(header: &str) -> Result<Places, LakeError> {
        let header: Vec<_> = header.split(',').map(str::to_owned).collect();
        Columns::new(None).find(Path::new("x.csv"), &header)
    }

    #[test]
    fn the_published_layouts_and_usual_spellings_are_known() {
        let all = [
            Some(0),
            Some(1),
            Some(2),
            Some(3),
            Some(4),
            Some(5),
            Some(6),
            Some(7),
            None,
        ];
        for header in [
            "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country",
            "Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID,Country",
            "invoice_no,stock code,DESCRIPTION,qty,invoice-date,unit_price,customer_id,country",
        ] {
            assert_eq!(find(header).unwrap(), all, "{header}");
        }
    }

    #[test]
    fn a_column_has_any_of_the_usual_spellings() {
        struct Case {
            header: &'static str,
            name: &'static str,
            place: Option<usize>,
        }
        let case = |header, name, place| Case {
            header,
            name,
            place,
        };
        for Case {
            header,
            name,
            place,
        } in [
            case("x,CustomerID", "customer_id", Some(1)),
            case("\u{feff}Customer ID,x", "customer_id", Some(0)),
            case("user_id", "customer_id", Some(0)),
            case("SeriesId", "series_id", Some(0)),
            case("customer_id", "series_id", None),
        ] {
            let header: Vec<_> = header.split(',').map(str::to_owned).collect();
            assert_eq!(place_of(&header, name), place, "{header:?}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = find("InvoiceNo,Quantity,Country").unwrap_err().to_string();
        assert!(
            error.starts_with(
                "x.csv has no column for stock code, invoice date, unit price, customer id"
            ),
            "{error}"
        );
        assert!(
            error.contains("`InvoiceNo`, `Quantity`, `Country`"),
            "{error}"
        );
    }
}
