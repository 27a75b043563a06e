use proptest::prelude::*;
use prost::Message;
use proto::inference::{InferTensorContents, model_infer_request::InferInputTensor};
use scoring::{Artifact, ModelError, ModelKind};

use super::*;

const POINT: Tensor<f32> = Tensor::matrix("point", 2);
const NAME: Tensor<String> = Tensor::column("name");
const SUM: Tensor<f64> = Tensor::column("sum");
const GREETING: Tensor<String> = Tensor::column("greeting");

static INTERFACE: Interface<Adder> = Interface {
    inputs: &[POINT.info(), NAME.info()],
    outputs: &[SUM.info(), GREETING.info()],
    infer: |_, batch| {
        let points = batch.required(&POINT)?;
        let names = batch
            .get(&NAME)?
            .unwrap_or_else(|| vec!["you".to_owned(); batch.rows()]);
        Ok(vec![
            SUM.of(points
                .chunks(2)
                .map(|point| point.iter().map(|x| f64::from(*x)).sum())),
            GREETING.of(names.iter().map(|name| format!("hello, {name}"))),
        ])
    },
};

/// Adds the coordinates of points.
struct Adder;

impl Model for Adder {
    const KIND: ModelKind = ModelKind::Churn;

    fn load(_: &Artifact) -> Result<Self, ModelError> {
        Ok(Self)
    }
}

fn live() -> Live<Adder> {
    let as_of = chrono::NaiveDate::from_ymd_opt(2011, 9, 1).unwrap().into();
    Live::fixed(&Artifact::builder(ModelKind::Churn, "adder", as_of, 1).finish()).unwrap()
}

fn asked(request: ModelInferRequest) -> Result<ModelInferResponse, Refusal> {
    infer(&live().current().unwrap(), &INTERFACE, &request)
}

fn input(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape: shape.into(),
        ..Default::default()
    }
}

/// A request of raw contents.
fn raw(inputs: impl IntoIterator<Item = (InferInputTensor, Vec<u8>)>) -> ModelInferRequest {
    let (inputs, raw_input_contents) = inputs.into_iter().unzip();
    ModelInferRequest {
        model_name: "churn".into(),
        inputs,
        raw_input_contents,
        ..Default::default()
    }
}

fn points(rows: usize) -> (InferInputTensor, Vec<u8>) {
    let values = POINT.of((0..2 * rows).map(|i| i as f32)).raw;
    (input("point", "FP32", &[rows as i64, 2]), values)
}

fn output(name: &str) -> InferRequestedOutputTensor {
    InferRequestedOutputTensor {
        name: name.into(),
        ..Default::default()
    }
}

#[test]
fn raw_and_typed_contents_have_the_same_answer() {
    let names = NAME.of(["Ada".to_owned(), String::new()]).raw;
    let request = raw([points(2), (input("name", "BYTES", &[2]), names)]);
    let mut typed = ModelInferRequest {
        raw_input_contents: vec![],
        id: "7".into(),
        ..request.clone()
    };
    typed.inputs[0].contents = Some(InferTensorContents {
        fp32_contents: vec![0.0, 1.0, 2.0, 3.0],
        ..Default::default()
    });
    typed.inputs[1].contents = Some(InferTensorContents {
        bytes_contents: vec![b"Ada".into(), vec![]],
        ..Default::default()
    });

    let answer = asked(request).unwrap();
    let from_typed = asked(typed).unwrap();
    assert_eq!(
        (from_typed.id.as_str(), &from_typed.raw_output_contents),
        ("7", &answer.raw_output_contents)
    );
    assert_eq!(
        f64::raw(&answer.raw_output_contents[0]).unwrap(),
        [1.0, 5.0]
    );
    assert_eq!(
        String::raw(&answer.raw_output_contents[1]).unwrap(),
        ["hello, Ada", "hello, "]
    );
    assert_eq!(
        (
            answer.outputs[0].datatype.as_str(),
            answer.outputs[0].shape.as_slice()
        ),
        ("FP64", &[2][..])
    );
    assert!(answer.model_version.starts_with("20110901T000000-"));
}

