# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the way every task goes to a host and back with its secrets guarded; may change in any release.

A task decides. It sends one order (module_utils/_orders) at a time, and gets one answer, parsed and bounded here before any other
code sees it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import platform
import re
import typing as t
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version

from ansible import __version__ as core_version
from ansible import constants
from ansible.errors import AnsibleConnectionFailure
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.json_utils import _filter_non_json_lines
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.keyward.pki.plugins.module_utils import _arguments, _outline
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError, unforeseen
from ansible_collections.keyward.pki.plugins.module_utils._generation import keys_not_in_hand
from ansible_collections.keyward.pki.plugins.module_utils._orders._typed import ROOM, Misshapen, dump, parse
from ansible_collections.keyward.pki.plugins.module_utils._orders.authority import Abilities, Failure, Look, PendingRequest, Told
from ansible_collections.keyward.pki.plugins.module_utils._printable import printable
from ansible_collections.keyward.pki.plugins.module_utils._time import now, now_text
from ansible_collections.keyward.pki.plugins.module_utils._x509 import request_der, spki_sha256
from ansible_collections.keyward.pki.plugins.plugin_utils import _secrets
from ansible_collections.keyward.pki.plugins.plugin_utils._levels import COUNTED, level_of
from ansible_collections.keyward.pki.plugins.plugin_utils._limits import memory_limited
from ansible_collections.keyward.pki.plugins.plugin_utils._progress import Progress

Result = dict[str, t.Any]
Answer = t.TypeVar("Answer")
COLLECTION_VERSION = "0.1.0"
_MOST_WARNINGS, _LONGEST_WARNING = 10, 1000  # that a host may have shown; characters
_MOST_ADVISORIES = 20  # of one task that become warnings
# What is said of an order that takes long.
_WORKS = {
    "database.state": "looks at its database",
    "database.changed": "reads what was touched in its database",
    "database.copy": "copies its database",
    "database.restore": "puts its database back",
    "host_store.read": "reads its store",
    "host_store.commit": "stores the set",
}


class NothingOnHost(KeywardError):
    """Nothing of the authority is on the host. C(abilities): of the software that would run it there.

    C(waiting): what is there of a CA that has a request, and no certificate yet.
    """

    abilities = Abilities()
    waiting: Told | None = None


class NothingNamed(KeywardError):
    """The task does not say which CA, and the host has no list of its CAs to look in."""


class RenewedMeanwhile(KeywardError):
    """What an order was decided on is no longer the newest generation. Nothing was changed: look again."""


