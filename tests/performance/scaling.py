"""How the cost of a step grows with the prompt, the responses, their number, and the vocabulary.

    python -m tests.performance.scaling                  # as a table
    python -m tests.performance.scaling --json           # one JSON object

One record, forward and backward of the policy alone, tower frozen: with the prompt shared by its responses and without.
Seconds are the median of a few steps; memory is what they add to the model, gradients included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from mmalign import backbones
from mmalign.forward import Batch, Encoder, Engine
from mmalign.records import Record, RecordFile, Response
from tests.performance.against_trl import SIZES, Case, Size, versions, write_case
from tests.performance.sides import peak_bytes, reset_peak, settle


@dataclass(frozen=True)
class Point:
    """One measurement: a case, and how many responses its prompt has."""

    case: Case
    responses: int = 2


BASE = Point(Case("base", lora=False))
SWEEPS = {
    "prompt": [replace(BASE, case=replace(BASE.case, images=n)) for n in (1, 2, 4)],
    "response": [replace(BASE, case=replace(BASE.case, words=n)) for n in (50, 100, 200, 400)],
    "vocabulary": [replace(BASE, case=replace(BASE.case, vocabulary=n)) for n in (32_000, 64_000, 128_000)],
    "responses": [replace(BASE, responses=n) for n in (2, 4, 8)],
}


def measure(point: Point, size: Size, steps: int) -> dict[str, Any]:
    """Time and memory of one point in both layouts, each in a process of its own: memory once had is kept."""
    found: dict[str, Any] = {"images": point.case.images, "words": point.case.words}
    found |= {"vocabulary": point.case.vocabulary, "responses": point.responses}
    for layout in ("shared", "plain"):
        with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
            found[layout] = pool.submit(_measure, point, size, steps, share=layout == "shared").result()
    found["speed_ratio"] = found["plain"]["seconds"] / found["shared"]["seconds"]
    found["peak_ratio"] = found["shared"]["peak_mib"] / found["plain"]["peak_mib"]
    return found


def _measure(point: Point, size: Size, steps: int, *, share: bool) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name, redirect_stdout(sys.stderr):
        folder = Path(name)
        write_case(folder, point.case, size, records=1)
        backbone = backbones.load(folder / "model", dtype="float32")
        for part, weight in backbone.model.named_parameters():
            weight.requires_grad_(backbone.part_of(part) != "tower")
        records = RecordFile(folder / "pairs.jsonl")
        record = _ranked(records[0], point.responses)
        encoded = Encoder(backbone, ("responses",))(record, records.media_root)
        engine = Engine(backbone, reference=False)
        batch = Batch.of([encoded], ("responses",), backbone.pad_token_id, share=share, pack=engine.pack)
        return _step(engine, batch.to(backbone.device), steps)


def _ranked(record: Record, count: int) -> Record:
    """A record with so many responses: those of the pair, in turn."""
    own = [(record.chosen, record.rejected)[i % 2][0] for i in range(count)]
    return replace(record, responses=tuple(Response(message=message) for message in own))


def _step(engine: Engine, batch: Batch, steps: int) -> dict[str, float]:
    seconds = []
    engine.train()
    for weight in engine.parameters():
        weight.sum()  # read from the disk what is only mapped so far
    before = reset_peak()
    for _ in range(steps + 1):
        settle()
        start = time.perf_counter()
        policy, _ = engine(batch)
        policy["responses"].logps.sum().backward()
        settle()
        seconds.append(time.perf_counter() - start)
    return {
        "seconds": statistics.median(seconds[1:]),
        "peak_mib": (peak_bytes() - before) / 2**20,
        "tokens": batch.tokens,
    }


def table(sweep: str, points: list[dict[str, Any]]) -> str:
    name = {"prompt": "images", "response": "words"}.get(sweep, sweep)
    rows = [(name, "tokens", "seconds", "MiB", "plain tokens", "plain seconds", "plain MiB", "x"), ("---",) * 8]
    for point in points:
        cells = [f"{point[name]:,}"]
        for layout in ("shared", "plain"):
            numbers = point[layout]
            cells += [f"{numbers['tokens']:,}", f"{numbers['seconds']:.2f}", f"{numbers['peak_mib']:,.0f}"]
        rows.append((*cells, f"{point['speed_ratio']:.2f}"))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", nargs="+", choices=SWEEPS, default=list(SWEEPS))
    parser.add_argument("--size", choices=SIZES, default="cpu", help="of the model (default: cpu)")
    parser.add_argument("--steps", type=int, default=3, help="timed steps a point, after one that is not")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    args = parser.parse_args()
    results = {}
    with redirect_stdout(sys.stderr):  # libraries greet
        for sweep in args.sweeps:
            results[sweep] = [measure(point, SIZES[args.size], args.steps) for point in SWEEPS[sweep]]
            print(f"\n{sweep}\n{table(sweep, results[sweep])}", flush=True)
        made = {"versions": versions(), "size": args.size}
    tables = "\n\n".join(f"{sweep}\n{table(sweep, points)}" for sweep, points in results.items())
    print(json.dumps({**made, "sweeps": results}) if args.json else f"{tables}\n\n{made}")


if __name__ == "__main__":
    main()
