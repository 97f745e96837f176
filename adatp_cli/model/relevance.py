"""The relevance encoder: SigLIP's text tower and pooling head, on the frames' existing features.

LLaVA-OneVision's vision tower is SigLIP's without the pooling head. The pretrained head, put back
on the tower's output, gives one vector per frame in the space of the paired text tower, so frames
can be compared with the question at the price of the head and of one short text pass (our choice;
the paper says only that a text encoder scores the segments). The published checkpoints keep 26 of
SigLIP's 27 layers and were trained further, so their frames reach the head a layer early.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from adatp_cli.cost import RelevanceShape
from adatp_cli.errors import ModelError, UsageError
from adatp_cli.model.checkpoints import HEAD, NORM, TEXT, RelevanceFiles, encoder_config
from adatp_cli.model.layout import COPY_AGAIN, read_json, relevance_shape
from adatp_cli.model.memory import LOOKS_AT_ONCE
from adatp_cli.model.quiet import weights_progress
from adatp_cli.model.tensors import check_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import SiglipConfig, SiglipTextModel


class RelevanceEncoder:
    """Frames and questions as vectors of one space, float32 and of unit length.

    `text_tower` is SigLIP's with its projection; `norm` and `head` are the vision side's last layer
    norm and pooling head in float32, whatever the model's type: segments are cut where a cosine of
    nearly one drops a little. `name` is the hub id or folder.
    """

    def __init__(
        self,
        text_tower: SiglipTextModel,
        norm: nn.LayerNorm,
        head: nn.Module,
        tokenizer: QuestionTokenizer,
        shape: RelevanceShape,
        name: str,
    ) -> None:
        self.text_tower, self.norm, self.head = text_tower, norm, head
        self.tokenizer, self.shape, self.name = tokenizer, shape, name
        self._pooling = Pooling(head)

    @torch.inference_mode()
    def look(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """What the pooling head's heads see of each frame, and where they look.

        Of (T, patches, Dv), the tower's last hidden state before any post-layernorm, which is what
        `get_video_features` projects, float32: (T, heads, Dv) for `vectors`, and (T, patches)
        attention, mean over heads.
        """
        device = self.norm.weight.device
        looks = [
            self._pooling.look(self.norm(chunk.to(device, torch.float32)))
            for chunk in torch.split(hidden, LOOKS_AT_ONCE)
        ]
        means, seen = (torch.cat(parts) for parts in zip(*looks, strict=True))
        return means, seen

    @torch.inference_mode()
    def vectors(self, means: Tensor) -> Tensor:
        """(T, De): the frames' vectors from what `look` saw, best of all frames together."""
        return F.normalize(self._pooling.vectors(means), dim=-1)

    @torch.inference_mode()
    def text_vector(self, question: str, text_tokens: int | None = None) -> Tensor:
        """(De,): the question's vector; `text_tokens` cuts it, its end token included."""
        ids = self.tokenizer(question, text_tokens).to(self.text_tower.device)
        pooled = self.text_tower(input_ids=ids).pooler_output
        return F.normalize(pooled[0].float(), dim=-1)


def load_relevance(
    name: str, files: RelevanceFiles, *, width: int, device: str, dtype: torch.dtype
) -> RelevanceEncoder:
    """Load text tower, pooling head and post-layernorm of a SigLIP model, and nothing else of it.

    `name` is for records, `width` that of the vision tower's features, `dtype` the text tower's.
    """
    config = encoder_config(files.folder)
    shape = relevance_shape(config)
    if shape.head_hidden != width:
        raise ModelError(
            f"the relevance encoder {name} reads features of width {shape.head_hidden}, and this "
            f"model's are {width} wide",
            "name the encoder that belongs to the model's vision tower, or none",
        )
    state: dict[str, Tensor] = {}
    for path in files.weights:
        check_file(path)
        with safe_open(path, framework="pt") as file:
            wanted = [key for key in file.keys() if key.startswith((TEXT, HEAD, NORM))]  # noqa: SIM118
            state |= {key: file.get_tensor(key) for key in wanted}
    tower: Any = _text_tower(config, state, dtype, files.folder)
    norm, head = _vision_head(config, state, files.folder)
    tokenizer = QuestionTokenizer.from_folder(files.folder, length=shape.text_tokens)
    return RelevanceEncoder(
        tower.to(device), norm.to(device), head.to(device), tokenizer, shape, name
    )


def _text_tower(
    config: SiglipConfig, state: dict[str, Tensor], dtype: torch.dtype, folder: Path
) -> SiglipTextModel:
    import transformers

    loader: Any = transformers.SiglipTextModel
    with weights_progress(str(folder), lambda _: None):
        tower, info = loader.from_pretrained(
            None,
            config=config.text_config,
            state_dict={key: value for key, value in state.items() if key.startswith(TEXT)},
            dtype=dtype,
            attn_implementation="sdpa",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they come back in the loading info, and are refused
        )
    lacking = sorted({*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])})
    if lacking:
        raise ModelError(
            f"the relevance encoder {folder} lacks {len(lacking)} tensors of its text tower, "
            f"{lacking[0]} among them",
            COPY_AGAIN,
        )
    result: SiglipTextModel = tower.eval().requires_grad_(False)
    return result


