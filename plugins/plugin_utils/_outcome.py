# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the line that a role says of each CA, and what a play says of all; may change in any release."""

from __future__ import annotations

import typing as t

from ansible_collections.keyward.pki.plugins.plugin_utils._levels import COUNTED, RED, WARNING
from ansible_collections.keyward.pki.plugins.plugin_utils._task import Result

FINE = "fine"
_OF_ONE_RUN = ("configuration_loads_code",)  # said by the run that puts it in place
_MOST_LINES = 30  # lines for CAs that need no person, and for those that do: the summary fits a screen


class Words(t.NamedTuple):
    """What is said of a module: its subject, and what it is where it changed something, would, or had nothing to do."""

    subject: str
    changed: str
    would: str
    nothing: str
    failed: str = "failed"


_BACKED_UP = "backed up"
_SETS = ("ca_database_backup", "parent_database")
WORDS = {
    "ca_install": Words("the CA", "installed", "would be installed", "", "was not installed"),
    "ca_renew": Words("the CA", "renewed", "would be renewed", "not due for renewal", "was not renewed"),
    "ca_key_backup": Words("keys", _BACKED_UP, "would be backed up", "not due"),
    "ca_key_backup_info": Words("backups", "", "", ""),
    "ca_key_restore": Words("keys", "put back", "would be put back", "in place"),
    "ca_key_verify": Words("keys", "proved", "proved", "proved"),
    "ca_database_backup": Words("database", _BACKED_UP, "would be backed up", "not due"),
    "ca_database_restore": Words("database", "put back", "would be put back", "in place"),
    "ca_crl": Words("CRLs", "signed", "would be signed", "good"),
    "ca_sign": Words("the parent", "signed", "would sign", ""),
    "parent_database": Words("the parent's database", _BACKED_UP, "would be backed up", "not due"),
    "publish": Words("the publication", "", "", ""),
    "stored": Words("what is stored", "", "", "stands for it"),
    "no_database_store": Words("the database", "", "", "has no store"),
    "clients": Words("what clients get", "", "", "", "was not looked at"),
}


def outcome(steps: t.Sequence[Result], label: str, host: str, failure: str | None, check: bool) -> Result:
    """What became of one CA. C(steps): C(module) and C(result) of each task, in their order; C(failure): of what is no step."""
    ran = [(step["module"], step["result"]) for step in steps if step["result"] and not step["result"].get("skipped")]
    ran = [(module, _of_audit(result) if module == "stored" and "audit" in result else result) for module, result in ran]
    parts = _parts(ran, check)
    failures = _failures(ran, failure)
    told = _told([(module, result) for module, result in ran if not result.get("failed")])
    red = [advisory for advisory in told if advisory["level"] == RED]
    counts = {level: len([advisory for advisory in told if advisory["level"] == level]) for level in (WARNING, COUNTED)}
    pending = next((result for _module, result in reversed(ran) if "pending" in result and not result.get("failed")), None)
    pending = pending if pending and pending["pending"] else None
    if pending:
        parts["request"] = f"a request waits for its parent's answer ({pending.get('request_file') or 'see request in the result'})"
    covered = _covered(ran)
    stored = {WORDS[module].subject: _stored(result) for module, result in ran if module in _SETS and result.get("changed")}
    words = [text + (stored.get(subject) or "" if text == f"{subject} {_BACKED_UP}" else "") for subject, text in parts.items()]
    words += [covered] if covered else []
    notes = [_number(range(counts[level]), name) for level, name in ((WARNING, "warning"), (COUNTED, "note")) if counts[level]]
    idle = bool(steps) and not failures and all(module == "no_database_store" for module, _result in ran)  # such as by a misspelt tag
    level = RED if failures or red else WARNING if counts[WARNING] or pending or idle else FINE
    said = f"{label} on {host}: " + (", ".join(["nothing was done"] * idle + [*words, *notes]) or "nothing was done")
    judged = [each for module, result in ran if module == "stored" for each in result.get("advisories") or ()]
    told_here = [each for each in judged if each["level"] == WARNING or each["code"] == "host_not_asked"]
    texts = [text.rstrip(".") for text in dict.fromkeys([*failures, *(advisory["message"] for advisory in [*red, *told_here])])]
    why = "; ".join(text for text in texts if not any(text != other and text in other for other in texts))
    short = said + "".join(f", {code}" for code in dict.fromkeys(advisory["code"] for advisory in red))
    line = f"{said}: {why}" if ran and why else f"{label} on {host}: {why}" if why else said
    return {"label": label, "host": host, "level": level, "short": short, "line": line, "parts": parts}


