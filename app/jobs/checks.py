"""Checks at start: a mistake in the lane table or in a kind is one sentence, not a lost job later."""

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from kombu.transport.virtual.exchange import TopicExchange

import kinds
from jobs.tasks import ROUTES
from kinds.base import Kind


def lanes_bound_to(routing_key: str) -> list[str]:
    """The lane of every binding that a routing key matches."""
    topic = TopicExchange(None)
    return [
        name
        for name, lane in settings.LANES.lanes.items()
        for binding in lane.queues.values()
        if topic._match(topic.key_to_pattern(binding), routing_key)
    ]


def _lanes_of(kind: Kind) -> list[str]:
    return [kind.lane] if kind.lane is not None else list(settings.LANES.lanes)


def _problem(key: str, lane: str) -> list[str]:
    found = lanes_bound_to(key)
    if found == [lane]:
        return []
    bound = f"bound in the lanes {', '.join(found)}" if found else "bound by no lane"
    return [f"The routing key {key!r} is {bound}; it needs exactly one binding, in the lane {lane!r}."]


def refuse_unbound_routing_keys() -> None:
    """Each kind's and each task's routing key must lead to exactly one queue, and that queue belong to its lane.

    Raises:
        ImproperlyConfigured: one sentence for each key that does not, and the mend. In every process, at start.
    """
    keys = {f"{lane}.{kind.name}": lane for kind in kinds.ALL.values() for lane in _lanes_of(kind)}
    keys |= {key: key.partition(".")[0] for key in ROUTES}
    problems = [problem for key, lane in keys.items() for problem in _problem(key, lane)]
    if problems:
        raise ImproperlyConfigured(" ".join([*problems, "Mend app/config/lanes.yml, or the lane that the kind names."]))
