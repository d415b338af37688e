"""Decoding: every mode of Pillow becomes the array that its pixels say, at the size asked for."""

import numpy as np
import pytest
from PIL import Image

from score_jax.data.images import ImageOptions, center_crop, decoder_for, image_of, opened, stretch
from tests.helpers.data_files import encoded, png16, tiff16

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 5, 3)).astype(np.uint8)
GREY = RGB[..., 0]
DEEP = RNG.integers(0, 65_536, (6, 5)).astype(np.uint16)


def decode(content, first=None, name="a.png", **options):
    decoder = decoder_for(
        *opened(first or content, "first.png"), "first.png", ImageOptions(**options)
    )
    return decoder(content, name)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_give_their_pixels(form):
    options = {"lossless": True} if form == "WEBP" else {}
    np.testing.assert_array_equal(decode(encoded(RGB, form, **options)), RGB)


def test_jpeg_is_near_its_pixels():
    smooth = np.add.outer(np.arange(16) * 4, np.arange(16) * 8).astype(np.uint8)
    assert (
        np.abs(decode(encoded(smooth, "JPEG", quality=95))[..., 0] - smooth.astype(int)).max() < 8
    )


def test_grey_has_one_channel_and_may_get_three():
    assert decode(encoded(GREY)).shape == (6, 5, 1)
    np.testing.assert_array_equal(decode(encoded(GREY), channels=3), np.stack([GREY] * 3, -1))
    # Among colours grey is the same on all channels; among grey images, colour is an error.
    np.testing.assert_array_equal(decode(encoded(GREY), encoded(RGB)), np.stack([GREY] * 3, -1))
    with pytest.raises(
        ValueError, match=r"b.png is in colour.*first image is grey.*channels=1 or 3"
    ):
        decode(encoded(RGB), encoded(GREY), "b.png")
    assert decode(encoded(RGB), channels=1).shape == (6, 5, 1)


def test_transparent_pixels_show_the_background():
    alpha = np.zeros((6, 5, 1), np.uint8)
    alpha[:3] = 255
    x = decode(encoded(Image.fromarray(np.concatenate([RGB, alpha], -1))), background=(10, 20, 30))
    np.testing.assert_array_equal(x[:3], RGB[:3])
    np.testing.assert_array_equal(x[3:], np.broadcast_to([10, 20, 30], (3, 5, 3)))
    grey = Image.fromarray(np.stack([GREY, alpha[..., 0]], -1), "LA")
    x = decode(encoded(grey))
    assert x.shape == (6, 5, 1) and (x[3:] == 255).all() and (x[:3, :, 0] == GREY[:3]).all()


