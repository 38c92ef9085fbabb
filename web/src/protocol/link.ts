/**
 * One websocket to `/api/chat`: audio and events both ways, until it closes.
 *
 * A link never reconnects; that is decided above. `closed` comes exactly once, whether the socket
 * failed, the server fell silent, or either side ended it; after it nothing more comes.
 */

import { type AudioFormat, type Coder, createCoder } from "../codec/coder";
import { fromJson, MarkedTextReader, number, type ServerEvent, string } from "./events";
import { decode, encodeAudio, encodeEvent, type Json } from "./wire";

/** The socket is closed when the server says nothing for so long. */
export const SILENCE_MS = 10_000;
/** Frames are dropped while more than this waits in the socket: late sound is of no use. */
const MAX_BUFFERED_BYTES = 256 * 1024;

const NO_CODE = 1005;

export interface LinkOptions {
  audio: AudioFormat;
  token: string;
  resume: string;
  voice: string;
  speaker: string;
  prompt: string;
  backend: string;
}

export interface SessionInfo {
  id: string;
  resumeToken: string;
  resumeSeconds: number;
  resumed: boolean;
  model: string;
}

export interface ServerStats {
  frameMsP50: number;
  frameMsP99: number;
  latenessMsP99: number;
  waitingFrames: number;
  sessions: number;
  slots: number;
  /** What the server could not take of this connection's sound, in all. */
  droppedMs: number;
}

export interface LinkClosed {
  code: number;
  /** Why, in the server's words, if it said so. */
  message: string;
}

export interface LinkEvents {
  ready(): void;
  session(info: SessionInfo): void;
  /** The payload of one of the model's frames came. */
  frame(): void;
  pcm(pcm: Float32Array): void;
  event(event: ServerEvent): void;
  stats(stats: ServerStats): void;
  closed(closed: LinkClosed): void;
}

/** Where the socket is, beside the page, and what is asked of it. */
export function chatUrl(page: string, options: LinkOptions): string {
  const url = new URL("api/chat", page);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.hash = "";
  const query = {
    dialect: "events",
    audio: options.audio,
    resume: options.resume,
    token: options.token,
    voice: options.voice,
    init_speaker: options.speaker,
    system_prompt: options.prompt,
    backend: options.backend,
  };
  for (const [name, value] of Object.entries(query)) if (value) url.searchParams.set(name, value);
  return url.href;
}

export class Link {
  private readonly socket: WebSocket;
  private readonly coder: Coder;
  private readonly marked = new MarkedTextReader();
  private silence: ReturnType<typeof setTimeout> | undefined;
  private ready = false;
  private done = false;
  private lastError = "";
  /** Frames that were not sent because the network is too slow. */
  droppedFrames = 0;

  constructor(
    url: string,
    format: AudioFormat,
    private readonly events: LinkEvents,
  ) {
    this.coder = createCoder(format, {
      onPayload: (payload) => this.send(encodeAudio(payload)),
      onPcm: (pcm) => {
        if (!this.done) events.pcm(pcm);
      },
    });
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = ({ data }) => {
      if (data instanceof ArrayBuffer) this.receive(new Uint8Array(data));
    };
    this.socket.onclose = ({ code }) => this.finish(code);
    this.expectMessage();
  }

  /** Send one frame; before the handshake and over a jammed network it is dropped. */
  sendFrame(pcm: Float32Array<ArrayBuffer>): boolean {
    if (!this.ready || this.done) return false;
    if (this.socket.bufferedAmount > MAX_BUFFERED_BYTES) {
      this.droppedFrames += 1;
      return false;
    }
    this.coder.encode(pcm);
    return true;
  }

  command(values: Json): void {
    if (this.ready) this.send(encodeEvent(values));
  }

  /** End the session for good. */
  end(): void {
    this.command({ type: "end" });
    this.close(1000);
  }

  /** Close the socket; without a code as a lost network would, so that the session is kept. */
  close(code?: number): void {
    this.socket.close(code);
    this.finish(code ?? NO_CODE);
  }

  private send(message: Uint8Array<ArrayBuffer>): void {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(message);
  }

  private receive(bytes: Uint8Array): void {
    if (this.done) return;
    this.expectMessage();
    const message = decode(bytes);
    switch (message.kind) {
      case "handshake":
        if (this.ready) return;
        this.ready = true;
        this.events.ready();
        return;
      case "audio":
        this.events.frame();
        this.coder.decode(message.data);
        return;
      case "error":
        this.lastError = message.message;
        return;
      case "event":
        this.receiveEvent(message.values);
        return;
      default:
        for (const event of this.marked.read(message)) this.events.event(event);
    }
  }

  private receiveEvent(values: Json): void {
    if (values.type === "session") {
      this.events.session({
        id: string(values.id),
        resumeToken: string(values.resume_token),
        resumeSeconds: number(values.resume_s),
        resumed: values.resumed === true,
        model: string(values.model),
      });
    } else if (values.type === "stats") {
      this.events.stats({
        frameMsP50: number(values.frame_ms_p50),
        frameMsP99: number(values.frame_ms_p99),
        latenessMsP99: number(values.lateness_ms_p99),
        waitingFrames: number(values.input_frames_waiting),
        sessions: number(values.sessions),
        slots: number(values.slots),
        droppedMs: number(values.dropped_ms),
      });
    } else {
      const event = fromJson(values);
      if (event) this.events.event(event);
    }
  }

  private expectMessage(): void {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => this.close(), SILENCE_MS);
  }

  private finish(code: number): void {
    if (this.done) return;
    this.done = true;
    clearTimeout(this.silence);
    this.coder.close();
    this.events.closed({ code, message: this.lastError });
  }
}
