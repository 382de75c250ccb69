# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the simulated CA does with its keys: installing, renewing, issuing, CRLs."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import re
import time
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from adcs.machine import CA_TYPES, CONFIGURATION, INCOMPLETE, INSTALLED, PENDING, ROOT_TYPES, SERVICE, SOFTWARE_KSP, Failure, sanitized
from adcs.simulation import Host, _der

CA_VERSION = x509.ObjectIdentifier("1.3.6.1.4.1.311.21.1")
PREVIOUS_CERT_HASH = x509.ObjectIdentifier("1.3.6.1.4.1.311.21.2")
_SPKI = PublicFormat.SubjectPublicKeyInfo
DAYS = {"Hours": 1 / 24, "Days": 1, "Weeks": 7, "Months": 30, "Years": 365}
CURVES = {"ECDSA_P256": ec.SECP256R1, "ECDSA_P384": ec.SECP384R1, "ECDSA_P521": ec.SECP521R1}


def version(certificate: Any) -> tuple[int, int]:
    """Certificate index and key index that a CA certificate states."""
    try:
        value = certificate.extensions.get_extension_for_oid(CA_VERSION).value.value
    except x509.ExtensionNotFound:
        return 0, 0
    number = int.from_bytes(value[2:], "big")
    return number & 0xFFFF, number >> 16


def distribution_points(certificate: Any) -> bool:
    return any(each.oid == x509.CRLDistributionPoints.oid for each in certificate.extensions)


def suffix(index: int) -> str:
    return f"({index})" if index else ""


def install(host: Host, given: dict[str, Any]) -> dict[str, Any]:
    ca_type = CA_TYPES[given.get("CAType") or "EnterpriseRootCA"]
    existing = given.get("CertificateID")
    if given.get("CertFile"):
        imported = host.import_bundle(Path(given["CertFile"]).read_bytes(), given.get("CertFilePassword") or "", True)
        existing = max((sha1 for sha1 in imported if host.has_key(sha1)), key=lambda sha1: version(host.certificate(sha1)))
    if existing:
        generations = _found(host, existing)
        newest = host.certificate(generations[-1])
        if (newest.issuer == newest.subject) != (ca_type in ROOT_TYPES):
            raise Failure(0x80070057)
        common_name = newest.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[-1].value
        facts = host.key_facts(host.container(generations[-1]) or "")
        _configure(host, common_name, ca_type, given, facts["provider"], facts["spec"])
        host.set_generations(generations)
        return _installed(host)

    common_name = given.get("CACommonName") or f"{host.machine()['computer']}-CA"
    algorithm, _hash, provider = (given.get("CryptoProviderName") or f"RSA#{SOFTWARE_KSP}").rpartition("#")
    container = sanitized(common_name)
    if (host.state / "keys" / f"{container}.pem").exists() and not given.get("OverwriteExistingKey"):
        raise Failure(0x8009000F)
    spec = 0 if algorithm else 2
    _configure(host, common_name, ca_type, given, provider, spec)
    host.configure(
        r"\CSP",
        CNGPublicKeyAlgorithm=algorithm or "RSA",
        CNGHashAlgorithm=given.get("HashAlgorithmName") or "SHA256",
        KeySize=int(given.get("KeyLength") or 2048),
    )
    days = DAYS[given.get("ValidityPeriod") or "Years"] * int(given.get("ValidityPeriodUnits") or 5)
    host.machine(days=max(1, round(days)), suffix=given.get("CADistinguishedNameSuffix") or "")
    _new_key(host, container, provider, spec)
    if ca_type in ROOT_TYPES:
        _add(host, _self_signed(host, container, 0, 0), container)
        return _installed(host)
    path = Path(given.get("OutputCertRequestFile") or host.cert_enroll / f"{_file_stem(host)}.req")
    _request(host, path, container, 0, 0)
    host.create_database()
    return {"ErrorId": 398, "ErrorString": host.text(INCOMPLETE).format(path)}


