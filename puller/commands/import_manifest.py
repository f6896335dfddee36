"""`mirror-puller import-manifest`: a list from grokmirror's manifest."""

import csv
import sys
import zlib
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from mirrorfeed.contract.branch_columns import NEEDED, URL
from mirrorfeed.contract.events import shown
from mirrorfeed.puller.branch_list import read_branch_list
from mirrorfeed.puller.errors import PullerError

GZIP = b"\x1f\x8b"
MAX_BYTES = 1024**3
"""Of a manifest that is unpacked."""

app = typer.Typer()


@app.command("import-manifest")
def import_manifest(
    manifest: Annotated[
        Path, typer.Argument(metavar="MANIFEST", help="A manifest.js or manifest.js.gz.")
    ],
    site: Annotated[
        str, typer.Option("--site", metavar="URL", help="What the manifest's paths begin with.")
    ],
    list_path: Annotated[
        Path | None,
        typer.Option(
            "--list", metavar="LIST.csv", help="A list whose branches keep their numbers."
        ),
    ] = None,
    first_id: Annotated[
        int, typer.Option("--first-id", min=1, help="The number of the first new branch.")
    ] = 1,
) -> None:
    """Print a list of the repositories in a grokmirror manifest.

    A repository's path, without .git, is its branch's name.

    \b
    Example:
      mirror-puller import-manifest manifest.js.gz --site https://git.kernel.org \\
        > branches.csv
    """
    known = (
        {branch.name: branch.id for branch in read_branch_list(list_path).branches.values()}
        if list_path
        else {}
    )
    next_id = max([first_id, *(each + 1 for each in known.values())])
    rows = []
    for path in sorted(read_manifest(manifest)):
        name = path.strip("/").removesuffix(".git")
        if not name:
            raise PullerError(f"the manifest {manifest} names a repository {shown(path)}")
        branch_id = known.get(name)
        if branch_id is None:
            branch_id, next_id = next_id, next_id + 1
        rows.append((branch_id, name, f"{site.rstrip('/')}/{path.lstrip('/')}"))
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow([*sorted(NEEDED), URL])
    out.writerows(rows)


def read_manifest(path: Path) -> dict[str, Any]:
    """Raises PullerError."""
    try:
        body = path.read_bytes()
        if body.startswith(GZIP):
            unpacking = zlib.decompressobj(wbits=31)
            body = unpacking.decompress(body, MAX_BYTES)
            if unpacking.unconsumed_tail:
                raise PullerError(f"the manifest {path} is larger than {MAX_BYTES:,} bytes")
        found = msgspec.json.decode(body, type=dict[str, dict[str, Any]])
    except (OSError, zlib.error, msgspec.MsgspecError) as error:
        raise PullerError(f"the manifest {path} cannot be read: {error}") from error
    return found
