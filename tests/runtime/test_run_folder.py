"""A run folder has one owner, and what an earlier run wrote is not overwritten in silence."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pix2seq.errors import UserError
from pix2seq.runtime.run_folder import claim

HOLD = """
import sys
from pathlib import Path
from pix2seq.runtime.run_folder import claim
folder = claim(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_writer_is_refused_with_the_first_ones_process(tmp_path: Path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        for resume in (False, True):
            with pytest.raises(UserError, match=rf"run is in use by process {holder.pid} on .*, since"):
                claim(tmp_path / "run", resume=resume)
    finally:
        holder.kill()
        holder.communicate()
    claim(tmp_path / "run").close()  # a killed process holds nothing


@pytest.mark.parametrize("kind", ["folder", "link to nowhere"])
def test_a_lock_that_cannot_be_made_is_a_sentence(tmp_path: Path, kind: str):
    lock = tmp_path / ".lock"
    {"folder": Path.mkdir, "link to nowhere": lambda path: path.symlink_to("/nowhere/at/all")}[kind](lock)
    with pytest.raises(UserError, match=r"\.lock cannot be used .*--run-dir"):
        claim(tmp_path)


def test_links_and_pipes_in_a_strangers_folder_are_neither_followed_nor_waited_for(tmp_path: Path):
    theirs, other = tmp_path / "run", tmp_path / "precious"
    theirs.mkdir()
    other.write_text("kept", encoding="utf-8")
    (theirs / ".owner").symlink_to(other)
    claim(theirs, resume=True).close()
    assert other.read_text(encoding="utf-8") == "kept"
    os.mkfifo(theirs / ".owner")
    claim(theirs, resume=True).close()
    (theirs / "tensorboard").symlink_to(tmp_path)
    with pytest.raises(UserError, match="tensorboard is a link to elsewhere"):
        claim(theirs, resume=True)


def test_a_new_run_in_a_used_folder_gets_another_one(tmp_path: Path, capsys: pytest.CaptureFixture):
    for expected in ("run", "run-2", "run-3"):
        folder = claim(tmp_path / "run")
        assert folder.path == tmp_path / expected
        (folder.path / "cfg.json").write_text("{}", encoding="utf-8")
        folder.close()
    assert "holds an earlier run: this one goes to" in capsys.readouterr().err
    for values in (dict(resume=True), dict(overwrite=True)):
        folder = claim(tmp_path / "run", **values)
        assert folder.path == tmp_path / "run"
        folder.close()


@pytest.mark.parametrize("remove", ["folder", "files"])
def test_a_folder_that_was_removed_is_made_again_and_locked(tmp_path: Path, remove: str, capsys: pytest.CaptureFixture):
    path = tmp_path / "run"
    folder = claim(path)
    (path / "cfg.json").touch()
    assert not folder.make_again()
    shutil.rmtree(path) if remove == "folder" else (path / "cfg.json").unlink()
    assert folder.make_again()
    assert "run was removed: it is made again" in capsys.readouterr().err
    with pytest.raises(UserError, match="in use by"):
        claim(path, resume=True)
    folder.close()


def test_a_removed_folder_where_another_run_has_begun_is_left_to_it(tmp_path: Path):
    mine = claim(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    other = claim(tmp_path / "run")
    (tmp_path / "run" / "cfg.json").touch()
    with pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
        mine.make_again()
    other.close()


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path):
    (tmp_path / ".checkpoint.pt.x1.partial").touch()
    folder = claim(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".lock", ".owner"]
    folder.close()


def test_a_folder_whose_name_is_no_text_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="is not in UTF-8"):
        claim(tmp_path / "run\udcff")
    assert not list(tmp_path.iterdir())
