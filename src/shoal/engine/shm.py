"""Shared memory that dead engines leave behind in /dev/shm.

vLLM's processes share it under names such as ``psm_5320f0a5`` (CPython's multiprocessing.shared_memory). Whoever made a
segment has to remove it; who is killed does not, and each leaves some 400 MB, until the machine is restarted.

Names tell nothing about owners, so segments are noted while the engine lives: those its processes have mapped or open.
They are told by inode, because a mapping's name may be another one: glibc makes a semaphore under a temporary name, and
/proc goes on showing that one (``sem.wd0fTv (deleted)`` for ``sem.mp-vdiia902``).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

SHM = Path("/dev/shm")
PROC = Path("/proc")


class Segment(msgspec.Struct, frozen=True, array_like=True, order=True):
    """A file in /dev/shm, told apart from one that takes its name later.

    Attributes:
        name: of the file.
        inode: of the file.
    """

    name: str
    inode: int


def used_by(pids: Iterable[int]) -> set[Segment]:
    """Return the segments in /dev/shm that processes `pids` use.

    Takes a millisecond or so for each process of vLLM's size: call it in a thread.
    """
    in_use = {inode for pid in pids for inode in _inodes_of(pid)}
    return {segment for segment in segments() if segment.inode in in_use}


def segments() -> list[Segment]:
    """Return all segments there are."""
    try:
        with os.scandir(SHM) as entries:
            return [
                Segment(entry.name, entry.inode())
                for entry in entries
                if entry.is_file(follow_symlinks=False)
            ]
    except OSError:
        return []


def remove_unused(candidates: Iterable[Segment]) -> list[str]:
    """Remove those of `candidates` that belong to this user and that no living process uses.

    Returns:
        names of the segments removed.
    """
    left = {segment.inode: segment for segment in candidates}
    if not left:
        return []
    for pid in (int(entry) for entry in os.listdir(PROC) if entry.isdecimal()):  # noqa: PTH208
        for inode in _inodes_of(pid) & left.keys():
            del left[inode]
    removed = []
    for segment in left.values():
        path = SHM / segment.name
        try:
            found = path.stat(follow_symlinks=False)
            if found.st_ino == segment.inode and found.st_uid == os.geteuid():
                path.unlink()
                removed.append(segment.name)
        except OSError:
            continue  # gone already, or not ours to remove
    return sorted(removed)


def _inodes_of(pid: int) -> set[int]:
    """Return the inodes of all files in /dev/shm that a process has mapped or open; none if it may not be looked at."""
    inodes = set()
    try:
        device = SHM.stat().st_dev  # a container's /dev/shm is another one, with numbers of its own
        # address perms offset device inode path: proc(5), /proc/pid/maps
        line = rf"^\S+ \S+ \S+ {os.major(device):02x}:{os.minor(device):02x} (\d+) +{SHM}/".encode()
        maps = (PROC / str(pid) / "maps").read_bytes()
        inodes |= {int(inode) for inode in re.findall(line, maps, re.MULTILINE)}
        with os.scandir(PROC / str(pid) / "fd") as descriptors:
            for descriptor in descriptors:
                with contextlib.suppress(OSError):  # closed meanwhile
                    if os.readlink(descriptor.path).startswith(f"{SHM}/"):  # noqa: PTH115
                        found = descriptor.stat()
                        inodes |= {found.st_ino} if found.st_dev == device else set()
    except OSError:
        return inodes  # gone meanwhile, or another user's
    return inodes
