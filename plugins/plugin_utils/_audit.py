# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what an audit says of every CA, from the inventory, the hosts and the stores; may change in any release.

No Ansible here. docs/audit-schema.json describes the document.
"""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ansible_collections.keyward.pki.plugins.module_utils._arguments import BEGINNING_OF_A_PLACE
from ansible_collections.keyward.pki.plugins.module_utils._chains import Chains
from ansible_collections.keyward.pki.plugins.module_utils._crl_policy import PUBLISHED_WITHIN
from ansible_collections.keyward.pki.plugins.module_utils._database_policy import lost_rows
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation, Home, generation_advisories, merge_generations
from ansible_collections.keyward.pki.plugins.module_utils._home import at_home, place_text, standing
from ansible_collections.keyward.pki.plugins.module_utils._orders.database import Held
from ansible_collections.keyward.pki.plugins.module_utils._pkcs12_crypto import Pkcs12Error
from ansible_collections.keyward.pki.plugins.module_utils._pkcs12_outside import weakness
from ansible_collections.keyward.pki.plugins.module_utils._printable import printable
from ansible_collections.keyward.pki.plugins.module_utils._signed import VERIFIED, read_events
from ansible_collections.keyward.pki.plugins.module_utils._stored import Series, Stored
from ansible_collections.keyward.pki.plugins.module_utils._time import after, format_time, parse_time
from ansible_collections.keyward.pki.plugins.module_utils._x509 import short_subject
from ansible_collections.keyward.pki.plugins.plugin_utils._known_authorities import KnownAuthority
from ansible_collections.keyward.pki.plugins.plugin_utils._known_databases import KnownDatabases, Record, records, sets_of
from ansible_collections.keyward.pki.plugins.plugin_utils._levels import COUNTED, RED, WARNING, level_of
from ansible_collections.keyward.pki.plugins.plugin_utils._outcome import FINE
from ansible_collections.keyward.pki.plugins.plugin_utils._signers import Signers
from ansible_collections.keyward.pki.plugins.plugin_utils._task import Result
from ansible_collections.keyward.pki.plugins.plugin_utils._told_stores import store_on

FORMAT, FORMAT_VERSION = "keyward.pki audit", 1
PROOF_LASTS = timedelta(days=200)  # a person proves backups twice a year
_SET_LAGS = timedelta(days=2)  # by then a change should be in a set
_MOST_LINES = 30  # so that the summary fits a screen
_WORST_FIRST = (RED, WARNING, FINE)


@dataclass(frozen=True)
class Seen:
    """A CA of the inventory. C(told): its generations, None where its host was not asked, or did not answer (C(failure)).

    C(database): as ca_info returns it. C(key_stores), C(database_stores): where it is to be stored. C(host_store): the store on its host
    that has its sets instead. C(held), C(store_failure): what the host told of that, or why it can't.
    """

    home: Home
    label: str
    key_stores: tuple[str, ...] = ()
    database_stores: tuple[str, ...] = ()
    host_store: str | None = None
    offline: bool = False
    told: tuple[Generation, ...] | None = None
    database: t.Mapping[str, t.Any] | None = None
    advisories: tuple[Finding, ...] = ()
    failure: str | None = None
    held: Held | None = None
    store_failure: str | None = None


class Holdings(t.NamedTuple):
    """What the stores hold. C(paths): of the stores of each kind, as the inventory names them and as they are."""

    backups: t.Sequence[KnownAuthority]
    sets: t.Sequence[KnownDatabases]
    paths: t.Mapping[str, str]
    advisories: t.Sequence[Finding] = ()


class Audit:
    """C(at): the time that counts as now. C(remembered): what is less than before, for a record."""

    def __init__(
        self, holdings: Holdings, signers: Signers, at: datetime, remembered: t.Callable[[Record], t.Sequence[Finding]] = lambda _record: ()
    ) -> None:
        self._holdings, self._signers, self._now, self._remembered = holdings, signers, at, remembered
        self._records = records(holdings.backups, holdings.sets)
        self._sets_by_trait: dict[tuple[str, str], list[KnownDatabases]] = {}
        for one in holdings.sets:
            for trait in [("id", one.id), *(("key", key) for key in one.public_keys)]:
                self._sets_by_trait.setdefault(trait, []).append(one)
        self._by_trait: dict[tuple[str, str], list[Record]] = {}
        for record in self._records:
            traits = [("host", home.host) for home in record.homes] + [("key", key) for key in record.public_keys]
            for trait in dict.fromkeys([*traits, ("id", record.id), ("subject", record.subject)]):
                self._by_trait.setdefault(trait, []).append(record)

    def document(self, inventory: t.Sequence[Seen], controller: str) -> Result:
        authorities = [self._authority(record, seen) for record, seen in self._joined(inventory)]
        authorities.sort(key=lambda one: (_WORST_FIRST.index(one["level"]), one["subject"] or "", one["id"] or ""))
        generations = [generation for one in authorities for generation in one["generations"]]
        levels = [one["level"] for one in authorities]
        general = _shown(self._holdings.advisories)
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "created": format_time(self._now),
            "controller": controller,
            "level": min([*levels, *map(_level, general)], key=_WORST_FIRST.index, default=FINE),
            "counts": {
                "authorities": len(authorities),
                **{level: levels.count(level) for level in _WORST_FIRST},
                "private_keys": len({one["public_key_sha256"] for one in generations}),
                "lost_today": len({one["public_key_sha256"] for one in generations if one["lost_today"]}),
            },
            "advisories": general,
            "authorities": authorities,
        }

    # --- inventory and stores, in both directions ---

    def _joined(self, inventory: t.Sequence[Seen]) -> list[tuple[Record | None, list[Seen]]]:
        """Every authority once, with the CAs of the inventory that are it."""
        of_record: dict[int, list[Seen]] = {id(record): [] for record in self._records}
        unknown: list[tuple[Record | None, list[Seen]]] = []
        for seen in inventory:
            record = self._record_of(seen)
            if record:
                of_record[id(record)].append(seen)
            else:
                unknown.append((None, [seen]))
        return [*((record, of_record[id(record)]) for record in self._records), *unknown]

    def _candidates(self, seen: Seen) -> list[Record]:
        """Those that can have to do with a CA: whoever shares a host, a key, a certificate or the subject with it."""
        traits = [("host", seen.home.host)]
        for one in seen.told or ():
            traits += [("key", one.public_key_sha256), ("id", one.sha256), ("subject", one.subject)]
        found = {id(record): record for trait in traits for record in self._by_trait.get(trait, ())}
        return list(found.values())

    def _record_of(self, seen: Seen) -> Record | None:
        if seen.told:
            return standing(seen.home, seen.told, self._candidates(seen)).known
        # What one side does not say fits. With nothing said that agrees, two CAs of a host would be taken for each other.
        agreeing = [(_agreeing(record, seen.home), record) for record in at_home(seen.home, self._candidates(seen))]
        stated = any(part in seen.home.place for part in BEGINNING_OF_A_PLACE)
        found = [(number, _newest_time(record), record) for number, record in agreeing if number or not stated]
        return max(found, key=lambda one: one[:2], default=(0, "", None))[2]

    def _sets_of(self, record: Record | None) -> KnownDatabases | None:
        traits = [("id", record.id), *(("key", key) for key in record.public_keys)] if record else []
        return sets_of(record, [one for trait in traits for one in self._sets_by_trait.get(trait, ())])

    # --- one authority ---

    def _authority(self, record: Record | None, seen: t.Sequence[Seen]) -> Result:
        known = record if isinstance(record, KnownAuthority) else None
        sets = self._sets_of(record)
        told = [one for one in seen if one.told]
        recorded = known.generations if known else [g for one in sets.latest for g in one.manifest.generations] if sets else []
        generations = merge_generations(recorded, [])
        for one in told:
            generations = merge_generations(generations, one.told or ())
        covered = known.covered if known else frozenset()
        shown = [self._generation(each, known, told, covered) for each in generations]
        databases = [self._database(one) for one in sets.latest] if sets else []
        findings = self._findings(record, sets, seen, generations, shown)
        about = [*_shown(findings)]
        return {
            "id": record.id if record else None,
            "name": seen[0].label if seen else record.name if record else None,
            "subject": next((printable(one.subject) for one in (*generations[-1:], *([record] if record else []))), None),
            "level": min((_level(one) for one in about), key=_WORST_FIRST.index, default=FINE),
            "in_inventory": bool(seen),
            "in_stores": record is not None,
            "homes": [place_text(home) for home in (record.homes if record else ())],
            "hosts": [
                {"host": one.home.host, "place": _place(one), "name": one.label, "state": _state(one), "why": one.failure} for one in seen
            ],
            "generations": shown,
            "key_backup": self._key_backup(known) if known and known.newest else None,
            "key_backups": _listed(known) if known else [],
            "databases": databases,
            "crls": [{"host": one.home.host, **crl} for one in told for crl in (one.database or {}).get("crls") or ()],
            "findings": about,
        }

    def _generation(
        self, generation: Generation, known: KnownAuthority | None, told: t.Sequence[Seen], covered: t.Collection[str]
    ) -> Result:
        on_hosts = [each.private_key for one in told for each in one.told or () if each.sha256 == generation.sha256]
        holding = [one for one in (known.backups if known else ()) if generation.sha256 in one.manifest.fingerprints]
        return {
            "subject": printable(generation.subject),
            "common_name": printable(short_subject(generation.certificate)),
            "serial": generation.serial,
            "not_before": generation.not_before,
            "not_after": generation.not_after,
            "sha256": generation.sha256,
            "sha1": generation.sha1,
            "public_key_sha256": generation.public_key_sha256,
            "key_algorithm": generation.key_algorithm,
            "expired": generation.not_after < format_time(self._now),
            "key_on_host": min(on_hosts, key=("present", "inaccessible", "missing").index) if on_hosts else None,
            "exportable": generation.exportable,
            "covered": "backup" if generation.sha256 in covered else "none",
            "lost_today": not holding,
            "restored_from": known.paths(holding[0]) if known and holding else [],
        }

    def _key_backup(self, known: KnownAuthority) -> Result:
        newest = t.cast(Stored, known.newest)
        proof = self._proof(known)
        return {
            "id": newest.manifest.id,
            "created": newest.manifest.created,
            "age": self._age(newest.manifest.created),
            "paths": known.paths(newest),
            "signer": self._signers.name_of(newest.document, newest.signature),
            "proved": proof,
        }

    def _proof(self, known: KnownAuthority) -> Result | None:
        """When a person last proved the newest backup with its password, and who."""
        newest, found = t.cast(Stored, known.newest), list[Result]()
        for series in known.holdings.values():
            for event in read_events(series.events, (VERIFIED,), self._signers):
                if event.get("follows") == newest.digest and self._age(event["at"]) is not None:
                    found.append({"at": event["at"], "by": printable(str(event.get("person"))), "age": self._age(event["at"])})
        return max(found, key=lambda one: str(one["at"]), default=None)

    def _database(self, latest: Stored) -> Result:
        manifest = latest.manifest
        return {
            "id": manifest.database,
            "home": place_text(manifest.made_at),
            "set": latest.name,
            "path": latest.path,
            "as_of": manifest.as_of,
            "age": self._age(manifest.as_of),
            "entries": manifest.state.entries,
            "revoked": manifest.state.revoked,
            "signer": self._signers.name_of(latest.document, latest.signature),
        }

    def _age(self, time: str) -> int | None:
        """The age in seconds; None for a time in the future, which counts as infinitely old."""
        age = int((self._now - parse_time(time)).total_seconds())
        return age if age >= 0 else None

    # --- what is wrong ---

    def _findings(
        self,
        record: Record | None,
        sets: KnownDatabases | None,
        seen: t.Sequence[Seen],
        generations: t.Sequence[Generation],
        shown: t.Sequence[Result],
    ) -> list[Finding]:
        known = record if isinstance(record, KnownAuthority) else None
        found = [finding for one in seen for finding in one.advisories]
        for one in seen:
            found += self._of_host(one, known, sets)
        for generation, shape in zip(generations, shown, strict=True):
            if shape["covered"] == "none":
                text = f"{generation.label} is in no backup: its private key would be lost today"
                if not shape["lost_today"]:
                    text = f"{generation.label} is not in the newest backup, only in {shape['restored_from'][0]}"
                found.append(Finding("generation_missing", text, generation.sha256))
        if known:
            found += [*known.advisories, *self._remembered(known), *self._of_backups(known, seen), *_weak(known)]
        if sets:
            found += [*(finding for series in sets.every for finding in series.advisories), *self._remembered(sets), *_unsound(sets)]
            found += _lost_rows(sets, self._now)
        found += self._of_sets(sets, seen)
        for one in seen if record is None else ():
            if one.told is None and one.key_stores:
                text = f"nothing of {one.label} on {one.home.host} is in the stores: if it has a key, that would be lost today"
                found.append(Finding("generation_missing", text))
        if record and not seen:
            text = f"{record.name} is in the stores and in no inventory: where does it live? Its backups lie in {_where(known, sets)}"
            found.append(Finding("not_in_inventory", text))
        found += [*generation_advisories(generations, format_time(self._now)), *self._of_crls(seen)]
        return list(dict.fromkeys(found))

    def _of_host(self, seen: Seen, known: KnownAuthority | None, sets: KnownDatabases | None) -> list[Finding]:
        here = f"{seen.label} on {seen.home.host}"
        if seen.failure:
            return [Finding("host_not_seen", f"{here} was not seen, and is judged by what is stored: {seen.failure}")]
        if seen.told is None:
            return [Finding("host_not_asked", f"{here} is judged by {self._stored(seen, known, sets)}: {_why_not_asked(seen)}")]
        standing_there = standing(seen.home, seen.told, self._candidates(seen))
        if standing_there.elsewhere:
            return [Finding("not_at_home", f"{here} is not at home there: {standing_there.elsewhere}")]
        return list(standing_there.advisories)

    def _stored(self, seen: Seen, known: KnownAuthority | None, sets: KnownDatabases | None) -> str:
        """What stands for a CA whose host was not asked, and how old that is."""
        stored, newest = known.newest if known else None, self._set_of(sets, seen)
        parts = [f"the key backup {stored.name} ({self._days(stored.manifest.created)})"] if stored else []
        parts += [f"the set {newest.name} ({self._days(newest.manifest.as_of)})"] if newest else []
        return " and ".join(parts) or "what is stored, which is nothing"

    def _days(self, time: str) -> str:
        age = self._age(time)
        return "of a time to come" if age is None else f"{age // 86400} days old"

    def _of_backups(self, known: KnownAuthority, seen: t.Sequence[Seen]) -> list[Finding]:
        found, newest = list[Finding](), known.newest
        wanted = dict.fromkeys(self._holdings.paths[path] for one in seen for path in one.key_stores if path in self._holdings.paths)
        if newest:
            there = {path for path in known.holdings if any(one.name == newest.name and not one.damage for one in known.holdings[path].all)}
            found += [Finding("missing_in_store", f"{path} lacks {newest.name}") for path in wanted if path not in there]
            proof = self._proof(known)
            if proof is None or proof["age"] > PROOF_LASTS.total_seconds():
                when = f"last proved on {proof['at']}" if proof else "never proved"
                text = f"the newest key backup of {known.name} was {when} by a person with its password: keyward.pki.verify"
                found.append(Finding("not_proved", text))
        return found

    def _of_sets(self, sets: KnownDatabases | None, seen: t.Sequence[Seen]) -> list[Finding]:
        found = []
        for one in seen:
            here = f"{one.label} on {one.home.host}"
            stores = (store_on(one.home.host, one.host_store),) if one.host_store else one.database_stores
            if not stores or (one.host_store and one.told is None):
                text = "no store that the inventory names"
                if stores:
                    text = f"{stores[0]}, which was not read: {'the host was not seen' if one.failure else _why_not_asked(one)}"
                found.append(Finding("database_not_audited", f"the database of {here} is in {text}"))
                continue
            newest = self._set_of(sets, one)
            if newest is None:
                unread = [path for path in stores if path not in self._holdings.paths]
                text = "no store: run keyward.pki.database_backup"
                if unread:
                    text = f"no store that could be read: mount {' and '.join(unread)}, or correct the path"
                found.append(Finding("database_not_covered", f"the database of {here} is in {text}"))
            elif self._lags(newest, one.database):
                text = f"the newest set of {here}, {newest.name}, lacks what was issued or signed since, for more than two days"
                found.append(Finding("set_out_of_date", f"{text}: does the nightly run still run?"))
        return found

    def _of_crls(self, seen: t.Sequence[Seen]) -> list[Finding]:
        """The newest CRL of each key that clients still need."""
        newest: dict[tuple[str, str], t.Mapping[str, t.Any]] = {}
        for one in seen:
            for crl in (one.database or {}).get("crls") or ():
                place = (one.home.host, crl["public_key_sha256"])
                if crl["needed"] and crl["this_update"] > newest.get(place, {"this_update": ""})["this_update"]:
                    newest[place] = crl
        found = []
        for (host, _key), crl in newest.items():
            end = crl["next_update"]
            if end and end < format_time(self._now):
                found.append(
                    Finding("crl_expired", f"the CRL {crl['path']} on {host} expired on {end}: clients that get it reject what it is for")
                )
            elif end and parse_time(end) - self._now < (parse_time(end) - parse_time(crl["this_update"])) / 3 and self._overdue(crl):
                text = f"the CRL {crl['path']} on {host} is in its last third, and expires on {end}: keyward.pki.crl signs the next"
                found.append(Finding("crl_runs_out", text))
        return found

    def _overdue(self, crl: t.Mapping[str, t.Any]) -> bool:
        """As in C(_crl_policy)."""
        return crl["successor_at"] is None or after(parse_time(crl["successor_at"]), PUBLISHED_WITHIN) < self._now

    @staticmethod
    def _set_of(sets: KnownDatabases | None, seen: Seen) -> Stored | None:
        fitting = [one for one in (sets.latest if sets else ()) if one.manifest.made_at.fits(seen.home)]
        return max(fitting, key=lambda one: (one.manifest.created, one.rank), default=None)

    def _lags(self, newest: Stored, database: t.Mapping[str, t.Any] | None) -> bool:
        state, age = newest.manifest.state, self._age(newest.manifest.as_of)
        if not database or (age is not None and age < _SET_LAGS.total_seconds()):
            return False
        pairs = ((state.entries, database.get("entries")), (state.next_crl_number, database.get("crl_number")))
        return any(there is not None and there != stored for stored, there in pairs)


def seen_generations(info: t.Mapping[str, t.Any]) -> tuple[Generation, ...]:
    """Those that ca_info returned, read from their certificates. Raises ValueError, KeyError, TypeError."""
    unplaced = {"certificate_place": None, "key_place": None, "key_storage": None}
    found = [Generation.from_json({**shape, **unplaced}) for shape in info["generations"]]
    return tuple(replace(each, index=number) for number, each in enumerate(found))


def lines(document: Result) -> list[str]:
    """The summary of an audit: counts, and one line for each authority that needs a person, worst first."""
    counts = document["counts"]
    numbers = ", ".join(f"{counts[level]} {'with warnings' if level == WARNING else level}" for level in _WORST_FIRST)
    noun = "authority" if counts["authorities"] == 1 else "authorities"
    lost = f"{counts['private_keys']} private keys, {counts['lost_today']} would be lost today"
    head = f"{counts['authorities']} {noun}: {numbers}; {lost}"
    found = [f"{one['level']}: {one['message']}" for one in document["advisories"] if one["level"] != COUNTED]
    for one in document["authorities"]:
        why = [finding["message"] for finding in one["findings"] if finding["level"] == one["level"]]
        if one["level"] != FINE:
            more = f" ({len(why) - 1} more)" if len(why) > 1 else ""
            found.append(f"{one['level']}: {one['name']} ({one['subject'] or 'no certificate is known'}): {why[0]}{more}")
    if len(found) > _MOST_LINES:
        found[_MOST_LINES:] = [f"... and {len(found) - _MOST_LINES} more that need a person: see the report"]
    return [printable(line) for line in (head, *found)]


def _shown(findings: t.Iterable[Finding]) -> list[Result]:
    shown = [{**finding.as_result(), "level": level_of(finding.code)} for finding in findings]
    return sorted(shown, key=lambda one: (RED, WARNING, COUNTED).index(one["level"]))


def _level(finding: Result) -> str:
    return FINE if finding["level"] == COUNTED else str(finding["level"])


def _state(seen: Seen) -> str:
    if seen.told is not None:
        return "asked"
    return "not_seen" if seen.failure else "offline" if seen.offline else "not_asked"


def _why_not_asked(seen: Seen) -> str:
    return "it is offline" if seen.offline else "its host was not asked"


def _place(seen: Seen) -> str:
    """All of it: two sections of one configuration are two CAs."""
    return ", ".join(f"{part}={value}" for part, value in seen.home.place.items())


def _listed(known: KnownAuthority) -> list[Result]:
    return [{"created": one.manifest.created, "generations": [g.sha256 for g in one.manifest.generations]} for one in known.backups]


def _agreeing(record: Record, here: Home) -> int:
    """How many parts of a place a home of an authority has in common with this one."""
    return max(len({*here.place} & {*home.place} - {"backend"}) for home in record.homes if home.fits(here))


def _newest_time(record: Record) -> str:
    return str(max(one.manifest.created for one in ([record.latest] if isinstance(record, KnownAuthority) else record.latest)))


def _unsound(sets: KnownDatabases) -> t.Iterator[Finding]:
    """Compare the files' digests, which is too slow for each night."""
    for copies in sets.databases:
        for one in (one for series in copies for one in series.all):
            if not one.flaw and one.damage:
                yield Finding("digest_mismatch", f"{one.path}: {one.damage}")
        yield from Chains(copies, thorough=True).faults