def _found(host: Host, identifier: str) -> list[str]:
    """The generations that an installation from an existing certificate takes up."""
    wanted = re.sub("[^0-9A-F]", "", identifier.upper())
    for sha1 in host.thumbprints():
        certificate = host.certificate(sha1)
        if wanted == sha1 or wanted.lstrip("0") == f"{certificate.serial_number:X}":
            break
    else:
        raise Failure(0x80092004)
    if not host.has_key(sha1):
        raise Failure(0x80090016)
    if host.switches()["install_finds"] == "newest":
        return [sha1]
    same = [each for each in host.thumbprints() if host.certificate(each).subject == certificate.subject and host.has_key(each)]
    return sorted(same, key=lambda each: version(host.certificate(each)))


def _configure(host: Host, common_name: str, ca_type: int, given: dict[str, Any], provider: str, spec: int) -> None:
    database = given.get("DatabaseDirectory") or str(host.system_root / "System32" / "CertLog")
    name = sanitized(common_name)
    host.registry.set(SERVICE, ImagePath="%SystemRoot%\\system32\\certsrv.exe", Start=2)
    host.registry.set(
        CONFIGURATION,
        Active=name,
        DBDirectory=database,
        DBLogDirectory=given.get("LogDirectory") or database,
        DBSystemDirectory=database,
        DBTempDirectory=database,
        DBSessionCount=100,
        DBFlags=0xB0,
        LDAPFlags=0,
        Version=0x40001,
        ConfigurationDirectory=str(host.cert_enroll.parent / "Config"),
    )
    host.configure(
        CAType=ca_type,
        CommonName=common_name,
        CAServerName=host.machine()["computer"],
        CACertHash=[],
        SetupStatus=INSTALLED,
        ValidityPeriod="Years",
        ValidityPeriodUnits=1,
        CRLFlags=2,
        CRLPeriod="Weeks",
        CRLPeriodUnits=1,
        CRLDeltaPeriod="Days",
        CRLDeltaPeriodUnits=1,
        CRLPublicationURLs=[f"65:{host.cert_enroll}/%3%8%9.crl", "6:http://%1/CertEnroll/%3%8%9.crl"],
        CACertPublicationURLs=[f"1:{host.cert_enroll}/%1_%3%4.crt", "2:http://%1/CertEnroll/%1_%3%4.crt"],
        AuditFilter=0,
        HighSerial=0,
        UseDS=0 if ca_type > 1 else 1,
    )
    host.configure(r"\CSP", Provider=provider, ProviderType=0 if spec == 0 else 1, HashAlgorithm=0xFFFFFFFF, MachineKeyset=1)
    host.configure(r"\PolicyModules", Active="CertificateAuthority_MicrosoftDefault.Policy")
    if host.switches()["kra"]:
        host.configure(KRACertHash=["5d 0c 8e 1b 2f 6a 44 d3 90 17 aa 30 c2 6e 51 f4 88 09 be 7d"], KRACertCount=1, KRAFlags=0)
    if given.get("OverwriteExistingDatabase"):
        host.database_file.unlink(missing_ok=True)


def _installed(host: Host) -> dict[str, Any]:
    if not host.database_file.exists():
        host.create_database()
    for index, sha1 in enumerate(host.generations):
        _write_certificate(host, index, host.certificate(sha1))
    host.machine(service="Stopped")
    if host.value("CAType") < 3:
        wanted = host.policy().get("LoadDefaultTemplates", "1").lower() not in ("0", "false")
        host.machine(templates=["WebServer", "SubCA"] if wanted else [])
    host.start()
    publish_crls(host)
    # Clients that enroll by themselves do not wait.
    enrolls = host.switches()["enrolls_at_once"]
    if enrolls == "always" or (enrolls == "by_template" and host.machine().get("templates")):
        issue(host, "enrolled.example.com")
    return {"ErrorId": 0, "ErrorString": ""}


def _new_key(host: Host, container: str, provider: str, spec: int) -> None:
    algorithm = host.value("CNGPublicKeyAlgorithm", r"\CSP", "RSA")
    key: Any = ec.generate_private_key(CURVES[algorithm]()) if algorithm in CURVES else None
    key = key or rsa.generate_private_key(65537, host.value("KeySize", r"\CSP", 2048))
    host.add_key(container, key, provider, spec, exportable=True)


def _hash(host: Host) -> Any:
    return getattr(hashes, host.value("CNGHashAlgorithm", r"\CSP", "SHA256").upper())()


