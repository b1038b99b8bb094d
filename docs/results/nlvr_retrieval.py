"""False negatives of retrieval, where it can be known what every picture shows: NLVR, and what a guard does about them.

    python docs/results/nlvr_retrieval.py --nlvr NLVR --output runs/nlvr-retrieval
    python docs/results/nlvr_retrieval.py ... --built guarded=on.jsonl unguarded=off.jsonl    # and pairs built from it

NLVR is the folder as published: 5,934 pictures of three boxes each, the six orders of 989 rows of boxes. A picture
retrieved as a negative of another is a false one if what is true of one is true of the other. Two rules say so:

- same scene: the same three boxes, shape by shape and pixel by pixel, in some order;
- same list: box by box, in some order, the same names, sizes and ninths of the box, which is all that a description of
  this project says. It takes in the first, so it is the stricter one for who looks for negatives.

Prints its tables as Markdown, and writes OUTPUT/page.html, one file with all pictures in it, and OUTPUT/sources.jsonl,
a true description of every picture, from which pairs can be built.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from mmalign import cli
from mmalign.interop import nlvr
from mmalign.media import open_image
from mmalign.records import InputError, Record, atomic_write, read_jsonl, write_jsonl
from mmalign.reports import page, plots
from mmalign.retrieval import Guard, Index
from mmalign.retrieval.index import OFF
from mmalign.scenes import MODEL

K = 10
SHOWN = 5  # neighbours of a picture in the gallery
EXAMPLES = 12
BLOCK = 512  # pictures whose similarities to all others are computed at a time
DISTANCES = np.logspace(-5, np.log10(2), 81)
"""Edges of the histogram's bins, in 1 - similarity."""

DEFAULT = Guard()
GUARDS = {
    "none, as in the paper": OFF,
    "same content": Guard(None),
    "same content, hash within 4 bits": Guard(None, hash_distance=4),
    "same content, above 0.99": Guard(0.99),
    "same content, above 0.98": Guard(0.98),
    "same content, above 0.97": Guard(0.97),
    "same content, above 0.95": Guard(0.95),
    "same content, above 0.9": Guard(0.9),
}
GUARDS = {f"{label} (default)" if guard == DEFAULT else label: guard for label, guard in GUARDS.items()}
RAW_GUARDS = {"same content, above 0.999": Guard(0.999), "same content, above 0.98": Guard(0.98)}


# ---- what the pictures show ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Truth:
    """What pictures show: in each array, equal numbers stand for pictures of which the same is true. Shape: (N,)."""

    names: list[str]
    boxes: list[tuple[nlvr.Box, ...]]
    drawing: np.ndarray
    scene: np.ndarray
    listed: np.ndarray

    @property
    def row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.names)}


def read_truth(folder: Path) -> Truth:
    """Of every picture of a published split, in the order of their names."""
    directories = sorted(path.name for path in (folder / "images").iterdir() if path.is_dir())
    rows: dict[tuple[str, str], list[nlvr.Box]] = {}
    for box in nlvr.read_boxes(folder, {name: (name,) for name in directories}):
        rows.setdefault((box.part, box.name.rpartition("-")[0]), []).append(box)
    split = next(folder.glob("*.json")).stem
    shown = {
        f"images/{directory}/{split}-{row}-{number}.png": order
        for (directory, row), boxes in rows.items()
        for number, order in enumerate(permutations(boxes))
    }
    names = sorted(shown)
    boxes = [shown[name] for name in names]
    drawing = numbered(tuple(box.scene for box in order) for order in boxes)
    scene = numbered(bag(box.scene for box in order) for order in boxes)
    listed = numbered(bag(bag(map(said, box.shapes)) for box in order) for order in boxes)
    return Truth(names, boxes, drawing, scene, listed)


def said(shape: nlvr.Shape) -> tuple[str, str, str]:
    """All that a description says of a shape."""
    return shape.name, nlvr.SIZES[shape.size], shape.place


def bag(things: Iterable[Hashable]) -> frozenset:
    """Equal where the same things are there as often, in whatever order."""
    return frozenset(Counter(things).items())


