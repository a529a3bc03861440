"""Of a checkpoint on a server, only what its model is made of is fetched."""

import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pix2seq.errors import UserError
from pix2seq.weights import fetch_checkpoint
from pix2seq.weights.fetch_checkpoint import Pieces, byte_ranges, fetch_files, fetch_model
from pix2seq.weights.tensor_bundle import Entry
from pix2seq.weights.tf_checkpoint import ObjectCheckpoint, open_checkpoint
from tests.server import Server
from tests.weights.bundle_writer import write_checkpoint

FOLDER = "/coco/vit"
STATE = b'model_checkpoint_path: "ckpt-7"\nall_model_checkpoint_paths: "ckpt-5"\nall_model_checkpoint_paths: "ckpt-7"\n'
RNG = np.random.default_rng(0)
MODEL = {f"layer/{number}": RNG.normal(size=(20, 50)).astype(np.float32) for number in range(9)}
OPTIMIZER = {f"optimizer/{number}": RNG.normal(size=(20, 50)).astype(np.float32) for number in range(18)}


def serve(server: Server, folder: Path) -> None:
    """Let the server have the files of a checkpoint."""
    server.files = {f"{FOLDER}/{path.name}": path.read_bytes() for path in folder.iterdir()}
    server.files[f"{FOLDER}/checkpoint"] = STATE


