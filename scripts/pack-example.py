"""Packs a directory with a Dockerfile into the zip file that an image is built from.

Times and order are fixed, so that equal input gives an equal file.

Usage: pack-example.py DIRECTORY OUTPUT
"""

import os
import sys
import zipfile
from pathlib import Path


def main():
    directory, output = Path(sys.argv[1]), Path(sys.argv[2])
    if not (directory / "Dockerfile").is_file():
        sys.exit(f"error: {directory} has no Dockerfile")
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(output.name + ".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(directory.rglob("*")):
            name = path.relative_to(directory)
            if not path.is_file() or "__pycache__" in name.parts:
                continue
            entry = zipfile.ZipInfo(name.as_posix())
            entry.external_attr = (path.stat().st_mode & 0xFFFF) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
    os.replace(part, output)


if __name__ == "__main__":
    main()
