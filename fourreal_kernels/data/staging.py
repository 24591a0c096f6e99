"""Writing that either completes or leaves nothing behind."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .frames import video_error


def nearest_folder(path: Path) -> Path:
    """The closest existing ancestor of ``path``, or ``path`` itself if it is a folder."""
    path = Path(os.path.abspath(path))
    while not path.is_dir():
        if path.exists():
            raise video_error(path, "it is a file", "a folder, or a path that does not exist yet")
        path = path.parent
    return path


@contextlib.contextmanager
def staged_folder(target: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary folder whose files move into ``target`` when the block ends without an exception.

    The temporary folder lies inside ``target``, or inside its closest existing ancestor, so that each move
    is a rename on one file system. Files of the same name in ``target`` are replaced, others stay. After an
    exception nothing is left and ``target`` is as before.
    Raises VideoError when ``target`` is a file, cannot be written, or has a folder under one of the names.
    """
    target = Path(target)
    base = nearest_folder(target)
    try:
        stage = Path(tempfile.mkdtemp(prefix=".partial-", dir=base))
    except OSError as error:
        raise video_error(target, f"it cannot be written ({error.strerror})", "a writable folder") from error
    try:
        yield stage
        entries = sorted(stage.iterdir())
        for entry in entries:
            if (target / entry.name).is_dir():
                raise video_error(target / entry.name, "it is a folder", "a free name or a file to replace")
        target.mkdir(parents=True, exist_ok=True)
        for entry in entries:
            os.replace(entry, target / entry.name)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextlib.contextmanager
def staged_file(target: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path that is renamed to ``target`` when the block ends without an exception.

    The folder of ``target`` must exist. Raises VideoError when it does not, when ``target`` is a folder, or
    when the folder cannot be written.
    """
    target = Path(target)
    if not target.parent.is_dir():
        got = f"the folder {target.parent} does not exist"
        raise video_error(target, got, "a name in an existing folder")
    if target.is_dir():
        raise video_error(target, "it is a folder", "a file name")
    try:
        stage = tempfile.mkdtemp(prefix=".partial-", dir=target.parent)
    except OSError as error:
        raise video_error(target, f"it cannot be written ({error.strerror})", "a writable folder") from error
    try:
        temporary = Path(stage) / target.name
        yield temporary
        os.replace(temporary, target)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextlib.contextmanager
def durable_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path that becomes ``target`` when the block ends without an exception.

    Its bytes reach the disk before the rename and the rename before the block ends, so that whenever the process or
    the machine stops, ``target`` is whole: the old file or the new one. The folder of ``target`` must exist. What an
    interrupted writing leaves, ``<target>.unfinished``, is overwritten by the next.
    """
    unfinished = target.with_name(f"{target.name}.unfinished")
    yield unfinished
    sync_to_disk(unfinished)
    os.replace(unfinished, target)
    sync_to_disk(target.parent)


def sync_to_disk(path: Path) -> None:
    """Wait until a file's bytes, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
