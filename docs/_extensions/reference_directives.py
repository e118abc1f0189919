"""Pages of the reference that are made from the code: fields of dataclasses, the HTTP API and the command line.

```{fields} vertebra.train.Settings
```
```{http-api}
```
```{commands}
```
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, Field
from dataclasses import fields as fields_of
from importlib import import_module
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from tables import paragraph, table

from vertebra.cli import _app


class Fields(SphinxDirective):
    """A table of a dataclass: each field with its type, what is allowed, its default and its comment in the source."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module, _, name = self.arguments[0].rpartition(".")
        try:
            described = getattr(import_module(module), name)
            fields_of(described)
        except (ImportError, AttributeError, ValueError) as error:
            raise self.error(f"fields: there is no {self.arguments[0]}: {error}") from None
        except TypeError:
            raise self.error(f"fields: {self.arguments[0]} is no dataclass") from None
        comments = comments_of(described)
        rows = [["name", "type", "default", "meaning"]]
        for each in fields_of(described):
            if each.init and not each.name.startswith("_"):
                kind = str(each.type).removesuffix(" | None") + allowed(each.metadata)
                rows.append([f"`{each.name}`", kind, default(each), comments.get(each.name, "")])
        return [table(rows, "fields")]


def allowed(metadata: Mapping[str, Any]) -> str:
    """`", 0 to 1"`, `": probe, finetune"`."""
    if "range" in metadata:
        low, high = metadata["range"]
        return f", {low:,} to {high:,}" if isinstance(high, int) and high < 1e9 else f", {low:g} to {high:g}"
    return f": {', '.join(metadata['allowed'])}" if "allowed" in metadata else ""


def default(field: Field[Any]) -> str:
    """As Python writes it; nothing where it must be given."""
    if field.default is not MISSING:
        return f"`{field.default!r}`"
    return f"`{field.default_factory()!r}`" if field.default_factory is not MISSING else ""


def comments_of(described: type) -> dict[str, str]:
    """By field: the comment behind it, or the lines of comment above it."""
    lines = textwrap.dedent(inspect.getsource(described)).splitlines()
    body = ast.parse("\n".join(lines)).body[0]
    found = {}
    for statement in getattr(body, "body", ()):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            end = statement.end_lineno or statement.lineno
            behind = lines[end - 1].encode()[statement.end_col_offset :].decode().strip()
            above: list[str] = []
            for line in reversed(lines[: statement.lineno - 1]):
                if not line.strip().startswith("# "):
                    break
                above.insert(0, line.strip().removeprefix("# "))
            found[statement.target.id] = behind.removeprefix("#").strip() or " ".join(above)
    return {name: comment[:1].upper() + comment[1:] for name, comment in found.items()}


class HttpApi(SphinxDirective):
    """The server's own reference page, made from its OpenAPI document."""

    def run(self) -> list[nodes.Node]:
        from vertebra.serve.app import create_app
        from vertebra.serve.dispatcher import Dispatcher
        from vertebra.serve.docs_page import render_docs_page
        from vertebra.serve.server_settings import ServerSettings

        # It describes itself without a model: no route is called.
        no_models: Any = None
        app = create_app(Dispatcher(ServerSettings(), no_models, no_models))
        page = render_docs_page(app.openapi(), "http://127.0.0.1:8000")
        _, heading, calls = page.partition("<h2>")
        return [nodes.raw("", heading + calls.partition("</main>")[0], format="html")]


class Commands(SphinxDirective):
    """Each command with its arguments and options, as `--help` says them."""

    def run(self) -> list[nodes.Node]:
        whole = _app.command()
        made: list[nodes.Node] = []
        for name in _app.COMMANDS:
            loaded = whole.resolve_command(None, [name])[1]
            described = getattr(loaded, "commands", None)
            parts = {f"{name} {each}": sub for each, sub in described.items()} if described else {name: loaded}
            for words, each in parts.items():
                made.append(self.section(words, each))
        return made

    def section(self, words: str, command: Any) -> nodes.Node:
        section = nodes.section(ids=[nodes.make_id(words)], names=[words])
        section += nodes.title("", "", nodes.literal("", f"vertebra {words}"))
        section += [paragraph(" ".join(text.split())) for text in (command.help or "").split("\n\n")]
        options = [option(each) for each in command.params if "completion" not in each.name]
        section += table([["option", "value", "default", "meaning"], *options], "fields")
        return section


def option(parameter: Any) -> list[str]:
    """A row of an argument's or option's names, values, default and help."""
    is_argument = parameter.param_type_name == "argument"
    names = [parameter.make_metavar(None)] if is_argument else [*parameter.opts, *parameter.secondary_opts]
    is_flag = getattr(parameter, "is_flag", False)
    kind = "" if is_flag else getattr(parameter.type, "choices", None) or parameter.type.name.removesuffix(" range")
    value = kind if isinstance(kind, str) else ", ".join(map(str, kind))
    default = "" if parameter.default in (None, False, "", (), []) or callable(parameter.default) else parameter.default
    shown = f"`{default}`" if default != "" else ""
    return [" ".join(f"`{name}`" for name in names), value, shown, getattr(parameter, "help", "") or ""]


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("fields", Fields)
    app.add_directive("http-api", HttpApi)
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
