"""What objectives can ask for beyond log-probabilities: prompts, mixtures, layers, the records' numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from PIL import Image

from mmalign.forward import Batch, Encoder, Engine
from mmalign.forward.vocabulary import Other, score_tokens
from mmalign.media import open_image
from mmalign.records import Record, assistant_message, user_message
from tests.backbones.test_families import folder, record  # noqa: F401 - a fixture
from tests.families import build

VIEWS = ("chosen", "rejected", "rejected@rejected_prompt")
OTHER = [user_message("Please say what can be seen, in a word.", images=1)]
LAYOUTS = {"plain": (False, False), "shared": (True, False), "shared and packed": (True, True)}


@pytest.fixture(scope="module", params=["llava", "qwen2_5_vl", "gemma3", "smolvlm"])
def backbone(request):
    return build(request.param)


def pair(number: int) -> Record:
    """A record of one picture, whose rejected response answers another prompt."""
    return replace(record(number), rejected_images=(), rejected_prompt=OTHER)


def batch_of(backbone, folder, layout="shared", prompts=True, views=VIEWS) -> Batch:  # noqa: F811
    share, pack = LAYOUTS[layout]
    encoded = [Encoder(backbone, views, prompts=prompts)(pair(number), folder) for number in (1, 3)]
    pad = backbone.pad_token_id
    return Batch.of(encoded, views, pad, share=share, pack=pack and backbone.can_pack, prompts=prompts)


def prompt_oracle(backbone, folder, number: int, prompt) -> torch.Tensor:  # noqa: F811
    """Log-probability of each text token of a prompt but the first, from transformers alone.

    The prompt's picture stands between the token before it and the text after it, which is all that there is.
    """
    picture = open_image(folder / record(number).images[0])
    text = backbone.processor.apply_chat_template(list(prompt), tokenize=False, add_generation_prompt=True)
    special = backbone.adds_special_tokens(text)
    inputs = backbone.processor(text=[text], images=[picture], return_tensors="pt", add_special_tokens=special)
    ids = inputs["input_ids"][0]
    placeholder = backbone.marks["image"]
    before, after = text.split(placeholder)
    first = backbone.tokenizer(before, add_special_tokens=special)["input_ids"]
    whole = backbone.tokenizer(text, add_special_tokens=special)["input_ids"]
    behind = len(whole) - len(first) - 1
    assert whole[: len(first)] == first
    assert after
    scores = backbone.model(**inputs).logits[0].log_softmax(-1)
    places = [*range(1, len(first)), *range(len(ids) - behind, len(ids))]
    return torch.stack([scores[t - 1, ids[t]] for t in places])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_prompts(backbone, folder, layout):  # noqa: F811
    """Every view has the text of its own prompt; what stands for pictures is left out."""
    engine = Engine(backbone, reference=False, prompts=True)
    policy, _ = engine(batch_of(backbone, folder, layout))
    for row, number in enumerate((1, 3)):
        own, other = (
            prompt_oracle(backbone, folder, number, record(number).prompt),
            prompt_oracle(backbone, folder, number, OTHER),
        )
        for view, expected in zip(VIEWS, (own, own, other), strict=True):
            found = policy[view].prompt[row]
            torch.testing.assert_close(found[: len(expected)], expected, rtol=1e-4, atol=1e-4)
            assert not found[len(expected) :].any()


def test_prompts_change_nothing_else_and_have_a_gradient(backbone, folder):  # noqa: F811
    engine, layout = Engine(backbone, reference=False), "shared and packed"
    with_prompts, _ = engine(batch_of(backbone, folder, layout))
    without, _ = engine(batch_of(backbone, folder, layout, prompts=False))
    for view in VIEWS:
        torch.testing.assert_close(with_prompts[view].sum(), without[view].sum(), rtol=1e-5, atol=1e-5)
        assert torch.equal(with_prompts[view].mask.sum(-1), without[view].mask.sum(-1))
        assert without[view].prompt is None
    weight = backbone.decoder.layers[0].self_attn.q_proj.weight
    (slope,) = torch.autograd.grad(with_prompts["chosen"].prompt.sum(), weight)
    assert slope.abs().max() > 0


def layer_means(backbone, inputs) -> torch.Tensor:
    """Shape: (T, D)."""
    found: list[torch.Tensor] = []

    def keep(_, __, output):
        states = output[0] if isinstance(output, tuple) else output
        found.append(states[0].mean(-1))

    hooks = [layer.register_forward_hook(keep) for layer in backbone.decoder.layers]
    with torch.no_grad():
        backbone.model(**inputs)
    for hook in hooks:
        hook.remove()
    return torch.stack(found, dim=-1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layers_of_the_reference(backbone, folder, layout):  # noqa: F811
    """The mean over the width of what each layer gives where a token is predicted, from transformers alone."""
    engine = Engine(backbone, reference=True, reference_model=backbone.model, layer_means=True)
    _, reference = engine(batch_of(backbone, folder, layout, prompts=False))
    for row, number in enumerate((1, 3)):
        one = pair(number)
        text = backbone.processor.apply_chat_template([*one.prompt, *one.chosen], tokenize=False)
        inputs = backbone.processor(
            text=[text],
            images=[open_image(folder / one.images[0])],
            return_tensors="pt",
            add_special_tokens=backbone.adds_special_tokens(text),
        )
        means = layer_means(backbone, inputs)
        length = int(reference["chosen"].mask[row].sum())
        start = len(Encoder(backbone, ("chosen",))(one, folder).contexts[""].input_ids)
        expected = means[start - 1 : start - 1 + length]
        torch.testing.assert_close(reference["chosen"].hidden[row, :length], expected, rtol=1e-4, atol=1e-5)
        assert not reference["chosen"].hidden[row, length:].any()
        assert expected.std() > 1e-3


def test_text_of_a_prompt_is_the_same_under_any_picture(backbone):
    """Whatever its size asks for in tiles and rows; also where several pictures stand among the words."""
    small, large = Image.new("RGB", (40, 40), "red"), Image.new("RGB", (200, 90), "blue")
    content = [{"type": "text", "text": "Compare"}, {"type": "image"}, {"type": "text", "text": "with"}]
    content += [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "and this one."}]
    found = []
    for pictures in ([small, small, small], [large, small, large]):
        context = backbone.encode_prompt([{"role": "user", "content": content}], pictures, text_places=True)
        found.append(backbone.tokenizer.decode(context.input_ids[context.text_places]))
        assert (context.input_ids[context.text_places] != backbone.image_token_id).all()
    assert found[0] == found[1]
    for words in ("Compare", "with", "and this one."):
        assert words in found[0]
    none = backbone.encode_prompt([user_message("What?")], text_places=True)
    assert len(none.text_places) == len(none.input_ids)


def test_mixtures():
    """log softmax(c * own + (1 - c) * other): c = 1 is the model itself, c = 0 the other."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    heads = [torch.nn.Linear(8, 40, dtype=torch.float64) for _ in range(2)]
    hidden, other, targets = draw(13, 8).requires_grad_(), draw(13, 8), torch.arange(13)
    own, theirs = heads[0](hidden), heads[1](other)

    def mixed(share, tiles=3, kl=False):
        return score_tokens(hidden, heads[0], targets, other=Other(other, heads[1], kl, share), tiles=tiles)

    for share in (1.75, 0.3, -1.0):
        expected = (share * own + (1 - share) * theirs).log_softmax(-1)[targets, targets]
        torch.testing.assert_close(mixed(share)["mixed"], expected, rtol=1e-4, atol=1e-5, check_dtype=False)
    torch.testing.assert_close(mixed(1.0)["mixed"], mixed(1.0)["logps"])
    reference = score_tokens(other, heads[1], targets)["logps"]
    torch.testing.assert_close(mixed(0.0)["mixed"], reference)
    assert not mixed(0.5)["mixed"].requires_grad
    assert mixed(0.5).keys() == {"logps", "mixed"}
    assert mixed(0.5, kl=True).keys() == {"logps", "kl", "mixed"}
    for head in heads:  # a head that stays has its derivatives computed ahead
        head.requires_grad_(False)
    found = mixed(0.5)
    assert not found["mixed"].requires_grad
    (slope,) = torch.autograd.grad(found["logps"].sum(), hidden)
    assert slope.abs().max() > 0


