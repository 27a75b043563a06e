#!/usr/bin/env python3
"""Counts what makes the code hard to read for a stranger, and fails above a limit.

    python3 tests/words.py            the table and the first offenders of each row
    python3 tests/words.py --all      all offenders
    python3 tests/words.py PATH...    only files below these paths

Prose is the text of comments in Rust, TypeScript and .proto files, and Markdown outside of code. Chains are calls of
methods that follow each other on one line. Imports are `use` items and paths that begin with `crate::` or `super::`,
outside of tests, from file to file within a crate; a re-export counts as the file that defines the item.
"""

import argparse
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Written by others, or generated.
FOREIGN = ("proto/google/", "proto/inference/", "proto/grpc/", "LICENSE")

WHO = re.compile(r"\b(who|whom|whose|whoever|nobody|somebody|anybody|everybody)\b", re.I)
WHERE = re.compile(r"\bwhere\b", re.I)
WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
# A path in a document: in backticks below a folder of this repository, or the target of a link.
NAMED = re.compile(r"`((?:proto|services|gateway|trainer|tests|deploy|docs)/[\w./-]*)[`#]|\]\(([^):#]+)[)#]")
CHAIN = re.compile(r"(?:\.\w+(?:::<[^>]*>)?\((?:[^()]|\([^()]*\))*\)\??){4,}")


@dataclass
class Row:
    """One measure: the amount, what it is divided by, and where it was found."""

    name: str
    limit: float
    per: float = 1.0
    unit: str = ""
    found: list[str] = field(default_factory=list)
    amount: float = 0
    whole: float = 0

    def value(self) -> float:
        return self.amount * self.per / self.whole if self.per != 1.0 and self.whole else self.amount

    def add(self, place: str) -> None:
        self.amount += 1
        self.found.append(place)


def tracked(paths: list[str]) -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *paths]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    files = [Path(name) for name in listed if name and not name.startswith(FOREIGN)]
    return [file for file in files if (ROOT / file).is_file()]


def prose(file: Path, text: str) -> list[tuple[int, str]]:
    """Lines of prose with their numbers."""
    lines = text.split("\n")
    if file.suffix == ".md":
        kept, code = [], False
        for number, line in enumerate(lines, 1):
            if line.lstrip().startswith("```"):
                code = not code
            elif not code and not line.startswith("    "):
                kept.append((number, re.sub(r"`[^`]*`", "", line)))
        return kept
    kept = []
    for number, line in enumerate(lines, 1):
        comment = re.match(r"\s*//[/!]?(.*)", line) or re.search(r"[;{},)]\s+//\s(.*)", line)
        if comment:
            kept.append((number, re.sub(r"`[^`]*`", "", comment[1])))
    return kept


def missing_paths(file: Path, text: str) -> list[str]:
    """Paths in a document that lead nowhere."""
    named = ((ROOT / here) if here else (ROOT / file).parent / link for here, link in NAMED.findall(text))
    return [str(path) for path in named if not path.exists()]


def without_tests(text: str) -> str:
    """Rust without its test module, which stands last in a file."""
    return re.split(r"^#\[cfg\(test\)\]\s*\n(?:#\[.*\]\s*\n)*(?:pub(?:\(.*?\))? )?mod \w+", text, maxsplit=1, flags=re.M)[0]


def inside_functions(text: str) -> tuple[int, int]:
    """Lines of comments and of code inside functions. A function ends at a brace of its own indent (rustfmt)."""
    comments = code = 0
    ends: str | None = None
    for line in text.split("\n"):
        bare = line.strip()
        if ends is None:
            opened = re.match(r"(\s*)(?:pub(?:\(.*?\))? )?(?:const |async |unsafe )*fn \w+", line)
            if opened:
                ends = opened[1] + "}"
                if bare.endswith(("}", ";")):
                    ends = None
        elif line.rstrip() == ends:
            ends = None
        elif bare.startswith("//"):
            comments += 1
        elif bare:
            code += 1
    return comments, code


