"""Files that are hostile or damaged are refused in a sentence, quickly, and make the program do nothing else."""

import dataclasses
import json
import os
import pickle
import random
import resource
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pix2seq import config
from pix2seq.command_line import run_script, settings_of_start
from pix2seq.config import CFG, InferCFG
from pix2seq.config_file import read_settings
from pix2seq.dataset.annotation_files import parse_json
from pix2seq.dataset.caption_vocabulary import read_vocab
from pix2seq.dataset.images import FORMATS, UNREADABLE, read_header, read_image
from pix2seq.errors import UserError, plain, shown
from pix2seq.infer.predictor import Predictor
from pix2seq.metadata import read_metadata
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.models.weights import Weights, check_shapes, load_weights, save_weights
from pix2seq.runtime.checkpoint import load_checkpoint
from pix2seq.runtime.paths import ROOT, weights_path
from pix2seq.tasks import TASKS
from pix2seq.tokenizers.captioning import SentencePieceVocabulary
from tests.hostile import BROKEN, DEEP, Witness, fuzz, mutated, outcomes, with_metadata

CASES = ROOT.parent / "shared" / "cases_hostile"
WEIGHTS_CASES = sorted(path.parent.name for path in CASES.glob("*/w.metadata.json"))
IMAGE_CASES = sorted(path for kind in ("png", "jpg") for path in CASES.glob(f"image_*/*.{kind}"))
DATA_CASES = sorted(path.parent.parent.name for path in CASES.glob("*/own/train.json"))  # in test_hostile_cases.py
# The cases that are no files of these kinds, and the tests that bring them about.
OTHER_CASES = {
    "backbone_kwargs_checkpoint_path": "test_hostile.py",
    "batch_20_3bad": "test_hostile.py",
    "data_million_ann": "dataset/test_hostile_cases.py",
    "disk_full": "test_disk_full.py",
    "resume_flags_ignored": "train/test_resume.py",
    "resume_pickle": "train/test_resume.py",
    "single_file_polyglot": "test_hostile.py",
    "two_downloads": "weights/test_find.py",
    "two_drawings_of_scenes": "scenes/test_scenes.py",
    "vocab_deep": "test_hostile.py",
}
JSON_FIELDS = ("cfg", "class_names", "text", "keypoints", "category_ids", "decoding")
KEYPOINTS = dict(names=("n", "l", "r"), flip=(0, 2, 1), bones=((0, 1),), class_ids=(1,), sigmas=(0.1, 0.1, 0.1))


