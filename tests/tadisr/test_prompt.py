"""Prompt files: what is written comes back, replaces an adapter's prompt, and is refused where it does not fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import randomize, tiny_kolors_config
from tiny_glm import tiny_glm, write_diffusers, write_single, write_vocabulary

from tadisr import TADiSR, load, preset
from tadisr.checkpoints import adapter
from tadisr.checkpoints.base_model import load_base
from tadisr.cli import main
from tadisr.config import LoRAConfig
from tadisr.errors import CheckpointError
from tadisr.inference import staged
from tadisr.model.lora import add_lora
from tadisr.prompt import EncodedPrompt, read_prompt, use_prompt, with_prompt


def encoded(*, width: int = 32, pooled: int | None = 32, tokens: int = 16, seed: int = 0) -> EncodedPrompt:
    torch.manual_seed(seed)
    return EncodedPrompt(
        embedding=torch.randn(1, tokens, width), pooled=torch.randn(1, pooled) if pooled else None,
        mask=(torch.arange(tokens) > 8).long(), positions=torch.tensor([tokens - 2, tokens - 1]),
        text="清晰的文字, text", word="text", encoder="abc", tokenizer="def",
    )  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "prompts" / "mine.safetensors"
    encoded().save(path)
    return path


def test_a_saved_prompt_is_read_bit_for_bit(file: Path) -> None:
    assert read_prompt(file).equals(encoded())
    assert not read_prompt(file).equals(encoded(seed=1))
    assert not read_prompt(file).equals(dataclasses.replace(encoded(), word="文字"))
    without = encoded(pooled=None)
    without.save(file)
    assert read_prompt(file).equals(without) and not read_prompt(file).equals(encoded())


def test_names_and_header_are_promises(file: Path) -> None:
    with safe_open(file, "pt") as opened:
        assert set(opened.keys()) == {"embedding", "pooled", "mask", "positions"}
        assert opened.metadata()["tadisr.prompt.format"] == "1" and "清晰的文字" in opened.metadata()["tadisr.prompt"]


def test_writing_is_whole_or_not_at_all(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def fail(_tensors: object, path: str, _header: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        encoded(seed=1).save(file)
    assert file.read_bytes() == before and [p.name for p in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": torch.tensor([16])}, "does not fit together"),
        ({"positions": torch.tensor([3])}, "does not fit together"),  # a pad
        ({"positions": torch.tensor([], dtype=torch.int64)}, "does not fit together"),
        ({"mask": torch.ones(15, dtype=torch.int64)}, "does not fit together"),
        ({"embedding": torch.ones(16, 32)}, "does not fit together"),
        ({"pooled": torch.full((1, 32), torch.nan)}, "NaN or infinite"),
    ],
)
def test_inconsistent_prompt_files_are_refused(file: Path, changes: dict[str, torch.Tensor], message: str) -> None:
    dataclasses.replace(encoded(), **changes).save(file)
    with pytest.raises(CheckpointError, match=message):
        read_prompt(file)


def test_files_that_hold_no_prompt_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no file"):
        read_prompt(tmp_path / "nothing")
    with safe_open(file, "pt") as opened:
        header = opened.metadata()
    tensors = load_file(file)
    save_file(tensors, file, header | {"tadisr.prompt.format": "2"})
    with pytest.raises(CheckpointError, match="format 2, this version reads 1"):
        read_prompt(file)
    save_file(tensors, file, header | {"tadisr.prompt": "{"})
    with pytest.raises(CheckpointError, match="cannot read"):
        read_prompt(file)
    tensors.pop("mask")
    save_file(tensors, file, header)
    with pytest.raises(CheckpointError, match="cannot read"):
        read_prompt(file)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        read_prompt(file)
    from tadisr import COMPACT

    with pytest.raises(CheckpointError, match="is no prompt file"):
        read_prompt(COMPACT)


def test_a_prompt_replaces_another(file: Path) -> None:
    """Another length too; the image changes with it, the word's new rows are listened to."""
    model = randomize(TADiSR(tiny_kolors_config())).eval()
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        before = model(image)
        use_prompt(model, read_prompt(file))
        after = model(image)
        longer = encoded(tokens=32)
        with with_prompt(model, longer):
            other = model(image)
            assert model.prompt.positions.tolist() == [30, 31]
        again = model(image)
    assert not torch.equal(before.latent, after.latent) and not torch.equal(other.latent, after.latent)
    assert torch.equal(again.latent, after.latent)
    assert model.prompt.positions.tolist() == [14, 15]
    assert (model.config.prompt.text, model.config.prompt.word) == ("清晰的文字, text", "text")
    assert model.config.prompt.time_ids == tiny_kolors_config().prompt.time_ids
    assert torch.equal(model.prompt.embedding, encoded().embedding)


