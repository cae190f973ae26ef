"""Looks at the load on Redis and PostgreSQL, if the environment names them as it does for the application."""

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import psycopg
import redis

from loadtests import clock
from loadtests.samples import StoreRate, StoreSample

TIMEOUT_S = 2
TRANSACTIONS = "SELECT sum(xact_commit + xact_rollback), sum(numbackends) FROM pg_stat_database"
Ask = Callable[[], tuple[float, float]]
"""How many commands or transactions there have been, and how many connections there are."""


class Stores:
    """Samples of both; `missing` says by name why one is not looked at."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self.samples: list[StoreSample] = []
        self.missing: dict[str, str] = {}
        self._asks: dict[str, Ask] = {}
        self._counted: dict[str, tuple[float, float]] = {}
        self._add("redis", "redis", "HEADRACE_BROKER_URL", environ, _redis)
        self._add("postgresql", "postgres", "HEADRACE_DATABASE_URL", environ, _postgresql)

    def _add(self, name: str, scheme: str, variable: str, environ: Mapping[str, str], ask: Any) -> None:
        url = environ.get(variable)
        if url and url.startswith(scheme):
            self._asks[name] = ask(url)
        else:
            self.missing[name] = f"{variable} does not say where it is" if not url else "there is none"

    def look(self) -> None:
        """Take a sample. One that cannot be asked is not asked again."""
        found = {name: rates for name, ask in list(self._asks.items()) if (rates := self._rates(name, ask))}
        if found:
            self.samples.append(StoreSample(clock.now(), **found))

    def _rates(self, name: str, ask: Ask) -> StoreRate | None:
        try:
            count, connections = ask()
        except (redis.RedisError, psycopg.Error, OSError) as error:
            self.missing[name] = " ".join(str(error).split()) or type(error).__name__
            del self._asks[name]
            return None
        at, before = clock.now(), self._counted.get(name)
        self._counted[name] = (at, count)
        return StoreRate((count - before[1]) / (at - before[0]), connections) if before else None


def _redis(url: str) -> Ask:
    client = redis.Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)

    def ask() -> tuple[float, float]:
        info: Any = client.info()
        return float(info["total_commands_processed"]), float(info["connected_clients"])

    return ask


def _postgresql(url: str) -> Ask:
    kept: list[Any] = []

    def ask() -> tuple[float, float]:
        if not kept:
            kept.append(psycopg.connect(url, connect_timeout=TIMEOUT_S, autocommit=True))
        with contextlib.closing(kept[0].execute(TRANSACTIONS)) as cursor:
            count, connections = cursor.fetchone()
        return float(count), float(connections)

    return ask
