"""Training: it learns, it resumes bit for bit, its files load."""

from __future__ import annotations

import csv
import dataclasses
from functools import partialmethod
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from fonts import FONTS
from repository import CONFIGS
from safetensors.torch import load_file
from small_training import config, read_losses

import tadisr
from tadisr import ConfigError, TADiSR
from tadisr.checkpoints import adapter
from tadisr.checkpoints.base_model import load_base
from tadisr.errors import TADiSRError
from train.config import FitConfig
from train.fit import main, run_training, training_record
from train.loop.schedule import EMA, Watch, learning_rate
from train.loop.setup import build_model, build_optimizer
from train.memory import estimate_memory

pytestmark = pytest.mark.skipif(not FONTS, reason="no fonts under /usr/share/fonts: install fonts-liberation")


def test_resume_is_bit_for_bit(tmp_path: Path) -> None:
    """Four steps at once, and two, a stop, two more with another number of workers: the same weights and log."""
    whole = run_training(config(tmp_path / "whole", "steps=4"))
    stopped = config(tmp_path / "parts", "steps=4", "data.workers=0")

    class Stop(Exception):
        pass

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):

        def stop_at_three(given: FitConfig, step: int) -> float:
            if step == 3:
                raise Stop
            return learning_rate(given, step)

        patch.setattr("train.fit.learning_rate", stop_at_three)
        run_training(stopped)
    parts = run_training(stopped)
    one, other = load_file(whole / "model.safetensors"), load_file(parts / "model.safetensors")
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    assert read_losses(whole) == read_losses(parts)
    assert [row[0] for row in read_losses(parts)] == ["1", "2", "3", "4"]
    assert (whole / "panel-0000004.png").read_bytes() == (parts / "panel-0000004.png").read_bytes()
    assert list(whole.glob("events.*"))


def test_a_checkpoint_loads_and_says_how_it_was_made(tmp_path: Path) -> None:
    out = run_training(config(tmp_path / "run", "steps=2", "ema=0"))
    header = adapter.read_header(out / "model.safetensors")
    assert header.training["steps"] == 2 and header.training["seed"] == 0
    assert header.training["data"]["crop"] == 64 and header.training["loss"]["lpips"] == "off"
    assert tadisr.upscale(tadisr.load(out / "model.safetensors"), torch.rand(1, 3, 9, 9)).image.shape == (1, 3, 36, 36)
    again = run_training(config(tmp_path / "second", "steps=1", f"init={out / 'model.safetensors'}", "lr=0"))
    assert adapter.read_header(again / "model.safetensors").training["init"]["steps"] == 2


def test_a_header_names_its_readers_not_their_folders(tmp_path: Path) -> None:
    read = training_record(config(tmp_path, f"loss.ocr_model=[{tmp_path}/a.onnx,b.onnx]"), 1, 1)
    assert read["loss"]["ocr_model"] == ["a.onnx", "b.onnx"]
    one = training_record(config(tmp_path, f"loss.ocr_model={tmp_path}/a.onnx", "data.text_scale=2"), 1, 1)
    assert one["loss"]["ocr_model"] == ["a.onnx"] and one["data"]["text_scale"] == 2


@pytest.mark.slow
def test_training_improves_unseen_samples(tmp_path: Path) -> None:
    """A hundred steps bring every term down on images it has not seen."""
    from train.data.triplets import open_held_out_samples
    from train.losses import Objective

    run = config(tmp_path / "run", "steps=100", "batch=4", "lr=0.002", "ema=0", "data.degradation={light: 1.0}")
    samples, _ = open_held_out_samples(run.data, seed=77)
    unseen = [samples.draw_sample(i) for i in range(32)]
    batch = {key: torch.stack([sample[key] for sample in unseen]) for key in unseen[0]}
    fresh, trained = build_model(run), tadisr.load(run_training(run) / "model.safetensors")
    losses = []
    for model in (fresh, trained):
        with torch.no_grad():
            output = model.eval()(batch["upscaled"])
        losses.append(Objective(run.loss)(output.image, output.mask_logits, batch["hr"], batch["mask"]))
    assert all(losses[1][name] < losses[0][name] for name in ("mse", "mf", "seg_mse", "focal", "total")), losses


