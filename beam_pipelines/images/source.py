"""Finds the pictures of a log directory and brings each to one form: RGB, upright, bounded, re-encoded."""

import hashlib
import io
import os
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import numpy as np
from apache_beam.io.filesystems import FileSystems
from PIL import ExifTags, Image, UnidentifiedImageError

from beam_pipelines.format.errors import InputError
from beam_pipelines.options import ImageFormat

SOURCE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_BYTES = 64 << 20
MAX_PIXELS = 50_000_000
_SAVE_OPTIONS = {"jpeg": {"quality": 90}, "webp": {"quality": 90, "method": 4}}
_ENCRYPTED = 1  # bit of a zip member's flags
_UPRIGHT = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImageError(Exception):
    """A picture that cannot be stored; the message is the reason, one of a few fixed phrases."""


class ImageSource:
    """The pictures of a log directory.

    Args:
        directory: holds files, or `*.zip` shards. A name is a path inside the directory or inside a shard (of equal
            names, that in the first shard counts); a URI (`file:///...`, `gs://...`) is read from where it points to.

    Raises:
        InputError: a zip shard is damaged.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._archives = [_open_archive(path) for path in sorted(directory.glob("*.zip"))]
        self._members = {info.filename: (zip, info) for zip in reversed(self._archives) for info in zip.infolist()}

    def read(self, name: str) -> bytes:
        """Reads the bytes of a picture.

        Raises:
            BadImageError: it is not there, lies outside the directory, cannot be read, or is larger than `MAX_BYTES`.
            InputError: it is a URI that nothing here can read.
        """
        if "://" in name:
            return self._fetch(name)
        if name in self._members:
            return self._read_member(*self._members[name])
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise BadImageError("outside images/")
        return self._read_file(self._directory / path)

    @staticmethod
    def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
        if info.file_size > MAX_BYTES:
            raise BadImageError("too many bytes")
        if info.flag_bits & _ENCRYPTED:
            raise BadImageError("encrypted")
        try:
            if info.compress_type == zipfile.ZIP_STORED:
                return _read_stored(archive, info)
            with archive.open(info) as member:
                return member.read(MAX_BYTES)  # bounded here too: the size above is only what the shard says
        except Exception as error:  # every compression raises its own
            raise BadImageError("unreadable") from error

    @staticmethod
    def _read_file(path: Path) -> bytes:
        try:
            if not path.is_file():
                raise BadImageError("missing")
            if path.stat().st_size > MAX_BYTES:
                raise BadImageError("too many bytes")
            return path.read_bytes()
        except (OSError, ValueError) as error:
            raise BadImageError("unreadable") from error

    def _fetch(self, uri: str) -> bytes:
        parts = urlsplit(uri)
        if parts.scheme == "file":  # Beam knows local files as plain paths only
            return self._read_file(Path(unquote(parts.path)))
        try:
            FileSystems.get_filesystem(uri)
        except Exception as error:
            raise InputError(
                f"items.image: {parts.scheme}:// in {uri} cannot be read here ({str(error).splitlines()[0]}); install "
                "what it needs, or copy the pictures into images/"
            ) from error
        try:
            with FileSystems.open(uri) as file:
                content = file.read(MAX_BYTES + 1)
        except Exception as error:  # every file system raises its own
            raise BadImageError("unreadable") from error
        if len(content) > MAX_BYTES:
            raise BadImageError("too many bytes")
        return content

    def close(self) -> None:
        """Closes the zip shards."""
        for archive in self._archives:
            archive.close()


def _read_stored(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Reads a member that is not compressed. `zipfile` is slower, and its threads wait for each other."""
    assert archive.fp is not None  # it is open
    file = archive.fp.fileno()
    lengths = os.pread(file, 4, info.header_offset + 26)  # of the name and of what follows it
    start = info.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
    content = os.pread(file, info.file_size, start)
    if zlib.crc32(content) != info.CRC:
        raise zipfile.BadZipFile(info.filename)
    return content


def check_archives(directory: Path) -> None:
    """Looks at the end of each zip shard, where one that was cut is recognised without reading it.

    Raises:
        InputError: a zip shard is damaged.
    """
    for path in sorted(directory.glob("*.zip")):
        if not zipfile.is_zipfile(path):
            raise InputError(f"{path} is not a whole zip file; copy it again, or remove it")


def _open_archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except Exception as error:  # a damaged directory raises this and that
        raise InputError(f"{path} is not a whole zip file ({error}); copy it again, or remove it") from error


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
        with Image.open(io.BytesIO(source), formats=SOURCE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImageError("too many pixels")
            image.draft("RGB", (side, side))  # lets the JPEG decoder skip detail that shrinking removes anyway
            picture = _rgb(image)
            turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except BadImageError:
        raise
    except Image.DecompressionBombError as error:
        raise BadImageError("too many pixels") from error
    except UnidentifiedImageError as error:
        raise BadImageError("not an image") from error
    except Exception as error:  # every decoder raises its own
        raise BadImageError("undecodable") from error
    if turn is not None:
        picture = picture.transpose(turn)
    scale = side / min(picture.size)
    if scale < 1:
        width, height = (max(1, round(length * scale)) for length in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    try:
        picture.info.clear()  # comments of the source stay behind
        picture.save(out, format, **_SAVE_OPTIONS[format])
    except (OSError, ValueError) as error:  # neither encoding knows sides of arbitrary length
        raise BadImageError("too long") from error
    return out.getvalue()


def _rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.mode.startswith("I"):  # 16 bits per pixel; PIL's own conversion would clip them
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(background, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
