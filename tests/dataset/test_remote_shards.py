"""Shards on a server: fetched when they are needed, kept within a limit, checked, and the same as those in a folder."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset import shard_files
from pix2seq.dataset.batches import build_loader
from pix2seq.dataset.sampler import EpochSampler
from pix2seq.dataset.samples import SampleDataset
from pix2seq.dataset.shard_files import folder_of, kept_folder, make_room
from pix2seq.dataset.shard_format import INDEX
from pix2seq.dataset.shards_ahead import FetchedAhead, fetched_ahead
from pix2seq.dataset.sources import data_roots, open_split
from pix2seq.errors import UserError
from pix2seq.evaluate.evaluation import Sizes, evaluate
from pix2seq.evaluate.ground_truth import ground_truth_predictor
from pix2seq.runtime.alone import locked
from pix2seq.tasks import choose_tasks
from pix2seq.train.engine import train
from tests.dataset.test_shards import SIZE, packed, samples_of
from tests.server import Server


@pytest.fixture(scope="session")
def shards_root(scenes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic dataset of 12 and 6 images in 6 and 3 shards."""
    return packed(scenes_root, tmp_path_factory.mktemp("packed") / "shards", shard_size=2)


@pytest.fixture
def url(server: Server, shards_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of the shards; what is fetched goes to an empty cache."""
    monkeypatch.setenv("PIX2SEQ_CACHE", str(tmp_path / "cache"))
    folder_of.cache_clear()
    server.files = {f"/sets/coco/{path.name}": path for path in shards_root.iterdir()}
    return f"{server.url}/sets/coco"


def settings(cfg: CFG, root: Path | str, **values: object) -> CFG:
    return config.replace(cfg, data_root=str(root), **{"task": "detection", "shards_mixed": 2} | values)


def asked_for(server: Server, suffix: str) -> list[str]:
    return [path.rpartition("/")[2] for path, _ in server.requests if path.endswith(suffix)]


def kept() -> list[str]:
    return sorted(path.name.partition("-")[2] for path in kept_folder().glob("*/*.tar"))


def test_samples_of_an_address_are_those_of_its_folder(
    tiny_cfg: CFG, shards_root: Path, url: str, server: Server
) -> None:
    folder, remote = (samples_of(settings(tiny_cfg, root)) for root in (shards_root, url))
    assert asked_for(server, ".tar") == [] and len(asked_for(server, ".jsonl")) == 6  # of the training split alone
    order = [list(EpochSampler(each.parts, 2, 0, shards=each.shards, mixed=2)) for each in (folder, remote)]
    assert order[0] == order[1]
    for index in range(len(folder)):
        assert all(map(np.array_equal, folder[0, index, SIZE].canvases, remote[0, index, SIZE].canvases))
    assert sorted(asked_for(server, ".tar")) == [f"train-{number:06d}.tar" for number in range(6)]
    assert f"6 of train at {url}" in remote.examples.layout


def test_an_epoch_fetches_each_shard_once_into_little_space(tiny_cfg: CFG, url: str, server: Server) -> None:
    samples = with_space(tiny_cfg, url, 4.5)
    sampler = EpochSampler(samples.parts, 1, 0, shards=samples.shards, mixed=1)
    sampler.set_epoch(0, SIZE)
    for _ in build_loader(samples, sampler, 0):
        assert 0 < kept_bytes() <= samples.examples.shard_files[0].limit_bytes
    assert sorted(asked_for(server, ".tar")) == [f"train-{number:06d}.tar" for number in range(6)]


def test_loading_processes_share_what_is_fetched(tiny_cfg: CFG, url: str) -> None:
    samples, names = with_space(tiny_cfg, url, 5.5), []
    for rank in range(2):
        sampler = EpochSampler(samples.parts, 1, 0, rank, 2, samples.shards, 2)
        sampler.set_epoch(0, SIZE)
        for batch in build_loader(samples, sampler, 2):
            names += batch.names
            assert 0 < kept_bytes() <= samples.examples.shard_files[0].limit_bytes
    assert sorted(names) == sorted(samples.examples.name_of(index) for index in range(12))


def with_space(cfg: CFG, url: str, shards: float) -> SampleDataset:
    """The samples of an address, with disk space for so many shards of the largest size."""
    files = samples_of(settings(cfg, url)).examples.shard_files
    return samples_of(settings(cfg, url, shard_cache_gb=shards * max(file.about.bytes for file in files) / 1e9))


def kept_bytes() -> int:
    with locked(kept_folder() / ".lock"):  # no thread removes one and brings another while these are counted
        return sum(path.stat().st_size for path in kept_folder().glob("*/*.tar"))


def test_the_next_shards_are_fetched_while_others_are_used(tiny_cfg: CFG, url: str, server: Server) -> None:
    samples = samples_of(settings(tiny_cfg, url, shards_mixed=1))
    ahead = fetched_ahead(EpochSampler(samples.parts, 2, 0, shards=samples.shards, mixed=1), samples)
    assert isinstance(ahead, FetchedAhead) and len(ahead) == 6
    batches = iter(ahead)
    next(batches)
    deadline = time.monotonic() + 20
    while len(kept()) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(kept()) >= 4  # nothing was read yet
    assert [key[1] for batch in [*batches] for key in batch]  # and the rest comes


def test_training_and_evaluation_read_an_address(
    tiny_cfg: CFG, shards_root: Path, url: str, capsys: pytest.CaptureFixture
) -> None:
    train(settings(tiny_cfg, url, eval_every=1))
    assert f"of train at {url}" in capsys.readouterr().out
    found = []
    for root in (shards_root, url):
        cfg = settings(tiny_cfg, root)
        tasks = choose_tasks(cfg.tasks)
        split = open_split(cfg, "val", tasks)
        bound = evaluate(ground_truth_predictor(split, tasks, cfg), split, list(tasks), Sizes(4))
        found.append(json.dumps(bound.metrics, sort_keys=True))
    assert found[0] == found[1]


# Limits


def test_too_little_space_is_named_before_training(tiny_cfg: CFG, url: str) -> None:
    samples = samples_of(settings(tiny_cfg, url, shard_cache_gb=1e-6, shards_mixed=4))
    sampler = EpochSampler(samples.parts, 2, 0, shards=samples.shards, mixed=4)
    with pytest.raises(
        UserError, match=r"--shard-cache-gb 1e-06 holds less than the 5 shards .* or lower --shards-mixed"
    ):
        build_loader(samples, sampler, 0)


def test_room_is_made_by_what_was_not_used_for_longest(url: str) -> None:
    folder = folder_of(url)
    for age, name in enumerate(["new", "old", "older", "oldest"]):
        (folder / f"0-{name}.tar").write_bytes(bytes(100))
        os.utime(folder / f"0-{name}.tar", (1e9 - age, 1e9 - age))
    make_room(250)
    assert kept() == ["new.tar", "old.tar"]
    make_room(-1)
    assert kept() == [] and (folder / INDEX).is_file()


# What servers do


def test_a_damaged_shard_on_the_server_is_refused(tiny_cfg: CFG, url: str, server: Server) -> None:
    samples = samples_of(settings(tiny_cfg, url))
    path = "/sets/coco/train-000000.tar"
    content = server.files[path].read_bytes()
    for damaged, message in (
        (content[:1000] + b"!" + content[1001:], "is not the file that shards.json describes"),
        (content[:-512], "has .* bytes and should have .*: it is cut, or another file"),
    ):
        server.files[path] = damaged
        index = int(np.flatnonzero(samples.shards == 0)[0])
        with pytest.raises(UserError, match=message):
            samples[0, index, SIZE]
        assert kept() == []
    server.files[path] = content
    assert samples[0, index, SIZE].canvases


def test_no_connection_is_one_sentence_and_what_was_fetched_stays(
    tiny_cfg: CFG, url: str, server: Server, closed_url: str, capsys: pytest.CaptureFixture, monkeypatch
) -> None:
    with pytest.raises(UserError, match=r"shards.json cannot be reached \(.*\); connect, or name a folder with a copy"):
        data_roots(settings(tiny_cfg, closed_url))
    samples = samples_of(settings(tiny_cfg, url))
    index = int(np.flatnonzero(samples.shards == 0)[0])
    first = samples[0, index, SIZE].canvases[0]
    folder_of.cache_clear()
    monkeypatch.setattr(shard_files, "fetch_text", unreachable)
    monkeypatch.setattr(shard_files, "fetch", unreachable)
    offline = samples_of(settings(tiny_cfg, url))
    assert "and only what was fetched is there" in capsys.readouterr().err
    assert np.array_equal(offline[0, index, SIZE].canvases[0], first)
    strict = SampleDataset(
        offline.examples, offline.tasks, offline.tokenizers, offline.cfg, augment=True, replace_unreadable=True
    )
    with pytest.raises(UserError, match="cannot be reached"):  # no image of a shard that is not here is replaced
        strict[0, int(np.flatnonzero(samples.shards == 1)[0]), SIZE]


def unreachable(url: str, *_: object, **__: object) -> str:
    raise shard_files.Unreachable(f"{url} cannot be reached (no route)")


def test_a_newer_dataset_at_an_address_takes_the_place_of_the_old_one(
    tiny_cfg: CFG, scenes_root: Path, url: str, server: Server, tmp_path: Path
) -> None:
    old = samples_of(settings(tiny_cfg, url))
    old[0, 0, SIZE]
    newer = packed(scenes_root, tmp_path / "newer", shard_size=3)
    server.files = {f"/sets/coco/{path.name}": path for path in newer.iterdir()}
    folder_of.cache_clear()
    new = samples_of(settings(tiny_cfg, url))
    for index in range(12):
        assert all(
            map(
                np.array_equal,
                new[0, index, SIZE].canvases,
                samples_of(settings(tiny_cfg, newer))[0, index, SIZE].canvases,
            )
        )


@pytest.mark.parametrize(
    "root, message",
    [
        ("http://example.com/shards", "--data-root expects a folder, or the https address"),
        ("ftp://127.0.0.1/shards", "--data-root expects a folder, or the https address"),
        ("https://[x", "--data-root expects a folder, or the https address"),
        ("https://a/\udcff", "--data-root expects a folder, or the https address"),
        ("file:///etc", "--data-root expects a folder, or the https address"),
    ],
)
def test_other_addresses_are_refused(tiny_cfg: CFG, root: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        data_roots(settings(tiny_cfg, root))


def test_an_address_without_shards_is_named(tiny_cfg: CFG, url: str, server: Server) -> None:
    with pytest.raises(UserError, match=r"404.*expected a dataset there that dataset/pack_shards.py has written"):
        data_roots(settings(tiny_cfg, f"{server.url}/nothing"))
    server.files["/page/shards.json"] = b"<html>hello</html>"
    with pytest.raises(UserError, match=r"page/shards.json cannot be read"):
        data_roots(settings(tiny_cfg, f"{server.url}/page"))


def test_no_folder_can_name_an_address(tiny_cfg: CFG, shards_root: Path, server: Server, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in shards_root.iterdir():
        if path.suffix != ".tar":
            (copy / path.name).write_bytes(path.read_bytes())
    (copy / shard_files.ORIGIN).write_text(server.url, encoding="utf-8")
    with pytest.raises(UserError, match=r"train-000000.tar, which shards.json names, cannot be read"):
        open_split(settings(tiny_cfg, copy), "train", choose_tasks(["detection"]))
    assert server.requests == []
