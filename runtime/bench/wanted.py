"""What the benchmarks print last: which figure was wanted, what was found, and whether that is enough."""

from __future__ import annotations


def wanted(figure: str, found: float, most: float, unit: str) -> None:
    """Print the verdict on a figure. A benchmark is no test: on a busy machine none is met, and it ends with 0."""
    print(f"wanted: {figure} <= {most:g} {unit}: {'met' if found <= most else 'not met'} ({found:.3g})", flush=True)
