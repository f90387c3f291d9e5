"""Makes the test's wallets in a folder, and prints their addresses: `python make_wallets.py FOLDER`."""

import json
import sys

import bittensor_wallet

WITHOUT_PASSWORDS = {"coldkey_use_password": False, "hotkey_use_password": False, "suppress": True}


def made(name, hotkey="default"):
    """Return a wallet that is made if it isn't there."""
    return bittensor_wallet.Wallet(name, hotkey, sys.argv[1]).create_if_non_existent(**WITHOUT_PASSWORDS)


# By the instance's name: one coldkey, a hotkey for each.
wallets = {"main": made("molecule"), "second": made("molecule", "other")}
validator, miner = made("validator"), made("idler")
made("stranger")  # registered nowhere
hotkeys = {name: wallet.hotkey.ss58_address for name, wallet in wallets.items()}
coldkey = wallets["main"].coldkeypub.ss58_address
# The chain's neurons by uid: the miners under test, a validator and a miner who isn't one.
chain = [
    {"hotkey": wallet.hotkey.ss58_address, "coldkey": coldkey, "validator_permit": wallet is validator, "stake": 100.0}
    for wallet in (*wallets.values(), validator, miner)
]
print(json.dumps({"hotkeys": hotkeys, "coldkey": coldkey, "chain": chain}))