def _vision_head(
    config: SiglipConfig, state: dict[str, Tensor], folder: Path
) -> tuple[nn.LayerNorm, nn.Module]:
    from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

    vision: Any = config.vision_config
    # Built without memory: every value comes from the file.
    with torch.device("meta"):
        norm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)
        head: nn.Module = SiglipMultiheadAttentionPoolingHead(vision)
    for module, prefix in ((norm, NORM), (head, HEAD)):
        values = {
            key.removeprefix(prefix): value.float()
            for key, value in state.items()
            if key.startswith(prefix)
        }
        try:
            module.load_state_dict(values, assign=True)
        except RuntimeError as error:
            raise ModelError(
                f"the relevance encoder {folder} does not hold a whole {prefix.rstrip('.')}",
                COPY_AGAIN,
            ) from error
        module.eval().requires_grad_(False)
    return norm, head


class Pooling:
    """A `SiglipMultiheadAttentionPoolingHead` whose constant query is multiplied into its keys."""

    @torch.no_grad()
    def __init__(self, head: nn.Module) -> None:
        part: Any = head
        attention, width = part.attention, part.probe.shape[-1]
        heads = int(attention.num_heads)
        query, key, value = attention.in_proj_weight.split(width)
        query_bias, _, value_bias = attention.in_proj_bias.split(width)
        probe = nn.functional.linear(part.probe[0, 0], query, query_bias).view(heads, -1)
        scaled = probe * probe.shape[1] ** -0.5
        # The bias of the keys is the same for every patch, and the softmax takes it out.
        self._asked = torch.einsum("hd,hdw->hw", scaled, key.view(heads, -1, width))
        self._value = value.view(heads, -1, width)
        self._value_bias = value_bias
        self._out = attention.out_proj
        self._norm, self._mlp = part.layernorm, part.mlp

    def look(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """What the heads see, (T, heads, D), and where they look, (T, patches), mean over heads.

        `hidden` is (T, patches, D), normed, in the type of the head's weights.
        """
        weights = (hidden @ self._asked.T).softmax(1)  # (T, patches, heads)
        return weights.transpose(1, 2) @ hidden, weights.mean(-1)

    def vectors(self, means: Tensor) -> Tensor:
        """(T, D): the head's output for what its heads saw, best of all frames of a clip at once.

        One pass reads the weights once: at so400m's size 50 MB, which takes longer than the
        arithmetic for a frame.
        """
        values = torch.einsum("thw,hdw->thd", means, self._value).flatten(1) + self._value_bias
        pooled: Tensor = self._out(values)
        given: Tensor = pooled + self._mlp(self._norm(pooled))
        return given


class QuestionTokenizer:
    """SigLIP's text input: canonical text, an end token, padding to the length of training."""

    def __init__(self, tokenizer: Tokenizer, *, eos: int, pad: int, length: int) -> None:
        self._tokenizer, self._eos, self._pad, self.length = tokenizer, eos, pad, length

    @classmethod
    def from_folder(cls, folder: Path, *, length: int) -> QuestionTokenizer:
        """Read `tokenizer.json` and, for the names of the end and padding tokens, its settings."""
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(
                f"{folder} has no tokenizer.json", "download or copy the whole relevance encoder"
            )
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust side raises no narrower class
            raise ModelError(f"{path} cannot be read: {error}", "copy it again") from error
        settings = folder / "tokenizer_config.json"
        names = read_json(settings) if settings.is_file() else {}
        ids = []
        for key in ("eos_token", "pad_token"):
            token = names.get(key, "</s>")
            name = token.get("content") if isinstance(token, dict) else token
            number = tokenizer.token_to_id(name) if isinstance(name, str) else None
            if number is None:
                raise ModelError(
                    f"{path} has no token {name!r}", "copy the relevance encoder again"
                )
            ids.append(number)
        return cls(tokenizer, eos=ids[0], pad=ids[1], length=length)

    def __call__(self, question: str, text_tokens: int | None = None) -> Tensor:
        """Encode a question to int64 ids, (1, length); what is longer than `text_tokens` is cut."""
        limit = self.length if text_tokens is None else text_tokens
        if not 1 <= limit <= self.length:
            raise UsageError(
                f"relevance.text_tokens must be between 1 and {self.length}, not {limit}",
                "correct the profile",
            )
        encoded = self._tokenizer.encode(canonical(question), add_special_tokens=False)
        ids = [*encoded.ids[: limit - 1], self._eos]
        return torch.tensor([ids + [self._pad] * (self.length - len(ids))])


def canonical(question: str) -> str:
    """SigLIP's canonical text: lower case, no ASCII punctuation, single spaces."""
    kept = question.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(kept.split())
