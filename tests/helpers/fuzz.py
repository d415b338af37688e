"""Damaged and hostile copies of files, drawn from a seed: for the tests and for `benchmarks/fuzz.py`.

The kinds of damage: bytes replaced, a part removed, doubled or moved, an end cut off, a number
replaced by an extreme one. A reader passes if it returns or raises a ValueError of one line that names
the file.
"""

import functools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from score_jax.convert import (
    Ingredients,
    from_improved_diffusion,
    from_release,
    read_flax_msgpack,
    read_safetensors,
    read_torch,
    to_release,
)
from score_jax.convert.assemble import template
from score_jax.data import Description
from score_jax.nets import MLP, UNet
from score_jax.parametrization import TimeInput
from score_jax.sde import VP, CosineBetas
from tests.helpers.convert_files import (
    dictionary,
    ndarray,
    storage,
    tensor,
    whole,
    write_legacy,
    write_msgpack,
    write_torch,
    write_zip,
)

EXTREME = (0, 1, 2**7, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
LONGEST = 1_000  # characters of a message


def damaged(raw: bytes, draw: random.Random) -> bytes:
    """The bytes with one to three pieces of damage."""
    data = bytearray(raw)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        at = draw.randrange(len(data) or 1)
        end = min(len(data), at + draw.choice((1, 2, 4, 8, 64)))
        kind = draw.randrange(6)
        if kind == 0:
            data[at:end] = draw.randbytes(end - at)
        elif kind == 1:
            del data[at:end]
        elif kind == 2:
            data[at:at] = data[at:end]
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            size = draw.choice((1, 2, 4, 8))
            value = draw.choice(EXTREME) % 256**size
            data[at : at + size] = value.to_bytes(size, draw.choice(("little", "big")))
        else:
            other = draw.randrange(len(data) or 1)
            data[other:other] = data[at:end]
    return bytes(data)


def message_fault(message: str, path: Path) -> str | None:
    """What is wrong with the message of a refused file; None if it is as it should be."""
    if path.name not in message:
        return f"does not name the file: {message[:200]}"
    if "\n" in message or len(message) > LONGEST:
        return f"a message of {len(message)} characters: {message[:200]}"
    return None


def refused(read: Callable[[Path], Any], path: Path, match: str) -> None:
    """Assert that the reader refuses the file in one line that names it and matches."""
    with pytest.raises(ValueError, match=match) as error:
        read(path)
    assert message_fault(str(error.value), path) is None


def shapes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find the shapes of equal networks once: a damaged file has mostly the same network."""
    once = functools.cache(template)
    for module in ("diffusers", "edm", "openai", "release", "score_sde", "vdm"):
        monkeypatch.setattr(f"score_jax.convert.{module}.template", once)


def fault(read: Callable[[Path], Any], path: Path) -> str | None:
    """What is wrong with how a reader takes a file; None if it returns or refuses it as it should."""
    try:
        read(path)
    except ValueError as error:
        return message_fault(str(error), path)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return None


def faults(
    read: Callable[[Path], Any], path: Path, count: int, seed: int
) -> Iterator[tuple[bytes, str]]:
    """Every damaged copy of a file that a reader takes badly, and how; the file is restored."""
    good, draw = path.read_bytes(), random.Random(seed)
    try:
        for _ in range(count):
            bad = damaged(good, draw)
            path.write_bytes(bad)
            found = fault(read, path)
            if found is not None:
                yield bad, found
    finally:
        path.write_bytes(good)


def weight_files(folder: Path) -> Iterator[tuple[Callable[[Path], Any], Path]]:
    """One good file of every kind, and its reader."""
    six = np.arange(6, dtype="<f4")
    body = dictionary(
        model=dictionary(w=tensor("FloatStorage", "0", 6, (2, 3), (3, 1))), step=whole(7),
        s=storage("IntStorage", "1", 2),
    )  # fmt: skip
    arrays = {"0": six.tobytes(), "1": b"12345678"}
    legacy = {"0": (6, six.tobytes()), "1": (2, b"12345678")}
    yield read_torch, write_zip(folder / "zip.pth", body, arrays)
    yield read_torch, write_legacy(folder / "legacy.pth", body, legacy)
    tree = {"a": ndarray(np.arange(3.0)), "b": {"c": 1, "d": "text"}}
    yield read_flax_msgpack, write_msgpack(folder / "checkpoint_1", tree)
    path = folder / "x.safetensors"
    safetensors.numpy.save_file({"w": six, "v": six.astype("f2")}, path)
    yield read_safetensors, path
    release = folder / "release.npz"
    net = MLP(width=4, num_blocks=1)
    tree = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1))
    to_release(release, Ingredients(net, VP(), TimeInput()), tree, Description((2,), "float32"))
    yield from_release, release
    path = folder / "state.pt"
    state = {f"input_blocks.{n}.0.weight": np.zeros((4, 3, 3, 3), "f4") for n in range(3)}
    unet = UNet(channels=32, channel_mult=(1,), num_blocks=1)
    read = lambda path: from_improved_diffusion(path, unet, CosineBetas(10))
    yield read, write_torch(path, state)