def test_an_impossible_token_of_the_other_spoils_nothing():
    head = torch.nn.Linear(4, 6)
    hidden = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))

    def never_the_last(states):
        return head(states).index_fill(-1, torch.tensor([5]), -math.inf)

    found = score_tokens(hidden, head, torch.tensor([0, 1, 2]), other=Other(hidden, never_the_last, True, 1.5))
    assert found["kl"].isfinite().all()
    ruled_out = never_the_last(hidden)
    mixture = (1.5 * head(hidden) - 0.5 * ruled_out).index_fill(-1, torch.tensor([5]), -math.inf)
    expected = mixture.log_softmax(-1)[range(3), [0, 1, 2]]
    torch.testing.assert_close(found["mixed"], expected)
    last = score_tokens(hidden, head, torch.tensor([5, 5, 5]), other=Other(hidden, never_the_last, False, 1.5))
    assert last["mixed"].eq(-math.inf).all()


def test_numbers_of_ranked_lists_and_other_scores(backbone, folder):  # noqa: F811
    def ranked(name, *scores):
        responses = [{"message": assistant_message(f"Thing {i}."), **score} for i, score in enumerate(scores)]
        return Record.parse({"id": name, "prompt": [user_message("What?")], "responses": responses})

    lists = [
        ranked("a", {"scores": {"reward": 0.5}, "rank": 9}, {"rank": 2}, {}),
        ranked("b", {"rank": 0}, {"rank": 1}),
    ]
    scored = Record.parse(
        {
            "id": "c",
            "prompt": "What?",
            "chosen": [assistant_message("A.")],
            "rejected": [assistant_message("B.")],
            "chosen_scores": {"reward": 3, "truth": 0.75},
            "rejected_scores": {"reward": 1, "truth": 0.25, "density": 0.6, "charm": 9},
        }
    )
    encoder = Encoder(backbone, ("responses",))
    encoded = [encoder(one, folder) for one in lists]
    batch = Batch.of(encoded, ("responses",), backbone.pad_token_id, share=True, numbers={"scores"})
    expected = torch.tensor([[0.5, -2.0, math.nan], [0.0, -1.0, math.nan]])
    torch.testing.assert_close(batch.numbers["scores"], expected, equal_nan=True)
    policy, _ = Engine(backbone, reference=False)(batch)
    assert policy["responses"].logps.shape[:2] == (2, 3)
    assert policy["responses"].mask.sum(-1).gt(0).tolist() == [[True, True, True], [True, True, False]]
    names = {"margin/truth", "density"}
    both = Batch.of([Encoder(backbone, ("chosen",))(scored, folder)], ("chosen",), 0, share=True, numbers=names)
    found = {name: values.item() for name, values in both.numbers.items() if not values.isnan().any()}
    assert found == pytest.approx({"weight": 1.0, "margin": 2.0, "margin/truth": 0.5, "density": 0.6})
