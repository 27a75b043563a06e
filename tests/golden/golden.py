"""The golden test: what was recorded before a change is what comes out after it.

    python golden.py [BIN] [--record] [--only PART...] [--data FILE] [--work FOLDER]

BIN is the folder of the binaries, target/release unless said otherwise. Parts, each with its record in `records/`:

    flags      arguments, environment variables, defaults         the contract of the command lines
    exits      exit codes
    api        methods, fields, enum values, options
    models     hashes of tables, versions and files of models, files that `trainer score` writes
    answers    some 2,500 answers: every method, over gRPC and over JSON
    metrics    names, types and labels
    help       the text of every --help                           texts for people, which may change by intent
    wording    the texts of errors

A difference is printed and ends with exit code 1, or with 3 if only texts differ. `--record` writes the records anew; the
change is then to be looked at in the version control. With `--data FILE` the models of the real file are trained as well (some
minutes). `--work FOLDER` keeps the trained shop there for another run of the same binaries.

Models depend on the processor in their last digits. The record names the capability of the machine it was made on. If digits differ
on a machine of another capability, the shape of models and answers is compared in their place, and the test says so.
"""

from __future__ import annotations

import argparse
import collections
import difflib
import hashlib
import json
import lzma
import sys
import tempfile
import time
from pathlib import Path

import asking
import commands
import training
from processes import serving
from questions import CHURN, Shop, questions
from questions import recipe as recipe_questions

RECORDS = Path(__file__).resolve().parent / "records"
PARTS = ["flags", "exits", "api", "models", "answers", "metrics", "help", "wording"]
TEXTS = {"help", "wording"}
NEED_A_SHOP = {"exits", "api", "models", "answers", "metrics", "wording"}
NEED_SERVICES = {"api", "answers", "metrics", "wording"}
# Longer answers are kept as a hash and a beginning.
LONG = 12_000
SHOWN = 12


class Test:
    """Compares what was seen with the records, or writes it there."""

    def __init__(self, record: bool):
        self.record, self.differing, self.by_shape = record, set(), set()
        self.same_machine = record or self.recorded_capability() in (None, training.capability())

    def recorded_capability(self) -> str | None:
        file = RECORDS / "models.json"
        return json.loads(file.read_text())["capability"] if file.exists() else None

    def lines(self, part: str, seen: list[str]):
        """A list of lines."""
        file = RECORDS / f"{part}.txt"
        if self.record:
            file.write_text("".join(f"{line}\n" for line in seen))
            return
        self.difference(part, file.name, file.read_text().splitlines(), seen)

    def difference(self, part: str, name: str, known: list[str], seen: list[str]):
        changes = list(difflib.unified_diff(known, seen, f"recorded {name}", f"seen {name}", lineterm="", n=0))
        if changes:
            self.differing.add(part)
            print("\n".join(line if len(line) < 400 else line[:400] + "..." for line in changes))

    def texts(self, part: str, seen: dict[str, str]):
        """A folder of text files."""
        folder = RECORDS / part
        if self.record:
            folder.mkdir(exist_ok=True)
            for old in folder.iterdir():
                if old.stem not in seen:
                    old.unlink()
            for name, text in seen.items():
                (folder / f"{name}.txt").write_text(text)
            return
        known = {file.stem: file.read_text() for file in folder.iterdir()}
        for name in sorted({*known, *seen}):
            self.difference(part, f"{name}.txt", known.get(name, "").splitlines(), seen.get(name, "").splitlines())

    def models(self, seen: dict):
        """Hashes, by the sample and the real shop."""
        file = RECORDS / "models.json"
        known = json.loads(file.read_text()) if file.exists() else {}
        if self.record:
            file.write_text(json.dumps({**known, **seen}, indent=1, sort_keys=True) + "\n")
            return
        known = {name: known.get(name) for name in seen}
        known, seen = ({name: of[name] for name in of if name != "capability"} for of in (known, seen))
        if known != seen and not self.same_machine:
            self.by_shape.add("models")
            known, seen = names_only(known), names_only(seen)
        self.difference("models", file.name, *(json.dumps(of, indent=1, sort_keys=True).splitlines() for of in (known, seen)))

    def answers(self, seen: dict[str, dict]):
        """Answers by question: in full in an archive, and a hash for each method in a list."""
        archive = RECORDS / "answers.jsonl.xz"
        kept = {question: shortened(answer) for question, answer in seen.items()}
        if self.record:
            text = "".join(json.dumps([question, answer], separators=(",", ":")) + "\n" for question, answer in kept.items())
            archive.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
            (RECORDS / "answers.txt").write_text("".join(f"{line}\n" for line in by_method(kept)))
            return
        known = dict(json.loads(line) for line in lzma.decompress(archive.read_bytes()).decode().splitlines())
        different = [q for q in sorted({*known, *seen}) if known.get(q) != kept.get(q)]
        if different and not self.same_machine:
            self.by_shape.add("answers")
            different = [q for q in different if shape(known.get(q)) != shape(kept.get(q))]
        if not different:
            return
        self.differing.add("answers")
        counts = collections.Counter(" ".join(question.split(" ")[:2]) for question in different)
        print(f"{len(different)} of {len(known)} answers are others:")
        for method, count in counts.most_common():
            print(f"  {count} of {method}")
        for question in [*{" ".join(q.split(" ")[:2]): q for q in reversed(different)}.values()][:SHOWN]:
            told = [json.dumps(of.get(question), indent=1).splitlines() for of in (known, kept)]
            hashes = [hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] for lines in told]
            print(f"\n{question}\n  recorded {hashes[0]}, seen {hashes[1]}")
            changes = list(difflib.unified_diff(*told, "recorded", "seen", lineterm="", n=2))
            print("\n".join(changes[:40]))


