"""Frozen weights on loan from the loading on: the same numbers and files, and what lies on the device in each phase."""

import hashlib
import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from dreambooth import backbones, kept, transfer, workflow
from dreambooth.backbones.protocol import Backbone, Sampling
from dreambooth.checkpoint import RunFolder
from dreambooth.config import TrainConfig, make_config
from dreambooth.lending import as_if_lent, is_lent, lend, lendable, original, originals, place, precise, take_back
from dreambooth.methods import make_method
from dreambooth.plan import estimate_memory
from dreambooth.prior import fingerprint
from dreambooth.run import Run
from dreambooth.ui import Display
from tests.methods.test_contract import METHODS, weights

CPU = torch.device("cpu")
SETTINGS = {
    "class_noun": "dog",
    "identifier": "zqk",
    "num_class_images": 2,
    "max_train_steps": 3,
    "preview_steps": 2,
    "preview_prompts": ["a {subject} in snow"],
    "applications": ["art"],
    "images_per_prompt": 1,
    "num_inference_steps": 2,
    "prior_steps": 2,
    "mixed_precision": "bf16",
    "device": "cpu",
}


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU's memory counts as a device's own."""
    monkeypatch.setattr(transfer, "has_own_memory", lambda device: True)


def held_bytes(module: nn.Module) -> int:
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def run_of(model: Path, photos: Path, out: Path, **changes: Any) -> Run:
    values = SETTINGS | {"photos": [str(photos)], "model": str(model), "out": str(out)} | changes
    values = {key: value for key, value in values.items() if value is not None}
    return workflow.start(TrainConfig(**values), Display(quiet=True))


def files_of(run: Path) -> dict[str, str]:
    """A hash of what every file says, but for times and the folder's own name."""
    found: dict[str, str] = {}
    for file in sorted(path for path in run.rglob("*") if path.is_file() and "tensorboard" not in path.parts):
        name, data = str(file.relative_to(run)), file.read_bytes()
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as opened:
                tensors = {key: opened.get_tensor(key) for key in sorted(opened.keys())}
                told: Any = sorted((opened.metadata() or {}).items())  # whose order in the file is left to chance
            numbers = b"".join(
                value.contiguous().flatten().view(torch.uint8).numpy().tobytes() for value in tensors.values()
            )
            facts = [told, [(key, value.shape, value.dtype) for key, value in tensors.items()]]
            found[name] = f"{facts} {hashlib.sha256(numbers).hexdigest()}"
        elif file.suffix in (".png", ".txt") or name.startswith("model"):
            found[name] = hashlib.sha256(data.replace(str(run).encode(), b"RUN")).hexdigest()
        elif name in ("log.jsonl", "track.jsonl"):
            rows = [json.loads(line) for line in data.decode().splitlines()]
            found[name] = str([{key: value for key, value in row.items() if key != "seconds"} for row in rows])
        else:
            found[name] = ""
    return found


class TestParameters:
    def test_lent_and_taken_back_they_are_as_they_were(self, tiny_model: Path):
        backbone = backbones.load(str(tiny_model))
        before, name = weights(backbone), fingerprint(backbone)
        parts = [parameter for group in lendable(backbone).values() for parameter in group]
        lend(parts, CPU)
        assert all(is_lent(parameter) and parameter.dtype == torch.bfloat16 for parameter in parts)
        assert {parameter.dtype for parameter in backbone.modules["autoencoder"].parameters()} == {torch.float32}
        assert fingerprint(backbone) == name
        with originals(backbone.modules.values()):
            assert all(map(torch.equal, weights(backbone).values(), before.values()))
        assert {parameter.dtype for parameter in parts} == {torch.bfloat16}
        take_back(parts)
        assert not any(map(is_lent, parts))
        assert all(map(torch.equal, weights(backbone).values(), before.values()))

    def test_pretended_types_leave_the_values(self, tiny_model: Path):
        backbone = backbones.load(str(tiny_model))
        before = weights(backbone)
        with as_if_lent(lendable(backbone)["denoiser"]):
            assert {parameter.dtype for parameter in lendable(backbone)["denoiser"]} == {torch.bfloat16}
        assert all(map(torch.equal, weights(backbone).values(), before.values()))

    def test_a_family_that_reads_prompts_in_full_keeps_its_encoder(self, tiny_cascade: Path):
        assert lendable(backbones.load(str(tiny_cascade))).keys() == {"denoiser"}


