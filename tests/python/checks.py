"""Checks of a running system for the end-to-end tests, with a client that knows the API only by reflection.

    python checks.py every-method ADDR [AREA]   calls every method, at the gateway, or those of an area at its service
    python checks.py refusals ADDR AREA...      sends invalid requests, to a service or to the gateway
    python checks.py one-answer ADDR...         every unary method without side effects has the same answer at all addresses:
                                                over gRPC, gRPC-Web and JSON, from the service and from the cache
    python checks.py seeds ADDR FOLDER          writes the requests as seeds of the fuzzers
    python checks.py cached ADDR                a second answer comes from the cache and equals the first
    python checks.py steady ADDR                calls until its standard input closes; prints statistics as JSON
    python checks.py movements ADDR             needs --allow-publish: movements between segments equal those of two lists
    python checks.py traced ADDR TRACE_ID       makes a call in that trace, which the test then looks up

Exits 0 if all checks hold, otherwise prints the first that fails and exits 1.
"""

from __future__ import annotations

import base64
import collections
import csv
import decimal
import gzip
import io
import json
import math
import pathlib
import sys
import threading
import time
import urllib.parse
import urllib.request

import grpc
from google.protobuf import descriptor_pb2, json_format
from google.protobuf.message_factory import GetMessageClass

from client import Api, as_json, details

CUSTOMER, PRODUCT, COUNTRY = "14911", "85123A", "Germany"
STRANGER = "nobody-99"

SEGMENTATION = "shopkeeper.segmentation.v1.SegmentationService/"
FORECAST = "shopkeeper.forecast.v1.ForecastService/"
RECOMMENDATION = "shopkeeper.recommendation.v1.RecommendationService/"
CHURN = "shopkeeper.churn.v1.ChurnService/"
ANOMALY = "shopkeeper.anomaly.v1.AnomalyService/"
INSIGHTS = "shopkeeper.insights.v1.InsightsService/"
MODEL = "shopkeeper.model.v1.ModelService/"
INFERENCE = "inference.GRPCInferenceService/"
MODELS = ["segmentation", "forecast", "recommendation", "churn", "anomaly", "insights"]
INFERENCE_MODELS = {"segmentation", "churn", "anomaly"}

LINE = {"lineId": "1", "stockCode": PRODUCT, "quantity": 6, "unitPrice": 2.55, "customerId": CUSTOMER, "country": "EIRE"}
TYPO = {**LINE, "lineId": "2", "unitPrice": 255.0}


def history(periods: int) -> list:
    """A weekly series with a trend and a cycle of four weeks."""
    start = 1_293_408_000  # Monday 2010-12-27
    point = lambda i: {"periodStart": stamp(start + i * 7 * 86400), "value": 100 + 10 * (i % 4) + i}
    return [point(i) for i in range(periods)]


