"""The faults, one class each."""

from benchmarks.chaos.faults.base import Fault
from benchmarks.chaos.faults.engines import CrashLoop, EngineCoreDead, EngineHung, EngineKilled
from benchmarks.chaos.faults.links import OneWay, Partition, SlowLink
from benchmarks.chaos.faults.machine import ClockJump, DiskFull, DiskFullEngineKilled
from benchmarks.chaos.faults.nodes import NodeKilled, PowerOff, WorkerKilled

FAULTS: tuple[type[Fault], ...] = (
    EngineKilled,
    EngineHung,
    EngineCoreDead,
    CrashLoop,
    NodeKilled,
    PowerOff,
    WorkerKilled,
    OneWay,
    Partition,
    SlowLink,
    DiskFull,
    DiskFullEngineKilled,
    ClockJump,
)
