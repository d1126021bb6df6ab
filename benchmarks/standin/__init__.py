"""Runs a public training script where torchvision is missing: `python -m benchmarks.standin SCRIPT ARGUMENTS`."""
