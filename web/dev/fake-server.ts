/**
 * A server to design against: the dialect `events` of `/api/chat`, with a script instead of a model.
 *
 * It runs inside `npm run dev` and is no part of the page. It speaks plain samples only, answers
 * the page's sample questions in their order, and plays the files that `voices.sh` makes.
 * `POST /dev/scene?name=full|token|normal` sets how it treats visitors, `POST /dev/drop` cuts all
 * connections, `POST /dev/slow?ms=4000` how long a lookup takes.
 */

import { readFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Plugin, PreviewServer, ViteDevServer } from "vite";
import { type WebSocket, WebSocketServer } from "ws";

const FRAME = 1920;
const RATE = 24_000;
const FRAME_MS = 80;
const TOKEN = "a-token-for-development";

interface Answer {
  question: string;
  words: string;
  file: string;
  lookup?: { text: string; place: string };
}

const GREETING: Answer = {
  question: "",
  words: "Hello. What would you like to know?",
  file: "greeting",
};
const ANSWERS: readonly Answer[] = [
  {
    question: "What is the capital of Peru?",
    words:
      "Let me look. The capital of Peru is Lima. It lies by the sea, and about ten million people live there.",
    file: "capital",
    lookup: { text: "The capital of Peru is Lima.", place: "Peru" },
  },
  {
    question: "Which currency do they use in Japan?",
    words: "In Japan they pay with the yen.",
    file: "currency",
    lookup: { text: "The currency of Japan is the yen.", place: "Japan" },
  },
  {
    question: "When was helium discovered?",
    words: "Helium was discovered in eighteen sixty-eight.",
    file: "element",
    lookup: { text: "Helium was discovered in 1868.", place: "helium" },
  },
];

/** A WAV file of `voices.sh` (16 kHz, 16 bit) at 24 kHz; silence when it was not made. */
function voice(file: string): Float32Array {
  let bytes: Buffer;
  try {
    bytes = readFileSync(new URL(`voices/${file}.wav`, import.meta.url));
  } catch {
    return new Float32Array(RATE);
  }
  const count = (bytes.length - 44) >> 1;
  const out = new Float32Array(Math.floor(count * 1.5));
  for (let i = 0; i < out.length; i++) {
    const at = i / 1.5;
    const left = Math.min(count - 1, Math.floor(at));
    const right = Math.min(count - 1, left + 1);
    const a = bytes.readInt16LE(44 + 2 * left);
    const b = bytes.readInt16LE(44 + 2 * right);
    out[i] = (a + (at - left) * (b - a)) / 32768;
  }
  return out;
}

class Conversation {
  private socket: WebSocket | undefined;
  private frame = 0;
  private turn = -1;
  private asked = 0;
  private heard = 0;
  private quiet = 0;
  private speech: { pcm: Float32Array; at: number; words: string[]; said: number } | undefined;
  private due: { frame: number; action: () => void }[] = [];

  constructor(
    readonly token: string,
    private readonly lookupMs: () => number,
    greets: boolean,
  ) {
    if (greets) this.later(500, () => this.say(GREETING));
  }

  join(socket: WebSocket, resumed: boolean): void {
    this.socket?.terminate();
    this.socket = socket;
    socket.send(Buffer.of(0));
    this.event({
      type: "session",
      id: "dev",
      resume_token: this.token,
      resumed,
      resume_s: 60,
      model: "wren",
      audio: "pcm16",
      sample_rate: RATE,
      frame_ms: FRAME_MS,
    });
    socket.on("message", (data: Buffer) => this.receive(data));
  }

  private receive(data: Buffer): void {
    if (data[0] === 10) {
      const { type } = JSON.parse(data.subarray(1).toString()) as { type: string };
      if (type === "interrupt") this.speech = undefined;
    }
    if (data[0] !== 1) return;
    let sum = 0;
    for (let at = 1; at + 1 < data.length; at += 2) sum += (data.readInt16LE(at) / 32768) ** 2;
    this.listen(Math.sqrt(sum / FRAME) > 0.01);
    this.step();
  }

  private listen(loud: boolean): void {
    if (loud) {
      this.heard += 1;
      this.quiet = 0;
      if (this.heard === 4) {
        // Enough to be sure: give way.
        if (this.speech) this.speech = undefined;
        this.begin("user");
      }
      return;
    }
    this.quiet += 1;
    if (this.quiet < 5) return;
    if (this.heard >= 4) {
      const answer = ANSWERS[this.asked++ % ANSWERS.length]!;
      this.text("user", answer.question);
      this.reply(answer);
    }
    this.heard = 0;
  }

  private reply(answer: Answer): void {
    const sequence = this.asked - 1;
    this.later(160, () => this.say(answer));
    const { lookup } = answer;
    if (!lookup) return;
    this.later(640, () => this.event({ type: "retrieval_started", sequence, frame: this.frame }));
    this.later(640 + this.lookupMs(), () => {
      this.event({
        type: "retrieval_succeeded",
        sequence,
        frame: this.frame,
        label: "Fact book",
        text: lookup.text,
        sources: [{ type: "source", title: `Fact book, ${lookup.place}`, location: "" }],
      });
      this.event({ type: "reference_injected", sequence, frame: this.frame, rows: 9, part: 0 });
    });
  }

  private say(answer: Answer): void {
    this.begin("model");
    this.speech = {
      pcm: voice(answer.file),
      at: 0,
      words: answer.words.split(" ").map((word) => ` ${word}`),
      said: 0,
    };
  }

