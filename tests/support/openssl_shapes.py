# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shapes of openssl.cnf as people use them, and some that only the format allows, each with a CA behind it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from support.openssl_ca import openssl


@dataclass(frozen=True)
class Shape:
    """Files below one root (`@ROOT@` stands for its path) and what `openssl ca` finds through them. All paths count from the root.

    directory: where openssl runs, None for the configuration's own folder. section: for `-name`, None where default_ca decides.
    """

    files: dict[str, str]
    certificate: str
    private_key: str
    database: str
    crl_number: str
    ca_section: str
    config: str = "openssl.cnf"
    directory: str | None = None
    section: str | None = None
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Built:
    shape: Shape
    root: Path

    @property
    def config(self) -> Path:
        return self.root / self.shape.config

    @property
    def directory(self) -> Path:
        return self.config.parent if self.shape.directory is None else self.root / self.shape.directory

    @property
    def environment(self) -> dict[str, str]:
        return {name: value.replace("@ROOT@", str(self.root)) for name, value in self.shape.environment.items()}

    def path(self, name: str) -> str:
        return str(self.root / getattr(self.shape, name))


def build(shape: Shape, root: Path) -> Built:
    """The shape's files with a CA of its own: key, certificate, index.txt, its attributes and the CRL number."""
    for name, text in shape.files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.replace("@ROOT@", str(root)).encode("utf-8"))
    for name in (shape.certificate, shape.private_key, shape.database, shape.crl_number):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    make_pair(root / shape.certificate, root / shape.private_key)
    (root / shape.database).touch()
    (root / f"{shape.database}.attr").write_text("unique_subject = no\n")
    (root / shape.crl_number).write_text("1F\n")
    built = Built(shape, root)
    built.directory.mkdir(parents=True, exist_ok=True)
    return built


