"""The weights that travel with the package. Each folder is an ordinary diffusers or transformers model."""

from pathlib import Path


def embedded() -> dict[str, Path]:
    """Names of the embedded models and the folders that hold them."""
    folder = Path(__file__).parent
    markers = ("model_index.json", "config.json")
    found = [path for path in folder.iterdir() if any((path / marker).exists() for marker in markers)]
    return {path.name: path for path in sorted(found)}


def pipelines() -> dict[str, Path]:
    """Those of them that draw; the others are encoders that judge."""
    return {name: path for name, path in embedded().items() if (path / "model_index.json").exists()}