def _lost_rows(sets: KnownDatabases, now: datetime) -> t.Iterator[Finding]:
    """What the newest set of each database says that it lacks of an older one."""
    for copies in sets.databases:
        newest = max((one.latest for one in copies if one.latest), key=lambda one: one.rank, default=None)
        names = {name for series in copies for name in series.names}
        yield from lost_rows(newest.manifest, names.__contains__, now) if newest else ()


def _weak(known: KnownAuthority) -> t.Iterator[Finding]:
    """Backups whose outside tells that their password alone must hold: of all ages, since each of them brings back a key."""
    weak = list[str]()
    for backup in known.backups:
        try:
            reasons = [(name, weakness(content)) for name, content in backup.files().items()]
        except (Pkcs12Error, KeywardError):
            continue  # what can't be read is told of by its digest, or when it is proved
        weak += [f"{os.path.join(backup.path, name)} is weakly protected: {why}" for name, why in reasons if why][:1]
    if weak:
        more = f" ({len(weak) - 1} more)" if len(weak) > 1 else ""
        yield Finding("weak_encryption", f"{weak[0]}{more}. Its password alone must hold; keep it apart, and let few read that store")


def _where(known: KnownAuthority | None, sets: KnownDatabases | None) -> str:
    holdings: list[Series] = [*(known.holdings.values() if known else ()), *(sets.every if sets else ())]
    return ", ".join(series.path for series in holdings[:3])
