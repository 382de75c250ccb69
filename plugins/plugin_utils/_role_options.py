# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the options of a CA in the inventory, and misspelt ones; may change in any release."""

from __future__ import annotations

import difflib
import typing as t

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.keyward.pki.plugins.module_utils import _arguments

# Of the modules that the roles run. Which store an option means is in its name.
_RUN = ("INSTALL", "RENEW", "KEY_BACKUP", "KEY_VERIFY", "KEY_RESTORE", "DATABASE_BACKUP", "DATABASE_RESTORE")
_NOT_OF_A_CA = {"controller", "stores", "force", "part"}
OPTIONS = frozenset({name for module in _RUN for name in getattr(_arguments, f"CA_{module}")} - _NOT_OF_A_CA) | {
    "der_directory",
    "label",
    "new_password",
    "offline",
    "old_home",
    "parent",
    "publish_tasks",
    "key_stores",
    "database_stores",
}
PARENT = frozenset(set(_arguments.WHICH_AUTHORITY) | {"host", "days", "extensions"})
_PLAIN = OPTIONS | {"ask_hosts", "audit_directory", "audit_template", "audit_textfile", "authorities", "hosts", "serial"}
_LIKE = 0.8  # users may have keyward_ variables of their own: refuse only what looks misspelt
_WORD = 4  # letters of a word that says what a variable is about


def faults(authorities: t.Any, variables: t.Iterable[str], parent: t.Any = None, hosts: t.Collection[str] | None = None) -> list[str]:
    """What is wrong with C(keyward_authorities) (None where there is none), and with the names of the plain variables.

    C(parent): C(keyward_parent). C(hosts): of the inventory, where it is at hand.
    """
    found = [*_of_parent(parent, "keyward_parent", hosts)]
    if authorities is not None and not isinstance(authorities, list):
        found.append("keyward_authorities is no list: write one dictionary for each CA of the host")
    elif authorities is not None and not authorities:
        found.append("keyward_authorities is empty: leave it out where a host has one CA, or take the host out of the play")
    for number, entry in enumerate(authorities if isinstance(authorities, list) else (), 1):
        if not isinstance(entry, dict):
            found.append(f"entry {number} of keyward_authorities is no dictionary: write the options of one CA, by name")
            continue
        called = next((entry[name] for name in ("label", *_arguments.BEGINNING_OF_A_PLACE, "name") if entry.get(name)), None)
        which = f"entry {number} of keyward_authorities" + (f" ({called})" if called else "")
        found += [f"{which} has no option {name}{nearest(name, OPTIONS)}" for name in entry if name not in OPTIONS]
        found += _of_parent(entry.get("parent"), f"the parent in {which}", hosts)
    found += _said_twice(authorities) if isinstance(authorities, list) else ()
    for name in sorted(variables):
        plain = name.removeprefix("keyward_")
        if plain not in _PLAIN and _looks_misspelt(plain):
            text = f"no role has a variable {name}{nearest(plain, _PLAIN, 'keyward_', 2)}"
            found.append(f"{text}; one of your own needs a name that does not begin with keyward_")
    return found


def _said_twice(authorities: t.Sequence[t.Any]) -> t.Iterator[str]:
    """Entries that are one CA, and names that several CAs have."""
    entries = [(number, entry) for number, entry in enumerate(authorities, 1) if isinstance(entry, dict)]
    for which, what in (
        (("backend", *_arguments.PLACE), "say the same of where their CA lives: name the place of each, or take one out"),
        (("label",), "have one label: give each a name of its own"),
    ):
        seen: dict[str, int] = {}
        for number, entry in entries:
            said = {name: entry[name] for name in which if entry.get(name) is not None}
            first = seen.setdefault(str(said), number)
            if first != number and (said or which != ("label",)):
                yield f"entries {first} and {number} of keyward_authorities {what}"


def _of_parent(parent: t.Any, called: str, hosts: t.Collection[str] | None) -> t.Iterator[str]:
    if not parent:
        return
    if not isinstance(parent, dict):
        yield f"{called} is no dictionary: write its host, and what says which CA of that host"
        return
    for name in parent:
        if name not in PARENT:
            yield f"{called} has no option {name}{nearest(name, PARENT)}"
    host = parent.get("host")
    if not host:
        yield f"{called} names no host: give the inventory name of the host that runs the CA above (host)"
    elif hosts is not None and host not in hosts and host != "localhost":
        yield f"{called} is on {host}, which the inventory does not have{nearest(host, hosts)}"


def _looks_misspelt(plain: str) -> bool:
    """Whether a name is like that of an option, or has one of its words, or its beginning."""
    words = [word for word in plain.split("_") if len(word) >= _WORD]
    known = {word for option in _PLAIN for word in option.split("_") if len(word) >= _WORD}
    like = len(plain) >= 3 and any(option.startswith(plain) for option in _PLAIN)
    like |= any(word.startswith(other) or other.startswith(word) for word in words for other in known)
    return like or bool(difflib.get_close_matches(plain, _PLAIN, 1, _LIKE))


def nearest(name: t.Any, known: t.Collection[str], prefix: str = "", most: int = 1) -> str:
    """A question that names the option that was probably meant, or the two where both are as near."""
    close = difflib.get_close_matches(str(name), sorted(known), most, 0.5)
    ratios = [difflib.SequenceMatcher(None, each, str(name)).ratio() for each in close]
    near = [each for each, ratio in zip(close, ratios, strict=True) if ratio > ratios[0] - 0.15]
    return f" (did you mean {' or '.join(prefix + each for each in near)}?)" if near else ""


def cas_of(host: str, variables: t.Mapping[str, t.Any], entry_number: int | None = None) -> list[dict[str, t.Any]]:
    """The CAs that the variables of a host name, as the option C(cas) of ca_audit takes them, with what they said in this play.

    C(entry_number): only that of one entry, counted from 0.
    """
    entries, asked, found = variables.get("keyward_authorities") or [{}], variables.get("audit_asked") or {}, []
    for number, entry in enumerate(entries):
        if entry_number not in (None, number):
            continue

        def said(option: str, otherwise: t.Any = None, entry: t.Mapping[str, t.Any] = entry) -> t.Any:
            return entry.get(option, variables.get(f"keyward_{option}", otherwise))

        place = {option: said(option) for option in ("backend", *_arguments.PLACE) if said(option) not in (None, "auto")}
        if not set(place) & {*_arguments.BEGINNING_OF_A_PLACE, "backend"}:
            continue  # no CA is named
        where = next((place[option] for option in _arguments.BEGINNING_OF_A_PLACE if option in place), "")
        answer = asked.get(str(number), {})
        found.append(
            {
                "host": host,
                "label": str(said("label") or " in ".join(part for part in (place.get("name", ""), where) if part) or "the CA"),
                "place": place,
                "key_stores": list(said("key_stores") or ()),
                "database_stores": list(said("database_stores") or ()),
                "host_store": said("host_store") or None,
                "offline": boolean(said("offline", False), strict=False),
                "info": answer.get("info"),
                "failure": answer.get("failure"),
            }
        )
    return found
