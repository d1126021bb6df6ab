"""Textual Inversion: one word is learned, everything else stays bit for bit, and the others' programs load it."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn.functional import cosine_similarity

from dreambooth import backbones, prompts
from dreambooth.backbones.protocol import Recipe
from dreambooth.checkpoint import RunFolder
from dreambooth.config import make_config
from dreambooth.drawing import cut_prompts
from dreambooth.errors import ConfigError, DreamBoothError, IdentifierError
from dreambooth.examples import Batch, Examples
from dreambooth.methods import make_method
from dreambooth.methods.textual_inversion import GREATEST_NORM, LEAST_MOVE, TextualInversion, initializer_token
from dreambooth.plan import make_plan, resolve_defaults
from dreambooth.train_state import Settings
from dreambooth.trainer import finetune
from tests import tiny
from tests.test_cli import dreambooth, environment, process, weights

CAPTIONS = ("a photo of a <rex>", "a <rex> in the snow")


def inversion(num_vectors: int = 1, word: str = "dog") -> TextualInversion:
    return TextualInversion("<rex>", word, num_vectors)


def train(model: Path, folder: Path, method: TextualInversion, **changes: Any) -> Any:
    """The backbone with the trained method on it."""
    backbone = backbones.load(str(model))
    latents = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    settings = Settings(
        **({"max_train_steps": 4, "train_batch_size": 2, "learning_rates": {"embedding": 5e-2}} | changes)
    )
    examples = Examples(latents, latents[:0], (*CAPTIONS, "a dog"))
    finetune(backbone, method, examples, settings, RunFolder.create(folder, make_config({})))
    return backbone


def all_weights(backbone: Any) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value
        for name, module in backbone.modules.items()
        for key, value in module.state_dict().items()
    }


class TestOneWordAndNothingElse:
    @pytest.mark.parametrize("num_vectors", [1, 3])
    def test_every_other_weight_and_row_is_bit_identical(self, tiny_model: Path, tmp_path: Path, num_vectors: int):
        base, method = backbones.load(str(tiny_model)), inversion(num_vectors)
        trained = all_weights(train(tiny_model, tmp_path / "run", method, weight_decay=10.0, ema_decay=0.5))
        before = all_weights(base)
        assert trained.keys() == before.keys()
        changed = [key for key in before if not torch.equal(before[key], trained[key])]
        (table,) = changed
        known = before[table]
        assert trained[table].shape == (len(known) + num_vectors, known.shape[1])
        assert torch.equal(trained[table][: len(known)], known)
        assert torch.equal(trained[table][len(known) :], method.state_dict()["embedding"])

    def test_weight_decay_reaches_the_word_itself(self, tiny_model: Path, tmp_path: Path):
        norms = []
        for decay in (0.0, 10.0):
            method = inversion()
            train(tiny_model, tmp_path / str(decay), method, weight_decay=decay)
            norms.append(method.facts()["embedding_norm"])
        assert norms[1] < 0.5 * norms[0]

    def test_gradient_is_that_of_the_matrix_row(self, tiny_model: Path):
        """The splice is no approximation: it is the gradient that the whole matrix would get in those rows."""
        backbone, method = backbones.load(str(tiny_model)), inversion(2)
        (rows,) = method.prepare(backbone)["embedding"]
        table = backbone.modules["text_encoder"].get_input_embeddings()
        prompt = ["a <rex> in the snow near a <rex>"]
        weight = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(0))
        (backbone.encode_prompts(prompt).tensors["hidden"] * weight).sum().backward()
        assert table.weight.grad is None and rows.grad is not None and rows.grad.abs().min(dim=1).values.max() > 0
        table._forward_hooks.clear()
        table.weight.requires_grad_(True)
        (backbone.encode_prompts(prompt).tensors["hidden"] * weight).sum().backward()
        torch.testing.assert_close(rows.grad, table.weight.grad[-2:])

    def test_a_second_word_leaves_the_first(self, tiny_model: Path, tmp_path: Path):
        """A finished model is a model like any other; its learned word is taken, and stays."""
        first = train(tiny_model, tmp_path / "one", inversion())
        first.save_pipeline(tmp_path / "model")
        with pytest.raises(IdentifierError, match="<rex>' already"):
            inversion().prepare(backbones.load(str(tmp_path / "model")))
        backbone = backbones.load(str(tmp_path / "model"))
        TextualInversion("<tom>", "cat").prepare(backbone)
        with torch.no_grad():
            for prompt in ("a <rex> on the beach", "a dog"):
                one, other = (b.encode_prompts([prompt]).tensors["hidden"] for b in (first, backbone))
                assert torch.equal(one, other)


class TestInOthersPrograms:
    @pytest.mark.parametrize("num_vectors", [1, 3])
    def test_diffusers_draws_the_same_with_the_file_on_the_plain_base(
        self, tiny_model: Path, tmp_path: Path, num_vectors: int
    ):
        from diffusers import DiffusionPipeline

        method = inversion(num_vectors)
        backbone = train(tiny_model, tmp_path / "run", method)
        method.save(tmp_path)
        backbone.save_pipeline(tmp_path / "model")
        pictures = []
        for where, file in ((tiny_model, tmp_path / "embedding.safetensors"), (tmp_path / "model", None)):
            pipeline = DiffusionPipeline.from_pretrained(where)
            pipeline.set_progress_bar_config(disable=True)
            if file:
                plain = draw(pipeline)
                pipeline.load_textual_inversion(file)
            pictures.append(draw(pipeline))
        assert torch.equal(*pictures) and not torch.equal(plain, pictures[0])

    def test_the_pipeline_has_what_was_learned_wherever_the_encoder_has_been(self, latent_model: Path, tmp_path: Path):
        """A lean run sends its text encoders to the host and back, where their weights get memory of their own."""
        method = inversion()
        backbone = backbones.load(str(latent_model))
        method.prepare(backbone)
        for module in backbone.modules.values():
            module.double().float()
        with torch.no_grad():
            for number, rows in enumerate(method.state_dict().values()):
                rows += 1 + number
        backbone.save_pipeline(tmp_path)
        learned = [rows[0] for rows in method.state_dict().values()]
        method.eject()
        fresh = backbones.load(str(tmp_path))
        encoders = [module for name, module in fresh.modules.items() if name.startswith("text_encoder")]
        for encoder, tokenizer, row in zip(encoders, fresh.tokenizers, learned, strict=True):
            matrix: Any = encoder.get_input_embeddings()  # pyright: ignore[reportCallIssue]
            assert torch.equal(matrix.weight[tokenizer.convert_tokens_to_ids("<rex>")], row)

    def test_what_stands_after_the_word_is_pooled_too(self, tiny_xl: Path, tmp_path: Path):
        """SDXL's published configurations call the end of a prompt 2, and transformers then pools at the new word."""
        shutil.copytree(tiny_xl, tmp_path / "model")
        for name in ("text_encoder", "text_encoder_2"):
            config = tmp_path / "model" / name / "config.json"
            config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token_id": 2}))

        def heard(backbone: Any) -> bool:
            with torch.no_grad():
                pooled = backbone.encode_prompts(["a <rex> in the jungle", "a <rex> in the snow"]).tensors["pooled"]
            return not torch.equal(pooled[0], pooled[1])

        backbone, method = backbones.load(str(tmp_path / "model")), inversion()
        method.prepare(backbone)
        assert heard(backbone)
        backbone.save_pipeline(tmp_path / "saved")
        assert heard(backbones.load(str(tmp_path / "saved")))
        method.eject()
        encoder: Any = backbone.modules["text_encoder_2"]
        assert (encoder.config.eos_token_id, encoder.text_model.eos_token_id) == (2, 2)

    def test_the_file_is_one_tensor(self, tiny_model: Path, tmp_path: Path):
        """As A1111 (one tensor, any key) and ComfyUI (the first tensor, used by the file's name) take it."""
        method = inversion(3)
        method.prepare(backbones.load(str(tiny_model)))
        method.save(tmp_path)
        ((key, value),) = load_file(tmp_path / "embedding.safetensors").items()
        assert key == "<rex>" and value.shape == (3, 32) and value.dtype == torch.float32
        with safe_open(tmp_path / "embedding.safetensors", "pt") as file:
            assert file.metadata()["initializer"] == "dog"
        assert [path.name for path in tmp_path.iterdir()] == ["embedding.safetensors"]

    def test_prompts_are_counted_with_all_vectors(self, tiny_model: Path):
        backbone = backbones.load(str(tiny_model))
        assert backbone.count_tokens("a dog in the snow") == 7
        inversion(3).prepare(backbone)
        assert backbone.count_tokens("a <rex> in the snow") == 9
        long = "a <rex>" + 4 * " in the snow"
        assert cut_prompts(backbone, [long, "a <rex>", long.replace("<rex>", "dog")]) == [long]


