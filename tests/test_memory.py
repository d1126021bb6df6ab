"""Memory tiers: the same training in each, resumed in each, and what happens where memory ends."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from dreambooth import backbones, fitting, transfer
from dreambooth.checkpoint import RunFolder
from dreambooth.compiling import COMPILED_CALL, Regions
from dreambooth.config import make_config
from dreambooth.errors import RunError, TrainingError
from dreambooth.fitting import Fit, choose, finetune_within_memory, fitted, measure, read_tier, settle
from dreambooth.holding import Holding, addresses, in_host_memory
from dreambooth.lending import multiplied
from dreambooth.memory import BALANCED, FAST, LEAN, TIERS, Tier, is_out_of_memory
from dreambooth.meter import Peak, available_bytes
from dreambooth.methods import make_method
from dreambooth.methods.full import FullFineTuning
from dreambooth.optimizers import SMALL
from dreambooth.plan import activation_bytes, activations_of, estimate_memory
from dreambooth.train_state import Settings, TrainState
from dreambooth.trainer import Loss, StepReport, finetune
from tests.methods.test_contract import RATES as CONTRACT_RATES
from tests.methods.test_contract import subject
from tests.test_trainer import assert_equal, examples, settings

EACH = pytest.mark.parametrize("tier", [*TIERS.values(), replace(LEAN, split=2)], ids=str)
CPU = torch.device("cpu")


def train(
    model: Path,
    folder: Path,
    tier: Tier,
    spoil: Callable[[Any], None] = lambda backbone: None,
    warnings: list[str] | None = None,
    **changes: Any,
):
    """Weights after training in a new or existing run folder, and the reports."""
    run = RunFolder.open(folder) if (folder / "config.toml").exists() else RunFolder.create(folder, make_config({}))
    backbone, method = backbones.load(str(model)), FullFineTuning()
    spoil(backbone)
    reports: list[StepReport] = []
    told = [] if warnings is None else warnings
    finetune_within_memory(
        backbone, method, examples(), settings(**changes), run, tier, told.append, on_step=reports.append
    )
    assert {parameter.dtype for parameter in backbone.modules["denoiser"].parameters()} == {torch.float32}
    return {key: value.clone() for key, value in method.state_dict().items()}, reports


def losses(reports: list[StepReport]) -> list[float]:
    return [report.loss for report in reports]


def ends(backbone: Any, call: int, error: Exception) -> None:
    """Memory ends at that call of the denoiser, from 1, and never again."""
    denoise, calls = backbone.denoise, 0

    def failing(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == call:
            raise error
        return denoise(*arguments)

    backbone.denoise = failing


def at_work(model: Path, tier: Tier, **changes: Any) -> tuple[TrainState, Loss, Settings]:
    backbone, method = backbones.load(str(model)), FullFineTuning()
    chosen = fitted(settings(**changes), tier)
    state = TrainState.build(backbone, method, chosen)
    rows = chosen.train_batch_size * chosen.gradient_accumulation_steps
    return state, Loss(backbone, method, examples(), chosen, rows), chosen


class TestTraining:
    def test_balanced_gives_the_numbers_of_fast(self, tiny_model: Path, tmp_path: Path):
        fast, fast_log = train(tiny_model, tmp_path / "fast", FAST, max_train_steps=20)
        balanced, balanced_log = train(tiny_model, tmp_path / "balanced", BALANCED, max_train_steps=20)
        assert losses(balanced_log) == pytest.approx(losses(fast_log), rel=1e-5)
        for key in fast:
            torch.testing.assert_close(balanced[key], fast[key], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("precision", ["no", "bf16"])
    def test_lean_stays_close_to_fast(self, tiny_model: Path, tmp_path: Path, precision: str):
        changes = {"max_train_steps": 20, "mixed_precision": precision, "max_grad_norm": 100.0}
        _, fast = train(tiny_model, tmp_path / "fast", FAST, **changes)
        _, lean = train(tiny_model, tmp_path / "lean", LEAN, **changes)
        first = 1e-5 if precision == "no" else 5e-3
        assert lean[0].loss == pytest.approx(fast[0].loss, rel=first)
        assert lean[0].grad_norm == pytest.approx(fast[0].grad_norm, rel=1e-4 if precision == "no" else 2e-2)
        assert losses(lean) == pytest.approx(losses(fast), rel=0.03)

    def test_cut_micro_batches_make_the_same_step(self, tiny_model: Path, tmp_path: Path):
        _, whole = train(tiny_model, tmp_path / "whole", LEAN, train_batch_size=4, max_train_steps=3)
        cut = replace(LEAN, split=4)
        _, parts = train(tiny_model, tmp_path / "parts", cut, train_batch_size=4, max_train_steps=3)
        assert losses(parts) == pytest.approx(losses(whole), rel=5e-3)
        assert parts[0].loss == pytest.approx(whole[0].loss, rel=1e-5)
        assert parts[0].grad_norm == pytest.approx(whole[0].grad_norm, rel=1e-4)

    @EACH
    @pytest.mark.parametrize("precision", ["no", "bf16"])
    def test_resumes_bit_for_bit(self, tiny_model: Path, tmp_path: Path, tier: Tier, precision: str):
        changes = {"mixed_precision": precision, "checkpointing_steps": 2, "ema_decay": 0.9}
        whole, _ = train(tiny_model, tmp_path / "whole", tier, max_train_steps=5, **changes)
        train(tiny_model, tmp_path / "part", tier, max_train_steps=2, **changes)
        resumed, _ = train(tiny_model, tmp_path / "part", tier, max_train_steps=5, **changes)
        assert_equal(whole, resumed)

    def test_gradients_go_as_they_come(self, tiny_model: Path):
        state, loss, _ = at_work(tiny_model, LEAN)
        before = [parameter.detach().clone() for parameter in state.parameters]
        state.begin(0)
        state.backward(loss(next(examples().batches(0, 0, 2, 1)), 0).total, last=True)
        assert all(parameter.grad is None for parameter in state.parameters)
        moved = [not torch.equal(old, new) for old, new in zip(before, state.parameters, strict=True)]
        assert sum(moved) > 0.9 * len(moved)

    def test_gradients_stay_until_the_last_micro_batch(self, tiny_model: Path):
        state, loss, s = at_work(tiny_model, replace(LEAN, split=2))
        before = [parameter.detach().clone() for parameter in state.parameters]
        first, last = examples().batches(0, 0, s.train_batch_size, s.gradient_accumulation_steps)
        state.begin(0)
        state.backward(loss(first, 0).total, last=False)
        assert all(torch.equal(old, new) for old, new in zip(before, state.parameters, strict=True))
        assert all(parameter.grad is not None for parameter in state.parameters)
        state.backward(loss(last, 0).total, last=True)
        assert all(parameter.grad is None for parameter in state.parameters)

    def test_large_weights_take_two_bytes_and_norms_four(self, tiny_model: Path):
        state, _, _ = at_work(tiny_model, LEAN, mixed_precision="bf16")
        kinds = {(parameter.numel() >= SMALL, parameter.dtype) for parameter in state.parameters}
        assert kinds == {(True, torch.bfloat16), (False, torch.float32)}
        state.release()
        assert {parameter.dtype for parameter in state.parameters} == {torch.float32}

    @pytest.mark.parametrize("method", ["lora", "textual-inversion"])
    def test_frozen_weights_lie_rounded_on_a_device_with_its_own_memory(
        self, method: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        found = {}
        for apart in (False, True):
            monkeypatch.setattr(transfer, "has_own_memory", lambda device, apart=apart: apart)
            backbone, chosen = backbones.load(str(tiny_model)), make_method(make_config({"method": method}), "dog")
            frozen = [*multiplied(backbone.modules["denoiser"]), *multiplied(backbone.modules["text_encoder"])]
            before = [weight.detach().clone() for weight in frozen]
            log: list[tuple[float, set[torch.dtype]]] = []

            def look(report: StepReport, frozen: Any = frozen, log: Any = log) -> None:
                log.append((report.loss, {weight.dtype for weight in frozen}))

            data = replace(examples(), prompts=(subject(chosen), "a dog"))
            steps = settings(max_train_steps=5, mixed_precision="bf16", learning_rates=CONTRACT_RATES)
            run = RunFolder.create(tmp_path / f"{apart}", make_config({}))
            finetune(backbone, chosen, data, steps, run, look)
            assert all(map(torch.equal, frozen, before))
            found[apart] = [loss for loss, _ in log], [dtypes for _, dtypes in log]
        assert found[True][0] == found[False][0] and len(set(found[True][0])) == 5
        assert found[True][1] == [{torch.bfloat16}] * 5 and found[False][1] == [{torch.float32}] * 5

    def test_pictures_are_drawn_with_whole_weights(self, tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(transfer, "has_own_memory", lambda device: True)
        backbone = backbones.load(str(tiny_model))
        weights = multiplied(backbone.modules["denoiser"])
        before = [weight.detach().clone() for weight in weights]
        holding = Holding(backbone, {}, FAST, True, trains_text=False)
        assert {weight.dtype for weight in weights} == {torch.bfloat16}
        with holding.complete():
            assert all(map(torch.equal, weights, before))
        assert {weight.dtype for weight in weights} == {torch.bfloat16}
        holding.release()
        assert all(map(torch.equal, weights, before))

    def test_a_small_share_of_the_weights_is_trained_whole(self):
        assert LEAN.for_share(0.01) == replace(LEAN, lean_optimizer=False)
        assert LEAN.for_share(0.5) == LEAN

    def test_trained_text_encoder_is_computed_twice_as_well(self, tiny_model: Path, recwarn: pytest.WarningsRecorder):
        backbone, method = backbones.load(str(tiny_model)), FullFineTuning(train_text_encoder=True)
        TrainState.build(backbone, method, settings(tier=BALANCED))
        assert not [warning for warning in recwarn if "checkpointing" in str(warning.message)]
        assert backbone.modules["text_encoder"].is_gradient_checkpointing  # pyright: ignore

    def test_activations_in_host_memory_give_the_same_gradient(self, tiny_model: Path):
        gradients = []
        for away in (False, True):
            state, loss, _ = at_work(tiny_model, FAST)
            weights = state.holding.backbone.modules["denoiser"].parameters()
            with in_host_memory(addresses(weights), least_bytes=0) if away else nullcontext():
                loss(next(examples().batches(0, 0, 2, 1)), 0).total.backward()
            gradients.append([parameter.grad for parameter in state.parameters])
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)

    def test_activations_move_and_weights_stay(self):
        weight, data = torch.nn.Parameter(torch.ones(4, 4)), torch.ones(4, 4)
        with in_host_memory(addresses([weight]), least_bytes=0):
            result = data @ weight.t()
        data.zero_()  # what was kept is a copy
        result.sum().backward()
        assert weight.grad is not None and torch.equal(weight.grad, torch.full((4, 4), 4.0))

    @pytest.mark.usefixtures("apart")
    def test_weights_stay_after_a_look_that_moved_them(self, tiny_model: Path):
        """Pictures in the lean tier send weights to the host and back, to other addresses."""
        backbone = backbones.load(str(tiny_model))
        denoiser = backbone.modules["denoiser"]
        holding = Holding(backbone, {"denoiser": list(denoiser.parameters())}, LEAN, False, trains_text=False)
        with holding.at_work():
            before = addresses(denoiser.parameters())
            with holding.complete():
                kept = [parameter.data for parameter in denoiser.parameters()]
                for parameter in denoiser.parameters():
                    parameter.data = parameter.data.clone()
            now = addresses(denoiser.parameters())
            assert kept and not before & now
            assert holding.places == now

    def test_encoders_leave_only_where_nothing_uses_them(self, tiny_model: Path):
        backbone = backbones.load(str(tiny_model))
        text, pictures = backbone.modules["text_encoder"], backbone.modules["autoencoder"]
        assert Holding(backbone, {}, LEAN, False, trains_text=False).encoders == [text, pictures]
        assert Holding(backbone, {}, LEAN, False, trains_text=True).encoders == [pictures]


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU's memory counts as a device's own."""
    monkeypatch.setattr(transfer, "has_own_memory", lambda device: True)


