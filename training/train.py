"""Train `tiny` from nothing: `python -m training.train --out FOLDER`.

Four stages, each deterministic by seed and each leaving its result in the folder, so that a broken
run goes on: the vision tower from dense labels, the decoder (and projector) from packed questions,
the decoder once more on long stories, the relevance encoder contrastively against the finished
tower. The same command uses a GPU where there is one.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlavaOnevisionForConditionalGeneration, Qwen2Tokenizer

from adatp_cli.tiny.questions import all_questions
from adatp_cli.tiny.world import random_clip
from training.architecture import (
    RELEVANCE_FOLDER,
    build_model,
    build_tokenizer,
    write_checkpoint,
)
from training.batches import clip_batch, tower_batch
from training.contrast import Contrast, build_text_tokenizer, pair_batch
from training.losses import (
    DecoderHeads,
    Losses,
    TowerHeads,
    decoder_loss,
    exact_answers,
    tower_features,
    tower_loss,
    use_packed_attention,
    words_of,
)

log = logging.getLogger("adatp.tiny.train")

TOWER_FRAMES = 96
# Visual frames in a decoder step; the number of clips follows from the clip's length.
STEP_FRAMES = 128
QUESTIONS = 10
LOOKUPS = 4
PAIR_CLIPS = 24  # in a step of the relevance encoder
HELD_OUT = 10**9  # step numbers from here on are never trained on


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the bundle was trained with; every field is an option of the command."""

    seed: int = 0  # of the weights and of every batch
    tower_steps: int = 700
    decoder_steps: int = 1700
    short_steps: int = 100  # decoder steps at the beginning, on short clips
    long_steps: int = 700  # decoder steps at the end, on long ones
    joint_steps: int = 200  # decoder steps at the end in which the tower learns too
    order_steps: int = 200
    relevance_steps: int = 500
    rate: float = 3e-3  # the highest learning rate
    dense_weight: float = 0.3  # of all that is learned from labels, beside the language loss


