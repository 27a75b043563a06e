"""The questions of the golden test: every method of every service, good requests and bad ones.

They are made from the sample shop's file alone, by a generator with a fixed seed for each method, so that a question added to
one method leaves the others as they are. A stock code that ends in `.0` is never asked for.
"""

from __future__ import annotations

import base64
import collections
import csv
import random
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

SEGMENTATION = "shopkeeper.segmentation.v1.SegmentationService/"
FORECAST = "shopkeeper.forecast.v1.ForecastService/"
RECOMMENDATION = "shopkeeper.recommendation.v1.RecommendationService/"
CHURN = "shopkeeper.churn.v1.ChurnService/"
ANOMALY = "shopkeeper.anomaly.v1.AnomalyService/"
INSIGHTS = "shopkeeper.insights.v1.InsightsService/"
MODEL = "shopkeeper.model.v1.ModelService/"
INFERENCE = "inference.GRPCInferenceService/"
MODELS = ["segmentation", "forecast", "recommendation", "churn", "anomaly", "insights"]

STRANGER, NO_SUCH, NOWHERE = "no-such-customer", "no-such-product", "Atlantis"
LEVELS = ["LEVEL_UNSPECIFIED", "LEVEL_TOTAL", "LEVEL_COUNTRY", "LEVEL_PRODUCT"]
PERIODS = ["FREQUENCY_UNSPECIFIED", "FREQUENCY_DAILY", "FREQUENCY_WEEKLY", "FREQUENCY_MONTHLY"]
NAN, INFINITY = "NaN", "Infinity"


@dataclass(frozen=True)
class Question:
    """A method with its request in JSON form: one message, or a list of them for a client stream.

    `pages` asks on with each `next_page_token` for that many pages at most."""

    method: str
    fields: dict | list
    pages: int = 1


class Shop:
    """The known names in a file of transactions, the most frequent first."""

    def __init__(self, file: Path):
        with open(file, newline="") as opened:
            self.lines = list(csv.DictReader(opened))
        orders = collections.defaultdict(set)
        for line in self.lines:
            if line["CustomerID"]:
                orders[line["CustomerID"]].add(line["InvoiceNo"])
        counts = collections.Counter(line["StockCode"] for line in self.lines)
        self.customers = sorted(orders, key=lambda customer: (-len(orders[customer]), customer))
        self.products = sorted(counts, key=lambda product: (-counts[product], product))
        self.countries = sorted({line["Country"] for line in self.lines})
        self.descriptions = sorted({line["Description"] for line in self.lines})
        days = [datetime.strptime(line["InvoiceDate"], "%m/%d/%Y %H:%M") for line in (self.lines[0], self.lines[-1])]
        self.first, self.last = (day.replace(hour=0, minute=0) for day in days)

    def day(self, share: float) -> datetime:
        """A day at this share of the way from the first to the last."""
        return self.first + timedelta(days=int(share * (self.last - self.first).days))


def spread(items: list, count: int) -> list:
    """This many of a list, evenly, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / max(1, count - 1))] for i in range(count)]


def instant(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def questions(shop: Shop, features: list[str], versions: dict[str, list[str]]):
    """All of them, in order. `features` are the names that the churn model takes, `versions` each model's, newest first."""
    for part in (segmentation, forecast, recommendation, anomaly, insights):
        yield from part(shop)
    yield from churn(shop, features)
    yield from movements(versions)
    yield from models(versions)
    yield from inference(shop, features, versions)
    yield from health()


