// What an application does with the official TypeScript client for Vertex AI, under Node: BASE_URL KEY. Reports as checks.py does.
import assert from "node:assert/strict";
import { AnthropicVertex } from "@anthropic-ai/vertex-sdk";

const [url, key] = process.argv.slice(2);
const place = { baseURL: `${url}/vertex/v1`, region: "us-east5", projectId: "a-project", maxRetries: 0 };
// its `accessToken` is not sent: without an authClient it asks Google for a token
const bearer = (token) => ({ getRequestHeaders: async () => new Headers({ authorization: `Bearer ${token}` }) });
const client = new AnthropicVertex({ ...place, authClient: bearer(key) });
const model = "claude-3-5-haiku@20241022";
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
  assert.equal(message.model, "claude-3-5-haiku-20241022");
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
  const [call] = first.content;
  const result = { type: "tool_result", tool_use_id: call.id, content: "12 degrees" };
  const messages = [...ask, { role: "assistant", content: first.content }, { role: "user", content: [result] }];
  const second = await client.messages.create({ model, max_tokens: 64, messages, tools, tool_choice: { type: "none" } });
  return `${JSON.stringify(call.input)}, then ${second.stop_reason}`;
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

async function countTokens() {
  return `${(await client.messages.countTokens({ model, messages: hello })).input_tokens} tokens`;
}

async function errors() {
  const status = (wanted, words) => (error) => {
    assert.equal(error.status, wanted);
    assert.match(error.message, words);
    return true;
  };
  const wrong = new AnthropicVertex({ ...place, authClient: bearer("wrong") });
  const body = { model, max_tokens: 1, messages: hello };
  await assert.rejects(wrong.messages.create(body), status(401, /UNAUTHENTICATED/));
  await assert.rejects(client.messages.create({ ...body, model: "claude-9" }), status(404, /models\/claude-9/));
  await assert.rejects(client.messages.create({ ...body, max_tokens: 8193 }), status(400, /max_tokens: 8193 > 8192/));
  return "401, 404, 400";
}

const checks = [
  ["create", create],
  ["stream", stream],
  ["tools", toolLoop],
  ["cache", cache],
  ["count tokens", countTokens],
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
