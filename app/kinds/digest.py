"""digest: a text -> its sha256, counts and most frequent words. Small and frequent; latency matters."""

import hashlib
import re
from collections import Counter
from typing import Any

from pydantic import Field

from kinds.base import Kind, Outcome, Params, Progress

WORD = re.compile(r"\w+(?:['’]\w+)*")


class DigestParams(Params):
    text: str = Field(
        "Water finds its way: the channel, the gate, the wheel, and the water goes on.",
        title="Text",
        description="The text to digest.",
        max_length=200_000,
        json_schema_extra={"format": "textarea"},
    )
    top: int = Field(5, title="Top words", description="How many of the most frequent words to list.", ge=0, le=50)


def run(params: DigestParams, progress: Progress) -> Outcome:
    """sha256 is of the UTF-8 bytes; words are case-folded; equal counts sort by word, so there is one right answer."""
    words = Counter(word.casefold() for word in WORD.findall(params.text))
    ranked = sorted(words.items(), key=lambda item: (-item[1], item[0]))
    return Outcome(
        {
            "sha256": hashlib.sha256(params.text.encode()).hexdigest(),
            "characters": len(params.text),
            "words": words.total(),
            "distinct_words": len(words),
            "lines": len(params.text.splitlines()),
            "top_words": [{"word": word, "count": count} for word, count in ranked[: params.top]],
        }
    )


def verify(params: dict[str, Any], result: dict[str, Any]) -> bool:
    """Whether a result is the right one for its params: does the work again, which is cheap."""
    return run(DigestParams.model_validate(params), lambda share, note="": None).result == result


KIND = Kind(
    name="digest",
    title="Digest of a text",
    summary="Hashes a text, counts it, and lists its most frequent words.",
    lane="quick",
    params=DigestParams,
    run=run,
    short=True,
)
