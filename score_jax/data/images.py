"""Image files as arrays (h, w, c) of one size, one number of channels and one number of bits.

Pillow decodes. The first image of a source says what all of them become, unless `ImageOptions` does:
one channel if it is grey, three otherwise; 16 bits if it is grey with 16 bits a pixel. An image that
does not fit (in colour among grey ones, of another size, with more bits) raises an error.
"""

import dataclasses
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from score_jax._check import check, check_count
from score_jax.data.sources import Description

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
GREY = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"}  # Pillow's modes
SIXTEEN = {"I", "I;16", "I;16B", "I;16L", "I;16N"}  # grey of 16 bits
COLOUR = {"RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV"}
KNOWN = GREY | COLOUR
ALPHA = {"LA", "La", "RGBA", "RGBa", "PA"}
SEVERAL = {"TIFF", "WEBP", "PNG", "GIF"}  # formats whose further frames are not thumbnails
ORIENTATION = 0x0112  # the tag of EXIF
TARGETS = {1: "L", 3: "RGB"}
LEVELS = {8: 256, 16: 65_536}
TYPES = {8: "uint8", 16: "uint16"}

Size = tuple[int, int]  # (height, width)


def center_crop(image: Image.Image, size: Size) -> Image.Image:
    """Resize so that the image covers (h, w), and cut its centre out: as ADM prepares ImageNet.

    The image is halved by means of 2 x 2 pixels while both sides stay as large as wanted, then resized
    by Pillow's bicubic filter.
    """
    h, w = size
    while min(image.height / h, image.width / w) >= 2:
        half = (image.width // 2, image.height // 2)
        image = image.resize(half, Image.Resampling.BOX)
    scale = max(h / image.height, w / image.width)
    wide, high = round(image.width * scale), round(image.height * scale)
    image = image.resize((wide, high), Image.Resampling.BICUBIC)
    left, top = (wide - w) // 2, (high - h) // 2
    return image.crop((left, top, left + w, top + h))


def stretch(image: Image.Image, size: Size) -> Image.Image:
    """Resize to (h, w) by Pillow's bicubic filter, whatever the ratio of the sides."""
    return image.resize((size[1], size[0]), Image.Resampling.BICUBIC)


@dataclass(frozen=True)
class ImageOptions:
    """What becomes of image files.

    size: (h, w) of the result, or None for images of one size; resize: `center_crop` or `stretch`;
    enlarge: allow images that are smaller than `size`; channels: 1 or 3, or None for those of the first
    image; bits: 8 reduces images of 16 bits, 16 keeps grey ones, None does what the first image says;
    background: what is seen through transparent pixels.

    Raises ValueError for other values.

    >>> ImageOptions(size=(64, 64))
    """

    size: Size | None = None
    resize: Callable[[Image.Image, Size], Image.Image] = center_crop
    enlarge: bool = False
    channels: int | None = None
    bits: int | None = None
    background: tuple[int, int, int] = (255, 255, 255)

    def __post_init__(self) -> None:
        if self.size is not None:
            check("size", self.size, len(self.size) == 2, "(height, width)")
            check_count(height=self.size[0], width=self.size[1])
        for name, allowed in (("channels", TARGETS), ("bits", LEVELS)):
            value = getattr(self, name)
            check(name, value, value is None or value in allowed, f"one of {tuple(allowed)}")
        both = self.bits == 16 and self.channels == 3
        check("bits", self.bits, not both, "8 for 3 channels: Pillow reads no more")
        ok = all(0 <= v <= 255 for v in self.background)
        check("background", self.background, ok, "three numbers in [0, 255]")

    def to_record(self) -> dict[str, Any]:
        """The options as JSON values."""
        return dataclasses.asdict(self) | {"resize": self.resize.__name__}


@dataclass(frozen=True)
class Decoder:
    """Decodes image files to arrays (h, w, channels) of uint8 or uint16; made by `decoder_for`."""

    options: ImageOptions
    size: Size
    channels: int
    bits: int

    def __call__(self, data: bytes, name: str) -> np.ndarray:
        """Decode one file; ValueError naming it where it cannot be read or does not fit."""
        return self.fit(*opened(data, name), name)

    def fit(self, image: Image.Image, bits: int, name: str) -> np.ndarray:
        """Bring an image to the form; its file has `bits` a channel. ValueError as above."""
        grey = _is_grey(image, name)
        if not grey and self.channels == 1 and self.options.channels is None:
            raise ValueError(
                f"{name} is in colour, but the first image is grey: pass channels=1 or 3"
            )
        if bits > self.bits and self.options.bits is None:
            raise ValueError(f"{name} has {bits} bits a channel: pass bits=8 to reduce it to 8")
        if bits == 16 and self.bits == 16 and not grey:
            raise ValueError(
                f"{name} has 16 bits a channel in colour: pass bits=8 to reduce it to 8"
            )
        try:
            image = self._number_mode(_upright(image))
        except Exception as error:  # Pillow raises whatever its decoders meet
            raise ValueError(f"{name} cannot be read as an image: {error}") from None
        x = np.asarray(self._sized(image, name))
        if self.bits == 16:
            x = np.clip(np.rint(x), 0, LEVELS[16] - 1)
        return x.astype(TYPES[self.bits]).reshape(*self.size, self.channels)

    def _number_mode(self, image: Image.Image) -> Image.Image:
        """The image as L, RGB, or, for 16 bits, F."""
        if image.mode in SIXTEEN:
            x = np.asarray(image).astype(np.float32)
            if x.min() < 0 or x.max() >= LEVELS[16]:
                raise ValueError(f"its values are from {x.min():g} to {x.max():g}")
            if self.bits == 16:
                return Image.fromarray(x)
            image = Image.fromarray(np.rint(x / 257).astype(np.uint8))
        if image.mode in ALPHA or "transparency" in image.info:
            canvas = Image.new("RGBA", image.size, (*self.options.background, 255))
            canvas.alpha_composite(image.convert("RGBA"))
            image = canvas.convert("RGB")
        if image.mode != TARGETS[self.channels]:
            image = image.convert(TARGETS[self.channels])
        if self.bits == 16:
            return Image.fromarray(np.asarray(image).astype(np.float32) * 257)
        return image

    def _sized(self, image: Image.Image, name: str) -> Image.Image:
        found = (image.height, image.width)
        said = f"{name} is {found[0]} x {found[1]} pixels (height x width)"
        wanted = f"{self.size[0]} x {self.size[1]}"
        if self.options.size is None:
            if found != self.size:
                raise ValueError(
                    f"{said}, but the first image is {wanted}: pass size={self.size} to bring all to one"
                )
            return image
        if not self.options.enlarge and (found[0] < self.size[0] or found[1] < self.size[1]):
            raise ValueError(f"{said}, smaller than {wanted}: pass enlarge=True, or a smaller size")
        return image if found == self.size else self.options.resize(image, self.size)

    def description(self, class_names: Any, num_classes: int | None, **made: Any) -> Description:
        """The description of a source of such images."""
        shape = (*self.size, self.channels)
        return Description(
            shape, TYPES[self.bits], LEVELS[self.bits], num_classes, class_names,
            made=self.options.to_record() | made,
        )  # fmt: skip


def decoder_for(image: Image.Image, bits: int, name: str, options: ImageOptions) -> Decoder:
    """The decoder for a source whose first image is the given one, of `bits` a channel in its file.

    Raises ValueError naming the file where the image cannot be read.
    """
    channels = options.channels or (1 if _is_grey(image, name) else 3)
    bits = options.bits or (bits if channels == 1 else 8)
    if bits == 16 and channels == 3:
        raise ValueError(f"{name} is in colour, of which Pillow reads 8 bits: pass bits=8")
    try:
        turned = _upright(image)
    except Exception as error:
        raise ValueError(f"{name} cannot be read as an image: {error}") from None
    return Decoder(options, options.size or (turned.height, turned.width), channels, bits)


def opened(data: bytes, name: str) -> tuple[Image.Image, int]:
    """The image of a file and the bits of its channels, 8 or 16; only its header is read.

    The bits are read from the header because Pillow cuts colours of 16 bits to 8 in silence. Raises
    ValueError naming the file where it is not an image, has several, or more than 16 bits.
    """
    if not data:
        raise ValueError(f"{name} is empty")
    try:
        image = Image.open(io.BytesIO(data))
        frames = getattr(image, "n_frames", 1) if image.format in SEVERAL else 1
        bits = DEPTHS[image.format](image, data) if image.format in DEPTHS else 8
    except UnidentifiedImageError:
        raise ValueError(f"{name} is not an image that Pillow can read") from None
    except Exception as error:
        raise ValueError(f"{name} cannot be read as an image: {error}") from None
    if frames > 1:
        raise ValueError(f"{name} has {frames} frames: only single images are read")
    if bits > 16:
        raise ValueError(f"{name} has {bits} bits a channel: store such data as arrays")
    return image, max(bits, 8)


def bits_of(image: Image.Image) -> int:
    """Bits of a channel of an image that another program has opened."""
    return 16 if image.mode in SIXTEEN else 8


def image_of(x: np.ndarray) -> Image.Image:
    """Pixels (h, w, c) or (h, w) of uint8 as an image; ValueError for others."""
    ok = x.dtype == np.uint8 and (x.ndim == 2 or (x.ndim == 3 and x.shape[2] in (1, 3, 4)))
    check("x", (x.shape, x.dtype.name), ok, "pixels (h, w, c) of uint8")
    return Image.fromarray(x[..., 0] if x.ndim == 3 and x.shape[2] == 1 else x)


def _upright(image: Image.Image) -> Image.Image:
    """The image as the camera was held; the same object where it was upright."""
    upright = image.getexif().get(ORIENTATION, 1) == 1
    return image if upright else ImageOps.exif_transpose(image)


def _is_grey(image: Image.Image, name: str) -> bool:
    if image.mode not in KNOWN:
        raise ValueError(
            f"{name} has pixels of Pillow's mode {image.mode}, which are not grey levels or colours: "
            "store such data as arrays"
        )
    return image.mode in GREY


def _png_bits(image: Image.Image, data: bytes) -> int:
    del image
    return data[24]  # the signature (8 bytes), then length, type, width, height of the header


def _tiff_bits(image: Any, data: bytes) -> int:
    del data
    return int(max(image.tag_v2.get(258, (8,))))  # BitsPerSample


DEPTHS: dict[str, Callable[[Any, bytes], int]] = {"PNG": _png_bits, "TIFF": _tiff_bits}
