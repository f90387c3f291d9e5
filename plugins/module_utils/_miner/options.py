# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What miner_service can be given, and its gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._engine.options import ON_UNSUPPORTED, STATE

if TYPE_CHECKING:
    from .._engine.options import Options

GATE: Options = {
    "ready_s": {"type": "float", "default": 60.0},
    "soak_s": {"type": "float", "default": 3.0},
    "rate_hz": {"type": "float", "default": 20.0},
    "deadline_ms": {"type": "float", "default": 2000.0},
    "p99_ms": {"type": "float", "default": 500.0},
    "p99_factor": {"type": "float", "default": 2.0},
    "p99_slack_ms": {"type": "float", "default": 50.0},
    "error_rate": {"type": "float", "default": 0.0},
    "price_tolerance": {"type": "float", "default": 0.05},
    "max_age_s": {"type": "float", "default": 60.0},
    # The default model's are 0.05 % to 45 % wide, from a currency's to that of the liveliest asset.
    "interval_min": {"type": "float", "default": 0.0001},
    "interval_max": {"type": "float", "default": 0.5},
    "growth_kb": {"type": "float", "default": 512.0},
    "drain_s": {"type": "float", "default": 0.0},
    "rejoin_s": {"type": "float", "default": 0.0},
}

OPTIONS: Options = {
    **STATE,
    "environment": {"type": "path", "default": ""},
    "release": {"type": "str", "default": ""},
    "allow_withdrawn": {"type": "str", "default": ""},
    "label": {"type": "str", "default": ""},
    "hold": {"type": "str", "default": ""},
    "instances": {"type": "dict", "default": {"main": {}}},
    "instance_defaults": {"type": "dict", "default": {}},
    "hotkeys": {"type": "dict", "default": {}, "no_log": True},
    "api_key": {"type": "str", "default": "", "no_log": True},
    "variables": {"type": "dict", "default": {}},
    "secret_variables": {"type": "list", "elements": "str", "default": [], "no_log": False},
    # The action moves secret variables here: by instance, as one JSON text.
    "secrets": {"type": "dict", "default": {}, "no_log": True},
    "upstream": {"type": "dict", "default": {}},
    "gate": {"type": "dict", "default": {}},
    "peers": {"type": "list", "elements": "dict", "default": []},
    "keep": {"type": "int", "default": 3},
    "root": {"type": "path", "default": "/opt/precog"},
    "state_root": {"type": "path", "default": "/var/lib/precog-miner"},
    "user": {"type": "str", "default": "precog-miner"},
    "minimum_memory_mb": {"type": "dict", "default": {"upstream": 8192}},
    "minimum_cpus": {"type": "dict", "default": {"upstream": 2}},
    "minimum_disk_mb": {"type": "int", "default": 64},
    **ON_UNSUPPORTED,
}
