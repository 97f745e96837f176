"""`prune` and `load`: tokens and logits are those of the command, and no misuse goes unnoticed."""

from __future__ import annotations

import copy
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import adatp_cli
from adatp_cli.answering.decoding import GenerationSettings
from adatp_cli.answering.session import Session
from adatp_cli.errors import PruningError, UsageError
from adatp_cli.model.load import LoadedModel, LoadRequest, load_model
from adatp_cli.profiles import builtin_names, load_profile
from adatp_cli.tiny.clips import write_demo_clip
from adatp_cli.video.decode import read_frames
from adatp_cli.video.frames import Frames, Resize
from adatp_cli.video.sampling import Sampling
from tests.session_case import hooks_on

QUESTION = "What colour is the circle?"
NEW_TOKENS = 6


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    request = LoadRequest(model="tiny", device="cpu", offline=True, relevance="auto")
    return load_model(request, lambda _line: None)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "demo.mp4"
    write_demo_clip(path)
    return path


@pytest.fixture(scope="module")
def frames(loaded: LoadedModel, clip: Path) -> Frames:
    resize = Resize(loaded.preprocess.size, loaded.preprocess.resample)
    return read_frames(str(clip), Sampling(frames=8), resize=resize)


def session_of(loaded: LoadedModel, name: str, budget: float | None = None) -> Session:
    chosen = load_profile(name) if budget is None else load_profile(name).with_budget(budget)
    settings = GenerationSettings(max_new_tokens=NEW_TOKENS)
    return Session(loaded, chosen, settings, keep_trace=True)


@pytest.fixture(scope="module")
def inputs(loaded: LoadedModel, clip: Path) -> dict[str, Any]:
    """What a processor gives for the clip and the question."""
    return session_of(loaded, "vanilla").inputs(clip, QUESTION, frames=8)


@pytest.fixture
def model(loaded: LoadedModel, inputs: dict[str, Any]) -> Iterator[Any]:
    generate(loaded.model, inputs)  # transformers adds hooks of its own at a first run
    before = hooks_on(loaded.model)
    yield loaded.model
    assert hooks_on(loaded.model) == before


def generate(model: Any, inputs: dict[str, Any], **named: Any) -> Any:
    return model.generate(
        **inputs,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        **named,
    )


@pytest.mark.parametrize("name", builtin_names())
def test_a_block_keeps_and_says_what_the_command_does(
    loaded: LoadedModel, model: Any, frames: Frames, inputs: dict[str, Any], name: str
) -> None:
    session = session_of(loaded, name)
    trace = session.answered(session.encode("clip", frames), QUESTION).trace
    assert trace is not None
    block = adatp_cli.prune(
        model, name, encoder=loaded.relevance, question=QUESTION, tokenizer=loaded.tokenizer
    )
    with block as run:
        out = generate(model, inputs)
    wanted = {key for key in trace.arrays if key.startswith("kept_")}
    assert wanted == {f"kept_{step.layer}" for step in run.report.steps}
    for step in run.report.steps:
        assert np.array_equal(step.kept.numpy(), trace.arrays[f"kept_{step.layer}"])
    first = out.logits[0][0].float().numpy()
    assert np.array_equal(first, trace.arrays["first_logits"])
    answer = out.sequences[0, inputs["input_ids"].shape[1] :]
    assert answer.tolist() == trace.arrays["answer_ids"].tolist()


def test_a_budget_of_ones_own_and_several_prompts_in_one_block(
    loaded: LoadedModel, model: Any, inputs: dict[str, Any]
) -> None:
    with adatp_cli.prune(model, "adatp-light", budget=0.5) as run:
        for _ in range(2):
            generate(model, inputs)
    one, other = run.reports
    assert one.visual_per_layer == other.visual_per_layer
    assert one.visual_per_layer[-1] < one.visual_per_layer[0]
    with pytest.raises(PruningError, match="no prefill"):
        _ = adatp_cli.prune(model, "adatp-light").report


def test_outside_the_block_the_model_is_what_it_was(model: Any, inputs: dict[str, Any]) -> None:
    before = generate(model, inputs).logits[0]
    with (
        pytest.raises(UsageError),
        adatp_cli.prune(model, "adatp-light", budget=0.3),
    ):
        generate(model, doubled(inputs))
    assert torch.equal(generate(model, inputs).logits[0], before)
    with adatp_cli.prune(model, "vanilla"):
        assert torch.equal(generate(model, inputs).logits[0], before)


