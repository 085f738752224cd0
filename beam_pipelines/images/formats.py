"""Tells what a file is by its first bytes."""

from PIL import features

SOURCE_FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What is decoded, by Pillow's names."""
if "avif" in features.modules and features.check_module("avif"):  # since Pillow 11.3, where it was built with it
    SOURCE_FORMATS += ("AVIF",)

PICTURE_ENDINGS = frozenset(
    ("jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "dib", "avif", "heic", "heif", "tif", "tiff",
     "svg", "jp2", "jxl", "ico", "psd")
)  # fmt: skip
"""What names of pictures end with, read or not, in lower case and without the dot."""

_OTHER_PICTURES = ("AVIF", "HEIC", "TIFF", "SVG", "PSD", "ICO", "JPEG 2000", "JPEG XL")
_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"8BPS", "PSD"),
    (b"\0\0\1\0", "ICO"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"%PDF-", "PDF"),
    (b"%!PS", "PostScript"),
    (b"PK\3\4", "a zip file"),
    (b"PK\5\6", "a zip file"),
    (b"\x1f\x8b", "a gzip file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\0", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z file"),
    (b"Rar!", "a RAR file"),
    (b"version https://git-lfs", "a Git LFS pointer"),
)
_BEGINNING = 1024
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | {
    brand: "HEIC" for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
}


def format_of(content: bytes) -> str:
    """What a file is by its first bytes, as messages call it; empty if they tell nothing.

    Args:
        content: the file, or its first kilobyte.
    """
    if not content:
        return "empty"
    head = content[:_BEGINNING]
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":  # the major brand, or what else the file is compatible with
        brands = [head[at : at + 4] for at in (8, *range(16, min(int.from_bytes(head[:4], "big"), 64), 4))]
        pictures = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
        return "AVIF" if "AVIF" in pictures else pictures[0] if pictures else "a video"
    if head[257:262] == b"ustar":
        return "a tar file"
    if not any(head):
        return "zeros"
    return _text_format(head)


def _text_format(head: bytes) -> str:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<"):
        if b"<svg" in text:
            return "SVG"
        return "HTML" if b"<html" in text or b"<!doctype html" in text else "XML"
    return "JSON" if text.startswith((b'{"', b"[{")) else ""


def why_not_read(content: bytes) -> str:
    """The reason why Pillow does not take a file for a picture of a format that is read."""
    name = format_of(content)
    if name in SOURCE_FORMATS:
        return "undecodable"
    if name in _OTHER_PICTURES:
        return f"unsupported {name}"
    if name == "empty":
        return "empty"
    return f"not an image but {name}" if name else "not an image"
