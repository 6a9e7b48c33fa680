"""Models that apps ask: every kind of server gives the same, and every way it can fail is said."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pydicom
import pytest
from highdicom import sr
from onnx import TensorProto, helper, numpy_helper

from radnode import ModelError, Signature, Tensor, models, open_model
from radnode.run.apps import find
from radnode.run.local import run_local
from radnode.testing import head_ct
from tests.modelservers import SIGNATURE, expected, mlserver, multi_model_server, triton
from tests.peers import REPO, free_port

IMAGES = np.random.default_rng(7).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)

Answers = Callable[[str, str, dict[str, str], bytes], tuple[int, dict[str, str], bytes]]
"""method, path, headers, body -> status, headers, body."""


@pytest.fixture(autouse=True)
def nothing_open() -> Iterator[None]:
    models._opened.cache_clear()
    models.begin({})
    yield


@contextmanager
def serving(answers: Answers) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer("GET")

        def do_POST(self) -> None:
            self._answer("POST")

        def _answer(self, method: str) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, content = answers(method, self.path, dict(self.headers), body)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


METADATA: dict[str, Any] = {
    "name": "heme",
    "versions": ["3"],
    "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}],
    "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 6]}],
}


def oip(
    infer: Callable[[bytes], tuple[int, dict[str, str], bytes]], metadata: dict[str, Any] = METADATA, ready: int = 200
) -> Answers:
    def answers(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        if method == "POST":
            return infer(body)
        known = {"/v2": (200, {}), "/v2/models/heme/ready": (ready, {}), "/v2/models/heme": (200, metadata)}
        status, said = known.get(path, (404, {"error": "not found"}))
        return status, {}, json.dumps(said).encode()

    return answers


def infer_json(body: bytes) -> tuple[int, dict[str, str], bytes]:
    (item,) = json.loads(body)["inputs"]
    found = expected(np.array(item["data"], np.uint8).reshape(item["shape"]))
    output = {"name": "probabilities", "datatype": "FP32", "shape": found.shape, "data": found.ravel().tolist()}
    return 200, {}, json.dumps({"outputs": [output]}).encode()


# ---- real ones -----------------------------------------------------------------------------------------------------


@pytest.mark.timeout(900)  # the first time on a machine its environment is installed
@pytest.mark.parametrize("server", [triton, mlserver, multi_model_server], ids=lambda each: each.__name__)
def test_every_real_server_gives_the_same_probabilities(tmp_path: Path, server: Any) -> None:
    with server(tmp_path) as address:
        models.begin({"ich": address})
        model = open_model("ich", SIGNATURE)
        found = model.predict(images=IMAGES)
        assert np.allclose(found["probabilities"], expected(IMAGES), atol=1e-6)
        assert found["probabilities"].dtype == np.float32
        assert model.identity.name == "heme"
        (used,) = models.usage()
        if server is triton:
            assert (model._binary, used.requests) == (True, 4)  # type: ignore[attr-defined] # its max_batch_size is 2
        elif server is mlserver:
            assert (model._binary, used.requests) == (False, 2)  # type: ignore[attr-defined]
        if server is multi_model_server:
            with pytest.raises(ModelError, match="404"):
                open_model(address + "-other", SIGNATURE).predict(images=IMAGES)
        else:
            assert model.identity.digest.startswith("sha256:")
            with pytest.raises(ModelError, match="not ready"):
                open_model(address + "-other", SIGNATURE)
            with pytest.raises(ModelError, match="it has no input 'volume'"):
                wrong = Signature((Tensor("volume", "uint8", (8, 8, 3)),), SIGNATURE.outputs)
                open_model(address, wrong)


def write_onnx(path: Path, batch: int | str = "n") -> Path:
    """images uint8 -> their mean, as six growing probabilities."""
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
        helper.make_node("Reshape", ["means", "column"], ["tall"]),
        helper.make_node("MatMul", ["tall", "shares"], ["probabilities"]),
    ]
    shares = (np.arange(1, 7, dtype=np.float32) / 6 / 255)[None]
    graph = helper.make_graph(
        nodes, "heme",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, 8, 8, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch, 6])],
        [numpy_helper.from_array(np.array(value), name) for name, value in
         {"axes": [1, 2, 3], "column": [-1, 1], "shares": shares}.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    made.model_version = 12
    onnx.checker.check_model(made)
    onnx.save(made, str(path))
    return path


@pytest.mark.parametrize("batch", ["n", 1, 3])
def test_an_onnx_file_gives_the_same_whatever_batch_it_was_exported_for(tmp_path: Path, batch: int | str) -> None:
    path = write_onnx(tmp_path / "heme.onnx", batch)
    model = open_model(f"onnx:{path}", SIGNATURE)
    assert np.allclose(model.predict(images=IMAGES)["probabilities"], expected(IMAGES), atol=1e-6)
    assert (model.identity.name, model.identity.version) == ("heme", "12")
    assert len(model.identity.digest) == len("sha256:") + 64
    assert open_model(f"onnx:{path}", SIGNATURE) is model


def test_an_onnx_file_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    for address, fault in [
        (f"onnx:{tmp_path / 'bad.onnx'}", "cannot be loaded"),
        (f"onnx:{tmp_path / 'gone.onnx'}", "no such file"),
        ("onnx:relative.onnx", "absolute path"),
    ]:
        with pytest.raises(ModelError, match=fault):
            open_model(address, SIGNATURE)
    grey = Signature((Tensor("images", "float32", (8, 8)),), SIGNATURE.outputs)
    with pytest.raises(ModelError, match=r"its input 'images' is uint8 \[-1, 8, 8, 3\], the app's is images: float32"):
        open_model(f"onnx:{write_onnx(tmp_path / 'heme.onnx')}", grey)


# ---- servers at fault ----------------------------------------------------------------------------------------------


def test_nobody_listening_is_said_once_the_time_is_over() -> None:
    for kind in ("v2/models", "predictions"):
        with pytest.raises(ModelError, match="cannot be reached") as raised:
            open_model(f"http://127.0.0.1:{free_port()}/{kind}/heme", SIGNATURE, timeout=0.3)
        assert "start it" in raised.value.remedy


def test_a_server_that_is_busy_is_asked_again() -> None:
    calls: list[int] = []

    def infer(body: bytes) -> tuple[int, dict[str, str], bytes]:
        calls.append(1)
        return (503, {}, b"busy") if len(calls) < 3 else infer_json(body)

    with serving(oip(infer)) as base:
        found = open_model(f"{base}/v2/models/heme", SIGNATURE).predict(images=IMAGES[:2])
    assert np.allclose(found["probabilities"], expected(IMAGES[:2]), atol=1e-6)
    assert len(calls) == 3


def test_a_server_that_stays_busy_is_given_up() -> None:
    with serving(oip(lambda body: (503, {}, b"busy"))) as base:
        model = open_model(f"{base}/v2/models/heme", SIGNATURE, timeout=0.5)
        with pytest.raises(ModelError, match="answers 503: busy"):
            model.predict(images=IMAGES)
    assert (models.usage()[0].requests, models.usage()[0].failures) == (1, 1)


def test_a_slow_server_is_asked_once_and_given_up() -> None:
    calls: list[int] = []
    over = threading.Event()

    def infer(body: bytes) -> tuple[int, dict[str, str], bytes]:
        calls.append(1)
        over.wait(20)
        return infer_json(body)

    with serving(oip(infer)) as base:
        model = open_model(f"{base}/v2/models/heme", SIGNATURE, timeout=0.5)
        with pytest.raises(ModelError, match=r"did not answer within 0\.5 s"):
            model.predict(images=IMAGES[:1])
        over.set()
    assert len(calls) == 1


def test_a_server_that_drips_does_not_outlast_the_time() -> None:
    with serving(oip(infer_json)) as base:
        model = open_model(f"{base}/v2/models/heme", SIGNATURE, timeout=1.0)

        class Dripping(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.send_response(200)
                self.end_headers()
                try:
                    for _ in range(200):
                        self.wfile.write(b" ")
                        time.sleep(0.1)
                except OSError:
                    pass

            def log_message(self, *_: Any) -> None:
                pass

        dripping = ThreadingHTTPServer(("127.0.0.1", 0), Dripping)
        dripping.daemon_threads = True
        threading.Thread(target=dripping.serve_forever, daemon=True).start()
        model._server._port = dripping.server_address[1]  # type: ignore[attr-defined]
        with pytest.raises(ModelError, match="did not answer within"):
            model.predict(images=IMAGES[:1])
        dripping.shutdown()
        dripping.server_close()


def output(**changes: Any) -> bytes:
    item = {"name": "probabilities", "datatype": "FP32", "shape": [2, 6], "data": [0.5] * 12, **changes}
    return json.dumps({"outputs": [item]}).encode()


@pytest.mark.parametrize(
    ("status", "headers", "body", "fault"),
    [
        (200, {}, output(shape=[2, 5], data=[0.5] * 10), r"answers 2 items with shape \(2, 5\)"),
        (200, {}, output(shape=[1, 6], data=[0.5] * 6), r"with shape \(1, 6\)"),
        (200, {}, output(name="logits"), r"answers \['logits'\], not probabilities"),
        (200, {}, output(data=[float("nan")] * 12), "not finite"),
        (200, {}, output(data=["a"] * 12), "no inference response"),
        (200, {}, output(datatype="BYTES"), "no inference response"),
        (200, {}, b"<html>", "no inference response"),
        (200, {"Inference-Header-Content-Length": "99999"}, output(), "."),
        (200, {"Inference-Header-Content-Length": "x"}, output(), "no inference response"),
        (400, {}, b'{"error": "wrong input"}', "answers 400.*wrong input"),
        (500, {}, b"", "answers 500"),
    ],
)
def test_an_answer_that_is_none_is_said(status: int, headers: dict[str, str], body: bytes, fault: str) -> None:
    with serving(oip(lambda given: (status, headers, body))) as base:
        model = open_model(f"{base}/v2/models/heme", SIGNATURE, timeout=5)
        if fault == ".":  # a length beyond the end takes the whole, which is right
            assert model.predict(images=IMAGES[:2])["probabilities"].shape == (2, 6)
            return
        with pytest.raises(ModelError, match=fault):
            model.predict(images=IMAGES[:2])


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, 8, 8, 3]}]}, "is float32"),
        ({"inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, 9, 8, 3]}]}, r"\[-1, 9, 8, 3\]"),
        ({"inputs": [{"name": "images", "datatype": "UINT8", "shape": [8, 8, 3]}]}, r"\[8, 8, 3\]"),
        ({"inputs": [*METADATA["inputs"], {"name": "age", "datatype": "FP32", "shape": [-1, 1]}]}, "knows nothing"),
        ({"outputs": [{"name": "mask", "datatype": "FP32", "shape": [-1, 6]}]}, "has no output 'probabilities'"),
    ],
)
def test_a_model_of_another_make_is_refused_before_it_is_asked(changes: dict[str, Any], fault: str) -> None:
    with serving(oip(infer_json, METADATA | changes)) as base, pytest.raises(ModelError, match=fault):
        open_model(f"{base}/v2/models/heme", SIGNATURE)


def test_a_model_that_is_not_loaded_is_said() -> None:
    with serving(oip(infer_json, ready=400)) as base, pytest.raises(ModelError, match="not ready: 400"):
        open_model(f"{base}/v2/models/heme", SIGNATURE)


def test_predictions_are_sent_as_npy_and_come_as_json() -> None:
    bodies: list[bytes] = []

    def answers(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        if path == "/ping":
            return 200, {}, b'{"status": "Healthy"}'
        bodies.append(body)
        images = np.load(BytesIO(body), allow_pickle=False)
        if path.endswith("/2"):
            return 200, {}, b'{"probabilities": "none"}'
        return 200, {}, json.dumps(expected(images).tolist()).encode()

    with serving(answers) as base:
        found = open_model(f"{base}/predictions/heme", SIGNATURE).predict(images=IMAGES)
        assert np.allclose(found["probabilities"], expected(IMAGES), atol=1e-6)
        assert [body[:6] for body in bodies] == [b"\x93NUMPY"] * 2
        second = open_model(f"{base}/predictions/heme/2", SIGNATURE)
        assert second.identity.version == "2"
        with pytest.raises(ModelError, match="no prediction"):
            second.predict(images=IMAGES)


def test_what_an_app_gives_wrongly_never_reaches_a_model(tmp_path: Path) -> None:
    model = open_model(f"onnx:{write_onnx(tmp_path / 'heme.onnx')}", SIGNATURE)
    for given, fault in [
        ({"pictures": IMAGES}, "the model takes"),
        ({"images": IMAGES[:, :4]}, "is no input images"),
        ({"images": IMAGES[:0]}, "nothing to ask"),
    ]:
        with pytest.raises(ModelError, match=fault):
            model.predict(**given)
    assert models.usage() == []


def test_the_app_of_the_page_asks_a_model(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMax", ["images", "axes"], ["most"], keepdims=0),
        helper.make_node("Reshape", ["most", "column"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes, "brightest",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", "rows", "columns"])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(np.array(value), name) for name, value in
         {"axes": [1, 2], "column": [-1, 1]}.items()],
    )  # fmt: skip
    path = tmp_path / "brightest.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    (block,) = re.findall(r"```python\n(.*?)```", (REPO / "docs" / "models.md").read_text(), re.DOTALL)
    (tmp_path / "apps").mkdir()
    (tmp_path / "apps" / "score.py").write_text(block)
    files = head_ct(tmp_path / "in", slices=10, size=32)
    highest = max(int(pydicom.dcmread(file).pixel_array.max()) for file in files)
    app = find(tmp_path / "apps").get("score")
    names = {"brightest": f"onnx:{path}"}
    (run,) = run_local(app, tmp_path / "in", {"model": "brightest"}, tmp_path / "out", models=names)
    (group,) = sr.srread(run.files[0]).content.get_image_measurement_groups()
    assert [each.value for each in group.get_measurements()] == [highest]


@pytest.mark.parametrize("address", ["", "heme", "ftp://x/v2/models/a", "http://x/heme", "http://x/v2/models/"])
def test_an_address_of_no_known_form_is_refused(address: str) -> None:
    with pytest.raises(ModelError, match="no address of a model"):
        open_model(address, SIGNATURE)
