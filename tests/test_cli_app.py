"""The program as a whole: its help, how fast it starts, what it imports, its commands."""

from __future__ import annotations

import ast
import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from adatp_cli import __version__
from adatp_cli.__main__ import wait_briefly
from adatp_cli.cli.app import app
from adatp_cli.record import schema_text
from tests.conftest import Run

PACKAGE = Path(__file__).parent.parent / "adatp_cli"
HEAVY = {
    "torch",
    "transformers",
    "numpy",
    "av",
    "decord",
    "accelerate",
    "bitsandbytes",
    "huggingface_hub",
}


def commands_below(command: Any, *name: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield name, command
    for part, one in getattr(command, "commands", {}).items():
        yield from commands_below(one, *name, part)


COMMANDS = dict(commands_below(get_command(app)))


def test_help_imports_nothing_heavy_and_is_quick() -> None:
    code = (
        "import sys; from adatp_cli.cli.app import main; main(['--help']); "
        f"print('LOADED', sorted({HEAVY!r} & set(sys.modules)))"
    )
    best = float("inf")
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run.stdout.endswith("LOADED []\n")
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        best = min(best, spent)
    # The processor's time, as the wall clock's depends on what else the machine does.
    assert best < 0.5


def test_help_names_every_command(adatp: Run) -> None:
    run = adatp("--help")
    assert run.code == 0
    for name in {name[0] for name in COMMANDS if name}:
        assert f"│ {name} " in run.out


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_fits_80_columns_and_cuts_no_word(
    adatp: Run, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for flag in ("-h", "--help"):
        run = adatp(*command, flag)
        assert (run.code, run.err) == (0, "")
        assert max(map(len, run.out.splitlines())) <= 80
    monkeypatch.setenv("COLUMNS", "400")
    wide = adatp(*command, "--help").out
    assert set(words_of(wide)) == set(words_of(run.out))


def words_of(text: str) -> list[str]:
    return text.translate(str.maketrans("│╭╮╰╯─", "      ")).split()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("adatp as", "ask"),
        ("adatp ask --media", ""),
        ("adatp ask clip.mp4 what -p vid", "vidcom2"),
        ("adatp eval shapes -p vid", "vidcom2"),
        ("adatp batch . -m 0", "0.5b"),
    ],
)
def test_a_shell_completes_commands_profiles_and_models(typed: str, offered: str) -> None:
    words = typed.split()
    env = {
        **os.environ, "_ADATP_COMPLETE": "complete_bash", "COMP_WORDS": typed,
        "COMP_CWORD": str(len(words) - 1),
    }  # fmt: skip
    code = "from adatp_cli.cli.app import app; app(prog_name='adatp')"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.split() == offered.split()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_help_ends_with_two_examples_that_can_be_typed(
    adatp: Run, command: tuple[str, ...]
) -> None:
    lines = [line.strip() for line in adatp(*command, "--help").out.splitlines()]
    shown = [line for line in lines[lines.index("Examples:") + 1 :] if line]
    assert len(shown) == 2
    for example in shown:
        words = shlex.split(example)
        words = words[words.index("adatp") + 1 :]
        end = next((at for at, word in enumerate(words) if word in (">", "|")), len(words))
        name = max((one for one in COMMANDS if tuple(words[: len(one)]) == one), key=len)
        assert name[: len(command)] == command
        COMMANDS[name].make_context("adatp", words[len(name) : end])


def test_what_is_used_most_comes_first(adatp: Run) -> None:
    for command, first in (("ask", "--model"), ("batch", "--question"), ("eval", "--output")):
        text = adatp(command, "--help").out
        assert re.search("--[a-z]+", text[text.index("Used most") :])[0] == first  # type: ignore[index]


def test_a_missing_argument_shows_how_its_command_is_used(adatp: Run) -> None:
    asked = "usage: adatp ask [OPTIONS] VIDEO QUESTION...;"
    assert asked in adatp("ask").error
    assert asked in adatp("ask", "clip.mp4").error
    assert "usage: adatp profiles show [OPTIONS] NAME;" in adatp("profiles", "show").error


def test_places_that_offer_tiny_say_what_it_knows(adatp: Run) -> None:
    for command in (("ask", "--help"), ("demo", "--help")):
        told = " ".join(adatp(*command).out.replace("│", " ").split())
        assert "knows moving coloured shapes and nothing else" in told


