# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: orders and answers to and from JSON, each field of its type and within its bound; may change in any release.

A dataclass is the description of a document. Its fields are of these types: str, int, bool, bytes (base64 in JSON), Annotated (with
C(Most) or C(OneOf)), Optional, Tuple[X, ...], Dict[str, X], Any (in a dictionary that only its backend reads), another such dataclass,
or a class with C(from_json) and C(as_json) of its own.
What a document has beyond that is passed over: Ansible adds names of its own to what a module answers. Text is made printable.
"""

from __future__ import annotations

import binascii
import dataclasses
import functools
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._printable import printable

T = t.TypeVar("T")

# Bounds where a field says no other: characters of a text, bytes, members of a list, digits of a number.
MOST_TEXT, MOST_BYTES, MOST_MEMBERS = 64 * 1024, 1024 * 1024, 10_000
_LARGEST = 1 << 63
# Bytes of memory that an answer may take until it is parsed, which is several times its own length. A class may say another ROOM.
ROOM, MUCH_ROOM = 512 << 20, 2 << 30


class Misshapen(ValueError):
    """A document of another shape. C(where): the path of the first field that is wrong; what stood there is never repeated."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}")
        self.where, self.why = where, why


class Most(t.NamedTuple):
    """The most characters, bytes or members that a field holds; for C(typing.Annotated)."""

    bound: int


class OneOf(t.NamedTuple):
    """The words that a text can be; for C(typing.Annotated)."""

    words: t.Tuple[str, ...]


class Lines(t.NamedTuple):
    """Of a text that is a document, such as PEM; every other text is one line. For C(typing.Annotated)."""


Hex = t.Annotated[str, Most(128)]
Name = t.Annotated[str, Most(255)]
Path = t.Annotated[str, Most(8192)]


def dump(value: t.Any) -> t.Any:
    """What json.dumps takes of an order or an answer."""
    if isinstance(value, bytes):
        return binascii.b2a_base64(value, newline=False).decode("ascii")
    if hasattr(value, "as_json"):
        return value.as_json()
    if dataclasses.is_dataclass(value):
        return {field.name: dump(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {name: dump(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [dump(each) for each in value]
    return value


def parse(kind: t.Type[T], document: t.Any, where: str = "") -> T:
    """The dataclass C(kind) of a document. Raises Misshapen."""
    if not isinstance(document, t.Mapping):
        raise Misshapen(where or kind.__name__, "it is no dictionary")
    found = {}
    for name, (hint, required) in _fields(t.cast(t.Hashable, kind)).items():
        at = f"{where}.{name}" if where else name
        if name in document:
            found[name] = _value(hint, document[name], at)
        elif required:
            raise Misshapen(at, "it is missing")
    return kind(**found)


@functools.cache
def _fields(kind: t.Any) -> t.Dict[str, t.Tuple[t.Any, bool]]:
    hints = t.get_type_hints(kind, include_extras=True)
    return {
        field.name: (hints[field.name], field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING)
        for field in dataclasses.fields(kind)
    }


def prepare(kind: t.Any) -> None:
    """Work out what C(parse) has to know of a dataclass and of those in it: once, for the processes that are forked after this."""
    waiting = [kind]
    while waiting:
        hint = waiting.pop()
        if dataclasses.is_dataclass(hint) and not hasattr(hint, "from_json"):
            waiting += [inner for inner, _required in _fields(t.cast(t.Hashable, hint)).values()]
        else:
            waiting += t.get_args(hint)


def _value(hint: t.Any, value: t.Any, where: str, bounds: t.Tuple[t.Any, ...] = ()) -> t.Any:
    origin, inner = t.get_origin(hint), t.get_args(hint)
    if origin is t.Annotated:
        return _value(inner[0], value, where, inner[1:])
    if origin is t.Union:  # Optional
        return None if value is None else _value(inner[0], value, where, bounds)
    if origin is tuple:
        _expect(isinstance(value, list), where, "it is no list")
        _expect(len(value) <= _most(bounds, MOST_MEMBERS), where, "it has too many members")
        return tuple(_value(inner[0], each, f"{where}[{number}]") for number, each in enumerate(value))
    if origin is dict:
        _expect(isinstance(value, t.Mapping), where, "it is no dictionary")
        _expect(len(value) <= _most(bounds, MOST_MEMBERS), where, "it has too many members")
        return {_text(name, where): _value(inner[1], each, where) for name, each in value.items()}
    if hint is t.Any:
        return _plain(value, where, _most(bounds, MOST_MEMBERS))
    if hint is str:
        return _text(value, where, bounds)
    if hint is bytes:
        return _bytes(value, where, bounds)
    if hint is bool:
        _expect(isinstance(value, bool), where, "it is neither true nor false")
        return value
    if hint is int:
        _expect(isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST, where, "it is no number that can be")
        return value
    if hasattr(hint, "from_json"):
        try:
            return hint.from_json(value)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as exc:
            raise Misshapen(where, f"it can't be read ({type(exc).__name__})") from None
    return parse(hint, value, where)


def _most(bounds: t.Tuple[t.Any, ...], otherwise: int) -> int:
    return next((bound.bound for bound in bounds if isinstance(bound, Most)), otherwise)


def _plain(value: t.Any, where: str, most: int, depth: int = 8) -> t.Any:
    """JSON of any shape, each part within the bounds; C(most): members of a list or dictionary."""
    _expect(depth > 0, where, "it is nested too deeply")
    if isinstance(value, t.Mapping):
        _expect(len(value) <= most, where, "it has too many members")
        return {_text(name, where): _plain(each, where, most, depth - 1) for name, each in value.items()}
    if isinstance(value, list):
        _expect(len(value) <= most, where, "it has too many members")
        return [_plain(each, where, most, depth - 1) for each in value]
    if isinstance(value, str):
        return _text(value, where, (Lines(),))
    if isinstance(value, int) and not isinstance(value, bool):
        return _value(int, value, where)
    _expect(value is None or isinstance(value, bool), where, "it is nothing that can be there")
    return value


def _expect(right: bool, where: str, why: str) -> None:
    if not right:
        raise Misshapen(where, why)


def _text(value: t.Any, where: str, bounds: t.Tuple[t.Any, ...] = ()) -> str:
    _expect(isinstance(value, str), where, "it is no text")
    _expect(len(value) <= _most(bounds, MOST_TEXT), where, "it is too long")
    for bound in bounds:
        _expect(not isinstance(bound, OneOf) or value in bound.words, where, "it is none of the words that can be there")
    return printable(value, any(isinstance(bound, Lines) for bound in bounds))


def _bytes(value: t.Any, where: str, bounds: t.Tuple[t.Any, ...]) -> bytes:
    bound = _most(bounds, MOST_BYTES)
    _expect(isinstance(value, str), where, "it is no text")
    _expect(len(value) <= bound * 4 // 3 + 4, where, "it is too long")
    try:
        data = binascii.a2b_base64(value.encode("ascii"))
    except ValueError:
        raise Misshapen(where, "it is no base64") from None
    _expect(len(data) <= bound, where, "it is too long")
    return data
