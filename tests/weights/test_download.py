"""Downloading the official checkpoints, from a local server that interrupts transfers and reports wrong sizes."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from argparse import Namespace
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import create_autospec

import pytest

from pix2seq import config
from pix2seq.errors import UserError
from pix2seq.runtime.paths import ROOT
from pix2seq.weights import download

SHARED = ROOT.parent / "shared"
NAME = "coco-vit-b-640"
FOLDER = "/coco_det_finetune/vit_b_640x640"
STATE = b'model_checkpoint_path: "ckpt-7"\nall_model_checkpoint_paths: "ckpt-5"\nall_model_checkpoint_paths: "ckpt-7"\n'
DATA_FILE = "ckpt-7.data-00000-of-00001"
DATA = os.urandom(700_000)


def index_bytes(shards: int) -> bytes:
    """The beginning of a checkpoint's index as TensorFlow writes it."""
    return bytes([0, 0, 6, 8, shards, 0x1A, 2, 8, 1]) + b"the entries of the variables"


class Server(ThreadingHTTPServer):
    """Serves `files` (path to bytes) and records `requests` (path, Range header)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.ranges = True
        self.etag = '"one"'
        self.cuts: list[int] = []  # for each of the next requests of a data file: send so many bytes, then disconnect
        self.statuses: list[int] = []  # for each of the next requests of a data file: respond with this status instead
        self.extra_length = 0  # by how much the reported size of whole files is too large
        self.reports_size = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def data_ranges(self) -> list[str | None]:
        """The Range headers of the requests for data files."""
        return [header for path, header in self.requests if ".data-" in path]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, header = self.server, self.headers.get("Range")
        server.requests.append((self.path, header))
        is_data = ".data-" in self.path
        if self.path not in server.files:
            return self.send_error(404)
        if is_data and server.statuses:
            return self.send_error(server.statuses.pop(0))
        body = server.files[self.path]
        start = int(re.fullmatch(r"bytes=(\d+)-", header)[1]) if header and server.ranges else 0
        if start >= len(body):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("ETag", server.etag)
        if server.reports_size or not is_data:
            self.send_header("Content-Length", str(len(body) - start + (0 if start else server.extra_length)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        end = start + server.cuts.pop(0) if is_data and server.cuts else len(body)
        self.wfile.write(body[start:end])

    def log_message(self, *args: object) -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        server.files = {
            f"{FOLDER}/checkpoint": STATE,
            f"{FOLDER}/ckpt-7.index": index_bytes(1),
            f"{FOLDER}/{DATA_FILE}": DATA,
        }
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; no pauses between tries, no proxy on the way to the server."""
    monkeypatch.setattr(download, "CACHE", tmp_path / "official")
    monkeypatch.setattr(download, "PAUSES_S", (0, 0, 0))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "official"


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """The calls of a fake converter that writes a word instead of weights."""
    calls = []

    def convert(item: download.Official, checkpoint: Path, weights: Path, dtype: str, text_model: Path | None) -> None:
        calls.append((item, checkpoint, checkpoint.with_name(DATA_FILE).read_bytes(), dtype, text_model))
        weights.write_text("weights", encoding="utf-8")

    monkeypatch.setattr(download, "convert", convert)
    return calls


def obtain(server: Server | None = None, **flags: object) -> Path:
    """Run the script with these flags."""
    values = dict(
        name=NAME, list=False, dtype="fp32", text_model=None, keep=False, convert=True, base_url="http://127.0.0.1:9"
    )
    return download.obtain(Namespace(**values | ({"base_url": server.url} if server else {}) | flags))


def fetched(cache: Path) -> bytes:
    """The data file of a checkpoint that was downloaded without converting, after checking its folder."""
    folder = cache / NAME
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint", DATA_FILE, "ckpt-7.index"]
    return (folder / DATA_FILE).read_bytes()


def test_the_newest_checkpoint_is_downloaded_with_all_its_files(server: Server, cache: Path) -> None:
    assert obtain(server, convert=False) == cache / NAME
    assert fetched(cache) == DATA
    assert (cache / NAME / "checkpoint").read_bytes() == STATE
    assert [path.rpartition("/")[2] for path, _ in server.requests] == ["checkpoint", "ckpt-7.index", DATA_FILE]