class Task(ActionBase):  # type: ignore[misc]
    """What all action plugins share: validate, send orders with their secrets guarded, answer in one shape."""

    NAME: t.ClassVar[str]
    ARGUMENTS: t.ClassVar[_arguments.Spec]

    # They travel to the host in one opaque value, see module_utils/_execute.py.
    SECRETS = (*_secrets.SECRETS, "older")

    def run(self, tmp: None = None, task_vars: Result | None = None) -> Result:
        result: Result = super().run(tmp, task_vars)
        self._task_vars = task_vars or {}
        self._passed_on: Result = {}
        try:
            self.options = self._validated()
            try:
                outcome = self.perform()
            except OSError as exc:
                raise unforeseen(exc, "on the controller") from exc
        except KeywardError as exc:
            outcome = self.refusal(exc)
        except AnsibleConnectionFailure as exc:  # unreachable, it would skip what a play does whatever becomes of this task
            outcome = self.refusal(self.lost_connection(exc))
        newline = _secrets.newline_at_the_end(self._task.args) if outcome.get("failed") else None
        if newline:
            outcome["msg"] = f"{outcome['msg']} {newline}"
        self._tell_advisories(outcome)
        result.update(self._passed_on)
        result.update(outcome)
        return result

    def lost_connection(self, exc: AnsibleConnectionFailure) -> KeywardError:
        why = printable(str(exc)[:_LONGEST_WARNING]).strip().rstrip(".")
        return KeywardError(
            f"the host {self._host} can't be reached",
            why,
            f"Try ansible {self._host} -m ping, and run this again: what was not done is due",
        )

    def _tell_advisories(self, outcome: Result) -> None:
        """Give each advisory its level. What a person must act on is a warning, which Ansible shows once, whatever the verbosity."""
        whose = outcome.get("authority") or {}
        name = whose.get("subject") or whose.get("name") or "the CA"
        told = []
        for advisory in outcome.get("advisories") or ():
            advisory["level"] = level_of(advisory["code"])
            if advisory["level"] != COUNTED:
                told.append(f"{name} on {self._host}: {advisory['message']}"[:_LONGEST_WARNING])
        if len(told) > _MOST_ADVISORIES:
            told[_MOST_ADVISORIES:] = [f"{name} on {self._host}: {len(told) - _MOST_ADVISORIES} more; see advisories in the result (-v)"]
        if told:
            self._passed_on["warnings"] = [*self._passed_on.get("warnings", []), *told]

    def perform(self) -> Result:
        raise NotImplementedError

    def refusal(self, error: KeywardError) -> Result:
        return {"failed": True, "msg": str(error), "reasons": findings(error.findings)}

    def warn(self, found: t.Sequence[Finding], several: str) -> None:
        """What a person must act on, in one line that is seen without C(-v). C(several): with their number and the first of them."""
        if found:
            first = "; ".join(finding.message for finding in found[:3])
            Display().warning(f"{self._host}: " + several.format(len(found), first))

    # --- arguments ---

    def _validated(self) -> Result:
        if "controller" in self._task.args:
            raise KeywardError("the option controller can't be set", "the action plugin fills it in", "Leave it out")
        written = (getattr(self._task, "_ds", None) or {}).get(self._task.action)
        before = written if isinstance(written, dict) else {}
        _secrets.refuse_other_than_text(self.NAME, self._task.args, before, self._task_vars)
        validation = ArgumentSpecValidator(self.ARGUMENTS).validate(dict(self._task.args))
        if validation.unsupported_parameters:
            unknown = ", ".join(sorted(path if isinstance(path, str) else ".".join(path) for path in validation.unsupported_parameters))
            known = ", ".join(sorted(set(self.ARGUMENTS) - {"controller"}))
            raise KeywardError(f"{self.NAME} can't run", f"it has no option {unknown}", f"Its options are {known}")
        if validation.error_messages:
            raise KeywardError(f"{self.NAME} can't run", validation.errors.msg, f"See ansible-doc keyward.pki.{self.NAME}")
        options = dict(validation.validated_parameters)
        for name, least in (("days", 1), ("remaining_days", 0), ("path_length", 0)):
            most = (datetime.max - now()).days - 1
            if options.get(name) is not None and not least <= options[name] <= most:
                why = f"{name} is {options[name]}, and only {least} to {most} can be: no certificate says a time after the year 9999"
                raise KeywardError(f"{self.NAME} can't run", why, "Correct it")
        return options

    def _secret(self, name: str) -> str | None:
        value = self.options.get(name)
        return None if value is None else str(value)

    @property
    def _passwords(self) -> list[str | None]:
        return [password for password in (self._secret("password"), self._secret("previous_password")) if password is not None]

    def _required(self, name: str, why: str) -> t.Any:
        value = self.options.get(name)
        if value is None or (value in ("", []) and name not in self.SECRETS):  # an empty password is a password
            raise KeywardError(f"{self.NAME} can't run", f"no {name} was given", why)
        return value

    @property
    def _host(self) -> str:
        return str(self._task.delegate_to or self._task_vars.get("inventory_hostname", ""))

    @property
    def _check(self) -> bool:
        return bool(self._task.check_mode)

    @property
    def names_an_authority(self) -> bool:
        """Whether the task says which CA: by its place, or by software that needs none."""
        stated = any(self.options[name] is not None for name in _arguments.BEGINNING_OF_A_PLACE)
        return stated or self.options["backend"] in _arguments.FOUND_WITHOUT_A_PLACE

    # --- the host ---

    def look(self, place: t.Mapping[str, t.Any] | None = None, module: str | None = None) -> Told:
        """The authority of the host. Raises KeywardError, NothingOnHost."""
        return t.cast(Told, self.completed(self.send(Look(), Told, place, module)))

    def completed(self, told: t.Any) -> t.Any:
        """An answer that tells an authority, with what is known here only: its inventory host, and what certificates and request say.

        Raises NothingOnHost where a CA is configured and none of its certificates is there.
        """
        if isinstance(told, Told) and told.pending_request:
            told = replace(told, pending_request=_read(told.pending_request))
        subject = told.authority.subject
        if not subject and told.generations:
            subject = printable(told.generations[-1].subject)
        told = replace(told, authority=replace(told.authority, host=self._host, subject=subject))
        if not told.generations:
            why = ("none of its certificates is on the host", "Put them back (ca_key_restore)")
            if told.pending_request:
                why = ("it waits for its first certificate", "Give ca_install the answer to its request")
            error = NothingOnHost(f"the CA {told.authority.subject or told.authority.name} can't be read", *why)
            error.abilities, error.waiting = told.abilities, told if told.pending_request else None
            raise error
        return replace(told, advisories=(*told.advisories, *keys_not_in_hand(told.generations, told.advisories)))

    @staticmethod
    def shown(told: t.Any) -> Result:
        """An authority in the shape of all results."""
        return {
            "authority": told.authority.as_result() if told.authority else None,
            "generations": [generation.as_result() for generation in told.generations],
            "advisories": findings(told.advisories),
        }

    @staticmethod
    def decided_anew(work: t.Callable[[], Result]) -> Result:
        """C(work) looks, decides and sends an order. Where another run renewed the CA after the look, it does so once more."""
        try:
            return work()
        except RenewedMeanwhile:
            return work()

    def send(
        self,
        order: t.Any,
        answers: type[Answer],
        place: t.Mapping[str, t.Any] | None = None,
        module: str | None = None,
        last: int | None = None,
    ) -> Answer:
        """Have the host carry out one order; C(place) says which CA where the task does not. Raises KeywardError with what it said.

        C(module): another than that of the task, for one that not every platform has. C(last): how many seconds it took the last time.
        """
        works = _WORKS.get(order.NAME, "works")
        with Progress(self._host, f"{self.NAME}: the host {works}", last=last), self.room_for(answers):
            answer = self._executed(order, place, module or self.NAME)
        self._pass_on(answer)
        with self.reading():
            if answer.get("failed"):
                raise self._said(answer)
            return parse(answers, answer)

    @contextlib.contextmanager
    def room_for(self, answers: type[t.Any]) -> t.Iterator[None]:
        """Whatever the host prints in here takes no more memory than such an answer may. Raises KeywardError."""
        # A module on this machine inherits the limits of this process. It needs memory for more than its answer.
        local = getattr(self._connection, "transport", None) == "local"
        full = False
        try:
            with contextlib.nullcontext() if local else memory_limited(getattr(answers, "ROOM", ROOM)):
                yield
        except MemoryError:
            full = True  # free what filled the memory before anything else
        if full:
            raise KeywardError(
                f"{self.NAME} can't go on",
                f"the host {self._host} answers more than fits into the memory that an answer may take",
                "Look into that host: no release of the collection answers so",
            )

    def _pass_on(self, answer: Result) -> None:
        """The Python that core found on the host, and what core warns of it. Facts come before what an inventory says, so that a host
        could decide by them what only a person may."""
        key = getattr(self, "_discovered_interpreter_key", None)
        facts = answer.get("ansible_facts")
        if key and isinstance(facts, dict) and key in facts:
            self._passed_on["ansible_facts"] = {key: self._discovered_interpreter}
        warnings = answer.get("warnings")
        # From core 2.19 on they are objects.
        told = [getattr(getattr(one, "event", None), "msg", one) for one in warnings] if isinstance(warnings, list) else []
        shown = [printable(text[:_LONGEST_WARNING]) for text in told if isinstance(text, str)]
        if shown:
            self._passed_on["warnings"] = shown[:_MOST_WARNINGS]

    @contextlib.contextmanager
    def reading(self) -> t.Iterator[None]:
        """What a host answered, where it is read; of another shape, it is an error that says so."""
        try:
            yield
        except Misshapen as exc:
            raise KeywardError(
                f"{self.NAME} can't go on",
                f"the host {self._host} answered in a way that no release of the collection does ({exc})",
                "Look into that host; if it and its stores are sound, report this as a bug",
            ) from exc

    def _executed(self, order: t.Any, place: t.Mapping[str, t.Any] | None, module: str) -> Result:
        self._refuse_unguarded_transport()
        secret = {name: self.options[name] for name in ("private_key_passphrase", "older") if self.options.get(name) is not None}
        document = json.dumps({**dump(order), **secret, "order": order.NAME})
        # The implementations of a name share the options that say which CA, and what is required; all else is in the order.
        required = {name for name, option in self.ARGUMENTS.items() if option.get("required")} if module == self.NAME else set()
        told = {*_arguments.WHICH_AUTHORITY, *required}
        arguments = {name: value for name, value in self._task.args.items() if name in told and name not in self.SECRETS}
        arguments.update(place or {})
        arguments["controller"] = base64.b64encode(document.encode("utf-8")).decode("ascii")
        context = self._connection._play_context
        before, context.no_log = context.no_log, True
        try:
            return t.cast(
                Result,
                self._execute_module(module_name=f"keyward.pki.{module}", module_args=arguments, task_vars=self._task_vars),
            )
        finally:
            context.no_log = before

    def _said(self, answer: Result) -> KeywardError:
        if "nothing_there" in answer:
            failure = parse(Failure, answer)
            kinds = {NothingOnHost: failure.nothing_there, NothingNamed: failure.nothing_named, RenewedMeanwhile: failure.renewed_meanwhile}
            kind: type[KeywardError] = next((kind for kind, is_it in kinds.items() if is_it), KeywardError)
            error = kind.quoted(failure.msg, failure.reasons)
            if isinstance(error, NothingOnHost):
                error.abilities = failure.abilities
            return error
        # What a broken module prints may hold anything: only the name of its error is passed on.
        printed = "\n".join(str(answer.get(name, "")) for name in ("module_stderr", "module_stdout", "exception", "msg"))
        names = re.findall(r"^([A-Za-z_.]*(?:Error|Exception))\b", printed, re.MULTILINE)
        return KeywardError(
            f"{self.NAME} broke on the host {self._host}",
            f"the module ended with {names[-1]}" if names else "it gave no readable answer",
            "Check the host's Python interpreter, its temporary directory and become; if they are sound, report this as a bug",
        )

    # --- the transport ---

    def _is_pipelining_enabled(self, module_style: str, wrap_async: bool = False) -> bool:
        # Without pipelining a module's arguments lie in a file on the host, whatever ansible.cfg says.
        return module_style == "new" and not wrap_async

    def _parse_returned_data(self, res: Result, *args: t.Any, **kwargs: t.Any) -> Result:
        # What is printed behind a module's answer may hold anything, and core would quote it in a warning.
        try:
            res = {**res, "stdout": _filter_non_json_lines(res.get("stdout", ""), objects_only=True)[0]}
        except ValueError:
            pass  # no answer at all: see _said
        answer: Result = super()._parse_returned_data(res, *args, **kwargs)
        return answer

    def _refuse_unguarded_transport(self) -> None:
        connection = self._connection
        become = getattr(connection, "become", None)
        transport = getattr(connection, "transport", "this connection")
        why = None
        remedy = "Use ssh, local, or for Windows ansible-core 2.19 or newer; become with sudo"
        if constants.DEFAULT_DEBUG:
            why, remedy = (
                "core's debug output would show what is sent, secrets included",
                "Run it without ANSIBLE_DEBUG (debug in ansible.cfg)",
            )
        elif not (connection.has_pipelining or connection.always_pipeline_modules):
            why = f"the connection {transport} can't pipeline, so the secrets would lie in a file on the host"
        elif become is not None and not getattr(become, "pipelining", True):
            why = f"become method {become.name} can't pipeline, so the secrets would lie in a file on the host"
        elif ".ps1" in connection.module_implementation_preferences and tuple(map(int, core_version.split(".")[:2])) < (2, 19):
            why = f"ansible-core {core_version} prints what a Windows host answers, at -vvv even with no_log"
        if why:
            raise KeywardError("nothing was sent to the host", why, remedy)


def _read(pending: PendingRequest) -> PendingRequest:
    """With what the request itself says, where the host left it to the controller to read it."""
    if pending.subject is None and pending.request:
        with contextlib.suppress(ValueError):
            request = _outline.request(request_der(pending.request.encode("utf-8")))
            subject = printable(_outline.rfc4514(request.issuer))
            return replace(pending, subject=subject, public_key_sha256=spki_sha256(request.public_key))
    return pending


def made(**why: t.Any) -> Result:
    """What manifests say of how something was made."""
    versions = {"keyward.pki": COLLECTION_VERSION, "ansible-core": core_version, "cryptography": version("cryptography")}
    return {"at": now_text(), "controller": platform.node(), **why, "versions": {**versions, "python": platform.python_version()}}


def findings(*groups: t.Iterable[Finding]) -> list[Result]:
    """Each reason or advisory once, as results carry them."""
    return [finding.as_result() for finding in dict.fromkeys(finding for group in groups for finding in group)]
