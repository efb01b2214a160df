"""How a process ended, also one that is not our child."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
from pathlib import Path

import msgspec

from shoal.engine import tree

_PIDFD_GET_INFO = 0xC040FF0B
"""_IOWR(0xFF, 11, 64 bytes), from Linux 6.15 on with the exit status: include/uapi/linux/pidfd.h."""
_PIDFD_INFO_EXIT = 1 << 3


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """The end of an engine's first process.

    Attributes:
        code: exit code, if it exited by itself and the code is known.
        signal: signal that killed it, if one did.
        out_of_memory: the kernel killed some process for lack of memory at about that time.
    """

    code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False

    def __str__(self) -> str:
        if self.signal is not None:
            sentence = f"was killed by {_signal_name(self.signal)}"
        elif self.code is not None:
            sentence = f"exited with code {self.code}"
        else:
            sentence = "exited with a code that is not known"
        if self.out_of_memory and self.code != 0:
            sentence += " (the kernel was ending processes for lack of memory)"
        return sentence


def child_status(pidfd: int) -> Exit | None:
    """Collect a child that has ended; None if it is no child of ours, or somebody else has collected it."""
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None
    if result is None:
        return None
    if result.si_code == os.CLD_EXITED:
        return Exit(code=result.si_status)
    return Exit(signal=result.si_status)


def stranger_status(pidfd: int, ident: tree.Ident) -> Exit:
    """Return how a process ended that is no child of ours, as well as the system tells.

    While it is a zombie its status stands in /proc; after that Linux 6.15 and later tell through the pidfd, and older
    ones do not.
    """
    with contextlib.suppress(OSError, IndexError):
        stat = Path(f"/proc/{ident.pid}/stat").read_bytes()
        fields = stat[stat.rindex(b")") + 2 :].split()
        if int(fields[19]) == ident.start and fields[0] in {b"Z", b"X"}:
            return _from_wait_status(int(fields[49]))  # field 52 in proc(5)
    with contextlib.suppress(OSError):
        # struct pidfd_info: u64 mask, u64 cgroupid, 11 x u32 of ids, s32 exit_code.
        info = bytearray(struct.pack("=Q56x", _PIDFD_INFO_EXIT))
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
        if struct.unpack_from("=Q", info)[0] & _PIDFD_INFO_EXIT:
            return _from_wait_status(struct.unpack_from("=i", info, 60)[0])
    return Exit()


def out_of_memory_kills() -> int:
    """Return how many processes the kernel has killed for lack of memory since the boot, cgroups' limits included."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_bytes().splitlines():
            if line.startswith(b"oom_kill "):
                return int(line.split()[1])
    return 0


def _from_wait_status(status: int) -> Exit:
    code = os.waitstatus_to_exitcode(status)
    return Exit(code=code) if code >= 0 else Exit(signal=-code)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