@pytest.mark.usefixtures("apart")
class TestPlacing:
    @pytest.mark.parametrize("kind", METHODS)
    def test_all_that_stays_frozen_goes_rounded(self, kind: str, tiny_model: Path):
        backbone, method = backbones.load(str(tiny_model)), make_method(make_config(METHODS[kind]), "dog")
        place(backbone, CPU, method, "bf16")
        whole = {
            "denoiser": {"denoiser"},
            "denoiser and text encoder": {"denoiser", "text_encoder"},
        }.get(kind, set())
        for name, parameters in lendable(backbone).items():
            assert {is_lent(parameter) for parameter in parameters} == {name not in whole}
        trained = [parameter for group in method.prepare(backbone).values() for parameter in group]
        assert {parameter.dtype for parameter in trained} == {torch.float32} and not any(map(is_lent, trained))

    @pytest.mark.parametrize("kind", METHODS)
    def test_a_method_begins_with_the_same_values(self, kind: str, tiny_model: Path):
        states = []
        for lent in (False, True):
            backbone, method = backbones.load(str(tiny_model)), make_method(make_config(METHODS[kind]), "dog")
            if lent:
                place(backbone, CPU, method, "bf16")
            method.prepare(backbone)
            states.append({key: value.clone() for key, value in method.state_dict().items()})
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())

    @pytest.mark.parametrize("model", ["tiny_model", "tiny_xl"])
    def test_prior_samples_and_prompts_are_the_same_to_the_last_bit(self, model: str, request: pytest.FixtureRequest):
        place_of = str(request.getfixturevalue(model))
        whole, lent = backbones.load(place_of), backbones.load(place_of)
        place(lent, CPU, None, "bf16")
        sampling = Sampling(3, 3.0, "ddim", mixed_precision="bf16")
        assert torch.equal(*(b.sample_latents(["a dog", "a cat"], [1, 2], sampling) for b in (whole, lent)))
        with torch.autocast("cpu", torch.bfloat16):
            read = [b.encode_prompts(["a dog"]).tensors for b in (whole, lent)]
        assert all(torch.equal(value, read[1][name]) for name, value in read[0].items())
        pixels = torch.rand(2, 3, 64, 64) * 2 - 1
        assert torch.equal(*(b.encode_images(pixels) for b in (whole, lent)))

    def test_what_is_drawn_in_float32_elsewhere_is_drawn_in_bfloat16(self, tiny_model: Path):
        backbone, draft = backbones.load(str(tiny_model)), Sampling(2, 2.0, "ddim")
        assert precise(draft, backbone) == draft
        place(backbone, CPU, None, "bf16")
        assert precise(draft, backbone).mixed_precision == "bf16"
        assert backbone.sample_latents(["a dog"], [1], precise(draft, backbone)).isfinite().all()

    def test_nothing_is_lent_where_the_run_computes_in_float32(self, tiny_model: Path):
        backbone = backbones.load(str(tiny_model))
        place(backbone, CPU, None, "no")
        assert not any(is_lent(p) for module in backbone.modules.values() for p in module.parameters())


class TestEstimate:
    def test_is_what_lies_there(self, tiny_model: Path, apart: None):
        config = make_config({"method": "lora", "mixed_precision": "bf16", "train_batch_size": 1})
        backbone, method = backbones.load(str(tiny_model)), make_method(config, "dog")
        dry = estimate_memory(config, backbone, method, CPU)
        place(backbone, CPU, method, "bf16")
        assert estimate_memory(config, backbone, method, CPU) == dry
        held = sum(p.numel() * p.element_size() for m in backbone.modules.values() for p in m.parameters())
        assert dry.weights(True, True) == held < dry.weights()

    def test_kept_activations_are_less_without_rounding_each_step(
        self, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
    ):
        config = make_config({"method": "lora", "mixed_precision": "bf16", "train_batch_size": 1})
        found = []
        for own in (False, True):
            monkeypatch.setattr(transfer, "has_own_memory", lambda device, own=own: own)
            backbone, method = backbones.load(str(tiny_model)), make_method(config, "dog")
            found.append(estimate_memory(config, backbone, method, CPU))
        assert found[1].activations < found[0].activations


