"""Prompt templates: the paper's two, DreamBench's fifty, and a set for each application of the paper.

A template holds `{subject}` where "[identifier] [class noun]" belongs, or `{class}` for the noun alone, or
`{identifier}` for the rare word alone:

    >>> fill("a {subject} in the jungle", "xjf", "dog")
    'a xjf dog in the jungle'
    >>> fill("a {subject} in the jungle", None, "dog")
    'a dog in the jungle'
    >>> fill("a {subject} in the jungle", "<rex>", "dog")
    'a <rex> in the jungle'
    >>> fill("a {identifier} in the jungle, no {class}", "xjf", "dog")
    'a xjf in the jungle, no dog'

The article stays "a" whatever follows it, as in the paper and DreamBench: training and rendering must agree.
"""

from __future__ import annotations

import re
from pathlib import Path

from dreambooth.errors import ConfigError
from dreambooth.subject import is_live

INSTANCE_TEMPLATE = "a {subject}"
CLASS_TEMPLATE = "a {class}"

# The captions of Textual Inversion: its authors' `imagenet_templates_small` (rinongal/textual_inversion, MIT).
INVERSION_TEMPLATES = (
    "a photo of a {subject}",
    "a rendering of a {subject}",
    "a cropped photo of the {subject}",
    "the photo of a {subject}",
    "a photo of a clean {subject}",
    "a photo of a dirty {subject}",
    "a dark photo of the {subject}",
    "a photo of my {subject}",
    "a photo of the cool {subject}",
    "a close-up photo of a {subject}",
    "a bright photo of the {subject}",
    "a cropped photo of a {subject}",
    "a photo of the {subject}",
    "a good photo of the {subject}",
    "a photo of one {subject}",
    "a close-up photo of the {subject}",
    "a rendition of the {subject}",
    "a photo of the clean {subject}",
    "a rendition of a {subject}",
    "a photo of a nice {subject}",
    "a good photo of a {subject}",
    "a photo of the nice {subject}",
    "a photo of the small {subject}",
    "a photo of the weird {subject}",
    "a photo of the large {subject}",
    "a photo of a cool {subject}",
    "a photo of a small {subject}",
)

# DreamBench, `prompts_and_classes.txt` (google/dreambooth, CC BY 4.0), in its order.
_PLACES = (
    "a {subject} in the jungle",
    "a {subject} in the snow",
    "a {subject} on the beach",
    "a {subject} on a cobblestone street",
    "a {subject} on top of pink fabric",
    "a {subject} on top of a wooden floor",
    "a {subject} with a city in the background",
    "a {subject} with a mountain in the background",
    "a {subject} with a blue house in the background",
    "a {subject} on top of a purple rug in a forest",
)
_OBJECT_PLACES = (
    "a {subject} with a wheat field in the background",
    "a {subject} with a tree and autumn leaves in the background",
    "a {subject} with the Eiffel Tower in the background",
    "a {subject} floating on top of water",
    "a {subject} floating in an ocean of milk",
    "a {subject} on top of green grass with sunflowers around it",
    "a {subject} on top of a mirror",
    "a {subject} on top of the sidewalk in a crowded street",
    "a {subject} on top of a dirt road",
    "a {subject} on top of a white rug",
)
_ACCESSORIES = (
    "a {subject} wearing a red hat",
    "a {subject} wearing a santa hat",
    "a {subject} wearing a rainbow scarf",
    "a {subject} wearing a black top hat and a monocle",
    "a {subject} in a chef outfit",
    "a {subject} in a firefighter outfit",
    "a {subject} in a police outfit",
    "a {subject} wearing pink glasses",
    "a {subject} wearing a yellow shirt",
    "a {subject} in a purple wizard outfit",
)
_OBJECT_ACCESSORIES = (*_ACCESSORIES[:4], "a {subject} wearing pink glasses")
_PROPERTIES = (
    "a red {subject}",
    "a purple {subject}",
    "a shiny {subject}",
    "a wet {subject}",
    "a cube shaped {subject}",
)
OBJECT_PROMPTS = (*_PLACES, *_OBJECT_PLACES, *_PROPERTIES)
LIVE_PROMPTS = (*_PLACES, *_ACCESSORIES, *_PROPERTIES)

# What composed examples say. None of it is asked by DreamBench, which therefore measures what was not trained.
_WORDS = (
    *(
        f"a {colour} {{subject}}"
        for colour in ("blue", "green", "yellow", "orange", "pink", "brown", "black", "white", "grey", "golden")
    ),
    *(
        f"{style} of a {{subject}}"
        for style in ("an oil painting", "a pencil sketch", "a watercolour painting", "a mosaic", "a marble statue")
    ),
    "pixel art of a {subject}",
    "a Japanese woodblock print of a {subject}",
    "a {subject} seen from the left",
    "a {subject} seen from the right",
    "a {subject} seen from behind",
    "a {subject} seen from the top",
    "a {subject} seen from below",
    "a {subject} in a close-up",
    "a {subject} from far away",
)
_LIVE_WORDS = tuple(
    f"a {{subject}} wearing {worn}"
    for worn in (
        "a blue hat",
        "a green hat",
        "a yellow hat",
        "an orange scarf",
        "a pink scarf",
        "an orange shirt",
        "a white shirt",
        "blue glasses",
        "green glasses",
        "golden glasses",
    )
)

