"""Trains the models that the golden test asks, and says what came out: hashes of tables, models and files."""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path

from processes import run
from questions import MODELS

SHOP = ["--customers", "450", "--products", "150", "--days", "420", "--seed", "2"]
# A model of an earlier day is published first, so that there are movements between segments.
EARLIER = "2024-07-01"
REAL_AS_OF = "2011-09-01"
RECIPES = ["rfm3", "value4"]
# Beside the tables: the time that they are as of.
AS_OF = "as_of"
# Instructions that decide how floating-point sums are rounded.
CAPABILITIES = ("fma", "avx2", "avx512f")


def capability() -> str:
    """What of this machine floating-point results depend on."""
    flags = set()
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        flags = {flag for line in cpu.read_text().splitlines() if line.startswith("flags") for flag in line.split()}
    known = [name for name in CAPABILITIES if name in flags]
    return " ".join([platform.machine(), *known, "-".join(platform.libc_ver())])


def sample_shop(bin: Path, work: Path):
    """The sample shop in `shop.csv`, `lake` and `models`, once for a work folder."""
    if (work / "trained").exists():
        return
    trainer, file = bin / "trainer", work / "shop.csv"
    flags = ["--lake", work / "lake", "--models", work / "models"]
    run(trainer, "synth", "--output", file, *SHOP)
    earlier = ["--as-of", EARLIER, "--only", "segmentation", "--recipe", f"segmentation={RECIPES[0]}"]
    run(trainer, "run", "--input", file, *earlier, *flags)
    run(trainer, "run", "--input", file, *flags)
    current = pointer(work / "models", "segmentation")
    for recipe in RECIPES:
        run(trainer, "train", "segmentation", "--recipe", f"segmentation={recipe}", *flags)
        run(trainer, "evaluate", "segmentation", *flags)
        run(trainer, "publish", "segmentation", *flags)
    run(trainer, "rollback", "segmentation", current, "--models", work / "models")
    (work / "trained").touch()


def real_shop(bin: Path, data: Path, work: Path) -> dict:
    """Models of the real file."""
    lake, models = work / "real-lake", work / "real-models"
    if not (work / "real-trained").exists():
        run(bin / "trainer", "run", "--input", data, "--as-of", REAL_AS_OF, "--lake", lake, "--models", models)
        (work / "real-trained").touch()
    return {"input": digest(data), "tables": tables(lake), "models": versions(models)}


def trained(bin: Path, work: Path) -> dict:
    """Hashes of all that the trainer made of the sample shop."""
    lake, models = work / "lake", work / "models"
    return {
        "input": digest(work / "shop.csv"),
        "tables": tables(lake),
        "models": versions(models),
        "scores": scores(bin, work),
    }


def pointer(models: Path, kind: str) -> str:
    """The current version."""
    return json.loads((models / kind / "current.json").read_text())["version"]


def known_versions(models: Path) -> dict[str, list[str]]:
    """Every version by its kind, the current one first."""
    found = {}
    for kind in MODELS:
        names = sorted(folder.name for folder in (models / kind).iterdir() if folder.is_dir())
        found[kind] = sorted(names, key=lambda name: name != pointer(models, kind))
    return found


def latest_of_recipe(models: Path, recipe: str) -> str:
    """The segmentation model of a recipe with the latest as-of time."""
    recipe_of = lambda version: json.loads((models / "segmentation" / version / "manifest.json").read_text())["recipe"]
    return max(version for version in known_versions(models)["segmentation"] if recipe_of(version) == recipe)


def versions(models: Path) -> dict:
    """Every version, and a hash for each of its files."""
    return {
        kind: {
            "current": pointer(models, kind),
            "versions": {
                name: {file.name: digest(file) for file in sorted((models / kind / name).iterdir())} for name in sorted(names)
            },
        }
        for kind, names in known_versions(models).items()
    }


def tables(lake: Path) -> dict[str, str]:
    """A hash for each curated table."""
    curated = lake / "curated"
    names = sorted(path.name for path in curated.iterdir() if not path.name.startswith("."))
    return {name: folder_digest(curated / name) for name in names}


def scores(bin: Path, work: Path) -> dict[str, str]:
    """A hash for each file that `trainer score` writes, and for answers of `trainer sql`."""
    folder, trainer = work / "scores", bin / "trainer"
    folder.mkdir(exist_ok=True)
    commands = {
        "segmentation.csv": ["segmentation"],
        "forecast-total.csv": ["forecast"],
        "forecast-country.csv": ["forecast", "--level", "country", "--frequency", "weekly"],
        "forecast-product.csv": ["forecast", "--level", "product", "--frequency", "monthly", "--horizon", "2"],
        "recommendation.csv": ["recommendation", "--top", "5"],
        "recommendation-new.csv": ["recommendation", "--top", "3", "--new-only"],
        "churn.csv": ["churn"],
        "churn.parquet": ["churn"],
        "anomaly.csv": ["anomaly", "--input", work / "shop.csv"],
    }
    for name, arguments in commands.items():
        run(trainer, "score", *arguments, "--models", work / "models", "--output", folder / name)
    for name in [*tables(work / "lake"), "quarantine"]:
        table = name.removesuffix(".parquet")
        if name == AS_OF:
            continue
        written = folder / f"sql-{table}.csv"
        run(trainer, "sql", f"SELECT * FROM {table}", "--lake", work / "lake", "--output", written)
    return {path.name: digest(path) for path in sorted(folder.iterdir())}


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:32]


def folder_digest(path: Path) -> str:
    """A hash over the names and bytes of a file, or of all files in a folder."""
    if path.is_file():
        return digest(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    listed = "".join(f"{file.relative_to(path)} {digest(file)}\n" for file in files)
    return hashlib.sha256(listed.encode()).hexdigest()[:32]
