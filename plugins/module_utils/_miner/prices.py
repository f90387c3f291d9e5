# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asks the instances' sources of prices; a new release is not judged without them."""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING, Any

from .._host.host import HostError
from . import source
from .compare import content
from .gate import judge, verdict
from .parse import SIMULATOR
from .together import API_REQUESTS, API_URL
from .units import secrets_file

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from .._host.host import Host
    from .model import Instance, Secret
    from .store import Release, Store

LOCAL = ("127.0.0.1", "localhost", "::1")
FRESH_S = 30.0  # for how long what a source has said counts
STILL_S = 300.0  # and where it has no turn for the gate: a price moves far less in it than a release may be off


class Prices:
    """What the sources of one run say; each is asked as seldom as possible.

    :param peers: what other hosts' instances predicted.
    :param max_age_s: seconds; older prices of a source are none.
    :param warnings: gets what went wrong, but does not make a release a bad one.
    """

    def __init__(
        self, host: Host, store: Store, peers: Sequence[Mapping[str, Any]], max_age_s: float, warnings: list[str]
    ) -> None:
        self._host = host
        self._store = store
        self._peers = peers
        self._max_age_s = max_age_s
        self._warnings = warnings
        self._asked: dict[source.Source, tuple[float, source.Market]] = {}

    def expect(self, release: Release, starting: Collection[str], secrets: Mapping[str, Secret]) -> None:
        """Raise HostError unless each instance that a release starts has a source that gives it prices.

        A simulator that the release starts itself is no source yet: it is asked when its time has come.
        """
        started = [one for one in release.instances if one.name in starting]
        own = {one.port for one in started if one.engine == SIMULATOR}
        for instance in started:
            asked = self._source(release, instance, secrets)
            if asked is None or (asked.address[0] in LOCAL and asked.address[1] in own):
                continue
            market = self._ask(asked)
            if market.refused:
                raise HostError(
                    f"{instance.name}: the source of its prices refuses its settings: {market.refused}. "
                    "Nothing was touched"
                )
            if market.busy:
                raise HostError(
                    f"{instance.name}: the source of its prices is up, and {market.busy}: what else asks it from this "
                    "host's address uses all of its limit. No new release begins, as nobody could judge its answers. "
                    f"Let instances ask less ({API_REQUESTS} in miner_service_variables), or run again; "
                    "nothing was touched"
                )
            if market.down:
                raise HostError(
                    f"{instance.name}: the source of its prices ({API_URL}) is down: {market.down}. No new release "
                    "begins without it, as nobody could judge its answers. If the address is right, run again when "
                    f"it answers; the release {release.name} was not begun, and what runs was not touched"
                )

    def demand(self, release: Release, instance: Instance, *, known: bool, again: bool = False) -> judge.Demand:
        """Return what an instance has to show: right answers alone, where its source is down.

        :param known: whether its release was good before.
        :raises HostError: the source of a new release gives it no prices.
        """
        asked = self._source(release, instance)
        if asked is None:
            return judge.Demand(fresh=True, whole=not known)
        market = self._ask(asked, again=again)
        if market.busy and known:
            self._warn(f"{market.busy}, so the answers were not compared with its prices")
            return judge.Demand(fresh=True, whole=False)
        trouble = market.refused or market.down or market.busy
        if trouble and not known:
            raise HostError(f"the source of its prices gives it none: {trouble}")
        if trouble:
            self._warn(f"the source of prices gives none ({trouble}), so the form of the answers alone was checked")
            return judge.FORM
        # A simulator of the host's own has prices of its own.
        peers = [] if asked.address[0] in LOCAL else self._peers
        return judge.Demand(True, not known, market.prices, verdict.peers_prices(peers, time.time()))

    def come_from_afar(self, release: Release, instance: Instance) -> bool:
        """Tell whether an instance has its prices from somewhere that other hosts may ask too."""
        asked = self._source(release, instance)
        return asked is not None and asked.address[0] not in LOCAL

    def _source(
        self, release: Release, instance: Instance, secrets: Mapping[str, Secret] | None = None
    ) -> source.Source | None:
        """Return where an instance of a release has its prices from; None for a simulator.

        :param secrets: those that are not in place yet.
        """
        if instance.engine == SIMULATOR:
            return None
        folder = f"{self._store.folder(release.name)}/instances/{instance.name}"
        path = secrets_file(instance.name)
        secret = (secrets or {}).get(path)
        hidden = secret.data if secret else content(self._host, path)
        variables = {
            **source.parse_variables(self._host.read_text(f"{folder}/environment")),
            **source.parse_variables((hidden or b"").decode()),
        }
        return source.of(self._host.read_text(f"{folder}/start"), variables)

    def _ask(self, asked: source.Source, *, again: bool = False) -> source.Market:
        """Return what a source says; what it said FRESH_S ago counts, as each request is one less for the miners.

        Where its rate limit leaves none for the gate, what it said STILL_S ago counts too.

        :param again: whether to ask anew.
        """
        when, before = self._asked.get(asked, (-inf, source.Market()))
        if not again and time.monotonic() - when <= FRESH_S:
            return before
        market = source.ask(asked, self._max_age_s)
        if market.busy and before.prices and time.monotonic() - when <= STILL_S:
            return before
        self._asked[asked] = (time.monotonic(), market)
        return market

    def _warn(self, warning: str) -> None:
        if warning not in self._warnings:
            self._warnings.append(warning)