@pytest.fixture(scope="module")
def witness() -> Witness:
    return Witness()


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of a model without a backbone, which is built in milliseconds."""
    values = dict(image_size=32, backbone="patches", encoder_width=8, encoder_layers=1, encoder_heads=1)
    values |= dict(decoder_width=8, decoder_layers=1, decoder_heads=1, vocab_size=3008, max_tokens=64)
    cfg = config.replace(CFG(), max_objects=4, max_points=9, max_words=8, device="cpu", **values)
    torch.manual_seed(0)
    described = {1: "cat", 2: "bowl"}, {"words": ["<unk>", "a", "cat"]}, KEYPOINTS, {1: 1, 2: 2}
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, Weights(Pix2Seq(cfg.model), cfg, *described, 3, {"top_k": 5}))
    return path


@pytest.fixture(scope="module")
def metadata(tiny_weights: Path) -> dict[str, str]:
    content = tiny_weights.read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]


def changed(metadata: dict[str, str], field: str, *path: Any, to: Any) -> dict[str, str]:
    """The metadata with one value in the JSON of a field replaced."""
    value = json.loads(metadata[field])
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = to
    return metadata | {field: json.dumps(value)}


def predict(path: Path) -> None:
    """All that inference does with a weights file, on a small image."""
    settings = dataclasses.replace(InferCFG(), num_samples=2, score_threshold=0.0)
    predictor = Predictor.from_weights(load_weights(path), TASKS, settings, torch.device("cpu"))
    predictor.describe(np.zeros((20, 30, 3), dtype=np.uint8), list(predictor.tasks))


# Weights


@pytest.mark.skipif(not WEIGHTS_CASES, reason="the cases of ../shared/cases_hostile are not here")
@pytest.mark.parametrize("case", WEIGHTS_CASES or ["none"])
def test_metadata_of_the_shared_cases_are_refused_quickly_and_in_little_memory(case: str, tmp_path: Path):
    metadata = json.loads((CASES / case / "w.metadata.json").read_text(encoding="utf-8"))
    path = with_metadata(weights_path("scenes"), tmp_path / "w.safetensors", metadata)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(UserError) as error:
        settings_of_start(CFG(), path)
        Predictor.from_weights(load_weights(path), TASKS, InferCFG(), torch.device("cpu"))
    assert "\n" not in str(error.value) and str(error.value).isprintable()
    assert time.perf_counter() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1e6  # kB


@pytest.mark.parametrize(
    ("field", "path", "value", "named"),
    [
        ("cfg", ("model", "image_size"), 10**9, "--image-size expects a whole number from 1 to 2048"),
        ("cfg", ("model", "decoder_layers"), 10**6, "--decoder-layers"),
        ("cfg", ("model", "vocab_size"), 4 * 10**7, "--vocab-size"),
        ("cfg", ("model", "backbone"), "hf-hub:somebody/model", "--backbone"),
        ("cfg", ("model", "class_token"), "nan", "--class-token"),
        ("cfg", ("model", "decoder_width"), 16, "tensors differ"),
        ("cfg", ("task",), 5, "--task"),
        ("cfg", ("data", "flip"), {"a": {"b": 1}}, "data.*flip|cfg"),
        ("decoding", ("num_samples",), 10**6, "num_samples"),
        ("class_names", ("5000",), "a", "class_names"),
        ("class_names", ("1",), None, "class_names"),
        ("category_ids", ("1",), "x", r"category_ids.*expected int, got str"),
        ("text", ("words",), 2, "text.*words"),
        ("text", ("words", 1), 1, r"text.*words\[1\]"),
        ("text", ("words",), ["w"] * 100, "100 entries"),
        ("text", ("words",), ["<unk>"], "without"),
        ("keypoints", ("bones", 0), [0, 99], "keypoints.*bones"),
        ("keypoints", ("bones", 0), [0, 3], "keypoints.*bones"),
        ("keypoints", ("flip",), [0], "keypoints.*flip"),
        ("keypoints", ("flip", 1), 1, "keypoints.*flip"),
        ("keypoints", ("sigmas", 0), 0, "keypoints.*sigmas"),
        ("keypoints", ("sigmas",), [], "keypoints.*sigmas"),
        ("keypoints", ("class_ids",), [7], "keypoints.class_ids"),
        ("keypoints", ("names",), ["a"] * 10**5, "keypoints.*names"),
    ],
)
def test_a_field_that_cannot_be_is_named(
    tiny_weights: Path, metadata: dict[str, str], tmp_path: Path, field: str, path: tuple, value: Any, named: str
):
    file = with_metadata(tiny_weights, tmp_path / "w.safetensors", changed(metadata, field, *path, to=value))
    with pytest.raises(UserError, match=named):
        predict(file)


@pytest.mark.parametrize("field", JSON_FIELDS)
@pytest.mark.parametrize("text", BROKEN, ids=lambda text: text[:12] or "empty")
def test_a_field_that_is_no_json_of_its_kind_is_refused(
    tiny_weights: Path, metadata: dict[str, str], tmp_path: Path, field: str, text: str
):
    file = with_metadata(tiny_weights, tmp_path / "w.safetensors", metadata | {field: text})
    with pytest.raises(UserError, match=rf"w\.safetensors.*{field}"):
        load_weights(file)


@pytest.mark.parametrize(
    "arguments",
    [
        *({"checkpoint_path": "evil.pth"}, {"pretrained_cfg": "x"}, {"pretrained_cfg_overlay": {"file": "evil.pth"}}),
        *({"in_chans": 10**8}, {"pretrained": True}, {"cache_dir": "/tmp"}, {"act_layer": "relu"}, {"depth": 10**6}),
        {"features_only": False},
    ],
)
def test_only_arguments_of_architecture_reach_timm(
    tiny_weights: Path, metadata: dict[str, str], tmp_path: Path, witness: Witness, arguments: dict
):
    evil, mark = tmp_path / "evil.pth", tmp_path / "mark"
    evil.write_bytes(pickle.dumps(_Touch(str(mark))))
    arguments = {name: str(evil) if value == "evil.pth" else value for name, value in arguments.items()}
    settings = changed(metadata, "cfg", "model", "backbone_kwargs", to=json.dumps(arguments))
    settings = changed(settings, "cfg", "model", "backbone", to="resnet18")
    path = with_metadata(tiny_weights, tmp_path / "w.safetensors", settings)
    predict(tiny_weights)  # everything is imported
    with witness.watching() as seen, pytest.raises(UserError, match="--backbone-kwargs"):
        load_weights(path)
    assert {name for _, name in seen} <= {str(path)} and not mark.exists()


class _Touch:
    """Unpickled, it creates an empty file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (Path(self.path),)