def shortened(answer: dict) -> dict:
    text = json.dumps(answer)
    if len(text) <= LONG:
        return answer
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    return {"code": answer["code"], "length": len(text), "sha256": digest, "begins": text[:1500]}


def by_method(answers: dict[str, dict]) -> list[str]:
    """`grpc ChurnService/GetChurnRisk 58 answers 0123456789abcdef`"""
    hashes, counts = collections.defaultdict(hashlib.sha256), collections.Counter()
    for question, answer in answers.items():
        method = " ".join(question.split(" ")[:2])
        hashes[method].update(json.dumps([question, answer]).encode())
        counts[method] += 1
    return sorted(f"{method} {counts[method]} answers {hashes[method].hexdigest()[:16]}" for method in counts)


def shape(value):
    """What an answer is made of, without its figures and words."""
    if isinstance(value, dict):
        if "sha256" in value:
            return {"code": value.get("code")}
        return {name: value[name] if name == "code" else shape(inner) for name, inner in sorted(value.items())}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def names_only(hashes: dict) -> dict:
    """What was hashed, without the hashes and without the versions, which are hashes too."""
    return {
        shop: {
            "tables": sorted(of["tables"]),
            "scores": sorted(of.get("scores", {})),
            "models": {kind: len(model["versions"]) for kind, model in of["models"].items()},
        }
        for shop, of in hashes.items()
    }


