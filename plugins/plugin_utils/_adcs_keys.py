# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: key backups of AD CS, and how it keeps its keys, judged on the controller; may change in any release."""

from __future__ import annotations

import itertools
import typing as t
from dataclasses import replace

from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import Generation
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Told
from ansible_collections.keyward.pki.plugins.module_utils._orders.key_restore import Imported
from ansible_collections.keyward.pki.plugins.module_utils._orders.keys import Exported, File
from ansible_collections.keyward.pki.plugins.module_utils._reasons import reason
from ansible_collections.keyward.pki.plugins.module_utils._stored import Stored
from ansible_collections.keyward.pki.plugins.module_utils._verdict import Bundle, held_keys, judge, key_storage, open_bundle
from ansible_collections.keyward.pki.plugins.plugin_utils._key_backups import (
    BUNDLE_NAME,
    ChosenBackup,
    Sealed,
    brings_back,
    refuse_unless_restorable,
)


def storage_changed(told: Told, kept: t.Mapping[str, t.Any] | None) -> list[Finding]:
    """Whether the CA keeps its keys in another provider than when its newest backup was made (C(kept): what that recorded)."""
    was, is_now = ((own or {}).get("provider") for own in (kept, told.own))
    if not isinstance(was, str) or not isinstance(is_now, str) or not was or not is_now or was == is_now:
        return []
    text = f"the CA keeps its keys in {is_now}, and kept them in {was} when its newest backup was made"
    return [Finding("key_storage_changed", text)]


def wrong_specification(generations: t.Sequence[Generation], own: t.Mapping[str, t.Any] | None) -> list[Finding]:
    """A renewal with the same key fails where the certificate gives a key of a key storage provider the specification of a CSP's key.

    C(own): what the host says of the certificates' property; a file may say otherwise, where it says anything.
    """
    said = (own or {}).get("key_specs")
    specs: dict[str, t.Any] = said if isinstance(said, dict) else {}
    text = (
        "its key is in a key storage provider, and its certificate says KeySpec {}: a renewal with the same key fails. Repair it before: {}"
    )
    repair = 'certutil -repairstore My <serial> KeyProv.inf (Microsoft, "CA certificate renewal fails with an existing key pair")'
    found = []
    for generation in generations:
        kept = generation.key_storage or {}
        spec = kept.get("key_spec") if specs.get(generation.sha256) is None else specs[generation.sha256]
        if spec and str(kept.get("provider")).endswith("Key Storage Provider"):
            found.append(Finding("key_storage_changed", f"{generation.label}: {text.format(spec, repair)}", generation.sha256))
    return found


def kept_with_keys(told: Told) -> dict[str, t.Any] | None:
    """What the manifest of an AD CS key backup holds in addition."""
    names = ("ca_type", "provider", "provider_type")
    return {name: told.own.get(name) for name in names} if told.own is not None else None


# --- key backups: the files as Windows wrote them, never repacked: they must go back into Windows ----------------------


def sealed(
    write: t.Callable[[t.Sequence[str]], Exported],
    told: Told,
    expected: t.Sequence[Generation],
    earlier: t.Sequence[Stored],
    passwords: t.Sequence[str | None],
) -> Sealed:
    """A new backup, proved. C(write): has Windows write its files under the first of the passwords, or one for each of these certificates.

    A generation that they lack is exported on its own. What the host has lost stays in the earlier backup's file, which goes
    into the new backup unchanged. Raises KeywardError.
    """
    written = write(())
    files = _named(written.files)
    bundles = [open_bundle(name, data, passwords[:1]) for name, data in files.items()]
    faults = [finding for finding in judge(bundles, []).reasons if finding.code != "key_missing"] if bundles else []
    if faults:
        raise KeywardError(
            "nothing was stored",
            "Windows wrote a backup that can't be used: " + "; ".join(fault.message for fault in faults),
            "Run the task again; if it happens again, look at what Backup-CARoleService does on that host",
            faults,
        )
    stuck = {one.sha256.lower(): one.code for one in written.not_exportable}
    there = [generation for generation in told.generations if generation.private_key == "present"]
    lacking = [g.sha256 for g in there if not brings_back(bundles, g) and g.sha256 not in stuck]
    if lacking:
        more = write(lacking)
        files.update(_named(more.files, taken=len(files)))
        stuck.update({one.sha256.lower(): one.code for one in more.not_exportable})
        bundles = [open_bundle(name, data, passwords[:1]) for name, data in files.items()]
    opened_by: dict[str, str] = {}
    for name, (bundle, data, opens) in _carried_over(expected, bundles, earlier, passwords).items():
        files[name], opened_by[name] = data, opens
        bundles.append(bundle)
    not_exported = [generation for generation in expected if generation.sha256 in stuck]
    _refuse_stuck(not_exported, stuck, bundles, anything_new=bool(files.keys() - opened_by.keys()))
    storage = key_storage(bundles, _provider_types(told))
    kept = [replace(g, key_storage=storage.get(g.public_key_sha256, g.key_storage)) for g in expected]
    refuse_unless_restorable(bundles, kept)
    text = "can't be exported any more; an earlier backup's file keeps its key"
    found = [Finding("not_exportable", f"{g.label} {text}", g.sha256) for g in not_exported]
    # The manifest says of each generation whether its key still leaves the host.
    kept = [replace(g, exportable=False) if g.sha256 in stuck else g for g in kept]
    return Sealed(files, kept, opened_by, (*found, *wrong_specification(kept, written.own)))


