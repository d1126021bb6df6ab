import doctest
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from dreambooth.checkpoint import RunFolder
from dreambooth.config import TrainConfig
from dreambooth.errors import RunError
from dreambooth.evaluation import curves, report
from dreambooth.evaluation.contents import PREVIEW_ROWS
from dreambooth.evaluation.report import write_report

SIDE = 16
VOID = {"meta", "img", "br", "path", "rect", "polyline"}


class Page(HTMLParser):
    """A report, parsed: every tag with its attributes, the text, the ids, and the tags left open."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def sections(self) -> list[str | None]:
        return [attributes["id"] for tag, attributes in self.tags if tag == "section"]

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def picture(path: Path, width: int = SIDE, colour: str = "teal") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, SIDE), colour).save(path)


def draw(folder: Path, prompts: list[str], seeds: int = 2, model: str | None = None) -> None:
    """A samples folder as `drawing.save` writes it."""
    entries = []
    for number, prompt in enumerate(prompts):
        for seed in range(seeds):
            name = f"{number}-{seed}.png"
            picture(folder / name)
            entries.append({"file": name, "prompt": prompt, "template": prompt, "seed": seed})
    (folder / "pictures.json").write_text(json.dumps(entries))


def write_log(run: RunFolder, steps: int, prior: bool = True) -> None:
    lines = [
        {"step": s, "loss": 1.0, "loss_subject": 1 / s, "loss_prior": prior * 0.5, "learning_rate": 1e-5}
        for s in range(1, steps + 1)
    ]
    (run.path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def facts(**changes: object) -> dict[str, object]:
    return {
        "name": "rex",
        "class_noun": "dog",
        "live": True,
        "identifier": "zqk",
        "token_ids": [1721],
        "instance_prompt": "a zqk dog",
        "class_prompt": "a dog",
        "warnings": ["IMG_1.jpg was scaled up."],
        "model": "toybox-sd",
        "fingerprint": "0123456789abcdef",
        "photos": [{"file": "photos/00.png", "source": "IMG_1.jpg", "size": [90, 80], "upscaled": True}],
    } | changes


@pytest.fixture
def bare(tmp_path: Path) -> RunFolder:
    """No more than what every run folder has."""
    run = RunFolder.create(tmp_path / "run", TrainConfig(class_noun="dog"))
    run.write_json("subject.json", facts(photos=[], warnings=[]))
    return run


@pytest.fixture
def full(bare: RunFolder) -> RunFolder:
    bare.write_json("subject.json", facts())
    picture(bare.path / "photos/00.png")
    picture(bare.path / "prior.png", 4 * SIDE)
    write_log(bare, 30)
    bare.write_json("times.json", {"prior samples": 12.1, "train": 61.7})
    bare.write_json("previews/prompts.json", ["a zqk dog", "a dog"])
    for step in (10, 20, 30):
        picture(bare.path / f"previews/step-{step:06d}.png", 2 * SIDE)
    draw(bare.path / "samples/views", ["a zqk dog seen from behind"])
    draw(bare.path / "samples/recontextualization", ["a zqk dog in the jungle", "a zqk dog on the beach"])
    for which in ("base", "tuned"):
        draw(bare.path / "samples/drift" / which, ["a dog"], seeds=3)
    return bare


def test_the_page_shows_everything_in_order(full: RunFolder):
    path = write_report(full)
    page = Page(path)
    assert path == full.path / "report.html"
    assert page.open == []
    assert page.sections == [
        "subject",
        "applications",
        "drift",
        "previews",
        "curves",
        "prior",
        "times",
        "warnings",
        "settings",
    ]
    for words in (
        "a zqk dog",
        "a zqk dog in the jungle",
        "a zqk dog on the beach",
        "a zqk dog seen from behind",
        "IMG_1.jpg",
        "90 × 80, scaled up",
        "1721",
        "toybox-sd",
        "step 20",
        "1 min 14 s",
        "IMG_1.jpg was scaled up.",
        'class_noun = "dog"',
        "diffusers",
    ):
        assert words in page.text
    assert page.text.index("a zqk dog on the beach", 3000) < page.text.index("Text-guided views")
    assert "<figcaption>a <mark>zqk</mark> dog in the jungle</figcaption>" in page.source


def test_the_page_is_self_contained_and_accessible(full: RunFolder):
    page = Page(write_report(full))
    pictures = [image for image in page.all("img") if "src" in image]
    hero, photos, prior, applications, drift, previews = 3, 1, 1, 6, 6, 6
    assert len(pictures) == hero + photos + prior + applications + drift + previews
    assert all(str(image["src"]).startswith("data:image/webp;base64,") and image["alt"] for image in pictures)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", re.sub(r'src="data:[^"]*"', "", page.source))
    assert not page.all("link")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"] for link in page.all("a")} == {f"#{section}" for section in page.sections}


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a & b </pre>"])
def test_words_of_users_are_escaped(full: RunFolder, hostile: str):
    draw(full.path / "samples/art", [hostile])
    draw(full.path / "samples" / "<i>mine", [f"zqk {hostile}"])
    photo = {"file": f"photos/{hostile.replace('/', '')}.png", "source": hostile}
    full.write_json("subject.json", facts(identifier="zqk", class_noun=hostile, warnings=[hostile], photos=[photo]))
    full.write_json("previews/prompts.json", [hostile, "a dog"])
    full.write_json("times.json", {hostile: 1.0})
    (full.path / "config.toml").write_text(f"# {hostile}", encoding="utf-8")
    page = Page(write_report(full))
    assert hostile not in page.source
    assert page.text.count(hostile) >= 7
    assert len(page.all("script")) == 1
    assert all("onerror" not in attributes and attributes.get("src") != "x" for _, attributes in page.tags)


def test_a_bare_run_has_a_page(bare: RunFolder):
    page = Page(write_report(bare))
    assert page.sections == ["subject", "settings"]
    assert not [image for image in page.all("img") if "src" in image]


def test_a_run_stopped_before_its_identifier_has_a_page(bare: RunFolder):
    bare.write_json("subject.json", {"name": "rex", "class_noun": "dog", "live": True, "photos": []})
    page = Page(write_report(bare))
    assert "a dog" in page.text
    assert not page.all("mark")


@pytest.mark.parametrize(
    ("part", "section"),
    [
        ("log.jsonl", "curves"),
        ("times.json", "times"),
        ("prior.png", "prior"),
        ("previews/prompts.json", None),
        ("photos/00.png", None),
        ("samples/views/pictures.json", None),
        ("samples/drift/base/pictures.json", None),
    ],
)
@pytest.mark.parametrize("fault", ["missing", "broken"])
def test_missing_and_broken_parts(full: RunFolder, part: str, section: str | None, fault: str):
    before = Page(write_report(full)).sections
    if fault == "missing":
        (full.path / part).unlink()
    else:
        (full.path / part).write_bytes(b'{"half": ')
    page = Page(write_report(full))
    kept = before if part == "prior.png" and fault == "broken" else [name for name in before if name != section]
    assert page.sections == kept
    assert page.open == []


@pytest.mark.parametrize("part", ["photos/00.png", "samples/views/0-1.png", "previews/step-000020.png", "prior.png"])
@pytest.mark.parametrize("left", [0, 60])
def test_a_broken_picture_leaves_a_note(full: RunFolder, part: str, left: int):
    (full.path / part).write_bytes((full.path / part).read_bytes()[:left])
    page = Page(write_report(full))
    assert f"{part} cannot be shown" in page.text
    assert page.text.count("cannot be shown") == 1


def test_a_picture_outside_the_list_of_the_hero_when_broken(full: RunFolder):
    (full.path / "samples/views/0-0.png").unlink()
    page = Page(write_report(full))
    assert page.text.count("cannot be shown") == 1


def test_many_previews_are_thinned_to_first_and_last(bare: RunFolder):
    for step in range(100, 5100, 100):
        picture(bare.path / f"previews/step-{step:06d}.png")
    page = Page(write_report(bare))
    steps = re.findall(r"step (\d+)\s", page.text)
    assert len(steps) == PREVIEW_ROWS
    assert (steps[0], steps[-1]) == ("100", "5000")


def test_large_pictures_are_scaled_down(bare: RunFolder):
    picture(bare.path / "prior.png", 5000)
    page = Page(write_report(bare))
    assert page.all("img")[0]["width"] == "2048"


@pytest.mark.parametrize("steps", [2, 10, 100_000])
def test_curves_of_short_and_long_logs(bare: RunFolder, steps: int):
    write_log(bare, steps)
    page = Page(write_report(bare))
    lines = [str(line["points"]).split() for line in page.all("polyline")]
    assert len(lines) == 6
    assert all(2 <= len(line) <= curves.CURVE_POINTS + 1 for line in lines)
    places = [tuple(map(float, point.split(","))) for line in lines for point in line]
    assert all(0 <= x <= curves.PLOT_WIDTH and math.isfinite(y) for x, y in places)


def test_no_curve_without_a_prior_term_and_none_of_one_step(bare: RunFolder):
    write_log(bare, 10, prior=False)
    assert len(Page(write_report(bare)).all("polyline")) == 4
    write_log(bare, 1)
    assert Page(write_report(bare)).sections == ["subject", "settings"]


def write_judgements(run: RunFolder, pres: float = 0.4) -> None:
    """Four judgements, the third of them the best; the first is the untouched model's."""
    rows = [
        {"step": 50 * n, "dino": 0.4 + 0.1 * n, "clip_t": 0.3, "pres": pres, "balance": balance}
        for n, balance in enumerate([None, 0.7, 0.8, 0.75])
    ]
    rows[0] |= {"ceiling": 0.8, "settings": {}}
    (run.path / "track.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_fidelity_and_drift_when_tracked(bare: RunFolder):
    write_log(bare, 10)
    write_judgements(bare)
    page = Page(write_report(bare))
    assert "Fidelity and drift" in page.text and "balance of the three is best at step 100" in page.text
    assert len(page.all("polyline")) == 6 + 8
    for name in ("DINO", "CLIP-T", "PRES", "DINO among the photos"):
        assert name in page.text
    ids = [clip["id"] for clip in page.all("clippath")]
    assert len(ids) == len(set(ids)) == 3
    (mark,) = [path for path in page.all("path") if path.get("class") == "mark"]
    assert str(mark["d"]).startswith(f"M{curves.PLOT_WIDTH * 100 / 150:.1f} ")


@pytest.mark.parametrize("lines", ["", "{", '{"step": 0, "dino": 0.4, "clip_t": 0.3, "pres": 0.4, "ceiling": 0.8}\n{'])
def test_no_plot_before_there_are_two_judgements(bare: RunFolder, lines: str):
    (bare.path / "track.jsonl").write_text(lines)
    assert Page(write_report(bare)).sections == ["subject", "settings"]


def test_scores_below_zero_leave_the_plot(bare: RunFolder):
    write_judgements(bare, pres=-0.2)
    assert len(Page(write_report(bare)).all("polyline")) == 6


@pytest.mark.parametrize(("step", "value"), [(0, 0.5), (1, 1e308), (1, 1.7e308), (1, 5e-324)])
def test_no_curve_where_an_axis_has_no_extent(bare: RunFolder, step: int, value: float):
    """Lines of one step alone, as of a log that was put together by hand, and values at the end of the floats."""
    lines = [{"step": 3 + step * n, "loss_subject": value} for n in range(20)]
    (bare.path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert Page(write_report(bare)).sections == ["subject", "settings"]


def test_values_that_are_not_finite_are_left_out():
    log = [{"step": step, "loss": value} for step, value in enumerate([1.0, math.nan, math.inf, 2.0, None], 1)]
    assert curves.logged(log, "loss") == [(1, 1.0), (4, 2.0)]


def test_the_smoothed_curve_is_the_mean_of_the_neighbours():
    line = [(float(x), float(x % 2)) for x in range(40)]
    smooth = curves.moving_average(line, window=0.1)
    assert smooth[20] == (20.0, pytest.approx(2 / 5))
    assert smooth[0] == (0.0, pytest.approx(1 / 3))


@pytest.mark.parametrize(
    ("text", "word", "marked"),
    [
        ("a zqk dog", "zqk", "a <mark>zqk</mark> dog"),
        ("zqk, zqkx & xzqk", "zqk", "<mark>zqk</mark>, zqkx &amp; xzqk"),
        ("a <3 dog", "<3", "a <mark>&lt;3</mark> dog"),
        ("a + dog", "+", "a <mark>+</mark> dog"),
        ("a <b>dog", "", "a &lt;b&gt;dog"),
    ],
)
def test_the_identifier_is_marked(text: str, word: str, marked: str):
    assert report.mark(text, word) == marked


@pytest.mark.parametrize("text", [None, "{", "[]", '{"photos": []}'])
def test_a_run_without_its_subject_is_refused(bare: RunFolder, text: str | None):
    (bare.path / "subject.json").unlink()
    if text is not None:
        (bare.path / "subject.json").write_text(text)
    with pytest.raises(RunError, match=r"subject\.json"):
        write_report(bare)


@pytest.mark.parametrize("module", [report, curves])
def test_examples(module: object):
    result = doctest.testmod(module)  # pyright: ignore[reportArgumentType]
    assert result.attempted and not result.failed
