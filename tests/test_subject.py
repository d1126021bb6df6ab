import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from dreambooth.errors import ConfigError, PhotoError
from dreambooth.photo import Photo, perceptual_hash
from dreambooth.subject import (
    Inspection,
    clean_class_noun,
    inspect,
    is_live,
    load_subject,
    make_subject,
    preflight_table,
)

RED, GREEN, BLUE, WHITE = (250, 20, 30), (20, 200, 40), (30, 40, 220), (255, 255, 255)
DREAMBENCH = Path(__file__).parents[2] / "shared" / "dreambench"


def scene(seed: int, size: tuple[int, int] = (96, 96)) -> Image.Image:
    """A random picture with detail; those of two seeds look different."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def halves(size: tuple[int, int] = (64, 64)) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image


def only(inspection: Inspection) -> Photo:
    (photo,) = inspection.photos
    return photo


def colour(photo: Photo, x: float, y: float) -> np.ndarray:
    """The pixel at a place given as a share of the square's side."""
    side = photo.image.width
    return np.asarray(photo.image)[int(y * side), int(x * side)].astype(int)


def close(found: np.ndarray, expected: tuple[int, int, int], tolerance: int = 6) -> bool:
    return bool(np.abs(found - np.array(expected)).max() <= tolerance)


def write_bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


# ---- what cameras and phones write ----


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.heic", "a.avif", "a.tiff", "a.bmp", "a.JPG"])
def test_formats(tmp_path: Path, name: str):
    pillow_heif.register_heif_opener()
    halves().save(tmp_path / name, quality=95)
    photo = only(inspect(tmp_path, 32))
    assert photo.image.size == (32, 32) and photo.image.mode == "RGB" and photo.size == (64, 64)
    assert close(colour(photo, 0.2, 0.5), RED, 12) and close(colour(photo, 0.8, 0.5), BLUE, 12)


@pytest.mark.parametrize("extension", ["jpg", "heic", "webp", "png"])
def test_exif_orientation_is_applied(tmp_path: Path, extension: str):
    pillow_heif.register_heif_opener()
    exif = Image.Exif()
    exif[274] = 6  # the camera was held upright: the stored rows are the picture's columns
    halves((80, 64)).save(tmp_path / f"a.{extension}", exif=exif.tobytes(), quality=95)
    photo = only(inspect(tmp_path, 32))
    assert photo.size == (64, 80)
    assert close(colour(photo, 0.5, 0.1), RED, 12) and close(colour(photo, 0.5, 0.9), BLUE, 12)


def test_damaged_exif_does_not_cost_the_photo(tmp_path: Path):
    halves().save(tmp_path / "a.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert len(inspect(tmp_path, 32).photos) == 1


def test_cmyk_jpeg(tmp_path: Path):
    halves().convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert close(colour(only(inspect(tmp_path, 32)), 0.2, 0.5), RED, 12)


@pytest.mark.parametrize(("mode", "expected"), [("L", (180, 180, 180)), ("1", WHITE), ("LA", (180, 180, 180))])
def test_grayscale(tmp_path: Path, mode: str, expected: tuple[int, int, int]):
    Image.new("L", (64, 64), 180).convert(mode, dither=Image.Dither.NONE).save(tmp_path / "a.png")
    assert close(colour(only(inspect(tmp_path, 32)), 0.5, 0.5), expected, 0)


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
def test_16_bit_keeps_its_greys(tmp_path: Path, name: str):
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16)[None].repeat(64, 0)
    Image.fromarray(ramp).save(tmp_path / name)
    greys = np.asarray(only(inspect(tmp_path, 64)).image)[32, :, 0].astype(int)
    assert np.abs(greys - np.linspace(0, 255, 64)).max() <= 1


@pytest.mark.parametrize("full", [1.0, 255.0, 65535.0, 1e6])
def test_float_tiff_is_scaled(tmp_path: Path, full: float):
    ramp = np.linspace(0, full, 64, dtype=np.float32)[None].repeat(64, 0)
    Image.fromarray(ramp).save(tmp_path / "a.tiff")
    greys = np.asarray(only(inspect(tmp_path, 64)).image)[32, :, 0].astype(int)
    assert np.abs(greys - np.linspace(0, 255, 64)).max() <= 1


