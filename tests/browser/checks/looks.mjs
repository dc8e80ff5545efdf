// How every page looks: nothing wider than the screen, all text readable, in light and dark, on a desk and on a phone.
//
// It also takes the pictures. `chat-light.png` is the one in the README.

import { join } from "node:path";

import { expect } from "../expect.mjs";
import { DRAFT, PANEL, TRACE, answered, openChat } from "./talk.mjs";

/** WCAG 2.2, 1.4.3: the least contrast of text, and of large text. The body's own text gets more than the least. */
const CONTRAST_MIN = 4.5;
const CONTRAST_LARGE_MIN = 3;
const CONTRAST_BODY_MIN = 7;

const DESK = { width: 1280, height: 860 };
const PHONE = { width: 390, height: 844, phone: true, scale: 2 };
const LONG = "https://example.org/a-word-that-nobody-can-break-".padEnd(160, "0123456789");

export const SCREENS = [
  { name: "light", ...DESK },
  { name: "dark", ...DESK, dark: true },
  { name: "phone", ...PHONE },
  { name: "phone-dark", ...PHONE, dark: true },
];

export const looks = SCREENS.map((screen) => ({
  name: `every page fits and is readable: ${screen.name}`,
  environment: { MAINSPRING_DEV_QUIET_MS: "900", MAINSPRING_DEV_TOOL_MS: "3000", MAINSPRING_DEV_WORD_MS: "120" },
  async run(t) {
    const page = await openChat(t, screen);
    const seen = async (name) => {
      await fits(page, name);
      await readable(page, name, screen.dark);
      if (t.pictures) await page.picture(join(t.pictures, `${name}-${screen.name}.png`));
    };
    await seen("empty-chat");
    for (const text of ["hello, where is order 1042?", "and what about 1044", "I ordered them in March"]) await page.say(text);
    await answered(page, ["hello, where is order 1042?", "and what about 1044", "I ordered them in March"]);
    await page.say("is 1051 on its way too?");
    await page.sees(`${DRAFT} ${TRACE}`, "waits 900 ms");
    await seen("chat-window");
    // Carried over, with what the carrier said.
    await page.sees(`${DRAFT} .caption`, "writing the answer");
    await page.say("the oilers");
    await page.sees(`${DRAFT} ${TRACE}`, "used again");
    await page.sees(`${DRAFT} .bubble`, "Order 1051");
    await page.say("and 1043?");
    await page.sees('[data-testid="message"][data-state="queued"] .caption', "queued");
    await seen("chat");
    await answered(page, ["is 1051 on its way too?", "the oilers"]);
    await answered(page, ["and 1043?"]);
    await page.say(LONG);
    await answered(page, [LONG]);
    await page.until("the last turn to be over", (draft) => !document.querySelector(draft), DRAFT);
    await seen("long-chat");
    if (!screen.phone) await page.sees(`${PANEL} .badge`, "completed");

    const turns = await page.look(() => [...new Set([...document.querySelectorAll("#items a")].map((link) => link.getAttribute("href")))]);
    expect(turns.length === 5, `the conversation should link to its five turns, it links to ${turns.length}`);
    for (const [nth, turn] of turns.entries()) {
      await page.goto(t.server.url + turn);
      await page.sees('[data-testid="turn-state"]');
      await seen(`turn-${nth + 1}`);
    }
    for (const [name, path, selector] of [
      ["overview", "/", "h1"],
      ["runs", "/runs", '[data-testid="run-row"]'],
      ["runs-none", "/runs?workflow=nothing-of-that-name", ".empty"],
      ["run", turns[2].replace("turns", "runs"), '[data-testid="journal-row"]'],
      ["login", "/login", "h1"],
    ]) {
      await page.goto(t.server.url + path);
      await page.sees(selector);
      await seen(name);
    }
    await page.goto(`${t.server.url}/turns/00000000-0000-0000-0000-000000000000`);
    await page.sees(".status", "404");
    await seen("error");
    page.faults = page.faults.filter((fault) => !fault.endsWith("/turns/00000000-0000-0000-0000-000000000000: status 404"));
  },
  breaks: [
    { why: "long words are not broken", patches: [{ file: "style.css", from: "overflow-wrap: anywhere", to: "overflow-wrap: normal" }] },
    { why: "a page is wider than the screen", patches: [{ file: "style.css", from: ".foot { display: flex", to: ".foot { width: 1300px; display: flex" }] },
    { why: "captions are too pale", patches: [{ file: "style.css", from: screen.dark ? "--muted: #a59f94" : "--muted: #67625a", to: screen.dark ? "--muted: #605d57" : "--muted: #a8a49c" }] },
    ...(screen.dark
      ? [{ why: "there is no dark scheme", patches: [{ file: "style.css", from: "(prefers-color-scheme: dark)", to: "(prefers-color-scheme: none)" }] }]
      : [{ why: "it is always dark", patches: [{ file: "style.css", from: "(prefers-color-scheme: dark)", to: "all" }] }]),
  ],
}));

