"""What machines wrote to their consoles, in files that turn over: NAME.log is the newest, NAME.log.1 the one before.

The bytes are kept as they came: `cat` shows what the screen showed, colours and all, and a tool can play them back; a
time before each line would stand in the middle of a menu. When a console opens and ends, a line of ours with the time
stands between. Only root reads them: passwords are typed at consoles.
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from urllib.parse import quote

log = logging.getLogger("metalbox.console")

FILE_MODE, FOLDER_MODE = 0o600, 0o700


class Recording:
    """One machine's files. A full disk loses what is recorded, and says so once; a console goes on."""

    def __init__(self, folder: Path, name: str, *, max_bytes: int, files: int) -> None:
        """`files` is how many are kept in all, each at most `max_bytes` long."""
        # A name of the inventory may hold what no file's name can.
        self.path = folder / f"{quote(name, safe=' ')}.log"
        self._max_bytes = max_bytes
        self._files = files
        self._file = -1
        self._size = 0
        self._is_failing = False

    def append(self, data: bytes) -> None:
        """Write it to the end; into a fresh file when this one is full."""
        try:
            while data:
                if self._file < 0:
                    self._open()
                room = self._max_bytes - self._size
                if room <= 0:
                    self._turn_over()
                    continue
                written = os.write(self._file, data[:room])
                self._size += written
                data = data[written:]
        except OSError as error:
            self.close()
            if not self._is_failing:
                log.error("%s cannot be written, the console is not recorded: %s", self.path, error.strerror)
            self._is_failing = True
        else:
            self._is_failing = False

    def tail(self, count: int) -> bytes:
        """The last `count` bytes, from older files too where the newest is shorter."""
        parts: list[bytes] = []
        for place in range(self._files):
            if count <= 0:
                break
            try:
                with self._path_of(place).open("rb") as file:
                    file.seek(0, os.SEEK_END)
                    file.seek(max(0, file.tell() - count))
                    parts.append(file.read(count))
            except FileNotFoundError:
                break
            count -= len(parts[-1])
        return b"".join(reversed(parts))

    def close(self) -> None:
        """Give the file back; the next `append` opens it again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _path_of(self, place: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{place}") if place else self.path

    def _open(self) -> None:
        self.path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(self.path, flags, FILE_MODE)
        self._size = os.fstat(self._file).st_size

    def _turn_over(self) -> None:
        self.close()
        for place in range(self._files - 1, 0, -1):
            try:
                self._path_of(place - 1).replace(self._path_of(place))
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
        if self._files == 1:
            self.path.unlink(missing_ok=True)