@pytest.mark.parametrize(("background", "expected"), [("white", WHITE), ("#102030", (16, 32, 48))])
def test_alpha_is_composited(tmp_path: Path, background: str, expected: tuple[int, int, int]):
    image = halves().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 64, 32))
    image.save(tmp_path / "a.png")
    photo = only(inspect(tmp_path, 64, background=background))
    assert close(colour(photo, 0.2, 0.2), expected, 0) and close(colour(photo, 0.2, 0.8), RED, 0)


@pytest.mark.parametrize("extension", ["png", "gif"])
def test_palette_with_transparency(tmp_path: Path, extension: str):
    image = Image.new("P", (64, 64), 1)
    image.putpalette([0, 0, 0, *GREEN])
    image.paste(0, (0, 0, 32, 64))
    image.save(tmp_path / f"a.{extension}", transparency=0)
    photo = only(inspect(tmp_path, 64))
    assert close(colour(photo, 0.2, 0.5), WHITE, 0) and close(colour(photo, 0.8, 0.5), GREEN, 0)


def test_transparent_colour_of_an_rgb_png(tmp_path: Path):
    halves().save(tmp_path / "a.png", transparency=BLUE)
    photo = only(inspect(tmp_path, 64))
    assert close(colour(photo, 0.2, 0.5), RED, 0) and close(colour(photo, 0.8, 0.5), WHITE, 0)


