"""Stages: what a YAML file asks for, by hand; and a chain against its stages trained one by one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from mmalign import cli, training
from mmalign.records import InputError, RecordFile, write_jsonl
from mmalign.training import chain, checkpoints, metrics, session, stages
from tests.conftest import REPOSITORY
from tests.tiny import environment, run_deepspeed, write_pairs

COMMON = {
    "beta": 0.2,
    "lora": True,
    "lora_r": 4,
    "learning_rate": 1e-3,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 2,
    "logging_steps": 1,
    "save_strategy": "no",
    "disable_tqdm": True,
    "sft_weight": 1.0,
}
LEVELS = {"name": "level", "each_difficulty": "easy_to_hard"}
SFT = {"name": "sft", "objective": "sft", "sft_weight": 0.0, "freeze": ["none"]}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Folder of pairs of two difficulties (six records) and of answers (four records)."""
    folder = tmp_path_factory.mktemp("files")
    pairs = write_pairs(folder / "pairs", 6, 0, pictures=(1,))
    write_jsonl(pairs, [replace(record, difficulty=(0.5, 0.125)[i % 2]) for i, record in enumerate(RecordFile(pairs))])
    write_pairs(folder / "sft", 4, 1, pictures=(1,))
    return folder


def write_config(folder: Path, entries: list[dict], **common) -> Path:
    file = folder / "chain.yaml"
    file.write_text(yaml.safe_dump({**COMMON, "stages": entries, **common}))
    return file


def words(config: Path, model: Path | str, files: Path, output: Path, *more) -> list[str]:
    data = files / "pairs" / "pairs.jsonl"
    given = ["--config", config, "--model", model, "--data", data, "--output_dir", output]
    return [str(word) for word in (*given, "--sft.data", files / "sft" / "pairs.jsonl", *more)]


# ---- the plan --------------------------------------------------------------------------------------------


def planned(tmp_path, files, entries=(LEVELS, SFT), *more, **common) -> stages.Chain:
    return stages.plan(
        "dpo", words(write_config(tmp_path, list(entries), **common), "M", files, tmp_path / "out", *more)
    )


def test_one_stage_for_each_difficulty(tmp_path, files):
    found = planned(tmp_path, files)
    assert [(stage.name, stage.objective) for stage in found.stages] == [
        ("level-1", "dpo"),
        ("level-2", "dpo"),
        ("sft", "sft"),
    ]
    assert [stage.given.get("difficulty") for stage in found.stages] == [["0.125"], ["0.5"], None]
    hard = planned(tmp_path, files, [{**LEVELS, "each_difficulty": "hard_to_easy"}, SFT])
    assert [stage.given.get("difficulty") for stage in hard.stages] == [["0.5"], ["0.125"], None]
    some = planned(tmp_path, files, [LEVELS, SFT], "--level.difficulty", "0.2", "1")
    assert [stage.name for stage in some.stages] == ["level-1", "sft"]


def test_what_a_stage_is_told_wins_and_the_command_line_over_the_file(tmp_path, files):
    entries = [LEVELS, {**SFT, "learning_rate": 1e-4, "seed": 1}]
    more = (
        "--learning_rate",
        "5e-5",
        "--sft.seed",
        "2",
        "--level.beta=0.3",
        "--level-2.beta",
        "0.4",
        "--max_steps",
        "7",
    )
    found = planned(tmp_path, files, entries, *more)
    first, second, last = (found.flags(stage) for stage in found.stages)
    assert [each.objective.beta for each in (first, second)] == [0.3, 0.4]
    assert [each.options.learning_rate for each in (first, second, last)] == [5e-5, 5e-5, 1e-4]
    assert [each.options.seed for each in (first, second, last)] == [42, 42, 2]
    assert {each.options.max_steps for each in (first, second, last)} == {7}
    assert [Path(each.data.data).parent.name for each in (first, second, last)] == ["pairs", "pairs", "sft"]
    assert [Path(each.options.output_dir).name for each in (first, last)] == ["level-1", "sft"]
    assert (first.model.freeze, last.model.freeze) == (["tower"], [])


def test_a_switch_turned_off_for_all_can_be_turned_on_for_one(tmp_path, files):
    found = planned(tmp_path, files, [LEVELS, {**SFT, "share_tower": True}], "--no_share_tower", share_tower=True)
    assert [found.flags(stage).options.share_tower for stage in found.stages] == [False, False, True]


