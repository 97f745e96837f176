"""Videos below a folder, or of a pattern: each real file once, whatever the links do."""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

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

SortKey = tuple[tuple[tuple[str, int], ...], str]


@dataclass(frozen=True, slots=True)
class ClipJob:
    """One file and everything that is asked about it; decoded and encoded once."""

    path: str  # as records name it and as it is opened; no UTF-8 is surrogates, as of `os.fsdecode`
    questions: tuple[str, ...]  # at least one, each once
    relative: str = ""  # the same on every machine that has the clips; empty: `path`


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file or folder that was passed over, and why, in a few words."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Collection:
    """All that a source holds."""

    jobs: tuple[ClipJob, ...]
    skipped: tuple[Skipped, ...] = ()
    ignored: int = 0  # files that are no videos by their names
    notes: tuple[str, ...] = ()


def is_pattern(text: str) -> bool:
    """Whether `text` holds a wildcard: ``*``, ``?`` or ``[``."""
    return _MAGIC.search(text) is not None


def is_video_name(name: str) -> bool:
    """Whether a file's name ends as those of videos do."""
    return os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS


class _Search:
    """What a walk and a pattern share: reading folders, judging files, taking each file once.

    The standard library does not do here: `glob` follows links at any depth, so that eight links to
    their own folder never end, and both it and `os.walk` recurse, which 1,000 folders in each other
    break.
    """

    def __init__(self, root: str, *, follow_links: bool) -> None:
        self.root = root
        self.skipped: list[Skipped] = []
        self.ignored = 0
        self._inside = None if follow_links else os.path.join(os.path.realpath(root), "")
        # Whether the name is a link, so that a file's own name comes first; sort key; name.
        self._files: list[tuple[bool, SortKey, str]] = []
        self._seen: set[tuple[int, int]] = set()

    def path(self, relative: str) -> str:
        return os.path.join(self.root, relative)

    def skip(self, path: str, reason: str) -> None:
        self.skipped.append(Skipped(path, reason))

    def entries(self, relative: str, *, once: bool = False) -> list[os.DirEntry[str]]:
        """What is in a folder; with `once` nothing the second time."""
        path = self.path(relative) or os.curdir
        try:
            found = os.stat(path)
            with os.scandir(path) as scan:
                entries = list(scan)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                self.skip(path, _why_unread(error))
            return []
        identity = (found.st_dev, found.st_ino)
        if once and identity in self._seen:
            self.skip(path, "a link to a folder that is walked already")
            return []
        self._seen.add(identity)
        return entries

    def leads_out(self, path: str) -> bool:
        """Whether a link leads to where the search may not go; if so it is skipped."""
        if self._inside is None or not os.path.exists(path):
            return False
        if not os.path.join(os.path.realpath(path), "").startswith(self._inside):
            self.skip(path, "a link out of the folder, which --follow-links takes")
            return True
        return False

    def take(self, relative: str, *, linked: bool) -> None:
        """Take a regular file; say why another thing is not taken. `linked`: its name is a link."""
        path = self.path(relative)
        if linked and self.leads_out(path):
            return
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            self.skip(path, _why_unread(error))
            return
        if stat.S_ISREG(mode):
            self._files.append((linked, natural_key(relative), relative))
        else:
            self.skip(path, kind_of(mode))

    def finish(self, asked: tuple[str, ...], *, each_once: bool) -> Collection:
        """All that was taken, sorted by path components, numbers by their value.

        A link's file that is taken under its own name is skipped. `each_once`: no file without
        links was come upon twice; to find out where each name leads takes long.
        """
        taken: dict[str, str] = {}
        linked = any(one[0] for one in self._files)
        for _, _, relative in sorted(self._files):
            path = self.path(relative)
            first = taken.setdefault(
                path if each_once and not linked else os.path.realpath(path), relative
            )
            if first is not relative:
                self.skip(path, f"the same file as {self.path(first)}")
        return Collection(
            tuple(
                ClipJob(self.path(relative), asked, relative)
                for relative in sorted(taken.values(), key=natural_key)
            ),
            tuple(sorted(self.skipped, key=lambda skipped: natural_key(skipped.path))),
            self.ignored,
        )


def walk_folder(folder: str, asked: tuple[str, ...], *, follow_links: bool = False) -> Collection:
    """All videos in a folder and below it, each with all questions.

    Hidden files and folders and unfinished downloads are skipped. A link to a folder is followed
    where that folder is not walked anyway, and only once, so loops end. Links that lead out of the
    folder are skipped unless `follow_links`: a folder that somebody sent reads nothing else.
    """
    with os.scandir(folder):
        pass
    search = _Search(folder, follow_links=follow_links)
    links = [""]
    # Real folders first: a clip is then named by its own path and not by that of a link to it.
    while links:
        starts, links = sorted(links, key=natural_key), []
        for start in starts:
            folders = [start]
            while folders:
                below, links_below = _folder(search, folders.pop())
                folders += below
                links += links_below
    return search.finish(asked, each_once=True)