def _named(files: t.Sequence[File], taken: int = 0) -> dict[str, bytes]:
    """Names for the files in a store: Windows names them after the CA, which may have any characters."""
    names = (BUNDLE_NAME if number == 0 else f"authority-{number}.p12" for number in itertools.count(taken))
    return dict(zip(names, (file.content for file in files)))


def _provider_types(told: Told) -> dict[str, int]:
    """What the registry says of the provider of the CA's keys."""
    own = told.own or {}
    name, number = own.get("provider"), own.get("provider_type")
    return {name: number} if isinstance(name, str) and isinstance(number, int) else {}


def _carried_over(
    expected: t.Sequence[Generation], bundles: t.Sequence[Bundle], earlier: t.Sequence[Stored], passwords: t.Sequence[str | None]
) -> dict[str, tuple[Bundle, bytes, str]]:
    """The files of earlier backups that hold what the new ones lack: by their new names, opened, their bytes, and what opens them."""
    found: dict[str, tuple[Bundle, bytes, str]] = {}
    have = list(bundles)
    for backup in earlier:
        lost = [g for g in expected if not brings_back(have, g)]
        if not lost or not any(g.public_key_sha256 in backup.manifest.public_keys for g in lost):
            continue
        files = backup.files()
        for file in backup.manifest.files:
            bundle = open_bundle(file.name, files[file.name], passwords, file.sha256)
            if bundle.fault or any(brings_back([bundle], g) for g in lost):
                found[f"earlier-{file.sha256[:16]}.p12"] = (bundle, files[file.name], file.opened_by)
                have.append(bundle)
    return found


def _refuse_stuck(
    not_exported: t.Sequence[Generation], codes: t.Mapping[str, str], bundles: t.Sequence[Bundle], anything_new: bool
) -> None:
    """The findings for keys that can't leave their provider and are in no file."""
    unsaved = [
        reason("not_exportable", g.label, f"its provider answers {codes[g.sha256]}", g.sha256)
        for g in not_exported
        if not brings_back(bundles, g)
    ]
    if unsaved:
        raise KeywardError(
            "nothing was stored",
            "; ".join(finding.message for finding in unsaved),
            "Back these keys up by the means of their HSM or TPM, and keep that backup as you would this one. The certificates of all "
            "generations are in the database sets (ca_database_backup)",
            unsaved,
        )
    if not anything_new:
        raise KeywardError(
            "nothing was stored",
            "Windows gives out none of the keys any more, so that there is nothing to protect with this password",
            "Keep the newest backup, and the password that it was made with: it still holds every key",
            [reason("not_exportable", g.label, certificate=g.sha256) for g in not_exported],
        )


# --- restores ----------------------------------------------------------------------------------------------------------


def not_as_before(chosen: ChosenBackup, done: Imported, password: str | None) -> list[Finding]:
    """What the trial export shows of keys that Windows took: can the next backup be made, and are they kept as they were?"""
    trial = [open_bundle(file.name, file.content, [password]) for file in done.trial]
    recorded = {g.public_key_sha256: g.key_storage for g in chosen.generations if g.key_storage}
    before: dict[str, t.Mapping[str, t.Any]] = {**key_storage(chosen.bundles, {}), **recorded}
    after = key_storage(trial, {})
    found = []
    for generation in chosen.generations if done.trial or done.not_exportable else ():
        key = generation.public_key_sha256
        if key not in held_keys(trial):
            text = f"{generation.label} is back, and its private key can't be exported: the next key backup will fail"
            found.append(Finding("not_exportable", text, generation.sha256))
            continue
        was, is_now = before.get(key, {}), after.get(key, {})
        differ = [name for name in ("provider", "key_spec", "machine_key") if name in was and was[name] != is_now.get(name)]
        if differ:
            text = ", ".join(f"{name} is {is_now.get(name)} and was {was[name]}" for name in differ)
            text = f"{generation.label} is not kept as before: {text}. Repair it before the next renewal (certutil -repairstore)"
            found.append(Finding("key_storage_changed", text, generation.sha256))
    return found
