//! The fields of requests, checked one by one.

use prost_types::Timestamp;
use proto::insights::v1 as pb;
use runtime::{Refusal, required};
use scoring::insights::{Filter, Frequency, Kinds, Selection, Shop};
use transactions::{CustomerId, LineKind};

/// Most names in a list.
const MOST: usize = 1000;

/// The fields that requests have in common.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked<'a> {
    pub(crate) countries: &'a [String],
    pub(crate) start_time: Option<&'a Timestamp>,
    pub(crate) end_time: Option<&'a Timestamp>,
    pub(crate) stock_codes: &'a [String],
    pub(crate) customer_ids: &'a [String],
}

impl<'a> Asked<'a> {
    /// The selected lines, and the values that a page token is bound to.
    pub(crate) fn select(
        self,
        shop: &Shop,
    ) -> Result<(Selection, impl std::hash::Hash + use<'a>), Refusal> {
        let Self {
            countries,
            stock_codes,
            customer_ids,
            ..
        } = self;
        let lists = [
            ("countries", countries),
            ("stock_codes", stock_codes),
            ("customer_ids", customer_ids),
        ];
        for (field, names) in lists {
            if names.len() > MOST {
                return Err(Refusal::field(
                    field,
                    format!("has {} items; {MOST} is the most", names.len()),
                ));
            }
            for (at, name) in names.iter().enumerate() {
                required(&format!("{field}[{at}]"), name)?;
            }
        }
        let (from, to) = (
            micros("start_time", self.start_time)?,
            micros("end_time", self.end_time)?,
        );
        if from.zip(to).is_some_and(|(from, to)| to < from) {
            return Err(Refusal::field("end_time", "is before start_time"));
        }
        let filter = Filter {
            countries,
            stock_codes,
            customers: customer_ids,
            from,
            to,
        };
        let selection = shop
            .select(&filter)
            .map_err(|unknown| Refusal::not_found(unknown.kind, unknown.name.trim()))?;
        Ok((selection, (lists, from, to)))
    }
}

/// An instant in microseconds since 1970. A fraction of a microsecond rounds up, which selects the
/// same lines, because lines have whole microseconds.
fn micros(field: &str, time: Option<&Timestamp>) -> Result<Option<i64>, Refusal> {
    let Some(Timestamp { seconds, nanos }) = time else {
        return Ok(None);
    };
    let years = -62_135_596_800..253_402_300_800;
    match years.contains(seconds) && (0..1_000_000_000).contains(nanos) {
        true => Ok(Some(
            seconds * 1_000_000 + i64::from(*nanos).div_euclid(1000) + i64::from(nanos % 1000 > 0),
        )),
        false => Err(Refusal::field(
            field,
            "is not an instant in the years 1 to 9999",
        )),
    }
}

/// An instant of the shop as a protobuf timestamp.
pub(crate) fn timestamp(micros: i64) -> Timestamp {
    let nanos = i32::try_from(micros.rem_euclid(1_000_000) * 1000).unwrap_or_default();
    Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos,
    }
}

/// The length of a period; `None` if the request has none.
pub(crate) fn frequency(frequency: i32) -> Result<Option<Frequency>, Refusal> {
    let unknown = |_| Refusal::field("frequency", format!("is {frequency}, which is none"));
    Ok(match pb::Frequency::try_from(frequency).map_err(unknown)? {
        pb::Frequency::Unspecified => None,
        pb::Frequency::Daily => Some(Frequency::Daily),
        pb::Frequency::Weekly => Some(Frequency::Weekly),
        pb::Frequency::Monthly => Some(Frequency::Monthly),
        pb::Frequency::Yearly => Some(Frequency::Yearly),
    })
}

/// The kinds of lines to export.
pub(crate) fn kinds(kinds: &[i32]) -> Result<Kinds, Refusal> {
    if kinds.is_empty() {
        return Ok(Kinds::REVENUE);
    }
    let kind = |(at, kind): (usize, &i32)| match pb::LineKind::try_from(*kind) {
        Ok(pb::LineKind::Sale) => Ok(LineKind::Sale),
        Ok(pb::LineKind::Cancellation) => Ok(LineKind::Cancellation),
        Ok(pb::LineKind::Service) => Ok(LineKind::Service),
        Ok(pb::LineKind::Adjustment) => Ok(LineKind::Adjustment),
        Ok(pb::LineKind::Unspecified) | Err(_) => Err(Refusal::field(
            format!("kinds[{at}]"),
            format!("is {kind}, which is no kind of line"),
        )),
    };
    Ok(Kinds::of(
        kinds
            .iter()
            .enumerate()
            .map(kind)
            .collect::<Result<Vec<_>, _>>()?,
    ))
}

/// The number of a customer that the shop knows.
pub(crate) fn customer(shop: &Shop, id: &str) -> Result<u32, Refusal> {
    let id = CustomerId::canonical(required("customer_id", id)?);
    shop.customer_number(id)
        .ok_or_else(|| Refusal::not_found("customer", id))
}
