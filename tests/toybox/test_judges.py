"""The judges at toy sizes: what is true of a picture, both trainings for a few steps, resumed, saved, loaded again."""

import math
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer, ViTImageProcessor, ViTModel

from dreambooth.errors import ModelError, TrainingError
from dreambooth.toybox import (
    captions,
    cards,
    claims,
    clip,
    data,
    dino,
    judges,
    pairs,
    pretrain,
    references,
    subjects,
    tokenizer,
    views,
    zeroshot,
)
from dreambooth.toybox.claims import FALSE, TRUE, UNKNOWN
from dreambooth.toybox.fit import Budget, Optimisation
from dreambooth.toybox.world import Scene

RATES = Optimisation(rate=1e-3, batch=8, warmup=2)
SMALL = clip.Towers(size=32, patch=8, width=32, layers=1, head=16, text_width=32, text_layers=1, projection=16)
TINY = judges.JudgesConfig(
    images=8,
    individuals=4,
    contrasts=2,
    size=32,
    clip_budget=Budget(2),
    dino_budget=Budget(2),
    clip_rates=RATES,
    dino_rates=RATES,
    towers=SMALL,
    sizes=dino.Sizes(size=32, patch=8, width=32, layers=1, head=16, hidden=32, prototypes=16),
    compiled=False,
)


@pytest.fixture(scope="module")
def words() -> CLIPTokenizer:
    scenes = [captions.sample_scene(seed) for seed in range(300)]
    return tokenizer.build(captions.caption(scene, seed=seed) for seed, scene in enumerate(scenes))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, words: CLIPTokenizer) -> None:
    monkeypatch.setattr(data, "SHARD", 4)
    monkeypatch.setattr(pairs, "SHARD", 2)
    monkeypatch.setattr(judges, "WATCHED", 3)
    monkeypatch.setattr(judges, "unseen_individuals", lambda each, photos: _photos_of_dogs())
    monkeypatch.setattr(pretrain, "learn_words", lambda: words)


def _photos_of_dogs() -> list[Scene]:
    return [Scene("dog", individual, seed=seed) for individual in (1, 2) for seed in (3, 4)]


def _truth(said: Scene, shown: Scene) -> float:
    return claims.truth(claims.rows([said]), claims.rows([shown])).item()


def test_what_is_true_of_a_picture() -> None:
    shown = Scene("dog", 1, context="beach", accessory="red hat", property="blue", view="seen from the left")
    assert _truth(shown, shown) == TRUE
    assert _truth(Scene("dog", 9), shown) == TRUE, "what is left unsaid is no falsehood"
    assert _truth(Scene("dog", 9, view="from the side"), shown) == TRUE
    for wrong in ({"class_noun": "cat"}, {"context": "snow"}, {"accessory": "blue hat"}, {"property": "red"},
                  {"view": "seen from the right"}, {"style": "mosaic"}):  # fmt: skip
        assert _truth(replace(shown, **wrong), shown) == FALSE, wrong
    plain = Scene("dog", 1)
    assert _truth(Scene("dog", 9, property="brown"), plain) == UNKNOWN, "a dog may be brown by nature"
    assert _truth(Scene("dog", 9, property="brown", context="snow"), plain) == FALSE
    assert _truth(Scene("dog", 9, property="cube shaped"), plain) == FALSE
    assert _truth(Scene("dog", 9, view="from the front"), plain) == UNKNOWN
    assert _truth(Scene("dog", 9, view="seen from behind"), plain) == FALSE


def test_a_mirror_image_shows_the_other_side() -> None:
    shown = claims.rows([Scene("dog", 1, view=view) for view in ("seen from the left", "from the side", None)])
    said = claims.rows([Scene("dog", 1, view=f"seen from the {side}") for side in ("left", "right")])
    same = claims.truth(said, claims.mirrored(shown, torch.tensor([False] * 3)))
    other = claims.truth(said, claims.mirrored(shown, torch.tensor([True] * 3)))
    assert same.tolist() == [[TRUE, FALSE], [FALSE, TRUE], [FALSE, FALSE]]
    assert other.tolist() == [[FALSE, TRUE], [TRUE, FALSE], [FALSE, FALSE]]