  private step(): void {
    this.frame += 1;
    const ready = this.due.filter(({ frame }) => frame <= this.frame);
    this.due = this.due.filter(({ frame }) => frame > this.frame);
    for (const { action } of ready) action();
    const out = Buffer.alloc(1 + 2 * FRAME);
    out[0] = 1;
    const { speech } = this;
    if (speech) {
      for (let i = 0; i < FRAME; i++)
        out.writeInt16LE(Math.round(32767 * (speech.pcm[speech.at + i] ?? 0)), 1 + 2 * i);
      speech.at += FRAME;
      const share = Math.ceil((speech.words.length * speech.at) / speech.pcm.length);
      while (speech.said < Math.min(share, speech.words.length))
        this.text("model", speech.words[speech.said++]!);
      if (speech.at >= speech.pcm.length) this.speech = undefined;
    }
    this.socket?.send(out);
    if (this.frame % 12 === 0) {
      this.event({
        type: "stats",
        frame: this.frame,
        frame_ms_p50: 21,
        frame_ms_p99: 34,
        lateness_ms_p99: 3,
        input_frames_waiting: 0,
        sessions: 1,
        slots: 4,
        dropped_ms: 0,
      });
    }
  }

  private begin(role: string): void {
    this.turn += 1;
    this.event({ type: "turn_started", frame: this.frame, role, index: this.turn });
  }

  private text(role: string, text: string): void {
    this.event({ type: "text_token", frame: this.frame, role, text, said_frame: this.frame });
  }

  private event(values: object): void {
    this.socket?.send(Buffer.concat([Buffer.of(10), Buffer.from(JSON.stringify(values))]));
  }

  private later(ms: number, action: () => void): void {
    this.due.push({ frame: this.frame + Math.ceil(ms / FRAME_MS), action });
  }
}

export function fakeServer(): Plugin {
  let scene = "normal";
  let lookupMs = 900;
  let documents = [
    { id: "factbook", name: "facts.md", bytes: 81_920, passages: 1871 },
    { id: "menu", name: "canteen-menu.csv", bytes: 2_048, passages: 24 },
  ];
  const conversations = new Map<string, Conversation>();
  const sockets = new Set<WebSocket>();
  const authorised = (url: URL, request: IncomingMessage) =>
    scene !== "token" ||
    url.searchParams.get("token") === TOKEN ||
    request.headers.authorization === `Bearer ${TOKEN}`;

  const routes: Record<string, (url: URL) => [number, unknown]> = {
    "GET /api/availability": () => [
      200,
      scene === "full"
        ? { available: false, reason: "full", retry_after_s: 14 }
        : { available: true },
    ],
    "GET /api/models": () => [
      200,
      {
        models: [{ id: "wren", current: true, takes_prompts: true }],
        voices: [{ id: "slt" }, { id: "rms" }],
        retrieval_backends: [{ id: "facts" }, { id: "web" }],
        retrieval_backend_default: "facts",
        audio: ["pcm16"],
      },
    ],
    "GET /api/knowledge": () => [200, { documents, passages: 1895 }],
    "POST /api/knowledge": (url) => {
      const name = url.searchParams.get("name") ?? "";
      documents.push({ id: name, name, bytes: 1000, passages: 12 });
      return [201, documents.at(-1)];
    },
    "POST /api/knowledge/search": () => [
      200,
      { hits: [{ text: "The capital of Peru is Lima.", title: "Fact book", heading: "Peru" }] },
    ],
    "POST /dev/scene": (url) => {
      scene = url.searchParams.get("name") ?? "normal";
      return [200, { scene }];
    },
    "POST /dev/slow": (url) => {
      lookupMs = Number(url.searchParams.get("ms"));
      return [200, { lookupMs }];
    },
    "POST /dev/drop": () => {
      for (const socket of sockets) socket.terminate();
      return [200, {}];
    },
  };

  const answer = (request: IncomingMessage, response: ServerResponse, next: () => void) => {
    const url = new URL(request.url ?? "/", "http://localhost");
    const send = (status: number, body: unknown) => {
      response.writeHead(status, { "content-type": "application/json" });
      response.end(status === 204 ? undefined : JSON.stringify(body));
    };
    if (request.method === "DELETE" && url.pathname.startsWith("/api/knowledge/")) {
      documents = documents.filter(({ id }) => `/api/knowledge/${id}` !== url.pathname);
      return send(204, null);
    }
    const route = routes[`${request.method} ${url.pathname}`];
    if (!route) return next();
    const open = url.pathname === "/api/availability" || url.pathname.startsWith("/dev/");
    if (!open && !authorised(url, request))
      return send(401, { error: { code: "token", message: "this server needs its token" } });
    request.resume();
    send(...route(url));
  };

  const serve = (server: ViteDevServer | PreviewServer) => {
    server.middlewares.use(answer);
    const chat = new WebSocketServer({ noServer: true });
    server.httpServer?.on("upgrade", (request, socket, head) => {
      const url = new URL(request.url ?? "/", "http://localhost");
      if (url.pathname !== "/api/chat") return;
      const token = url.searchParams.get("resume") ?? "";
      const known = conversations.get(token);
      if (scene === "full" || scene === "gone" || !authorised(url, request) || (token && !known)) {
        socket.end("HTTP/1.1 503 Service Unavailable\r\n\r\n");
        return;
      }
      chat.handleUpgrade(request, socket, head, (client) => {
        sockets.add(client);
        client.on("close", () => sockets.delete(client));
        const greets = url.searchParams.get("init_speaker") !== "user";
        const mine = known ?? new Conversation(`${Math.random()}`, () => lookupMs, greets);
        conversations.set(mine.token, mine);
        mine.join(client, known !== undefined);
      });
    });
  };
  return { name: "duologue-fake-server", configureServer: serve, configurePreviewServer: serve };
}
