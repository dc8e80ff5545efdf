// The trip example's agent and providers as the outside world of a check, and its tools in the server's catalogue.

import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";

const EXAMPLE = fileURLToPath(new URL("../../../examples/trip/", import.meta.url));

/** Starts `trip.py serve`. `book()` is what it really did. */
export async function providers({ undoMs }) {
  const port = await freePort();
  const dir = mkdtempSync(join(process.env.SCRATCH_DIR ?? tmpdir(), "trip-"));
  const args = [join(EXAMPLE, "trip.py"), "serve", "--port", String(port), "--undo-ms", String(undoMs), "--ledger", join(dir, "ledger.jsonl")];
  const child = spawn("python3", args, { stdio: "ignore" });
  const end = () => child.kill("SIGKILL");
  process.on("exit", end);
  const url = `http://127.0.0.1:${port}`;
  const book = async () => (await fetch(url)).json();
  for (const until = Date.now() + 30_000; ; ) {
    if (await book().catch(() => null)) break;
    if (child.exitCode !== null || Date.now() > until) throw new Error("examples/trip/trip.py serve did not start: it needs python3");
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return {
    url,
    book,
    acts: async () => (await book()).ledger.map(({ what }) => what),
    close() {
      process.off("exit", end);
      end();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

/** Puts the example's tools, and more, into the catalogue, from a page that is signed in. */
export function putTools(page, providers, more = {}) {
  const files = readdirSync(join(EXAMPLE, "tools")).map((file) => [file.replace(".json", ""), JSON.parse(readFileSync(join(EXAMPLE, "tools", file), "utf8").replaceAll("http://127.0.0.1:9100", providers.url))]);
  // What undoes first, then what is undone, then the plan.
  const depth = ([, tool]) => (tool.provider.kind === "steps" ? 2 : tool.compensation ? 1 : 0);
  const tools = [...files.sort((a, b) => depth(a) - depth(b)), ...Object.entries(more)];
  return page.look(async (tools) => {
    for (const [name, tool] of tools) {
      const put = await fetch(`/v1/tools/${name}`, { method: "PUT", body: JSON.stringify(tool) });
      if (!put.ok) throw new Error(`${name}: ${await put.text()}`);
    }
  }, tools);
}

/** Calls a tool and does not wait for it; gives its execution. */
export function callTool(page, name, given) {
  return page.look(
    async (name, given) => {
      const called = await fetch(`/v1/tools/${name}/execute`, { method: "POST", body: JSON.stringify({ arguments: given, wait_ms: 0 }) });
      const said = await called.json();
      if (!said.execution_id) throw new Error(JSON.stringify(said));
      return said.execution_id;
    },
    name,
    given,
  );
}

/** A trip, as its tool wants it. */
export function trip(to, more = {}) {
  return { to, traveller: "anna", nights: 3, budget: 900, card: "4111 1111 1111 1111", ...more };
}

async function freePort() {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address();
  probe.close();
  await once(probe, "close");
  return port;
}