def make_pair(certificate: Path, private_key: Path, subject: str = "/O=Example/CN=Shape CA") -> None:
    openssl(
        *("req", "-new", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-subj", subject, "-days", "3650"),
        *("-keyout", private_key, "-out", certificate),
    )
    private_key.chmod(0o600)


DEBIAN = """\
HOME\t\t\t= .
openssl_conf = openssl_init
config_diagnostics = 1
oid_section = new_oids
[ new_oids ]
tsa_policy1 = 1.2.3.4.1
# .include fipsmodule.cnf
[openssl_init]
# providers = provider_sect
[ ca ]
default_ca\t= CA_default\t\t# the one that counts
[ CA_default ]
dir\t\t= ./demoCA\t\t# all of it
certs\t\t= $dir/certs
database\t= $dir/index.txt\t# issued ones
#unique_subject\t= no
\t\t\t\t\t# a line of its own
new_certs_dir\t= $dir/newcerts
certificate\t= $dir/cacert.pem \t# trailing blanks
serial\t\t= $dir/serial
crlnumber\t= $dir/crlnumber
private_key\t= $dir/private/cakey.pem# no blank before this
default_days\t= 365
default_crl_days= 30
default_md\t= default
policy\t\t= policy_match
[ policy_match ]
commonName\t\t= supplied
"""

COOKBOOK = """\
[default]
name                    = root-ca
domain_suffix           = example.com
aia_url                 = http://$name.$domain_suffix/$name.crt
crl_url                 = http://$name.$domain_suffix/$name.crl
default_ca              = ca_default
name_opt                = utf8,esc_ctrl,multiline,lname,align

[ca_dn]
commonName              = "Root CA"

[ca_default]
home                    = .
database                = $home/db/index
serial                  = $home/db/serial
crlnumber               = $home/db/crlnumber
certificate             = $home/$name.crt
private_key             = $home/private/$name.key
RANDFILE                = $home/private/random
new_certs_dir           = $home/certs
unique_subject          = no
default_crl_days        = 365
default_md              = sha256
policy                  = policy_c_o_match

[policy_c_o_match]
commonName              = supplied

[crl_info]
URI.0                   = $crl_url
"""

TUTORIAL = """\
[ ca ]
default_ca = CA_default

[ CA_default ]
dir               = @ROOT@/ca{below}
certs             = $dir/certs
new_certs_dir     = $dir/newcerts
database          = $dir/index.txt
serial            = $dir/serial
RANDFILE          = $dir/private/.rand
private_key       = $dir/private/{stem}.key.pem
certificate       = $dir/certs/{stem}.cert.pem
crlnumber         = $dir/crlnumber
crl               = $dir/crl/{stem}.crl.pem
default_crl_days  = 30
default_md        = sha256
preserve          = no
policy            = policy_strict

[ policy_strict ]
commonName = supplied
"""

SEVERAL = """\
default_ca = never_reached
default_md = sha256
default_crl_days = 30
[ ca ]
default_ca = root
[ root ]
dir = ./root
certificate = $dir/ca.pem
private_key = $dir/ca.key
database = $dir/index
crlnumber = $dir/crlnumber
[ issuing ]
certificate = issuing/$stem.pem
private_key = issuing/$stem.key
database = issuing/index
crlnumber = issuing/crlnumber
[ default ]
stem = inherited
[ never_reached ]
certificate = no
"""

SHAPES = {
    "debian": Shape(
        {"etc/ssl/openssl.cnf": DEBIAN},
        config="etc/ssl/openssl.cnf",
        directory="work",
        certificate="work/demoCA/cacert.pem",
        private_key="work/demoCA/private/cakey.pem",
        database="work/demoCA/index.txt",
        crl_number="work/demoCA/crlnumber",
        ca_section="CA_default",
    ),
    "CA.pl": Shape(
        {"openssl.cnf": DEBIAN, "demoCA/careq.pem": "not a request\n"},
        certificate="demoCA/cacert.pem",
        private_key="demoCA/private/cakey.pem",
        database="demoCA/index.txt",
        crl_number="demoCA/crlnumber",
        ca_section="CA_default",
    ),
    "cookbook": Shape(
        {"root-ca/root-ca.conf": COOKBOOK},
        config="root-ca/root-ca.conf",
        certificate="root-ca/root-ca.crt",
        private_key="root-ca/private/root-ca.key",
        database="root-ca/db/index",
        crl_number="root-ca/db/crlnumber",
        ca_section="ca_default",
    ),
    "tutorial root": Shape(
        {"ca/openssl.cnf": TUTORIAL.format(below="", stem="ca")},
        config="ca/openssl.cnf",
        directory=".",
        certificate="ca/certs/ca.cert.pem",
        private_key="ca/private/ca.key.pem",
        database="ca/index.txt",
        crl_number="ca/crlnumber",
        ca_section="CA_default",
    ),
    "tutorial intermediate": Shape(
        {"ca/intermediate/openssl.cnf": TUTORIAL.format(below="/intermediate", stem="intermediate")},
        config="ca/intermediate/openssl.cnf",
        certificate="ca/intermediate/certs/intermediate.cert.pem",
        private_key="ca/intermediate/private/intermediate.key.pem",
        database="ca/intermediate/index.txt",
        crl_number="ca/intermediate/crlnumber",
        ca_section="CA_default",
    ),
    "several, the default one": Shape(
        {"openssl.cnf": SEVERAL.replace("[ default ]\n", "").replace("stem = inherited\n", "").replace("$stem", "x")},
        certificate="root/ca.pem",
        private_key="root/ca.key",
        database="root/index",
        crl_number="root/crlnumber",
        ca_section="root",
    ),
    "several, another by name": Shape(
        {"openssl.cnf": "stem = inherited\n" + SEVERAL},
        section="issuing",
        certificate="issuing/inherited.pem",
        private_key="issuing/inherited.key",
        database="issuing/index",
        crl_number="issuing/crlnumber",
        ca_section="issuing",
    ),
    "all from the default section": Shape(
        {
            "openssl.cnf": "dir = store\ncertificate = $dir/c.pem\nprivate_key = $dir/k.pem\ndatabase = $dir/i\ncrlnumber = $dir/n\n"
            "default_md = sha256\ndefault_crl_days = 3\n[ca]\ndefault_ca = thin\n[thin]\npolicy = any\n[any]\ncommonName = supplied\n"
        },
        certificate="store/c.pem",
        private_key="store/k.pem",
        database="store/i",
        crl_number="store/n",
        ca_section="thin",
    ),
    "sections named twice": Shape(
        {
            "openssl.cnf": "[ca]\ndefault_ca = one\n[one]\ncertificate = wrong.pem\nprivate_key = k.pem\ndefault_md = sha256\n"
            "[ca]\ndefault_ca = two\n[two]\ncertificate = never.pem\n[one]\ncertificate = c.pem\ndatabase = i\ncrlnumber = n\n"
            "default_crl_days = 3\n[ca]\ndefault_ca = one\n"
        },
        certificate="c.pem",
        private_key="k.pem",
        database="i",
        crl_number="n",
        ca_section="one",
    ),
    "variables of the environment and of other sections": Shape(
        {
            "openssl.cnf": "[where]\nroot = $ENV::KEYWARD_TEST_ROOT/${ENV::KEYWARD_TEST_NAME}\nspare = unused\n[ca]\ndefault_ca = x\n"
            "[x]\ndir = $(where::root)\ncertificate = ${dir}/c.pem\nprivate_key = $where::root/k.pem\ndatabase = ${where::root}x/i\n"
            "crlnumber = $(dir)/n\ndefault_md = sha256\ndefault_crl_days = 3\n"
        },
        environment={"KEYWARD_TEST_ROOT": "@ROOT@/here", "KEYWARD_TEST_NAME": "ca"},
        certificate="here/ca/c.pem",
        private_key="here/ca/k.pem",
        database="here/cax/i",
        crl_number="here/ca/n",
        ca_section="x",
    ),
    "assigned from afar, quoted, escaped, continued": Shape(
        {
            "openssl.cnf": "\ufeff[ca]\r\ndefault_ca = far\\\r\n one\r\nfar::name = c\r\n[ far one ]\r\n"
            "certificate = 'the $dir'/$far::name\\#1.pem # comment\r\n"
            'private_key = "k "\\\r\n`.p`em\r\ndatabase = a\\ b/i; no comment\r\n'
            "crlnumber = n\\\\n\r\ndefault_md = sha256\r\ndefault_crl_days = 3"
        },
        certificate="the $dir/c#1.pem",
        private_key="k .pem",
        database="a b/i; no comment",
        crl_number="n\\n",
        ca_section="far one",
    ),
    "included files and folders": Shape(
        {
            "etc/openssl.cnf": "[ca]\ndefault_ca = x\n[x]\n.include parts/paths.inc\n.include = parts/more\n.include missing.cnf\n"
            "default_crl_days = 3\n",
            "work/parts/paths.inc": "certificate = c.pem\nprivate_key = wrong.pem\n",
            "work/parts/more/one.cnf": "private_key = k.pem\n.include parts/deep.txt\ndefault_md = sha256\n",
            "work/parts/more/TWO.CONF": "database = i\n",
            "work/parts/more/.hidden.conf": "crlnumber = n\n",
            "work/parts/more/ignored.txt": "certificate = wrong.pem\n",
            "work/parts/more/.cnf": "certificate = wrong.pem\n",
            "work/parts/more/folder.cnf/inner.cnf": "certificate = wrong.pem\n",
            "work/parts/deep.txt": "serial = s\n",
        },
        config="etc/openssl.cnf",
        directory="work",
        certificate="work/c.pem",
        private_key="work/k.pem",
        database="work/i",
        crl_number="work/n",
        ca_section="x",
    ),
    "included from the pragma's folder": Shape(
        {
            "openssl.cnf": ".pragma includedir:@ROOT@/inc\n.pragma abspath:on\n.pragma dollarid:true\n.include ca.cnf\n",
            "inc/ca.cnf": "[ca]\ndefault_ca = x$y\n[x$y]\na$b = k\ncertificate = c.pem\nprivate_key = ${a$b}.pem\ndatabase = $i\n"
            "crlnumber = n\ndefault_md = sha256\ndefault_crl_days = 3\n",
        },
        certificate="c.pem",
        private_key="k.pem",
        database="$i",
        crl_number="n",
        ca_section="x$y",
    ),
    "included from the environment's folder": Shape(
        {
            "openssl.cnf": ".pragma includedir:wrong\n.include $ENV::KEYWARD_TEST_NAME.cnf\n[x]\nprivate_key = $name/../k.pem\n",
            "inc/ca.cnf": "name = inc\ndatabase = i\n[ca]\ndefault_ca = x\n[x]\ncertificate = ./c.pem\nprivate_key = wrong\ncrlnumber = n\n"
            "default_md = sha256\ndefault_crl_days = 3\n",
            "wrong/ca.cnf": "certificate = wrong.pem\n",
        },
        environment={"OPENSSL_CONF_INCLUDE": "inc", "KEYWARD_TEST_NAME": "ca"},
        certificate="c.pem",
        private_key="k.pem",
        database="i",
        crl_number="n",
        ca_section="x",
    ),
    "URIs of files": Shape(
        {
            "openssl.cnf": "[ca]\ndefault_ca = x\n[x]\ncertificate = file:@ROOT@/c.pem\nprivate_key = file://@ROOT@/k.pem\ndatabase = i\n"
            "crlnumber = n\ndefault_md = sha256\ndefault_crl_days = 3\n",
        },
        certificate="c.pem",
        private_key="k.pem",
        database="i",
        crl_number="n",
        ca_section="x",
    ),
    "files with a colon in their names": Shape(
        {
            "openssl.cnf": "[ca]\ndefault_ca = x\n[x]\ncertificate = c:a.pem\nprivate_key = label_ca:k.pem\ndatabase = i\n"
            "crlnumber = n\ndefault_md = sha256\ndefault_crl_days = 3\n",
        },
        certificate="c:a.pem",
        private_key="label_ca:k.pem",
        database="i",
        crl_number="n",
        ca_section="x",
    ),
}


# --- random configurations ---------------------------------------------------------------------------------------

_HEAD = "a=A\nb=B\nc=C\n[s]\na=SA\n[t]\nb=TB\n[default]\n"
_NAMES = ["a", "b", "c", "dir", "a.b", "s::a", "t::b", "default::c", "A_ENV", "ENV::A_ENV", "n/m", "a\\n", "x$y", "$d"]
_VALUES = [
    *("a", "x y", " ", "\t", "$a", "${b}", "$(c)", "${default::a}", "$ENV::A_ENV", "${ENV::B_ENV}", "$s::a", "${t::b}", "\\\\", "\\n"),
    *("\\t", "\\r", "\\b", "\\#", "\\$", "\\'", '\\"', ";", ":", "'q #$a'", '"w \\" e"', "`t`", "'un", "\\\n", "\\\n  ", "\xff\xe9"),
    *("p" * 255, "q" * 509, "=", "[", "]", "{", "}", "(", "\r", " # note", "''", '"""', "!", "%", "::", "\\", "\\x", "r" * 500 + "\\\n"),
]
_SECTIONS = ["[s]", "[ t ]", "[ x y ]", "[default]", "[ENV]", " [s] junk", "[s]#c", "[ a\\b ]", "[ s", "[]", "[s+]"]
_BLANK = ["# c", "   # c", "", ";a=1", " ", "\\", "#\\", "no equal sign", "= no name", "${a} = 1"]
_INCLUDES = [
    *(".include sub/one.cnf", ".include = two.cnf", ".include d", ".include gone.cnf", ".include $a", ".includex=two.cnf", ".include/d"),
    *("  .include 'two.cnf' # x", "s::.include = sub", ".include sub/d", ".include sub", ".include=./d/", ".include"),
]
_PRAGMAS = [
    *(".pragma dollarid:on", ".pragma=dollarid:off", ".pragma = dollarid: TRUE ", ".pragma includedir:sub", ".pragma includedir:."),
    *(".pragma foo:bar", ".pragma = abspath:off", ".pragma abspath:maybe", ".pragma", ".pragma :x"),
]
_ODD = ["x" * 520, "a = " + "y" * 504, "a =" + "z" * 505 + "\\", "a=1\0b=2", "\0", "a=\0", "a = $nothing", "a = ${a", "a = ${s::a) x"]
_INCLUDED = ("sub/one.cnf", "two.cnf", "sub/two.cnf", "d/1.cnf", "d/2.CONF", "d/.h.cnf", "d/no.txt", "sub/d/z.conf")


def random_config(seed: int, root: Path) -> Path:
    """A configuration in `root` that includes other files of it, mostly without errors; the same for the same seed.

    It never includes itself: OpenSSL would open files until it has no descriptor left.
    """
    chance = random.Random(seed)  # noqa: S311

    def line(includes: bool) -> str:
        kind = chance.random()
        if kind < 0.62:
            name = chance.choice(_NAMES if chance.random() < 0.03 else _NAMES[:10])
            value = "".join(chance.choice(_VALUES) for _number in range(chance.randint(0, 6)))
            return chance.choice(["", "  ", "\t"]) + name + chance.choice(["=", "=  ", "\t= "]) + value
        if kind < 0.76:
            return chance.choice(_SECTIONS if chance.random() < 0.1 else _SECTIONS[:8])
        if kind < 0.82:
            return chance.choice(_BLANK if chance.random() < 0.1 else _BLANK[:7])
        if kind < 0.92:
            return chance.choice(_INCLUDES) if includes else ""
        if kind < 0.97:
            return chance.choice(_PRAGMAS if chance.random() < 0.1 else _PRAGMAS[:7])
        return chance.choice(_ODD)

    def content(lines: int, includes: bool) -> bytes:
        end = chance.choice(["\n", "\n", "\r\n"])
        text = end.join(line(includes) for _number in range(chance.randint(0, lines))) + chance.choice(["", end])
        return text.encode("latin-1")

    for name in _INCLUDED:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content(4, includes=False))
    (root / "d" / "dir.cnf").mkdir()
    # Only here a file of one folder includes those of another: the one order that is hard to get right.
    with (root / "d" / "1.cnf").open("ab") as stream:
        stream.write(b"\n.include sub/two.cnf\n.include sub/d\ns::a = after\n")
    config = root / "random.cnf"
    config.write_bytes((b"\xef\xbb\xbf" if chance.random() < 0.05 else b"") + _HEAD.encode() + content(14, includes=True))
    return config
