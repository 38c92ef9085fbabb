// Takes the pictures in docs/screenshots: the built page, the development server, a real Chromium.
//
//   ./dev/voices.sh && npm run build && npm run screenshots      # all of them
//   npm run screenshots -- welcome phone-talking                 # some
//
// CHROMIUM names the browser (default /usr/bin/chromium).

import { mkdirSync } from "node:fs";
import { chromium } from "playwright-core";
import { preview } from "vite";

const OUT = process.env.SCREENSHOTS ?? new URL("../../docs/screenshots", import.meta.url).pathname;
const PORT = 5199;
const PAGE = `http://localhost:${PORT}/`;
const DESKTOP = { width: 1280, height: 800 };
const PHONE = { width: 390, height: 844 };

const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const dev = (path) => fetch(`${PAGE}dev/${path}`, { method: "POST" });

/** Ask the first question and let the second one cut in. */
async function talk(page, { answered = true } = {}) {
  await page.getByRole("button", { name: "capital of Peru" }).click();
  await page.locator(".note").first().waitFor();
  if (!answered) return pause(700);
  await page.locator(".note.told").first().waitFor();
  await page.locator(".line.model .words", { hasText: "by the sea" }).waitFor();
  await page.keyboard.press("2");
  await page.locator(".note.told").nth(1).waitFor({ state: "attached" });
  return pause(2300);
}

const SCENES = {
  welcome: { run: () => pause(400) },
  "welcome-dark": { dark: true, run: () => pause(400) },
  talking: { run: (page) => talk(page) },
  "talking-dark": { dark: true, run: (page) => talk(page) },
  "looking-up": {
    before: () => dev("slow?ms=6000"),
    run: (page) => talk(page, { answered: false }),
    after: () => dev("slow?ms=900"),
  },
  delay: {
    run: async (page) => {
      await talk(page, { answered: false });
      await page.locator(".delay summary").click();
    },
  },
  full: {
    before: () => dev("scene?name=full"),
    run: async (page) => {
      await page.getByRole("button", { name: "Start talking" }).click();
      await page.getByText("Every seat is taken").waitFor();
      await pause(900);
    },
    after: () => dev("scene?name=normal"),
  },
  token: {
    before: () => dev("scene?name=token"),
    run: async (page) => {
      await page.getByRole("button", { name: "Start talking" }).click();
      await page.getByText("asks for a token").waitFor();
    },
    after: () => dev("scene?name=normal"),
  },
  lost: {
    run: async (page) => {
      await talk(page, { answered: true });
      await dev("scene?name=gone");
      await dev("drop");
      await page.getByText("The connection was lost").first().waitFor();
      await pause(600);
    },
    after: () => dev("scene?name=normal"),
  },
  ended: {
    run: async (page) => {
      await talk(page);
      await page.getByRole("button", { name: "End" }).click();
      await pause(300);
    },
  },
  knowledge: {
    run: async (page) => {
      await page.getByRole("button", { name: "Knowledge" }).click();
      await page.getByRole("searchbox").fill("What is the capital of Peru?");
      await page.keyboard.press("Enter");
      await page.locator("blockquote").waitFor();
      await pause(400);
    },
  },
  settings: {
    run: async (page) => {
      await page.getByRole("button", { name: "Settings" }).click();
      await pause(500);
    },
  },
  denied: {
    deny: true,
    run: async (page) => {
      await page.getByRole("button", { name: "Start talking" }).click();
      await page.getByText("The microphone is blocked").waitFor();
    },
  },
  insecure: {
    url: `http://duologue.example:${PORT}/`,
    run: async (page) => {
      await page.getByRole("button", { name: "Start talking" }).click();
      await page.getByText("not safe enough").waitFor();
    },
  },
  "phone-welcome": { size: PHONE, run: () => pause(400) },
  "phone-talking": { size: PHONE, run: (page) => talk(page) },
  "phone-talking-dark": { size: PHONE, dark: true, run: (page) => talk(page) },
  "phone-full": {
    size: PHONE,
    before: () => dev("scene?name=full"),
    run: async (page) => {
      await page.getByRole("button", { name: "Start talking" }).click();
      await page.getByText("Every seat is taken").waitFor();
    },
    after: () => dev("scene?name=normal"),
  },
  "phone-ended": {
    size: PHONE,
    run: async (page) => {
      await talk(page);
      await page.getByRole("button", { name: "End" }).click();
      await pause(300);
    },
  },
};

const wanted = process.argv.slice(2);
mkdirSync(OUT, { recursive: true });
const server = await preview({
  preview: { port: PORT, strictPort: true, allowedHosts: true },
  logLevel: "error",
});
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP duologue.example 127.0.0.1",
    "--autoplay-policy=no-user-gesture-required",
  ],
});
try {
  for (const [name, scene] of Object.entries(SCENES)) {
    if (wanted.length > 0 && !wanted.includes(name)) continue;
    await scene.before?.();
    const context = await browser.newContext({
      viewport: scene.size ?? DESKTOP,
      colorScheme: scene.dark ? "dark" : "light",
      hasTouch: scene.size === PHONE,
    });
    const page = await context.newPage();
    page.on("pageerror", (error) => console.error(`${name}: ${error.message}`));
    page.on(
      "console",
      (line) => line.type() === "error" && console.error(`${name}: ${line.text()}`),
    );
    if (scene.deny) {
      await page.addInitScript(() => {
        navigator.mediaDevices.getUserMedia = () =>
          Promise.reject(new DOMException("", "NotAllowedError"));
      });
    }
    await page.goto(scene.url ?? PAGE);
    await page.evaluate(() => document.fonts.ready);
    await scene.run(page);
    await page.screenshot({ path: `${OUT}/${name}.png` });
    await context.close();
    await scene.after?.();
    console.log(name);
  }
} finally {
  await browser.close();
  await server.close();
}
