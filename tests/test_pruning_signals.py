"""What methods know of a clip before the language model: each signal against its definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from adatp_cli.model.load import LoadedModel
from adatp_cli.profiles import load_profile
from tests.session_case import load_random, noisy_clip, session_of

FRAMES = 5


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_random(tmp_path_factory.mktemp("model"))


def hidden_states(loaded: LoadedModel) -> tuple[Tensor, ...]:
    pixels = loaded.preprocess(noisy_clip(FRAMES).pixels)
    tower: Any = loaded.model.model.vision_tower
    with torch.inference_mode():
        states: tuple[Tensor, ...] = tower(pixels, output_hidden_states=True).hidden_states
    return states


def pooled(values: Tensor) -> Tensor:
    """(T, 144, C) on a grid of 12 x 12 to (T, 36, C), each the mean of four."""
    grid = values.view(FRAMES, 6, 2, 6, 2, -1)
    return grid.mean((2, 4)).flatten(1, 2)


def test_keys_are_those_of_the_towers_last_layer(loaded: LoadedModel) -> None:
    runs: list[int] = []
    inner: Any = loaded.model.model
    handle = inner.vision_tower.register_forward_pre_hook(
        lambda _module, args: runs.append(len(args[0]))
    )
    encoded = session_of(loaded, load_profile("unicomp")).encode("x", noisy_clip(FRAMES)).encoded
    handle.remove()
    assert sum(runs) == FRAMES
    layers = [m for n, m in inner.vision_tower.named_modules() if n.endswith("layers.3")]
    (last,) = layers
    with torch.inference_mode():
        keys = last.self_attn.k_proj(last.layer_norm1(hidden_states(loaded)[-2]))
    expected = pooled(keys.view(FRAMES, 144, 4, 32).mean(2))
    assert encoded.tower_keys is not None
    torch.testing.assert_close(encoded.tower_keys, expected, rtol=1e-4, atol=1e-5)


def test_attention_is_that_of_the_pooling_heads_probe(loaded: LoadedModel) -> None:
    encoded = session_of(loaded, load_profile("fastvid")).encode("x", noisy_clip(FRAMES)).encoded
    assert loaded.relevance is not None
    head: Any = loaded.relevance.head
    with torch.inference_mode():
        seen = loaded.relevance.norm(hidden_states(loaded)[-1].float())
        part = head.attention
        query_weight, key_weight, _ = part.in_proj_weight.chunk(3)
        query_bias, key_bias, _ = part.in_proj_bias.chunk(3)
        query = (head.probe[0] @ query_weight.T + query_bias).view(4, 32)
        keys = (seen @ key_weight.T + key_bias).view(FRAMES, 144, 4, 32)
        products = torch.einsum("hd,tphd->thp", query, keys) * 32**-0.5
        expected = pooled(products.softmax(-1).mean(1)[..., None])[..., 0]
    assert encoded.probe_attention is not None
    torch.testing.assert_close(encoded.probe_attention, expected, rtol=1e-3, atol=1e-6)
    assert encoded.frame_vectors is not None
    torch.testing.assert_close(encoded.frame_vectors.norm(dim=-1), torch.ones(FRAMES))


def test_what_is_not_asked_for_is_not_computed(loaded: LoadedModel) -> None:
    def encoded(name: str) -> Any:
        return session_of(loaded, load_profile(name)).encode("x", noisy_clip(FRAMES)).encoded

    for name in ("vanilla", "fastv", "vidcom2", "adatp-light"):
        bare = encoded(name)
        assert bare.tower_keys is bare.probe_attention is bare.frame_vectors is None
        assert bare.relevance_s == 0.0
    assert encoded("fastvid").tower_keys is None
    assert encoded("adatp").tower_keys is None
