"""Likeness, obedience and drift in one number, and the moment from which more training only harms.

Three things are wanted of a personalised model, each a mean cosine over pictures it draws (paper, section 4.2
and Table 3): DINO, how much they look like the photos; CLIP-T, how well they fit their prompts; and PRES, how
much pictures of the bare class look like the photos, which should not rise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LEAST_RISE = 0.005  # of DINO; the same weights drawn with other seeds differ by more


@dataclass(frozen=True)
class Scores:
    """What one evaluation found: the means of DINO, CLIP-T and PRES at a step; step 0 is the untouched model."""

    step: int
    dino: float
    clip_t: float
    pres: float


def balance(scores: Scores, base: Scores, ceiling: float) -> float:
    """Harmonic mean of likeness and obedience, minus the drift; at most 1.

    likeness    DINO as a share of `ceiling`, the mean DINO of the photos among each other
    obedience   CLIP-T as a share of what the untouched model reaches with the class noun alone
    drift       how far PRES has risen above the untouched model's

    Both shares end at 1: who looks more like the photos than they do like each other has learned them by
    heart, and more obedience than the base model's is no merit of a personalised one. The harmonic mean lets
    neither stand in for the other. The drift is taken off as it is, a difference of cosines, so it outweighs a
    rise of DINO that is no larger: what makes every dog look like yours has not learned your dog.

    >>> base = Scores(0, dino=0.4, clip_t=0.3, pres=0.4)
    >>> round(balance(Scores(100, dino=0.72, clip_t=0.3, pres=0.4), base, ceiling=0.8), 3)  # 2 / (1/0.9 + 1/1)
    0.947
    >>> round(balance(Scores(200, dino=0.76, clip_t=0.3, pres=0.5), base, ceiling=0.8), 3)  # 2 / (1/0.95 + 1) - 0.1
    0.874
    """
    likeness, obedience = share(scores.dino, ceiling), share(scores.clip_t, base.clip_t)
    drift = max(0.0, scores.pres - base.pres)
    if likeness + obedience == 0:
        return -drift
    return 2 * likeness * obedience / (likeness + obedience) - drift


def share(value: float, whole: float) -> float:
    """`value` as a share of `whole`, from 0 to 1; 1 of a whole that is not above zero, where nothing can be lost.

    >>> share(0.2, 0.8), share(0.9, 0.8), share(-0.1, 0.8), share(0.2, 0.0)
    (0.25, 1.0, 0.0, 1.0)
    """
    return min(1.0, max(0.0, value / whole)) if whole > 0 else 1.0


def no_longer_pays(course: Sequence[Scores], patience: int) -> bool:
    """Whether, over the last `patience` evaluations, DINO rose no more and PRES did.

    DINO rose no more: none of them is above the best before them by LEAST_RISE. PRES rose: every one of them
    is above the one before them all, and above the untouched model's, with which `course`, in the order of the
    steps, begins.

    >>> course = [Scores(0, 0.4, 0.3, 0.40), Scores(50, 0.7, 0.3, 0.41), Scores(100, 0.7, 0.3, 0.44)]
    >>> no_longer_pays(course, patience=2)  # DINO rose at step 50
    False
    >>> no_longer_pays([*course, Scores(150, 0.69, 0.3, 0.45)], patience=2)
    True
    """
    before, last = course[:-patience], course[-patience:]
    if not before:
        return False
    risen = max(scores.dino for scores in last) > max(scores.dino for scores in before) + LEAST_RISE
    drifting = min(scores.pres for scores in last) > max(before[-1].pres, before[0].pres)
    return drifting and not risen