def draw(pipeline: Any) -> torch.Tensor:
    """Final latents of a prompt with the word."""
    source = torch.Generator().manual_seed(0)
    return pipeline("a <rex> in snow", num_inference_steps=2, generator=source, output_type="latent").images


class TestInitializer:
    @pytest.mark.parametrize(
        ("word", "begins_as", "tokens"),
        [("dog", "dog", 1), ("photo dog", "dog", 2), ("dog jungles", "jungle", 3), ("Dog", "dog", 1)],
    )
    def test_begins_as_one_token(self, tiny_model: Path, word: str, begins_as: str, tokens: int):
        backbone = backbones.load(str(tiny_model))
        wanted = backbone.tokenizers[0].encode(begins_as, add_special_tokens=False)
        token, warnings = initializer_token(backbone.tokenizers[0], word)
        if begins_as == "jungle":
            assert str(backbone.tokenizers[0].decode([token])).startswith("jung") and len(warnings) == 1
        else:
            assert [token] == wanted
            assert warnings == [] if tokens == 1 else f"{word!r} is {tokens} tokens" in warnings[0]

    def test_every_vector_begins_there(self, tiny_model: Path):
        backbone, method = backbones.load(str(tiny_model)), inversion(3)
        table = backbone.modules["text_encoder"].get_input_embeddings().weight.clone()
        (token,) = backbone.tokenizers[0].encode("dog", add_special_tokens=False)
        method.prepare(backbone)
        assert torch.equal(method.state_dict()["embedding"], table[token].repeat(3, 1))
        assert method.facts() == pytest.approx(
            {
                "embedding_norm": float(table[token].norm()),
                "embedding_usual": float(table.norm(dim=1).median()),
                "embedding_distance": 0.0,
                "embedding_cosine": 1.0,
            }
        )

    @pytest.mark.parametrize("word", ["", " ", "犬"])
    def test_without_a_token_it_is_refused(self, tiny_model: Path, word: str):
        with pytest.raises(ConfigError, match="--initializer-word"):
            inversion(word=word).prepare(backbones.load(str(tiny_model)))