def test_using_a_weights_file_opens_nothing_else(tiny_weights: Path, witness: Witness):
    predict(tiny_weights)
    with witness.watching() as seen:
        predict(tiny_weights)
    assert set(seen) == {("open", str(tiny_weights))}


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(tiny_weights: Path, metadata: dict, tmp_path: Path, number: float):
    tensors = load_file(tiny_weights)
    tensors["decoder.bias"][3] = number
    save_file(tensors, tmp_path / "w.safetensors", metadata)
    with pytest.raises(UserError, match=r"not finite in 1 tensors, among them decoder\.bias"):
        load_weights(tmp_path / "w.safetensors")


def test_a_tensor_of_another_kind_is_refused(tiny_weights: Path, metadata: dict, tmp_path: Path):
    tensors = load_file(tiny_weights)
    tensors["decoder.bias"] = tensors["decoder.bias"].to(torch.int64)
    save_file(tensors, tmp_path / "w.safetensors", metadata)
    with pytest.raises(UserError, match=r"1 tensors differ, among them decoder\.bias"):
        load_weights(tmp_path / "w.safetensors")


def test_a_header_of_any_announced_size_is_refused(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    for size in (2**62, 2**31, 40 * 2**20):
        path.write_bytes(size.to_bytes(8, "little") + b"{}")
        with pytest.raises(UserError, match="not a safetensors file"):
            load_weights(path)


def test_names_of_a_stranger_are_plain(tiny_weights: Path, metadata: dict[str, str], tmp_path: Path):
    names = {"1": "c\x1b[31mat\u202e\n", "2": "b" * 10_000}
    path = with_metadata(tiny_weights, tmp_path / "w.safetensors", metadata | {"class_names": json.dumps(names)})
    assert load_weights(path).class_names == {1: "c[31mat", 2: "b" * 200}


# Fuzzing


def metadata_tries(metadata: dict[str, str], count: int, seed: int) -> Iterator[dict[str, str]]:
    """Metadata that differ from good ones in the JSON of one field, or in its text."""
    rng = random.Random(seed)
    for _ in range(count):
        field = rng.choice(JSON_FIELDS)
        text = json.dumps(mutated(json.loads(metadata[field]), rng))
        if rng.random() < 0.15:  # damaged text
            place = rng.randrange(len(text) + 1)
            text = rng.choice((text[:place], text[:place] + rng.choice('{}[],:"0e\\') + text[place + 1 :], *BROKEN))
        yield metadata | {field: text}


def test_hundreds_of_mutated_metadata_are_read_or_refused(tiny_weights: Path, metadata: dict, tmp_path: Path):
    def read(tried: dict[str, str]) -> None:
        path = with_metadata(tiny_weights, tmp_path / "w.safetensors", tried)
        check_shapes(read_metadata(path), path)

    counts = outcomes(metadata_tries(metadata, 300, seed=1), read)
    assert counts["tried"] == 300 and counts["refused"] > 100


@pytest.mark.slow
def test_thousands_of_mutated_metadata_are_used_or_refused(tiny_weights: Path, metadata: dict, tmp_path: Path):
    target = tmp_path / "w.safetensors"
    tries = metadata_tries(metadata, 3000, seed=2)
    fuzz("weights' metadata", tries, lambda tried: predict(with_metadata(tiny_weights, target, tried)))


def bytes_tries(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Contents that differ from a good one in some bytes, in their length, or in a part that stands elsewhere."""
    rng = random.Random(seed)
    for _ in range(count):
        data = bytearray(content)
        for _ in range(rng.choice((1, 1, 2, 8, 40))):
            place = rng.randrange(len(data) or 1)
            kind = rng.random()
            if kind < 0.6 and data:
                data[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            elif kind < 0.75:
                del data[place : place + rng.randrange(1, 64)]
            elif kind < 0.9:
                data[place:place] = data[: rng.randrange(64)]
            else:
                del data[place:]
        yield bytes(data)


def fuzz_file(kind: str, content: bytes, use: Callable[[Path], Any], path: Path, count: int) -> None:
    """See what `use` makes of files with mutated `content`."""

    def written(data: bytes) -> None:
        path.write_bytes(data)
        use(path)

    fuzz(kind, bytes_tries(content, count, seed=0), written)


def small_images(folder: Path) -> list[Path]:
    """An image of every format that is read."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    paths = [folder / f"small.{kind.lower()}" for kind in FORMATS]
    for path, kind in zip(paths, FORMATS, strict=True):
        noise.save(path, kind)
    noise.save(folder / "packed.tif", "TIFF", compression="tiff_lzw")
    return [*paths, folder / "packed.tif"]


def used_text_model(path: Path) -> None:
    text = SentencePieceVocabulary.read(path)
    text.decode(text.encode("a dog runs")), len(text.predictable)


@pytest.mark.parametrize("count", [30, pytest.param(3000, marks=pytest.mark.slow)])
def test_mutated_images_are_read_or_refused(tmp_path: Path, count: int):
    for source in small_images(tmp_path):
        name = f"mutated{source.suffix}"
        fuzz_file(f"image {source.name}", source.read_bytes(), read_image, tmp_path / name, count)


@pytest.mark.parametrize("count", [100, pytest.param(3000, marks=pytest.mark.slow)])
def test_mutated_text_files_are_read_or_refused(tmp_path: Path, count: int):
    words = json.dumps(["<unk>", "a", "dog", "café", "runs"]).encode()
    settings = (ROOT / "recipes" / "scenes.yaml").read_bytes()
    fuzz_file("vocabulary", words, read_vocab, tmp_path / "words.json", count)
    fuzz_file("settings in YAML", settings, lambda path: read_settings(str(path)), tmp_path / "own.yaml", count)
    as_json = config.to_json(CFG()).encode()
    fuzz_file("settings in JSON", as_json, lambda path: read_settings(str(path)), tmp_path / "own.json", count)


@pytest.mark.parametrize("count", [50, pytest.param(3000, marks=pytest.mark.slow)])
def test_mutated_checkpoints_and_weights_are_read_or_refused(tmp_path: Path, tiny_weights: Path, count: int):
    source = tmp_path / "good.pt"
    torch.save({"model": {"a": torch.ones(3, 2)}, "step": 3, "name": "x"}, source)
    cpu = torch.device("cpu")
    fuzz_file("checkpoint's bytes", source.read_bytes(), lambda path: load_checkpoint(path, cpu), tmp_path / "a", count)
    fuzz_file("weights' bytes", tiny_weights.read_bytes(), load_weights, tmp_path / "w.safetensors", count)


# Images


def huge(kind: str, folder: Path) -> Path:
    """A small file that announces an image of 30,000 × 30,000 pixels."""
    path, side = folder / f"huge.{kind}", 30_000
    Image.new("RGB", (16, 16)).save(path)
    data = bytearray(path.read_bytes())
    if kind == "png":
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif kind == "bmp":
        data[18:26] = struct.pack("<ii", side, side)
    elif kind == "gif":
        data[6:10] = struct.pack("<HH", side, side)
    elif kind == "ppm":
        data[:] = f"P6 {side} {side} 255\n".encode() + bytes(64)
    elif kind == "jpg":
        start = data.index(b"\xff\xc0") + 5
        data[start : start + 4] = struct.pack(">HH", side, side)
    elif kind == "tif":
        for tag in (256, 257):  # width and height, of type 3 or 4: short or long
            place = next(data.index(entry) for kind in (3, 4) if (entry := struct.pack("<HHI", tag, kind, 1)) in data)
            data[place + 8 : place + 12] = struct.pack("<I", side)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", ["png", "bmp", "gif", "ppm", "jpg", "tif"])
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path, kind: str):
    path, before = huge(kind, tmp_path), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"30000 × 30000 pixels, more than 200 megapixels.*--max-megapixels"):
        read_image(path)
    assert read_header(path) == "image of more than 200 megapixels"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2e5  # kB


