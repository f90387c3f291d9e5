"""Command-line options: those for the settings are made from their definition, so that there is one place to read."""

from __future__ import annotations

import argparse
import re
from dataclasses import fields
from typing import Any

from precog_runtime import logs
from precog_runtime import settings as settings_module
from precog_runtime.settings import Settings

# An option would show it to everyone on the machine (/proc/*/cmdline).
NO_OPTION = ("api_key",)
LAST_PORT = 65535


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add `--settings FILE`, and an option for each setting that may be seen by all."""
    group = parser.add_argument_group(
        "settings", f"Also by the environment ({settings_module.PREFIX}<NAME>) and a JSON file; options win."
    )
    group.add_argument("--settings", metavar="FILE", help="a JSON file with an object of settings")
    for name, told in described().items():
        if name not in NO_OPTION:
            default = getattr(Settings, name)
            shown = ",".join(default) if isinstance(default, tuple) else default
            help_text = f"{told} (default: {shown})".replace("%", "%%")
            group.add_argument(_option(name), dest=f"setting_{name}", metavar="VALUE", help=help_text)


def port_number(text: str) -> int:
    """Return the number of a port; uvloop would listen at port 4464 for 70000.

    :raises argparse.ArgumentTypeError: it is none; argparse ends with code 2.
    """
    if not (text.isascii() and text.isdigit() and int(text) <= LAST_PORT):
        raise argparse.ArgumentTypeError(f"{text!r} is no port. Give 0 to {LAST_PORT}; 0 lets the kernel choose")
    return int(text)


def given_settings(arguments: argparse.Namespace) -> Settings:
    """Return the settings that a command line, its file and the environment give; logs never show the key in them.

    :raises SettingError: one can't be used.
    """
    overrides: dict[str, Any] = {
        key[len("setting_") :]: value for key, value in vars(arguments).items() if key.startswith("setting_")
    }
    settings = settings_module.load(overrides, arguments.settings)
    logs.hide(settings.api_key)
    return settings


def described() -> dict[str, str]:
    """Return what each setting means, by name, from the documentation of `Settings`."""
    found = re.findall(r":ivar (\w+): (.*?)(?=\n\s*:ivar|\s*$)", Settings.__doc__ or "", re.DOTALL)
    told = {name: " ".join(text.split()) for name, text in found}
    return {each.name: told.get(each.name, "") for each in fields(Settings)}


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