def test_the_index_gives_the_number_of_data_files(server: Server, cache: Path) -> None:
    del server.files[f"{FOLDER}/{DATA_FILE}"]
    server.files[f"{FOLDER}/ckpt-7.index"] = index_bytes(2)
    for shard in (0, 1):
        server.files[f"{FOLDER}/ckpt-7.data-{shard:05d}-of-00002"] = bytes([shard]) * 10
    obtain(server, convert=False)
    assert (cache / NAME / "ckpt-7.data-00000-of-00002").read_bytes() == b"\0" * 10
    assert (cache / NAME / "ckpt-7.data-00001-of-00002").read_bytes() == b"\1" * 10


@pytest.mark.parametrize("model", ["vit_tiny", "resnet50_tiny", "resnet50_c4_tiny"])
def test_counts_the_data_files_of_a_real_index(model: str) -> None:
    folder = SHARED / "reference" / "models" / model / "ckpt"
    if not folder.is_dir():
        pytest.skip(f"the reference checkpoint {folder} is not here")
    assert download._count_shards(folder / "ckpt-402.index") == 1


def test_an_interrupted_download_resumes_where_it_stopped(server: Server, cache: Path) -> None:
    server.cuts = [100_000, 300_000]
    obtain(server, convert=False)
    assert fetched(cache) == DATA
    assert server.data_ranges() == [None, "bytes=100000-", "bytes=400000-"]


def test_any_number_of_interruptions_is_allowed_while_bytes_arrive(server: Server, cache: Path) -> None:
    server.cuts = [70_000] * 9
    obtain(server, convert=False)
    assert fetched(cache) == DATA
    assert len(server.data_ranges()) == 10 > len(download.PAUSES_S) + 1


def test_a_later_run_resumes_where_the_first_gave_up(server: Server, cache: Path) -> None:
    server.cuts = [100_000] + [0] * len(download.PAUSES_S)
    with pytest.raises(UserError, match=r"stopped after 100,000 bytes .*run the command again"):
        obtain(server, convert=False)
    assert not (cache / NAME / DATA_FILE).exists()
    assert (cache / NAME / f"{DATA_FILE}.partial").read_bytes() == DATA[:100_000]
    server.requests.clear()
    obtain(server, convert=False)
    assert fetched(cache) == DATA
    assert server.data_ranges() == ["bytes=100000-"]


def test_a_download_starts_over_if_the_server_does_not_support_ranges(server: Server, cache: Path) -> None:
    server.ranges = False
    server.cuts = [100_000]
    obtain(server, convert=False)
    assert fetched(cache) == DATA
    assert server.data_ranges() == [None, "bytes=100000-"]


def test_a_server_without_ranges_that_always_disconnects_ends_the_retries(server: Server, cache: Path) -> None:
    server.ranges = False
    server.cuts = [100_000] * 50
    with pytest.raises(UserError, match="stopped after 100,000 bytes"):
        obtain(server, convert=False)
    assert len(server.data_ranges()) == 1 + len(download.PAUSES_S)


@pytest.mark.parametrize("etag", ['"one"', '"two"'], ids=["another size", "another tag"])
@pytest.mark.parametrize("size", [700_001, 700_000, 50_000], ids=str)
def test_a_download_starts_over_if_the_remote_file_has_changed(
    server: Server, cache: Path, etag: str, size: int
) -> None:
    server.cuts = [100_000] + [0] * len(download.PAUSES_S)
    with pytest.raises(UserError):
        obtain(server, convert=False)
    changed = etag != server.etag or size != len(DATA)
    new = os.urandom(size) if changed else DATA
    server.files[f"{FOLDER}/{DATA_FILE}"], server.etag = new, etag
    obtain(server, convert=False)
    assert fetched(cache) == new


def test_a_file_of_another_size_than_reported_is_not_kept(server: Server, cache: Path) -> None:
    server.ranges = False
    server.extra_length = 5
    server.files[f"{FOLDER}/checkpoint"] = STATE + b" " * 5
    with pytest.raises(UserError, match=r"ckpt-7.index stopped after .*37 of 42 bytes arrived"):
        obtain(server, convert=False)
    assert [path.name for path in (cache / NAME).iterdir() if "partial" not in path.name] == []


def test_a_file_of_unknown_size_is_refused(server: Server, cache: Path) -> None:
    server.reports_size = False
    with pytest.raises(UserError, match=rf"{DATA_FILE} does not report its size"):
        obtain(server, convert=False)
    assert not (cache / NAME / DATA_FILE).exists()


def test_a_busy_server_gets_the_request_again(server: Server, cache: Path) -> None:
    server.statuses = [503, 429]
    obtain(server, convert=False)
    assert fetched(cache) == DATA


