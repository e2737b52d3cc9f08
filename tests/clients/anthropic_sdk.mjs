// What an application does with the official TypeScript SDK, under Node: BASE_URL KEY. Reports as checks.py does.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import { betaZodTool } from "@anthropic-ai/sdk/helpers/beta/zod";
import { z } from "zod/v4";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new Anthropic({ baseURL, apiKey, maxRetries: 0 });
const model = "claude-3-5-haiku-20241022";
const hello = [{ role: "user", content: "Hello! What can you do?" }];
const ask = [{ role: "user", content: "What is the weather in Bonn?" }];
const tools = [
  {
    name: "get_weather",
    description: "The weather in a city",
    input_schema: { type: "object", properties: { city: { enum: ["Bonn", "Oslo"] } }, required: ["city"] },
  },
];
const any = { type: "any", disable_parallel_tool_use: true };

async function create() {
  const message = await client.messages.create({ model, max_tokens: 64, messages: hello, system: "Be brief." });
  assert.equal(message.model, model);
  assert.equal(message.stop_sequence, null);
  assert.match(message._request_id, /^req_/);
  return `${message.usage.output_tokens} tokens`;
}

async function stream() {
  let text = "";
  const events = client.messages.stream({ model, max_tokens: 64, messages: hello }).on("text", (piece) => (text += piece));
  const final = await events.finalMessage();
  assert.equal(text, final.content.map((block) => block.text).join(""));
  return `${final.usage.output_tokens} tokens`;
}

async function toolLoop() {
  const first = await client.messages.create({ model, max_tokens: 200, messages: ask, tools, tool_choice: any });
  assert.equal(first.stop_reason, "tool_use");
  assert.equal(first.content.length, 1);
  const [call] = first.content;
  const result = { type: "tool_result", tool_use_id: call.id, content: "12 degrees" };
  const messages = [...ask, { role: "assistant", content: first.content }, { role: "user", content: [result] }];
  const second = await client.messages.create({ model, max_tokens: 64, messages, tools, tool_choice: { type: "none" } });
  return `${JSON.stringify(call.input)}, then ${second.stop_reason}`;
}

async function toolInAStream() {
  let json = "";
  const events = client.messages
    .stream({ model, max_tokens: 200, messages: ask, tools, tool_choice: any })
    .on("inputJson", (piece) => (json += piece));
  const [call] = (await events.finalMessage()).content;
  assert.deepEqual(JSON.parse(json), call.input);
  return json;
}

async function toolRunner() {
  const asked = [];
  const tool = betaZodTool({
    name: "get_weather",
    description: "The weather in a city",
    inputSchema: z.object({ city: z.enum(["Bonn", "Oslo"]) }),
    run: ({ city }) => (asked.push(city), `12 degrees in ${city}`),
  });
  const body = { model, max_tokens: 200, messages: ask, tools: [tool], tool_choice: any, max_iterations: 2 };
  for await (const message of client.beta.messages.toolRunner(body)) assert.equal(message.role, "assistant");
  assert.ok(asked.length > 0);
  return `ran ${asked}`;
}

async function parse() {
  const format = zodOutputFormat(z.object({ size: z.enum(["small", "large"]), paid: z.boolean() }));
  const body = { model, max_tokens: 200, messages: [{ role: "user", content: "A large coffee." }], output_config: { format } };
  const message = await client.messages.parse(body);
  assert.ok(["small", "large"].includes(message.parsed_output.size));
  return JSON.stringify(message.parsed_output);
}

async function cache() {
  const text = `${Date.now()} ` + "The harbour of Ithra has two piers, a crane, a lighthouse and a customs house. ".repeat(200);
  const system = [{ type: "text", text, cache_control: { type: "ephemeral" } }];
  const first = await client.messages.create({ model, max_tokens: 8, system, messages: hello });
  const second = await client.messages.create({ model, max_tokens: 8, system, messages: hello });
  assert.ok(first.usage.cache_creation_input_tokens >= 2048);
  assert.equal(second.usage.cache_read_input_tokens, first.usage.cache_creation_input_tokens);
  return `read ${second.usage.cache_read_input_tokens}`;
}

async function batches() {
  const params = { model, max_tokens: 16, messages: hello };
  const requests = [0, 1, 2].map((number) => ({ custom_id: `row-${number}`, params }));
  let batch = await client.messages.batches.create({ requests });
  while (batch.processing_status !== "ended") {
    await new Promise((resolve) => setTimeout(resolve, 200));
    batch = await client.messages.batches.retrieve(batch.id);
  }
  const ids = [];
  for await (const line of await client.messages.batches.results(batch.id)) {
    assert.equal(line.result.type, "succeeded");
    ids.push(line.custom_id);
  }
  assert.deepEqual(ids.sort(), ["row-0", "row-1", "row-2"]);
  return `${ids.length} results`;
}

async function countTokens() {
  return `${(await client.messages.countTokens({ model, messages: hello })).input_tokens} tokens`;
}

async function models() {
  const ids = [];
  for await (const one of client.models.list()) ids.push(one.id);
  assert.ok(ids.includes(model));
  return ids.join(", ");
}

async function errors() {
  const wrong = new Anthropic({ baseURL, apiKey: "wrong", maxRetries: 0 });
  await assert.rejects(wrong.messages.create({ model, max_tokens: 1, messages: hello }), Anthropic.AuthenticationError);
  await assert.rejects(client.messages.create({ model: "claude-9", max_tokens: 1, messages: hello }), Anthropic.NotFoundError);
  await assert.rejects(client.messages.create({ model, max_tokens: 8193, messages: hello }), (error) => {
    assert.ok(error instanceof Anthropic.BadRequestError);
    assert.match(error.message, /max_tokens: 8193 > 8192/);
    return true;
  });
  return "401, 404, 400";
}

const checks = [
  ["create", create],
  ["stream", stream],
  ["tools", toolLoop],
  ["tools", toolInAStream],
  ["tools", toolRunner],
  ["structured output", parse],
  ["cache", cache],
  ["batches", batches],
  ["count tokens", countTokens],
  ["models", models],
  ["errors", errors],
];
for (const [column, check] of checks) {
  const line = { column, check: check.name };
  try {
    Object.assign(line, { ok: true, detail: String(await check()).slice(0, 100) });
  } catch (error) {
    Object.assign(line, { ok: false, detail: String(error.stack) });
  }
  console.log(JSON.stringify(line));
}
