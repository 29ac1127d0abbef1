"""Rewrites and checks a block of memory and a file, for ever, and says on standard output when asked.

Every pass fills the block with bytes of a generator that only this process knows the state of, and
checks what the pass before wrote: a lost or torn page of memory or disk shows at the next pass. It rests
INTEGRITY_PAUSE seconds between passes, none by default.
"""

import hashlib
import os
import sys
import threading
import time

MEMORY_BYTES = 16 * 1024 * 1024
FILE_BYTES = 1024 * 1024
PAUSE = float(os.environ.get("INTEGRITY_PAUSE", "0"))
PATH = "/var/tmp/integrity.bin"

passes = {"memory": 0, "file": 0}
faults = []


def stream(seed, length):
    return hashlib.shake_256(seed).digest(length)


def check_memory():
    block = bytearray(MEMORY_BYTES)
    expected = hashlib.sha256(block).digest()
    number = 0
    while True:
        if hashlib.sha256(block).digest() != expected:
            faults.append(f"memory differs in pass {number}")
        number += 1
        piece = stream(b"memory %d" % number, 64 * 1024)
        block[:] = piece * (MEMORY_BYTES // len(piece))
        expected = hashlib.sha256(block).digest()
        passes["memory"] = number
        time.sleep(PAUSE)


def check_file():
    number = 0
    while True:
        number += 1
        content = stream(b"file %d" % number, FILE_BYTES)
        with open(PATH, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # Past the page cache: what the disk holds is what counts.
        descriptor = os.open(PATH, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        read = b"".join(iter(lambda: os.read(descriptor, 65536), b""))
        os.close(descriptor)
        if read != content:
            faults.append(f"file differs in pass {number}")
        passes["file"] = number
        time.sleep(PAUSE)


for work in (check_memory, check_file):
    threading.Thread(target=work, daemon=True).start()
for _ in sys.stdin:
    print(passes["memory"], passes["file"], ";".join(faults) or "-", flush=True)