#[test]
fn outputs_come_as_they_are_asked_for() {
    let request = ModelInferRequest {
        outputs: vec![output("greeting")],
        ..raw([points(1)])
    };
    let answer = asked(request).unwrap();
    assert_eq!(
        answer
            .outputs
            .iter()
            .map(|output| output.name.as_str())
            .collect::<Vec<_>>(),
        ["greeting"]
    );
    assert_eq!(
        String::raw(&answer.raw_output_contents[0]).unwrap(),
        ["hello, you"]
    );
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "a table with a case per mistake in a request"
)]
fn what_cannot_be_used_is_refused_by_name() {
    let with = |change: fn(&mut ModelInferRequest)| {
        let mut request = raw([points(2)]);
        change(&mut request);
        asked(request).unwrap_err().to_string()
    };
    type Spoil = fn(&mut ModelInferRequest);
    let cases: [(Spoil, &str); 17] = [
        (
            |r| r.inputs.clear(),
            "raw_input_contents is of 1 tensors, and there are 0 inputs",
        ),
        (
            |r| (r.inputs, r.raw_input_contents) = Default::default(),
            "inputs.point is missing",
        ),
        (
            |r| r.inputs[0].name = "dot".into(),
            "inputs.dot is none of the model's: point, name",
        ),
        (
            |r| r.inputs[0].datatype = "FP64".into(),
            "inputs.point is FP64; it must be FP32",
        ),
        (
            |r| r.inputs[0].shape = vec![2, 3],
            "inputs.point has shape [2, 3]; it must be [rows, 2]",
        ),
        (
            |r| r.inputs[0].shape = vec![4],
            "inputs.point has shape [4]; it must be [rows, 2]",
        ),
        (
            |r| r.inputs[0].shape = vec![-1, 2],
            "inputs.point has shape [-1, 2]; it must be [rows, 2]",
        ),
        (
            |r| r.inputs[0].shape = vec![i64::MAX; 9],
            "inputs.point has 9 dimensions; its shape must be [rows, 2]",
        ),
        (
            |r| r.inputs[0].shape = vec![0, 2],
            "inputs.point has no rows",
        ),
        (
            |r| r.inputs[0].shape = vec![1001, 2],
            "inputs.point has 1001 rows; 1000 is the most",
        ),
        (
            |r| r.inputs[0].shape = vec![3, 2],
            "inputs.point does not hold 6 FP32 values",
        ),
        (
            |r| r.raw_input_contents.clear(),
            "inputs.point does not hold 4 FP32 values",
        ),
        (
            |r| r.raw_input_contents[0].push(0),
            "inputs.point does not hold 4 FP32 values",
        ),
        (
            |r| r.inputs[0].contents = Some(InferTensorContents::default()),
            "inputs.point has contents beside raw_input_contents",
        ),
        (
            |r| r.model_version = "1".into(),
            "there is no version `1` here; there is 20110901T000000-",
        ),
        (
            |r| r.outputs = vec![output("sum"), output("sum")],
            "outputs.sum is asked for twice",
        ),
        (
            |r| r.outputs = vec![output("mean")],
            "outputs.mean is none of the model's: sum, greeting",
        ),
    ];
    for (change, problem) in cases {
        let refused = with(change);
        assert!(refused.starts_with(problem), "{refused}");
    }
    for (request, problem) in [
        (raw([points(1), points(1)]), "inputs.point is given twice"),
        (
            raw([points(1), (input("name", "BYTES", &[2]), vec![])]),
            "inputs.name has 2 rows, and the first input has 1",
        ),
        (
            raw([
                points(1),
                (input("name", "BYTES", &[1]), vec![1, 0, 0, 0, 0xff]),
            ]),
            "inputs.name does not hold 1 texts in UTF-8",
        ),
        (
            raw([
                points(1),
                (input("name", "BYTES", &[1]), vec![0xff, 0xff, 0xff, 0xff]),
            ]),
            "inputs.name does not hold 1 texts in UTF-8",
        ),
    ] {
        assert_eq!(asked(request).unwrap_err().to_string(), problem);
    }
}

proptest! {
    #[test]
    fn no_bytes_break_it(
        bytes in proptest::collection::vec(any::<u8>(), 0..64),
        rows in -1..3_i64,
        contents in proptest::collection::vec(any::<u8>(), 0..32),
    ) {
        let _ = ModelInferRequest::decode(bytes.as_slice()).map(asked);
        let points = || (input("point", "FP32", &[rows, 2]), contents.clone());
        let _ = asked(raw([points(), (input("name", "BYTES", &[rows]), contents.clone())]));
    }

    #[test]
    fn texts_are_read_as_they_were_written(texts in proptest::collection::vec(".{0,9}", 0..9)) {
        prop_assert_eq!(String::raw(&NAME.of(texts.clone()).raw), Some(texts));
    }
}
