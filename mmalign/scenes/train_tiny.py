"""Trains the tiny VLM of the embedded world from nothing, measures it, and writes it with its model card.

python -m mmalign.scenes.train_tiny --output my_model
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.scenes.card import STAGES, model_card
from mmalign.scenes.evaluate import evaluate
from mmalign.scenes.rows import BLIND_RATE, BLIND_SHARE, Batches
from mmalign.scenes.tiny import build_model, build_processor, build_tokenizer, world_text
from mmalign.scenes.tower import PatchWords, TowerBatches

if TYPE_CHECKING:
    import torch
    from torch.utils.data import Dataset
    from transformers import LlavaForConditionalGeneration

TOWER_BATCH, TOWER_RATE = 64, 2e-3
WARMUP = 0.05  # of the training
FINAL_RATE = 0.03  # of the learning rate, at the end of the cosine


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    options = argparse.ArgumentParser(prog="python -m mmalign.scenes.train_tiny", description=__doc__.split("\n")[0])
    options.add_argument("--output", type=Path, required=True, help="folder to write the model to")
    options.add_argument("--start", type=Path, help="go on from this model, which sees already: nothing easy first")
    options.add_argument("--tower_steps", type=int, default=500, help="steps of learning to see (default: %(default)s)")
    options.add_argument("--steps", type=int, default=1200, help="steps of learning to speak (default: %(default)s)")
    options.add_argument("--minutes", type=float, default=math.inf, help="end the speaking after so many, if sooner")
    options.add_argument("--batch_size", type=int, default=40, help="pictures a step (default: %(default)s)")
    options.add_argument("--learning_rate", type=float, default=2e-3, help="peak (default: %(default)s)")
    options.add_argument("--clip_every", type=int, default=2, help="of so many steps... (default: %(default)s)")
    options.add_argument("--clip_run", type=int, default=1, help="...the last n are of clips (default: %(default)s)")
    options.add_argument(
        "--sight_every", type=int, default=4, help="after each n-th step, one more of seeing (default: %(default)s)"
    )
    options.add_argument("--seed", type=int, default=0, help="of weights and pictures (default: %(default)s)")
    options.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    options.add_argument("--evaluate_on", type=int, default=300, help="test pictures (default: %(default)s)")
    return options


def optimizers(weights: Mapping[str, torch.nn.Parameter], learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings, norms and biases.

    With AdamW alone the same model needs several times as many steps until it begins to see.
    """
    import torch

    matrices = [weight for name, weight in weights.items() if weight.dim() == 2 and "embed" not in name]
    others = [weight for name, weight in weights.items() if weight.dim() != 2 or "embed" in name]
    decay = {"lr": learning_rate, "weight_decay": 0.05}
    return [
        torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **decay),
        torch.optim.AdamW(others, betas=(0.9, 0.98), **decay),
    ]


