"""Statistics of the features of own data: `python -m experiments.statistics --data.name array ...`.

The file is a reference for `experiments.evaluate --reference`. The data are used as they are stored:
not dequantised, not mirrored, and to the last example.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Literal

import tyro

from . import cli
from .config import DataConfig
from .late import late
from .parts import feature_networks, outputs
from .parts.feature_networks import NetworkConfig

with late():
    from score_jax import metrics, training

    from .parts import datasets, images, summaries
    from .run_config import Config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Write mean and covariance of the features of data, and some of the features, to an .npz file."""

    # The file to write.
    out: str
    # The data, as for training.
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    # Their split.
    split: Literal["train", "test"] = "train"
    # Images instead of the data: a folder, a zip, .npy or .npz.
    samples: str | None = None
    # Only the first images (default: all).
    num: int | None = None
    # Features kept for KID, precision, recall, density and coverage, chosen at random.
    keep: int = 10_000
    # Also Inception's spatial features, for sFID.
    sfid: bool = False
    # The networks whose features are kept.
    network: tyro.conf.OmitArgPrefixes[NetworkConfig] = dataclasses.field(
        default_factory=NetworkConfig
    )
    # Write over a file that is there.
    overwrite: bool = False
    # The processes of a run on several hosts.
    hosts: cli.HostsConfig = dataclasses.field(default_factory=cli.HostsConfig)

    def check(self) -> None:
        """Raise ValueError naming the first flag with an invalid value."""
        if self.num is not None and self.num < 2:
            raise ValueError(f"--num must be at least 2, got {self.num}")
        if self.keep < 0:
            raise ValueError(f"--keep must be at least 0, got {self.keep}")
        if pathlib.Path(self.out).suffix != ".npz":
            raise ValueError(f"--out must be an .npz file, got {self.out!r}")
        given = [self.network.inception, self.network.dinov2, self.network.features]
        if sum(path is not None for path in given) != 1:
            raise ValueError(
                f"{feature_networks.need_inception('statistics')}; or --dinov2 FILE, or --features "
                "package.module:function (one of them)"
            )
        if self.sfid and not self.network.inception:
            raise ValueError(feature_networks.need_inception("--sfid"))
        self.network.check()


def compute(args: Args) -> int:
    """Write the file: the number of images."""
    network = feature_networks.make(args.network, ("spatial",) if args.sfid else ())[0]
    if args.samples is not None:
        found, source = images.of_path(args.samples, args.num), args.samples
    else:
        data = datasets.run_data(Config(data=args.data))
        found, source = images.of_split(data, args.split), f"{args.data.name}, {args.split} split"
        if args.num is not None and args.num > found.n:
            raise ValueError(
                f"--num must be at most the {found.n} images of the data, got {args.num}"
            )
        found = found._replace(n=args.num or found.n)
    parts = summaries.summarize(
        network, found, keep=args.keep, batch=args.network.feature_chunk, what="images"
    )
    if training.is_first():
        out = pathlib.Path(args.out)
        out.parent.mkdir(parents=True, exist_ok=True)
        protocol = {**network.features.protocol, "source": source}
        metrics.write_reference(out, {name: s[0] for name, s in parts.items()}, protocol)
    return found.n


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.statistics`."""
    args = cli.parse(Args, "experiments.statistics", argv)
    args.check()
    outputs.free([pathlib.Path(args.out)], overwrite=args.overwrite, out=args.out)
    cli.start(hosts=args.hosts, options=args, data=args.data if args.samples is None else False)
    n = compute(args)
    if training.is_first():
        print(f"wrote {args.out}: features of {n:,} images")


if __name__ == "__main__":
    cli.main(main)
