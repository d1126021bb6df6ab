"""The blind comparison: the page tells nothing, the key all, and the votes come to what they come to by hand."""

import doctest
import json
import os
import re
import resource
import shlex
import shutil
import sys
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreambooth.checkpoint import RunFolder
from dreambooth.config import make_config
from dreambooth.errors import ConfigError, RunError
from dreambooth.evaluation import compare, votes
from dreambooth.evaluation.compare import Pair, draw_pairs, existing_pairs, make_page, match, write_page
from dreambooth.evaluation.contents import embed
from dreambooth.evaluation.vote_server import PORTS, VoteServer, port_of
from dreambooth.evaluation.votes import Key, Placed, Share, Vote, read_key, read_votes, shares, wilson
from dreambooth.run import Run
from tests.test_cli import dreambooth

PROMPTS = ["a {subject} in the jungle", "a {subject} on beach", "a red {subject}"]


def picture(number: int) -> Image.Image:
    """A smooth picture; its number decides what is on it."""
    shape = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(shape).resize((32, 32), Image.Resampling.BICUBIC)


def make_run(folder: Path, photos: tuple[int, ...] = (1, 2, 3), identifier: str = "zqk", noun: str = "dog") -> Path:
    """A run folder with photos and no model."""
    run = RunFolder.create(folder, make_config({"num_inference_steps": 2, "guidance_scale": 2.0}))
    facts = [{"file": f"photos/{number:02d}.png", "sha256": f"hash of {number}"} for number in photos]
    for number in photos:
        picture(number).save(folder / f"photos/{number:02d}.png")
    run.write_json("subject.json", {"class_noun": noun, "identifier": identifier, "photos": facts})
    return folder


