// A worker that prepares orders: `node worker.mjs`. It is ordinary Hatchet code; the server behind it is Mainspring.

import { HatchetClient } from "@hatchet-dev/typescript-sdk";

// Where the server is and who we are: both are in HATCHET_CLIENT_TOKEN.
const hatchet = HatchetClient.init();

// A task that sometimes fails, as a carrier's website does. It is tried again up to five times, with growing pauses.
const askCarrier = hatchet.task({
  name: "ask-carrier",
  retries: 5,
  backoff: { factor: 2, maxSeconds: 10 },
  fn: async (input, ctx) => {
    if (Math.random() < 0.5) throw new Error(`the carrier did not answer attempt ${ctx.retryCount() + 1}`);
    return { city: input.city, days: 1 + input.city.length % 3 };
  },
});

// A workflow of two steps: the second begins when the first is done, and gets its output.
const order = hatchet.workflow({ name: "order" });

const price = order.task({
  name: "price",
  fn: async (input) => ({ total: input.items.reduce((sum, { count, each }) => sum + count * each, 0) }),
});

order.task({
  name: "confirm",
  parents: [price],
  // It waits for its child, which may need some pauses.
  executionTimeout: "5m",
  fn: async (input, ctx) => {
    const { total } = await ctx.parentOutput(price);
    // A child: a run of its own, with its own retries. Should this worker die here, another one finds the same child.
    const { days } = await askCarrier.run({ city: input.city });
    await ctx.logger.info(`confirmed for ${input.city}`);
    return { text: `${total} euros, days until it is in ${input.city}: ${days}` };
  },
});

const worker = await hatchet.worker("orders", { workflows: [askCarrier, order], slots: 10 });
await worker.start();