@pytest.mark.parametrize("missing", ["checkpoint", "ckpt-7.index", DATA_FILE])
def test_a_missing_file_is_named(server: Server, cache: Path, missing: str) -> None:
    del server.files[f"{FOLDER}/{missing}"]
    with pytest.raises(UserError, match=rf"vit_b_640x640/{missing} cannot be downloaded: the server responded 404"):
        obtain(server, convert=False)
    assert not (cache / NAME / "checkpoint").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("checkpoint", b"<html>Please log in</html>", "names no checkpoint"),
        ("checkpoint", b'model_checkpoint_path: ".."', "names no checkpoint"),
        ("ckpt-7.index", b"<html>Please log in</html>", "no index of a TensorFlow checkpoint"),
    ],
)
def test_a_page_instead_of_a_file_is_refused(
    server: Server, cache: Path, file: str, content: bytes, message: str
) -> None:
    right = server.files[f"{FOLDER}/{file}"]
    server.files[f"{FOLDER}/{file}"] = content
    with pytest.raises(UserError, match=message):
        obtain(server, convert=False)
    server.files[f"{FOLDER}/{file}"] = right
    obtain(server, convert=False)
    assert fetched(cache) == DATA


def test_no_connection_is_one_line_and_status_2(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        command = [sys.executable, "weights/download.py", NAME, "--no-convert", "--base-url", url]
        run = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"no_proxy": "127.0.0.1"}
        )
    assert run.returncode == 2
    assert run.stdout == ""
    assert re.fullmatch(rf"error: {url}{FOLDER}/checkpoint cannot be reached \(.*refused\).*\n", run.stderr)


def test_a_full_disk_is_one_line_and_nothing_final_is_left(server: Server, cache: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full, a disk that is always full, is not here")
    (cache / NAME).mkdir(parents=True)
    (cache / NAME / f"{DATA_FILE}.partial").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
        obtain(server, convert=False)
    assert not (cache / NAME / DATA_FILE).exists()
    assert not (cache / NAME / "checkpoint").exists()


def test_a_cache_that_cannot_be_written_is_named(server: Server, cache: Path) -> None:
    cache.write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(UserError, match=rf"{cache}.* cannot be written"):
        obtain(server, convert=False)


def test_a_converted_checkpoint_needs_no_further_request(server: Server, cache: Path, conversions: list[tuple]) -> None:
    assert obtain(server) == cache / f"{NAME}.safetensors"
    assert conversions == [(download.CHECKPOINTS[NAME], cache / NAME / "ckpt-7", DATA, "fp32", None)]
    assert [path.name for path in cache.iterdir()] == [f"{NAME}.safetensors"]
    server.requests.clear()
    assert obtain(server) == cache / f"{NAME}.safetensors"
    assert (server.requests, len(conversions)) == ([], 1)


def test_kept_files_are_converted_to_another_precision_without_a_request(
    server: Server, cache: Path, conversions: list[tuple]
) -> None:
    obtain(server, keep=True)
    server.requests.clear()
    assert obtain(server, keep=True, dtype="fp16") == cache / f"{NAME}-fp16.safetensors"
    assert obtain(server, convert=False) == cache / NAME
    assert server.requests == []
    assert [call[3] for call in conversions] == ["fp32", "fp16"]
    assert fetched(cache) == DATA


def test_files_stay_if_conversion_fails(
    server: Server, cache: Path, conversions: list[tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise UserError("the checkpoint has an unknown variable")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="unknown variable"):
        patch.setattr(download, "convert", refuse)
        obtain(server)
    server.requests.clear()
    obtain(server)
    assert server.requests == []


@pytest.mark.parametrize("own", [False, True])
def test_multi_task_checkpoints_come_with_their_text_model(
    server: Server, cache: Path, conversions: list[tuple], tmp_path: Path, own: bool
) -> None:
    folder = "/multi_task/ckpt/vit_b_640x640"
    server.files = {path.replace(FOLDER, folder): content for path, content in server.files.items()}
    server.files["/multi_task/data/c4_en_32k_spm.model"] = b"pieces"
    text_model = tmp_path / "own.model" if own else None
    (tmp_path / "own.model").write_bytes(b"other pieces")
    obtain(server, name="multi-vit-b-640", text_model=text_model)
    assert conversions[0][4] == (text_model or cache / "c4_en_32k_spm.model")
    assert ("/multi_task/data/c4_en_32k_spm.model" in dict(server.requests)) == (not own)
    assert own or (cache / "c4_en_32k_spm.model").read_bytes() == b"pieces"


def test_a_checkpoint_of_the_official_code_becomes_weights(server: Server, cache: Path) -> None:
    folder = SHARED / "reference" / "models" / "vit_tiny" / "ckpt"
    if not folder.is_dir():
        pytest.skip(f"the reference checkpoint {folder} is not here")
    from pix2seq.models.weights import load_weights

    server.files = {f"{FOLDER}/{path.name}": path.read_bytes() for path in folder.iterdir()}
    server.cuts = [1_000_000]
    weights = load_weights(obtain(server, dtype="fp16"))
    assert server.data_ranges() == [None, "bytes=1000000-"]
    assert (weights.cfg.model.image_size, weights.class_names[1]) == (640, "person")
    assert [path.name for path in cache.iterdir()] == [f"{NAME}-fp16.safetensors"]


@pytest.mark.parametrize(("name", "classes"), [("obj365-vit-l-640", "objects365"), ("multi-vit-b-1024", "coco")])
def test_the_converter_gets_the_settings_of_the_table(name: str, classes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pix2seq.weights import conversion

    converter = create_autospec(conversion.convert)
    monkeypatch.setattr(conversion, "convert", converter)
    item = download.CHECKPOINTS[name]
    download.convert(item, Path("ckpt-7"), Path("out.safetensors"), "bf16", Path("own.model"))
    converter.assert_called_once_with(
        source=Path("ckpt-7"),
        out=Path("out.safetensors"),
        dtype="bf16",
        image_size=item.image_size,
        classes=classes,
        text_model=Path("own.model"),
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"name": "coco-vit-b"}, "no official checkpoint named 'coco-vit-b'; --list"),
        ({"base_url": "gs://pix2seq"}, "--base-url expects .* got 'gs://pix2seq'"),
        ({"text_model": Path("own.model")}, "coco-vit-b-640 predicts no captions"),
        ({"text_model": Path("own.model"), "name": "multi-vit-b-640"}, "there is none at own.model"),
    ],
)
def test_wrong_flags_are_named(flags: dict[str, object], message: str, cache: Path) -> None:
    with pytest.raises(UserError, match=message):
        obtain(**flags)