@pytest.mark.parametrize(
    ("method", "error"),
    [
        (TextualInversion("rex", "dog"), "angle brackets"),
        (TextualInversion("<my rex>", "dog"), "angle brackets"),
        (TextualInversion("", "dog"), "angle brackets"),
        (TextualInversion("<Rex>", "dog"), "small letters"),
        (TextualInversion("<|endoftext|>", "dog"), "already"),
        (TextualInversion("<rex>", "dog", 5), "at most 4"),
    ],
)
def test_what_cannot_be_is_told_and_changes_nothing(tiny_model: Path, method: TextualInversion, error: str):
    backbone = backbones.load(str(tiny_model))
    tokenizer, table = backbone.tokenizers[0], backbone.modules["text_encoder"].get_input_embeddings()
    with pytest.raises(DreamBoothError, match=error):
        method.prepare(backbone)
    assert backbone.tokenizers[0] is tokenizer
    assert backbone.modules["text_encoder"].get_input_embeddings() is table


class TestWhatItTells:
    def test_norm_distance_and_cosine(self, tiny_model: Path):
        backbone, method = backbones.load(str(tiny_model)), inversion(2)
        usual = backbone.modules["text_encoder"].get_input_embeddings().weight.norm(dim=1).median()
        method.prepare(backbone)
        start = method.state_dict()["embedding"].clone()
        now = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
        method.load_state_dict({"embedding": now})
        assert method.facts() == pytest.approx(
            {
                "embedding_norm": float(now.norm(dim=1).mean()),
                "embedding_usual": float(usual),
                "embedding_distance": float((now - start).norm(dim=1).mean()),
                "embedding_cosine": float(cosine_similarity(now, start).mean()),
            }
        )

    @pytest.mark.parametrize(
        ("move", "told"),
        [
            (0.5 * LEAST_MOVE, "learned next to nothing"),
            (2 * LEAST_MOVE, None),
            (0.5 * GREATEST_NORM, None),
            (2 * GREATEST_NORM, "has grown to a norm of"),
        ],
    )
    def test_a_warning_where_something_is_wrong(self, tiny_model: Path, move: float, told: str | None):
        """The move is in units of the median norm of the vocabulary."""
        backbone, method = backbones.load(str(tiny_model)), inversion()
        typical = backbone.modules["text_encoder"].get_input_embeddings().weight.norm(dim=1).median()
        method.prepare(backbone)
        moved = method.state_dict()["embedding"].clone()
        moved[:, 0] += move * float(typical)
        method.load_state_dict({"embedding": moved})
        found = method.warnings()
        assert [told in sentence for sentence in found] == [True] if told else found == []

    def test_steps_are_logged_with_it(self, tiny_model: Path, tmp_path: Path):
        method = inversion()
        train(tiny_model, tmp_path / "run", method)
        rows = RunFolder.open(tmp_path / "run").read_log()
        moved = [row["embedding_distance"] for row in rows]
        assert moved == sorted(moved) and moved[0] > 0 and "facts" not in rows[0]
        assert rows[-1]["embedding_norm"] == pytest.approx(method.facts()["embedding_norm"])


