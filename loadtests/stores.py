"""The load on Redis and PostgreSQL, where this process may ask them: it is told where, as the application is."""

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import psycopg
import redis

from loadtests import clock

Json = dict[str, Any]
PATIENCE_S = 2
TRANSACTIONS = "SELECT sum(xact_commit + xact_rollback), sum(numbackends) FROM pg_stat_database"


class Stores:
    """Counts what they do a second. `missing` says why one is not looked at."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self.samples: list[Json] = []
        self.missing: dict[str, str] = {}
        self._asks: dict[str, Callable[[], tuple[float, float]]] = {}
        self._counted: dict[str, tuple[float, float]] = {}
        self._know("redis", environ.get("HEADRACE_BROKER_URL"), "HEADRACE_BROKER_URL", ("redis",), _redis)
        self._know(
            "postgresql", environ.get("HEADRACE_DATABASE_URL"), "HEADRACE_DATABASE_URL", ("postgres",), _postgresql
        )

    def _know(self, name: str, url: str | None, variable: str, schemes: tuple[str, ...], ask: Any) -> None:
        if url and url.startswith(schemes):
            self._asks[name] = ask(url)
        else:
            self.missing[name] = f"{variable} does not say where it is" if not url else "there is none"

    def look(self) -> None:
        """One sample: commands or transactions a second, and connections."""
        found = {name: rates for name, ask in list(self._asks.items()) if (rates := self._rates(name, ask))}
        if found:
            self.samples.append({"at": clock.now(), **found})

    def _rates(self, name: str, ask: Callable[[], tuple[float, float]]) -> Json | None:
        try:
            count, connections = ask()
        except (redis.RedisError, psycopg.Error, OSError) as error:
            self.missing[name] = " ".join(str(error).split()) or type(error).__name__
            del self._asks[name]
            return None
        at, before = clock.now(), self._counted.get(name)
        self._counted[name] = (at, count)
        if before is None:
            return None
        return {"rate": (count - before[1]) / (at - before[0]), "connections": connections}


def _redis(url: str) -> Callable[[], tuple[float, float]]:
    client = redis.Redis.from_url(url, socket_timeout=PATIENCE_S, socket_connect_timeout=PATIENCE_S)

    def ask() -> tuple[float, float]:
        info: Any = client.info()
        return float(info["total_commands_processed"]), float(info["connected_clients"])

    return ask


def _postgresql(url: str) -> Callable[[], tuple[float, float]]:
    kept: list[Any] = []

    def ask() -> tuple[float, float]:
        if not kept:
            kept.append(psycopg.connect(url, connect_timeout=PATIENCE_S, autocommit=True))
        with contextlib.closing(kept[0].execute(TRANSACTIONS)) as cursor:
            count, connections = cursor.fetchone()
        return float(count), float(connections)

    return ask
