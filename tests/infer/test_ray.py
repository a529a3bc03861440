"""A Ray worker's part, and a cluster of two workers one of which is killed."""

import gzip
import importlib.util
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.errors import UserError
from pix2seq.infer import ray_cluster
from pix2seq.infer.ray_worker import COLUMNS, Worker, read_shards
from pix2seq.runtime.paths import ROOT

PROCESSES = Path("/proc")
WAIT_S = 500
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (extra [ray])")


def png(height: int, width: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture
def worker_cfg(tiny_model_cfg: CFG, weights_path: Path) -> CFG:
    return config.replace(tiny_model_cfg, weights=str(weights_path), task="detection,captioning", score_threshold=0.0)


def test_a_worker_answers_a_batch_in_its_order(worker_cfg: CFG, tmp_path: Path):
    path = tmp_path / "7.png"
    path.write_bytes(png(30, 40))
    sources = [str(path), png(50, 20), {"bytes": png(9, 9), "path": None}, b"no image", str(tmp_path / "missing.png")]
    found = Worker(worker_cfg)({"file_name": ["7.png", "a/b.png", 3, "bad.png", "missing.png"], "source": sources})
    assert list(found) == list(COLUMNS)
    assert found["file_name"].tolist() == ["7.png", "a/b.png", "3", "bad.png", "missing.png"]
    assert list(zip(found["width"], found["height"], strict=True)) == [(40, 30), (20, 50), (9, 9), (0, 0), (0, 0)]
    assert [bool(why) for why in found["error"]] == [False, False, False, True, True]
    assert "bad.png is not an image" in found["error"][3]
    results = [json.loads(text) for text in found["results"]]
    assert [{entry["image_id"] for entry in some} for some in results] == [{7}, {"b"}, {3}, set(), set()]
    assert all("caption" in some[-1] for some in results[:3])


def test_images_of_tar_files_are_rows(tmp_path: Path):
    shards = [str(tmp_path / name) for name in ("a.tar", "b.tar")]
    for shard in shards:
        with tarfile.open(shard, "w") as tar:
            for name in ("0.png", "0.json", "1.JPG"):
                member = tarfile.TarInfo(name)
                member.size = 4
                tar.addfile(member, io.BytesIO(b"\0\1\2\0"))
    rows = list(read_shards({"source": shards}))
    assert [row["file_name"] for row in rows] == [["a.tar/0.png"], ["a.tar/1.JPG"], ["b.tar/0.png"], ["b.tar/1.JPG"]]
    assert all(row["source"][0] == b"\0\1\2\0" for row in rows)


def test_what_a_parquet_file_names_lies_beside_it(worker_cfg: CFG, tmp_path: Path):
    (tmp_path / "data").mkdir()
    for place in ("data/a.png", "b.png"):
        (tmp_path / place).write_bytes(png(30, 40))
    sources = [str(tmp_path / "data" / "a.png"), str(tmp_path / "data" / ".." / "b.png"), "http://127.0.0.1:9/c.png"]
    found = Worker(worker_cfg, [str(tmp_path / "data")])({"file_name": ["a", "b", "c"], "source": sources})
    assert found["width"].tolist() == [40, 0, 0]
    assert ["is outside of the folder" in why for why in found["error"]] == [False, True, True]


def test_an_image_of_any_announced_size_in_a_tar_file_is_not_read(tmp_path: Path):
    member, path = tarfile.TarInfo("0.png"), tmp_path / "a.tar"
    member.size = 512  # of what is stored: a map of a file that is all hole
    sparse = {"major": "1", "minor": "0", "name": "0.png", "realsize": str(2**40)}
    member.pax_headers = {f"GNU.sparse.{name}": value for name, value in sparse.items()}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member, io.BytesIO(b"0\n".ljust(512, b"\0")))
    assert [row["source"].tolist() for row in read_shards({"source": [str(path)]})] == [[b""]]


def test_a_hostile_tar_file_is_one_image_that_cannot_be_used(tmp_path: Path):
    """Cut, compressed, a pipe, with a header of any size; what comes before is read, and what has an odd name."""
    good, paths = tmp_path / "good.tar", {name: tmp_path / f"{name}.tar" for name in ("cut", "gz", "pipe", "header")}
    with tarfile.open(good, "w") as tar:
        for name in ("a.png", "\udcff.png"):
            member = tarfile.TarInfo(name)
            member.size = 1000
            tar.addfile(member, io.BytesIO(bytes(1000)))
    paths["cut"].write_bytes(good.read_bytes()[:2600])
    paths["gz"].write_bytes(gzip.compress(good.read_bytes()))
    os.mkfifo(paths["pipe"])
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 2**33
    with paths["header"].open("wb") as file:
        file.write(header.tobuf())
        file.truncate(2**34)  # most of it takes no room on the disk
    rows = [row["file_name"][0] for path in (*paths.values(), good) for row in read_shards({"source": [str(path)]})]
    bad = [f"{name}.tar (a tar file that cannot be read to its end)" for name in paths]
    assert rows == ["cut.tar/a.png", *bad, "good.tar/a.png", "good.tar/\\udcff.png"]


