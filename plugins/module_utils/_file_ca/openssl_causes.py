# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what the openssl command says, translated into why it failed and what to do; may change in any release."""

from __future__ import annotations

import re
import typing as t

LONGEST = 200  # characters that are quoted
_DIFFERENT = re.compile(
    r"The (\S+) field (?:is different between|needed to be the same in the)\s+CA certificate \((.*?)\) and the request \((.*?)\)", re.DOTALL
)
_UNIQUE = (
    "the CA has issued a valid certificate for this subject, and unique_subject allows only one (in {database}.attr, or the configuration)",
    "Say unique_subject = no there: a CA is renewed under its name while its earlier certificate is valid",
)
# What openssl 1.1.1 and 3 print, a clause, and what to do; 0 and 1 are what the expression found.
_CAUSES: t.Tuple[t.Tuple[str, str, str], ...] = (
    (r"already a certificate for|TXT_DB error number 2", *_UNIQUE),
    (
        r"error creating name index",
        "two valid certificates have one subject, and unique_subject allows only one (in {database}.attr, or the configuration)",
        "Say unique_subject = no there, or revoke one of the two",
    ),
    (
        r"The (?:mandatory )?(\S+) field (?:was missing|needed to be supplied and was missing)",
        "the policy of the CA wants {0} in the subject, and the request has none",
        "Have the request made with one, or correct the policy that [{section}] names",
    ),
    (
        r"characters that are illegal for the ASN.1 type|type needs to be of type IA5STRING",
        "a text of the subject has characters that its string type does not allow, such as _, @ or * in a PrintableString",
        "Have the request made with another string type (string_mask = utf8only; an emailAddress in IA5String)",
    ),
    (
        r"The (\S+) field does not exist in the CA certificate",
        "the policy of the CA wants the {0} of the subject to match its own, and it has none",
        "Correct the policy that [{section}] names",
    ),
    (
        r"Serial number (\w+) has already been issued",
        "the serial number {0} was issued already: {serial} has gone back, or belongs to another database",
        "Put a number into it that is higher than each one in {database}",
    ),
    (
        r"cannot lookup how long until the next CRL",
        "nothing says for how long its CRL is valid",
        "Say default_crl_days in [{section}], or give days",
    ),
    (
        r"cannot lookup how many days to certify",
        "nothing says for how long the certificate is valid",
        "Say default_days in [{section}], or give days",
    ),
    (
        r"config section (\S+)[^\0]*unable to get issuer keyid",
        "the certificate of the CA has no subject key identifier, and [{0}] wants it named (authorityKeyIdentifier)",
        "Say authorityKeyIdentifier = keyid,issuer there",
    ),
    (
        r"Error (?:[Cc]hecking|[Ll]oading|[Aa]dding) [^\n]*?extensions?(?: from)?(?: config)? section (\S+)",
        "the section of the extensions, [{0}], is missing or not right",
        "Correct it in the configuration",
    ),
    (
        r"Error (?:[Cc]hecking|[Ll]oading|[Aa]dding) [^\n]*extension",
        "a section of extensions is not right",
        "Correct it in the configuration",
    ),
    (r"variable lookup failed for (\S+?)::(\S+)", "its section [{0}] says no {1}", "Add it to the configuration"),
    (
        r"unable to find 'section' for (\S+)|has no such section: (\S+)",
        "[{section}] names the section [{0}], which the configuration does not have",
        "Add it, or name another one",
    ),
    (
        r"(\S+?):(?:invalid|unknown object) type in 'policy' configuration",
        "the policy says {0}: that is none of match, supplied and optional, or openssl knows no such attribute",
        "Correct the policy that [{section}] names",
    ),
    (
        r"error setting CRL nextUpdate|error setting certificate times",
        "it would be valid until a time that can't be written",
        "Correct the days in [{section}], or give days",
    ),
    (
        r"(?:start|end) date is invalid",
        "default_startdate or default_enddate in [{section}] is no time that openssl reads",
        "Write it as 20301231235959Z, or leave it out and say default_days",
    ),
    (r"ca: (\S+) is not a directory", "the directory {0} does not exist", "Make it, or correct new_certs_dir in [{section}]"),
    (
        r"error (\d+) at \d+ depth lookup: *([^\n]*)",
        "clients would reject the certificate: openssl verify says error {0}, {1}",
        "See what the certificate of the CA allows (path length, name constraints), and what the configuration says of dates",
    ),
    (
        r"No such file[^\0]*Problem with index file",
        "the database {database} does not exist",
        "Bring it back (ca_database_restore)",
    ),
    (
        r"Problem with index file|wrong number of fields|invalid type, Data base error",
        "the database {database} has a line that openssl ca can't read",
        "Find out what it is before anything else. ca_info names such lines",
    ),
    (
        r"[Uu]nable to load number from (\S+)|error while loading (?:serial|CRL) number",
        "the file with the serial number or the CRL number (crlnumber) is missing or damaged",
        "Bring it back with a number that was never used; ca_database_restore does",
    ),
    (
        r"(?:Could not read|[Uu]nable to load)[^\n]*private key[^\0]*Algorithm \((\S+?) : ",
        "its private key is encrypted in a way ({0}) that openssl has only in its legacy provider",
        "Encrypt it in another one: openssl pkey -provider legacy -provider default -aes256 with -in and a new -out, which takes its place",
    ),
    (
        r"Algorithm \((\S+?) : |unsupported message digest type|[Uu]nknown message digest|(?:is an unknown|Invalid) digest",
        "its digest (default_md) is one that openssl does not know, or no longer allows",
        "Say default_md = sha256 in [{section}]",
    ),
    (r"invalid digest", "its key has a digest of its own, and the configuration names another", "Say default_md = default in [{section}]"),
    (
        r"CA certificate and CA private key do not match|key values mismatch",
        "the certificate and the private key do not belong together",
        "Look at both with ca_info",
    ),
    (r"bad decrypt|maybe wrong password", "the passphrase of the private key is wrong", "Give the right private_key_passphrase"),
    (
        r"[Uu]nable to load CA private key|Could not (?:read|find|open) (?:file or uri of )?CA private key",
        "its private key can't be read",
        "See what ca_info says of it",
    ),
)


def translated(said: str, command: str, names: t.Mapping[str, str]) -> t.Tuple[str, str]:
    """Why a command of openssl failed, and what to do next. C(said): what it printed. C(names): of section, database and serial."""
    known = {"section": "its section", "database": "its index.txt", "serial": "its serial file", **names}
    different = _DIFFERENT.search(said)
    if different:
        name, own, asked = (part[:LONGEST] for part in different.groups())
        if own == asked:
            why = f"the {name} is the same text as the CA's in another string type, and the policy of the CA wants both equal byte by byte"
            remedy = "Have the request made in the CA's string type (string_mask), or say supplied in the policy that [{section}] names"
        else:
            why = f"the policy of the CA wants the {name} of the subject to match its own, {own}, and the request says {asked}"
            remedy = "Have the request made with that, or correct the policy that [{section}] names"
        return why, remedy.format(**known)
    for pattern, clause, remedy in _CAUSES:
        found = re.search(pattern, said)
        if found:
            parts = [(part or "")[:LONGEST] for part in found.groups()]
            return clause.format(*parts, **known), remedy.format(*parts, **known)
    return f"openssl {command} refuses it", f"Correct that; openssl {command} with the same configuration, run by hand, says more"
