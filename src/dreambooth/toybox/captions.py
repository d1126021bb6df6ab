"""The words of the toybox: what a scene is called, and scenes drawn at random to train on.

>>> caption(Scene("dog", 7, context="beach", property="shiny", view="seen from behind"), identifier="zqk")
'a shiny zqk dog on the beach, seen from behind'
"""

from __future__ import annotations

import random
from functools import lru_cache

from dreambooth.toybox import subjects
from dreambooth.toybox.scenes import CONTEXTS
from dreambooth.toybox.styles import STYLES
from dreambooth.toybox.world import VIEWS, Scene

TRAINING_INDIVIDUALS = range(1_000_000)
HELD_OUT_INDIVIDUALS = range(10_000_000, 11_000_000)
MATERIALS = ("shiny", "wet", "cube shaped")
MOST_AT_ONCE = 3  # of context, accessory, property, view and style

DETERMINERS = ("a", "a", "a", "a", "a", "the", "one", "my", "")
OPENINGS = (
    "",
    "",
    "",
    "",
    "a photo of ",
    "a photo of ",
    "photo of ",
    "a picture of ",
    "a good photo of ",
    "an image of ",
)
VIEW_SYNONYMS = {
    "from the front": ("seen from the front",),
    "from the side": ("seen from the side",),
    "seen from behind": ("from behind",),
    "seen from the top": ("seen from above", "from the top"),
    "seen from below": ("from below",),
}


def caption(scene: Scene, identifier: str | None = None, seed: int | None = None) -> str:
    """The scene in DreamBench's grammar, with `identifier` right before the class noun.

    With a `seed` the same thing is said in one of many natural ways.
    """
    rng = None if seed is None else random.Random(seed)
    view = scene.view
    if rng is not None and view is not None:
        view = rng.choice((view, *VIEW_SYNONYMS.get(view, ())))
    noun = " ".join(word for word in (scene.property, identifier, scene.class_noun) if word)
    determiner = "a" if rng is None else rng.choice(DETERMINERS)
    details = [
        *([_worn(scene.accessory)] if scene.accessory else []),
        *([CONTEXTS[scene.context].phrase] if scene.context else []),
    ]
    phrase = " ".join((_determined(noun, determiner), *details))
    if view:
        phrase += f", {view}" if details else f" {view}"
    if scene.style:
        return STYLES[scene.style].template.format(phrase)
    return phrase if rng is None else rng.choice(OPENINGS) + phrase


def _determined(noun: str, determiner: str) -> str:
    if determiner == "a" and noun[0].lower() in "aeiou":
        determiner = "an"
    return f"{determiner} {noun}".strip()


def _worn(accessory: str) -> str:
    """How an accessory is said: "in a chef outfit", "wearing pink glasses", "wearing a red hat"."""
    if accessory.endswith("glasses"):
        return f"wearing {accessory}"
    return f"{'in' if accessory.endswith('outfit') else 'wearing'} {_determined(accessory, 'a')}"


@lru_cache
def _wardrobe(class_noun: str) -> tuple[str, ...]:
    """What individuals of the class can wear."""
    return tuple(name for name in subjects.accessory_names() if subjects.wears(class_noun, name))


def sample_scene(seed: int, held_out: bool = False) -> Scene:
    """A random scene, a function of its arguments; `held_out` takes individuals never trained on."""
    rng = random.Random(seed)
    class_noun = rng.choice(list(subjects.CLASSES))
    individual = rng.choice(HELD_OUT_INDIVIDUALS if held_out else TRAINING_INDIVIDUALS)
    look = rng.randrange(2**31)
    if rng.random() < 0.08:
        return Scene(class_noun, individual, seed=look)
    wardrobe = _wardrobe(class_noun)
    while True:
        prop = rng.choice(MATERIALS if rng.random() < 0.3 else tuple(subjects.COLOURS))
        chosen = {
            "context": rng.choice(tuple(CONTEXTS)) if rng.random() < 0.5 else None,
            "accessory": rng.choice(wardrobe) if wardrobe and rng.random() < 0.4 else None,
            "property": prop if rng.random() < 0.22 else None,
            "view": rng.choice(tuple(VIEWS)) if rng.random() < 0.11 else None,
            "style": rng.choice(tuple(STYLES)) if rng.random() < 0.11 else None,
        }
        if 1 <= sum(value is not None for value in chosen.values()) <= MOST_AT_ONCE:
            return Scene(class_noun, individual, **chosen, seed=look)
