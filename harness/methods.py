"""`python -m harness.methods [NAME…]`: the installed selection methods and what each takes and does.

Of those that are named it says all: what is kept, what each parameter means, the paper, the cost.

The modules are read, not imported, so the list is there at once, whatever a plug-in imports.
"""

import ast
import sys
import textwrap
from dataclasses import dataclass

from harness import cli
from harness.errors import ConfigError, PluginError, unknown_name
from harness.selection import plugins


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """A method as its source file describes it."""

    name: str
    module: str
    parameters: tuple[str, ...]
    """`name=default`, or the bare name of a parameter that must be given."""
    doc: str
    """First line of the function's docstring."""
    text: str
    """All of it, which says what the parameters mean, and the module's: the idea, the paper, the cost."""


_OWN = "Your own function: method=custom method.target=package.module:function"
CUSTOM = Description(name="custom", module="", parameters=(), doc=_OWN, text=_OWN)


def describe(name: str) -> Description:
    """The method `name`, read from its source. ConfigError if there is none, PluginError if it cannot be read."""
    if name == CUSTOM.name:
        return CUSTOM
    known = plugins.sources()
    if name not in known:
        raise ConfigError(unknown_name("method", name, [*known, CUSTOM.name]))
    module, file = known[name]
    try:
        with open(file, "rb") as source:
            tree = ast.parse(source.read())
    except (OSError, SyntaxError, ValueError) as error:
        raise PluginError(f"method {name}: {file} cannot be read as Python: {error}") from error
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == plugins.FUNCTION:
            texts = [found for part in (node, tree) if (found := ast.get_docstring(part))]
            return Description(
                name=name, module=module, parameters=_parameters(node.args),
                doc=(ast.get_docstring(node) or "").split("\n")[0], text="\n\n".join(texts),
            )  # fmt: skip
    raise PluginError(
        f"method {name}: {file} has no function {plugins.FUNCTION!r}; a module that is no method starts with _"
    )


def _parameters(arguments: ast.arguments) -> tuple[str, ...]:
    plain = [*arguments.posonlyargs, *arguments.args][1:]
    defaults: list[ast.expr | None] = [None] * len(plain)
    if arguments.defaults:
        defaults = [*defaults, *arguments.defaults][-len(plain) :] if plain else []
    pairs = [*zip(plain, defaults, strict=True), *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    return tuple(
        argument.arg if default is None else f"{argument.arg}={ast.unparse(default)}"
        for argument, default in pairs
        if argument.arg != "ctx"
    )


def command(argv: list[str]) -> None:
    """Print a line of each method, or all that there is to say of those that are named."""
    cli.offer_help(argv, __doc__)
    for name in argv or [*plugins.names(), CUSTOM.name]:
        method = describe(name)
        sys.stdout.write(f"{method.name}\n{textwrap.indent(method.text if argv else method.doc, '    ')}\n")
        if method.parameters:
            sys.stdout.write(f"    parameters: {', '.join(method.parameters)}\n")


if __name__ == "__main__":
    cli.main(command)