class TestCaptions:
    examples = Examples(torch.zeros(3, 1), torch.zeros(3, 1), (*prompts.INVERSION_TEMPLATES, "a dog"))

    def numbers(self, rows: tuple[int, ...], step: int, seed: int = 0) -> list[int]:
        batch = Batch(torch.zeros(len(rows), 1), torch.zeros(len(rows), dtype=torch.bool), rows)
        return self.examples.prompt_numbers(batch, seed, step).tolist()

    def test_the_authors_twenty_seven(self):
        assert len({*prompts.INVERSION_TEMPLATES}) == 27
        assert {template.split("{subject}")[1] for template in prompts.INVERSION_TEMPLATES} == {""}

    def test_all_take_turns_by_seed_step_and_row(self):
        drawn = [self.numbers((0, 1, 2, 3), step) for step in range(100)]
        assert {number for row in drawn for number in row} == set(range(27))
        assert drawn[7][2:] == self.numbers((2, 3), 7), "a micro-batch draws what the whole batch does"
        assert drawn[:5] != [self.numbers((0, 1, 2, 3), step, seed=1) for step in range(5)]

    def test_prior_rows_keep_the_class_prompt(self):
        batch = next(self.examples.batches(0, 0, 2, 1))
        assert self.examples.prompt_numbers(batch, 0, 0)[2:].tolist() == [27, 27]

    def test_the_word_stands_alone_for_the_subject(self):
        assert prompts.fill("a {subject} and a {class}", "<rex>", "dog") == "a <rex> and a dog"
        assert prompts.without_identifier("a <rex> in the snow", "<rex>", "dog") == "a dog in the snow"


