"""Starts MLServer with a random forest and a k-means model of given shapes, for comparison with the services.

    python peer.py FOLDER ADDR FOREST KMEANS

FOREST is ROWS,WIDTH,TREES,DEPTH and KMEANS is ROWS,WIDTH,K. scikit-learn trains both on random numbers. FOLDER receives the
models, MLServer's settings, and `forest.bin` and `kmeans.bin`, each a ModelInfer request with its gRPC frame.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import joblib
import numpy as np
from mlserver.cli import main
from mlserver.grpc import dataplane_pb2 as pb
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestClassifier


def call(model: str, row: np.ndarray, output: str) -> bytes:
    request = pb.ModelInferRequest(model_name=model)
    given = request.inputs.add(name="x", datatype="FP32", shape=[1, len(row)])
    given.contents.fp32_contents.extend(row.tolist())
    request.outputs.add(name=output)
    message = request.SerializeToString()
    return b"\0" + len(message).to_bytes(4, "big") + message


def prepare(folder: Path, address: str, forest: list, kmeans: list):
    random = np.random.default_rng(1)
    rows, width, trees, depth = forest
    x = random.gamma(2.0, 10.0, (rows, width)).astype(np.float32)
    label = x[:, 0] + random.normal(0.0, 8.0, rows) > 20.0
    models = {"forest": RandomForestClassifier(trees, max_depth=depth, random_state=1).fit(x, label)}
    calls = {"forest": call("forest", x[0], "predict_proba")}
    rows, width, k = kmeans
    x = random.gamma(2.0, 10.0, (rows, width)).astype(np.float32)
    models["kmeans"] = KMeans(k, n_init=4, random_state=1).fit(x)
    calls["kmeans"] = call("kmeans", x[0], "predict")
    for name, model in models.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        joblib.dump(model, folder / name / "model.joblib")
        settings = {"name": name, "implementation": "mlserver_sklearn.SKLearnModel", "parameters": {"uri": "./model.joblib"}}
        (folder / name / "model-settings.json").write_text(json.dumps(settings))
        (folder / f"{name}.bin").write_bytes(calls[name])
    host, port = address.split(":")
    # One process: on few cores, worker processes cost more than they gain.
    settings = {"host": host, "grpc_port": int(port), "http_port": 0, "metrics_endpoint": None, "parallel_workers": 0, "debug": False}
    (folder / "settings.json").write_text(json.dumps(settings))


if __name__ == "__main__":
    folder, address, *shapes = sys.argv[1:]
    prepare(Path(folder), address, *([int(n) for n in shape.split(",")] for shape in shapes))
    sys.argv = ["mlserver", "start", folder]
    main()
