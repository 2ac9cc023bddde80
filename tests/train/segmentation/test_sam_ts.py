"""SAM-TS: key for key as published, number for number as transformers' SAM; segmenters on images of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from repository import ROOT
from small_sam_ts import TINY, split, tiny
from torch import Tensor
from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

from tadisr.errors import CheckpointError
from train.data.sources import open_source
from train.segmentation import open_segmenter, quantize_mask
from train.segmentation.run import SamTSSegmenter
from train.segmentation.sam_ts import checkpoint
from train.segmentation.sam_ts.network import VARIANTS, SamTS

KEYS = ROOT / "tests" / "fixtures" / "samts_vit_b.txt"


# ---- the published layout -------------------------------------------------------------------------------------------


def published() -> dict[str, list[int]]:
    """`image_encoder.pos_embed 1 64 64 768`, one a line."""
    rows = (line.split() for line in KEYS.read_text().splitlines())
    return {name: [int(n) for n in shape] for name, *shape in rows}


def test_vit_b_has_every_key_and_shape_of_the_published_model() -> None:
    with torch.device("meta"):
        model = SamTS(VARIANTS["vit_b"])
    own = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert own == published() and len(own) == 464
    assert sum(t.numel() for t in model.state_dict().values()) == pytest.approx(102.2e6, rel=1e-3)
    kept = {n: t for n, t in model.state_dict().items() if not n.startswith("image_encoder.") or "Adapter" in n}
    assert len(kept) == 287 and sum(t.numel() for t in kept.values()) == pytest.approx(12.5e6, rel=0.01)


@pytest.mark.parametrize(("variant", "width", "depth", "last"), [("vit_l", 1024, 24, 23), ("vit_h", 1280, 32, 31)])
def test_the_larger_variants(variant: str, width: int, depth: int, last: int) -> None:
    with torch.device("meta"):
        state = SamTS(VARIANTS[variant]).state_dict()
    assert state["image_encoder.pos_embed"].shape == (1, 64, 64, width)
    rel = {i: state[f"image_encoder.blocks.{i}.attn.rel_pos_h"].shape[0] for i in range(depth)}
    assert [i for i, length in rel.items() if length == 127] == list(VARIANTS[variant].global_blocks)
    assert max(rel) == last and set(rel.values()) == {27, 127}


# ---- numbers, against transformers' SAM -----------------------------------------------------------------------------

RENAMED = (  # transformers' names -> those of SAM's checkpoints, in this order
    ("shared_image_embedding.positional_embedding", "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    ("vision_encoder.layers", "image_encoder.blocks"),
    ("vision_encoder", "image_encoder"),
    ("patch_embed.projection", "patch_embed.proj"),
    ("neck.conv1", "neck.0"),
    ("neck.layer_norm1", "neck.1"),
    ("neck.conv2", "neck.2"),
    ("neck.layer_norm2", "neck.3"),
    ("layer_norm_final_attn", "norm_final_attn"),
    ("layer_norm", "norm"),
    ("upscale_conv1", "output_upscaling.0"),
    ("upscale_norm", "output_upscaling.1"),
    ("upscale_conv2", "output_upscaling.3"),
)
HEAD = ((".layers.0.", ".layers.1."), ("proj_in", "layers.0"), ("proj_out", "layers.2"))


def renamed(theirs: SamModel) -> dict[str, Tensor]:
    """SAM's checkpoint as its owners would have published these weights, without what text does not need."""
    state = {}
    for name, tensor in theirs.state_dict().items():
        rules = RENAMED + HEAD if "_mlps." in name or "iou_prediction_head" in name else RENAMED
        for old, new in rules:
            name = name.replace(old, new)
        state[name] = tensor
    return {k: v for k, v in state.items() if not k.startswith("prompt_encoder.") or "pe_layer" in k}


