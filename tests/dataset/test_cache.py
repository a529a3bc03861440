"""The cache of decoded images: the same pixels, a fixed size, and no wrong image after a writer was killed."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from pix2seq.dataset.cache import CHECKSUM_BYTES, LOCK, DecodedCache
from pix2seq.errors import UserError

SHAPES = [(4, 6), (5, 5), None, (3, 7)]
SIZES = [CHECKSUM_BYTES + 3 * 4 * 6, CHECKSUM_BYTES + 3 * 5 * 5, 0, CHECKSUM_BYTES + 3 * 3 * 7]
SHRINKS = [1, 2, 1, 1]


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"{number}.jpg" for number in range(4)]
    for file in files:
        file.write_bytes(b"image")
    return files


def pixels(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (*SHAPES[index], 3), dtype=np.uint8)


def open_cache(paths: list[Path], limit: int = 10_000) -> DecodedCache:
    return DecodedCache(paths, SHAPES, SHRINKS, limit, paths[0].parent / "cache")


def test_cached_images_can_be_read_by_every_process_that_opens_the_cache(paths: list[Path]):
    writer = open_cache(paths)
    for index in (0, 1, 3):
        assert writer.get(index, SHRINKS[index]) is None
        writer.put(index, SHRINKS[index], pixels(index))
    for reader in (writer, open_cache(paths), pickle.loads(pickle.dumps(writer))):
        for index in (0, 1, 3):
            assert np.array_equal(reader.get(index, SHRINKS[index]), pixels(index))


def test_an_image_of_another_size_is_neither_stored_nor_returned(paths: list[Path]):
    cache = open_cache(paths)
    cache.put(0, 2, pixels(0))
    cache.put(0, 1, pixels(1))
    cache.put(2, 1, pixels(0))
    assert [cache.get(0, 1), cache.get(0, 2), cache.get(2, 1)] == [None] * 3
    assert open_cache(paths).get(1, 1) is None


def test_only_images_that_fit_are_kept(paths: list[Path]):
    cache = open_cache(paths, limit=sum(SIZES[:2]))
    for index in (0, 1, 3):
        cache.put(index, SHRINKS[index], pixels(index))
    assert cache.get(1, 2) is not None and cache.get(3, 1) is None
    assert cache.file.stat().st_size == sum(SIZES[:2])


def test_a_limit_below_the_first_image_keeps_nothing(paths: list[Path]):
    cache = open_cache(paths, limit=10)
    cache.put(0, 1, pixels(0))
    assert cache.get(0, 1) is None and not (paths[0].parent / "cache").exists()


@pytest.mark.parametrize("written", [0, CHECKSUM_BYTES - 1, CHECKSUM_BYTES, CHECKSUM_BYTES + 40])
def test_a_killed_writer_leaves_no_wrong_image(paths: list[Path], written: int):
    cache = open_cache(paths)
    cache.put(0, 1, pixels(0))
    whole = cache.file.read_bytes()
    cache.file.write_bytes(whole[:written] + bytes(len(whole) - written))
    assert open_cache(paths).get(0, 1) is None
    cache.put(0, 1, pixels(0))
    assert np.array_equal(open_cache(paths).get(0, 1), pixels(0))


def test_a_black_image_is_an_image(paths: list[Path]):
    cache = open_cache(paths)
    cache.put(0, 1, np.zeros((4, 6, 3), np.uint8))
    assert np.array_equal(cache.get(0, 1), np.zeros((4, 6, 3)))


def test_a_changed_image_file_is_decoded_again(paths: list[Path]):
    cache = open_cache(paths)
    cache.put(0, 1, pixels(0))
    paths[0].write_bytes(b"another image")
    assert open_cache(paths).get(0, 1) is None


def test_older_caches_are_removed_to_make_room(paths: list[Path]):
    old = open_cache(paths).file  # and none uses it any more
    os.utime(old, (1, 1))
    paths[0].write_bytes(b"another image")
    new = open_cache(paths, limit=sum(SIZES) + 50)
    assert not old.exists() and new.file.exists()
    paths[0].write_bytes(b"a third image, after which there is room for both")
    assert open_cache(paths, limit=2 * sum(SIZES)).file != new.file and new.file.exists()


def test_a_cache_in_use_stays(paths: list[Path]):
    used = open_cache(paths)
    used.put(0, 1, pixels(0))
    os.utime(used.file, (1, 1))
    paths[1].write_bytes(b"another image")
    unused = open_cache(paths).file
    paths[1].write_bytes(b"a third image")
    new = open_cache(paths, limit=sum(SIZES))
    assert used.file.exists() and new.file.exists() and not unused.exists()
    assert np.array_equal(pickle.loads(pickle.dumps(used)).get(0, 1), pixels(0))


def test_a_folder_that_cannot_be_created_is_reported_in_one_line(paths: list[Path]):
    (paths[0].parent / "cache").touch()
    with pytest.raises(UserError, match=r"cache cannot be written to .*--cache-gb"):
        open_cache(paths)


def test_nothing_unfinished_is_left(paths: list[Path]):
    file = open_cache(paths).file
    assert {path.name for path in file.parent.iterdir()} == {file.name, LOCK}
