"""API keys, stored as hashes, each with a name and its own limits.

The file of keys is TOML:

    [keys.alice]
    sha256 = "…"                # of the key, which is random and long: no slower hash is needed
    requests_per_minute = 60
    tokens_per_minute = 100000
    tokens_per_day = 2000000
    max_concurrent = 4
    models = ["student"]        # the models it may use; all without this
    expires = 2027-06-30
    admin = true                # may see and stop experiments

The file is read again when it has changed: keys are added, changed and removed without a restart.
What a name has used of its limits stays used, however its table changes. To replace a key, list
both hashes, `sha256 = ["…", "…"]`, until the former one is out of use.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from potstill.errors import ConfigError, PotstillError
from potstill.files import file_version
from serve.errors import InvalidRequestError, RateLimitError, RequestTimeoutError
from serve.rate_limits import SECONDS_PER_DAY, SECONDS_PER_MINUTE, Bucket

logger = logging.getLogger(__name__)


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]
CHECK_SECONDS = 1.0
"""How often the file of keys is looked at."""


class KeyEntry(BaseModel):
    """A key in the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Sha256 | Annotated[tuple[Sha256, ...], Field(min_length=1)]
    """Hash of the key's UTF-8 bytes, in hexadecimal; or several, each of which is accepted."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """None sets no limit; unused requests add up for one minute at most."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Prompts and answers together. The most that a request may use is taken before it runs, and
    the rest given back after."""
    tokens_per_day: int | None = Field(default=None, ge=1)
    """The same for a day; they refill evenly."""
    max_concurrent: int | None = Field(default=None, ge=1)
    """Requests in progress together; further ones get 429. None sets no limit."""
    models: tuple[str, ...] | None = None
    """Names of the models that it may use, those of experiments and cascades included; others do
    not exist for it. None allows all."""
    expires: AwareDatetime | date | None = None
    """When it is no longer accepted: a time with its zone, or the start of a day in UTC."""
    admin: bool = False
    """Whether it may see and stop experiments."""


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: Annotated[dict[str, KeyEntry], Field(min_length=1)]


class Key:
    """A key with its limits, counted in this process."""

    def __init__(self, name: str, entry: KeyEntry) -> None:
        self.name = name
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None
        self.daily_tokens: Bucket | None = None
        self.num_active = 0
        """Requests in progress."""
        self.take(entry)

    def take(self, entry: KeyEntry) -> None:
        """Replace the settings; what was used of the limits stays used."""
        self.entry = entry
        self.is_admin = entry.admin
        hashes = (entry.sha256,) if isinstance(entry.sha256, str) else entry.sha256
        self.digests = tuple(map(bytes.fromhex, hashes))
        self.requests = _resized(self.requests, entry.requests_per_minute)
        self.tokens = _resized(self.tokens, entry.tokens_per_minute)
        self.daily_tokens = _resized(self.daily_tokens, entry.tokens_per_day, SECONDS_PER_DAY)
        expires = entry.expires
        if expires is not None and not isinstance(expires, datetime):
            expires = datetime.combine(expires, datetime.min.time(), UTC)
        self.expires = math.inf if expires is None else expires.timestamp()
        """When the key is no longer accepted, in seconds since 1970."""

    def may_use(self, model: str) -> bool:
        """Return whether a model exists for this key."""
        return self.entry.models is None or model in self.entry.models

    def reserve(self, num_tokens: int) -> Reservation:
        """Take the most tokens that a request may use, prompt included, before it runs.

        Raises:
            InvalidRequestError: It may use more than the key has in a minute or day.
            RateLimitError: They are not available now.
        """
        periods = {"minute": self.tokens, "day": self.daily_tokens}
        buckets = {period: bucket for period, bucket in periods.items() if bucket is not None}
        for period, bucket in buckets.items():
            if num_tokens > bucket.limit:
                raise InvalidRequestError(
                    f"the request may use more tokens than this key has in a {period}",
                    where="max_tokens",
                    expected=f"at most {bucket.limit}, prompt and all choices together",
                    found=num_tokens,
                    hint="lower max_tokens or n",
                )
            if wait := bucket.seconds_until(num_tokens):
                raise rate_limited(f"this key has too few tokens left in this {period}", wait)
        for bucket in buckets.values():
            bucket.take(num_tokens)
        return Reservation(tuple(buckets.values()), num_tokens)

    def admit(self) -> float:
        """Count a request; or return how many seconds it has to wait, and count nothing."""
        buckets = (self.requests, self.tokens, self.daily_tokens)
        waits = [bucket.seconds_until(1) for bucket in buckets if bucket]
        most = self.entry.max_concurrent
        if most is not None and self.num_active >= most:
            waits.append(1.0)
        wait = max(waits, default=0.0)
        if wait == 0.0 and self.requests is not None:
            self.requests.take(1)
        return wait


def _resized(
    former: Bucket | None, limit: int | None, seconds: float = SECONDS_PER_MINUTE
) -> Bucket | None:
    """Return the bucket of a limit, the former one if there is one; None without a limit."""
    if limit is None:
        return None
    if former is None:
        return Bucket(limit, seconds=seconds)
    former.resize(limit)
    return former


class Reservation:
    """Tokens taken from a limit; what was not used is given back once."""

    def __init__(self, buckets: Sequence[Bucket] = (), num_tokens: int = 0) -> None:
        self._buckets, self._num_tokens = buckets, num_tokens

    def settle(self, num_used: int) -> None:
        """Count what was used; does nothing the second time.

        Beyond what was taken an answer costs at most what a period has: another server may claim
        any number.
        """
        buckets, self._buckets = self._buckets, ()
        for bucket in buckets:
            bucket.take(min(num_used - self._num_tokens, bucket.limit))

    @contextmanager
    def given_back_on_error(self) -> Iterator[None]:
        """Count nothing if the block fails."""
        try:
            yield
        except BaseException:
            self.settle(0)
            raise

    @contextmanager
    def given_back_on_refusal(self) -> Iterator[None]:
        """Count nothing if the block is refused or fails.

        What takes too long, or is abandoned, stays counted: somebody has worked for it until then.
        """
        try:
            yield
        except RequestTimeoutError:
            raise
        except PotstillError:
            self.settle(0)
            raise


def rate_limited(what: str, wait_seconds: float) -> RateLimitError:
    """Return the error of a key that has to wait."""
    error = RateLimitError(what)
    error.retry_after_seconds = max(1, math.ceil(wait_seconds))
    return error


class Keyring:
    """All accepted keys.

    Args:
        path: The file that further keys are read from, again when it has changed.

    Raises:
        ConfigError: It cannot be read.
    """

    def __init__(self, keys: Sequence[Key], path: Path | None = None) -> None:
        self._own_keys = tuple(keys)
        self._path = path
        self._version: tuple[int, ...] | None = None
        self._looked_at = 0.0
        self._started = time.time() - time.monotonic()
        self._known: dict[str, Key] = {}
        """The file's keys by name, also those that it has no longer: they may come back."""
        self._use(())
        if path is not None:
            self._version = file_version(path)
            self._use(self._read(path))

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, given: str) -> Key | None:
        """Return the key that was given; None if it is not accepted.

        What is looked up is a hash of it: how long that takes reveals nothing about keys.
        """
        self._refresh()
        digest = hashlib.sha256(given.encode("latin-1", errors="replace")).digest()
        found = self._by_digest.get(digest)
        return None if found is None or found.expires <= self._now() else found

    def _now(self) -> float:
        """Return the time; a clock that is set back accepts no expired key again."""
        return max(time.time(), self._started + time.monotonic())

    def _use(self, of_file: Sequence[Key]) -> None:
        """Accept the keys of the file, besides this process's own."""
        self._keys = (*self._own_keys, *of_file)
        self._by_digest = {digest: key for key in self._keys for digest in key.digests}

    def _refresh(self) -> None:
        """Read the file again if it has changed; one that cannot be read changes nothing."""
        if self._path is None or time.monotonic() - self._looked_at < CHECK_SECONDS:
            return
        self._looked_at = time.monotonic()
        version = file_version(self._path)
        if version == self._version:
            return
        self._version = version
        try:
            self._use(self._read(self._path))
        except ConfigError as error:
            logger.error("the former keys stay: %s", error.what)
            return
        logger.warning("the keys were read again: %s", ", ".join(key.name for key in self._keys))

    def _read(self, path: Path) -> tuple[Key, ...]:
        """Return the file's keys; each keeps what it has used."""
        keys = []
        for name, entry in _read(path).items():
            key = self._known.get(name)
            if key is None:
                key = self._known[name] = Key(name, entry)
            elif key.entry != entry:
                key.take(entry)
            keys.append(key)
        return tuple(keys)


class SeveralKeys:
    """Whether there are several keys now, as a truth value: a file of keys may change."""

    def __init__(self, keyring: Keyring | None) -> None:
        self._keyring = keyring

    def __bool__(self) -> bool:
        return self._keyring is not None and len(self._keyring) > 1


def load_keys(path: Path | None, environment_key: str | None) -> Keyring | None:
    """Read the keys; None if there are none, and no key is needed.

    Args:
        path: A file of keys.
        environment_key: One more key, an administrator's, without limits.

    Raises:
        ConfigError: The file cannot be read.
    """
    keys = []
    if environment_key:
        digest = hashlib.sha256(environment_key.encode()).hexdigest()
        keys.append(Key("environment", KeyEntry(sha256=digest, admin=True)))
    return Keyring(keys, path) if keys or path else None


def _read(path: Path) -> dict[str, KeyEntry]:
    try:
        return _KeyFile.model_validate(tomllib.loads(path.read_text())).keys
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise ConfigError(
            "the file of keys cannot be read",
            where=path,
            expected='tables [keys.NAME] with sha256 = "…"',
            # A damaged file may contain a key in clear text.
            found=type(error).__name__,
        ) from None
