"""Other people's senders: whatever of them pushes, what is kept is byte for byte what went over the wire.

The witness is DCMTK's storescp in bit-preserving mode: the same command sends the same files to it, and both have to
hold the same data sets. (A sender is free to re-encode: its file is no measure of what it sent.)
"""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pynetdicom import AE, _config, build_context
from pynetdicom.sop_class import CTImageStorage, MRImageStorage, Verification  # type: ignore[attr-defined]

from radnode.testing.phantom import head_ct
from tests.peers import Orthanc, Process, Storescp, free_port, listens, tool
from tests.receiving import EXPLICIT, IMPLICIT, Running, running

SAMPLES = {  # option of storescu -> a file of the syntax it proposes
    "-xe": "CT_small.dcm",
    "-xb": "MR_small_bigendian.dcm",
    "-xi": "MR_small_implicit.dcm",
    "-xs": "SC_rgb_jpeg_gdcm.dcm",
    "-xt": "MR_small_jpeg_ls_lossless.dcm",
    "-xw": "JPEG2000.dcm",
    "-xv": "examples_jpeg2k.dcm",
    "-xr": "MR_small_RLE.dcm",
    "-xd": "image_dfl.dcm",
}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "node") as node:
        yield node


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Storescp]:
    with Storescp(tmp_path / "witness", "--accept-all", "--unique-filenames", aet="RADNODE") as running:
        yield running


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("study")
    return head_ct(folder, slices=6, size=64, seed=77, charset="japanese", localizer=True)


def sample(name: str) -> Path:
    found = get_testdata_file(name, download=False)
    if found is None:
        pytest.skip(f"pydicom does not bring {name}")
    return Path(str(found))


def run(*command: str | Path, code: int = 0) -> str:
    """Output of a tool, with Nagle's algorithm on, as all but the careful run it."""
    environment = os.environ | {"TCP_NODELAY": "0"}
    words = [tool(str(command[0])), *map(str, command[1:])]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def data_sets(paths: Sequence[Path]) -> Counter[tuple[str, bytes]]:
    """(transfer syntax, bytes after the File Meta) of Part 10 files."""
    found: Counter[tuple[str, bytes]] = Counter()
    for path in paths:
        data = path.read_bytes()
        meta = pydicom.filereader.read_file_meta_info(path)
        found[str(meta.TransferSyntaxUID), data[144 + int.from_bytes(data[140:144], "little") :]] += 1
    return found


def kept(node: Running, count: int) -> Counter[tuple[str, bytes]]:
    return data_sets([node.spool.root / each.path for each in node.stored(count)])


def both(node: Running, witness: Storescp, tool_name: str, *arguments: str | Path) -> None:
    """Runs a DCMTK sender against the witness and the node, and compares what they hold."""
    for port in (witness.port, node.port):
        run(tool_name, "-aec", "RADNODE", *(["127.0.0.1", str(port)]), *arguments)
    agree(node, witness)


def agree(node: Running, witness: Storescp) -> None:
    held = data_sets(witness.files())
    assert held
    assert kept(node, held.total()) == held


# ---- DCMTK ----------------------------------------------------------------------------------------------------------


def test_echoscu_is_answered_as_often_as_it_asks(node: Running) -> None:
    run("echoscu", "-aec", "RADNODE", "--repeat", "20", "127.0.0.1", str(node.port))
    assert node.ended() == ["released"]


@pytest.mark.parametrize("option", SAMPLES)
def test_storescu_in_every_syntax_it_speaks(node: Running, witness: Storescp, option: str) -> None:
    both(node, witness, "storescu", option, "--required", sample(SAMPLES[option]))


@pytest.mark.parametrize("option", ["-xe", "-xb", "-xi"])
def test_storescu_that_leaves_the_choice_of_syntax_to_the_acceptor(node: Running, option: str) -> None:
    path = sample("MR_small.dcm")
    run("storescu", "-aec", "RADNODE", option, "--combine", "127.0.0.1", str(node.port), path)
    (arrival,) = node.stored()
    assert arrival.transfer_syntax_uid == (IMPLICIT if option == "-xi" else EXPLICIT)
    there, sent = pydicom.dcmread(node.spool.root / arrival.path), pydicom.dcmread(path)
    assert there.PixelData == sent.PixelData


def test_storescu_that_repeats_one_instance(node: Running, witness: Storescp) -> None:
    both(node, witness, "storescu", "--repeat", "25", sample("MR_small.dcm"))
    assert len({each.path for each in node.arrivals}) == 25
    assert len({each.sop_instance_uid for each in node.arrivals}) == 1


def test_storescu_that_invents_studies(node: Running, study: list[Path]) -> None:
    run("storescu", "-aec", "RADNODE", "+IR", "2", "+IS", "1", "--repeat", "2", "127.0.0.1", str(node.port), *study)
    arrivals = node.stored(2 * len(study))
    assert len({each.sop_instance_uid for each in arrivals}) == len(arrivals)
    assert len({each.study_uid for each in arrivals}) > 2


def test_storescu_with_a_user_name_that_wants_an_answer(node: Running, witness: Storescp, study: list[Path]) -> None:
    both(node, witness, "storescu", "-usr", "anna", "-pwd", "secret", *study)
    assert {each.user_identity for each in node.arrivals} == {"anna"}
    run("storescu", "-aec", "RADNODE", "-usr", "anna", "-epw", "-rsp", "127.0.0.1", str(node.port), study[0])


