"""What overfitting and language drift look like in the metrics, on a model that is driven into both on purpose."""

from pathlib import Path

from PIL import Image

import dreambooth as db
from dreambooth import backbones
from dreambooth.backbones.protocol import Sampling
from dreambooth.evaluation.encoders import Judges, judges_for
from dreambooth.evaluation.metrics import diversity, pairwise_fidelity
from dreambooth.toybox.cli import save_photos

PROMPTS = ("a {} on the beach", "a {} in the snow")
SAMPLING = Sampling(10, 3.0, "dpm++", mixed_precision="auto")


def measured(judges: Judges, groups: list[list[Image.Image]], bare: list[Image.Image], photo: Image.Image):
    """DINO and DIV of the pictures of each prompt, and PRES of those of the bare class."""
    real = judges.dino.embed_images([photo])
    pictures = [picture for group in groups for picture in group]
    return {
        "dino": float(pairwise_fidelity(judges.dino.embed_images(pictures), real).mean()),
        "pres": float(pairwise_fidelity(judges.dino.embed_images(bare), real).mean()),
        "div": sum(diversity(judges.perceptual.distances(group)) for group in groups) / len(groups),
    }


def test_an_overfitted_model_has_high_dino_high_pres_and_low_div(tmp_path: Path) -> None:
    save_photos(tmp_path / "photos", "dog", 4321, 1, 128)
    photo = Image.open(tmp_path / "photos" / "00.png").convert("RGB")
    run = db.personalize(
        tmp_path / "photos", "dog", quiet=True, out=str(tmp_path / "run"), with_prior_preservation=False,
        learning_rate=6e-4, max_train_steps=120, train_batch_size=2, composed_share=0.0,
        applications=[], preview_steps=0,
    )  # fmt: skip
    judges, base, seeds = judges_for("toybox-sd"), backbones.load("toybox-sd"), range(3)
    before = [base.generate([prompt.format("dog")] * 3, seeds, SAMPLING) for prompt in PROMPTS]
    untouched = measured(judges, before, base.generate(["a dog"] * 4, range(4), SAMPLING), photo)
    after = [run.generate(prompt.format("{subject}"), 3, 0, SAMPLING) for prompt in PROMPTS]
    overfitted = measured(judges, after, run.generate("a {class}", 4, 0, SAMPLING), photo)
    assert overfitted["dino"] > untouched["dino"] + 0.3, (overfitted, untouched)
    assert overfitted["pres"] > untouched["pres"] + 0.3, (overfitted, untouched)
    assert overfitted["div"] < 0.6 * untouched["div"], (overfitted, untouched)