def test_version(adatp: Run) -> None:
    assert adatp("--version").out == f"adatp {__version__}\n"
    module = subprocess.run(
        [sys.executable, "-m", "adatp_cli", "--version"], capture_output=True, text=True, check=True
    )
    assert module.stdout == f"adatp {__version__}\n"


def test_schema_prints_the_file_that_ships(adatp: Run) -> None:
    run = adatp("schema")
    assert run.out == schema_text()
    assert json.loads(run.out)["$defs"]["answer_record"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("aks",), "there is no command 'aks' (did you mean 'ask'?)"),
        (("--frob",), "--frob"),
        (("profiles", "shwo"), "(did you mean 'show'?)"),
        (("schema", "extra"), "extra"),
    ],
)
def test_what_is_no_command_is_exit_2(adatp: Run, arguments: tuple[str, ...], said: str) -> None:
    run = adatp(*arguments)
    assert run.code == 2
    assert said in run.error


def test_no_arguments_give_the_help(adatp: Run) -> None:
    run = adatp()
    assert run.code == 2
    assert "error:" not in run.err
    assert "Usage: adatp" in run.out + run.err


def test_no_standard_number_is_left_to_a_file() -> None:
    """What libraries write to stderr must not land in the file that was opened first."""
    code = (
        "import os; from adatp_cli.cli.app import main; main(['schema']); os._exit(os.open('/', 0))"
    )
    command = f'"{sys.executable}" -c "{code}" <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", command], check=False).returncode >= 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that Linux has")
def test_a_full_disk_is_one_line() -> None:
    run = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m adatp_cli schema > /dev/full'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert run.stderr.splitlines() == [
        "error: the output cannot be written: No space left on device; "
        "make room, or write elsewhere"
    ]


@pytest.mark.parametrize("moment", ["loading", "ended"])
def test_ctrl_c_before_and_after_the_command_shows_no_traceback(
    tmp_path: Path, moment: str
) -> None:
    """A module that the program imports, or its last flush, sends the signal and waits for it."""
    interrupt = "os.kill(os.getpid(), signal.SIGINT); time.sleep(5)"
    (tmp_path / "typer.py").write_text(f"import os, signal, time; {interrupt}")
    code = (
        "import atexit, os, signal, sys, time; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "
        + (
            f"sys.path.insert(0, {str(tmp_path)!r}); "
            if moment == "loading"
            else f"atexit.register(lambda: [{interrupt.replace(';', ',')}]); "
        )
        + "from adatp_cli.__main__ import main; sys.argv = ['adatp', 'schema']; sys.exit(main())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (run.returncode, run.stderr) == (-signal.SIGINT, "")


def test_text_that_the_locale_cannot_encode_is_no_crash(tmp_path: Path) -> None:
    profile = tmp_path / "eigen-ä\udcff.yaml"
    profile.write_text("name: mine\nmethod: vanilla\n")
    run = subprocess.run(
        [sys.executable, "-m", "adatp_cli", "profiles", "validate", str(profile)],
        capture_output=True,
        env={"PYTHONIOENCODING": "ascii:strict", "PATH": "/usr/bin"},
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, b"")
    assert b"eigen-\\xe4\\udcff.yaml: valid" in run.stdout


def modules_imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_only_the_command_line_knows_the_screen() -> None:
    outside = [path for path in PACKAGE.rglob("*.py") if PACKAGE / "cli" not in path.parents]
    assert len(outside) > 20
    for path in outside:
        roots = {name.split(".")[0] for name in modules_imported(path)}
        assert not roots & {"typer", "rich"}, path
        if path.name != "__main__.py":
            used = [name for name in modules_imported(path) if name.startswith("adatp_cli.cli")]
            assert not used, path


def test_threads_wait_briefly_unless_the_user_chose() -> None:
    environment = {"PATH": "/bin"}
    wait_briefly(environment)
    assert environment == {"PATH": "/bin", "GOMP_SPINCOUNT": "2000"}
    for chosen in ({"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}):
        environment = dict(chosen)
        wait_briefly(environment)
        assert environment == chosen


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize("kilobytes", [30_000, 100_000, 500_000, 1_200_000])
def test_too_small_a_limit_of_the_shell_is_named_before_a_library_crashes(
    clip: Path, kilobytes: int
) -> None:
    command = f'ulimit -v {kilobytes}; "{sys.executable}" -m adatp_cli ask "{clip}" "What?" -m tiny'
    run = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert run.returncode == 5
    (line,) = run.stderr.splitlines()
    assert line.startswith("error: ")
    assert "ulimit -v" in line
