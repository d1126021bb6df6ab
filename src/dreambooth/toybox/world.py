"""From a scene in words and seeds to its picture."""

import contextlib
import math
import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from dreambooth.toybox import render, scenes, styles
from dreambooth.toybox.parts import Part, Subject
from dreambooth.toybox.render import Camera, Kernels, Light, Solids
from dreambooth.toybox.subjects import dressed

LENS = 0.42  # tan of half the field of view


@dataclass(frozen=True)
class CameraView:
    """Where the camera stands: azimuth and elevation in degrees, and how much of the frame the subject fills."""

    azimuth: tuple[float, float]
    elevation: tuple[float, float]
    fill: tuple[float, float] = (0.7, 0.88)
    lens: float = LENS


VIEWS: dict[str, CameraView] = {
    "from the front": CameraView((-12, 12), (4, 16)),
    "from the side": CameraView((78, 102), (4, 16)),
    "seen from the left": CameraView((-102, -78), (4, 16)),
    "seen from the right": CameraView((78, 102), (4, 16)),
    "seen from behind": CameraView((150, 210), (6, 20)),
    "seen from the top": CameraView((-30, 30), (58, 76)),
    "seen from below": CameraView((-35, 35), (-30, -20), lens=0.75),
    "in a close-up": CameraView((-35, 35), (5, 20), fill=(1.05, 1.3)),
    "from far away": CameraView((-40, 40), (6, 16), fill=(0.3, 0.4)),
}
DEFAULT_VIEW = CameraView((-45, 45), (5, 24))


@dataclass(frozen=True)
class Scene:
    """What a picture shows. All but the class noun and the individual may be left to chance, that is to `seed`."""

    class_noun: str
    individual: int
    context: str | None = None  # key of scenes.CONTEXTS or PLACES; None: an ordinary place
    accessory: str | None = None  # one of subjects.accessory_names()
    property: str | None = None  # one of subjects.PROPERTIES: "shiny", "wet", "cube shaped" or a colour
    view: str | None = None  # key of VIEWS; None: from the front or three quarters
    style: str | None = None  # key of styles.STYLES
    seed: int = 0  # camera, light and background


@dataclass(frozen=True)
class Pictures:
    """images [N, 3, H, W] and the subjects' masks [N, 1, H, W], float32 in 0..1."""

    images: Tensor
    masks: Tensor


def draw(
    scenes_: Sequence[Scene], size: int = 128, device: str | torch.device = "cpu", compiled: bool = False
) -> Pictures:
    """Pictures of `scenes_`. With `compiled`, the first call takes half a minute, later ones far less.

    One picture is worked on at a time; to use several cores, run one process on each.
    """
    kernel = render.kernels(compiled)
    with torch.no_grad(), _one_thread():
        pairs = [_draw(scene, size, torch.device(device), kernel) for scene in scenes_]
    images, masks = zip(*pairs, strict=True)
    return Pictures(torch.stack(images), torch.stack(masks))