class TestConfig:
    @pytest.mark.parametrize(
        ("values", "told"),
        [
            (
                {"method": "textual-inversion", "with_prior_preservation": True},
                "with_prior_preservation cannot go with",
            ),
            ({"method": "textual-inversion", "train_text_encoder": True}, "train_text_encoder cannot go with"),
            ({"method": "textual-inversion", "probe_identifier": True}, "probe_identifier cannot go with"),
            ({"num_vectors": 2}, "belong to textual-inversion"),
            ({"initializer_word": "dog"}, "belong to textual-inversion"),
            ({"identifier": "<rex>"}, "angle brackets"),
            ({"method": "textual_inversion"}, "method"),
            ({"method": "textual-inversion", "num_vectors": 0}, "num_vectors"),
        ],
    )
    def test_what_does_not_go_together_is_told(self, values: dict[str, Any], told: str):
        with pytest.raises(ConfigError, match=told):
            make_config(values)

    def test_no_prior_unless_asked_for_dreambooth(self):
        assert make_config({}).with_prior_preservation
        config = make_config({"method": "textual-inversion"})
        assert not config.with_prior_preservation
        assert make_config(config.model_dump(by_alias=True)) == config

    def test_placeholder_and_initializer_come_from_the_class_noun(self):
        method = make_method(make_config({"method": "textual-inversion"}), "stuffed animal")
        assert isinstance(method, TextualInversion)
        assert (method.placeholder, method.initializer_word) == ("<stuffed-animal>", "stuffed animal")

    def test_defaults_are_the_methods_own(self, tiny_model: Path):
        backbone = backbones.load(str(tiny_model))
        recipe = backbone.spec.textual_inversion
        config = resolve_defaults(make_config({"method": "textual-inversion"}), backbone.spec)
        assert Recipe(*(getattr(config, name) for name in vars(recipe))) == recipe
        assert config.learning_rate != resolve_defaults(make_config({}), backbone.spec).learning_rate

    def test_plan_counts_the_word_alone_and_what_its_gradient_keeps(self, tiny_model: Path):
        backbone = backbones.load(str(tiny_model))
        config = resolve_defaults(make_config({"method": "textual-inversion", "num_vectors": 2}), backbone.spec)
        plan = make_plan(config, backbone, make_method(config, "dog"), photos=3)
        assert plan.trained_parameters == {"embedding": 64} and plan.rows_per_step[1] == plan.prior_samples == 0
        weights_only = 4 * (plan.frozen_parameters + 3 * 64)
        assert plan.memory_bytes > weights_only + 1e6, "activations of the frozen denoiser"
        assert len(backbone.tokenizers[0]) == len(backbone.modules["text_encoder"].get_input_embeddings().weight)


FLAGS = [
    "--class-noun", "dog", "--method", "textual-inversion", "--num-vectors", "2", "--max-train-steps", "6",
    "--train-batch-size", "1", "--num-inference-steps", "2", "--images-per-prompt", "1", "--preview-steps", "3",
    "--checkpointing-steps", "2", "--applications", "properties",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, photos: Path) -> Path:
    """A run made by the command in a process of its own."""
    folder = tmp_path_factory.mktemp("inverted")
    done = process("train", photos, "--model", tiny_model, "--out", folder / "run", *FLAGS, cache=folder / "cache")
    assert done.returncode == 0, done.stderr
    return folder / "run"