def numbered(keys: Iterable[Hashable]) -> np.ndarray:
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys])


def write_sources(truth: Truth, file: Path) -> None:
    """A true description of every picture, box by box, as sources of a builder."""
    places = ("In the left box, ", "In the middle box, ", "In the right box, ")
    rows = []
    for name, boxes in zip(truth.names, truth.boxes, strict=True):
        told = [nlvr.caption(box.shapes, Random(name)) for box in boxes]
        texts = [f"{place}{text[0].lower()}{text[1:]}" for place, text in zip(places, told, strict=True) if text]
        row = {"id": Path(name).stem, "image": name, "question": "Describe the image.", "answer": " ".join(texts)}
        rows.append(row)
    write_jsonl(file, rows)


# ---- counting --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Count:
    """What became of all pictures as sources, each with ten neighbours, under one guard. Shares are of 1.

    Attributes:
        first, among: false negatives at rank 1 and among all that were retrieved, by the rule of the same scene.
        first_listed, among_listed: by the rule of the same list.
        with_negative: sources with a true negative among their ten, by the stricter rule.
        lost: true negatives among the ten without a guard that this one takes away.
        similarity: median over sources of their most similar true negative.
    """

    guard: str
    first: float
    among: float
    first_listed: float
    among_listed: float
    with_negative: float
    lost: float
    similarity: float


def count(index: Index, truth: Truth, label: str, guard: Guard) -> Count:
    row_of = truth.row_of
    free = index.neighbours(truth.names, K, OFF)
    guarded = index.neighbours(truth.names, K, guard)
    first, among, first_listed, among_listed, nearest = [], [], [], [], []
    with_negative = lost = negatives = 0
    for own, (before, after) in enumerate(zip(free, guarded, strict=True)):
        rows = np.array([row_of[each.name] for each in after], dtype=int)
        scene, listed = truth.scene[rows] == truth.scene[own], truth.listed[rows] == truth.listed[own]
        among += scene.tolist()
        among_listed += listed.tolist()
        first += scene[:1].tolist()
        first_listed += listed[:1].tolist()
        with_negative += not listed.all()
        nearest += [each.similarity for each, false in zip(after, listed, strict=True) if not false][:1]
        true = {each.name for each in before if truth.listed[row_of[each.name]] != truth.listed[own]}
        negatives += len(true)
        lost += len(true - {each.name for each in after})
    shares = [float(np.mean(values)) for values in (first, among, first_listed, among_listed)]
    whole = len(truth.names)
    return Count(label, *shares, with_negative / whole, lost / max(1, negatives), float(np.median(nearest)))


@dataclass(frozen=True)
class Histogram:
    """Shares of pairs by 1 - similarity, in the bins of `DISTANCES`; and quantiles of their similarities."""

    title: str
    shares: dict[str, np.ndarray] = field(default_factory=dict)
    quantiles: dict[str, tuple[float, float, float]] = field(default_factory=dict)


def histogram(index: Index, truth: Truth, title: str) -> Histogram:
    """Of all pairs of pictures: those of one scene, those that differ in their lists, and the nearest of these."""
    vectors = index.vectors(index.rows(truth.names)).astype(np.float64)
    found: dict[str, list[np.ndarray]] = {"same scene": [], "other list": [], "nearest of another list": []}
    for start in range(0, len(vectors), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(vectors)))
        similar = vectors[rows] @ vectors.T
        listed = truth.listed[rows, None] == truth.listed
        same = truth.scene[rows, None] == truth.scene
        same[np.arange(len(rows)), rows] = False
        found["same scene"].append(similar[same])
        found["other list"].append(similar[~listed])
        found["nearest of another list"].append(np.where(listed, -1, similar).max(1))
    made = Histogram(title)
    for name, parts in found.items():
        values = np.concatenate(parts)
        bins = np.histogram((1 - values).clip(DISTANCES[0], DISTANCES[-1]), DISTANCES)[0]
        made.shares[name] = bins / len(values)
        low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
        made.quantiles[name] = float(low), float(middle), float(high)
    return made


