"""`adatp profiles`: what is listed, shown with its cost, and checked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from adatp_cli import cost
from adatp_cli.answering.cost_estimate import Target, estimate_cost
from adatp_cli.profiles import builtin_names, load_profile, parse_profile
from tests.conftest import Run


def test_list_names_each_with_its_share_and_its_purpose(adatp: Run) -> None:
    run = adatp("profiles", "list")
    assert run.code == 0
    assert [line.split()[0] for line in run.out.splitlines()] == builtin_names()
    for line in run.out.splitlines():
        profile = load_profile(line.split()[0])
        assert float(line.split()[1]) == pytest.approx(100 * (profile.budget or 1.0))
        # --budget, model and frames change what a run comes to; what the profile says is kept
        # in every record all the same.
        assert line.endswith(f" %  {profile.description}")
        assert not re.search(r"%|quarter|tenth|half|halving|K ?=", profile.description)
    assert max(map(len, run.out.splitlines())) <= 80
    assert [row["name"] for row in adatp("profiles", "list", "--json").records] == builtin_names()


@pytest.mark.parametrize("name", builtin_names())
def test_what_show_prints_is_the_profile(adatp: Run, name: str) -> None:
    run = adatp("profiles", "show", name)
    assert run.code == 0
    assert parse_profile(run.out, "stdout") == load_profile(name)


def test_show_tells_the_cost_that_the_papers_setting_comes_to(adatp: Run) -> None:
    told = adatp("profiles", "show", "adatp").out
    assert "# On 7b, 32 frames of 196 visual tokens:" in told
    assert "13.3 T of 48.8 TMAC (27.3 %), paper convention" in told
    assert "dropped at layers 2 to 16 of 28" in told
    assert "vision 21.3 T" in told
    (half,) = adatp("profiles", "show", "adatp", "--budget", "0.5", "--json").records
    assert half["profile"]["budget"] == 0.5
    assert half["flops"]["paper"]["ratio"] == pytest.approx(0.5, abs=0.005)
    assert half["flops"]["paper"]["ratio"] <= 0.5
    assert half["visual_per_layer"][0] == 32 * 196


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fastv", "visual tokens   6272, dropped at layer 2 of 28, 1568 kept"),
        ("pyramiddrop", "visual tokens   6272, dropped at layers 7 to 21 of 28"),
        ("vidcom2", "visual tokens   6272, at most 1568 enter the language model"),
        ("fastvid", "10.7 T of 48.8 TMAC (22.0 %), paper convention"),
        ("pyramiddrop", "21.8 T of 48.8 TMAC (44.7 %), paper convention"),
        ("random", "13.4 T of 48.8 TMAC (27.5 %), paper convention"),
    ],
)
def test_show_tells_what_a_rival_comes_to(adatp: Run, name: str, said: str) -> None:
    assert said in adatp("profiles", "show", name).out


def test_a_pooling_head_without_a_question_is_counted_alone(adatp: Run) -> None:
    def relevance(name: str) -> int:
        (shown,) = adatp("profiles", "show", name, "--json").records
        return int(shown["flops"]["end_to_end"]["relevance"])

    assert relevance("vidcom2") == relevance("fastv") == 0
    assert 0 < relevance("fastvid") == relevance("unicomp") < relevance("adatp")
    # 32 frames, 39 MMAC each: one query against the patches, not a projection of them.
    assert relevance("fastvid") / 2 == pytest.approx(32 * 39.4e6, rel=0.01)


def test_show_for_another_model_and_clip(
    adatp: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small,) = adatp("profiles", "show", "adatp", "-m", "0.5b", "-n", "8", "--json").records
    assert (small["model"], small["frames"], small["pruned_layers"]) == ("0.5b", 8, [2, 12])
    (own,) = adatp("profiles", "show", "adatp", "-m", checkpoint, "--json").records
    assert (own["frames"], own["visual_per_layer"][0]) == (16, 16 * 36)
    assert own["pruned_layers"] == [1, 7]
    monkeypatch.setenv("ADATP_MODEL", "72b")
    assert "# On 72b, 32 frames" in adatp("profiles", "show", "adatp").out


def test_show_tells_how_many_frames_the_saved_tokens_buy(adatp: Run) -> None:
    line = "#   --frames auto   90 for what 32 cost unpruned; with vision 1.3 times as much\n"
    assert adatp("profiles", "show", "adatp").out.endswith(line)
    assert adatp("profiles", "show", "adatp", "-n", "64").out.endswith(line)
    (auto,) = adatp("profiles", "show", "adatp", "-n", "auto", "--json").records
    assert auto["frames"] == auto["frames_auto"]["frames"] == 90
    (plain,) = adatp("profiles", "show", "vanilla", "--json").records
    assert auto["flops"]["paper"]["pruned"] <= plain["flops"]["paper"]["vanilla"]
    bound = adatp("profiles", "show", "adatp-aggressive").out.splitlines()[-1]
    assert bound.strip("# ") == "the context holds no more, 86.2 % is spent"
    assert "--frames auto" not in adatp("profiles", "show", "vanilla").out


def test_show_tells_the_memory(adatp: Run) -> None:
    run = adatp("profiles", "show", "vanilla", "-m", "72b", "-n", "128")
    assert max(map(len, run.out.splitlines())) <= 80
    line = "memory, GiB     none 15.0+1.4, int8 8.9+1.9, nf4 6.2+1.4 (weights+run)"
    assert line in adatp("profiles", "show", "vanilla").out
    (plain,) = adatp("profiles", "show", "vanilla", "--json").records
    (pruned,) = adatp("profiles", "show", "adatp-light", "--json").records
    (whole,) = adatp("profiles", "show", "adatp", "--json").records
    assert list(plain["memory"]) == ["none", "int8", "nf4", "fp4"]
    for kind, held in plain["memory"].items():
        assert pruned["memory"][kind]["weights"] == held["weights"]
        assert pruned["memory"][kind]["run"] < held["run"]
        # SigLIP's text tower and pooling head.
        assert whole["memory"][kind]["weights"] - held["weights"] == 960_432_416
    assert whole["assumed"]["memory_dtype"] == "bfloat16"


def test_from_how_many_questions_on_a_shared_prefill_takes_less(adatp: Run) -> None:
    for profile, count in (("adatp", 4), ("adatp-aggressive", 10)):
        (shown,) = adatp("profiles", "show", profile, "--json").records
        assert shown["questions_to_share"] == count
        assert f"many questions  from {count} on" in adatp("profiles", "show", profile).out


def test_vanilla_costs_what_pruning_nothing_costs(adatp: Run) -> None:
    (shown,) = adatp("profiles", "show", "vanilla", "--json").records
    assert shown["pruned_layers"] is None
    assert shown["questions_to_share"] is None
    assert shown["flops"]["paper"]["ratio"] == 1.0
    assert shown["flops"]["end_to_end"]["ratio"] == 1.0
    assert shown["flops"]["end_to_end"]["relevance"] == 0


def test_an_estimate_counts_the_encoder_only_where_one_runs() -> None:
    target = Target("7b", cost.KNOWN_SHAPES["7b"], cost.SO400M_RELEVANCE, 32)
    with_encoder = estimate_cost(load_profile("adatp"), target)
    without = estimate_cost(load_profile("adatp-light"), target)
    assert with_encoder.flops.end_to_end.relevance > 0
    assert without.flops.end_to_end.relevance == 0
    assert with_encoder.flops.end_to_end.scoring > 0


def test_validate(adatp: Run, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("name: mine\nmethod: adatp\nbudget: 0.25\n")
    bad.write_text("name: mine\nmethod: adatp\nbugdet: 0.25\n")
    run = adatp("profiles", "validate", good)
    assert run.code == 0
    assert run.out == f"{good}: valid, the profile 'mine' (method adatp, budget 25.0 %)\n"
    run = adatp("profiles", "validate", bad)
    assert (run.code, run.out) == (2, "")
    assert f"{bad}: unknown key 'bugdet' (did you mean 'budget'?)" in run.error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "adatp", "--budget", "0.05"), "the smallest reachable budget here is"),
        (("show", "adatp", "-n", "0"), "--frames 0"),
        (("show", "adatp", "-n", "some"), "--frames 'some' is neither"),
        (("show", "nope"), "there is no profile named 'nope'"),
        (("show", "adatp", "-m", "no such model"), "no such model"),
        (("validate", "none.yaml"), "none.yaml: there is no such profile file"),
    ],
)
def test_what_cannot_be_shown_is_exit_2(adatp: Run, arguments: tuple[str, ...], said: str) -> None:
    run = adatp("profiles", *arguments)
    assert run.code == 2
    assert said in run.error
