"""Looks after the files of the models a node serves: knows their hashes, fetches what is missing, gives to others.

What is expected of a model's files: what `sha256` in the configuration says; else, of files that Shoal has copied, what
they were when it copied them; else nothing: files that somebody else put there are taken as they are, and told of where
other nodes have different ones (see docs/decisions/0022).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from shoal.cluster.addresses import split_name
from shoal.cluster.signing import Signer
from shoal.cluster.view import EngineState, Member, MemberState, View
from shoal.config import Config, Node
from shoal.config.schema import Model
from shoal.models.copied import Copied
from shoal.models.copying import Copy, Pace
from shoal.models.errors import ModelError
from shoal.models.manifest import Hashes, Manifest, Stopped, differences, manifest_of
from shoal.models.partial import NoSpaceError, Partial
from shoal.node.addresses import base_url
from shoal.node.certificates import Certificates
from shoal.node.events import Events
from shoal.node.file_link import MANIFEST, LinkSource, Offer
from shoal.node.held import Held
from shoal.node.hub import UNREACHABLE, download, downloaded, files_of, first_in_turn, is_hub_id
from shoal.node.link import LinkClient, LinkError

_TICK = 0.5
# Before what failed is tried again: whatever was wrong, and a full disk. Seconds.
_AGAIN, _AGAIN_FULL = 5.0, 60.0
# After this long a node that was never heard of downloads nothing for the others. Seconds.
_PATIENCE = 5.0


@dataclass
class _Look:
    """What is known of the files of one model.

    Attributes:
        model: the model.
        directory: where they are to be.
        manifest: what they are, once they are known to be as expected.
        digest: of that.
        problem: why nothing may be started with them now, "" if it may.
        again_at: not looked at before this (steady clock).
        copy: the copy that is under way.
        sources: who gives to it.
        told: what was told of them last, so that it is not told twice.
        since: when looking after them began (steady clock).
        downloading: they come from a hub.
        unreachable: this node could not get them from there.
    """

    model: Model
    directory: Path
    manifest: Manifest | None = None
    digest: str = ""
    problem: str = ""
    again_at: float = 0.0
    copy: Copy | None = None
    sources: dict[str, LinkSource] = field(default_factory=dict)
    told: str = ""
    since: float = field(default_factory=time.monotonic)
    downloading: bool = False
    unreachable: bool = False


class ModelFiles:
    """The files of the models of one node.

    Args:
        state_dir: the node's directory.
        view: returns members and engines.
        signer: signs what is asked of other nodes.
        certificates: for connections to them.
        events: gets a sentence for each change.
        on_change: called when something may start that could not, or the offers have changed.
        on_moved: called when engines of a model are to be started with another path.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        view: Callable[[], View],
        signer: Signer,
        certificates: Certificates,
        events: Events,
        on_change: Callable[[], None],
        on_moved: Callable[[], None] = lambda: None,
    ) -> None:
        self._state_dir = state_dir
        self._on_moved = on_moved
        self._config: Config | None = None
        self._view = view
        self._signer = signer
        self._certificates = certificates
        self._client = LinkClient(signer, certificates)
        self._events = events
        self._on_change = on_change
        self._hashes = Hashes(state_dir / "hashes.json")
        self._copied = Copied(state_dir / "copied.json")
        self._looks: dict[str, _Look] = {}
        self._stop = threading.Event()
        self._connections = 4
        self._pace = Pace(None)

    def want(self, config: Config, node: Node, also: Iterable[Model] = ()) -> None:
        """Look after the files of what `node` may have to run, and of the models in `also`."""
        models = {m.name: m for m in also}
        models |= {m.name: m for duty in config.duties_of(node).values() for m in duty}
        self._connections = config.files.connections
        self._pace = Pace(config.files.max_rate)
        self._config = config
        looks = {}
        for name, model in models.items():
            fetched = config.fetches_files and is_hub_id(model)
            directory = files_of(model, self._state_dir) if fetched else Path(str(model.path))
            # vLLM finds out itself what is wrong with a path; a single file (GGUF) is nothing to look after.
            if model.engine == "external" or not directory.is_absolute() or directory.is_file():
                continue
            missing = not directory.exists()
            if missing and not config.fetches_files:
                continue
            expected = model.sha256 is not None or self._copied.manifest(name, directory) is not None
            if not (missing or expected or config.files.check):
                continue
            known = self._looks.get(name)
            if known is not None and (known.model.path, known.model.sha256) == (model.path, model.sha256):
                looks[name] = known
                continue
            problem = "its files are to be checked" if expected else ""
            looks[name] = _Look(
                model, directory, problem="its files are not here yet" if missing else problem
            )
        self._looks = looks

    def held(self, model: str) -> Held | None:
        """Return why no engine of a model may be started now, None if one may."""
        look = self._looks.get(model)
        if look is None or (look.copy is None and not look.problem):
            return None
        if look.downloading:
            size = downloaded(look.directory) / 1e6
            return Held(f"is downloaded from its hub: {size:,.0f} MB so far", look.since)
        return Held(str(look.copy.progress()) if look.copy else look.problem, look.since)

    def offers(self) -> dict[str, Offer]:
        """Return what other nodes may have, by the model's name."""
        return {
            name: Offer(look.directory, look.manifest, look.digest)
            for name, look in self._looks.items()
            if look.manifest is not None
        }

    def digests(self) -> dict[str, str]:
        """Return the digests of what other nodes may have, by the model's name; see also `UNREACHABLE`."""
        failed = {name: UNREACHABLE for name, look in self._looks.items() if look.unreachable}
        return failed | {name: offer.digest for name, offer in self.offers().items()}

    async def run(self) -> None:
        """Look after them until cancelled."""
        try:
            while True:
                for look in list(self._looks.values()):
                    if look.manifest is None:
                        if time.monotonic() >= look.again_at and not self._is_loading(look):
                            await self._look_at(look)
                    elif look.manifest is not None:
                        self._compare(look)
                await asyncio.sleep(_TICK)
        finally:
            self._stop.set()

    def _is_loading(self, look: _Look) -> bool:
        """Return whether an engine of this node reads files that nobody waits for to be checked: it goes first."""
        if look.problem:
            return False
        own = (e for member, e in self._view().engines() if member.is_self)
        return any(e.model == look.model.name and e.state is EngineState.STARTING for e in own)

    # -- one model

    async def _look_at(self, look: _Look) -> None:
        try:
            if look.directory.is_dir():
                await self._check(look)
            else:
                await self._fetch(look)
        except Stopped:
            return
        except NoSpaceError as error:
            self._later(look, f"its files are not copied: {error}", _AGAIN_FULL, "error")
        except (ModelError, OSError) as error:
            self._later(look, str(error), _AGAIN, "warning")
        except Exception as error:  # the other models are looked after all the same
            self._later(
                look, f"looking after its files failed: {error!r}; please report this", _AGAIN_FULL, "error"
            )

    async def _check(self, look: _Look) -> None:
        """Know the hashes of what is there, and have what is wrong fetched again."""
        name = look.model.name
        found = await asyncio.to_thread(manifest_of, look.directory, self._hashes, self._stop.is_set)
        right = self._copied.manifest(name, look.directory)
        if look.model.sha256 is not None and (right is None or right.digest() != look.model.sha256):
            right = (
                found if found.digest() == look.model.sha256 else await self._told(look, look.model.sha256)
            )
            if right is None:
                what = f"its files in {look.directory} are not those that `sha256` names"
                raise ModelError(f"{what}, and no node that has these answers")
        if right is None:
            self._good(look, found)
            return
        wrong = [n for n in differences(found.files, right.files) if n in right.files]
        if wrong:
            await self._repair(look, right, wrong)
        else:
            self._good(look, right)

    async def _repair(self, look: _Look, right: Manifest, wrong: list[str]) -> None:
        if not self._givers(look.model.name, right.digest()):
            raise ModelError(
                f"{_files(wrong)} in {look.directory} differ from what they should be, and no node has it"
            )
        there = [name for name in wrong if (look.directory / name).exists()]
        for name in there:
            await asyncio.to_thread((look.directory / name).unlink)
        if there:
            self._events.add(
                f"model {look.model.name}: {_files(there)} had not the hash it should have: deleted, and fetched again",
                "error",
            )
        await self._copy(look, right, wrong)

    async def _fetch(self, look: _Look) -> None:
        """Copy a model that is not here at all."""
        offered = Counter(
            digest
            for member in self._view().members
            if (digest := _offer(member, look.model.name)) and look.model.sha256 in (None, digest)
        )
        if not offered and is_hub_id(look.model):
            await self._from_hub(look)
            return
        if not offered:
            what = f"{look.directory} does not exist on this machine, and no other node has it to give"
            self._later(look, what, 0, "warning")
            return
        digest = max(offered, key=lambda d: (offered[d], d))
        manifest = await self._told(look, digest)
        if manifest is not None:
            await self._copy(look, manifest, sorted(manifest.files))

    async def _from_hub(self, look: _Look) -> None:
        """Download a model if it is this node's turn to; else wait until another one has it."""
        assert self._config is not None
        name, path = look.model.name, str(look.model.path)
        waited = time.monotonic() - look.since > _PATIENCE
        first = first_in_turn(self._config, look.model, self._view(), waited=waited)
        if first != self._view().me:
            self._later(
                look,
                f"{path} is not on this machine; it is copied from {first}, which downloads it",
                0,
                "info",
            )
            return
        self._events.add(
            f"model {name}: {path} is on no node of the cluster: this one downloads it from its hub"
        )
        began, look.downloading = time.monotonic(), True
        self._on_change()
        try:
            await download(look.model, look.directory, str(self._config.engines.python or "") or None)
        except ModelError:
            look.unreachable = True
            raise
        finally:
            look.downloading = False
        look.unreachable = False
        self._events.add(f"model {name}: {path} is downloaded after {time.monotonic() - began:.0f} s")

    async def _copy(self, look: _Look, manifest: Manifest, wanted: list[str]) -> None:
        name, digest = look.model.name, manifest.digest()
        partial = await asyncio.to_thread(Partial, look.directory, manifest, wanted)
        began, resumed = time.monotonic(), partial.copied
        look.copy = copy = Copy(
            partial, lambda: list(look.sources.values()), self._pace, self._stop, self._connections
        )
        more = f", {resumed / 1e6:,.0f} MB of them are there already" if resumed else ""
        self._renew(look, digest)
        self._events.add(
            f"model {name}: copies {partial.size / 1e6:,.0f} MB in {len(wanted)} files from "
            f"{', '.join(look.sources) or 'nobody yet'}{more}"
        )
        self._on_change()
        work = asyncio.create_task(asyncio.to_thread(copy.run))
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=_TICK)
                self._renew(look, digest)
                self._on_change()
            work.result()
        finally:
            look.copy = None
            for source in look.sources.values():
                source.close()
            look.sources = {}
        for file in wanted:
            self._hashes.note(look.directory / file, manifest.files[file].sha256)
        await asyncio.to_thread(self._hashes.save)
        self._copied.keep(name, look.directory, manifest)
        givers = ", ".join(f"{node} {size / 1e6:,.0f} MB" for node, size in sorted(copy.served.items()))
        took = time.monotonic() - began
        self._events.add(
            f"model {name}: all files are here after {took:.0f} s, their hashes are right ({givers})"
        )
        self._good(look, manifest)

    def _good(self, look: _Look, manifest: Manifest) -> None:
        look.manifest, look.problem, look.told = manifest, "", ""
        look.digest = manifest.digest()
        if is_hub_id(look.model):
            self._on_moved()
        size = manifest.size / 1e6
        self._events.add(
            f"model {look.model.name}: {len(manifest.files)} files, {size:,.0f} MB, sha256 {look.digest}"
        )
        self._on_change()

    def _later(self, look: _Look, problem: str, seconds: float, level: str) -> None:
        """Try again later; what could be started before still can."""
        look.again_at = time.monotonic() + seconds
        if look.problem:
            look.problem = problem
        if look.told != problem:
            look.told = problem
            self._events.add(f"model {look.model.name}: {problem}", level)
            self._on_change()

    def _compare(self, look: _Look) -> None:
        """Tell once that other nodes serve other files under the same name."""
        mine = look.digest
        others = [
            m.name
            for m in self._view().members
            if not m.is_self and _offer(m, look.model.name) not in ("", mine)
        ]
        told = ", ".join(others)
        if others and told != look.told:
            self._events.add(
                f"model {look.model.name}: the files here are not those of {told}: answers may differ "
                "(`sha256` of the model says which are right)",
                "warning",
            )
        look.told = told

    # -- other nodes

    def _givers(self, model: str, digest: str) -> list[Member]:
        return [m for m in self._view().members if _offer(m, model) == digest and not m.is_self]

    async def _told(self, look: _Look, digest: str) -> Manifest | None:
        """Return the manifest of this digest from whichever node tells it, None if none does."""
        for member in self._givers(look.model.name, digest):
            with contextlib.suppress(LinkError, msgspec.ValidationError):
                told = await self._client.ask(member, "GET", MANIFEST, {"model": look.model.name})
                manifest = msgspec.convert(told, Manifest)
                if manifest.digest() == digest and all(map(_is_below, manifest.files)):
                    return manifest
        return None

    def _renew(self, look: _Look, digest: str) -> None:
        """Let a copy know who gives now."""
        name = look.model.name
        present = {m.name: m for m in self._givers(name, digest)}
        sources = {n: s for n, s in look.sources.items() if n in present}
        for node in present.keys() - sources.keys():
            report = present[node].report
            assert report is not None
            with contextlib.suppress(OSError):
                context = self._certificates.context(report.link_authority)
                url = base_url((split_name(node) or ("", 0))[0], report.link, tls=context is not None)
                sources[node] = LinkSource(node, url, context, self._signer, name)
        look.sources = sources


def _offer(member: Member, model: str) -> str:
    """Return the digest of the model's files that a member gives, "" if it gives none."""
    if member.report is None or not member.report.link:
        return ""
    if member.state not in (MemberState.ALIVE, MemberState.SUSPECT):
        return ""
    digest = member.report.files.get(model, "")
    return "" if digest == UNREACHABLE else digest


def _is_below(name: str) -> bool:
    """Return whether a path stays in the directory it is relative to, whatever another node says."""
    parts = name.split("/")
    return bool(name) and not name.startswith("/") and all(p and not p.startswith(".") for p in parts)


def _files(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
