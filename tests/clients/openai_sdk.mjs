// What an application does with the official OpenAI SDK for TypeScript, under Node.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod/v4";
import { BREAK_OFF, NotServed, breaksOff, caught, key, lacks, limited, longText } from "./checks.mjs";
import { raised, report, stage, url, waits } from "./checks.mjs";

const to = (server, apiKey = key) => new OpenAI({ baseURL: `${server}/v1`, apiKey, maxRetries: 0 });
const client = to(url);
const model = "claude-3-5-haiku-20241022";
const hello = [{ role: "user", content: "Hello! What can you do?" }];
const ask = [{ role: "user", content: "What is the weather in Bonn?" }];
const city = { type: "object", properties: { city: { enum: ["Bonn", "Oslo"] } }, required: ["city"] };
const weather = { name: "get_weather", description: "The weather in a city", parameters: city };
const tools = [{ type: "function", function: weather }];
const Mood = z.object({ mood: z.enum(["good", "bad"]) });

async function create() {
  const messages = [{ role: "system", content: "Be brief." }, ...hello];
  const answer = await client.chat.completions.create({ model, messages, max_tokens: 64 });
  assert.equal(answer.model, model);
  assert.match(answer._request_id, /^req_/);
  assert.ok(answer.usage.prompt_tokens_details.cached_tokens >= 0);
  return `${answer.usage.completion_tokens} tokens`;
}

async function stream() {
  let text = "";
  const runner = client.chat.completions
    .stream({ model, messages: hello, max_tokens: 64, stream_options: { include_usage: true } })
    .on("content", (piece) => (text += piece));
  const final = await runner.finalChatCompletion();
  assert.equal(text, final.choices[0].message.content);
  return `${(await runner.totalUsage()).completion_tokens} tokens`;
}

async function toolLoop() {
  const how = { model, tools, max_tokens: 200 };
  const forced = { tool_choice: "required", parallel_tool_calls: false };
  const first = await client.chat.completions.create({ ...how, ...forced, messages: ask });
  const { message, finish_reason } = first.choices[0];
  assert.equal(finish_reason, "tool_calls");
  assert.equal(message.tool_calls.length, 1);
  const result = { role: "tool", tool_call_id: message.tool_calls[0].id, content: "12 degrees" };
  const messages = [...ask, message, result];
  const second = await client.chat.completions.create({ ...how, messages, tool_choice: "none" });
  return `${message.tool_calls[0].function.arguments}, then ${second.choices[0].finish_reason}`;
}

async function toolInAStream() {
  const named = { tool_choice: { type: "function", function: { name: "get_weather" } }, parallel_tool_calls: false };
  const runner = client.chat.completions.stream({ model, messages: ask, tools, ...named, max_tokens: 200 });
  const final = await runner.finalChatCompletion();
  return JSON.stringify(JSON.parse(final.choices[0].message.tool_calls[0].function.arguments));
}

async function parse() {
  const response_format = zodResponseFormat(Mood, "mood");
  const answer = await client.chat.completions.parse({ model, messages: hello, response_format, max_tokens: 64 });
  return Mood.parse(answer.choices[0].message.parsed).mood;
}

async function responses() {
  const events = client.responses.stream({ model, input: "Hello!", max_output_tokens: 64 });
  let text = "";
  for await (const event of events) if (event.type === "response.output_text.delta") text += event.delta;
  assert.equal(text, (await events.finalResponse()).output_text);
  const form = { format: zodTextFormat(Mood, "mood") };
  const parsed = await client.responses.parse({ model, input: "Hello!", text: form, max_output_tokens: 64 });
  return Mood.parse(parsed.output_parsed).mood;
}

async function responseTools() {
  const how = { model, tools: [{ type: "function", ...weather, strict: false }], max_output_tokens: 200 };
  const first = await client.responses.create({ ...how, input: ask, tool_choice: "required", parallel_tool_calls: false });
  const [call] = first.output;
  assert.equal(call.type, "function_call");
  const result = { type: "function_call_output", call_id: call.call_id, output: "12 degrees" };
  const second = await client.responses.create({ ...how, input: [...ask, call, result], tool_choice: "none" });
  return `${call.arguments}, then ${second.status}`;
}

async function models() {
  const ids = [];
  for await (const one of client.models.list()) ids.push(one.id);
  assert.ok(ids.includes(model));
  return ids.join(", ");
}

async function cache() {
  const messages = [{ role: "system", content: longText() }, ...hello];
  await client.chat.completions.create({ model, messages, max_tokens: 8 });
  const { usage } = await client.chat.completions.create({ model, messages, max_tokens: 8 });
  assert.ok(usage.prompt_tokens_details.cached_tokens > 0);
  return `${usage.prompt_tokens_details.cached_tokens} of ${usage.prompt_tokens} tokens`;
}

async function countTokens() {
  const { input_tokens } = await client.responses.inputTokens.count({ model, input: "Hello!" });
  const { usage } = await client.responses.create({ model, input: "Hello!", max_output_tokens: 16 });
  assert.equal(input_tokens, usage.input_tokens);
  return `${input_tokens} tokens`;
}

async function wrongKey() {
  const error = await caught(OpenAI.AuthenticationError, () => to(url, "wrong").models.list());
  return raised(OpenAI.AuthenticationError, error.message);
}

async function errors() {
  const body = { model, messages: hello, max_tokens: 8 };
  await assert.rejects(client.chat.completions.create({ ...body, model: "gpt-9" }), OpenAI.NotFoundError);
  await assert.rejects(client.chat.completions.create({ ...body, n: 2 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "n");
    return true;
  });
  return "404, 400";
}

async function retries() {
  const client = to(limited);
  const ask = (maxRetries) => client.chat.completions.create({ model, max_tokens: 1, messages: hello }, { maxRetries });
  return waits(ask, OpenAI.RateLimitError);
}

async function midStream() {
  const messages = [{ role: "user", content: BREAK_OFF }];
  return breaksOff(OpenAI.APIError, () => to(stage).chat.completions.stream({ model, messages }).finalContent());
}

async function responseMidStream() {
  const response = await to(stage).responses.stream({ model, input: BREAK_OFF }).finalResponse();
  assert.equal(response.status, "failed");
  assert.equal(response.error.code, "server_error");
  assert.deepEqual(response.output, []);
  const note = "openai for npm raises nothing for a response that fails midway: it gives it back with status `failed`, its error and no text.";
  return { detail: response.error.message, note };
}

await report([
  ["create", create],
  ["create", responses],
  ["stream", stream],
  ["tools", toolLoop],
  ["tools", toolInAStream],
  ["tools", responseTools],
  ["structured output", parse],
  ["cache", cache],
  ["documents", lacks("In OpenAI's shape the server takes text, and no files.", undefined, NotServed)],
  ["batches", lacks("The server has batches in the shape of the Claude API alone.", undefined, NotServed)],
  ["count tokens", countTokens],
  ["models", models],
  ["errors", wrongKey],
  ["errors", errors],
  ["retries", retries],
  ["mid-stream", midStream],
  ["mid-stream", responseMidStream],
]);
