"""What the OpenAI-compatible door and OpenRouter's answer, as schemas: completions, chunks, responses and their events."""

from __future__ import annotations

from senryu.api.openai.chunks import REASONS
from senryu.api.openai.options import USAGE_DETAILS
from senryu.api.openapi.words import (
    ANY,
    FLAG,
    FREE,
    NULL,
    Schema,
    either,
    exactly,
    gives,
    giving,
    list_of,
    map_of,
    maybe,
    number,
    one_of,
    ref,
    text,
    whole,
)

Fields = dict[str, Schema]
ENDS = one_of(*dict.fromkeys(REASONS.values()), "function_call")
TOTALS: Fields = {f"{name}_tokens": whole() for name in ("prompt", "completion", "total")}
DETAILS: Fields = {"completion_tokens_details": gives({name: whole() for name in USAGE_DETAILS})}
USAGE = gives({**TOTALS, "prompt_tokens_details": gives({"cached_tokens": whole(), "audio_tokens": whole()}), **DETAILS})
COST = number()
COSTED_USAGE = gives(
    {
        **TOTALS,
        "cost": COST,
        "is_byok": FLAG,
        "prompt_tokens_details": gives({name: whole() for name in ("cached_tokens", "cache_write_tokens", "audio_tokens")}),
        "cost_details": gives(
            {
                "upstream_inference_cost": NULL,
                "upstream_inference_prompt_cost": COST,
                "upstream_inference_completions_cost": COST,
            }
        ),
        **DETAILS,
    }
)
FUNCTION = gives({"name": text(), "arguments": text()})
PIECE = gives({"name?": text(), "arguments": text()})


def head(kind: str) -> Fields:
    """What every completion and chunk begins with."""
    return {"id": text(), "object": exactly(kind), "created": whole(), "model": text(), "system_fingerprint": text()}


def completion(usage: Schema, extra: Fields, choice: Fields) -> Schema:
    """A whole answer of chat completions. extra, choice: what a shape adds to it and to its choice."""
    message = gives(
        {
            "role": exactly("assistant"),
            "content": maybe(text()),
            "refusal": NULL,
            "function_call?": FUNCTION,
            "tool_calls?": list_of(gives({"id": text(), "type": exactly("function"), "function": FUNCTION})),
        }
    )
    one = gives({"index": whole(), "message": message, "logprobs": NULL, "finish_reason": ENDS, **choice})
    return gives({**head("chat.completion"), **extra, "choices": list_of(one, 1, 1), "usage": usage})


def chunk(usage: Schema, extra: Fields, choice: Fields) -> Schema:
    """A piece of it in a stream; the one with the usage has no choice."""
    call = gives({"index": whole(), "id?": text(), "type?": exactly("function"), "function": PIECE})
    delta = gives(
        {
            "role?": exactly("assistant"),
            "content?": text(),
            "refusal?": NULL,
            "function_call?": PIECE,
            "tool_calls?": list_of(call),
        }
    )
    one = gives({"index": whole(), "delta": delta, "logprobs": NULL, "finish_reason": maybe(ENDS), **choice})
    return gives({**head("chat.completion.chunk"), **extra, "choices": list_of(one, high=1), "usage?": maybe(usage)})


def _text_answer(reason: Schema, usage: Fields, low: int) -> Schema:
    one = gives({"text": text(), "index": whole(), "logprobs": NULL, "finish_reason": reason})
    return gives({**head("text_completion"), "choices": list_of(one, low, 1), **usage})


STATUS = one_of("in_progress", "completed", "incomplete")
PART = gives({"type": exactly("output_text"), "text": text(), "annotations": list_of(ANY), "logprobs": list_of(ANY)})
INNER: Fields = {"item_id": text(), "output_index": whole()}
IN_PART: Fields = {**INNER, "content_index": whole()}
LOGPROBS: Fields = {"logprobs": list_of(ANY)}
WHOLE: Fields = {"response": ref("Response")}
ITEM: Fields = {"output_index": whole(), "item": ref("ResponseOutput")}
EVENTS: dict[str, Fields] = {
    **dict.fromkeys((f"response.{name}" for name in ("created", "in_progress", "completed", "incomplete", "failed")), WHOLE),
    "response.output_item.added": ITEM,
    "response.output_item.done": ITEM,
    "response.content_part.added": {**IN_PART, "part": PART},
    "response.content_part.done": {**IN_PART, "part": PART},
    "response.output_text.delta": {**IN_PART, "delta": text(), **LOGPROBS},
    "response.output_text.done": {**IN_PART, "text": text(), **LOGPROBS},
    "response.function_call_arguments.delta": {**INNER, "delta": text()},
    "response.function_call_arguments.done": {**INNER, "name": text(), "arguments": text()},
}
REPEATED: Fields = {  # of the request
    "instructions": maybe(text()),
    "max_output_tokens": maybe(whole()),
    "parallel_tool_calls": FLAG,
    "temperature": number(),
    "text": gives({"format": FREE, "verbosity": text()}),
    "tool_choice": either(text(), FREE),
    "tools": list_of(FREE),
    "top_p": number(),
    "user": maybe(text()),
    "safety_identifier": maybe(text()),
    "prompt_cache_key": maybe(text()),
    "metadata": map_of(text()),
}
SCHEMAS: dict[str, Schema] = {
    "OpenAIError": gives(
        {"error": gives({"message": text(), "type": text(), "param": maybe(text()), "code": maybe(text())})},
    ),
    "ChatCompletion": completion(USAGE, {}, {}),
    "ChatChunk": chunk(USAGE, {}, {}),
    "TextCompletion": _text_answer(ENDS, {"usage": USAGE}, 1),
    "TextChunk": _text_answer(maybe(ENDS), {"usage?": maybe(USAGE)}, 0),
    "ResponseOutput": giving(
        {
            "message": {"id": text(), "status": STATUS, "role": exactly("assistant"), "content": list_of(PART)},
            "function_call": {"id": text(), "status": STATUS, "call_id": text(), "name": text(), "arguments": text()},
        }
    ),
    "Response": gives(
        {
            "id": text(),
            "object": exactly("response"),
            "created_at": whole(),
            "status": one_of("in_progress", "completed", "incomplete", "failed"),
            "background": FLAG,
            "error": maybe(gives({"code": text(), "message": text()})),
            "incomplete_details": maybe(gives({"reason": text()})),
            "max_tool_calls": NULL,
            "model": text(),
            "output": list_of(ref("ResponseOutput")),
            "previous_response_id": NULL,
            "reasoning": gives({"effort": NULL, "summary": NULL}),
            "service_tier": text(),
            "store": FLAG,
            "top_logprobs": whole(),
            "truncation": text(),
            "usage": maybe(
                gives(
                    {
                        "input_tokens": whole(),
                        "input_tokens_details": gives({"cached_tokens": whole()}),
                        "output_tokens": whole(),
                        "output_tokens_details": gives({"reasoning_tokens": whole()}),
                        "total_tokens": whole(),
                    }
                )
            ),
            **REPEATED,
        }
    ),
    "ResponseEvent": giving({kind: {"sequence_number": whole(), **fields} for kind, fields in EVENTS.items()}),
    "ResponseTokenCount": gives({"object": exactly("response.input_tokens"), "input_tokens": whole()}),
    "OpenAIModel": gives({"id": text(), "object": exactly("model"), "created": whole(), "owned_by": text()}),
    "OpenAIModelList": gives({"object": exactly("list"), "data": list_of(ref("OpenAIModel"))}),
}
