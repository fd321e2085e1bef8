"""Makes the modules beside this file from the `.proto` files, or checks that they are what would be made.

    python -m dra_driver.proto.generate --write | --check

Needs grpcio-tools, which nothing needs at run time.
"""

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path("dra_driver/proto")
"""This folder, from the root: so the modules import each other by their full names."""


class GenerationError(Exception):
    """The compiler refused a file; what it says is on the standard error."""


def made() -> dict[str, str]:
    """The text of every module by its file name, as the compiler makes it now. Raises GenerationError."""
    from grpc_tools import protoc

    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / HERE).glob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--{what}_out={folder}" for what in ("python", "pyi", "grpc_python")]
        if protoc.main(["protoc", f"--proto_path={ROOT}", *flags, *sources]):
            raise GenerationError(f"{HERE}: the compiler refused a file; correct it.")
        return {path.name: path.read_text() for path in sorted((Path(folder) / HERE).iterdir())}


def stale() -> list[str]:
    """Files that are not as they would be made, or that no `.proto` file makes. Raises GenerationError."""
    wanted = made()
    there = {path.name: path.read_text() for path in (ROOT / HERE).glob("*_pb2*")}
    return sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))


def write() -> None:
    """Make them all anew. Raises GenerationError."""
    wanted = made()
    for path in (ROOT / HERE).glob("*_pb2*"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (ROOT / HERE / name).write_text(text)


def main(arguments: list[str] | None = None) -> int:
    """The command; 0 if all is well."""
    parser = argparse.ArgumentParser(prog="python -m dra_driver.proto.generate", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--write", action="store_true", help="make the modules anew")
    which.add_argument("--check", action="store_true", help="fail if they are not what would be made")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.write:
            write()
        elif names := stale():
            raise GenerationError(
                f"{HERE}: {', '.join(names)} is not what the .proto files make; "
                "run `python -m dra_driver.proto.generate --write`."
            )
    except GenerationError as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
