"""Folders and zips of image files, with labels from folders, names or EDM's `dataset.json`.

The order is that of the names relative to the folder, with "/" between their parts, as strings: the
same files give the same examples in a folder and in a zip.
"""

import functools
import json
import operator
import os
import pathlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, SupportsIndex, runtime_checkable

import numpy as np

from score_jax.data._handles import Handle
from score_jax.data.checks import check_labels
from score_jax.data.images import ENDINGS, Decoder, ImageOptions, decoder_for, opened
from score_jax.data.sources import Description, Examples

PathLike = str | os.PathLike[str]
LABELS_FILE = "dataset.json"
HIDDEN = (".", "__MACOSX")  # starts of names that systems leave behind
SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation"}


@runtime_checkable
class Files(Protocol):
    """Image files by number."""

    @property
    def where(self) -> str:
        """What messages call the whole."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """The names of the images, relative and sorted."""
        ...

    def read(self, name: str) -> bytes:
        """The content of a file, an image or another one."""
        ...

    def path(self, name: str) -> str:
        """What messages call a file."""
        ...

    def has(self, name: str) -> bool:
        """Whether a file other than an image is there."""
        ...


@dataclass(frozen=True)
class FolderFiles:
    """The images of a folder and the folders in it."""

    where: str
    names: Sequence[str]

    def read(self, name: str) -> bytes:
        """The content of a file."""
        try:
            with open(self.path(name), "rb") as file:
                return file.read()
        except OSError as error:
            raise ValueError(f"{self.path(name)} cannot be read: {error.strerror}") from None

    def path(self, name: str) -> str:
        """The path of a file."""
        return os.path.join(self.where, name)

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return (pathlib.Path(self.where) / name).is_file()


@dataclass(frozen=True)
class ZipFiles:
    """The images of a zip."""

    where: str
    names: Sequence[str]
    handle: Handle

    def read(self, name: str) -> bytes:
        """The content of a file."""
        try:
            content: bytes = self.handle.get().read(name)
            return content
        except Exception as error:  # zlib and zipfile raise several kinds
            raise ValueError(f"{self.path(name)} cannot be read: {error}") from None

    def path(self, name: str) -> str:
        """The zip and the name in it."""
        return f"{self.where}: {name}"

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return name in self.handle.get().namelist()


def _wanted(names: Sequence[str]) -> list[str]:
    hidden = lambda name: any(part.startswith(HIDDEN) for part in name.split("/"))
    return sorted(n for n in names if n.lower().endswith(ENDINGS) and not hidden(n))


def _some(where: str, names: list[str], others: int) -> list[str]:
    if not names:
        raise ValueError(
            f"{where} has no images ({', '.join(ENDINGS)}) among its {others} other files"
        )
    return names


def open_folder(path: PathLike) -> FolderFiles:
    """List the images of a folder, recursively; ValueError where there are none."""
    root = os.fspath(path)
    if not os.path.isdir(root):
        raise FileNotFoundError(f"there is no folder {root}")
    found = []
    for folder, _, files in os.walk(root, followlinks=True):
        parts = pathlib.Path(folder).relative_to(root).parts
        found += ["/".join((*parts, name)) for name in files]
    names = _wanted(found)
    return FolderFiles(root, _some(root, names, len(found)))


def open_zip(path: PathLike) -> ZipFiles:
    """List the images of a zip.

    Raises ValueError for a file that is not a zip, a name that leads out of it, and an encrypted file.
    """
    where = os.fspath(path)
    if not os.path.isfile(where):
        raise FileNotFoundError(f"there is no file {where}")
    handle = Handle(functools.partial(zipfile.ZipFile, where))
    try:
        infos = handle.get().infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ValueError(f"{where} cannot be read as a zip: {error}") from None
    for info in infos:
        parts = info.filename.replace("\\", "/").split("/")
        if ".." in parts or not parts[0] or parts[0].endswith(":"):
            raise ValueError(
                f"{where} holds the name {info.filename!r}, which leads out of the zip"
            )
        if info.flag_bits & 1:
            raise ValueError(f"{where} holds the encrypted file {info.filename!r}")
    names = _wanted([info.filename for info in infos if not info.is_dir()])
    return ZipFiles(where, _some(where, names, len(infos)), handle)


class Labels(NamedTuple):
    """Labels y (n,) of the names and the classes' names, None where they are only numbers."""

    y: np.ndarray
    class_names: tuple[str, ...] | None


Labelling = Callable[[Files], Labels | None]


def no_labels(files: Files) -> None:
    """No labels."""
    del files


def labels_of_folders(files: Files) -> Labels:
    """The first folder of each name is its class; one folder around all the others is passed over.

    Raises ValueError for a file in no folder.
    """
    root = [name for name in files.names if "/" not in name]
    if root:
        raise ValueError(f"{files.path(root[0])} lies in no folder, which would be its class")
    split = [name.split("/")[:-1] for name in files.names]
    while len({parts[0] for parts in split}) == 1 and all(len(parts) > 1 for parts in split):
        split = [parts[1:] for parts in split]
    return _classes([parts[0] for parts in split])


