"""Which subscriptions there are, asked anew in every run, in the way that costs Lago least.

Nothing of it is remembered between runs: a subscription ends, begins again or changes its plan at any time, and a
remembered "active" would let an event that nobody bills pass for a billed one. Lago takes 2 ms for a subscription in a
list of 1,000 and 20 ms for one that is asked for by its ID. So IDs are asked for one by one while that costs less than
the whole list, and while few of them turn out to be unknown: where every session is a customer of its own, nearly all
of the window's IDs are. One request after the other: more in flight buy little of a small Lago, whose live traffic
waits for them, and one at a time stays below the 50 requests a second that Lago Cloud allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from reconcile.errors import LagoFault
from reconcile.lago.catalog import Catalog, SubscriptionPage
from reconcile.lago.http import Unserved
from reconcile.lago.items import Subscription

Kind = Literal["external_id", "external_customer_id"]
Key = tuple[Kind, str]

_EVERY_STATUS = ("active", "terminated", "pending", "canceled")
_IN_FORCE = ("active", "terminated")
# Milliseconds that Lago takes for a subscription in a list, and for one that is asked for by its ID.
LISTED_MS, ASKED_MS = 2, 20
PAGE = 1_000
_FIRST_PAGE = 100
_UNKNOWN_AT_MOST = 200
# Servers and proxies refuse addresses from about 8,000 characters on.
_NAME_AT_MOST = 4_000


@dataclass(slots=True)
class _Shelf:
    """A part of the list of subscriptions. `total` is Lago's count, None until it was asked."""

    statuses: tuple[str, ...]
    total: int | None = None
    listed: bool = False