def _of_audit(result: Result) -> Result:
    """What an audit says of the one CA that it was given: no task has warned of that yet, so its line says all."""
    text = "it is offline, and its variables in the inventory don't say where it lives, so that nothing was looked at"
    nothing = {"generations": [], "findings": [{"code": "host_not_seen", "message": text, "level": RED}]}
    one = next((each for each in result["audit"]["authorities"] if each["in_inventory"]), nothing)
    general = [each for each in result["audit"]["advisories"] if each["level"] == RED]
    return {"changed": False, "generations": one["generations"], "advisories": [*general, *one["findings"]]}


def _stored(result: Result) -> str:
    """What a set is: a full one, or what is new since so many sets."""
    made = result.get("set") or {}
    changes = made.get("changes")
    if not changes:
        return " (full)" if made.get("kind") == "full" else ""
    news = ", ".join(f"{number} {what}" for what, number in changes.items() if number) or "no file"
    return f" (increment: {news}, on {_number(made['links'], 'set')})"


def _parts(ran: t.Sequence[tuple[str, Result]], check: bool) -> dict[str, str]:
    """What became of each subject: a failure counts more than a change, a change more than nothing to do."""
    parts: dict[str, str] = {}
    ranks: dict[str, int] = {}
    for module, result in ran:
        words = WORDS[module]
        if result.get("failed"):
            rank, text = 2, words.failed
        elif result.get("changed"):
            rank, text = 1, "" if result.get("pending") else words.would if check else words.changed
        else:
            rank, text = 0, words.nothing
        if text and rank >= ranks.get(words.subject, 0):
            ranks[words.subject], parts[words.subject] = rank, f"{words.subject} {text}"
    return parts


def _failures(ran: t.Sequence[tuple[str, Result]], failure: str | None) -> list[str]:
    """The first cause and failures of backups in full; of later failures only their names."""
    found: list[str] = []
    for module, result in ran:
        if result.get("failed"):
            message = str(result.get("msg", "it failed"))
            whole = not found or module in ("ca_key_backup", "ca_database_backup")
            found.append(message if whole else message.partition(": ")[0])
    return found or ([failure] if failure else [])


def _told(ran: t.Sequence[tuple[str, Result]]) -> list[Result]:
    """The advisories of the last run of each module, and of the others what no later run can see; each sentence once."""
    newest = dict(ran)
    told = [
        advisory
        for module, result in ran
        for advisory in result.get("advisories") or ()
        if result is newest[module] or advisory["code"] in _OF_ONE_RUN
    ]
    return list({advisory["message"]: advisory for advisory in told}.values())


def _covered(ran: t.Sequence[tuple[str, Result]]) -> str | None:
    for module, result in reversed(ran):
        if module in ("ca_key_backup", "ca_key_backup_info", "stored") and result.get("generations"):
            covered = [one for one in result["generations"] if one.get("covered") not in (None, "none")]
            return f"{len(covered)} of {len(result['generations'])} generations covered"
    return None


def summary(outcomes: t.Mapping[str, t.Sequence[Result] | None]) -> list[str]:
    """The lines of a whole play: counts, and one line for each CA that needs a person; the others where they are few.

    C(outcomes): of each host. One that has none was not served: something failed on it before, and is told where it did.
    """
    all_of = [one for each in outcomes.values() for one in each or ()]
    lost = [host for host, each in outcomes.items() if not each]
    levels = {level: [one for one in all_of if one["level"] == level] for level in (RED, WARNING, FINE)}
    counts = [f"{len(levels[RED])} red", f"{len(levels[WARNING])} with warnings", f"{len(levels[FINE])} fine"]
    done: dict[str, int] = {}
    for part in (part for one in all_of for part in one["parts"].values()):
        if not part.endswith((" not due", " in place", " good", " done", ")", " not due for renewal")):
            done[part] = done.get(part, 0) + 1
    head = f"{_number(all_of, 'CA')} on {_number(outcomes, 'host')}: {', '.join(counts)}"
    lines = [head + "".join(f"; {count} x {part}" for part, count in sorted(done.items()))]
    lines += [f"red: {one['short']}" for one in levels[RED]]
    lines += [f"red: nothing was done for {host}, see what failed there" for host in lost]
    lines += [f"warning: {one['line']}" for one in levels[WARNING]]
    if len(all_of) <= _MOST_LINES:
        lines += [one["line"] for one in levels[FINE]]
    elif len(lines) > _MOST_LINES:
        lines[_MOST_LINES:] = [f"... and {len(lines) - _MOST_LINES} more that need a person"]
    return lines


def _number(of: t.Collection[t.Any], noun: str) -> str:
    return f"{len(of)} {noun}{'' if len(of) == 1 else 's'}"