def _folder(search: _Search, relative: str) -> tuple[list[str], list[str]]:
    """Take a folder's files; its folders, and its links to folders."""
    folders, links = [], []
    for entry in search.entries(relative, once=True):
        name, below = entry.name, os.path.join(relative, entry.name)
        path = search.path(below)
        if _is_folder(entry):
            if name.startswith("."):
                search.skip(path, "a hidden folder")
            elif entry.is_symlink():
                if not search.leads_out(path):
                    links.append(below)
            elif name.endswith(_DOWNLOAD_FOLDER):
                search.skip(path, "an unfinished download")
            else:
                folders.append(below)
        elif name.startswith(".") and is_video_name(name):
            search.skip(path, "hidden")
        elif is_partial(name):
            search.skip(path, "unfinished or temporary by its name")
        elif is_video_name(name):
            search.take(below, linked=entry.is_symlink())
        else:
            search.ignored += 1
    return folders, links


def expand_pattern(
    pattern: str, asked: tuple[str, ...], *, follow_links: bool = False
) -> Collection:
    """All videos that a pattern matches, hidden ones only where it names the dot.

    ``**`` as a whole component stands for any number of folders, hidden ones and links left out;
    other components follow links, those that lead out of the pattern's folder (what stands before
    its first wildcard) only with `follow_links`. A pattern with an extension of its own, as in
    ``*.gif``, takes whatever it matches, any other one takes videos by their extensions.
    """
    parts = pattern.split(os.sep)
    literal = next(index for index, part in enumerate(parts) if is_pattern(part))
    root = "".join(part + os.sep for part in parts[:literal])
    search = _Search(root, follow_links=follow_links)
    matches: Iterable[str] = [""]
    wild = [part for part in parts[literal:] if part]
    for left, part in zip(reversed(range(len(wild))), wild, strict=True):
        matches = list(dict.fromkeys(_matches(search, matches, part, last=left == 0)))
    extension = os.path.splitext(parts[-1])[1]
    any_extension = bool(extension) and not is_pattern(extension)
    for relative in matches:
        path = search.path(relative)
        if os.path.isdir(path):
            search.ignored += 1
        elif is_partial(path):
            search.skip(path, "unfinished or temporary by its name")
        elif any_extension or is_video_name(path):
            search.take(relative, linked=os.path.realpath(path) != os.path.abspath(path))
        else:
            search.ignored += 1
    return search.finish(asked, each_once=False)


def _matches(search: _Search, above: Iterable[str], part: str, *, last: bool) -> Iterator[str]:
    """What one component of a pattern matches below each of `above`; files only if it is last."""
    if part == _ANY_DEPTH:
        folders, walked = list(above), set[str]()
        while folders:
            folder = folders.pop()
            if folder in walked:
                continue
            walked.add(folder)
            if not last:
                yield folder
            for entry in search.entries(folder):
                if entry.name.startswith("."):
                    continue
                below = os.path.join(folder, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(below)
                elif last:
                    yield below
        return
    for folder in above:
        if not is_pattern(part):
            below = os.path.join(folder, part)
            if os.path.lexists(search.path(below)):
                yield below
            continue
        for entry in search.entries(folder):
            hidden = entry.name.startswith(".") and not part.startswith(".")
            matches = fnmatch.fnmatchcase(entry.name, part) and not hidden
            if matches and (last or _is_folder(entry)):
                yield os.path.join(folder, entry.name)


def is_partial(name: str) -> bool:
    """Whether a name is that of a download or an editor's file that is not finished."""
    stem, extension = os.path.splitext(name)
    if extension.lower() in _DOWNLOADS:
        return True
    if name.endswith("~"):
        return is_video_name(name[:-1])
    return extension.lower() in _SCRATCH and is_video_name(stem)


def natural_key(path: str) -> SortKey:
    """Sorts paths by components, and `clip 2` before `clip 10`."""
    # A separator comes before any character, so that a folder's files stand together.
    runs = re.findall(r"[0-9]+|[^0-9]", path.replace(os.sep, "\0"))
    return tuple(("0", int(run)) if run.isdecimal() else (run, 0) for run in runs), path


def kind_of(mode: int) -> str:
    """What neither a file nor a folder is."""
    return "a named pipe" if stat.S_ISFIFO(mode) else "a device or socket"


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
