"""Tries what this machine can run: packages, devices, decoders, models, memory."""

from __future__ import annotations

import dataclasses
import importlib
import io
import os
import platform
import traceback
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from adatp_cli import __version__
from adatp_cli.errors import AdatpError, ModelError
from adatp_cli.model import checkpoints, hub, memory
from adatp_cli.model.checkpoints import ALIASES, AUTO, DEFAULT_ENCODER, TINY
from adatp_cli.model.device import choose_device, choose_dtype, cpu_is_fast_at_bfloat16
from adatp_cli.model.layout import read_description, weight_bytes
from adatp_cli.model.memory import check_address_space
from adatp_cli.text import one_line, plural

# What answering cannot do without, and what only some answers need.
REQUIRED = ("torch", "transformers", "tokenizers", "safetensors", "accelerate", "numpy", "av")
OPTIONAL = {"decord": "PyAV decodes in its place", "bitsandbytes": "needed for --quantize alone"}
MISSING = "missing"
# What of a package is used, where importing the package itself imports nothing.
_USED = {"transformers": "transformers.models.llava_onevision.modeling_llava_onevision"}
# What transformers imports where it is there, and adatp has no need of.
_BESIDE = ("torchvision", "torchaudio")


@dataclass(frozen=True, slots=True)
class Device:
    """A place to run."""

    name: str
    description: str
    free_bytes: int | None  # None where the system does not say


@dataclass(frozen=True, slots=True)
class ModelState:
    """Whether a model is here and can run."""

    name: str  # as -m takes it
    repository: str
    state: str  # bundled, cached, folder or missing
    weight_bytes: dict[str, int] | None  # once loaded, whole and in nf4, on the device of `auto`
    note: str  # why it is not ready
    step: str = ""  # what to do about it

    @property
    def ready(self) -> bool:
        return self.weight_bytes is not None and not self.note


@dataclass(slots=True)
class Report:
    """Everything found."""

    packages: dict[str, str | None] = field(default_factory=dict)
    devices: list[Device] = field(default_factory=list)
    decoders: dict[str, bool] = field(default_factory=dict)
    bundled_model: str | None = None
    auto_model: str | None = None  # what `ask` takes here when it is not told
    fetches: bool = False  # it is not here yet, and the hub has it
    models: list[ModelState] = field(default_factory=list)
    cache_folder: str | None = None
    # What keeps `ask` from working, a line each with a next step.
    problems: list[str] = field(default_factory=list)

    def note(self, problem: str, step: str) -> None:
        self.problems.append(f"{problem}; {step}" if step else problem)

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "adatp": __version__,
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}",
        } | dataclasses.asdict(self)


def examine(model: str | None = None) -> Report:
    """Look at this machine.

    `model` has to be here and ready; when omitted, what `ask` takes when it is not told has to be,
    or else the hub has to be there to fetch it from.
    """
    report = Report()
    try:
        check_address_space()
    except AdatpError as error:
        report.note(error.message, error.hint)
        return report
    try:
        report.bundled_model = str(checkpoints.bundled_folder())
    except AdatpError as error:
        report.note(error.message, error.hint)
    for name in (*REQUIRED, *OPTIONAL):
        try:
            report.packages[name] = metadata.version(name)
            importlib.import_module(_USED.get(name, name))
        except Exception as error:  # a broken package can raise anything at import
            report.packages[name] = None
            if name in REQUIRED and (problem := import_problem(error, name)) is not None:
                report.note(problem.message, problem.hint)
    if all(report.packages[name] is not None for name in REQUIRED):
        _devices(report)
        _decoders(report)
        _models(report, model)
    return report


def import_problem(error: BaseException, package: str = "") -> ModelError | None:
    """What to tell of a package that failed while it was imported; None for any other failure.

    `package` is the one that was asked for, where the error does not show which one failed.
    """
    while error.__cause__ is not None:  # what all the others were raised from
        error = error.__cause__
    name = error.name if isinstance(error, ImportError) else None
    if not name:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        modules = [frame.f_globals for frame in frames if frame.f_code.co_name == "<module>"]
        name = str(modules[-1].get("__name__", "")) if modules else ""
    found = name.partition(".")[0]
    package = package if found in ("", "__main__", "adatp_cli") else found
    if not package:
        return None
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    cure = "install adatp again"
    if package in _BESIDE:
        goes = "the version that goes with torch"
        cure = f"pip uninstall {package}, which adatp does not need, or install {goes}"
    return ModelError(f"the package {package} cannot be imported ({reason})", cure)