def segmentation(shop: Shop):
    ask = lambda method, fields, pages=1: Question(SEGMENTATION + method, fields, pages)
    known = spread(shop.customers, 40)
    odd_ids = [STRANGER, "", " ", "0", "-1", "x" * 300, "é" * 20, "a\nb", known[0].lower() + "?", "12345.5"]
    spellings = [f" {known[1]} ", f"{known[1]}.0", f"{known[2]}.00", f"0{known[2]}"]
    for customer in known + odd_ids + spellings:
        yield ask("GetCustomerSegment", {"customerId": customer})
    yield ask("GetCustomerSegment", {})

    for size in (1, 2, 10, 60):
        yield ask("BatchGetCustomerSegments", {"customerIds": spread(shop.customers, size)})
    yield ask("BatchGetCustomerSegments", {"customerIds": [known[0], STRANGER, "", known[0], f"{known[0]}.0"]})
    yield ask("BatchGetCustomerSegments", {})
    yield ask("BatchGetCustomerSegments", {"customerIds": [known[0]] * 1001})

    dice = random.Random("ClassifyCustomer")
    for _ in range(50):
        rfm = {
            "recencyDays": round(dice.expovariate(1 / 60), 1),
            "frequency": 1 + int(dice.expovariate(1 / 6)),
            "monetary": round(dice.lognormvariate(6, 1.6), 2),
        }
        yield ask("ClassifyCustomer", {"rfm": rfm})
    good = {"recencyDays": 10, "frequency": 3, "monetary": 500}
    for name in good:
        for value in (0, -1, NAN, INFINITY, 1e300, 1e-300):
            yield ask("ClassifyCustomer", {"rfm": {**good, name: value}})
    yield ask("ClassifyCustomer", {"rfm": {}})
    yield ask("ClassifyCustomer", {})
    yield ask("ListSegments", {})

    for fields in (
        {"pageSize": 25},
        {"pageSize": 10, "segmentId": 1},
        {"pageSize": 10, "segmentId": 4},
        {"pageSize": 10, "segmentId": 99},
        {"pageSize": 10, "segmentId": -1},
        {"pageSize": 10, "rfmCell": "At Risk"},
        {"pageSize": 10, "rfmCell": "Champions"},
        {"pageSize": 10, "rfmCell": "no such cell"},
        {"pageSize": 5, "rfmCell": "Loyal", "lifecycle": "LIFECYCLE_ACTIVE"},
    ):
        yield ask("ListCustomerSegments", fields, pages=2)
    for lifecycle in ("NEW", "ACTIVE", "COOLING", "LAPSED"):
        yield ask("ListCustomerSegments", {"pageSize": 12, "lifecycle": f"LIFECYCLE_{lifecycle}"}, pages=2)
    yield ask("ListCustomerSegments", {"lifecycle": 9})
    yield from bad_pages(SEGMENTATION + "ListCustomerSegments")


def bad_pages(method: str):
    for fields in ({"pageSize": -1}, {"pageSize": 1001}, {"pageToken": "nonsense"}, {"pageToken": "AAAA"}, {"pageToken": "x" * 400}):
        # A page size above the limit is not an error: the answer would be long.
        if fields != {"pageSize": 1001}:
            yield Question(method, fields)


def forecast(shop: Shop):
    ask = lambda method, fields, pages=1: Question(FORECAST + method, fields, pages)
    for level in LEVELS:
        yield ask("ListSeries", {"level": level, "pageSize": 8}, pages=2)
    yield ask("ListSeries", {"level": 7})
    yield from bad_pages(FORECAST + "ListSeries")

    keys = {
        "LEVEL_TOTAL": [""],
        "LEVEL_COUNTRY": shop.countries,
        "LEVEL_PRODUCT": spread(shop.products, 12),
    }
    horizons = {"FREQUENCY_DAILY": [1, 0, 31], "FREQUENCY_WEEKLY": [1, 0, 20], "FREQUENCY_MONTHLY": [1, 0, 12]}
    for level, names in keys.items():
        for frequency, periods in horizons.items():
            for name in names:
                for horizon in periods if level != "LEVEL_PRODUCT" else periods[:2]:
                    yield ask("ForecastSales", {"level": level, "key": name, "frequency": frequency, "horizon": horizon})
    quantiles = [[0.5], [0.025, 0.975], [0.9, 0.1], [0.1] * 9, [0.1] * 10, [0], [1], [0.5, NAN], [-0.1], [1e-9, 1 - 1e-9]]
    for levels in quantiles:
        yield ask("ForecastSales", {"horizon": 3, "quantiles": levels})
    for fields in (
        {},
        {"level": "LEVEL_COUNTRY", "key": NOWHERE},
        {"level": "LEVEL_COUNTRY"},
        {"level": "LEVEL_COUNTRY", "key": shop.countries[0].lower()},
        {"level": "LEVEL_PRODUCT"},
        {"level": "LEVEL_PRODUCT", "key": NO_SUCH},
        {"level": "LEVEL_PRODUCT", "key": shop.products[0].lower(), "horizon": 2},
        {"level": "LEVEL_TOTAL", "key": "everything"},
        {"level": 9},
        {"frequency": 9},
        {"horizon": -1},
        {"horizon": 366},
        {"horizon": 367},
        {"frequency": "FREQUENCY_WEEKLY", "horizon": 53},
        {"frequency": "FREQUENCY_WEEKLY", "horizon": 54},
        {"frequency": "FREQUENCY_MONTHLY", "horizon": 13},
    ):
        yield ask("ForecastSales", fields)

    for name in ["", *shop.countries]:
        for frequency in PERIODS:
            level = "LEVEL_COUNTRY" if name else "LEVEL_TOTAL"
            yield ask("ListBacktest", {"level": level, "key": name, "frequency": frequency})
    for fields in (
        {},
        {"level": "LEVEL_PRODUCT", "key": shop.products[0]},
        {"level": "LEVEL_COUNTRY", "key": NOWHERE},
        {"level": "LEVEL_COUNTRY"},
        {"frequency": 9},
    ):
        yield ask("ListBacktest", fields)
    yield from histories(ask)