def add_pictures(run: Path, folder: str, first: int, templates: list[str], seeds: int = 2) -> None:
    """Pictures as `drawing.save` leaves them."""
    (run / folder).mkdir(parents=True)
    entries = []
    for number, (template, seed) in enumerate((t, s) for t in templates for s in range(seeds)):
        picture(first + number).save(run / folder / f"{number}.png")
        entries.append({"file": f"{number}.png", "prompt": template, "template": template, "seed": seed})
    (run / folder / "pictures.json").write_text(json.dumps(entries))


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two runs of one subject that have drawn the same prompts."""
    pair = [make_run(tmp_path / "tuned-run"), make_run(tmp_path / "inverted-run", photos=(3, 2, 9), identifier="xvj")]
    for number, run in enumerate(pair):
        add_pictures(run, "samples/art", 100 * (number + 1), PROMPTS)
        add_pictures(run, "samples/drift/tuned", 900, ["a {class}"])
    return pair


@pytest.fixture
def pairs() -> list[Pair]:
    return [Pair(f"a {{subject}} {n}", f"a dog {n}", 0, picture(10 + n), picture(50 + n)) for n in range(10)]


def data_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def key_of(items: int = 4, page: str = "p1") -> Key:
    """Run A stands left, right, left, right."""
    placed = [Placed(text="", template="", seed=0, a_is=("left", "right")[n % 2]) for n in range(items)]
    return Key(page=page, runs=("runs/a", "runs/b"), items=placed)


def vote(item: int, answer: str, rater: str = "ann", question: str = "subject", page: str = "p1") -> Vote:
    return Vote(page=page, rater=rater, item=item, question=question, answer=answer)


class TestMatch:
    def test_photos_that_both_were_trained_on(self, runs: list[Path]):
        found = match(runs)
        assert found.class_noun == "dog"
        assert [photo.tobytes() for photo in found.photos] == [picture(n).tobytes() for n in (2, 3)]

    def test_two_subjects_are_refused(self, runs: list[Path], tmp_path: Path):
        other = make_run(tmp_path / "other", photos=(7, 8))
        with pytest.raises(ConfigError, match="two different subjects"):
            match([runs[0], other])

    def test_a_run_and_itself_are_refused(self, runs: list[Path]):
        with pytest.raises(ConfigError, match="to itself"):
            match([runs[0], runs[0] / ".." / runs[0].name])

    def test_what_is_no_run_is_refused(self, runs: list[Path], tmp_path: Path):
        with pytest.raises(RunError, match="no run folder"):
            match([runs[0], tmp_path])

    @pytest.mark.parametrize(
        "text", ["[]", "{", '{"class_noun": "dog", "photos": [{}]}', '{"photos": []}', '{"class_noun": 3}']
    )
    def test_what_a_run_does_not_tell_of_its_subject(self, runs: list[Path], text: str):
        (runs[1] / "subject.json").write_text(text)
        with pytest.raises(RunError, match=r"^[^\n]*subject\.json is not what a run writes [^\n]*$"):
            match(runs)

    def test_runs_that_do_not_tell_their_photos(self, runs: list[Path]):
        (runs[1] / "subject.json").write_text('{"class_noun": "dog"}')
        with pytest.raises(ConfigError, match="no photo in common"):
            match(runs)

    def test_photos_that_cannot_be_read_are_told(self, runs: list[Path]):
        for photo in (runs[0] / "photos").iterdir():
            photo.write_bytes(b"broken")
        with pytest.raises(ConfigError, match=r"photos in .* cannot be read"):
            match(runs)


class TestPairs:
    def test_both_draw_the_same_prompts_with_the_same_seeds(self, tiny_model: Path, runs: list[Path]):
        for run in runs:
            shutil.copytree(tiny_model, run / "model")
        found = draw_pairs(match(runs), PROMPTS[:2], range(4, 6), "cpu")
        assert [(pair.template, pair.seed) for pair in found] == [(t, s) for t in PROMPTS[:2] for s in (4, 5)]
        assert found[0].text == "a dog in the jungle"
        for index, side in enumerate("ab"):
            alone = Run(RunFolder(runs[index]), "cpu").generate(PROMPTS[1], count=2, seed=4)
            drawn = [getattr(pair, side) for pair in found[2:]]
            assert [image.tobytes() for image in drawn] == [image.tobytes() for image in alone]
        assert found[0].a.tobytes() != found[0].b.tobytes()

    def test_an_unfinished_run_is_refused(self, runs: list[Path]):
        with pytest.raises(RunError, match="no model yet"):
            draw_pairs(match(runs), PROMPTS, [0])

    def test_what_both_have_drawn_already(self, runs: list[Path]):
        found = existing_pairs(match(runs), count=5)
        assert {(pair.template, pair.seed) for pair in found} == {(t, s) for t in PROMPTS for s in (0, 1)}
        first = next(pair for pair in found if pair.template == PROMPTS[1] and pair.seed == 0)
        assert first.a.tobytes() == picture(102).tobytes() and first.b.tobytes() == picture(202).tobytes()
        assert len(existing_pairs(match(runs))) == 3
        assert {pair.template for pair in existing_pairs(match(runs), [PROMPTS[2]], 2)} == {PROMPTS[2]}

    def test_only_what_both_can_show(self, runs: list[Path]):
        (runs[1] / "samples/art/0.png").write_bytes(b"broken")
        assert len(existing_pairs(match(runs), count=2)) == 5
        shutil.rmtree(runs[1] / "samples/art")
        with pytest.raises(ConfigError, match="leave out --existing"):
            existing_pairs(match(runs))


class TestPage:
    def test_the_key_says_where_each_run_stands(self, runs: list[Path], pairs: list[Pair]):
        html, key = make_page(match(runs), pairs, seed=0)
        page = data_of(html)
        assert page["page"] == key.page and key.runs == (str(runs[0]), str(runs[1]))
        uris = {pair.template: [embed(image.copy(), "").uri for image in (pair.a, pair.b)] for pair in pairs}
        for item, placed in zip(page["items"], key.items, strict=True):
            shown = [item["left"], item["right"]]
            assert shown == (uris[placed.template] if placed.a_is == "left" else uris[placed.template][::-1])
            assert item["text"] == placed.text

    def test_runs_have_names_wherever_they_were_named_from(self, runs: list[Path], pairs: list[Pair], monkeypatch):
        monkeypatch.chdir(runs[0])
        _, key = make_page(match([Path("."), Path("../inverted-run/samples/..")]), pairs, seed=0)
        assert [Path(run).name for run in key.runs] == ["tuned-run", "inverted-run"]
        rows = votes.table([vote(0, "left", page=key.page)], key).columns[0].cells
        assert list(rows)[:2] == ["tuned-run", "inverted-run"]

    def test_sides_are_even_and_both_orders_hang_on_the_seed(self, runs: list[Path], pairs: list[Pair]):
        made = [make_page(match(runs), pairs, seed) for seed in (0, 0, 1, 2)]
        keys = [key for _, key in made]
        assert made[0][0] == made[1][0] and keys[0] == keys[1]
        for read in (lambda placed: placed.a_is, lambda placed: placed.template):
            assert len({tuple(map(read, key.items)) for key in keys}) == 3
        assert all([placed.a_is for placed in key.items].count("left") == 5 for key in keys)
        assert len({key.page for key in keys}) == 3

    def test_the_page_gives_nothing_away(self, runs: list[Path]):
        found = existing_pairs(match(runs))
        html, _ = make_page(match(runs), found, seed=0)
        for secret in ("tuned-run", "inverted-run", "zqk", "xvj", "a_is", str(runs[0].parent), "{subject}"):
            assert secret not in re.sub(r"data:image/webp;base64,[A-Za-z0-9+/=]*", "", html), secret
        assert all(set(item) == {"text", "left", "right"} for item in data_of(html)["items"])

    def test_the_page_needs_nothing_else(self, runs: list[Path], pairs: list[Pair]):
        html, _ = make_page(match(runs), pairs, seed=0)
        assert "https:" not in html and "http:" not in html
        assert not re.search(r"<link|<iframe|@import|url\(|src=\"(?!data)", html)
        assert "default-src 'none'" in html

    def test_the_next_person_can_begin_anew(self, runs: list[Path], pairs: list[Pair]):
        html, _ = make_page(match(runs), pairs, seed=0)
        for section in ("start", "end"):
            shown = html.split(f'<section id="{section}"')[1].split("</section>")[0]
            assert '<button type="button" class="quiet other">' in shown, section

    @pytest.mark.parametrize("hostile", ["</script><script>alert(1)</script>", '"><img src=x>', "<!--", "a & b"])
    def test_words_of_users_are_only_words(self, runs: list[Path], hostile: str):
        html, _ = make_page(match(runs), [Pair(hostile, hostile, 0, picture(1), picture(2))], seed=0)
        assert data_of(html)["items"][0]["text"] == hostile
        assert html.count("<script") == 2

    def test_a_page_is_never_written_over(self, runs: list[Path], pairs: list[Pair], tmp_path: Path):
        html, key = make_page(match(runs), pairs, seed=0)
        beside = write_page(tmp_path / "deep/page.html", html, key)
        assert beside == tmp_path / "deep/page.key.json" and read_key(beside) == key
        with pytest.raises(ConfigError, match="there already"):
            write_page(tmp_path / "deep/page.html", html, key)
        with pytest.raises(ConfigError, match="cannot be written"):
            write_page(tmp_path / "deep/page.html/page.html", html, key)


class TestVotes:
    @pytest.mark.parametrize("module", [votes, compare])
    def test_examples(self, module: object):
        assert not doctest.testmod(module).failed  # pyright: ignore[reportArgumentType]

    def test_wilson_by_hand(self):
        # z = 1.96, 3 of 5: (0.6 + 0.38416 ± 1.96 √(0.048 + 0.0384160)) / 1.76832
        low, high = wilson(3, 5)
        assert (low, high) == (pytest.approx(0.2307, abs=1e-3), pytest.approx(0.8824, abs=1e-3))
        assert wilson(0, 7) == (0.0, pytest.approx(1 - wilson(7, 7)[0]))
        with pytest.raises(ValueError, match="no vote"):
            wilson(0, 0)

    def test_sides_become_runs(self):
        cast = [vote(0, "left"), vote(1, "left"), vote(2, "undecided"), vote(3, "right"), vote(0, "right", "bob")]
        found = shares(cast, key_of())
        # Run A stands left at 0, right at 3; run B right at 0, left at 1.
        assert {side: share.count for side, share in found["subject"].items()} == {"a": 2, "b": 2, "undecided": 1}
        assert all(share.total == 5 for share in found["subject"].values()) and "prompt" not in found

    def test_the_order_of_votes_changes_nothing(self):
        cast = [vote(n % 4, ("left", "right", "undecided")[n % 3], f"rater {n % 5}") for n in range(60)]
        assert shares(cast, key_of()) == shares(cast[::-1], key_of())

    def test_people_who_agree_among_themselves_alone_widen_the_interval(self):
        """Two who always take A and two who always take B: 40 votes say less than they seem to."""
        cast = [vote(n, side, rater) for rater, side in zip("abcd", ("left", "left", "right", "right"), strict=True)
                for n in range(0, 20, 2)]  # fmt: skip
        share = shares(cast, key_of(20))["subject"]["a"]
        assert (share.count, share.total) == (20, 40) and share.by_rater is not None
        low, high = wilson(20, 40)
        assert share.by_rater.low is not None and share.by_rater.high is not None
        assert share.by_rater.low < low and share.by_rater.high > high
        assert share.told() == "50 % [35, 65]\nby person [0, 100]"

    def test_one_person_has_no_interval_over_people(self):
        assert shares([vote(0, "left"), vote(1, "left")], key_of())["subject"]["a"] == Share(1, 2)

    def test_files_of_both_kinds_and_the_last_word(self, tmp_path: Path):
        lines = [vote(0, "left"), vote(1, "left"), vote(0, "right")]
        (tmp_path / "served.jsonl").write_text("".join(line.model_dump_json() + "\n" for line in lines) + "\n")
        (tmp_path / "sent.json").write_text(json.dumps({"votes": [vote(0, "left", "bob").model_dump()]}))
        cast = read_votes([tmp_path / "served.jsonl", tmp_path / "sent.json"], key_of())
        assert {(v.rater, v.item): v.answer for v in cast} == {
            ("ann", 0): "right",
            ("ann", 1): "left",
            ("bob", 0): "left",
        }

    def test_the_last_word_is_the_latest_and_not_the_last_file(self, tmp_path: Path):
        """A browser calls the second download of one name "… (1).json", which a shell sorts before the first."""
        first, second = tmp_path / "votes-ann.json", tmp_path / "votes-ann (1).json"
        for dated in (True, False):
            for minute, (path, answer) in enumerate([(first, "left"), (second, "right")]):
                at = f"2026-01-01T12:0{minute}:00Z" if dated else None
                cast = Vote.model_validate(vote(0, answer).model_dump() | {"at": at})
                path.write_text(json.dumps({"votes": [cast.model_dump(mode="json")]}))
                os.utime(path, (1e9 - minute, 1e9 - minute) if dated else (1e9 + minute, 1e9 + minute))
            assert [v.answer for v in read_votes([second, first], key_of())] == ["right"]
            assert [v.answer for v in read_votes([first, second], key_of())] == ["right"]

    def test_lines_that_are_cut_short_are_left_out_and_told(self, tmp_path: Path):
        whole = [vote(n, "left", "größe\u2028\x85").model_dump_json().encode() for n in range(4)]
        half = whole[2][: whole[2].index("ö".encode()) + 1]
        (tmp_path / "v.jsonl").write_bytes(b"\n".join([whole[0], whole[1][:30] + whole[1], whole[3], half]))
        told: list[str] = []
        assert [v.item for v in read_votes([tmp_path / "v.jsonl"], key_of(), told.append)] == [0, 3]
        assert told == [f"{tmp_path / 'v.jsonl'} has 2 lines cut short, and what stood there is not counted."]

    @pytest.mark.parametrize(
        ("name", "text", "told"),
        [
            ("v.json", None, "cannot be read: No such file"),
            ("v.json", "{", "was not made by the page"),
            ("v.json", '{"votes": [{"item": 0}]}', "was not made by the page"),
            ("v.jsonl", "[]\n", "was not made by the page"),
            ("v.jsonl", "{\n", "There is no vote"),
            ("v.json", '{"votes": []}', "There is no vote"),
            ("v.json", json.dumps({"votes": [vote(0, "left", page="p2").model_dump()]}), "of the page p2, and the key"),
            ("v.jsonl", vote(4, "left").model_dump_json(), "item 5, and the page has 4"),
        ],
    )
    def test_votes_that_cannot_be_counted(self, tmp_path: Path, name: str, text: str | None, told: str):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=re.escape(told)):
            read_votes([tmp_path / name], key_of())

    @pytest.mark.parametrize(("text", "told"), [(None, "cannot be read"), ("{}", "is no key")])
    def test_keys_that_are_none(self, tmp_path: Path, text: str | None, told: str):
        if text is not None:
            (tmp_path / "k.json").write_text(text)
        with pytest.raises(ConfigError, match=told):
            read_key(tmp_path / "k.json")


class TestServer:
    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[VoteServer]:
        with VoteServer("<p>größe", key_of(), tmp_path / "page.votes.jsonl") as running:
            threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
            yield running
            running.shutdown()

    def ask(self, server: VoteServer, method: str, path: str, body: str = "", **headers: str):
        connection = HTTPConnection("127.0.0.1", server.server_port, timeout=5)
        connection.request(method, path, body.encode(), headers)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()

    def test_it_listens_to_this_computer_alone(self, server: VoteServer):
        assert server.server_address[0] == "127.0.0.1" and server.address.startswith("http://127.0.0.1:")

    def test_the_page(self, server: VoteServer):
        assert self.ask(server, "GET", "/") == (200, "<p>größe")
        assert self.ask(server, "GET", "/page.key.json")[0] == 404
        assert self.ask(server, "GET", "/../page.key.json")[0] == 404

    def test_votes_are_kept_as_they_come(self, server: VoteServer):
        cast = [vote(n % 4, "left", f"rater {n}") for n in range(12)]
        asking = [
            threading.Thread(target=self.ask, args=(server, "POST", "/votes", one.model_dump_json())) for one in cast
        ]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        kept = read_votes([server.votes], server.key)
        assert sorted(kept, key=lambda v: v.rater) == sorted(cast, key=lambda v: v.rater)

    @pytest.mark.parametrize(
        ("status", "path", "body", "headers"),
        [
            (404, "/elsewhere", vote(0, "left").model_dump_json(), {}),
            (400, "/votes", "{", {}),
            (400, "/votes", '{"page": "p1", "item": 0}', {}),
            (409, "/votes", vote(0, "left", page="p2").model_dump_json(), {}),
            (409, "/votes", vote(9, "left").model_dump_json(), {}),
            (413, "/votes", " " * 5000, {}),
            (403, "/votes", vote(0, "left").model_dump_json(), {"Origin": "http://elsewhere.example"}),
            (403, "/votes", vote(0, "left").model_dump_json(), {"Host": "elsewhere.example"}),
        ],
    )
    def test_what_is_no_vote_is_not_kept(
        self, server: VoteServer, status: int, path: str, body: str, headers: dict[str, str]
    ):
        found, told = self.ask(server, "POST", path, body, **headers)
        assert found == status and told.endswith(".") and not server.votes.exists()

    def test_other_pages_may_not_read(self, server: VoteServer):
        assert self.ask(server, "GET", "/", Host="elsewhere.example")[0] == 403

    def test_a_busy_port_is_told(self, server: VoteServer, tmp_path: Path):
        with pytest.raises(ConfigError, match="give another --port"):
            VoteServer("", key_of(), tmp_path / "v.jsonl", server.server_port)

    def test_a_page_is_served_where_it_was_before(self, tmp_path: Path):
        """There a browser knows whose answers are whose; and where the port is taken, any other does."""
        key = key_of(page=f"page of {os.getpid()}")
        for _ in range(2):
            with VoteServer("", key, tmp_path / "v.jsonl") as first, VoteServer("", key, tmp_path / "v.jsonl") as other:
                assert first.server_port == port_of(key.page) != other.server_port
        assert len({port_of(f"page {n}") for n in range(100)}) > 90
        assert all(port_of(f"page {n}") in PORTS for n in range(100))

    def test_a_full_disk_cuts_no_line(self, server: VoteServer):
        """The limit of a file's size stands for the disk: the write stops in the middle of the line."""
        server.keep(vote(0, "left"))
        before = server.votes.read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 40, limits[1]))
        try:
            refused = self.ask(server, "POST", "/votes", vote(1, "left").model_dump_json())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert refused == (507, "The vote cannot be written: No space left on device.")
        assert server.votes.read_bytes() == before
        assert self.ask(server, "POST", "/votes", vote(1, "left").model_dump_json())[0] == 204
        assert [v.item for v in read_votes([server.votes], server.key)] == [0, 1]

    def test_a_vote_after_a_cut_line_has_its_own(self, server: VoteServer):
        server.votes.write_text(vote(0, "left").model_dump_json() + "\n" + vote(1, "left").model_dump_json()[:30])
        for item in (2, 3):
            server.keep(vote(item, "right"))
        assert [v.item for v in read_votes([server.votes], server.key)] == [0, 2, 3]

    def test_votes_that_cannot_be_written_are_told(self, server: VoteServer):
        server.votes.mkdir()
        status, told = self.ask(server, "POST", "/votes", vote(0, "left").model_dump_json())
        assert status == 507 and "cannot be written" in told


ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="no /proc")


