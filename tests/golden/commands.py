"""What the command lines promise: help texts, flags, exit codes; and the names of metrics."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

from processes import Serving, run
from questions import MODELS

BINARIES = ["trainer", "gateway", "standalone", *MODELS]

# Metrics that appear only after events that a run need not have, and with Redis: seen or not, this is their form.
SOMETIMES = {
    "shopkeeper_connections_refused_total": "counter {}",
    "shopkeeper_gateway_auth_refused_total": "counter {reason}",
    "shopkeeper_gateway_backend_errors_total": "counter {backend}",
    "shopkeeper_gateway_cache_refreshed_total": "counter {rpc_method}",
    "shopkeeper_gateway_canary_calls_total": "counter {backend}",
    "shopkeeper_gateway_hedges_total": "counter {answered, backend}",
    "shopkeeper_gateway_redis_problems_total": "counter {operation, reason}",
    "shopkeeper_gateway_redis_up": "gauge {}",
    "shopkeeper_gateway_replica_losses_total": "counter {backend}",
    "shopkeeper_gateway_replica_rests_total": "counter {backend, reason}",
    "shopkeeper_gateway_retries_total": "counter {backend}",
    "shopkeeper_gateway_shed_total": "counter {at, priority}",
    "shopkeeper_shadow_comparisons_total": "counter {model, outcome}",
    "shopkeeper_shadow_difference": "gauge {model}",
}
# A label that every metric of the processes has.
EVERYWHERE = "otel_scope_name"


def helps(bin: Path) -> dict[str, str]:
    """The help text of every command, by file name."""
    texts = {}
    for binary in BINARIES:
        texts[binary] = help_of(bin / binary)
        if binary == "trainer":
            for command in subcommands(texts[binary]):
                texts[f"{binary}-{command}"] = help_of(bin / binary, command)
    return texts


def help_of(*command) -> str:
    text = run(*command, "--help").stdout
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def subcommands(text: str) -> list[str]:
    listed = text.partition("Commands:\n")[2].partition("\n\n")[0]
    return [match[1] for match in re.finditer(r"^  (\w[\w-]*) ", listed, re.M) if match[1] != "help"]


def flags(texts: dict[str, str]) -> list[str]:
    """Every argument with its value's name, environment variable, default and possible values: what a help text may not change."""
    lines = []
    for command, text in texts.items():
        body = text.partition("Usage:")[2]
        for block in re.split(r"\n(?= {2,6}--?\w| {2}[\[<][A-Z])", body)[1:]:
            head = block.strip().split("\n")[0]
            named = re.match(r"(?:(-\w), )?(--[\w-]+)?((?: ?[\[<][^\]>]+[\]>](?:\.\.\.)?)*)", head)
            joined = re.sub(r"\s+", " ", block)
            promised = re.findall(r"\[(?:env|default|possible values|aliases): ?[^\]]*\]", joined)
            values = re.findall(r"^ +- ([\w.-]+)(?::|$)", block, re.M)
            parts = [named[0].strip(), *promised, *([f"values {', '.join(values)}"] if values else [])]
            lines.append(f"{command}: {' '.join(parts)}")
    return sorted(set(lines))


