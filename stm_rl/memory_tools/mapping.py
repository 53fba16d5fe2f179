"""What the memory tools of an assistant do, as a small YAML file says.

.. code-block:: yaml

    tools:
      NAME: {operation: write, content: ARGUMENT}
    results: {id: [KEY, ...], content: [KEY, ...]}

Each tool names its operation and, for the parts the operation knows (:data:`OPERATIONS`), the argument that holds it or
a list of alternatives, of which the first that a call has counts. ``results`` names the keys under which results of
tools hold the ids and contents of memories.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from stm_rl.errors import StmError

OPERATIONS: dict[str, tuple[str, ...]] = {
    "write": ("content", "slot"),
    "supersede": ("content", "old", "id", "slot"),
    "forget": ("old", "id", "slot"),
    "read": ("query", "id", "slot"),
    "say": ("content",),
}
"""The operations and the parts of each. ``say`` is no memory operation: its content is what the assistant says."""

MAPPINGS = ("letta", "mem0", "stm-rl")
"""The built-in mappings."""

ADVICE = f"see the built-in ones ({', '.join(MAPPINGS)}) for examples"


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool.

    Attributes:
        operation: One of :data:`OPERATIONS`.
        parts: The arguments that may hold each part of it, the first first.
    """

    operation: str
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolMapping:
    """A mapping.

    Attributes:
        name: Its name.
        tools: What each tool does, by name.
        ids: Keys under which results hold ids of memories.
        contents: Keys under which results hold contents of memories.
    """

    name: str
    tools: Mapping[str, Tool]
    ids: tuple[str, ...] = ("id", "memory_id")
    contents: tuple[str, ...] = ("memory", "content", "text")


def tool_mapping(name: str | Path) -> ToolMapping:
    """Return a built-in mapping by its name, or the one in a YAML file.

    Raises:
        StmError: There is no such mapping or file, or it is not as described above.
    """
    builtin = str(name) in MAPPINGS
    path = Path(__file__).with_name(f"{name}.yaml") if builtin else Path(name)
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise StmError(
            f"{path}: cannot be read ({error.strerror or error}); expected a YAML file that maps memory tools, or one "
            f"of {', '.join(MAPPINGS)}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise StmError(f"{path}: is not valid YAML ({reason}); {ADVICE}") from error
    reader = _Reader(path)
    tools: dict[str, Tool] = {}
    results: dict[str, tuple[str, ...]] = {}
    for key, node in reader.pairs(root, "the file", ("tools", "results")):
        if key == "tools":
            tools = {tool: reader.tool(tool, value) for tool, value in reader.pairs(node, "tools")}
        else:
            results = {part: reader.names(v, part) for part, v in reader.pairs(node, "results", ("id", "content"))}
    if not tools:
        raise StmError(f"{path}:1: maps no tool; expected tools with at least one; {ADVICE}")
    default = ToolMapping("", {})
    ids, contents = results.get("id", default.ids), results.get("content", default.contents)
    return ToolMapping(str(name) if builtin else path.stem, tools, ids, contents)


class _Reader:
    """Takes YAML nodes apart; errors name the line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def error(self, node: yaml.Node | None, message: str) -> StmError:
        line = 1 if node is None else node.start_mark.line + 1
        return StmError(f"{self.path}:{line}: {message}; {ADVICE}")

    def pairs(
        self, node: yaml.Node | None, what: str, known: tuple[str, ...] | None = None
    ) -> Iterator[tuple[str, yaml.Node]]:
        """Yield the keys and values of a mapping."""
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, f"{what} holds no mapping; expected NAME: VALUE")
        seen = set()
        for key, value in node.value:
            name = self.names(key, f"a key of {what}")[0]
            if known is not None and name not in known:
                raise self.error(key, f"{what} has the unknown key {name!r}; expected {', '.join(known)}")
            if name in seen:
                raise self.error(key, f"{what} has {name!r} twice; expected it once")
            seen.add(name)
            yield name, value

    def names(self, node: yaml.Node, what: str) -> tuple[str, ...]:
        """Return one name or a list of them."""
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        if not nodes or not all(isinstance(one, yaml.ScalarNode) and one.value for one in nodes):
            raise self.error(node, f"{what} is not a name or a list of names")
        return tuple(one.value for one in nodes)

    def tool(self, name: str, node: yaml.Node) -> Tool:
        """Return what the tool ``name`` does."""
        given = dict(self.pairs(node, f"tool {name}"))
        if "operation" not in given:
            raise self.error(node, f"tool {name} has no operation; expected one of {', '.join(OPERATIONS)}")
        operation = self.names(given["operation"], "operation")[0]
        if operation not in OPERATIONS:
            expected = ", ".join(OPERATIONS)
            raise self.error(node, f"tool {name} has the unknown operation {operation!r}; expected one of {expected}")
        known = OPERATIONS[operation]
        parts = {
            part: self.names(value, part) for part, value in self.pairs(node, f"tool {name}", ("operation", *known))
        }
        del parts["operation"]
        if not parts:
            raise self.error(node, f"tool {name} names no argument; expected at least one of {', '.join(known)}")
        return Tool(operation, parts)
