//! The lines in columns, checked, and the sums that are computed when they are loaded.

use std::ops::Range;

use transactions::Money;

use super::{
    calendar::Frequency,
    codes::{CANCELLATION, DUPLICATE, KIND, NONE, SALE},
    files,
    sums::{Sales, Sums},
};
use crate::{
    Artifact, ModelError,
    artifact::columns::{ColumnFile, Names},
    csr::Rows,
};

/// Instants that a protobuf Timestamp can hold, microseconds: the years 1 to 9999.
pub(super) const TIMES: Range<i64> = -62_135_596_800_000_000..253_402_300_800_000_000;

/// A shop's lines before an instant, and what is added up of them.
#[derive(Debug)]
pub struct Shop {
    pub(super) countries: Names,
    pub(super) customers: Names,
    pub(super) products: Names,
    pub(super) descriptions: Names,
    pub(super) invoices: Names,
    /// What each product is called.
    pub(super) product_description: Vec<u32>,
    pub(super) receipts: Receipts,
    pub(super) lines: Lines,
    /// Receipts of each customer, in order.
    pub(super) by_customer: Rows<u32>,
    /// Receipts of each country, in order.
    pub(super) by_country: Rows<u32>,
    /// Receipts that have a line of each product, in order.
    pub(super) by_product: Rows<u32>,
    /// Each customer's first receipt that sold something.
    pub(super) first_receipt: Vec<u32>,
    pub(super) cube: Cube,
    /// All that was ever sold of each product.
    pub(super) product_sums: Vec<Sums>,
    /// All that was ever sold to each country.
    pub(super) country_sums: Vec<Sums>,
    /// What is searched for products: code and description, lower case.
    pub(super) product_text: Vec<Box<str>>,
    /// The figures of everything.
    pub(super) whole: Sales,
}

/// Lines of one invoice, instant, customer and country; in order of time.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    /// Microseconds since 1970.
    pub(super) time: Vec<i64>,
    pub(super) invoice: Vec<u32>,
    /// [`NONE`] if the line names no customer.
    pub(super) customer: Vec<u32>,
    pub(super) country: Vec<u16>,
    /// First line of each, and the number of all lines at the end.
    pub(super) first: Vec<u32>,
    pub(super) sums: Vec<Sums>,
}

/// Lines, in order of their receipts.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) id: Vec<u32>,
    pub(super) product: Vec<u32>,
    pub(super) description: Vec<u32>,
    pub(super) quantity: Vec<i32>,
    pub(super) unit_price: Vec<Money>,
    pub(super) kind: Vec<u8>,
}

/// What a product came to in a country and a month.
#[derive(Debug, Clone, Copy)]
pub(super) struct CubeCell {
    pub(super) product: u32,
    pub(super) sums: Sums,
}

/// Products by month and country.
#[derive(Debug, Default)]
pub(super) struct Cube {
    /// Receipts of each month that has any, in order of time.
    pub(super) months: Vec<Range<usize>>,
    /// By month, then country.
    cells: Rows<CubeCell>,
    countries: usize,
}

impl Cube {
    pub(super) fn cells(&self, month: usize, country: usize) -> &[CubeCell] {
        self.cells.row(month * self.countries + country)
    }
}

