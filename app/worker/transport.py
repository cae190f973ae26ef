"""How workers keep their connection to Redis: Celery's AMQP and Kombu's Redis transport, with four small changes.

Three work around faults of Kombu 5.7.0; tests/app/worker/test_transport.py fails when one is no longer needed:

- A channel that acknowledges or closes after its connection was lost asks that connection for the server's address, but
  the connection no longer has it: `'NoneType' object has no attribute 'hostname'`, and the worker exits (5.6 did not
  have this fault; celery/kombu#582 and #970 were similar).
- A lost connection puts back the messages of tasks that are still running here, so that they run twice at once.
- A message whose acknowledgement does not get through keeps its place in the prefetch window, though its task has ended
  (Celery logs "Couldn't ack" and goes on): with a window of one the worker never takes another.
"""

import time
from typing import Any

import kombu
from celery.app.amqp import AMQP as CeleryAMQP
from kombu.transport import redis, virtual
from kombu.utils.json import dumps
from redis.exceptions import ResponseError

PAUSE_S = 2  # between two tries to connect


class QoS(redis.QoS):  # type: ignore[misc]
    """Puts back the messages of running tasks when the worker ends, but not when it only loses its connection.

    After an acknowledgement that did not get through, the broker delivers the message again once its visibility timeout
    has passed; the claim then fails, and the message is dropped. That time is by the broker's clock: by its own, a host
    whose clock is wrong would give the messages of the whole lane back.
    """

    _ahead: float | None = None  # the broker's clock less our monotonic one

    def append(self, message: Any, delivery_tag: str) -> None:
        """Record a message as taken now, as Kombu does."""
        to = message.delivery_info
        taken = dumps([message._raw, to["exchange"], to["routing_key"]])
        with self.channel.conn_or_acquire() as client:
            now = time.monotonic() + (self._look(client) if self._ahead is None else self._ahead)
            pipe = client.pipeline().zadd(self.unacked_index_key, {delivery_tag: now})
            pipe.hset(self.unacked_key, delivery_tag, taken).execute()
        virtual.QoS.append(self, message, delivery_tag)

    @property
    def visibility_timeout(self) -> float:
        """In seconds, plus what our wall clock is ahead of the broker's: Kombu subtracts it from our time."""
        with self.channel.conn_or_acquire() as client:
            broker = time.monotonic() + self._look(client)
        return float(self.channel.visibility_timeout + time.time() - broker)

    def _look(self, client: Any) -> float:
        seconds, microseconds = client.time()
        self._ahead = float(seconds + microseconds / 1e6 - time.monotonic())
        return self._ahead

    def ack(self, delivery_tag: str) -> None:
        """Free the message's place in the prefetch window, whether or not the acknowledgement gets through."""
        try:
            super().ack(delivery_tag)
        except BaseException:
            virtual.QoS.ack(self, delivery_tag)
            raise

    def restore_unacked(self, client: Any = None) -> None:
        """Put the unacknowledged messages back in their queues."""
        from celery.worker import state

        if state.should_stop is None and state.should_terminate is None:
            for request in list(state.requests.values()):
                if request in state.active_requests:
                    self._delivered.pop(request.message.delivery_tag, None)
        super().restore_unacked(client)


class Channel(redis.Channel):  # type: ignore[misc]
    """Remembers its server's address, which it asks for even after its connection was lost."""

    QoS = QoS
    _address: dict[str, Any]

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        if self.connection is None or self.connection.client is None:
            return dict(self._address)
        self._address = super()._connparams()
        return super()._connparams(asynchronous) if asynchronous else dict(self._address)


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
