// Finds the published SDK. It is installed outside the source tree, so Node's own lookup would not see it.

import { createRequire } from "node:module";
import { join } from "node:path";

const NAME = "@hatchet-dev/typescript-sdk";

function load() {
  const dir = process.env.SDK_PACKAGES_DIR;
  if (!dir) throw new Error("SDK_PACKAGES_DIR is not set: start this through run.mjs");
  return createRequire(join(dir, "package.json"))(NAME);
}

export const { HatchetClient, NonRetryableError, Priority, RateLimitDuration, V1LogLineLevel, V1LogLineOrderByDirection, WorkerLabelComparator } = load();

/** A client configured as a user would do it: by HATCHET_CLIENT_TOKEN and HATCHET_CLIENT_TLS_STRATEGY. */
export function connect(options = {}) {
  return HatchetClient.init(options);
}
