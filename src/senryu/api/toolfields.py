"""The fields of a request about tools and the form of the answer: decoded JSON -> Tool, ToolChoice, a schema."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

from senryu.api.betas import FINE_GRAINED_TOOLS
from senryu.api.blocks import Blocks
from senryu.api.dialect import Dialect
from senryu.api.fields import Fields, array, boolean, choice, free, matching, optional, string, tagged, wrong_tag
from senryu.errors import SenryuError
from senryu.service.examples import Examples
from senryu.types import Json, Tool, ToolChoice

NAME = "[a-zA-Z0-9_-]{1,64}"
CHOICES = ("auto", "any", "tool", "none")
EFFORTS = ("low", "medium", "high", "xhigh", "max")
SERVER_TOOLS = (  # beginnings of the types of tools that other servers run, or that other models were trained on
    "advisor_",
    "bash_",
    "browser_",
    "code_execution_",
    "computer_",
    "mcp_toolset",
    "memory_",
    "text_editor_",
    "tool_search_",
    "web_fetch_",
    "web_search_",
)


class ToolFields:
    """Reads them in one dialect. All methods raise SenryuError."""

    def __init__(self, dialect: Dialect, blocks: Blocks) -> None:
        self.dialect, self.blocks = dialect, blocks
        self.examples = Examples()

    def tools(self, value: Any, path: str) -> tuple[Tool, ...]:
        """`tools`: the caller's own; a tool of any other type is refused by that type."""
        return tuple(self._tool(item, f"{path}.{index}") for index, item in enumerate(array(value, path)))

    def _tool(self, value: Any, path: str) -> Tool:
        outer = Fields(value, path)
        kind = outer.take_or("type", optional(string), None) or "custom"
        if kind.startswith(SERVER_TOOLS):
            raise self.dialect.tag_error("tools", kind, path)
        if kind != "custom":
            raise wrong_tag(path, kind, ("custom",))
        fields = Fields(outer.rest(), f"{path}.custom")
        name = fields.take("name", partial(matching, pattern=NAME))
        schema = fields.take("input_schema", self._schema)
        eager = fields.take_or("eager_input_streaming", optional(boolean), None)
        tool = Tool(
            name=name,
            input_schema=self._with_examples(fields, schema),
            description=fields.take_or("description", optional(string), None) or "",
            strict=fields.take_or("strict", optional(boolean), None) or False,
            eager=FINE_GRAINED_TOOLS in self.dialect.betas if eager is None else eager,
            cache=self.blocks.marker(fields),
        )
        if fields.take_or("defer_loading", optional(boolean), None):
            raise SenryuError("unsupported", path=fields.path("defer_loading"), what="tools that are loaded on demand are")
        callers = fields.take_or("allowed_callers", optional(array), None) or []
        if callers not in ([], ["direct"]):
            raise SenryuError("unsupported", path=fields.path("allowed_callers"), what="callers other than 'direct' are")
        self.dialect.finish(fields)
        return tool

    def _schema(self, value: Any, path: str) -> Json:
        schema = free(value, path)
        Fields(schema, path).take("type", partial(choice, options=("object",)))
        return schema

    def _with_examples(self, fields: Fields, schema: Json) -> Json:
        """`input_examples` become the schema's own `examples`, where a model reads them."""
        path = fields.path("input_examples")
        given = fields.take_or("input_examples", optional(array), None) or []
        examples = [free(item, f"{path}.{index}") for index, item in enumerate(given)]
        if not examples:
            return schema
        self.examples.check(schema, examples, path)
        own = schema.get("examples")
        return {**schema, "examples": [*(own if isinstance(own, list) else []), *examples]}

    def choice(self, value: Any, path: str) -> ToolChoice:
        """`tool_choice`."""
        kind, rest = tagged(value, path)
        if kind not in CHOICES:
            raise wrong_tag(path, kind, CHOICES)
        fields = Fields(rest, f"{path}.{kind}")
        name = fields.take("name", partial(string, low=1)) if kind == "tool" else ""
        single = kind != "none" and fields.take_or("disable_parallel_tool_use", optional(boolean), None)
        self.dialect.finish(fields)
        return ToolChoice(cast(Any, kind), name, parallel=not single)

    def output_config(self, value: Any, path: str) -> Json | None:
        """`output_config`: the schema of its format. This model knows no effort."""
        fields = Fields(value, path)
        if fields.take_or("effort", optional(partial(choice, options=EFFORTS)), None) is not None:
            self.dialect.pass_over(fields.path("effort"), SenryuError("no_effort"))
        schema = fields.take_or("format", optional(self.output_format), None)
        self.dialect.finish(fields)
        return schema

    def output_format(self, value: Any, path: str) -> Json:
        """The schema that the answer's text must match."""
        fields = Fields(value, path)
        fields.take("type", partial(choice, options=("json_schema",)))
        schema = fields.take("schema", free)
        self.dialect.finish(fields)
        return schema
