"""See the package: environments, both ways, and a table of what was compared."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmalign.interop import convert
from mmalign.records import Message, Record, RecordFile, text_of, write_jsonl
from tests.conftest import REPOSITORY
from tests.interop.peers import cases
from tests.tiny import noise, write_clip

MODEL = REPOSITORY / "mmalign" / "scenes" / "model"  # its tokenizer and processor
REQUIREMENTS = {"llama_factory": "llamafactory==0.9.5", "ms_swift": "ms-swift==4.6.0"}
TORCH = "torch==2.13.0"

Side = dict[str, Any] | None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for the environments and the files")
    work = parser.parse_args(arguments).work.resolve()
    problems = 0
    for peer, check in (("llama_factory", llama_factory), ("ms_swift", ms_swift)):
        python = environment(work, peer)
        files = work / f"{peer}-files"
        shutil.rmtree(files, ignore_errors=True)
        put_media(files)
        problems += check(python, files)
    print("all equal" if not problems else f"{problems} comparisons differ")
    return int(problems > 0)


def environment(work: Path, peer: str) -> Path:
    """The Python of a peer's environment, which is made if it is not there."""
    folder = work / peer
    if not (folder / ".ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        (folder / "constraints.txt").write_text(f"{TORCH}\n")
        pip = [folder / "bin" / "pip", "install", "--quiet", "--no-cache-dir"]
        subprocess.run([*pip, "--constraint", folder / "constraints.txt", TORCH, REQUIREMENTS[peer]], check=True)
        # its wheel wants CUDA's libraries, and no picture wants it: see in_llama_factory.py
        subprocess.run([pip[0], "uninstall", "--quiet", "--yes", "torchaudio"], check=True)
        (folder / ".ready").touch()
    return folder / "bin" / "python"


def put_media(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in cases.PICTURES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise(rng).save(folder / name)
    for name in cases.CLIPS:
        write_clip(folder / name, [noise(rng) for _ in range(4)])


def ask(python: Path, script: str, *arguments: object, **variables: str) -> dict[str, Any]:
    """What a script says in a peer's environment, offline."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(python.parents[1] / "cache")}
    offline["MODELSCOPE_CACHE"] = offline["HF_HOME"]
    path = Path(__file__).with_name(script)
    result = subprocess.run(
        [python, path, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **offline, "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": "", **variables},
    )
    if result.returncode:
        raise SystemExit(f"{script} failed:\n{result.stderr[-4000:]}")
    return json.loads(result.stdout)


def compare(what: str, found: list[Any], expected: list[Any]) -> int:
    """Prints one line; 1 where they differ."""
    same = found == expected
    print(f"  {what:<44} {len(found):>3} of {len(expected):>3} rows  {'equal' if same else 'DIFFERENT'}")
    for one, other in zip(found, expected, strict=False):
        if one != other:
            print(f"    found    {one}\n    expected {other}")
            break
    return int(not same)


# ---- one form for all ------------------------------------------------------------------------------------------------


def side(prompt: list[Message], answer: list[Message] | None, images: Sequence[str], videos: Sequence[str]) -> Side:
    if answer is None:
        return None
    said = [[turn["role"], "".join(b.get("text", f"<{b['type']}>") for b in turn["content"])] for turn in prompt]
    return {"messages": [*said, ["assistant", text_of(answer)]], "images": list(images), "videos": list(videos)}


def pairs(record: Record) -> list[tuple[Side, Side]]:
    """What a record states, as chosen and rejected sides."""
    own = record.images, record.videos
    chosen = side(record.prompt, record.chosen, *own)
    other = []
    if record.rejected:
        other.append(side(record.prompt, record.rejected, *own))
    if record.rejected_images:
        other.append(side(record.prompt, record.chosen, record.rejected_images, record.videos))
    if record.rejected_prompt:
        other.append(side(record.rejected_prompt, record.chosen, *own))
    return [(chosen, rejected) for rejected in other or [None]]


def all_pairs(records: Sequence[Record]) -> list[tuple[Side, Side]]:
    return [pair for record in records for pair in pairs(record)]


def read(source: Path, peer: str, **options: str) -> list[Record]:
    """Our records of a peer's file."""
    output = source.with_name(f"{source.stem}-{options.get('dataset', '')}-read.jsonl")
    convert.read(source, peer, output, options=options, progress=False)
    return list(RecordFile(output))


def written(folder: Path, name: str, records: list[Record], peer: str) -> Path:
    """The peer's file of our records."""
    write_jsonl(folder / f"{name}-records.jsonl", records)
    convert.write(folder / f"{name}-records.jsonl", peer, folder / f"{name}.jsonl", progress=False)
    return folder / f"{name}.jsonl"


# ---- LLaMA-Factory ---------------------------------------------------------------------------------------------------


def llama_factory(python: Path, folder: Path) -> int:
    wrong = 0

    def loaded(name: str, stage: str) -> tuple[list[tuple[Side, Side]], list[Any], str]:
        said = ask(python, "in_llama_factory.py", folder, name, stage, MODEL)
        return [_from_llama_factory(row, folder) for row in said["rows"]], said["decoded"], said["version"]

    for name, records in (("simple", cases.SIMPLE), ("pairs", cases.PAIRS), ("mixed", cases.PAIRS + cases.ALONE)):
        written(folder, name, records, "llama_factory")
        parts = [(name, "rm", [r for r in records if r.rejected])]
        parts += [(f"{name}_sft", "sft", alone)] if (alone := [r for r in records if not r.rejected]) else []
        for part, stage, expected in parts:
            found, decoded, version = loaded(part, stage)
            if name == "simple":
                print(f"LLaMA-Factory {version}: get_dataset")
                answers = [[text_of(r.chosen), text_of(r.rejected)] for r in records]
                ends = [[text.rpartition("ASSISTANT:")[2].removesuffix("<|end|>") for text in both] for both in decoded]
                wrong += compare("written, tokenized, answers", ends, answers)
            wrong += compare(f"written, loaded: {part}", found, all_pairs(expected))
            again = _bare(read(folder / f"{part}.jsonl", "llama_factory"))
            wrong += compare(f"written, read again: {part}", again, _bare(expected))
    info = json.loads((folder / "dataset_info.json").read_text())
    for name, (stage, entry, rows) in cases.LLAMA_FACTORY.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
        info[name] = {"file_name": f"{name}.json", **entry}
        (folder / "dataset_info.json").write_text(json.dumps(info))
        found = all_pairs(read(folder / "dataset_info.json", "llama_factory", dataset=name))
        wrong += compare(f"its own layout, read: {name}", found, loaded(name, stage)[0])
    return wrong


def _from_llama_factory(row: dict[str, Any], folder: Path) -> tuple[Side, Side]:
    system = [["system", row["_system"]]] if row["_system"] else []
    turns = system + [[turn["role"], turn["content"]] for turn in row["_prompt"]]
    names = {kind: [os.path.relpath(path, folder) for path in row[f"_{kind}"] or []] for kind in ("images", "videos")}
    sides = [{"messages": [*turns, ["assistant", turn["content"]]], **names} for turn in row["_response"]]
    chosen, rejected = [found if found["messages"][-1][1] else None for found in [*sides, sides[0]][:2]]
    return chosen, rejected if len(sides) > 1 else None


def _bare(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Records less what conversion says of itself."""
    return [{key: value for key, value in record.to_json().items() if key != "meta"} for record in records]


# ---- ms-swift --------------------------------------------------------------------------------------------------------


def ms_swift(python: Path, folder: Path) -> int:
    wrong = 0

    def loaded(file: Path) -> tuple[list[dict[str, Any]], str]:
        said = ask(python, "in_ms_swift.py", file, ROOT_IMAGE_DIR=str(folder))
        return said["sides"], said["version"]

    written(folder, "wider", cases.WIDER + cases.ALONE + cases.REFUSED, "ms_swift")
    for name, expected in (("wider", cases.WIDER), ("wider_sft", cases.ALONE), ("wider_kto", cases.REFUSED)):
        rows, version = loaded(folder / f"{name}.jsonl")
        if name == "wider":
            print(f"ms-swift {version}: load_dataset, TemplateInputs")
            margins = [row["chosen"]["margin"] for row in rows if row["chosen"]["margin"] is not None]
            wrong += compare("written, margins", margins, [1.5])
        wrong += compare(f"written, loaded: {name}", [_from_swift(row) for row in rows], all_pairs(expected))
        found = all_pairs(read(folder / f"{name}.jsonl", "ms_swift"))
        wrong += compare(f"written, read again: {name}", found, all_pairs(expected))
    for name, rows in cases.MS_SWIFT.items():
        file = put(folder / f"{name}.jsonl", rows)
        found = all_pairs(read(file, "ms_swift"))
        wrong += compare(f"its own layout, read: {name}", found, [_from_swift(row) for row in loaded(file)[0]])
    kept = [_from_swift(row) for row in loaded(put(folder / "responses.jsonl", cases.MIXED_RESPONSES))[0]]
    wrong += compare("why no rejected_response: one row is lost", [len(kept)], [1])
    kept = [_from_swift(row) for row in loaded(put(folder / "alone.jsonl", cases.MIXED_PAIRS))[0]]
    wrong += compare("why files of their own: a pair of equals", [one == other for one, other in kept], [False, True])
    return wrong


def put(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def _from_swift(row: dict[str, Any]) -> tuple[Side, Side]:
    """The sides of a row; one whose label is false is a rejected answer alone."""
    names = ("messages", "images", "videos")
    sides = [said and {name: said[name] for name in names} for said in (row["chosen"], row["rejected"])]
    return (None, sides[0]) if row["chosen"]["label"] is False else (sides[0], sides[1])


if __name__ == "__main__":
    raise SystemExit(main())
