"""Files below a folder, or of a pattern: each real file once, whatever the links do."""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from adatp_cli.batch.jobs import Skipped

# Pictures that may move (.gif, .apng) are left out: a folder's are mostly stills. A pattern or a
# list that names them takes them.
VIDEO_EXTENSIONS = frozenset({
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".m2ts", ".m2v", ".m4v", ".mkv",
    ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".rm", ".rmvb", ".ts",
    ".vob", ".webm", ".wmv", ".y4m",
})  # fmt: skip
# A browser's or a downloader's own mark says enough; .tmp and ~ do only behind a video's name.
_DOWNLOADS = frozenset(
    {".aria2", ".crdownload", ".download", ".opdownload", ".part", ".partial", ".ytdl"}
)
_SCRATCH = frozenset({".bak", ".swp", ".temp", ".tmp"})
_DOWNLOAD_FOLDER = ".download"  # Safari's

_MAGIC = re.compile(r"[*?\[]")
_ANY_DEPTH = "**"


@dataclass(frozen=True, slots=True)
class Found:
    """A video file: `path` to open it, and `relative` to where the search began."""

    path: str
    relative: str


@dataclass(slots=True)
class Finds:
    """What a search came to. `files` is sorted by path components, numbers by their value."""

    files: list[Found] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    ignored: int = 0


def is_pattern(text: str) -> bool:
    """Whether `text` holds a wildcard: ``*``, ``?`` or ``[``."""
    return _MAGIC.search(text) is not None


def is_video_name(name: str) -> bool:
    """Whether a file's name ends as those of videos do."""
    return os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS


def walk_folder(folder: str, *, follow_links: bool = False) -> Finds:
    """All videos in a folder and below it.

    Hidden files and folders and unfinished downloads are skipped. A link to a folder is followed
    where that folder is not walked anyway, and only once, so loops end. Links that lead out of the
    folder are skipped unless `follow_links`: a folder that somebody sent reads nothing else.
    """
    with os.scandir(folder):
        pass
    return _Walk(folder, follow_links=follow_links).run()


def expand_pattern(pattern: str, *, follow_links: bool = False) -> Finds:
    """All videos that a pattern matches, hidden ones only where it names the dot.

    ``**`` as a whole component stands for any number of folders, hidden ones and links left out;
    other components follow links, those that lead out of the pattern's folder (what stands before
    its first wildcard) only with `follow_links`. A pattern with an extension of its own, as in
    ``*.gif``, takes whatever it matches, any other one takes videos by their extensions.
    """
    return _Glob(pattern, follow_links=follow_links).run()


class _Search:
    """What a walk and a pattern share: judging single files, and taking each only once."""

    # Whether a file without links is come upon once; where each name leads takes long to find out.
    _each_once = False

    def __init__(self, root: str, *, follow_links: bool) -> None:
        self._root = root
        self._inside = None if follow_links else os.path.join(os.path.realpath(root), "")
        self._finds = Finds()
        self._direct: list[Found] = []
        self._linked: list[Found] = []

    def _take(self, path: str, relative: str, *, linked: bool) -> None:
        """Take a regular file; say why another thing is not taken. `linked`: its name is a link."""
        if linked and self._leads_out(path):
            return
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            self._skip(path, _why_unread(error))
            return
        if not stat.S_ISREG(mode):
            what = "a named pipe" if stat.S_ISFIFO(mode) else "a device or socket"
            self._skip(path, what)
        else:
            (self._linked if linked else self._direct).append(Found(path, relative))

    def _leads_out(self, path: str) -> bool:
        """Whether a link leads to where the search may not go; if so it is skipped."""
        if self._inside is None or not os.path.exists(path):
            return False
        if not os.path.join(os.path.realpath(path), "").startswith(self._inside):
            self._skip(path, "a link out of the folder, which --follow-links takes")
            return True
        return False

    def _skip(self, path: str, reason: str) -> None:
        self._finds.skipped.append(Skipped(path, reason))

    def _finish(self) -> Finds:
        """Add the links whose files are not taken under their own names, and sort."""
        taken: dict[str, Found] = {}
        for found in (*sorted(self._direct, key=_order), *sorted(self._linked, key=_order)):
            one_name = self._each_once and not self._linked
            real = found.path if one_name else os.path.realpath(found.path)
            first = taken.setdefault(real, found)
            if first is not found:
                self._skip(found.path, f"the same file as {first.path}")
        self._finds.files = sorted(taken.values(), key=_order)
        self._finds.skipped.sort(key=lambda skipped: natural_key(skipped.path))
        return self._finds


