"""The balance by hand, and the end of training on courses that are plain to see."""

import doctest

import pytest

from dreambooth.evaluation import balance as module
from dreambooth.evaluation.balance import LEAST_RISE, Scores, balance, no_longer_pays

BASE = Scores(0, dino=0.40, clip_t=0.30, pres=0.42)
CEILING = 0.80


def scores(**changes: float) -> Scores:
    return Scores(**({"step": 100, "dino": 0.60, "clip_t": 0.24, "pres": 0.42} | changes))


def course(dino: list[float], pres: list[float]) -> list[Scores]:
    return [Scores(50 * i, d, 0.3, p) for i, (d, p) in enumerate(zip(dino, pres, strict=True))]


def test_examples():
    result = doctest.testmod(module)
    assert result.attempted and not result.failed


def test_by_hand():
    # Shares 0.75 and 0.8; their harmonic mean 2 * 0.6 / 1.55; PRES 0.05 above the untouched model's.
    assert balance(scores(pres=0.47), BASE, CEILING) == pytest.approx(1.2 / 1.55 - 0.05)


def test_the_untouched_model_pays_for_its_likeness_alone():
    assert balance(BASE, BASE, CEILING) == pytest.approx(2 * 0.5 / 1.5)


def test_all_that_can_be_had_is_one():
    assert balance(scores(dino=CEILING, clip_t=0.30, pres=0.42), BASE, CEILING) == pytest.approx(1.0)
    # Learned by heart, more obedient than the base, less like the subject than the base: none of it counts.
    assert balance(scores(dino=0.95, clip_t=0.40, pres=0.1), BASE, CEILING) == pytest.approx(1.0)


def test_more_likeness_or_obedience_is_better_and_more_drift_worse():
    middle = balance(scores(), BASE, CEILING)
    assert balance(scores(dino=0.65), BASE, CEILING) > middle
    assert balance(scores(clip_t=0.27), BASE, CEILING) > middle
    assert balance(scores(pres=0.43), BASE, CEILING) < middle


def test_neither_share_stands_in_for_the_other():
    even = balance(scores(dino=0.5 * CEILING, clip_t=0.5 * 0.30), BASE, CEILING)
    lopsided = balance(scores(dino=CEILING, clip_t=0.0), BASE, CEILING)
    assert even == pytest.approx(0.5) and lopsided == pytest.approx(0.0)


def test_drift_outweighs_an_equal_rise_of_likeness():
    grown, drifted = scores(dino=0.70), scores(dino=0.80, pres=0.52)
    assert balance(drifted, BASE, CEILING) < balance(grown, BASE, CEILING)


@pytest.mark.parametrize("low", [-0.2, 0.0])
def test_judges_that_see_nothing_break_nothing(low: float):
    blind = Scores(0, low, low, low)
    assert balance(Scores(50, low, low, low), blind, ceiling=low) == pytest.approx(1.0)
    assert balance(Scores(50, low, low, low + 0.1), BASE, CEILING) == pytest.approx(0.0)


class TestNoLongerPays:
    RISING, FLAT = [0.4, 0.5, 0.6, 0.7, 0.75], [0.4, 0.7, 0.7, 0.7, 0.7]
    DRIFTING, STEADY = [0.40, 0.42, 0.44, 0.46, 0.48], [0.40, 0.41, 0.40, 0.41, 0.40]

    @pytest.mark.parametrize(
        ("dino", "pres", "stops"),
        [(FLAT, DRIFTING, True), (FLAT, STEADY, False), (RISING, DRIFTING, False), (RISING, STEADY, False)],
    )
    def test_both_must_hold(self, dino: list[float], pres: list[float], stops: bool):
        assert no_longer_pays(course(dino, pres), patience=3) is stops

    def test_falling_likeness_stops_too(self):
        assert no_longer_pays(course([0.4, 0.7, 0.65, 0.6, 0.55], self.DRIFTING), 3)

    def test_a_rise_too_small_to_see_is_none(self):
        small = [0.4, 0.7, 0.7, 0.7, 0.7 + 0.9 * LEAST_RISE]
        plain = [0.4, 0.7, 0.7, 0.7, 0.7 + 1.1 * LEAST_RISE]
        assert no_longer_pays(course(small, self.DRIFTING), 3)
        assert not no_longer_pays(course(plain, self.DRIFTING), 3)

    def test_one_judgement_without_drift_gives_another_chance(self):
        assert not no_longer_pays(course(self.FLAT, [0.40, 0.42, 0.44, 0.41, 0.48]), 3)

    def test_a_rise_back_to_the_untouched_model_is_no_drift(self):
        assert not no_longer_pays(course(self.FLAT, [0.50, 0.42, 0.44, 0.46, 0.48]), 3)

    @pytest.mark.parametrize("length", [1, 2, 3])
    def test_never_before_there_is_something_to_compare_with(self, length: int):
        assert not no_longer_pays(course(self.FLAT, self.DRIFTING)[:length], patience=3)

    def test_patience_is_the_number_of_judgements(self):
        found = [
            next((n for n in range(1, 9) if no_longer_pays(course([0.4, *[0.7] * 8], RAMP)[: n + 1], p)), None)
            for p in (1, 2, 3)
        ]
        assert found == [2, 3, 4]


RAMP = [0.40 + 0.02 * n for n in range(9)]
