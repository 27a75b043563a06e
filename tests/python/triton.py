"""Calls the models with Triton's own client, and compares the answers with those of the JSON API.

    python triton.py ADDR JSON_ADDR [MODEL...]     the models at the first address, the JSON API of the gateway at the second

Exits 0 if the answers are equal and invalid requests are refused, otherwise prints the first difference and exits 1.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

MODELS = ["anomaly", "churn", "segmentation"]
LINES = [("85123A", 6, 2.55, "14911"), ("85123A", 6, 255.0, ""), ("no-such", 1, 0.01, ""), ("22423", 9999, 12.75, "nobody")]


def check(holds, what: str, seen=None):
    if not holds:
        raise AssertionError(f"{what}: {seen}")


def over_json(address: str, path: str, body: dict | None = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    try:
        return json.load(urllib.request.urlopen(urllib.request.Request(f"http://{address}{path}", data), timeout=10))
    except urllib.error.HTTPError as refusal:
        return json.load(refusal)


def customers(address: str) -> list[str]:
    """Known customers, the first with the `.0` that spreadsheets append."""
    risks = over_json(address, "/v1/atRiskCustomers?pageSize=3")["churnRisks"]
    first, *others = (risk["customerId"] for risk in risks)
    return [f"{first}.0", *others]


def tensor(name: str, values: np.ndarray) -> triton.InferInput:
    kinds = {"float32": "FP32", "float64": "FP64", "int64": "INT64", "int32": "INT32", "object": "BYTES"}
    tensor = triton.InferInput(name, values.shape, kinds[values.dtype.name])
    return tensor.set_data_from_numpy(values)


def texts(*values: str) -> np.ndarray:
    return np.array([value.encode() for value in values], dtype=np.object_)


def words(answer: triton.InferResult, name: str) -> list[str]:
    return [value.decode() for value in answer.as_numpy(name)]


def churn(client: triton.InferenceServerClient, address: str):
    """A matrix gives the scores of its rows one by one, and customer ids give those of the service."""
    refusal = over_json(address, "/v1/churn:score", {})["error"]
    violations = next(d["fieldViolations"] for d in refusal["details"] if "fieldViolations" in d)
    names = [violation["field"].removeprefix("features.") for violation in violations]
    [features, _] = client.get_model_metadata("churn").inputs
    check(list(features.shape) == [-1, len(names)] and features.datatype == "FP32", "the features are those of the model", features)
    rows = np.random.default_rng(7).gamma(1.0, 20.0, (40, len(names))).astype(np.float32)
    answer = client.infer("churn", [tensor("features", rows)], request_id="forty")
    check(answer.get_response().id == "forty", "the request id is returned", answer.get_response().id)
    for row, probability, level in zip(rows, answer.as_numpy("probability"), words(answer, "risk_level"), strict=True):
        risk = over_json(address, "/v1/churn:score", {"features": dict(zip(names, map(float, row)))})["churnRisk"]
        check((risk["probability"], risk["riskLevel"]) == (probability, level), "a row is scored", (risk, probability))
    known = customers(address)
    answer = client.infer("churn", [tensor("customer_id", texts(*known))])
    for customer, probability in zip(known, answer.as_numpy("probability"), strict=True):
        risk = over_json(address, f"/v1/customers/{customer}/churnRisk")["churnRisk"]
        check(risk["probability"] == probability, "a customer is scored", (risk, probability))

    rows[3, 1] = np.nan
    refused(client, "churn", [tensor("features", rows)], "INVALID_ARGUMENT", f"inputs.features[3].{names[1]} is NaN")
    refused(client, "churn", [tensor("features", rows[:, :5])], "INVALID_ARGUMENT", "inputs.features has shape [40, 5]")
    refused(client, "churn", [tensor("features", rows.astype(float))], "INVALID_ARGUMENT", "inputs.features is FP64")
    many = [tensor("features", np.zeros((1001, len(names)), np.float32))]
    refused(client, "churn", many, "INVALID_ARGUMENT", "1000 is the most")
    refused(client, "churn", [tensor("customer_id", texts(*known, "nobody"))], "NOT_FOUND", "customer `nobody`")
    both = [tensor("customer_id", texts(known[0])), tensor("features", np.zeros((1, len(names)), np.float32))]
    refused(client, "churn", both, "INVALID_ARGUMENT", "inputs.customer_id is given beside others")
    shared = triton.InferInput("features", [1, len(names)], "FP32")
    shared.set_shared_memory("region", 4 * len(names))
    refused(client, "churn", [shared], "INVALID_ARGUMENT", "inputs.features does not hold")


def segmentation(client: triton.InferenceServerClient, address: str):
    rows = [(3.0, 60.0, 90000.0), (200.0, 1.0, 12.5), (30.0, 4.0, -5.0), (0.0, 1.0, 0.0)]
    columns = [np.array(column) for column in zip(*rows)]
    inputs = [tensor(name, column) for name, column in zip(("recency_days", "frequency", "monetary"), columns)]
    answer = client.infer("segmentation", inputs)
    ids, names = answer.as_numpy("segment_id"), words(answer, "segment_name")
    for (recency, frequency, monetary), number, name in zip(rows, ids, names, strict=True):
        rfm = {"recencyDays": recency, "frequency": frequency, "monetary": monetary}
        segment = over_json(address, "/v1/customers:classify", {"rfm": rfm})["customerSegment"]
        check((segment["segmentId"], segment["segmentName"]) == (number, name), "a row is classified", (segment, name))
    known = customers(address)
    answer = client.infer("segmentation", [tensor("customer_id", texts(*known))])
    for customer, name in zip(known, words(answer, "segment_name"), strict=True):
        segment = over_json(address, f"/v1/customers/{customer}/segment")["customerSegment"]
        check(segment["segmentName"] == name, "a customer has a segment", (segment, name))

    never = [*inputs[:1], tensor("frequency", np.zeros(4)), inputs[2]]
    refused(client, "segmentation", never, "INVALID_ARGUMENT", "inputs.frequency[0] is below 1")
    refused(client, "segmentation", inputs[:2], "INVALID_ARGUMENT", "inputs.monetary is missing")


def anomaly(client: triton.InferenceServerClient, address: str):
    codes, quantities, prices, customers = zip(*LINES)
    inputs = [
        tensor("stock_code", texts(*codes)),
        tensor("quantity", np.array(quantities, np.int64)),
        tensor("unit_price", np.array(prices)),
        tensor("customer_id", texts(*customers)),
    ]
    answer = client.infer("anomaly", inputs)
    scored = zip(LINES, answer.as_numpy("score"), words(answer, "severity"), words(answer, "reason"), strict=True)
    for (code, quantity, price, customer), score, severity, reason in scored:
        line = {"stockCode": code, "quantity": quantity, "unitPrice": price, "customerId": customer}
        other = over_json(address, "/v1/transactions:score", {"transaction": line})["score"]
        same = (other["score"], other["severity"], other["reason"]) == (score, severity, reason)
        check(same, "a line is scored", (other, score, severity, reason))
    alone = client.infer("anomaly", inputs[:3], outputs=[triton.InferRequestedOutput("score")])
    check([output.name for output in alone.get_response().outputs] == ["score"], "only the requested outputs are returned", alone)
    counted = [triton.InferRequestedOutput("severity", class_count=2)]
    refused(client, "anomaly", inputs, "INVALID_ARGUMENT", "outputs.severity has parameters", outputs=counted)
    free = [*inputs[:2], tensor("unit_price", np.array([1.0, 0.0, 1.0, 1.0]))]
    refused(client, "anomaly", free, "INVALID_ARGUMENT", "inputs.unit_price[1] is 0")


def refused(client: triton.InferenceServerClient, model: str, inputs: list, code: str, problem: str, **more):
    try:
        client.infer(model, inputs, **more)
    except InferenceServerException as refusal:
        check(refusal.status() == f"StatusCode.{code}" and problem in refusal.message(), f"{problem} is {code}", refusal)
    else:
        raise AssertionError(f"{problem} is refused")


def fails(code: str, ask, *arguments):
    try:
        ask(*arguments)
    except InferenceServerException as refusal:
        check(refusal.status() == f"StatusCode.{code}", f"{ask.__name__}{arguments} is {code}", refusal)
    else:
        raise AssertionError(f"{ask.__name__}{arguments} is {code}")


def main(address: str, json_address: str, *models: str):
    models = models or MODELS
    client = triton.InferenceServerClient(address)
    check(client.is_server_live() and client.is_server_ready(), "the server is ready")
    check(client.get_server_metadata().name == "shopkeeper", "the server has a name")
    index = client.get_model_repository_index().models
    check([model.name for model in index] == list(models), "the index has the models", index)
    for model in models:
        check(client.is_model_ready(model), f"{model} is ready")
        [version] = client.get_model_metadata(model).versions
        status = over_json(json_address, f"/v1/models/{model}/status")["status"]
        check(version == status["version"] and client.is_model_ready(model, version), "the version is ready", version)
        fails("NOT_FOUND", client.is_model_ready, model, "1")
        {"anomaly": anomaly, "churn": churn, "segmentation": segmentation}[model](client, json_address)
    refused(client, "forecast", [tensor("customer_id", texts("1"))], "NOT_FOUND", "there is no model `forecast` here")
    fails("NOT_FOUND", client.get_model_metadata, "nothing")
    fails("UNIMPLEMENTED", client.load_model, models[0])
    fails("UNIMPLEMENTED", client.get_model_config, models[0])
    print(f"{', '.join(models)}: the answers to Triton's client equal those of the JSON API")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (AssertionError, InferenceServerException) as failure:
        print(failure, file=sys.stderr)
        sys.exit(1)
