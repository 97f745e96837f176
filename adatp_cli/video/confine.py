"""What a decoding process gives up for good once its libraries are loaded: files and the network.

Linux has two ways, and takes both where it has them: Landlock shuts every file and TCP port, and
seccomp refuses the calls with which files, connections and programs are opened. What is open stays.
"""

from __future__ import annotations

import ctypes
import platform
import struct
import sys

_NO_NEW_PRIVILEGES = 38
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_VERSION = 1
# How many kinds of access to files each version of Landlock's interface knows.
_FILE_KINDS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}

# Calls by number, and the architecture as seccomp names it: what opens files, sockets and rings,
# runs programs, or looks into other processes.
_REFUSED = {
    "x86_64": (
        (2, 41, 42, 49, 59, 85, 101, 133, 257, 259, 304, 310, 311, 322, 425, 437),
        0xC000003E,
    ),
    "aarch64": ((33, 56, 117, 198, 200, 203, 221, 265, 270, 271, 281, 425, 437), 0xC00000B7),
}
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SET_FILTER, _ALL_THREADS = 1, 1
_ALLOW, _REFUSE, _EPERM = 0x7FFF0000, 0x00050000, 1
_X32 = 0x40000000


def confine() -> None:
    """Give up what this system has a way to give up; there is no way back."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        return
    _shut_files(libc)
    _refuse_calls(libc)


def _shut_files(libc: ctypes.CDLL) -> None:
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    if version < 1:
        return
    files = (1 << _FILE_KINDS[min(version, max(_FILE_KINDS))]) - 1
    # Also TCP ports from version 4 on, and sockets without a path and signals from 6 on. Rules
    # would make exceptions; there are none.
    rules = struct.pack("=QQQ", files, 3, 3)[: 8 * (1 + (version >= 4) + (version >= 6))]
    ruleset = libc.syscall(_CREATE_RULESET, rules, ctypes.c_size_t(len(rules)), 0)
    if ruleset >= 0:
        libc.syscall(_RESTRICT_SELF, ruleset, 0)
        libc.close(ruleset)


def _refuse_calls(libc: ctypes.CDLL) -> None:
    machine = platform.machine()
    if machine not in _REFUSED or sys.maxsize < 1 << 32:
        return
    calls, architecture = _REFUSED[machine]
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    count = len(calls)
    program = [(load, 0, 0, 4), (equal, 1, 0, architecture), (answer, 0, 0, _REFUSE | _EPERM)]
    program += [(load, 0, 0, 0), (at_least, count + 1, 0, _X32)]
    program += [(equal, count - place, 0, call) for place, call in enumerate(calls)]
    program += [(answer, 0, 0, _ALLOW), (answer, 0, 0, _REFUSE | _EPERM)]
    packed = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    whole = struct.pack("@HxxxxxxP", len(program), ctypes.addressof(packed))
    libc.syscall(_SECCOMP[machine], _SET_FILTER, _ALL_THREADS, whole)
