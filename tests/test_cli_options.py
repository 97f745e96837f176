"""Every shared option does what it says, in `ask`, and has one definition."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.main import get_command

from adatp_cli.cli.app import app
from adatp_cli.cli.options import RunOptions, profile_names, trace_path
from tests.conftest import Run

FEW = ("-n", "4", "--max-new-tokens", "5", "--dtype", "float32", "--json")


@pytest.fixture
def record(adatp: Run, checkpoint: Path, clip: Path) -> Any:
    def answer(*arguments: str | Path) -> dict[str, Any]:
        run = adatp("ask", clip, "What?", "-m", checkpoint, *FEW, *arguments)
        assert run.code == 0, run.err
        (found,) = run.records
        return found

    return answer


def test_ask_has_every_shared_option_with_its_one_definition() -> None:
    parameters = {item.name: item for item in get_command(app).commands["ask"].params}  # type: ignore[attr-defined]
    for item in dataclasses.fields(RunOptions):
        assert parameters[item.name].default == item.default


def test_budget_overrides_the_profiles(record: Any) -> None:
    assert record()["flops"]["paper"]["ratio"] == pytest.approx(0.273, abs=0.005)
    assert record("--budget", "0.6")["flops"]["paper"]["ratio"] == pytest.approx(0.6, abs=0.005)
    assert record("--budget", "60%")["profile"]["budget"] == 0.6
    assert record("--budget", "1")["tokens"]["kept_mean_ratio"] == 1.0


def test_profile_by_name_and_by_file(record: Any, tmp_path: Path) -> None:
    assert record("-p", "vanilla")["flops"]["end_to_end"]["ratio"] == 1.0
    (tmp_path / "own.yaml").write_text(
        "name: own\nmethod: adatp\nbudget: 0.5\nframes: 3\nlocal: {mode: strict}\n"
    )
    own = record("-p", tmp_path / "own.yaml")
    assert own["profile"]["name"] == "own"
    assert own["profile"]["local"]["mode"] == "strict"


def test_frames_option_then_profile_then_checkpoint(
    adatp: Run, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "own.yaml").write_text("name: own\nmethod: vanilla\nframes: 3\n")

    def used(*arguments: str | Path) -> int:
        given = ("ask", clip, "What?", "-m", checkpoint, "--max-new-tokens", "1", "--json")
        (found,) = adatp(*given, *arguments).records
        return int(found["video_info"]["frames_used"])

    assert used() == 16  # the checkpoint's adatp.json
    assert used("-p", tmp_path / "own.yaml") == 3
    assert used("-p", tmp_path / "own.yaml", "-n", "5") == 5


def test_fps_start_and_end(record: Any) -> None:
    times = record("--fps", "2", "-n", "99")["video_info"]["timestamps_s"]
    assert len(times) == 8
    part = record("--start", "0:01", "--end", "00:00:03")["video_info"]["timestamps_s"]
    assert len(part) == 4
    assert all(1.0 <= moment < 3.0 for moment in part)


def test_dtype_and_quantization(record: Any) -> None:
    assert record()["model"]["dtype"] == "float32"
    assert record("--dtype", "bfloat16")["model"]["dtype"] == "bfloat16"
    assert record()["model"]["quantization"] == "none"
    assert record("-Q", "nf4")["model"]["quantization"] == "nf4"
    assert record("--device", "cpu")["model"]["device"] == "cpu"


def test_seed_and_temperature(record: Any) -> None:
    hot = ("--temperature", "2.0", "--top-p", "0.95")
    first, again = (record(*hot, "--seed", "1")["answer"] for _ in range(2))
    assert first == again
    others = {record(*hot, "--seed", str(seed))["answer"] for seed in range(2, 6)}
    assert others != {first}
    cold = {record("--temperature", heat, "--seed", "1")["answer"] for heat in ("1e-3", "0")}
    assert cold == {record()["answer"]}


def test_a_seed_without_a_temperature_is_not_silently_ignored(
    adatp: Run, checkpoint: Path, clip: Path
) -> None:
    run = adatp("ask", clip, "What?", "-m", checkpoint, *FEW, "--seed", "1")
    assert "--seed has no effect on greedy decoding" in run.err


def test_max_new_tokens(record: Any) -> None:
    short = record("--max-new-tokens", "2")
    assert short["tokens"]["generated"] == 2
    assert short["finish_reason"] == "length"


def test_environment_stands_between_option_and_profile(
    adatp: Run, checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adatp("--version")  # the fixture clears the environment first
    monkeypatch.setenv("ADATP_MODEL", str(checkpoint))
    monkeypatch.setenv("ADATP_PROFILE", "vanilla")
    (record,) = adatp("ask", clip, "What?", *FEW).records
    assert record["model"]["name"] == str(checkpoint)
    assert record["profile"]["name"] == "vanilla"
    (record,) = adatp("ask", clip, "What?", *FEW, "-p", "adatp-aggressive").records
    assert record["profile"]["name"] == "adatp-aggressive"
    assert adatp("ask", clip, "What?", "-m", "/no/such/model").code in (2, 4)


def test_trace_of_each_question_has_its_file(
    adatp: Run, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    target = tmp_path / "trace.npz"
    run = adatp("ask", clip, "A?", "Which?", "-m", checkpoint, *FEW, "--trace", target)
    assert run.code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trace-2.npz", "trace.npz"]
    for index, record in enumerate(run.records):
        with np.load(trace_path(str(target), index), allow_pickle=False) as trace:
            assert len(trace["answer_ids"]) == record["tokens"]["generated"]
            assert len(trace["kept_7"]) == record["tokens"]["kept_per_layer"][7]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--budget", "0"), "the budget 0 is not a share"),
        (("--budget", "1.5"), "the budget 1.5 is not a share"),
        (("--budget", "nan"), "the budget nan is not a share"),
        (("--budget", "0.5", "-p", "vanilla"), "a budget has no effect on the profile 'vanilla'"),
        (("--budget", "0.001"), "cannot be reached"),
        (("-p", "adapt"), "did you mean 'adatp'"),
        (("-p", ""), "there is no profile named"),
        (("--frames", "0"), "--frames must be at least 1"),
        (("--frames", "many"), "--frames 'many' is neither a whole number nor auto"),
        (("--fps", "0"), "--fps must be above 0"),
        (("--start", "soon"), "'soon' is not a time"),
        (("--start", "3", "--end", "2"), "--end (2 s) must be later than --start (3 s)"),
        (("--start", "1:00:00"), "clip.mp4"),
        (("--quantize", "int3"), "--quantize 'int3' is not known (did you mean 'int8'?)"),
        (("--dtype", "float8"), "--dtype 'float8' is not known (did you mean 'float32'?)"),
        (("--device", "gpu"), "--device 'gpu' is not known"),
        (("--max-new-tokens", "0"), "at least one new token"),
        (("--temperature", "-1"), "temperature -1 is not above 0"),
        (("--temperature", "0", "--top-p", "0.9"), "top-p does nothing in greedy decoding"),
        (("--budget", "most"), "the budget 'most' is no number; such as 0.25, or 25%"),
        (("--budget", "150%"), "the budget 1.5 is not a share"),
        (("--temperature", "nan"), "temperature nan is not above 0"),
        (("--top-p", "0.9"), "top-p does nothing in greedy decoding"),
        (("--top-p", "2", "--temperature", "1"), "top-p is 2"),
        (("--seed", "99999999999999999999"), "is not a number from 0 to 2^63"),
        (("-p", "random", "--seed", "-1"), "--seed -1 is not a number from 0 to 2^63"),
        (("--trace", "trace.json"), "end its name in .npz"),
        (("--trace", "/no/such/folder/trace.npz"), "there is no such folder"),
        (("--quiet", "--verbose"), "exclude each other"),
        (("--frobnicate",), "there is no option --frobnicate"),
    ],
)
def test_an_option_that_makes_no_sense_is_exit_2(
    adatp: Run, checkpoint: Path, clip: Path, arguments: tuple[str, ...], said: str
) -> None:
    run = adatp("ask", clip, "What?", "-m", checkpoint, *arguments)
    assert run.code == 2
    assert run.out == ""
    assert said in run.error


def test_several_profiles_stand_in_one_option_or_in_several(tmp_path: Path) -> None:
    file = tmp_path / "mine, 15.yaml"
    file.write_text("name: mine\n")
    given = [Path("vanilla,fastv"), file, Path("adatp")]
    assert profile_names(given, ["vanilla"]) == ["vanilla", "fastv", str(file), "adatp"]
    assert profile_names(None, ("vanilla", "adatp")) == ["vanilla", "adatp"]
    assert profile_names([Path(",".join(["adatp"] * 100))], ()) == ["adatp"] * 100
