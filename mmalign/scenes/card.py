"""The model card of the tiny VLM: how it was made, and what it was measured to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [llava, tiny, synthetic]
---
# A tiny LLaVA of the embedded world

{parameters:,} parameters: a CLIP vision tower (4 layers, 64 patches of 8 pixels), LLaVA's projector and a Llama of
4 layers, {vocabulary} byte-level BPE tokens, float32. It knows pictures and four-frame clips of colored shapes, 64
pixels wide, and the English of the questions about them; it knows nothing of photographs. It exists so that building
pairs, training and scoring can be shown and tested in minutes without a download. It loads in plain transformers:

    from transformers import AutoModelForImageTextToText, AutoProcessor
    model = AutoModelForImageTextToText.from_pretrained("mmalign/scenes/model")
    processor = AutoProcessor.from_pretrained("mmalign/scenes/model")

A turn is `<|user|>...<|end|>` or `<|assistant|>...<|end|>`; a clip is given as its four frames.

## Training
From random weights with Muon and AdamW and bfloat16 products, {minutes:.0f} minutes on two CPU threads in all:

{stages}

1. *Learning to see* comes first where training starts from nothing: tower, projector and word embeddings, each image
   token read as the words for the color and the shape that its patch shows, on the world's `tower` split (balanced).
   A little of it goes on all along: one batch beside each `sight_every`-th of the next.
2. *Learning to speak*, all weights, on the `train` split, in which things come with habitual partners. Every picture is
   new and is asked, in one row, for a caption, up to six what-is-where and four yes/no answers; the last `clip_run` of
   every `clip_every` steps are of clips. From nothing, the first pictures hold one thing and later ones up to six; with
   `--start` they hold all their things at once. In {blind:.0%} of all rows at least {hidden:.0%} of the image tokens
   are hidden, as a language model knows its language before it sees: with its eyes closed it says what its prior
   says, and not gibberish.

The last bits of the weights depend on the machine, and a run with a note was made before the script did what it does
now: the same commands give a model like this one, not this one. The figures below were measured by the last command, on
these weights.

## What it does
On {count} pictures and {count} clips of the balanced `test` split, greedy. *Blank* is the same question about an empty
background: what can be had by guessing. Two answers are possible in exists, moment, order (yes or no), size and first
(the question names two events), so a coin would be right half of the time.

{accuracy}

POPE accuracy (official rule; popular and adversarial negatives from the statistics of `train`), CHAIR of its captions
(exact object names) and the share of the true objects that they name. *Partners* is the share of the hallucinated
names that are a partner of a thing in the picture; {partner_chance:.0%} would be by chance.

| POPE random | popular | adversarial | CHAIR_i | CHAIR_s | recall | partners |
|---|---|---|---|---|---|---|
| {random:.1%} | {popular:.1%} | {adversarial:.1%} | {chair_i:.1%} | {chair_s:.1%} | {recall:.1%} | {partners:.1%} |

## Limits
It leans on what came together in its training pictures, as large models do: asked about a habitual partner that is not
there it often says yes, and its captions name things that are not there. That is what it is for.
"""


STAGES = "stages.json"
"""In the model's folder: every run of the training script that led to it, first to last."""


def model_card(figures: Mapping[str, Mapping[str, float]], stages: Sequence[Mapping[str, Any]], **facts: object) -> str:
    """The card's Markdown.

    Args:
        figures: what :func:`mmalign.scenes.evaluate.evaluate` returned.
        stages: the options of each run of the script, its ``minutes``, and a ``note`` where running it again today
            would do something else; see :data:`STAGES`.
        facts: the other names in :data:`CARD`.
    """
    rows = [f"| {kind} | {share:.1%} | {figures['blank'][kind]:.1%} |" for kind, share in figures["accuracy"].items()]
    commands = [_command(number, stage) for number, stage in enumerate(stages, start=1)]
    table = "\n".join(["| question | right | blank |", "|---|---|---|", *rows])
    return CARD.format(
        accuracy=table,
        stages="\n\n".join(commands),
        minutes=sum(stage["minutes"] for stage in stages),
        **figures["pope"],
        **figures["chair"],
        **facts,
    )


def _command(number: int, stage: Mapping[str, Any]) -> str:
    """One run of the script, as it is typed; each starts from what the one before it wrote."""
    start = [f"--start DIR{number - 1}"] if number > 1 else [f"--tower_steps {stage['tower_steps']}"]
    names = ("steps", "batch_size", "learning_rate", "clip_every", "clip_run", "sight_every", "seed", "evaluate_on")
    flags = [f"--output DIR{number}", *start, *(f"--{name} {stage[name]}" for name in names)]
    note = f"    # {stage['note']}\n" if "note" in stage else ""
    lines = " ".join(flags[:4]), " ".join(flags[4:])
    return note + "    python -m mmalign.scenes.train_tiny " + " \\\n        ".join(lines)