class _Walk(_Search):
    _each_once = True

    def __init__(self, root: str, *, follow_links: bool) -> None:
        super().__init__(root, follow_links=follow_links)
        self._seen: set[tuple[int, int]] = set()
        self._links: list[str] = []

    def run(self) -> Finds:
        # Real folders first: a clip is then named by its own path and not by that of a link to it.
        self._below("")
        while self._links:
            links, self._links = sorted(self._links, key=natural_key), []
            for relative in links:
                self._below(relative)
        return self._finish()

    def _below(self, relative: str) -> None:
        folders = [relative]
        while folders:
            relative = folders.pop()
            path = os.path.join(self._root, relative)
            try:
                found = os.stat(path)
                with os.scandir(path) as scan:
                    entries = list(scan)
            except OSError as error:
                self._skip(path, _why_unread(error))
                continue
            identity = (found.st_dev, found.st_ino)
            if identity in self._seen:
                self._skip(path, "a link to a folder that is walked already")
                continue
            self._seen.add(identity)
            folders += self._entries(relative, entries)

    def _entries(self, relative: str, entries: list[os.DirEntry[str]]) -> Iterator[str]:
        """Take a folder's files, put its links to folders aside, yield its folders."""
        for entry in entries:
            name, below = entry.name, os.path.join(relative, entry.name)
            path = os.path.join(self._root, below)
            if _is_folder(entry):
                if name.startswith("."):
                    self._skip(path, "a hidden folder")
                elif entry.is_symlink():
                    if not self._leads_out(path):
                        self._links.append(below)
                elif name.endswith(_DOWNLOAD_FOLDER):
                    self._skip(path, "an unfinished download")
                else:
                    yield below
            elif name.startswith(".") and is_video_name(name):
                self._skip(path, "hidden")
            elif is_partial(name):
                self._skip(path, "unfinished or temporary by its name")
            elif not is_video_name(name):
                self._finds.ignored += 1
            else:
                self._take(path, below, linked=entry.is_symlink())


class _Glob(_Search):
    def __init__(self, pattern: str, *, follow_links: bool) -> None:
        drive, rest = os.path.splitdrive(pattern)
        parts = rest.split(os.sep)
        literal = next(index for index, part in enumerate(parts) if is_pattern(part))
        root = drive + os.sep.join(parts[:literal])
        super().__init__(root + os.sep if literal else root, follow_links=follow_links)
        self._parts = tuple(
            part
            for index, part in enumerate(parts[literal:], literal)
            if part and not (part == _ANY_DEPTH == parts[index - 1] and index > literal)
        )
        extension = os.path.splitext(parts[-1])[1]
        self._any_extension = bool(extension) and not is_pattern(extension)

    def run(self) -> Finds:
        reached: set[tuple[str, int]] = set()
        # A way: the path so far, and how many components of the pattern it has used up.
        ways: list[tuple[str, int]] = [("", 0)]
        while ways:
            way = ways.pop()
            if way not in reached:
                reached.add(way)
                ways += self._step(*way)
        return self._finish()

    def _step(self, relative: str, used: int) -> Iterator[tuple[str, int]]:
        """One component further; a way with none left has reached a file or a folder."""
        if used == len(self._parts):
            self._reached(relative)
            return
        part, last = self._parts[used], used + 1 == len(self._parts)
        if not is_pattern(part):
            below = os.path.join(relative, part)
            if os.path.lexists(os.path.join(self._root, below)):
                yield below, used + 1
            return
        if part == _ANY_DEPTH and not last:
            yield relative, used + 1
        matches = re.compile(fnmatch.translate(part)).match
        for entry in self._scan(relative):
            below = os.path.join(relative, entry.name)
            hidden = entry.name.startswith(".") and not part.startswith(".")
            if hidden or not matches(entry.name):
                continue
            if part != _ANY_DEPTH:
                if last or _is_folder(entry):
                    yield below, used + 1
            elif entry.is_dir(follow_symlinks=False):
                yield below, used
            elif last:
                yield below, used + 1

    def _scan(self, relative: str) -> list[os.DirEntry[str]]:
        path = os.path.join(self._root, relative) or os.curdir
        try:
            with os.scandir(path) as scan:
                return list(scan)
        except NotADirectoryError:
            return []
        except OSError as error:
            if error.errno != errno.ENOENT:
                self._skip(path, _why_unread(error))
            return []

    def _reached(self, relative: str) -> None:
        path = os.path.join(self._root, relative)
        if os.path.isdir(path):
            self._finds.ignored += 1
        elif is_partial(path):
            self._skip(path, "unfinished or temporary by its name")
        elif self._any_extension or is_video_name(path):
            self._take(path, relative, linked=os.path.realpath(path) != os.path.abspath(path))
        else:
            self._finds.ignored += 1


def is_partial(name: str) -> bool:
    """Whether a name is that of a download or an editor's file that is not finished."""
    stem, extension = os.path.splitext(name)
    if extension.lower() in _DOWNLOADS:
        return True
    if name.endswith("~"):
        return is_video_name(name[:-1])
    return extension.lower() in _SCRATCH and is_video_name(stem)


def natural_key(path: str) -> tuple[tuple[tuple[str, int], ...], str]:
    """Sorts paths by components, and `clip 2` before `clip 10`."""
    # A separator comes before any character, so that a folder's files stand together.
    runs = re.findall(r"[0-9]+|[^0-9]", path.replace(os.sep, "\0"))
    return tuple(("0", int(run)) if run.isdecimal() else (run, 0) for run in runs), path


def _order(found: Found) -> tuple[tuple[tuple[str, int], ...], str]:
    return natural_key(found.relative)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _why_unread(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "a loop of links"
    if error.errno == errno.ENOENT:
        return "a link to a file that does not exist"
    return f"cannot be read: {error.strerror}"
