"""The authors' pickles: rebuilt in their own layout, imported, and held to the authors' way of computing."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import released
import torch
from safetensors.torch import load_file
from tiny import tiny_cogview4_config, tiny_kolors_config, write_base

from tadisr import CheckpointError, ConfigError, TADiSR, load, preset, upscale
from tadisr.checkpoints import adapter
from tadisr.checkpoints.release_import import PUBLISHED, read_release
from tadisr.cli import main
from tadisr.config import ModelConfig
from tadisr.model.joint_decoder import JointParts
from tadisr.prompt import EncodedPrompt

KINDS = ["kolors-release", "cogview4-release"]


def tiny(kind: str) -> ModelConfig:
    """The release's config at small widths; its latent is the mode, so that the authors' code can be followed."""
    real = preset(kind)
    small = tiny_kolors_config() if kind == "kolors-release" else tiny_cogview4_config()
    return dataclasses.replace(
        real, unet=small.unet, transformer=small.transformer, vae=small.vae, latent="mode",
        prompt=dataclasses.replace(small.prompt, text=real.prompt.text),
        decoder=dataclasses.replace(real.decoder, text_channels=small.decoder.text_channels),
    )  # fmt: skip


@dataclasses.dataclass
class Release:
    kind: str
    config: ModelConfig
    pickle: Path
    base: Path
    prompt: Path
    denoiser: torch.nn.Module  # with the authors' LoRA on it, as peft runs it
    vae: Any
    decoder: released.Decoder


@pytest.fixture(scope="module", params=KINDS)
def release(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Release:
    torch.manual_seed(7)
    folder, config = tmp_path_factory.mktemp(request.param), tiny(request.param)
    base = write_base(folder / "base", TADiSR(config))
    denoiser, vae, decoder = released.pieces(config, base)
    with torch.no_grad():
        for name, parameter in [*denoiser.named_parameters(), *vae.named_parameters(), *decoder.named_parameters()]:
            if "lora" in name or "skip" in name or name.startswith(("conv_in.", "interaction")):
                parameter.normal_(0, 0.05)
    file = released.save(folder / PUBLISHED[request.param].file, config, denoiser, vae, decoder)
    width, pooled = config.prompt.width, config.prompt.pooled
    prompt = EncodedPrompt(
        embedding=torch.randn(1, 16, width), pooled=torch.randn(1, pooled) if pooled else None,
        mask=torch.ones(16, dtype=torch.int64), positions=torch.tensor([15]), text=config.prompt.text, word="text",
    )  # fmt: skip
    prompt.save(folder / "prompt.safetensors")
    for module in (denoiser, vae, decoder):
        module.eval().requires_grad_(False)
    return Release(request.param, config, file, base, folder / "prompt.safetensors", denoiser, vae, decoder)


def imported(release: Release, path: Path, *, prompt: bool = True) -> Path:
    from tadisr.prompt import read_prompt

    found = read_release(release.pickle, prompt=read_prompt(release.prompt) if prompt else None, config=release.config)
    adapter.write_checkpoint(path, found.config, found.tensors, base={"name": found.config.name}, training=found.record)
    return path


@torch.inference_mode()
def as_the_authors_run_it(release: Release, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Their forward, peft and all, on the mode of the latent: image (B, 3, H, W) in [0, 1] -> image, mask logits."""
    vae, prompt = release.vae, load_file(release.prompt)
    hidden, skips = vae.encoder.conv_in(image * 2 - 1), []
    for block in vae.encoder.down_blocks:
        skips.append(hidden)
        hidden = block(hidden)
    hidden = vae.encoder.conv_out(vae.encoder.conv_act(vae.encoder.conv_norm_out(vae.encoder.mid_block(hidden))))
    hidden = hidden if vae.quant_conv is None else vae.quant_conv(hidden)
    factor = vae.config.scaling_factor
    z = hidden.chunk(2, 1)[0] * factor
    if release.kind == "kolors-release":
        ids = torch.tensor([[768.0, 768, 0, 0, 768, 768]])
        noise = release.denoiser(
            z, 200, prompt["embedding"], added_cond_kwargs={"text_embeds": prompt["pooled"], "time_ids": ids}
        ).sample
        z = (z - (1 - 0.7536917) ** 0.5 * noise) / 0.7536917**0.5
    else:
        size = torch.tensor([image.shape[-2:]], dtype=torch.float32)
        velocity = release.denoiser(z, prompt["embedding"], torch.tensor([200.0]), size, size, torch.zeros(1, 2)).sample
        z = z - 0.2 * velocity
    picture, mask = released.decode(vae, release.decoder, z / factor, skips)
    return picture / 2 + 0.5, mask


