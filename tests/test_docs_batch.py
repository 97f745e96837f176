"""The recipes of docs/batch.md, run as they stand there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from adatp_cli.tiny.clips import write_demo_clip

TEXT = (Path(__file__).parent.parent / "docs" / "batch.md").read_text(encoding="utf-8")
SECTIONS = dict(part.split("\n", 1) for part in TEXT.split("\n## ")[1:])
RECIPES = re.findall(r"```sh\n(.*?)```", SECTIONS["Recipes"], flags=re.DOTALL)
KINDS = re.findall(r"^\| `([a-z_]+)` \|", SECTIONS["Kinds of errors"], flags=re.MULTILINE)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, program: tuple[str, ...]) -> Path:
    """A folder with clips, the program on the path, and `tiny` as its model."""
    home = tmp_path_factory.mktemp("recipes")
    (home / "clips" / "of a day").mkdir(parents=True)
    write_demo_clip(home / "clips" / "one.mp4")
    shutil.copy(home / "clips" / "one.mp4", home / "clips" / "of a day" / 'two\'s "döner".mp4')
    (home / "bin").mkdir()
    script = home / "bin" / "adatp"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(program)} "$@"\n')
    script.chmod(0o755)
    return home


@pytest.mark.skipif(shutil.which("jq") is None, reason="the recipes pipe into jq")
@pytest.mark.parametrize("recipe", RECIPES, ids=range(len(RECIPES)))
def test_a_recipe_does_what_it_says(home: Path, recipe: str, tmp_path: Path) -> None:
    shutil.copytree(home / "clips", tmp_path / "clips")  # find walks no symbolic link
    path = f"{home / 'bin'}:{os.environ['PATH']}"
    run = subprocess.run(
        ["bash", "-e", "-c", recipe], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": path, "ADATP_MODEL": "tiny"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    assert "error: " not in run.stderr.replace("error: missing", "")
    assert run.stdout or list(tmp_path.glob("*.csv"))


def test_there_are_recipes_for_pipes_lists_and_scripts() -> None:
    assert len(RECIPES) == 8
    for tool in ("find", "jq", "xargs", "head", "< clips", "--shard"):
        assert any(tool in recipe for recipe in RECIPES), tool


def test_every_kind_of_video_error_is_explained() -> None:
    source = "".join(
        path.read_text(encoding="utf-8")
        for room in ("batch", "video")
        for path in (Path(__file__).parent.parent / "adatp_cli" / room).rglob("*.py")
    )
    used = set(re.findall(r'kind="([a-z_]+)"', source)) | {"unreadable", "out_of_memory"}
    assert used <= set(KINDS)