def test_parts_are_true_and_changes_are_false() -> None:
    rng = random.Random(0)
    for seed in range(300):
        scene = captions.sample_scene(seed)
        part = claims.part_of(scene, rng)
        assert _truth(part, scene) == TRUE
        changed = claims.changed(part, rng)
        sided = {changed.view, scene.view} <= {"from the side", "seen from the left", "seen from the right"}
        assert sided or _truth(changed, scene) != TRUE
        assert changed.accessory is None or subjects.wears(changed.class_noun, changed.accessory)


def test_contrast_is_infonce_where_one_pair_is_true() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 5, dtype=torch.float64)
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(5), reduction="none")
    torch.testing.assert_close(clip.contrast(logits, torch.eye(5)), expected)
    true = torch.tensor([[1.0, 1.0, 0.0, 0.5, 0.0]])
    row = logits[:1]
    against = row[0, 2].exp() + row[0, 4].exp()
    by_hand = sum(math.log(1 + against / row[0, i].exp()) for i in (0, 1)) / 2
    assert clip.contrast(row, true).item() == pytest.approx(by_hand)
    assert clip.contrast(row, torch.zeros(1, 5)).item() == 0
    assert clip.contrast(row, torch.ones(1, 5)).item() == 0, "nothing false: nothing to lose"


def test_cutouts_keep_colours_and_stay_inside() -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.full((40, 3, 32, 32), 255, dtype=torch.uint8)
    images[:, 1:] = 0
    cut = views.cutouts(images, (0.3, 0.9), 16, draw)
    assert cut.shape == (40, 3, 16, 16)
    torch.testing.assert_close(cut.mean((0, 2, 3)), torch.tensor([1.0, -1.0, -1.0]))
    mirrored = views.mirrored(torch.arange(4.0).view(1, 1, 1, 4).repeat(2, 1, 1, 1), torch.tensor([True, False]))
    assert mirrored[:, 0, 0].tolist() == [[3, 2, 1, 0], [0, 1, 2, 3]]


def test_a_transformer_looks_at_the_patches_that_are_kept() -> None:
    torch.manual_seed(0)
    backbone = dino.Pupil(TINY.sizes).backbone.eval()
    pixels = torch.rand(2, 3, 32, 32)
    kept = torch.tensor([[0, 5], [1, 2]])
    seen = dino.embed(backbone, pixels, kept)
    pixels[0, :, 24:, 24:] = 0  # patch 15 of 16, which is not looked at
    torch.testing.assert_close(seen, dino.embed(backbone, pixels, kept))
    assert not torch.allclose(seen[0], dino.embed(backbone, pixels)[0])


def test_sinkhorn_uses_every_prototype() -> None:
    torch.manual_seed(0)
    target = dino.balanced(torch.randn(64, 8) / 0.5 + torch.arange(8.0), rounds=50)
    torch.testing.assert_close(target.sum(1), torch.ones(64))
    torch.testing.assert_close(target.sum(0), torch.full((8,), 8.0), atol=1e-3, rtol=0)


def test_the_teacher_follows() -> None:
    model = dino.Distillation(TINY.sizes)
    for parameter in model.student.parameters():
        parameter.data.fill_(1.0)
    for parameter in model.teacher.parameters():
        assert not parameter.requires_grad
        parameter.data.fill_(0.0)
    model.follow(0.9)
    assert all(torch.allclose(one, torch.tensor(0.1)) for one in model.teacher.parameters())