class Crate:
    """Files of one crate and the imports between them."""

    def __init__(self, source: Path, files: list[Path]):
        self.source = source
        self.files = {self.module(file): file for file in files}
        self.texts = {file: without_tests((ROOT / file).read_text()) for file in files}
        self.renamed = {module: self.exports(module) for module in self.files}

    def module(self, file: Path) -> tuple[str, ...]:
        parts = file.relative_to(self.source).with_suffix("").parts
        if parts[-1] == "mod" or parts == ("lib",) or parts == ("main",):
            parts = parts[:-1]
        return parts

    def exports(self, module: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
        """Names that a file exports from modules below it."""
        names = {}
        for statement in re.findall(r"\bpub(?:\([^)]*\))? use ([^;]+);", self.texts[self.files[module]]):
            for path in expand(statement):
                path = path[1:] if path[:1] == ["self"] else path
                if tuple(path[:1]) and (*module, path[0]) in self.files:
                    names[path[-1]] = (*module, *path[:-1])
        return names

    def resolve(self, path: tuple[str, ...]) -> tuple[str, ...] | None:
        """The deepest file that a path leads to."""
        for _ in range(5):
            known = max((n for n in range(len(path) + 1) if path[:n] in self.files), default=None)
            if known is None:
                return None
            rest = path[known:]
            target = self.renamed[path[:known]].get(rest[0]) if rest else None
            if target is None:
                return path[:known]
            path = (*target, *rest)
        return None

    def arrows(self) -> set[tuple[Path, Path]]:
        found = set()
        for module, file in self.files.items():
            text = re.sub(r"//[^\n]*", "", self.texts[file])
            paths = [path for statement in re.findall(r"^\s*use ([^;]+);", text, flags=re.M) for path in expand(statement)]
            paths += [path.split("::") for path in re.findall(r"\b((?:crate|super)(?:::\w+)+)", text)]
            for path in paths:
                base: tuple[str, ...] = ()
                if path[0] == "crate":
                    path = path[1:]
                elif path[0] in ("super", "self"):
                    base = module
                    while path and path[0] in ("super", "self"):
                        base = base[:-1] if path[0] == "super" else base
                        path = path[1:]
                elif (*module, path[0]) in self.files:
                    base = module
                else:
                    continue
                target = self.resolve((*base, *path))
                if target is not None and target in self.files and self.files[target] != file:
                    found.add((file, self.files[target]))
        return found


def expand(statement: str) -> list[list[str]]:
    """The paths of a `use` item, one a leaf."""
    statement = re.sub(r"\s+", " ", statement).strip()
    head, brace, rest = statement.partition("{")
    if not brace:
        return [[part.split(" as ")[0].strip() for part in statement.split("::")]]
    before = [part.strip() for part in head.strip().removesuffix("::").split("::") if part.strip()]
    inner, depth, start = rest.rsplit("}", 1)[0], 0, 0
    leaves = []
    for at, sign in enumerate(inner + ","):
        depth += (sign == "{") - (sign == "}")
        if sign == "," and depth == 0:
            leaf = inner[start:at].strip()
            start = at + 1
            if leaf:
                leaves += [before + ([] if path == ["self"] else path) for path in expand(leaf)]
    return leaves


def circles(arrows: set[tuple[Path, Path]]) -> list[list[Path]]:
    """Sets of files that all reach each other (Tarjan 1972)."""
    onward = defaultdict(list)
    for source, target in arrows:
        onward[source].append(target)
    index, low, stack, held, found = {}, {}, [], set(), []

    def visit(node: Path) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        held.add(node)
        for target in onward[node]:
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in held:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            circle = []
            while True:
                member = stack.pop()
                held.discard(member)
                circle.append(member)
                if member == node:
                    break
            if len(circle) > 1:
                found.append(sorted(circle))

    for node in sorted(onward):
        if node not in index:
            visit(node)
    return found


def main() -> int:
    arguments = argparse.ArgumentParser(description="Count what makes the code hard to read for a stranger.")
    arguments.add_argument("paths", nargs="*", default=["."])
    arguments.add_argument("--all", action="store_true", help="print all offenders")
    arguments = arguments.parse_args()

    who = Row('"who", "nobody", "somebody", "whoever" ...', 0.5, 1000, "per 1,000 words of prose")
    where = Row('"where"', 1.4, 1000, "per 1,000 words of prose")
    wide = Row("lines of Rust above 100 columns", 0)
    chains = Row("lines with four or more chained calls", 0.3, 100, "% of lines of Rust")
    circle = Row("files in import circles within a crate", 0)
    missing = Row("paths in documents that do not exist", 0)
    comments = Row("comment lines inside functions", float("inf"), 100, "% of code there")

    files = tracked(arguments.paths)
    for file in files:
        if file.suffix not in (".rs", ".md", ".proto", ".ts", ".tsx"):
            continue
        text = (ROOT / file).read_text()
        for number, line in prose(file, text):
            words = len(WORD.findall(line))
            who.whole += words
            where.whole += words
            for row, pattern in ((who, WHO), (where, WHERE)):
                for _ in pattern.findall(line):
                    row.add(f"{file}:{number}: {line.strip()}")
        if file.suffix == ".md":
            for path in missing_paths(file, text):
                missing.add(f"{file}: {path}")
        if file.suffix == ".rs":
            lines = text.split("\n")
            chains.whole += len(lines)
            for number, line in enumerate(lines, 1):
                if len(line) > 100:
                    wide.add(f"{file}:{number}")
                if CHAIN.search(line):
                    chains.add(f"{file}:{number}: {line.strip()}")
            inside = inside_functions(without_tests(text))
            comments.amount += inside[0]
            comments.whole += inside[1]

    crates = defaultdict(list)
    for file in files:
        if file.suffix == ".rs" and "src" in file.parts:
            crates[Path(*file.parts[: file.parts.index("src") + 1])].append(file)
    for source, members in sorted(crates.items()):
        for members in circles(Crate(source, members).arrows()):
            circle.amount += len(members)
            circle.found.append(f"{source}: {', '.join(str(member.relative_to(source)) for member in members)}")

    failed = False
    for row in (who, where, wide, chains, circle, missing, comments):
        value = row.value()
        over = value > row.limit
        failed |= over
        limit = "" if row.limit == float("inf") else f"limit {row.limit:g}"
        print(f"{'OVER' if over else 'ok':5} {value:8.2f} {row.unit:26} {limit:11} {row.name}")
        if over:
            for place in row.found if arguments.all else row.found[:10]:
                print(f"        {place}")
            if len(row.found) > 10 and not arguments.all:
                print(f"        ... and {len(row.found) - 10} more (--all)")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
