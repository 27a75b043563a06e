//! Tensors of the Open Inference Protocol. Promise: whatever bytes come, values are of the datatype
//! and as many as the shape says, or the input is refused by name.

use std::marker::PhantomData;

use proto::inference::{
    InferTensorContents, ModelInferRequest, model_infer_request::InferInputTensor,
    model_infer_response::InferOutputTensor, model_metadata_response::TensorMetadata,
};
use runtime::Refusal;

/// Most rows of a batch.
const MOST: usize = 1000;

/// A tensor's name, datatype and shape. Its first dimension is the rows of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    name: &'static str,
    datatype: &'static str,
    /// None: one value a row, and no second dimension.
    columns: Option<usize>,
}

impl Info {
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    fn shape(&self, rows: i64) -> Vec<i64> {
        [rows]
            .into_iter()
            .chain(self.columns.map(|columns| columns as i64))
            .collect()
    }

    fn values(&self, rows: usize) -> usize {
        rows * self.columns.unwrap_or(1)
    }

    pub(super) fn metadata(&self) -> TensorMetadata {
        TensorMetadata {
            name: self.name.to_owned(),
            datatype: self.datatype.to_owned(),
            shape: self.shape(-1),
        }
    }

    pub(super) fn output(&self, rows: usize) -> InferOutputTensor {
        InferOutputTensor {
            name: self.name.to_owned(),
            datatype: self.datatype.to_owned(),
            shape: self.shape(rows as i64),
            ..InferOutputTensor::default()
        }
    }

    fn expected(&self) -> String {
        self.columns
            .map_or("[rows]".to_owned(), |columns| format!("[rows, {columns}]"))
    }
}

/// Names of tensors, for people.
pub(super) fn names(infos: &[Info]) -> String {
    infos.iter().map(Info::name).collect::<Vec<_>>().join(", ")
}

/// An input's value in a row, as refusals name it.
pub fn at(input: &str, row: usize) -> String {
    format!("inputs.{input}[{row}]")
}

/// A tensor of such values.
#[derive(Debug)]
pub struct Tensor<T> {
    info: Info,
    of: PhantomData<fn() -> T>,
}

impl<T: Element> Tensor<T> {
    /// One value a row.
    pub const fn column(name: &'static str) -> Self {
        Self {
            info: Info {
                name,
                datatype: T::DATATYPE,
                columns: None,
            },
            of: PhantomData,
        }
    }

    /// So many values a row.
    pub const fn matrix(name: &'static str, columns: usize) -> Self {
        Self {
            info: Info {
                name,
                datatype: T::DATATYPE,
                columns: Some(columns),
            },
            of: PhantomData,
        }
    }

    /// Its name, datatype and shape.
    pub const fn info(&self) -> Info {
        self.info
    }

    /// An output of these values, row after row.
    pub fn of(&self, values: impl IntoIterator<Item = T>) -> Output {
        let mut raw = Vec::new();
        for value in values {
            value.write(&mut raw);
        }
        Output {
            info: self.info,
            raw,
        }
    }
}

/// An output's values, as they are sent.
#[derive(Debug)]
pub struct Output {
    pub(super) info: Info,
    pub(super) raw: Vec<u8>,
}

/// The type of a tensor's values.
pub trait Element: Clone {
    /// Its name in the protocol.
    const DATATYPE: &'static str;
    /// Its name in messages, in the plural.
    const WORDS: &'static str;

    /// All values of raw contents; `None` if these are of another type.
    fn raw(bytes: &[u8]) -> Option<Vec<Self>>;

    /// The values among typed contents.
    fn typed(contents: &InferTensorContents) -> Option<Vec<Self>>;

    /// Adds the value to raw contents.
    fn write(&self, raw: &mut Vec<u8>);
}

macro_rules! number {
    ($type:ty, $datatype:literal, $contents:ident) => {
        impl Element for $type {
            const DATATYPE: &'static str = $datatype;
            const WORDS: &'static str = concat!($datatype, " values");

            fn raw(bytes: &[u8]) -> Option<Vec<Self>> {
                let (values, rest) = bytes.as_chunks();
                rest.is_empty().then(|| {
                    values
                        .iter()
                        .map(|bytes| Self::from_le_bytes(*bytes))
                        .collect()
                })
            }

            fn typed(contents: &InferTensorContents) -> Option<Vec<Self>> {
                Some(contents.$contents.clone())
            }

            fn write(&self, raw: &mut Vec<u8>) {
                raw.extend_from_slice(&self.to_le_bytes());
            }
        }
    };
}
number!(f32, "FP32", fp32_contents);
number!(f64, "FP64", fp64_contents);
number!(i32, "INT32", int_contents);
number!(i64, "INT64", int64_contents);

impl Element for String {
    const DATATYPE: &'static str = "BYTES";
    const WORDS: &'static str = "texts in UTF-8";

    fn raw(mut bytes: &[u8]) -> Option<Vec<Self>> {
        let mut texts = Vec::new();
        while !bytes.is_empty() {
            let (length, rest) = bytes.split_first_chunk()?;
            let (text, rest) =
                rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
            texts.push(str::from_utf8(text).ok()?.to_owned());
            bytes = rest;
        }
        Some(texts)
    }

    fn typed(contents: &InferTensorContents) -> Option<Vec<Self>> {
        contents
            .bytes_contents
            .iter()
            .map(|bytes| Self::from_utf8(bytes.clone()).ok())
            .collect()
    }