class Watch:
    """Bytes of weights on the device when a module computes, by phase and module; none that went to the host."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.phase, self.most, self.dtypes = "other", dict[tuple[str, str], int](), dict[str, set[torch.dtype]]()
        self._away: list[nn.Module] = []
        for phase, owner, name in [
            ("prior", workflow._Road, "_prior"),  # pyright: ignore[reportPrivateUsage]
            ("encode", workflow, "encode"),
            ("train", workflow._Road, "_finetune"),  # pyright: ignore[reportPrivateUsage]
            ("draw", workflow._Road, "_draw"),  # pyright: ignore[reportPrivateUsage]
        ]:
            monkeypatch.setattr(owner, name, self._within(phase, getattr(owner, name)))
        from dreambooth.holding import Holding

        leave, come = Holding.send_encoders_away, Holding._bring_encoders_back  # pyright: ignore[reportPrivateUsage]

        def left(holding: Holding) -> None:
            leave(holding)
            if holding.tier.encoders_away:
                self._away = holding.encoders

        def back(holding: Holding) -> None:
            come(holding)
            self._away = []

        monkeypatch.setattr(Holding, "send_encoders_away", left)
        monkeypatch.setattr(Holding, "_bring_encoders_back", back)
        load = backbones.load

        def loaded(*arguments: Any) -> Backbone:
            backbone = load(*arguments)
            autoencoder: Any = backbone.modules["autoencoder"]
            parts = {"encoder": autoencoder.encoder, "decoder": autoencoder.decoder}
            for name, part in (parts | {key: backbone.modules[key] for key in ("denoiser", "text_encoder")}).items():
                part.register_forward_pre_hook(lambda *_, name=name: self.look(backbone, name))
            return backbone

        monkeypatch.setattr(backbones, "load", loaded)

    def _within(self, phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            before, self.phase = self.phase, phase
            try:
                return call(*arguments, **named)
            finally:
                self.phase = before

        return watched

    def look(self, backbone: Backbone, module: str) -> None:
        there = [part for part in backbone.modules.values() if not any(part is gone for gone in self._away)]
        key = (self.phase, module)
        self.most[key] = max(self.most.get(key, 0), sum(map(held_bytes, there)))
        can_be = {id(weight) for weights in lendable(backbone).values() for weight in weights}
        named = [pair for part in backbone.modules.values() for pair in part.named_parameters()]
        own = {weight.dtype for name, weight in named if id(weight) in can_be and ".lora_" not in name}
        self.dtypes.setdefault(self.phase, set()).update(own)


class TestTheRoad:
    def test_the_float32_model_is_never_on_the_device(
        self, tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: None
    ):
        model = backbones.load(str(tiny_model))
        whole = {name: held_bytes(module) for name, module in model.modules.items()}
        rounded = sum(p.numel() for group in lendable(model).values() for p in group)
        lent = sum(whole.values()) - 2 * rounded
        assert lent < 0.7 * sum(whole.values())
        watch = Watch(monkeypatch)
        run_of(
            tiny_model,
            photos,
            tmp_path / "run",
            method="lora",
            memory="balanced",
            preview_prompts=[],
            train_text_encoder=False,
        )
        phases = ("other", "prior", "encode", "train", "draw")
        assert watch.dtypes == {phase: {torch.bfloat16} for phase in phases}
        adapter = sum(value.nbytes for value in load_file(tmp_path / "run/pytorch_lora_weights.safetensors").values())
        for part in ("text_encoder", "denoiser", "decoder"):
            assert watch.most["prior", part] == lent and watch.most["draw", part] == lent + adapter
        assert watch.most["encode", "encoder"] == lent
        denoiser = whole["denoiser"] - 2 * sum(p.numel() for p in lendable(model)["denoiser"])
        assert watch.most["train", "denoiser"] == adapter + denoiser  # the encoders have gone

    @pytest.mark.parametrize("kind", ["lora and text encoder", "one vector", "denoiser"])
    def test_every_file_is_what_it_was_without_the_loan(
        self, kind: str, tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        changes = METHODS[kind] | ({"identifier": None} if kind == "one vector" else {})
        found = []
        for own in (False, True):
            monkeypatch.setattr(transfer, "has_own_memory", lambda device, own=own: own)
            monkeypatch.setenv("DREAMBOOTH_CACHE", str(tmp_path / f"cache-{own}"))
            # In a folder of its own but of the same name, which pictures tell.
            monkeypatch.chdir(tmp_path)
            run = run_of(tiny_model, photos, Path("run"), memory="fast", applications=[], **changes)
            found.append(files_of(run.path))
            run.path.rename(tmp_path / f"was-{own}")
        whole, lent = found
        assert whole.keys() == lent.keys()
        assert {name for name in whole if whole[name] != lent[name]} == set()

    def test_a_finished_run_is_loaded_on_loan_and_draws_alike(
        self, tiny_model: Path, photos: Path, tmp_path: Path, apart: None, monkeypatch: pytest.MonkeyPatch
    ):
        run = run_of(tiny_model, photos, tmp_path / "run", method="lora", memory="fast")
        lent = kept.load(RunFolder.open(run.path), CPU)
        monkeypatch.setattr(transfer, "has_own_memory", lambda device: False)
        plain = kept.load(RunFolder.open(run.path), CPU)
        assert any(map(is_lent, lendable(lent)["denoiser"])) and not any(map(is_lent, lendable(plain)["denoiser"]))
        assert all(
            torch.equal(original(mine), other)
            for mine, other in zip(lendable(lent)["denoiser"], lendable(plain)["denoiser"], strict=True)
        )
        sampling = Sampling(2, 2.0, "ddim", mixed_precision="bf16")
        assert torch.equal(*(b.sample_latents(["a zqk dog"], [1], sampling) for b in (lent, plain)))


class TestSparing:
    """The lean tier beside a GPU: pictures one by one, and nothing beside the autoencoder when it works."""

    @pytest.mark.parametrize("model", ["tiny_model", "tiny_xl"])
    def test_draws_one_by_one_and_codes_with_the_autoencoder_alone(
        self, model: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, apart: None
    ):
        backbone, sampling = backbones.load(str(request.getfixturevalue(model))), Sampling(2, 3.0, "ddim")
        others = {id(module) for name, module in backbone.modules.items() if name != "autoencoder"}
        rows, alone, gone = list[int](), list[bool](), set[int]()
        wait = transfer.waiting

        @contextmanager
        def watched(modules: Any, device: torch.device) -> Generator[None]:
            gone.update(map(id, modules))
            with wait(modules, device):
                yield
            gone.clear()

        monkeypatch.setattr(transfer, "waiting", watched)
        backbone.modules["denoiser"].register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
        for part in ("encoder", "decoder"):
            module: Any = getattr(backbone.modules["autoencoder"], part)
            module.register_forward_pre_hook(lambda *_: alone.append(gone == others))
        found = []
        for on in (False, True):
            rows.clear()
            alone.clear()
            backbone.spare_memory(on)
            found.append(backbone.sample_latents(["a dog", "a cat"], [1, 2], sampling))
            backbone.decode_latents(found[-1])
            backbone.encode_images(torch.rand(1, 3, 64, 64) * 2 - 1)
            assert set(rows) == {2 if on else 4} and set(alone) == {on} and not gone
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)

    def test_where_there_is_no_other_memory_nothing_is_spared(self, tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(transfer, "waiting", None)
        backbone = backbones.load(str(tiny_model))
        backbone.spare_memory(True)
        assert backbone.encode_images(torch.zeros(1, 3, 64, 64)).isfinite().all()

    @pytest.mark.parametrize(
        ("memory", "phases"), [("lean", {"prior", "encode", "train", "draw", "other"}), ("fast", set())]
    )
    def test_the_lean_tier_spares_in_every_phase(
        self, memory: str, phases: set[str], tiny_model: Path, photos: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch, apart: None,
    ):  # fmt: skip
        watch, wait, seen = Watch(monkeypatch), transfer.waiting, set[str]()

        def watched(modules: Any, device: torch.device) -> Any:
            seen.add(watch.phase)
            return wait(modules, device)

        monkeypatch.setattr(transfer, "waiting", watched)
        run_of(tiny_model, photos, tmp_path / "run", method="lora", memory=memory)
        assert seen == phases