def test_the_base_is_the_reference_where_one_is_looked_at_and_is_not_the_model_itself(tmp_path, files):
    found = planned(tmp_path, files, [LEVELS, SFT], "--stage_reference", "base")
    assert [found.flags(stage, "N").model.reference for stage in found.stages] == [None, "M", None]
    moving = planned(tmp_path, files)
    assert [moving.flags(stage, "N").model.reference for stage in moving.stages] == [None, None, None]
    own = planned(tmp_path, files, [LEVELS, SFT], "--stage_reference", "base", "--level.reference", "R")
    assert [own.flags(stage, "N").model.reference for stage in own.stages] == ["R", "R", None]


@pytest.mark.parametrize(
    ("entries", "more", "expected"),
    [
        ([], (), "expected a list of mappings"),
        ("level", (), "expected a list of mappings"),
        ([{"objective": "sft"}], (), r"stages\[0\].*name is missing"),
        ([{**SFT, "name": "../sft"}], (), "name is missing"),
        ([SFT, SFT], (), "two stages are called sft"),
        ([LEVELS, {**SFT, "name": "level-2"}, SFT], (), "two stages are called level-2"),
        ([{**LEVELS, "each_difficulty": "up"}, SFT], (), "each_difficulty is easy_to_hard or hard_to_easy, got 'up'"),
        ([{**SFT, "model": "M"}], (), "model is said of the whole chain"),
        ([{**SFT, "learning_rat": 1}], (), "stage sft: .*did you mean learning_rate"),
        ([SFT], ("--sftt.seed", "1"), "no such stage; did you mean sft"),
        ([SFT], ("--sft.model", "N"), "model is no flag of a stage"),
        ([SFT], ("--stage_reference", "first"), "--stage_reference first: one of previous, base"),
        ([SFT], ("--reference", "R"), "say --stage_reference base"),
        ([{**SFT, "objective": "dpoo"}], (), "dpo"),
        ([{**SFT, "each_difficulty": "easy_to_hard"}], (), "field 'difficulty'"),
    ],
)
def test_plans_that_do_not_fit_are_refused(entries, more, expected, tmp_path, files):
    config = tmp_path / "chain.yaml"
    common = {flag: value for flag, value in COMMON.items() if flag != "beta"}  # which sft has not
    config.write_text(yaml.safe_dump({**common, "stages": entries}))
    with pytest.raises(InputError, match=expected):
        made = stages.plan("dpo", words(config, "M", files, tmp_path / "out", *more))
        for stage in made.stages:
            made.flags(stage)


def test_the_recipe_of_temple(tmp_path, files, monkeypatch):
    config = REPOSITORY / "train" / "temple.yaml"
    found = stages.plan("dpo", words(config, "M", files, tmp_path, "--bf16", "false"))
    first, _, last = (found.flags(stage) for stage in found.stages)
    assert (first.objective.beta, first.options.sft_weight, last.options.sft_weight) == (0.1, 1.0, 0.0)
    assert [(each.model.lora_r, each.model.lora_alpha) for each in (first, last)] == [(32, 64), (32, 32)]
    assert [(each.options.learning_rate, each.model.freeze) for each in (first, last)] == [
        (5e-6, ["tower", "projector"]),
        (1e-4, ["projector"]),
    ]
    assert [
        (each.model.lora_dropout, each.options.weight_decay, each.options.adam_beta2) for each in (first, last)
    ] == [(0.05, 0.1, 0.95)] * 2
    assert (first.data.fps, first.data.frames, first.data.video_pixels) == (1.0, 600, 18_000_000)


# ---- the training ----------------------------------------------------------------------------------------


def train(name, *arguments, status=0):
    assert training.main(name, [str(word) for word in arguments]) == status


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return write_config(tmp_path_factory.mktemp("config"), [LEVELS, SFT])


@pytest.fixture(scope="module")
def whole(config, tiny_model, files, tmp_path_factory) -> Path:
    """Folder of a chain trained without interruption."""
    output = tmp_path_factory.mktemp("whole") / "out"
    train("dpo", *words(config, tiny_model, files, output))
    return output


def same(ours: Path, theirs: Path) -> bool:
    one, other = (load_file(folder / "model.safetensors") for folder in (ours, theirs))
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in other)