def _subject(host: Host) -> x509.Name:
    if host.generations:
        name: x509.Name = host.certificate(host.generations[-1]).subject
        return name
    rest = host.machine()["suffix"]
    common_name = re.sub(r'([,+"\\<>;=])', r"\\\1", host.common_name)
    return x509.Name.from_rfc4514_string(f"CN={common_name}" + (f",{rest}" if rest else ""))


def _extensions(host: Host, builder: Any, key: Any, index: int, key_index: int) -> Any:
    """Those of a CA certificate or of a request for one."""
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    number = key_index << 16 | index
    encoded = number.to_bytes(number.bit_length() // 8 + 1, "big")
    builder = builder.add_extension(x509.BasicConstraints(True, None), True).add_extension(usage, False)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    builder = builder.add_extension(x509.UnrecognizedExtension(CA_VERSION, bytes((2, len(encoded))) + encoded), False)
    if index and host.generations:
        previous = bytes.fromhex(host.generations[-1])
        builder = builder.add_extension(x509.UnrecognizedExtension(PREVIOUS_CERT_HASH, bytes((4, len(previous))) + previous), False)
    return builder


def _renewal_days(host: Host) -> int:
    """What CAPolicy.inf says of it, 0 where it says nothing."""
    found = host.policy()
    if "RenewalValidityPeriod" not in found:
        return 0
    return round(DAYS[found["RenewalValidityPeriod"]] * int(found["RenewalValidityPeriodUnits"]))


def _self_signed(host: Host, container: str, index: int, key_index: int) -> bytes:
    key, subject = host.key(container), _subject(host)
    start = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0) - datetime.timedelta(minutes=10)
    days = host.machine().get("days", 0)
    if host.generations:
        before = host.certificate(host.generations[-1])
        days = _renewal_days(host) or (before.not_valid_after_utc - before.not_valid_before_utc).days
        same_key = before.public_key() == key.public_key()
    end = start + datetime.timedelta(days=days)
    if host.generations and same_key and host.switches()["same_key_renewal_begins"] == "as_before":
        start = before.not_valid_before_utc
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(start).not_valid_after(end)
    return _der(_extensions(host, builder, key, index, key_index).sign(key, _hash(host)))


def _request(host: Host, path: Path, container: str, index: int, key_index: int) -> None:
    key = host.key(container)
    builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(host))
    request = _extensions(host, builder, key, index, key_index).sign(key, _hash(host))
    path.parent.mkdir(parents=True, exist_ok=True)
    pem = request.public_bytes(Encoding.PEM).replace(b"CERTIFICATE REQUEST", b"NEW CERTIFICATE REQUEST")
    path.write_bytes(pem.replace(b"\n", b"\r\n"))
    host.configure(
        RequestFileName=str(path),
        RequestKeyContainer=container,
        RequestKeyIndex=key_index,
        SetupStatus=host.value("SetupStatus") | PENDING,
    )


def _file_stem(host: Host) -> str:
    return f"{host.machine()['computer']}_{host.active}"


def _write_certificate(host: Host, index: int, certificate: Any) -> None:
    host.cert_enroll.mkdir(parents=True, exist_ok=True)
    (host.cert_enroll / f"{_file_stem(host)}{suffix(index)}.crt").write_bytes(_der(certificate))


def _add(host: Host, der: bytes, container: str) -> None:
    """A new generation."""
    sha1 = host.add_certificate(der, container)
    if host.generations and host.switches()["renewal_takes_effect"] == "at_restart":
        (host.state / "renewed.json").write_text(f'"{sha1}"')
    else:
        host.set_generations([*host.generations, sha1])
    if host.certificate(sha1).issuer == host.certificate(sha1).subject:
        host.add_certificate(der, store="Root")
    _write_certificate(host, len(host.generations) - 1, host.certificate(sha1))


