"""Pictures that show what was asked for count, and others do not."""

import json
from pathlib import Path

from benchmarks.obedience import obeyed, scores_table, table
from dreambooth.evaluation.encoders import clip_encoder
from dreambooth.evaluation.scores import Score
from dreambooth.toybox.suites import true_pictures

TEMPLATES = ("a {subject} in the snow", "a {subject} on the beach", "a red {subject}", "a {subject} wearing a red hat")


def written(folder: Path, shift: int) -> Path:
    """True pictures of a dog, each said to be asked for by the prompt `shift` places on."""
    folder.mkdir()
    seeds = list(range(len(TEMPLATES)))
    jobs: list[dict[str, object]] = []
    for row, picture in enumerate(true_pictures("dog", 900_001, 128, TEMPLATES, seeds)):
        picture.save(folder / f"{row}.png")
        template = TEMPLATES[(row + shift) % len(TEMPLATES)]
        jobs.append({"file": f"{row}.png", "template": template, "prompt": template, "seed": row})
    (folder / "pictures.json").write_text(json.dumps(jobs))
    return folder


def test_true_pictures_obey_and_swapped_ones_do_not(tmp_path: Path):
    judge = clip_encoder("toybox-clip", "cpu")
    right = obeyed(written(tmp_path / "right", 0), "dog", judge)
    wrong = obeyed(written(tmp_path / "wrong", 1), "dog", judge)
    assert right["places", "asked for"] == right["properties", "asked for"] == 1 == right["accessories", "asked for"]
    assert wrong["places", "asked for"] == 0
    assert right["places", "class"] == 1


def test_the_table_has_means_over_subjects_and_leaves_out_what_nobody_asked():
    told = table({"truth": {"a": {("places", "class"): 1.0}, "b": {("places", "class"): 0.5}}})
    assert "| truth | 75.0 % [50.0, 100.0] | –" in told and told.endswith("| 2 |")


def test_stored_scores_are_averaged_by_kind_of_prompt_and_subject_by_subject():
    def score(subject: str, prompt: str, metric: str, value: float) -> Score:
        return Score("base", subject, "dog", prompt, 0, metric, value, "judge", "0")

    scores = [
        score("a", TEMPLATES[0], "dino", 0.2),
        score("a", TEMPLATES[1], "dino", 0.4),
        score("b", TEMPLATES[0], "dino", 0.9),
        score("a", TEMPLATES[0], "clip-t", 0.7),
        score("a", TEMPLATES[2], "clip-t", 0.5),
        score("a", TEMPLATES[0], "clip-i", 1.0),
    ]
    told = scores_table(scores, ["base", "truth"]).splitlines()
    assert told[2] == "| base | 0.600, 0.700 | –, – | –, 0.500 |"
    assert told[3] == "| truth | –, – | –, – | –, – |"
