import pytest

from dreambooth.toybox import subjects
from dreambooth.toybox.captions import caption, sample_scene
from dreambooth.toybox.scenes import CONTEXTS
from dreambooth.toybox.styles import STYLES
from dreambooth.toybox.world import Scene


@pytest.mark.parametrize(
    ("scene", "words"),
    [
        (Scene("dog", 1), "a dog"),
        (Scene("dog", 1, context="jungle"), "a dog in the jungle"),
        (Scene("dog", 1, accessory="red hat"), "a dog wearing a red hat"),
        (Scene("dog", 1, accessory="pink glasses"), "a dog wearing pink glasses"),
        (Scene("dog", 1, accessory="chef outfit"), "a dog in a chef outfit"),
        (Scene("cat", 1, accessory="orange hat"), "a cat wearing an orange hat"),
        (Scene("dog", 1, property="orange"), "an orange dog"),
        (Scene("dog", 1, property="cube shaped"), "a cube shaped dog"),
        (Scene("dog", 1, view="seen from behind"), "a dog seen from behind"),
        (Scene("dog", 1, style="van gogh"), "a painting of a dog in the style of Vincent van Gogh"),
        (
            Scene("dog", 1, context="beach", property="shiny", view="seen from behind"),
            "a shiny dog on the beach, seen from behind",
        ),
    ],
)
def test_the_canonical_grammar(scene: Scene, words: str):
    assert caption(scene) == words


def test_the_identifier_stands_before_the_class_noun():
    assert caption(Scene("dog", 1, property="red"), "zqk") == "a red zqk dog"
    assert caption(Scene("cat", 1, context="snow"), "olq") == "an olq cat in the snow"


def test_variations_say_the_same_in_other_words():
    scene = Scene("dog", 1, context="jungle", property="orange")
    said = {caption(scene, seed=seed) for seed in range(100)}
    assert len(said) > 15
    assert all("orange dog in the jungle" in words and "a orange" not in words for words in said)
    assert caption(scene, seed=3) == caption(scene, seed=3)


def test_random_scenes_are_reproducible_and_varied():
    scenes = [sample_scene(seed) for seed in range(3000)]
    assert scenes[:20] == [sample_scene(seed) for seed in range(20)]

    def share(name: str) -> float:
        return sum(getattr(scene, name) is not None for scene in scenes) / len(scenes)

    assert 0.5 < share("context") < 0.7
    assert 0.08 < share("accessory") < 0.18
    assert 0.18 < share("property") < 0.3
    assert 0.07 < share("view") < 0.17
    assert 0.07 < share("style") < 0.17
    plain = [scene == Scene(scene.class_noun, scene.individual, seed=scene.seed) for scene in scenes]
    assert 0.05 < sum(plain) / len(plain) < 0.11
    assert {scene.class_noun for scene in scenes} == set(subjects.CLASSES)
    assert {scene.context for scene in scenes} == {None, *CONTEXTS}
    assert {scene.style for scene in scenes} == {None, *STYLES}
    assert all(scene.accessory is None or subjects.wears(scene.class_noun, scene.accessory) for scene in scenes)


def test_held_out_individuals_are_never_trained_on():
    assert all(sample_scene(seed).individual < 1_000_000 for seed in range(200))
    assert all(sample_scene(seed, held_out=True).individual >= 10_000_000 for seed in range(200))
