"""Debian packages without installing them: a private apt root that uses this machine's own sources, keys and proxy.

apt resolves, downloads and verifies; this module only tells it to do so in a folder of ours, for any architecture or
suite, and unpacks the result. It never touches the machine's package lists or its dpkg database.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from metalbox.errors import BuildError

# A mirror is refreshed some four times a day; a package that vanished meanwhile leads to a fresh list anyway.
LIST_SECONDS = 6 * 3600
# Only what says how to reach and trust the sources is taken over from the machine's apt; its hooks may want root.
KEPT_SETTINGS = ("Acquire::", "Dir::Etc::trusted", "Dir::Etc::netrc")
DROPPED_SETTINGS = ("Acquire::IndexTargets", "Acquire::Languages")
# Documentation and translations are a third of the unpacked bytes and never reach an image.
NOT_UNPACKED = ("./usr/share/doc", "./usr/share/man", "./usr/share/locale", "./usr/share/info", "./usr/share/lintian")
URI_LINE = re.compile(r"^'[^']+' (?P<file>\S+) (?P<size>\d+) SHA256:(?P<sha256>[0-9a-f]{64})$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Package:
    """One .deb as the verified package list describes it. `file` is its name in the archive folder."""

    name: str
    version: str
    architecture: str
    file: str
    size: int
    sha256: str


def default_cache() -> Path:
    """$METALBOX_CACHE, else the user's cache folder."""
    named = os.environ.get("METALBOX_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metalbox"


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """One build at a time per cache folder; a second one waits."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def parse_uris(text: str) -> tuple[Package, ...]:
    """The packages in the output of `apt-get --print-uris` with SHA-256 hashes, sorted by name."""
    found = []
    for line in URI_LINE.finditer(text):
        name, version, rest = line["file"].split("_", 2)
        found.append(
            Package(name, unquote(version), rest.removesuffix(".deb"), line["file"], int(line["size"]), line["sha256"])
        )
    return tuple(sorted(found, key=lambda package: package.name))


def rewrite_sources(text: str, old: str, new: str) -> str:
    """Sources (one-line or deb822) with suite `old` and its pockets (old-updates, old-security) turned into `new`.

    Stanzas and lines that do not mention `old` are left out: they belong to no Debian suite we could name.
    """
    word = re.compile(rf"(?<![\w/-]){re.escape(old)}(?=[\s/-]|$)", re.MULTILINE)
    if re.search(r"^Types:", text, re.MULTILINE):
        parts = [part for part in re.split(r"\n\s*\n", text) if re.search(rf"^Suites:.*\b{re.escape(old)}", part, re.M)]
    else:
        parts = [line for line in text.splitlines() if line.startswith("deb ") and word.search(line)]
    separator = "\n\n" if text.count("Types:") else "\n"
    return separator.join(word.sub(new, part) for part in parts) + "\n" if parts else ""


class AptRoot:
    """A private apt: own lists, cache and empty dpkg status; this machine's sources and keys."""

    def __init__(self, cache: Path, architecture: str, suite: str = "") -> None:
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise BuildError(
                "apt-get and dpkg-deb are not here: images are built from Debian packages, so build on Debian 12 or 13"
            )
        self.architecture = architecture
        self.suite = suite
        self.root = cache.resolve() / "apt" / f"{suite or 'machine'}-{architecture}"
        self.archives = cache.resolve() / "debs"
        self.warning = ""
        for folder in ("lists/partial", "cache", "sources", "parts"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        (self.archives / "partial").mkdir(parents=True, exist_ok=True)
        (self.root / "status").touch()
        (self.root / "apt.conf").write_text(self._settings())

    def _settings(self) -> str:
        kept = [
            line
            for line in _run(["apt-config", "dump"]).splitlines()
            if line.startswith(KEPT_SETTINGS) and not line.startswith(DROPPED_SETTINGS)
        ]
        own = {
            "APT::Architecture": self.architecture,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",  # the folder is ours; _apt could not write into a home directory
            "Acquire::Languages": "none",
            "Acquire::ForceHash": "SHA256",
            "Dir::Etc::Parts": str(self.root / "parts"),
            "Dir::Etc::Main": str(self.root / "parts" / "none"),
            "Dir::State": str(self.root),
            "Dir::State::Lists": str(self.root / "lists"),
            "Dir::State::status": str(self.root / "status"),
            "Dir::Cache": str(self.root / "cache"),
            "Dir::Cache::Archives": str(self.archives),
        }
        if self.suite:
            own |= {"Dir::Etc::SourceList": "/dev/null", "Dir::Etc::SourceParts": str(self._sources_of_suite())}
        lines = [*kept, *(f'{key} "{value}";' for key, value in own.items())]
        lines.append(f'#clear APT::Architectures;\nAPT::Architectures {{ "{self.architecture}"; }};')
        return "\n".join(lines) + "\n"

    def _sources_of_suite(self) -> Path:
        release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
        codename = release.get("VERSION_CODENAME", "").strip('"')
        folder = self.root / "sources"
        etc = Path("/etc/apt")
        wrote = False
        for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
            if codename and path.suffix in (".list", ".sources") and path.is_file():
                text = rewrite_sources(path.read_text(), codename, self.suite)
                (folder / path.name).write_text(text)
                wrote = wrote or bool(text)
        if not wrote:
            raise BuildError(
                f"no apt source of this machine names its suite {codename!r}; cannot turn to {self.suite!r}"
            )
        return folder

    def _apt(self, command: str, *arguments: str) -> str:
        # APT_CONFIG is read before the machine's own parts, which it then points away from.
        return _run([command, *arguments], APT_CONFIG=str(self.root / "apt.conf"))

    def refresh(self, *, force: bool = False) -> None:
        """Fetch the package lists when ours are old. Without network the old ones are used, and `warning` says so."""
        stamp = self.root / "lists" / "refreshed"
        key = hashlib.sha256((self.root / "apt.conf").read_bytes()).hexdigest()
        fresh = stamp.exists() and time.time() - stamp.stat().st_mtime < LIST_SECONDS and stamp.read_text() == key
        if fresh and not force:
            return
        try:
            self._apt("apt-get", "update", "-qq")
        except BuildError as error:
            self.warning = f"the package lists could not be refreshed, using those at hand: {error}"
            return
        stamp.write_text(key)

    def candidates(self, names: Iterable[str]) -> frozenset[str]:
        """Which of these packages the sources offer."""
        text = self._apt("apt-cache", "policy", *names)
        blocks = re.findall(r"^(\S+?):(?:\n .*)*?\n  Candidate: (.+)$", text, re.MULTILINE)
        return frozenset(name.split(":")[0] for name, candidate in blocks if candidate != "(none)")

    def resolve(self, names: Sequence[str]) -> tuple[Package, ...]:
        """These packages and all they depend on."""
        try:
            return parse_uris(self._print_uris(names))
        except BuildError as error:
            raise BuildError(f"{error}{'. ' + self.warning if self.warning else ''}") from None

    def _print_uris(self, names: Sequence[str]) -> str:
        # An empty archive folder: apt leaves packages that are already downloaded out of the list.
        empty = self.root / "cache" / "none"
        (empty / "partial").mkdir(parents=True, exist_ok=True)
        return self._apt(
            "apt-get", "install", "--print-uris", "-y", "-qq", "-o", f"Dir::Cache::Archives={empty}", *names
        )

    def dependencies(self, name: str) -> tuple[str, ...]:
        """The direct dependencies of one package."""
        text = self._apt("apt-cache", "depends", "--no-recommends", "--no-suggests", name)
        return tuple(re.findall(r"^  \|?Depends: (\S+)$", text, re.MULTILINE))

    def download(self, packages: Sequence[Package]) -> tuple[Path, ...]:
        """The .deb files, verified; those already here are checked again and not fetched."""
        missing = [package for package in packages if not self._is_here(package)]
        if missing:
            for package in missing:  # apt takes a file of the right size for the right file
                (self.archives / package.file).unlink(missing_ok=True)
            names = [f"{package.name}:{package.architecture}={package.version}" for package in missing]
            _run(["apt-get", "download", "-qq", *names], APT_CONFIG=str(self.root / "apt.conf"), cwd=self.archives)
        for package in missing:
            if not self._is_here(package):
                raise BuildError(f"apt did not deliver {package.file} as its package list describes it")
        return tuple(self.archives / package.file for package in packages)

    def _is_here(self, package: Package) -> bool:
        path = self.archives / package.file
        if not path.is_file() or path.stat().st_size != package.size:
            return False
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest() == package.sha256

    def fetch(self, names: Sequence[str], *, alone: bool = False) -> tuple[tuple[Package, ...], tuple[Path, ...]]:
        """Resolve and download; once more with fresh lists when the mirror has moved on since ours were fetched.

        With `alone` only the packages named, without what they depend on.
        """
        self.refresh()
        try:
            return self._fetch_once(names, alone)
        except BuildError:
            self.refresh(force=True)
            return self._fetch_once(names, alone)

    def _fetch_once(self, names: Sequence[str], alone: bool) -> tuple[tuple[Package, ...], tuple[Path, ...]]:
        packages = self.resolve(names)
        if alone:
            packages = tuple(package for package in packages if package.name in names)
        return packages, self.download(packages)


def unpack(debs: Iterable[Path], into: Path, *, key: str, skip: Sequence[str] = ()) -> bool:
    """Unpack packages over one another with /bin, /sbin and /lib* merged into /usr. False when `key` says it is done.

    A merged tree serves Debian 12, whose packages still name /lib and /usr/lib, as it serves 13. Needs no root:
    owners are not set, device nodes do not occur in packages.
    """
    done = into.with_name(into.name + ".done")
    if done.exists() and done.read_text() == key:
        return False
    done.unlink(missing_ok=True)
    shutil.rmtree(into, ignore_errors=True)
    for folder in ("bin", "sbin", "lib", "lib64"):
        (into / "usr" / folder).mkdir(parents=True)
        (into / folder).symlink_to(f"usr/{folder}")
    excludes = [f"--exclude={pattern}" for pattern in (*NOT_UNPACKED, *skip)]
    for deb in debs:
        source = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE)
        command = ["tar", "-x", "-C", str(into), "--keep-directory-symlink", "--no-same-owner", *excludes]
        target = subprocess.run(command, stdin=source.stdout, capture_output=True, text=True, check=False)
        if source.stdout:
            source.stdout.close()
        if source.wait() or target.returncode:
            raise BuildError(f"cannot unpack {deb.name}: {target.stderr.strip()[-300:] or 'dpkg-deb failed'}")
    done.write_text(key)
    return True


def list_files(deb: Path) -> list[str]:
    """The files and links in a package, as paths of the merged tree."""
    return sorted(path for path, _ in _members(deb, frozenset()))


def read_files(deb: Path, wanted: Iterable[str]) -> dict[str, bytes]:
    """The contents of some files of a package by path; those it does not have are left out."""
    return {path: data for path, data in _members(deb, frozenset(wanted)) if data is not None}


def _members(deb: Path, wanted: frozenset[str]) -> Iterator[tuple[str, bytes | None]]:
    """Each file and link as (path in the merged tree, contents when wanted)."""
    merged = ("bin/", "sbin/", "lib/", "lib64/")
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as source:
        if source.stdout is None:
            raise BuildError(f"cannot read {deb.name}")
        with tarfile.open(fileobj=source.stdout, mode="r|") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                path = f"usr/{name}" if name.startswith(merged) else name
                if not member.isdir():
                    content = archive.extractfile(member) if path in wanted and member.isfile() else None
                    yield path, content.read() if content else None


def key_of(packages: Iterable[Package], *more: str) -> str:
    """A text that is equal for equal packages."""
    text = "\n".join([*(f"{package.file} {package.sha256}" for package in packages), *more])
    return hashlib.sha256(text.encode()).hexdigest()


def _run(command: Sequence[str], *, cwd: Path | None = None, **environment: str) -> str:
    full = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", **environment}
    result = subprocess.run(command, capture_output=True, text=True, env=full, cwd=cwd, check=False, timeout=1800)
    if result.returncode:
        said = " ".join(line for line in result.stderr.splitlines() if line.startswith("E:")) or result.stderr.strip()
        raise BuildError(f"{command[0]} {command[1] if len(command) > 1 else ''} failed: {said[:600]}")
    return result.stdout
