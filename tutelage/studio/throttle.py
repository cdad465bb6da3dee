"""Limits on guessing passwords, made so that who guesses at a name does not keep its owner out.

A browser that has logged into an account before carries a cookie that proves it (after OWASP's "device cookies") and
has limits of its own, which nobody else can use up. All others are limited by name and network together, by network,
and, slowly, by name, so that many networks gain little. Networks from which a name has logged in before are spared the
last two. Counts are in the process's memory.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from tutelage.studio.accounts import HASH_SECONDS, HASHES_WAITING
from tutelage.studio.turns import Turns

TRIES = (RateLimitItemPerMinute(10), RateLimitItemPerHour(30))
"""Failed logins of one device, and for one name from one network."""
FROM_NETWORK = (RateLimitItemPerMinute(10), RateLimitItemPerHour(100))
"""For all names from one network; an office behind one address is one."""
FOR_NAME = (RateLimitItemPerHour(200),)
"""For one name from all networks."""
FORMER = 10_000
"""Pairs of name and network whose logins are remembered."""
ACCOUNTS = 8
"""Accounts that a device's cookie speaks for: people share computers."""
COOKIE = "tutelage_device"
COOKIE_AGE = 365 * 86_400


@dataclass(frozen=True, slots=True)
class Attempt:
    """A login that is tried. device: the browser's number, if it has logged into this account before."""

    name: str
    network: str
    device: str = ""


class Throttle:
    """Failed logins, counted.

    `turn` is held while a password is tried: two at a time, so that those who come all at once are counted too.
    """

    def __init__(self) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._former: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._guard = threading.Lock()
        self.turn = Turns(2, waiting=HASHES_WAITING, seconds=HASH_SECONDS)

    def blocked(self, attempt: Attempt) -> bool:
        """Whether there were too many failures to try this one."""
        return not all(self._limiter.test(limit, key) for limit, key in self._limits(attempt))

    def fail(self, attempt: Attempt) -> None:
        """Count a failure."""
        for limit, key in self._limits(attempt):
            self._limiter.hit(limit, key)

    def succeed(self, attempt: Attempt) -> None:
        """Remember where a name has logged in from."""
        with self._guard:
            self._former[attempt.name, attempt.network] = None
            self._former.move_to_end((attempt.name, attempt.network))
            if len(self._former) > FORMER:
                self._former.popitem(last=False)

    def _limits(self, attempt: Attempt) -> Iterator[tuple[RateLimitItem, str]]:
        if attempt.device:
            yield from ((limit, f"device:{attempt.device}") for limit in TRIES)
            return
        name = hashlib.sha256(attempt.name.encode()).hexdigest()  # as long as it may be, it takes no more memory
        yield from ((limit, f"pair:{name}:{attempt.network}") for limit in TRIES)
        if (attempt.name, attempt.network) not in self._former:
            yield from ((limit, f"network:{attempt.network}") for limit in FROM_NETWORK)
            yield from ((limit, f"name:{name}") for limit in FOR_NAME)


def network_of(address: str) -> str:
    """What is counted as one sender: an IPv4 address, or the /64 of an IPv6 one, which is one customer's at least."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if ip.version == 4:
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))


# ---- devices ---------------------------------------------------------------------------------------------------
# The cookie is NUMBER.PROOF.PROOF...: a proof for each account, made with the hash of its password, which never leaves
# the server. A new password makes the old proofs void.


def device_of(cookie: str, account: str, password_hash: str) -> str:
    """The device's number, if the cookie proves that it has logged into the account; else ""."""
    number, *proofs = cookie.split(".")[: ACCOUNTS + 1]
    proof = _proof(number, account, password_hash)
    return number if any(hmac.compare_digest(proof, shown) for shown in proofs if shown.isascii()) else ""


def device_cookie(cookie: str, account: str, password_hash: str) -> str:
    """The cookie of a device that has just logged into the account; cookie: what it had."""
    number, *proofs = cookie.split(".")[: ACCOUNTS + 1]
    if not (len(number) == 22 and number.isascii()):
        number, proofs = secrets.token_urlsafe(16), []
    proof = _proof(number, account, password_hash)
    return ".".join([number, proof, *(p for p in proofs if p != proof)][: ACCOUNTS + 1])


def _proof(number: str, account: str, password_hash: str) -> str:
    message = f"{number}.{account}".encode()
    return hmac.new(password_hash.encode(), message, hashlib.sha256).hexdigest()[:32]