class TestCommand:
    def test_from_two_runs_to_shares(self, tiny_model: Path, runs: list[Path], tmp_path: Path, monkeypatch, capsys):
        for run in runs:
            shutil.copytree(tiny_model, run / "model")
        page, key_file = tmp_path / "page.html", tmp_path / "page.key.json"
        command = ["compare", *runs, "--prompts", PROMPTS[0], "--prompts", PROMPTS[1], "--count", 2, "--out", page]
        code, out, err = dreambooth(monkeypatch, capsys, *command, "--device", "cpu")
        assert code == 0 and "4 pairs, two questions each" in out and str(key_file) in out, err
        key = read_key(key_file)
        assert {placed.seed for placed in key.items} == {0, 1}
        for rater in ("ann", "bob"):
            answers = [vote(n, placed.a_is, rater, "subject", key.page) for n, placed in enumerate(key.items)]
            answers.append(vote(0, "undecided", rater, "prompt", key.page))
            (tmp_path / f"{rater}.json").write_text(json.dumps({"votes": [answer.model_dump() for answer in answers]}))
        (tmp_path / "served.jsonl").write_text('{"page":')
        files = sorted(tmp_path.glob("*.json*"))
        assert key_file in files  # as a shell's `--votes *.json` has it
        code, out, err = dreambooth(monkeypatch, capsys, "compare", "--votes", *files, "--key", key_file)
        assert "warning: " in err and "served.jsonl has 1 line cut short" in err
        assert (
            code == 0 and "100 % [68, 100]" in out and "by person [100, 100]" in out and "10 votes by 2 people" in out
        )
        assert "paper: DreamBooth" in out and "68 %" in out and "81 %" in out and "12 %" in out

    def test_existing_pictures_and_serving(self, runs: list[Path], tmp_path: Path, monkeypatch, capsys):
        page = tmp_path / "page.html"
        assert dreambooth(monkeypatch, capsys, "compare", *runs, "--existing", "--out", page)[0] == 0
        asked: list[str] = []

        def serve(server: VoteServer) -> None:
            asked.append(server.html.decode())
            server.keep(vote(0, "left", page=server.key.page))
            raise KeyboardInterrupt

        monkeypatch.setattr(VoteServer, "serve_forever", serve)
        code, out, _ = dreambooth(monkeypatch, capsys, "compare", "--serve", "--out", page)
        assert code == 0 and asked == [page.read_text(encoding="utf-8")]
        assert "http://127.0.0.1:" in out and "1 vote by 1 person" in out
        assert (tmp_path / "page.votes.jsonl").is_file()

    def test_the_command_that_counts_can_be_pasted(self, runs: list[Path], tmp_path: Path, monkeypatch, capsys):
        page = tmp_path / "my page.html"
        command = ["compare", *runs, "--existing", "--prompts", PROMPTS[0], "--count", 1, "--out", page]
        code, out, _ = dreambooth(monkeypatch, capsys, *command)
        assert code == 0 and f"1 pair, two questions each: {page}" in out
        assert shlex.split(out.splitlines()[-1])[-1] == str(tmp_path / "my page.key.json")
        code, _, err = dreambooth(monkeypatch, capsys, *command)
        assert code == 1 and shlex.split(err)[-1] == str(page)

    def test_two_nouns_for_one_subject(self, runs: list[Path], tmp_path: Path, monkeypatch, capsys):
        other = make_run(tmp_path / "third", noun="cat")
        add_pictures(other, "samples/art", 300, PROMPTS)
        code, _, err = dreambooth(
            monkeypatch, capsys, "compare", runs[0], other, "--existing", "--out", tmp_path / "p.html"
        )
        assert code == 0 and "people will read 'dog'" in err

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            ([], "Name two runs"),
            (["{a}"], "1 was given"),
            (["{a}", "{b}", "{a}"], "3 were given"),
            (["{a}", "{empty}"], "no run folder"),
            (["{a}", "{a}"], "to itself"),
            (["{a}", "{other}"], "two different subjects"),
            (["{a}", "{b}"], "no model yet"),
            (["{a}", "{b}", "--prompts", "a dog"], "does not name the subject"),
            (["{a}", "{b}", "--prompts", "a {foo}"], "{foo}"),
            (["{a}", "{b}", "--prompts-file", "{empty}/none.txt"], "none.txt"),
            (["{a}", "{b}", "--existing", "--prompts", "a blue {subject}"], "leave out --existing"),
            (["--votes", "{empty}/v.json"], "add --key"),
            (["--votes", "{empty}/v.json", "--key", "{empty}/k.json"], "cannot be read"),
            (["--votes", "{empty}/v.json", "--key", "{empty}/k.json", "--serve"], "give one of the two"),
            (["--votes", "{empty}/k.json", "--key", "{empty}/k.json"], "cannot be read"),
            (["--serve", "--out", "{empty}/page.html"], "There is no page"),
            (["--serve", "--out", "{latin}"], "There is no page"),
            (["--serve", "--out", "."], "give --out the page in it"),
            (["--serve", "--out", ""], "give --out the page in it"),
            (["{a}", "{b}", "--existing", "--out", "."], "give --out the page in it"),
            (["{a}", "{b}", "--out", "latin.html/x.html"], "latin.html is no folder"),
            pytest.param(["{a}", "{b}", "--out", "/proc/x.html"], "/proc cannot be written", marks=ON_LINUX),
        ],
    )
    def test_wrong_turns(self, arguments: list[str], told: str, runs: list[Path], tmp_path: Path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "empty").mkdir()
        (tmp_path / "latin.html").write_bytes("größe".encode("latin-1"))
        places = {"{a}": runs[0], "{b}": runs[1], "{empty}": tmp_path / "empty", "{latin}": tmp_path / "latin.html"}
        places["{other}"] = make_run(tmp_path / "other", photos=(7,))
        for name, place in places.items():
            arguments = [argument.replace(name, str(place)) for argument in arguments]
        code, _, err = dreambooth(monkeypatch, capsys, "compare", *arguments)
        assert code == 1 and err.startswith("error: ") and told in err and "Traceback" not in err
        assert not (tmp_path / "compare.html").exists()