def fit(
    weights: Mapping[str, torch.nn.Parameter],
    loss_of: Callable[[Any], torch.Tensor],
    batches: Dataset,
    learning_rate: float,
    minutes: float = math.inf,
    description: str = "training",
) -> int:
    """Train ``weights`` in place: warm-up, then a cosine over steps or minutes, whichever ends first; steps done."""
    import torch
    from torch.utils.data import DataLoader
    from tqdm import tqdm

    both = optimizers(weights, learning_rate)
    started, smooth = time.monotonic(), None
    bar = tqdm(DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=8), description, mininterval=5)
    for step, batch in enumerate(bar):
        done = max(step / len(batches), (time.monotonic() - started) / 60 / minutes)
        if done >= 1:
            return step
        for group in (group for optimizer in both for group in optimizer.param_groups):
            group["lr"] = learning_rate * _schedule(done)
        loss = loss_of(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        for optimizer in both:
            optimizer.step()
            optimizer.zero_grad()
        smooth = loss.item() if smooth is None else 0.95 * smooth + 0.05 * loss.item()
        bar.set_postfix(loss=f"{smooth:.3f}", refresh=False)
    return len(batches)


@dataclass(frozen=True)
class Lessons:
    """The batches of ``speech``, and beside each ``every``-th one of ``sight``, a map-style dataset of pairs.

    A language model that learns to speak lets its tower forget what it does not need yet; a little of the first
    lessons all along keeps the image tokens legible.
    """

    speech: Batches
    sight: TowerBatches
    every: int

    def __len__(self) -> int:
        return len(self.speech)

    def __getitem__(self, step: int) -> tuple[dict[str, torch.Tensor], tuple[torch.Tensor, torch.Tensor] | None]:
        due = self.every > 0 and step % self.every == 0
        return self.speech[step], self.sight[step // self.every] if due else None


def lesson_loss(model: LlavaForConditionalGeneration, words: PatchWords, batch: tuple[Any, Any]) -> torch.Tensor:
    """What is said wrongly, and where there are patches to read, what is read wrongly."""
    speech, sight = batch
    loss = answer_loss(model, speech)
    return loss if sight is None else loss + words.loss(sight)


def answer_loss(model: LlavaForConditionalGeneration, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean cross entropy over the tokens of all answers; matrix products in bfloat16."""
    import torch

    answer = batch["answer"][:, 1:]
    inputs = {name: tensor for name, tensor in batch.items() if name != "answer"}
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(**inputs).last_hidden_state[:, :-1][answer]
        logits = model.lm_head(hidden)
    return torch.nn.functional.cross_entropy(logits.float(), batch["input_ids"][:, 1:][answer])


def _schedule(done: float) -> float:
    if done < WARMUP:
        return max(done, 1e-3) / WARMUP
    phase = (done - WARMUP) / (1 - WARMUP)
    return FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * phase))


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure, write; the figures go to standard output and into the model card."""
    import torch
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    options = parser().parse_args(argv)
    torch.set_num_threads(options.threads)
    started = time.monotonic()
    sights = TowerBatches(options.seed, options.tower_steps, TOWER_BATCH)
    if options.start:
        model = LlavaForConditionalGeneration.from_pretrained(options.start, dtype=torch.float32)
        processor = LlavaProcessor.from_pretrained(options.start)
        tokenizer = processor.tokenizer
        words = PatchWords(model, tokenizer)
    else:
        tokenizer = build_tokenizer(world_text())
        processor = build_processor(tokenizer)
        model = build_model(tokenizer, options.seed)
        words = PatchWords(model, tokenizer)
        fit(words.weights(), words.loss, sights, TOWER_RATE, description="learning to see")
    ramp = options.start is None
    clips = {"clip_every": options.clip_every, "clip_run": options.clip_run}
    speech = Batches(tokenizer, options.seed, options.steps, options.batch_size, ramp=ramp, **clips)
    steps = fit(
        dict(model.named_parameters()),
        partial(lesson_loss, model, words),
        Lessons(speech, replace(sights, steps=len(speech), first=options.tower_steps), options.sight_every),
        options.learning_rate,
        minutes=options.minutes,
        description="learning to speak",
    )
    minutes = (time.monotonic() - started) / 60
    options.output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(options.output)
    processor.save_pretrained(options.output)
    figures = evaluate(model, processor, count=options.evaluate_on, seed=options.seed + 1)
    stages = json.loads((options.start / STAGES).read_text(encoding="utf-8")) if options.start else []
    facts = {name: value for name, value in vars(options).items() if name not in ("output", "start", "minutes")}
    stages.append({**facts, "steps": steps, "minutes": round(minutes, 1)})
    (options.output / STAGES).write_text(json.dumps(stages, indent=1) + "\n", encoding="utf-8")
    card = model_card(
        figures,
        stages,
        parameters=sum(weight.numel() for weight in model.parameters()),
        vocabulary=len(tokenizer),
        count=options.evaluate_on,
        blind=BLIND_RATE,
        hidden=1 - BLIND_SHARE,
    )
    (options.output / "README.md").write_text(card, encoding="utf-8")
    print(json.dumps({"steps": steps, "minutes": round(minutes, 1), **figures}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