class TestOnTheRoad:
    def test_run_folder(self, finished: Path):
        facts = json.loads((finished / "subject.json").read_text())
        assert facts["identifier"] == "<dog>" and facts["instance_prompt"] == "a photo of a <dog>"
        assert len(facts["instance_prompts"]) == 27 and facts["class_prompt"] == "a dog"
        assert "learned next to nothing" not in str(facts["warnings"])
        assert load_file(finished / "embedding.safetensors")["<dog>"].shape == (2, 32)
        assert not (finished / "prior.png").exists() and (finished / "samples/drift/tuned/sheet.png").is_file()
        pictures = json.loads((finished / "samples/properties/pictures.json").read_text())
        assert pictures[0]["prompt"] == "a red <dog>"
        page = (finished / "report.html").read_text()
        assert "<h1>a <mark>&lt;dog&gt;</mark></h1>" in page and "or in 26 other ways" in page
        assert "distance from its initializer" in page

    def test_a_stranger_draws_with_the_model(self, finished: Path):
        script = (
            "import sys; sys.modules['dreambooth'] = None\n"
            "from diffusers import DiffusionPipeline\n"
            f"pipe = DiffusionPipeline.from_pretrained({str(finished / 'model')!r})\n"
            "print(len(pipe.tokenizer), pipe('a <dog>', num_inference_steps=1).images[0].size)"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        base = len(tiny.clip_tokenizer(finished / "words"))
        assert done.stdout.strip() == f"{base + 2} (64, 64)", done.stderr

    def test_generate(self, finished: Path, tmp_path: Path, monkeypatch: Any, capsys: Any):
        code, _, _ = dreambooth(
            monkeypatch, capsys, "generate", finished, "a {subject} in the jungle", "-n", 1, "--num-inference-steps", 1,
            "--out", tmp_path / "pictures", "--quiet",
        )  # fmt: skip
        (entry,) = json.loads((tmp_path / "pictures/pictures.json").read_text())
        assert code == 0 and entry["prompt"] == "a <dog> in the jungle"

    def test_killed_and_resumed_it_is_bit_identical(
        self, finished: Path, tiny_model: Path, photos: Path, tmp_path: Path
    ):
        run, cache = tmp_path / "run", tmp_path / "cache"
        arguments = ["train", photos, "--model", tiny_model, "--out", run, *FLAGS]
        command = [sys.executable, "-m", "dreambooth", *map(str, arguments)]
        running = subprocess.Popen(command, env=environment(cache), stdout=subprocess.DEVNULL)
        log, deadline = run / "log.jsonl", time.monotonic() + 120
        while running.poll() is None and time.monotonic() < deadline:
            if log.is_file() and len(log.read_text().splitlines()) >= 3:
                break
            time.sleep(0.002)
        assert running.poll() is None, "it ended before it could be killed"
        running.send_signal(signal.SIGKILL)
        running.wait()
        assert not (run / "model").exists()
        done = process("train", "--resume", run, cache=cache)
        assert done.returncode == 0, done.stderr
        one, other = weights(finished), weights(run)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
        files = [load_file(where / "embedding.safetensors")["<dog>"] for where in (finished, run)]
        assert torch.equal(*files)

    def test_learning_nothing_is_told_at_the_end(
        self, tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
    ):
        code, _, err = dreambooth(
            monkeypatch, capsys, "train", photos, "--model", tiny_model, "--out", tmp_path / "run", *FLAGS,
            "--learning-rate", "1e-7", "--quiet",
        )  # fmt: skip
        assert code == 0 and err.count("learned next to nothing") == 1
        assert "learned next to nothing" in str(json.loads((tmp_path / "run/subject.json").read_text())["warnings"])

    @pytest.mark.parametrize(
        ("extra", "told"),
        [
            (["--with-prior-preservation"], "cannot go with textual-inversion"),
            (["--identifier", "rex"], "angle brackets"),
            (["--identifier", "<Rex>"], "small letters"),
            (["--initializer-word", "犬"], "--initializer-word"),
            (["--num-vectors", "9"], "at most 4"),
        ],
    )
    def test_wrong_turns(
        self,
        extra: list[str],
        told: str,
        tiny_model: Path,
        photos: Path,
        tmp_path: Path,
        monkeypatch: Any,
        capsys: Any,
    ):
        out = tmp_path / "run"
        code, _, err = dreambooth(
            monkeypatch, capsys, "train", photos, "--model", tiny_model, "--out", out, *FLAGS, *extra
        )
        assert code == 1 and err.startswith("error: ") and told in err and "Traceback" not in err
        assert not out.exists()
