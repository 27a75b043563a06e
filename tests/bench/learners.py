"""Compares the learners with the best-known libraries on the same data and the same cores: wall and CPU seconds.

    python learners.py LEARNERS DATA [--only kmeans|forest|als|fold-in ...] [--customers N] [--k K...]

LEARNERS is the compiled `trainer/benches/learners.rs`, DATA the Online Retail file. Compares k-means and the random forest on
N synthetic customers (default: a million) with scikit-learn, ALS on DATA's customers and products with `implicit`, and the
recommendations for customers with one order: folded in as a basket against a retrained model.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

CORES = len(os.sched_getaffinity(0))
ROWS = []


def timed(of):
    """Calls a function; its result, wall seconds and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    return of(), time.perf_counter() - wall, time.process_time() - cpu


def cost(what: str, wall: float, cpu: float) -> str:
    return f"{what}, {wall:.2f} s ({cpu:.2f} of CPU)"


class Bench:
    def __init__(self, learners: Path, data: Path, customers: int, ks: list[int], folder: Path):
        self.learners, self.data, self.customers, self.ks, self.folder = learners, data, customers, ks, folder

    def ours(self, *arguments, **environment) -> list[list[float]]:
        env = os.environ | environment
        command = [self.learners, *map(str, arguments)]
        output = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
        return [[float(word) for word in line.split()] for line in output.splitlines()]

    def save(self, name: str, values) -> Path:
        path = self.folder / f"{name}.npy"
        np.save(path, np.ascontiguousarray(values))
        return path

    def kmeans(self):
        """Standardised recency, frequency and log monetary value, distributed as in the real shop."""
        from sklearn.cluster import KMeans

        rng = np.random.default_rng(7)
        orders = 1 + rng.negative_binomial(0.9, 0.2, self.customers)
        spend = np.log1p(rng.lognormal(5.6, 0.8, self.customers) * orders)
        recency = rng.exponential(220 / (1 + orders / 3))
        x = np.c_[recency, orders, spend]
        x = (x - x.mean(0)) / x.std(0)
        found = self.ours("kmeans", self.save("x", x), 20, *self.ks)
        for k, (inertia, *ours) in zip(self.ks, found):
            fit, *theirs = timed(lambda: KMeans(k, n_init=10, random_state=42).fit(x))
            what = f"k-means, k = {k}, {self.customers} customers"
            ROWS.append((what, cost(f"inertia {fit.inertia_:.1f}", *theirs), cost(f"inertia {inertia:.1f}", *ours)))

    def forest(self):
        """60 features, of which 17 are informative, with steps and interactions."""
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.metrics import roc_auc_score

        trees, new = 2 * CORES, 100_000
        rng = np.random.default_rng(7)
        x = rng.standard_normal((self.customers + new, 60), dtype=np.float32)
        z = x[:, :12] @ rng.standard_normal(12) / 4 + (x[:, 12] > 1) * x[:, 13] + np.sin(2 * x[:, 14]) + x[:, 15] * x[:, 16]
        y = (rng.random(len(z)) < 1 / (1 + np.exp(-z))).astype(np.float64)
        known, unknown = slice(self.customers), slice(self.customers, None)
        shares = self.folder / "shares.npy"
        paths = [self.save("x", x[known]), self.save("y", y[known]), self.save("new", x[unknown])]
        [ours] = self.ours("forest", *paths, trees, shares)
        theirs = RandomForestClassifier(trees, max_depth=8, min_samples_leaf=20, max_features=18, n_jobs=CORES, random_state=42)
        _, *took = timed(lambda: theirs.fit(x[known], y[known]))
        auc = [roc_auc_score(y[unknown], p) for p in (theirs.predict_proba(x[unknown])[:, 1], np.load(shares))]
        what = f"forest, {trees} trees of depth 8, {self.customers} customers, 60 features"
        ROWS.append((what, cost(f"AUC {auc[0]:.4f}", *took), cost(f"AUC {auc[1]:.4f}", *ours)))

    def als(self):
        """20 iterations with 64 factors, on one thread each."""
        import pandas as pd
        import scipy.sparse as sp
        from implicit.cpu.als import AlternatingLeastSquares
        from threadpoolctl import threadpool_limits

        d = pd.read_csv(self.data, encoding="latin-1", dtype={"InvoiceNo": str, "StockCode": str})
        when = pd.to_datetime(d.InvoiceDate, format="%m/%d/%Y %H:%M")
        sold = (d.Quantity > 0) & (d.UnitPrice > 0) & d.CustomerID.notna() & (when < "2011-09-01")
        d = d[sold & ~d.InvoiceNo.str.startswith(("C", "A")) & d.StockCode.str.upper().str.fullmatch(r"\d{5}[A-Z]*")]
        cells = d.groupby(["CustomerID", d.StockCode.str.upper()]).InvoiceNo.nunique()
        row, column = (pd.factorize(cells.index.get_level_values(at), sort=True)[0] for at in (0, 1))
        path = self.save("cells", np.c_[row, column, cells].astype(np.float64))
        [ours] = self.ours("als", path, RAYON_NUM_THREADS="1")
        matrix = sp.csr_matrix((cells.to_numpy(np.float32), (row, column)))
        for solver, use_cg in (("3 conjugate gradients", True), ("Cholesky", False)):
            marks = []
            theirs = AlternatingLeastSquares(factors=64, iterations=21, use_cg=use_cg, num_threads=1, random_state=42)
            theirs.fit_callback = lambda *_: marks.append((time.perf_counter(), time.process_time()))
            with threadpool_limits(1, "blas"):
                theirs.fit(matrix, show_progress=False)
            took = [last - first for first, last in zip(marks[0], marks[-1])]
            what = f"ALS, {matrix.shape[0]} x {matrix.shape[1]}, {matrix.nnz} pairs; {solver}"
            ROWS.append((what, cost("20 iterations", *took), cost("20 iterations", *ours)))

    def fold_in(self):
        """NDCG@10 of products new to customers with one order."""
        [[customers, buyers, retrained, folded]] = self.ours("fold-in", self.data, "2011-09-01")
        what = f"baskets of {customers:.0f} customers with one order, {buyers:.0f} of them bought a new product"
        ROWS.append((what, f"retrained: NDCG@10 {retrained:.4f}", f"folded in: {folded:.4f}"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("learners", type=Path)
    parser.add_argument("data", type=Path)
    parts = ["kmeans", "forest", "als", "fold-in"]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--customers", type=int, default=1_000_000)
    parser.add_argument("--k", type=int, nargs="+", default=list(range(2, 11)), metavar="K")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args.learners.resolve(), args.data.resolve(), args.customers, args.k, Path(folder))
        for part in args.only:
            getattr(bench, part.replace("-", "_"))()
    table = [("measured", "library", "trainer"), *ROWS]
    widths = [max(len(line[at]) for line in table) for at in range(3)]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


if __name__ == "__main__":
    main()