def test_a_chain_is_its_stages_with_merges_in_between(whole, tiny_model, files, tmp_path):
    common = [
        word for key, value in COMMON.items() if key not in ("beta", "sft_weight") for word in (f"--{key}", value)
    ]
    model = tiny_model
    for name, objective, data, more in (
        ("a", "dpo", "pairs", ["--difficulty", "0.125", "--beta", "0.2", "--sft_weight", "1"]),
        ("b", "dpo", "pairs", ["--difficulty", "0.5", "--beta", "0.2", "--sft_weight", "1"]),
        ("c", "sft", "sft", ["--freeze", "none"]),
    ):
        data = files / data / "pairs.jsonl"
        train(objective, *common, "--model", model, "--data", data, "--output_dir", tmp_path / name, *more)
        model = tmp_path / f"{name}-merged"
        assert cli.main(["merge", str(tmp_path / name), "--output", str(model)]) == 0
    assert same(whole, model)
    assert not same(whole, tiny_model)
    for ours, theirs in (("level-1", "a"), ("level-2", "b"), ("sft", "c")):
        assert metrics.read(whole / ours) == metrics.read(tmp_path / theirs)


def test_the_folder_is_a_whole_model_with_a_card(whole):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    _, info = AutoModelForImageTextToText.from_pretrained(whole, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert AutoProcessor.from_pretrained(whole).chat_template
    assert not (whole / "adapter_config.json").exists()
    found = json.loads((whole / "training.json").read_text())
    assert found["finished"] and found["order"] == ["level-1", "level-2", "sft"]
    assert found["stages"]["level-2"]["difficulty"] == [0.5]
    assert "| sft | sft | 4 | 2 |" in (whole / "README.md").read_text()
    for name in found["order"]:
        assert {"README.md", "training.json", "metrics.jsonl", "adapter_model.safetensors", "merged"} <= {
            file.name for file in (whole / name).iterdir()
        }


def test_a_finished_chain_is_not_trained_again_and_a_changed_one_is_refused(whole, config, tiny_model, files, capsys):
    stamp = (whole / "model.safetensors").stat().st_mtime_ns
    train("dpo", *words(config, tiny_model, files, whole))
    assert "finished; nothing to do" in capsys.readouterr().out
    assert (whole / "model.safetensors").stat().st_mtime_ns == stamp
    train("dpo", *words(config, tiny_model, files, whole, "--sft.learning_rate", "1e-6"), status=2)
    assert "stages.sft.training.learning_rate: 0.001 -> 1e-06" in capsys.readouterr().err
    train("dpo", *words(config, tiny_model, files, whole, "--stage_reference", "base"), status=2)
    assert "stage_reference: 'previous' -> 'base'" in capsys.readouterr().err


def test_what_has_not_begun_may_change(kill, config, tiny_model, files, tmp_path, capsys):
    kill(session, "_trainer", 2)
    with pytest.raises(Killed):
        train("dpo", *words(config, tiny_model, files, tmp_path))
    train("dpo", *words(config, tiny_model, files, tmp_path, "--level-1.beta", "0.3"), status=2)
    assert "stages.level-1.options.beta: 0.2 -> 0.3" in capsys.readouterr().err
    train("dpo", *words(config, tiny_model, files, tmp_path, "--sft.learning_rate", "1e-6"))
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'level-1'} is finished" in printed
    assert "stage 3 of 3: sft (sft, freeze none, sft_weight 0.0, data " in printed and "learning_rate 1e-6)" in printed
    assert json.loads((tmp_path / "training.json").read_text())["stages"]["sft"]["training"]["learning_rate"] == 1e-6


class Killed(BaseException):
    """Ends a training as a kill would: nothing catches it."""


@pytest.fixture
def kill(monkeypatch):
    """Makes the ``number``-th call of a function end the process, as far as a test can."""

    def at(module, name: str, number: int) -> None:
        calls, real = [], getattr(module, name)

        def called(*arguments, **options):
            calls.append(None)
            if len(calls) == number:
                monkeypatch.setattr(module, name, real)
                raise Killed
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, called)

    return at