def test_an_imported_release_computes_what_the_authors_code_does(release: Release, tmp_path: Path) -> None:
    model = load(imported(release, tmp_path / "adapter.safetensors"), base=release.base)
    image = torch.rand(1, 3, 64, 96)
    picture, mask = as_the_authors_run_it(release, image)
    with torch.inference_mode():
        output = model(image)
    assert mask.std() > 1e-3 and picture.std() > 1e-3
    torch.testing.assert_close(output.image, picture, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(output.mask_logits, mask, atol=2e-4, rtol=1e-3)
    result = upscale(model, torch.rand(1, 3, 12, 20))
    assert result.image.shape == (1, 3, 48, 80) and result.mask.shape == (1, 1, 48, 80)


def test_without_a_prompt_it_asks_for_one_when_loaded(release: Release, tmp_path: Path) -> None:
    path = imported(release, tmp_path / "adapter.safetensors", prompt=False)
    assert not adapter.read_header(path).prompt
    with pytest.raises(CheckpointError, match=r"carries no prompt: give it a prompt file, .* once of '.*,text'"):
        load(path, base=release.base)
    image = torch.rand(1, 3, 32, 32)
    given = load(path, base=release.base, prompt=release.prompt)
    carried = load(imported(release, tmp_path / "carries.safetensors"), base=release.base)
    with torch.inference_mode():
        assert torch.equal(given(image).image, carried(image).image)


def test_each_tensor_is_written_once(release: Release, tmp_path: Path) -> None:
    """Once each: the file is as large as the distinct tensors; what is unknown stands in its header."""
    path = imported(release, tmp_path / "adapter.safetensors", prompt=False)
    tensors = load_file(path)
    state = torch.load(release.pickle, map_location="cpu", weights_only=True)
    distinct = {t.data_ptr(): t.numel() for table in state.values() if isinstance(table, dict) for t in table.values()}
    skips = [n for n in state["state_dict_vae"] if "skip_conv" in n and "lora_" in n]  # merged into their layers
    merged = sum(state["state_dict_vae"][n].numel() for n in skips)
    assert sum(t.numel() for t in tensors.values()) == sum(distinct.values()) - merged
    header = adapter.read_header(path)
    assert header.training["published"] is False and len(header.training["sha256"]) == 64
    assert header.training["unknown"].keys() >= {"prompt"}
    assert ("channel_mapping" in header.training["unknown"]) == (release.kind == "kolors-release")
    part = release.config.denoiser
    rooms = {name.split(".")[0] for name in tensors}
    assert rooms == {f"{part}_lora", "vae_lora", "decoder"} | ({"unet"} if part == "unet" else set())
    assert {n for n in tensors if n.startswith("unet.")} <= {"unet.conv_in.weight", "unet.conv_in.bias"}
    assert any(n.startswith("vae_lora.encoder.") for n in tensors) and "decoder.unused_skip.weight" in tensors


def test_lora_scale_is_alpha_over_rank(release: Release, tmp_path: Path) -> None:
    """2 in the denoiser, 4 in the VAE and in its skip convolutions."""
    model = load(imported(release, tmp_path / "adapter.safetensors"), base=release.base)
    for merged, trained, rank in ((model.denoiser, release.denoiser, 4), (model.vae, release.vae, 2)):
        name = next(n for n, _ in trained.named_modules() if n.endswith("conv2") or n.endswith("ff.net.2"))
        layer = trained.get_submodule(name)
        a, b = (layer.get_submodule(f"lora_{half}")[layer.active_adapters[0]].weight for half in "AB")
        update = (b.flatten(1) @ a.flatten(1)).view_as(layer.base_layer.weight) * (8 / rank)
        torch.testing.assert_close(
            merged.get_submodule(name).weight, layer.base_layer.weight + update, atol=1e-5, rtol=1e-4
        )


Change = Callable[[dict[str, Any]], object]


def retensor(table: str, name: str, tensor: Any) -> Change:
    return lambda state: state[table].update({name: tensor})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("state_dict_vae"), "lacks state_dict_vae"),
        (lambda s: s.update({"more": 1}), "has the unknown entry more"),
        (lambda s: s.update({"rank_unet": 8}), "has rank_unet 8, expected 4"),
        (lambda s: s["unet_lora_target_modules"].pop(), "unet_lora_target_modules"),
        (lambda s: s["state_dict_unet"].pop("conv_in.bias"), r"lacks conv_in.bias \(1 missing, 0 unknown\)"),
        (retensor("state_dict_vae", "x.weight", torch.ones(1)), "unknown tensor x.weight"),
        (retensor("state_dict_unet", "conv_in.bias", torch.ones(3)), r"conv_in.bias is \(3,\).*expected \(20,\)"),
        (retensor("mi_decoder", "out_block.2.bias", torch.full((1,), torch.nan)), "NaN or infinite"),
        (retensor("mi_decoder", "out_block.2.bias", "one"), r"out_block.2.bias is str, expected \(1,\)"),
        (
            retensor("mi_decoder", "interaction_blocks.0.0.block1.3.seq_r.0.bias", torch.ones(128)),
            "are one tensor in the release, here they differ",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, change: Change, message: str, kolors_pickle: Path) -> None:
    state = torch.load(kolors_pickle, map_location="cpu", weights_only=True)
    change(state)
    torch.save(state, tmp_path / "changed.pkl")
    with pytest.raises(CheckpointError, match=message):
        read_release(tmp_path / "changed.pkl", config=tiny("kolors-release"))


