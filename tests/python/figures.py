"""The shop's figures, computed from the raw file with Python's standard library only, independent of the project's code.

    python figures.py FILE.csv [BEFORE]    the UCI Online Retail layout; only lines before that day

Prints JSON: `total`, `countries` and `months`, each with transactions, orders, customers, items, returned_items,
gross_revenue, returns and revenue; amounts are exact decimals in strings. docs/data.md defines which lines are sales.
"""

import csv
import decimal
import json
import sys
from datetime import datetime

SERVICES = {
    "POST", "DOT", "M", "D", "S", "B", "C2", "C3", "PADS", "CRUK", "BANK CHARGES", "AMAZONFEE", "ADJUST", "ADJUST2",
}


def kind(invoice: str, stock_code: str, quantity: int, price: decimal.Decimal) -> str:
    if invoice[0] in "Aa":
        return "adjustment"
    if invoice[0] in "Cc":
        return "cancellation"
    if stock_code.upper() in SERVICES:
        return "service"
    return "sale" if quantity > 0 and price > 0 else "adjustment"


class Figures:
    def __init__(self):
        self.lines, self.orders, self.customers = 0, set(), set()
        self.items = self.returned = 0
        self.gross = self.returns = decimal.Decimal()

    def add(self, is_sale: bool, invoice: str, customer: str, quantity: int, total: decimal.Decimal):
        self.lines += 1
        if is_sale:
            self.orders.add(invoice)
            self.items += quantity
            self.gross += total
            if customer:
                self.customers.add(customer)
        else:
            self.returned -= quantity
            self.returns -= total

    def as_dict(self) -> dict:
        return {
            "transactions": self.lines,
            "orders": len(self.orders),
            "customers": len(self.customers),
            "items": self.items,
            "returned_items": self.returned,
            "gross_revenue": str(self.gross),
            "returns": str(self.returns),
            "revenue": str(self.gross - self.returns),
        }


def main(path: str, before: str = "9999-12-31"):
    end = datetime.fromisoformat(before)
    total, countries, months = Figures(), {}, {}
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        for row in csv.DictReader(file):
            time = datetime.strptime(row["InvoiceDate"], "%m/%d/%Y %H:%M")
            if time >= end:
                continue
            invoice, code = row["InvoiceNo"].strip(), row["StockCode"].strip()
            quantity, price = int(row["Quantity"]), decimal.Decimal(row["UnitPrice"])
            what = kind(invoice, code, quantity, price)
            if what not in ("sale", "cancellation"):
                continue
            customer = row["CustomerID"].strip().removesuffix(".0")
            line = (what == "sale", invoice, customer, quantity, quantity * price)
            for figures in (
                total,
                countries.setdefault(row["Country"].strip(), Figures()),
                months.setdefault(time.strftime("%Y-%m"), Figures()),
            ):
                figures.add(*line)
    as_dicts = lambda of: {key: figures.as_dict() for key, figures in sorted(of.items())}
    print(json.dumps({"total": total.as_dict(), "countries": as_dicts(countries), "months": as_dicts(months)}))


main(*sys.argv[1:])