def test_it_takes_the_models_number_type() -> None:
    model = TADiSR(tiny_kolors_config()).to(torch.bfloat16)
    prompt = model.prompt.replace_by(encoded())
    assert prompt.embedding.dtype == torch.bfloat16 and prompt.positions.dtype == torch.int64


@pytest.mark.parametrize("changes", [{"width": 64}, {"pooled": 64}, {"pooled": None}])
def test_a_prompt_of_another_base_is_refused(changes: dict[str, int]) -> None:
    model = TADiSR(tiny_kolors_config())
    with pytest.raises(CheckpointError, match="encode the prompt with the text encoder of its base"):
        model.prompt.replace_by(encoded(**changes))


def test_the_compact_model_has_none_to_replace(file: Path) -> None:
    with pytest.raises(CheckpointError, match="part of its weights"):
        load(prompt=file)
    model = TADiSR(preset("compact"))
    with pytest.raises(CheckpointError, match="part of its weights"):
        staged.denoise(model, torch.zeros(1, 8, 4, 4), prompt=read_prompt(file))


@pytest.fixture(scope="module")
def tiny_adapter(tmp_path_factory: pytest.TempPathFactory, kolors_base: Path) -> Path:
    torch.manual_seed(1)
    model = load_base(kolors_base, tiny_kolors_config())
    add_lora(model, LoRAConfig())
    path = tmp_path_factory.mktemp("adapter") / "tiny.safetensors"
    adapter.save_checkpoint(randomize(model), path)
    return path


def test_from_text_encoder_to_image(
    tmp_path: Path, tiny_adapter: Path, kolors_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Encode by the command, upscale with it by the command and by the library."""
    vocabulary = write_vocabulary(tmp_path / "tokenizer.model")
    root = write_diffusers(tmp_path / "Kolors", tiny_glm(vocabulary), vocabulary)
    out = tmp_path / "prompts" / "best.safetensors"
    command = ["prompt", "--text-encoder", str(root), "-o", str(out), "--device", "cpu"]
    assert main([*command, "--text", "招牌上的文字，清晰", "--word", "文字"]) == 0
    assert "tokens, the word '文字' at 2" in capsys.readouterr().out
    prompt = read_prompt(out)
    assert prompt.text == "招牌上的文字，清晰" and len(prompt.encoder) == len(prompt.tokenizer) == 64

    picture = tmp_path / "in.png"
    from PIL import Image

    Image.effect_noise((9, 8), 60).convert("RGB").save(picture)
    upscale = ["upscale", str(picture), "--model", str(tiny_adapter), "--base", str(kolors_base), "--device", "cpu"]
    assert main([*upscale, "-o", str(tmp_path / "a.png")]) == 0
    assert main([*upscale, "-o", str(tmp_path / "b.png"), "--prompt", str(out)]) == 0
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    model = load(tiny_adapter, base=kolors_base, prompt=out)
    assert torch.equal(model.prompt.embedding, prompt.embedding) and model.config.prompt.tokens == 256
    again = tmp_path / "again.safetensors"
    tensors = {k: v for k, v in load_file(tiny_adapter).items() if not k.startswith("prompt.")}
    adapter.save_checkpoint(
        model, again, tensors=tensors | {f"prompt.{k}": v for k, v in model.prompt.state_dict().items()}
    )
    assert torch.equal(load(again, base=kolors_base).prompt.embedding, prompt.embedding)


def test_wrong_arguments_get_one_sentence(
    tmp_path: Path, tiny_adapter: Path, kolors_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vocabulary = write_vocabulary(tmp_path / "tokenizer.model")
    source = write_single(tmp_path / "glm.safetensors", tiny_glm(vocabulary))
    out = str(tmp_path / "out.safetensors")
    assert main(["prompt", "--text-encoder", str(source), "-o", out, "--word", "nothing"]) == 1
    assert "'nothing' is not in the prompt" in capsys.readouterr().err
    assert main(["prompt", "--text-encoder", str(tmp_path / "none"), "-o", out]) == 1
    assert "There is no file" in capsys.readouterr().err
    assert not Path(out).exists()
    assert main(["upscale", str(tmp_path), "-o", out, "--prompt", str(source)]) == 1
