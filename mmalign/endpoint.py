"""Models that write texts: one that is loaded here, or one behind a server that speaks OpenAI's protocol (vLLM).

A server is named by its address and the model's name there, ``http://localhost:8000/v1#Qwen/Qwen2.5-VL-7B-Instruct``;
where it wants a key, the environment variable ``MMALIGN_API_KEY`` has it. Pictures are sent as PNG, so nothing is lost;
of clips the frames are, as pictures.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from http.client import HTTPException, InvalidURL
from typing import TYPE_CHECKING, Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np

from mmalign.media import as_pictures
from mmalign.plugins import option
from mmalign.records import InputError, assistant_message

if TYPE_CHECKING:
    from PIL import Image

    from mmalign.backbones import Job

KEY = "MMALIGN_API_KEY"
PATIENCE = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each new try, where a server is busy or out of reach."""

_BUSY = frozenset((408, 409, 425, 429, 500, 502, 503, 504))
_TOP = 20
"""Likeliest tokens that a server is asked for: as many as the protocol allows."""


class Writer(Protocol):
    """A model that writes texts. `mmalign.backbones.Backbone` is one, and so is `Endpoint`."""

    def generate(
        self,
        jobs: Sequence[Job],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: Callable[[str], bool] | None = None,
        batch_size: int | None = None,
    ) -> list[str]:
        """What is written for each job; ``batch_size`` of them at a time, all at once by default."""

    def choose(self, jobs: Sequence[Job], answers: Sequence[str], *, batch_size: int | None = None) -> np.ndarray:
        """How likely each of ``answers`` is as the beginning of an answer, among them. Shape: (jobs, answers).

        A row is NaN where the model is not known to give any of them a probability.
        """

    def fingerprint(self) -> str:
        """Changes whenever the model does, as far as can be known."""


def is_address(name: str) -> bool:
    """Whether ``name`` is the address of a server rather than a model's folder or name."""
    return name.startswith(("http://", "https://"))


def load_writer(name: str, **options: Any) -> Writer:
    """The model behind ``name``: an address, or what `mmalign.backbones.load` loads, with its options.

    Raises:
        InputError: no such model, or an address without a model's name.
    """
    if is_address(name):
        address, _, model = name.partition("#")
        if not model:
            raise InputError(f"{name} does not say which model: give URL#MODEL", field="model")
        if options.get("adapter"):
            raise InputError(
                "an adapter is put on a model that is loaded here; a server brings its own", field="adapter"
            )
        return Endpoint(address.rstrip("/"), model)
    from mmalign import backbones  # imports torch

    return backbones.load(name, **options)


@dataclass(frozen=True)
class ModelOptions:
    """Flags of a model that is loaded here."""

    model: str = field(metadata={"help": "Hugging Face folder or name of the model, or a PEFT adapter's folder."})
    adapter: str | None = option(None, "PEFT adapter folder to put on top of the model.")
    dtype: str = option("auto", "auto, float32, bfloat16 or float16.")
    attn_implementation: str = option("sdpa", "sdpa or eager.")
    trust_remote_code: bool = option(False, "Run code that came with the model.")
    video: str = option(
        "auto", "How it sees clips: native, frames (as pictures), or auto: as in its training, else native if it can."
    )
    batch_size: int = option(8, "Texts that the model reads or writes at a time: as many as fit in memory.")

    def load(self) -> Writer:
        """The model.

        Raises:
            InputError: there is none; or it is behind a server, and has to be here.
        """
        if is_address(self.model) and not isinstance(self, WriterOptions):
            raise InputError(f"is to be loaded here, not behind {self.model}", field="model")
        given = {name: value for name, value in asdict(self).items() if name not in ("model", "batch_size")}
        return load_writer(self.model, **given)


@dataclass(frozen=True)
class WriterOptions(ModelOptions):
    """Flags of any model that writes."""

    model: str = field(
        metadata={
            "help": "Hugging Face folder or name of the model, or a PEFT adapter's folder; or URL#MODEL, such as "
            "http://localhost:8000/v1#Qwen/Qwen2.5-VL-7B-Instruct, of a server that speaks OpenAI's protocol (vLLM)."
        }
    )


