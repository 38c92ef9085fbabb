// Visits the page in a real Chromium: `node visit.mjs CHROMIUM MICROPHONE.wav`, the WAV being what
// the browser takes for a microphone. Each line of standard input is a plan in JSON:
//   scenario    one of those below
//   url         where the server is
//   out         folder for what is downloaded
// Each is answered by one line of JSON with what was seen. `test_page.py` judges it.

import { createRequire } from "node:module";
import net from "node:net";
import { createInterface } from "node:readline";

const require = createRequire(new URL("../../web/package.json", import.meta.url));
const { chromium } = require("playwright-core");

const PATIENCE_MS = 60_000;
const [executablePath, microphone] = process.argv.slice(2);

/** A relay to the server whose connections can be cut like a cable. */
async function relay(url) {
  const { hostname, port } = new URL(url);
  const sockets = new Set();
  let open = true;
  const server = net.createServer((client) => {
    if (!open) return client.destroy();
    const upstream = net.connect(Number(port), hostname);
    for (const [one, other] of [
      [client, upstream],
      [upstream, client],
    ]) {
      sockets.add(one);
      one.pipe(other);
      one.on("error", () => undefined);
      one.on("close", () => {
        sockets.delete(one);
        other.destroy();
      });
    }
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return {
    url: `http://127.0.0.1:${server.address().port}/`,
    cut: () => {
      open = false;
      for (const socket of sockets) socket.destroy();
    },
    mend: () => {
      open = true;
    },
    close: () => server.close(),
  };
}

async function download(page, plan, button) {
  const waiting = page.waitForEvent("download");
  await page.getByRole("button", { name: button, exact: true }).click();
  const file = await waiting;
  const path = `${plan.out}/${file.suggestedFilename()}`;
  await file.saveAs(path);
  return path;
}

async function words(page) {
  return page.locator(".line .words").allInnerTexts();
}

const start = (page) => page.getByRole("button", { name: "Start talking" }).click();

/** Try to talk, and read what the page then says there. */
async function saidAfterStart(page, plan, place) {
  await page.goto(plan.url);
  await start(page);
  await place.waitFor();
  return place.innerText();
}

const SCENARIOS = {
  /**
   * Speak into the microphone until a lookup has brought `answer` (and the model has said `reply`),
   * then take everything home.
   */
  async conversation(page, plan) {
    const formats = [];
    page.on("websocket", (socket) => formats.push(new URL(socket.url()).searchParams.get("audio")));
    await page.goto(plan.url);
    await start(page);
    const answer = page.locator(".note", { hasText: plan.answer }).first();
    await answer.waitFor();
    await page.locator(".line.user").first().waitFor();
    if (plan.reply) {
      await page.locator(".line.model .words", { hasText: plan.reply }).first().waitFor();
      // What is written is heard a moment later: codes follow their text, and wait to be played.
      await page.waitForTimeout(2000);
    }
    const seen = {
      formats,
      answer: await answer.locator(".answer").innerText(),
      source: await answer.locator(".source").first().innerText(),
      user: await page.locator(".line.user .words").allInnerTexts(),
      model: await page.locator(".line.model .words").allInnerTexts(),
      delay: await page.locator(".delay summary b").innerText(),
    };
    await page.keyboard.press("m");
    seen.muted = await page.getByRole("button", { name: "Muted" }).getAttribute("aria-pressed");
    await page.keyboard.press("e");
    seen.sound = await download(page, plan, "Sound");
    seen.script = await download(page, plan, "Script");
    seen.timeline = await download(page, plan, "Timeline");
    return seen;
  },

  /** No microphone is asked for; a sample question is played, as plain samples. */
  async question(page, plan) {
    await page.addInitScript(() => {
      navigator.mediaDevices.getUserMedia = () => Promise.reject(new Error("not to be called"));
      localStorage.setItem("duologue.settings", JSON.stringify({ audio: "pcm16" }));
    });
    const formats = [];
    page.on("websocket", (socket) => formats.push(new URL(socket.url()).searchParams.get("audio")));
    await page.goto(plan.url);
    await page.getByRole("button", { name: "capital of Peru" }).click();
    await page.getByRole("button", { name: "Asking" }).waitFor();
    await page.getByRole("button", { name: "Ask for me" }).waitFor();
    await page.locator(".line.model").first().waitFor();
    await page.getByRole("button", { name: "End" }).click();
    return { formats, sound: await download(page, plan, "Sound") };
  },

  /** A voice is chosen before the conversation, and kept for the next visit. */
  async voice(page, plan) {
    const asked = [];
    page.on("websocket", (socket) => asked.push(new URL(socket.url()).searchParams.get("voice")));
    await page.goto(plan.url);
    const choice = page.getByRole("combobox", { name: "Voice" });
    await choice.waitFor();
    const offered = await choice.locator("option").allInnerTexts();
    await choice.selectOption(plan.voice);
    await page.reload();
    const kept = await choice.inputValue();
    await start(page);
    await page.locator(".line.model").first().waitFor();
    await page.keyboard.press("e");
    await page.locator(".curtain").waitFor();
    return { offered, kept, asked };
  },

  /** The network goes away in the middle and comes back: so does the conversation. */
  async lost(page, plan) {
    const way = await relay(plan.url);
    const sockets = [];
    page.on("websocket", (socket) =>
      sockets.push(new URL(socket.url()).searchParams.has("resume")),
    );
    await page.goto(way.url);
    await start(page);
    await page.locator(".line.model").first().waitFor();
    const before = await words(page);
    way.cut();
    const alarm = await page.locator(".alarm", { hasText: "lost" }).innerText();
    way.mend();
    await page.locator('[data-phase="live"]').waitFor();
    await page.waitForFunction(
      (old) => document.body.innerText.length > old,
      await page.evaluate(() => document.body.innerText.length),
    );
    const after = await words(page);
    await page.keyboard.press("e");
    way.close();
    return { before, after, alarm, sockets };
  },

  /** The server stops (somebody else sees to that): the conversation is over for good. */
  async stopped(page, plan) {
    return { curtain: await saidAfterStart(page, plan, page.locator(".curtain")) };
  },

  /** Files are added, one of which cannot be read. */
  async documents(page, plan) {
    await page.goto(plan.url);
    await page.getByRole("button", { name: "Knowledge" }).click();
    const list = page.locator(".documents");
    await list.locator("li", { hasText: "facts.md" }).waitFor();
    const input = page.locator('input[type="file"]');
    await input.setInputFiles(
      ["one.md", "two.xyz", "three.md"].map((name) => ({
        name,
        mimeType: "text/plain",
        buffer: Buffer.from(`The capital of ${name} is here.\n`),
      })),
    );
    const fault = page.getByRole("alert");
    await fault.waitFor();
    return {
      fault: await fault.innerText(),
      names: await list.locator(".name").allInnerTexts(),
      accepted: await input.getAttribute("accept"),
    };
  },

  /** Every seat is taken. */
  async full(page, plan) {
    return { notice: await saidAfterStart(page, plan, page.getByRole("alert")) };
  },

  /** The server wants a token; a wrong one is said to be wrong, the right one lets in. */
  async token(page, plan) {
    const asked = await saidAfterStart(page, plan, page.getByRole("alert"));
    await page.getByLabel("Token").fill("not the one");
    await page.keyboard.press("Enter");
    await page.getByText("not the right one").waitFor();
    await page.getByLabel("Token").fill(plan.token);
    await page.keyboard.press("Enter");
    await page.locator(".stage").waitFor();
    const address = page.url();
    await page.keyboard.press("e");
    await page.locator(".curtain").waitFor();
    return { asked, address };
  },

  /** Plain http on a host that is not this computer. */
  async insecure(page, plan) {
    return { notice: await saidAfterStart(page, plan, page.getByRole("alert")) };
  },

  /** The browser does not let the page hear anything. */
  async denied(page, plan) {
    await page.addInitScript(() => {
      navigator.mediaDevices.getUserMedia = () =>
        Promise.reject(new DOMException("", "NotAllowedError"));
    });
    return { notice: await saidAfterStart(page, plan, page.getByRole("alert")) };
  },
};

const browser = await chromium.launch({
  executablePath,
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP duologue.example 127.0.0.1",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    `--use-file-for-fake-audio-capture=${microphone}`,
  ],
});

async function visit(plan) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
  context.setDefaultTimeout(PATIENCE_MS);
  try {
    const page = await context.newPage();
    const faults = [];
    page.on("pageerror", (error) => faults.push(error.message));
    page.on("console", (line) => {
      if (/Content.Security.Policy/i.test(line.text())) faults.push(line.text());
    });
    return { ...(await SCENARIOS[plan.scenario](page, plan)), faults };
  } catch (error) {
    return { faults: [String(error)] };
  } finally {
    await context.close();
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await visit(JSON.parse(line))));
}
await browser.close();