def test_formats_that_take_more_memory_have_fewer_pixels(tmp_path: Path):
    path = tmp_path / "image.webp"
    Image.new("RGB", (1000, 1001)).save(path)
    with pytest.raises(UserError, match=r"1000 × 1001 pixels, more than 1 megapixels of WEBP"):
        read_image(path, 2)
    assert read_image(path, 2.1).shape == (1001, 1000, 3)


def test_a_tiff_in_one_piece_that_is_larger_than_its_image_is_refused(tmp_path: Path):
    """A tile of 16,384 × 16,384 holds 100 × 100 pixels; libtiff would decode it whole."""
    entries = ((256, 100), (257, 100), (258, 8), (259, 8), (262, 1), (277, 1), (322, 16384), (323, 65536))
    entries = (*entries, (324, 8), (325, 9))
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    (tmp_path / "a.tif").write_bytes(b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + tags + bytes(20))
    with pytest.raises(UserError, match="more than 800 MB, in a strip or tile"):
        read_image(tmp_path / "a.tif")
    image = Image.fromarray(np.arange(6000, dtype=np.uint8).reshape(40, 50, 3))
    image.save(tmp_path / "b.tif", compression="tiff_lzw")
    assert np.array_equal(read_image(tmp_path / "b.tif"), image)


