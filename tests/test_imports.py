"""Imports follow the arrows of the design: nothing on the road knows what comes after it."""

import ast
import subprocess
import sys
from pathlib import Path

import dreambooth

SOURCE = Path(dreambooth.__file__).parent

# From the ground up; a module may import from its own layer or a lower one. A module of a package stands where the
# package does, unless it is named itself.
LAYERS = [
    {"errors", "caches", "folders", "heap", "precision", "transfer"},
    {"config", "seeding", "ui", "sheets", "pages", "models", "nouns", "original"},
    {"photo", "process", "loss", "optimizers", "compiling", "attention", "meter"},
    {"subject"},
    {"prompts", "identifier", "masks"},
    {"backbones"},
    {"methods", "memory", "lending", "holding"},
    {"prior", "checkpoint"},
    {"examples", "squares"},
    {"composition", "plan", "train_state", "reports"},
    {"stages"},
    {"trainer", "fitting"},
    {"drawing"},
    {"kept"},
    {"evaluation", "run", "export"},
    {"tracking", "class_noun", "segmentation"},
    {"prepare"},
    {"workflow"},
    {"evaluation.benchmark", "evaluation.cli"},
    {"cli"},
    {"__main__"},
]
BESIDE_THE_ROAD = "toybox"


LEVEL = {name: number for number, names in enumerate(LAYERS) for name in names}


def part(module: str) -> str:
    """What stands in LAYERS for a module, such as "trainer" or "evaluation.cli"; "dreambooth" for the package."""
    names = module.split(".")[1:]
    return ".".join(names[:2]) if ".".join(names[:2]) in LEVEL else names[0] if names else "dreambooth"


def part_of(file: Path) -> str:
    return part(".".join(["dreambooth", *file.relative_to(SOURCE).with_suffix("").parts]))


def imports(file: Path) -> set[str]:
    """Parts of the package that a file imports, at the top or inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {part(alias.name) for alias in node.names if alias.name.split(".")[0] == "dreambooth"}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "dreambooth":
            found |= {part(f"{node.module}.{alias.name}") for alias in node.names}
    return found


def test_no_backward_arrow():
    for file in SOURCE.rglob("*.py"):
        own = part_of(file)
        if own in (BESIDE_THE_ROAD, "__init__"):
            continue
        assert own in LEVEL, f"{own} has no place in LAYERS"
        for other in imports(file):
            if other in LEVEL:
                assert LEVEL[other] <= LEVEL[own], f"{file.name} imports {other}, which comes after it"


def test_the_road_never_imports_the_toybox():
    for file in SOURCE.rglob("*.py"):
        if part_of(file) not in (BESIDE_THE_ROAD, "cli"):
            assert BESIDE_THE_ROAD not in imports(file), file.name


def test_import_is_silent_fast_and_light():
    code = """
import sys, time
start = time.perf_counter()
import dreambooth
seconds = time.perf_counter() - start
heavy = {"torch", "diffusers", "transformers", "PIL", "numpy", "pydantic"} & set(sys.modules)
assert not heavy, heavy
print(seconds)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1 and float(done.stdout) < 0.3


def test_public_names_exist():
    assert all(callable(getattr(dreambooth, name)) for name in dreambooth.__all__)