def histories(ask):
    """Figures of a caller's own: rising, seasonal, lumpy, constant, short, long, and unusable ones."""
    dice = random.Random("ForecastHistory")
    monday, month_days = 1_293_408_000, 86400

    def stamped(values: list, days: int) -> list:
        at = lambda i: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(monday + i * days * month_days))
        return [{"periodStart": at(i), "value": value} for i, value in enumerate(values)]

    shapes = {
        "rising": lambda i: 100 + 3 * i + 10 * (i % 4),
        "weekly": lambda i: 50 + 40 * (i % 7 in (4, 5)) + dice.randrange(9),
        "lumpy": lambda i: dice.randrange(400) if dice.random() < 0.2 else 0,
        "constant": lambda i: 7,
        "nothing": lambda i: 0,
        "large": lambda i: 1e14 + 1e12 * (i % 5),
    }
    for shape in shapes.values():
        for frequency, days, count in (("DAILY", 1, 120), ("WEEKLY", 7, 60), ("WEEKLY", 7, 8)):
            history = stamped([round(shape(i), 2) for i in range(count)], days)
            yield ask("ForecastHistory", {"history": history, "frequency": f"FREQUENCY_{frequency}", "horizon": 5})
    months = [{"periodStart": f"{2019 + i // 12}-{i % 12 + 1:02}-01T00:00:00Z", "value": 900 + 50 * (i % 12)} for i in range(40)]
    yield ask("ForecastHistory", {"history": months, "frequency": "FREQUENCY_MONTHLY"})
    yield ask("ForecastHistory", {"history": months, "frequency": "FREQUENCY_WEEKLY"})

    usable = stamped([10 + i % 3 for i in range(30)], 1)
    yield ask("ForecastHistory", {"history": usable, "horizon": 4, "quantiles": [0.25, 0.75]})
    yield ask("ForecastHistory", {"history": usable, "horizon": -1})
    yield ask("ForecastHistory", {"history": usable, "quantiles": [2]})
    yield ask("ForecastHistory", {"history": usable, "frequency": 9})
    yield ask("ForecastHistory", {"history": usable[:7]})
    yield ask("ForecastHistory", {"history": usable[::-1]})
    yield ask("ForecastHistory", {"history": usable[:9] + usable[10:]})
    yield ask("ForecastHistory", {"history": usable[:9] + usable[8:]})
    yield ask("ForecastHistory", {"history": [{"value": 1}] * 9})
    yield ask("ForecastHistory", {})
    for value in (NAN, INFINITY, -1, 1e15, 1.1e15):
        yield ask("ForecastHistory", {"history": usable[:20] + [{**usable[20], "value": value}]})


def recommendation(shop: Shop):
    ask = lambda method, fields: Question(RECOMMENDATION + method, fields)
    dice = random.Random("RecommendProducts")
    known, products = spread(shop.customers, 30), shop.products
    for customer in known:
        yield ask("RecommendProducts", {"customerId": customer})
        yield ask("RecommendProducts", {"customerId": customer, "limit": 5, "newOnly": True})
    for customer in known[:12]:
        basket = dice.sample(products[:200], 3)
        yield ask("RecommendProducts", {"customerId": customer, "basket": basket, "limit": 8})
        yield ask("RecommendProducts", {"customerId": customer, "exclude": products[:40], "limit": 6})
        yield ask("RecommendProducts", {"customerId": customer, "minPrice": 2, "maxPrice": 5.5, "limit": 6})
    for size in (1, 2, 3, 5, 10, 40):
        for _ in range(4):
            yield ask("RecommendProducts", {"basket": dice.sample(products, size), "limit": 7})
    one, other = products[0], products[-1]
    for fields in (
        {},
        {"customerId": STRANGER},
        {"customerId": STRANGER, "basket": [one], "limit": 3},
        {"customerId": f"{known[0]}.0", "limit": 3},
        {"customerId": known[0], "limit": -1},
        {"customerId": known[0], "limit": 100},
        {"customerId": known[0], "limit": 101},
        {"customerId": known[0], "limit": 21},
        {"customerId": known[0], "minPrice": NAN},
        {"customerId": known[0], "minPrice": -1},
        {"customerId": known[0], "minPrice": 5, "maxPrice": 4},
        {"customerId": known[0], "maxPrice": 0},
        {"customerId": known[0], "maxPrice": 0.01},
        {"customerId": known[0], "basket": [""]},
        {"basket": [NO_SUCH]},
        {"basket": [one, NO_SUCH, one], "limit": 3},
        {"basket": [one.lower(), f" {other} "], "limit": 3},
        {"basket": [one] * 101},
        {"basket": [one], "exclude": [NO_SUCH] * 1001},
        {"basket": [one], "exclude": products[:1000], "limit": 3},
    ):
        yield ask("RecommendProducts", fields)

    for product in [*spread(products, 24), NO_SUCH, "", one.lower(), "x" * 300]:
        yield ask("ListSimilarProducts", {"stockCode": product, "limit": 6})
        yield ask("ListBoughtTogether", {"stockCode": product, "limit": 6})
    for fields in ({"limit": 0}, {"limit": -1}, {"limit": 100}, {"limit": 101}):
        yield ask("ListSimilarProducts", {"stockCode": one, **fields})
        yield ask("ListBoughtTogether", {"stockCode": one, **fields})
    for fields in (
        {"minConfidence": 0.2},
        {"minConfidence": 2},
        {"minConfidence": NAN},
        {"minLift": 2},
        {"minLift": -1},
        {"minLift": INFINITY},
        {"minConfidence": 0.05, "minLift": 1.5, "limit": 30},
    ):
        yield ask("ListBoughtTogether", {"stockCode": one, **fields})


