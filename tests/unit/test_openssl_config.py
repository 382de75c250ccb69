# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""openssl.cnf as OpenSSL reads it. That OpenSSL agrees is proved in the integration tests; here is what it means, and what is refused."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from ansible_collections.keyward.pki.plugins.module_utils._errors import KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._file_ca import openssl_cnf
from ansible_collections.keyward.pki.plugins.module_utils._file_ca.openssl_cnf import OpensslConfig


@pytest.fixture(autouse=True)
def no_include_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENSSL_CONF_INCLUDE", raising=False)


def load(root: Path, text: str | bytes) -> OpensslConfig:
    config = root / "openssl.cnf"
    config.write_bytes(text if isinstance(text, bytes) else text.encode())
    return OpensslConfig(str(config), str(root))


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("v = plain  ", "plain"),
        ("v=", ""),
        ("  v = a # comment", "a"),
        ("v = a\\#b", "a#b"),
        ("v = a;b", "a;b"),
        ("v = 'a # b'", "a # b"),
        ('v = "it\'s"', "it's"),
        ("v = `a\\`b`c", "a`bc"),
        ("v = 'never closed", "never closed"),
        ("v = '$x ${x'", "$x ${x"),
        ("v = a\\nb\\tc\\rd\\be\\zf", "a\nb\tc\rd\bezf"),
        ("v = 'a\\nb'", "anb"),
        ("v = one\\\n two", "one two"),
        ("v = one\\\\\nw = two", "one\\"),
        ("v = $x.$x", "X.X"),
        ("v = ${x}y$(x)", "XyX"),
        ("v = $other::x", "OX"),
        ("v = ${other::x}", "OX"),
        ("v = $other::only_default", "D"),
        ("v = $ENV::KEYWARD_TEST", "from outside"),
        ("v = $ENV::x", "X"),
        ("v = 1\nv = 2", "2"),
        ("other::v = 1\nv = 2\nsection::v = 3", "3"),
        ("v = a\r", "a"),
        ("v = caf\u00e9", "caf\u00e9"),
        (".pragma dollarid:on\na$b = q\nv = $x${a$b}", "$xq"),
        (".pragma = dollarid:ON\n.pragma unknown:thing\nv = $x", "$x"),
        ("v = a" + " " * 600 + "b", "a" + " " * 600 + "b"),
        ("v = " + "a" * 506 + "\\\nb", "a" * 506 + "b"),
        ("v = x\0" + "z" * 600, "x" + "z" * 96),
    ],
)
def test_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, value: str) -> None:
    monkeypatch.setenv("KEYWARD_TEST", "from outside")
    config = load(tmp_path, f"x = X\nonly_default = D\n[other]\nx = OX\n[ section ]\n{line}\n")
    assert config.get("section", "v") == value


def test_what_a_section_lacks_comes_from_the_default_section(tmp_path: Path) -> None:
    config = load(tmp_path, "a = 1\nb = 2\n[s]\nb = 3\n[default]\nc = 4\n[ s ]\nd = 5\n")
    assert [config.get("s", name) for name in "abcde"] == ["1", "3", "4", "5", None]
    assert config.get("no such section", "a") == "1"
    assert config.has_section("s") and not config.has_section("no such section")
    assert config.sections_with("b") == ["default", "s"]


def test_a_byte_order_mark_is_passed_over_only_at_the_very_beginning(tmp_path: Path) -> None:
    assert load(tmp_path, "\ufeffa = 1").get("default", "a") == "1"
    (tmp_path / "more.cnf").write_text("\ufeffb = 1", encoding="utf-8")
    with pytest.raises(KeywardError, match=r"more\.cnf, line 1: the line begins with no name"):
        load(tmp_path, "a = 1\n.include more.cnf")


def test_includes_count_from_the_working_directory_and_missing_ones_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    work = tmp_path / "work"
    (work / "parts.d").mkdir(parents=True)
    (work / "one.inc").write_text("a = 1\n[s]\n")
    (work / "parts.d" / "x.cnf").write_text("b = 2\n")
    (work / "parts.d" / "Y.CONF").write_text("c = 3\n")
    (work / "parts.d" / "z.txt").write_text("b = wrong\n")
    config_file = tmp_path / "etc" / "openssl.cnf"
    config_file.write_text(".include one.inc\n.include = parts.d\n.include gone.cnf\n.include gone/further.cnf\nd = 4\n")

    config = OpensslConfig(str(config_file), str(work))
    # The section that an included file began goes on behind it.
    assert [config.get("s", name) for name in "abcd"] == ["1", "2", "3", "4"]
    assert config.get("default", "d") is None
    assert sorted(config.files) == sorted(map(str, (config_file, work / "one.inc", work / "parts.d/x.cnf", work / "parts.d/Y.CONF")))


def test_include_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.cnf").write_text(f"v = {name}\n")
    text = f".pragma includedir:{tmp_path}/a\n.include x.cnf\n"
    assert load(tmp_path, text).get("default", "v") == "a"
    assert load(tmp_path, ".pragma includedir:a\n.include x.cnf\n").get("default", "v") == "a"
    monkeypatch.setenv("OPENSSL_CONF_INCLUDE", "b/")
    assert load(tmp_path, text).get("default", "v") == "b"


