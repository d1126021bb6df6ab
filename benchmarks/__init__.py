"""How fast and how lean: ours, the plain loop and public trainers side by side, and how far from the machine's floor.

`python -m benchmarks --help`; docs/benchmarks.md says what each number means.
"""
