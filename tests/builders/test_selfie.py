"""Pairs by the implicit reward, on tiny models: a policy that has left its reference."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted import media, run, source

from mmalign import backbones, objectives, rewards
from mmalign.builders import Drop, build, load, main
from mmalign.forward import Usable
from mmalign.records import InputError, Record, Response, assistant_message, read_jsonl, text_of, write_jsonl

TEXTS = ("There is a red circle.", "red", "A blue square, and a large green triangle.", "left right left")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return media(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="module")
def policy(moved_model: Path):
    return backbones.load(moved_model, device="cpu")


def given(name: str, *texts: str, images: tuple[str, ...] = ("a.png",)) -> Record:
    return source(name, None, images, responses=tuple(Response(assistant_message(text)) for text in texts))


def sides(record: Record) -> tuple[str, str]:
    return text_of(record.chosen), text_of(record.rejected)


def test_best_against_worst_by_the_implicit_reward(policy, tiny_model: Path, root: Path) -> None:
    asked = given("s", *TEXTS)
    made = run(load("selfie", reference=str(tiny_model), beta=0.2), policy, root, asked)["s"]
    scorer = rewards.load("implicit", reference=str(tiny_model), beta=0.2)(policy, media_root=root)
    found = {text: one.scores["implicit"] for text, one in
             zip(TEXTS, scorer.score(rewards.singles(asked)), strict=True)}  # fmt: skip
    best, worst = max(found, key=found.get), min(found, key=found.get)
    assert made.id == "s#selfie" and sides(made) == (best, worst)
    assert made.chosen_scores == {"implicit": pytest.approx(found[best], abs=2e-5)}
    assert made.rejected_scores == {"implicit": pytest.approx(found[worst], abs=2e-5)}
    for objective in ("spa", "dpo"):
        Usable(objectives.load(objective))(made)
    gap = pytest.approx(found[best] - found[worst], abs=4e-5)
    assert made.meta == {"responses_by": "source", "given": 4, "k": 4, "gap": gap} and made.meta["gap"] > 0.1
    assert Record.parse(made.to_json()) == made


def test_the_order_of_responses_changes_nothing(policy, tiny_model: Path, root: Path) -> None:
    builder = load("selfie", reference=str(tiny_model))
    one, other = (run(builder, policy, root, given("s", *texts))["s"] for texts in (TEXTS, TEXTS[::-1]))
    assert sides(one) == sides(other)
    assert one.chosen_scores["implicit"] == pytest.approx(other.chosen_scores["implicit"], abs=2e-5)


def test_what_has_not_left_its_reference_prefers_nothing(tiny_model: Path, root: Path) -> None:
    policy = backbones.load(tiny_model, device="cpu")
    made = run(load("selfie", reference=str(tiny_model)), policy, root, given("s", *TEXTS))["s"]
    assert made == Drop("no_difference", "rewards from 0.0 to 0.0")


def test_a_minimum_gap_and_other_drops(policy, tiny_model: Path, root: Path) -> None:
    builder = load("selfie", reference=str(tiny_model), min_gap=1e6)
    mark = policy.tokenizer.convert_ids_to_tokens(policy.image_token_id)
    sources = [given("no_difference", *TEXTS), given("all_alike", "red", "red"), given("unscored", "red", f"a {mark}"),
               given("missing", *TEXTS, images=("gone.png",))]  # fmt: skip
    made = run(builder, policy, root, *sources)
    assert {name: drop.reason for name, drop in made.items()} == {name: name for name in made}


def test_missing_responses_are_sampled(policy, tiny_model: Path, root: Path) -> None:
    builder = load("selfie", reference=str(tiny_model), k=3, max_tokens=6, seed=2)
    made = run(builder, policy, root, source("s", "True."), given("t", *TEXTS))
    samples = run(load("sample", k=3, max_tokens=6, seed=2), policy, root, source("s", "True."))["s"]
    drawn = {text_of([response.message]) for response in samples.responses}
    assert set(sides(made["s"])) <= drawn, "the same as those of `sample`"
    assert made["s"].meta["responses_by"] == "model" and made["s"].meta["sampled"] == 3
    assert made["t"].meta["responses_by"] == "source"


def test_the_reference_is_loaded_once_for_all_units(policy, tiny_model: Path, root: Path, monkeypatch) -> None:
    loaded = []
    plain = backbones.load
    monkeypatch.setattr(backbones, "load", lambda *a, **o: loaded.append(a) or plain(*a, **o))
    builder = load("selfie", reference=str(tiny_model))
    for name in "st":
        run(builder, policy, root, given(name, *TEXTS))
    assert len(loaded) == 1


def test_batch_size_and_ranks_change_nothing(
    policy, tiny_model: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [given(f"s{i}", *TEXTS[i % 2 :], images=("ab"[i % 2] + ".png",)) for i in range(4)]
    how = {"media_root": root, "unit_size": 1, "progress": False}

    def built(name: str) -> Path:
        build(load("selfie", reference=str(tiny_model)), sources, policy, tmp_path / name, **how)
        return tmp_path / name

    one = built("one.jsonl")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "10":
        monkeypatch.setenv("RANK", rank)
        two = built("two.jsonl")
    assert one.read_bytes() == two.read_bytes()
    results = [run(load("selfie", reference=str(tiny_model)), policy, root, *sources, batch_size=n) for n in (1, 100)]
    for name, record in results[0].items():
        assert sides(record) == sides(results[1][name])
        assert record.chosen_scores["implicit"] == pytest.approx(results[1][name].chosen_scores["implicit"], abs=2e-5)


def test_command(moved_model: Path, tiny_model: Path, root: Path, tmp_path: Path, capsys) -> None:
    data, output = tmp_path / "sources.jsonl", tmp_path / "pairs.jsonl"
    write_jsonl(data, [given("s", *TEXTS), given("t", *TEXTS[:2])])
    arguments = ["--model", str(moved_model), "--data", str(data), "--output", str(output), "--media_root", str(root)]
    assert main("selfie", arguments) == 2
    assert "field 'reference': is missing: the model is not an adapter" in capsys.readouterr().err
    assert not Path(f"{output}.run").exists(), "found out before anything is written"
    assert main("selfie", [*arguments, "--reference", str(tiny_model)]) == 0
    assert "2 records from 2 of 2 sources" in capsys.readouterr().out
    records = list(read_jsonl(output, Record.parse))
    assert records[0].meta["options"]["reference"] == str(tiny_model) and records[0].chosen_scores["implicit"] != 0
    assert main("selfie", [*arguments[:1], "http://localhost:1/v1#M", *arguments[2:]]) == 2
    assert "to be loaded here" in capsys.readouterr().err


@pytest.mark.parametrize("options", [{"k": 1}, {"beta": 0}, {"min_gap": -1}, {"max_tokens": 0}])
def test_options_out_of_range(options: dict) -> None:
    with pytest.raises(InputError) as caught:
        load("selfie", **options)
    assert caught.value.field == next(iter(options))


def test_the_reference_is_an_input(tiny_model: Path, moved_model: Path) -> None:
    one, other = (load("selfie", reference=str(path)).inputs() for path in (tiny_model, moved_model))
    assert one.keys() == other.keys() == {"reference"} and one != other and load("selfie").inputs() == {}
