"""Examples a second, and processor time of each, from every kind of file; beside PyTorch's DataLoader.

    python -m benchmarks.data [--torch PYTHON] [--rounds 3] [--seconds 3] [--folder /tmp/benchmark_data]

The images are made: smooth noise with some grain, so that PNG and JPEG files are about as large as those
of photographs. All sources hold the same images in shuffled batches of 64, uint8. PYTHON is an
interpreter that has torch and Pillow; it runs benchmarks/data_torch.py on the same files, with the same
decoder and 0, 1 and 2 workers, of which the best counts. Rounds alternate between the two. Printed are
medians and the lowest and highest of the rounds. Processor times count all threads and worker
processes and are the ones to trust on a busy machine; the DataLoader's are those of its best number.

    python -m benchmarks.data --memory 1280000

makes that many records of 64 x 64 x 3 (16 GB) instead, and reports the largest memory of 100 steps of a
tiny network on them and on 1,000 records, each in a process of its own.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import time

import numpy as np
from PIL import Image

from benchmarks.data_torch import rate
from score_jax import data

COUNTS = {32: 4_000, 64: 2_000, 256: 400}
BATCH = 64


def images(size, n):
    """n images (n, size, size, 3), uint8, and labels."""
    rng = np.random.default_rng(size)
    coarse = rng.integers(0, 256, (n, 8, 8, 3), np.uint8)
    smooth = [Image.fromarray(c).resize((size, size), Image.Resampling.BICUBIC) for c in coarse]
    x = np.stack([np.asarray(s, np.int16) for s in smooth])
    x += rng.integers(-4, 5, x.shape, np.int16)
    return np.clip(x, 0, 255).astype(np.uint8), np.arange(n) % 10


def write_folder(path, x, y, ending):
    """Image files in a folder for each class."""
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        (path / str(label)).mkdir(parents=True, exist_ok=True)
        options = {"quality": 90} if ending == "jpg" else {}
        Image.fromarray(image).save(path / str(label) / f"{i:05d}.{ending}", **options)


def write_parquet(path, folder):
    """The files of a folder as the hub has them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(folder.rglob("*.png"))
    rows = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    labels = [int(file.parent.name) for file in files]
    pq.write_table(pa.table({"image": rows, "label": labels}), path, row_group_size=100)


def write_zarr(path, x, y):
    """An array in chunks of 100 examples."""
    import zarr

    group = zarr.open_group(str(path), mode="w")
    group.create_array("x", data=x, chunks=(100, *x.shape[1:]))
    group.create_array("y", data=y)


def sources(folder):
    """{name: (function that opens the source, folder of the same image files or None)}."""
    found = {}
    for size, n in COUNTS.items():
        x, y = images(size, n)
        where = folder / str(size)
        if not where.exists():
            where.mkdir(parents=True)
            data.write_records({"train": data.from_arrays(x, y)}, where / "records")
            if size != 32:
                write_folder(where / "png", x, y, "png")
                write_folder(where / "jpg", x, y, "jpg")
            if size == 64:
                write_parquet(where / "x.parquet", where / "png")
                write_zarr(where / "x.zarr", x, y)
        if size == 32:
            found["in memory, 32"] = (lambda x=x, y=y: data.from_arrays(x, y), None)
        png = where / "png"
        found[f"records, {size}"] = (
            lambda where=where: data.read_records(where / "records"), png if png.exists() else None,
        )  # fmt: skip
        for ending in ("png", "jpg") if size != 32 else ():
            path = where / ending
            found[f"{ending} folder, {size}"] = (lambda path=path: data.read_folder(path), path)
        if size == 64:
            found["parquet of png, 64"] = (
                lambda where=where: data.read_parquet(where / "x.parquet"), png,
            )  # fmt: skip
            found["zarr, 64"] = (lambda where=where: data.read_zarr(where / "x.zarr"), png)
    return found


def theirs(python, folder, seconds):
    """{workers: (examples a second, processor seconds an example)} of PyTorch's DataLoader."""
    out = subprocess.run(
        [python, "-m", "benchmarks.data_torch", str(folder), str(seconds)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {int(k): tuple(v) for k, v in json.loads(out.stdout).items()}


def middle(rounds):
    """The median of rounds, with the lowest and the highest."""
    return f"{np.median(rounds):,.0f} ({min(rounds):,.0f} to {max(rounds):,.0f})"


def compare(args):
    """Print the table."""
    print(
        "| source | examples a second | processor µs each | DataLoader | its µs | ratio | of µs |"
    )
    print("|---|---|---|---|---|---|---|")
    peers = {}
    for name, (opened, files) in sources(args.folder).items():
        source = opened()
        ours, other = [], peers.setdefault(files, [])
        begin = lambda source=source: data.batches(source, BATCH, workers=args.workers)
        for _ in range(args.rounds):
            ours.append(rate(begin(), BATCH, args.seconds))
            if args.torch and files is not None and len(other) < args.rounds:
                other.append(theirs(args.torch, files, args.seconds))
        speed, cost = ([r[i] * (1, 1e6)[i] for r in ours] for i in (0, 1))
        cells = [name, middle(speed), middle(cost)]
        if other:
            best = [max(o.values()) for o in other]
            least = [b[1] * 1e6 for b in best]
            cells += [middle([b[0] for b in best]), middle(least)]
            cells.append(f"{np.median([a / b[0] for a, b in zip(speed, best, strict=True)]):.2f}")
            cells.append(f"{np.median([b / a for a, b in zip(cost, least, strict=True)]):.2f}")
        else:
            cells += [""] * 4
        print("| " + " | ".join(cells) + " |", flush=True)


class Made:
    """Examples that are made as they are taken."""

    def __init__(self, n):
        self.n, self.x = n, images(64, 256)[0]
        self.description = data.Description((64, 64, 3), "uint8", 256)

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return {"x": np.roll(self.x[i % 256], i // 256, axis=0)}


def memory(args):
    """Print the largest memory of 100 steps on many records and on 1,000."""
    for n in (1_000, args.memory):
        path = args.folder / f"records_{n}"
        if not path.exists():
            clock = time.time()
            test = Made(64)
            data.write_records({"train": Made(n), "test": test}, path, workers=os.cpu_count())
            print(f"wrote {n:,} records in {time.time() - clock:.0f} s", flush=True)
        run = args.folder / f"run_{n}"
        shutil.rmtree(run, ignore_errors=True)
        command = [
            sys.executable, "-m", "benchmarks.data", "--train", str(path), "--folder", str(run),
        ]  # fmt: skip
        subprocess.run(command, check=True)


def train(args):
    """100 steps of a tiny network on a folder of records; prints this process's largest memory."""
    from experiments import train as command

    command.main([
        "--data.name", "records", "--data.path", str(args.train), "--workdir", str(args.folder),
        "--net.kind", "MLP", "--net.width", "16", "--train.steps", "100", "--train.batch-size", "16",
        "--train.sample-every", "100", "--train.checkpoint-every", "100",
    ])  # fmt: skip
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{args.train}: largest memory {used:.3f} GiB", flush=True)


def main():
    """Measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--torch", help="a Python interpreter with torch and Pillow")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", type=int)
    parser.add_argument("--train", type=pathlib.Path)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("/tmp/benchmark_data"))
    args = parser.parse_args()
    if args.train is not None:
        train(args)
    elif args.memory is not None:
        memory(args)
    else:
        compare(args)


if __name__ == "__main__":
    main()