@pytest.fixture(scope="module")
def theirs() -> SamModel:
    """transformers' SAM at TINY's widths, random."""
    torch.manual_seed(1)
    config = SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=TINY.width,
            output_channels=TINY.channels,
            num_hidden_layers=TINY.depth,
            num_attention_heads=TINY.heads,
            image_size=TINY.image,
            patch_size=TINY.patch,
            window_size=TINY.window,
            global_attn_indexes=list(TINY.global_blocks),
            mlp_dim=4 * TINY.width,
            num_pos_feats=TINY.channels // 2,
        ).to_dict(),
        prompt_encoder_config=SamPromptEncoderConfig(
            hidden_size=TINY.channels, image_size=TINY.image, patch_size=TINY.patch
        ).to_dict(),
        mask_decoder_config=SamMaskDecoderConfig(
            hidden_size=TINY.channels, mlp_dim=TINY.hidden, iou_head_hidden_dim=TINY.channels
        ).to_dict(),
    )
    model = SamModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:
                parameter.normal_(0, 0.3)
            elif parameter.ndim > 1:
                parameter.normal_(0, 0.15)
            elif "norm" not in name:
                parameter.normal_(0, 0.1)
    return model


@pytest.fixture(scope="module")
def ours(theirs: SamModel) -> SamTS:
    """TINY with transformers' weights and adapters that do nothing."""
    model = tiny(calm=True)
    left = model.load_state_dict(renamed(theirs), strict=False)
    assert not left.unexpected_keys
    assert all(checkpoint.is_new(k) or k.startswith("prompt_encoder.") for k in left.missing_keys)
    return model


def test_the_image_encoder_is_sams(theirs: SamModel, ours: SamTS) -> None:
    image = torch.randn(2, 3, TINY.image, TINY.image)
    with torch.inference_mode():
        expected = theirs.vision_encoder(image).last_hidden_state
        torch.testing.assert_close(ours.image_encoder(image), expected, atol=2e-4, rtol=1e-3)
        assert expected.std() > 0.1


def test_the_positional_code_is_sams(theirs: SamModel, ours: SamTS) -> None:
    torch.testing.assert_close(ours.prompt_encoder.places(8), theirs.get_image_wide_positional_embeddings())


def test_the_mask_decoder_is_sams(theirs: SamModel, ours: SamTS) -> None:
    embedding, prompts = torch.randn(2, TINY.channels, 8, 8), torch.randn(2, TINY.prompts, TINY.channels)
    places = theirs.get_image_wide_positional_embeddings()
    with torch.inference_mode():
        expected = theirs.mask_decoder(
            image_embeddings=embedding,
            image_positional_embeddings=places.expand(2, -1, -1, -1),
            sparse_prompt_embeddings=prompts[:, None],
            dense_prompt_embeddings=torch.zeros_like(embedding),
            multimask_output=False,
        )
        low, high, iou, high_iou = ours.mask_decoder(embedding, places, prompts)
    torch.testing.assert_close(low, expected[0][:, 0], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(iou, expected[1][:, 0], atol=1e-4, rtol=1e-3)
    assert expected[0].std() > 0.01
    assert high.shape == (2, 1, TINY.image, TINY.image) and high_iou.shape == (2, 1)


# ---- what SAM-TS adds, against its own formulas ---------------------------------------------------------------------


def test_adapters_stand_where_hi_sam_puts_them() -> None:
    """x + adapter(attention) with its skip, beside the MLP at a half without one."""
    block = tiny().image_encoder.blocks[1]
    x = torch.randn(1, 8, 8, TINY.width)

    def bottleneck(adapter: Any, y: Tensor) -> Tensor:
        return adapter.D_fc2(torch.nn.functional.gelu(adapter.D_fc1(y)))

    with torch.inference_mode():
        attended = block.attn(block.norm1(x))
        middle = x + attended + bottleneck(block.Space_Adapter, attended)
        normed = block.norm2(middle)
        expected = middle + block.mlp(normed) + 0.5 * bottleneck(block.MLP_Adapter, normed)
        torch.testing.assert_close(block(x), expected)


def test_a_prompt_is_the_image_under_its_map() -> None:
    aligner = tiny().modal_aligner
    embedding = torch.randn(2, TINY.channels, 8, 8)
    seen: list[Tensor] = []
    handle = aligner.transformer_layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        prompts = aligner(embedding)
        maps = aligner.conv(embedding).sigmoid()
    handle.remove()
    expected = (maps[:, :, None] * embedding[:, None]).mean((-2, -1))  # (B, prompts, C)
    torch.testing.assert_close(seen[0], expected)
    assert prompts.shape == (2, TINY.prompts, TINY.channels)


def test_only_text_parts_learn_and_gradients_reach_them() -> None:
    model = tiny().train()
    model.learn_text_only()
    out = model(torch.randn(1, 3, TINY.image, TINY.image))
    (out.high.mean() + out.low.mean() + out.high_iou.mean() + out.low_iou.mean()).backward()
    learning = {n for n, p in model.named_parameters() if p.requires_grad}
    with_gradient = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert with_gradient <= learning
    silent = learning - with_gradient  # masks 1 to 3 and the aligner's unused biases get no gradient by design
    assert all("output_hypernetworks_mlps." in n or "in_proj" in n or "k_proj.bias" in n for n in silent), silent
    assert "image_encoder.blocks.0.Space_Adapter.D_fc1.weight" in with_gradient
    assert "modal_aligner.conv.0.weight" in with_gradient


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    mine, sam = split(tiny(3))
    torch.save(mine, tmp_path / "sam_tss_b_textseg.pth")
    torch.save(sam, tmp_path / "sam_vit_b_01ec64.pth")
    return tmp_path / "sam_tss_b_textseg.pth", tmp_path / "sam_vit_b_01ec64.pth"


def same(model: SamTS, other: SamTS) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())


