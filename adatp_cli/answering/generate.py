"""One prompt in, one answer out: greedy or sampled, its text handed out as it comes."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from adatp_cli.answering.decoding import GenerationSettings
from adatp_cli.errors import ModelError
from adatp_cli.pruning.hooks import PrunedPrefill, PruneReport
from adatp_cli.pruning.method import PruningPlan, VisualEntry, VisualLayout

if TYPE_CHECKING:
    from transformers import DynamicCache, GenerationConfig, PreTrainedTokenizerBase

    from adatp_cli.model.load import LoadedModel

_REPLACEMENT = "\ufffd"


@dataclass(frozen=True, slots=True, eq=False)
class Generated:
    """An answer: all tokens sampled, the end-of-sequence token among them, and what they say."""

    ids: list[int]
    text: str  # special tokens and a blank beginning left out
    finish_reason: Literal["eos", "length", "stop"]
    report: PruneReport
    first_logits: Tensor  # (vocabulary,) of the position that yields the first token
    first_token_s: float  # from the start of the prefill, as `total_s`
    total_s: float
    selection_s: float  # of the prefill, spent on choosing tokens
    cached_tokens: int = 0  # of the prompt, whose keys and values an earlier question had left


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What the language model is given."""

    input_ids: Tensor  # (1, L) int64, placeholders at the visual tokens
    visual: Tensor  # (n_v + 1, D) embeddings that take their place
    layout: VisualLayout
    plan: PruningPlan  # serves once
    # What an earlier question left, and where this one leaves the same; for plans without pruning.
    shared: SharedPrefix | None = None


def generate(
    loaded: LoadedModel,
    request: Request,
    settings: GenerationSettings,
    on_text: Callable[[str], None] = lambda _text: None,
    stop: threading.Event | None = None,
) -> Generated:
    """Answer one prompt with the model's own `generate`, pruned during the prefill.

    `on_text` gets each new piece of text; setting `stop` ends the run at the next decoder layer.
    """
    model: Any = loaded.model
    stream = _Stream(loaded.tokenizer, on_text, settings.stop)
    with torch.inference_mode(), loaded.turn, ExitStack() as stack:
        if settings.temperature is not None:
            cuda = [loaded.device] if loaded.device.startswith("cuda") else []
            stack.enter_context(torch.random.fork_rng(devices=cuda))
            torch.manual_seed(settings.seed)
        if stop is not None:
            stack.enter_context(_Stoppable(model.model.language_model.layers, stop))
        head = stack.enter_context(_FirstHeadPass(model.get_output_embeddings()))
        run = stack.enter_context(
            PrunedPrefill(model.model.language_model, request.plan, request.layout)
        )
        input_ids, embeddings = _sequence(loaded, request)
        held, kept = 0, {}
        if request.shared is not None:
            cache, held = request.shared.take(request.input_ids, request.visual, model.config)
            kept = {"past_key_values": cache}
        stream.started = time.perf_counter()
        model.generate(
            # The ids are what a repetition penalty, were one set, looks at; the embeddings are what
            # runs.
            input_ids=input_ids,
            inputs_embeds=embeddings,
            attention_mask=torch.ones_like(input_ids),
            generation_config=_config(model.generation_config, settings),
            streamer=stream,
            stopping_criteria=[stream.at_stop] if settings.stop else None,
            **kept,
        )
        finished = time.perf_counter()
        if request.shared is not None:
            front = request.layout.start + len(request.visual)
            request.shared.keep(kept["past_key_values"], request.input_ids, request.visual, front)
    ended = bool(stream.ids) and stream.ids[-1] in _eos_ids(model.generation_config)
    finish: Literal["eos", "length", "stop"] = "eos" if ended else "length"
    return Generated(
        ids=stream.ids,
        text=stream.text,
        finish_reason="stop" if stream.stopped else finish,
        report=run.report,
        first_logits=head.value[0, -1],
        first_token_s=stream.first_token - stream.started,
        total_s=finished - stream.started,
        selection_s=run.selection_s,
        cached_tokens=held,
    )


