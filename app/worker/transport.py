"""How we hold on to Redis: Celery's AMQP and Kombu's Redis transport, with four small changes.

Three work around Kombu 5.7.0, and tests/app/worker/test_transport.py tells when they can go:

- A channel that acknowledges or closes after its connection was lost asks that connection for the server's address, but
  the connection has let go of it: `'NoneType' object has no attribute 'hostname'`, and the worker exits (a regression:
  5.6 did not; celery/kombu#582 and #970 are its forerunners).
- A lost connection gives back the messages of tasks that are still running here, so that they run twice at once.
- A message whose acknowledgement does not get through keeps its place in the prefetch window, though its task has ended
  (Celery logs "Couldn't ack" and goes on): with a window of one the worker never takes another.
"""

from typing import Any

import kombu
from celery.app.amqp import AMQP as CeleryAMQP
from kombu.transport import redis, virtual

PAUSE_S = 2


class QoS(redis.QoS):  # type: ignore[misc]
    """Gives back what runs here when the worker ends, but not when it only loses its connection.

    An acknowledgement that does not get through leaves the message with the broker, which hands it out again after the
    visibility timeout; its claim drops it.
    """

    def ack(self, delivery_tag: str) -> None:
        """The message is done with here, whether the broker hears of it or not."""
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
    """Remembers where its server is, for what it has to say after its connection was lost."""

    QoS = QoS
    _address: dict[str, Any]

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        if self.connection is None or self.connection.client is None:
            return dict(self._address)
        self._address = super()._connparams()
        return super()._connparams(asynchronous) if asynchronous else dict(self._address)


class Transport(redis.Transport):  # type: ignore[misc]
    """Kombu's, with our channels."""

    Channel = Channel


class Connection(kombu.Connection):  # type: ignore[misc]
    """Tries an absent broker every other second; Kombu would wait longer and longer, up to half a minute."""

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Connect, however many tries it takes."""
        return super().ensure_connection(*args, **{"interval_max": PAUSE_S, **kwargs})

    def get_transport_cls(self) -> Any:
        """Ours instead of Kombu's Redis transport; what other URLs ask for stays what it is."""
        found = super().get_transport_cls()
        return Transport if found is redis.Transport else found


class AMQP(CeleryAMQP):  # type: ignore[misc]
    """Celery's, with our connections."""

    Connection = Connection
