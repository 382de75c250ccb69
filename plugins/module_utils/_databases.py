# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: which database of a store is meant, and which of its sets may go; may change in any release.

A database is what one CA section or PKI directory has issued. It has an id of its own, since two sections may share a key, and a CA may
run twice. It is recognised by inventory host and place.
"""

from __future__ import annotations

import secrets
import typing as t

from ansible_collections.keyward.pki.plugins.module_utils._chains import Chains, chains_of
from ansible_collections.keyward.pki.plugins.module_utils._database_policy import Lacks, lacking
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError, os_cause
from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, Home, slug
from ansible_collections.keyward.pki.plugins.module_utils._set_manifest import Lacking
from ansible_collections.keyward.pki.plugins.module_utils._store import Store
from ansible_collections.keyward.pki.plugins.module_utils._stored import FAR, Series, Stored, sequence_of

Compare = t.Callable[[Stored, Stored], Lacks]  # what the newer set lacks that the older one has


def of_home(series: t.Iterable[Series], home: Home, moved_from: t.Sequence[Home] = ()) -> t.Optional[Series]:
    """The database that lives at this home. An equal place counts before one that merely fits.

    Otherwise the database that a person moved here: it keeps its id, and its next set records the new home.
    """
    series = list(series)
    for where in (home, *moved_from):
        found = [(one, one.latest) for one in series if one.latest and one.latest.manifest.made_at.fits(where)]
        if found:
            return max(found, key=lambda each: (each[1].manifest.made_at == where, each[1].rank))[0]
    return None


def refuse_second(store: Store, name: str, sequence: int, home: Home, seen: t.Collection[str] = ()) -> None:
    """Refuse where another run has stored a set, or named a database, since C(seen) was read. The caller holds the lock."""
    own = store.one(name)
    others = [one for one in store.series([own.authority]) if one.name not in (name, *seen)]
    if any(sequence <= sequence_of(each) < sequence + FAR for each in own.names) or (not own.names and of_home(others, home)):
        raise KeywardError(
            f"nothing was stored in {store.path}", "another run has stored a set of this database meanwhile", "Run the task again"
        )


def new_id() -> str:
    return secrets.token_hex(16)


def directory_of(database: str, authority: Authority) -> str:
    """The directory name of a new database: its host and place, so that people recognise it, and its id."""
    return f"{slug(f'{authority.host} {authority.name}')}-{database[:16]}"


def copies(series: t.Iterable[Series], home: Home) -> t.List[Finding]:
    """Databases of the same CA on other hosts (a clone, a standby). Each holds only what its own host issued."""
    others = sorted({one.latest.manifest.made_at.host for one in series if one.latest} - {home.host})
    text = "the store also holds a database of this CA from the host {}: a copy of the CA, such as a clone or a standby, has its own sets"
    return [Finding("other_copy", text.format(host)) for host in others]


# --- what a newer set lacks, and which older ones may go ----------------------------------------------------------------


def lacking_of(sets: Chains, lacks: t.Callable[[Stored], Lacks]) -> t.Tuple[Lacking, ...]:
    """What a new set lacks that the newest one has, or one that the newest one lacked already. C(lacks): what it lacks of an older one."""
    newest = sets.newest
    if newest is None:
        return ()
    names = {one.set for one in newest.manifest.lacking} | {newest.name}
    found = []
    for one in sets.named(names):
        if one.flaw is None:
            try:
                lost = lacking(one.name, one.manifest.as_of, lacks(one))
            except KeywardError as exc:  # its files are damaged: compare with the set before it
                one.flaw = str(exc)
                return lacking_of(sets, lacks)
            found += [lost] if lost else []
    return tuple(sorted(found, key=lambda each: each.set))


class Pruned(t.NamedTuple):
    removed: t.List[str]
    advisories: t.List[Finding]


def prune(store: Store, name: str, keep: t.Optional[int], may_go: t.Callable[[Stored], bool], compare: Compare) -> Pruned:
    """Remove the chains of a database beyond its newest C(keep) intact ones, whole; the paths of their sets. C(may_go): whether one is old
    enough.

    A chain goes only where a newer intact one holds everything in it: after a snapshot was brought back, the good set is an
    old one. A damaged one stays, because nobody can tell what it alone holds.
    """
    removed: t.List[str] = []
    kept: t.List[str] = []
    intact: t.List[Stored] = []  # the newest set of each chain
    chains = chains_of([store.one(name)]) if keep is not None else []
    if not any(all(may_go(one) for one in chain) for chain in chains[max(keep or 0, 1) :]):
        return Pruned([], [])  # and nothing is read
    sets = Chains([store.one(name)], thorough=True)
    for chain in chains:
        whole = _all_whole(chain, sets)
        if whole is None:
            continue
        if len(intact) < max(t.cast(int, keep), 1) or not all(may_go(one) for one in chain):
            intact.append(whole[0])
            continue
        why = next((why for why in (_held(one, (intact[0], intact[-1]), compare) for one in whole) if why is not None), None)
        if why is None:
            # Newest first: a run that is killed here leaves a shorter chain, which is still good.
            removed += [store.remove(one) for one in whole]
        else:
            intact.append(whole[0])
            kept.append(f"{whole[0].name} ({why})")
    text = "{} sets that keep_full_sets would remove stay, since no newer one holds all that they hold: {}"
    return Pruned(removed, [Finding("older_sets_kept", text.format(len(kept), ", ".join(kept[:3])))] if kept else [])


def _all_whole(chain: t.Sequence[Stored], sets: Chains) -> t.Optional[t.List[Stored]]:
    try:
        return [sets.whole(one) for one in chain]
    except KeywardError:
        return None


def _held(older: Stored, newer: t.Iterable[Stored], compare: Compare) -> t.Optional[str]:
    """What the last of the newer sets lacks of this one; None where one of them holds all of it."""
    why = ""
    for one in newer:
        try:
            lacks = compare(one, older)
        except KeywardError as exc:
            why = str(exc)
        except OSError as exc:
            why = os_cause(exc)
        else:
            if not lacks.any:
                return None
            why = lacks.example
    return why
