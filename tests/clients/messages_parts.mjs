// What the official clients of TypeScript do alike, wherever they call: checks over an Anthropic, AnthropicBedrock or AnthropicVertex.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { BREAK_OFF, breaksOff, longText, waits } from "./checks.mjs";

export const hello = [{ role: "user", content: "Hello! What can you do?" }];
export const ask = [{ role: "user", content: "What is the weather in Bonn?" }];
export const any = { type: "any", disable_parallel_tool_use: true };
const city = { type: "object", properties: { city: { enum: ["Bonn", "Oslo"] } }, required: ["city"], additionalProperties: false };
const tools = [{ name: "get_weather", description: "The weather in a city", input_schema: city }];

/** Checks of one client, by name. */
export function basics(client, model) {
  return {
    async stream() {
      let text = "";
      const events = client.messages.stream({ model, max_tokens: 64, messages: hello }).on("text", (piece) => (text += piece));
      const final = await events.finalMessage();
      assert.equal(text, final.content.map((block) => block.text).join(""));
      return `${final.usage.output_tokens} tokens`;
    },

    async toolLoop() {
      const first = await client.messages.create({ model, max_tokens: 200, messages: ask, tools, tool_choice: any });
      assert.equal(first.stop_reason, "tool_use");
      assert.equal(first.content.length, 1);
      const [call] = first.content;
      const result = { type: "tool_result", tool_use_id: call.id, content: "12 degrees" };
      const messages = [...ask, { role: "assistant", content: first.content }, { role: "user", content: [result] }];
      const second = await client.messages.create({ model, max_tokens: 64, messages, tools, tool_choice: { type: "none" } });
      return `${JSON.stringify(call.input)}, then ${second.stop_reason}`;
    },

    async toolInAStream() {
      let json = "";
      const events = client.messages
        .stream({ model, max_tokens: 200, messages: ask, tools, tool_choice: any })
        .on("inputJson", (piece) => (json += piece));
      const [call] = (await events.finalMessage()).content;
      assert.deepEqual(JSON.parse(json), call.input);
      return json;
    },

    async structured() {
      const output_config = { format: { type: "json_schema", schema: city } };
      const message = await client.messages.create({ model, max_tokens: 64, messages: ask, output_config });
      assert.ok(["Bonn", "Oslo"].includes(JSON.parse(message.content[0].text).city));
      return message.content[0].text;
    },

    async cache() {
      const system = [{ type: "text", text: longText(), cache_control: { type: "ephemeral" } }];
      const first = await client.messages.create({ model, max_tokens: 8, system, messages: hello });
      const second = await client.messages.create({ model, max_tokens: 8, system, messages: hello });
      assert.ok(first.usage.cache_creation_input_tokens >= 2048);
      assert.equal(second.usage.cache_read_input_tokens, first.usage.cache_creation_input_tokens);
      return `read ${second.usage.cache_read_input_tokens}`;
    },

    async documents() {
      const data = "The bridge opened in 1911. It is painted green.";
      const document = { type: "document", source: { type: "text", media_type: "text/plain", data }, citations: { enabled: true } };
      const content = [document, { type: "text", text: "When did the bridge open?" }];
      const begun = { role: "assistant", content: "The bridge opened in 1911" }; // a small model writes no such thing by itself
      const found = [];
      for (let round = 0; round < 9; round++) {
        const message = await client.messages.create({ model, max_tokens: 2, messages: [{ role: "user", content }, begun] });
        for (const block of message.content) found.push(...(block.citations ?? []));
      }
      assert.ok(found.length > 0);
      for (const one of found) assert.equal(data.slice(one.start_char_index, one.end_char_index), one.cited_text);
      return `${found.length} citations`;
    },
  };
}

/** client: of the limited server. */
export function retried(client, model) {
  const ask = (maxRetries) => client.messages.create({ model, max_tokens: 1, messages: hello }, { maxRetries });
  return waits(ask, Anthropic.RateLimitError);
}

/** client: of the stage. */
export function broken(client, model) {
  const messages = [{ role: "user", content: BREAK_OFF }];
  return breaksOff(Anthropic.APIError, () => client.messages.stream({ model, max_tokens: 500, messages }).finalText());
}
