# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: the way every task goes to a host and back with its secrets guarded; may change in any release."""

from __future__ import annotations

import base64
import json
import os
import re
import traceback
import typing as t

from ansible import __version__ as core_version
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.json_utils import _filter_non_json_lines
from ansible.plugins.action import ActionBase
from ansible_collections.keyward.pki.plugins.module_utils import _arguments
from ansible_collections.keyward.pki.plugins.module_utils._errors import Finding, KeywardError
from ansible_collections.keyward.pki.plugins.module_utils._generation import Authority, Generation

Result = dict[str, t.Any]


class NothingOnHost(KeywardError):
    """Nothing of the authority is on the host. C(backend): what would run it there, where the host says so."""

    backend: str | None = None


class Flow(ActionBase):  # type: ignore[misc]
    """What all action plugins share: validate, run the module with its secrets guarded, answer in one shape."""

    NAME: t.ClassVar[str]
    ARGUMENTS: t.ClassVar[_arguments.Spec]

    # They travel to the host in one opaque value, see module_utils/_host.py.
    SECRETS = ("password", "previous_password", "private_key_passphrase", "older")

    def run(self, tmp: None = None, task_vars: Result | None = None) -> Result:
        result: Result = super().run(tmp, task_vars)
        self._task_vars = task_vars or {}
        self._passed_on: Result = {}
        self._heard = False  # whether the host has answered
        try:
            self.options = self._validated()
            outcome = self.perform()
        except KeywardError as exc:
            outcome = self.refusal(exc)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as exc:
            if not self._heard:
                raise
            outcome = self.refusal(self._unreadable(exc))
        result.update(self._passed_on)
        result.update(outcome)
        return result

    def perform(self) -> Result:
        raise NotImplementedError

    def refusal(self, error: KeywardError) -> Result:
        return {"failed": True, "msg": str(error)}

    # --- arguments ---

    def _validated(self) -> Result:
        if "controller" in self._task.args:
            raise KeywardError("the option controller can't be set", "the action plugin fills it in", "Leave it out")
        validation = ArgumentSpecValidator(self.ARGUMENTS).validate(dict(self._task.args))
        if validation.unsupported_parameters:
            unknown = ", ".join(sorted(path if isinstance(path, str) else ".".join(path) for path in validation.unsupported_parameters))
            known = ", ".join(sorted(set(self.ARGUMENTS) - {"controller"}))
            raise KeywardError(f"{self.NAME} can't run", f"it has no option {unknown}", f"Its options are {known}")
        if validation.error_messages:
            raise KeywardError(f"{self.NAME} can't run", validation.errors.msg, f"See ansible-doc keyward.pki.{self.NAME}")
        return dict(validation.validated_parameters)

    def _secret(self, name: str) -> str | None:
        value = self.options.get(name)
        return None if value is None else str(value)

    @property
    def _passwords(self) -> list[str | None]:
        return [password for password in (self._secret("password"), self._secret("previous_password")) if password is not None]

    def _required(self, name: str, why: str) -> t.Any:
        value = self.options.get(name)
        if value in (None, "", []):
            raise KeywardError(f"{self.NAME} can't run", f"no {name} was given", why)
        return value

    @property
    def _host(self) -> str:
        return str(self._task.delegate_to or self._task_vars.get("inventory_hostname", ""))

    @property
    def _check(self) -> bool:
        return bool(self._task.check_mode)

    @property
    def _names_an_authority(self) -> bool:
        return self.options["backend"] == "adcs" or any(
            self.options.get(name) is not None for name in ("config_file", "directory", "certificate_file")
        )

    @property
    def _has_an_authority(self) -> bool:
        """A Windows host knows its CA itself; elsewhere a place must be named."""
        return self._names_an_authority or self._is_windows

    @property
    def _is_windows(self) -> bool:
        return ".ps1" in self._connection.module_implementation_preferences

    # --- the host ---

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
        if not (connection.has_pipelining or connection.always_pipeline_modules):
            why = f"the connection {transport} can't pipeline, so the secrets would lie in a file on the host"
        elif become is not None and not getattr(become, "pipelining", True):
            why = f"become method {become.name} can't pipeline, so the secrets would lie in a file on the host"
        elif self._is_windows and tuple(int(part) for part in core_version.split(".")[:2]) < (2, 19):
            why = f"ansible-core {core_version} prints what a Windows host answers, at -vvv even with no_log"
        if why:
            raise KeywardError(
                "nothing was sent to the host", why, "Use ssh, local, or for Windows ansible-core 2.19 or newer; become with sudo"
            )

    def on_host(self, request: t.Mapping[str, t.Any], place: t.Mapping[str, t.Any] | None = None) -> Result:
        """Run the module of this name on the host, once; C(place) says which CA where the task does not.

        Raises KeywardError with what the host said.
        """
        self._refuse_unguarded_transport()
        secret = {name: self.options[name] for name in ("private_key_passphrase", "older") if self.options.get(name) is not None}
        document = json.dumps({**request, **secret, "host": self._host})
        # The implementations of a name share the options that say which CA; all else is in the request.
        told = {*_arguments.WHICH_AUTHORITY}
        if not self._is_windows:
            told |= {name for name, option in self.ARGUMENTS.items() if option.get("required")}
        arguments = {name: value for name, value in self._task.args.items() if name in told and name not in self.SECRETS}
        arguments.update(place or {})
        arguments["controller"] = base64.b64encode(document.encode("utf-8")).decode("ascii")
        context = self._connection._play_context
        before, context.no_log = context.no_log, True
        try:
            answer: Result = self._execute_module(module_name=f"keyward.pki.{self.NAME}", module_args=arguments, task_vars=self._task_vars)
        finally:
            context.no_log = before
        self._heard = True
        for name in ("ansible_facts", "warnings", "deprecations"):
            if answer.get(name):
                self._passed_on[name] = answer[name]
        if answer.get("failed"):
            raise self._said(answer)
        return answer

    def _unreadable(self, error: Exception) -> KeywardError:
        """What stumbled over an answer of another shape: a host that was tampered with must not end a play with what it pleases."""
        last = traceback.extract_tb(error.__traceback__)[-1]
        return KeywardError(
            f"{self.NAME} can't go on",
            f"the host {self._host} answered in a way that no release of the collection does "
            f"({type(error).__name__} in {os.path.basename(last.filename)}, line {last.lineno})",
            "Look into that host; if it and its stores are sound, report this as a bug",
        )

    def _said(self, answer: Result) -> KeywardError:
        if "nothing_there" in answer:
            kind = NothingOnHost if answer["nothing_there"] else KeywardError
            error = kind.quoted(answer["msg"], [Finding(**finding) for finding in answer["reasons"]])
            if isinstance(error, NothingOnHost):
                error.backend = answer.get("backend")
            return error
        # What a broken module prints may hold anything: only the name of its error is passed on.
        printed = "\n".join(str(answer.get(name, "")) for name in ("module_stderr", "module_stdout", "exception", "msg"))
        names = re.findall(r"^([A-Za-z_.]*(?:Error|Exception))\b", printed, re.MULTILINE)
        return KeywardError(
            f"{self.NAME} broke on the host {self._host}",
            f"the module ended with {names[-1]}" if names else "it gave no readable answer",
            "Check the host's Python interpreter, its temporary directory and become; if they are sound, report this as a bug",
        )


class Live(t.NamedTuple):
    """An authority as its host answered."""

    authority: Authority
    generations: list[Generation]
    advisories: list[Finding]


def live_of(answer: Result, host: str) -> Live:
    """Raises NothingOnHost where the host knows a CA and has none of its certificates."""
    generations = [Generation.from_json(shape) for shape in answer["generations"]]
    who = {**answer["authority"], "host": host}
    if who["subject"] is None:  # a Windows host leaves it to us to read certificates
        if not generations and answer.get("pending_request"):
            raise NothingOnHost(
                f"the CA {who['name']} can't be read", "it waits for its first certificate", "Give ca_install the answer to its request"
            )
        if not generations:
            raise NothingOnHost(
                f"the CA {who['name']} can't be read", "none of its certificates is in the machine store", "Put them back (ca_key_restore)"
            )
        who["subject"] = generations[-1].subject
    return Live(Authority(**who), generations, [Finding(**advisory) for advisory in answer["advisories"]])
