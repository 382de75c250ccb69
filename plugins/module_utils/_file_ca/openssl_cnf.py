# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: reads an openssl.cnf as OpenSSL 3 itself does; may change in any release.

The format is that of config(5ossl), with what the manual leaves out: lines arrive in pieces of at most 510 bytes, a NUL ends
a piece, an included file that can't be opened is passed over, and the next file of an included directory comes as soon as any
file ends. OpenSSL 1.1.1 knows no C(.pragma) and no C(OPENSSL_CONF_INCLUDE), and is otherwise the same.
"""

from __future__ import annotations

import os
import re
import typing as t
from types import MappingProxyType

from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._files import read_file

LARGEST_CONFIG = 1024 * 1024
MOST_FILES = 1000
DEEPEST_INCLUDE = 100
LONGEST_VALUE = 65536  # after a variable was put in; OpenSSL's own limit
MOST_EXPANDED = 16 * 1024 * 1024  # all values together, so that a small file can't fill the memory

_RIGHT_FILE = "Check that this is the right file, and that none includes itself"
_PIECE = 510
_SPACE = " \t\r\n"
_BLANKS = re.compile(f"[{_SPACE}]*")
_NAME = re.compile(r"(?:\\.?|[A-Za-z0-9_!%&*+,\-./;?@^|~])*", re.DOTALL)
_NAME_WITH_DOLLAR = re.compile(r"(?:\\.?|[A-Za-z0-9_!%&*+,\-./;?@^|~$])*", re.DOTALL)
_VARIABLE = re.compile(r"[A-Za-z0-9_]*")
_VARIABLE_WITH_DOLLAR = re.compile(r"[A-Za-z0-9_$]*")
_BEFORE_COMMENT = re.compile(r"""(?:[^#'"`\\]|\\.?|'(?:[^'\\]|\\.?)*'?|"(?:[^"\\]|\\.?)*"?|`(?:[^`\\]|\\.?)*`?)*""", re.DOTALL)
_PLAIN = re.compile(r"""[^\\'"`$]+""")
_ESCAPES = {"r": "\r", "n": "\n", "b": "\b", "t": "\t"}
_SWITCH = {"on": True, "true": True, "off": False, "false": False}


class OpensslConfig:
    """The sections of one configuration file. C(files): every file that was opened for it, in order."""

    def __init__(self, path: str, directory: str, environment: t.Mapping[str, str] = MappingProxyType({})) -> None:
        """Read C(path) as a process does whose working directory is C(directory); both absolute. C(environment): added to this one's.

        Raises FileNotFoundError where C(path) does not exist, KeywardError where OpenSSL would refuse it.
        """
        self.path = path
        self.files: t.List[str] = []
        self._directory = directory
        self._environment = {**os.environb, **{os.fsencode(name): os.fsencode(value) for name, value in environment.items()}}
        # One character is one byte in here; only what leaves is decoded.
        self._sections: t.Dict[str, t.Dict[str, str]] = {"default": {}}
        self._include_directory: t.Optional[str] = None
        self._absolute_includes = False
        self._dollar_in_names = False
        self._expanded = 0
        self._content = ""
        self._includes = False
        self._load()

    def is_current(self) -> bool:
        """Whether it would be read in the same way again; of one that includes files it is not told. Raises as the constructor."""
        return not self._includes and _read(self.path) == self._content

    def get(self, section: str, name: str) -> t.Optional[str]:
        """The value of a name in a section or else in the default section; None where it has none."""
        value = self._lookup(_inner(section), _inner(name))
        return None if value is None else _outer(value)

    def has_section(self, section: str) -> bool:
        return _inner(section) in self._sections

    def sections_with(self, name: str) -> t.List[str]:
        """The sections that themselves define a name, in the order of the file."""
        return [_outer(section) for section, values in self._sections.items() if _inner(name) in values]

    def values(self) -> t.List[str]:
        """All values of all sections."""
        return [_outer(value) for section in self._sections.values() for value in section.values()]

    def _lookup(self, section: str, name: str) -> t.Optional[str]:
        value = self._sections.get(section, {}).get(name)
        if value is None and section == "ENV":
            found = self._environment.get(name.encode("latin-1"))
            value = None if found is None else found.decode("latin-1")
        return self._sections["default"].get(name) if value is None else value

    # --- files -------------------------------------------------------------------------------------------------

    def _open(self, path: str) -> _Lines:
        if len(self.files) >= MOST_FILES:
            raise self._error(f"more than {MOST_FILES} files are included", _RIGHT_FILE)
        content = _read(path)
        self.files.append(path)
        first = len(self.files) == 1
        self._content = content if first else self._content
        return _Lines(path, content, first)

    def _open_included(self, path: str) -> t.Optional[_Lines]:
        try:
            return self._open(path)
        except FileNotFoundError:
            return None
        except KeywardError as exc:
            if isinstance(exc.__cause__, OSError):
                return None
            raise

    def _load(self) -> None:
        current = self._open(self.path)
        waiting: t.List[_Lines] = []
        folder: t.Optional[t.Iterator[_Lines]] = None
        section = "default"
        while True:
            self._current = current
            line = next(current.lines, None)
            if line is None:
                following = next(folder, None) if folder else None
                if following is None:
                    folder = None
                    if not waiting:
                        return
                    following = waiting.pop()
                current = following
                continue
            line = without_comment(line).lstrip(_SPACE)
            if line.startswith("["):
                section = self._header(line)
                self._sections.setdefault(section, {})
            elif line:
                include = self._statement(line, section)
                if include is None:
                    continue
                if os.path.isdir(include):
                    if folder is not None:
                        continue
                    folder = self._files_of(include)
                    opened = next(folder, None)
                    folder = folder if opened else None
                else:
                    opened = self._open_included(include)
                if opened:
                    waiting.append(current)
                    current = opened
                    if len(waiting) > DEEPEST_INCLUDE:
                        raise self._error(f"files include each other more than {DEEPEST_INCLUDE} deep", _RIGHT_FILE)

    def _files_of(self, folder: str) -> t.Iterator[_Lines]:
        """The files of an included directory, in the directory's own order."""
        try:
            names = os.listdir(folder)
        except OSError:
            return
        for name in names:
            if re.search(r".\.(?:conf|cnf)\Z", name, re.IGNORECASE | re.DOTALL) and not os.path.isdir(os.path.join(folder, name)):
                opened = self._open_included(f"{folder}/{name}")
                if opened:
                    yield opened

    # --- lines -------------------------------------------------------------------------------------------------

    def _header(self, line: str) -> str:
        name = _NAME_WITH_DOLLAR if self._dollar_in_names else _NAME
        start = position = _skip_blanks(line, 1)
        while True:
            end = _end(name, line, position)
            following = _skip_blanks(line, end)
            if line[following : following + 1] == "]":
                return self._expand(line[start:end], None)
            if following in (position, len(line)):
                raise self._error("the line begins a section, and its ] is missing")
            position = following

    def _statement(self, line: str, section: str) -> t.Optional[str]:
        """Take an assignment or a pragma; returns the path of what is to be included."""
        pattern = _NAME_WITH_DOLLAR if self._dollar_in_names else _NAME
        start, end = 0, _end(pattern, line, 0)
        target = section
        if line.startswith("::", end):
            target, start = line[:end], end + 2
            end = _end(pattern, line, start)
        name = line[start:end]
        position = _skip_blanks(line, end)
        equals = line.startswith("=", position)
        for directive in (".pragma", ".include"):
            if name.startswith(directive) and (equals or position != start + len(directive)):
                value = line[position + equals :].strip(_SPACE) if equals else line[position:].rstrip(_SPACE)
                if directive == ".include":
                    self._includes = True
                    return self._included_path(self._expand(value, target))
                self._pragma(value)
                return None
        if not equals:
            raise self._error(f"an equal sign is missing after {_outer(name)!r}" if name else "the line begins with no name")
        value = self._expand(line[position + 1 :].strip(_SPACE), target)
        self._sections.setdefault(target, {})[name] = value
        return None

    def _pragma(self, text: str) -> None:
        name, colon, value = text.partition(":")
        if not (name and colon and value):
            raise self._error("a .pragma has no name:value")
        name, value = name.rstrip(_SPACE), value.lstrip(_SPACE)
        if name == "includedir":
            self._include_directory = value
        elif name in ("dollarid", "abspath"):
            if value.lower() not in _SWITCH:
                raise self._error(f"the .pragma {name} is neither on nor off")
            setattr(self, "_dollar_in_names" if name == "dollarid" else "_absolute_includes", _SWITCH[value.lower()])

    def _included_path(self, path: str) -> str:
        given = os.environb.get(b"OPENSSL_CONF_INCLUDE")
        folder = self._include_directory if given is None else given.decode("latin-1")
        if folder is not None and not path.startswith("/"):
            path = folder + ("" if folder.endswith("/") else "/") + path
        if self._absolute_includes and not path.startswith("/"):
            raise self._error(f"the included path {_outer(path)} is relative, which the .pragma abspath forbids")
        return os.path.join(self._directory, _outer(path)) if path else ""

    def _expand(self, text: str, section: t.Optional[str]) -> str:
        """A value as it is meant: quotes and backslashes resolved, variables put in."""
        taken: t.List[str] = []
        length, position, end = len(text) + 1, 0, len(text)
        while position < end:
            plain = _PLAIN.match(text, position)
            if plain:
                taken.append(plain.group())
                position = plain.end()
                continue
            character = text[position]
            if character == "$" and not (self._dollar_in_names and text[position + 1 : position + 2] not in ("{", "(")):
                value, following = self._variable(text, position, section)
                length += len(value) - (following - position)
                self._expanded += len(value)
                if length > LONGEST_VALUE or self._expanded > MOST_EXPANDED:
                    raise self._error("a value becomes too long when its variables are put in")
                taken.append(value)
                position = following
                continue
            position += 1
            if character == "$":
                taken.append(character)
            elif character == "\\":
                if position < end:
                    taken.append(_ESCAPES.get(text[position], text[position]))
                    position += 1
            else:
                while position < end and text[position] != character:
                    position += text[position] == "\\"
                    taken.append(text[position : position + 1])
                    position += 1
                position += 1
        return "".join(taken)

    def _variable(self, text: str, position: int, section: t.Optional[str]) -> t.Tuple[str, int]:
        """The value of the variable whose C($) is at C(position), and where the text goes on."""
        pattern = _VARIABLE_WITH_DOLLAR if self._dollar_in_names else _VARIABLE
        closing = {"{": "}", "(": ")"}.get(text[position + 1 : position + 2], "")
        start = position + 1 + len(closing)
        end = _end(pattern, text, start)
        name, where = text[start:end], section
        if text.startswith("::", end):
            where, start = name, end + 2
            end = _end(pattern, text, start)
            name = text[start:end]
        if not text.startswith(closing, end):
            raise self._error(f"the variable {_outer(name)} has no closing {closing}")
        value = self._lookup(where or "", name)
        if value is None:
            shown = _outer(name if where == section else f"{where}::{name}")
            defined = "Define it" + (" in the environment of the task" if where == "ENV" else "")
            raise self._error(
                f"the variable ${shown} has no value (used in section [{_outer(section or 'default')}])",
                f"{defined}: openssl ca refuses the whole file for the same reason",
            )
        return value, end + len(closing)

    def _error(self, why: str, remedy: str = "Correct the file: openssl ca refuses it for the same reason") -> KeywardError:
        where = f"{self._current.path}, line {self._current.number}"
        return KeywardError(f"the configuration {self.path} can't be used", f"{where}: {why}", remedy)


def _read(path: str) -> str:
    return read_file(path, "the configuration", LARGEST_CONFIG).decode("latin-1")


class _Lines:
    """The lines of one file, continuations joined."""

    def __init__(self, path: str, content: str, first: bool) -> None:
        self.path = path
        self.number = 0
        self.lines = self._joined(content[3:] if first and content.startswith("\xef\xbb\xbf") else content)

    def _joined(self, content: str) -> t.Iterator[str]:
        pieces = _pieces(content)
        held, more = "", False
        while True:
            piece = next(pieces, "")
            if not piece and not more:
                return
            text = piece.rstrip("\r\n")
            more = bool(piece) and text == piece
            held += text
            if not more:
                self.number += 1
                if held.endswith("\\") and not held.endswith("\\\\"):
                    held, more = held[:-1], True
            if not more:
                line, held = held, ""
                yield line


def _pieces(content: str) -> t.Iterator[str]:
    for line in re.findall(r"[^\n]*\n|[^\n]+", content):
        for start in range(0, len(line), _PIECE):
            yield line[start : start + _PIECE].split("\0", 1)[0]


def lines_of(content: bytes) -> t.Iterator[str]:
    """The lines of one file as OpenSSL puts them together; one character is one byte."""
    return _Lines("", content.decode("latin-1"), first=True).lines


def without_comment(line: str) -> str:
    """One character is one byte."""
    if "#" not in line:
        return line
    kept = _BEFORE_COMMENT.match(line)
    return kept.group() if kept else line


def _skip_blanks(line: str, position: int) -> int:
    return _end(_BLANKS, line, position)


def _end(pattern: t.Pattern[str], text: str, position: int) -> int:
    found = pattern.match(text, position)
    return found.end() if found else position


def _inner(text: str) -> str:
    return os.fsencode(text).decode("latin-1")


def _outer(text: str) -> str:
    return os.fsdecode(text.encode("latin-1"))