def doubled(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: torch.cat((given, given)) for name, given in inputs.items()}


def without_video(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: inputs[name][:, :3] for name in ("input_ids", "attention_mask")}


def with_picture(inputs: dict[str, Any], model: Any) -> dict[str, Any]:
    ids = inputs["input_ids"].clone()
    ids[0, 0] = model.config.image_token_id
    return inputs | {"input_ids": ids}


def with_another(inputs: dict[str, Any], model: Any) -> dict[str, Any]:
    ids = inputs["input_ids"].clone()
    ids[0, -1] = model.config.video_token_id
    return inputs | {"input_ids": ids}


def test_what_cannot_be_pruned_right_is_refused(model: Any, inputs: dict[str, Any]) -> None:
    padded = inputs["attention_mask"].clone()
    padded[0, 0] = 0
    named: list[tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = [
        (doubled(inputs), {}, UsageError, "batch of 2"),
        (inputs, {"num_beams": 2}, UsageError, "batch of 2"),
        (without_video(inputs), {}, UsageError, "no video"),
        (inputs | {"attention_mask": padded}, {}, UsageError, "padding"),
        (inputs, {"use_cache": False}, PruningError, "cache"),
        (inputs, {"cache_implementation": "static"}, PruningError, "cache"),
        (inputs, {"prefill_chunk_size": 16}, UsageError, "a part of one"),
    ]
    for given, how, kind, told in named:
        with adatp_cli.prune(model, "adatp-light", budget=0.5), pytest.raises(kind, match=told):
            generate(model, given, **how)


def test_prompts_with_more_than_one_video_are_refused(model: Any, inputs: dict[str, Any]) -> None:
    block = adatp_cli.prune(model, "adatp-light", budget=0.5)
    for given, told in (
        (with_picture(inputs, model), "pictures"),
        (with_another(inputs, model), "several videos"),
    ):
        with pytest.raises(UsageError, match=told):
            block._find_video(given["input_ids"], torch_cache(), None)


def torch_cache() -> Any:
    from transformers import DynamicCache

    return DynamicCache()


def test_a_model_is_in_one_block_at_a_time(model: Any, inputs: dict[str, Any]) -> None:
    with adatp_cli.prune(model, "adatp-light", budget=0.5):
        with (
            pytest.raises(UsageError, match="inside a prune"),
            adatp_cli.prune(model, "vanilla"),
        ):
            pass
        generate(model, inputs)
    with adatp_cli.prune(model, "vanilla"):
        generate(model, inputs)


def test_two_models_are_pruned_at_once(
    loaded: LoadedModel, model: Any, inputs: dict[str, Any]
) -> None:
    other = copy.deepcopy(model)
    with adatp_cli.prune(model, "adatp-light", budget=0.5) as alone:
        generate(model, inputs)
    with (
        adatp_cli.prune(model, "adatp-light", budget=0.5) as one,
        adatp_cli.prune(other, "adatp-light", budget=0.3) as two,
    ):
        generate(other, inputs)
        generate(model, inputs)
    assert one.report.visual_per_layer == alone.report.visual_per_layer
    assert two.report.visual_per_layer[-1] < one.report.visual_per_layer[-1]


def test_two_threads_on_one_model_never_give_a_wrong_answer(
    model: Any, inputs: dict[str, Any]
) -> None:
    with adatp_cli.prune(model, "adatp-light", budget=0.5):
        right = generate(model, inputs).sequences.tolist()
    found: list[object] = []
    together = threading.Barrier(3)

    def work() -> None:
        together.wait()
        try:
            found.append(generate(model, inputs).sequences.tolist())
        except PruningError as error:
            found.append(error.message)

    for _ in range(3):
        with adatp_cli.prune(model, "adatp-light", budget=0.5):
            threads = [threading.Thread(target=work) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert all(one == right or isinstance(one, str) for one in found)
    assert any(isinstance(one, str) for one in found)


def test_a_step_of_another_run_is_refused(model: Any, inputs: dict[str, Any]) -> None:
    """As when two runs take turns in one thread: the positions of the first are gone."""
    cache, other = torch_cache(), torch_cache()
    with adatp_cli.prune(model, "adatp-light", budget=0.5):
        for one in (cache, other):
            model(**inputs, past_key_values=one, use_cache=True)
        step = inputs["input_ids"][:, -1:]
        model(input_ids=step, past_key_values=other, use_cache=True)
        with pytest.raises(PruningError, match="two runs"):
            model(input_ids=step, past_key_values=cache, use_cache=True)


def test_what_a_profile_needs_is_asked_for(loaded: LoadedModel, model: Any, inputs: Any) -> None:
    for name, named, told in (
        ("adatp", {}, "relevance encoder"),
        ("adatp", {"encoder": loaded.relevance}, "pass question"),
        ("adatp", {"encoder": loaded.relevance, "question": " "}, "pass question"),
        ("no-such", {}, "no profile"),
    ):
        with pytest.raises(UsageError) as caught:
            adatp_cli.prune(model, name, **named)
        assert told in f"{caught.value.message} {caught.value.hint}"
    reuse = load_profile("adatp-light").replace(reuse_frames=0.1)
    with pytest.raises(UsageError, match="reuse_frames"):
        adatp_cli.prune(model, reuse)
    with pytest.raises(UsageError, match="not Linear"):
        adatp_cli.prune(torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    with (
        adatp_cli.prune(model, "unicomp", encoder=loaded.relevance, question=QUESTION),
        pytest.raises(UsageError) as missing,
    ):
        generate(model, inputs)
    assert "tokenizer=" in missing.value.hint


def test_eager_attention_is_refused(loaded: LoadedModel) -> None:
    eager = copy.deepcopy(loaded.model)
    eager.set_attn_implementation("eager")
    with pytest.raises(UsageError, match="eager"):
        adatp_cli.prune(eager, "adatp-light")


def test_a_session_answers_as_the_command_does(adatp: Any, clip: Path) -> None:
    session = adatp_cli.load("tiny", "adatp-light", max_new_tokens=NEW_TOKENS, device="cpu")
    record = session.ask(clip, QUESTION, frames=8)
    assert isinstance(record, adatp_cli.AnswerRecord)
    run = adatp(
        "ask", clip, QUESTION, "-m", "tiny", "-p", "adatp-light", "--frames", "8",
        "--max-new-tokens", NEW_TOKENS, "--device", "cpu", "--json",
    )  # fmt: skip
    (row,) = run.records
    told = record.to_dict()
    for key in ("answer", "tokens", "flops", "segments", "video_info", "profile", "model"):
        assert told[key] == row[key], key


def test_the_encoder_of_a_model_is_loaded_from_a_folder(loaded: LoadedModel, model: Any) -> None:
    folder = loaded.folder / "relevance"
    encoder = adatp_cli.load_encoder(model, str(folder), offline=True)
    assert loaded.relevance is not None
    assert encoder.shape == loaded.relevance.shape
    vector = loaded.relevance.text_vector(QUESTION)
    assert torch.equal(encoder.text_vector(QUESTION), vector)


def test_the_docs_tell_what_each_profile_needs(loaded: LoadedModel) -> None:
    page = Path(__file__).parents[1].joinpath("docs", "python.md").read_text(encoding="utf-8")
    told = {}
    for left, right in re.findall(r"^\| (`.*?) \| (.*?) \|$", page, re.MULTILINE):
        told |= dict.fromkeys(re.findall(r"`([\w-]+)`", left), right)
    for name in builtin_names():
        needs = session_of(loaded, name).plan.needs
        assert ("`encoder=`" in told.get(name, ""), "`question=`" in told.get(name, "")) == (
            needs.encoder,
            needs.question_vector,
        ), name


def examples() -> list[str]:
    """The blocks of Python in the page about it, in their order."""
    page = Path(__file__).parents[1].joinpath("docs", "python.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


def test_the_examples_of_the_docs_run(
    model: Any,
    loaded: LoadedModel,
    inputs: dict[str, Any],
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a folder with a clip; where one takes a model of 7b, the bundled one stands in for it."""
    shutil.copy(clip, tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    load, encoder = adatp_cli.load, loaded.relevance
    monkeypatch.setattr(adatp_cli, "load", lambda *_given, **named: load("tiny", **named))
    monkeypatch.setattr(adatp_cli, "load_encoder", lambda _model: encoder)
    names: dict[str, Any] = {
        "model": model,
        "processor": lambda **_given: inputs,
        "clip": None,
        "prompt": "",
    }
    found = examples()
    assert len(found) >= 4
    for block in found:
        exec(compile(block, "docs/python.md", "exec"), names)  # noqa: S102
    assert names["record"].answer
    assert names["run"].report.visual_per_layer
