"""A trial: each model's engine is started for a moment and asked for a token, on loopback, for nobody else."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from shoal.config import Config, Node
from shoal.engine import diagnosis
from shoal.engine.command import api_key
from shoal.engine.gpu import list_gpus, visible
from shoal.engine.machine import this_machine
from shoal.engine.ports import NoFreePortError, reserve
from shoal.engine.probe import Probe, ProbeError
from shoal.engine.process import EngineProcess
from shoal.engine.spec import EngineSpec
from shoal.node.addresses import base_url
from shoal.node.check.findings import Finding, failure, ok, warning
from shoal.node.duty import Duty
from shoal.node.errors import StartError

_LOOPBACK = "127.0.0.1"
_INTERVAL = 0.25  # s
_CANARY = 120.0  # s that the first token may take
_GRACE = 10.0  # s


async def trial(config: Config, node: Node) -> AsyncIterator[Finding]:
    """Try one engine of each model that this node serves, one after the other.

    Args:
        config: the configuration.
        node: this node.
    """
    gpus = visible(list_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    try:
        duty = Duty(config, node, gpus, _LOOPBACK, None)
    except StartError as error:
        yield failure("trial", str(error), "correct the file; `shoal plan FILE` shows what would work")
        return
    if duty.parts:
        engines = ", ".join(duty.parts)
        fix = "start the cluster: `shoal status` tells how far they have got"
        yield warning("trial", f"engines that span nodes are not tried: {engines}", fix)
    tried: set[str] = set()
    for spec in duty.specs.values():
        if spec.model not in tried:
            tried.add(spec.model)
            yield await _try(config, node, spec)
    if not tried and not duty.parts:
        yield ok("trial", "this node runs no engine")


async def _try(config: Config, node: Node, spec: EngineSpec) -> Finding:
    with tempfile.TemporaryDirectory(prefix="shoal-check-") as folder:
        directory = Path(folder)
        try:
            reservation = reserve(_LOOPBACK, *config.engines.ports, f"check/{node.name}")
        except NoFreePortError as error:
            return failure("trial", str(error), "set `engines.ports` to a range that is free")
        spec = msgspec.structs.replace(spec, port=reservation.port)
        try:
            process = await EngineProcess.start(
                spec, directory, reservation=reservation, machine=this_machine()
            )
        except (StartError, OSError) as error:
            reservation.release()
            return failure("trial", f"the engine of {spec.model} does not start: {error}", "see above")
        begun = time.monotonic()
        try:
            async with asyncio.timeout(config.engines.start_timeout):
                endpoint = await _first_token(spec, process)
        except TimeoutError:
            progress = await asyncio.to_thread(diagnosis.progress, process.log)
            text = f"the engine of {spec.model} was not ready after {config.engines.start_timeout:g} s ({progress})"
            return failure("trial", text, "raise `engines.start_timeout` if it was still loading")
        except ProbeError as error:
            last = await asyncio.to_thread(diagnosis.last_error, process.log)
            fix = "its last error says what is wrong; `shoal plan FILE` shows what fits"
            return failure("trial", f"the engine of {spec.model} {error}{f': {last}' if last else ''}", fix)
        finally:
            await process.terminate(_GRACE)
    took = time.monotonic() - begun
    return ok("trial", f"the engine of {spec.model} was loaded and answered {endpoint} after {took:.1f} s")


async def _first_token(spec: EngineSpec, process: EngineProcess) -> str:
    url = base_url(_LOOPBACK, spec.port)
    key = api_key(spec, os.environ)
    async with Probe(url, spec.served_name, api_key=key, timeout=_CANARY) as probe:
        while True:
            if process.exited.done():
                raise ProbeError(f"ended: {process.exited.result()}")
            try:
                await probe.health()
                break
            except ProbeError:
                await asyncio.wait({process.exited}, timeout=_INTERVAL)
        return await probe.canary()