impl Shop {
    #[expect(
        clippy::too_many_lines,
        reason = "one index after another, each built from those before it"
    )]
    pub(super) fn load(artifact: &Artifact) -> Result<Self, ModelError> {
        let open = |name: &str| ColumnFile::parse(name, artifact.file(name)?.clone());
        let names = |file: &str, column: &str| open(file)?.names(column);
        let countries = names(files::COUNTRIES, "country")?;
        let customers = names(files::CUSTOMERS, "customer_id")?;
        let descriptions = names(files::DESCRIPTIONS, "description")?;
        let invoices = names(files::INVOICES, "invoice")?;
        let file = open(files::PRODUCTS)?;
        let products = file.names("stock_code")?;
        let product_description = codes(&file, "description", &descriptions, true)?;

        let lines = Lines::read(&open(files::LINES)?, &products, &descriptions)?;
        let file = open(files::RECEIPTS)?;
        let receipts = Receipts::read(&file, [&invoices, &customers, &countries], &lines)?;

        let known = |customer: &u32| (*customer != NONE).then_some(*customer);
        let by_customer = Rows::of_numbers(customers.len(), receipts.customer.iter().map(known));
        let country = |country: &u16| Some((*country).into());
        let by_country = Rows::of_numbers(countries.len(), receipts.country.iter().map(country));
        let by_product = by_product(&receipts, &lines, products.len());
        let mut country_sums = vec![Sums::default(); countries.len()];
        for (country, sums) in receipts.country.iter().zip(&receipts.sums) {
            country_sums[usize::from(*country)].add(sums);
        }
        let first_sale = |customer: usize| {
            let mut of_customer = by_customer.row(customer).iter().copied();
            of_customer.find(|receipt| receipts.sums[*receipt as usize].sold())
        };
        let first_receipt =
            (0..customers.len()).map(|customer| first_sale(customer).unwrap_or(NONE));
        let first_receipt = first_receipt.collect();
        let cube = cube(
            &receipts,
            &lines,
            &by_country,
            countries.len(),
            products.len(),
        );
        let mut product_sums = vec![Sums::default(); products.len()];
        for cell in cube.cells.items() {
            product_sums[cell.product as usize].add(&cell.sums);
        }
        let text = |(product, description): (usize, &u32)| {
            let text = format!(
                "{} {}",
                products.get(product as u32),
                descriptions.get(*description)
            );
            text.to_lowercase().into_boxed_str()
        };
        let product_text = product_description.iter().enumerate().map(text).collect();
        Ok(Self {
            countries,
            customers,
            products,
            descriptions,
            invoices,
            product_description,
            receipts,
            lines,
            by_customer,
            by_country,
            by_product,
            first_receipt,
            cube,
            product_sums,
            country_sums,
            product_text,
            whole: Sales::default(),
        })
    }

    /// The names of countries, in order.
    pub fn countries(&self) -> &Names {
        &self.countries
    }

    /// The names of customers, in order.
    pub fn customers(&self) -> &Names {
        &self.customers
    }

    /// The names of products, in order.
    pub fn products_by_name(&self) -> &Names {
        &self.products
    }

    /// The names of invoices, in order.
    pub fn invoices(&self) -> &Names {
        &self.invoices
    }

    /// The usual description of a product; empty if no line has one.
    pub fn description(&self, product: u32) -> &str {
        match self.product_description.get(product as usize) {
            Some(description) if *description != NONE => self.descriptions.get(*description),
            Some(_) | None => "",
        }
    }

    /// All that was ever sold of a product.
    pub fn product(&self, product: u32) -> Sums {
        self.product_sums
            .get(product as usize)
            .copied()
            .unwrap_or_default()
    }

    /// Time of the first and the last line, microseconds since 1970.
    pub fn span(&self) -> Option<(i64, i64)> {
        self.receipts
            .time
            .first()
            .copied()
            .zip(self.receipts.time.last().copied())
    }

    /// Number of lines, receipts, and cells of the cube.
    pub fn size(&self) -> [usize; 3] {
        [
            self.lines.id.len(),
            self.receipts.time.len(),
            self.cube.cells.items().len(),
        ]
    }

    /// Memory in use, bytes.
    pub fn bytes(&self) -> usize {
        fn of<T>(column: &Vec<T>) -> usize {
            column.capacity() * size_of::<T>()
        }
        let Lines {
            id,
            product,
            description,
            quantity,
            unit_price,
            kind,
        } = &self.lines;
        let lines =
            of(id) + of(product) + of(description) + of(quantity) + of(unit_price) + of(kind);
        let Receipts {
            time,
            invoice,
            customer,
            country,
            first,
            sums,
        } = &self.receipts;
        let receipts = of(time) + of(invoice) + of(customer) + of(country) + of(first) + of(sums);
        let names = [
            &self.countries,
            &self.customers,
            &self.products,
            &self.descriptions,
            &self.invoices,
        ];
        let names: usize = names.iter().map(|names| names.bytes()).sum();
        let cube = of(&self.cube.months) + self.cube.cells.bytes();
        let products = of(&self.product_description)
            + of(&self.product_sums)
            + of(&self.country_sums)
            + self
                .product_text
                .iter()
                .map(|text| text.len() + size_of::<Box<str>>())
                .sum::<usize>();
        let groups = [&self.by_customer, &self.by_country, &self.by_product];
        let groups =
            groups.iter().map(|groups| groups.bytes()).sum::<usize>() + of(&self.first_receipt);
        lines + receipts + names + cube + products + groups
    }
}