@dataclass(frozen=True)
class Built:
    """Pairs of one file that a builder made by retrieval: how many, and how many have a false negative."""

    label: str
    records: int
    scene: int
    listed: int


def built(files: Mapping[str, Path], truth: Truth) -> list[Built]:
    """False negatives among pairs that were built from these pictures, by the file's label.

    A pair counts by its first picture and its first rejected one.

    Raises:
        InputError: a record without a rejected picture, or with pictures that are not NLVR's.
    """
    row_of, rows = truth.row_of, []
    for label, file in files.items():
        scene = listed = records = 0
        for record in read_jsonl(file, Record.parse):
            if not record.rejected_images or not {record.images[0], record.rejected_images[0]} <= row_of.keys():
                raise InputError(f"{record.id} has no rejected picture, or other pictures than NLVR's", file=file)
            own, other = row_of[record.images[0]], row_of[record.rejected_images[0]]
            records += 1
            scene += bool(truth.scene[own] == truth.scene[other])
            listed += bool(truth.listed[own] == truth.listed[other])
        rows.append(Built(label, records, scene, listed))
    return rows


# ---- tables and pictures ---------------------------------------------------------------------------------------------

HEAD = ("guard", "false at rank 1", "false in top 10", "rank 1, same list", "top 10, same list",
        "sources with a true negative", "true negatives lost", "similarity of the nearest true one")  # fmt: skip
BUILT_HEAD = ("built with", "pairs", "rejected picture of the same scene", "of the same list")


def cells(each: Count) -> tuple[str, ...]:
    shares = (each.first, each.among, each.first_listed, each.among_listed, each.with_negative, each.lost)
    return (each.guard, *(f"{share:.1%}" for share in shares), f"{each.similarity:.3f}")


def built_cells(each: Built) -> tuple[str, ...]:
    whole = max(1, each.records)
    shares = (f"{number} ({number / whole:.1%})" for number in (each.scene, each.listed))
    return (each.label, f"{each.records:,}", *shares)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows))


def draw(made: Histogram) -> str:
    """The histogram as SVG in the colors of the page."""
    from matplotlib import style
    from matplotlib.figure import Figure

    colors = {"same scene": plots.REJECTED, "other list": plots.MUTED, "nearest of another list": plots.CHOSEN}
    with style.context(["default", plots._STYLE, {"svg.hashsalt": made.title, "figure.figsize": (5.2, 3.0)}]):
        figure = Figure()
        axes = figure.add_subplot()
        for name, shares in made.shares.items():
            axes.stairs(100 * shares, DISTANCES, color=colors[name], fill=True, alpha=0.16)
            axes.stairs(100 * shares, DISTANCES, color=colors[name], linewidth=1.6, label=name)
        for limit in (0.98, DEFAULT.similarity_max):
            axes.axvline(1 - limit, color=plots.INK, linestyle=":", linewidth=1.2)
            axes.annotate(f"{limit:g}", (1 - limit, 1), xycoords=("data", "axes fraction"), xytext=(3, -3),
                          textcoords="offset points", va="top", fontsize=8.5, color=plots.INK)  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlim(DISTANCES[-1], DISTANCES[0])
        ticks = (2, 1, 0.1, 0.01, 0.001, 0.0001)
        axes.set_xticks(ticks, ["−1", "0", "0.9", "0.99", "0.999", "0.9999"])
        axes.minorticks_off()
        axes.set_ylim(0)
        axes.set_xlabel("similarity (to the right: more alike)")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.4, fontsize=8.5)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    words = "; ".join(f"{name}, median {middle:.3f}" for name, (_, middle, _) in made.quantiles.items())
    return plots._for_page(drawn.getvalue(), f"{made.title}: {words}")