def renew(host: Host, reuse_key: bool, ignore_outstanding: bool) -> None:
    if not host.active or not host.generations:
        raise Failure(0x80070002)
    if host.value("SetupStatus") & PENDING and not ignore_outstanding:
        raise Failure(0x800700AA)
    index = len(host.generations)
    container = host.container(host.generations[-1]) or ""
    key_index = int((re.search(r"\((\d+)\)$", container) or [0, 0])[1])
    facts = host.key_facts(container)
    if reuse_key and facts["provider"].endswith("Key Storage Provider") and facts["spec"]:
        raise Failure(0x8009000B)
    if not reuse_key:
        key_index = index
        container = f"{host.active}({index})"
        _new_key(host, container, host.value("Provider", r"\CSP"), facts["spec"])
    if host.value("CAType") in ROOT_TYPES:
        _add(host, _self_signed(host, container, index, key_index), container)
    else:
        _request(host, host.cert_enroll / f"{_file_stem(host)}({index}).req", container, index, key_index)
    published(host)


def install_certificate(host: Host, data: bytes, force: bool) -> None:
    if not host.active or not host.value("SetupStatus") & PENDING:
        raise Failure(0x80070002)
    from cryptography.hazmat.primitives.serialization import pkcs7

    try:
        if b"-----BEGIN" not in data and bytes.fromhex("06092a864886f70d010702") in data[:40]:
            public = host.key(host.value("RequestKeyContainer")).public_key()
            chain = pkcs7.load_der_pkcs7_certificates(data)
            certificate = next((each for each in chain if each.public_key() == public), chain[0])
            for each in chain:
                if each is not certificate and each.issuer != each.subject:
                    host.add_certificate(_der(each), store="CA")
        else:
            certificate = x509.load_pem_x509_certificate(data) if b"-----BEGIN" in data else x509.load_der_x509_certificate(data)
    except ValueError:
        raise Failure(0x80070057) from None
    container = host.value("RequestKeyContainer")
    if certificate.public_key() != host.key(container).public_key():
        raise Failure(0x80070057)
    trusted = [host.certificate(sha1, store) for store in ("Root", "CA") for sha1 in host.thumbprints(store)]
    if not force and certificate.issuer not in [each.subject for each in trusted]:
        raise Failure(0x800B0109)
    offline = host.switches()["parent_crl"] == "offline" and certificate.issuer not in host.crl_issuers()
    if not force and offline and distribution_points(certificate):
        if host.switches()["offline_install"] == "hangs":
            time.sleep(3600)
        raise Failure(0x80092013)
    _add(host, _der(certificate), container)
    host.configure(SetupStatus=host.value("SetupStatus") & ~PENDING, RequestFileName=None, RequestKeyContainer=None, RequestKeyIndex=None)
    published(host)


def published(host: Host) -> None:
    """To Active Directory, in the end, when all else is done."""
    if host.value("CAType") < 3 and host.switches()["directory"] == "denied":
        raise Failure(0x80072098)


def issue(host: Host, common_name: str) -> str:
    """Its serial number in lower case hex."""
    host.ping()
    # CRLF_REVCHECK_IGNORE_NOREVCHECK
    if host.chain_status() == 0x80092012 and not host.value("CRLFlags", default=0) & 0x20000:
        raise Failure(0x80092012)
    sha1 = host.generations[-1]
    key, ca = host.key(host.container(sha1) or ""), host.certificate(sha1)
    start = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
    serial = x509.random_serial_number()
    builder = x509.CertificateBuilder(ca.subject, name, ec.generate_private_key(ec.SECP256R1()).public_key(), serial)
    builder = builder.not_valid_before(start).not_valid_after(start + datetime.timedelta(days=365))
    authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.public_key())
    certificate = builder.add_extension(authority_key, False).sign(key, _hash(host))
    return _row(host, certificate, key)


def import_certificate(host: Host, der: bytes) -> None:
    """certutil -importCert: one that a key of the CA has signed becomes a row."""
    host.ping()
    certificate = x509.load_der_x509_certificate(der)
    for sha1 in host.generations:
        key = host.key(host.container(sha1) or "")
        with contextlib.suppress(Exception):
            certificate.verify_directly_issued_by(host.certificate(sha1))
            _row(host, certificate, key)
            return
    raise Failure(0x80090011)


