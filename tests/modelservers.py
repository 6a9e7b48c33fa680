"""Real model servers, each in an environment of its own, made once per machine in the user's cache.

All serve one model, `heme`: the mean of each image, as six growing probabilities. So every kind has to give the same.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from radnode import Signature, Tensor
from tests.peers import free_port

SIGNATURE = Signature((Tensor("images", "uint8", (8, 8, 3)),), (Tensor("probabilities", "float32", (6,)),), batch=4)
SECONDS_TO_START = 60

_MODEL = """
import numpy as np

def probabilities(images):
    means = images.reshape(len(images), -1).mean(axis=1) / 255
    return (means[:, None] * np.arange(1, 7) / 6).astype(np.float32)
"""


def expected(images: np.ndarray) -> np.ndarray:
    means = images.reshape(len(images), -1).mean(axis=1) / 255
    return np.asarray((means[:, None] * np.arange(1, 7) / 6).astype(np.float32))


def unavailable(why: str) -> None:
    """A visible skip on a developer's machine; under CI the missing server fails the test."""
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


def environment(name: str, *requirements: str) -> Path:
    """The interpreter of a virtual environment that holds these packages."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "radnode-tests"
    digest = hashlib.sha256("\n".join([sys.version, *requirements]).encode()).hexdigest()[:12]
    folder = cache / f"{name}-{digest}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            install = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", *requirements]
            done = subprocess.run(install, capture_output=True, text=True, check=False)
            if done.returncode:
                unavailable(f"{name} cannot be installed: {done.stderr[-500:]}")
            (folder / "complete").touch()
    return folder / "bin" / "python"


@contextmanager
def running(command: list[str], folder: Path, ready: str, **variables: str) -> Iterator[None]:
    """A server, once it answers `ready`; ended with all it started."""
    with (folder / "server.log").open("wb") as log:
        kept = {"PATH": os.environ["PATH"], "HOME": str(folder), **variables}
        process = subprocess.Popen(command, cwd=folder, env=kept, stdout=log, stderr=log, start_new_session=True)
    try:
        until = time.monotonic() + SECONDS_TO_START
        while not _answers(ready):
            if process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"{command[0]} did not start:\n{(folder / 'server.log').read_text()[-4000:]}")
            time.sleep(0.2)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return int(answer.status) == 200
    except OSError:
        return False


def low_port() -> int:
    """A free port that multi-model-server takes: it refuses those from 32767 on."""
    while True:
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1", random.randrange(20000, 32000)))
            return int(tried.getsockname()[1])


@contextmanager
def triton(folder: Path) -> Iterator[str]:
    python = environment("triton", "nvidia-pytriton==0.7.0")
    http, grpc, metrics = free_port(), free_port(), free_port()
    (folder / "served.py").write_text(f"""{_MODEL}
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

@batch
def infer(images):
    return [probabilities(images)]

with Triton(config=TritonConfig(http_port={http}, grpc_port={grpc}, metrics_port={metrics})) as server:
    server.bind(model_name="heme", infer_func=infer,
                inputs=[Tensor(name="images", dtype=np.uint8, shape=(-1, -1, 3))],
                outputs=[Tensor(name="probabilities", dtype=np.float32, shape=(6,))],
                config=ModelConfig(max_batch_size=2))
    server.serve()
""")
    library = sysconfig.get_config_var("LIBDIR") or ""
    ready = f"http://127.0.0.1:{http}/v2/models/heme/ready"
    with tempfile.TemporaryDirectory() as home:  # a short path: unix sockets in there may have 108 characters
        variables = {"PYTRITON_HOME": home, "LD_LIBRARY_PATH": library}
        with running([str(python), "served.py"], folder, ready, **variables):
            yield f"http://127.0.0.1:{http}/v2/models/heme"


@contextmanager
def mlserver(folder: Path) -> Iterator[str]:
    python = environment("mlserver", "mlserver==1.7.1")
    http, grpc, metrics = free_port(), free_port(), free_port()
    ports = {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics, "parallel_workers": 0}
    described = [("inputs", "images", "UINT8", [-1, 8, 8, 3]), ("outputs", "probabilities", "FP32", [-1, 6])]
    model = {"name": "heme", "implementation": "served.Heme", "parameters": {"version": "v7"}} | {
        kind: [{"name": name, "datatype": datatype, "shape": shape}] for kind, name, datatype, shape in described
    }
    (folder / "settings.json").write_text(json.dumps(ports))
    (folder / "model-settings.json").write_text(json.dumps(model))
    (folder / "served.py").write_text(f"""{_MODEL}
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

class Heme(MLModel):
    async def load(self):
        return True

    async def predict(self, payload):
        images = NumpyCodec.decode_input(payload.inputs[0])
        output = NumpyCodec.encode_output("probabilities", probabilities(images))
        return InferenceResponse(model_name=self.name, outputs=[output])
""")
    ready = f"http://127.0.0.1:{http}/v2/models/heme/ready"
    path = {"PATH": f"{python.parent}:{os.environ['PATH']}"}
    with running([str(python.parent / "mlserver"), "start", "."], folder, ready, **path):
        yield f"http://127.0.0.1:{http}/v2/models/heme"


@contextmanager
def multi_model_server(folder: Path) -> Iterator[str]:
    if shutil.which("java") is None:
        unavailable("no java")
    python = environment("mms", "multi-model-server==1.1.11", "numpy<3", "setuptools<81")
    http, management = low_port(), low_port()
    source, store = folder / "source", folder / "store"
    source.mkdir()
    store.mkdir()
    (source / "served.py").write_text(f"""{_MODEL}
from io import BytesIO

def handle(data, context):
    if data is None:
        return None
    batches = (np.load(BytesIO(each["body"]), allow_pickle=False) for each in data)
    return [{{"probabilities": probabilities(each).tolist()}} for each in batches]
""")
    path = f"{python.parent}:{os.environ['PATH']}"
    archive = [str(python.parent / "model-archiver"), "--model-name", "heme", "--model-path", str(source)]
    archive += ["--handler", "served:handle", "--export-path", str(store)]
    subprocess.run(archive, check=True, env={"PATH": path})
    config = folder / "config.properties"
    config.write_text(
        f"inference_address=http://127.0.0.1:{http}\nmanagement_address=http://127.0.0.1:{management}\n"
        "default_workers_per_model=1\nmax_request_size=100000000\n"
    )
    command = [str(python.parent / "multi-model-server"), "--start", "--foreground", "--mms-config", str(config)]
    command += ["--model-store", str(store), "--models", "heme=heme.mar"]
    with running(command, folder, f"http://127.0.0.1:{http}/ping", PATH=path):
        yield f"http://127.0.0.1:{http}/predictions/heme"