def test_palettes_and_cmyk_become_colours():
    few = Image.fromarray((RGB // 128) * 255).convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    np.testing.assert_array_equal(decode(encoded(few)), np.asarray(few.convert("RGB")))
    few.info["transparency"] = 0
    x = decode(encoded(few, transparency=0), background=(1, 2, 3))
    assert (x[np.asarray(few) == 0] == [1, 2, 3]).all()
    ink = Image.fromarray(np.full((6, 5, 4), [0, 255, 255, 0], np.uint8), "CMYK")
    assert decode(encoded(ink, "TIFF"))[0, 0].tolist() == [255, 0, 0]
    bits = Image.fromarray(GREY > 127).convert("1")
    assert set(np.unique(decode(encoded(bits)))) <= {0, 255}


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_grey_of_16_bits_is_kept_or_reduced(form):
    content = encoded(Image.fromarray(DEEP), form)
    x = decode(content)
    assert x.dtype == np.uint16
    np.testing.assert_array_equal(x[..., 0], DEEP)
    reduced = decode(content, bits=8)
    assert reduced.dtype == np.uint8
    np.testing.assert_array_equal(reduced[..., 0], np.rint(DEEP / 257))
    # 8 bits among 16: 255 becomes 65,535. 16 bits among 8: an error.
    np.testing.assert_array_equal(decode(encoded(GREY), content)[..., 0], GREY.astype(int) * 257)
    with pytest.raises(ValueError, match=r"b.png has 16 bits a channel: pass bits=8"):
        decode(content, encoded(GREY), "b.png")


@pytest.mark.parametrize("kind", [2, 4, 6], ids=["colour", "grey and alpha", "colour and alpha"])
def test_colours_of_16_bits_are_seen(kind):
    """Pillow opens them as 8 bits and says nothing."""
    content = png16(np.full((4, 4, {2: 3, 4: 2, 6: 4}[kind]), 0xABCD, np.uint16), kind)
    assert opened(content, "a.png")[1] == 16
    with pytest.raises(ValueError, match=r"a.png has 16 bits a channel"):
        decode(content)
    assert decode(content, bits=8).dtype == np.uint8
    with pytest.raises(ValueError, match="16 bits a channel"):
        decode(tiff16(np.zeros((4, 4, 3), np.uint16)))


def test_the_orientation_of_a_camera_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    x = decode(encoded(RGB, "PNG", exif=exif))
    np.testing.assert_array_equal(x, np.rot90(RGB, -1))


def test_a_crop_takes_the_centre_and_halves_by_means():
    """On constant blocks of 2 x 2 pixels a half is exact; of a wide image the middle is left."""
    small = RNG.integers(0, 256, (8, 12, 3)).astype(np.uint8)
    wide = image_of(small.repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(center_crop(wide, (8, 8)), small[:, 2:10])
    np.testing.assert_array_equal(center_crop(image_of(small), (8, 8)), small[:, 2:10])
    assert center_crop(image_of(RGB), (4, 2)).size == (2, 4)


def test_a_ramp_stays_a_ramp_when_it_is_resized():
    """Bicubic interpolation is exact on a line, away from the edges: both for 8 and for 16 bits."""
    ramp = np.tile(np.arange(64, dtype=np.uint16) * 1000, (64, 1))
    want = (np.arange(32) * 2 + 0.5) * 1000
    for resize in (center_crop, stretch):
        x = decode(encoded(Image.fromarray(ramp)), size=(32, 32), resize=resize)
        np.testing.assert_allclose(x[16, 4:-4, 0], want[4:-4], atol=1)
    x = decode(encoded(Image.fromarray((ramp // 1000 * 4).astype(np.uint8))), size=(48, 32),
               resize=stretch)  # fmt: skip
    assert x.shape == (48, 32, 1)
    np.testing.assert_allclose(x[24, 4:-4, 0], want[4:-4] / 250, atol=1)


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(
        ValueError, match=r"b.png is 8 x 5 pixels.*first image is 6 x 5: pass size=\(6, 5\)"
    ):
        decode(encoded(np.zeros((8, 5), np.uint8)), encoded(GREY), "b.png")
    with pytest.raises(
        ValueError, match=r"a.png is 6 x 5 pixels.*smaller than 8 x 4.*enlarge=True"
    ):
        decode(encoded(RGB), size=(8, 4))
    assert decode(encoded(RGB), size=(8, 4), enlarge=True).shape == (8, 4, 3)


def animated():
    frames = [Image.fromarray(RGB), Image.fromarray(RGB[::-1].copy())]
    return encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])


def floating():
    return encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF")


BAD = {
    "empty": (b"", "is empty"),
    "text": (b"no image", "not an image that Pillow can read"),
    "cut png": (encoded(RGB)[:80], "cannot be read as an image"),
    "cut jpeg": (encoded(RGB.repeat(20, 0), "JPEG")[:-400], "cannot be read as an image"),
    "flipped": (encoded(RGB)[:60] + b"\0\0\0\0" + encoded(RGB)[64:], "cannot be read as an image"),
    "animated": (animated(), "has 2 frames"),
    "floating": (floating(), "mode F|32 bits"),
}


@pytest.mark.parametrize("case", BAD)
def test_files_that_cannot_be_read_are_named(case):
    content, named = BAD[case]
    with pytest.raises(ValueError, match=f"a.png.*({named})"):
        decode(content, encoded(RGB))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"size": (0, 4)}, "height"),
        ({"channels": 2}, "channels must be one of"),
        ({"bits": 12}, "bits must be one of"),
        ({"bits": 16, "channels": 3}, "bits must be 8"),
        ({"background": (0, 0, 256)}, "background"),
    ],
)
def test_options_are_checked(options, named):
    with pytest.raises(ValueError, match=named):
        ImageOptions(**options)