class TestMemoryEnds:
    def test_in_the_forward_pass_goes_on_from_that_step(self, tiny_model: Path, tmp_path: Path):
        plain, plain_log = train(tiny_model, tmp_path / "plain", FAST)
        warnings: list[str] = []
        error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        spoiled, log = train(tiny_model, tmp_path / "run", FAST, lambda b: ends(b, 3, error), warnings)
        assert [report.step for report in log] == [1, 2, 3, 4]
        assert losses(log) == pytest.approx(losses(plain_log), rel=1e-5)
        for key in plain:
            torch.testing.assert_close(spoiled[key], plain[key], rtol=1e-4, atol=1e-5)
        assert len(warnings) == 1 and "after step 2 in tier balanced, with the same 2 photos" in warnings[0]
        record = json.loads((tmp_path / "run/memory.json").read_text())
        assert (record["tier"], record["split"]) == ("balanced", 1)
        lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 3, 4]

    def test_leanest_cuts_micro_batches_and_keeps_the_step(self, tiny_model: Path, tmp_path: Path):
        plain, _ = train(tiny_model, tmp_path / "plain", LEAN)
        error = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        spoiled, log = train(tiny_model, tmp_path / "run", LEAN, lambda b: ends(b, 2, error))
        assert read_tier(RunFolder.open(tmp_path / "run")) == replace(LEAN, split=2)
        assert [report.step for report in log] == [1, 2, 3, 4]
        for key in plain:
            torch.testing.assert_close(spoiled[key], plain[key], rtol=0, atol=2e-3)

    @pytest.mark.parametrize("every", [2, 100])
    def test_half_way_through_an_update_goes_back_to_what_was_whole(
        self, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
    ):
        """To the checkpoint of step 2, or, without one, to the base model: then it is the cut training from step 1."""
        plain, _ = train(tiny_model, tmp_path / "plain", replace(LEAN, split=2), checkpointing_steps=every)
        step_parameter, calls, reached = fitting.TrainState._step_within_backward, 0, []

        def spoiled_hooks(state: TrainState) -> None:
            step_parameter(state)
            own = state.optimizer.step_parameter

            def failing(*arguments: Any) -> None:
                nonlocal calls
                calls += 1
                if calls == int(2.5 * len(state.parameters)):
                    reached.append(state.step)
                    raise torch.OutOfMemoryError("out of memory")
                own(*arguments)

            state.optimizer.step_parameter = failing

        monkeypatch.setattr(TrainState, "_step_within_backward", spoiled_hooks)
        warnings: list[str] = []
        ended, _ = train(tiny_model, tmp_path / "run", LEAN, warnings=warnings, checkpointing_steps=every)
        assert reached == [2] and f"after step {2 if every == 2 else 0} in tier lean" in warnings[0]
        if every == 100:
            assert_equal(ended, plain)
        else:
            assert all(torch.allclose(ended[key], plain[key], atol=2e-3) for key in plain)

    def test_in_the_last_tier_it_is_told(self, tiny_model: Path, tmp_path: Path):
        with pytest.raises(TrainingError, match=r"leanest tier \(no room\).*lower --resolution"):
            train(tiny_model, tmp_path / "run", LEAN, lambda b: ends(b, 1, MemoryError("no room")), train_batch_size=1)

    def test_other_errors_are_not_taken_for_it(self, tiny_model: Path, tmp_path: Path):
        with pytest.raises(RuntimeError, match="shape"):
            train(tiny_model, tmp_path / "run", FAST, lambda b: ends(b, 1, RuntimeError("shape")))

    def test_what_a_cpu_says(self):
        with pytest.raises(RuntimeError) as caught:
            torch.empty(1 << 59)
        assert is_out_of_memory(caught.value)


