"""YAML of plain values, from files that may be a stranger's."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")


def parse_yaml(text: str, mapping: Callable[[list[tuple[Any, Any]]], dict], as_text: bool = False) -> Any:
    """What a YAML text holds, made of plain types, with mappings as `mapping` makes them of pairs; `as_text` leaves all
    values as they are written: the class `no` is no truth value, and `1e3` no number.

    Raises ValueError if it is no YAML, or what `mapping` raises, and RecursionError if it is nested too deep.
    """
    import yaml  # not needed by anyone without such a file

    class Loader(yaml.BaseLoader if as_text else yaml.SafeLoader):
        """YAML 1.2 where people expect it: 1e-4 is a number. A small file with aliases can stand for a huge one, and a
        tag can name a kind that its value is not of: there are none."""

        def compose_node(self, parent: Any, index: Any) -> yaml.Node:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("aliases such as *name are not read; write the value again")
            if getattr(self.peek_event(), "tag", None):
                raise yaml.YAMLError("tags such as !!int are not read; leave them out")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            return mapping(
                [(self.construct_object(key, True), self.construct_object(value, True)) for key, value in node.value]
            )

    Loader.add_constructor("tag:yaml.org,2002:map", lambda loader, node: loader.construct_mapping(node))
    if not as_text:
        Loader.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+.0123456789"))
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"this is not YAML: {error}") from None