@pytest.fixture(params=[1, 3], ids="{} shards".format)
def published(request: pytest.FixtureRequest, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a checkpoint that the server has."""
    monkeypatch.setattr(fetch_checkpoint, "GAP_BYTES", 100)
    folder = tmp_path / "published"
    folder.mkdir()
    write_checkpoint(folder / "ckpt-7", MODEL, OPTIMIZER, shards=request.param)
    serve(server, folder)
    return folder


def same_model(found: ObjectCheckpoint) -> bool:
    variables = found.variables("model")
    assert {path for variable in variables for path in variable.paths} == MODEL.keys()
    return all(np.array_equal(found.read(variable), MODEL[variable.paths[0]]) for variable in variables)


def test_the_model_is_a_third_of_the_bytes(
    server: Server, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert same_model(fetch_model(server.url + FOLDER, tmp_path / "here"))
    whole = sum(path.stat().st_size for path in published.glob("*.data-*"))
    assert server.sent < 0.4 * whole
    assert f"fetched 0.0 of {whole / 1e6:.1f} MB" in capsys.readouterr().err
    assert all(header and not header.endswith("-") for header in server.data_ranges())


def test_what_is_there_is_not_fetched_again(server: Server, published: Path, tmp_path: Path) -> None:
    fetch_model(server.url + FOLDER, tmp_path / "here")
    server.requests.clear()
    assert same_model(fetch_model(server.url + FOLDER, tmp_path / "here"))
    assert [path.rpartition("/")[2] for path, _ in server.requests] == ["config.json"]


def test_a_cut_download_goes_on(server: Server, published: Path, tmp_path: Path) -> None:
    server.cuts = [10**9, 5_000, *[0] * 4]
    with pytest.raises(UserError, match=r"stopped after .*run the command again to resume"):
        fetch_model(server.url + FOLDER, tmp_path / "here")
    assert same_model(fetch_model(server.url + FOLDER, tmp_path / "here"))


def test_whole_files_come_where_the_server_knows_no_ranges(
    server: Server, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    server.ranges = False
    for _ in range(2):
        assert same_model(fetch_model(server.url + FOLDER, tmp_path / "here"))
        server.requests = [request for request in server.requests if request[1]]
    assert "sends no parts of files: fetching all of ckpt-7.data-00000-of" in capsys.readouterr().err


def test_config_json_comes_along_where_there_is_one(server: Server, published: Path, tmp_path: Path) -> None:
    fetch_model(server.url + FOLDER, tmp_path / "without")
    server.files[f"{FOLDER}/config.json"] = b"{}"
    fetch_model(server.url + FOLDER, tmp_path / "with")
    assert not (tmp_path / "without" / "config.json").exists()
    assert (tmp_path / "with" / "config.json").read_text(encoding="utf-8") == "{}"


def test_all_files_are_fetched_for_other_programs(server: Server, published: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    for _ in range(2):
        fetch_files(server.url + FOLDER, here)
        assert {path.name for path in here.iterdir()} == {path.name for path in published.iterdir()} | {"checkpoint"}
        server.files.clear()  # nothing is asked for again
    assert same_model(open_checkpoint(here))


@pytest.mark.parametrize("missing", ["checkpoint", "ckpt-7.index", "ckpt-7.data-00000-of-00001"])
def test_a_missing_file_is_named(server: Server, tmp_path: Path, missing: str) -> None:
    (tmp_path / "published").mkdir()
    write_checkpoint(tmp_path / "published" / "ckpt-7", MODEL, OPTIMIZER)
    serve(server, tmp_path / "published")
    del server.files[f"{FOLDER}/{missing}"]
    for fetch in (fetch_model, fetch_files):
        with pytest.raises(UserError, match=rf"vit/{missing} cannot be downloaded: the server responded 404"):
            fetch(server.url + FOLDER, tmp_path / fetch.__name__)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("checkpoint", b"<html>Please log in</html>", "names no checkpoint"),
        ("checkpoint", b'model_checkpoint_path: ".."', "names no checkpoint"),
        ("ckpt-7.index", b"<html>Please log in</html>", "ckpt-7.index cannot be read .it is a web page"),
    ],
)
def test_a_page_instead_of_a_file_is_refused_and_not_kept(
    server: Server, published: Path, tmp_path: Path, file: str, content: bytes, message: str
) -> None:
    right, server.files[f"{FOLDER}/{file}"] = server.files[f"{FOLDER}/{file}"], content
    with pytest.raises(UserError, match=message):
        fetch_model(server.url + FOLDER, tmp_path / "here")
    server.files[f"{FOLDER}/{file}"] = right
    assert same_model(fetch_model(server.url + FOLDER, tmp_path / "here"))


def test_a_page_for_whatever_is_missing_is_no_config_json(
    server: Server, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    server.page = b"<html>This site has no such page</html>"
    assert same_model(fetch_model(server.url + FOLDER, tmp_path / "here"))
    assert "config.json is no JSON object, and is left out" in capsys.readouterr().err
    assert not (tmp_path / "here" / "config.json").exists()


@pytest.mark.parametrize("fetch", [fetch_model, fetch_files])
def test_a_page_instead_of_a_data_file_is_not_kept(
    server: Server, published: Path, tmp_path: Path, fetch: Callable[[str, Path], object]
) -> None:
    path = f"{FOLDER}/{min(published.glob('*.data-*')).name}"
    right, server.page = server.files.pop(path), b"<html>Please log in</html>"
    for _ in range(2):
        with pytest.raises(UserError, match=r"has 26 bytes and should have .*cut, or another file, on the server"):
            fetch(server.url + FOLDER, tmp_path / "here")
    server.files[path], server.page = right, b""
    fetch(server.url + FOLDER, tmp_path / "here")


def test_a_state_file_that_was_cut_is_fetched_again(server: Server, published: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "checkpoint").write_text('model_checkpoint_path: "ck', encoding="utf-8")
    assert same_model(fetch_model(server.url + FOLDER, tmp_path / "here"))


def test_empty_tensors_need_no_bytes(server: Server, tmp_path: Path) -> None:
    """One shard holds nothing else of the model."""
    (tmp_path / "published").mkdir()
    arrays = {"a": np.zeros((0, 3), np.float32), "b": np.ones(2, np.float32)}
    write_checkpoint(tmp_path / "published" / "ckpt-7", arrays, {"optimizer/0": np.ones(9)}, shards=4)
    serve(server, tmp_path / "published")
    checkpoint = fetch_model(server.url + FOLDER, tmp_path / "here")
    found = {variable.paths[0]: checkpoint.read(variable) for variable in checkpoint.variables("model")}
    assert found["a"].shape == (0, 3) and found["b"].tolist() == [1, 1]
    assert all(server.data_ranges())


def test_bytes_that_were_not_fetched_are_named(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(bytes(range(20)))
    pieces = Pieces()
    pieces.add(1, [(100, 110), (200, 210)], tmp_path / "part")
    assert pieces.read(1, 102, 3).tolist() == [2, 3, 4] and pieces.read(1, 200, 10).tolist() == list(range(10, 20))
    assert pieces.size == 20
    for shard, start, size in ((1, 105, 10), (1, 0, 1), (0, 100, 5)):
        with pytest.raises(ValueError, match="were not fetched"):
            pieces.read(shard, start, size)


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 50)), max_size=20), st.integers(0, 60))
def test_ranges_hold_every_tensor_and_no_long_gap(places: list[tuple[int, int]], gap: int) -> None:
    entries = [Entry(1, (), 0, start, size, 0, False) for start, size in places]
    ranges = byte_ranges(entries, gap)
    for entry in entries:
        assert not entry.size or sum(start <= entry.start and entry.end <= end for start, end in ranges) == 1
    assert all(after[0] - before[1] > gap for before, after in pairwise(ranges))
    covered = {place for entry in entries for place in range(entry.start, entry.end)}
    wanted = sum(end - start for start, end in ranges)
    assert wanted <= len(covered) + gap * max(len(entries) - 1, 0)


def test_a_real_index_has_the_model_in_few_ranges(reference_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(reference_model / "ckpt", folder, copy_function=shutil.copyfile)
    checkpoint = open_checkpoint(folder)
    entries = [checkpoint.bundle.entries[variable.key] for variable in checkpoint.variables("model")]
    ranges = byte_ranges(entries, 0)
    slots = any(".OPTIMIZER_SLOT" in key for key in checkpoint.bundle.entries)
    assert len(ranges) <= (len(entries) if slots else 3)