def examples(index: Index, truth: Truth, root: Path) -> list[dict[str, Any]]:
    """Pictures spread evenly over the names, not chosen by how they turn out, with neighbours of both kinds."""
    row_of = truth.row_of
    chosen = [truth.names[row] for row in np.linspace(0, len(truth.names) - 1, EXAMPLES + 1).astype(int)[:-1]]
    found = []
    for name, free, kept in zip(
        chosen, index.neighbours(chosen, SHOWN, OFF), index.neighbours(chosen, SHOWN, DEFAULT), strict=True
    ):
        passed = {each.name for each in kept}
        own = row_of[name]
        groups = []
        for title, near in (("Without a guard", free), ("With it", kept)):
            items = []
            for each in near:
                row = row_of[each.name]
                same = "scene" if truth.scene[row] == truth.scene[own] else "list"
                false = truth.listed[row] == truth.listed[own]
                verdict = f"the same {same}" if false else "a true negative"
                removed = each.name not in passed and each.similarity > DEFAULT.similarity_max
                items.append({"picture": inlined(root / each.name), "similarity": each.similarity, "false": false,
                              "verdict": verdict, "removed": removed})  # fmt: skip
            groups.append((title, items))
        found.append({"name": name, "picture": inlined(root / name), "groups": groups})
    return found


def inlined(path: Path) -> page.Picture:
    return page.inline(open_image(path))


def write_page(file: Path, **content: Any) -> None:
    import jinja2

    folders = [Path(__file__).parent, Path(page.__file__).parent]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("nlvr_retrieval.html.j2").render(changes={}, **content)
    with atomic_write(file) as target:
        target.write(text.encode())


# ---- the whole -------------------------------------------------------------------------------------------------------


def indexed(args: argparse.Namespace, *more: str) -> Index:
    """The index as `mmalign index` makes it. Pictures are embedded once, whatever ``more`` says of the index."""
    folder = args.output / "index"
    command = ["index", "--model", str(args.model), "--images", str(args.nlvr), "--output", str(folder), *more]
    if cli.main(command):
        raise SystemExit(2)
    return Index.open(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nlvr", type=Path, required=True, help="folder with one .json file and images/")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--model", type=Path, default=MODEL, help="whose tower embeds (default: the bundled one)")
    parser.add_argument("--built", nargs="+", default=[], metavar="LABEL=FILE", help="record files built from it")
    args = parser.parse_args()
    page.require()
    truth = read_truth(args.nlvr)
    write_sources(truth, args.output / "sources.jsonl")

    raw = indexed(args, "--no_center")
    histograms = [histogram(raw, truth, "As the tower gives them")]
    counts_raw = [count(raw, truth, f"{label}, not centred", guard) for label, guard in RAW_GUARDS.items()]
    index = indexed(args)
    histograms.insert(0, histogram(index, truth, "Around their mean"))
    counts = [count(index, truth, label, guard) for label, guard in GUARDS.items()]

    files = {label: Path(file) for label, _, file in (each.partition("=") for each in args.built)}
    pairs = built(files, truth)
    write_page(
        args.output / "page.html",
        pictures=len(truth.names),
        scenes=len(set(truth.scene.tolist())),
        lists=len(set(truth.listed.tolist())),
        cards=[("Without a guard", counts[0]), ("With the default", next(c for c in counts if "(default)" in c.guard))],
        head=HEAD,
        rows=[cells(each) for each in counts],
        raw_rows=[cells(each) for each in counts_raw],
        default=DEFAULT,
        histograms=[(made, draw(made)) for made in histograms],
        built_head=BUILT_HEAD,
        built_rows=[built_cells(each) for each in pairs],
        examples=examples(index, truth, args.nlvr),
        k=K,
    )
    print(markdown(HEAD, [cells(each) for each in [*counts, *counts_raw]]))
    for made in histograms:
        print(f"\n{made.title}: 5 %, median and 95 % of similarities")
        head = ("pairs", "5 %", "median", "95 %")
        print(markdown(head, [(name, *(f"{q:.4f}" for q in qs)) for name, qs in made.quantiles.items()]))
    if pairs:
        print("\n" + markdown(BUILT_HEAD, [built_cells(each) for each in pairs]))
    print(f"\n{args.output / 'page.html'}", file=sys.stderr)


if __name__ == "__main__":
    main()
