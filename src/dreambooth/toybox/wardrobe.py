"""What a creature can wear: hats, scarves, glasses, shirts, and the outfits of DreamBench."""

from collections.abc import Callable
from functools import partial

from dreambooth.toybox.palette import BLACK, COLOURS, WHITE, darker, plain
from dreambooth.toybox.parts import Anchors, Paint, Part, Vec, add, ball, block, limb, mirrored, ring

GOLD = plain((0.95, 0.75, 0.15), 0.6)
Builder = Callable[[Anchors], list[Part]]


def _crown(a: Anchors) -> tuple[Vec, float]:
    """The top of the head, where a hat sits, and the radius of the head there."""
    x, y, z = a.head
    return (x, y + a.head_radii[1] * 0.72, z), 0.5 * (a.head_radii[0] + a.head_radii[2])


def _hat(a: Anchors, paint: Paint, band: Paint, tall: float = 0.75, brim: float = 1.1) -> list[Part]:
    top, r = _crown(a)
    return [
        limb(top, add(top, (0, r * 0.12, 0)), r * brim, r * brim, paint),
        limb(top, add(top, (0, r * tall, 0)), r * 0.68, r * 0.66, paint),
        limb(add(top, (0, r * 0.1, 0)), add(top, (0, r * 0.3, 0)), r * 0.7, r * 0.7, band),
    ]


def _santa_hat(a: Anchors) -> list[Part]:
    red, white = plain(COLOURS["red"]), plain(WHITE)
    top, r = _crown(a)
    fold, tip = add(top, (r * 0.2, r * 1.0, 0)), add(top, (r * 0.95, r * 1.05, r * 0.1))
    return [
        limb(top, add(top, (0, r * 0.3, 0)), r * 0.88, r * 0.86, white),
        limb(add(top, (0, r * 0.2, 0)), fold, r * 0.78, r * 0.34, red),
        limb(fold, tip, r * 0.34, r * 0.14, red),
        ball(fold, r * 0.345, red),
        ball(tip, r * 0.25, white),
    ]


def _scarf(a: Anchors, paint: Paint) -> list[Part]:
    (x, y, z), r = a.neck, a.neck_radius
    knot: Vec = (x + r * 0.35, y - r * 0.1, z + r * 1.05)
    return [
        limb((x, y - r * 0.26, z), (x, y + r * 0.2, z), r * 1.12, r * 1.05, paint),
        limb(knot, add(knot, (r * 0.15, -r * 0.95, r * 0.1)), r * 0.2, r * 0.3, paint, flat=0.5),
        ball(knot, r * 0.25, paint),
    ]


def _glasses(a: Anchors, paint: Paint) -> list[Part]:
    (x, y, z), r = a.eyes, a.eye_radius * 1.35
    x = max(x, r * 0.9)
    front = z + a.eye_radius * 0.75
    pair = [
        ring((x, y, front), r, r * 0.28, r * 0.4, paint),
        limb((x + r * 0.9, y, front), (max(a.head_radii[0], x + r), y, z - a.head_radii[2]), r * 0.14, r * 0.14, paint),
    ]
    return [limb((-x + r * 0.8, y, front), (x - r * 0.8, y, front), r * 0.16, r * 0.16, paint), *mirrored(pair)]


def _shirt(a: Anchors, paint: Paint, buttons: Paint | None = None) -> list[Part]:
    (x, y, z), (w, h, d) = a.chest, a.chest_radii
    neck = add(a.neck, (0, -a.neck_radius * 0.2, 0))
    parts = [
        ball(a.chest, a.chest_radii, paint),
        limb(
            (neck[0], neck[1] - a.neck_radius * 0.3, neck[2]), neck, a.neck_radius * 1.08, a.neck_radius * 0.95, paint
        ),
    ]
    if buttons:
        parts += [ball((x, y + h * s, z + d * (1 - 0.45 * s * s)), w * 0.12, buttons) for s in (0.5, 0.1, -0.3)]
    return parts


def _monocle(a: Anchors) -> list[Part]:
    hat = _hat(a, plain(BLACK, 0.3), plain((0.5, 0.08, 0.12)), tall=1.35, brim=1.08)
    (x, y, z), r = a.eyes, a.eye_radius * 1.5
    front = z + a.eye_radius * 0.8
    return [
        *hat,
        ring((x, y, front), r, r * 0.26, r * 0.4, GOLD),
        limb((x + r * 0.9, y - r * 0.3, front), (x + r * 1.2, y - r * 3.2, front - r), r * 0.1, r * 0.1, GOLD),
    ]


