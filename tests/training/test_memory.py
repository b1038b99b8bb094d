"""The memory that is expected against what is there."""

from __future__ import annotations

import pytest
import torch

from mmalign.forward import Batch, Encoder, Engine, RecordDataset
from mmalign.records import RecordFile
from mmalign.training import memory
from mmalign.training.memory import Run, Shape
from mmalign.training.options import ModelOptions
from mmalign.training.session import prepare
from tests.families import FAMILIES, build
from tests.tiny import run_command

VIEWS = ("chosen", "rejected")


def saved_bytes(engine: Engine, batch: Batch) -> int:
    """What the forward pass keeps for the backward pass, weights and inputs aside."""
    kept: dict[int, int] = {}
    own = {weight.untyped_storage().data_ptr() for weight in engine.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tensor.is_floating_point():
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        policy, _ = engine(batch)
        total = sum(kept.values())
    assert policy["chosen"].logps.requires_grad
    return total


def shape_of(backbone, path, indices) -> tuple[Batch, Shape]:
    records = RecordFile(path)
    encoder = Encoder(backbone, VIEWS)
    encoded = [encoder(records[i], records.media_root) for i in indices]
    batch = Batch.of(encoded, VIEWS, backbone.pad_token_id, share=True, pack=backbone.can_pack)
    return batch, Shape.of(batch, memory.patch_size(backbone))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("tower", [False, True], ids=["tower stays", "tower trains"])
def test_activations_are_about_right(pairs, family, tower, checkpointing):
    backbone = build(family)
    for name, weight in backbone.model.named_parameters():
        weight.requires_grad_(tower or backbone.part_of(name) != "tower")
    engine = Engine(backbone, reference=False).train()
    if checkpointing:
        engine.gradient_checkpointing_enable()
    batch, shape = shape_of(backbone, pairs, [0, 1, 2])
    run = Run(checkpointing=checkpointing)
    expected = memory.activations(backbone, run, shape)
    if checkpointing:  # of one layer, the rest appears and goes in the backward pass
        expected -= memory.activations(backbone, Run(), shape) / backbone.decoder.config.num_hidden_layers / 2
    found = saved_bytes(engine, batch)
    assert 0.4 < expected / found < 2.0, (expected, found)


def test_what_lies_there_by_design_is_counted_exactly(moved_model):
    from mmalign import backbones

    blueprint = backbones.load(moved_model, device="meta")
    real = backbones.load(moved_model)
    for backbone in (blueprint, real):
        prepare(backbone, ModelOptions(model=str(moved_model)))
    assert all(weight.is_meta for weight in blueprint.model.parameters())
    engine = Engine(real, reference=True)
    policy = {id(weight): weight.nbytes for weight in real.model.parameters()}
    copied = sum(weight.nbytes for weight in engine.frozen.parameters() if id(weight) not in policy)
    moving = [weight for weight in real.model.parameters() if weight.requires_grad]
    for weight in moving:
        weight.grad = torch.zeros_like(weight)
    optimizer = torch.optim.AdamW(moving)
    optimizer.step()
    state = sum(v.nbytes for values in optimizer.state.values() for v in values.values() if v.dim())
    sizes = memory.estimate(blueprint, Run(reference="copy"), Shape(10, 4, 5))
    assert sizes["weights"] == sum(policy.values())
    assert sizes["reference"] == copied
    assert sizes["gradients"] == sum(weight.nbytes for weight in moving)
    assert sizes["optimiser"] == state


def test_what_is_spread_is_shared_out(moved_model):
    from mmalign import backbones

    backbone = backbones.load(moved_model, device="meta")
    prepare(backbone, ModelOptions(model=str(moved_model)))
    shape = Shape(10, 4, 5)
    alone = memory.estimate(backbone, Run(deepspeed=True, reference="copy"), shape)
    for stage, shared in {
        1: ["optimiser"],
        2: ["optimiser", "gradients"],
        3: ["optimiser", "gradients", "weights", "reference"],
    }.items():
        run = Run(deepspeed=True, zero=stage, processes=4, reference="copy")
        sizes = memory.estimate(backbone, run, shape)
        assert [name for name in sizes if sizes[name] == alone[name] / 4] == [n for n in alone if n in shared]


def test_four_bits_hold_the_language_model_small(moved_model):
    from mmalign import backbones

    backbone = backbones.load(moved_model, device="meta")
    prepare(backbone, ModelOptions(model=str(moved_model), lora=True))
    whole = memory.estimate(backbone, Run(), Shape(10, 4, 5))
    small = memory.estimate(backbone, Run(load_in_4bit=True), Shape(10, 4, 5))
    linear = sum(weight.numel() for weight in backbone.quantizable())
    assert linear > 10_000
    assert whole["weights"] - small["weights"] == pytest.approx((4 - memory.FOUR_BIT) * linear)


def test_what_does_not_fit_is_said_with_what_to_do():
    run = Run(reference="copy", processes=2, zero=2)
    sizes = {"weights": 8e9, "reference": 8e9, "gradients": 8e9, "optimiser": 32e9, "activations": 20e9}
    text = memory.table(sizes, run, Shape(1000, 200, 576), available=24 * memory.GIB)
    assert "more than the device has, 24.0 GiB: --lora true, --gradient_checkpointing true" in text
    assert "more than" not in memory.table(sizes, run, Shape(1000, 200, 576), available=192 * memory.GIB)


def test_it_can_be_asked_for_alone(moved_model, pairs, tmp_path):
    output = tmp_path / "run"
    arguments = ["--model", moved_model, "--data", pairs, "--output_dir", output, "--estimate_memory", "true"]
    done = run_command("train", "dpo", *arguments)
    assert "expected memory of the process" in done.stdout
    assert "together" in done.stdout
    assert not output.exists()
    assert "Loading weights" not in done.stderr


def test_the_longest_records_are_looked_at(moved_model, pairs):
    from mmalign import backbones

    records = RecordFile(pairs)
    backbone = backbones.load(moved_model, device="meta")
    dataset = RecordDataset(records, Encoder(backbone, VIEWS))
    lengths = [len(record.images) for record in records]
    shape = memory.longest(dataset, lengths, batch_size=2, pack=True)
    most = max(dataset[i, True].contexts[""].input_ids.numel() for i in range(len(records)))
    assert shape.tokens - shape.responses == 2 * most
