# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what a file of settings for a shell says, as far as that is plain without one; may change in any release.

The file is read, never run. What only a shell can tell is named, so that nobody takes a default for it.
POSIX.1-2017, Shell Command Language, 2.2 (quoting), 2.3 (words) and 2.9 (commands).
"""

from __future__ import annotations

import re
import typing as t

# C(set_var NAME VALUE) keeps what is set already, C(force_set_var) replaces it, as assignments do.
_KEEPS, _REPLACES, _ASSIGNS = "set_var", "force_set_var", ("export", "readonly")
_RUNS, _ENDS = (".", "source", "eval"), ("return", "exit", "exec")
_OPENS, _CLOSES, _WITHIN = {"if", "case", "for", "while", "until", "{"}, {"fi", "esac", "done", "}"}, {"then", "elif", "else", "do", "!"}
_LEXER = re.compile(
    r"""(?P<joined>\\\n)|(?P<space>[ \t\r]+)|(?P<comment>(?<![^\s;&|()])(?<!\\[\s;&|()])\#[^\n]*)|(?P<ends>&&|\|\||;;|<(?!<)|[\n;&|()>])"""
    r"""|'(?P<single>[^']*)'|"(?P<double>(?:\\.|[^"\\])*)"|\\(?P<escaped>.)|(?P<substituted>\$\((?:[^()]|\([^()]*\))*\)|`[^`]*`)"""
    r"""|(?P<plain>[^\s'"\\;&|()<>`])""",
    re.DOTALL,
)
_ASSIGNMENT = re.compile(r"(?P<name>[A-Za-z_]\w*)=(?P<value>.*)", re.DOTALL)
_APART = ("", "\n", ";", ")")  # what separates commands, each of which runs
_EVALUATED = re.compile(r"""[}"`$\\]""")  # the two commands hand their value to eval, in "${NAME-VALUE}"
_ESCAPED = re.compile(r"""\\([$`"\\])""")


class Word(t.NamedTuple):
    """A word of a command. C(plain): its text is its value, whatever is set."""

    text: str
    plain: bool


class Command(t.NamedTuple):
    """A simple command. C(line): from 1. C(certain): by the operators around it, it runs, and in this shell."""

    words: t.Tuple[Word, ...]
    line: int
    certain: bool


def settings(text: str, given: t.Mapping[str, str], names: t.Iterable[str]) -> t.Tuple[t.Dict[str, str], t.Dict[str, int]]:
    """The variables after such a file, and which of C(names) only a shell can tell: by name the number of the first line of that kind.

    C(given): what is set before.
    """
    values, depth = dict(given), 0
    unread: t.Dict[str, int] = {}
    for command in _commands(f"{text}\n"):
        words = list(command.words)
        while words and words[0].text in _OPENS | _CLOSES | _WITHIN:
            depth += (words[0].text in _OPENS) - (words[0].text in _CLOSES)
            words[:1] = [Word("read", True)] if words[0].text == "for" else []  # both set a variable
        if not words:
            continue
        certain = command.certain and depth == 0
        first = words[0].text
        if certain and first in _ENDS:
            break
        if first in _RUNS:
            unread.update({name: command.line for name in names if name not in unread})
            continue
        for name, value, keeps in _said(words):
            if keeps and name in values and name not in unread:
                continue
            if not certain or value is None or (keeps and name in unread):
                unread.setdefault(name, command.line)
                continue
            unread.pop(name, None)
            values[name] = value
    return values, {name: unread[name] for name in names if name in unread}


def _said(words: t.Sequence[Word]) -> t.Iterator[t.Tuple[str, t.Optional[str], bool]]:
    """What a command sets: name, value (None: the shell tells it), and whether it keeps what is set."""
    command, assigned = words[0].text, [_assignment(word) for word in words]
    if command in (_KEEPS, _REPLACES):
        if len(words) > 1:
            value = " ".join(word.text for word in words[2:])
            plain = all(word.plain for word in words[1:]) and not _EVALUATED.search(value)
            yield words[1].text, value if plain else None, command == _KEEPS
    elif command in _ASSIGNS or all(assigned):
        yield from ((name, value, False) for name, value in filter(None, assigned))
    else:
        while _assignment(words[0]):  # before a command: that command's alone
            words = words[1:]
        # What else may set one: unset NAME, read NAME, : ${NAME:=value}
        said = " ".join(word.text for word in words)
        found = re.findall(r"[A-Za-z_]\w*" if words[0].text in ("unset", "read", "getopts") else r"[A-Za-z_]\w*(?=:?=)", said)
        yield from ((name, None, False) for name in found)


def _assignment(word: Word) -> t.Optional[t.Tuple[str, t.Optional[str]]]:
    found = _ASSIGNMENT.match(word.text)
    return (found["name"], found["value"] if word.plain else None) if found else None


def _commands(text: str) -> t.Iterator[Command]:
    """The simple commands of a text, in their order. Where it can't be read on, at a here-document as well, one that may set anything."""
    words: t.List[Word] = []
    parts: t.List[Word] = []
    position, line, started, after, nested = 0, 1, 1, "", 0
    while position < len(text):
        found = _LEXER.match(text, position)
        if found is None or found.lastgroup is None:
            yield Command((Word(_RUNS[0], True),), line, False)
            return
        kind, part = found.lastgroup, found.group(found.lastgroup)
        position = found.end()
        if kind in ("ends", "space", "comment") and parts:
            words.append(Word("".join(each.text for each in parts), all(each.plain for each in parts)))
            parts = []
        if kind == "ends":
            if words:
                yield Command(tuple(words), started, not nested and after in _APART and part in (*_APART, "&&", "||"))
            if words or part != "\n" or after not in ("&&", "||", "|"):  # these go on in the next line
                after = part
            words = []
            nested = max(0, nested + (part == "(") - (part == ")"))
        elif kind in ("single", "double", "escaped", "substituted", "plain"):
            started = line if not (words or parts) else started
            parts.append(_part(kind, part))
        line += found.group().count("\n")


def _part(kind: str, part: str) -> Word:
    if kind == "double":
        unescaped = _ESCAPED.sub(r"\1", part)
        return Word(unescaped, not re.search(r"(?<!\\)(?:\\\\)*[$`]", part) and "\\\n" not in part)
    return Word(part, kind in ("single", "escaped") or (kind == "plain" and part not in "$*?[~"))
