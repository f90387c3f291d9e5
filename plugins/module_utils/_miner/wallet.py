# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Hotkey files as bittensor-wallet writes them, and SS58 addresses: whether a text is one. Pure.

No message of this file holds a part of a hotkey.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

# In bittensor's folders: wallets/WALLET/hotkeys/HOTKEY.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE58 = re.compile(f"[{_ALPHABET}]{{40,60}}")
_BITTENSOR = 42  # the network's number in its addresses
_CHECKSUM_PREFIX = b"SS58PRE"
_KEY_BYTES = 32
_CHECKSUM_BYTES = 2
# What signs; the wallet takes any one of them.
_SECRETS = ("secretPhrase", "secretSeed", "privateKey")
_PUBLIC = ("publicKey", "accountId")
# How files that a password protects begin: bittensor's own form, ansible-vault's and Python's cryptography's.
_ENCRYPTED = ("$NACL", "$ANSIBLE_VAULT", "gAAAAA")
_WORDS = re.compile(r"[a-z]+( [a-z]+){11,23}")


def public_key(address: str) -> bytes:
    """Return the public key (32 bytes) of an SS58 address such as `5F4i...`.

    :raises ValueError: it is none; the message says why.
    """
    if not _BASE58.fullmatch(address):
        raise ValueError("is no SS58 address: 48 letters and digits such as 5F4iXC...ZMqA are wanted")
    number = 0
    for letter in address:
        number = number * 58 + _ALPHABET.index(letter)
    zeros = len(address) - len(address.lstrip(_ALPHABET[0]))
    raw = bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
    body, checksum = raw[:-_CHECKSUM_BYTES], raw[-_CHECKSUM_BYTES:]
    if hashlib.blake2b(_CHECKSUM_PREFIX + body).digest()[:_CHECKSUM_BYTES] != checksum:
        raise ValueError("is no SS58 address: its checksum does not fit, so a letter of it is wrong or missing")
    if len(body) != 1 + _KEY_BYTES or body[0] != _BITTENSOR:
        raise ValueError("is an SS58 address, but none of Bittensor's: those begin with 5")
    return body[1:]


def hotkey_file(content: Any) -> bytes:
    """Return the bytes of a hotkey file.

    :param content: the file's text, or the object in it (Ansible may have read the JSON already).
    :raises ValueError: it is no hotkey that a service can use; the message says why and what to do.
    """
    if isinstance(content, dict):
        content = json.dumps(content)
    if not isinstance(content, str) or not content.strip():
        raise ValueError("is empty. Give the text of the file wallets/WALLET/hotkeys/HOTKEY")
    text = content.strip()
    if text.startswith(_ENCRYPTED):
        raise ValueError(
            "is encrypted with a password, which a service can't type. Make the hotkey without one "
            "(`btcli wallet regen-hotkey --no-use-password`) and encrypt it with Ansible Vault alone"
        )
    if _WORDS.fullmatch(text):
        raise ValueError(
            "is a bare phrase of words. Give the JSON file that `btcli wallet regen-hotkey` makes of it "
            "(wallets/WALLET/hotkeys/HOTKEY)"
        )
    _check(_object(text))
    return text.encode() + b"\n"


def address(hotkey: bytes) -> str:
    """Return the SS58 address that a hotkey file names, "" if it names none."""
    return str(json.loads(hotkey).get("ss58Address") or "")


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(
            "is no hotkey file: it is no JSON object. Give the text of the file wallets/WALLET/hotkeys/HOTKEY"
        )
    return found


def _check(key: dict[str, Any]) -> None:
    if not any(isinstance(key.get(name), str) and key[name] for name in _SECRETS):
        if "ss58Address" in key:
            raise ValueError(
                f"holds the public half only: there is none of {', '.join(_SECRETS)} in it. Give the file "
                "hotkeys/HOTKEY, not hotkeys/HOTKEYpub.txt"
            )
        raise ValueError(f"is no hotkey file: there is none of {', '.join(_SECRETS)} in its JSON")
    if key.get("ss58Address") is None:
        return
    try:
        real = public_key(str(key["ss58Address"]))
    except ValueError as error:
        raise ValueError(f"is no hotkey file: its ss58Address {error}") from None
    for name in _PUBLIC:
        if name in key and str(key[name]).lower() != f"0x{real.hex()}":
            raise ValueError(f"is a damaged hotkey file: its {name} and its ss58Address are of different keys")