@pytest.mark.parametrize(
    ("where", "number", "done"),
    [
        ((session, "_trainer"), 2, ["level-1"]),
        ((session.card, "write"), 2, ["level-1"]),
        ((chain.backbones, "merge"), 2, ["level-1", "level-2"]),
        ((chain, "_finish"), 1, ["level-1", "level-2", "sft"]),
    ],
    ids=["as stage 2 begins", "as stage 2 ends", "before a merge", "after the last stage"],
)
def test_killed_anywhere_it_goes_on(where, number, done, kill, whole, config, tiny_model, files, tmp_path, capsys):
    kill(*where, number)
    with pytest.raises(Killed):
        train("dpo", *words(config, tiny_model, files, tmp_path))
    assert not json.loads((tmp_path / "training.json").read_text())["finished"]
    assert not (tmp_path / "config.json").exists()
    stamps = {name: (tmp_path / name / "adapter_model.safetensors").stat().st_mtime_ns for name in done}
    torn = tmp_path / done[-1] / ".merged.unfinished"
    torn.mkdir(exist_ok=True)
    (torn / "model.safetensors").write_bytes(b"half")
    train("dpo", *words(config, tiny_model, files, tmp_path))
    said = capsys.readouterr().out
    assert [f"{tmp_path / name} is finished" in said for name in done] == [True] * len(done)
    assert stamps == {name: (tmp_path / name / "adapter_model.safetensors").stat().st_mtime_ns for name in done}
    assert same(tmp_path, whole)


def test_killed_within_a_stage_it_goes_on_from_its_checkpoint(kill, whole, config, tiny_model, files, tmp_path, capsys):
    more = ("--save_strategy", "steps", "--save_steps", "1")
    kill(checkpoints, "mark_complete", 4)  # two of each stage
    with pytest.raises(Killed):
        train("dpo", *words(config, tiny_model, files, tmp_path, *more))
    train("dpo", *words(config, tiny_model, files, tmp_path, *more))
    assert f"going on from {tmp_path / 'level-2' / 'checkpoint-1'}" in capsys.readouterr().out
    assert same(tmp_path, whole)


def test_starting_over_does_not_go_on_from_an_old_merge(whole, config, tiny_model, files, tmp_path):
    shutil.copytree(whole, tmp_path / "out")
    for file in (tmp_path / "out").glob("*/merged/model.safetensors"):
        file.write_bytes((tiny_model / "model.safetensors").read_bytes())
    train("dpo", *words(config, tiny_model, files, tmp_path / "out", "--resume", "false"))
    assert same(tmp_path / "out", whole)


def test_whole_weights_go_from_stage_to_stage_and_the_base_stays_the_reference(tiny_model, files, tmp_path):
    """Against the base, the second stage starts with rewards; against its own start, with none."""
    config = write_config(tmp_path, [LEVELS], lora=False, stage_reference="base")
    data = files / "pairs" / "pairs.jsonl"
    train("dpo", "--config", config, "--model", tiny_model, "--data", data, "--output_dir", tmp_path / "out")
    starts = [metrics.read(tmp_path / "out" / name)[0]["rewards/margins"] for name in ("level-1", "level-2")]
    assert starts[0] == pytest.approx(0, abs=1e-5)
    assert abs(starts[1]) > 1e-3
    assert same(tmp_path / "out", tmp_path / "out" / "level-2")
    assert not (tmp_path / "out" / "level-1" / "merged").exists()


def test_a_bad_record_of_the_last_stage_is_found_before_the_first_begins(config, tiny_model, files, tmp_path, capsys):
    shutil.copytree(files, tmp_path / "files")
    file = tmp_path / "files" / "sft" / "pairs.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[2]["images"] = ["gone.png"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    del rows[1]["chosen"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train("dpo", *words(config, tiny_model, tmp_path / "files", tmp_path / "out"), status=2)
    assert "sft/pairs.jsonl:2: " in (said := capsys.readouterr().err)
    assert "stage sft: " in said
    assert not (tmp_path / "out").exists()


def two_processes(zero: str, *given: str) -> str:
    more = ("--per_device_train_batch_size", "1", "--deepspeed", zero)
    return run_deepspeed(2, REPOSITORY / "train" / "temple.py", *given, *more)


def assert_same_losses(ours: Path, theirs: Path) -> None:
    for name in ("level-1", "level-2", "sft"):
        found, expected = ([row["loss"] for row in metrics.read(folder / name)] for folder in (ours, theirs))
        assert found == pytest.approx(expected, rel=1e-4)


def test_two_processes_have_the_losses_of_one_and_go_on_alike(whole, config, tiny_model, files, tmp_path):
    given = words(config, tiny_model, files, tmp_path)
    assert two_processes("zero2", *given).count("stage 3 of 3: sft (sft, ") == 1
    assert_same_losses(tmp_path, whole)
    before = load_file(tmp_path / "model.safetensors")
    for file in (tmp_path / "training.json", tmp_path / "sft" / "training.json"):  # as killed before the second merge
        file.write_text(file.read_text().replace('"finished": true', '"finished": false'))
    shutil.rmtree(tmp_path / "level-2" / "merged")
    said = two_processes("zero2", *given)
    assert [f"{tmp_path / name} is finished" in said for name in ("level-1", "level-2", "sft")] == [True, True, False]
    after = load_file(tmp_path / "model.safetensors")
    assert all((after[name] == before[name]).all() for name in before)