/** Nothing makes the page wider than the screen, and nothing a person should see is cut off at its edge. */
export async function fits(page, name) {
  const wide = await page.look(() => {
    const width = document.documentElement.clientWidth;
    // What a box of its own scrolls or cuts is that box's business.
    const contained = (element) => {
      for (let box = element.parentElement; box && box !== document.body; box = box.parentElement) {
        if (getComputedStyle(box).overflowX !== "visible" && box.getBoundingClientRect().right <= width + 1) return true;
      }
      return false;
    };
    const out = [...document.body.querySelectorAll("*")].filter((element) => {
      const box = element.getBoundingClientRect();
      return box.width > 0 && box.right > width + 1 && element.checkVisibility() && !contained(element);
    });
    // A box of text that scrolls sideways is cut off all the same; code may.
    const scrolling = [...document.body.querySelectorAll("*")].filter((element) => element.scrollWidth > element.clientWidth + 1 && /auto|scroll/.test(getComputedStyle(element).overflowX) && !element.closest("pre, textarea"));
    const told = (element) => `${element.tagName.toLowerCase()}.${element.className} (${element.innerText?.slice(0, 40)})`;
    return { width, scroll: document.scrollingElement.scrollWidth, inner: window.innerWidth, out: [...out, ...scrolling].slice(0, 3).map(told) };
  });
  expect(wide.scroll <= wide.width && wide.inner <= wide.width + 1 && wide.out.length === 0, `${name} should fit into ${wide.width} px: it is ${Math.max(wide.scroll, wide.inner)} px wide; ${wide.out.join(", ")}`);
}

/** The contrast of every piece of text with what is behind it, worked out from the colours the browser computed. */
export async function readable(page, name, dark) {
  // While something fades in or breathes, its colours are on their way.
  await page.until("animations of arrival to end", () => document.getAnimations().every((one) => one.effect.getComputedTiming().iterations === Infinity));
  const { body, ground, poor, count } = await page.look(contrasts);
  expect(count > 3, `${name} should have text, found ${count} pieces`);
  expect(dark ? ground < 0.05 : ground > 0.8, `${name} should be ${dark ? "dark" : "light"}, the luminance of its ground is ${ground.toFixed(3)}`);
  expect(body >= CONTRAST_BODY_MIN, `${name}: the body's text has a contrast of ${body.toFixed(1)}, ${CONTRAST_BODY_MIN} is wanted`);
  const bad = poor.filter(({ contrast, large }) => contrast < (large ? CONTRAST_LARGE_MIN : CONTRAST_MIN));
  expect(bad.length === 0, `${name}: hard to read: ${bad.slice(0, 4).map(({ contrast, text, colours }) => `"${text}" (${contrast.toFixed(2)}, ${colours})`).join("; ")}`);
}

function contrasts() {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  // Through a canvas, because computed colours come in many notations.
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], [x, y, z]) => [r * a + x * (1 - a), g * a + y * (1 - a), b * a + z * (1 - a), 1];
  const behind = (element) => {
    const layers = [];
    for (let box = element; box; box = box.parentElement) layers.unshift(rgba(getComputedStyle(box).backgroundColor));
    return layers.reduce((below, layer) => over(layer, below), [255, 255, 255, 1]);
  };
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const contrast = (a, b) => {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const of = (element) => {
    const ground = behind(element);
    return contrast(over(rgba(getComputedStyle(element).color), ground), ground);
  };
  const poor = [];
  let count = 0;
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    const text = texts.currentNode.data.trim();
    if (!text || element.closest("script, noscript, option, .sr-only, .skip, :disabled") || !element.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
    count += 1;
    const { fontSize, fontWeight, color } = getComputedStyle(element);
    const large = parseFloat(fontSize) >= 24 || (parseFloat(fontSize) >= 18.66 && Number(fontWeight) >= 700);
    poor.push({ contrast: of(element), large, text: text.slice(0, 40), colours: `${color} on ${behind(element).slice(0, 3).map(Math.round)}` });
  }
  return { body: of(document.body), ground: luminance(behind(document.body)), poor, count };
}
