"""PyTorch's DataLoader on a folder of images, for benchmarks/data.py: `FOLDER SECONDS` -> JSON.

The data set is that of torchvision's ImageFolder, written out: a folder for each class, opened by Pillow
and converted to RGB. Batches are uint8, as those they are compared with.
"""

import json
import multiprocessing
import os
import pathlib
import resource
import sys
import time

import numpy as np
from PIL import Image

BATCH = 64


def spent():
    """Processor seconds of all threads of this process and of its running worker processes."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    total = own.ru_utime + own.ru_stime
    for child in multiprocessing.active_children():
        stat = pathlib.Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
    return total


def rate(batches, size, seconds):
    """(examples a second, processor seconds of each), after four batches that start everything."""
    for _ in range(4):
        next(batches)
    cpu, clock, n = spent(), time.perf_counter(), 0
    while time.perf_counter() - clock < seconds:
        next(batches)
        n += size
    wall = time.perf_counter() - clock
    return n / wall, (spent() - cpu) / n


def main(folder, seconds):
    """Print {workers: [examples a second, processor seconds of each]}."""
    import torch

    class ImageFolder(torch.utils.data.Dataset):
        """Images of the folders, each folder a class."""

        def __init__(self, root):
            classes = sorted(p for p in pathlib.Path(root).iterdir() if p.is_dir())
            self.files = [(f, i) for i, c in enumerate(classes) for f in sorted(c.iterdir())]

        def __len__(self):
            return len(self.files)

        def __getitem__(self, i):
            path, label = self.files[i]
            with open(path, "rb") as file:
                x = np.array(Image.open(file).convert("RGB"))
            return torch.from_numpy(x), label

    torch.set_num_threads(1)
    found = {}
    for workers in (0, 1, 2):
        loader = torch.utils.data.DataLoader(
            ImageFolder(folder), BATCH, shuffle=True, drop_last=True, num_workers=workers,
            persistent_workers=workers > 0,
        )  # fmt: skip

        def endless(loader=loader):
            while True:
                yield from loader

        batches = endless()
        found[workers] = rate(batches, BATCH, seconds)
        del batches, loader
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
