"""The options of reading data that training and `prepare` share."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """How images and arrays are read."""

    # Height and width that images are brought to; one number: square (default: as they are).
    size: tuple[int, ...] | None = None
    # How images are resized: by halving, reducing and cropping the middle, as ADM does (crop), or by
    # reducing both sides alone (plain).
    resize: Literal["crop", "plain"] = "crop"
    # Accept images that are smaller.
    enlarge: bool = False
    # Channels of an image, 1 or 3 (default: those of the first image).
    channels: int | None = None
    # Bits of a channel: 8 reduces images of 16 bits, and 16 keeps grey images of 16 bits (default: those
    # of the first image).
    bits: int | None = None
    # The colour behind transparent pixels.
    background: tuple[int, int, int] = (255, 255, 255)
    # Where the labels of images are: in the names of the first folders (folder), before "_" in the names
    # of the files (name), in dataset.json (json), nowhere (none), or in dataset.json if there is one and
    # otherwise in the folders (auto).
    labels: Literal["auto", "folder", "name", "json", "none"] = "auto"
    # For CIFAR-100: take the 20 coarse classes.
    coarse: bool = False
    # How many grey levels whole numbers have (default: all of their type).
    levels: int | None = None
    # Name of the array, column or variable of the data, where there are several.
    key: str | None = None
    # Name of the array, column or variable of the labels.
    label_key: str | None = None
    # Condition the network on a vector or a field of each example: a file or folder of the same kind as
    # the data, or the name of an array, column or variable beside them.
    cond: str | None = None
    # Accept data that look wrong: grey levels as floating-point numbers, channels first.
    as_is: bool = False
    # What becomes of entries that are NaN or masked: an error (refuse), or they are left out of the loss
    # and the statistics (mask).
    missing: Literal["refuse", "mask"] = "refuse"