def stamp(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def check(holds, what: str, seen=None):
    if not holds:
        raise AssertionError(f"{what}: {seen}")


def finite(value, path="answer"):
    """Checks that no number of an answer is NaN or infinite."""
    if isinstance(value, dict):
        for key, inner in value.items():
            finite(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            finite(inner, f"{path}[{i}]")
    else:
        check(value not in ("NaN", "Infinity", "-Infinity"), f"{path} is finite", value)
        check(not isinstance(value, float) or math.isfinite(value), f"{path} is finite", value)


def churn_features(api: Api) -> dict:
    """A value for every feature of the churn model. Their names are in the details of the error for an empty request."""
    try:
        api.ask(CHURN + "ScoreChurn", {})
    except grpc.RpcError as refusal:
        named = [v.field for d in details(refusal) if hasattr(d, "field_violations") for v in d.field_violations]
        return {name.removeprefix("features."): 1.0 for name in named if name.startswith("features.")}
    raise AssertionError("an empty ScoreChurn is refused")


def questions(api: Api, areas=MODELS):
    """Valid requests for every unary method of some areas: (method, request, check of the answer)."""
    for method, request, good in all_questions(api, churn_features(api) if "churn" in areas else {}):
        if method.startswith(MODEL):
            asked = {request["model"]}
        elif method.startswith(INFERENCE):
            named = request.get("modelName") or request.get("name")
            asked = {named} if named else INFERENCE_MODELS
        else:
            asked = {method.split(".")[1]}
        if asked & set(areas):
            yield method, request, good


def all_questions(api: Api, features: dict):
    yield SEGMENTATION + "GetCustomerSegment", {"customerId": CUSTOMER}, lambda a: (
        a["customerSegment"]["segmentName"] and a["customerSegment"]["strategy"] and a["customerSegment"]["rfmCell"]
    )
    yield SEGMENTATION + "BatchGetCustomerSegments", {"customerIds": [CUSTOMER, STRANGER, f"{CUSTOMER}.0"]}, lambda a: (
        a["results"][0] == a["results"][2] and a["results"][1]["error"]["code"] == 5
    )
    yield SEGMENTATION + "ClassifyCustomer", {"rfm": {"recencyDays": 3, "frequency": 60, "monetary": 90000}}, lambda a: (
        a["customerSegment"]["segmentName"]
    )
    yield SEGMENTATION + "ListSegments", {}, lambda a: (
        abs(sum(s["customerShare"] for s in a["segments"]) - 1) < 1e-6 and -1 <= a["silhouette"] <= 1
    )
    yield SEGMENTATION + "ListCustomerSegments", {"pageSize": 5, "lifecycle": "LIFECYCLE_ACTIVE"}, lambda a: (
        len(a["customerSegments"]) == 5 and all(c["lifecycle"] == "LIFECYCLE_ACTIVE" for c in a["customerSegments"])
        and descending([c["rfm"]["monetary"] for c in a["customerSegments"]])
    )
    yield FORECAST + "ListSeries", {"pageSize": 5}, lambda a: a["series"][0]["level"] == "LEVEL_TOTAL" and a["nextPageToken"]
    for level, key in (("TOTAL", ""), ("COUNTRY", COUNTRY), ("PRODUCT", PRODUCT)):
        for frequency in ("DAILY", "WEEKLY", "MONTHLY"):
            fields = {"level": f"LEVEL_{level}", "key": key, "frequency": f"FREQUENCY_{frequency}", "horizon": 4}
            yield FORECAST + "ForecastSales", fields, lambda a: (
                len(a["points"]) == 4 and all(in_order(p) for p in a["points"])
            )
    for level, key, frequency in (("TOTAL", "", "DAILY"), ("COUNTRY", COUNTRY, "WEEKLY")):
        fields = {"level": f"LEVEL_{level}", "key": key, "frequency": f"FREQUENCY_{frequency}"}
        yield FORECAST + "ListBacktest", fields, lambda a: (
            0 < a["wape"] < 1 and 0 < a["coverage"] <= 1 and all(in_order(p) for p in a["points"])
        )
    yield FORECAST + "ForecastHistory", {"history": history(40), "frequency": "FREQUENCY_WEEKLY", "horizon": 3}, lambda a: (
        len(a["points"]) == 3 and all(p["mean"] > 0 for p in a["points"])
    )
    yield RECOMMENDATION + "RecommendProducts", {"customerId": CUSTOMER, "limit": 5}, lambda a: (
        [r["rank"] for r in a["recommendations"]] == [1, 2, 3, 4, 5]
    )
    yield RECOMMENDATION + "RecommendProducts", {"basket": [PRODUCT, "no-such"], "limit": 5}, lambda a: (
        a["unknownBasket"] == ["no-such"] and PRODUCT not in [r["stockCode"] for r in a["recommendations"]]
    )
    yield RECOMMENDATION + "ListSimilarProducts", {"stockCode": PRODUCT, "limit": 3}, lambda a: len(a["products"]) == 3
    yield RECOMMENDATION + "ListBoughtTogether", {"stockCode": PRODUCT, "limit": 3}, lambda a: (
        all(0 < r["support"] <= r["confidence"] <= 1 for r in a["rules"]) and a["rules"]
    )
    yield CHURN + "GetChurnRisk", {"customerId": CUSTOMER}, lambda a: (
        0 <= a["churnRisk"]["probability"] <= 1 and a["churnRisk"]["reasons"]
    )
    yield CHURN + "BatchGetChurnRisks", {"customerIds": [STRANGER, CUSTOMER]}, lambda a: (
        a["results"][0]["error"]["code"] == 5 and a["results"][1]["churnRisk"]["customerId"] == CUSTOMER
    )
    yield CHURN + "ScoreChurn", {"features": features}, lambda a: 0 <= a["churnRisk"]["probability"] <= 1
    yield CHURN + "ListAtRiskCustomers", {"pageSize": 10}, lambda a: len(a["churnRisks"]) == 10 and descending(
        [r["valueAtRisk"] for r in a["churnRisks"]]
    )
    yield CHURN + "GetChurnCalibration", {}, lambda a: (
        sum(int(b["customers"]) for b in a["bins"]) > 1000 and all(b["lower"] < b["upper"] for b in map(with_lower, a["bins"]))
    )
    yield ANOMALY + "ScoreTransaction", {"transaction": LINE}, lambda a: a["score"]["severity"] == "SEVERITY_NONE"
    yield ANOMALY + "ScoreTransaction", {"transaction": TYPO}, lambda a: (
        a["score"]["severity"] == "SEVERITY_HIGH" and "price" in a["score"]["reason"]
    )
    yield ANOMALY + "ListAnomalies", {"pageSize": 10, "minSeverity": "SEVERITY_LOW"}, lambda a: len(a["anomalies"]) == 10
    whole = {"startTime": "2010-12-01T00:00:00Z", "endTime": "2011-09-01T00:00:00Z"}
    yield INSIGHTS + "GetSummary", {}, lambda a: a["sales"]["orders"] and a["sales"]["revenue"] > 5e6
    yield INSIGHTS + "GetSummary", {"countries": [COUNTRY, "EIRE"], "stockCodes": [PRODUCT], **whole}, lambda a: (
        0 < a["sales"]["grossRevenue"] < 1e5
    )
    yield INSIGHTS + "GetSummary", {"startTime": "2030-01-01T00:00:00Z"}, lambda a: a.get("sales", {}) == {}
    yield INSIGHTS + "ListSalesByCountry", whole, lambda a: (
        a["countries"][0]["country"] == "United Kingdom"
        and descending([c["sales"].get("revenue", 0) for c in a["countries"]])
        and abs(sum(c.get("revenueShare", 0) for c in a["countries"]) - 1) < 1e-9
    )
    for frequency, periods in (("DAILY", 274), ("WEEKLY", 40), ("MONTHLY", 9), ("YEARLY", 2)):
        fields = {"frequency": f"FREQUENCY_{frequency}", "pageSize": 300, **whole}
        yield INSIGHTS + "ListSalesTrend", fields, lambda a, n=periods: len(a["periods"]) == a["totalSize"] == n
        yield INSIGHTS + "ListCustomerGrowth", fields, lambda a, n=periods: len(a["periods"]) == a["totalSize"] == n
    for order, figure in (("REVENUE", "revenue"), ("QUANTITY", "items")):
        fields = {"order": f"PRODUCT_ORDER_{order}", "pageSize": 20, "countries": [COUNTRY]}
        yield INSIGHTS + "ListTopProducts", fields, lambda a, figure=figure: (
            [p["rank"] for p in a["products"]] == list(range(1, 21))
            and descending([float(p[figure]) for p in a["products"]])
        )
    yield INSIGHTS + "ListCohortRetention", {"maxPeriods": 4}, lambda a: (
        [len(c["periods"]) for c in a["cohorts"]] == [4] * 6 + [3, 2, 1]
        and all(c["periods"][0]["retention"] == 1 for c in a["cohorts"])
    )
    yield INSIGHTS + "ListRevenueBySegment", {}, lambda a: (
        a["segmentationModel"]["name"] == "segmentation"
        and a["segments"][-1]["segmentName"] == "No segment"
        and abs(sum(s.get("revenueShare", 0) for s in a["segments"]) - 1) < 1e-9
    )
    yield INSIGHTS + "ListCountries", {}, lambda a: COUNTRY in [c["country"] for c in a["countries"]]
    yield INSIGHTS + "SearchProducts", {"query": "heart hanging white"}, lambda a: a["products"][0]["stockCode"] == PRODUCT
    yield INSIGHTS + "GetCustomerProfile", {"customerId": CUSTOMER}, lambda a: (
        a["profile"]["sales"]["customers"] == "1" and len(a["profile"]["topProducts"]) == 10
    )
    yield INSIGHTS + "ListCustomerOrders", {"customerId": CUSTOMER, "pageSize": 5}, lambda a: (
        len(a["orders"]) == 5 and descending([o["orderTime"] for o in a["orders"]])
    )
    yield SEGMENTATION + "ListSegmentMovements", {}, lambda a: all(int(m["customers"]) > 0 for m in a.get("movements", []))
    for model in MODELS:
        yield MODEL + "GetModelStatus", {"model": model}, lambda a: a["status"]["state"] == "MODEL_STATE_SERVING"
        yield MODEL + "ListModelVersions", {"model": model}, lambda a: any(v.get("current") for v in a["versions"])
    yield INFERENCE + "ServerLive", {}, lambda a: a["live"]
    yield INFERENCE + "ServerReady", {}, lambda a: a["ready"]
    yield INFERENCE + "ServerMetadata", {}, lambda a: a["name"] == "shopkeeper" and a["version"]
    yield INFERENCE + "RepositoryIndex", {"ready": True}, lambda a: (
        all(m["name"] in INFERENCE_MODELS and m["version"] and m["state"] == "READY" for m in a["models"]) and a["models"]
    )
    for model in INFERENCE_MODELS:
        yield INFERENCE + "ModelReady", {"name": model}, lambda a: a["ready"]
        yield INFERENCE + "ModelMetadata", {"name": model}, lambda a, model=model: (
            a["name"] == model and len(a["versions"]) == 1 and a["inputs"] and a["outputs"]
        )
    known = [tensor("customer_id", "BYTES", CUSTOMER)]
    line = [
        tensor("stock_code", "BYTES", PRODUCT, PRODUCT),
        tensor("quantity", "INT64", 6, 1),
        tensor("unit_price", "FP64", 2.55, 255.0),
    ]
    for model, inputs, outputs in (("segmentation", known, 2), ("churn", known, 2), ("anomaly", line, 3)):
        fields = {"modelName": model, "id": "7", "inputs": inputs}
        yield INFERENCE + "ModelInfer", fields, lambda a, outputs=outputs: (
            a["modelVersion"] and a["id"] == "7" and len(a["outputs"]) == len(a["rawOutputContents"]) == outputs
        )


def tensor(name: str, datatype: str, *values) -> dict:
    """An input tensor with typed contents."""
    contents = {
        "BYTES": lambda: {"bytesContents": [base64.b64encode(v.encode()).decode() for v in values]},
        "INT64": lambda: {"int64Contents": values},
        "FP64": lambda: {"fp64Contents": values},
    }
    return {"name": name, "datatype": datatype, "shape": [len(values)], "contents": contents[datatype]()}


def with_lower(bin: dict) -> dict:
    return {"lower": 0.0, **bin}


def in_order(point: dict) -> bool:
    values = [quantile.get("value", 0) for quantile in point["quantiles"]]
    return values == sorted(values) and all(value >= 0 for value in values)


def descending(values: list) -> bool:
    return values == sorted(values, reverse=True)


def every_method(address: str, *areas: str):
    api = Api(address)
    areas = areas or MODELS
    asked = set()
    for method, fields, good in questions(api, areas):
        answer = as_json(api.ask(method, fields))
        finite(answer)
        check(good(answer), f"{method} {fields}", answer)
        if not method.startswith((MODEL, INFERENCE)):
            check(answer["model"]["version"], f"{method} has the model that answered", answer)
        asked.add(method)
    if "churn" in areas:
        pages(api)
    if "anomaly" in areas:
        stream(api)
        asked.add(ANOMALY + "ScoreTransactions")
    if "insights" in areas:
        export(api)
        asked.add(INSIGHTS + "ExportTransactions")

    for model in areas:
        watch = api.watch(MODEL + "WatchModel", {"model": model}, timeout=10)
        first = next(iter(watch))
        check(first.status.model == model and first.status.version, "a watch begins with the status", first)
        watch.cancel()
        health = api.ask("grpc.health.v1.Health/Check", {"service": SERVICE[model].rstrip("/")})
        check(as_json(health) == {"status": "SERVING"}, "health", health)
        publishing(api, model)
    asked |= {MODEL + "WatchModel", MODEL + "SetCurrentVersion"}

    there = {name for name, _ in methods(api)}
    check(there == asked, "every method of the server was called", there ^ asked)
    print(f"{len(there)} methods answered")


def methods(api: Api):
    """Every method that the server reports by reflection, with its descriptor."""
    for service in api.services():
        if not service.startswith("grpc."):
            for name, method in api.pool.FindServiceByName(service).methods_by_name.items():
                yield f"{service}/{name}", method


def publishing(api: Api, model: str):
    """Publishing is refused unless the server was started with --allow-publish."""
    status = api.ask(MODEL + "GetModelStatus", {"model": model})
    check(not status.allows_publish, f"{model} does not allow publishing over the API", status)
    version = status.status.version
    try:
        api.ask(MODEL + "SetCurrentVersion", {"model": model, "version": version, "expectedVersion": version})
    except grpc.RpcError as refusal:
        check(refusal.code().name == "PERMISSION_DENIED", f"publishing {model} is refused", refusal.details())
    else:
        raise AssertionError(f"publishing {model} is refused")


def movements(address: str):
    """Movements between two versions equal those between the two lists of customers. Needs --allow-publish."""
    api = Api(address)

    def ask(service: str, method: str, **fields) -> dict:
        return as_json(api.ask(service + method, fields))

    def segments(version: str) -> dict:
        """Each customer's segment, as soon as a version is served."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            of, token = {}, ""
            while True:
                page = ask(SEGMENTATION, "ListCustomerSegments", pageSize=1000, pageToken=token)
                of |= {c["customerId"]: c["segmentName"] for c in page["customerSegments"]}
                token = page.get("nextPageToken", "")
                if page["model"]["version"] != version or not token:
                    break
            if page["model"]["version"] == version:
                return of
            time.sleep(0.05)
        raise AssertionError(f"{version} is not served")

    versions = ask(MODEL, "ListModelVersions", model="segmentation")["versions"]
    now = next(v["version"] for v in versions if v.get("current"))
    then = next(v["version"] for v in versions if not v.get("current"))
    current = segments(now)
    ask(MODEL, "SetCurrentVersion", model="segmentation", version=then, expectedVersion=now)
    earlier = segments(then)
    ask(MODEL, "SetCurrentVersion", model="segmentation", version=now, expectedVersion=then)
    check(segments(now) == current, "the original version is current again")

    counted = collections.Counter((earlier.get(id, ""), current.get(id, "")) for id in earlier | current)
    for since in ("", then):
        answer = ask(SEGMENTATION, "ListSegmentMovements", sinceVersion=since)
        check(answer["since"]["version"] == then, "the answer has the version compared with", answer["since"])
        told = {(m.get("fromSegmentName", ""), m.get("toSegmentName", "")): int(m["customers"]) for m in answer["movements"]}
        check(told == counted, "movements equal those between the lists", (told, counted))
    try:
        ask(SEGMENTATION, "ListSegmentMovements", sinceVersion="no-such")
    except grpc.RpcError as refusal:
        check(refusal.code().name == "NOT_FOUND", "an unknown version is refused", refusal.details())
    print(f"{sum(counted.values())} customers in {len(counted)} pairs of segments")


def pages(api: Api):
    """Consecutive pages have no gap and no repetition."""
    seen, token = [], ""
    for _ in range(3):
        page = api.ask(CHURN + "ListAtRiskCustomers", {"pageSize": 7, "pageToken": token})
        seen += [risk.customer_id for risk in page.churn_risks]
        token = page.next_page_token
    whole = api.ask(CHURN + "ListAtRiskCustomers", {"pageSize": 21})
    check(seen == [risk.customer_id for risk in whole.churn_risks], "three pages of 7 equal one page of 21", seen)


def stream(api: Api):
    """The stream answers in order, and an invalid line does not end it."""
    lines = [LINE, {**LINE, "quantity": -1}, TYPO]
    answers, _ = api.call(ANOMALY + "ScoreTransactions", *({"sequence": i, "transaction": t} for i, t in enumerate(lines)))
    check([a.sequence for a in answers] == [0, 1, 2], "the stream keeps its order", answers)
    check([a.WhichOneof("result") for a in answers] == ["score", "error", "score"], "an invalid line gets an error", answers)
    check(answers[0].score == api.ask(ANOMALY + "ScoreTransaction", {"transaction": LINE}).score, "the stream and the unary method give the same score")


def export(api: Api):
    """The chunks form one file, whose lines add up to the summary."""
    fields = {"countries": [COUNTRY], "format": "EXPORT_FORMAT_CSV"}
    pieces, _ = api.call(INSIGHTS + "ExportTransactions", fields)
    lines = list(csv.DictReader(io.StringIO(b"".join(p.data for p in pieces).decode(), newline="")))
    check(len(lines) == pieces[-1].rows == pieces[-1].total_rows > 1000, "the export has the announced number of lines", len(lines))
    check([l["invoice_time"] for l in lines] == sorted(l["invoice_time"] for l in lines), "lines are in order of time")
    total = sum(decimal.Decimal(line["line_total"]) for line in lines)
    summary = api.ask(INSIGHTS + "GetSummary", {"countries": [COUNTRY]})
    check(float(total) == summary.sales.revenue, "lines add up to the summary", (total, summary))
    pieces, _ = api.call(INSIGHTS + "ExportTransactions", {**fields, "format": "EXPORT_FORMAT_PARQUET"})
    data = b"".join(p.data for p in pieces)
    check(data[:4] == data[-4:] == b"PAR1" and pieces[-1].rows == len(lines), "the Parquet file has the same number of lines")


# As in protobuf's JSON format.
NAN, INFINITY = "NaN", "Infinity"
HUGE = "x" * 10_000_000
# area -> (method, request, code, the field or resource named in the details)
REFUSALS = {
    "segmentation": [
        ("GetCustomerSegment", {"customerId": STRANGER}, "NOT_FOUND", STRANGER),
        ("GetCustomerSegment", {}, "INVALID_ARGUMENT", "customer_id"),
        ("BatchGetCustomerSegments", {}, "INVALID_ARGUMENT", "customer_ids"),
        ("BatchGetCustomerSegments", {"customerIds": ["1"] * 1001}, "INVALID_ARGUMENT", "customer_ids"),
        ("ClassifyCustomer", {}, "INVALID_ARGUMENT", "rfm"),
        ("ClassifyCustomer", {"rfm": {"recencyDays": NAN, "frequency": 1, "monetary": 1}}, "INVALID_ARGUMENT", "rfm.recency_days"),
        ("ClassifyCustomer", {"rfm": {"recencyDays": 1, "frequency": -1, "monetary": 1}}, "INVALID_ARGUMENT", "rfm.frequency"),
        ("GetCustomerSegment", {"customerId": HUGE}, "RESOURCE_EXHAUSTED", None),
    ],
    "forecast": [
        ("ForecastSales", {"level": "LEVEL_COUNTRY", "key": "Atlantis"}, "NOT_FOUND", "Atlantis"),
        ("ForecastSales", {"level": "LEVEL_PRODUCT"}, "INVALID_ARGUMENT", "key"),
        ("ForecastSales", {"horizon": -1}, "INVALID_ARGUMENT", "horizon"),
        ("ForecastSales", {"quantiles": [0.5, NAN]}, "INVALID_ARGUMENT", "quantiles[1]"),
        ("ForecastHistory", {}, "INVALID_ARGUMENT", "history"),
        ("ForecastHistory", {"history": [{**p, "value": NAN} for p in history(10)], "frequency": "FREQUENCY_WEEKLY"}, "INVALID_ARGUMENT", "history[0].value"),
        ("ListSeries", {"pageSize": -1}, "INVALID_ARGUMENT", "page_size"),
        ("ListSeries", {"pageToken": "nonsense"}, "INVALID_ARGUMENT", "page_token"),
        ("ListBacktest", {"frequency": "FREQUENCY_MONTHLY"}, "INVALID_ARGUMENT", "frequency"),
        ("ListBacktest", {"level": "LEVEL_PRODUCT", "key": PRODUCT}, "NOT_FOUND", PRODUCT),
        ("ForecastHistory", {"history": [{**p, "value": 1e160} for p in history(10)], "frequency": "FREQUENCY_WEEKLY"}, "INVALID_ARGUMENT", "history[0].value"),
        ("ForecastSales", {"key": HUGE}, "RESOURCE_EXHAUSTED", None),
    ],
    "recommendation": [
        ("RecommendProducts", {"customerId": STRANGER}, "NOT_FOUND", STRANGER),
        ("RecommendProducts", {}, "INVALID_ARGUMENT", "customer_id"),
        ("RecommendProducts", {"customerId": CUSTOMER, "limit": -1}, "INVALID_ARGUMENT", "limit"),
        ("RecommendProducts", {"customerId": CUSTOMER, "minPrice": NAN}, "INVALID_ARGUMENT", "min_price"),
        ("ListSimilarProducts", {"stockCode": "no-such"}, "NOT_FOUND", "no-such"),
        ("ListSimilarProducts", {}, "INVALID_ARGUMENT", "stock_code"),
        ("RecommendProducts", {"customerId": CUSTOMER, "minPrice": 5, "maxPrice": 4}, "INVALID_ARGUMENT", "max_price"),
        ("ListBoughtTogether", {"stockCode": PRODUCT, "minConfidence": 2}, "INVALID_ARGUMENT", "min_confidence"),
        ("ListBoughtTogether", {"stockCode": PRODUCT, "minLift": INFINITY}, "INVALID_ARGUMENT", "min_lift"),
        ("RecommendProducts", {"customerId": HUGE}, "RESOURCE_EXHAUSTED", None),
    ],
    "churn": [
        ("GetChurnRisk", {"customerId": STRANGER}, "NOT_FOUND", STRANGER),
        ("GetChurnRisk", {}, "INVALID_ARGUMENT", "customer_id"),
        ("BatchGetChurnRisks", {}, "INVALID_ARGUMENT", "customer_ids"),
        ("ScoreChurn", {}, "INVALID_ARGUMENT", "features."),
        ("ScoreChurn", {"features": {"recency_days": NAN}}, "INVALID_ARGUMENT", "features.recency_days"),
        ("ListAtRiskCustomers", {"country": "Germania"}, "NOT_FOUND", "Germania"),
        ("ListAtRiskCustomers", {"pageSize": -1}, "INVALID_ARGUMENT", "page_size"),
        ("GetChurnRisk", {"customerId": HUGE}, "RESOURCE_EXHAUSTED", None),
    ],
    "anomaly": [
        ("ScoreTransaction", {}, "INVALID_ARGUMENT", "transaction"),
        ("ScoreTransaction", {"transaction": {**LINE, "stockCode": ""}}, "INVALID_ARGUMENT", "transaction.stock_code"),
        ("ScoreTransaction", {"transaction": {**LINE, "quantity": -6}}, "INVALID_ARGUMENT", "transaction.quantity"),
        ("ScoreTransaction", {"transaction": {**LINE, "unitPrice": NAN}}, "INVALID_ARGUMENT", "transaction.unit_price"),
        ("ListAnomalies", {"pageSize": -1}, "INVALID_ARGUMENT", "page_size"),
        ("ListAnomalies", {"startTime": "2011-01-02T00:00:00Z", "endTime": "2011-01-01T00:00:00Z"}, "INVALID_ARGUMENT", "end_time"),
        ("ScoreTransaction", {"transaction": {**LINE, "invoice": HUGE}}, "RESOURCE_EXHAUSTED", None),
    ],
    "insights": [
        ("GetSummary", {"countries": ["Atlantis"]}, "NOT_FOUND", "Atlantis"),
        ("GetSummary", {"stockCodes": ["no-such"]}, "NOT_FOUND", "no-such"),
        ("GetSummary", {"countries": [""]}, "INVALID_ARGUMENT", "countries[0]"),
        ("GetSummary", {"startTime": "2011-02-01T00:00:00Z", "endTime": "2011-01-01T00:00:00Z"}, "INVALID_ARGUMENT", "end_time"),
        ("ListSalesTrend", {"frequency": 9}, "INVALID_ARGUMENT", "frequency"),
        ("ListSalesByCountry", {"pageSize": -1}, "INVALID_ARGUMENT", "page_size"),
        ("ListTopProducts", {"pageToken": "nonsense"}, "INVALID_ARGUMENT", "page_token"),
        ("ListCohortRetention", {"frequency": "FREQUENCY_DAILY"}, "INVALID_ARGUMENT", "frequency"),
        ("SearchProducts", {"query": "x" * 201}, "INVALID_ARGUMENT", "query"),
        ("GetCustomerProfile", {"customerId": STRANGER}, "NOT_FOUND", STRANGER),
        ("GetCustomerProfile", {}, "INVALID_ARGUMENT", "customer_id"),
        ("ListCustomerOrders", {"customerId": STRANGER}, "NOT_FOUND", STRANGER),
        ("GetCustomerProfile", {"customerId": HUGE}, "RESOURCE_EXHAUSTED", None),
    ],
}
SERVICE = {"segmentation": SEGMENTATION, "forecast": FORECAST, "recommendation": RECOMMENDATION, "churn": CHURN, "anomaly": ANOMALY, "insights": INSIGHTS}


def refusals(address: str, *areas: str):
    api = Api(address)
    count = 0
    for area in areas:
        for method, fields, code, named in REFUSALS[area]:
            shown = {k: (v if len(str(v)) < 99 else "...") for k, v in fields.items()}
            what = f"{area} {method} {shown}"
            try:
                answer = api.ask(SERVICE[area] + method, fields)
            except grpc.RpcError as refusal:
                check(refusal.code().name == code, f"{what} is {code}", (refusal.code(), refusal.details()))
                given = details(refusal)
                kinds = [type(d).__name__ for d in given]
                check("ErrorInfo" in kinds, f"{what} has ErrorInfo", given)
                kind = {"NOT_FOUND": "ResourceInfo", "INVALID_ARGUMENT": "BadRequest"}.get(code)
                check(kind is None or kind in kinds, f"{what} has {kind}", given)
                check(named is None or named in str(given), f"{what} names {named}", given)
                count += 1
            else:
                raise AssertionError(f"{what} is refused: {answer}")
    print(f"{count} refusals, each with its code and details")


FRESH = {"cache-control": "no-cache"}


def one_answer(*addresses: str):
    """Calls every unary method without side effects over every protocol. The methods are those that the server reports, so
    that one without a request here fails the check."""
    ways = [(f"{way.__name__} at {address}", way(address)) for address in addresses for way in (over_grpc, over_web, over_json)]
    api = Api(addresses[0])
    asked, count = set(), 0
    for method, fields, _ in questions(api):
        answers = {}
        for name, ask in ways:
            for headers in (FRESH, {}, {}):  # from the service, then the call that may fill the cache, then one from the cache
                if (answer := ask(method, fields, headers)) is not None:
                    answer.get("status", {}).pop("loadedAt", None)  # differs between processes
                    answers.setdefault(json.dumps(answer, sort_keys=True), []).append((name, headers))
                    count += 1
        check(len(answers) == 1, f"{method} {fields} has the same answer everywhere", answers)
        asked.add(method)
    for address in addresses:
        harmless = descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
        unary = {
            name
            for name, m in methods(Api(address))
            if not m.client_streaming and not m.server_streaming and m.GetOptions().idempotency_level == harmless
        }
        check(asked == unary, f"every unary method of {address} without side effects was called", unary ^ asked)
    print(f"{len(asked)} methods, {count} answers, the same for each request")


def over_grpc(address: str):
    api = Api(address)
    return lambda method, fields, headers: as_json(api.call(method, fields, headers=headers.items())[0][0])


def over_web(address: str):
    api = Api(address)

    def ask(method: str, fields: dict, headers: dict) -> dict:
        message = api.request(method, fields).SerializeToString()
        framed = b"\0" + len(message).to_bytes(4, "big") + message
        headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1", **headers}
        body = urllib.request.urlopen(urllib.request.Request(f"http://{address}/{method}", framed, headers), timeout=10).read()
        length = int.from_bytes(body[1:5], "big")
        answer, trailers = body[5 : 5 + length], body[5 + length :]
        check(body[0] == 0 and trailers[0] == 0x80 and b"grpc-status:0" in trailers, f"{method} ends with status 0", body)
        return as_json(GetMessageClass(api.method(method).output_type).FromString(answer))

    return ask


def over_json(address: str):
    api = Api(address)
    paths = json_paths(address)

    def ask(method: str, fields: dict, headers: dict) -> dict | None:
        if method.startswith(INFERENCE):
            return None  # the inference protocol is not served as JSON
        target, verb, body = http_request(*paths[operation_id(method)], fields)
        request = urllib.request.Request(f"http://{address}{target}", body, headers, method=verb)
        answer = GetMessageClass(api.method(method).output_type)()
        return as_json(json_format.ParseDict(json.load(urllib.request.urlopen(request, timeout=10)), answer))

    return ask


def json_paths(address: str) -> dict:
    """Operations of the OpenAPI document by id: (path, verb, operation)."""
    document = json.load(urllib.request.urlopen(f"http://{address}/openapi.json", timeout=10))
    return {
        operation["operationId"]: (path, verb.upper(), operation)
        for path, verbs in document["paths"].items()
        for verb, operation in verbs.items()
    }


def operation_id(method: str) -> str:
    return method.rpartition(".")[2].replace("/", "_")


def http_request(path: str, verb: str, operation: dict, fields: dict) -> tuple[str, str, bytes | None]:
    """Target, verb and body of an HTTP request for an operation with these fields."""
    query, body = [], None
    if "requestBody" in operation:
        body = json.dumps(fields).encode()
    else:
        for parameter in operation["parameters"]:
            name = parameter["name"]
            if parameter["in"] == "path":
                path = path.replace("{" + name + "}", urllib.parse.quote(fields[name], safe=""))
            elif name in fields:
                values = fields[name] if isinstance(fields[name], list) else [fields[name]]
                query += [(name, str(value).lower() if isinstance(value, bool) else value) for value in values]
    return path + (f"?{urllib.parse.urlencode(query)}" if query else ""), verb, body


def seeds(address: str, folder: str):
    """Writes a request of each method in the formats of the targets of tests/fuzz, and descriptions of damage to model files."""
    api, by_http = Api(address), json_paths(address)
    written = {}

    def write(target: str, name: str, seed: bytes):
        number = written[target, name] = written.get((target, name), -1) + 1
        path = pathlib.Path(folder, target, f"{name}-{number}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(seed)

    for method, fields, _ in questions(api):
        message = api.request(method, fields).SerializeToString()
        name = method.rpartition("/")[2]
        for encoding, flag, pack in (("identity", 0, bytes), ("gzip", 1, gzip.compress)):
            body = pack(message)
            write("grpc", name, f"/{method}\n{encoding}\n".encode() + bytes([flag]) + len(body).to_bytes(4, "big") + body)
        if method.startswith(INFERENCE + "ModelInfer"):
            write("inference", fields["modelName"], message)
        elif not method.startswith(INFERENCE):
            target, verb, body = http_request(*by_http[operation_id(method)], fields)
            write("json", name, f"{verb} {target}\n".encode() + (body or b""))
    # Number of the file, kind of damage, offset (two bytes), number of bytes, the bytes.
    for model in range(7):
        for file in range(4):
            for damage in ([0, 0, 0, 1, 255], [0, 0, 12, 2, 48, 57], [1, 0, 9, 1, 44], [2, 0, 8, 4, 1, 1, 1, 1], [0x83, 0, 9, 0]):
                write("model", str(model), bytes([model, file, *damage]))
    print(f"{sum(1 + n for n in written.values())} seeds")


def cached(address: str):
    api = Api(address)
    fresh = [("cache-control", "no-cache")]
    kinds = {}
    for method, fields, _ in questions(api):
        uncached, _ = api.call(method, fields, headers=fresh)
        api.call(method, fields)
        again, headers = api.call(method, fields)
        check(again == uncached or method.startswith(MODEL), f"{method} {fields} has the same answer from the cache")
        kinds[headers.get("x-cache", "none")] = kinds.get(headers.get("x-cache", "none"), 0) + 1
    print(json.dumps(kinds))


def steady(address: str):
    """Makes one call after another until standard input closes."""
    api = Api(address)
    asked = [
        (SEGMENTATION + "GetCustomerSegment", {"customerId": CUSTOMER}),
        (SEGMENTATION + "ListSegments", {}),
        (CHURN + "GetChurnRisk", {"customerId": CUSTOMER}),
        (ANOMALY + "ScoreTransaction", {"transaction": LINE}),
        (RECOMMENDATION + "RecommendProducts", {"customerId": CUSTOMER}),
        (FORECAST + "ForecastSales", {"horizon": 7}),
        (INSIGHTS + "GetSummary", {"countries": [COUNTRY]}),
    ]
    requests = [(method, api.request(method, fields)) for method, fields in asked]
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    calls, failures, versions, slowest = 0, [], {}, 0.0
    # At least two rounds, even if the input closes at once.
    while not stop.is_set() or calls < 2 * len(requests):
        for method, request in requests:
            began = time.monotonic()
            try:
                answer = api.call(method, request)[0][0]
                seen = versions.setdefault(answer.model.name, [])
                if not seen or seen[-1] != answer.model.version:
                    seen.append(answer.model.version)
            except grpc.RpcError as failure:
                failures.append(f"{method}: {failure.code().name}: {failure.details()}")
            slowest = max(slowest, time.monotonic() - began)
            calls += 1
        if calls == len(requests):
            print("asking", flush=True)
    print(json.dumps({"calls": calls, "failures": failures, "versions": versions, "slowest_s": round(slowest, 4)}))


def traced(address: str, trace_id: str):
    parent = [("traceparent", f"00-{trace_id}-00f067aa0ba902b7-01")]
    Api(address).ask(CHURN + "GetChurnRisk", {"customerId": CUSTOMER}, headers=parent)


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    commands = {"every-method": every_method, "refusals": refusals, "one-answer": one_answer, "seeds": seeds, "cached": cached, "steady": steady, "movements": movements, "traced": traced}
    try:
        commands[command](*arguments)
    except (AssertionError, grpc.RpcError, json_format.ParseError) as failure:
        print(failure, file=sys.stderr)
        sys.exit(1)