def labels_of_names(files: Files) -> Labels:
    """The class is the file's name up to its first "_", as improved-diffusion has it."""
    last = [name.rsplit("/", 1)[-1] for name in files.names]
    for name, file in zip(files.names, last, strict=True):
        if "_" not in file:
            raise ValueError(f"{files.path(name)} has no class before a '_' in its name")
    return _classes([file.split("_", 1)[0] for file in last])


def _classes(of: list[str]) -> Labels:
    """Numbers for the classes, in the order of their names; names that are numbers by their value."""
    numbers = all(name.isdecimal() for name in of)
    names = sorted(set(of), key=lambda name: (int(name), name) if numbers else name)
    number = {name: i for i, name in enumerate(names)}
    return Labels(np.array([number[name] for name in of], np.int32), tuple(names))


def labels_of_json(files: Files) -> Labels | None:
    """The labels of EDM's `dataset.json`: {"labels": [[name, number], ...]}, or null for none.

    Raises ValueError for a file of another form and for an image without a label.
    """
    path = files.path(LABELS_FILE)
    try:
        record = json.loads(files.read(LABELS_FILE))
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(record, Mapping) or "labels" not in record:
        raise ValueError(f"{path} must be an object with 'labels'")
    if record["labels"] is None:
        return None
    try:
        number = dict(record["labels"])
        y = [number.get(name) for name in files.names]
    except (TypeError, ValueError):
        raise ValueError(f"{path}: 'labels' must be a list of [name, number]") from None
    for name, label in zip(files.names, y, strict=True):
        if type(label) is not int:
            raise ValueError(f"{path} has no number for {name!r}: found {label!r:.40}")
    return Labels(check_labels(f"{path}: labels", np.array(y), len(y)), None)


def labels_found(files: Files) -> Labels | None:
    """Those of `dataset.json` where it is there, else of folders where all images lie in some."""
    if files.has(LABELS_FILE):
        return labels_of_json(files)
    return labels_of_folders(files) if all("/" in name for name in files.names) else None


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """A source of image files, which are decoded when they are taken."""

    files: Files
    y: np.ndarray | None
    decoder: Decoder
    description: Description = field(repr=False)

    def __len__(self) -> int:
        return len(self.files.names)

    def __getitem__(self, index: SupportsIndex) -> Examples:
        i = operator.index(index)
        name = self.files.names[i]
        x = self.decoder(self.files.read(name), self.files.path(name))
        return {"x": x} | ({} if self.y is None else {"y": self.y[i]})


def _numbered(files: Files, found: Labels, class_names: Sequence[str]) -> Labels:
    """The labels with the numbers that another split gave to the classes."""
    names = found.class_names
    if names is None:
        return found
    other = sorted(set(names) - set(class_names))
    if other:
        raise ValueError(f"{files.where} has the classes {other}, which are not in {class_names}")
    number = np.array([list(class_names).index(name) for name in names], np.int32)
    return Labels(number[found.y], tuple(class_names))


def read_files(
    files: Files,
    options: ImageOptions | None = None,
    *,
    labels: Labelling = labels_found,
    class_names: Sequence[str] | None = None,
) -> ImageFiles:
    """A source of the images of `open_folder` or `open_zip`.

    `labels` says where labels are: `labels_found`, `labels_of_folders`, `labels_of_names`,
    `labels_of_json` or `no_labels`. One class alone is taken for no labels, unless `class_names` gives
    the classes: those of the training data, for another split.

    Raises ValueError naming the file that does not fit.
    """
    found = labels(files)
    if found is not None and class_names is not None:
        found = _numbered(files, found, class_names)
    names = set() if found is None else set(found.class_names or ())
    if len(names) > 1 and names <= SPLITS:
        raise ValueError(
            f"{files.where} has the folders {sorted(names)}, which seem to be splits, not classes: "
            "give one of them, or say where the labels are"
        )
    if found is not None and class_names is None and not found.y.any():
        found = None
    first, where = files.names[0], files.path(files.names[0])
    decoder = decoder_for(*opened(files.read(first), where), where, options or ImageOptions())
    classes = None if found is None else len(found.class_names or ()) or int(found.y.max()) + 1
    description = decoder.description(
        None if found is None else found.class_names, classes, labels=labels.__name__
    )
    return ImageFiles(files, None if found is None else found.y, decoder, description)


def read_folder(
    path: PathLike,
    options: ImageOptions | None = None,
    *,
    labels: Labelling = labels_found,
    class_names: Sequence[str] | None = None,
) -> ImageFiles:
    """A source of the images of a folder: PNG, JPEG, WebP, BMP and TIFF, recursively.

    Raises FileNotFoundError, and ValueError as `read_files`.

    >>> read_folder("photos", ImageOptions(size=(64, 64)))
    """
    return read_files(open_folder(path), options, labels=labels, class_names=class_names)


def read_zip(
    path: PathLike,
    options: ImageOptions | None = None,
    *,
    labels: Labelling = labels_found,
    class_names: Sequence[str] | None = None,
) -> ImageFiles:
    """A source of the images of a zip, as EDM's `dataset_tool.py` writes it, or of a zipped folder.

    Nothing is unpacked. Raises FileNotFoundError, and ValueError as `read_files` and `open_zip`.

    >>> read_zip("cifar10-32x32.zip")
    """
    return read_files(open_zip(path), options, labels=labels, class_names=class_names)