def test_hi_sams_file_and_sams_make_one_model(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both have a tensor Hi-SAM's counts; SAM's file is found beside the other too."""
    assert same(checkpoint.load_sam_ts(files[0], sam=files[1], config=TINY), tiny(3))
    monkeypatch.setitem(VARIANTS, "vit_b", TINY)
    assert same(checkpoint.load_sam_ts(files[0]), tiny(3))


@pytest.mark.parametrize("legacy", [False, True])
def test_training_checkpoints_are_unwrapped(tmp_path: Path, legacy: bool) -> None:
    state = {f"module.{k}": v for k, v in tiny(4).state_dict().items()}
    state["module.hi_decoder.iou_token.weight"] = torch.zeros(1, 32)  # Hi-SAM's decoder of words and lines
    whole = {"model": state, "optimizer": {}, "lr_scheduler": {}, "epoch": 7}
    torch.save(whole, tmp_path / "hi_sam_b.pth", _use_new_zipfile_serialization=not legacy)
    assert same(checkpoint.load_sam_ts(tmp_path / "hi_sam_b.pth", config=TINY), tiny(4))


def test_our_own_file_stands_alone(tmp_path: Path) -> None:
    checkpoint.save_sam_ts(tiny(5), tmp_path / "s.safetensors", training={"steps": 3})
    model = checkpoint.load_sam_ts(tmp_path / "s.safetensors")
    assert same(model, tiny(5)) and model.config == TINY
    segmenter = open_segmenter(tmp_path / "s.safetensors")
    assert isinstance(segmenter, SamTSSegmenter) and len(segmenter.digest) == 64


def test_training_starts_from_sam_with_adapters_that_do_nothing(files: tuple[Path, Path]) -> None:
    model = checkpoint.from_sam(files[1], config=TINY).eval()
    calm = tiny(3)
    with torch.no_grad():
        for name, parameter in calm.named_parameters():
            if "Adapter.D_fc2" in name:
                parameter.zero_()
        x = torch.randn(1, 3, TINY.image, TINY.image)
        torch.testing.assert_close(model.image_encoder(x), calm.image_encoder(x))


def test_wrong_files_are_refused_in_one_sentence(tmp_path: Path, files: tuple[Path, Path]) -> None:
    mine, _ = split(tiny(3))

    def refused(said: str, data: Any, **options: Any) -> None:
        path = tmp_path / "wrong.pth"
        path.write_bytes(data) if isinstance(data, bytes) else torch.save(data, path)
        with pytest.raises(CheckpointError, match=said) as caught:
            checkpoint.load_sam_ts(path, **options)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500

    key = "mask_decoder.output_upscaling_hr.0.bias"
    refused(
        f"lacks {key} \\(1 missing, 0 unknown", {k: v for k, v in mine.items() if k != key}, sam=files[1], config=TINY
    )
    refused("has the unknown head.weight", mine | {"head.weight": torch.zeros(1)}, sam=files[1], config=TINY)
    refused(f"{key} is \\(3,\\), expected \\(2,\\)", mine | {key: torch.zeros(3)}, sam=files[1], config=TINY)
    refused("width 32 and depth 3; known are vit_b 768 x 12", mine)
    refused("expected a checkpoint of SAM-TS or of SAM", {"conv.weight": torch.zeros(1)})
    refused("no table of tensors", {"conv.weight": 1.0})
    refused("not a whole checkpoint", files[0].read_bytes()[:5000])
    refused("not a whole checkpoint", b"nothing of the kind")
    (tmp_path / "alone").mkdir()
    alone = files[0].rename(tmp_path / "alone" / "sam_tss_b.pth")
    with pytest.raises(CheckpointError, match=r"no image encoder: give SAM's sam_vit_\*\.pth"):
        checkpoint.load_sam_ts(alone, config=TINY)
    with pytest.raises(CheckpointError, match="no file"):
        checkpoint.load_sam_ts(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="is no segmenter"):
        open_segmenter("sam")


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="not a whole checkpoint of plain tensors"):
        checkpoint.load_sam_ts(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


# ---- images -------------------------------------------------------------------------------------------------------


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_any_sizes_in_one_call_are_as_one_by_one(tmp_path: Path) -> None:
    """128 counts as 1024: what is larger goes through in windows."""
    segmenter = SamTSSegmenter(tmp_path / "none", model=tiny(6), batch=3)
    pictures = [picture(*size, seed=i) for i, size in enumerate(((20, 90), (128, 128), (1, 7), (150, 60), (300, 200)))]
    together = segmenter(pictures)
    for image, mask in zip(pictures, together, strict=True):
        assert mask.shape == image.shape[:2] and mask.dtype == np.float32 and mask.min() >= 0 and mask.max() <= 1
        np.testing.assert_allclose(segmenter([image])[0], mask, atol=2e-4)


def test_a_small_image_fills_the_square_as_hi_sam_scales_it(tmp_path: Path) -> None:
    """By hand: longer side to 1024 (here 128), bilinear, normalised, padded right and below; the answer brought back."""
    model, image = tiny(7), picture(32, 64)
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    x = torch.nn.functional.interpolate(x, (64, 128), mode="bilinear", align_corners=False)
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    square = torch.zeros(1, 3, 128, 128)
    square[..., :64, :] = (x - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.inference_mode():
        logits = model(square).high[..., :64, :]
        expected = torch.nn.functional.interpolate(logits, (32, 64), mode="bilinear", align_corners=False).sigmoid()[
            0, 0
        ]
    np.testing.assert_allclose(SamTSSegmenter(tmp_path, model=model)([image])[0], expected.numpy(), atol=1e-5)


def test_windows_join_without_a_seam(tmp_path: Path) -> None:
    """A network that answers with the brightness it sees gives back the image, whatever the windows."""

    class Brightness(SamTS):
        def forward(self, image: Tensor) -> Any:
            shown = image[:, :1] * 58.395 + 123.675
            return type("P", (), {"high": shown / 32 - 4})()

    model = Brightness(TINY).eval()
    ramp = np.broadcast_to(np.linspace(0, 255, 400)[None, :, None], (300, 400, 3)).astype(np.uint8)
    (mask,) = SamTSSegmenter(tmp_path, model=model, batch=4)([np.ascontiguousarray(ramp)])
    logits = np.log(mask / (1 - mask))
    np.testing.assert_allclose(logits, ramp[..., 0] / 32 - 4, atol=0.05)


def test_the_shipped_model_finds_rendered_text() -> None:
    segmenter = open_segmenter("compact")
    fonts = [f"/usr/share/fonts/truetype/{name}" for name in ("dejavu", "liberation", "wqy")]  # whatever else there is
    source = open_source("rendered", count=8, seed=11, height=(40, 64), fonts=fonts)
    items = [source[i] for i in range(4)]
    for item, mask in zip(items, segmenter([item.image for item in items]), strict=True):
        truth, found = item.mask > 127, mask > 0.5
        assert (truth & found).sum() / (truth | found).sum() > 0.4, item.label
    (blank,) = segmenter([np.full((40, 70, 3), 200, np.uint8)])
    assert blank.shape == (40, 70) and blank.mean() < 0.05
    assert set(np.unique(quantize_mask(mask))) == {0, 255} and len(np.unique(quantize_mask(mask, None))) > 9
