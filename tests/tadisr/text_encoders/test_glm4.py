"""CogView4's prompt: a tiny GLM in the published folder's layout, held to diffusers' own pipeline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_glm import into_hub_cache, write_cogview4_text

from tadisr import CheckpointError, ConfigError
from tadisr.cli import main
from tadisr.prompt import read_prompt
from tadisr.text_encoders import encoder_of, glm4
from tadisr.text_encoders.glm4 import encode_prompt, is_glm

TEXT = "Color Grading, ultra HD, 文字,text"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cogview4_text(tmp_path_factory.mktemp("CogView4"), [TEXT, "text context Color"])


def test_it_is_what_the_pipeline_feeds_the_transformer(folder: Path) -> None:
    from diffusers import CogView4Pipeline
    from transformers import AutoTokenizer, GlmModel

    encoder = GlmModel.from_pretrained(folder / "text_encoder").eval()
    pipeline = CogView4Pipeline.__new__(CogView4Pipeline)
    pipeline.tokenizer, pipeline.text_encoder = AutoTokenizer.from_pretrained(folder / "tokenizer"), encoder
    with torch.inference_mode():
        expected = pipeline._get_glm_embeds(TEXT, device="cpu")
    layers: list[tuple[int, int]] = []
    prompt = encode_prompt(folder, text=TEXT, progress=lambda done, total: layers.append((done, total)))
    torch.testing.assert_close(prompt.embedding, expected, atol=1e-6, rtol=1e-5)
    assert prompt.embedding.shape[1] % 16 == 0 and prompt.pooled is None
    assert layers == [(1, 3), (2, 3), (3, 3)]
    assert is_glm(folder) and is_glm(folder / "text_encoder") and not is_glm(folder / "tokenizer")


def test_a_hub_cache_folder(folder: Path, tmp_path: Path) -> None:
    cache = into_hub_cache(folder, tmp_path / "models--THUDM--CogView4-6B")
    expected = encode_prompt(folder, text=TEXT)
    assert encoder_of(cache) is glm4 and encode_prompt(cache, text=TEXT).equals(expected)
    assert encode_prompt(folder / "text_encoder", tokenizer=cache, text=TEXT).equals(expected)


@pytest.mark.parametrize("word", ["text", "文字", "ultra HD"])
def test_the_word_is_found_by_what_it_spells(folder: Path, word: str) -> None:
    from transformers import AutoTokenizer

    prompt = encode_prompt(folder, text=TEXT, word=word)
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    ids = tokenizer(TEXT)["input_ids"]
    pads = len(prompt.mask) - len(ids)
    assert prompt.mask.tolist() == [0] * pads + [1] * len(ids)
    spelled = tokenizer.decode([ids[i - pads] for i in prompt.positions.tolist()])
    assert word in spelled and len(spelled) <= len(word) + 1


def test_what_is_wrong_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'word' is not in the prompt"):
        encode_prompt(folder, text=TEXT, word="word")
    with pytest.raises(CheckpointError, match=r"has neither model\.safetensors\.index\.json"):
        encode_prompt(tmp_path)
    (tmp_path / "text_encoder").symlink_to(folder / "text_encoder")
    with pytest.raises(CheckpointError, match=r"There is no tokenizer\.json"):
        encode_prompt(tmp_path, text=TEXT)
    other = tmp_path / "other"
    other.mkdir()
    for path in (folder / "text_encoder").iterdir():
        (other / path.name).symlink_to(path)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").unlink()
    (other / "config.json").write_text(json.dumps(config | {"hidden_size": 48}))
    with pytest.raises(CheckpointError, match=r"is not the GLM of its config\.json"):
        encode_prompt(other, tokenizer=folder, text=TEXT)


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("whole", [True, False])
def test_without_its_config_it_is_still_known(
    folder: Path, tmp_path: Path, whole: bool, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence is CogView4's, not ChatGLM3's, with shards and with one file."""
    shutil.copytree(folder, tmp_path / "CogView4")
    encoder = tmp_path / "CogView4" / "text_encoder"
    (encoder / "config.json").unlink()
    state = {prefix + n: t for shard in encoder.glob("*.safetensors") for n, t in load_file(shard).items()}
    for path in list(encoder.iterdir()):
        path.unlink()
    file = encoder / ("model.safetensors" if whole else "model-00001-of-00001.safetensors")
    save_file(state, file)
    if not whole:
        index = {"weight_map": dict.fromkeys(state, file.name)}
        (encoder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert is_glm(encoder) and not is_glm(file)
    for path in (encoder, encoder.parent):
        assert main(["prompt", "--text-encoder", str(path), "-o", str(tmp_path / "out.safetensors")]) == 1
        said = capsys.readouterr().err
        assert "has CogView4's GLM-4 in it, but not its config.json" in said and "ChatGLM" not in said


@pytest.mark.parametrize("within", ["", "snapshots/abcd"])
def test_a_cogview4_folder_without_its_text_encoder(
    tmp_path: Path, within: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As download cogview4 leaves it; also in the hub's cache."""
    (tmp_path / within / "transformer").mkdir(parents=True)
    assert main(["prompt", "--text-encoder", str(tmp_path), "-o", str(tmp_path / "out.safetensors")]) == 1
    assert "download cogview4 --parts text_encoder tokenizer fetches" in capsys.readouterr().err


def test_the_command_knows_which_encoder_it_has(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "prompt.safetensors"
    assert main(["prompt", "--text-encoder", str(folder), "--device", "cpu", "-o", str(out)]) == 0
    prompt = read_prompt(out)
    assert prompt.text.startswith("Cinematic, High Contrast") and prompt.text.endswith(",text")
    assert "the word 'text' at" in capsys.readouterr().out
