"""Finds the pictures of a log directory and brings each to one form: RGB, upright, bounded, re-encoded."""

import hashlib
import io
import warnings
import zipfile
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from apache_beam.io.filesystems import FileSystems
from PIL import Image, ImageOps, UnidentifiedImageError

ImageFormat = Literal["jpeg", "webp"]

SOURCE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_BYTES = 64 << 20
MAX_PIXELS = 50_000_000
_SAVE_OPTIONS = {"jpeg": {"quality": 90}, "webp": {"quality": 90, "method": 4}}


class BadImageError(Exception):
    """A picture that cannot be stored; the message is the reason, one of a few fixed phrases."""


class ImageSource:
    """The pictures of a log directory.

    Args:
        directory: holds files, or `*.zip` shards. A name is a path inside the directory or inside a shard; a name
            with a scheme (`gs://...`) is read through Beam's file systems instead.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._archives = [zipfile.ZipFile(path) for path in sorted(directory.glob("*.zip"))]
        self._members = {info.filename: (zip, info) for zip in reversed(self._archives) for info in zip.infolist()}

    def read(self, name: str) -> bytes:
        """Reads the bytes of a picture.

        Raises:
            BadImageError: it is not there, lies outside the directory, or is larger than `MAX_BYTES`.
        """
        if "://" in name:
            return self._fetch(name)
        if name in self._members:
            archive, info = self._members[name]
            if info.file_size > MAX_BYTES:
                raise BadImageError("too many bytes")
            try:
                return archive.read(info)
            except (zipfile.BadZipFile, OSError, RuntimeError) as error:
                raise BadImageError("unreadable") from error
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise BadImageError("outside images/")
        file = self._directory / path
        if not file.is_file():
            raise BadImageError("missing")
        if file.stat().st_size > MAX_BYTES:
            raise BadImageError("too many bytes")
        try:
            return file.read_bytes()
        except OSError as error:
            raise BadImageError("unreadable") from error

    def _fetch(self, uri: str) -> bytes:
        try:
            with FileSystems.open(uri) as file:
                content = file.read(MAX_BYTES + 1)
        except Exception as error:  # every file system raises its own
            raise BadImageError("missing") from error
        if len(content) > MAX_BYTES:
            raise BadImageError("too many bytes")
        return content

    def close(self) -> None:
        """Closes the zip shards."""
        for archive in self._archives:
            archive.close()


def content_hash(source: bytes) -> str:
    """Hex SHA-256 of a picture's source bytes: one picture, whatever its names."""
    return hashlib.sha256(source).hexdigest()


def normalise_image(source: bytes, side: int, format: ImageFormat) -> bytes:
    """Decodes a picture, turns it upright, converts it to RGB, shrinks it and encodes it again.

    Args:
        source: a JPEG, PNG, WebP, GIF or BMP file; of an animation the first frame counts. Transparent parts become
            white.
        side: the shorter side is at most this long afterwards. Nothing is enlarged.
        format: encoding of the result, at quality 90.

    Raises:
        BadImageError: the header is of another format or announces more than `MAX_PIXELS` pixels (nothing is decoded
            then), the content cannot be decoded, or a side is too long for `format`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's own, later limit on pixels, and oddities in metadata
            with Image.open(io.BytesIO(source), formats=SOURCE_FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise BadImageError("too many pixels")
                image.draft("RGB", (side, side))  # lets the JPEG decoder skip detail that shrinking removes anyway
                upright = _rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:
        raise BadImageError("too many pixels") from error
    except UnidentifiedImageError as error:
        raise BadImageError("not an image") from error
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        raise BadImageError("undecodable") from error
    scale = side / min(upright.size)
    if scale < 1:
        size = tuple(max(1, round(length * scale)) for length in upright.size)
        upright = upright.resize(size, Image.Resampling.LANCZOS)
    out = io.BytesIO()
    try:
        upright.save(out, format, **_SAVE_OPTIONS[format])
    except (OSError, ValueError) as error:  # neither encoding knows sides of arbitrary length
        raise BadImageError("too long") from error
    return out.getvalue()


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits per pixel; PIL's own conversion would clip them
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(background, image).convert("RGB")
    return image.convert("RGB")