def test_storescu_that_aborts_keeps_what_was_acknowledged(node: Running, study: list[Path]) -> None:
    run("storescu", "-aec", "RADNODE", "--abort", "127.0.0.1", str(node.port), *study)
    node.stored(len(study))
    assert node.ended() == ["aborted"]


@pytest.mark.parametrize("pdu", ["4096", "131072"])
def test_dcmsend_of_a_folder(node: Running, witness: Storescp, study: list[Path], pdu: str) -> None:
    both(node, witness, "dcmsend", "--max-send-pdu", pdu, "+sd", "+r", study[0].parent)


def test_dcmsend_over_several_associations(node: Running, witness: Storescp, study: list[Path]) -> None:
    files = [*study, sample("CT_small.dcm"), sample("MR_small_RLE.dcm"), sample("MR_small_bigendian.dcm")]
    both(node, witness, "dcmsend", "--multi-associations", "--no-uid-checks", "--decompress-never", *files)


def test_movescu_moves_a_study_from_a_pacs_to_here(
    node: Running, witness: Storescp, study: list[Path], tmp_path: Path
) -> None:
    """dcmqrscp is the PACS: it pushes because a third party asks it to."""
    port = free_port()
    with_pacs = _dcmqrscp(tmp_path / "pacs", port, {"RADNODE": node.port, "WITNESS": witness.port})
    try:
        run("storescu", "-aec", "PACS", "127.0.0.1", str(port), *study)
        uid = pydicom.dcmread(study[0], stop_before_pixels=True).StudyInstanceUID
        keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={uid}"]
        for target in ("WITNESS", "RADNODE"):
            run("movescu", "-S", "-aec", "PACS", "-aem", target, "127.0.0.1", str(port), *keys)
    finally:
        with_pacs.end()
    agree(node, witness)
    assert {each.study_uid for each in node.arrivals} == {uid}


def _dcmqrscp(folder: Path, port: int, hosts: dict[str, int]) -> Process:
    (folder / "db").mkdir(parents=True)
    table = "\n".join(f"{name.lower()} = ({name}, localhost, {each})" for name, each in hosts.items())
    config = folder / "dcmqrscp.cfg"
    config.write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        f"HostTable BEGIN\n{table}\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nPACS {folder / 'db'} RW (20, 1024mb) ANY\nAETable END\n"
    )
    process = Process([tool("dcmqrscp"), "-c", str(config)], folder / "log", cwd=folder)
    process.wait_until(lambda: listens(port), "dcmqrscp listens")
    return process


# ---- others ---------------------------------------------------------------------------------------------------------


def test_orthanc_pushes_a_study(node: Running, witness: Storescp, orthanc: Orthanc, study: list[Path]) -> None:
    orthanc.upload(*study)
    uid = pydicom.dcmread(study[0], stop_before_pixels=True).StudyInstanceUID
    orthanc.knows("witness", "RADNODE", witness.port)
    orthanc.knows("radnode", "RADNODE", node.port)
    for target in ("witness", "radnode"):
        orthanc.store_to(target, uid)
    agree(node, witness)
    assert {each.calling_aet for each in node.arrivals} == {"ORTHANC"}
    orthanc.request("POST", "/modalities/radnode/echo", {})


def test_gdcmscu_pushes_a_study(node: Running, witness: Storescp, study: list[Path]) -> None:
    for port in (witness.port, node.port):
        subprocess.run(gdcmscu(study, port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    agree(node, witness)


def gdcmscu(study: list[Path], port: int) -> list[str]:
    """The command that sends the study's folder. When all is sent some versions abort, whoever listens."""
    folder = str(study[0].parent)
    return [tool("gdcmscu"), "--store", "--call", "RADNODE", "-r", "-i", folder, "127.0.0.1", str(port)]


def test_pynetdicom_sends_files_as_they_are(
    node: Running, study: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)
    ae = AE(ae_title="SCU")
    contexts = [build_context(CTImageStorage, EXPLICIT), build_context(MRImageStorage, IMPLICIT),
                build_context(Verification)]  # fmt: skip
    assoc = ae.associate("127.0.0.1", node.port, contexts=contexts, ae_title="RADNODE")
    assert assoc.is_established
    files = [*study, sample("MR_small_implicit.dcm")]
    assert [assoc.send_c_store(path).Status for path in files] == [0] * len(files)
    assert assoc.send_c_echo().Status == 0
    assoc.release()
    assert kept(node, len(files)) == data_sets(files)


def test_all_of_them_at_once(node: Running, witness: Storescp, study: list[Path]) -> None:
    """Three senders in parallel, three times each; the node holds what the witness got of them, one after the other."""

    def commands(port: int) -> list[list[str]]:
        to = ["-aec", "RADNODE", "127.0.0.1", str(port), *map(str, study)]
        return [[tool("storescu"), *to], [tool("dcmsend"), *to], gdcmscu(study, port)] * 3

    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for command in commands(witness.port):
        subprocess.run(command, check=False, **silent)
    for each in [subprocess.Popen(command, **silent) for command in commands(node.port)]:
        each.wait(60)
    agree(node, witness)
    assert len(node.ended(9)) == 9
