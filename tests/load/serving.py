"""Measures the speed of services and gateway relative to a bare tonic server on the same machine at the same time.

    python serving.py BIN [--models FOLDER] [--rounds N] [--seconds S] [--only WORD] [--without-mlserver] [--json FILE]

BIN is the folder of the binaries, including `examples/echo`. FOLDER is a model store; without it, models of a sample shop are
trained once. h2load measures throughput at saturation (closed loop, 32 calls in flight over 4 connections), then latency at a
fixed rate (open loop, so that a stall counts for every call that it delays): half of the row's throughput, or half of the bare
server's if that is lower. Each round measures all rows in turn. A row's ratio is the median over the rounds of its figure
divided by the bare server's in the same round, so that other load on the machine affects both. CPU is the time per call of
all processes except h2load; other load affects it least. Exits 0 whatever the figures are, and 1 if a call fails.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / ".tools/python"), str(ROOT / "tests/python")]

import grpc  # noqa: E402
from client import Api  # noqa: E402

AREAS = ["segmentation", "forecast", "recommendation", "churn", "anomaly", "insights"]
CONNECTIONS, STREAMS = 4, 8
APART = 16
PUBLISHES = 100
NO_CACHE = ["cache-control: no-cache"]


@dataclass
class Row:
    """A kind of call, with its aims: throughput at least, and p99 at most, as ratios to the bare server.

    With several bodies there is one h2load process for each, with one call at a time, so that no two calls in flight are
    equal and the cache cannot merge them (single flight)."""

    name: str
    address: str
    path: str
    bodies: list = field(default_factory=list)
    headers: list = field(default_factory=list)
    at_least: float | None = None
    p99_at_most: float | None = None
    meanwhile: object = None
    bare: "Row | None" = None
    throughput: list = field(default_factory=list)
    cpu: list = field(default_factory=list)
    latency: list = field(default_factory=list)


class Processes:
    """The processes that were started; all are ended at exit."""

    def __init__(self, folder: Path):
        self.folder, self.running = folder, {}
        atexit.register(self.end)

    def start(self, name: str, *command, **env) -> subprocess.Popen:
        log = open(self.folder / f"{name}.log", "w")
        env = {**os.environ, **env}
        self.running[name] = subprocess.Popen([str(c) for c in command], stdout=log, stderr=log, env=env)
        return self.running[name]

    def memory(self, name: str) -> float:
        """Resident, MiB."""
        status = Path(f"/proc/{self.running[name].pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def cpu(self) -> float:
        """CPU seconds of all processes."""
        stats = [Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split() for process in self.running.values()]
        return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")

    def end(self, *names: str):
        for name in names or list(self.running):
            process = self.running.pop(name)
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def free() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def wait_for(what: str, holds, seconds: float = 60):
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: timed out after {seconds:.0f} s")
        time.sleep(0.05)


def listens(address: str) -> bool:
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        return False
    return True


def ready(metrics: str) -> bool:
    try:
        return urllib.request.urlopen(f"http://{metrics}/readyz", timeout=1).status == 200
    except OSError:
        return False


def run(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


def sample_shop(bin: Path, home: Path) -> Path:
    """A model store with a second version of segmentation, by k-means; the first is current."""
    models = home / "models"
    if (models / "done").exists():
        return models
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    print("training on a sample shop (once)", file=sys.stderr)
    flags = ["--lake", home / "lake", "--models", models]
    run(bin / "trainer", "synth", "--output", home / "shop.csv")
    run(bin / "trainer", "run", "--input", home / "shop.csv", *flags)
    run(bin / "trainer", "train", "segmentation", "--recipe", "segmentation=rfm3", *flags[:2])
    run(bin / "trainer", "evaluate", "segmentation", *flags[:2])
    run(bin / "trainer", "publish", "segmentation", *flags)
    run(bin / "trainer", "rollback", "segmentation", *flags[2:])
    (models / "done").touch()
    return models


def tensors(file: Path) -> dict:
    """Shapes of the tensors in a safetensors file."""
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        return {name: tensor.get("shape") for name, tensor in json.loads(opened.read(length)).items()}


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def check(row: Row):
    """Makes each call once. h2load counts HTTP responses and ignores the gRPC status."""
    if not row.bodies:
        urllib.request.urlopen(f"http://{row.address}{row.path}", timeout=10).read()
        return
    with grpc.insecure_channel(row.address) as channel:
        headers = [tuple(h.split(": ", 1)) for h in row.headers]
        for body in row.bodies:
            channel.unary_unary(row.path)(body.read_bytes()[5:], timeout=30, metadata=headers)


def h2load(row: Row, *options, log: Path | None = None) -> list:
    """The output of h2load for each body."""
    command = ["h2load", *map(str, options)]
    for header in row.headers:
        command += ["-H", header]
    running = []
    for at, body in enumerate(row.bodies or [None]):
        asks = [*command, f"http://{row.address}{row.path}"]
        if body:
            asks += ["-d", str(body), "-H", "content-type: application/grpc", "-H", "te: trailers"]
        if log:
            asks += [f"--log-file={log}.{at}"]
        running.append(subprocess.Popen(asks, stdout=subprocess.PIPE, text=True))
    printed = [process.communicate()[0] for process in running]
    for text in printed:
        counted = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", text)
        if not counted or counted[1] == "0" or any(counted[n] != "0" for n in (2, 3, 4)):
            raise SystemExit(f"{row.name}: {text}")
    return printed


def saturated(row: Row, seconds: float, processes: Processes) -> tuple:
    """Calls per second at saturation, and CPU µs per call of all processes except h2load."""
    shape = ["-c", 1, "-m", 1] if len(row.bodies) > 1 else ["-c", CONNECTIONS, "-m", STREAMS]
    before = processes.cpu()
    printed = h2load(row, "-D", f"{seconds * 1000:.0f}ms", *shape)
    spent = processes.cpu() - before
    rate = sum(float(re.search(r"finished in [\d.]+m?s, ([\d.]+) req/s", text)[1]) for text in printed)
    return rate, 1e6 * spent / sum(int(re.search(r"(\d+) succeeded", text)[1]) for text in printed)


def at_rate(row: Row, rate: float, seconds: float, folder: Path) -> dict:
    """Latency quantiles at a fixed rate, µs. h2load sends due requests every 10 ms; many clients with starts 3 ms apart spread them."""
    rate /= max(1, len(row.bodies))
    clients = max(8, min(200, round(rate / 100)))
    calls = int(rate * (seconds + 0.003 * clients))
    spread = ["-c", clients, "-r", 1, "--rate-period=3ms", f"--rps={rate / clients:.3f}"]
    for old in folder.glob("log.*"):
        old.unlink()
    h2load(row, "-n", calls, *spread, "-m", 100, log=folder / "log")
    rows = sorted(tuple(map(int, line.split())) for log in folder.glob("log.*") for line in open(log))
    begun = rows[0][0] + 4000 * clients
    took = sorted(took for at, _, took in rows if at >= begun)
    return {f"p{share}": took[min(len(took) - 1, int(len(took) * share / 100))] for share in (50, 99, 99.9)}


class Publishing:
    """Switches a model store between two versions during the calls, by renaming the pointer file as the trainer does."""

    def __init__(self, pointer: Path, versions: list, metrics: str):
        self.pointer, self.versions, self.metrics = pointer, versions, metrics
        self.current, self.stop = json.loads(pointer.read_text()), threading.Event()

    def loads(self) -> int:
        page = urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=5).read().decode()
        return sum(int(float(line.split()[-1])) for line in page.splitlines() if line.startswith("shopkeeper_model_loads"))

    def __enter__(self):
        self.before, self.stop = self.loads(), threading.Event()
        self.thread = threading.Thread(target=self.move)
        self.thread.start()

    def move(self):
        turn = 0
        while not self.stop.is_set():
            turn += 1
            self.current["version"] = self.versions[turn % 2]
            beside = self.pointer.with_name("next.json")
            beside.write_text(json.dumps(self.current))
            beside.rename(self.pointer)
            self.stop.wait(self.every)

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        self.followed = self.loads() - self.before


def questions(services: dict, folder: Path) -> dict:
    """A call for each service: path and framed bodies."""
    apis = {area: Api(services[area]) for area in services}
    name = lambda area: f"shopkeeper.{area}.v1.{area.capitalize()}Service/"
    listed = apis["segmentation"].ask(name("segmentation") + "ListCustomerSegments", {"pageSize": APART})
    customers = [listed.customer_id for listed in listed.customer_segments]
    customer = customers[0]
    product = apis["insights"].ask(name("insights") + "ListTopProducts", {"pageSize": 1}).products[0].stock_code
    features = {}
    try:
        apis["churn"].ask(name("churn") + "ScoreChurn", {})
    except grpc.RpcError as refusal:
        from client import details

        named = [v.field for d in details(refusal) if hasattr(d, "field_violations") for v in d.field_violations]
        features = {n.removeprefix("features."): 1.0 for n in named if n.startswith("features.")}
    asked = {
        "segment": ("segmentation", "GetCustomerSegment", {"customerId": customer}),
        "classify": ("segmentation", "ClassifyCustomer", {"rfm": {"recencyDays": 3, "frequency": 60, "monetary": 9000}}),
        "forecast": ("forecast", "ForecastSales", {"frequency": "FREQUENCY_DAILY", "horizon": 7}),
        "recommend": ("recommendation", "RecommendProducts", {"customerId": customer, "limit": 10}),
        "risk": ("churn", "GetChurnRisk", {"customerId": customer}),
        "score": ("churn", "ScoreChurn", {"features": features}),
        "line": ("anomaly", "ScoreTransaction", {"transaction": {"stockCode": product, "quantity": 6, "unitPrice": 2.55, "customerId": customer}}),
        "summary": ("insights", "GetSummary", {}),
    }
    made = {"customer": customer}
    for key, (area, method, fields) in asked.items():
        body = folder / f"{key}.bin"
        body.write_bytes(framed(apis[area].request(name(area) + method, fields).SerializeToString()))
        made[key] = (f"/{name(area)}{method}", [body])
    made["risks"] = (made["risk"][0], [])
    for at, other in enumerate(customers):
        body = folder / f"risk-{at}.bin"
        body.write_bytes(framed(apis["churn"].request(made["risk"][0][1:], {"customerId": other}).SerializeToString()))
        made["risks"][1].append(body)
    return made


def start_all(bin: Path, models: Path, processes: Processes) -> list:
    folder = processes.folder
    services, metrics = {}, {}
    def service(name: str, binary: str, store: Path, *flags):
        services[name], metrics[name] = free(), free()
        listen = ["--listen", services[name], "--metrics-listen", metrics[name]]
        processes.start(name, bin / binary, "--models", store, *listen, *flags)
    for area in AREAS:
        service(area, area, models)
    versions = sorted(p.name for p in (models / "segmentation").iterdir() if p.is_dir())
    kmeans = [v for v in versions if "rfm3" == json.loads((models / "segmentation" / v / "manifest.json").read_text())["recipe"]]
    publishing = None
    if kmeans:
        for copy in ("kmeans", "publishing"):
            shutil.copytree(models / "segmentation", folder / copy / "segmentation")
        pointer = folder / "kmeans/segmentation/current.json"
        pointer.write_text(json.dumps({**json.loads(pointer.read_text()), "version": kmeans[0]}))
        service("kmeans", "segmentation", folder / "kmeans")
        service("publishing", "segmentation", folder / "publishing", "--reload-every", "10ms")
        publishing = Publishing(folder / "publishing/segmentation/current.json", versions[-2:], metrics["publishing"])
    else:
        print("the store has no k-means version of segmentation; k-means is not measured", file=sys.stderr)
    for name in services:
        wait_for(f"{name} is ready", lambda: ready(metrics[name]))

    redis = {}
    for name, flags in (("redis", []), ("full redis", ["--maxmemory", "1"])):
        redis[name] = free()
        port = redis[name].split(":")[1]
        processes.start(name, "redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *flags)
    gateways = {}
    def gateway(name: str, *flags):
        gateways[name] = free()
        behind = [f"--{area}=http://{services[area]}" for area in AREAS]
        processes.start(name, bin / "gateway", "--listen", gateways[name], *behind, *flags)
    gateway("memory")
    gateway("shared", "--cache-memory=0", f"--redis=redis://{redis['redis']}")
    # A Redis that stores nothing: every lookup is a miss, as for the first call of a request, which is not written either.
    gateway("missing", "--cache-memory=0", f"--redis=redis://{redis['full redis']}")
    gateways["standalone"] = free()
    processes.start("standalone", bin / "standalone", "--models", models, "--listen", gateways["standalone"])
    asked = questions({area: services[area] for area in AREAS}, folder)
    echo = free()
    processes.start("echo", bin / "examples/echo", echo, services["churn"], asked["customer"])
    for address in (echo, *gateways.values()):
        wait_for(f"{address} listens", lambda: listens(address))
    risk, risks = asked["risk"], asked["risks"]
    apart = Row(f"bare tonic server, {APART} callers apart", echo, *risks)
    rows = [
        Row("bare tonic server", echo, *risk),
        apart,
        Row("churn: GetChurnRisk", services["churn"], *risk, at_least=0.92, p99_at_most=2),
        Row("churn: ScoreChurn", services["churn"], *asked["score"]),
        Row("segmentation: GetCustomerSegment", services["segmentation"], *asked["segment"], at_least=0.92, p99_at_most=2),
        Row("forecast: ForecastSales", services["forecast"], *asked["forecast"], at_least=0.92, p99_at_most=2),
        Row("recommendation: RecommendProducts", services["recommendation"], *asked["recommend"], at_least=0.92, p99_at_most=2),
        Row("anomaly: ScoreTransaction", services["anomaly"], *asked["line"], at_least=0.92, p99_at_most=2),
        Row("insights: GetSummary", services["insights"], *asked["summary"], at_least=0.92, p99_at_most=2),
        Row("gateway, hit in memory", gateways["memory"], *risk, at_least=0.92, p99_at_most=2),
        Row("gateway, hit in Redis", gateways["shared"], *risk, at_least=0.68, p99_at_most=2),
        Row("gateway, miss, no Redis", gateways["memory"], *risks, NO_CACHE, at_least=0.41, p99_at_most=2, bare=apart),
        Row("gateway, miss, Redis", gateways["missing"], *risks, at_least=0.35, p99_at_most=2, bare=apart),
        Row("gateway, JSON, hit in memory", gateways["memory"], f"/v1/customers/{asked['customer']}/churnRisk"),
        Row("standalone, hit", gateways["standalone"], *risk),
        Row("standalone, miss", gateways["standalone"], *risks, NO_CACHE, bare=apart),
    ]
    if kmeans:
        rows.append(Row("segmentation: ClassifyCustomer, k-means", services["kmeans"], *asked["classify"]))
        row = Row(f"segmentation, during {PUBLISHES} publishes", services["publishing"], *asked["segment"], p99_at_most=2, meanwhile=publishing)
        rows.append(row)
    return rows


def peers(models: Path, processes: Processes) -> list:
    """MLServer with models of the same shapes as the churn forest and the k-means of segmentation."""
    newest = lambda kind: json.loads((models / kind / "current.json").read_text())["version"]
    forest = tensors(models / "churn" / newest("churn") / "model.safetensors")
    trees, inner = forest["feature"]
    shapes = [[*forest["customer"], trees, (inner + 1).bit_length() - 1], [forest["customer"][0], 3, 3]]
    folder, address = processes.folder / "mlserver", free()
    command = [sys.executable, ROOT / "tests/load/peer.py", folder, address]
    shapes = [",".join(map(str, shape)) for shape in shapes]
    process = processes.start("mlserver", *command, *shapes, PYTHONPATH=str(ROOT / ".tools/mlserver"))
    path = "/inference.GRPCInferenceService/ModelInfer"
    rows = [Row(f"MLServer: {model}", address, path, [folder / f"{model}.bin"]) for model in ("forest", "kmeans")]
    def answers() -> bool:
        if process.poll() is not None:
            raise SystemExit((processes.folder / "mlserver.log").read_text())
        try:
            [check(row) for row in rows]
        except (grpc.RpcError, OSError):
            return False
        return True
    wait_for("MLServer answers", answers, 180)
    return rows


def resident(processes: Processes) -> dict:
    """Resident MiB of every service, a gateway, standalone and the bare server."""
    return {"gateway" if name == "memory" else name: processes.memory(name) for name in [*AREAS, "memory", "standalone", "echo"]}


def measure(rows: list, rounds: int, seconds: float, processes: Processes) -> dict:
    """Measures into the rows; returns the memory at the start and after each kind of load."""
    folder, memory = processes.folder, {"ready": resident(processes)}
    for row in rows:
        check(row)
        saturated(row, 0.5, processes)
    for turn in range(rounds):
        for row in rows:
            print(f"round {turn + 1}: {row.name}", file=sys.stderr)
            if row.meanwhile is None:
                rate, cpu = saturated(row, seconds, processes)
                row.throughput.append(rate)
                row.cpu.append(cpu)
    memory[f"{CONNECTIONS} connections"] = resident(processes)
    for turn in range(rounds):
        for row in rows:
            # A row with publishing is measured at the rate of the same calls without it.
            half = statistics.median((row.throughput or same(rows, row).throughput)) / 2
            half = min(half, statistics.median((row.bare or rows[0]).throughput) / 2)
            if row.meanwhile is None:
                row.latency.append(at_rate(row, half, seconds, folder))
                continue
            row.meanwhile.every = seconds / PUBLISHES
            with row.meanwhile:
                row.latency.append(at_rate(row, half, seconds, folder))
            row.latency[-1]["publishes"] = row.meanwhile.followed
    memory["200 connections"] = resident(processes)
    return memory


def same(rows: list, row: Row) -> Row:
    return next(other for other in rows if other.path == row.path and other.meanwhile is None)


def ratio(row: Row, bare: Row, of) -> float | None:
    pairs = [a / b for a, b in zip(of(row), of(bare)) if b]
    return statistics.median(pairs) if pairs else None


def summarised(rows: list) -> list:
    lines = []
    p99 = lambda row: [latency["p99"] for latency in row.latency]
    for row in rows:
        bare = row.bare or rows[0]
        line = {
            "row": row.name,
            "calls_per_second": statistics.median(row.throughput) if row.throughput else None,
            "throughput_ratio": ratio(row, bare, lambda row: row.throughput),
            "at_least": row.at_least,
            "cpu_us": statistics.median(row.cpu) if row.cpu else None,
            **{key: statistics.median(l[key] for l in row.latency) for key in (row.latency[0] if row.latency else {})},
            "p99_ratio": ratio(row, bare, p99),
            "p99_at_most": row.p99_at_most,
        }
        lines.append(line)
    return lines


def show(lines: list):
    number = lambda value, form: "" if value is None else format(value, form)
    print(f"\n{'':42} {'calls/s':>8} {'ratio':>6} {'aim':>7} {'CPU µs':>7} {'p50 µs':>8} {'p99 µs':>8} {'p99.9':>8} {'ratio':>6} {'aim':>5}")
    for line in lines:
        aims = [f">={line['at_least']}" if line["at_least"] else "", f"<={line['p99_at_most']}" if line["p99_at_most"] else ""]
        print(
            f"{line['row']:42} {number(line['calls_per_second'], '8.0f'):>8} {number(line['throughput_ratio'], '.3f'):>6} {aims[0]:>7} {number(line['cpu_us'], '7.1f'):>7}"
            f" {number(line.get('p50'), '8.0f'):>8} {number(line.get('p99'), '8.0f'):>8} {number(line.get('p99.9'), '8.0f'):>8}"
            f" {number(line['p99_ratio'], '.2f'):>6} {aims[1]:>5}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin", type=Path)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--only", metavar="WORD", help="only rows with this in their name, and the bare server")
    parser.add_argument("--without-mlserver", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    bin = args.bin.resolve()
    models = args.models or sample_shop(bin, bin.parent / "bench-serving")
    folder = Path(tempfile.mkdtemp(prefix="bench-serving-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    processes = Processes(folder)

    rows = start_all(bin, models.resolve(), processes)
    rows = [rows[0], *(row for row in rows[1:] if not args.only or args.only in row.name or row.name.startswith("bare"))]
    memory = measure(rows, args.rounds, args.seconds, processes)
    lines, versus = summarised(rows), []
    if args.without_mlserver:
        print("MLServer is not measured: --without-mlserver", file=sys.stderr)
    elif not (ROOT / ".tools/mlserver/mlserver").is_dir():
        print("MLServer is not measured: it is not installed", file=sys.stderr)
    else:
        others = peers(models, processes)
        for ours, theirs in ((named(rows, "ScoreChurn"), others[0]), (named(rows, "k-means"), others[1])):
            if ours is not None:
                versus.append(against(ours, theirs, args.seconds, processes))
    show(lines)
    print("\nmemory, MiB resident (aim: below 30 for a service)\n")
    print(f"{'':42} " + " ".join(f"{when:>16}" for when in memory))
    for name in memory["ready"]:
        print(f"{name:42} " + " ".join(f"{of[name]:16.1f}" for of in memory.values()))
    print()
    for line in versus:
        (a, b), (p, q) = line["calls_per_second"], line["latency"]
        print(f"{line['ours']} against {line['theirs']}: {a:.0f} to {b:.0f} calls/s, {a / b:.0f} times (aim: 100 on the forest); at {b / 2:.0f} calls/s "
              f"p50 {p['p50']} to {q['p50']} µs, 1/{q['p50'] / p['p50']:.0f} (aim: 1/20), p99 {p['p99']} to {q['p99']} µs, 1/{q['p99'] / p['p99']:.0f}")
    if args.json:
        args.json.write_text(json.dumps({"rows": lines, "memory_mib": memory, "mlserver": versus}, indent=2) + "\n")


def named(rows: list, word: str) -> Row | None:
    return next((row for row in rows if word in row.name), None)


def against(ours: Row, theirs: Row, seconds: float, processes: Processes) -> dict:
    """Throughput of both at saturation, and latency of both at half of the other's throughput."""
    rates = [saturated(row, max(seconds, 5), processes)[0] for row in (ours, theirs)]
    latency = [at_rate(row, rates[1] / 2, max(seconds, 5), processes.folder) for row in (ours, theirs)]
    return {"ours": ours.name, "theirs": theirs.name, "calls_per_second": rates, "latency": latency}


if __name__ == "__main__":
    main()
