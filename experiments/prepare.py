"""Prepare data for fast training: decode images or arrays once and write them as records:

python -m experiments.prepare --from photos --size 64 --out data/photos
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from . import cli
from .late import late
from .parts import readers
from .parts.reading import Reading

with late():
    import tqdm

    from score_jax import data

    from .data_config import DataConfig
    from .parts import opening


# The form of data by the ending of their file; a folder is looked into.
BY_ENDING = {
    ".zip": "zip", ".npy": "array", ".npz": "array", ".parquet": "parquet", ".zarr": "zarr",
    ".h5": "hdf5", ".hdf5": "hdf5", ".hdf": "hdf5", ".tgz": "cifar", ".tar.gz": "cifar",
    "-ubyte.gz": "idx", "-ubyte": "idx", "description.json": "records", "zarr.json": "zarr",
    ".zgroup": "zarr", ".zarray": "zarr",
}  # fmt: skip
KINDS = sorted({name for name, kind in readers.KINDS.items() if kind.needs == ("path",)})
if TYPE_CHECKING:
    Format = str
else:
    Format = Literal[("auto", *KINDS)]


@dataclasses.dataclass(frozen=True)
class Args(Reading):
    """Write data as shards of decoded records of one size, with a description, for fast training.

    Train with --data.name records --data.path OUT. A call that was killed is continued by the same call,
    and nothing is at OUT before all of it is. With --check OUT alone: compare the sha256 of every file.
    """

    # Folder, zip or other file of the data.
    source: Annotated[str | None, tyro.conf.arg(name="from")] = None
    # Folder to make.
    out: str | None = None
    # Form of the data; auto: by the ending of the file, or by what is in the folder.
    format: Format = "auto"
    # The held-out data, of the same form (default: those that come with the data, or a part of them).
    test_from: str | None = None
    # Otherwise, the fraction of the examples that is kept for testing (0: none).
    test_fraction: float = 0.1
    # What is done about examples that cannot be read: nothing is written (stop), or they are left out
    # (skip). Both name them.
    on_error: Literal["stop", "skip"] = "stop"
    # Worker processes (default: one for each processor; 0: none but this process).
    workers: int | None = None
    # Examples in one file (default: 4096, or what makes 256 files).
    shard_size: int | None = None
    # A prepared folder whose files are compared with their sha256; nothing is written.
    check: str | None = None

    def data_config(self) -> DataConfig:
        """The data as a run would name them; ValueError for options that contradict each other."""
        path = str(self.source)
        kind = kind_of(path) if self.format == "auto" else self.format
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(Reading)}
        options["test_fraction"] = self.test_fraction or DataConfig.test_fraction
        return DataConfig(name=kind, path=path, test_path=self.test_from, **options)


def kind_of(path: str) -> str:
    """The form of the data at a path; ValueError where it cannot be seen."""
    found = pathlib.Path(path)
    if not found.exists():
        raise FileNotFoundError(f"there is no file or folder {path}")
    named = _by_ending([found.name])
    if named is not None or not found.is_dir():
        if named is None:
            raise ValueError(f"the form of {path} cannot be seen: give --format, one of {KINDS}")
        return named
    inside = sorted(p.name for p in found.iterdir())
    # Parquet files of the hub may lie a folder below.
    deeper = [p.name for p in found.glob("*/*.parquet")]
    return _by_ending([*inside, *deeper]) or "folder"


def _by_ending(names: Sequence[str]) -> str | None:
    kinds = (k for name in names for end, k in BY_ENDING.items() if name.lower().endswith(end))
    # A folder of images may hold a zip that it was unpacked from.
    return next((kind for kind in kinds if len(names) == 1 or kind != "zip"), None)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.prepare`."""
    args = cli.parse(Args, "experiments.prepare", argv)
    if args.check is not None:
        cli.needs_data("records")
        check(args.check)
        return
    if args.source is None or args.out is None:
        raise ValueError("--from and --out are needed, or --check alone")
    prepare(args)


def check(folder: str) -> None:
    """Compare the sha256 of every file of a prepared folder; ValueError naming one that differs."""
    for split in data.record_splits(folder):
        found = data.read_records(folder, split, verify=True)
        print(f"{folder}: {split}, {len(found):,} examples in {len(found.paths)} files: as written")


def prepare(args: Args) -> None:
    """Write the records that the options ask for."""
    c = args.data_config()
    for kind in (c.name, "records"):
        cli.needs_data(kind)
    splits = _splits(c, args.test_fraction)
    form = data.describe(splits["train"])
    levels = "continuous" if form.levels is None else f"{form.levels} levels"
    classes = f", {form.num_classes} classes" if form.num_classes else ", no labels"
    sizes = " and ".join(f"{len(source):,} for {name}" for name, source in splits.items())
    rule = f" ({opening.split_rule(c)})" if len(splits) > 1 else ""
    print(f"{args.source}: {c.name}, {sizes}{rule}, {form.shape} {form.dtype}, {levels}{classes}")
    options = {k: v for k, v in dataclasses.asdict(c).items() if v != getattr(DataConfig, k, None)}
    total = sum(map(len, splits.values()))
    workers = (os.cpu_count() or 1) if args.workers is None else args.workers
    with tqdm.tqdm(total=total, unit=" examples", disable=not sys.stderr.isatty()) as bar:
        written = data.write_records(
            splits, str(args.out), options=options, shard_size=args.shard_size,
            workers=workers, skip=args.on_error == "skip", progress=bar.update,
            say=tqdm.tqdm.write,
        )  # fmt: skip
    for line in written.skipped:
        print(f"left out: {line}")
    counts = ", ".join(f"{n:,} for {name}" for name, n in written.counts.items())
    print(f"wrote {args.out}: {counts}; train with --data.name records --data.path {args.out}")


def _splits(c: DataConfig, fraction: float) -> dict[str, Any]:
    """The splits as they are to be written: the examples of each in the order of their files."""
    train = opening.open_source(c, c.path, "train")
    if c.test_path is not None:
        return {"train": train, "test": opening.open_source(c, c.test_path, "test")}
    if readers.KINDS[c.name].own_split(c, str(c.path)):
        return {"train": train, "test": opening.open_source(c, c.path, "test")}
    if not fraction:
        return {"train": train}
    parts = zip(("train", "test"), data.split(train, fraction), strict=True)
    return {name: data.Subset(train, np.sort(part.indices)) for name, part in parts}


if __name__ == "__main__":
    cli.main(main)