@needs_ray
def test_parquet_files_that_are_no_results_are_refused_unread(tmp_path: Path):
    import pyarrow
    import ray.data  # noqa: F401 - brings the type of values that are unpickled
    from pyarrow import parquet

    class Touch:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "mark",)

    about = {"ARROW:extension:name": "ray.data.arrow_pickled_object", "ARROW:extension:metadata": ""}
    pickled = pyarrow.field("error", pyarrow.large_binary(), metadata=about)
    for field, value in ((pickled, pickle.dumps(Touch())), (pyarrow.field("other", pyarrow.string()), "")):
        schema = pyarrow.schema([pyarrow.field("file_name", pyarrow.string()), field])
        parquet.write_table(
            pyarrow.Table.from_pylist([{"file_name": "a", field.name: value}], schema), tmp_path / "a.parquet"
        )
        with pytest.raises(UserError, match=r"a\.parquet holds no results of images"):
            ray_cluster.written(tmp_path)
    assert not (tmp_path / "mark").exists()


@needs_ray
def test_no_parquet_file_is_removed(tmp_path: Path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    assert ray_cluster.written(tmp_path) == {}
    assert (tmp_path / "a.parquet.torn").read_bytes() == b"PAR1 and no more"


def test_files_are_found_by_their_suffix_in_names_folders_and_patterns(tmp_path: Path):
    for name in ("a.tar", "b.tar", "c.jpg"):
        (tmp_path / name).touch()
    both = [str(tmp_path / "a.tar"), str(tmp_path / "b.tar")]
    for names in ([*both], [str(tmp_path)], [str(tmp_path / "*")]):
        assert ray_cluster.matching(names, ".tar") == both
    assert ray_cluster.matching([str(tmp_path / "c.jpg")], ".tar") == []


def test_without_ray_a_sentence_says_what_to_install(worker_cfg: CFG, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install .*\[ray\]"):
        ray_cluster.run(worker_cfg)


def workers_with(mark: str) -> list[int]:
    """The processes of Ray workers in whose environment `mark` stands."""
    found = []
    for folder in PROCESSES.glob("[0-9]*"):
        try:
            title, environment = ((folder / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            continue
        if title.startswith(b"ray::") and b"Worker" in title and mark.encode() in environment:
            found.append(int(folder.name))
    return found


@needs_ray
@pytest.mark.slow
@pytest.mark.skipif(not PROCESSES.is_dir(), reason="this system does not list processes as files")
def test_each_image_has_one_row_though_a_worker_is_killed(weights_path: Path, tmp_path: Path):
    from pyarrow import parquet

    count, images, out, mark = 60, tmp_path / "images", tmp_path / "out", f"MARK={tmp_path}"
    images.mkdir()
    for number in range(count):
        (images / f"{number:03}.png").write_bytes(png(30 + number, 40))
    (images / "bad.png").write_bytes(b"no image")
    flags = ["--image", images, "--weights", weights_path, "--output-dir", out, "--task", "detection,captioning"]
    flags += ["--ray-workers", "2", "--eval-batch-size", "1", "--device", "cpu"]
    command = [str(word) for word in (sys.executable, ROOT / "infer" / "infer_ray.py", *flags)]
    environment = os.environ | dict([mark.split("=")])
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as run:
        started = time.monotonic()
        while not list(out.glob("*.parquet")):
            assert run.poll() is None and time.monotonic() - started < WAIT_S
            time.sleep(0.02)
        first, *_ = workers_with(mark)
        os.kill(first, signal.SIGKILL)
        written, said = run.communicate(timeout=WAIT_S)
    assert run.returncode == 3 and "1 of 61 images could not be used" in said, said
    assert f"wrote the results of {count + 1} images" in written
    rows = [row for file in out.glob("*.parquet") for row in parquet.read_table(file).to_pylist()]
    assert sorted(row["file_name"] for row in rows) == [*(f"{number:03}.png" for number in range(count)), "bad.png"]
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=WAIT_S)
    assert again.returncode == 2 and "--skip-existing goes on" in again.stderr
