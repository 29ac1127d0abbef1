"""Takes the uncompressed kernel out of a distribution's vmlinuz.

QEMU enters an ELF kernel directly (PVH) and so skips the decompressor, which costs seconds under
software emulation. Not for building or changing kernels.

Usage: extract-kernel.py VMLINUZ OUTPUT
"""

import gzip
import lzma
import os
import struct
import subprocess
import sys
import zlib

# Type of the ELF note that gives the PVH entry point (Linux, include/xen/interface/elfnote.h).
XEN_ELFNOTE_PHYS32_ENTRY = 18
PT_NOTE = 4


class NotAKernel(Exception):
    """The file is not a kernel that this program can read."""


def external(command, data):
    """Decompresses through a program; Python has no module for the format."""
    done = subprocess.run(command, input=data, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise NotAKernel(f"{command[0]} could not decompress it")
    return done.stdout


def decompress(payload):
    """Decompresses a bzImage's payload, whichever way it is packed.

    The build appends the uncompressed size (4 bytes) to all formats but gzip, which has it already.
    """
    body = payload[:-4]
    if payload.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(payload)
    if payload.startswith(b"\xfd7zXZ\x00"):
        return lzma.decompress(body, format=lzma.FORMAT_XZ)
    if payload.startswith(b"\x02\x21\x4c\x18"):
        return external(["lz4", "-dcq"], body)
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        return external(["zstd", "-dcq"], body)
    if payload.startswith(b"\x7fELF"):
        return body
    raise NotAKernel(f"its payload starts with {payload[:6].hex()}, no known compression")


def payload_of_bzimage(image):
    """Cuts the packed kernel out of a bzImage (Documentation/arch/x86/boot.rst, protocol 2.08)."""
    protocol = struct.unpack_from("<H", image, 0x206)[0]
    if protocol < 0x0208:
        raise NotAKernel(f"boot protocol {protocol:#x} is older than 2.08")
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (sectors + 1) * 512 + offset
    return image[start : start + length]


def has_pvh_entry(kernel):
    """True where the ELF file carries the note that QEMU looks for."""
    (offset,) = struct.unpack_from("<Q", kernel, 32)
    size, count = struct.unpack_from("<HH", kernel, 54)
    for index in range(count):
        header = offset + index * size
        (kind,) = struct.unpack_from("<I", kernel, header)
        if kind != PT_NOTE:
            continue
        at, length = struct.unpack_from("<Q", kernel, header + 8)[0], struct.unpack_from("<Q", kernel, header + 32)[0]
        end = at + length
        while at + 12 <= end:
            name, description, note = struct.unpack_from("<III", kernel, at)
            if note == XEN_ELFNOTE_PHYS32_ENTRY and kernel[at + 12 : at + 15] == b"Xen":
                return True
            at += 12 + (name + 3 & ~3) + (description + 3 & ~3)
    return False


def bootable(image):
    """What QEMU boots fastest, from the file as the package has it."""
    if image.startswith(b"\x1f\x8b"):
        image = gzip.decompress(image)
    if image[0x38:0x3C] == b"ARM\x64":
        return image
    if image[0x202:0x206] != b"HdrS":
        raise NotAKernel("it is neither a bzImage nor an ARM64 image")
    kernel = decompress(payload_of_bzimage(image))
    if not kernel.startswith(b"\x7fELF"):
        raise NotAKernel("what it unpacks to is no ELF file")
    # Without the note QEMU refuses the ELF file; the bzImage boots everywhere, more slowly.
    return kernel if has_pvh_entry(kernel) else image


def main():
    source, output = sys.argv[1:]
    with open(source, "rb") as file:
        image = file.read()
    try:
        kernel = bootable(image)
    except NotAKernel as problem:
        sys.exit(f"error: cannot take a kernel out of {source}: {problem}")
    part = output + ".part"
    with open(part, "wb") as file:
        file.write(kernel)
    os.replace(part, output)


if __name__ == "__main__":
    main()
