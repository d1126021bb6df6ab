"""One photo file, as phones and cameras write them, read into an upright RGB square."""

from __future__ import annotations

import hashlib
import io
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

Crop = Literal["center", "top", "bottom", "pad"]
Size = tuple[int, int]  # width, height in pixels
Colour = tuple[int, int, int]

MOST_PIXELS = 178_956_970  # Pillow's own limit for a decompression bomb
SMALLEST_SIDE = 16  # pixels; below this there is nothing to learn from

_BOMB = f"decompression bomb: over {MOST_PIXELS / 1e6:.0f} megapixels; scale it down first"
# EPS, PDF and the like are left out: Pillow would hand them to outside programs.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "HEIF", "AVIF", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")
_STILL_FORMATS = ("MPO", "HEIF")  # their further frames are depth maps, thumbnails and bursts
_CAMERA_RAW = {".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".pef", ".srw"}
_SYSTEM_FILES = {"thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class Photo:
    """One usable photo. `size` is the file's, after its EXIF orientation; `image` is RGB, square, scaled.

    `alpha` is the same square of the file's transparency, grey, where it has some.
    """

    path: Path
    sha256: str
    size: Size
    upscaled: bool
    image: Image.Image = field(repr=False, compare=False)
    note: str = ""
    alpha: Image.Image | None = field(default=None, repr=False, compare=False)


class Refusal(Exception):
    """Why one file is not taken; it ends as a row of the pre-flight table, never as a traceback."""

    def __init__(self, reason: str, size: Size | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.size = size


def read_photo(path: Path, resolution: int, crop: Crop, background: Colour) -> Photo:
    """Decode, turn upright, convert to sRGB on `background`, crop to a square and scale it (Lanczos).

    The content of the file decides what it is, not its extension. An animation gives its first frame.

    Raises:
        Refusal: the file is no photo, or none that can be used.
    """
    if path.is_dir():
        raise Refusal("sub-folder, not searched")
    if path.name.startswith("."):
        raise Refusal("hidden file")
    if path.name.lower() in _SYSTEM_FILES:
        raise Refusal("system file")
    if path.suffix.lower() in _CAMERA_RAW:
        raise Refusal("camera raw file; export it as JPEG")
    if not path.is_file():
        raise Refusal("broken link" if path.is_symlink() else "not a regular file")
    try:
        with path.open("rb") as file:
            image, note = _decode(file)
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Refusal(f"cannot be read ({error.strerror or error})") from None
    with suppress(Exception):  # a damaged EXIF block is no reason to lose the photo
        image = ImageOps.exif_transpose(image)
    if min(image.size) < SMALLEST_SIDE:
        raise Refusal(f"smaller than {SMALLEST_SIDE} pixels", image.size)
    alpha = transparency(image)
    try:
        square = _square(_to_rgb(image, background), resolution, crop, background)
    except (ValueError, MemoryError):
        raise Refusal(f"colours of mode {image.mode} cannot be converted; save it as JPEG", image.size) from None
    used_side = max(image.size) if crop == "pad" else min(image.size)
    kept = min(image.size) / max(image.size)
    if crop != "pad" and kept < 0.5:
        note = "; ".join(filter(None, (note, f"the square crop keeps only {kept:.0%} of it")))
    cut_out = None if alpha is None else _square(alpha, resolution, crop, 0)
    return Photo(path, sha256, image.size, used_side < resolution, square, note, cut_out)


def read_mask(path: Path, photo_size: Size, resolution: int, crop: Crop) -> Image.Image:
    """A photo's mask as a grey square, white where the subject is, cut as `read_photo` cuts the photo.

    It may have another size than the upright photo, but not another shape. Of a cut-out the transparency counts.

    Raises:
        Refusal: the file is no image, or of another shape.
    """
    try:
        with path.open("rb") as file:
            image, _ = _decode(file)
    except OSError as error:
        raise Refusal(f"cannot be read ({error.strerror or error})") from None
    with suppress(Exception):
        image = ImageOps.exif_transpose(image)
    (width, height), (photo_width, photo_height) = image.size, photo_size
    if not 0.98 < (width * photo_height) / (height * photo_width) < 1.02:
        raise Refusal(f"{width}x{height} pixels are not the shape of its photo, {photo_width}x{photo_height}")
    deep = image.mode.startswith("I") or image.mode == "F"
    grey = transparency(image) or (_eight_bits(image) if deep else image.convert("RGB")).convert("L")
    return _square(grey, resolution, crop, 0)


def transparency(image: Image.Image) -> Image.Image | None:
    """The alpha channel, 255 where the picture is opaque; None where it is opaque everywhere."""
    if not image.has_transparency_data:
        return None
    alpha = image.convert("RGBA").getchannel("A")
    least, _ = alpha.getextrema()
    return alpha if least != 255 else None


def perceptual_hash(image: Image.Image) -> np.ndarray:
    """The signs of the lowest frequencies: 63 booleans that small changes of a picture leave alone.

    An 8x8 corner of the cosine transform of the picture at 32x32 grey pixels, without its mean, against
    its median (pHash). Two pictures are alike when few of their booleans differ.
    """
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=np.float64)
    position, frequency = np.arange(32), np.arange(8)
    cosines = np.cos(np.pi * (2 * position[None] + 1) * frequency[:, None] / 64)
    low = (cosines @ grey @ cosines.T).ravel()[1:]
    return low > np.median(low)


def _decode(file: BinaryIO) -> tuple[Image.Image, str]:
    """The fully loaded first frame, and a word about the others."""
    size = None
    if not file.read(1):
        raise Refusal("empty file")
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns below its limit; the limit itself is enough
            image = Image.open(file, formats=_known_formats())
            size = image.size
            if size[0] * size[1] > MOST_PIXELS:
                raise Refusal(_BOMB, size)
            frames = int(getattr(image, "n_frames", 1)) if image.format not in _STILL_FORMATS else 1
            image.load()
    except Refusal:
        raise
    except UnidentifiedImageError:
        raise Refusal("not an image") from None
    except Image.DecompressionBombError:
        raise Refusal(_BOMB, size) from None
    except Exception as error:  # decoders raise nearly anything on bad bytes: OSError, SyntaxError, ...
        raise Refusal(f"truncated or damaged ({str(error) or type(error).__name__})", size) from None
    return image, f"the first of {frames} frames" if frames > 1 else ""


@cache
def _known_formats() -> tuple[str, ...]:
    """The formats that this Pillow can open, HEIC through pillow-heif."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _to_rgb(image: Image.Image, background: Colour) -> Image.Image:
    """Any mode to 8-bit sRGB: deep grey scaled, the colour profile applied, alpha composited."""
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bits(image).convert("RGB")
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    profile: bytes | None = image.info.get("icc_profile")
    if image.mode in ("LA", "1"):
        image = image.convert("L")
    elif image.mode not in ("L", "RGB", "CMYK", "LAB"):
        image = image.convert("RGB")
    rgb = _to_srgb(image, profile) or image.convert("RGB")
    if alpha is None:
        return rgb
    return Image.composite(rgb, Image.new("RGB", rgb.size, background), alpha)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits, or floats, scaled from its full range (Pillow's own conversion clips at 255)."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    full = 65535.0
    if image.mode == "F":
        full = next((limit for limit in (1.0, 255.0) if values.max() <= limit), full)
    full = max(full, values.max())
    return Image.fromarray(np.clip(np.rint(values * (255.0 / full)), 0, 255).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image | None:
    """The image through its ICC profile to sRGB; None without one, or when it is damaged or of another mode."""
    if not profile and image.mode != "LAB":
        return None
    try:
        from PIL import ImageCms

        source = ImageCms.ImageCmsProfile(io.BytesIO(profile)) if profile else ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except Exception:  # a wrong profile costs a shade of colour, not the photo
        return None


def _square(image: Image.Image, resolution: int, crop: Crop, background: Colour | int) -> Image.Image:
    """The square that `crop` names, scaled to `resolution`."""
    lanczos, scaled = Image.Resampling.LANCZOS, (resolution, resolution)
    if crop == "pad":
        return ImageOps.pad(image, scaled, lanczos, color=background)
    width, height = image.size
    side = min(width, height)
    left = (width - side) // 2
    top = {"top": 0, "center": (height - side) // 2, "bottom": height - side}[crop]
    return image.crop((left, top, left + side, top + side)).resize(scaled, lanczos)