def test_list_prints_the_table_without_heavy_imports() -> None:
    code = """
import runpy, sys
sys.argv = ["download.py", "--list"]
runpy.run_path("weights/download.py", run_name="__main__")
assert not {"torch", "tensorflow", "numpy", "tyro"} & set(sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == download.table() + "\n"


def test_the_documents_show_the_table() -> None:
    assert download.table() in (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")


def test_the_objects365_addresses_are_not_swapped() -> None:
    base, large = download.CHECKPOINTS["obj365-vit-b-640"], download.CHECKPOINTS["obj365-vit-l-640"]
    assert (base.preset, base.parameters, "vit_b_" in base.folder) == ("vit-b", 115.2, True)
    assert (large.preset, large.parameters, "vit_l_" in large.folder) == ("vit-l", 341.2, True)


def test_names_match_their_rows() -> None:
    for name, item in download.CHECKPOINTS.items():
        assert name == f"{item.kind.split('_')[0]}-{item.preset}-{item.image_size}"
        assert f"_{item.image_size}x{item.image_size}" in item.folder
        assert item.preset in config.PRESETS


def test_parameters_are_those_of_the_architectures() -> None:
    folder = SHARED / "reference" / "real_config_variables"
    if not folder.is_dir():
        pytest.skip(f"the reference listings {folder} are not here")
    files = {"resnet50": "resnet", "resnet50-c4": "resnet-c", "vit-b": "vit-b", "vit-l": "vit-l"}
    for item in download.CHECKPOINTS.values():
        listing = json.loads((folder / f"{files[item.preset]}.json").read_text(encoding="utf-8"))
        text_tokens = 32_000 if item.kind == "multi_task" else 0
        count = listing["n_params_all"] + text_tokens * (listing["model"]["dim_att_dec"] + 1)
        assert item.parameters == round(count / 1e6, 1)


def test_the_table_is_the_published_one() -> None:
    lists = list((SHARED / "seeds").glob("000*.txt"))
    if not lists:
        pytest.skip(f"the published list in {SHARED / 'seeds'} is not here")
    row = r"\| +([\d.]+) +\| (\d+)x\d+ +(?:\| ([\d.]+) +)?\| \[gs://pix2seq/(\S+)\]"
    published = {
        folder: (float(parameters), int(size), f"box AP {ap}" if ap else "")
        for parameters, size, ap, folder in re.findall(row, lists[0].read_text(encoding="utf-8"))
    }
    ours = {item.folder: (item.parameters, item.image_size, item.figures) for item in download.CHECKPOINTS.values()}
    assert len(published) == 16
    assert published == {folder: values for folder, values in ours.items() if not folder.startswith("multi_task")}
