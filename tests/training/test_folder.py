"""What a run leaves behind: folders that plain transformers and PEFT load, a card, and errors that say where."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mmalign import backbones
from mmalign.backbones import Job
from mmalign.records import RecordFile, user_message, write_jsonl
from mmalign.training import metrics
from tests.tiny import run_command


def train(objective, model, data, output, *more):
    return run_command(
        "train", objective, "--model", model, "--data", data, "--output_dir", output, "--max_steps", "3",
        "--learning_rate", "1e-2", "--save_strategy", "no", *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def adapter(tiny_model, pairs, tmp_path_factory):
    output = tmp_path_factory.mktemp("adapter")
    train("dpo", tiny_model, pairs, output, "--lora")
    return output


@pytest.fixture(scope="module")
def full(tiny_model, pairs, tmp_path_factory):
    output = tmp_path_factory.mktemp("full")
    train("sft", tiny_model, pairs, output)
    return output


def logits(model, backbone) -> torch.Tensor:
    context = backbone.encode_prompt(
        [user_message("Describe the image.", images=1)], [Image.new("RGB", (64, 64), "red")]
    )
    with torch.no_grad():
        return model(input_ids=context.input_ids[None], **context.media).logits


def test_plain_transformers_loads_a_full_model(full, tiny_model):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, info = AutoModelForImageTextToText.from_pretrained(full, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert AutoProcessor.from_pretrained(full).chat_template
    base = backbones.load(tiny_model, device="cpu")
    assert (logits(model, base) - logits(base.model, base)).abs().max() > 1e-2


def test_only_the_parts_not_frozen_move(full, tiny_model):
    before, after = (dict(backbones.load(f, device="cpu").model.named_parameters()) for f in (tiny_model, full))
    moved = {backbones.Backbone.part_of(name) for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"projector", "language"}


def test_plain_peft_loads_an_adapter(adapter, tiny_model):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(tiny_model), adapter)
    ours = backbones.load(adapter, device="cpu")
    torch.testing.assert_close(logits(model, ours), logits(ours.model, ours))
    tower = [name for name, _ in ours.model.named_parameters() if "lora_" in name and ours.part_of(name) == "tower"]
    assert not tower


def test_merge_gives_the_adapter_s_logits(adapter, tmp_path):
    run_command("merge", adapter, "--output", tmp_path / "merged")
    merged, ours = backbones.load(tmp_path / "merged", device="cpu"), backbones.load(adapter, device="cpu")
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    torch.testing.assert_close(logits(merged.model, merged), logits(ours.model, ours), rtol=1e-4, atol=1e-4)
    text = merged.generate([Job([user_message("What?", images=1)], (Image.new("RGB", (9, 9)),))], max_new_tokens=3)
    assert isinstance(text[0], str)
    refused = run_command("merge", tmp_path / "merged", "--output", tmp_path / "again", check=False)
    assert "no adapter to merge" in refused.stderr


def test_the_card_says_how_it_was_made(adapter):
    card, identity = (adapter / "README.md").read_text(), json.loads((adapter / "training.json").read_text())
    for fact in ("dpo", identity["model_fingerprint"], identity["data_fingerprint"], "learning_rate", "LoRA, rank 16"):
        assert fact in card


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"images": ["gone.png"]}, "pairs.jsonl:3: field 'images'"),
        ({"images": ["torn.jpg"]}, "pairs.jsonl:3: field 'images'"),
        ({"chosen": None, "gold": [{"role": "assistant", "content": "Yes."}], "rejected": None}, "pairs.jsonl:3"),
        ({"rejected": None}, "pairs.jsonl:3: dpo has nothing to learn from it: it lacks rejected"),
        ({"rejected_images": ["0-0.png"]}, "pairs.jsonl:3: field 'rejected_images': dpo does not look at it"),
        ({"id": "r0"}, "pairs.jsonl:3: field 'id'"),
        ({"weight": float("nan")}, "pairs.jsonl:3: field 'weight'"),
        ({"videos": ["a.mp4"]}, "pairs.jsonl:3: field"),
    ],
    ids=[
        "missing picture",
        "truncated picture",
        "nothing to train on",
        "no rejected",
        "a negative that dpo ignores",
        "an id twice",
        "NaN weight",
        "a video",
    ],
)
def test_bad_records_are_named_and_not_a_stack_trace(tiny_model, pairs, tmp_path, change, expected):
    shutil.copytree(pairs.parent, tmp_path / "data")
    whole = tmp_path / "data" / "whole.jpg"
    Image.effect_noise((200, 200), 50).save(whole)
    (tmp_path / "data" / "torn.jpg").write_bytes(whole.read_bytes()[:2000])
    file = tmp_path / "data" / "pairs.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()][:4]
    rows[2] = {key: value for key, value in {**rows[2], **change}.items() if value is not None}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run_command(
        "train", "dpo", "--model", tiny_model, "--data", file, "--output_dir", tmp_path / "out", "--max_steps", "4",
        "--per_device_train_batch_size", "1", "--dataloader_num_workers", "1", check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--learning_rat", "1"], "did you mean learning_rate"),
        (["--freeze", "towr"], "parts are tower, projector, language"),
        (["--config", "gone.yaml"], "gone.yaml"),
        (["--model", "gone"], "gone"),
        (["--eval_strategy", "steps"], "needs --eval_data"),
        (["--label_smoothing_factor", "0.1"], "means nothing here"),
        (["--sft_weight", "-1"], "less likely"),
        (["--report_to", "tensorbord"], "no tracker's name"),
        (["--train_sampling_strategy", "sequential"], "--shuffle false"),
        (["--reference_cache", "scores.jsonl"], "--precompute_reference; say that too"),
        (["--group_by_length", "true", "--shuffle", "false"], "an order of its own"),
    ],
)
def test_bad_flags(tiny_model, pairs, tmp_path, flags, expected):
    given = ["--model", tiny_model, "--data", pairs, "--output_dir", tmp_path, *flags]
    done = run_command("train", "dpo", *given, check=False)
    assert done.returncode != 0
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_that_was_not_trained_there_is_not_written_over(tiny_model, pairs, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    before = (model / "model.safetensors").read_bytes()
    given = ["--model", model, "--data", pairs, "--output_dir", model, "--max_steps", "1"]
    done = run_command("train", "sft", *given, check=False)
    assert done.returncode == 2
    assert "give another --output_dir" in done.stderr
    assert (model / "model.safetensors").read_bytes() == before


def test_answers_and_logs_in_a_model_s_folder_do_not_change_its_fingerprint(adapter, tmp_path):
    folder = tmp_path / "adapter"
    shutil.copytree(adapter, folder)
    fingerprint = backbones.load(folder, device="cpu").fingerprint()
    (folder / "pope.jsonl").write_text("{}\n")
    (folder / "pope.jsonl.run").mkdir()
    (folder / "README.md").write_text("edited")
    assert backbones.load(folder, device="cpu").fingerprint() == fingerprint
    (folder / "adapter_config.json").write_text((folder / "adapter_config.json").read_text() + " ")
    assert backbones.load(folder, device="cpu").fingerprint() != fingerprint


def test_the_best_checkpoint_is_what_is_saved(tiny_model, pairs, tmp_path):
    """Held out are the same pairs the other way round: the more is learnt, the worse it gets."""
    output, turned = tmp_path / "out", pairs.with_name("turned.jsonl")
    write_jsonl(turned, [replace(r, chosen=r.rejected, rejected=r.chosen) for r in RecordFile(pairs)])
    run_command(
        "train", "dpo", "--model", tiny_model, "--data", pairs, "--eval_data", turned, "--output_dir", output, "--lora",
        "--learning_rate", "1e-2", "--max_steps", "4", "--eval_strategy", "steps", "--eval_steps", "1",
        "--save_steps", "1", "--load_best_model_at_end", "true",
    )  # fmt: skip
    losses = {row["step"]: row["eval_loss"] for row in metrics.read(output) if "eval_loss" in row}
    best = min(losses, key=losses.get)
    assert best < 4, losses
    saved, kept = (
        load_file(folder / "adapter_model.safetensors") for folder in (output, output / f"checkpoint-{best}")
    )
    assert all(torch.equal(kept[name], weights) for name, weights in saved.items())