class Optimiser:
    """Muon for the matrices inside the blocks, AdamW for everything else, one schedule for both.

    The modules compute in their own type (bfloat16, as they will be used); the optimisers work on
    float32 copies of the weights, which are rounded back after every step.
    """

    def __init__(self, modules: Iterable[nn.Module], rate: float, steps: int) -> None:
        self.weights: list[tuple[nn.Parameter, nn.Parameter]] = []  # as computed with, and float32
        matrices: list[Tensor] = []
        others: list[Tensor] = []
        for module in modules:
            for name, weight in module.named_parameters():
                inner = weight.ndim == 2 and ".layers." in f".{name}"
                master = nn.Parameter(weight.detach().float().clone())
                (matrices if inner else others).append(master)
                self.weights.append((weight, master))
        self.optimisers = [
            torch.optim.Muon(matrices, lr=rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.rate, self.steps = rate, steps

    def step(self, number: int, loss: Tensor) -> None:
        """One update; the rate warms up over 30 steps and falls linearly over the last 45 %."""
        share = min(1.0, (number + 1) / 30, (self.steps - number) / (0.45 * self.steps))
        loss.backward()  # type: ignore[no-untyped-call]
        moved: list[tuple[nn.Parameter, nn.Parameter]] = []
        for weight, master in self.weights:
            if weight.grad is not None:
                master.grad = weight.grad.float()
                weight.grad = None
                moved.append((weight, master))
        nn.utils.clip_grad_norm_([master for _, master in moved], 1.0)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.rate * share
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            for weight, master in moved:
                weight.copy_(master)


def corpus(clips: int = 400) -> list[str]:
    """What the tokenizers learn from: every wording, with and without a capital, and answer."""
    rows = [
        row
        for n in range(clips)
        for row in all_questions(random_clip(np.random.default_rng([7, n])))
    ]
    asked = [text for _, wordings, _ in rows for text in wordings]
    capitals = [text[0].upper() + text[1:] for text in asked]
    return [*asked, *capitals, *(answer for _, _, answer in rows), "user ", "assistant\n"]


def _learn(
    stage: str,
    modules: Iterable[nn.Module],
    rate: float,
    steps: int,
    losses_of: Callable[[int], Losses],
) -> None:
    """Take the stage's steps, each along the losses of its number, and log some of them."""
    optimiser = Optimiser(modules, rate, steps)
    began = time.monotonic()
    for number in range(steps):
        losses = losses_of(number)
        optimiser.step(number, losses.total)
        if number % 20 == 0 or number == steps - 1:
            parts = " ".join(f"{name}={value:.3f}" for name, value in losses.parts.items())
            log.info("%s %d/%d %.0fs %s", stage, number, steps, time.monotonic() - began, parts)


def train_tower(model: LlavaOnevisionForConditionalGeneration, recipe: Recipe) -> None:
    """Dense labels on every patch; see `losses.tower_loss`."""
    torch.manual_seed(recipe.seed)
    heads = TowerHeads().to(model.device)

    def losses_of(number: int) -> Losses:
        return tower_loss(model, heads, tower_batch(recipe.seed, number, TOWER_FRAMES))

    modules = [model.model.vision_tower, heads]
    _learn("tower", modules, recipe.rate, recipe.tower_steps, losses_of)


def _samples(recipe: Recipe, number: int) -> int:
    """Frames of this step's clips: short ones teach most for the money, so long ones come last."""
    if number < recipe.short_steps:
        return (4, 8)[number % 2]
    if number >= recipe.decoder_steps - recipe.long_steps:
        return (16, 12, 16, 16)[number % 4]
    return (8, 12, 8, 16)[number % 4]


def train_decoder(
    model: LlavaOnevisionForConditionalGeneration,
    tokenizer: Qwen2Tokenizer,
    recipe: Recipe,
    compiled: bool,
) -> None:
    """Packed questions, the tower frozen until the last steps; see `losses.decoder_loss`."""
    torch.manual_seed(recipe.seed + 1)
    heads = DecoderHeads().to(model.device)
    words = words_of(tokenizer)
    use_packed_attention(model)
    if compiled:
        for layer in model.model.language_model.layers:
            layer.compile()

    def log_held_out() -> None:
        for length in (8, 16):
            log.info("held out, %d frames: %s", length, held_out(model, tokenizer, recipe, length))

    def losses_of(number: int) -> Losses:
        if number and number % 200 == 0:
            log_held_out()
        samples = _samples(recipe, number)
        batch = clip_batch(
            tokenizer,
            recipe.seed + 1,
            number,
            clips=STEP_FRAMES // samples,
            samples=samples,
            questions=QUESTIONS,
            lookups=LOOKUPS,
        )
        with torch.set_grad_enabled(number >= recipe.decoder_steps - recipe.joint_steps):
            features = tower_features(model, batch.pixels.flatten(0, 1))
        return decoder_loss(model, heads, features, batch, words, recipe.dense_weight)

    # The tower's weights move only in the joint steps: until then no gradient reaches them.
    _learn("decoder", [model, heads], recipe.rate, recipe.decoder_steps, losses_of)
    log_held_out()


def train_order(
    model: LlavaOnevisionForConditionalGeneration, tokenizer: Qwen2Tokenizer, recipe: Recipe
) -> None:
    """Long stories, and most of all what comes before what: the last thing that is learned."""
    words = words_of(tokenizer)
    use_packed_attention(model)

    def losses_of(number: int) -> Losses:
        samples = (16, 12)[number % 2]
        batch = clip_batch(
            tokenizer,
            recipe.seed + 3,
            number,
            clips=max(1, STEP_FRAMES // samples),
            samples=samples,
            questions=QUESTIONS,
            lookups=2 * LOOKUPS,
            long_stories=True,
        )
        with torch.no_grad():
            features = tower_features(model, batch.pixels.flatten(0, 1))
        return decoder_loss(model, None, features, batch, words, recipe.dense_weight)

    modules = [model.model.language_model]
    _learn("order", modules, recipe.rate / 3, recipe.order_steps, losses_of)
    log.info("held out, 16 frames: %s", held_out(model, tokenizer, recipe, 16))


def train_relevance(
    model: LlavaOnevisionForConditionalGeneration, contrast: Contrast, recipe: Recipe
) -> None:
    """Text tower and pooling head against the finished tower; see `contrast`."""
    torch.manual_seed(recipe.seed + 2)

    def losses_of(number: int) -> Losses:
        batch = pair_batch(contrast.tokenizer, recipe.seed + 2, number, clips=PAIR_CLIPS)
        with torch.no_grad():
            features = tower_features(model, batch.pixels)
        loss = contrast.loss(features.float(), batch)
        return Losses(loss, {"pairs": float(loss.detach())})

    _learn("relevance", [contrast], recipe.rate / 3, recipe.relevance_steps, losses_of)


def held_out(
    model: LlavaOnevisionForConditionalGeneration,
    tokenizer: Qwen2Tokenizer,
    recipe: Recipe,
    samples: int,
    clips: int = 64,
) -> str:
    """Share of exactly right answers, overall and by kind, on clips that training never sees."""
    verdicts: dict[str, list[bool]] = {}
    for part in range(clips // 16):
        batch = clip_batch(
            tokenizer, recipe.seed, HELD_OUT + part, clips=16, samples=samples, questions=QUESTIONS
        )
        with torch.no_grad():
            features = tower_features(model, batch.pixels.flatten(0, 1))
            for kind, rows in exact_answers(model, features, batch).items():
                verdicts.setdefault(kind, []).extend(rows)
    every = [v for rows in verdicts.values() for v in rows]
    kinds = " ".join(f"{kind}={100 * np.mean(rows):.0f}" for kind, rows in sorted(verdicts.items()))
    return f"{100 * np.mean(every):.1f} % ({kinds})"


def _stage(model: nn.Module, path: Path, train: Callable[[], None]) -> None:
    """Run a stage once: its weights are loaded when an earlier run has left them."""
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return
    train()
    torch.save(model.state_dict(), path)


def train(out: Path, recipe: Recipe, compiled: bool) -> None:
    """Run the stages that `out` does not hold yet, and write its folder `bundle`."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    sentences = corpus()
    tokenizer = build_tokenizer(sentences)
    model = build_model(tokenizer)
    module: nn.Module = model
    module.to("cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16)

    _stage(model, out / "tower.pt", lambda: train_tower(model, recipe))
    _stage(model, out / "decoder.pt", lambda: train_decoder(model, tokenizer, recipe, compiled))
    _stage(model, out / "order.pt", lambda: train_order(model, tokenizer, recipe))
    torch.manual_seed(recipe.seed + 2)  # the same first weights after a stage that was only loaded
    contrast = Contrast(build_text_tokenizer(sentences)).to(model.device)
    _stage(contrast, out / "relevance.pt", lambda: train_relevance(model, contrast, recipe))
    write_checkpoint(out / "bundle", model, tokenizer)
    contrast.save(out / "bundle" / RELEVANCE_FOLDER)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the stages and the bundle"
    )
    for name, value in ((f, getattr(Recipe(), f)) for f in Recipe.__slots__):
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument(
        "--compile", action="store_true", help="compile the decoder's layers (needs a C++ compiler)"
    )
    given = vars(parser.parse_args())
    out: Path = given.pop("out")
    compiled: bool = given.pop("compile")
    recipe = replace(Recipe(), **given)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(out, recipe, compiled)


if __name__ == "__main__":
    main()