@pytest.mark.parametrize("options", [{"progressive": True}, {"quality": 90}, {"progressive": True, "quality": 30}])
def test_a_jpeg_of_many_scans_is_refused(tmp_path: Path, options: dict):
    """A scan of a few bytes goes over all pixels again."""
    path, noise = tmp_path / "a.jpg", np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, **options)
    assert read_image(path).shape == noise.shape and read_header(path).stored == (50, 40)
    content = path.read_bytes()
    first, *others = content[:-2].split(b"\xff\xda")
    if not others[1:]:  # of one component each, a baseline file may have many scans, too
        others = [b"\x00\x08\x01\x01\x00\x00\x3f\x00" + bytes(9)]
    path.write_bytes(b"\xff\xda".join([first, *others[:1], *others[-1:] * 300]) + b"\xff\xd9")
    with pytest.raises(UserError, match="50 × 40 pixels, more than 200 times over each other"):
        read_image(path)


@pytest.mark.parametrize("head", [b"P6\n#", b"P6\n9 #", b"P5" + b" " * 9, b"RIFF\xff\xff\xff\x7fWEBPVP8L"])
def test_a_file_of_endless_zeros_is_refused_at_once(tmp_path: Path, head: bytes):
    path = tmp_path / "image.ppm"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(2**40)  # which take no room on the disk
    start = time.perf_counter()
    with pytest.raises(UserError, match=r"image\.ppm"):
        read_image(path)
    assert read_header(path) == UNREADABLE and time.perf_counter() - start < 5


def test_comments_of_a_ppm_are_read_over(tmp_path: Path):
    (tmp_path / "a.ppm").write_bytes(b"P6 # by hand\n#\n2 1\n# x\n255\n" + bytes(range(6)))
    assert read_image(tmp_path / "a.ppm").tolist() == [[[0, 1, 2], [3, 4, 5]]]


def test_the_limit_can_be_set(tmp_path: Path):
    Image.new("L", (1000, 1001)).save(tmp_path / "image.png")
    assert read_image(tmp_path / "image.png", 1.001).shape == (1001, 1000, 3)
    with pytest.raises(UserError, match="more than 1 megapixels"):
        read_image(tmp_path / "image.png", 1)


def test_a_postscript_file_starts_no_program(tmp_path: Path, witness: Witness):
    path = tmp_path / "image.jpg"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", encoding="utf-8")
    with witness.watching() as seen, pytest.raises(UserError, match="not an image that can be read"):
        read_image(path)
    assert {name for _, name in seen} <= {str(path)}


