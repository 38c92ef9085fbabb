/**
 * One visit: joins the audio graph, the link to the server and the pure parts of a conversation.
 *
 * The page reads the signals and calls the verbs. Whatever is still under way when a visit ends
 * belongs to an older `visit` number and is ignored.
 */

import { batch, signal } from "@preact/signals";
import { FRAME_MS, FRAME_SIZE } from "../audio/clock";
import { AudioEngine } from "../audio/engine";
import type { PlayoutStats } from "../audio/jitter";
import { MicrophoneError, missingSupport, openMicrophone } from "../audio/microphone";
import { Recording } from "../audio/recording";
import type { AudioFormat } from "../codec/coder";
import { opusSupported } from "../codec/opus";
import type { Api } from "../protocol/api";
import type { ServerEvent } from "../protocol/events";
import { chatUrl, Link, type LinkClosed, type ServerStats } from "../protocol/link";
import type { Question } from "../questions";
import type { Settings } from "../settings";
import { askAdmission, chooseFormat } from "./admission";
import { Chronicle } from "./chronicle";
import { type Delay, DelayMeter } from "./delay";
import type { Facts } from "./download";
import { Hold } from "./hold";
import { IDLE, isOpen, type Move, next, type Phase, type Problem } from "./machine";
import { Reconnection } from "./reconnection";

const QUESTION_DELAY_MS = 700;
const CODE = { ended: 1000, moved: 4001 } as const;

export class Talk {
  readonly phase = signal<Phase>(IDLE);
  readonly muted = signal(false);
  readonly hasMicrophone = signal(false);
  readonly question = signal<Question | undefined>(undefined);
  readonly elapsedMs = signal(0);
  readonly delay = signal<Delay | undefined>(undefined);
  readonly playout = signal<PlayoutStats | undefined>(undefined);
  readonly stats = signal<ServerStats | undefined>(undefined);

  readonly chronicle = new Chronicle();
  recording = new Recording();
  meter = new DelayMeter();
  startedAt = new Date(0);

  private visit = 0;
  private engine: AudioEngine | undefined;
  private link: Link | undefined;
  private audioFormat: AudioFormat = "opus";
  private hold = new Hold();
  private resumeToken = "";
  private resumeMs = 0;
  private reconnection: Reconnection | undefined;
  /** A question begins, so the model should not. */
  private questionFirst = false;
  private goodbye: { reason: string; detail: string } | undefined;

  constructor(
    private readonly api: Api,
    private readonly choices: () => Settings & { token: string },
  ) {}

  /** Begin a conversation; with a question, that is played instead of asking for a microphone. */
  async start(question?: Question): Promise<void> {
    if (isOpen(this.phase.value) || this.phase.value.name === "starting") return;
    this.reset();
    this.questionFirst = question !== undefined;
    this.move({ type: "start" });
    const missing = missingSupport();
    if (missing) return this.fail(missing);
    const visit = this.visit;
    const opening = AudioEngine.open({
      captured: (pcm, endMs) => this.captured(pcm, endMs),
      played: (message, endMs) => this.played(message.pcm, message.stats, endMs),
    });
    // The graph must be made in the click itself; what it is for is found out meanwhile.
    const [engine, admission, opus] = await Promise.all([
      opening.catch(() => undefined),
      askAdmission(this.api, this.choices().token !== ""),
      opusSupported(),
    ]);
    if (visit !== this.visit) return void engine?.close();
    this.engine = engine;
    if (!engine) return this.fail({ kind: "unsupported" });
    if (admission.problem) return this.fail(admission.problem);
    this.audioFormat = chooseFormat(this.choices().audio, opus, admission.audio);
    this.move({ type: "admitted" });
    if (!question && !(await this.openMicrophone(visit))) return;
    this.move({ type: "microphone" });
    this.connect("");
    if (question) this.askWhenLive(question);
  }

  /** Leave the conversation, or the attempt to begin one. */
  stop(): void {
    this.move({ type: "stop" });
    this.link?.end();
    this.release();
  }