def test_colour_profile_is_applied(tmp_path: Path):
    """In a profile whose primaries red and blue have changed places, the stored red is blue."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"tmp!", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"tmp!", b"bXYZ", 1)
    Image.new("RGB", (64, 64), (255, 0, 0)).save(tmp_path / "a.png", icc_profile=swapped)
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(tmp_path / "b.png", icc_profile=swapped)
    first, second = inspect(tmp_path, 32).photos
    assert close(colour(first, 0.5, 0.5), (0, 0, 255)) and close(colour(second, 0.5, 0.5), WHITE, 0)


@pytest.mark.parametrize("with_profile", [True, False])
def test_lab(tmp_path: Path, with_profile: bool):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    in_lab = ImageCms.profileToProfile(halves(), srgb, lab, outputMode="LAB")
    in_lab.save(tmp_path / "a.tiff", icc_profile=lab.tobytes() if with_profile else None)
    assert close(colour(only(inspect(tmp_path, 32)), 0.2, 0.5), RED, 10)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "CMYK"])
def test_a_wrong_colour_profile_costs_nothing(tmp_path: Path, mode: str):
    halves().convert(mode).save(tmp_path / "a.tiff", icc_profile=b"no profile at all")
    assert len(inspect(tmp_path, 32).photos) == 1


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_an_animation_gives_its_first_frame(tmp_path: Path, name: str):
    frames = [Image.new("RGB", (64, 64), paint) for paint in (RED, GREEN, BLUE)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
    inspection = inspect(tmp_path, 32)
    assert inspection.findings[0].reason == "the first of 3 frames"
    assert close(colour(only(inspection), 0.5, 0.5), RED, 8)


# ---- the square ----


@pytest.mark.parametrize(("crop", "expected"), [("center", GREEN), ("top", RED), ("bottom", BLUE), ("pad", GREEN)])
def test_crops_of_an_upright_photo(tmp_path: Path, crop: str, expected: tuple[int, int, int]):
    image = Image.new("RGB", (60, 180), GREEN)
    image.paste(RED, (0, 0, 60, 60))
    image.paste(BLUE, (0, 120, 60, 180))
    image.save(tmp_path / "a.png")
    photo = only(inspect(tmp_path, 60, crop))  # pyright: ignore[reportArgumentType]
    assert close(colour(photo, 0.5, 0.5), expected, 0)
    assert close(colour(photo, 0.02, 0.5), WHITE if crop == "pad" else expected, 0)


def test_scaling_is_lanczos(tmp_path: Path):
    scene(1, (120, 96)).save(tmp_path / "a.png")
    expected = scene(1, (120, 96)).crop((12, 0, 108, 96)).resize((40, 40), Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(only(inspect(tmp_path, 40)).image), np.asarray(expected))


def test_a_long_strip_is_told_what_the_crop_costs(tmp_path: Path):
    scene(1, (400, 80)).save(tmp_path / "a.png")
    assert inspect(tmp_path, 32).findings[0].reason == "the square crop keeps only 20% of it"
    assert inspect(tmp_path, 32, "pad").findings[0].reason == ""


def test_a_small_photo_is_scaled_up_and_flagged(tmp_path: Path):
    scene(1, (40, 50)).save(tmp_path / "a.png")
    subject = load_subject(tmp_path, "dog", 64)
    assert subject.photos[0].upscaled and subject.findings[0].upscaled
    assert subject.findings[0].reason == "scaled up"
    assert any("1 of 1 photos had to be scaled up to 64 pixels" in warning for warning in subject.warnings)


# ---- what is passed over, each with a word ----


def truncated(extension: str, kept: float) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        pillow_heif.register_heif_opener()
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        whole = path.with_name(f".whole.{extension}")
        Image.fromarray(noise).save(whole)
        content = whole.read_bytes()
        whole.unlink()
        path.write_bytes(content[: int(len(content) * kept)])

    return write


def write_bomb(path: Path) -> None:
    """A PNG of a few bytes that promises 14,000 x 14,000 pixels."""
    with path.open("wb") as file:
        file.write(PngImagePlugin._MAGIC)
        header = (14_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
        PngImagePlugin.putchunk(file, b"IHDR", header)
        PngImagePlugin.putchunk(file, b"IDAT", b"")
        PngImagePlugin.putchunk(file, b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "write", "reason"),
    [
        (".DS_Store", write_bytes(b"\0\0\0\1Bud1"), "hidden file"),
        ("._a.jpg", write_bytes(b"\0\5\26\7"), "hidden file"),
        ("Thumbs.db", write_bytes(b"\xd0\xcf"), "system file"),
        ("notes.txt", write_bytes(b"my dog"), "not an image"),
        ("text.jpg", write_bytes(b"my dog"), "not an image"),
        ("clip.mov", write_bytes(b"\0\0\0\x14ftypqt  "), "not an image"),
        ("drawing.eps", write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "not an image"),
        ("empty.jpg", write_bytes(b""), "empty file"),
        ("more", Path.mkdir, "sub-folder, not searched"),
        ("raw.dng", lambda path: halves().save(path, "TIFF"), "camera raw file; export it as JPEG"),
        ("gone.jpg", lambda path: path.symlink_to("nowhere.jpg"), "broken link"),
        ("tracker.png", lambda path: Image.new("RGB", (1, 1)).save(path), "smaller than 16 pixels"),
        ("bomb.png", write_bomb, "decompression bomb: over 179 megapixels"),
        ("half.jpg", truncated("jpg", 0.5), "truncated"),
        ("nearly.jpg", truncated("jpg", 0.99), "truncated"),
        ("half.png", truncated("png", 0.5), "truncated"),
        ("half.webp", truncated("webp", 0.5), "truncated"),
        ("half.heic", truncated("heic", 0.5), "truncated"),
        ("half.tiff", truncated("tiff", 0.5), "truncated"),
        ("half.bmp", truncated("bmp", 0.5), "truncated"),
    ],
)
def test_what_is_refused_and_why(tmp_path: Path, name: str, write: Callable[[Path], object], reason: str):
    write(tmp_path / name)
    with pytest.raises(PhotoError) as alone:
        load_subject(tmp_path, "dog", 32)
    assert reason in str(alone.value) and name in str(alone.value)
    scene(1).save(tmp_path / "z.jpg")
    subject = load_subject(tmp_path, "dog", 32)
    refused, taken = subject.findings
    assert refused.reason.startswith(reason) and not refused.taken and taken.taken
    assert len(subject.photos) == 1


def test_pillows_own_limits_are_left_alone(tmp_path: Path):
    before = Image.MAX_IMAGE_PIXELS
    write_bomb(tmp_path / "bomb.png")
    inspect(tmp_path, 32)
    assert before == Image.MAX_IMAGE_PIXELS


def test_content_decides_not_the_extension(tmp_path: Path):
    scene(1).save(tmp_path / "a.jpg", "PNG")
    scene(2).save(tmp_path / "photo", "JPEG")
    assert len(inspect(tmp_path, 32).photos) == 2


# ---- duplicates ----


def test_the_same_picture_is_taken_once(tmp_path: Path):
    scene(1).save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes())
    Image.open(tmp_path / "a.jpg").save(tmp_path / "c.png")
    inspection = inspect([tmp_path, tmp_path / "a.jpg", str(tmp_path / "b.jpg")], 32)
    assert [finding.reason for finding in inspection.findings] == ["", *["same picture as a.jpg"] * 2]


@pytest.mark.parametrize(
    "alter",
    [
        lambda image: image.resize((70, 70)),
        lambda image: image.point(lambda value: min(255, int(value * 1.1))),
        lambda image: image.crop((1, 1, 95, 95)),
        ImageOps.mirror,
    ],
)
def test_near_duplicates_are_kept_and_flagged(tmp_path: Path, alter: Callable[[Image.Image], Image.Image]):
    scene(1).save(tmp_path / "a.png")
    scene(2).save(tmp_path / "b.png")
    alter(scene(1)).save(tmp_path / "c.png")
    subject = load_subject(tmp_path, "dog", 64)
    assert [finding.near_duplicate_of for finding in subject.findings] == [None, None, "a.png"]
    assert all(finding.taken for finding in subject.findings)
    assert "looks like a.png" in subject.findings[2].reason
    assert subject.warnings[0].startswith("1 of 3 photos look like another one")


def test_perceptual_hash_has_63_bits():
    assert perceptual_hash(scene(1)).shape == (63,)


@pytest.mark.skipif(not DREAMBENCH.exists(), reason="../shared/dreambench is not there")
@pytest.mark.parametrize(("name", "twins"), [("backpack", 0), ("dog", 0), ("dog5", 1)])
def test_dreambench(name: str, twins: int):
    """dog5/03 is 02 mirrored, as the data set's own references file says."""
    subject = load_subject(DREAMBENCH / name, "dog", 64)
    assert len(subject.photos) == len(subject.findings) >= 5
    assert sum(finding.near_duplicate_of is not None for finding in subject.findings) == twins