@pytest.mark.parametrize(
    "read", [read_image, read_vocab, SentencePieceVocabulary.read, lambda p: read_settings(str(p))]
)
def test_a_pipe_is_refused_without_waiting_for_its_end(tmp_path: Path, read: Callable[[Path], Any]):
    path = tmp_path / "image.png"
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"image\.png"):
        read(path)


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases of ../shared/cases_hostile are not here")
def test_every_shared_case_is_in_a_test():
    found = {path.name for path in CASES.iterdir() if path.is_dir()}
    assert found == {*WEIGHTS_CASES, *DATA_CASES, *OTHER_CASES, *(path.parent.name for path in IMAGE_CASES)}
    assert all((ROOT / "tests" / name).is_file() for name in OTHER_CASES.values())


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases of ../shared/cases_hostile are not here")
def test_the_other_files_of_the_shared_cases_are_refused():
    counts = outcomes(iter(sorted((CASES / "batch_20_3bad" / "in").iterdir())), read_image)
    assert counts["refused"] in (2, 3) and counts["accepted"] == counts["tried"] - counts["refused"] > 10
    with pytest.raises(UserError, match=r"v\.json"):
        read_vocab(CASES / "vocab_deep" / "v.json")


@pytest.mark.skipif(not IMAGE_CASES, reason="the cases of ../shared/cases_hostile are not here")
@pytest.mark.parametrize("path", IMAGE_CASES, ids=lambda path: path.name)
def test_images_of_the_shared_cases_are_refused(path: Path):
    with pytest.raises(UserError, match=path.name):
        read_image(path)


# Settings and vocabularies


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", DEEP, "nested too deep"),
        ("a.yaml", DEEP, "nested too deep"),
        ("a.yaml", "a: &a [x]\nb: *a\n", "aliases"),
        *(
            ("a.yaml", f"lr: !!{tag}", "tags")
            for tag in ("timestamp x", "int ''", "bool x", "map [a]", "python/name:os.fork")
        ),
        ("a.yaml", "lr: 2020-99-99", "month must be"),
        ("a.yaml", "image_size: 0x" + "f" * 9000, "image_size expects"),
        ("a.yaml", "domain: 2020-01-01\nmodel: {a: {b: 1}}", "cannot be read"),
        ("a.yaml", "'\\x1b[31m': 1", "no setting"),
        ("a.yaml", "a: 1\n" * 20_000, "more than"),
        ("a.json", '{"backbone_kwargs": 3}', "backbone_kwargs expects a text"),
    ],
)
def test_hostile_settings_are_refused(tmp_path: Path, name: str, text: str, message: str):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        read_settings(str(tmp_path / name))
    assert str(error.value).isprintable() and len(str(error.value)) < 1000


@pytest.mark.parametrize("head", [b'{"images": [', "{".encode("utf-16")])
def test_a_text_that_ends_in_zeros_is_refused_at_once(tmp_path: Path, head: bytes):
    """What a machine that died leaves of a file, and files with holes, which take no room on the disk."""
    path = tmp_path / "train.json"
    for size in (len(head) + 4096, 2**32, 2**40):
        with path.open("wb") as file:
            file.write(head)
            file.truncate(size)
        with pytest.raises(UserError, match=r"train\.json (holds zeros|cannot be read)"):
            parse_json(path)


def test_a_lack_of_memory_is_a_sentence(capsys: pytest.CaptureFixture):
    def use_up() -> None:
        raise MemoryError("Unable to allocate 9 TiB\nfor an array")

    with pytest.raises(SystemExit) as end:
        run_script(use_up)
    assert end.value.code == 2
    assert (
        capsys.readouterr().err
        == "error: there is not enough memory (Unable to allocate 9 TiB); give it less at a time\n"
    )


@pytest.mark.parametrize("text", [DEEP, '["<unk>", 3]', '{"<unk>": 1}', "NaN"], ids=lambda text: text[:9])
def test_a_hostile_word_list_is_refused(tmp_path: Path, text: str):
    (tmp_path / "words.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"words\.json"):
        read_vocab(tmp_path / "words.json")


def test_what_strangers_wrote_is_shown_plain_and_short():
    assert plain("a\x1b[2J\u202eb\nc\td") == "a[2Jb c d" and len(plain("x" * 10**6)) == 200
    for value in ("\x1b" * 999, 10**5000, [[1] * 10**5], {"a": "b" * 999}, ("x",) * 999, b"\x1b", 1e308):
        assert shown(value).isprintable() and len(shown(value)) <= 60
