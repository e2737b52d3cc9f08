// What an application does with the official TypeScript SDK, under Node.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import { betaZodTool } from "@anthropic-ai/sdk/helpers/beta/zod";
import { z } from "zod/v4";
import { caught, key, limited, raised, report, stage, url } from "./checks.mjs";
import { any, ask, basics, broken, hello, retried } from "./messages_parts.mjs";

const to = (baseURL, apiKey = key) => new Anthropic({ baseURL, apiKey, maxRetries: 0 });
const client = to(url);
const model = "claude-3-5-haiku-20241022";
const { stream, toolLoop, toolInAStream, structured, cache, documents } = basics(client, model);

async function create() {
  const message = await client.messages.create({ model, max_tokens: 64, messages: hello, system: "Be brief." });
  assert.equal(message.model, model);
  assert.equal(message.stop_sequence, null);
  assert.match(message._request_id, /^req_/);
  return `${message.usage.output_tokens} tokens`;
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

async function wrongKey() {
  const ask = () => to(url, "wrong").messages.create({ model, max_tokens: 1, messages: hello });
  return raised(Anthropic.AuthenticationError, (await caught(Anthropic.AuthenticationError, ask)).message);
}

async function errors() {
  await caught(Anthropic.NotFoundError, () => client.messages.create({ model: "claude-9", max_tokens: 1, messages: hello }));
  const bad = await caught(Anthropic.BadRequestError, () => client.messages.create({ model, max_tokens: 8193, messages: hello }));
  assert.match(bad.message, /max_tokens: 8193 > 8192/);
  return "404, 400";
}

const retries = () => retried(to(limited), model);
const midStream = () => broken(to(stage), model);

await report([
  ["create", create],
  ["stream", stream],
  ["tools", toolLoop],
  ["tools", toolInAStream],
  ["tools", toolRunner],
  ["structured output", parse],
  ["structured output", structured],
  ["cache", cache],
  ["documents", documents],
  ["batches", batches],
  ["count tokens", countTokens],
  ["models", models],
  ["errors", wrongKey],
  ["errors", errors],
  ["retries", retries],
  ["mid-stream", midStream],
]);