def test_both_losses_fall(words: CLIPTokenizer, tmp_path: Path) -> None:
    torch.manual_seed(0)
    scenes = [Scene(noun, 1) for noun in ("dog", "car", "vase", "clock")] * 4
    images = torch.randint(256, (16, 3, 32, 32), dtype=torch.uint8)
    rates = replace(RATES, rate=3e-3)
    lines: list[str] = []

    def fall(steps: int) -> tuple[float, float]:
        looked = clip.train(images, scenes, words, tmp_path / str(steps), Budget(steps), rates,
                            model=clip.new(words, SMALL), log=lines.append)  # fmt: skip
        taught = dino.train(images.view(8, 2, 3, 32, 32), tmp_path / str(steps), Budget(steps), rates,
                            sizes=TINY.sizes, log=lines.append)  # fmt: skip
        return looked.loss, taught.loss

    few, many = fall(1), fall(60)
    assert many[0] < few[0] and many[1] < few[1]


@pytest.mark.usefixtures("small")
def test_judges_are_trained_saved_and_loaded(words: CLIPTokenizer, tmp_path: Path) -> None:
    lines: list[str] = []
    judges.train(tmp_path / "out", TINY, work=tmp_path / "work", device="cpu", log=lines.append)
    folder = tmp_path / "out" / "toybox-clip"
    loaded, state = CLIPModel.from_pretrained(folder, local_files_only=True), _average(tmp_path / "work" / "clip.pt")
    assert next(loaded.parameters()).dtype == torch.float32
    for name, value in loaded.state_dict().items():
        torch.testing.assert_close(value, state[name].half().float(), msg=name)
    assert CLIPTokenizer.from_pretrained(folder, local_files_only=True)("a dog").input_ids == words("a dog").input_ids
    backbone = ViTModel.from_pretrained(tmp_path / "out" / "toybox-dino", add_pooling_layer=False)
    state = _average(tmp_path / "work" / "dino.pt")
    for name, value in backbone.state_dict().items():
        torch.testing.assert_close(value, state[f"teacher.backbone.{name}"].half().float(), msg=name)
    for name, steps in (("toybox-clip", "2 steps of 8 pictures"), ("toybox-dino", "2 steps of 8 pairs")):
        card = (tmp_path / "out" / name / "README.md").read_text("utf-8")
        assert steps in card and cards.UNMEASURED in card

    lines.clear()
    judges.train(tmp_path / "out", replace(TINY, dino_budget=Budget(3)), work=tmp_path / "work", device="cpu",
                 log=lines.append)  # fmt: skip
    assert "clip: resumed at step 2" in lines and "dino: resumed at step 2" in lines
    assert not any(line.startswith(("corpus", "pairs", "contrasts")) for line in lines), "nothing is rendered twice"


SHARED = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from dreambooth.errors import ConfigError
from dreambooth.toybox import captions, clip, data, judges, pairs, pretrain, tokenizer
from dreambooth.toybox.fit import Budget, Optimisation, processes
data.SHARD, pairs.SHARD, judges.WATCHED = 4, 2, 3
words = tokenizer.build(captions.caption(captions.sample_scene(seed), seed=seed) for seed in range(300))
pretrain.learn_words = lambda: words
config = judges.JudgesConfig(
    images=8, individuals=4, contrasts=2, size=32, compiled=False, clip_budget=Budget(2), only="clip",
    clip_rates=Optimisation(rate=1e-3, batch=8, warmup=2), towers=clip.Towers(32, 8, 32, 1, 16, 32, 1, 16),
)
if __name__ == "__main__":
    here = Path(sys.argv[1])
    rank = processes()[0]
    seen = []
    look = clip.look
    clip.look = lambda model, pixels, kept=None: (seen.append(pixels), look(model, pixels, kept))[1]
    trained = judges.train_clip(words, config, here / "work", "cpu", True, lambda _: None)
    torch.save([seen[0], trained.module.state_dict()], here / f"{rank}.pt")
    judges.train(here / "out", config, work=here / "work", device="cpu", log=lambda line: print(rank, line))
    try:
        judges.train(here / "out", replace(config, only=None), work=here / "work", device="cpu")
    except ConfigError as error:
        print(rank, error)
