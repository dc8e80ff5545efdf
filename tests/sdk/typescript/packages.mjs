// Installs the SDK, exactly as locked, into a directory that git ignores.

import { spawnSync } from "node:child_process";
import { copyFile, mkdir, readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const HERE = dirname(fileURLToPath(import.meta.url));
/** The root of the repository is three directories up; `target` is where everything built goes. */
const DEFAULT_DIR = join(HERE, "..", "..", "..", "target", "sdk-typescript");
const SDK = "@hatchet-dev/typescript-sdk";

/** Gives the directory with `node_modules`, installed if it is not there in the wanted version. */
export async function installed(dir = DEFAULT_DIR) {
  const wanted = JSON.parse(await readFile(join(HERE, "package.json"), "utf8")).dependencies[SDK];
  const found = await readFile(join(dir, "node_modules", SDK, "package.json"), "utf8").then((text) => JSON.parse(text).version, () => null);
  if (found === wanted) return dir;
  await mkdir(dir, { recursive: true });
  for (const file of ["package.json", "package-lock.json"]) await copyFile(join(HERE, file), join(dir, file));
  console.log(`installing ${SDK} ${wanted} into ${dir}`);
  // No package needs its install scripts here, and a test has no business running them.
  const npm = spawnSync("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"], { cwd: dir, stdio: ["ignore", "inherit", "inherit"] });
  if (npm.status !== 0) throw new Error(`npm ci in ${dir} ended with ${npm.error ?? npm.status ?? npm.signal}`);
  return dir;
}
