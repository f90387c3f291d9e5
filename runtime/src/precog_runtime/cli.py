"""The command `precog-runtime`: exit code 0 is success, 1 a finding, 2 a wrong use or setting."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from precog_runtime import __version__
from precog_runtime.errors import RuntimeFault
from precog_runtime.settings import LOG_LEVEL, PREFIX

# Each command's module is loaded only when the command is asked for.
COMMANDS = {
    "serve": (
        "precog_runtime.serve",
        "answer requests over HTTP: /predict; /openapi.json tells what else",
    ),
    "simulate-market": ("precog_runtime.simulator.command", "a stand-in for the Coin Metrics API, with faults"),
    "load": ("precog_runtime.load", "send bursts of requests, check the answers, and print percentiles"),
    "backtest": ("precog_runtime.forecast.backtest", "score models over simulated or recorded prices"),
    "monitor": ("precog_runtime.monitor_command", "print what the host, or a running service, is and was at"),
    "doctor": ("precog_runtime.doctor", "look whether all that the runtime needs is there, and say what to do"),
}
HIDDEN, SHORTEST = "***", 2  # hiding each "a" would make messages unreadable
_NUMBER = re.compile(r"-?[0-9]{1,6}(\.[0-9]*)?", re.ASCII)  # tells nobody anything, and helps
LEVELS = ["debug", "info", "warning", "error"]
DEFAULT_LEVEL = "info"


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = _parser(words).parse_args(words)
    from precog_runtime.logs import setup

    level = arguments.log_level or os.environ.get(LOG_LEVEL, "").lower() or DEFAULT_LEVEL
    if level not in LEVELS:
        print(f"precog-runtime: {LOG_LEVEL} is not a log level. Give one of {', '.join(LEVELS)}", file=sys.stderr)
        return 2
    setup(level, secrets=[os.environ.get(f"{PREFIX}API_KEY", "")])
    try:
        code: int = arguments.run(arguments)
        return code
    except RuntimeFault as fault:
        print(f"precog-runtime: {fault}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone; nothing is left to say, not even at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


class _Parser(argparse.ArgumentParser):
    """Names an argument that it refuses, but never repeats its value, which may be a secret: this ends in a journal."""

    words: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        """End with code 2 and a message without values."""
        for value in sorted({_value(word) for word in self.words}, key=len, reverse=True):
            if len(value) > SHORTEST and value not in (*COMMANDS, *LEVELS):
                message = message.replace(value, HIDDEN)
        super().error(message)


def _value(word: str) -> str:
    """Return the part of a word that may be a secret: what follows the equals sign of an option, or all of it."""
    _name, _sign, value = word.partition("=") if word.startswith("-") else ("", "", word)
    return "" if _NUMBER.fullmatch(value) else value


def _parser(words: Sequence[str] | None) -> argparse.ArgumentParser:
    given = sys.argv[1:] if words is None else words

    class Parser(_Parser):
        words = given

    parser = Parser(prog="precog-runtime", description=__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    asked = set(given)
    for name, (module, told) in COMMANDS.items():
        command = commands.add_parser(name, help=told, description=told.capitalize() + ".")
        if name in asked:
            told_level = f"(default: {LOG_LEVEL} in the environment, else {DEFAULT_LEVEL})"
            command.add_argument("--log-level", choices=LEVELS, help=told_level)
            importlib.import_module(module).add(command)
    return parser
