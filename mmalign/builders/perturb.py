"""Perturb: the same question and answer beside the same clip, out of order.

Negative clips for objectives that compare an answer beside its media with the same answer beside others, such as mDPO
(Wang et al., arXiv 2406.11839) and Re-Align (Xing et al., arXiv 2502.13146), made by the perturbations of TEMPLE (Li et
al., arXiv 2503.16929) and RRPO (Sarkar and Etemad, arXiv 2504.12083). A clip out of order is a name and no file:
``a.mp4#order=2,3,0,1:4`` are the halves of a.mp4, exchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from mmalign import runs
from mmalign.builders import NOTHING, Drop, Unit
from mmalign.media import FrameChoice, MediaError, Part, open_clip
from mmalign.media.perturb import Plan, plans
from mmalign.plugins import check, option
from mmalign.records import PART_OF_CLIP, Record

KINDS = ("drop", "shuffle", "local_shuffle", "global_shuffle", "reverse", "repeat", "speed")
"""What a name can say: an order of equal parts of one clip."""

AT_A_TIME = 4
"""Sources whose clips are opened at once."""

PIXELS = 224 * 224
"""Of a frame that is looked at: enough to tell whether anything changes."""


@dataclass(frozen=True)
class Perturb:
    """Negative clips: each clip with its parts out of order, dropped or repeated (arXiv 2503.16929, 2504.12083).

    For objectives that compare an answer beside its clip with the same answer beside another one (mdpo, rdpo): they
    learn that the answer hangs on the order of the clip. Nothing is written but names.
    """

    kinds: str = option("drop,shuffle,reverse", f"What is done, of {', '.join(KINDS)}.")
    levels: str = option("2,4,8,16", "How strongly, each 2 or more; 16 is easy to tell from the clip, 2 is hard.")
    parts: int = option(8, "Equal parts that a clip is cut into; no more than the frames that training looks at.")
    per_source: int | None = option(None, "Most records of a source, drawn from all of its.")
    seed: int = option(0, "Another seed gives other orders.")

    wants: ClassVar[str] = NOTHING

    def __post_init__(self) -> None:
        unknown = [kind for kind in _words(self.kinds) if kind not in KINDS]
        check(self, "kinds", not unknown and bool(_words(self.kinds)), f"some of {', '.join(KINDS)}, with commas")
        fine = all(word.isdecimal() and int(word) >= 2 for word in _words(self.levels)) and _words(self.levels)
        check(self, "levels", bool(fine), "numbers of 2 or more, with commas")
        check(self, "parts", self.parts >= 2, "2 or more")
        check(self, "per_source", self.per_source is None or self.per_source >= 1, "1 or more")

    def __call__(self, unit: Unit, model: None) -> Iterator[tuple[str, list[Record] | Drop]]:
        """Records ``SOURCE#KIND-rR``, one for each plan: the source, with its clips out of order as negative ones."""
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            results = pool.map(lambda record: self._of(record, unit), unit.items)
            yield from zip((record.id for record in unit.items), results, strict=True)

    @staticmethod
    def outcome(record: Record) -> str:
        """The word under which a record is counted at the end of a run."""
        plan = record.meta["plan"]
        return f"{plan['kind']} r {', '.join(map(str, plan['levels']))}"

    def _of(self, record: Record, unit: Unit) -> list[Record] | Drop:
        return (
            _unfit(record) or self._unseen(record, unit) or [self._made(record, plan) for plan in self._plans(record)]
        )

    def _unseen(self, record: Record, unit: Unit) -> Drop | None:
        """Why the clips of a record cannot be used, once they are opened; None where they can."""
        still = True
        for name in record.videos:
            try:
                if Part.of(name).order is not None:
                    return Drop("has_order", f"is in an order of its own already: {name}")
                frames = open_clip(name, unit.media_root, FrameChoice(self.parts, pixels=self.parts * PIXELS)).frames
            except MediaError as error:
                return Drop(error.reason, str(error))
            if len(frames) < self.parts:
                return Drop("too_short", f"{len(frames)} frames, fewer than {self.parts} parts: {name}")
            still = still and len({frame.tobytes() for frame in frames}) == 1
        return Drop("still", "all frames are the same: no order of them shows anything else") if still else None

    def _plans(self, record: Record) -> list[Plan]:
        levels = map(int, _words(self.levels))
        seed = runs.stable_seed(self.seed, record.id)
        made = plans(_words(self.kinds), self.parts, levels, seed=seed)
        seeds = np.array([runs.stable_seed(seed, plan.kind, plan.r) for plan in made], dtype=np.uint64)
        drawn = np.argsort(runs.uniform(seeds, 0), kind="stable")[: self.per_source]
        return [made[number] for number in sorted(drawn)]

    def _made(self, record: Record, plan: Plan) -> Record:
        meta = {"seed": self.seed, "plan": plan.to_json(), **({"source": record.meta} if record.meta else {})}
        return replace(
            record,
            id=f"{record.id}#{plan.kind}-r{plan.r}",
            rejected_videos=tuple(ordered(name, plan) for name in record.videos),
            difficulty=plan.difficulty,
            meta=meta,
        )


def ordered(name: str, plan: Plan) -> str:
    """The name of a clip whose parts are shown in the order of ``plan``; a part of a file stays that part."""
    order = f"order={','.join(map(str, plan.order))}:{plan.units}"
    return f"{name}{'&' if PART_OF_CLIP.search(name) else '#'}{order}"


def _unfit(record: Record) -> Drop | None:
    if not record.videos:
        return Drop("no_clip")
    if record.chosen is None:
        return Drop("no_answer")
    if record.rejected_images or record.rejected_videos:
        return Drop("has_negative", "it has negative media of its own")
    return None


def _words(text: str) -> list[str]:
    """What stands between commas or white space."""
    return [word for word in re.split(r"[,\s]+", text) if word]
