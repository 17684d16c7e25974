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
To replace a key, list both hashes, `sha256 = ["…", "…"]`, until the former one is out of use.
"""

from __future__ import annotations

import hashlib
import hmac
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

from potstill.errors import ConfigError
from potstill.files import file_version
from serve.errors import InvalidRequestError, RateLimitError
from serve.rate_limits import SECONDS_PER_DAY, Bucket

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
        self.name, self.entry = name, entry
        self.is_admin = entry.admin
        hashes = (entry.sha256,) if isinstance(entry.sha256, str) else entry.sha256
        self.digests = tuple(map(bytes.fromhex, hashes))
        self.requests = Bucket(entry.requests_per_minute) if entry.requests_per_minute else None
        self.tokens = Bucket(entry.tokens_per_minute) if entry.tokens_per_minute else None
        self.daily_tokens = (
            Bucket(entry.tokens_per_day, seconds=SECONDS_PER_DAY) if entry.tokens_per_day else None
        )
        self.num_active = 0
        """Requests in progress."""

    @property
    def is_expired(self) -> bool:
        """Whether the key is no longer accepted."""
        expires = self.entry.expires
        if expires is None:
            return False
        if not isinstance(expires, datetime):
            expires = datetime.combine(expires, datetime.min.time(), UTC)
        return datetime.now(UTC) >= expires

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
        self._keys = self._own_keys
        if path is not None:
            self._version = file_version(path)
            self._keys += self._read(path)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, given: str) -> Key | None:
        """Return the key that was given; None if it is not accepted.

        All digests are compared, in constant time: neither content nor length leaks.
        """
        self._refresh()
        digest = hashlib.sha256(given.encode("latin-1", errors="replace")).digest()
        found = None
        for key in self._keys:
            for accepted in key.digests:
                if hmac.compare_digest(digest, accepted):
                    found = key
        return None if found is None or found.is_expired else found

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
            self._keys = self._own_keys + self._read(self._path)
        except ConfigError as error:
            logger.error("the former keys stay: %s", error.what)
            return
        logger.warning("the keys were read again: %s", ", ".join(key.name for key in self._keys))

    def _read(self, path: Path) -> tuple[Key, ...]:
        """Return the file's keys; one that has not changed keeps what it has left."""
        former = {key.name: key for key in self._keys}
        keys = []
        for name, entry in _read(path).items():
            known = former.get(name)
            keys.append(known if known and known.entry == entry else Key(name, entry))
        return tuple(keys)


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
