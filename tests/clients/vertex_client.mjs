// What an application does with the official TypeScript client for Vertex AI, under Node.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { AnthropicVertex } from "@anthropic-ai/vertex-sdk";
import { caught, key, lacks, limited, raised, report, stage, url } from "./checks.mjs";
import { basics, broken, hello, retried } from "./messages_parts.mjs";

const place = { region: "us-east5", projectId: "a-project", maxRetries: 0 };
// its `accessToken` is not sent: without an authClient it asks Google for a token
const bearer = (token) => ({ getRequestHeaders: async () => new Headers({ authorization: `Bearer ${token}` }) });
const to = (server, token = key) =>
  new AnthropicVertex({ ...place, baseURL: `${server}/vertex/v1`, authClient: bearer(token) });
const client = to(url);
const model = "claude-3-5-haiku@20241022";
const { stream, toolLoop, toolInAStream, structured, cache, documents } = basics(client, model);

async function create() {
  const message = await client.messages.create({ model, max_tokens: 64, messages: hello, system: "Be brief." });
  assert.equal(message.model, "claude-3-5-haiku-20241022");
  assert.match(message._request_id, /^req_/);
  return `${message.usage.output_tokens} tokens`;
}

async function countTokens() {
  return `${(await client.messages.countTokens({ model, messages: hello })).input_tokens} tokens`;
}

async function wrongKey() {
  const ask = () => to(url, "wrong").messages.create({ model, max_tokens: 1, messages: hello });
  const error = await caught(Anthropic.AuthenticationError, ask);
  assert.match(error.message, /UNAUTHENTICATED/);
  return raised(Anthropic.AuthenticationError, error.message);
}

async function errors() {
  const body = { model, max_tokens: 1, messages: hello };
  const missing = await caught(Anthropic.NotFoundError, () => client.messages.create({ ...body, model: "claude-9" }));
  assert.match(missing.message, /models\/claude-9/);
  const bad = await caught(Anthropic.BadRequestError, () => client.messages.create({ ...body, max_tokens: 8193 }));
  assert.match(bad.message, /max_tokens: 8193 > 8192/);
  return "404, 400";
}

const retries = () => retried(to(limited), model);
const midStream = () => broken(to(stage), model);
const lacking = (name, has) => lacks(`@anthropic-ai/vertex-sdk has no \`${name}\`.`, has);

await report([
  ["create", create],
  ["stream", stream],
  ["tools", toolLoop],
  ["tools", toolInAStream],
  ["structured output", structured],
  ["cache", cache],
  ["documents", documents],
  ["batches", lacking("messages.batches", () => client.messages.batches)],
  ["count tokens", countTokens],
  ["models", lacking("models", () => client.models)],
  ["errors", wrongKey],
  ["errors", errors],
  ["retries", retries],
  ["mid-stream", midStream],
]);
