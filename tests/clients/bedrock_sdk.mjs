// What an application does with the official TypeScript client for Amazon Bedrock, under Node: signed, and with a bearer key.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { AnthropicBedrock } from "@anthropic-ai/bedrock-sdk";
import { ACCESS_KEY, caught, key, lacks, limited, raised, report, stage, tls, url } from "./checks.mjs";
import { basics, broken, hello, retried } from "./messages_parts.mjs";

const place = { awsRegion: "us-east-1", maxRetries: 0 };
const to = (server, awsSecretKey = key) =>
  new AnthropicBedrock({ ...place, baseURL: `${server}/bedrock`, awsAccessKey: ACCESS_KEY, awsSecretKey });
const bearer = (server, apiKey = key) => new AnthropicBedrock({ ...place, baseURL: `${server}/bedrock`, apiKey });
const client = to(url);
const model = "us.anthropic.claude-3-5-haiku-20241022-v1:0";
const { stream, toolLoop, toolInAStream, structured, cache, documents } = basics(client, model);

async function create() {
  for (const one of [client, bearer(url), bearer(tls)]) {
    const message = await one.messages.create({ model, max_tokens: 64, messages: hello, system: "Be brief." });
    assert.equal(message.model, "claude-3-5-haiku-20241022");
    assert.ok(message.usage.output_tokens > 0);
  }
  return "signed, with a bearer key, and so over HTTPS";
}

async function wrongKey() {
  const ask = (one) => () => one.messages.create({ model, max_tokens: 1, messages: hello });
  await caught(Anthropic.PermissionDeniedError, ask(to(url, "wrong")));
  const error = await caught(Anthropic.PermissionDeniedError, ask(bearer(url, "wrong")));
  return raised(Anthropic.PermissionDeniedError, error.message);
}

async function errors() {
  const body = { model, max_tokens: 1, messages: hello };
  await caught(Anthropic.NotFoundError, () => client.messages.create({ ...body, model: "anthropic.claude-9" }));
  await caught(Anthropic.BadRequestError, () => client.messages.create({ ...body, max_tokens: 8193 }));
  await caught(Anthropic.BadRequestError, () => client.messages.create({ ...body, max_tokens: 8193, stream: true }));
  return "404, 400";
}

const retries = () => retried(to(limited), model);
const midStream = () => broken(to(stage), model);
const lacking = (name, has) => lacks(`@anthropic-ai/bedrock-sdk has no \`${name}\`.`, has);

await report([
  ["create", create],
  ["stream", stream],
  ["tools", toolLoop],
  ["tools", toolInAStream],
  ["structured output", structured],
  ["cache", cache],
  ["documents", documents],
  ["batches", lacking("messages.batches", () => client.messages.batches)],
  ["count tokens", lacks("@anthropic-ai/bedrock-sdk leaves `messages.countTokens` out of its types: it would ask at an address that Bedrock has not.")],
  ["models", lacking("models", () => client.models)],
  ["errors", wrongKey],
  ["errors", errors],
  ["retries", retries],
  ["mid-stream", midStream],
]);