def _chef(a: Anchors) -> list[Part]:
    white, red = plain(WHITE), plain(COLOURS["red"])
    top, r = _crown(a)
    puff = add(top, (0, r * 0.85, 0))
    puffs = [ball(add(puff, (r * dx, r * dy, r * dz)), r * 0.5, white)
             for dx, dy, dz in ((-0.4, 0, 0.2), (0.4, 0, 0.2), (0, 0.18, -0.2), (0, 0.05, 0.4))]  # fmt: skip
    knot: Vec = (a.neck[0], a.neck[1] - a.neck_radius * 0.35, a.neck[2] + a.neck_radius)
    scarf = [
        limb(add(a.neck, (0, -a.neck_radius * 0.15, 0)), add(a.neck, (0, a.neck_radius * 0.1, 0)), a.neck_radius * 1.12,
             a.neck_radius * 1.1, red),
        ball(knot, a.neck_radius * 0.26, red),
    ]  # fmt: skip
    return [limb(top, puff, r * 0.66, r * 0.66, white), *puffs, *_shirt(a, white, plain(COLOURS["black"])), *scarf]


def _firefighter(a: Anchors) -> list[Part]:
    red, yellow = plain(COLOURS["red"], 0.4), plain((0.95, 0.9, 0.2), 0.3)
    jacket = Paint((0.16, 0.16, 0.2), (0.95, 0.9, 0.2), "stripes", (0, 5.5, 0))
    top, r = _crown(a)
    return [
        ball(add(top, (0, r * 0.1, 0)), (r * 0.85, r * 0.72, r * 0.85), red),
        limb(top, add(top, (0, r * 0.13, 0)), r * 1.2, r * 1.1, red),
        block(add(top, (0, r * 0.62, 0)), (r * 0.1, r * 0.25, r * 0.65), red),
        limb(
            add(top, (0, r * 0.25, r * 0.82)), add(top, (0, r * 0.75, r * 0.66)), r * 0.14, r * 0.32, yellow, flat=0.3
        ),
        *_shirt(a, jacket),
    ]


def _police(a: Anchors) -> list[Part]:
    blue, dark = plain((0.10, 0.16, 0.42)), plain(BLACK, 0.5)
    top, r = _crown(a)
    (x, y, z), (w, h, d) = a.chest, a.chest_radii
    badge: Vec = (x + w * 0.4, y + h * 0.35, z + d * 0.82)
    return [
        limb(top, add(top, (0, r * 0.28, 0)), r * 0.82, r * 0.84, dark),
        limb(add(top, (0, r * 0.25, 0)), add(top, (0, r * 0.52, 0)), r * 0.8, r * 1.12, blue),
        ball(add(top, (0, r * 0.55, 0)), (r * 1.1, r * 0.16, r * 1.1), blue),
        ball(add(top, (0, r * 0.05, r * 0.7)), (r * 0.66, r * 0.07, r * 0.5), dark, (0.3, 0, 0)),
        ball(add(top, (0, r * 0.42, r * 0.95)), r * 0.2, GOLD),
        *_shirt(a, blue),
        ball(badge, w * 0.2, GOLD),
    ]


def _wizard(a: Anchors) -> list[Part]:
    purple = (0.42, 0.12, 0.68)
    starry = Paint(purple, (0.98, 0.85, 0.25), "spots", (0, 9.0, 0))
    top, r = _crown(a)
    tip = add(top, (r * 0.3, r * 1.9, -r * 0.1))
    hat = [
        limb(top, add(top, (0, r * 0.1, 0)), r * 1.3, r * 1.25, plain(darker(purple, 0.25))),
        limb(top, tip, r * 0.8, 0.01, starry),
    ]
    return [*hat, *_shirt(a, starry)]


RAINBOW = Paint((1, 0, 0), pattern="rainbow", axis=(3.2, 5.0, 0.0))
ACCESSORIES: dict[str, Builder] = {
    "red hat": partial(_hat, paint=plain(COLOURS["red"]), band=plain(BLACK)),
    "santa hat": _santa_hat,
    "rainbow scarf": partial(_scarf, paint=RAINBOW),
    "black top hat and a monocle": _monocle,
    "chef outfit": _chef,
    "firefighter outfit": _firefighter,
    "police outfit": _police,
    "pink glasses": partial(_glasses, paint=plain(COLOURS["pink"], 0.3)),
    "yellow shirt": partial(_shirt, paint=plain(COLOURS["yellow"])),
    "purple wizard outfit": _wizard,
}
for _name, _colour in COLOURS.items():
    _band = plain(WHITE if sum(_colour) < 1.2 else BLACK)
    ACCESSORIES.setdefault(f"{_name} hat", partial(_hat, paint=plain(_colour), band=_band))
    ACCESSORIES.setdefault(f"{_name} scarf", partial(_scarf, paint=plain(_colour)))
    ACCESSORIES.setdefault(f"{_name} glasses", partial(_glasses, paint=plain(_colour, 0.3)))
    ACCESSORIES.setdefault(f"{_name} shirt", partial(_shirt, paint=plain(_colour)))


def accessory_names() -> tuple[str, ...]:
    """Everything there is to wear, each as it would follow "a dog wearing a"."""
    return tuple(ACCESSORIES)
