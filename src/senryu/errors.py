"""One table: error code -> HTTP status -> type -> wording. Exceptions carry a code; every wire shape renders them its own way.

Wordings that clients match on are quoted from the Claude Messages API; the rest say what, why and what to do.

    SenryuError(code, **values)
    status 4xx, 5xx   a request was refused; `type` is the error type of the Messages API
    status 0          a start was refused (a command line or a configuration); never sent over HTTP
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """How one code is answered. `wording` is a format string over the exception's values; `detail` tells clients apart what
    status and type do not."""

    status: int
    type: str
    wording: str
    detail: str = ""


def _invalid(wording: str) -> Rule:
    return Rule(400, "invalid_request_error", wording)


def _start(wording: str) -> Rule:
    return Rule(0, "start_error", wording)


ERRORS: dict[str, Rule] = {
    # the request as bytes
    "bad_http": _invalid("{why}"),
    "bad_json": _invalid("The request body is not valid JSON: {why}"),
    "body_stalled": Rule(408, "timeout_error", "The request body stopped coming before it was complete"),
    "too_large": Rule(413, "request_too_large", "Request exceeds the maximum size"),
    "bad_form": _invalid("The request body is not valid multipart/form-data: {why}"),
    # the shape of a field
    "required": _invalid("{path}: Field required"),
    "extra": _invalid("{path}: Extra inputs are not permitted"),
    "not_object": _invalid("{path}: Input should be a valid dictionary"),
    "not_list": _invalid("{path}: Input should be a valid list"),
    "not_string": _invalid("{path}: Input should be a valid string"),
    "not_integer": _invalid("{path}: Input should be a valid integer"),
    "not_whole": _invalid("{path}: Input should be a valid integer, got a number with a fractional part"),
    "not_number": _invalid("{path}: Input should be a valid number"),
    "not_boolean": _invalid("{path}: Input should be a valid boolean"),
    "not_choice": _invalid("{path}: Input should be {choices}"),
    "not_tag": _invalid("{path}: Input tag '{tag}' found using 'type' does not match any of the expected tags: {tags}"),
    "too_short": _invalid("{path}: String should have at least {low} character{s}"),
    "too_long": _invalid("{path}: String should have at most {high} characters"),
    "not_matching": _invalid("{path}: String should match pattern '{pattern}'"),
    "both_given": _invalid("{path}: cannot be given together with {other}. Send one of them."),
    "bad_arguments": _invalid("{path}: should be a JSON object in a string: {why}"),
    "not_base64": _invalid("{path}: Invalid base64 data"),
    "too_deep": _invalid("{path}: nested more than {deepest} levels deep"),
    "too_many": _invalid("{path}: List should have at most {high} items after validation, not {count}"),
    "below": _invalid("{path}: Input should be greater than or equal to {low}"),
    "above": _invalid("{path}: Input should be less than or equal to {high}"),
    "range": _invalid("{path}: range: {low}..{high}"),
    # the meaning of a request
    "prewarm": _invalid("max_tokens: must be greater than or equal to 1 with {what}: 0 only reads the prompt into the cache"),
    "max_tokens_high": _invalid(
        "max_tokens: {asked} > {cap}, which is the maximum allowed number of output tokens for {model}"
    ),
    "no_messages": _invalid("messages: at least one message is required"),
    "system_role": _invalid(
        'messages: Unexpected role "system". The Messages API accepts a top-level `system` parameter, '
        'not "system" as an input message role.'
    ),
    "empty_message": _invalid(
        "messages.{index}: all messages must have non-empty content except for the optional final assistant message"
    ),
    "empty_text": _invalid("{where}: text content blocks must be non-empty"),
    "blank_text": _invalid("{where}: text content blocks must contain non-whitespace text"),
    "trailing_space": _invalid("messages: final assistant content cannot end with trailing whitespace"),
    "blank_stop": _invalid("stop_sequences: each stop sequence must contain non-whitespace"),
    "long_stops": _invalid("stop_sequences: {count} characters in all > {cap}, which is the most that this server watches for"),
    "prompt_too_long": _invalid("prompt is too long: {count} tokens > {context} maximum"),
    "context_exceeded": _invalid(
        "input length and `max_tokens` exceed context limit: {count} + {asked} > {context}, "
        "decrease input length or `max_tokens` and try again"
    ),
    "no_images": _invalid("'{model}' does not support image input."),
    "no_thinking": _invalid("'{model}' does not support thinking."),
    "no_effort": _invalid("This model does not support the effort parameter."),
    "two_formats": _invalid("output_format: the format is in output_config already. Send one of them."),
    "no_document_urls": _invalid(
        "{path}: this server fetches nothing. Send the document itself, as a source of type 'base64', 'text' or 'content'."
    ),
    "no_document_files": _invalid(
        "{path}: uploaded files are not offered at this address. Send the document itself, as a source of type 'base64', "
        "'text' or 'content', or use the Claude API: POST /v1/messages."
    ),
    "document_in_answer": _invalid("{path}: `document` blocks can only be in `user` messages"),
    "unsupported": _invalid("{path}: {what} not supported by this server yet. Remove it and try again."),
    "stream_options": _invalid("stream_options: only allowed when stream is true"),
    "several_prompts": _invalid("{path}: one prompt a request. Send a request for each."),
    "empty_prompt": _invalid("prompt: at least one token is required"),
    "token_id": _invalid("prompt: {id} is no token id of this model: they go from 0 to {last}"),
    "document_format": _invalid("{path}: this server reads no {format} files. Send the document as pdf, txt, md, html or csv."),
    "not_text": _invalid("{path}: a document of format '{format}' must be text in UTF-8. Convert it, or name its real format."),
    "not_union": _invalid("{path}: exactly one of these members should be set: {kinds}"),
    "schema_text": _invalid("{path}: should be a JSON Schema in a string: {why}"),
    "no_completions": _invalid("Text completions are not supported by any model here. Use the Messages API: POST /v1/messages"),
    "unknown_beta": _invalid(
        "Unexpected value(s) {names} for the `anthropic-beta` header. Please consult our documentation at "
        "platform.claude.com/docs or try again without the header."
    ),
    # tools
    "choice_without_tools": _invalid("tool_choice may only be specified while providing tools."),
    "choice_unknown": _invalid("tool_choice: Tool '{name}' not found in provided tools"),
    "tool_names": _invalid("tools: Tool names must be unique."),
    "bad_example": _invalid("{path}: does not match the tool's input_schema: {why}"),
    "tool_use_role": _invalid("{path}: `tool_use` blocks can only be in `assistant` messages"),
    "tool_result_role": _invalid("{path}: `tool_result` blocks can only be in `user` messages"),
    "tool_use_ids": _invalid("{path}: `tool_use` ids must be unique"),
    "tool_result_missing": _invalid(
        "messages.{index}: `tool_use` ids were found without `tool_result` blocks immediately after: {ids}. "
        "Each `tool_use` block must have a corresponding `tool_result` block in the next message."
    ),
    "tool_result_unexpected": _invalid(
        "{path}: unexpected `tool_use_id` found in `tool_result` blocks: {id}. "
        "Each `tool_result` block must have a corresponding `tool_use` block in the previous message."
    ),
    "tool_result_twice": _invalid(
        "{path}: each `tool_use` must have a single result. Found multiple `tool_result` blocks with id: {id}"
    ),
    # breakpoints
    "inner_breakpoint": _invalid(
        "{path}.cache_control: blocks inside of {what} cannot be cached on their own. Put cache_control on the {what} itself."
    ),
    "many_breakpoints": _invalid("A maximum of 4 blocks with cache_control may be provided. Found {count}."),
    "empty_breakpoint": _invalid("{path}: cache_control cannot be set for empty text blocks"),
    "ttl_order": _invalid(
        "{path}.cache_control.ttl: a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block. "
        "Note that blocks are processed in the following order: `tools`, `system`, `messages`."
    ),
    "automatic_ttl": _invalid(
        "cache_control: the last cacheable block has a cache_control of another ttl. Give both the same ttl, or remove one."
    ),
    "automatic_order": _invalid(
        "cache_control.ttl: a ttl='1h' cache_control must not come after a ttl='5m' cache_control block, "
        "and automatic caching comes last. Give it ttl='5m', or the blocks before it ttl='1h'."
    ),
    "template": _invalid("messages: the model's chat template refuses this conversation: {why}"),
    "cache_point": _invalid("{path}: a cachePoint stands behind what it caches, and each behind something of its own"),
    # threads
    "thread_not_found": Rule(
        404,
        "not_found_error",
        "No usable Thread state was found for `previous_message_id`. "
        'Replay the full conversation with `thread: {{"type": "create"}}` to start a new Thread.',
        "thread_not_found",
    ),
    "thread_continued": Rule(
        400,
        "invalid_request_error",
        "The response that `previous_message_id` names has already been continued, and each response can be continued only "
        "once. Continue from the Thread's most recent response `id`.",
        "thread_already_continued",
    ),
    "thread_in_flight": Rule(
        400,
        "invalid_request_error",
        "Another request is still continuing from the same `previous_message_id`. Wait for it to complete and continue from "
        'its response `id`, or replay the full conversation with `thread: {{"type": "create"}}`.',
        "thread_continue_in_flight",
    ),
    "thread_mismatch": Rule(
        400,
        "invalid_request_error",
        "thread: a field that must stay the same across a Thread's turns differs from the value stored with the Thread; "
        "differing field(s): {fields}. Send the stored values, or replay the full conversation with "
        '`thread: {{"type": "create"}}` to change them.',
        "thread_fingerprint_mismatch",
    ),
    "thread_keeps": _invalid(
        "{field}: the thread keeps what it was created with. Remove it from requests that continue the thread, or replay the "
        'full conversation with `thread: {{"type": "create"}}` to change it.'
    ),
    "thread_unsupported": Rule(
        400,
        "invalid_request_error",
        "thread: {what} have no threads. Send the full conversation without `thread`.",
        "thread_unsupported_request",
    ),
    # documents and citations
    "pdf_broken": _invalid(
        "{path}: The PDF specified was not valid: {why}. Check the file, or send its text as a text document."
    ),
    "pdf_encrypted": _invalid("{path}: The PDF specified is password protected. Remove the password and try again."),
    "pdf_textless": _invalid(
        "{path}: The PDF holds no text, only images or drawings, and this server reads no images. "
        "Run text recognition over it first, or send its text as a text document."
    ),
    "pdf_pages": _invalid("{path}: A maximum of {most} PDF pages may be provided. Found {count}. Send fewer pages."),
    "pdf_heavy": _invalid("{path}: The PDF draws too much to be read here. Send its text as a text document."),
    "documents_large": _invalid("{path}: the files of one request may hold {most} bytes in all. Split them, or send a part."),
    "file_kind": _invalid("{path}: the file {id} ({mime}) is neither a PDF nor text in UTF-8, so it cannot be a document."),
    "citations_mixed": _invalid(
        "{path}: citations must be enabled on all or none of the {kind} of a request. Set them alike on all."
    ),
    "citations_format": _invalid(
        "output_config.format: structured output and citations cannot be combined. "
        "Disable citations on the documents, or remove the format."
    ),
    # files
    "file_large": Rule(413, "request_too_large", "file: a file may hold {most} bytes. Split it and try again."),
    "file_name": _invalid('file: a filename may have {most} characters, none of them a control character or one of <>:"|?*'),
    "file_not_downloadable": Rule(
        400,
        "invalid_request_error",
        "File {id} was uploaded, and uploaded files cannot be downloaded",
        "file_not_downloadable",
    ),
    "many_ids": _invalid("ids: at most {most} may be given. Found {count}."),
    "ids_alone": _invalid("ids: cannot be combined with {path}"),
    "bad_page": _invalid("page: this is no cursor of ours. Pass a `next_page` as it came."),
    # batches; the original's own words for these are not known
    "too_few": _invalid("{path}: List should have at least 1 item after validation, not 0"),
    "same_custom_id": _invalid("{path}: '{custom_id}' is used by more than one request; each needs a custom_id of its own"),
    "batch_stream": _invalid("stream: answers of a batch cannot be streamed. Remove it and try again."),
    "batch_prewarm": _invalid("max_tokens: must be greater than or equal to 1"),
    "batch_running": _invalid(
        "Message Batch {id} is still being processed. {what} when its processing_status is 'ended'; cancel it to end it sooner."
    ),
    "batch_ended": _invalid("Message Batch {id} has ended, so it cannot be canceled"),
    "batch_unknown": Rule(404, "not_found_error", "Message Batch not found: {id}"),
    "batch_archived": Rule(404, "not_found_error", "The results of Message Batch {id} are kept for 29 days and are gone"),
    # tools and schemas: what the answer must match
    "no_tools": _invalid(
        "tools: '{model}' does not support tool use: its chat template has no form of calls that this server knows. "
        "Choose another model, or remove tools and the tool blocks of messages."
    ),
    "schema": _invalid("{path}: {why}"),
    "grammar": _invalid("Schema is too complex for compilation. {why}"),
    "complex_schema": _invalid("{path}: Schema is too complex for compilation."),
    "open_object": _invalid("{path}: For 'object' type, 'additionalProperties' must be explicitly set to false"),
    "additional_properties": _invalid(
        "{path}: For 'object' type, 'additionalProperties: {value}' is not supported. "
        "Please set 'additionalProperties' to false"
    ),
    "many_strict": _invalid("tools: {count} strict tools > {most}, which is the most. Set strict on fewer of them."),
    "many_optional": _invalid(
        "tools: {count} optional parameters in all strict schemas > {most}, which is the most. Make more of them required."
    ),
    "many_unions": _invalid(
        "tools: {count} parameters with union types (anyOf or a list of types) in all strict schemas > {most}, "
        "which is the most. Use fewer of them."
    ),
    "schema_prefill": _invalid(
        "output_config.format: structured output and a final assistant message cannot be combined. Remove that message."
    ),
    "schema_and_tools": _invalid(
        "output_config.format: '{model}' writes its calls as JSON too, so that a text in JSON cannot be told from a call. "
        "Set tool_choice to any, tool or none, or remove one of the two."
    ),
    # headers and addresses
    "version_missing": _invalid("anthropic-version: header is required"),
    "version_unknown": _invalid('anthropic-version: "{version}" is not a valid version'),
    "key_missing": Rule(401, "authentication_error", "x-api-key header is required"),
    "key_wrong": Rule(401, "authentication_error", "invalid x-api-key"),
    "origin": Rule(
        403,
        "permission_error",
        "Web pages of {origin} may not call this server: it has no API key. Start it with --api-key and send that key.",
    ),
    "model_unknown": Rule(404, "not_found_error", "model: {model}"),
    "generation_unknown": Rule(404, "not_found_error", "Generation {id} not found"),
    "file_unknown": Rule(404, "not_found_error", "File not found: {id}"),
    "publisher_unknown": Rule(404, "not_found_error", "Publisher `{publisher}` is not served here, only `anthropic` is."),
    "publisher_model": Rule(
        404,
        "not_found_error",
        "Publisher Model `{name}` was not found. Ask for claude-3-5-haiku@20241022, or for an id of GET /v1/models.",
    ),
    "no_batch_prediction": Rule(
        404,
        "not_found_error",
        "Batch prediction is not offered at this address. Use the batches of the Claude API: POST /v1/messages/batches.",
    ),
    "no_route": Rule(404, "not_found_error", "Not found: {method} {path}"),
    "bad_cursor": _invalid("{path}: no {thing} has this id"),
    # Amazon Bedrock, in the words of AWS where it has them
    "aws_unsigned": Rule(
        403,
        "permission_error",
        "Missing Authentication Token. Sign the request in its Authorization header (not in its query), or send this server's "
        "key as a bearer token.",
    ),
    "aws_presigned": Rule(
        403,
        "permission_error",
        "Signatures in the query (presigned URLs) are not supported. Sign the request in its Authorization header.",
    ),
    "aws_incomplete": Rule(403, "permission_error", "{why}"),
    "aws_invalid": Rule(403, "permission_error", "{why}"),
    "aws_mismatch": Rule(
        403,
        "permission_error",
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and "
        "signing method. Consult the service documentation for details.",
    ),
    "aws_unknown_key": Rule(403, "permission_error", "The security token included in the request is invalid."),
    "aws_no_keys": Rule(
        403,
        "permission_error",
        "This server has no AWS keys to check a signature with. Set `aws_keys` in its config.toml, or send its own key as "
        "AWS_BEARER_TOKEN_BEDROCK.",
    ),
    "aws_bearer": Rule(403, "permission_error", "Authentication failed: Please make sure your API Key is valid."),
    "aws_model_id": _invalid("The provided model identifier is invalid."),
    "aws_elsewhere": Rule(
        404,
        "not_found_error",
        "{what} is not part of this server. Of Amazon Bedrock it has InvokeModel, InvokeModelWithResponseStream, Converse, "
        "ConverseStream and CountTokens.{hint}",
    ),
    # the server
    "overloaded": Rule(529, "overloaded_error", "Overloaded"),
    "rate_limited": Rule(
        429,
        "rate_limit_error",
        "This request would exceed the rate limit for your key of {rate:,} {what} per minute. Try again in {retry_after:,} s.",
    ),
    "rate_never": Rule(
        429,
        "rate_limit_error",
        "This request has {count:,} {what}, which is more than the rate limit for your key of {rate:,} {what} per minute: "
        "waiting does not help. Shorten the prompt.",
    ),
    "deadline": Rule(504, "timeout_error", "The request's deadline passed before its answer was complete"),
    "engine_closed": Rule(503, "api_error", "{model} answers no more: {why}. The server's log says more; restart the server."),
    "internal": Rule(500, "api_error", "Internal server error"),
    # a start that is refused
    "open_bind": _start(
        "will not listen on {host} without an API key: anyone who reaches this machine could use it. "
        "Add --api-key KEY (or set SENRYU_API_KEY), or listen on 127.0.0.1."
    ),
    "port_taken": _start("cannot listen on {host}:{port}: {why}. Stop what uses the port, or add --port 0 to take a free one."),
    "tls_half": _start("{given} is set without {missing}. Add {flag} FILE, or remove {given} to serve plain HTTP."),
    "tls_unreadable": _start("cannot read {setting} {path}: {why}. Check the path, and that this user may read the file."),
    "tls_unusable": _start(
        "cannot use the certificate {cert} with the key {key}: {why}. Give the two files that belong together, or make a pair "
        "with: senryu certs dev"
    ),
    "no_cryptography": _start("making certificates needs a library. Type: pip install 'senryu[certs]'"),
    "cert_host": _start("--host {host}: a certificate can hold no such name or address. Write it as in box.lan or 10.0.0.1."),
    "certs_unwritable": _start("cannot write certificates into {folder}: {why}. Correct that, or choose another SENRYU_HOME."),
    "config_unreadable": _start("cannot read {path}: {why}. Correct the file or remove it."),
    "config_key": _start("{path}: unknown setting `{key}`.{hint}"),
    "config_value": _start("{path}: `{key}` should be {wanted}, got {value!r}."),
    "model_unusable": _start("cannot load {ref}: {why}"),
    "no_memory": _start(
        "{name} does not fit: its K/V cache of {tokens} tokens takes {need}, and {free} of memory are free beside the weights. "
        "Close other programs, change kv_cache_gb in {config}, or take a smaller model."
    ),
    "database_unknown": _start(
        "`database` in {config} is {kind}. Write postgresql://USER:PASSWORD@HOST/NAME, or remove it to use SQLite."
    ),
    "no_psycopg": _start("PostgreSQL needs a driver. Type: pip install 'senryu[postgres]'"),
    "database_unusable": _start(
        "cannot open the database {where}: {why}. Correct what stands in its way, or the setting `database`."
    ),
    "database_newer": _start(
        "the database {where} was written by a newer version of Senryu (schema {revision}). Install that version, or name "
        "another database in the setting `database`."
    ),
    "peer_failed": _start(
        "the peer {peer} cannot be measured: {why}. Give --peer-python a Python of its own, with: pip install {packages}"
    ),
    "server_failed": _start("`senryu serve` did not start, so it cannot be measured: {why}"),
    "no_torch": _start("training needs torch. Type: pip install 'senryu[train]'"),
    "untrainable": _start("{why}"),
    "no_matplotlib": _start("a plot needs matplotlib. Type: pip install 'senryu[plot]'"),
}


class SenryuError(Exception):
    """A refusal that its reader can act on. `code` is a row of ERRORS; `values` fill its wording, or another wire shape's."""

    def __init__(self, code: str, **values: object) -> None:
        rule = ERRORS[code]
        super().__init__(rule.wording.format(**values))
        self.code = code
        self.values = values
        self.status = rule.status
        self.type = rule.type
        self.detail = rule.detail

    @property
    def message(self) -> str:
        """The wording, filled in."""
        return str(self)
