"""The implicit reward, against two plain forwards of transformers for each response."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mmalign import backbones, rewards
from mmalign.media import FrameChoice, open_image
from mmalign.records import InputError, Record, Response, assistant_message, user_message
from tests.families import build
from tests.tiny import noise, write_clip

TEXTS = ["There is a red circle.", "A blue square, and a large green triangle.", "red", "There is a red circle on top."]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("media"), np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        noise(rng).save(folder / name)
    write_clip(folder / "c.avi", [noise(rng) for _ in range(5)])
    return folder


@pytest.fixture(scope="module")
def policy(moved_model):
    return backbones.load(moved_model, device="cpu")


def listed(name: str, texts: list[str], images: tuple[str, ...] = ("a.png",), **fields) -> Record:
    prompt = [user_message("What is here?", images=len(images), videos=len(fields.get("videos", ())))]
    answers = tuple(Response(assistant_message(text)) for text in texts)
    return Record(name, prompt, responses=answers, images=images, **fields)


def asked() -> list[Record]:
    """Nine responses to three prompts, of one, two and no pictures."""
    lists = [listed("x", TEXTS), listed("y", TEXTS[1:3], ("b.png", "a.png")), listed("z", TEXTS[:3], ())]
    return [single for record in lists for single in rewards.singles(record)]


def oracle(backbone, record: Record, root: Path) -> tuple[float, int]:
    """log p(response | prompt) and its number of tokens, by one unbatched forward of the model itself."""
    context = backbone.encode_prompt(record.prompt, [open_image(root / name) for name in record.images])
    response = backbone.encode_response(record.prompt, record.chosen).input_ids
    ids = torch.cat([context.input_ids, response])[None]
    with torch.no_grad():
        logps = backbone.model(input_ids=ids, **context.media).logits[0].double().log_softmax(-1)
    places = torch.arange(len(context.input_ids) - 1, ids.shape[1] - 1)
    return float(logps[places, response].sum()), len(response)


def values(scored) -> list[float]:
    return [each.scores["implicit"] for each in scored]


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_reward_is_that_of_two_plain_forwards(policy, tiny_model, root, per_token, batch_size):
    reward = rewards.load("implicit", reference=str(tiny_model), beta=0.3, per_token=per_token)
    found = list(reward(policy, media_root=root, batch_size=batch_size).score(asked()))
    reference = backbones.load(tiny_model, device="cpu")
    plain = backbones.load(policy.sources[0], device="cpu")
    expected = []
    for record in asked():
        (own, tokens), (other, _) = (oracle(model, record, root) for model in (plain, reference))
        expected.append(0.3 * (own - other) / (tokens if per_token else 1))
    assert [each.id for each in found] == [record.id for record in asked()]
    assert values(found) == pytest.approx(expected, abs=2e-5)
    assert np.std(expected) > 0.01 and min(map(abs, expected)) > 1e-4, "the policy has left the reference"
    assert f"{oracle(plain, asked()[0], root)[1]} tokens" in found[0].text


def test_a_policy_that_is_its_reference_has_no_reward(tiny_model, root):
    backbone = backbones.load(tiny_model, device="cpu")
    scored = rewards.load("implicit", reference=str(tiny_model))(backbone, media_root=root).score(asked())
    assert values(scored) == [0.0] * 9


def test_prompt_and_picture_are_read_once_for_neighbours(policy, tiny_model, root, monkeypatch):
    scorer = rewards.load("implicit", reference=str(tiny_model))(policy, media_root=root, batch_size=4)
    rows = []
    plain = policy.encode_prompt
    monkeypatch.setattr(policy, "encode_prompt", lambda *a, **o: rows.append(1) or plain(*a, **o))
    found = values(scorer.score(asked()))
    assert len(rows) == 3
    shuffled = [asked()[i] for i in (0, 4, 1, 6, 2, 5, 3, 7, 8)]
    apart = dict(zip([record.id for record in shuffled], values(scorer.score(shuffled)), strict=True))
    assert [apart[record.id] for record in asked()] == pytest.approx(found, abs=2e-5)


def test_adapter_against_the_model_below_it(tiny_model, root):
    from peft import LoraConfig, get_peft_model

    backbone = backbones.load(tiny_model, device="cpu")
    base = backbones.load(tiny_model, device="cpu")
    model = get_peft_model(backbone.model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))) * 0.2)
    adapted = backbone.around(model.eval())
    found = values(rewards.load("implicit")(adapted, media_root=root).score(asked()[:4]))
    expected = [0.1 * (oracle(adapted, one, root)[0] - oracle(base, one, root)[0]) for one in asked()[:4]]
    assert found == pytest.approx(expected, abs=2e-5) and np.std(expected) > 1e-3


def test_a_clip_is_seen_by_its_frames(policy, tiny_model, root):
    records = rewards.singles(listed("v", TEXTS[:2], (), videos=("c.avi",)))
    reward = rewards.load("implicit", reference=str(tiny_model))
    few, more = (values(reward(policy, media_root=root, frames=FrameChoice(n)).score(records)) for n in (1, 4))
    assert len(few) == 2 and few != pytest.approx(more, abs=1e-4)


def test_a_record_that_cannot_be_read_says_why_and_harms_no_other(policy, tiny_model, root):
    good = asked()[:2]
    gone = replace(good[0], id="gone", images=("gone.png",))
    mark = policy.tokenizer.convert_ids_to_tokens(policy.image_token_id)
    marked = replace(good[0], id="marked", chosen=[assistant_message(f"red {mark}")])
    scorer = rewards.load("implicit", reference=str(tiny_model))(policy, media_root=root)
    found = list(scorer.score([good[0], marked, good[1], gone]))
    assert [each.id for each in found] == ["x#0", "marked", "x#1", "gone"]
    assert [bool(each.scores) for each in found] == [True, False, True, False]
    assert "placeholder" in found[1].text and "gone.png" in found[3].text
    assert values([found[0], found[2]]) == pytest.approx(values(scorer.score(good)), abs=2e-6)
    assert not list(scorer.score([gone]))[0].scores, "a batch of which nothing can be read"


def test_refusals(policy, tiny_model, root, tmp_path):
    with pytest.raises(InputError) as caught:
        rewards.load("implicit")(policy, media_root=root)
    assert caught.value.field == "reference" and "which model it was trained from" in str(caught.value)
    other = build("llava")
    other.save(tmp_path)
    with pytest.raises(InputError, match="another architecture or vocabulary"):
        rewards.load("implicit", reference=str(tmp_path))(policy, media_root=root)
    with pytest.raises(InputError, match="beta"):
        rewards.load("implicit", beta=0)
    scorer = rewards.load("implicit", reference=str(tiny_model))(policy, media_root=root)
    with pytest.raises(InputError, match="x has none"):
        list(scorer.score([Record("x", [user_message("?")])]))