/// Numbers of names; -1 is [`NONE`], if `or_none` allows it.
fn codes(
    file: &ColumnFile,
    column: &'static str,
    names: &Names,
    or_none: bool,
) -> Result<Vec<u32>, ModelError> {
    let found: Vec<i32> = file.numbers(column)?;
    let number = |code: i32| match u32::try_from(code) {
        Ok(number) if (number as usize) < names.len() => Ok(number),
        Err(_) if code == -1 && or_none => Ok(NONE),
        Ok(_) | Err(_) => Err(ModelError::inconsistent(
            column,
            format!("is {code}, of {} names", names.len()),
        )),
    };
    found.into_iter().map(number).collect()
}

impl Receipts {
    fn read(
        file: &ColumnFile,
        [invoices, customers, countries]: [&Names; 3],
        lines: &Lines,
    ) -> Result<Self, ModelError> {
        // Countries are kept as u16: `codes` refuses a number that no country has.
        codes(file, "country", countries, false)?;
        let mut receipts = Self {
            time: file.numbers("time")?,
            invoice: codes(file, "invoice", invoices, false)?,
            customer: codes(file, "customer", customers, true)?,
            country: file.numbers("country")?,
            first: first_lines(file, lines.id.len())?,
            sums: Vec::new(),
        };
        if !receipts.time.is_sorted() || receipts.time.iter().any(|time| !TIMES.contains(time)) {
            return Err(ModelError::inconsistent(
                "time",
                "is not in order, or not in the years 1 to 9999",
            ));
        }
        receipts.sums = (0..receipts.time.len())
            .map(|at| lines.sums(receipts.lines(at), |_| true))
            .collect();
        Ok(receipts)
    }

    /// The lines of a receipt.
    pub(super) fn lines(&self, receipt: usize) -> Range<usize> {
        self.first[receipt] as usize..self.first[receipt + 1] as usize
    }
}

/// First line of each receipt, and the number of all lines at the end.
fn first_lines(receipts: &ColumnFile, lines: usize) -> Result<Vec<u32>, ModelError> {
    let counts: Vec<u32> = receipts.numbers("lines")?;
    let (mut first, mut next) = (vec![0], 0_u32);
    for count in counts {
        next = next
            .checked_add(count)
            .ok_or_else(|| ModelError::inconsistent("lines", "are too many"))?;
        first.push(next);
    }
    match next as usize == lines {
        true => Ok(first),
        false => Err(ModelError::inconsistent(
            "lines",
            format!("are {lines} lines, and {next} by their receipts"),
        )),
    }
}

impl Lines {
    fn read(file: &ColumnFile, products: &Names, descriptions: &Names) -> Result<Self, ModelError> {
        let prices: Vec<i64> = file.numbers("unit_price")?;
        let prices = prices.into_iter().map(Money::from_ten_thousandths);
        let lines = Self {
            id: file.numbers("line_id")?,
            product: codes(file, "product", products, false)?,
            description: codes(file, "description", descriptions, true)?,
            quantity: file.numbers("quantity")?,
            unit_price: prices.collect(),
            kind: file.numbers("kind")?,
        };
        lines.check()?;
        Ok(lines)
    }