def transaction(line: dict, at: int) -> dict:
    when = datetime.strptime(line["InvoiceDate"], "%m/%d/%Y %H:%M")
    return {
        "lineId": str(at),
        "invoice": line["InvoiceNo"],
        "stockCode": line["StockCode"],
        "quantity": abs(int(line["Quantity"])),
        "unitPrice": float(line["UnitPrice"]),
        "customerId": line["CustomerID"],
        "country": line["Country"],
        "invoiceTime": instant(when),
    }


def anomaly(shop: Shop):
    ask = lambda method, fields, pages=1: Question(ANOMALY + method, fields, pages)
    dice = random.Random("ScoreTransaction")
    lines = [transaction(line, at) for at, line in enumerate(spread(shop.lines, 60)) if float(line["UnitPrice"]) > 0]
    changed = []
    for line in lines:
        yield ask("ScoreTransaction", {"transaction": line})
        what = dice.choice(["quantity", "unitPrice", "both", "few"])
        factor = dice.choice([10, 100, 1000])
        other = dict(line)
        if what in ("quantity", "both"):
            other["quantity"] *= factor
        if what in ("unitPrice", "both"):
            other["unitPrice"] = round(other["unitPrice"] * factor, 2)
        if what == "few":
            other["unitPrice"] = round(other["unitPrice"] / factor, 4) or 0.0001
        changed.append(other)
        yield ask("ScoreTransaction", {"transaction": other})
    good = lines[0]
    only = {name: good[name] for name in ("stockCode", "quantity", "unitPrice")}
    odd = [
        only,
        {**only, "stockCode": NO_SUCH},
        {**only, "customerId": STRANGER},
        {**only, "country": NOWHERE},
        {**good, "stockCode": good["stockCode"].lower()},
        {**good, "stockCode": ""},
        {**good, "quantity": 0},
        {**good, "quantity": -6},
        {**good, "quantity": "9223372036854775807"},
        {**good, "unitPrice": 0},
        {**good, "unitPrice": -1},
        {**good, "unitPrice": NAN},
        {**good, "unitPrice": INFINITY},
        {**good, "unitPrice": 1e300},
        {**good, "unitPrice": 1e-300},
        {**good, "invoiceTime": "1970-01-01T00:00:00Z"},
        {**good, "invoiceTime": "9999-12-31T23:59:59Z"},
        {},
    ]
    for line in odd:
        yield ask("ScoreTransaction", {"transaction": line})
    yield ask("ScoreTransaction", {})

    several = lines + changed + odd
    for start in range(0, len(several), 16):
        part = several[start : start + 16]
        yield ask("ScoreTransactions", [{"sequence": i, "transaction": line} for i, line in enumerate(part)])
    yield ask("ScoreTransactions", [{"sequence": -5, "transaction": good}, {"sequence": -5}, {"transaction": good}])
    yield ask("ScoreTransactions", [])
    # Lines of one invoice: the stream scores each by itself.
    invoice = [line for line in shop.lines if line["InvoiceNo"] == shop.lines[len(shop.lines) // 2]["InvoiceNo"]]
    stream = [{"sequence": i, "transaction": transaction(line, i)} for i, line in enumerate(invoice)]
    yield ask("ScoreTransactions", stream)

    for severity in ("UNSPECIFIED", "NONE", "LOW", "MEDIUM", "HIGH"):
        yield ask("ListAnomalies", {"minSeverity": f"SEVERITY_{severity}", "pageSize": 20}, pages=3)
    late, later = instant(shop.last - timedelta(days=30)), instant(shop.last - timedelta(days=10))
    for fields in (
        {"startTime": late},
        {"endTime": later},
        {"startTime": late, "endTime": later},
        {"startTime": later, "endTime": late},
        {"startTime": "2035-01-01T00:00:00Z"},
        {"startTime": late, "endTime": late},
    ):
        yield ask("ListAnomalies", {"minSeverity": "SEVERITY_LOW", "pageSize": 10, **fields})
    yield ask("ListAnomalies", {"minSeverity": 9})
    yield from bad_pages(ANOMALY + "ListAnomalies")


def ranges(shop: Shop) -> list[dict]:
    """Ranges of time: all, whole months, odd instants, one day, and unusable ones."""
    day = shop.day
    return [
        {},
        {"startTime": instant(day(0.4))},
        {"endTime": instant(day(0.6))},
        {"startTime": instant(day(0.3)), "endTime": instant(day(0.7))},
        {"startTime": instant(day(0.5) + timedelta(hours=11, minutes=37)), "endTime": instant(day(0.52) + timedelta(hours=15))},
        {"startTime": instant(day(0.9)), "endTime": instant(day(0.9) + timedelta(days=1))},
        {"startTime": instant(day(0.9)), "endTime": instant(day(0.9))},
        {"startTime": instant(day(0.9)), "endTime": instant(day(0.1))},
        {"startTime": "2035-01-01T00:00:00Z"},
        {"endTime": "1999-01-01T00:00:00Z"},
    ]


def insights(shop: Shop):
    ask = lambda method, fields, pages=1: Question(INSIGHTS + method, fields, pages)
    countries, products = shop.countries, shop.products
    places = [{}, {"countries": [countries[0]]}, {"countries": [countries[-1], countries[1]]}]
    bad_places = [{"countries": [NOWHERE]}, {"countries": [""]}, {"countries": [countries[0].lower()]}, {"countries": [countries[0]] * 1001}]
    codes = [{"stockCodes": [products[0]]}, {"stockCodes": spread(products, 7)}]
    bad_codes = [{"stockCodes": [NO_SUCH]}, {"stockCodes": [""]}, {"stockCodes": [products[0], NO_SUCH]}]

    for span in ranges(shop):
        for place in places:
            yield ask("GetSummary", {**span, **place})
            yield ask("ListSalesByCountry", {**span, **place})
            yield ask("ListTopProducts", {"pageSize": 6, **span, **place})
            yield ask("ListRevenueBySegment", {**span, **place})
    for fields in codes:
        for span in ranges(shop)[:6]:
            yield ask("GetSummary", {**span, **fields})
            yield ask("ListSalesByCountry", {**span, **fields})
    for fields in bad_places:
        for method in ("GetSummary", "ListSalesByCountry", "ListTopProducts", "ListSalesTrend", "ListCustomerGrowth", "ListCohortRetention", "ListRevenueBySegment"):
            yield ask(method, fields)
    for fields in bad_codes:
        for method in ("GetSummary", "ListSalesByCountry", "ListSalesTrend"):
            yield ask(method, fields)

    for frequency in [*PERIODS, "FREQUENCY_YEARLY"]:
        for place in places[:2]:
            for span in (ranges(shop)[0], ranges(shop)[3], ranges(shop)[4]):
                fields = {"frequency": frequency, "pageSize": 14, **span, **place}
                yield ask("ListSalesTrend", fields, pages=2)
                yield ask("ListCustomerGrowth", fields, pages=2)
                yield ask("ListCohortRetention", {**fields, "pageSize": 5, "maxPeriods": 6}, pages=2)
    yield ask("ListSalesTrend", {"frequency": "FREQUENCY_MONTHLY", "stockCodes": products[:2]})
    for periods in (-1, 0, 1, 120, 121):
        yield ask("ListCohortRetention", {"maxPeriods": periods, "pageSize": 4})
    for method in ("ListSalesTrend", "ListCustomerGrowth", "ListCohortRetention"):
        yield ask(method, {"frequency": 9})
    for order in ("UNSPECIFIED", "REVENUE", "QUANTITY", 9):
        yield ask("ListTopProducts", {"order": order if order == 9 else f"PRODUCT_ORDER_{order}", "pageSize": 15}, pages=2)
    for method in ("ListSalesByCountry", "ListSalesTrend", "ListTopProducts", "ListCustomerGrowth", "ListCohortRetention", "ListRevenueBySegment", "ListCountries", "SearchProducts"):
        yield from bad_pages(INSIGHTS + method)
        yield ask(method, {"pageSize": 2}, pages=3)

    yield ask("ListCountries", {})
    words = sorted({word for text in shop.descriptions for word in text.split()})
    for query in [*spread(words, 10), "red mug", "MUG red", "zzz", products[0], products[0][:3], products[1].lower(), " ", "%", "(", "x" * 200, "x" * 201]:
        yield ask("SearchProducts", {"query": query, "pageSize": 6})

    known = spread(shop.customers, 16)
    for customer in known:
        yield ask("GetCustomerProfile", {"customerId": customer})
        yield ask("ListCustomerOrders", {"customerId": customer, "pageSize": 4}, pages=3)
    for span in ranges(shop)[1:]:
        yield ask("GetCustomerProfile", {"customerId": known[0], **span})
        yield ask("ListCustomerOrders", {"customerId": known[0], "pageSize": 4, **span})
    for fields in ({}, {"customerId": STRANGER}, {"customerId": f"{known[3]}.0"}, {"customerId": known[3], "countries": [countries[0]]}, {"customerId": known[3], "countries": [NOWHERE]}):
        yield ask("GetCustomerProfile", fields)
        yield ask("ListCustomerOrders", fields)
    yield ask("ListCustomerOrders", {"customerId": known[0], "pageToken": "nonsense"})

    week = {"startTime": instant(shop.day(0.5)), "endTime": instant(shop.day(0.5) + timedelta(days=7))}
    for export in ("UNSPECIFIED", "CSV", "PARQUET"):
        for fields in (
            {**week},
            {"countries": [countries[-1]]},
            {"stockCodes": products[:2], **week},
            {"customerIds": known[:2]},
            {"kinds": ["LINE_KIND_CANCELLATION"]},
            {"kinds": ["LINE_KIND_SERVICE", "LINE_KIND_ADJUSTMENT"]},
            {"startTime": "2035-01-01T00:00:00Z"},
        ):
            yield ask("ExportTransactions", {"format": f"EXPORT_FORMAT_{export}", **fields})
    yield ask("ExportTransactions", {})
    for fields in ({"format": 9}, {"kinds": [9]}, {"kinds": ["LINE_KIND_UNSPECIFIED"]}, {"customerIds": [STRANGER]}, {"customerIds": [""]}, {"countries": [NOWHERE]}, {"stockCodes": [NO_SUCH]}, ranges(shop)[7]):
        yield ask("ExportTransactions", fields)


def churn(shop: Shop, features: list[str]):
    ask = lambda method, fields, pages=1: Question(CHURN + method, fields, pages)
    known = spread(shop.customers, 50)
    for customer in [*known, STRANGER, "", " ", f" {known[1]} ", f"{known[1]}.0", "x" * 300]:
        yield ask("GetChurnRisk", {"customerId": customer})
    yield ask("GetChurnRisk", {})
    for size in (1, 2, 10, 60):
        yield ask("BatchGetChurnRisks", {"customerIds": spread(shop.customers, size)})
    yield ask("BatchGetChurnRisks", {"customerIds": [STRANGER, known[0], "", known[0]]})
    yield ask("BatchGetChurnRisks", {})
    yield ask("BatchGetChurnRisks", {"customerIds": [known[0]] * 1001})

    dice = random.Random("ScoreChurn")
    for _ in range(40):
        yield ask("ScoreChurn", {"features": {name: round(dice.lognormvariate(1, 1.5), 3) for name in features}})
    ones = {name: 1.0 for name in features}
    for name in features:
        yield ask("ScoreChurn", {"features": {**ones, name: dice.choice([0, 40, 400])}})
    first, last = features[0], features[-1]
    for fields in (
        {},
        {first: 1},
        {name: 1.0 for name in features[1:]},
        {**ones, "no_such_feature": 1},
        {**ones, first: NAN},
        {**ones, last: INFINITY},
        {**ones, first: -1},
        {**ones, last: 1e300},
        {name: 0 for name in features},
    ):
        yield ask("ScoreChurn", {"features": fields})

    for level in ("UNSPECIFIED", "LOW", "MEDIUM", "HIGH"):
        yield ask("ListAtRiskCustomers", {"minRiskLevel": f"RISK_LEVEL_{level}", "pageSize": 8}, pages=2)
    for country in [*shop.countries, NOWHERE, shop.countries[0].lower()]:
        yield ask("ListAtRiskCustomers", {"country": country, "pageSize": 5})
    yield ask("ListAtRiskCustomers", {"minRiskLevel": 9})
    yield from bad_pages(CHURN + "ListAtRiskCustomers")
    yield ask("GetChurnCalibration", {})


def recipe(shop: Shop, versions: dict[str, list[str]]):
    """Questions for a segmentation model of another recipe."""
    ask = lambda method, fields: Question(SEGMENTATION + method, fields)
    yield ask("ListSegments", {})
    for customer in spread(shop.customers, 12):
        yield ask("GetCustomerSegment", {"customerId": customer})
    dice = random.Random("recipe")
    for _ in range(20):
        rfm = {"recencyDays": dice.randrange(300), "frequency": 1 + dice.randrange(30), "monetary": dice.randrange(9000)}
        yield ask("ClassifyCustomer", {"rfm": rfm})
    yield ask("ListCustomerSegments", {"pageSize": 20})
    yield from movements(versions)
    yield Question(INSIGHTS + "ListRevenueBySegment", {})
    values = [("recency_days", [1.0, 300.0]), ("frequency", [40.0, 1.0]), ("monetary", [9000.0, 20.0])]
    inputs = [tensor(name, "FP64", numbers) for name, numbers in values]
    yield Question(INFERENCE + "ModelInfer", {"modelName": "segmentation", "id": "7", "inputs": inputs})


def movements(versions: dict[str, list[str]]):
    for since in ["", "no-such-version", "../current", *sorted(versions["segmentation"])]:
        yield Question(SEGMENTATION + "ListSegmentMovements", {"sinceVersion": since})


def models(versions: dict[str, list[str]]):
    for model in [*MODELS, "no-such-model", ""]:
        for method in ("GetModelStatus", "WatchModel"):
            yield Question(MODEL + method, {"model": model})
        yield Question(MODEL + "ListModelVersions", {"model": model, "pageSize": 1}, pages=2)
        yield Question(MODEL + "ListModelVersions", {"model": model, "pageSize": -1})
        yield Question(MODEL + "ListModelVersions", {"model": model, "pageToken": "nonsense"})
        current = versions.get(model, ["none"])[0]
        yield Question(MODEL + "SetCurrentVersion", {"model": model, "version": current, "expectedVersion": "another"})
        yield Question(MODEL + "SetCurrentVersion", {"model": model, "version": "no-such-version", "expectedVersion": current})
        yield Question(MODEL + "SetCurrentVersion", {"model": model})


def tensor(name: str, datatype: str, values: list, shape: list | None = None) -> dict:
    contents = {
        "BYTES": lambda: {"bytesContents": [base64.b64encode(v.encode()).decode() for v in values]},
        "INT32": lambda: {"intContents": values},
        "INT64": lambda: {"int64Contents": values},
        "FP32": lambda: {"fp32Contents": values},
        "FP64": lambda: {"fp64Contents": values},
    }
    return {"name": name, "datatype": datatype, "shape": shape or [len(values)], "contents": contents[datatype]()}


def inference(shop: Shop, features: list[str], versions: dict[str, list[str]]):
    ask = lambda method, fields: Question(INFERENCE + method, fields)
    yield ask("ServerLive", {})
    yield ask("ServerReady", {})
    yield ask("ServerMetadata", {})
    yield ask("RepositoryIndex", {})
    yield ask("RepositoryIndex", {"ready": True})
    for model in [*MODELS, "no-such-model", ""]:
        for version in ("", versions.get(model, [""])[0], "no-such-version"):
            yield ask("ModelReady", {"name": model, "version": version})
            yield ask("ModelMetadata", {"name": model, "version": version})

    infer = lambda model, inputs, **more: ask("ModelInfer", {"modelName": model, "id": "7", "inputs": inputs, **more})
    dice = random.Random("ModelInfer")
    known = spread(shop.customers, 8)
    for model in ("segmentation", "churn"):
        yield infer(model, [tensor("customer_id", "BYTES", known)])
        yield infer(model, [tensor("customer_id", "BYTES", [known[0], STRANGER])])
        yield infer(model, [tensor("customer_id", "BYTES", [])])
        yield infer(model, [])
        yield infer(model, [tensor("customer_id", "INT64", [1])])
        yield infer(model, [tensor("no_such_input", "BYTES", ["1"])])
        yield infer(model, [tensor("customer_id", "BYTES", known[:1])], modelVersion="no-such-version")
        yield infer(model, [tensor("customer_id", "BYTES", known[:1])], outputs=[{"name": "no_such_output"}])
        yield infer(model, [tensor("customer_id", "BYTES", known[:2], [3])])
    rows = [round(dice.lognormvariate(1, 1), 3) for _ in range(3 * len(features))]
    yield infer("churn", [tensor("features", "FP32", rows, [3, len(features)])])
    yield infer("churn", [tensor("features", "FP32", rows, [3, len(features)])], outputs=[{"name": "probability"}])
    yield infer("churn", [tensor("features", "FP32", rows[:-1], [1, 3 * len(features) - 1])])
    yield infer("churn", [tensor("features", "FP32", [NAN, *rows[1:]], [3, len(features)])])
    values = [("recency_days", [1.0, 50.0, 300.0]), ("frequency", [40.0, 5.0, 1.0]), ("monetary", [9000.0, 800.0, 20.0])]
    yield infer("segmentation", [tensor(name, "FP64", numbers) for name, numbers in values])
    yield infer("segmentation", [tensor(name, "FP64", numbers) for name, numbers in values[:2]])
    yield infer("segmentation", [tensor(name, "FP64", [-1.0]) for name, _ in values])
    lines = spread(shop.lines, 5)
    line = [
        tensor("stock_code", "BYTES", [line["StockCode"] for line in lines]),
        tensor("quantity", "INT64", [max(1, abs(int(line["Quantity"]))) for line in lines]),
        tensor("unit_price", "FP64", [max(0.01, float(line["UnitPrice"])) for line in lines]),
    ]
    yield infer("anomaly", line)
    yield infer("anomaly", [*line, tensor("customer_id", "BYTES", [line["CustomerID"] for line in lines])])
    yield infer("anomaly", line[:2])
    yield infer("anomaly", [line[0], tensor("quantity", "INT64", [0] * 5), line[2]])
    yield infer("anomaly", line, outputs=[{"name": "severity"}, {"name": "score"}])
    yield infer("no-such-model", line)
    yield infer("forecast", line)


def health():
    services = [SEGMENTATION, FORECAST, RECOMMENDATION, CHURN, ANOMALY, INSIGHTS, MODEL, INFERENCE]
    for service in [name.rstrip("/") for name in services] + ["", "no.such.Service"]:
        yield Question("grpc.health.v1.Health/Check", {"service": service})


# Requests over HTTP that no method's JSON form makes: verb, target, body.
HTTP = [
    ("GET", "/v1/no/such/path", None),
    ("GET", "/v1", None),
    ("DELETE", "/v1/segments", None),
    ("POST", "/v1/segments", "{}"),
    ("GET", "/v1/products:recommend", None),
    ("POST", "/v1/products:recommend", "{"),
    ("POST", "/v1/products:recommend", ""),
    ("POST", "/v1/products:recommend", "[]"),
    ("POST", "/v1/products:recommend", "null"),
    ("POST", "/v1/products:recommend", '{"no_such_field": 1}'),
    ("POST", "/v1/products:recommend", '{"limit": "three"}'),
    ("POST", "/v1/products:recommend", '{"limit": 3.5}'),
    ("POST", "/v1/products:recommend", '{"limit": 99999999999}'),
    ("POST", "/v1/products:recommend", '{"basket": "one"}'),
    ("POST", "/v1/products:recommend", '{"basket": [1]}'),
    ("POST", "/v1/products:recommend", '{"limit": 3, "limit": 4}'),
    ("POST", "/v1/customers:classify", '{"rfm": {"recencyDays": "NaN", "frequency": 1, "monetary": 1}}'),
    ("POST", "/v1/customers:classify", '{"rfm": {"recency_days": 3, "frequency": 4, "monetary": 50}}'),
    ("POST", "/v1/customers:classify", '{"rfm": null}'),
    ("GET", "/v1/segments?no_such_parameter=1", None),
    ("GET", "/v1/series?pageSize=3&page_size=4", None),
    ("GET", "/v1/series?pageSize=three", None),
    ("GET", "/v1/series?level=LEVEL_NO_SUCH", None),
    ("GET", "/v1/series?level=1&pageSize=2", None),
    ("GET", "/v1/sales:forecast?quantiles=0.1&quantiles=0.9&horizon=2", None),
    ("GET", "/v1/sales:forecast?quantiles=half&horizon=2", None),
    ("GET", "/v1/insights/summary?startTime=yesterday", None),
    ("GET", "/v1/insights/summary?startTime=2023-10-01T00:00:00%2B02:00", None),
    ("GET", "/v1/insights/summary?countries=EIRE&countries=Spain", None),
    ("GET", "/v1/customers/%2F/segment", None),
    ("GET", "/v1/customers/%FF/segment", None),
    ("GET", "/v1/customers//segment", None),
    ("POST", "/v1/transactions:scoreStream", "not json\n"),
    ("POST", "/v1/transactions:scoreStream", '{"sequence": 1}\n\n{"sequence": 2}\nnot json\n{"sequence": 3}\n'),
    ("GET", "/no-such-page-of-the-dashboard.js", None),
]