@dataclass(frozen=True)
class Endpoint:
    """A model behind a server that speaks OpenAI's chat protocol.

    Attributes:
        address: of the protocol's root, such as ``http://localhost:8000/v1``.
        model: its name there.
        timeout: seconds that one answer may take.
    """

    address: str
    model: str
    timeout: float = 600.0

    def fingerprint(self) -> str:
        """Address and name: nobody can know from outside when the weights behind them change."""
        return f"{self.address}#{self.model}"

    def generate(
        self,
        jobs: Sequence[Job],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: Callable[[str], bool] | None = None,
        batch_size: int | None = None,
    ) -> list[str]:
        """What the server's model writes for each job, ``batch_size`` questions under way at a time.

        ``stop`` is asked afterwards, of ever longer beginnings, since a server cannot call back. Job seeds are sent
        along; whether a server's answers repeat is its own matter.

        Raises:
            InputError: the server cannot be reached or refuses; or a job hides image tokens, which none can.
        """

        def write(job: Job) -> str:
            options = {"max_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
            text = self._ask(job, _text, seed=job.seed % 2**31, **options)
            return text if stop is None else _until(text, stop)

        return self._all(write, jobs, batch_size)

    def choose(self, jobs: Sequence[Job], answers: Sequence[str], *, batch_size: int | None = None) -> np.ndarray:
        """Probabilities of ``answers`` among them, by the first token, as `Writer.choose`.

        NaN where none is among the likeliest tokens, as of a model that thinks first.

        Raises:
            InputError: as `generate`; or the server gives no token probabilities.
        """

        def weigh(job: Job) -> list[float]:
            tokens = self._ask(job, _first_tokens, max_tokens=1, temperature=0.0, logprobs=True, top_logprobs=_TOP)
            if tokens is None:
                raise InputError("gives no token probabilities (logprobs), which a judge needs", file=self.address)
            return _shares(tokens, answers)

        return np.array(self._all(weigh, jobs, batch_size)).reshape(len(jobs), len(answers))

    def _all(self, ask: Callable[[Job], Any], jobs: Sequence[Job], batch_size: int | None) -> list[Any]:
        if any(job.keep is not None or job.noise is not None for job in jobs):
            problem = "image tokens can be hidden, and pixels noised, only before a model that is loaded here"
            raise InputError(problem, file=self.address)
        with ThreadPoolExecutor(batch_size or max(1, len(jobs))) as pool:
            return list(pool.map(ask, jobs))

    def _ask(self, job: Job, pick: Callable[[Any], Any], **options: Any) -> Any:
        """What ``pick`` finds in the server's one choice for a job."""
        messages = _spoken(job)
        body = {"model": self.model, "messages": messages, **options}
        if job.prefix:  # vLLM's way to go on with a message that is begun
            body |= {"add_generation_prompt": False, "continue_final_message": True}
        answer = self._post("chat/completions", body)
        try:
            return pick(answer["choices"][0])
        except (LookupError, TypeError, AttributeError, ArithmeticError):
            raise InputError(f"gave no choice that can be read: {str(answer)[:200]}", file=self.address) from None

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            if not (key.isascii() and key.isprintable()):
                raise InputError("holds a character that no header may have, such as a line break", field=KEY)
            headers["Authorization"] = f"Bearer {key}"
        for pause in (*PATIENCE, None):
            try:
                request = Request(f"{self.address}/{path}", json.dumps(body).encode(), headers)
                with urlopen(request, timeout=self.timeout) as response:
                    data = response.read()
            except HTTPError as error:
                problem = f"refused ({error.code} {error.reason}): {error.read(300).decode(errors='replace')}"
                final = error.code not in _BUSY
            except (InvalidURL, ValueError) as error:
                problem, final = f"is no address that can be asked ({error})", True
            except (URLError, HTTPException, OSError) as error:
                problem, final = f"cannot be reached ({getattr(error, 'reason', error)})", False
            else:
                return self._parsed(data)
            if final or pause is None:
                raise InputError(problem, file=self.address)
            time.sleep(pause)
        raise AssertionError

    def _parsed(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except ValueError:
            raise InputError("answered with something that is no JSON", file=self.address) from None


def _spoken(job: Job) -> list[dict[str, Any]]:
    """A job's messages in the protocol's form, each picture in its place."""
    asked, shown = as_pictures(job.messages, [[image] for image in job.images], [[*clip.frames] for clip in job.videos])
    pictures = iter(shown)
    messages = [*asked, *([assistant_message(job.prefix)] if job.prefix else ())]
    return [
        {"role": message["role"], "content": [_block(block, pictures) for block in message["content"]]}
        for message in messages
    ]


def _block(block: dict[str, str], pictures: Iterator[Image.Image]) -> dict[str, Any]:
    if block["type"] == "text":
        return {"type": "text", "text": block["text"]}
    return {"type": "image_url", "image_url": {"url": _data_uri(next(pictures))}}


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _until(text: str, stop: Callable[[str], bool]) -> str:
    """The shortest beginning at which ``stop`` says that it is enough."""
    for end in range(1, len(text) + 1):
        if stop(text[:end]):
            return text[:end]
    return text


def _text(choice: Any) -> str:
    """What a choice says; nothing is null."""
    content = choice["message"].get("content")
    if not isinstance(content, (str, type(None))):
        raise TypeError
    return content or ""


def _first_tokens(choice: Any) -> list[tuple[str, float]] | None:
    """The likeliest first tokens and the one that was written, with probabilities; None of a server without these."""
    tokens = (choice.get("logprobs") or {}).get("content")
    if not tokens or tokens[0].get("top_logprobs") is None:
        return None
    likeliest = [(each["token"], math.exp(each["logprob"])) for each in tokens[0]["top_logprobs"]]
    if tokens[0]["token"] not in dict(likeliest):
        likeliest.append((tokens[0]["token"], math.exp(tokens[0]["logprob"])))
    return likeliest


def _shares(tokens: Sequence[tuple[str, float]], answers: Sequence[str]) -> list[float]:
    """What each answer has of the probability that they have together; NaN where they have none."""
    mass = dict.fromkeys(answers, 0.0)
    for token, probability in tokens:
        if (text := token.strip()) in mass:
            mass[text] += probability
    total = sum(mass.values())
    return [mass[answer] / total if total else math.nan for answer in answers]
