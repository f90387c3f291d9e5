# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of miner_service and of its gate."""

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

PEERS = """{{ ansible_play_hosts_all[:4] | difference([inventory_hostname])
   | map('extract', hostvars, 'miner_service_result') | select('defined')
   | selectattr('answers', 'defined') | map(attribute='answers') | select | list }}"""

OPTIONS: Options = {
    "state": {
        **STATE["state"],
        "description": [
            "V(present) runs the instances.",
            "V(absent) stops them and removes units, releases, secrets and the users that this module made. What the "
            "instances wrote is kept.",
        ],
    },
    "environment": {
        "type": "path",
        "default": "",
        "description": "The Python environment of a new release, as M(precog.fleet.python_env) returns it.",
        "role": {"default": "{{ (python_env_result | default({})).environment | default('') }}"},
    },
    "release": {
        "type": "str",
        "default": "",
        "description": [
            "A release that is kept on the host, by its name or its label, or V(previous), to go back to. V(previous) "
            "is the one before the release that was rolled out last; a host that has already gone back from that one "
            "stays as it is.",
            "Without it the release is made of the other options. One that the host went back from because this "
            "option said so is not rolled out again, until the other options make another one or O(allow_withdrawn) "
            "names it.",
        ],
    },
    "label": {
        "type": "str",
        "default": "",
        "description": [
            "What the release is called besides its name, such as V(2026-12 wider intervals). It is not part of the "
            "release, so changing it restarts nothing.",
            "O(release) takes it too.",
        ],
    },
    "allow_withdrawn": {
        "type": "str",
        "default": "",
        "description": "The name of a withdrawn release that may be rolled out again.",
    },
    "hold": {
        "type": "str",
        "default": "",
        "description": [
            "Why no other release may be rolled out now. The host then keeps its release, which is repaired where it "
            "has drifted, and the release that has to wait is reported.",
            "C(playbooks/miner.yml) sets it where more miners can't be reached than C(miner_rollout_tolerated) "
            "allows. O(release) is not affected.",
        ],
    },
    "instances": {
        "type": "dict",
        "default": {"main": {}},
        "description": [
            "The instances by name, each with the options that differ from O(instance_defaults).",
            "The options are C(engine) (C(auto), C(runtime), C(upstream), C(simulator)), C(host), C(port), "
            "C(metrics_port), C(wallet), C(hotkey), C(coldkey), C(variables), C(arguments), C(optimize), C(nofile), "
            "C(nproc), C(cpu_affinity), C(nice), C(memory_high), C(memory_max), C(oom_score_adjust), C(tasks_max), "
            "C(ip_deny), C(ip_allow), C(restart_s) and C(watchdog_s).",
            "C(auto) is upstream's engine where a wallet is given, and the runtime's own server elsewhere.",
        ],
    },
    "instance_defaults": {
        "type": "dict",
        "default": {},
        "description": "Options of all instances; V(null) in an instance restores the module's own default.",
    },
    "hotkeys": {
        "type": "dict",
        "default": {},
        "no_log": True,
        "description": [
            "The text of each instance's hotkey file, by the instance's name. Encrypt it with Ansible Vault.",
            "A host gets only those of its own instances. A hotkey that comes from no vault is a warning.",
        ],
    },
    "api_key": {
        "type": "str",
        "default": "",
        "no_log": True,
        "description": "Key of the paid Coin Metrics API. Encrypt it with Ansible Vault.",
    },
    "variables": {
        "type": "dict",
        "default": {},
        "description": [
            "Environment variables of all instances; those of an instance go before them. V(null) takes one out.",
            "C(PRECOG_RUNTIME_...) are the settings of the runtime.",
            "A secret one, by its name (such as C(DATABASE_URL), C(WALLET_SEED) and C(AWS_...)), by a password in its "
            "value, or because O(secret_variables) names it, is kept out of the release and of every output; only "
            "root can read its file. Encrypt it with Ansible Vault.",
        ],
    },
    "secret_variables": {
        "type": "list",
        "elements": "str",
        "default": [],
        "no_log": False,
        "description": "Names of variables that are secrets though their names don't look like it.",
        "role": {"no_log": None},
    },
    # The action moves secret variables here: by instance, as one JSON text.
    "secrets": {
        "type": "dict",
        "default": {},
        "no_log": True,
        "description": "The secret variables of each instance as JSON. The action plugin sets it.",
        "role": None,
    },
    "upstream": {
        "type": "dict",
        "default": {},
        "description": [
            "For upstream's engine C(repository), C(version) (a full commit, a tag or a branch), C(netuid), "
            "C(chain_endpoint), C(logging_level), C(timeout) and C(vpermit_tao_limit).",
            "What is not given is as in upstream's Makefile for finney, at the commit of v3.0.0.",
        ],
    },
    "gate": {
        "type": "dict",
        "default": {},
        "description": "The limits of the gate that differ from its defaults.",
        "role": {"value": "balancers | precog.fleet.load_balancer_timing | combine(miner_service_gate)"},
    },
    "peers": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "description": [
            "What this module returned as RV(answers) on other hosts a few minutes ago. A new release whose "
            "predictions are too far from theirs is rejected.",
            "An instance whose source of prices is on its own host is not compared.",
        ],
        "role": {
            "variable": None,
            "value": PEERS,
            "comment": (
                "Of the first hosts of the play, the canary among them: at hundreds of hosts, all would be too many."
            ),
        },
    },
    "keep": {"type": "int", "default": 3, "description": "How many good releases are kept, at least 1."},
    "root": {"type": "path", "default": "/opt/precog", "description": "The folder of releases and checkouts."},
    "state_root": {
        "type": "path",
        "default": "/var/lib/precog-miner",
        "description": "The folder of what the instances write, below C(/var/lib).",
    },
    "user": {
        "type": "str",
        "default": "precog-miner",
        "description": [
            "The prefix of the users that the instances run as: V(precog-miner) gives C(precog-miner-main) and so on, "
            "each with a group of its name. They are created without a shell where they are missing.",
            "A user that is somebody's login, or another service's, is refused; one that existed before is kept when "
            "O(state) is V(absent).",
        ],
    },
    "minimum_memory_mb": {
        "type": "dict",
        "default": {"upstream": 8192},
        "description": [
            "Memory in MB that an engine requires. A smaller host gets a warning with the figures.",
            "A host may have 7 % less, which firmware and kernel keep, so that one sold with 8 GB has 8192 here.",
        ],
    },
    "minimum_cpus": {
        "type": "dict",
        "default": {"upstream": 2},
        "description": "CPUs that an engine requires. A smaller host gets a warning with the figures.",
    },
    "minimum_disk_mb": {
        "type": "int",
        "default": 64,
        "description": "Free space in MB below O(root) that a new release requires.",
    },
    "on_unsupported": {
        **ON_UNSUPPORTED["on_unsupported"],
        "description": "Whether a limit that the host did not give to a process fails the task.",
    },
}
