"""Samples on disk: one folder of PNG files, a zip of them, .npy shards, or one .npz of ADM's layout.

Samples are written in chunks of consecutive numbers. A chunk is either complete on the disk or drawn
again, so a command that was killed continues without a gap or a duplicate. The zip and the .npz are
made of the chunks at the end. Beside them are samples.json (what decides the samples, and their cost)
and labels.json.
"""

import dataclasses
import io
import json
import math
import os
import pathlib
import shutil
import zipfile
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from score_jax._files import replacing, write_json

from ..late import late

with late():
    from PIL import Image

Format = Literal["png", "zip", "npy", "npz"]
RECORD_FILE = "samples.json"
LABELS_FILE = "labels.json"
PARTS = "parts"
ARRAY = "arr_0"  # the name of the samples in ADM's files; that of their labels is arr_1
_PNG_END = b"IEND\xaeB`\x82"
_BLOCK = 4096  # bytes by which file systems allocate
_EPOCH = (
    1980,
    1,
    1,
    0,
    0,
    0,
)  # the time of entries in a zip, so that equal samples give equal files


@dataclasses.dataclass(frozen=True)
class SampleFolder:
    """A folder that takes `num` samples of one shape and type, in chunks.

    settings: what decides the samples, as a JSON value; a folder of other settings is refused.
    """

    path: pathlib.Path
    format: Format
    num: int
    chunk: int
    shape: tuple[int, ...]
    dtype: Any
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        images = len(self.shape) == 3 and self.shape[-1] in (1, 3) and self.dtype == np.uint8
        if self.format in ("png", "zip") and not images:
            raise ValueError(
                f"--format {self.format} is for images of 1 or 3 channels with grey levels, and "
                f"these samples are {np.dtype(self.dtype).name} of shape {self.shape}: use npy or npz"
            )

    @property
    def single(self) -> pathlib.Path | None:
        """The one file that holds all samples in the end, for the formats that have one."""
        return self.path / f"samples.{self.format}" if self.format in ("zip", "npz") else None

    @property
    def chunks(self) -> int:
        """The number of chunks."""
        return -(-self.num // self.chunk)

    def numbers(self, index: int) -> range:
        """The numbers of the samples of a chunk."""
        return range(index * self.chunk, min((index + 1) * self.chunk, self.num))

    def open(self) -> list[int]:
        """Make or continue the folder: the chunks that are missing.

        Raises ValueError for a folder of other settings, or with other contents, and where the disk
        has too little space.
        """
        record = self.path / RECORD_FILE
        wanted = self.settings | {"num": self.num, "format": self.format, "chunk": self.chunk}
        wanted = json.loads(json.dumps(wanted))  # as it is read
        missing = self.missing()
        if record.is_file():
            saved = _read_json(record).get("settings", {})
            names = [k for k in {**saved, **wanted} if saved.get(k) != wanted.get(k)]
            if names and any(_contents(self.path)):
                changed = "; ".join(f"{k}: {saved.get(k)} -> {wanted.get(k)}" for k in names)
                raise ValueError(
                    f"--out {str(self.path)!r} holds samples of other settings ({changed}): choose "
                    "another folder, or the same settings to continue it"
                )
        elif self.path.exists() and (not self.path.is_dir() or any(_contents(self.path))):
            raise ValueError(
                f"--out {str(self.path)!r} exists and is no folder of samples: choose another"
            )
        self.check_space(sum(len(self.numbers(index)) for index in missing))
        self.path.mkdir(parents=True, exist_ok=True)
        if self.single is not None and missing:
            (self.path / PARTS).mkdir(exist_ok=True)
        if missing or not record.is_file():
            write_json(record, {"settings": wanted, "complete": False})
        return missing

    def check_space(self, num: int) -> None:
        """Raise ValueError unless the disk has space for num more samples, at their largest."""
        size = math.prod(self.shape) * np.dtype(self.dtype).itemsize
        png = -(-(size + size // 500 + 200) // _BLOCK) * _BLOCK
        each = {"png": png, "zip": 2 * size + 400, "npy": size, "npz": 2 * size}[self.format]
        home = next(p for p in (self.path, *self.path.absolute().parents) if p.exists())
        need, free = num * each, shutil.disk_usage(home).free
        if need > free:
            raise ValueError(
                f"--out {str(self.path)!r}: {num:,} samples as {self.format} need up to "
                f"{need / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free there"
            )

    def missing(self) -> list[int]:
        """The chunks that are not complete on the disk."""
        if self.single is not None and self.single.is_file():
            return []
        return [index for index in range(self.chunks) if not self._has(index)]

    def _has(self, index: int) -> bool:
        if self.format == "png":
            return all(_is_whole(self.png(number)) for number in self.numbers(index))
        return self.part(index).is_file()

    def png(self, number: int) -> pathlib.Path:
        """The file of one sample."""
        return self.path / f"{number:06d}.png"

    def part(self, index: int) -> pathlib.Path:
        """The file of one chunk as an array."""
        if self.single is None:
            return self.path / f"samples_{index:05d}.npy"
        return self.path / PARTS / f"{index:05d}.npy"

    def write(self, index: int, x: np.ndarray) -> None:
        """Write a chunk (b, *shape) of samples."""
        if self.format == "png":
            for number, image in zip(self.numbers(index), x, strict=True):
                path = self.png(number)
                part = path.with_name(f".{path.name}.part")
                part.write_bytes(png_bytes(image))
                os.replace(part, path)
        else:
            with replacing(self.part(index)) as part:
                np.save(part, x)

    def complete(self, labels: np.ndarray | None, cost: dict[str, Any]) -> list[pathlib.Path]:
        """Make the single file and the records when all chunks are there: the files to look at."""
        left = self.missing()
        if left:
            raise ValueError(
                f"--out {str(self.path)!r} lacks {len(left)} of {self.chunks} chunks: all hosts must "
                "write to one folder; start the command again to draw the rest"
            )
        if self.single is not None and not self.single.is_file():
            with replacing(self.single) as part:
                {"zip": self._write_zip, "npz": self._write_npz}[self.format](part, labels)
        shutil.rmtree(self.path / PARTS, ignore_errors=True)
        for pattern in (".*.part", ".*.part.*"):  # what a kill left
            for part in self.path.glob(pattern):
                part.unlink(missing_ok=True)
        written = [self.single or self.path]
        if labels is not None:
            write_json(self.path / LABELS_FILE, labels.tolist())
            written.append(self.path / LABELS_FILE)
        record = _read_json(self.path / RECORD_FILE)
        if not record.get("complete"):
            write_json(self.path / RECORD_FILE, record | {"complete": True} | cost)
        return [*written, self.path / RECORD_FILE]

    def _arrays(self) -> Iterator[np.ndarray]:
        for index in range(self.chunks):
            yield np.load(self.part(index), allow_pickle=False)

    def _write_zip(self, path: pathlib.Path, labels: np.ndarray | None) -> None:
        del labels
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
            for index, x in enumerate(self._arrays()):
                for number, image in zip(self.numbers(index), x, strict=True):
                    file.writestr(zipfile.ZipInfo(self.png(number).name, _EPOCH), png_bytes(image))

    def _write_npz(self, path: pathlib.Path, labels: np.ndarray | None) -> None:
        """The arrays as `np.savez` writes them, without all of them in memory."""
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
            info = zipfile.ZipInfo(f"{ARRAY}.npy", _EPOCH)
            with file.open(info, "w", force_zip64=True) as entry:
                shape = (self.num, *self.shape)
                descr = np.lib.format.dtype_to_descr(np.dtype(self.dtype))
                header = {"descr": descr, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(entry, header)  # type: ignore[arg-type]
                for x in self._arrays():
                    entry.write(np.ascontiguousarray(x).tobytes())
            if labels is not None:
                with file.open(zipfile.ZipInfo("arr_1.npy", _EPOCH), "w") as entry:
                    np.lib.format.write_array(entry, labels)  # type: ignore[arg-type]


def png_bytes(image: np.ndarray) -> bytes:
    """A PNG of an image (h, w, 1 or 3) of uint8."""
    out = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(out, format="PNG")
    return out.getvalue()


def read_record(path: pathlib.Path) -> dict[str, Any] | None:
    """The record of a folder of samples, or of the folder that a file of samples lies in, or None.

    Raises ValueError for a folder whose samples are not all there.
    """
    record = (path if path.is_dir() else path.parent) / RECORD_FILE
    if not record.is_file():
        return None
    found = _read_json(record)
    if not found.get("complete"):
        raise ValueError(
            f"--samples {str(path)!r} is not complete: start the sample command again to draw the rest"
        )
    return found


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no record of samples")
    return found


def _contents(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """The files of a folder, those in its parts included, without record and lock."""
    found = (path for home in (folder, folder / PARTS) if home.is_dir() for path in home.iterdir())
    return (path for path in found if path.name not in (".lock", RECORD_FILE, PARTS))


def _is_whole(path: pathlib.Path) -> bool:
    """Whether a PNG is there up to its last bytes."""
    try:
        with path.open("rb") as file:
            file.seek(-len(_PNG_END), os.SEEK_END)
            return file.read() == _PNG_END
    except OSError:
        return False
