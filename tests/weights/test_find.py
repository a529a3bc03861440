"""Weights by name: fetched and converted at first use, once for all processes, with a clear line without a network."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pix2seq
from pix2seq.command_line import INFERENCE, TRAINING, parse_args
from pix2seq.errors import UserError
from pix2seq.models.weights import load_weights
from pix2seq.runtime.paths import ROOT, weights_path
from pix2seq.weights import official, official_fetch
from pix2seq.weights.find import describe_names, find_weights
from pix2seq.weights.tensor_bundle import Bundle
from pix2seq.weights.tf_checkpoint import OBJECT_GRAPH
from tests.server import COMMIT, Server
from tests.weights.bundle_writer import write_checkpoint
from tests.weights.official_vit import Sizes, vit_arrays

NAME, FOLDER = "coco-vit-b-640", "/coco_det_finetune/vit_b_640x640"
MULTI, MULTI_FOLDER = "multi-vit-b-640", "/multi_task/ckpt/vit_b_640x640"
TEXT_MODEL = "/multi_task/data/c4_en_32k_spm.model"
STATE = b'model_checkpoint_path: "ckpt-402"\n'


def serve(server: Server, folder: Path, address: str) -> None:
    server.files |= {f"{address}/{path.name}": path for path in folder.iterdir()}
    server.files[f"{address}/checkpoint"] = STATE


@pytest.fixture
def published(server: Server, checkpoint_folder: Path) -> Server:
    """The server with a detection checkpoint."""
    serve(server, checkpoint_folder, FOLDER)
    return server


@pytest.fixture
def multi_task(server: Server, tmp_path: Path, text_model_path: Path) -> Server:
    """The server with a multi-task checkpoint and its text model."""
    (tmp_path / "published").mkdir()
    write_checkpoint(tmp_path / "published" / "ckpt-402", vit_arrays(Sizes(vocab=3100)))
    serve(server, tmp_path / "published", MULTI_FOLDER)
    server.files[TEXT_MODEL] = text_model_path
    return server


def found(name: str, environment: dict[str, str]) -> subprocess.CompletedProcess:
    """A process that finds weights as every script does."""
    code = (
        "import sys\n"
        "from pix2seq.command_line import run_script\n"
        "from pix2seq.weights.find import find_weights\n"
        "run_script(lambda: print(find_weights(sys.argv[1])))\n"
    )
    return subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, env=environment)


def test_paths_and_shipped_names_need_no_network(tmp_path: Path) -> None:
    assert find_weights("scenes") == weights_path("scenes")
    assert find_weights("some/own.safetensors") == Path("some/own.safetensors")


def test_a_name_becomes_weights_at_first_use(published: Server, cache: Path) -> None:
    path = find_weights(NAME)
    assert path == cache / f"{NAME}.safetensors"
    weights = load_weights(path)
    assert (weights.cfg.model.image_size, weights.cfg.tasks, weights.class_names[1]) == (640, ("detection",), "person")
    assert {file.name for file in cache.iterdir()} - {".lock"} == {path.name}
    published.requests.clear()
    assert find_weights(NAME) == path
    assert published.requests == []


def test_config_json_wins_over_the_table(published: Server, cache: Path, tmp_path: Path) -> None:
    published.files[f"{FOLDER}/config.json"] = b'{"model": {"image_size": [704, 704]}, "task": {"top_p": 0.3}}'
    cfg = load_weights(find_weights(NAME)).cfg
    assert (cfg.model.image_size, cfg.infer.detection_top_p) == (704, 0.3)


@pytest.mark.parametrize("content", [b'{"model": 5}', b'{"model": {"coord_vocab_shift": 7}}'])
def test_a_fetched_config_json_that_cannot_be_used_is_asked_for_again(published: Server, cache: Path, content: bytes):
    published.files[f"{FOLDER}/config.json"] = content
    with pytest.raises(UserError, match=r"PIX2SEQ_BASE_URL|mean something else"):
        find_weights(NAME)
    published.files[f"{FOLDER}/config.json"] = b'{"model": {"image_size": 704}}'
    assert load_weights(find_weights(NAME)).cfg.model.image_size == 704


def test_a_server_without_the_files_is_named_with_the_way_out(server: Server, cache: Path) -> None:
    with pytest.raises(UserError, match=r"the server responded 404 .*; name a mirror with PIX2SEQ_BASE_URL$"):
        find_weights(NAME)


def test_a_multi_task_name_has_captions(multi_task: Server, cache: Path) -> None:
    weights = load_weights(find_weights(MULTI))
    assert weights.cfg.tasks == ("detection", "segmentation", "keypoint", "captioning")
    assert "sentencepiece" in weights.text


def test_objects365_has_its_number_of_classes(server: Server, cache: Path, checkpoint_folder: Path) -> None:
    serve(server, checkpoint_folder, "/obj365_pretrain/vit_b_640x640_b256_s400k")
    assert len(load_weights(find_weights("obj365-vit-b-640")).class_names) == 365


def test_a_cut_download_goes_on_with_the_next_call(published: Server, cache: Path) -> None:
    published.cuts = [10**9, 50_000, 0, 0, 0]
    with pytest.raises(UserError, match="run the command again to resume"):
        find_weights(NAME)
    published.requests.clear()
    find_weights(NAME)
    start = int(published.data_ranges()[0].removeprefix("bytes=").split("-")[0])
    assert start >= 50_000


def test_damaged_bytes_are_fetched_again_with_the_next_call(published: Server, cache: Path) -> None:
    path = next(path for path in published.files if ".data-" in path)
    right = published.files[path]
    content = bytearray(right.read_bytes())
    content[50_000] ^= 1
    published.files[path] = bytes(content)
    with pytest.raises(UserError, match=r"the checksum of .* is another one\); download it again"):
        find_weights(NAME)
    published.files[path] = right
    assert find_weights(NAME).is_file()


def test_damaged_objects_are_fetched_again_with_the_next_call(
    published: Server, cache: Path, checkpoint_folder: Path
) -> None:
    graph = Bundle(checkpoint_folder / "ckpt-402.index").entries[OBJECT_GRAPH]
    path = next(path for path in published.files if ".data-" in path)
    right = published.files[path]
    content = bytearray(right.read_bytes())
    content[graph.end - 1] ^= 1
    published.files[path] = bytes(content)
    with pytest.raises(UserError, match=rf"the checksum of {OBJECT_GRAPH} is another one\); download it again"):
        find_weights(NAME)
    published.files[path] = right
    assert find_weights(NAME).is_file()


def test_a_page_instead_of_the_text_model_is_not_kept(multi_task: Server, cache: Path) -> None:
    right, multi_task.files[TEXT_MODEL] = multi_task.files[TEXT_MODEL], b"<html>Please log in</html>"
    with pytest.raises(UserError, match="is not a SentencePiece model of captions"):
        find_weights(MULTI)
    multi_task.files[TEXT_MODEL] = right
    assert find_weights(MULTI).is_file()


def test_a_network_that_ends_before_the_model_comes_gets_the_same_line(published: Server, cache: Path) -> None:
    published.cuts = [10**9, 0, 0, 0, 0]
    with pytest.raises(UserError, match=rf"{NAME}: .*cannot be reached.* into {cache / NAME}$"):
        find_weights(NAME)


def test_pieces_stay_if_the_conversion_fails(published: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise UserError("the disk is full")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="disk is full"):
        patch.setattr(official_fetch, "convert_checkpoint", refuse)
        find_weights(NAME)
    published.requests.clear()
    find_weights(NAME)
    assert published.data_ranges() == []


@pytest.mark.parametrize("name", [NAME, MULTI])
def test_files_that_were_put_there_by_hand_are_converted_without_network(
    closed_url: str,
    cache: Path,
    checkpoint_folder: Path,
    text_model_path: Path,
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(official.MIRROR, closed_url)
    cache.mkdir(parents=True)
    if name == MULTI:
        (cache / name).mkdir()
        write_checkpoint(cache / name / "ckpt-402", vit_arrays(Sizes(vocab=3100)))
        with pytest.raises(UserError, match=rf"{MULTI}: .*c4_en_32k_spm.model cannot be reached.* into {cache}$"):
            find_weights(name)
        shutil.copyfile(text_model_path, cache / "c4_en_32k_spm.model")
    else:
        shutil.copytree(checkpoint_folder, cache / name, copy_function=shutil.copyfile)
    files = set((cache / name).iterdir())
    assert find_weights(name) == cache / f"{name}.safetensors"
    assert set((cache / name).iterdir()) == files


def test_without_a_network_one_line_says_which_file_to_put_where(closed_url: str, cache: Path) -> None:
    run = found(MULTI, os.environ | {official.MIRROR: closed_url})
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1)
    assert run.stderr.startswith(f"error: {MULTI}: {closed_url}{MULTI_FOLDER}/checkpoint cannot be reached (")
    assert f"into {cache / MULTI}, and multi_task/data/c4_en_32k_spm.model into {cache}" in run.stderr


def test_two_processes_fetch_once(published: Server, cache: Path) -> None:
    code = f"from pix2seq.weights.find import find_weights; print(find_weights({NAME!r}))"
    runs = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [run.communicate(timeout=120) for run in runs]
    assert [out for out, _ in outputs] == [f"{cache / NAME}.safetensors\n"] * 2
    assert len(published.data_ranges()) == 2  # the objects, and the model


def test_a_cache_that_cannot_be_written_is_named(published: Server, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(UserError, match=rf"{cache}.* cannot be written"):
        find_weights(NAME)


def test_a_full_disk_is_one_line_and_nothing_final_is_left(published: Server, cache: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full, a disk that is always full, is not here")
    parts = cache / f"{NAME}.parts"
    parts.mkdir(parents=True)
    (parts / "ckpt-402.data-00000-of-00001.model.partial").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
        find_weights(NAME)
    assert not (cache / f"{NAME}.safetensors").exists()


# Everywhere


def test_the_python_interface_takes_names(multi_task: Server, cache: Path) -> None:
    model = pix2seq.load(MULTI, device="cpu", num_samples=1)
    result = model(np.zeros((40, 60, 3), np.uint8), tasks="captioning")
    assert isinstance(result.caption, str)


def test_training_takes_the_settings_of_a_name(published: Server, cache: Path) -> None:
    cfg = parse_args(["--start-from", NAME, "--task", "detection", "--no-full-detection"], uses=TRAINING)
    assert (cfg.train.start_from, cfg.model.encoder_width, cfg.model.image_size) == (NAME, 48, 640)


@pytest.mark.parametrize("uses", [INFERENCE, TRAINING])
def test_list_weights_prints_names_and_sizes(uses, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_args(["--list-weights"], uses=uses)
    printed = capsys.readouterr().out
    assert ended.value.code is None and printed == describe_names() + "\n"
    assert "shipped: photos, scenes\n" in printed and official.table() in printed and "| 526 " in printed


def test_the_list_needs_no_heavy_imports() -> None:
    code = (
        "import runpy, sys\n"
        "sys.argv = ['infer', '--list-weights']\n"
        "try:\n    runpy.run_path('infer/infer_single_image_multi_task.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'tqdm', 'huggingface_hub'} & set(sys.modules), sys.modules.keys()\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize(
    ("typed", "meant"), [("coco-vit-b", "coco-vit-b-640"), ("multi-vit-b-64", MULTI), ("scene", "scenes")]
)
def test_a_name_that_is_almost_right_gets_a_suggestion(typed: str, meant: str) -> None:
    with pytest.raises(UserError, match=rf"there is no weights file {typed}; did you mean {meant}\? --list-weights"):
        find_weights(typed)


# The Hugging Face hub


@pytest.fixture
def hub(tmp_path: Path) -> dict[str, str]:
    """The environment of a process whose hub answers nowhere, and whose cache holds one repository."""
    folder = tmp_path / "hub" / "models--owner--repo"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for name in ("model.safetensors", "other.safetensors"):
        shutil.copyfile(weights_path("scenes"), snapshot / name)
    return os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def test_a_file_comes_from_the_hub_once_and_is_there_offline_then(server: Server, tmp_path: Path) -> None:
    server.files["/owner/repo/resolve/main/model.safetensors"] = weights_path("scenes")
    environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    online, offline = (found("hf://owner/repo", environment | {"HF_HUB_OFFLINE": mode}) for mode in "01")
    assert online.stdout == offline.stdout != ""
    assert load_weights(Path(online.stdout.strip())).cfg == load_weights(weights_path("scenes")).cfg
    nobody = found("hf://nobody/here", environment)
    assert (nobody.returncode, nobody.stderr.count("\n")) == (
        2,
        1,
    ) and "hf://nobody/here cannot be had" in nobody.stderr


@pytest.mark.parametrize(("at", "path"), [("v1", "v1"), (COMMIT, COMMIT), ("refs/pr/3", "refs%2Fpr%2F3")])
def test_a_revision_is_asked_for(server: Server, tmp_path: Path, at: str, path: str) -> None:
    server.files[f"/owner/repo/resolve/{path}/other.safetensors"] = weights_path("scenes")
    environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    run = found(f"hf://owner/repo@{at}/other.safetensors", environment)
    assert run.returncode == 0 and Path(run.stdout.strip()).name == "other.safetensors", run.stderr


@pytest.mark.parametrize(
    ("address", "file"), [("hf://owner/repo", "model"), ("hf://owner/repo/other.safetensors", "other")]
)
def test_a_file_in_the_hub_s_cache_is_found_offline(hub: dict[str, str], address: str, file: str) -> None:
    run = found(address, hub)
    path = Path(run.stdout.strip())
    assert path.name == f"{file}.safetensors" and path.is_file(), run.stderr


def test_what_the_hub_s_cache_lacks_is_one_line_offline(hub: dict[str, str]) -> None:
    run = found("hf://owner/unknown", hub)
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)
    assert run.stderr.startswith("error: hf://owner/unknown cannot be had: it is not in the hub's cache")


@pytest.mark.parametrize(
    "address", ["hf://", "hf://owner", "hf://owner/", "hf://a b/c", "hf://a/b@", "hf://a/b@@/c", "hf://a/b/../c"]
)
def test_what_is_no_address_on_the_hub_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="is no address on the Hugging Face hub"):
        find_weights(address)
