// checks.py for scripts under Node: arguments, one JSON line a check, what a client lacks, and what must fail.
import assert from "node:assert/strict";

export const ACCESS_KEY = "AKIDFORTHESECHECKS";
export const BREAK_OFF = "Break off in the middle of your answer.";
export const [url, key, stage, limited, tls, ca] = process.argv.slice(2);
const PATIENCE = 0.3; // seconds: whoever was answered faster was not told to wait

/** The client itself has no such thing; the message is a footnote of the table. */
export class Lacks extends Error {}

/** The server does not offer this in the client's shape. */
export class NotServed extends Lacks {}

/** The check of what is not there, and why. has: what of the client is said to be missing. */
export function lacks(why, has = () => undefined, Kind = Lacks) {
  return function lacking() {
    assert.equal(has(), undefined);
    throw new Kind(why);
  };
}

/** A check's result with the client's own class for what went wrong. Others are words, or { detail, note }: with a footnote. */
export const raised = (kind, detail) => ({ raised: kind.name, detail: String(detail) });

export async function report(checks) {
  for (const [column, check] of checks) {
    const line = { column, check: check.name };
    try {
      const result = await check();
      Object.assign(line, { ok: true, ...(result?.detail ? result : { detail: String(result) }) });
      line.detail = line.detail.slice(0, 100);
    } catch (error) {
      const { message, stack } = error;
      const by = error instanceof NotServed ? "server" : "client";
      const lacking = { ok: true, lacks: message, by, detail: message.slice(0, 100) };
      Object.assign(line, error instanceof Lacks ? lacking : { ok: false, detail: String(stack) });
    }
    console.log(JSON.stringify(line));
  }
}

/** Text of more tokens than the least that is cached; begins like no other. */
export function longText() {
  return `${Date.now()} ` + "The harbour of Ithra has two piers, a crane, a lighthouse and a customs house. ".repeat(200);
}

/** What `call` must throw: of this very class. */
export async function caught(kind, call) {
  let got;
  try {
    got = await call();
  } catch (error) {
    assert.equal(error.constructor, kind, `${error.constructor.name}, expected ${kind.name}: ${error.stack}`);
    return error;
  }
  throw new Error(`no ${kind.name}, but ${JSON.stringify(got)}`);
}

/** `read` takes a stream to its end whose answer fails midway: the client must say so, with this very class. */
export async function breaksOff(kind, read) {
  return raised(kind, (await caught(kind, read)).message);
}

/** `ask(most retries)` is refused when the requests of this minute are spent; with retries the client waits and is answered. */
export async function waits(ask, refusal) {
  for (let round = 0; round < 5; round++) {
    await spend(ask, refusal);
    const start = performance.now();
    await ask(5);
    const waited = (performance.now() - start) / 1000;
    if (waited > PATIENCE) return raised(refusal, `${refusal.name}; with retries answered after ${waited.toFixed(1)} s`);
  }
  throw new Error("never had to wait");
}

async function spend(ask, refusal) {
  for (let count = 0; count < 200; count++) {
    try {
      await ask(0);
    } catch (error) {
      assert.equal(error.constructor, refusal, error.stack);
      return;
    }
  }
  throw new Error(`no ${refusal.name} in 200 requests`);
}
