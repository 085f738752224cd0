"""Brings each picture to one form: RGB, upright, bounded, re-encoded."""

import io

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from beam_pipelines.images.formats import SOURCE_FORMATS, why_not_read
from beam_pipelines.images.refusals import BadImageError
from beam_pipelines.options import ImageFormat

MAX_PIXELS = 50_000_000
_SAVE_OPTIONS = {"jpeg": {"quality": 90}, "webp": {"quality": 90, "method": 4}}
_UPRIGHT = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def normalise_image(source: bytes, side: int, format: ImageFormat) -> bytes:
    """Decodes a picture, turns it upright, converts it to RGB, shrinks it and encodes it again.

    Args:
        source: a JPEG, PNG, WebP, GIF, BMP or (with Pillow 11.3 or newer) AVIF file; of an animation the first frame
            counts. Transparent parts become white.
        side: the shorter side is at most this long afterwards. Nothing is enlarged.
        format: encoding of the result, at quality 90.

    Raises:
        BadImageError: the header is of another format or announces more than `MAX_PIXELS` pixels (nothing is decoded
            then), the content cannot be decoded, or a side is too long for `format`.
    """
    try:
        with Image.open(io.BytesIO(source), formats=SOURCE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImageError("too many pixels", f"{image.width} x {image.height}")
            image.draft("RGB", (side, side))  # lets the JPEG decoder skip detail that shrinking removes anyway
            picture = _rgb(image)
            turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except BadImageError:
        raise
    except Image.DecompressionBombError as error:
        raise BadImageError("too many pixels") from error
    except UnidentifiedImageError as error:
        raise BadImageError(why_not_read(source)) from error
    except Exception as error:  # every decoder raises its own
        raise BadImageError("undecodable", error) from error
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
        raise BadImageError("too long", f"{picture.width} x {picture.height}") from error
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
