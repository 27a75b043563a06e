"""Trains the models as of each date of the evaluation protocols, and scores them.

    python models.py TRAINER BENCH [--only MODEL...] [--work DIR] [--json FILE]

TRAINER is the trainer's binary, BENCH the folder of the protocols, whose parent has data/online_retail.csv. Prints a table:
metric, bar, best baseline, result. Exits 0 even if a bar is missed.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import json
import subprocess
import sys
import tempfile
from pathlib import Path

AS_OF = "2011-09-01"
ROWS = []


def run(*command, **kwargs) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **kwargs)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def row(model: str, what: str, bar: str, baseline, ours: float):
    """Adds a row to the table; `bar` has the form `>= 0.755`, `<= 0.198` or `0.76 to 0.86`."""
    first, _, last = bar.partition(" ")
    if not bar:
        holds = True
    elif first == ">=":
        holds = ours >= float(last)
    elif first == "<=":
        holds = ours <= float(last)
    else:
        holds = float(first) <= ours <= float(last.removeprefix("to "))
    ROWS.append((model, what, bar, "" if baseline is None else f"{baseline:.3f}", f"{ours:.4f}", "" if not bar else "yes" if holds else "no"))


class Bench:
    def __init__(self, trainer: Path, bench: Path, work: Path):
        self.trainer, self.bench, self.work = trainer.resolve(), bench.resolve(), work
        self.data = self.bench.parent / "data" / "online_retail.csv"
        self.lake, self.models = work / "lake", work / "models"

    def train(self, model: str, as_of: str, models: Path | None = None) -> Path:
        """Trains and publishes a model as of a time, in a new store unless one is given."""
        models = models or self.work / "models" / f"{model}-{as_of}"
        if not (self.lake / "processed").exists():
            run(self.trainer, "ingest", "--input", self.data, "--lake", self.lake)
        run(self.trainer, "curate", "--lake", self.lake, "--as-of", as_of)
        common = ["--lake", self.lake, "--models", models]
        run(self.trainer, "train", model, "--as-of", as_of, *common)
        run(self.trainer, "evaluate", model, *common)
        run(self.trainer, "publish", model, *common)
        return models

    def score(self, model: str, models: Path, name: str, *flags) -> Path:
        output = self.work / f"{name}.csv"
        run(self.trainer, "score", model, "--models", models, "--output", output, *flags)
        return output

    def evaluate(self, model: str, *arguments) -> dict:
        output = self.work / "figures.json"
        run(sys.executable, self.bench / model / "score.py", *arguments, "--json", output)
        return json.loads(output.read_text())

    # ---- one method per model

    def segmentation(self):
        models = self.train("segmentation", AS_OF)
        now = renamed(self.score("segmentation", models, "segments"), "segment_name", "segment")
        later = (dt.date.fromisoformat(AS_OF) + dt.timedelta(days=7)).isoformat()
        self.train("segmentation", later, models)
        week = renamed(self.score("segmentation", models, "segments-week"), "segment_name", "segment")
        f = self.evaluate("segmentation", now, "--set", "dev", "--week-later", week)
        row("segmentation", "variance of log spend explained", ">= 0.275", 0.273, f["eta2_log"])
        row("segmentation", "capped spend explained", ">= 0.53", 0.54, f["eta2_w99"])
        row("segmentation", "lowest buy rate", "<= 0.34", 0.34, f["buy_rate_min"])
        row("segmentation", "highest buy rate", ">= 0.97", 0.97, f["buy_rate_max"])
        row("segmentation", "names changed without activity", "<= 0.005", 0.005, f["flap_7d_no_activity"])
        row("segmentation", "smallest segment", ">= 0.015", None, f["min_share"])

    def churn(self):
        aucs, first = [], None
        for days in (0, 30, 60):
            t = (dt.date.fromisoformat(AS_OF) - dt.timedelta(days=days)).isoformat()
            scores = self.score("churn", self.train("churn", t), f"churn-{t}")
            f = self.evaluate("churn", scores, "--set", "dev", "--t", t)
            first = first or f
            aucs.append(f["roc_auc"])
        row("churn", "AUC", ">= 0.755", 0.754, first["roc_auc"])
        row("churn", "AUC, mean of three as-of times", ">= 0.766", 0.765, sum(aucs) / len(aucs))
        row("churn", "Brier", "<= 0.198", 0.199, first["brier"])
        row("churn", "log loss", "<= 0.576", 0.577, first["log_loss"])
        row("churn", "expected calibration error", "<= 0.030", 0.028, first["ece10"])
        row("churn", "lift in the top decile", ">= 1.60", 1.60, first["lift10_churn"])

    def anomaly(self):
        models = self.train("anomaly", AS_OF)
        for seed in (20240607, 1):
            folder = self.work / f"errors-{seed}"
            run(sys.executable, self.bench / "anomaly" / "make_eval.py", "--set", "dev", "--out", folder, "--seed", seed)
            scores = self.score("anomaly", models, f"anomaly-{seed}", "--input", folder / "eval.csv")
            f = self.evaluate("anomaly", scores, "--labels", folder / "labels.csv")
            size = renamed(dropped(scores, "score"), "size", "score")
            natural = self.evaluate("anomaly", size, "--labels", folder / "labels.csv")["natural"]
            row("anomaly", f"PR AUC, seed {seed}", ">= 0.975", 0.978, f["pr_auc"])
            row("anomaly", f"recall at 1 % alerts, seed {seed}", ">= 0.94", 0.94, f["recall_at_1pct_alerts"])
            row("anomaly", f"precision in the first 100, seed {seed}", ">= 1.00", 1.0, f["precision_at_100"])
            row("anomaly", f"false alerts at high, seed {seed}", "<= 0.0010", 0.0009, f["high"]["false_alert_rate"])
            row("anomaly", f"recall at high, seed {seed}", ">= 0.93", 0.94, f["high"]["recall"])
            row("anomaly", f"ROC AUC of the size, natural labels, seed {seed}", ">= 0.98", 0.985, natural["roc_auc"])

    def recommendation(self):
        models = self.train("recommendation", AS_OF)
        # Bars: 1.05 times the NDCG of the best baseline, twice the coverage of the popularity baseline.
        tasks = [
            ("A", [], "next purchases", ">= 0.410", 0.391, ">= 0.006", 0.003),
            ("B", ["--new-only"], "new products", ">= 0.131", 0.125, ">= 0.037", 0.018),
        ]
        for task, flags, what, bar, best, covered, popular in tasks:
            lists = self.score("recommendation", models, f"recommendation-{task}", *flags)
            f = self.evaluate("recommendation", lists, "--set", "dev", "--task", task)
            f = f.get(task, f)
            row("recommendation", f"NDCG@10, {what}", bar, best, f["ndcg@10"])
            row("recommendation", f"coverage@10, {what}", covered, popular, f["coverage@10"])

    def forecast(self):
        sys.path.insert(0, str(self.bench / "forecast"))
        import protocol

        rows = [["series_id", "origin", "timestamp", "mean", *protocol.QS]]
        series = {"a": ("total", "daily"), "b": ("country", "daily"), "c": ("product", "weekly"), "d": ("total", "weekly")}
        panels, trained = protocol.build("dev"), {}
        for group, panel in panels.items():
            level, frequency = series[group]
            wanted = set(panel.y.columns)
            for origin in panel.origins:
                t = f"{origin:%Y-%m-%d}"
                trained[t] = trained.get(t) or self.train("forecast", t)
                flags = ["--level", level, "--frequency", frequency, "--horizon", panel.cfg["h"]]
                with open(self.score("forecast", trained[t], "forecast-part", *flags), encoding="utf-8") as part:
                    for line in csv.DictReader(part):
                        if line["series_id"] in wanted:
                            rows.append([line["series_id"], t, *(line[k] for k in rows[0][2:])])
        forecasts = self.work / "forecasts.csv"
        with open(forecasts, "w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows(rows)
        import pandas as pd

        groups, cases = protocol.score(pd.read_csv(forecasts), protocol.truth(panels))
        bars = {"a": (0.24, 0.20, 0.247), "b": (0.37, 0.30, 0.376), "c": (0.57, 0.475, 0.577), "d": (0.21, 0.185, 0.212)}
        for group, (wape, loss, best) in bars.items():
            f = groups[group]
            row("forecast", f"WAPE, {protocol.GROUPS[group]}", f"<= {wape}", best, f["WAPE"])
            row("forecast", f"weighted quantile loss, {protocol.GROUPS[group]}", f"<= {loss}", None, f["wQL"])
            cover = f.get("cov80_open", f["cov80"])
            row("forecast", f"80 % intervals cover, {protocol.GROUPS[group]}", "0.76 to 0.86", None, cover)
        self.forecast_bars(protocol, groups, cases)

    def forecast_bars(self, protocol, groups, cases):
        """The bars of the protocol, most of them factors of its best baseline."""
        folder = self.bench / "forecast"
        saved = json.loads((folder / "results_dev.json").read_text())
        ranks = protocol.ranks({**saved["cases"], "ours": cases})
        for bar in json.loads((folder / "bars.json").read_text())["dev"]:
            metric = bar["metric"]
            for group in bar["groups"]:
                if metric == "rank":
                    ours, theirs = ranks["ours"][group], [r[group] for n, r in ranks.items() if n != "ours" and group in r]
                else:
                    of = [model["groups"].get(group, {}) for model in saved["models"].values()]
                    ours, theirs = groups[group][metric], [figures[metric] for figures in of if metric in figures]
                if "best_baseline_times" in bar:
                    best = min(theirs)
                    wanted = f"<= {best * bar['best_baseline_times']:.4f}"
                else:
                    best, wanted = None, f"{bar['min']} to {bar['max']}"
                row("forecast", f"{metric}, {protocol.GROUPS.get(group, 'all groups')}", wanted, best, ours)


def rewritten(path: Path, change) -> Path:
    output = path.with_name(f"{path.stem}-for-scoring.csv")
    with open(path, encoding="utf-8") as source, open(output, "w", newline="", encoding="utf-8") as out:
        rows = csv.reader(source)
        csv.writer(out).writerows(change(list(rows)))
    return output


def renamed(path: Path, old: str, new: str) -> Path:
    return rewritten(path, lambda rows: [[new if name == old else name for name in rows[0]], *rows[1:]])


def dropped(path: Path, column: str) -> Path:
    def change(rows):
        at = rows[0].index(column)
        return [r[:at] + r[at + 1 :] for r in rows]

    return rewritten(path, change)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trainer", type=Path)
    parser.add_argument("bench", type=Path)
    models = ["segmentation", "churn", "anomaly", "recommendation", "forecast"]
    parser.add_argument("--only", nargs="+", choices=models, default=models)
    parser.add_argument("--work", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args.trainer, args.bench, args.work or Path(folder))
        bench.work.mkdir(parents=True, exist_ok=True)
        for model in args.only:
            print(f"{model} ...", file=sys.stderr, flush=True)
            getattr(bench, model)()
    table = [("model", "metric", "bar", "best baseline", "result", "reached"), *ROWS]
    widths = [max(len(line[at]) for line in table) for at in range(len(table[0]))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


if __name__ == "__main__":
    main()
