"""The program: its commands, and the entry point that never shows a traceback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from adatp_cli import __version__
from adatp_cli.cli import (
    ask,
    batch,
    bench,
    bias,
    demo,
    doctor,
    evaluate,
    export,
    models,
    profiles,
    show,
)
from adatp_cli.cli.commands import group, register
from adatp_cli.cli.errors import telling
from adatp_cli.cli.output import Output
from adatp_cli.cli.parsing import examples
from adatp_cli.cli.streams import OutputClosedError, repair_streams, stdout_failure
from adatp_cli.record import schema_text

_START, _ASK, _ABOUT = "Start here", "Ask", "About"

app = group(
    name="adatp",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 all answered, 1 unexpected, 2 usage, 3 a video cannot be read, "
    "4 model or environment, 5 out of memory, 6 a batch ended with some failures, "
    "130 interrupted.\n\n" + examples("adatp demo", 'adatp ask clip.mp4 "what happens?"'),
)


def _show_version(wanted: bool) -> None:
    if wanted:
        Output().line(f"adatp {__version__}")
        raise typer.Exit


@app.callback()
def adatp(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Ask questions about local video. Most visual tokens are pruned inside the model (AdaTP)."""


def schema(output: Output) -> None:
    """Print the JSON Schema that every line of --json fits."""
    output.write(schema_text())


register(app, _START, demo.demo, "adatp demo", "adatp demo --save-clip shapes.mp4")
register(app, _START, doctor.doctor, "adatp doctor", "adatp doctor -m 7b --json")
register(
    app,
    _ASK,
    ask.ask,
    'adatp ask clip.mp4 "what happens?"',
    'adatp ask clip.mp4 "who speaks?" "and then?" --start 1:30 --end 2:00 -n 64',
)
register(
    app,
    _ASK,
    show.show,
    'adatp show clip.mp4 "what happens?" -o seen.html',
    'adatp show clip.mp4 "what happens?" -o seen.png --compare fastv',
)
register(
    app,
    _ASK,
    batch.batch,
    'adatp batch clips/ -q "what happens?" -o answers.jsonl',
    "find . -name '*.mp4' | adatp batch - -q \"what happens?\" > rows.jsonl",
    writes=False,
)
register(
    app,
    _ASK,
    evaluate.evaluate,
    "adatp eval shapes -m tiny -p vanilla,adatp --clips 50",
    "adatp eval videomme --data VIDEO-MME -m 7b -o rows.jsonl --report report",
    name="eval",
)
register(
    app,
    _ASK,
    export.export,
    "adatp export answers.jsonl answers.parquet",
    "adatp export monday.jsonl tuesday.jsonl week.csv",
    writes=False,
)
register(
    app,
    _ASK,
    bias.bias,
    "adatp bias shapes -m tiny --clips 20",
    "adatp bias mvbench --data MVBENCH -m 7b --report report",
)
register(
    app,
    _ASK,
    bench.bench,
    "adatp bench -m tiny --repeat 1",
    "adatp bench -m 0.5b-random -n 16,32 -p vanilla,adatp -o result.json",
)

of_models = group(
    help="Models and encoders: which are here, fetching one, where it lies.",
    epilog=examples("adatp models list", "adatp models pull 0.5b"),
)
app.add_typer(of_models, name="models", rich_help_panel=_ABOUT)
register(
    of_models,
    None,
    models.list_models,
    "adatp models list",
    "adatp models list --json | jq .name",
    name="list",
)
register(of_models, None, models.path, "adatp models path tiny", "adatp models path 0.5b --json")
register(
    of_models,
    None,
    models.pull,
    "adatp models pull 0.5b",
    "adatp models pull 7b --no-encoder --yes",
    writes=False,
)

of_profiles = group(
    help="List, show and check pruning profiles.",
    epilog=examples("adatp profiles list", "adatp profiles show adatp -m 0.5b"),
)
app.add_typer(of_profiles, name="profiles", rich_help_panel=_ABOUT)
register(
    of_profiles,
    None,
    profiles.list_profiles,
    "adatp profiles list",
    "adatp profiles list --json",
    name="list",
)
register(
    of_profiles,
    None,
    profiles.show,
    "adatp profiles show adatp -m 7b",
    "adatp profiles show adatp > mine.yaml",
)
register(
    of_profiles,
    None,
    profiles.validate,
    "adatp profiles validate mine.yaml",
    "adatp profiles validate adatp",
)
register(
    app,
    _ABOUT,
    schema,
    "adatp schema > answer_record.schema.json",
    "adatp schema | jq '.properties | keys'",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program on `arguments` (default: the process's) and return its exit code."""
    repair_streams()
    try:
        with telling(Output()):
            return _run(arguments)
    except typer.Exit as end:
        return end.exit_code


def _run(arguments: Sequence[str] | None) -> int:
    """The exit code; only what stands outside of a command's own `reporting` is raised."""
    try:
        code = app(args=arguments, prog_name="adatp", standalone_mode=False)
    except OSError as error:  # of a help that could not be written
        raise stdout_failure(error) from error
    except SystemExit as end:
        if end.code != 1:  # SIGTERM's
            raise
        raise OutputClosedError from None  # rich's way where nobody reads a help to its end
    return code if isinstance(code, int) else 0