def exit_codes(bin: Path, work: Path) -> list[str]:
    """The exit codes of commands that fail, each for one reason."""
    broken = work / "broken.csv"
    broken.write_text("nothing,that,is,known\n1,2,3,4\n")
    trainer, lake, models = bin / "trainer", work / "lake", work / "models"
    empty = work / "empty"
    empty.mkdir(exist_ok=True)
    store, flags = ["--models", models], ["--lake", lake, "--models", models]
    commands = {
        "trainer without a command": [trainer],
        "trainer with an unknown command": [trainer, "dance"],
        "trainer with an unknown flag": [trainer, "models", "--no-such-flag", *store],
        "trainer run without input": [trainer, "run", *flags],
        "trainer ingest of a file that is not there": [trainer, "ingest", "--input", work / "no-such.csv", "--lake", empty / "lake"],
        "trainer ingest of a file without known columns": [trainer, "ingest", "--input", broken, "--lake", empty / "lake"],
        "trainer ingest with a mapping that is not there": [trainer, "ingest", "--input", work / "shop.csv", "--mapping", work / "no.toml", "--lake", empty / "lake"],
        "trainer curate of an empty lake": [trainer, "curate", "--lake", empty / "lake"],
        "trainer train of an empty lake": [trainer, "train", "churn", "--lake", empty / "lake"],
        "trainer train of an unknown model": [trainer, "train", "happiness", "--lake", lake],
        "trainer train with an unknown recipe": [trainer, "train", "segmentation", "--recipe", "segmentation=magic", "--lake", lake],
        "trainer train as of a day before the first line": [trainer, "train", "churn", "--as-of", "1990-01-01", "--lake", lake],
        "trainer train with a time that is none": [trainer, "train", "churn", "--as-of", "yesterday", "--lake", lake],
        "trainer publish without a candidate": [trainer, "publish", "churn", "--lake", empty / "lake", "--models", empty / "models"],
        "trainer promote without a canary": [trainer, "promote", "churn", *store],
        "trainer promote above a hundred": [trainer, "promote", "churn", "--percent", "101", *store],
        "trainer rollback to an unknown version": [trainer, "rollback", "churn", "no-such-version", *store],
        "trainer rollback without an earlier version": [trainer, "rollback", "churn", *store],
        "trainer rollback of an unknown model": [trainer, "rollback", "happiness", *store],
        "trainer models of a store that cannot be": [trainer, "models", "--models", "ftp://nowhere"],
        "trainer score into a file of an unknown kind": [trainer, "score", "churn", "--output", empty / "x.txt", *store],
        "trainer score of an empty store": [trainer, "score", "churn", "--output", empty / "x.csv", "--models", empty / "models"],
        "trainer sql that is none": [trainer, "sql", "SELEC 1", "--lake", lake],
        "trainer sql of an unknown table": [trainer, "sql", "SELECT * FROM no_such_table", "--lake", lake],
        "trainer synth into a folder that cannot be": [trainer, "synth", "--output", broken / "x.csv"],
        "churn without a store": [bin / "churn", "--listen", "127.0.0.1:0"],
        "churn at an address that is none": [bin / "churn", "--listen", "nowhere", *store],
        "churn at a port of another": [bin / "churn", "--listen", "192.0.2.1:1", *store],
        "gateway in the open without keys": [bin / "gateway", "--listen", "0.0.0.0:0"],
        "gateway with a cache that is no size": [bin / "gateway", "--listen", "127.0.0.1:0", "--cache-memory", "some"],
        "gateway with keys that are not there": [bin / "gateway", "--listen", "127.0.0.1:0", "--api-keys", work / "no-keys.toml"],
        "gateway with a certificate without a key": [bin / "gateway", "--listen", "127.0.0.1:0", "--tls-cert", broken],
        "standalone with a redis that is none": [bin / "standalone", "--listen", "127.0.0.1:0", "--redis", "nonsense", *store],
    }
    return [f"{run(*command, check=False).returncode} {what}" for what, command in commands.items()]


def metrics(serving: Serving) -> list[str]:
    """Every metric that a process shows: its name, its type and the names of its labels."""
    lines = set()
    for process, address in serving.metrics.items():
        page = urllib.request.urlopen(f"http://{address}/metrics", timeout=10).read().decode()
        types = dict(re.findall(r"^# TYPE (\S+) (\S+)", page, re.M))
        for sample in re.finditer(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? \S+", page, re.M):
            name, labels = sample[1], re.findall(r'(\w+)="(?:[^"\\]|\\.)*"', sample[2] or "")
            family = next((f for f in (name, re.sub(r"_(bucket|sum|count)$", "", name)) if f in types), name)
            names = sorted(set(labels) - {"le"})
            if SOMETIMES.get(family) == form(types, family, [label for label in names if label != EVERYWHERE]):
                continue
            lines.add(f"{process}: {family} {form(types, family, names)}")
    return sorted(lines)


def form(types: dict[str, str], family: str, labels: list[str]) -> str:
    return f"{types.get(family, 'untyped')} {{{', '.join(labels)}}}"