# ---- paths ----


def test_files_folders_and_patterns_in_natural_order(tmp_path: Path):
    names = ["00.png", "img2.png", "img10.png"]
    for index, name in enumerate(reversed(names)):
        scene(index).save(tmp_path / name)
    (tmp_path / "a_folder").mkdir()
    scene(20).save(tmp_path / "a_folder" / "x.jpg")
    pattern = inspect(str(tmp_path / "*.png"), 32)
    mixed = inspect([tmp_path / "a_folder" / "x.jpg", tmp_path], 32)
    assert [photo.path.name for photo in pattern.photos] == names
    assert [photo.path.name for photo in mixed.photos] == ["x.jpg", *names]
    assert [finding.path.name for finding in mixed.findings] == ["x.jpg", "00.png", "a_folder", *names[1:]]


def test_a_typo_in_the_path_is_met_with_a_guess(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(PhotoError, match=r"did you mean .*photos\?"):
        load_subject(tmp_path / "photso", "dog", 32)
    with pytest.raises(PhotoError, match=r"There is no .*y\.jpg; give a folder"):
        load_subject(tmp_path / "x" / "y.jpg", "dog", 32)


def test_an_empty_folder_says_so(tmp_path: Path):
    with pytest.raises(PhotoError, match="the folder is empty"):
        load_subject(tmp_path, "dog", 32)


def test_a_long_list_of_refusals_is_cut(tmp_path: Path):
    for index in range(9):
        (tmp_path / f"{index}.txt").write_text("x")
    with pytest.raises(PhotoError, match=r"5\.txt: not an image; and 3 more"):
        load_subject(tmp_path, "dog", 32)


# ---- the subject ----


def test_one_photo_only_is_warned_about(tmp_path: Path):
    scene(1).save(tmp_path / "a.png")
    assert "one photo only" in load_subject(tmp_path / "a.png", "dog", 32).warnings[0]


def test_thirty_photos_are_warned_about(tmp_path: Path):
    for index in range(30):
        scene(index).save(tmp_path / f"{index}.png")
    subject = load_subject(tmp_path, "dog", 32)
    assert len(subject.photos) == 30
    assert subject.warnings[0].startswith("There are 30 photos; the paper uses three to five")


def test_four_good_photos_need_no_warning(tmp_path: Path):
    for index in range(4):
        scene(index).save(tmp_path / f"{index}.png")
    assert load_subject(tmp_path, "dog", 32).warnings == ()


def test_pixels_and_manifest(tmp_path: Path):
    folder = tmp_path / "rex"
    folder.mkdir()
    halves().save(folder / "a.png")
    scene(1).save(folder / "b.png")
    subject = load_subject(folder, "A Dog", 32)
    pixels = subject.pixels()
    assert tuple(pixels.shape) == (2, 3, 32, 32) and pixels.is_contiguous()
    assert str(pixels.dtype) == "torch.float32" and pixels.abs().max() <= 1
    assert pixels[0, :, 16, 4].tolist() == pytest.approx([value / 127.5 - 1 for value in RED])
    manifest = json.loads(json.dumps(subject.manifest()))
    assert (manifest["name"], manifest["class_noun"], manifest["live"]) == ("rex", "dog", True)
    assert [photo["size"] for photo in manifest["photos"]] == [[64, 64], [96, 96]]


def test_preflight_table_tells_of_every_file(tmp_path: Path):
    from rich.console import Console

    scene(1, (40, 50)).save(tmp_path / "a[1].png")
    (tmp_path / "notes.txt").write_text("x")
    inspection = inspect(tmp_path, 64)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(preflight_table(inspection))
    console.print(preflight_table(make_subject(inspection, "dog")))
    text = console.export_text()
    assert text.count("1 taken, 1 passed over") == 2
    assert all(word in text for word in ("a[1].png", "40x50", "scaled up", "notes.txt", "refused", "not an image"))


@pytest.mark.parametrize(
    ("given", "noun"),
    [
        ("dog", "dog"),
        (" A  Stuffed Animal ", "stuffed animal"),
        ("the vase", "vase"),
        ("an apple", "apple"),
        ("my t-shirt", "t-shirt"),
        ("anteater", "anteater"),
        ("St. Bernard", "st. bernard"),
    ],
)
def test_class_noun_is_cleaned(given: str, noun: str):
    assert clean_class_noun(given) == noun


@pytest.mark.parametrize("given", ["", "  ", "a", "{subject}", "dog, cat", "123", "a dog that sits on my sofa today"])
def test_class_noun_is_refused(given: str, tmp_path: Path):
    with pytest.raises(ConfigError, match="class noun"):
        load_subject(tmp_path, given, 32)


@pytest.mark.parametrize(
    ("noun", "live"),
    [
        ("dog", True),
        ("border collie", False),
        ("golden retriever", True),
        ("stuffed animal", False),
        ("toy dog", False),
        ("hot dog", False),
        ("backpack", False),
        ("", False),
    ],
)
def test_live(noun: str, live: bool):
    assert is_live(noun) is live


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resolution": 0}, "resolution"),
        ({"crop": "middle"}, "center, top, bottom, pad"),
        ({"background": "wite"}, "colour"),
    ],
)
def test_settings_are_checked(tmp_path: Path, arguments: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        inspect(tmp_path, **{"resolution": 32, **arguments})  # pyright: ignore[reportArgumentType]


def test_import_is_light():
    import subprocess

    code = (
        "import sys, dreambooth.prompts, dreambooth.identifier; print('torch' in sys.modules or 'rich' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
