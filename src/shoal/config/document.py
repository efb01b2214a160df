"""A YAML file read into plain data that remembers where in the file every key and value stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from shoal.config.errors import (
    ConfigError,
    Problem,
    SettingPath,
    is_secret_name,
    printable,
    shorten,
    show_value,
    spell,
)
from shoal.config.scalars import MERGE, STRING, tagged_value
from shoal.config.variables import substitute

MAX_DEPTH = 40
MAX_VALUES = 20_000  # a few dozen kilobytes of aliases can stand for billions of values ("billion laughs")

_SYNTAX_HINTS = (
    ("found character '\\t'", "a tab cannot indent or begin a value in YAML; use spaces"),
    ("found character '%'", "a value cannot begin with %; put it in quotes"),
    ("found character '@'", "a value cannot begin with @; put it in quotes"),
    ("found character '`'", "a value cannot begin with a backquote; put it in quotes"),
    (
        "mapping values are not allowed",
        'a ": " is not expected here; check the indentation, or quote the value',
    ),
    ("found unexpected end of stream", "the file ends inside a quoted text; the closing quote is missing"),
    ("'<stream end>'", "the file ends here, but a closing bracket is missing"),
    ("could not find expected ':'", 'a key without its ":"; write `key: value`'),
    ("expected <block end>", "this line does not fit the lines above it; check the indentation"),
    ("found undefined alias", "this alias (*name) is used, but no anchor (&name) before it defines it"),
    ("but found another document", "a second document (---) begins here; the configuration must be one"),
    ("sequence entries are not allowed", "a list entry (- ) must begin on a line of its own"),
    ("expected '<document start>'", "this does not fit what is above it; check the indentation"),
    ("expected the node content", "a value is missing here, or one with special characters needs quotes"),
    ("that cannot start any token", "a value cannot begin with this character; put it in quotes"),
    ("expected ',' or", 'a "," or the closing bracket is missing before this'),
)
_VARIABLE_HINT = ' (between [ ] or { } a variable needs quotes: "${NAME}")'


@dataclass(frozen=True, slots=True)
class Place:
    """Where a setting stands. Lines and columns are 1-based.

    Attributes:
        line: line of the value.
        column: column of the value.
        key_line: line of its key; of the value in a list.
        key_column: column of its key; of the value in a list.
        variables: environment variables its text was made of, in order.
        defaults: those of `variables` that were not set, so that their default was taken.
    """

    line: int
    column: int
    key_line: int
    key_column: int
    variables: tuple[str, ...] = ()
    defaults: tuple[str, ...] = ()


@dataclass(slots=True)
class Document:
    """What a file holds.

    Attributes:
        file: the file as the user named it.
        data: mappings (text keys only), lists and scalars. Values that could not be read are left out.
        places: where each key and list item stands.
        problems: what could not be read; reading went on after it.
        broken: where those problems are.
    """

    file: str
    data: Any = None
    places: dict[SettingPath, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    broken: set[SettingPath] = field(default_factory=set)

    def place(self, path: SettingPath) -> Place:
        """Return where `path` stands, or else the nearest thing around it, or else the top of the file."""
        for length in range(len(path), 0, -1):
            if (place := self.places.get(path[:length])) is not None:
                return place
        return Place(1, 1, 1, 1)

    def problem(self, path: SettingPath, message: str, *, at_key: bool = False) -> Problem:
        """Return a problem with the value at `path`, or with its key."""
        place = self.place(path)
        if at_key:
            return Problem(self.file, message, place.key_line, place.key_column)
        return Problem(self.file, message, place.line, place.column)


def parse(text: str, file: str, env: Mapping[str, str], max_values: int = MAX_VALUES) -> Document:
    """Read YAML 1.2 and replace the environment variables in it.

    Args:
        text: content of the file.
        file: its name, for messages.
        env: the environment.
        max_values: mappings, lists and scalars that it may come to.

    Raises:
        ConfigError: it is no YAML, or YAML of a kind a configuration has no use for: several documents, tags,
            extreme nesting. What is wrong with single values is in `Document.problems` instead.
    """
    try:
        _check_events(text, file)
        yaml = YAML(typ="safe", pure=True)
        yaml.composer.warn_double_anchors = False
        root = yaml.compose(text)
    except ReaderError as error:
        # Its `position` counts from the start of a buffer; the character it refuses is easier found again.
        refused = chr(error.character) if isinstance(error.character, int) else str(error.character)
        message = f"this character is not allowed in YAML: {_code(refused)}"
        raise ConfigError([_at_offset(text, file, max(text.find(refused), 0), message)]) from None
    except MarkedYAMLError as error:
        raise ConfigError([_syntax_problem(error, text, file)]) from None
    except YAMLError as error:
        raise ConfigError(
            [Problem(file, f"this is not YAML: {shorten(printable(str(error)))}", 1, 1)]
        ) from None
    document = Document(file)
    if root is not None:
        document.data = _Builder(document, env, max_values).build((), root)
    return document


def not_utf8(content: bytes, file: str, error: UnicodeDecodeError) -> ConfigError:
    """Return the error for a file that is not UTF-8."""
    before = content[: error.start]
    line, column = before.count(b"\n") + 1, len(before) - (before.rfind(b"\n") + 1) + 1
    found = f"byte 0x{content[error.start]:02x} is not UTF-8"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        found = "the file is UTF-16"
    return ConfigError([Problem(file, f"{found}; save the file as UTF-8", line, column)])


def _check_events(text: str, file: str) -> None:
    """Refuse tags and extreme nesting before anything recursive touches the document."""
    depth = -2  # a stream and a document are around it all
    problems = []
    for event in YAML(typ="safe", pure=True).parse(text):
        kind = type(event).__name__
        at = (event.start_mark.line + 1, event.start_mark.column + 1)
        depth += kind.endswith("StartEvent") - kind.endswith("EndEvent")
        if depth > MAX_DEPTH:
            raise ConfigError([Problem(file, f"this is nested more than {MAX_DEPTH} levels deep", *at)])
        if tag := getattr(event, "tag", None):
            shown = printable(shorten(str(tag)))
            problems.append(
                Problem(
                    file,
                    f"the tag {shown} has no meaning here; remove it, and quote the value to make it text",
                    *at,
                )
            )
    if problems:
        raise ConfigError(problems)


def _syntax_problem(error: MarkedYAMLError, text: str, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    told = " ".join(part for part in (error.context, error.problem) if part)
    message = next((hint for clue, hint in _SYNTAX_HINTS if clue in told), f"this is not YAML: {told}")
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    lines = text.splitlines()
    source = lines[line - 1] if line <= len(lines) else ""
    if "${" in source and ("[" in source or "{" in source.replace("${", "")):
        message += _VARIABLE_HINT
    may_show = source.strip() and not is_secret_name(source)
    shown = f" near `{printable(shorten(source.strip()))}`" if may_show else ""
    return Problem(file, printable(message) + shown, line, column)


def _at_offset(text: str, file: str, offset: int, message: str) -> Problem:
    before = text[:offset]
    return Problem(file, message, before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1)


def _code(character: str) -> str:
    return f"U+{ord(character):04X}"


class _Builder:
    """Turns YAML nodes into data, and notes places and problems in the document."""

    def __init__(self, document: Document, env: Mapping[str, str], max_values: int) -> None:
        self._document = document
        self._env = env
        self._max_values = max_values
        self._open: list[Node] = []  # the nodes around the present one: one that comes again holds itself
        self._values = 0

    def build(self, path: SettingPath, node: Node) -> Any:
        self._values += 1
        if self._values > self._max_values:
            self._stop(
                node,
                f"the file comes to more than {self._max_values} values once its aliases (*name) are replaced",
            )
        if isinstance(node, ScalarNode):
            return self._scalar(path, node)
        if any(node is outer for outer in self._open) or len(self._open) >= MAX_DEPTH:
            self._stop(node, "an alias (*name) here contains itself, or aliases nest too deeply")
        self._open.append(node)
        try:
            if isinstance(node, MappingNode):
                return self._mapping(path, node)
            assert isinstance(node, SequenceNode)
            return [self._item((*path, i), item) for i, item in enumerate(node.value)]
        finally:
            self._open.pop()

    def _item(self, path: SettingPath, node: Node) -> Any:
        at = (node.start_mark.line + 1, node.start_mark.column + 1)
        self._document.places[path] = Place(*at, *at)
        return self.build(path, node)

    def _mapping(self, path: SettingPath, node: MappingNode) -> dict[str, Any]:
        data: dict[str, Any] = {}
        merged: list[Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == MERGE:
                merged += value_node.value if isinstance(value_node, SequenceNode) else [value_node]
                continue
            key = self._key(path, key_node)
            if key is None:
                continue
            inner = (*path, key)
            if inner in self._document.places:
                first = self._document.places[inner]
                self._problem(
                    inner, key_node, f"`{spell(inner)}` is given twice, first in line {first.key_line}"
                )
                continue
            self._document.places[inner] = Place(
                value_node.start_mark.line + 1,
                value_node.start_mark.column + 1,
                key_node.start_mark.line + 1,
                key_node.start_mark.column + 1,
            )
            data[key] = self.build(inner, value_node)
        for other in merged:
            self._merge(path, data, other)
        return data

    def _merge(self, path: SettingPath, data: dict[str, Any], node: Node) -> None:
        """Take over the keys of a ``<<: *name`` that `data` does not have itself."""
        if not isinstance(node, MappingNode):
            self._problem(None, node, "only a mapping can be merged with <<")
            return
        for key_node, value_node in node.value:
            if key_node.value not in data:
                missing = MappingNode(node.tag, [(key_node, value_node)], node.start_mark, node.end_mark)
                data |= self.build(path, missing)

    def _key(self, path: SettingPath, node: Node) -> str | None:
        if not isinstance(node, ScalarNode):
            self._problem(None, node, "a key must be a word, not a list or a mapping")
            return None
        key = str(node.value)
        if node.tag != STRING:
            shown = printable(shorten(key)) or "(empty)"
            self._problem(None, node, f"the key {shown} is not text; put it in quotes")
            return None
        return key if self._is_text(None, node, key) else None

    def _scalar(self, path: SettingPath, node: ScalarNode) -> Any:
        if node.tag != STRING:
            try:
                return tagged_value(str(node.tag), node.value)
            except (ValueError, OverflowError):
                self._problem(
                    path, node, f"`{spell(path)}` is {show_value(node.value)}, a number that cannot be held"
                )
                return None
        if not self._is_text(path, node, node.value):
            return None
        result = substitute(node.value, self._env)
        for offset, message in result.problems:
            # Only in an unquoted text on one line does an offset in the value tell a column.
            plain = node.style is None and node.start_mark.line == node.end_mark.line
            self._problem(path, node, f"`{spell(path)}`: {message}", shift=offset if plain else 0)
        if result.variables and path in self._document.places:
            old = self._document.places[path]
            names, unset = dict.fromkeys(result.variables), dict.fromkeys(result.defaults)
            self._document.places[path] = replace(old, variables=tuple(names), defaults=tuple(unset))
        return None if result.problems else result.text

    def _is_text(self, path: SettingPath | None, node: Node, text: str) -> bool:
        """Return whether `text` is sound: escapes such as ``"\\ud800"`` can make it no text at all."""
        bad = next((c for c in text if c == "\0" or "\ud800" <= c <= "\udfff"), None)
        if bad is not None:
            what = "a key" if path is None else f"`{spell(path)}`: a text"
            self._problem(path, node, f"{what} cannot hold the character {_code(bad)}")
        return bad is None

    def _problem(self, path: SettingPath | None, node: Node, message: str, shift: int = 0) -> None:
        """Note a problem that makes the value at `path` unknown; None if it leaves all values as they are."""
        mark = node.start_mark
        self._document.problems.append(
            Problem(self._document.file, message, mark.line + 1, mark.column + 1 + shift)
        )
        if path is not None:
            self._document.broken.add(path)

    def _stop(self, node: Node, message: str) -> None:
        mark = node.start_mark
        raise ConfigError([Problem(self._document.file, message, mark.line + 1, mark.column + 1)])
