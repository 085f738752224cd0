import io
import random
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageFile

from beam_pipelines.images.formats import SOURCE_FORMATS
from beam_pipelines.images.normalisation import normalise_image
from beam_pipelines.images.refusals import BadImageError


def encoded(image, format="PNG", **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def decoded(data):
    return Image.open(io.BytesIO(data))


def bomb(side=20_000):
    """A valid PNG of `side` x `side` black pixels in a few hundred kilobytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((side // 8 + 1) * side), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", SOURCE_FORMATS)
@pytest.mark.parametrize("stored", ["jpeg", "webp"])
def test_every_format_becomes_rgb(format, stored):
    picture = decoded(normalise_image(encoded(Image.new("RGB", (40, 30), (200, 30, 60)), format), 256, stored))
    assert (picture.format, picture.mode, picture.size) == (stored.upper(), "RGB", (40, 30))
    np.testing.assert_allclose(np.asarray(picture)[15, 20], (200, 30, 60), atol=6)


@pytest.mark.parametrize(
    ("mode", "format", "colour", "expected"),
    [
        ("L", "PNG", 77, (77, 77, 77)),
        ("1", "PNG", 1, (255, 255, 255)),
        ("P", "GIF", 0, None),
        ("LA", "PNG", (0, 0), (255, 255, 255)),
        ("RGBA", "PNG", (0, 0, 255, 0), (255, 255, 255)),
        ("RGBA", "WEBP", (0, 0, 255, 255), (0, 0, 255)),
        ("I;16", "PNG", 128 << 8, (128, 128, 128)),
        ("CMYK", "JPEG", (0, 255, 255, 0), (255, 0, 0)),
    ],
)
def test_every_colour_mode_becomes_rgb(mode, format, colour, expected):
    picture = decoded(normalise_image(encoded(Image.new(mode, (32, 32), colour), format), 256, "jpeg"))
    assert picture.mode == "RGB"
    if expected is not None:
        np.testing.assert_allclose(np.asarray(picture)[16, 16], expected, atol=8)


@pytest.mark.parametrize("format", ["JPEG", *SOURCE_FORMATS[5:]])  # AVIF, if it is read
def test_exif_orientation_is_applied(format):
    image = Image.new("RGB", (60, 40), "black")
    image.paste("white", (0, 0, 60, 20))  # white above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    picture = decoded(normalise_image(encoded(image, format, exif=exif), 256, "jpeg"))
    assert picture.size == (40, 60)
    pixels = np.asarray(picture).mean(2)
    assert pixels[30, 30] > 200 > 50 > pixels[30, 10]  # white on the right
    assert not picture.getexif()


def test_of_an_animation_the_first_frame_counts():
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    for format in ("GIF", "WEBP"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        np.testing.assert_allclose(np.asarray(decoded(normalise_image(data, 256, "jpeg")))[10, 10], (255, 0, 0), atol=8)


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((400, 300), 100, (133, 100)),
        ((300, 400), 100, (100, 133)),
        ((60, 50), 100, (60, 50)),
        ((5000, 1), 256, (5000, 1)),
    ],
)
def test_the_short_side_is_bounded_and_nothing_is_enlarged(size, side, expected):
    for format in ("JPEG", "PNG"):
        assert decoded(normalise_image(encoded(Image.new("RGB", size), format), side, "jpeg")).size == expected


def test_a_decompression_bomb_is_refused_from_its_header(monkeypatch):
    assert decoded(normalise_image(bomb(200), 256, "jpeg")).size == (200, 200)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("pixels are decoded"))
    assert len(bomb()) < 400_000
    for side in (7080, 20_000):  # beyond our limit only; beyond PIL's as well
        with pytest.raises(BadImageError, match="too many pixels"):
            normalise_image(bomb(side), 256, "jpeg")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded(Image.new("L", (70_000, 2))), "too long"),
        (b"", "empty"),
        (b"nothing known", "not an image"),
        (b"<html>not found</html>", "not an image but HTML"),
        (encoded(Image.new("RGB", (9, 9)), "TIFF"), "unsupported TIFF"),
        (encoded(Image.effect_noise((99, 99), 90), "JPEG")[:-600], "undecodable"),
        (encoded(Image.effect_noise((99, 99), 90), "PNG")[:-600], "undecodable"),
        (encoded(Image.effect_noise((99, 99), 90), "WEBP")[:-600], "undecodable"),
    ],
)
def test_bad_pictures_have_a_reason(data, reason):
    with pytest.raises(BadImageError) as error:
        normalise_image(data, 256, "jpeg")
    assert str(error.value) == reason


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_bytes_that_break_a_decoder_are_only_a_bad_picture():
    """Flips bytes in pictures with every kind of metadata: whatever a decoder raises, it is a reason."""
    rng = random.Random(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "made up"
    exif[0x8769] = {0x9003: "2026:01:01 00:00:00"}
    image = Image.effect_noise((30, 20), 90).convert("RGB")
    sources = [encoded(image, format, exif=exif) for format in ("JPEG", "PNG", "WEBP")]
    sources += [encoded(image.convert("P"), format) for format in ("GIF", "BMP", "PNG")]
    outcomes = Counter()
    for _ in range(3000):
        source = bytearray(rng.choice(sources))
        for _ in range(rng.choice([1, 2, 5, 20])):
            source[rng.randrange(len(source))] = rng.randrange(256)
        try:
            normalise_image(bytes(source), 16, "jpeg")
            outcomes["stored"] += 1
        except BadImageError as error:
            outcomes[str(error)] += 1
    assert outcomes.keys() <= {"stored", "undecodable", "not an image", "too many pixels", "too long"}
    assert outcomes["stored"] > 100
    assert outcomes["undecodable"] > 100


def test_a_picture_whose_metadata_cannot_be_rewritten_is_stored():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x011A] = 72.0  # resolution
    source = encoded(Image.new("RGB", (60, 40)), "JPEG", exif=exif)
    entry = (
        source.index(struct.pack("<HHI", 0x011A, 5, 1))
        if b"II*" in source
        else source.index(struct.pack(">HHI", 0x011A, 5, 1))
    )
    broken = bytearray(source)
    broken[entry + 2 : entry + 4] = struct.pack("<H" if b"II*" in source else ">H", 2)  # text instead of a number
    assert decoded(normalise_image(bytes(broken), 256, "jpeg")).size == (40, 60)


def test_comments_and_other_metadata_stay_behind():
    out = io.BytesIO()
    Image.new("RGB", (20, 20)).save(out, "JPEG", comment=b"taken at home", exif=b"Exif\0\0secret")
    stored = normalise_image(out.getvalue(), 64, "jpeg")
    assert b"home" not in stored
    assert b"secret" not in stored