    fn write(&self, raw: &mut Vec<u8>) {
        // Texts of ours are short: names and reasons.
        raw.extend_from_slice(&(self.len() as u32).to_le_bytes());
        raw.extend_from_slice(self.as_bytes());
    }
}

/// The inputs of a request: of the model, each once, and all of as many rows.
#[derive(Debug)]
pub struct Batch<'a> {
    inputs: Vec<Input<'a>>,
    rows: usize,
}

#[derive(Debug)]
struct Input<'a> {
    info: Info,
    contents: Contents<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Contents<'a> {
    Raw(&'a [u8]),
    Typed(&'a InferTensorContents),
    None,
}

impl<'a> Batch<'a> {
    pub(super) fn of(request: &'a ModelInferRequest, infos: &[Info]) -> Result<Self, Refusal> {
        let raw = &request.raw_input_contents;
        if !raw.is_empty() && raw.len() != request.inputs.len() {
            let problem = format!(
                "is of {} tensors, and there are {} inputs",
                raw.len(),
                request.inputs.len()
            );
            return Err(Refusal::field("raw_input_contents", problem));
        }
        let mut batch = Self {
            inputs: Vec::with_capacity(infos.len()),
            rows: 0,
        };
        for (place, tensor) in request.inputs.iter().enumerate() {
            let refused =
                |problem: String| Refusal::field(format!("inputs.{}", tensor.name), problem);
            let info = infos.iter().find(|info| info.name == tensor.name);
            let info =
                info.ok_or_else(|| refused(format!("is none of the model's: {}", names(infos))))?;
            if batch.inputs.iter().any(|input| input.info == *info) {
                return Err(refused("is given twice".to_owned()));
            }
            let rows = rows(tensor, info).map_err(refused)?;
            if place > 0 && rows != batch.rows {
                return Err(refused(format!(
                    "has {rows} rows, and the first input has {}",
                    batch.rows
                )));
            }
            batch.rows = rows;
            let contents = match (raw.get(place), &tensor.contents) {
                (Some(_), Some(_)) => {
                    return Err(refused("has contents beside raw_input_contents".to_owned()));
                }
                (Some(raw), None) => Contents::Raw(raw),
                (None, Some(typed)) => Contents::Typed(typed),
                (None, None) => Contents::None,
            };
            batch.inputs.push(Input {
                info: *info,
                contents,
            });
        }
        Ok(batch)
    }

    /// Rows of every input and output.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// An input's values, row after row; `None` if the request has no such input.
    ///
    /// # Errors
    /// If the values do not match the input's datatype and shape.
    pub fn get<T: Element>(&self, tensor: &Tensor<T>) -> Result<Option<Vec<T>>, Refusal> {
        let Some(input) = self.inputs.iter().find(|input| input.info == tensor.info) else {
            return Ok(None);
        };
        let values = match input.contents {
            Contents::Raw(bytes) => T::raw(bytes),
            Contents::Typed(contents) => T::typed(contents),
            Contents::None => None,
        };
        let expected = input.info.values(self.rows);
        match values.filter(|values| values.len() == expected) {
            Some(values) => Ok(Some(values)),
            None => {
                let problem = format!("does not hold {expected} {}", T::WORDS);
                Err(Refusal::field(
                    format!("inputs.{}", input.info.name),
                    problem,
                ))
            }
        }
    }

    /// Values of an input that must be the only one.
    ///
    /// # Errors
    /// As [`Self::get`], and if the request has other inputs.
    pub fn alone<T: Element>(&self, tensor: &Tensor<T>) -> Result<Option<Vec<T>>, Refusal> {
        match self.get(tensor)? {
            Some(_) if self.inputs.len() > 1 => Err(Refusal::field(
                format!("inputs.{}", tensor.info.name),
                "is given beside others",
            )),
            values => Ok(values),
        }
    }

    /// An input's values, row after row.
    ///
    /// # Errors
    /// As [`Self::get`], and if the request has no such input.
    pub fn required<T: Element>(&self, tensor: &Tensor<T>) -> Result<Vec<T>, Refusal> {
        let missing = || Refusal::field(format!("inputs.{}", tensor.info.name), "is missing");
        self.get(tensor)?.ok_or_else(missing)
    }
}

/// The rows of an input that is of the datatype and shape that it must be.
fn rows(tensor: &InferInputTensor, info: &Info) -> Result<usize, String> {
    if tensor.datatype != info.datatype {
        return Err(format!(
            "is {}; it must be {}",
            tensor.datatype, info.datatype
        ));
    }
    let rows = tensor.shape.first().copied().unwrap_or_default();
    if tensor.shape != info.shape(rows) || rows < 0 {
        return Err(match tensor.shape.as_slice() {
            shape @ ([] | [_] | [_, _]) => {
                format!("has shape {shape:?}; it must be {}", info.expected())
            }
            shape => format!(
                "has {} dimensions; its shape must be {}",
                shape.len(),
                info.expected()
            ),
        });
    }
    match usize::try_from(rows) {
        Ok(0) => Err("has no rows".to_owned()),
        Ok(rows) if rows <= MOST => Ok(rows),
        Ok(_) | Err(_) => Err(format!("has {rows} rows; {MOST} is the most")),
    }
}