"""


def test_two_processes_share_the_batches_of_clip(tmp_path: Path) -> None:
    (tmp_path / "shared.py").write_text(SHARED)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(tmp_path / "shared.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (first, one), (second, two) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first.shape == second.shape == (4, 3, 32, 32) and not torch.equal(first, second)
    assert all(torch.equal(one[key], two[key]) for key in one), "they have learned the same"
    lines = done.stdout.splitlines()
    assert "0 clip: resumed at step 2" in lines and not any(line.startswith("1 clip") for line in lines)
    assert sum("give --only clip" in line for line in lines) == 2
    assert (tmp_path / "out" / "toybox-clip" / "model.safetensors").is_file()


def _average(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["average"]


@pytest.mark.usefixtures("small")
def test_saved_preprocessing_is_that_of_training(words: CLIPTokenizer, tmp_path: Path) -> None:
    from PIL import Image

    judges.save_clip(tmp_path / "clip", clip.new(words, SMALL), words)
    judges.save_dino(tmp_path / "dino", dino.Pupil(TINY.sizes).backbone)
    pixels = torch.randint(256, (32, 32, 3), dtype=torch.uint8)
    image = Image.fromarray(pixels.numpy())
    expected = pixels.permute(2, 0, 1).float() / 127.5 - 1
    for processor in (CLIPImageProcessor.from_pretrained(tmp_path / "clip"),
                      ViTImageProcessor.from_pretrained(tmp_path / "dino")):  # fmt: skip
        torch.testing.assert_close(processor(image, return_tensors="pt").pixel_values[0], expected)
        assert processor(image.resize((64, 64)), return_tensors="pt").pixel_values.shape == (1, 3, 32, 32)


def test_smaller_patches_see_even_colours_as_larger_ones_do(words: CLIPTokenizer) -> None:
    coarse = clip.new(words, replace(SMALL, patch=16))
    fine = clip.finer(coarse, 8)
    even = torch.rand(2, 3, 2, 2).repeat_interleave(16, -1).repeat_interleave(16, -2)
    before, after = (model.vision_model.embeddings.patch_embedding(even) for model in (coarse, fine))
    torch.testing.assert_close(after, before.repeat_interleave(2, -1).repeat_interleave(2, -2))
    places = fine.vision_model.embeddings.position_embedding.weight
    assert places.shape == (1 + 16, 32) and fine.config.vision_config.patch_size == 8
    assert torch.equal(places[0], coarse.vision_model.embeddings.position_embedding.weight[0])
    tokens = words("a dog", return_tensors="pt").input_ids
    assert torch.equal(clip.read(fine, tokens), clip.read(coarse, tokens)), "what is read stays"
    same = clip.finer(coarse, 16).state_dict()
    for name, value in coarse.state_dict().items():
        torch.testing.assert_close(same[name], value, msg=name)
    for patch in (32, 12):
        with pytest.raises(ModelError, match=f"with patches of 16 px cannot have patches of {patch} px"):
            clip.finer(coarse, patch)


@pytest.mark.usefixtures("small")
def test_a_judge_goes_on_from_a_coarser_one(words: CLIPTokenizer, tmp_path: Path) -> None:
    torch.manual_seed(1)
    coarse = clip.new(words, replace(SMALL, patch=16))
    judges.save_clip(tmp_path / "coarse", coarse, words)
    slow = replace(RATES, rate=1e-9)
    config = replace(TINY, only="clip", clip_start=tmp_path / "coarse", clip_rates=slow)
    judges.train(tmp_path / "out", config, work=tmp_path / "work", device="cpu", log=lambda line: None)
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["toybox-clip"], "the other judge is left alone"
    made, expected = CLIPModel.from_pretrained(tmp_path / "out" / "toybox-clip"), clip.finer(coarse, 8).state_dict()
    for name, value in made.state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=2e-3, rtol=1e-3, msg=name)


@pytest.mark.usefixtures("small")
def test_the_state_of_another_network_is_refused(tmp_path: Path) -> None:
    def trained(towers: clip.Towers) -> None:
        config = replace(TINY, only="clip", towers=towers)
        judges.train(tmp_path / "out", config, work=tmp_path / "work", device="cpu", log=lambda line: None)

    trained(SMALL)
    with pytest.raises(TrainingError, match=r"clip\.pt is the state of another network.*--no-resume"):
        trained(replace(SMALL, patch=16))


@pytest.mark.usefixtures("small")
def test_a_start_that_cannot_be_is_refused(words: CLIPTokenizer, tmp_path: Path) -> None:
    def refused(start: Path) -> str:
        config = replace(TINY, only="clip", clip_start=start)
        with pytest.raises(ModelError) as told:
            judges.train(tmp_path / "out", config, work=tmp_path / "work", device="cpu", log=lambda line: None)
        return str(told.value)

    assert "There is no folder" in refused(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "Training cannot go on from" in refused(tmp_path / "empty")
    others = tokenizer.build(["a dog", "a cat on a mat"])
    judges.save_clip(tmp_path / "others", clip.new(others, SMALL), others)
    assert refused(tmp_path / "others").endswith("it reads other words.")
    assert not (tmp_path / "out").exists() and not (tmp_path / "work").exists()


def test_pairs_show_one_individual_twice_and_nobody_held_out() -> None:
    for seed in range(50):
        first, second = pairs.photographed(seed)
        assert (first.class_noun, first.individual) == (second.class_noun, second.individual)
        assert first.seed != second.seed and first.individual in captions.TRAINING_INDIVIDUALS
        assert first.property is None and first.style is None
        assert pairs.photographed(seed, held_out=True)[0].individual in captions.HELD_OUT_INDIVIDUALS
    assert pairs.photographed(3) == pairs.photographed(3)


def test_contrasts_differ_in_one_thing() -> None:
    for seed in range(200):
        first, second = pairs.contrasted(seed)
        differing = [name for name in vars(first) if getattr(first, name) != getattr(second, name)]
        assert len(differing) == 1 and differing[0] in pairs.DETAILS
        for scene in (first, second):
            assert scene.accessory is None or subjects.wears(scene.class_noun, scene.accessory)


def test_recognition_leaves_the_photo_itself_out() -> None:
    torch.manual_seed(0)
    own, photos = torch.randn(4, 8), torch.randn(4, 8)  # two first photos, two second ones
    found = dino.recognition(own, photos.roll(2, 0))
    cosines = torch.nn.functional.cosine_similarity(own[:, None], photos[None], dim=-1) / dino.CONTRAST_TEMPERATURE
    by_hand = -(cosines[0, 2] - cosines[0, [1, 2, 3]].logsumexp(0))  # the first photo of one: its other is photo 2
    torch.testing.assert_close(found[0], by_hand)


def test_references_are_rendered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "CHUNK", 2)
    scenes, done = [Scene("can", seed) for seed in range(3)], list[int]()
    first = references.rendered(tmp_path, scenes, size=16, compiled=False, advance=done.append)
    monkeypatch.setattr(references.world, "draw", None)
    assert torch.equal(first, references.rendered(tmp_path, scenes, size=16, compiled=False))
    assert first.shape == (3, 3, 16, 16) and done == [2, 1]


def test_zero_shot_takes_the_nearest_of_all_candidates() -> None:
    axes = dict(zip(claims.VALUES["context"], torch.eye(20), strict=True))
    said = {zeroshot.prompt(Scene("dog", 1, context=name), "context"): row for name, row in axes.items()}
    scenes = [Scene("dog", 1, context="beach"), Scene("dog", 1, context="snow"), Scene("dog", 1)]
    images = torch.stack([axes["beach"], axes["jungle"], axes["snow"]])
    right = zeroshot.judged(images, scenes, "context", lambda texts: torch.stack([said[text] for text in texts]))
    assert right == [True, False], "one right, one wrong, and one of which no place is said"
    assert zeroshot.prompt(Scene("dog", 1), "class_noun") == "a photo of a dog"
    assert len(zeroshot.candidates(Scene("dog", 1), "accessory")) == len(subjects.accessory_names())
