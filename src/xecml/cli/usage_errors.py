"""What is wrong with the words of a command line, as one sentence that says what to write instead.

The parser (click, as typer brings it) answers with four lines: the usage, where help is, and what is wrong. Its
exceptions know the command and the parameter, so that the sentence can name both and the nearest right word.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

import typer

from xecml.errors import InputError, nearest, printable

UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""Base of what the parser raises; typer exports only this subclass of it."""
_LONGEST_SHOWN = 60
_RULES = {
    "greater_than_equal": "a number of {ge:g} or more",
    "less_than_equal": "a number of {le:g} or less",
    "greater_than": "a number above {gt:g}",
    "less_than": "a number below {lt:g}",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "bool_parsing": "true or false",
}
"""What a value must be, by the type of the error of pydantic, by which typer checks values."""


def run(app: typer.Typer, name: str) -> None:
    """Parse the words of the command line and run the command that they name.

    Args:
        app: the commands.
        name: of the program, as sentences call it.

    Raises:
        InputError: the words are not those of a command; says in one sentence which, and what to write.
        SystemExit: a command ended with a status of its own, or help was printed.
    """
    command = typer.main.get_command(app)
    try:
        status = command.main(prog_name=name, standalone_mode=False)
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a group without a command: its help is the answer
            print(error.format_message(), file=sys.stderr)  # type: ignore[attr-defined]
            raise SystemExit(2) from None
        raise InputError(sentence(error, _path(command, name, sys.argv[1:]))) from None
    if isinstance(status, int) and status:
        raise SystemExit(status)


def sentence(error: Exception, path: str) -> str:
    """One sentence that says which word of a command line is wrong, in which command, and what to write.

    Args:
        error: of the parser, an instance of `UsageError`.
        path: the program and the command, for errors that do not know their command.
    """
    context, text = getattr(error, "ctx", None), _message(error)
    if found := re.match(r"Option '(.*?)' (requires|does not take)", text):
        if found[2] == "requires":
            return f"{found[1]} of '{path}' needs a value; write it after the option."
        return f"{found[1]} of '{path}' takes no value; write {found[1]} alone."
    if context is None:
        return f"{text}; see '{path} --help'."
    command, path, kind = context.command, context.command_path, type(error).__name__
    if kind == "NoSuchOption":
        option = str(getattr(error, "option_name", ""))
        known = sorted(opt for p in command.get_params(context) for opt in (*p.opts, *p.secondary_opts))
        known = [opt for opt in known if opt.startswith("--")]
        return f"'{path}' has no option {_shown(option)}{nearest(option, known)}; '{path} --help' lists its options."
    if kind == "MissingParameter":
        return f"'{path}' needs {_called(error)}, which is missing; write '{_form(context)}'."
    if kind == "BadParameter":
        return _wrong_value(error, path)
    if found := re.match(r"No such command '(.*?)'", text, re.DOTALL):
        hint = nearest(found[1], command.commands)
        return f"'{path}' has no command '{_shown(found[1])}'{hint}; '{path} --help' lists its commands."
    if text == "Missing command":
        return f"'{path}' needs a command; give one of {', '.join(command.commands)}."
    if found := re.search(r"unexpected extra arguments?(?:\(s\))? \((.*)\)", text, re.DOTALL):
        return f"'{path}' does not know what to do with '{_shown(found[1])}'; write '{_form(context)}'."
    return f"{text}; see '{path} --help'."


def _path(command: Any, name: str, words: Sequence[str]) -> str:
    """The program and the commands that words name, such as `xec recipes copy`."""
    path = name
    for word in words:
        inner = getattr(command, "commands", {}).get(word)
        if inner is None:
            break
        command, path = inner, f"{path} {word}"
    return path


def _message(error: Any) -> str:
    return printable(str(error.format_message())).rstrip(".")


def _shown(text: object) -> str:
    whole = printable(str(text))
    return whole if len(whole) <= _LONGEST_SHOWN else f"{whole[:_LONGEST_SHOWN]}..."


def _called(error: Any) -> str:
    """The parameter of an error: the long name of an option, the place of an argument in the usage."""
    parameter = error.param
    if parameter is None:
        return str(error.param_hint or "a value")
    if parameter.param_type_name == "option":
        return str(next((opt for opt in parameter.opts if opt.startswith("--")), parameter.opts[0]))
    return _place(parameter)


def _place(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _form(context: Any) -> str:
    """The shortest form of a command: its arguments, and the options that it cannot do without."""
    words = [context.command_path]
    for parameter in context.command.params:
        if parameter.param_type_name == "argument":
            words.append(_place(parameter) if parameter.required else f"[{_place(parameter)}]")
    for parameter in context.command.params:
        if parameter.param_type_name == "option" and parameter.required:
            words.append(f"{parameter.opts[0]} {parameter.metavar or parameter.name.upper()}")
    return " ".join(words)


def _wrong_value(error: Any, path: str) -> str:
    """A value that a parameter cannot have."""
    name = f"{_called(error)} of '{path}'"
    if found := re.search(r"'(.*?)' is not one of (.*?)\.?$", str(error.message), re.DOTALL):
        choices = re.findall(r"'([^']*)'", found[2])
        known = " or ".join([", ".join(choices[:-1]), choices[-1]] if len(choices) > 1 else choices)
        return f"{name} cannot be '{_shown(found[1])}'{nearest(found[1], choices)}; choose {known}."
    value, wanted = _refused(error)
    if wanted:
        return f"{name} cannot be '{_shown(value)}'; give {wanted}."
    return f"{name} has a wrong value: {printable(str(error.message)).rstrip('.')}; see '{path} --help'."


def _refused(error: Any) -> tuple[object, str]:
    """A value that is no number of the kind that is wanted, and the kind; no kind where another check refused it."""
    cause, text = error.__cause__, str(error.message)
    if callable(getattr(cause, "errors", None)):  # of pydantic
        first = cause.errors()[0]
        rule = _RULES.get(str(first["type"]), "")
        return first["input"], rule.format(**first.get("ctx", {}))
    # as typer said it before 0.29
    if found := re.match(r"'(.*)' is not a valid (integer|float)", text, re.DOTALL):
        return found[1], _RULES["int_parsing" if found[2] == "integer" else "float_parsing"]
    if found := re.match(r"(\S+) is not in the range (?:(\S+?)<=)?x(?:>=(\S+?))?(?:<=(\S+?))?\.?$", text):
        low, high = found[2] or found[3], found[4]
        below = low is not None and float(found[1]) < float(low)
        rule = "greater_than_equal" if below else "less_than_equal"
        return f"{float(found[1]):g}", _RULES[rule].format(ge=float(low or 0), le=float(high or 0))
    return "", ""
