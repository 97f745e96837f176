"""`adatp profiles`: which there are, what one says and costs, whether a file is one."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from adatp_cli.cli.options import (
    AUTO_FRAMES,
    JSON,
    argument,
    frame_number,
    option,
)
from adatp_cli.cli.output import Output
from adatp_cli.errors import UsageError
from adatp_cli.model.checkpoints import check_name
from adatp_cli.profiles import builtin_names, load_profile, read_share, to_yaml
from adatp_cli.text import amount, percent, plural

if TYPE_CHECKING:
    from adatp_cli.answering.cost_estimate import CostEstimate, Target


def list_profiles(output: Output, json: bool = JSON) -> None:
    """The profiles that come with adatp, with their shares of the language model's cost.

    Examples:
    adatp profiles list
    adatp profiles list --json
    """
    profiles = [load_profile(name) for name in builtin_names()]
    for profile in profiles:
        share = f"{100 * (profile.budget or 1.0):.4g} %"
        if json:
            output.data(profile.to_dict())
        else:
            output.line(f"{profile.name:<17} {share:>7}  {profile.description}")


def show(
    output: Output,
    name: str = argument("NAME", "A profile's name or a YAML file."),
    model: str = option(
        None,
        "--model -m NAME",
        "Tell the cost on auto, tiny, 0.5b, 7b, 72b, a cached hub id, or a folder.",
        default="7b",
        envvar="ADATP_MODEL",
    ),
    budget: float | None = option(
        None, "--budget SHARE", "At this budget, not its own.", parser=read_share
    ),
    frames: str | None = option(
        None, "--frames -n N|auto", "For this many frames. Default: as in ask."
    ),
    json: bool = JSON,
) -> None:
    """Print a profile with every knob, and the cost that it comes to on a model.

    The output is a valid profile file.

    Examples:
    adatp profiles show adatp -m 7b
    adatp profiles show adatp > mine.yaml
    """
    count = frame_number(frames)
    if count is not None and count < 1:
        raise UsageError(f"--frames {count} leaves nothing to look at", "give 1 or more")
    check_name(model)
    profile = load_profile(name)
    if budget is not None:
        profile = profile.with_budget(budget)
    from adatp_cli.answering.cost_estimate import estimate_cost, find_target
    from adatp_cli.model.quiet import quiet_libraries

    with quiet_libraries():
        target = find_target(model)
    told = estimate_cost(profile, target, count, auto=frames == AUTO_FRAMES)
    if json:
        known = {"profile": profile.to_dict(), "model": target.name}
        output.data(known | dataclasses.asdict(told))
        return
    output.write(to_yaml(profile.to_dict()))
    for line in _as_comment(told, target):
        output.line(f"# {line}".rstrip())


def validate(
    output: Output, file: str = argument("FILE", "A YAML file, or a profile's name.")
) -> None:
    """Check a profile file; exit 0 when it is valid, 2 with the reason when not.

    Examples:
    adatp profiles validate mine.yaml
    adatp profiles validate adatp
    """
    profile = load_profile(file)
    budget = "" if profile.budget is None else f", budget {percent(profile.budget)}"
    output.line(f"{file}: valid, the profile {profile.name!r} (method {profile.method}{budget})")


def _as_comment(told: CostEstimate, target: Target) -> list[str]:
    visual = told.frames * target.shape.tokens_per_frame
    paper, whole = told.flops.paper, told.flops.end_to_end
    memory = [
        f"{kind} {held.weights / 2**30:.1f}+{held.run / 2**30:.1f}"
        for kind, held in told.memory.items()
        if kind != "fp4"  # takes what nf4 takes
    ]
    lines = [
        "",
        f"On {target.name}, {plural(told.frames, 'frame')} of {target.shape.tokens_per_frame} "
        "visual tokens:",
        f"  language model  {amount(paper.pruned)} of {amount(paper.vanilla)}MAC "
        f"({percent(paper.ratio)}), paper convention",
        f"  end to end      {amount(whole.pruned)} of {amount(whole.vanilla)}FLOP "
        f"({percent(whole.ratio)}), vision {amount(whole.vision)}",
        f"                  with {told.assumed.text_tokens} text tokens and an answer of "
        f"{told.assumed.generated}",
        f"  memory, GiB     {', '.join(memory)} (weights+run)",
    ]
    if told.pruned_layers is None:
        return lines
    first, last = told.pruned_layers
    kept = told.visual_per_layer[-1]
    if last == 0:
        lines.append(f"  visual tokens   {visual}, at most {kept} enter the language model")
    else:
        mean = sum(told.visual_per_layer) / len(told.visual_per_layer) / visual
        where = f"layers {first} to {last}" if first < last else f"layer {first}"
        lines += [
            f"  visual tokens   {visual}, dropped at {where} of "
            f"{len(told.visual_per_layer)}, {kept} kept",
            f"                  to the last layer, {percent(mean)} mean over layers",
        ]
    if told.questions_to_share is not None:
        lines.append(
            f"  many questions  from {told.questions_to_share} on one unpruned prefill for all of "
            "them takes less"
        )
    auto = told.frames_auto
    lines.append(
        f"  --frames auto   {auto.frames} for what {auto.default} cost unpruned; "
        f"with vision {auto.both:.1f} times as much"
    )
    if auto.context_bound:
        spent = percent(auto.language)
        lines.append(f"                  the context holds no more, {spent} is spent")
    return lines
