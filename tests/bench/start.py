"""Measures the start time of the services, and their memory when ready.

    python3 tests/bench/start.py BINARIES MODELS [--runs N]

BINARIES is the folder of the release binaries, MODELS a model store. Starts one service at a time and polls /readyz. The time
runs from before the process is spawned until it is ready, and includes fetching, verifying and loading its model. CPU time
varies less with other load on the machine. Memory is the resident set when ready, and its peak until then.
"""

import argparse
import os
import pathlib
import socket
import statistics
import subprocess
import time

SERVICES = ["segmentation", "forecast", "recommendation", "churn", "anomaly", "insights"]
READY = b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def is_ready(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(READY)
            return connection.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def memory(process):
    """Resident set, now and at its peak, MiB."""
    lines = pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return [int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")]


def processor(process):
    """CPU time of a process, milliseconds."""
    # The program's name is in parentheses and may contain spaces and parentheses.
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def start(command):
    """Milliseconds until ready, CPU milliseconds until then, and memory."""
    port = free_port()
    command = [*command, "--listen", "127.0.0.1:0", "--metrics-listen", f"127.0.0.1:{port}", "--log", "error"]
    begun = time.perf_counter()
    process = subprocess.Popen(command)
    try:
        while not is_ready(port):
            if process.poll() is not None or time.perf_counter() - begun > 60:
                raise SystemExit(f"{command[0]} did not become ready within 60 s")
            time.sleep(0.0005)
        return (time.perf_counter() - begun) * 1000, processor(process), *memory(process)
    finally:
        process.terminate()
        process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binaries", type=pathlib.Path)
    parser.add_argument("models", type=pathlib.Path)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    models = ["--models", str(arguments.models)]
    commands = {service: [arguments.binaries / service, *models] for service in SERVICES}
    commands["standalone"] = [arguments.binaries / "standalone", *models]
    columns = ["ready, ms", "CPU, ms", "memory, MiB", "peak, MiB"]
    print(f"{'':16}" + "".join(f"{column:>15}" for column in columns) + f"   (median of {arguments.runs})")
    for service, command in commands.items():
        medians = map(statistics.median, zip(*(start(command) for _ in range(arguments.runs))))
        print(f"{service:16}" + "".join(f"{median:15.1f}" for median in medians))


if __name__ == "__main__":
    main()