  /** Back to the first page. */
  home(): void {
    this.move({ type: "home" });
  }

  setMuted(muted: boolean): void {
    this.muted.value = muted;
    this.engine?.setMuted(muted);
  }

  /** Turn on the microphone in a conversation that began without one; returns what stood against it. */
  async addMicrophone(): Promise<Problem | undefined> {
    const visit = this.visit;
    try {
      const stream = await openMicrophone(this.choices().microphone);
      if (visit === this.visit) this.attach(stream);
      else for (const track of stream.getTracks()) track.stop();
      return undefined;
    } catch (error) {
      return error instanceof MicrophoneError ? error.problem : { kind: "unsupported" };
    }
  }

  /** Cut the model short: silence now, and the rest of its sentence is dropped. */
  interrupt(): void {
    if (this.phase.value.name !== "live") return;
    this.engine?.flush();
    this.hold.begin();
    this.link?.command({ type: "interrupt" });
  }

  /** Play a synthetic voice into the conversation. */
  ask(question: Question): void {
    if (this.phase.value.name !== "live" || !this.engine) return;
    this.question.value = question;
    const done = () => {
      if (this.question.value === question) this.question.value = undefined;
    };
    this.engine.playSample(new URL(question.file, document.baseURI).href, done).catch(done);
  }

  /** Everything known about this conversation. */
  facts(model: string): Facts {
    return {
      startedAt: this.startedAt,
      durationMs: this.recording.durationMs,
      model,
      voice: this.choices().voice,
      script: this.chronicle.script.value,
      lookups: this.chronicle.lookups.value,
      together: this.chronicle.activity.together,
      roundTripsMs: this.meter.history,
    };
  }

  get nowMs(): number {
    return this.engine?.nowMs ?? this.elapsedMs.peek();
  }

  private move(move: Move): void {
    this.phase.value = next(this.phase.peek(), move);
  }

  private reset(): void {
    this.visit += 1;
    this.chronicle.clear();
    this.recording = new Recording();
    this.meter = new DelayMeter();
    this.hold = new Hold();
    this.startedAt = new Date(0);
    this.goodbye = undefined;
    this.resumeToken = "";
    batch(() => {
      this.muted.value = false;
      this.hasMicrophone.value = false;
      this.question.value = undefined;
      this.elapsedMs.value = 0;
      this.delay.value = undefined;
      this.stats.value = undefined;
    });
  }

  private fail(problem: Problem): void {
    this.move({ type: "problem", problem });
    this.release();
  }

  private release(): void {
    this.visit += 1;
    this.reconnection?.cancel();
    this.reconnection = undefined;
    this.link = undefined;
    this.question.value = undefined;
    if (this.engine) this.elapsedMs.value = Math.max(0, this.engine.nowMs);
    void this.engine?.close();
    this.engine = undefined;
  }

  private async openMicrophone(visit: number): Promise<boolean> {
    const problem = await this.addMicrophone();
    if (visit !== this.visit) return false;
    if (problem) this.fail(problem);
    return problem === undefined;
  }

  private attach(stream: MediaStream): void {
    this.engine?.attach(stream);
    this.hasMicrophone.value = true;
    stream.getAudioTracks()[0]?.addEventListener("ended", () => {
      this.engine?.detach();
      this.hasMicrophone.value = false;
    });
  }

  private connect(resume: string): void {
    const audio = this.audioFormat;
    const url = chatUrl(document.baseURI, {
      ...this.choices(),
      ...(this.questionFirst ? { speaker: "user" } : {}),
      audio,
      resume,
    });
    const visit = this.visit;
    const mine = <T extends unknown[]>(action: (...args: T) => void) => {
      return (...args: T) => {
        if (visit === this.visit) action(...args);
      };
    };
    this.link = new Link(url, audio, {
      ready: mine(() => this.ready()),
      session: mine((info) => {
        this.resumeToken = info.resumeToken;
        this.resumeMs = 1000 * info.resumeSeconds;
      }),
      frame: mine(() => this.meter.received(FRAME_SIZE, performance.now())),
      pcm: mine((pcm) => this.heard(pcm)),
      event: mine((event) => this.told(event)),
      stats: mine((stats) => {
        this.stats.value = stats;
        this.meter.dropped(stats.droppedMs / FRAME_MS);
      }),
      closed: mine((closed) => void this.closed(closed)),
    });
  }

