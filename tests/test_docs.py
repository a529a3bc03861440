"""The examples of docs/python.md run as they stand there, and what comes out is what stands behind `# →`; what
docs/features.md names is there."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pix2seq.runtime.paths import ROOT
from tests.server import running

PAGE = ROOT / "docs" / "python.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHOWN = "  # → "


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The address of a server that has the image, in a folder with it."""
    shutil.copyfile(ROOT / "images" / "scene.jpg", tmp_path / "scene.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with running() as server:
        server.files["/scene.jpg"] = tmp_path / "scene.jpg"
        yield server.url


def test_the_examples_on_python(web: str):
    text = PAGE.read_text(encoding="utf-8").replace("https://example.com", web)
    names: dict[str, object] = {}
    shown = 0
    for match in BLOCK.finditer(text):
        first_line = text[: match.start(1)].count("\n")
        statements: list[str] = [""] * first_line  # so that errors name the line of the page
        for line in match[1].splitlines():
            expression, found, expected = line.partition(SHOWN)
            if not found:
                statements.append(line)
                continue
            exec(compile("\n".join(statements), str(PAGE), "exec"), names)
            assert repr(eval(expression, names)) == expected, line
            statements = [""] * (len(statements) + 1)
            shown += 1
        exec(compile("\n".join(statements), str(PAGE), "exec"), names)
    assert shown > 15


def test_scripts_tests_and_pages_named_beside_other_projects_are_there():
    text = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
    named = re.findall(r"(?:infer|train|dataset|evaluate|weights|tests)/[\w/]+\.py", text)
    linked = [Path("docs") / link for link in re.findall(r"\]\(([\w./]+)(?:#[\w-]+)?\)", text)]
    assert len(named) > 20 and len(linked) > 3
    assert [path for path in [*named, *linked] if not (ROOT / path).exists()] == []
