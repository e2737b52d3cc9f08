"""Bodies of OpenAI's and OpenRouter's shapes with all of their fields, and further ones for what excludes each other."""

from __future__ import annotations

from typing import Any

Body = dict[str, Any]
MODEL = "claude-3-5-haiku-latest"
MARKER = {"type": "ephemeral", "ttl": "5m"}
SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}
FUNCTION = {"name": "look", "description": "d", "parameters": SCHEMA, "strict": True}
COMMON: Body = {
    "temperature": 0.5,
    "top_p": 0.5,
    "stream": True,
    "stream_options": {"include_usage": True, "include_obfuscation": False},
    "user": "u",
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "metadata": {"a": "b"},
    "service_tier": "auto",
    "prompt_cache_retention": None,
    "moderation": None,
}
SAID_BEFORE = {
    "role": "assistant",
    "content": [{"type": "text", "text": "y"}, {"type": "refusal", "refusal": "no"}],
    "refusal": None,
    "name": None,
    "audio": None,
    "annotations": [],
    "tool_calls": [{"id": "c", "type": "function", "index": 0, "function": {"name": "look", "arguments": '{"x": 1}'}}],
    "function_call": None,
}
CHAT: Body = {
    "model": MODEL,
    **COMMON,
    "messages": [
        {"role": "system", "content": "s", "name": None},
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        SAID_BEFORE,
        {"role": "tool", "tool_call_id": "c", "content": "z", "name": "look"},
        {"role": "developer", "content": "d"},
    ],
    "max_tokens": None,
    "max_completion_tokens": 4,
    "stop": ["q"],
    "seed": 1,
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": {"type": "function", "function": {"name": "look"}},
    "parallel_tool_calls": False,
    "functions": None,
    "function_call": None,
    "response_format": {"type": "text"},
    "n": 1,
    "logprobs": False,
    "top_logprobs": 0,
    "logit_bias": {},
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "modalities": ["text"],
    "audio": None,
    "prediction": None,
    "store": False,
    "reasoning_effort": "none",
    "verbosity": "medium",
    "web_search_options": None,
}
OTHER_CHATS: list[Body] = [
    {
        "model": MODEL,
        "max_tokens": 4,
        "messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": "{}"}},
            {"role": "function", "name": "look", "content": "z"},
        ],
        "functions": [FUNCTION],
        "function_call": {"name": "look"},
        "stop": "q",
    },
    {
        "model": MODEL,
        "max_tokens": 4,
        "messages": [{"role": "user", "content": "x"}],
        "tool_choice": "none",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "description": "d", "schema": SCHEMA, "strict": True},
        },
    },
]
ROUTED: Body = {
    "models": [],
    "route": "fallback",
    "transforms": [],
    "plugins": None,
    "min_p": 0,
    "top_a": 0,
    "repetition_penalty": 1,
    "include_reasoning": False,
    "reasoning": {"effort": "none"},
    "provider": {"order": ["Senryu"], "sort": "price"},
    "usage": {"include": True},
    "structured_outputs": True,
    "session_id": "s",
    "trace": {"a": 1},
    "top_k": 3,
    "cache_control": None,
}
OPENROUTER: Body = {
    **CHAT,
    **ROUTED,
    "messages": [{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": MARKER}]}, *CHAT["messages"][2:]],
    "tools": [{"type": "function", "function": FUNCTION, "cache_control": None}],
}
COMPLETION: Body = {
    "model": MODEL,
    **COMMON,
    "prompt": [9, 10, 11],
    "max_tokens": 4,
    "stop": None,
    "seed": None,
    "echo": True,
    "suffix": "",
    **dict.fromkeys(("n", "best_of"), 1),
    "logprobs": None,
    "logit_bias": {},
    "frequency_penalty": 0,
    "presence_penalty": 0,
}
RESPONSE: Body = {
    "model": MODEL,
    **COMMON,
    "input": [
        {"role": "developer", "content": "d"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [
                {"type": "output_text", "text": "y", "annotations": [], "logprobs": []},
                {"type": "refusal", "refusal": "n"},
            ],
            "phase": "final_answer",
            "id": "m",
        },
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}", "id": "fc", "status": "completed"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "z"}], "id": None},
    ],
    "instructions": "i",
    "max_output_tokens": 4,
    "tools": [{"type": "function", **FUNCTION}],
    "tool_choice": {"type": "function", "name": "look"},
    "parallel_tool_calls": False,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "reasoning": {"effort": "none", "summary": None, "generate_summary": None},
    "background": False,
    **{key: [] for key in ("context_management", "include")},
    **dict.fromkeys(("conversation", "max_tool_calls", "previous_response_id", "prompt")),
    "store": False,
    "top_logprobs": 0,
    "truncation": "disabled",
}
OTHER_RESPONSE: Body = {
    "model": MODEL,
    "input": "x",
    "max_output_tokens": 4,
    "tool_choice": None,
    "text": {"format": {"type": "json_schema", "name": "n", "description": None, "schema": SCHEMA, "strict": True}},
}
