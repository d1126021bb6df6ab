"""One measurement: what a worker process is told, and what it tells."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from dreambooth.precision import MixedPrecision

PARTS = ("job", "step", "prior", "generation", "startup", "profile")
OURS, PLAIN, FEWER = "ours", "plain", "ours, fewer"

# The four pictures of the whole job; further ones of the same prompts are drawn for the judges alone.
PROMPTS = ("a {subject}", "a {subject} on the beach", "a {subject} in the jungle", "a {subject} in the snow")
CLASS_NOUN = "dog"


@dataclass(frozen=True)
class Task:
    """A measurement of one side. `work` is a folder of its own; counts at None take the model's defaults.

    `rows` are the photos of a step (as many prior samples join), `judged` the pictures that are judged after a job.
    `mixed_precision` is what ours computes in; the plain loop and the peers compute as they do.
    """

    part: str
    side: str
    size: str
    device: str
    threads: int
    work: str
    photos: str
    identifier: str
    resolution: int
    rows: int
    steps: int
    prior: int
    learning_rate: float
    judged: int = 0
    mixed_precision: MixedPrecision = "auto"
    script: str = ""
    seed: int = 0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Task:
        return cls(**json.loads(text))

    def fill(self, template: str) -> str:
        """The prompt that a template stands for; every side names the subject alike.

        >>> Task("job", "ours", "s", "cpu", 1, "", "", "zqk", 64, 1, 1, 1, 1.0).fill("a {subject} in the snow")
        'a zqk dog in the snow'
        """
        return template.replace("{subject}", f"{self.identifier} {CLASS_NOUN}")


@dataclass
class Outcome:
    """What a worker measured: numbers by their name (`seconds`, `peak_bytes`, ...), and what is worth knowing besides.

    `note` says in one sentence why there are no numbers.
    """

    numbers: dict[str, float] = field(default_factory=dict[str, float])
    details: dict[str, Any] = field(default_factory=dict[str, Any])
    note: str = ""

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        return cls(**json.loads(text))

    def to_json(self) -> str:
        return json.dumps(asdict(self))
