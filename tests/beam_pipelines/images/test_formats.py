import io

import pytest
from PIL import Image

from beam_pipelines.images.formats import SOURCE_FORMATS, format_of, why_not_read


def saved(format):
    out = io.BytesIO()
    Image.new("RGB", (9, 9), "red").save(out, format)
    return out.getvalue()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "ICO", "PDF"])
def test_what_pillow_writes_is_known(format):
    assert format_of(saved(format)) == format


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"\0" * 2000, "not an image but zeros"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "unsupported HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isomavc1", "not an image but a video"),
        (b"8BPS\0\1", "unsupported PSD"),
        (b"\xff\x0a rest", "unsupported JPEG XL"),
        (b'<?xml version="1.0"?>\n<!-- made -->\n<svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported SVG"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html>404</html>", "not an image but HTML"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "not an image but XML"),
        (b'{"error": 404}', "not an image but JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "not an image but a Git LFS pointer"),
        (b"PK\3\4rest", "not an image but a zip file"),
        (b"\x1f\x8b\x08rest", "not an image but a gzip file"),
        (b"0.jpg".ljust(257, b"\0") + b"ustar\0", "not an image but a tar file"),
        (b"\xff\xd8\xff", "undecodable"),
        (b"nothing known", "not an image"),
    ],
)
def test_a_file_that_is_not_read_is_named(content, reason):
    assert why_not_read(content) == reason


def test_avif_is_read_or_named():
    brands = b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf"
    assert format_of(brands) == "AVIF"
    assert why_not_read(brands) == ("undecodable" if "AVIF" in SOURCE_FORMATS else "unsupported AVIF")
