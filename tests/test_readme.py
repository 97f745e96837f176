"""README.md says what the program does, and CI does what README.md says."""

from __future__ import annotations

import re
from pathlib import Path

import tests
from adatp_cli.profiles import builtin_names
from tests.conftest import Run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COST = (ROOT / "docs" / "cost.md").read_text(encoding="utf-8")
PAGES = README + "".join(
    (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    for page in ("asking", "cost", "models", "profiles")
)
SECTION = README.split("## Profiles")[1].split("## ")[0]
METHODS = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
SHELL = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)


def test_the_first_command_installs_and_answers_and_the_second_tests() -> None:
    assert SHELL[0] == "pip install -c constraints.txt . && adatp demo\n"
    assert SHELL[1] == 'pip install -c constraints.txt ".[test]" && python -m pytest\n'
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").replace("install -q ", "install ")
    steps = [step.strip() for command in SHELL[:2] for step in command.split("&&")]
    places = [ci.index(step) for step in steps]
    assert places == sorted(places)
    assert ci.rstrip().endswith("python -m pytest")


def test_the_tests_are_a_package_which_no_other_hides() -> None:
    assert tests.__file__ == str(ROOT / "tests" / "__init__.py")


def test_every_command_and_option_that_is_named_exists(adatp: Run) -> None:
    names = {"ask", "batch", "bench", "bias", "demo", "doctor", "eval", "chat", "serve"}
    names |= {"export", "profiles", "schema", "show"}
    assert set(re.findall(rf"adatp ({'|'.join(sorted(names))})\b", README)) == names
    known = "".join(
        adatp(*command, "--help").out
        for command in (
            (),
            ("ask",),
            ("batch",),
            ("chat",),
            ("serve",),
            ("bench",),
            ("bias",),
            ("demo",),
            ("doctor",),
            ("eval",),
            ("export",),
            ("show",),
            ("profiles", "show"),
        )
    )
    # Modules have options of their own.
    text = re.sub(r"^python -m .*$", "", PAGES, flags=re.MULTILINE)
    for option in set(re.findall(r"(?<=[ `])--[a-z][a-z-]+", text)) - {"--extra-index-url"}:
        assert option in known, option


def test_the_profiles_are_those_that_come_along() -> None:
    named = re.findall(r"^\| ((?:`[a-z0-9-]+`(?:, )?)+) \|", SECTION, re.MULTILINE)
    names = [name for row in named for name in re.findall(r"`([a-z0-9-]+)`", row)]
    controls = re.findall(r"^\| `([a-z0-9-]+)` \|.*\| a control \|", METHODS, re.MULTILINE)
    assert sorted({*names, *controls}) == builtin_names()


def test_the_forecast_is_what_the_program_prints(adatp: Run) -> None:
    (block,) = re.findall(r"```\n(# On 7b.*?)```", COST, flags=re.DOTALL)
    assert adatp("profiles", "show", "adatp").out.endswith(block)
    small = adatp("profiles", "show", "adatp", "-m", "0.5b").out
    (share,) = re.findall(r"FLOP \(([\d.]+ %)\)", small)
    assert f"40.8 % here, and {share} for the 0.5B" in COST


def test_the_page_is_short_and_its_links_lead_somewhere() -> None:
    assert len(README.splitlines()) < 200
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), (page, link)
