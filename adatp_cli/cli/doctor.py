"""`adatp doctor`: what this machine can run."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from adatp_cli import __version__
from adatp_cli.cli.options import JSON, VERBOSE, option
from adatp_cli.cli.output import Output
from adatp_cli.errors import ModelError
from adatp_cli.model.checkpoints import check_name
from adatp_cli.text import gigabytes, readable_bytes

if TYPE_CHECKING:
    from adatp_cli.machine import ModelState, Report


def doctor(
    output: Output,
    model: str | None = option(
        None,
        "--model -m NAME",
        "Demand that this model is here and ready, named as in ask. Default: what ask "
        "takes when it is not told, which may still have to be fetched.",
        envvar="ADATP_MODEL",
    ),
    json: bool = JSON,
    verbose: bool = VERBOSE,
) -> int:
    """What this machine can run; exit 0 only when ask would work.

    Looks at packages, devices, decoders, free memory and the models that are here. Fetches nothing,
    and asks the hub only whether it could.

    Examples:
    adatp doctor
    adatp doctor -m 7b --json
    """
    if model is not None:
        check_name(model)
    output.stage("importing and trying the packages")
    from adatp_cli.machine import examine
    from adatp_cli.model.quiet import quiet_libraries

    with output.running(), quiet_libraries(verbose=verbose):
        report = examine(model)
    if json:
        output.data(report.to_dict())
    else:
        for label, text in _lines(report):
            output.line(f"{label:<10} {text}".rstrip())
    return 0 if report.ok else ModelError.exit_code


def _lines(report: Report) -> list[tuple[str, str]]:
    system = f"{platform.system()} {platform.machine()}"
    sections = {
        "adatp": [f"{__version__}, Python {platform.python_version()}, {system}"],
        "packages": [_package(name, version) for name, version in report.packages.items()],
        "devices": [
            f"{one.name}: {one.description}"
            + ("" if one.free_bytes is None else f", {gigabytes(one.free_bytes)} free")
            for one in report.devices
        ],
        "decoders": [
            f"{name}: {'reads an mp4' if works else 'not usable'}"
            for name, works in report.decoders.items()
        ],
        "models": [_model(model, report) for model in report.models],
        "cache": [] if report.cache_folder is None else [report.cache_folder],
    }
    rows = [
        (label if number == 0 else "", text)
        for label, texts in sections.items()
        for number, text in enumerate(texts)
    ]
    rows += [("PROBLEM", problem) for problem in report.problems]
    if report.ok:
        rows.append(("ready", _ready(report)))
    return rows


def _ready(report: Report) -> str:
    """What works; `ask` without -m first."""
    named = ", ".join(f"-m {model.name}" for model in report.models if model.ready)
    auto = next(model for model in report.models if model.name == report.auto_model)
    if auto.ready:
        return f"`adatp ask` works here, with {auto.name}; ready: {named}"
    if report.fetches:
        now = f"; ready now: {named}" if named else ""
        return f"`adatp ask` fetches {auto.name} before its first answer{now}"
    return f"`adatp ask` works here with {named.replace(', ', ' or ')}"


def _package(name: str, version: str | None) -> str:
    from adatp_cli.machine import OPTIONAL

    if version is not None:
        return f"{name} {version}"
    return f"{name} does not work" + (f"; {OPTIONAL[name]}" if name in OPTIONAL else "")


def _model(model: ModelState, report: Report) -> str:
    name = f"{model.name} (auto)" if model.name == report.auto_model else model.name
    if model.weight_bytes is None or model.note:
        return f"{name}: {model.note}"
    size = readable_bytes(model.weight_bytes["none"])
    if model.state == "bundled":
        return (
            f"{model.name}: ready, {size}; knows moving coloured shapes and nothing else\n"
            f"{'':<11}in {report.bundled_model}"
        )
    return f"{name}: ready, {size} ({readable_bytes(model.weight_bytes['nf4'])} in nf4)"