@pytest.fixture(scope="module")
def kolors_pickle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny("kolors-release")
    return released.save(tmp_path_factory.mktemp("pickle") / "kolors.pkl", config, *released.pieces(config))


class Nasty:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (print, ("run",))


def test_files_that_are_no_release(tmp_path: Path, capsys: pytest.CaptureFixture[str], kolors_pickle: Path) -> None:
    path = tmp_path / "file.pkl"
    with pytest.raises(CheckpointError, match="There is no file"):
        read_release(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        read_release(path)
    path.write_bytes(kolors_pickle.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match="download it again"):
        read_release(path)
    torch.save({"state_dict_unet": Nasty()}, path)
    with pytest.raises(CheckpointError, match="no pickle of tensors alone"):
        read_release(path)
    path.write_bytes(pickle.dumps(Nasty()))
    with pytest.raises(CheckpointError):
        read_release(path)
    assert "run" not in capsys.readouterr().out
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="holds a list"):
        read_release(path)
    torch.save({"params_ema": {}}, path)
    with pytest.raises(CheckpointError, match="has the entries params_ema"):
        read_release(path)


def test_the_command_refuses_a_release_of_other_shapes(
    kolors_pickle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of small widths is no release to it: names all fit, shapes do not."""
    out = tmp_path / "adapter.safetensors"
    assert main(["import-release", str(kolors_pickle), "-o", str(out)]) == 1
    assert "conv_in.weight is (20, 4, 3, 3)" in capsys.readouterr().err and not out.exists()


def test_release_blocks_need_streams_of_one_width() -> None:
    config = preset("kolors-release").decoder
    with torch.device("meta"):
        with pytest.raises(ConfigError, match=r"starts at 256 channels, .* has 512"):
            JointParts(
                dataclasses.replace(config, text_channels=(256,) * 5), vae_channels=[128, 256, 512, 512], patch=1
            )
        with pytest.raises(ConfigError, match="has one width"):
            JointParts(
                dataclasses.replace(config, text_channels=(512, 256, 256, 256, 256)),
                vae_channels=[128, 256, 512, 512], patch=1,
            )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "names", "distinct", "numbers", "newer"),
    [
        ("kolors-release", (220, 1546, 152), 156, (35_672_065, 12_178_256, 938_132), 0),
        ("cogview4-release", (214, 338, 168), 150, None, 405),  # written by a torch that adds as many bytes of records
    ],
)
def test_the_real_layout_at_real_size(
    kind: str, names: tuple[int, int, int], distinct: int, numbers: tuple[int, int, int] | None, newer: int,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The published files to the byte, by name of tensor and size of file; imported, the decoder run."""
    config, published = preset(kind), PUBLISHED[kind]
    path, decoder = released.at_real_size(
        tmp_path / f"model_{published.steps}.pkl", config
    )  # its name when it was saved
    assert released.size_by_older_torch(path) == published.bytes - newer
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    tables = [table for table in state.values() if isinstance(table, dict)]
    assert tuple(len(table) for table in tables) == names
    assert len({tensor.data_ptr() for tensor in tables[0].values()}) == distinct
    if numbers is not None:
        assert tuple(sum({t.data_ptr(): t.numel() for t in table.values()}.values()) for table in tables) == numbers
    del state, tables
    out = tmp_path / "adapter.safetensors"
    assert main(["import-release", str(path), "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert "but another content" in said and "It carries no prompt. Encode" in said
    assert "Unknown, prompt: its embedding was not published; it is to be made" in said  # and not: here it is
    tensors = load_file(out)
    with torch.device("meta"):
        parts = JointParts(config.decoder, vae_channels=config.vae["block_out_channels"], patch=1)
    parts.load_state_dict(
        {n.removeprefix("decoder."): t for n, t in tensors.items() if n.startswith("decoder.")}, assign=True
    )
    assert out.stat().st_size < published.bytes
    assert parts.text is not None and parts.interactions is not None
    channels = config.decoder.text_channels
    with torch.inference_mode():
        for level in range(4):
            z, a = (torch.randn(1, channels[level], 6, 4) for _ in range(2))
            for got, expected in zip(
                parts.interactions[level](z, a), decoder.interaction_blocks[level](z, a), strict=True
            ):
                torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(parts.text.up_blocks[level](a), decoder.up_blocks[level](a))
        a = torch.randn(1, channels[-1], 6, 4)
        torch.testing.assert_close(parts.text.out(a), decoder.out_block(a))