def test_an_include_that_can_not_be_opened_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "x.cnf").symlink_to("x.cnf")
    assert load(tmp_path, "v = 1\n.include x.cnf\n").files == [str(tmp_path / "openssl.cnf")]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[ca]\n[s]\na = $dir/x\n", "line 3: the variable $dir has no value (used in section [s])"),
        ("[s]\na = 1\n[t]\na = $s::b\n", "line 4: the variable $s::b has no value (used in section [t])"),
        ("a = ${ENV::KEYWARD_TEST_UNSET}\n", "line 1: the variable $ENV::KEYWARD_TEST_UNSET has no value (used in section [default])"),
        ("a = x$\n", "line 1: the variable $ has no value"),
        ("a = 1\nb = ${a\n", "line 2: the variable a has no closing }"),
        ("a = 1\nb = $(a}\n", "line 2: the variable a has no closing )"),
        ("a = 1\nb\n", "line 2: an equal sign is missing after 'b'"),
        ("{ = 1\n", "line 1: the line begins with no name"),
        ("[ s \n", "line 1: the line begins a section, and its ] is missing"),
        ("[ a=b ]\n", "line 1: the line begins a section, and its ] is missing"),
        (".pragma dollarid\n", "line 1: a .pragma has no name:value"),
        (".pragma dollarid:perhaps\n", "line 1: the .pragma dollarid is neither on nor off"),
        (".pragma abspath:on\n.include x.cnf\n", "line 2: the included path x.cnf is relative"),
        ("a = 1\\\n2\nb = $c", "line 3: the variable $c has no value"),
    ],
)
def test_errors_say_what_and_where(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(KeywardError) as caught:
        load(tmp_path, text)
    config = tmp_path / "openssl.cnf"
    assert str(caught.value).startswith(f"the configuration {config} can't be used: {config}, {why}")
    assert str(caught.value).endswith(" for the same reason.")


def test_an_error_in_an_included_file_names_that_file(tmp_path: Path) -> None:
    (tmp_path / "more.cnf").write_text("# one\n\na = $gone\n")
    with pytest.raises(KeywardError, match=rf"{tmp_path}/more\.cnf, line 3: the variable \$gone has no value"):
        load(tmp_path, "b = 1\n.include more.cnf\n")


def test_a_missing_configuration_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        OpensslConfig(str(tmp_path / "gone.cnf"), str(tmp_path))


def test_what_was_read_is_current_until_the_file_changes(tmp_path: Path) -> None:
    (tmp_path / "openssl.cnf").write_text("a = 1\n")
    config = OpensslConfig(str(tmp_path / "openssl.cnf"), str(tmp_path))
    assert config.is_current()
    (tmp_path / "openssl.cnf").write_text("a = 2\n")
    assert not config.is_current(), "of the same size, within the same tick of the clock"
    (tmp_path / "openssl.cnf").write_text(".include more.cnf\n")
    assert not OpensslConfig(str(tmp_path / "openssl.cnf"), str(tmp_path)).is_current(), "what it includes may change, or come"
    (tmp_path / "openssl.cnf").unlink()
    with pytest.raises(FileNotFoundError):
        config.is_current()


def test_nothing_waits_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.cnf")
    with pytest.raises(KeywardError, match="not a regular file"):
        OpensslConfig(str(tmp_path / "pipe.cnf"), str(tmp_path))
    with pytest.raises(KeywardError, match="not a regular file"):
        load(tmp_path, ".include pipe.cnf\n")


def test_limits(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(KeywardError, match=r"can't be read: it is larger than 1048576 bytes"):
        load(tmp_path, "#" * (openssl_cnf.LARGEST_CONFIG + 1))
    with pytest.raises(KeywardError, match="files include each other more than 100 deep"):
        load(tmp_path, ".include openssl.cnf\n")
    (tmp_path / "x.cnf").touch()
    with pytest.raises(KeywardError, match="more than 1000 files are included"):
        load(tmp_path, ".include x.cnf\n" * 1001)
    doubling = "a0 = " + "x" * 400 + "\n" + "".join(f"a{n + 1} = $a{n}$a{n}\n" for n in range(9))
    with pytest.raises(KeywardError, match="line 9: a value becomes too long"):
        load(tmp_path, doubling)
    assert len(load(tmp_path, "".join(doubling.splitlines(True)[:8])).get("default", "a7") or "") == 400 * 2**7
    many = "a = " + "x" * 60000 + "\n" + "".join(f"b{n} = $a\n" for n in range(300))
    with pytest.raises(KeywardError, match="a value becomes too long"):
        load(tmp_path, many)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("text", ["'" * 500_000, "$" * 500_000, "[" * 500_000, "\\\n" * 250_000, "a=" + "'\\" * 250_000, "\0" * 500_000])
def test_no_input_takes_long(tmp_path: Path, text: str) -> None:
    began = time.process_time()
    try:
        load(tmp_path, text)
    except KeywardError:
        pass
    assert time.process_time() - began < 5