def test_an_adapter_trains_on_a_frozen_base(kolors_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LoRA on tiny Kolors by the same loop: the base stays as it was, the file holds the adapter alone."""
    from tiny import tiny_kolors_config

    monkeypatch.setattr("train.config.build_model_config", lambda _table: tiny_kolors_config())
    options = ["batch=1", f"base={kolors_base}", "lr=0.01", "panel=1", "data.workers=0"]
    with pytest.raises(ConfigError, match="not encoded yet"):
        run_training(config(tmp_path / "run", "steps=2", *options))
    options.append(f"prompt={write_prompt(tmp_path / 'prompt.safetensors')}")
    out = run_training(config(tmp_path / "run", "steps=2", *options))
    file = out / "model.safetensors"
    written = load_file(file)
    assert {n.split(".")[0] for n in written} == {"unet_lora", "vae_lora", "text_attention", "decoder", "prompt"}
    assert any(".lora_B." in n and tensor.any() for n, tensor in written.items())
    assert written["prompt.embedding"].any()
    assert tadisr.upscale(tadisr.load(file, base=kolors_base), torch.rand(1, 3, 8, 8)).image.shape == (1, 3, 32, 32)
    # the next stage starts from it: LoRA goes on as LoRA, not merged
    again = build_model(config(tmp_path / "next", *options, f"init={file}"))
    learned = {name: p for name, p in again.named_parameters() if p.requires_grad}
    assert any(".lora_B." in name and p.any() for name, p in learned.items())
    assert all(torch.equal(value, written[name]) for name, value in adapter.trained_tensors(again).items())


def test_an_adapter_trains_on_cogview4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The preset's LoRA, the VAE's encoder and a layer kept whole, blocks checkpointed, gradients as without."""
    from tiny import randomize, tiny_cogview4_config, write_base

    from tadisr.prompt import EncodedPrompt
    from train.loop import gradient_checkpointing

    lora = dataclasses.replace(tadisr.preset("cogview4").lora, encoder=True, unet_whole=("patch_embed.proj",))
    small = tiny_cogview4_config(lora=lora)
    torch.manual_seed(0)
    base, prompt = write_base(tmp_path / "base", TADiSR(small)), tmp_path / "prompt.safetensors"
    EncodedPrompt(
        embedding=torch.randn(1, 16, 24), pooled=None, mask=torch.ones(16, dtype=torch.int64),
        positions=torch.tensor([15]), text="text", word="text",
    ).save(prompt)  # fmt: skip
    monkeypatch.setattr("train.config.build_model_config", lambda _table: small)
    options = ["batch=1", f"base={base}", f"prompt={prompt}", "lr=0.01", "panel=1", "data.workers=0", "ema=0"]
    file = run_training(config(tmp_path / "run", "steps=2", "checkpointing=true", *options)) / "model.safetensors"
    written, frozen = load_file(file), load_base(base, small).denoiser.get_submodule("patch_embed.proj").weight
    parts = {"transformer", "transformer_lora", "vae_lora", "text_attention", "decoder", "prompt"}
    assert {name.split(".")[0] for name in written} == parts
    assert not torch.equal(written["transformer.patch_embed.proj.weight"], frozen)
    for part in ("transformer_lora.", "vae_lora.encoder."):
        assert any(name.startswith(part) and ".lora_B." in name and t.any() for name, t in written.items())
    assert tadisr.upscale(tadisr.load(file, base=base), torch.rand(1, 3, 8, 8)).image.shape == (1, 3, 32, 32)

    gradients = []
    for option in ("checkpointing=false", "checkpointing=true"):
        torch.manual_seed(0)
        model = randomize(build_model(config(tmp_path / "run", *options, option)))
        output = model(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
        (output.image.mean() + output.mask_logits.mean()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-4)
    blocks = gradient_checkpointing.checkpoint_blocks(TADiSR(small))
    assert {f"transformer.transformer_blocks.{i}" for i in range(3)} < set(blocks)


def write_prompt(path: Path) -> Path:
    from tadisr.prompt import EncodedPrompt

    torch.manual_seed(2)
    mask = torch.ones(16, dtype=torch.int64)
    EncodedPrompt(
        embedding=torch.randn(1, 16, 32), pooled=torch.randn(1, 32), mask=mask, positions=torch.tensor([15]),
        text="best quality,highres,extremely detailed,text", word="text",
    ).save(path)  # fmt: skip
    return path


def test_checkpointing_and_a_bf16_base_change_no_gradient(
    kolors_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layers that run again answer to the word again; what is kept between is less."""
    from tiny import randomize, tiny_kolors_config

    monkeypatch.setattr("train.config.build_model_config", lambda _table: tiny_kolors_config())
    common = [f"base={kolors_base}", f"prompt={write_prompt(tmp_path / 'prompt.safetensors')}"]
    gradients, held = [], []
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for option in ("checkpointing=false", "checkpointing=true"):
        torch.manual_seed(0)
        model = randomize(build_model(config(tmp_path / "run", *common, option)))
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: (s.append(t.numel()), t)[1], lambda t: t):
            output = model(picture)
        assert output.mask_logits is not None
        (output.image.mean() + output.mask_logits.mean()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
        held.append(sum(sizes))
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)
    assert any("lora" in name and gradient.any() for name, gradient in gradients[0].items())
    assert held[1] < 0.6 * held[0]
    held_in = build_model(config(tmp_path / "run", *common, "base_precision=bf16", "precision=bf16"))
    plain = dict(build_model(config(tmp_path / "run", *common)).named_parameters())
    for name, parameter in held_in.named_parameters():
        kind = torch.bfloat16 if parameter.ndim > 1 and not parameter.requires_grad else torch.float32
        assert parameter.dtype == kind, name
        assert parameter.requires_grad or torch.equal(parameter, plain[name].to(kind)), name
    with torch.autocast("cpu", torch.bfloat16):
        assert held_in(picture).image.isfinite().all()
    with pytest.raises(ConfigError, match="set precision: bf16"):
        build_model(config(tmp_path / "run", *common, "base_precision=bf16"))


def test_accumulated_passes_are_one_larger_batch(tmp_path: Path) -> None:
    """The first moment of Adam after one step is a tenth of the gradient. The loss in the log is that of all passes."""
    moments, losses = [], []
    for name, options in {"one": ["batch=2"], "two": ["batch=1", "accumulate=2"]}.items():
        run = config(
            tmp_path / name, "steps=1", "log_every=1", "ema=0", "clip=1e9", "data.workers=0", "panel=1", *options
        )
        state = torch.load(run_training(run) / "checkpoints" / "0000001" / "state.pt", weights_only=True)
        moments.append({key: value["exp_avg"] for key, value in state["optimizer"]["state"].items()})
        names, row = (tmp_path / name / "log.csv").read_text().splitlines()
        losses.append(dict(zip(names.split(","), map(float, row.split(",")), strict=True)))
    assert losses[1]["mse"] == pytest.approx(losses[0]["mse"], rel=1e-4)
    for name, moment in moments[0].items():
        torch.testing.assert_close(moments[1][name], moment, atol=1e-6, rtol=1e-3)


def test_checkpoints_rotate_and_the_best_is_kept(tmp_path: Path) -> None:
    options = ["steps=5", "checkpoint_every=1", "keep=2", "data.workers=0", "panel_every=9", "panel=1"]
    out = run_training(config(tmp_path / "run", *options, "validate={every: 2, pictures: 16, ocr: rapidocr}"))
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["0000004", "0000005"]
    rows = [line.split(",") for line in (out / "validation.csv").read_text().splitlines()]
    assert rows[0] == [
        "step",
        "psnr",
        "psnr_bicubic",
        "mask_iou",
        "ocr_a",
        "ocr_a_small",
    ]  # 64 pixels: all of it is small
    assert [row[0] for row in rows[1:]] == ["2", "4", "5"]
    best = max(rows[1:], key=lambda row: float(row[1]))
    assert adapter.read_header(out / "best-psnr.safetensors").training["steps"] == int(best[0])
    assert (out / "best-ocr_a.safetensors").exists() and (out / "best-small.safetensors").exists()


def test_a_mixture_validates_what_its_config_names(tmp_path: Path) -> None:
    """Two sources with images smaller than the crop: a score of each, and the best chosen by the named one alone."""
    from pair_folders import pairs

    table = ", ".join(
        f"{name}: {{folder: {pairs(tmp_path / name)}, held_out: {tmp_path / name}, weight: 1}}" for name in "ab"
    )
    options = ["steps=2", "data.workers=0", "data.kind=mixture", f"data.sources={{{table}}}", "data.crop=80", "panel=2"]
    out = run_training(config(tmp_path / "run", *options, "validate={every: 2, pictures: 4, best: [b]}"))
    head, row = ((out / "validation.csv").read_text().splitlines()[i].split(",") for i in (0, 1))
    scores = dict(zip(head, row, strict=True))
    assert [name for name in head if name.startswith("psnr@")] == ["psnr@a", "psnr@b"]
    assert scores["psnr"] == scores["psnr@b"]
    with pytest.raises(ConfigError, match=r"validate.best names c; validated are a, b"):
        run_training(config(tmp_path / "other", *options, "validate={every: 2, pictures: 4, best: [c]}"))


def test_a_loss_that_is_no_number_stops_with_a_saved_state(tmp_path: Path) -> None:
    run = config(tmp_path / "run", "steps=9", "lr=1e30", "ema=0", "schedule=constant", "data.workers=0", "panel=1")
    with pytest.raises(TADiSRError, match=r"The loss is (nan|inf) at step 1 .*samples 2 to 3.*smaller lr"):
        run_training(run)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["0000001"]


def test_a_loss_that_leaps_stops_too() -> None:
    watch = Watch(10.0)
    assert all(watch.find_problem(1.0 + i % 3) is None for i in range(60))
    assert watch.find_problem(15.0) is None
    assert "leapt to 40" in str(watch.find_problem(40.0))
    assert Watch(10.0).find_problem(1e9) is None and Watch(0.0, [1.0, 99]).find_problem(1e9) is None
    assert "leapt" in str(Watch(10.0, watch.state()).find_problem(40.0))


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pip install bitsandbytes"):
        run_training(config(tmp_path / "run", "optimizer=adamw8bit"))


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed: pip install -e '.[cuda]'")
def test_8_bit_adamw_trains_and_resumes(tmp_path: Path) -> None:
    """Its moments are a quarter of AdamW's and counted as they are; two steps and two more are four; the losses are near."""
    options = ["ema=0", "data.workers=0", "schedule=constant", "panel=1", "optimizer=adamw8bit"]
    whole, parts = config(tmp_path / "whole", *options, "steps=4"), config(tmp_path / "parts", *options, "steps=4")
    run_training(config(tmp_path / "parts", *options, "steps=2"))
    one, other = (load_file(run_training(run) / "model.safetensors") for run in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
    states = build_optimizer(whole, (model := build_model(whole)))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    states.step()
    held = {id(t): t.nbytes for state in states.state.values() for t in state.values() if torch.is_tensor(t)}
    assert estimate_memory(whole).optimizer == pytest.approx(sum(held.values()), rel=0.01)
    plain = run_training(config(tmp_path / "plain", *options[:-1], "steps=4"))
    logs = [
        [row.split(",") for row in (out / "log.csv").read_text().splitlines()] for out in (tmp_path / "whole", plain)
    ]
    total = logs[0][0].index("total")
    assert [float(row[total]) for row in logs[0][1:]] == pytest.approx(
        [float(row[total]) for row in logs[1][1:]], rel=0.1
    )


@pytest.mark.slow
def test_compiled_it_is_the_same_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced whole by dynamo and autograd; the code generator behind them is torch's own affair."""
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="aot_eager"))
    pictures, outputs = torch.rand(1, 3, 32, 32), []
    for option in ("compile=false", "compile=true"):
        torch.manual_seed(0)
        model = build_model(config(tmp_path / "run", option))
        outputs.append(model(pictures))
        outputs[-1].image.mean().backward()
    torch.testing.assert_close(outputs[0].image, outputs[1].image)
    torch.testing.assert_close(outputs[0].mask_logits, outputs[1].mask_logits)


def test_ema_and_learning_rate_follow_their_formulas(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2)
    ema = EMA(layer, 0.9)
    before = layer.weight.detach().clone()
    torch.nn.init.ones_(layer.weight)
    ema.update(layer, 1000)
    torch.testing.assert_close(ema.shadow["weight"], before * 0.9 + 0.1)
    ema.swap(layer)
    torch.testing.assert_close(layer.weight.detach(), before * 0.9 + 0.1)
    ema.swap(layer)
    assert (layer.weight == 1).all()
    plan = config(tmp_path, "warmup=10", "steps=110", "lr=1.0")
    assert learning_rate(plan, 0) == pytest.approx(0.1)
    assert learning_rate(plan, 10) == pytest.approx(1)
    assert learning_rate(plan, 109) < 0.02
    assert learning_rate(config(tmp_path, "schedule=constant", "warmup=0"), 5) == pytest.approx(1e-3)


def test_lpips_that_cannot_be_had_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(SystemExit, match="lpips: off"):
        main([str(CONFIGS / "compact.yaml"), f"out={tmp_path / 'x'}", "loss.lpips=5.0"])


def test_build_model_needs_its_base(tmp_path: Path) -> None:
    with pytest.raises(tadisr.CheckpointError, match="needs its base"), torch.device("meta"):
        build_model(config(tmp_path, "model={preset: kolors}"))


def test_the_log_says_how_fast_the_run_computes(tmp_path: Path) -> None:
    out = run_training(config(tmp_path / "run", "steps=6", "log_every=3", "data.workers=0", "panel=0"))
    with (out / "log.csv").open() as file:
        first, second = csv.DictReader(file)
    assert float(first["gflops"]) > 0 and 0.05 < float(first["convolutions"]) < 1
    counted = [float(row["gflops"]) / float(row["steps_per_second"]) for row in (first, second)]
    assert counted[0] == pytest.approx(counted[1], rel=1e-3)