def _sequence(loaded: LoadedModel, request: Request) -> tuple[Tensor, Tensor]:
    """What the language model reads: ids (1, L), and embeddings (1, L, D) that stand for them."""
    model: Any = loaded.model
    embed = model.get_input_embeddings()
    input_ids = request.input_ids.to(loaded.device)
    embeddings = embed(input_ids)
    start, count = request.layout.start, len(request.visual)
    embeddings[0, start : start + count] = request.visual.to(embeddings)
    entry = request.plan.entry
    if entry is None:
        return input_ids, embeddings
    places = request.layout.places(entry.owners, input_ids.shape[1]).to(loaded.device)
    made = let_in(embeddings, request.layout, entry, lambda: line_break(model, loaded.tokenizer))
    return input_ids[:, places], made


def let_in(
    embeddings: Tensor, layout: VisualLayout, entry: VisualEntry, line_break: Callable[[], Tensor]
) -> Tensor:
    """A whole prompt's embeddings (1, L, D) with an entry in the place of the visual tokens."""
    places = layout.places(entry.owners, embeddings.shape[1]).to(embeddings.device)
    made = embeddings[:, places]
    entering = entry.embeddings.to(made, copy=True)
    if bool(entry.breaks.any()):
        entering[entry.breaks.to(entering.device)] = line_break()
    made[0, layout.start : layout.start + len(entering)] = entering
    return made


