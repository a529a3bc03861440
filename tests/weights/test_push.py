"""Weights in the hub's form: a card that no text can break, a folder all or nothing, and a hub on this machine."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace as with_fields
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.errors import plain
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.models.weights import Weights, load_weights, save_weights
from pix2seq.runtime.paths import ROOT
from pix2seq.tasks import choose_tasks
from pix2seq.weights.card import SPECIAL, escaped, model_card
from tests.server import running
from tests.weights.hub_server import TOKEN, HubServer

NASTY = "---\nlicense: mit\n---\n# <script>alert(1)</script> | `x` [y](http://z) \x1b[31m ‮"


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def weights(tiny_model: Pix2Seq, tiny_model_cfg: CFG) -> Weights:
    return Weights(
        tiny_model, tiny_model_cfg, {1: "cat", 2: "dog"}, {"words": ["<unk>", "a"]}, step=7, licence="Apache-2.0"
    )


@pytest.fixture
def path(weights: Weights, tmp_path: Path) -> Path:
    save_weights(tmp_path / "tiny.safetensors", weights)
    return tmp_path / "tiny.safetensors"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with running(HubServer) as server:
        yield server


@pytest.fixture
def environment(hub: HubServer, tmp_path: Path) -> dict[str, str]:
    """Of a user with a token whose hub is the server here."""
    home = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return os.environ | home | {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "PIX2SEQ_CACHE": str(tmp_path / "cache")}


def push(*args: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "weights" / "push.py", *args]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, env=env, timeout=600)


def parts(card: str) -> tuple[dict, list[str]]:
    """The front matter, and the lines behind it."""
    match = re.match(r"---\n(.*?)\n---\n(.*)", card, re.DOTALL)
    return yaml.safe_load(match[1]), match[2].splitlines()


def test_a_card_says_what_the_file_says(weights: Weights):
    tasks = choose_tasks(weights.cfg.tasks)
    front, body = parts(model_card(weights, tasks, "tiny", "hf://owner/tiny", "F32", ["owner/cats"]))
    assert front == {
        "license": "apache-2.0",
        "library_name": "pix2seq-toolkit",
        "pipeline_tag": "object-detection",
        "tags": ["pix2seq", *(task.hub_task for task in tasks.values())],
        "datasets": ["owner/cats"],
    }
    assert {"# tiny", "| classes | 2: cat, dog |", "| training | 7 steps |"} <= set(body)
    assert 'model = pix2seq.load("hf://owner/tiny")' in body


@pytest.mark.parametrize(("licence", "said"), [("", None), ("mine: ask me", "other"), ("MIT", "mit")])
def test_a_licence_that_the_hub_does_not_know_is_other(weights: Weights, licence: str, said: str | None):
    card = model_card(with_fields(weights, licence=licence), choose_tasks(["detection"]), "t", "a", "F32")
    assert parts(card)[0].get("license") == said


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text(max_size=60) | st.just(NASTY))
@example(text="a\x85\u2028b")
def test_no_text_of_the_file_breaks_the_card(weights: Weights, text: str):
    tasks = choose_tasks(["detection"])
    word = text if plain(text) else "x"
    evil = {"class_names": {1: text}, "domain": word, "licence": word, "keypoints": {"names": ("x", text)}}
    harmless = {"class_names": {1: "x"}, "domain": "x", "licence": "x", "keypoints": {"names": ("x", "x")}}
    front, body = parts(model_card(with_fields(weights, **evil), tasks, text, "a", "F32", [text] if text else []))
    plain_front, plain_body = parts(model_card(with_fields(weights, **harmless), tasks, "t", "a", "F32"))
    assert front.pop("datasets", []) == ([plain(text)] if plain(text) else [])
    assert front | {"license": ""} == plain_front | {"license": ""}
    assert len(body) == len(plain_body)
    for line, ours in zip(body, plain_body, strict=True):
        assert line[:2] == ours[:2] and len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == ours.count("|")
        assert line.isprintable()


@given(st.text())
def test_escaped_words_have_no_meaning_in_markdown(text: str):
    assert not SPECIAL.search(re.sub(r"\\[\W_]", "", escaped(text)))


def test_a_folder_gets_the_hub_s_files(path: Path, tmp_path: Path):
    run = push("--weights", path, "--to", tmp_path / "out")
    assert run.returncode == 0, run.stderr
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"model.safetensors", "README.md", "config.json"}
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == path.read_bytes()
    assert json.loads(text_of(tmp_path / "out" / "config.json"))["id2label"] == {
        "1": "cat",
        "2": "dog",
    }


def test_files_that_are_there_stay_without_overwrite(path: Path, tmp_path: Path):
    (tmp_path / "README.md").write_text("mine", encoding="utf-8")
    (tmp_path / "other.txt").write_text("mine", encoding="utf-8")
    run = push("--weights", path, "--to", tmp_path)
    assert (run.returncode, run.stdout) == (2, "") and "has README.md already" in run.stderr
    assert push("--weights", path, "--to", tmp_path, "--overwrite").returncode == 0
    assert (
        text_of(tmp_path / "README.md").startswith("---\n")
        and (tmp_path / "other.txt").read_text(encoding="utf-8") == "mine"
    )


def test_what_is_no_weights_file_leaves_nothing(tmp_path: Path):
    (tmp_path / "bad.safetensors").write_bytes(b"\x08" + bytes(20))
    run = push("--weights", tmp_path / "bad.safetensors", "--to", tmp_path / "out")
    assert run.returncode == 2 and run.stderr.startswith("error: ") and not (tmp_path / "out").exists()


def test_places_on_a_machine_and_a_missing_licence_are_reported(weights: Weights, tmp_path: Path):
    cfg = config.replace(weights.cfg, data_root="/home/jane/secret")
    save_weights(tmp_path / "w.safetensors", with_fields(weights, cfg=cfg, licence=""))
    run = push("--weights", tmp_path / "w.safetensors", "--to", tmp_path / "out")
    assert "name no licence" in run.stdout and "--data-root" in run.stdout and "jane" not in run.stdout
    assert "jane" not in text_of(tmp_path / "out" / "config.json") + (tmp_path / "out" / "README.md").read_text(
        encoding="utf-8"
    )


def test_what_was_pushed_loads_again_from_the_hub(hub: HubServer, path: Path, environment: dict[str, str]):
    run = push("--weights", path, "--to", "hf://owner/tiny", env=environment)
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith(f"{hub.url}/owner/tiny/commit/0123456789abcdef0123456789abcdef01234567\n")
    assert sorted(hub.names("owner/tiny")) == ["README.md", "config.json", "model.safetensors"]
    assert hub.repos == {"owner/tiny": False} and len(hub.commits) == 1
    assert TOKEN not in run.stdout + run.stderr

    code = (
        "import sys, pix2seq\n"
        "from pix2seq.weights.find import find_weights\n"
        "pix2seq.load('hf://owner/tiny', device='cpu')\n"
        "print(find_weights('hf://owner/tiny@main/model.safetensors'))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=600)
    assert loaded.returncode == 0, loaded.stderr
    again, once = load_weights(Path(loaded.stdout.strip())), load_weights(path)
    state = once.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.model.state_dict().items())
    assert again.class_names == once.class_names


UPLOAD = (
    "from pix2seq.command_line import run_script\n"
    "from pix2seq.weights.hub import upload\n"
    "run_script(lambda: print(upload({'README.md': b'new'}, 'owner/tiny', **OPTIONS)))"
)


def upload(env: dict[str, str], **options: bool) -> subprocess.CompletedProcess:
    code = UPLOAD.replace("OPTIONS", repr(options))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=600)


def test_files_on_the_hub_stay_without_overwrite(hub: HubServer, environment: dict[str, str]):
    hub.repos["owner/tiny"], hub.files["/owner/tiny/resolve/main/README.md"] = False, b"mine"
    run = upload(environment)
    assert run.returncode == 2 and "has README.md already" in run.stderr
    assert upload(environment, overwrite=True).returncode == 0
    assert hub.files["/owner/tiny/resolve/main/README.md"] == b"new"


def test_private_means_private(hub: HubServer, environment: dict[str, str]):
    assert upload(environment, private=True).returncode == 0
    assert hub.repos == {"owner/tiny": True}
    hub.repos["owner/tiny"] = False
    run = upload(environment, private=True, overwrite=True)
    assert run.returncode == 2 and "can be read by everybody" in run.stderr and len(hub.commits) == 1


@pytest.mark.parametrize(
    ("changes", "denies", "said"),
    [
        ({"HF_TOKEN": ""}, 0, "the hub wants to know who writes"),
        ({"HF_TOKEN": "hf_wrong"}, 0, "it does not know your token"),
        ({}, 403, "your token may not write there"),
        ({"HF_HUB_OFFLINE": "1"}, 0, "it cannot be reached"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, 0, "it cannot be reached"),
    ],
)
def test_a_hub_that_does_not_take_it_is_one_line(
    hub: HubServer, environment: dict[str, str], changes: dict[str, str], denies: int, said: str
):
    hub.denies = denies
    run = upload(environment | changes)
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1), run.stderr
    assert run.stderr.startswith("error: ") and said in run.stderr
    assert TOKEN not in run.stderr and "hf_wrong" not in run.stderr and not hub.repos


@pytest.mark.parametrize("to", ["hf://", "hf://owner", "hf://owner/repo/file", "hf://owner/repo@main"])
def test_a_repository_has_an_owner_and_a_name(to: str):
    run = push("--weights", "scenes", "--to", to)
    assert run.returncode == 2 and "--to expects a folder or hf://owner/repo" in run.stderr
