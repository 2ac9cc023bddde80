"""The responses to the word: exact, free of side effects, for any height and width."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import tiny_kolors_config

from tadisr import ConfigError, TADiSR, preset
from tadisr.config import TextAttentionConfig
from tadisr.model.text_attention import RESPONSES, TextProjection, level_size


def brute_force(kind: str, query: torch.Tensor, key: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    maps = scores if kind == "score" else scores.softmax(-1)
    return maps[..., positions].mean(-1)


@pytest.mark.parametrize("kind", ["score", "probability"])
@pytest.mark.parametrize("positions", [[15], [3, 7]])
def test_response_equals_brute_force(kind: str, positions: list[int]) -> None:
    torch.manual_seed(0)
    query, key, where = torch.randn(2, 5, 24, 8), torch.randn(2, 5, 16, 8), torch.tensor(positions)
    expected = brute_force(kind, query, key, where)
    torch.testing.assert_close(RESPONSES[kind](query, key, where, 8**-0.5), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["score", "probability"])
@pytest.mark.parametrize("size", [(8, 8), (4, 12), (12, 20)])
def test_every_layer_hands_out_its_own_response(kind: str, size: tuple[int, int]) -> None:
    """All 70 layers of Kolors against Q and K taken at each layer's own projections."""
    torch.manual_seed(1)
    model = TADiSR(tiny_kolors_config(text_attention=TextAttentionConfig(response=kind))).eval()
    model.prompt.embedding.normal_()
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    heads: list[int] = []
    for name, layer in model.unet.named_modules():
        if name.endswith("attn2"):
            layer.to_q.register_forward_hook(lambda _m, _i, out: seen.append((out, torch.empty(0))))
            layer.to_k.register_forward_hook(lambda _m, _i, out: seen.append((seen.pop()[0], out)))
            layer.register_forward_hook(lambda m, _i, _o: heads.append(m.heads))
    with torch.inference_mode():
        _, responses = model.denoise(torch.randn(2, 4, *size))
    assert len(responses) == 70
    assert sum(maps.shape[1] for maps in responses) == 1300 == model.recorder.channels
    for maps, (query, key), count in zip(responses, seen, heads, strict=True):
        query, key = (x.unflatten(-1, (count, -1)).transpose(1, 2) for x in (query, key))
        expected = brute_force(kind, query, key, model.prompt.positions)
        torch.testing.assert_close(maps.flatten(2), expected, atol=1e-5, rtol=1e-4)


def test_recording_changes_nothing(tiny_kolors: TADiSR) -> None:
    """Bit for bit: the U-Net listening, and diffusers' own U-Net with its own processors."""
    from diffusers import UNet2DConditionModel

    plain = UNet2DConditionModel.from_config(tiny_kolors.config.unet).eval()
    plain.load_state_dict(tiny_kolors.unet.state_dict())
    latent = torch.randn(1, 4, 8, 8)
    conditions = tiny_kolors.prompt.conditions(1)
    with torch.inference_mode():
        expected = plain(latent, 200, **conditions).sample
        silent = tiny_kolors.unet(latent, 200, **conditions).sample
        with tiny_kolors.recorder.record_responses(tiny_kolors.prompt.positions, (8, 8)) as maps:
            recorded = tiny_kolors.unet(latent, 200, **conditions).sample
    assert len(maps) == 70
    assert torch.equal(silent, expected)
    assert torch.equal(recorded, expected)


def test_a_failed_run_leaves_nobody_listening(tiny_kolors: TADiSR) -> None:
    with pytest.raises(RuntimeError), tiny_kolors.recorder.record_responses(tiny_kolors.prompt.positions, (8, 8)):
        raise RuntimeError
    assert tiny_kolors.recorder.recording is None


def test_the_release_selects_550_heads() -> None:
    choice = TextAttentionConfig(response="probability", mid_block=False, heads="second_half", position=12)
    model = TADiSR(tiny_kolors_config(text_attention=choice)).eval()
    with torch.inference_mode():
        _, responses = model.denoise(torch.randn(1, 4, 8, 8))
    assert (len(responses), model.recorder.channels) == (60, 550)
    assert model.prompt.find_word_rows(12).tolist() == [12]


def test_level_size_halves_rounding_up() -> None:
    assert level_size(15, (10, 5)) == (5, 3)
    with pytest.raises(ConfigError, match="7 queries"):
        level_size(7, (10, 5))


def test_projection_equals_resize_then_one_convolution() -> None:
    """W_a at each level's own size is Eq. 4's W_a on the joined stack at latent size."""
    torch.manual_seed(0)
    maps = [torch.randn(2, 3, 4, 6), torch.randn(2, 2, 8, 12), torch.randn(2, 4, 4, 6)]
    projection = TextProjection(channels=9, width=5)
    large = [torch.nn.functional.interpolate(m, (8, 12), mode="bilinear", align_corners=False) for m in maps]
    expected = torch.nn.functional.conv2d(torch.cat(large, 1), projection.weight, projection.bias)
    torch.testing.assert_close(projection(maps, (8, 12)), expected, atol=1e-5, rtol=1e-5)


def test_the_authors_resize_is_bicubic_and_clamped() -> None:
    """As DAAM joins heat maps: every map, those of the latent's size too. Only where there are responses."""
    torch.manual_seed(0)
    maps = [torch.randn(2, 3, 4, 6), torch.randn(2, 2, 8, 12), torch.randn(2, 4, 4, 6)]
    projection = TextProjection(channels=9, width=5, resize="clamped_bicubic")
    large = [
        torch.nn.functional.interpolate(m, (8, 12), mode="bicubic", align_corners=False).clamp(min=0) for m in maps
    ]
    expected = torch.nn.functional.conv2d(torch.cat(large, 1), projection.weight, projection.bias)
    torch.testing.assert_close(projection(maps, (8, 12)), expected, atol=1e-5, rtol=1e-5)
    config = preset("compact")
    for enabled, resize in ((True, "clamped_bicubic"), (False, "bilinear")):
        attention = dataclasses.replace(config.text_attention, resize="clamped_bicubic", enabled=enabled)
        model = TADiSR(dataclasses.replace(config, text_attention=attention))
        assert model.text_attention is not None and model.text_attention.resize == resize


def test_compact_listens_to_its_own_word() -> None:
    model = TADiSR(preset("compact"))
    assert model.prompt.positions.tolist() == [model.config.prompt.tokens - 1]
    other = dataclasses.replace(model.config, text_attention=TextAttentionConfig(position=0))
    assert TADiSR(other).prompt.find_word_rows(0).tolist() == [0]
