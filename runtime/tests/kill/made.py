"""What the helper processes of the kill tests share."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from precog_runtime.metrics import Metrics
from precog_runtime.store import Schema

SCHEMA = Schema(0x54455354, 1, ("CREATE TABLE IF NOT EXISTS numbers (number INTEGER NOT NULL, text TEXT)",))
PUT = "INSERT INTO numbers VALUES (?, ?)"


def errors(metrics: Metrics, kind: str) -> float:
    return metrics.registry.get_sample_value("precog_errors_total", {"kind": kind}) or 0.0
