"""Makes the test's wallets in a folder, and prints the miner's addresses: `python make_wallets.py FOLDER`."""

import json
import sys

import bittensor_wallet

WITHOUT_PASSWORDS = {"coldkey_use_password": False, "hotkey_use_password": False, "suppress": True}


def made(name, hotkey="default"):
    """Return a wallet that is made if it isn't there."""
    return bittensor_wallet.Wallet(name, hotkey, sys.argv[1]).create_if_non_existent(**WITHOUT_PASSWORDS)


# By the instance's name: one coldkey, a hotkey for each.
wallets = {"main": made("molecule"), "second": made("molecule", "other")}
made("validator")
hotkeys = {name: wallet.hotkey.ss58_address for name, wallet in wallets.items()}
print(json.dumps({"hotkeys": hotkeys, "coldkey": wallets["main"].coldkeypub.ss58_address}))
