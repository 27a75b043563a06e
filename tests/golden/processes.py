"""Starts what the golden test asks: six services, a gateway over them, and everything in one process."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from questions import MODELS

# The same kernels on every machine that has them: ATen's and MKL's without the widest vector instructions, and a fixed number
# of threads. Nothing of the caller's own settings gets through.
PINNED = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "2",
    "POLARS_MAX_THREADS": "2",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
}
KEPT = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH")
PATIENCE = 120.0


def environment() -> dict[str, str]:
    return {name: os.environ[name] for name in KEPT if name in os.environ} | PINNED


@dataclass
class Serving:
    """Addresses of what was started."""

    gateway: str
    standalone: str
    metrics: dict[str, str]


def run(*command, check: bool = True) -> subprocess.CompletedProcess:
    """Runs a command to its end. A failure ends the test unless the caller looks at the exit code."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment(), stdin=subprocess.DEVNULL)
    if check and done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done


@contextmanager
def serving(bin: Path, models: Path, logs: Path):
    """Serves a model store until the block ends."""
    with ExitStack() as running:
        start = lambda name, *command: running.enter_context(process(logs, name, *command))
        listen, metrics = {}, {}

        def flags(name: str) -> list[str]:
            listen[name], metrics[name] = free_address(), free_address()
            return ["--listen", listen[name], "--metrics-listen", metrics[name]]

        for area in MODELS:
            start(area, bin / area, "--models", models, *flags(area))
        behind = [f"--{area}=http://{listen[area]}" for area in MODELS]
        if shutil.which("redis-server"):
            redis = free_address()
            port = redis.split(":")[1]
            start("redis", "redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
            behind += ["--redis", f"redis://{redis}"]
        start("gateway", bin / "gateway", *behind, *flags("gateway"))
        start("standalone", bin / "standalone", "--models", models, "--allow-publish", "--reload-every", "100ms", *flags("standalone"))
        for name, address in metrics.items():
            wait_until_ready(name, address, logs)
        yield Serving(listen["gateway"], listen["standalone"], metrics)


@contextmanager
def process(logs: Path, name: str, *command):
    with open(logs / f"{name}.log", "w") as log:
        started = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, env=environment())
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(15)
        except subprocess.TimeoutExpired:
            started.kill()


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def wait_until_ready(name: str, address: str, logs: Path):
    deadline = time.monotonic() + PATIENCE
    while not is_ready(address):
        if time.monotonic() > deadline:
            raise SystemExit(f"{name} is not ready after {PATIENCE:.0f} s:\n{(logs / f'{name}.log').read_text()[-2000:]}")
        time.sleep(0.05)


def is_ready(address: str) -> bool:
    try:
        return urllib.request.urlopen(f"http://{address}/readyz", timeout=2).status == 200
    except OSError:
        return False
