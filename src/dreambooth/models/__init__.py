"""The embedded models: small pipelines whose weights come with the package."""

from __future__ import annotations

from pathlib import Path


def embedded() -> dict[str, Path]:
    """Names of the embedded models and their folders, for those whose weights are there."""
    return {index.parent.name: index.parent for index in sorted(Path(__file__).parent.glob("*/model_index.json"))}