@contextlib.contextmanager
def _one_thread() -> Generator[None]:
    """Torch on a single thread: a picture's tensors are too small to share, and waiting costs more than work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def photos(class_noun: str, seed: int, count: int = 5, size: int = 128, place: str | None = None) -> Pictures:
    """Casual photos of one individual in ordinary places, or all in one; the same for the same seed."""
    rng = random.Random(f"photos/{class_noun}/{seed}")
    views = (None, "from the front", None, None, rng.choice(("seen from the left", "seen from the right")))
    chosen = [
        Scene(class_noun, seed, place, view=views[i % len(views)], seed=rng.randrange(2**31)) for i in range(count)
    ]
    return draw(chosen, size)


def _draw(scene: Scene, size: int, device: torch.device, kernel: Kernels) -> tuple[Tensor, Tensor]:
    rng = random.Random(scene.seed)
    subject = dressed(scene.class_noun, scene.individual, scene.accessory, scene.property)
    camera = frame(subject, scene.view, rng)
    behind = scenes.background(scene.context, camera, size, scene.seed)
    parts = [part.moved((0, -behind.sink, 0)) for part in subject.parts]
    table = render.solids(parts, device)
    light = Light(behind.sun.to(device), behind.sun_colour.to(device), behind.ambient.to(device))
    image = behind.image.to(device)
    if behind.shadow > 0:
        image = image * (1 - behind.shadow * ground_shadow(table, camera, light.sun, size, kernel))
    if behind.reflection > 0:
        mirrored = render.solids([_mirror(part) for part in parts], device)
        flip = torch.tensor([1.0, -1.0, 1.0], device=device)
        below = Light(light.sun * flip, light.sun_colour, light.ambient)
        image = _over(image, _layer(mirrored, camera, below, size, kernel), behind.reflection)
    floor = 0.0 if behind.sink > 0 else -math.inf
    layer = _layer(table, camera, light, size, kernel, floor)
    image, mask = _over(image, layer), layer[3:]
    if behind.foreground is not None:
        cover = behind.foreground.to(device)
        image, mask = image + (cover[:3] - image) * cover[3:], mask * (1 - cover[3:])
    if scene.style is not None:
        image = styles.apply_style(scene.style, image, mask, scene.seed)
    return image.clamp(0, 1), mask


def frame(subject: Subject, view: str | None, rng: random.Random) -> Camera:
    """A camera that looks at `subject` as `view` says and that it fills as it should, jittered by `rng`."""
    chosen = DEFAULT_VIEW if view is None else VIEWS[view]
    azimuth = rng.uniform(*chosen.azimuth)
    if view is None or view in ("in a close-up", "from far away"):
        azimuth = subject.best_azimuth + azimuth * (0.75 if subject.best_azimuth else 1.0)
    elevation, fill = rng.uniform(*chosen.elevation), rng.uniform(*chosen.fill)
    shift = (rng.uniform(-0.5, 0.5), rng.uniform(-0.3, 0.3))
    points = torch.tensor([corner for part in subject.parts for corner in part.corners()])
    middle = (points.amin(0) + points.amax(0)) / 2
    distance = 1 / (chosen.lens * fill)
    camera = _camera(middle, azimuth, elevation, distance, chosen.lens)
    for step in range(4):  # perspective makes this a fixed-point iteration; the last step shifts off-centre
        seen = camera.project(points)
        low, high = seen.amin(0), seen.amax(0)
        distance = max(distance * float((high - low).max()) / (2 * fill), 1.0)
        distance = min(distance, 0.8 / (chosen.lens * fill) + 0.5)
        aim = (low + high) / 2
        if step == 3:
            aim = aim + (1 - (high - low) / 2).clamp_min(0) * torch.tensor(shift)
        reach = float((middle - camera.eye) @ camera.forward) * chosen.lens
        middle = middle + reach * (camera.right * aim[0] - camera.up * aim[1])
        camera = _camera(middle, azimuth, elevation, distance, chosen.lens)
    return camera


def _camera(target: Tensor, azimuth: float, elevation: float, distance: float, lens: float) -> Camera:
    a, e = math.radians(azimuth), math.radians(elevation)
    away = torch.tensor([math.cos(e) * math.sin(a), math.sin(e), math.cos(e) * math.cos(a)])
    eye = target + distance * away
    eye[1] = eye[1].clamp_min(0.04)
    forward = F.normalize(target - eye, dim=0)
    right = F.normalize(torch.linalg.cross(forward, torch.tensor([0.0, 1.0, 0.0])), dim=0)
    return Camera(eye, right, torch.linalg.cross(right, forward), forward, lens)


def _mirror(part: Part) -> Part:
    """The mirror image of `part` in the ground."""
    (x, y, z), axes = part.centre, part.frame
    return replace(part, centre=(x, -y, z), frame=tuple((axis[0], -axis[1], axis[2]) for axis in axes))


def _window(points: Tensor, camera: Camera, size: int) -> tuple[slice, slice]:
    """Rows and columns of the picture that `points` [P, 3] and everything between them can cover."""
    pixel = ((camera.project(points) + 1) * size / 2).clamp(0, size)
    left, top = (int(value) for value in pixel.amin(0).floor())
    right, bottom = (int(value) for value in pixel.amax(0).ceil())
    return slice(top, max(bottom, top)), slice(left, max(right, left))


def _rays(camera: Camera, size: int, window: tuple[slice, slice], device: torch.device) -> tuple[Tensor, Tensor]:
    """Origins and directions [3, R] of the rays through the pixels of `window`."""
    direction = camera.rays_through(*window, size, device)
    return camera.eye.to(device)[:, None].expand_as(direction).contiguous(), direction


def _layer(table: Solids, camera: Camera, light: Light, size: int, kernel: Kernels, floor: float = -math.inf) -> Tensor:
    """The solids alone, [4, H, W]: colour times alpha, and alpha; four rays a pixel."""
    rows, columns = _window(table.corners, camera, size)
    canvas = torch.zeros(4, size, size, device=table.geometry.device)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    if height * width == 0:
        return canvas
    fine = (slice(2 * rows.start, 2 * rows.stop), slice(2 * columns.start, 2 * columns.stop))
    origin, direction = _rays(camera, 2 * size, fine, canvas.device)
    seen = render.radiance(table, origin, direction, light, kernel, floor)
    canvas[:, rows, columns] = F.avg_pool2d(seen.reshape(4, 2 * height, 2 * width), 2)
    return canvas


def _over(image: Tensor, layer: Tensor, strength: float = 1.0) -> Tensor:
    return image * (1 - strength * layer[3:]) + strength * layer[:3]


def ground_shadow(table: Solids, camera: Camera, sun: Tensor, size: int, kernel: Kernels) -> Tensor:
    """How much of the subject's shadow lies on the ground, [1, H, W] in 0..1, soft."""
    shade = torch.zeros(1, size, size, device=sun.device)
    toward = sun.cpu()
    landed = table.corners - toward * (table.corners[:, 1:2].clamp_min(0) / toward[1].clamp_min(0.1))
    rows, columns = _window(landed, camera, size)
    if (rows.stop - rows.start) * (columns.stop - columns.start) < 2:
        return shade
    origin, direction = _rays(camera, size, (rows, columns), sun.device)
    onto = direction[1] < -1e-3
    ground = origin - direction * (origin[1] / torch.where(onto, direction[1], -1.0))
    ground[1] = 1e-3
    blocked, _ = render.nearest(table, ground, sun[:, None].expand_as(ground).contiguous(), kernel)
    dark = ((blocked < render.FAR) & onto).to(shade.dtype)
    shade[0, rows, columns] = dark.reshape(rows.stop - rows.start, -1)
    soft = max(size // 32, 1) * 2 + 1
    return F.avg_pool2d(F.avg_pool2d(shade[None], soft, 1, soft // 2), soft, 1, soft // 2)[0]
