"""Makes the test's wallets in a folder, and prints the miner's addresses: `python make_wallets.py FOLDER`."""

import json
import sys

import bittensor_wallet

WITHOUT_PASSWORDS = {"coldkey_use_password": False, "hotkey_use_password": False, "suppress": True}


def made(name, folder):
    """Return a wallet that is made if it isn't there."""
    return bittensor_wallet.Wallet(name, "default", folder).create_if_non_existent(**WITHOUT_PASSWORDS)


miner = made("molecule", sys.argv[1])
made("validator", sys.argv[1])
print(json.dumps({"hotkey": miner.hotkey.ss58_address, "coldkey": miner.coldkeypub.ss58_address}))
