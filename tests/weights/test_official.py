"""The table of published checkpoints."""

import json
import re

import pytest

from pix2seq import config
from pix2seq.errors import UserError
from pix2seq.runtime.paths import ROOT
from pix2seq.weights.official import CHECKPOINTS, MIRROR, base_url, table

SHARED = ROOT.parent / "shared"


def test_the_documents_show_the_table() -> None:
    assert table() in (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")


def test_the_objects365_addresses_are_not_swapped() -> None:
    base, large = CHECKPOINTS["obj365-vit-b-640"], CHECKPOINTS["obj365-vit-l-640"]
    assert (base.preset, base.parameters, "vit_b_" in base.folder) == ("vit-b", 115.2, True)
    assert (large.preset, large.parameters, "vit_l_" in large.folder) == ("vit-l", 341.2, True)


def test_names_match_their_rows() -> None:
    for name, item in CHECKPOINTS.items():
        assert name == f"{item.kind.split('_')[0]}-{item.preset}-{item.image_size}"
        assert f"_{item.image_size}x{item.image_size}" in item.folder
        assert item.preset in config.PRESETS


def test_parameters_are_those_of_the_architectures(reference_path) -> None:
    folder = reference_path("real_config_variables")
    files = {"resnet50": "resnet", "resnet50-c4": "resnet-c", "vit-b": "vit-b", "vit-l": "vit-l"}
    for item in CHECKPOINTS.values():
        listing = json.loads((folder / f"{files[item.preset]}.json").read_text(encoding="utf-8"))
        text_tokens = 32_000 if item.kind == "multi_task" else 0
        count = listing["n_params_all"] + text_tokens * (listing["model"]["dim_att_dec"] + 1)
        assert item.parameters == round(count / 1e6, 1)
        assert item.megabytes == pytest.approx(4 * count / 1e6, abs=0.7)


def test_the_table_is_the_published_one() -> None:
    lists = list((SHARED / "seeds").glob("000*.txt"))
    if not lists:
        pytest.skip(f"the published list in {SHARED / 'seeds'} is not here")
    row = r"\| +([\d.]+) +\| (\d+)x\d+ +(?:\| ([\d.]+) +)?\| \[gs://pix2seq/(\S+)\]"
    published = {
        folder: (float(parameters), int(size), f"box AP {ap}" if ap else "")
        for parameters, size, ap, folder in re.findall(row, lists[0].read_text(encoding="utf-8"))
    }
    ours = {item.folder: (item.parameters, item.image_size, item.figures) for item in CHECKPOINTS.values()}
    assert len(published) == 16
    assert published == {folder: values for folder, values in ours.items() if not folder.startswith("multi_task")}


def test_a_mirror_is_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MIRROR, raising=False)
    assert base_url() == "https://storage.googleapis.com/pix2seq/"
    monkeypatch.setenv(MIRROR, "http://mirror/files")
    assert base_url() == "http://mirror/files/"
    monkeypatch.setenv(MIRROR, "gs://pix2seq")
    with pytest.raises(UserError, match=r"PIX2SEQ_BASE_URL expects an address .* got 'gs://pix2seq'"):
        base_url()