def test_so_do_two_that_share_the_weights(whole, config, tiny_model, files, tmp_path):
    two_processes("zero3", *words(config, tiny_model, files, tmp_path))
    assert_same_losses(tmp_path, whole)
    assert (tmp_path / "model.safetensors").is_file()


def test_the_door_of_temple_brings_its_recipe(tiny_model, files, tmp_path):
    """Without --config it is TEMPLE and no plain DPO; with one it is what that says."""
    given = words(Path("none.yaml"), tiny_model, files, tmp_path / "out")[2:]
    door = [sys.executable, str(REPOSITORY / "train" / "temple.py")]
    small = ["--bf16", "false", "--lora_r", "2", "--frames", "2", "--estimate_memory", "true"]
    done = subprocess.run([*door, *given, *small], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.endswith(":")] == ["level-1:", "level-2:", "sft:"]
    done = subprocess.run([*door, "--config", "absent.yaml", *given], env=environment(), capture_output=True, text=True)
    assert done.returncode == 2 and "absent.yaml: cannot be read" in done.stderr


# ---- what does not fit -----------------------------------------------------------------------------------


def test_null_takes_back_what_all_are_told(tmp_path, files):
    made = planned(tmp_path, files, (LEVELS, {**SFT, "max_length": None}), max_length=1000)
    assert [made.flags(stage).data.max_length for stage in made.stages] == [1000, 1000, None]


@pytest.mark.parametrize(
    ("entries", "more", "expected"),
    [
        ([SFT], (), "--beta: no stage's objective has it"),
        ([LEVELS, {**SFT, "learning-rate": 1e-3}], (), "learning-rate.*did you mean learning_rate"),
        ([LEVELS, SFT], ("--precompute_reference", "true", "--reference_cache", "c"), "stages cannot share one"),
    ],
)
def test_what_would_be_passed_over_is_refused(entries, more, expected, tmp_path, files):
    with pytest.raises(InputError, match=expected):
        planned(tmp_path, files, entries, *more)


def test_a_stage_for_each_of_many_difficulties_is_refused(tmp_path, files):
    pairs = write_pairs(tmp_path / "many", 40, 0, pictures=(0,))
    write_jsonl(pairs, [replace(each, difficulty=i / 64) for i, each in enumerate(RecordFile(pairs))])
    with pytest.raises(InputError, match="40 different difficulties would be as many trainings"):
        planned(tmp_path, files, (LEVELS, SFT), "--data", str(pairs))


def test_a_hyphen_in_a_flag_of_one_stage(tmp_path, files):
    made = planned(tmp_path, files, (LEVELS, SFT), "--level-2.no-lora", "--sft.learning-rate", "1e-6")
    assert [made.flags(stage).model.lora for stage in made.stages] == [True, False, True]
    assert made.flags(made.stages[2]).options.learning_rate == 1e-6


def test_answers_that_were_forgotten_are_named(config, tiny_model, files, tmp_path, capsys):
    given = words(config, tiny_model, files, tmp_path)
    train("dpo", *given[: given.index("--sft.data")], status=2)
    assert "--sft.data FILE gives it its own" in capsys.readouterr().err


def test_starting_over_starts_all_stages_over(whole, config, tiny_model, files, tmp_path, monkeypatch, capsys):
    """Also where the first one comes out otherwise, as it does on a GPU."""
    shutil.copytree(whole, tmp_path / "again")
    begun = []
    monkeypatch.setattr(session, "_trainer", lambda given, found: begun.append(given) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train("dpo", *words(config, tiny_model, files, tmp_path / "again", "--resume", "false"))
    assert len(begun) == 1
    assert not {file.name for file in (tmp_path / "again").iterdir()} & {"level-1", "level-2", "sft"}


def test_a_chain_that_never_began_does_not_hold_its_folder(config, tiny_model, files, tmp_path, kill, capsys):
    kill(session, "_trainer", 1)
    with pytest.raises(Killed):
        train("dpo", *words(config, tiny_model, files, tmp_path))
    train("dpo", *words(config, tiny_model, files, tmp_path, "--beta", "0.3", "--estimate_memory", "true"))
    kill(session, "_trainer", 1)
    with pytest.raises(Killed):
        train("dpo", *words(config, tiny_model, files, tmp_path, "--beta", "0.3"))
