"""Is a new engine good? It is asked what one that serves already is asked, and the answers are compared."""

from __future__ import annotations

import time

import msgspec

from shoal.cluster.view import EngineReport
from shoal.engine.probe import Probe, ProbeError
from shoal.node.certificates import Certificates

_PROMPTS = ("The capital of France is", "1, 2, 3, 4, 5,", "def add(a, b):\n    return")
_TOKENS = 16
_TIMEOUT = 60.0  # s for one answer: the first one may compile
# A new engine may be slower than the former one by this factor and these seconds, in all: noise and cold caches.
_SLOWER, _GRACE = 5.0, 5.0


class Answers(msgspec.Struct, frozen=True):
    """What an engine answered.

    Attributes:
        texts: to each prompt; empty for a model that continues no text.
        took: seconds for all.
        problem: why there is no answer, "" if there is.
    """

    texts: tuple[str, ...] = ()
    took: float = 0.0
    problem: str = ""


async def ask(engine: EngineReport, certificates: Certificates, api_key: str | None = None) -> Answers:
    """Ask an engine of the cluster, past all gateways."""
    begun = time.monotonic()
    try:
        async with probe_of(engine, certificates, api_key) as probe:
            await probe.health()
            try:
                texts = tuple([await probe.complete(prompt, _TOKENS) for prompt in _PROMPTS])
            except ProbeError as error:
                if error.status not in {404, 405}:
                    raise
                await probe.canary()
                texts = ()
    except (ProbeError, OSError) as error:
        return Answers(took=time.monotonic() - begun, problem=f"it {error}")
    return Answers(texts, time.monotonic() - begun)


def probe_of(engine: EngineReport, certificates: Certificates, api_key: str | None = None) -> Probe:
    """Return what asks an engine of the cluster, past all gateways.

    Raises:
        OSError: this node has no certificate that the engine asks for.
    """
    return certificates.probe(
        engine.host, engine.port, engine.model, engine.authority, timeout=_TIMEOUT, api_key=api_key
    )


def judge(new: Answers, former: Answers | None) -> str | None:
    """Return what is wrong with a new engine, None if nothing is.

    That its texts are others is nothing wrong: another model, or another quantisation, says other things.

    Args:
        new: its answers.
        former: those of an engine that serves the same name already, None if there is none.
    """
    if new.problem:
        return new.problem
    if new.texts and not any(text.strip() for text in new.texts):
        return "its answers are empty"
    good = former is not None and not former.problem
    if good and former is not None:
        if bool(former.texts) != bool(new.texts):
            return "it is of another kind: one of the two continues texts and the other does not"
        if new.took > _SLOWER * former.took + _GRACE:
            return f"it took {new.took:.1f} s for what the former one answers in {former.took:.1f} s"
    if new.texts and all(map(_says_nothing, new.texts)) and not (good and former and _all_nothing(former)):
        return f"its answers say nothing, such as {new.texts[0][:40]!r}"
    return None


def _all_nothing(answers: Answers) -> bool:
    return all(map(_says_nothing, answers.texts))


def _says_nothing(text: str) -> bool:
    """Whether a text is one character over and over, as models with broken weights write ("!!!!!!!!")."""
    return len(set(text.split())) <= 1 and len(set(text.strip())) <= 1
