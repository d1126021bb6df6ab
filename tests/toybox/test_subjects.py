"""Individuals: fixed by class and seed, told apart from each other, dressed and changed as words say."""

import pytest

from dreambooth.toybox import subjects
from dreambooth.toybox.parts import Subject
from dreambooth.toybox.subjects import dressed, individual


def body_colours(subject: Subject) -> set[tuple[float, float, float]]:
    return {part.paint.colour for part in subject.parts if part.body}


@pytest.mark.parametrize("class_noun", list(subjects.CLASSES))
def test_an_individual_stands_on_the_ground_and_is_one_of_its_kind(class_noun: str) -> None:
    for seed in range(20):
        subject = individual(class_noun, seed)
        low, high = subject.bounds()
        assert low[1] == pytest.approx(0, abs=1e-6)
        assert max(high[i] - low[i] for i in range(3)) == pytest.approx(1)
        assert (subject.anchors is not None) == (class_noun in subjects.WEARERS)
        assert any(part.body for part in subject.parts)
    individual.cache_clear()
    assert individual(class_noun, 19) == subject
    assert len({individual(class_noun, seed).parts for seed in range(20)}) == 20


def test_the_fifteen_classes_of_dreambench_are_there() -> None:
    assert set(subjects.DREAMBENCH) == {
        "backpack", "stuffed animal", "bowl", "can", "candle", "cat", "clock", "sneaker", "dog", "toy", "boot",
        "glasses", "cartoon", "teapot", "vase",
    }  # fmt: skip


@pytest.mark.parametrize("class_noun", list(subjects.CLASSES))
def test_a_colour_takes_the_body_and_leaves_the_shape(class_noun: str) -> None:
    plain, red = individual(class_noun, 3), dressed(class_noun, 3, property="red")
    assert body_colours(red) == {subjects.COLOURS["red"]}
    assert [part.frame for part in red.parts] == [part.frame for part in plain.parts]


@pytest.mark.parametrize("class_noun", list(subjects.CLASSES))
def test_every_property_can_be_had(class_noun: str) -> None:
    for name in subjects.PROPERTIES:
        assert dressed(class_noun, 1, property=name) != individual(class_noun, 1)


def test_accessories_are_added_to_those_who_can_wear_them() -> None:
    for class_noun in subjects.WEARERS:
        bare = individual(class_noun, 2)
        for name in subjects.accessory_names():
            assert subjects.wears(class_noun, name)
            worn = dressed(class_noun, 2, name)
            assert worn.parts[: len(bare.parts)] == bare.parts and len(worn.parts) > len(bare.parts)
    assert not subjects.wears("bowl", "red hat")
    with pytest.raises(ValueError, match="cannot wear"):
        dressed("bowl", 2, "red hat")