def line_break(model: Any, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """(1, D): the embedding of a line break of text."""
    ids = tokenizer.encode("\n", add_special_tokens=False)
    if len(ids) != 1:
        raise ModelError("this checkpoint has no token for a line break", "try another profile")
    embed = model.get_input_embeddings()
    return embed(torch.tensor(ids, device=embed.weight.device))  # type: ignore[no-any-return]


def generate_streaming(
    loaded: LoadedModel, request: Request, settings: GenerationSettings
) -> Iterator[str | Generated]:
    """`generate` in a thread: pieces of text as they come, and the `Generated` at the end.

    When the reader goes away in the middle, the run is stopped and waited for, which takes no
    longer than one decoder layer.
    """
    pieces: queue.Queue[str | Generated | BaseException] = queue.Queue()
    stop = threading.Event()

    def work() -> None:
        try:
            pieces.put(generate(loaded, request, settings, pieces.put, stop))
        except BaseException as error:  # carried over to the reader's thread, which raises it
            pieces.put(error)

    thread = threading.Thread(target=work, name="adatp-generate", daemon=True)
    thread.start()
    try:
        while True:
            piece = pieces.get()
            if isinstance(piece, BaseException):
                raise piece
            yield piece
            if isinstance(piece, Generated):
                return
    finally:
        stop.set()
        thread.join()


def _config(given: GenerationConfig, settings: GenerationSettings) -> GenerationConfig:
    """Decoding as asked for; ids of special tokens stay the checkpoint's."""
    from transformers import GenerationConfig

    config = GenerationConfig.from_dict(given.to_dict())
    config.max_length = None
    config.max_new_tokens = settings.max_new_tokens
    config.num_beams = 1
    config.do_sample = settings.temperature is not None
    config.temperature = settings.temperature
    config.top_p = settings.top_p
    # The library samples from the 50 likeliest tokens unless told otherwise; nobody asked for it.
    config.top_k = 0 if config.do_sample else None
    return config


def _eos_ids(config: GenerationConfig) -> set[int]:
    eos = config.eos_token_id
    if eos is None:
        return set()
    return {eos} if isinstance(eos, int) else set(eos)


class _Stream:
    """Takes tokens from `generate` and hands out text that will not change any more.

    A character can be spread over several tokens; until its last byte is there it decodes to
    replacement characters, which are held back, as is what may be the beginning of a stop text.
    Blanks that a text begins with are left out.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        on_text: Callable[[str], None],
        stop: Sequence[str] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._on_text = on_text
        self._stop = stop
        self.stopped = False
        self._prompt_seen = False
        self.ids: list[int] = []
        self.text = ""
        self.started = self.first_token = time.perf_counter()

    def put(self, value: Tensor) -> None:
        """Take the prompt, which comes first, or one token."""
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        if not self.ids:
            self.first_token = time.perf_counter()
        self.ids += value.flatten().tolist()
        text = self._decoded().rstrip(_REPLACEMENT)
        if not self.stopped:
            begun = (n for one in self._stop for n in range(1, len(one)) if text.endswith(one[:n]))
            text = text[: len(text) - max(begun, default=0)]
        self._emit(text)

    def at_stop(self, ids: Tensor, _scores: Tensor) -> Tensor:
        """Whether the answer has come to a stop text, as `generate` asks."""
        return torch.full((len(ids),), self.stopped, device=ids.device, dtype=torch.bool)

    def end(self) -> None:
        """Hand out what was held back."""
        self._emit(self._decoded())

    def _decoded(self) -> str:
        text = self._tokenizer.decode(
            self.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        text = str(text).lstrip()
        ends = [place for one in self._stop if (place := text.find(one)) >= 0]
        self.stopped = bool(ends)
        return text[: min(ends)] if ends else text

    def _emit(self, text: str) -> None:
        if len(text) > len(self.text) and text.startswith(self.text):
            self._on_text(text[len(self.text) :])
            self.text = text


class _FirstHeadPass:
    """Sees the language-model head's pass over the prefill: keeps its output, saves it a copy.

    The head gets the last position as a view of the whole prompt's states, whose stride tells the
    prompt's length. A matrix product takes that for a batch and copies the head's weights for it,
    hundreds of megabytes for one row, which without the stride it does not. Decoding has no such
    view.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.value = torch.empty(0)

    def __enter__(self) -> _FirstHeadPass:
        self._handles = [
            self._module.register_forward_pre_hook(self._pack),
            self._module.register_forward_hook(self._see),
        ]
        return self

    def _pack(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden: Tensor = args[0]
        return (hidden.clone(memory_format=torch.contiguous_format), *args[1:])

    def _see(self, _module: nn.Module, _args: Any, output: Tensor) -> None:
        self.value = output.detach().clone()
        self._remove()

    def _remove(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def __exit__(self, *_: object) -> None:
        self._remove()


class _StoppedError(Exception):
    """The reader of a stream went away."""


class _Stoppable:
    """Ends a run at the next decoder layer once the event is set; a prefill can take minutes."""

    def __init__(self, layers: nn.ModuleList, stop: threading.Event) -> None:
        self._layers = layers
        self._stop = stop

    def __enter__(self) -> _Stoppable:
        self._handles = [layer.register_forward_pre_hook(self._check) for layer in self._layers]
        return self

    def _check(self, _module: nn.Module, _args: Any) -> None:
        if self._stop.is_set():
            raise _StoppedError

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


class SharedPrefix:
    """Keys and values of a clip, which its first question leaves and later ones begin behind.

    The first question is an ordinary prefill. Later ones run only what stands behind the clip; by
    arithmetic their answers are those of whole prefills, with other sizes of matrix products and so
    other rounding. Serves one clip, one question at a time, and only where nothing is pruned.
    """

    def __init__(self) -> None:
        self._cache: DynamicCache | None = None
        self._ids = torch.empty(1, 0, dtype=torch.int64)
        self._visual: Tensor | None = None

    def take(self, input_ids: Tensor, visual: Tensor, config: Any) -> tuple[DynamicCache, int]:
        """A cache for one run, and how many tokens of this prompt it holds already.

        What was kept is out of here until `keep`: a run that fails leaves nothing half done behind.
        `visual` is the same object for every question about the clip.
        """
        from transformers import DynamicCache

        cache, held = self._cache, self._ids.shape[1]
        self._cache = None
        fits = visual is self._visual and torch.equal(input_ids[:, :held], self._ids)
        if cache is None or not fits or held >= input_ids.shape[1]:
            return DynamicCache(config=config), 0
        return cache, held

    def keep(self, cache: DynamicCache, input_ids: Tensor, visual: Tensor, length: int) -> None:
        """Keep the first `length` tokens of a cache that has run to its end."""
        if any(cache.is_sliding):  # has forgotten them
            return
        cache.crop(length - cache.get_seq_length())
        self._cache, self._ids, self._visual = cache, input_ids[:, :length], visual
