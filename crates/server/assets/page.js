// On every page: ages and durations move on.

import { tick } from "./lib.js";

const TICK_MS = 200;

tick();
setInterval(() => {
  if (!document.hidden) tick();
}, TICK_MS);
