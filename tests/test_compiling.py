"""What was compiled once serves other runs, and what is broken of it is made anew."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from dreambooth.caches import cache_folder
from dreambooth.compiling import INDUCTOR_FOLDER, Regions, forget_compiled, keep_compiled


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values + nn.functional.gelu(self.inner(values))


class Net(nn.Sequential):
    _repeated_blocks = ("Block",)


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(INDUCTOR_FOLDER, "")  # so that it is put back
    monkeypatch.delenv(INDUCTOR_FOLDER)
    yield
    torch.compiler.reset()


def compiled(net: Net) -> tuple[torch.Tensor, int, int]:
    """The gradient through the compiled net, and how often its code was found and not found, as in a new process."""
    torch.compiler.reset()
    counters.clear()
    regions = Regions(net)
    regions.switch(True)
    values = torch.ones(2, 4, requires_grad=True)
    net(values).sum().backward()
    regions.switch(False)
    assert values.grad is not None
    found = counters["inductor"]
    return values.grad, found["fxgraph_cache_hit"], found["fxgraph_cache_miss"]


def test_what_was_compiled_serves_the_next_run_and_what_is_broken_is_made_anew():
    net = Net(Block(), Block())
    first, found, missed = compiled(net)
    folder = Path(os.environ[INDUCTOR_FOLDER])
    assert folder.parent == cache_folder("compiled") and found == 0 and missed > 0
    again, found, missed = compiled(net)
    assert torch.equal(again, first) and found > 0 and missed == 0
    kept = [path for path in folder.rglob("*") if path.is_file() and path.suffix in ("", ".py", ".cpp")]
    assert kept
    for path in kept:
        path.write_bytes(b"foreign")
    anew, found, missed = compiled(net)
    assert torch.equal(anew, first) and found == 0 and missed > 0


def test_torchs_default_does_not_count_as_a_choice(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(INDUCTOR_FOLDER, default_cache_dir())
    assert keep_compiled().parent == cache_folder("compiled")


def test_a_folder_of_the_users_own_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv(INDUCTOR_FOLDER, str(tmp_path))
    (tmp_path / "mine").touch()
    assert keep_compiled() == tmp_path and not forget_compiled() and (tmp_path / "mine").exists()


def test_ours_is_deleted_where_compiling_fails():
    folder = keep_compiled()
    assert not forget_compiled()  # there is nothing
    folder.mkdir(parents=True)
    (folder / "broken").touch()
    assert forget_compiled() and not folder.exists()