class TestCompiling:
    def test_gives_the_numbers_of_the_plain_loop_and_leaves_nothing(self, tiny_model: Path, tmp_path: Path):
        plain, plain_log = train(tiny_model, tmp_path / "plain", FAST, max_train_steps=20)
        seen = []
        compiled, log = train(
            tiny_model, tmp_path / "run", FAST, seen.append, max_train_steps=20, compile_backend="aot_eager"
        )
        assert losses(log) == pytest.approx(losses(plain_log), rel=1e-5)
        for key in plain:
            torch.testing.assert_close(compiled[key], plain[key], rtol=1e-4, atol=1e-5)
        assert all(vars(module).get(COMPILED_CALL) is None for module in seen[0].modules["denoiser"].modules())

    def test_takes_the_blocks_that_repeat(self, tiny_model: Path):
        denoiser = backbones.load(str(tiny_model)).modules["denoiser"]
        regions = Regions(denoiser, "aot_eager")
        regions.switch(True)
        compiled = [module for module in denoiser.modules() if COMPILED_CALL in vars(module)]
        assert {type(module).__name__ for module in compiled} == {"BasicTransformerBlock"}
        regions.switch(False)
        assert not [module for module in denoiser.modules() if COMPILED_CALL in vars(module)]

    def test_is_tried_anew_once_without_what_was_kept(
        self, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        forgotten = iter([True, True])
        monkeypatch.setattr(fitting, "forget_compiled", lambda: next(forgotten))
        warnings: list[str] = []
        train(tiny_model, tmp_path / "run", FAST, warnings=warnings, compile_backend="no-such-backend")
        assert [warning.rpartition("; ")[2] for warning in warnings] == [
            "what earlier runs had compiled is deleted, and it is tried anew.",
            "training goes on without it.",
        ]

    def test_goes_on_without_it_where_it_fails(self, tiny_model: Path, tmp_path: Path):
        plain, _ = train(tiny_model, tmp_path / "plain", FAST)
        warnings: list[str] = []
        ended, log = train(tiny_model, tmp_path / "run", FAST, warnings=warnings, compile_backend="no-such-backend")
        assert_equal(ended, plain)
        assert len(warnings) == 1 and warnings[0].startswith("Compiling failed (")
        assert [report.step for report in log] == [1, 2, 3, 4]


class TestEstimate:
    @pytest.mark.parametrize("trains_text", [False, True])
    def test_many_rows_grow_as_few_do(self, tiny_model: Path, trains_text: bool):
        backbone = backbones.load(str(tiny_model))
        assert activations_of(backbone, 40, trains_text) == activation_bytes(backbone, 40, trains_text)

    def test_a_batch_that_this_machine_has_no_room_for(self, tiny_model: Path):
        config = make_config({"train_batch_size": 1, "mixed_precision": "no"})
        backbone, rows = backbones.load(str(tiny_model)), 10**9
        one, many = (
            estimate_memory(config.model_copy(update={"train_batch_size": size}), backbone, FullFineTuning())
            for size in (1, rows)
        )
        assert many.activations == pytest.approx(rows * one.activations, rel=0.1)


class TestChoice:
    def fit(self, backbone: Any, asked: Any = "auto") -> Fit:
        config = make_config({"train_batch_size": 2, "mixed_precision": "no"})
        return Fit(asked, estimate_memory(config, backbone, FullFineTuning()), True)

    def test_a_measured_step_leaves_the_weights_alone(self, tiny_model: Path):
        backbone, other = backbones.load(str(tiny_model)), backbones.load(str(tiny_model))
        for tier in (FAST, BALANCED):
            taken = measure(backbone, FullFineTuning(), settings(gradient_accumulation_steps=3), tier)
            assert taken is not None and taken >= 0
        for name, module in backbone.modules.items():
            assert_equal(dict(module.state_dict()), dict(other.modules[name].state_dict()))
            assert not any(parameter.requires_grad for parameter in module.parameters())

    def test_the_fastest_that_fits(self, tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
        backbone, method = backbones.load(str(tiny_model)), FullFineTuning()
        fit, asked = self.fit(backbone), []
        monkeypatch.setattr(fitting, "measure", lambda b, m, s, tier, p: asked.append(tier) or 10**6)
        monkeypatch.setattr(fitting, "available_bytes", lambda device: 10**12)
        assert choose(backbone, method, settings(), fit)[0] == FAST and asked == [FAST]
        # Between both estimates: the fast one is not even tried on a CPU, the balanced one is.
        between = (fit.estimate.total(FAST, False, False) + fit.estimate.total(BALANCED, False, False)) // 2
        monkeypatch.setattr(fitting, "available_bytes", lambda device: between - fit.estimate.weights())
        monkeypatch.setattr(fitting, "measure", lambda b, m, s, tier, p: asked.append(tier) or 0)
        assert choose(backbone, method, settings(), fit)[0] == BALANCED and asked == [FAST, BALANCED]
        monkeypatch.setattr(fitting, "available_bytes", lambda device: 1000)
        tier, why = choose(backbone, method, settings(), fit)
        assert tier == LEAN and "do not fit" in why and asked == [FAST, BALANCED]

    def test_memory_that_ends_in_the_trial_rules_a_tier_out(self, tiny_model: Path):
        backbone = backbones.load(str(tiny_model))
        ends(backbone, 2, torch.OutOfMemoryError("out of memory"))
        assert choose(backbone, FullFineTuning(), settings(), self.fit(backbone))[0] == BALANCED

    def test_is_recorded_and_kept(self, tiny_model: Path, tmp_path: Path):
        run, backbone = RunFolder.create(tmp_path / "run", make_config({})), backbones.load(str(tiny_model))
        told: list[str] = []
        for asked in ("balanced", "fast"):
            tier = settle(run, backbone, FullFineTuning(), settings(), self.fit(backbone, asked), told.append)
            assert tier == BALANCED
        assert told == ["Memory tier balanced: as asked."]
        (run.path / "memory.json").write_text('{"tier": "small"}')
        with pytest.raises(RunError, match="names no memory tier; delete it"):
            read_tier(run)

    def test_estimates_fall_from_tier_to_tier(self, tiny_model: Path):
        estimate = self.fit(backbones.load(str(tiny_model))).estimate
        for on_gpu in (False, True):
            totals = [estimate.total(tier, True, on_gpu) for tier in TIERS.values()]
            assert totals[0] > totals[1] > totals[2] > 0
        weights = sum(
            p.numel() for module in backbones.load(str(tiny_model)).modules.values() for p in module.parameters()
        )
        assert estimate.weights() == 4 * weights

    @pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process's peak")
    def test_peak_is_what_was_taken_and_freed(self):
        with Peak(CPU) as peak:
            block = torch.ones(20_000_000)
            del block
        assert peak.bytes is not None and 70e6 < peak.bytes < 150e6
        assert available_bytes(CPU) > 0


class TestPlainAttention:
    def test_gives_the_numbers_of_the_fused_one_and_leaves_nothing(
        self, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        seen: list[Any] = []
        used: list[set[type]] = []

        def look(backbone: Any) -> None:
            seen.append(backbone)
            denoiser = backbone.modules["denoiser"]
            denoiser.register_forward_hook(lambda *_: used.append({type(p) for p in denoiser.attn_processors.values()}))

        plain, plain_log = train(tiny_model, tmp_path / "plain", FAST, look, max_train_steps=20)
        assert used == 20 * [{AttnProcessor}]
        monkeypatch.setattr("dreambooth.attention.MOST_POSITIONS", 0)
        used.clear()
        fused, log = train(tiny_model, tmp_path / "fused", FAST, look, max_train_steps=20)
        assert used == 20 * [{AttnProcessor2_0}]
        assert losses(plain_log) == pytest.approx(losses(log), rel=1e-5)
        for key in plain:
            torch.testing.assert_close(plain[key], fused[key], rtol=1e-4, atol=1e-4)
        for backbone in seen:
            kinds = {type(p) for p in backbone.modules["denoiser"].attn_processors.values()}
            assert kinds == {AttnProcessor2_0}
