"""Packages on this machine, each in a folder under its digest: whole and verified, or not there.

$XDG_CACHE_HOME/medexp/models/DIGEST        a package, as it was installed with one rename
$XDG_CACHE_HOME/medexp/models/.DIGEST       what a download has so far; the next one removes it
$XDG_CACHE_HOME/medexp/locks/               one downloads, the others wait; a process that is killed lets go
$XDG_CACHE_HOME/medexp/quarantine/DIGEST-…  what did not verify, with reason.txt
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from medexp.config.shared import cache_root
from medexp.errors import RegistryError, StorageError, all_problems
from medexp.files import alone
from medexp.registry.packages import AGAIN, problems_in


def kept(digest: str, source: str, fetch: Callable[[Path], Path]) -> Path:
    """The folder of a package in the cache, every byte verified in this call; fetched where it is absent or altered.

    A whole package is found without a lock and without writing: a cache may be read-only, or shared by many processes.

    Args:
        digest: Digest of the package, 64 hexadecimal digits.
        source: What is fetched, for messages.
        fetch: Downloads the package into the folder that it is given and returns where in it the package is.

    Raises:
        RegistryError: What was fetched is not the package; it is in quarantine, and the message names each file.
        StorageError: The cache cannot be read or written.
    """
    folder = cache_root(None) / "models" / digest
    try:
        if folder.is_dir() and not _wrong(folder, digest):
            return folder
        with one_at_a_time(digest):
            if folder.exists() or folder.is_symlink():
                if not (problems := _wrong(folder, digest)):
                    return folder  # another process fetched it meanwhile
                place = _quarantine(folder, digest, problems)
                told = all_problems("the cached package is not as it was fetched", problems, f"It is now in {place}")
                print(f"medexp: {source}: {' '.join(told.split())}; fetching it again", file=sys.stderr)
            coming = folder.with_name(f".{digest}")
            shutil.rmtree(coming, ignore_errors=True)
            coming.mkdir(parents=True)
            try:
                package = fetch(coming)
                if problems := _wrong(package, digest):
                    place = _quarantine(package, digest, problems)
                    subject = f"{source}: what the store holds is not the package that was registered"
                    raise RegistryError(all_problems(subject, problems, f"It was put into {place}. {AGAIN}"))
                os.replace(package, folder)
            finally:
                shutil.rmtree(coming, ignore_errors=True)
    except OSError as error:
        raise StorageError(
            f"cache {cache_root(None)}: cannot be used for {source} ({error}); free space, or choose another folder with "
            "XDG_CACHE_HOME"
        ) from error
    return folder


def one_at_a_time(name: str) -> AbstractContextManager[None]:
    """`medexp.files.alone` under a name, with the cache's locks.

    Raises:
        StorageError: The cache cannot be written.
    """
    return alone(cache_root(None) / "locks" / name, remedy="choose another folder with XDG_CACHE_HOME")


def _wrong(folder: Path, digest: str) -> Sequence[str]:
    found, problems = problems_in(folder)
    return problems or ([] if found == digest else [f"it has digest {found}, registered with digest {digest}"])


def _quarantine(folder: Path, digest: str, problems: Sequence[str]) -> Path:
    (cache_root(None) / "quarantine").mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f"{digest}-", dir=cache_root(None) / "quarantine"))
    (place / "reason.txt").write_text("".join(f"{problem}\n" for problem in problems))
    os.replace(folder, place / "package")
    return place
