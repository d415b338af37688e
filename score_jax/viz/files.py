"""Files of pictures: a PNG, an animation; whole or not at all."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from score_jax._check import check
from score_jax._files import replacing


def save_image(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write a PNG whole or not at all."""
    with replacing(path) as part:
        image.save(part, format="PNG")


def save_animation(
    images: Sequence[Image.Image], path: str | os.PathLike[str], *, seconds: float = 4.0
) -> None:
    """Write pictures as an animation of this length, whole or not at all: a .gif, or an .mp4.

    The last picture stays for a second more. An .mp4 needs imageio-ffmpeg: ImportError without it.
    Raises ValueError for another ending, and no pictures.
    """
    check("images", len(images), len(images) > 0, "at least one picture")
    ending, each = os.path.splitext(path)[1].lower(), seconds / len(images)
    known = {".gif": _write_gif, ".mp4": _write_mp4}
    check("path", os.fspath(path), ending in known, "a .gif or an .mp4")
    with replacing(path) as part:
        known[ending](images, os.fspath(part), each)


def _write_gif(images: Sequence[Image.Image], path: str, each: float) -> None:
    few = [image.quantize(64) for image in images]
    times = [round(1000 * each)] * (len(few) - 1) + [round(1000 * each) + 1000]
    few[0].save(path, format="GIF", save_all=True, append_images=few[1:], duration=times, loop=0)


def _write_mp4(images: Sequence[Image.Image], path: str, each: float) -> None:
    try:
        import imageio_ffmpeg
    except ImportError:
        raise ImportError('an .mp4 needs imageio-ffmpeg: pip install "score_jax[video]"') from None
    # Even sides, which the codec needs.
    size = (images[0].width // 2 * 2, images[0].height // 2 * 2)
    last = [images[-1]] * max(1, round(1 / each))
    writer = imageio_ffmpeg.write_frames(path, size, fps=1 / each, macro_block_size=2)
    writer.send(None)
    for image in [*images, *last]:
        writer.send(np.ascontiguousarray(image.convert("RGB").crop((0, 0, *size))))
    writer.close()
