"""How workers keep their connection to Redis: Celery's AMQP and Kombu's Redis transport, without acknowledgements.

The ledger knows what was taken: a message that dies with its worker is published again by the sweeper, a claim that
dies is taken back when its lease runs out. So Kombu need not keep each message in Redis until it is acknowledged, which
is eight commands a job (`ack_emulation` in config/celery.py). What has no row (jobs.expire, jobs.ping) is delivered
once at most; beat sends it again when it is due.
"""

from typing import Any

import kombu
import structlog
from celery.app.amqp import AMQP as CeleryAMQP
from django.conf import settings
from kombu.transport import redis, virtual
from redis.exceptions import ResponseError

from config.celery import bindings
from jobs.backpressure import PROBE

log = structlog.get_logger(__name__)
PAUSE_S = 2  # between two tries to connect


class QoS(virtual.QoS):  # type: ignore[misc]
    """The prefetch window, in memory. What was fetched and not begun goes back to its queue when a channel closes."""

    def restore_unacked(self) -> list[Any]:
        """Put back what was fetched, oldest first in line, but nothing that still runs here."""
        from celery.worker import state

        self._flush()
        running = {request.message.delivery_tag for request in list(state.active_requests)}
        waiting = [message for tag, message in self._delivered.items() if tag not in running]
        self._delivered.clear()
        try:
            for message in reversed(waiting):
                self.channel._restore(message)
        except Exception as error:  # noqa: BLE001  (Kombu has an AttributeError for a broker that is away)
            log.warning(
                "messages not put back: the sweeper publishes their jobs again", count=len(waiting), why=str(error)
            )
        return []


class Channel(redis.Channel):  # type: ignore[misc]
    """Kombu's, with our window, and bindings that are known."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.ack_emulation:
            self.QoS = QoS
            self.client.delete(PROBE)  # a broker that refuses it would let a worker connect, again and again

    def get_table(self, exchange: str) -> list[tuple[str, str, str]]:
        """The bindings of an exchange. Those of ours are in the lane table: Redis need not be asked for each message,
        and one that was wiped, which has forgotten them, drops nothing.
        """
        ours: bool = exchange == settings.LANES.exchange.name
        return bindings(settings.LANES) if ours else list(super().get_table(exchange))

    def _restore(self, message: Any, leftmost: bool = False) -> None:
        """Put a message back where it was, at the head of its queue: at the end it would look overtaken."""
        if self.ack_emulation:
            super()._restore(message, leftmost)
            return
        to = message.delivery_info
        with self.conn_or_acquire() as client:
            self._do_restore_message(message._raw, to["exchange"], to["routing_key"], client, leftmost)


class Transport(redis.Transport):  # type: ignore[misc]
    """Kombu's, with our channels. A broker that refuses (no replica, read-only, out of memory) is one that is away: a
    worker tries again until it is back, where Celery would end it.
    """

    Channel = Channel
    connection_errors = (*redis.Transport.connection_errors, ResponseError)


class Connection(kombu.Connection):  # type: ignore[misc]
    """Tries an absent broker every PAUSE_S seconds; Kombu would wait longer each time, up to half a minute."""

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Connect, however many tries it takes."""
        return super().ensure_connection(*args, **{"interval_max": PAUSE_S, **kwargs})

    def get_transport_cls(self) -> Any:
        """Ours in place of Kombu's Redis transport; the transports of other URLs stay as they are."""
        found = super().get_transport_cls()
        return Transport if found is redis.Transport else found


class AMQP(CeleryAMQP):  # type: ignore[misc]
    """Celery's, with our connections."""

    Connection = Connection