    /// What adding up relies on: no sum of any lines is beyond an i64, and a sale has at least one
    /// unit.
    fn check(&self) -> Result<(), ModelError> {
        let mut total = 0_u64;
        for ((kind, quantity), unit_price) in
            self.kind.iter().zip(&self.quantity).zip(&self.unit_price)
        {
            let amount = unit_price
                .checked_mul(i64::from(*quantity))
                .map(|amount| amount.ten_thousandths().unsigned_abs());
            total = amount
                .and_then(|amount| total.checked_add(amount))
                .filter(|total| *total < 1 << 62)
                .ok_or_else(|| {
                    ModelError::inconsistent("unit_price", "makes sums that are too large")
                })?;
            if *kind & !(KIND | DUPLICATE) != 0 {
                return Err(ModelError::inconsistent(
                    "kind",
                    format!("is {kind}, which is none"),
                ));
            }
            if kind & KIND == SALE && *quantity < 1 {
                return Err(ModelError::inconsistent(
                    "quantity",
                    format!("is {quantity} in a sale"),
                ));
            }
        }
        Ok(())
    }

    /// What some lines add up to.
    pub(super) fn sums(&self, lines: Range<usize>, takes: impl Fn(u32) -> bool) -> Sums {
        let mut sums = Sums::default();
        for at in lines {
            if takes(self.product[at]) {
                sums.add_line(self.kind[at], self.quantity[at], self.unit_price[at]);
            }
        }
        sums
    }
}

/// The receipts of each product, each once.
fn by_product(receipts: &Receipts, lines: &Lines, products: usize) -> Rows<u32> {
    Rows::visit(products, |put| each_product(receipts, lines, products, put))
}

/// Each product of each receipt, once.
fn each_product(
    receipts: &Receipts,
    lines: &Lines,
    products: usize,
    take: &mut dyn FnMut(u32, u32),
) {
    let mut last = vec![NONE; products];
    for (at, receipt) in (0..receipts.time.len()).zip(0_u32..) {
        for product in &lines.product[receipts.lines(at)] {
            if std::mem::replace(&mut last[*product as usize], receipt) != receipt {
                take(*product, receipt);
            }
        }
    }
}

/// Adds up products by month and country.
fn cube(
    receipts: &Receipts,
    lines: &Lines,
    by_country: &Rows<u32>,
    countries: usize,
    products: usize,
) -> Cube {
    let mut cube = Cube {
        countries,
        ..Cube::default()
    };
    let mut cursors = vec![0_usize; countries];
    // A place for each product and a list of those in use, which is faster than a hash map.
    let (mut sums, mut used) = (vec![Sums::default(); products], Vec::<u32>::new());
    let mut start = 0;
    while let Some(time) = receipts.time.get(start) {
        let next = Frequency::Monthly.next(Frequency::Monthly.floor(*time));
        let end = start + receipts.time[start..].partition_point(|time| *time < next);
        for (country, cursor) in cursors.iter_mut().enumerate() {
            for &receipt in by_country.row(country)[*cursor..]
                .iter()
                .take_while(|at| (**at as usize) < end)
            {
                *cursor += 1;
                for at in receipts.lines(receipt as usize) {
                    if matches!(lines.kind[at] & KIND, SALE | CANCELLATION) {
                        let product = lines.product[at];
                        let sums = &mut sums[product as usize];
                        if sums.lines == 0 {
                            used.push(product);
                        }
                        sums.add_line(lines.kind[at], lines.quantity[at], lines.unit_price[at]);
                    }
                }
            }
            used.sort_unstable();
            cube.cells.push_row(used.drain(..).map(|product| CubeCell {
                product,
                sums: std::mem::take(&mut sums[product as usize]),
            }));
        }
        cube.months.push(start..end);
        start = end;
    }
    cube.cells.shrink_to_fit();
    cube
}
