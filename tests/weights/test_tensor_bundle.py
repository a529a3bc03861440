"""TensorFlow's tensor bundles are read without TensorFlow, and what is damaged or foreign is refused."""

import contextlib
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pix2seq.errors import UserError
from pix2seq.weights import tensor_bundle
from pix2seq.weights.protobuf import varint
from pix2seq.weights.sorted_table import read_table
from pix2seq.weights.tensor_bundle import Bundle
from pix2seq.weights.tf_checkpoint import ObjectCheckpoint, find_checkpoint, open_checkpoint
from tests.weights.bundle_writer import (
    BFLOAT16,
    QINT8,
    block,
    field,
    number,
    rewrite,
    table,
    table_of,
    write_bundle,
    write_checkpoint,
)

RNG = np.random.default_rng(0)
TENSORS = {
    "scalar": np.array(3.5, np.float32),
    "layers/0/kernel": RNG.normal(size=(3, 4)).astype(np.float32),
    "layers/0/bias": RNG.normal(size=4),
    "layers/1/counts": RNG.integers(-9, 9, (2, 3, 2)),
    "layers/1/flags": np.array([True, False, True]),
    "layers/1/half": RNG.normal(size=5).astype(np.float16),
    "layers/1/bytes": np.arange(7, dtype=np.uint8),
    "nothing": np.zeros((0, 5), np.float32),
    "no texts": np.zeros(0, dtype=object),
    "texts": np.array([[b"a", b"", b"caf\xc3\xa9"], [b"x" * 300, b"\0", b"end"]], dtype=object),
    "schlüssel": np.array([1, 2], np.int32),
}


