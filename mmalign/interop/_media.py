"""Names of media for records, from whatever a format calls a picture; and the files behind names."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from mmalign.interop.formats import Unfit
from mmalign.media import MediaError, open_image
from mmalign.media.choice import frame_places
from mmalign.media.files import check_clip
from mmalign.media.folder import pictures
from mmalign.media.image import FORMATS, check_file
from mmalign.records import PART_OF_CLIP, InputError, media_path

_ENDINGS = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif"}
_LONGEST_PATH = 1024
"""A string longer than this is no path: it may be a picture in base64."""


class Media:
    """What ``record`` and ``row`` of a format ask about media. Safe to use from several threads.

    A picture that is a path stays where it is. One that comes as bytes is written once, under the hash of its bytes,
    as it came. Each is opened once, by the rules of `mmalign.media.open_image`.

    Args:
        root: folder that relative paths start from.
        store: folder for pictures that come as bytes.
        home: folder that their names are relative to; it holds ``store``.
        check: open the pictures that are paths. Without it they need not even exist.
    """

    def __init__(self, root: Path, store: Path, home: Path, *, check: bool = True) -> None:
        self.root, self.store, self.home, self.check = root.resolve(), store.resolve(), home.resolve(), check
        self._known: dict[Any, str | tuple[str, str]] = {}  # path or hash -> name, or problem and reason
        self._bases: set[Path] = set()

    # ---- reading: names for records ----------------------------------------------------------------------------------

    def picture(self, value: Any) -> str:
        """The name of a picture that is a path, bytes, base64, a data URI, a PIL image or {"bytes", "path"}.

        Raises:
            InputError: with a ``reason`` that it is counted under: outside (the media root), url, or of a MediaError.
        """
        if isinstance(value, dict):
            value = value["bytes"] if value.get("bytes") is not None else value.get("path")
        if isinstance(value, Image.Image):
            value = _png(value)
        if isinstance(value, str) and (value.startswith("data:") or len(value) > _LONGEST_PATH):
            value = _from_base64(value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self._kept(bytes(value))
        return self._named(value, open_image)

    def video(self, value: Any) -> str:
        """The name of a clip that is a path, of a file or a folder. Raises as `picture` does; nothing is decoded."""
        return self._named(value, check_clip)

    def frames(self, value: Any, count: int = 0) -> list[str]:
        """The names of the pictures in a folder of frames, in the order of the numbers in their names.

        ``count``: how many, spaced as `mmalign.media.read_clip` does; 0 for all.
        """
        name = self._inside(value)
        found = [path.name for path in pictures(media_path(name, self.root))]
        places = frame_places(len(found), count or len(found))
        return [self.picture(f"{name}/{found[place]}") for place in places]

    def is_folder(self, value: Any) -> bool:
        """Whether a path is that of a folder inside the media root."""
        return media_path(self._inside(value), self.root).is_dir()

    @property
    def base(self) -> Path:
        """The folder that all names so far are relative to.

        Raises:
            InputError: some were paths, others bytes, and no one folder holds both.
        """
        if len(self._bases) > 1:
            raise InputError(
                f"some pictures are files below {self.root}, others are written to {self.store}: "
                "give a --media_root, and a --media_output inside it",
                field="media_output",
            )
        return next(iter(self._bases), self.home)

    # ---- writing: files behind names ---------------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        """The file of a record's picture or clip. Raises MediaError where it is not there."""
        path = media_path(name, self.root)
        check_file(path)
        return path

    def whole(self, name: str) -> Path:
        """As `path`, for formats whose media are whole files.

        Raises:
            Unfit: the name says a part of a clip (``part_of_clip``), or is that of a folder (``folder``).
        """
        if PART_OF_CLIP.search(name):
            raise Unfit("part_of_clip", f"is a part of a file, which the format cannot say: cut it out: {name}")
        if media_path(name, self.root).is_dir():
            raise Unfit("folder", f"is a folder, where the format has files alone: make one of its frames: {name}")
        return self.path(name)

    def content(self, name: str) -> bytes:
        """The bytes of a record's picture, which can be opened."""
        path = self.path(name)
        self._once(path, lambda: open_image(path) and name)
        return path.read_bytes()

    # ---- how -------------------------------------------------------------------------------------------------------

    def _named(self, value: Any, opened: Callable[[Path], object]) -> str:
        name = self._inside(value)
        self._bases.add(self.root)
        path = media_path(name, self.root)
        if self.check:
            self._once(path, lambda: (opened(path), name)[1])
        return name

    def _inside(self, value: Any) -> str:
        """A path as a name relative to the root, in its shortest spelling."""
        if not isinstance(value, (str, os.PathLike)) or not str(value).strip():
            raise Unfit("no_media", f"expected a path or a picture, got {_shown(value)}")
        text = str(value).removeprefix("file://")
        if "://" in text:
            raise Unfit("url", f"is a URL: download it and name the file: {text}")
        name = os.path.normpath(text)
        if os.path.isabs(name):
            name = os.path.relpath(name, self.root)
            if name.split(os.sep)[0] == "..":  # a root that was named through a link
                name = os.path.relpath(os.path.realpath(text), self.root)
        try:
            media_path(name, self.root)
        except InputError:
            raise Unfit("outside", f"is not inside {self.root} (--media_root): {text}") from None
        return Path(name).as_posix()

    def _kept(self, data: bytes) -> str:
        """The name of a picture's bytes, written the first time."""
        self._bases.add(self.home)
        digest = hashlib.sha256(data).hexdigest()[:32]
        return self._once(digest, lambda: self._write(digest, data))

    def _write(self, digest: str, data: bytes) -> str:
        """Checks a picture in a file that nothing names yet, then gives it its name."""
        self.store.mkdir(parents=True, exist_ok=True)
        unchecked = self.store / f".{digest}.{os.getpid()}.{threading.get_ident()}"
        try:
            unchecked.write_bytes(data)
            open_image(unchecked)
            with Image.open(unchecked, formats=FORMATS) as image:
                ending = _ENDINGS.get(image.format, f".{image.format.lower()}")
            path = self.store / f"{digest}{ending}"
            os.replace(unchecked, path)
        except MediaError as error:
            raise MediaError(error.problem.replace(f": {unchecked}", ""), reason=error.reason) from None
        finally:
            unchecked.unlink(missing_ok=True)
        return path.relative_to(self.home).as_posix()

    def _once(self, key: Any, find: Callable[[], str]) -> str:
        """What ``find`` gave for ``key``, or how it failed, the first time."""
        if key not in self._known:
            try:
                self._known[key] = find()
            except MediaError as error:
                self._known[key] = (error.problem, error.reason)
        found = self._known[key]
        if isinstance(found, tuple):
            raise MediaError(found[0], reason=found[1])
        return found


def _from_base64(text: str) -> bytes:
    payload = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode("".join(payload.split()), validate=True)
    except (binascii.Error, ValueError):
        raise MediaError(f"neither a path nor base64: {text[:40]}...") from None


def _png(image: Image.Image) -> bytes:
    """A picture that has only pixels left, without loss."""
    buffer = io.BytesIO()
    keeps = image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
    (image if keeps else image.convert("RGB")).save(buffer, "PNG")
    return buffer.getvalue()


def _shown(value: Any) -> str:
    return "nothing" if value is None or value == "" else f"a {type(value).__name__}"