def names_of_features(api: asking.Api) -> list[str]:
    """The names that the churn model takes, from the refusal of an empty request."""
    try:
        api.ask(CHURN + "ScoreChurn", {})
    except asking.grpc.RpcError as refusal:
        status = asking.rpc_status.from_call(refusal)
        details = [asking.json_format.MessageToDict(detail) for detail in status.details]
        fields = [violation["field"] for detail in details for violation in detail.get("fieldViolations", [])]
        return [field.removeprefix("features.") for field in fields if field.startswith("features.")]
    raise SystemExit("an empty ScoreChurn is not refused")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin", nargs="?", type=Path, default=asking.ROOT / "target/release", metavar="BIN")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--data", type=Path, metavar="FILE")
    parser.add_argument("--work", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    RECORDS.mkdir(exist_ok=True)
    test, parts = Test(args.record), set(args.only)
    with tempfile.TemporaryDirectory(prefix="golden-") as temporary:
        work = (args.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        check(test, parts, args.bin.resolve(), work, args.data)
    return report(test, parts)


def check(test: Test, parts: set[str], bin: Path, work: Path, data: Path | None):
    began = time.monotonic()
    said = lambda what: print(f"golden: {time.monotonic() - began:5.1f} s  {what}", file=sys.stderr)
    if parts & {"flags", "help"}:
        texts = commands.helps(bin)
        if "help" in parts:
            test.texts("help", texts)
        if "flags" in parts:
            test.lines("flags", commands.flags(texts))
        said("commands")
    if not parts & NEED_A_SHOP:
        return
    training.sample_shop(bin, work)
    said("models trained")
    if "models" in parts:
        seen = {"capability": training.capability(), "sample": training.trained(bin, work)}
        if data:
            seen["real"] = training.real_shop(bin, data.resolve(), work)
        test.models(seen)
        said("models compared")
    if "exits" in parts:
        test.lines("exits", commands.exit_codes(bin, work))
        said("exit codes")
    if not parts & NEED_SERVICES:
        return
    logs = work / "logs"
    logs.mkdir(exist_ok=True)
    with serving(bin, work / "models", logs) as running:
        said("services are ready")
        if "api" in parts:
            test.lines("api", asking.api_listing(running.gateway))
        if parts & {"answers", "wording", "metrics"}:
            ask_all(test, parts, work, running)
            said("answers")
        if "metrics" in parts:
            test.lines("metrics", commands.metrics(running))


def ask_all(test: Test, parts: set[str], work: Path, running):
    wording = asking.Wording()
    features = names_of_features(asking.Api(running.gateway))
    shop, versions = Shop(work / "shop.csv"), training.known_versions(work / "models")
    # gRPC at a gateway over several processes, JSON at the one process that is all of them.
    over_grpc, over_json = asking.OverGrpc(running.gateway, wording), asking.OverJson(running.standalone, wording)
    answers = asking.answers_of(questions(shop, features, versions), [over_grpc, over_json])
    answers |= asking.beside_the_methods(over_grpc, over_json)
    answers |= other_recipes(shop, versions, work / "models", asking.OverGrpc(running.standalone, wording), over_json)
    if "answers" in parts:
        test.answers(answers)
    if "wording" in parts:
        test.lines("wording", sorted(wording.lines))


def other_recipes(shop: Shop, versions: dict, models: Path, over_grpc, over_json) -> dict[str, dict]:
    """Answers of the other kinds of segments, each published over the API; the first version is current again in the end."""
    answers, current = {}, training.pointer(models, "segmentation")
    first = current
    for recipe in [*training.RECIPES, None]:
        version = training.latest_of_recipe(models, recipe) if recipe else first
        answers[f"grpc publish {version}"] = asking.publish(over_grpc, "segmentation", version, current)
        current = version
        if recipe:
            answers |= asking.answers_of(recipe_questions(shop, versions), [over_grpc, over_json], f" of {recipe}")
    return answers


def report(test: Test, parts: set[str]) -> int:
    if test.record:
        print(f"recorded: {', '.join(sorted(parts))}")
        return 0
    if test.by_shape:
        print(
            f"recorded on `{test.recorded_capability()}`, this is `{training.capability()}`, where digits differ: "
            f"only the shape of {' and '.join(sorted(test.by_shape))} was compared"
        )
    if not test.differing:
        print(f"as recorded: {', '.join(sorted(parts))}")
        return 0
    print(f"\ndifferent: {', '.join(sorted(test.differing))}")
    return 3 if test.differing <= TEXTS else 1


if __name__ == "__main__":
    sys.exit(main())