def index_of(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.index")


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A bundle with tensors of all kinds."""
    write_bundle(tmp_path / "ckpt-1", TENSORS, entries_a_block=3)
    return tmp_path / "ckpt-1"


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("entries_a_block", [1, 4, 100])
def test_every_kind_of_tensor_is_read(tmp_path: Path, shards: int, entries_a_block: int):
    write_bundle(tmp_path / "ckpt-1", TENSORS, shards=shards, entries_a_block=entries_a_block)
    bundle = Bundle(tmp_path / "ckpt-1.index")
    assert (bundle.entries.keys(), bundle.shards) == (TENSORS.keys(), shards)
    for name, expected in TENSORS.items():
        found = bundle.read(name)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(found, expected)


def test_bfloat16_becomes_float32(tmp_path: Path):
    values = np.array([[1.0, -2.5], [3e38, 2.0**-130]], np.float32)
    halves = (values.view(np.uint32) >> 16).astype(np.uint16)
    write_bundle(tmp_path / "ckpt-1", {"x": halves}, types={"x": BFLOAT16})
    found = Bundle(tmp_path / "ckpt-1.index").read("x")
    np.testing.assert_array_equal(found, (halves.astype(np.uint32) << 16).view(np.float32))
    np.testing.assert_allclose(found, values, rtol=2**-7)


@given(st.dictionaries(st.binary(max_size=20), st.binary(max_size=30)), st.integers(1, 40))
def test_a_table_is_read_as_it_was_written(entries: dict[bytes, bytes], entries_a_block: int):
    assert read_table(table(entries, entries_a_block)) == entries


@given(st.integers(0, 2**64 - 1))
def test_numbers_are_read_as_they_were_written(value: int):
    assert varint(b"\xff" + number(value), 1) == (value, 1 + len(number(value)))


# What is refused, each in one line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"header": b"\x10\x01"}, r"index cannot be read \(it was written on a big-endian computer"),
        ({"header": b"\x1a\x02\x10\x02"}, r"it needs a reader of version 2"),
        ({"compression": 1}, r"its blocks are compressed with Snappy"),
    ],
)
def test_an_index_that_other_programs_write_is_refused(tmp_path: Path, options: dict, message: str):
    write_bundle(tmp_path / "ckpt-1", TENSORS, **options)
    with pytest.raises(UserError, match=message):
        Bundle(tmp_path / "ckpt-1.index")


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.zeros(2, np.complex64), {}, "x in .*ckpt-1.index has TensorFlow's type complex64"),
        (np.zeros(2, np.int8), {"types": {"x": QINT8}}, "x in .* has TensorFlow's type qint8"),
        (np.zeros(2, np.int8), {"types": {"x": 29}}, "x in .* has TensorFlow's type number 29"),
        (np.zeros(2, np.float32), {"partitioned": ("x",)}, "x in .* is partitioned; save the checkpoint again"),
    ],
)
def test_a_tensor_that_no_model_has_is_refused(tmp_path: Path, array: np.ndarray, options: dict, message: str):
    write_bundle(tmp_path / "ckpt-1", {"x": array, "y": TENSORS["scalar"]}, **options)
    bundle = Bundle(tmp_path / "ckpt-1.index")
    assert bundle.read("y") == 3.5
    with pytest.raises(UserError, match=message) as caught:
        bundle.read("x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><html>Please log in</html>", b"\n <HTML>" + b"x" * 500])
def test_a_web_page_in_place_of_an_index_is_refused(prefix: Path, page: bytes):
    index_of(prefix).write_bytes(page)
    with pytest.raises(UserError, match=r"ckpt-1.index cannot be read \(it is a web page.*download it again"):
        Bundle(index_of(prefix))


def test_every_flipped_byte_of_an_index_is_found(prefix: Path):
    whole = index_of(prefix).read_bytes()
    for place in range(len(whole) - 48):  # the footer has unused bytes
        content = bytearray(whole)
        content[place] ^= 0x41
        index_of(prefix).write_bytes(content)
        with pytest.raises(UserError, match="download it again") as caught:
            Bundle(index_of(prefix))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.9, 0.999])
def test_a_cut_index_is_refused(prefix: Path, share: float):
    whole = index_of(prefix).read_bytes()
    index_of(prefix).write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match="no index of a checkpoint, or is cut"):
        Bundle(index_of(prefix))


@given(st.binary(max_size=200))
def test_any_bytes_before_a_right_footer_are_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes):
    path = tmp_path_factory.mktemp("index") / "ckpt-1.index"
    path.write_bytes(content + table({}, 1)[-48:])
    with pytest.raises(UserError, match="cannot be read"):
        Bundle(path)


def test_a_flipped_byte_of_a_tensor_is_found(prefix: Path):
    bundle = Bundle(index_of(prefix))
    data = bundle.shard_path(0)
    whole = data.read_bytes()
    for name, entry in bundle.entries.items():
        if not entry.size:
            continue
        content = bytearray(whole)
        content[entry.end - 1] ^= 1
        data.write_bytes(content)
        with pytest.raises(UserError, match=rf"the checksum of {name} is another one.*download it again"):
            bundle.read(name)


def test_large_tensors_are_not_compared_where_that_takes_seconds(prefix: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tensor_bundle, "FAST_CHECKSUMS", False)
    monkeypatch.setattr(tensor_bundle, "SLOW_LIMIT_BYTES", 40)
    bundle = Bundle(index_of(prefix))
    data = bundle.shard_path(0)
    content = bytearray(data.read_bytes())
    for name in ("scalar", "layers/0/kernel"):
        content[bundle.entries[name].start] ^= 1
    data.write_bytes(content)
    assert bundle.read("layers/0/kernel").shape == (3, 4)
    with pytest.raises(UserError, match="the checksum of scalar"):
        bundle.read("scalar")


def test_a_cut_data_file_is_refused(prefix: Path):
    data = prefix.with_name("ckpt-1.data-00000-of-00001")
    size = data.stat().st_size
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"00001 is cut: {size - 1} of {size} bytes; download it again"):
        Bundle(index_of(prefix))


def test_a_missing_data_file_is_named(tmp_path: Path):
    write_bundle(tmp_path / "ckpt-1", TENSORS, shards=3)
    (tmp_path / "ckpt-1.data-00001-of-00003").unlink()
    with pytest.raises(UserError, match=r"data-00001-of-00003 is missing, one of 3 data files"):
        Bundle(tmp_path / "ckpt-1.index")


# An index whose checksums are right, and whose numbers are not

HUGE, NEGATIVE = 2**62, 2**64 - 8


def entry(dtype: int = 1, sides: tuple[int, ...] = (2,), more: bytes = b"") -> bytes:
    """An entry of 8 bytes that begin a data file; of a field that `more` has too, that is what counts."""
    shape = b"".join(field(2, field(1, side)) for side in sides)
    return field(1, dtype) + field(2, shape) + field(5, 8) + more


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (entry(sides=(HUGE,)), r"8 bytes are not the size of a tensor"),
        (entry(sides=(NEGATIVE,)), r"a size or a position is negative"),
        (entry(sides=(0, 2**63), more=field(5, 0)), r"a size or a position is negative"),
        (entry(more=field(4, NEGATIVE)), r"a size or a position is negative"),
        (entry(more=field(4, HUGE)), r"is cut: .* of 4,611,686,018,427,387,912 bytes"),
        (entry(sides=(HUGE,), more=field(5, 4 * HUGE % 2**64 + HUGE)), r"are not the size of a tensor"),
        (entry(more=field(3, 7)), r"it names data file 7, and there are 1"),
        (entry(more=field(3, NEGATIVE)), r"it names data file .*, and there are 1"),
        (entry(dtype=7, more=field(4, b"x") + field(3, b"y")), r"the checksum of x|texts do not fit"),
        (entry(dtype=7, sides=(HUGE,)), r"a number is cut"),
        (entry(dtype=99), r"x in .* has TensorFlow's type number 99"),
        (entry(dtype=20), r"x in .* has TensorFlow's type number 20"),
        (field(2, b"\xff" * 12), r"a number is cut"),
        (b"", r"x in .* has TensorFlow's type number 0"),
    ],
)
def test_an_entry_with_impossible_numbers_is_refused(tmp_path: Path, content: bytes, message: str):
    write_bundle(tmp_path / "ckpt-1", {"x": np.ones(2, np.float32)})
    rewrite(tmp_path / "ckpt-1", {b"x": content})
    with pytest.raises(UserError, match=message):
        Bundle(tmp_path / "ckpt-1.index").read("x")


@pytest.mark.parametrize("header", [b"", field(1, b"xx"), field(2, b"x"), field(3, b"\x10"), b"\x0b"])
def test_a_header_without_data_files_is_refused(tmp_path: Path, header: bytes):
    write_bundle(tmp_path / "ckpt-1", {"x": np.ones(2, np.float32)})
    rewrite(tmp_path / "ckpt-1", {b"": header})
    with pytest.raises(UserError, match=r"ckpt-1.index cannot be read"):
        Bundle(tmp_path / "ckpt-1.index")


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_any_entry_and_any_header_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, a: bytes, b: bytes):
    prefix = tmp_path_factory.mktemp("bundle") / "ckpt-1"
    write_bundle(prefix, {"x": np.ones(2, np.float32)})
    for changes in ({b"x": a}, {b"": b}):
        rewrite(prefix, changes)
        with contextlib.suppress(UserError):
            Bundle(index_of(prefix)).read("x")


@pytest.mark.parametrize("sizes", [number(2**69), number(2**64 - 1) + number(2**64 - 1), number(1) + number(2**63)])
def test_texts_of_impossible_lengths_are_refused(tmp_path: Path, sizes: bytes):
    content = sizes + b"abcdefgh"
    write_bundle(tmp_path / "ckpt-1", {"x": np.frombuffer(content, np.uint8)})
    rewrite(tmp_path / "ckpt-1", {b"x": entry(7, (2,), field(5, len(content)))})
    with pytest.raises(UserError, match="cannot be read"):
        Bundle(tmp_path / "ckpt-1.index").read("x")


def test_keys_that_grow_beyond_measure_are_refused(tmp_path: Path):
    """Each shares all of the key before it: a million of them in four megabytes would take hundreds of gigabytes."""
    content = b"".join(number(place) + number(1) + number(0) + b"k" for place in range(9000))
    blocks = content + struct.pack("<II", 0, 1)
    (tmp_path / "ckpt-1.index").write_bytes(table_of([blocks]))
    with pytest.raises(UserError, match="a key is too long"):
        Bundle(tmp_path / "ckpt-1.index")


def test_blocks_that_are_read_again_and_again_are_refused():
    assert read_table(table_of([block({b"a": b"1"}), block({b"b": b"2"})])) == {b"a": b"1", b"b": b"2"}
    with pytest.raises(ValueError, match="blocks overlap"):
        read_table(table_of([block({b"a": b"1"})], repeated=5))


def test_a_longer_data_file_and_no_tensors_at_all_are_read(prefix: Path, tmp_path: Path):
    with prefix.with_name("ckpt-1.data-00000-of-00001").open("ab") as file:
        file.write(b"more")
    bundle = Bundle(index_of(prefix))
    np.testing.assert_array_equal(bundle.read("layers/0/bias"), TENSORS["layers/0/bias"])
    write_bundle(tmp_path / "ckpt-2", {})
    assert Bundle(tmp_path / "ckpt-2.index").entries == {}


# Objects


def write_graph(prefix: Path, nodes: list[bytes]) -> None:
    """A checkpoint of the tensor `k` with these objects."""
    graph = np.array(b"".join(field(1, node) for node in nodes), dtype=object)
    write_bundle(prefix, {"_CHECKPOINTABLE_OBJECT_GRAPH": graph, "k": np.ones(2, np.float32)})


def child(node: int, name: str) -> bytes:
    return field(1, field(1, node) + field(2, name.encode()))


def test_a_chain_of_objects_beyond_any_model_is_refused(tmp_path: Path):
    chain = [child(place + 1, "a") for place in range(1, 3000)]
    write_graph(tmp_path / "ckpt-1", [child(1, "model"), *chain, field(2, field(3, b"k"))])
    with pytest.raises(UserError, match="objects in objects beyond any model"):
        open_checkpoint(tmp_path).variables("model")


def test_objects_that_contain_each_other_are_visited_once(tmp_path: Path):
    nodes = [child(1, "model"), child(2, "w") + child(1, "itself"), child(1, "owner") + field(2, field(3, b"k"))]
    write_graph(tmp_path / "ckpt-1", nodes)
    assert [(variable.key, variable.paths) for variable in open_checkpoint(tmp_path).variables("model")] == [
        ("k", ("w",))
    ]


@pytest.mark.parametrize("state", [b"\xff\xfe\0", b'model_checkpoint_path: "' + b"a" * 9999 + b'"'])
def test_a_state_file_that_names_nothing_leaves_the_newest_checkpoint(tmp_path: Path, state: bytes):
    write_checkpoint(tmp_path / "ckpt-1", {"a": np.ones(2, np.float32)})
    (tmp_path / "checkpoint").write_bytes(state)
    assert find_checkpoint(tmp_path) == tmp_path / "ckpt-1"


def test_a_variable_has_all_its_paths_and_no_slots(tmp_path: Path):
    write_checkpoint(tmp_path / "ckpt-1", {"a/b": np.ones(2, np.float32)}, {"optimizer/m": np.zeros(2, np.float32)})
    checkpoint = open_checkpoint(tmp_path)
    (variable,) = checkpoint.variables("model")
    assert (variable.key, variable.shape, variable.paths) == ("model/a/b/.ATTRIBUTES/VARIABLE_VALUE", (2,), ("a/b",))
    np.testing.assert_array_equal(checkpoint.read(variable), [1, 1])
    assert [variable.paths for variable in checkpoint.variables("optimizer")] == [("m",)]


@pytest.mark.parametrize("graph", [b"", b"\x0a", b"\x0a\x04\x0a\x02\x08\x07", b"\x0a\x02\x0a\x05", b"\x08\x01"])
def test_a_broken_object_graph_is_refused(tmp_path: Path, graph: bytes):
    write_bundle(tmp_path / "ckpt-1", {"_CHECKPOINTABLE_OBJECT_GRAPH": np.array(graph, dtype=object)})
    with pytest.raises(UserError, match=r"objects of .*ckpt-1.index cannot be read"):
        open_checkpoint(tmp_path)


def test_an_object_graph_that_is_no_text_is_refused(tmp_path: Path):
    write_bundle(tmp_path / "ckpt-1", {"_CHECKPOINTABLE_OBJECT_GRAPH": np.ones(3, np.float32)})
    with pytest.raises(UserError, match=r"objects of .*ckpt-1.index cannot be read"):
        open_checkpoint(tmp_path)


def test_a_variable_without_numbers_is_named(tmp_path: Path):
    write_checkpoint(tmp_path / "ckpt-1", {"a": np.ones(2, np.float32)})
    checkpoint = open_checkpoint(tmp_path)
    del checkpoint.bundle.entries["model/a/.ATTRIBUTES/VARIABLE_VALUE"]
    with pytest.raises(UserError, match="lacks 1 variables, among them model/a/"):
        checkpoint.variables("model")


# Beside TensorFlow, where it is installed


def same_as_tensorflow(tensorflow: ModuleType, prefix: Path) -> int:
    """Compare all entries; how many there are."""
    reader, bundle = tensorflow.train.load_checkpoint(str(prefix)), Bundle(index_of(prefix))
    shapes = reader.get_variable_to_shape_map()
    assert shapes.keys() == bundle.entries.keys()
    for name in shapes:
        expected = np.asarray(reader.get_tensor(name))
        found = bundle.read(name)
        assert found.shape == expected.shape
        np.testing.assert_array_equal(found, expected.astype(found.dtype))
    return len(shapes)


def test_tensorflow_reads_what_the_writer_of_these_tests_wrote(tensorflow: ModuleType, tmp_path: Path):
    for shards in (1, 3):
        write_bundle(tmp_path / f"ckpt-{shards}", TENSORS, shards=shards, entries_a_block=3)
        assert same_as_tensorflow(tensorflow, tmp_path / f"ckpt-{shards}") == len(TENSORS)


def test_the_reader_reads_what_tensorflow_wrote(tensorflow: ModuleType, tmp_path: Path):
    model = tensorflow.Module()
    kinds = ("float32", "bfloat16", "bool", "int64", "float16", "uint8")
    model.many = [tensorflow.Variable(tensorflow.cast(tensorflow.range(7) - 2, kind)) for kind in kinds]
    model.texts = tensorflow.Variable([["a", "b" * 300], ["", "é"]])
    model.empty = tensorflow.Variable(tensorflow.zeros((0, 3)))
    tensorflow.train.Checkpoint(model=model).write(str(tmp_path / "ckpt-3"))
    assert same_as_tensorflow(tensorflow, tmp_path / "ckpt-3") == len(kinds) + 3  # texts, the empty one, the graph
    paths = {path for variable in open_checkpoint(tmp_path).variables("model") for path in variable.paths}
    assert paths == {*(f"many/{place}" for place in range(len(kinds))), "texts", "empty"}


def test_the_reader_reads_official_checkpoints_as_tensorflow_does(tensorflow: ModuleType, reference_model: Path):
    prefix = find_checkpoint(reference_model / "ckpt")
    assert same_as_tensorflow(tensorflow, prefix) > len(open_checkpoint(prefix).variables("model"))


def test_official_checkpoints_hold_what_their_listing_names(reference_model: Path, reference_json: Callable):
    """Without TensorFlow: names, shapes and checksums."""
    checkpoint: ObjectCheckpoint = open_checkpoint(reference_model / "ckpt")
    listing = reference_json(f"models/{reference_model.name}/variables.json")
    entries = checkpoint.bundle.entries
    listed = {entry["key"]: entry["shape"] for entry in listing["model_variables"]}
    assert {variable.key: list(variable.shape) for variable in checkpoint.variables("model")} == listed
    assert len(entries) == len(listing["checkpoint_entries"])
    for name in entries:
        checkpoint.bundle.read(name)


def test_a_copy_elsewhere_is_the_same_checkpoint(reference_model: Path, tmp_path: Path):
    shutil.copytree(reference_model / "ckpt", tmp_path / "other", copy_function=shutil.copyfile)
    assert (
        open_checkpoint(tmp_path / "other").bundle.entries == open_checkpoint(reference_model / "ckpt").bundle.entries
    )
