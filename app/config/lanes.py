"""Loads and checks the lane table (lanes.yml), without Django or Celery."""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

TABLE = Path(__file__).with_name("lanes.yml")


class LaneTableError(ValueError):
    """The lane table is wrong; the message says where and how to mend it."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Exchange(Strict):
    name: str = Field(min_length=1)
    type: Literal["topic", "direct"]


class Lane(Strict):
    """One lane; times in seconds, memory in MiB. lanes.yml explains each field."""

    queues: dict[str, str] = Field(min_length=1)
    pool: Literal["prefork", "threads", "solo"]
    weight: int = Field(gt=0)
    wait_ratio: float = Field(ge=0)
    memory_base_mb: int = Field(gt=0)
    memory_per_slot_mb: int = Field(gt=0)
    prefetch_multiplier: int = Field(ge=1)
    soft_time_limit: int = Field(gt=0)
    time_limit: int = Field(gt=0)
    max_tasks_per_child: int | None = None
    max_backlog: int = Field(gt=0)
    max_attempts: int = Field(gt=0)
    max_slots: int = Field(gt=0)
    latency_target_s: float = Field(gt=0)
    chunk: int = Field(1, ge=1, le=64)

    @model_validator(mode="after")
    def limits_are_ordered(self) -> "Lane":
        if self.soft_time_limit >= self.time_limit:
            raise ValueError("soft_time_limit must be below time_limit, or no job can end itself in time")
        if self.pool == "solo" and self.max_slots != 1:
            raise ValueError("a solo pool runs one job at a time, so max_slots must be 1")
        if self.pool != "solo" and self.chunk != 1:
            raise ValueError("chunk needs a solo pool: the others have limits for a message, not for each job in it")
        return self


class LaneTable(Strict):
    exchange: Exchange
    lanes: dict[str, Lane] = Field(min_length=1)

    def __getitem__(self, name: str) -> Lane:
        return self.lanes[name]


def load(path: Path = TABLE) -> LaneTable:
    """Read and check the lane table.

    Raises:
        LaneTableError: the file is missing, is not YAML, or a value in it makes no sense.
    """
    try:
        raw: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return LaneTable.model_validate(raw)
    except (OSError, yaml.YAMLError) as error:
        raise LaneTableError(f"The lane table {path} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        raise LaneTableError(f"The lane table {path.name} is wrong at {where}: {first['msg']}.") from error