def _row(host: Host, certificate: Any, key: Any) -> str:
    content = host.database()
    row = {
        "RequestId": len(content["requests"]) + 1,
        "SerialNumber": f"{certificate.serial_number:040x}",
        "Disposition": 20,
        "CommonName": certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value,
        "NotAfter": certificate.not_valid_after_utc.isoformat(),
        "SubmittedWhen": certificate.not_valid_before_utc.isoformat(),
        "RevokedWhen": None,
        "RevokedEffectiveWhen": None,
        "RevokedReason": None,
        "KeyRecoveryHashes": "5d 0c 8e" if host.switches()["kra"] else None,
        "key": hashlib.sha1(key.public_key().public_bytes(Encoding.DER, _SPKI)).hexdigest(),  # noqa: S324
    }
    content["requests"].append(row)
    host.save_database(content)
    return str(row["SerialNumber"])


def publish_crls(host: Host, days: int | None = None) -> None:
    """A base and a delta CRL for each key that the CA has."""
    host.ping()
    content = host.database()
    number = max((row["CRLNumber"] for row in content["crls"]), default=0) + 1
    newest_of_key = {host.container(sha1): sha1 for sha1 in host.generations}
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    for container, sha1 in newest_of_key.items():
        key, certificate = host.key(container or ""), host.certificate(sha1)
        _index, key_index = version(certificate)
        mine = hashlib.sha1(key.public_key().public_bytes(Encoding.DER, _SPKI)).hexdigest()  # noqa: S324
        for delta in (False, True):
            builder = x509.CertificateRevocationListBuilder(
                certificate.subject, now, now + datetime.timedelta(days=1 if delta else days or 8)
            )
            builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False)
            builder = builder.add_extension(x509.CRLNumber(number), False)
            if delta:
                builder = builder.add_extension(x509.DeltaCRLIndicator(number), True)
            for row in content["requests"]:
                if row["Disposition"] == 21 and row["key"] == mine and not delta:
                    builder = builder.add_revoked_certificate(_revoked(row))
            made = _der(builder.sign(key, _hash(host)))
            for place in _places(host, key_index, delta):
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(made)
            if not delta:
                (host.state / f"published-{key_index}.crl").write_bytes(made)
            content["crls"].append({"CRLRowId": len(content["crls"]) + 1, "CRLNumber": number, "CRLNameId": key_index})
    host.save_database(content)


def sign_again(host: Host, crl: bytes, sha1: str, days: int) -> bytes:
    """What certutil -sign makes of a CRL. Whether it counts its number up is documented nowhere."""
    old, key = x509.load_der_x509_crl(crl), host.key(host.container(sha1) or "")
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    builder = x509.CertificateRevocationListBuilder(old.issuer, now, now + datetime.timedelta(days=days))
    for each in old.extensions:
        value = each.value
        if isinstance(value, x509.CRLNumber):
            change = {"kept": 0, "next": 1, "lower": -1}[host.switches()["signed_crl_number"]]
            value = x509.CRLNumber(value.crl_number + change)
        builder = builder.add_extension(value, each.critical)
    for entry in old:
        builder = builder.add_revoked_certificate(entry)
    return _der(builder.sign(key, _hash(host)))


def _places(host: Host, key_index: int, delta: bool) -> list[Path]:
    """The locations that the CA writes a CRL to: bit 1, a delta bit 64."""
    found = []
    for one in host.value("CRLPublicationURLs"):
        flags, _colon, path = one.partition(":")
        if int(flags) & (64 if delta else 1) and not path.startswith(("http", "ldap")):
            path = path.replace("%3", host.active or "").replace("%8", suffix(key_index)).replace("%9", "+" if delta else "")
            found.append(Path(path.removeprefix("file://")))
    return found


def _revoked(row: dict[str, Any]) -> x509.RevokedCertificate:
    when = datetime.datetime.fromisoformat(row["RevokedEffectiveWhen"])
    builder = x509.RevokedCertificateBuilder(int(row["SerialNumber"], 16), when)
    reason = {1: "key_compromise", 2: "ca_compromise", 3: "affiliation_changed", 4: "superseded", 5: "cessation_of_operation"}
    reason[6] = "certificate_hold"
    if row["RevokedReason"] in reason:
        builder = builder.add_extension(x509.CRLReason(getattr(x509.ReasonFlags, reason[row["RevokedReason"]])), False)
    return builder.build()