  private ready(): void {
    this.engine?.startClock();
    if (this.startedAt.getTime() === 0) this.startedAt = new Date();
    this.meter.restart();
    this.reconnection?.cancel();
    this.reconnection = undefined;
    this.move({ type: "ready" });
  }

  private askWhenLive(question: Question): void {
    const stop = this.phase.subscribe((phase) => {
      if (phase.name === "starting") return;
      queueMicrotask(() => stop()); // not at once: `stop` is known only after the first call
      if (phase.name === "live") setTimeout(() => this.ask(question), QUESTION_DELAY_MS);
    });
  }

  private captured(pcm: Float32Array<ArrayBuffer>, endMs: number): void {
    const phase = this.phase.peek();
    if (!isOpen(phase)) return;
    if (phase.name === "live" && this.link?.sendFrame(pcm)) this.meter.sent(performance.now());
    this.chronicle.activity.feed("user", pcm, endMs);
    this.recording.add("user", pcm, endMs - FRAME_MS);
    this.elapsedMs.value = Math.floor(endMs / 1000) * 1000;
  }

  private heard(pcm: Float32Array): void {
    if (this.hold.passes(pcm, pcm.length / FRAME_SIZE)) this.engine?.push(pcm);
  }

  private played(pcm: Float32Array, stats: PlayoutStats, endMs: number): void {
    if (!isOpen(this.phase.peek())) return;
    this.chronicle.activity.feed("model", pcm, endMs);
    this.recording.add("model", pcm, endMs - FRAME_MS);
    this.playout.value = stats;
    const device = this.engine?.outputLatencyMs ?? 0;
    this.delay.value = this.meter.total(stats.levelMs, device);
  }

  private told(event: ServerEvent): void {
    if (event.type === "ended") this.goodbye = event;
    if (event.type === "turn" && event.role === "model") this.hold.end();
    this.chronicle.told(event, this.nowMs);
  }

  private async closed({ code, message }: LinkClosed): Promise<void> {
    if (this.phase.peek().name === "starting")
      return this.refused(message || `The server closed the connection (${code}).`);
    if (this.phase.peek().name === "reconnecting") return this.retryLater();
    const reason = this.goodbye?.reason;
    if (code === CODE.moved) return this.finish("moved");
    if (reason === "frame_limit") return this.finish("limit");
    if (reason === "failed") return this.finish("failed", this.goodbye?.detail);
    // Who has said goodbye does not come back, whatever the code.
    if (this.goodbye || code === CODE.ended) return this.finish("server", message);
    if (!this.resumeToken || this.resumeMs <= 0) return this.finish("lost");
    this.move({ type: "dropped", nowMs: Date.now(), graceMs: this.resumeMs });
    this.reconnection = new Reconnection(Date.now() + this.resumeMs, {
      attempt: (number) => {
        if (number > 1) this.move({ type: "attempt" });
        this.connect(this.resumeToken);
      },
      giveUp: () => {
        this.move({ type: "gave-up" });
        this.release();
      },
    });
    this.reconnection.begin();
  }

  private async retryLater(): Promise<void> {
    const { reconnection, visit } = this;
    const answers = await this.api.availability().then(
      () => true,
      () => false,
    );
    if (visit === this.visit) reconnection?.failed(answers);
  }

  private finish(reason: "moved" | "limit" | "failed" | "server" | "lost", detail = ""): void {
    this.move({ type: "ended", reason, detail });
    this.release();
  }

  /** The socket closed before the handshake; browsers do not say why, so the server is asked. */
  private async refused(message: string): Promise<void> {
    const visit = this.visit;
    const { problem } = await askAdmission(this.api, this.choices().token !== "");
    if (visit !== this.visit) return;
    this.fail(problem ?? { kind: "refused", message });
  }
}