def usable_cores() -> int:
    """The CPU cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _devices(report: Report) -> None:
    import torch

    speed = "fast" if cpu_is_fast_at_bfloat16() else "slow"
    cpu = f"{plural(usable_cores(), 'core')}, {speed} at bfloat16"
    report.devices.append(Device("cpu", cpu, memory.available_memory("cpu")))
    for index in range(torch.cuda.device_count()):
        name = f"cuda:{index}"
        free = memory.available_memory(name)
        report.devices.append(Device(name, torch.cuda.get_device_name(index), free))


def _decoders(report: Report) -> None:
    """Decode a clip made here with each decoder: four grey frames in a codec that is everywhere."""
    import av
    import numpy as np

    from adatp_cli.video.decode import read_frames
    from adatp_cli.video.sampling import Sampling

    clip = io.BytesIO()
    with av.open(clip, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for level in range(4):
            pixels = np.full((64, 64, 3), 60 * level, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    for name in ("pyav", "decord"):
        try:
            frames = read_frames(clip.getvalue(), Sampling(frames=2), decoder=name)
            report.decoders[name] = len(frames) == 2
        except AdatpError:
            report.decoders[name] = False
    if not any(report.decoders.values()):
        report.problems.append("no decoder reads an mp4; install av again")


def _models(report: Report, wanted: str | None) -> None:
    report.cache_folder = str(hub.cache_folder())
    report.auto_model = checkpoints.choose_auto(choose_device("auto"))
    if wanted == AUTO:
        wanted = report.auto_model
    names = [TINY, *ALIASES]
    if wanted is not None and wanted.lower() not in names:
        names.append(wanted)
    report.models = [_model_state(name) for name in names]
    asked = wanted or report.auto_model
    state = next(item for item in report.models if item.name in (asked, asked.lower()))
    if state.ready:
        return
    if wanted is not None:
        report.note(f"the model {state.name} is not ready: {state.note}", state.step)
        return
    # `ask` works without -m where its model can be fetched.
    what = f"`adatp ask` takes {state.name} here when it is not told"
    if state.state != MISSING or hub.cached(state.repository) is not None:
        report.note(f"{what}: {state.note}", state.step)
        return
    why = "fetching is off (offline)" if hub.is_offline() else None
    try:
        report.fetches = why is None and bool(hub.list_files(state.repository))
    except Exception as error:  # whatever keeps the hub from answering will keep `ask` from it
        why = f"the hub cannot be reached ({one_line(str(error)) or type(error).__name__})"
    if not report.fetches:
        there = [f"-m {item.name}" for item in report.models if item.ready]
        now = f"; now works: {', '.join(there)}" if there else ""
        report.problems.append(
            f"{what}, which is not in the cache, and {why or 'the hub does not have it'}; go "
            f"online once to fetch it{now}"
        )


def _model_state(name: str) -> ModelState:
    """Whether a model's files and its encoder's are here, whole, and fit the memory."""
    try:
        found = checkpoints.find(name, offline=True)
        encoder = read_description(found.folder).relevance_encoder or DEFAULT_ENCODER
        checkpoints.find_relevance(encoder, offline=True)
        device = choose_device("auto")
        sizes = weight_bytes(found.folder, choose_dtype("auto", device))
    except AdatpError as error:
        repository = ALIASES.get(name.lower(), name)
        note, step = error.message, error.hint
        if name.lower() in ALIASES and hub.cached(repository) is None:
            note = "not in the cache; fetched when first used"
            step = f"`adatp ask -m {name}` fetches it where the hub can be reached"
        return ModelState(name, repository, MISSING, None, note, step)
    state = "bundled" if found.name == TINY else "folder" if found.revision is None else "cached"
    note = step = ""
    try:  # as `ask` does with --quantize auto
        memory.fitting_quantization(
            "auto", sizes, device=device, model=name, progress=lambda _text: None
        )
    except AdatpError as error:
        note, step = error.message, error.hint
    kinds = {"none": sizes["none"], "nf4": sizes["nf4"]}
    return ModelState(name, found.name, state, kinds, note, step)