class Roll:
    """The subscriptions that one run has come to know. `version` changes with them."""

    def __init__(self, lago: Catalog) -> None:
        self.version = 0
        self._lago = lago
        self._subscriptions: dict[str, Subscription] = {}  # by lago_id
        self._named: dict[Key, set[str]] = {}  # lago_ids
        # From when on everything about an ID is known, in ms since 1970.
        self._known_since: dict[Key, int] = {}
        self._active, self._others = _Shelf(_EVERY_STATUS[:1]), _Shelf(_EVERY_STATUS[1:])
        self._ignored: set[Kind] = set()
        self._asked = self._unknown = 0

    def all(self) -> list[Subscription]:
        return list(self._subscriptions.values())

    def of(self, key: Key) -> list[Subscription]:
        return [self._subscriptions[lago_id] for lago_id in sorted(self._named.get(key, ()))]

    def find(self, keys: Iterable[Key], since_ms: int) -> None:
        """Learns every subscription of these IDs that can cover a time from `since_ms` on."""
        fresh = [key for key in keys if self._known_since.get(key, since_ms + 1) > since_ms]
        kinds: tuple[Kind, ...] = ("external_customer_id", "external_id")
        for kind in kinds:
            if names := {name for which, name in fresh if which == kind}:
                self._find(kind, names, since_ms)

    def counts(self) -> tuple[int, int]:
        """How many subscriptions are active, and how many are not: ended, not yet begun, canceled."""
        for shelf in (self._active, self._others):
            if shelf.total is None:
                self._take_first_page(shelf)
        return self._active.total or 0, self._others.total or 0

    def _find(self, kind: Kind, names: set[str], since_ms: int) -> None:
        left = self._ask_or_list(self._active, kind, names)
        if kind == "external_id":
            # One that has been active since before then covers all of it; what the ID was earlier does not matter.
            for name in sorted(left):
                for one in self.of((kind, name)):
                    if one.status == "active" and one.started_ms is not None and one.started_ms <= since_ms:
                        self._know((kind, name), one.started_ms)
                        left.discard(name)
        if left:
            for name in self._ask_or_list(self._others, kind, left):
                self._know((kind, name), 0)

    def _know(self, key: Key, since_ms: int) -> None:
        self._known_since[key] = min(since_ms, self._known_since.get(key, since_ms))

    def _ask_or_list(self, shelf: _Shelf, kind: Kind, names: set[str]) -> set[str]:
        """Asks for each ID with all its subscriptions, or lists the shelf: the IDs that are left to the list."""
        if shelf.total is None and not shelf.listed:
            self._take_first_page(shelf)
        left = sorted(names, key=lambda name: (fits(name), name))
        while left and not shelf.listed:
            price = (self._asked + len(left)) * ASKED_MS
            dear = shelf.total is None or price > shelf.total * LISTED_MS
            name = left[-1]
            if dear or kind in self._ignored or self._unknown >= _UNKNOWN_AT_MOST or not fits(name):
                self._list(shelf)
                break
            answer = self._ask(kind, name)
            self._asked += 1
            self._keep(answer)
            if all(getattr(one, kind) == name for one in answer):
                self._unknown += not answer
                self._know((kind, name), 0)
                left.pop()
            else:  # Lago ignored which ID was asked for, as 1.38 does
                self._ignored.add(kind)
        return set(left)

    def _ask(self, kind: Kind, name: str) -> list[Subscription]:
        """Every subscription of an ID, whatever its status; also others where Lago ignores the filter."""
        found: list[Subscription] = []
        page: int | None = 1
        while page is not None:
            self._lago.http.check_stop()
            answer = self._page(_EVERY_STATUS, page, _FIRST_PAGE, {kind: name})
            ours = all(getattr(one, kind) == name for one in answer.subscriptions)
            new = [one for one in answer.subscriptions if one not in found]
            found += new
            page = answer.next_page if ours and new else None
        return found

    def _take_first_page(self, shelf: _Shelf) -> None:
        answer = self._page(shelf.statuses, 1, _FIRST_PAGE)
        self._keep(answer.subscriptions)
        shelf.total = answer.total
        shelf.listed = answer.next_page is None and len(answer.subscriptions) >= (answer.total or 0)

    def _list(self, shelf: _Shelf) -> None:
        """Reads a shelf whole. Its pages shift when a subscription begins meanwhile, so it may take two turns."""
        for _ in range(2):
            seen: set[str] = set()
            page: int | None = 1
            while page is not None:
                self._lago.http.check_stop()
                answer = self._page(shelf.statuses, page, PAGE)
                self._keep(answer.subscriptions)
                new = {one.lago_id for one in answer.subscriptions} - seen
                seen |= new
                shelf.total = answer.total or shelf.total
                more = answer.next_page is not None or len(seen) < (shelf.total or 0)
                # A page of nothing new: the server repeats itself, and would for ever.
                page = page + 1 if new and more else None
            if len(seen) >= (shelf.total or 0):
                break
        shelf.listed = True

    def _page(
        self, statuses: Sequence[str], page: int, per_page: int, filters: Mapping[str, str] | None = None
    ) -> SubscriptionPage:
        try:
            return self._lago.subscription_page(statuses, page, per_page, **(filters or {}))
        except Unserved:
            # A server that knows fewer statuses. Those that are left out cover nothing.
            fewer = [status for status in statuses if status in _IN_FORCE]
        try:
            return self._lago.subscription_page(fewer, page, per_page, **(filters or {}))
        except Unserved as refused:
            raise LagoFault(f"GET /subscriptions answered {refused} to the statuses {', '.join(fewer)}") from None

    def _keep(self, subscriptions: Iterable[Subscription]) -> None:
        for one in subscriptions:
            if self._subscriptions.get(one.lago_id) != one:
                self.version += 1
                self._subscriptions[one.lago_id] = one
                self._named.setdefault(("external_id", one.external_id), set()).add(one.lago_id)
                self._named.setdefault(("external_customer_id", one.external_customer_id), set()).add(one.lago_id)


def fits(name: str) -> bool:
    """Whether an ID can stand in an address."""
    return len(quote(name, safe="")) <= _NAME_AT_MOST
