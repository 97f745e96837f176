"""Model folders made to do harm: one line and exit code 4 in seconds; nothing of theirs runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adatp_cli.errors import ModelError
from adatp_cli.model import prompt as prompt_module
from tests.checkpoint import write_random_checkpoint
from tests.loading_case import load_folder

Spoil = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("whole"), layers=1)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def _refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_folder(folder, offline=True)
    assert caught.value.exit_code == 4
    assert "\n" not in caught.value.message
    return caught.value.message


def _text(name: str, text: str) -> Spoil:
    return lambda folder: (folder / name).write_text(text)


def _config(part: str, **values: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        content[part].update(values)
        (folder / "config.json").write_text(json.dumps(content))

    return spoil


def _header(text: str) -> Spoil:
    data = len(text).to_bytes(8, "little") + text.encode() + bytes(4)
    return lambda folder: (folder / "model.safetensors").write_bytes(data)


def _not_a_number(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace("1e-06", "NaN"))


DEEP = "[" * 100_000 + "]" * 100_000
ONE_TENSOR = '{"a": {"dtype": "U8", "shape": %s, "data_offsets": [0, 4]}}'
CASES: dict[str, tuple[Spoil, str]] = {
    "a deep configuration": (_text("config.json", f'{{"a": {DEEP}}}'), "nested too deeply"),
    "a deep description": (_text("adatp.json", DEEP), "nested too deeply"),
    "a deep index": (_text("model.safetensors.index.json", f'{{"weight_map": {DEEP}}}'), "deeply"),
    "a deep header": (_header(f'{{"a": {DEEP}}}'), "header cannot be read"),
    "an endless size": (_header(ONE_TENSOR % "[1e999]"), "header cannot be read"),
    "no number": (_not_a_number, "NaN"),
    "a billion layers": (_config("text_config", num_hidden_layers=10**9), "num_hidden_layers"),
    "a billion wide": (_config("text_config", hidden_size=10**9), "hidden_size"),
    "wider than its files": (_config("text_config", hidden_size=8192), "its files hold"),
    "longer than its files": (_config("text_config", vocab_size=500_000), "its files hold"),
    "no heads": (_config("text_config", num_attention_heads=0), "num_attention_heads 0"),
    "no patches": (_config("vision_config", patch_size=0), "patch_size 0"),
    "a square kilometre": (_config("vision_config", image_size=10**6), "image_size 1000000"),
    "ends that are no tokens": (
        _text("generation_config.json", '{"eos_token_id": [1000000000], "pad_token_id": -5}'),
        "eos_token_id",
    ),
    "a beginning that is text": (_text("generation_config.json", '{"bos_token_id": "x"}'), "'x'"),
}


@pytest.mark.parametrize(("spoil", "said"), CASES.values(), ids=CASES.keys())
def test_absurd_values_are_refused(folder: Path, spoil: Spoil, said: str) -> None:
    spoil(folder)
    assert said in _refusal(folder)


LOOP = "{% for i in range(99999) %}"
TEMPLATES = {
    "loops": (2 * LOOP + 2 * "{% endfor %}", "does not end"),
    "counts": ("{{ 9 ** (9 ** 9) }}", "does not end"),
    "grows": ("{% set x = 'a' * 5000000000 %}", "cannot be used"),
    "recurs": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "cannot be used"),
    "divides": ("{{ 1 / 0 }}", "division by zero"),
    "talks": ("x " * 100_000, "200"),
    "runs a program": ("{{ cycler.__init__.__globals__.os.popen('id') }}", "unsafe"),
    "opens a file": ("{% include '/etc/passwd' %}", "cannot be used"),
}  # fmt: skip


@pytest.mark.parametrize(("program", "said"), TEMPLATES.values(), ids=TEMPLATES.keys())
def test_a_template_is_held_to_limits(
    folder: Path, monkeypatch: pytest.MonkeyPatch, program: str, said: str
) -> None:
    monkeypatch.setattr(prompt_module, "_CPU_SECONDS", 1)
    path = folder / "chat_template.jinja"
    path.write_text(program + path.read_text())
    assert said in _refusal(folder)