# The paper's painters, then the styles that the embedded models know as well.
_ART = (
    "a painting of a {subject} in the style of Vincent van Gogh",
    "a painting of a {subject} in the style of Michelangelo",
    "a painting of a {subject} in the style of Rembrandt",
    "a painting of a {subject} in the style of Johannes Vermeer",
    "a painting of a {subject} in the style of Pierre-Auguste Renoir",
    "a painting of a {subject} in the style of Leonardo da Vinci",
    "a pencil sketch of a {subject}",
    "a watercolour painting of a {subject}",
    "pixel art of a {subject}",
    "a mosaic of a {subject}",
    "a marble statue of a {subject}",
    "pop art of a {subject} in the style of Andy Warhol",
)
_VIEWS = (
    "a {subject} seen from the front",
    "a {subject} seen from the side",
    "a {subject} seen from behind",
    "a {subject} seen from the top",
    "a {subject} seen from below",
)
_COLOURS = tuple(f"a {colour} {{subject}}" for colour in ("red", "purple", "pink", "blue", "yellow"))
_HYBRIDS = tuple(f"a cross of a {{subject}} and a {animal}" for animal in ("bear", "panda", "koala", "lion", "hippo"))
_EXPRESSIONS = tuple(
    f"a {mood} {{subject}}"
    for mood in ("depressed", "sleeping", "sad", "joyous", "barking", "crying", "frowning", "screaming")
)
_RECONSTRUCTION = (INSTANCE_TEMPLATE, "a photo of a {subject}")

# application -> (templates for a live subject, templates for an object)
APPLICATIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "recontextualization": (_PLACES, (*_PLACES, *_OBJECT_PLACES)),
    "art": (_ART, _ART),
    "views": (_VIEWS, _VIEWS),
    "properties": ((*_PROPERTIES, *_HYBRIDS), (*_COLOURS, "a shiny {subject}", "a wet {subject}")),
    "accessories": (_ACCESSORIES, _OBJECT_ACCESSORIES),
    "expressions": (_EXPRESSIONS, ()),
    "reconstruction": (_RECONSTRUCTION, _RECONSTRUCTION),
}

_PLACEHOLDER = re.compile(r"\{\s*([A-Za-z_]\w*)\s*\}")


def subject_phrase(identifier: str | None, class_noun: str) -> str:
    """The words for the subject: "[identifier] [class noun]", or the noun alone without an identifier.

    A word in angle brackets was learned by Textual Inversion and stands alone: its embedding is noun and all.
    """
    if identifier and identifier.startswith("<"):
        return identifier
    return f"{identifier} {class_noun}" if identifier else class_noun


def fill(template: str, identifier: str | None, class_noun: str) -> str:
    """The prompt with `{subject}`, `{class}` and `{identifier}` put in; other braces stay as they are.

    `{identifier}` is the rare word alone, and without one the class noun.

    Raises:
        ConfigError: the template holds a placeholder of another name.
    """
    values = {
        "subject": subject_phrase(identifier, class_noun),
        "class": class_noun,
        "identifier": identifier or class_noun,
    }

    def value_of(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise ConfigError(f"{template!r} holds the unknown placeholder {match[0]}; use {{subject}} or {{class}}.")
        return values[match[1]]

    return _PLACEHOLDER.sub(value_of, template)


def instance_prompt(identifier: str, class_noun: str) -> str:
    """The prompt of every photo: "a [identifier] [class noun]" (paper, section 3.1)."""
    return fill(INSTANCE_TEMPLATE, identifier, class_noun)


def class_prompt(class_noun: str) -> str:
    """The prompt of the prior set: "a [class noun]" (paper, section 3.2)."""
    return fill(CLASS_TEMPLATE, None, class_noun)


def without_identifier(prompt: str, identifier: str, class_noun: str) -> str:
    """A template or a filled prompt with the class noun alone, as CLIP-T compares it to the image.

    The identifier means nothing to the evaluating CLIP, so it would only add noise.
    """
    phrase = subject_phrase(identifier, class_noun)
    return fill(prompt, None, class_noun).replace(phrase, class_noun)


def dreambench_prompts(class_noun: str) -> tuple[str, ...]:
    """DreamBench's 25 templates for this class noun: those for live subjects, or those for objects."""
    return LIVE_PROMPTS if is_live(class_noun) else OBJECT_PROMPTS


def composed_templates(class_noun: str) -> tuple[str, ...]:
    """The templates of composed examples: colours, styles and views, and for a live subject what it may wear."""
    return (*_WORDS, *_LIVE_WORDS) if is_live(class_noun) else _WORDS


def applications(class_noun: str) -> tuple[str, ...]:
    """The names of the applications that have templates for this class noun, in the paper's order."""
    return tuple(name for name in APPLICATIONS if _templates(name, class_noun))


def application_prompts(name: str, class_noun: str) -> tuple[str, ...]:
    """The templates of one application of the paper.

    Raises:
        ConfigError: there is no such application, or it does not fit the class noun.
    """
    fitting = applications(class_noun)
    if name not in fitting:
        fault = "is for live subjects such as a dog" if name in APPLICATIONS else "does not exist"
        raise ConfigError(f"The application {name!r} {fault}; choose one of {', '.join(fitting)}.")
    return _templates(name, class_noun)


def read_prompts(path: str | Path) -> tuple[str, ...]:
    """The prompts of a UTF-8 text file, one a line; empty lines and those that begin with # are skipped.

    Raises:
        ConfigError: the file is missing, is not text, or holds no prompt.
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text; save it as a plain text file.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); name a text file of prompts.") from None
    prompts = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not prompts:
        raise ConfigError(f"{path} holds no prompt; write one a line, such as: a {{subject}} on the beach")
    return prompts


def _templates(application: str, class_noun: str) -> tuple[str, ...]:
    live, thing = APPLICATIONS[application]
    return live if is_live(class_noun) else thing
