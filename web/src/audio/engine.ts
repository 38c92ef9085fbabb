/**
 * The audio graph: microphone or sample question in, the model's voice out, one clock for both.
 *
 * The capture node runs from `open` to `close`, with silence when nothing is attached. While a
 * sample question plays, the microphone is held back, so that it is not heard twice.
 */

import type { CaptureMessage, PlayedMessage, PlayoutCommand } from "./worklet";
import workletUrl from "./worklet?worker&url";

const MONITOR_GAIN = 0.8;

export interface EngineEvents {
  captured(pcm: Float32Array<ArrayBuffer>, endMs: number): void;
  played(message: PlayedMessage, endMs: number): void;
}

export class AudioEngine {
  private microphone: MediaStream | undefined;
  private microphoneNode: MediaStreamAudioSourceNode | undefined;
  private sample: AudioBufferSourceNode | undefined;
  private originFrame: number | undefined;
  private wantsMicrophone = true;

  private constructor(
    private readonly context: AudioContext,
    private readonly capture: AudioWorkletNode,
    private readonly playout: AudioWorkletNode,
    private readonly microphoneGain: GainNode,
    private readonly monitorGain: GainNode,
  ) {}

  /** Start the graph; call it from a click, or browsers keep it silent. */
  static async open(events: EngineEvents): Promise<AudioEngine> {
    const context = new AudioContext({ latencyHint: "interactive" });
    void context.resume();
    try {
      await context.audioWorklet.addModule(workletUrl);
    } catch (error) {
      await context.close();
      throw error;
    }
    const capture = new AudioWorkletNode(context, "duologue-capture", { outputChannelCount: [1] });
    const playout = new AudioWorkletNode(context, "duologue-playout", {
      numberOfInputs: 0,
      outputChannelCount: [2],
    });
    const microphoneGain = context.createGain();
    const monitorGain = context.createGain();
    monitorGain.gain.value = MONITOR_GAIN;
    microphoneGain.connect(capture);
    capture.connect(context.destination); // silent, but only connected nodes run everywhere
    playout.connect(context.destination);
    monitorGain.connect(context.destination);
    const engine = new AudioEngine(context, capture, playout, microphoneGain, monitorGain);
    capture.port.onmessage = ({ data }: MessageEvent<CaptureMessage>) =>
      events.captured(data.pcm, engine.msAt(data.endFrame));
    playout.port.onmessage = ({ data }: MessageEvent<PlayedMessage>) =>
      events.played(data, engine.msAt(data.endFrame));
    return engine;
  }

  /** The device's own delay from here to the ear. */
  get outputLatencyMs(): number {
    return 1000 * (this.context.outputLatency || this.context.baseLatency || 0);
  }

  /** Since when the graph has been running, in its own time. */
  get nowMs(): number {
    return this.msAt(this.context.currentTime * this.context.sampleRate);
  }

  /** From now on the conversation's time is counted. */
  startClock(): void {
    this.originFrame ??= this.context.currentTime * this.context.sampleRate;
  }

  attach(stream: MediaStream): void {
    this.detach();
    this.microphone = stream;
    this.microphoneNode = this.context.createMediaStreamSource(stream);
    this.microphoneNode.connect(this.microphoneGain);
  }

  detach(): void {
    this.microphoneNode?.disconnect();
    for (const track of this.microphone?.getTracks() ?? []) track.stop();
    this.microphone = undefined;
    this.microphoneNode = undefined;
  }

  get hasMicrophone(): boolean {
    return this.microphone !== undefined;
  }

  setMuted(muted: boolean): void {
    this.wantsMicrophone = !muted;
    this.applyMute();
  }

  /** Play a recording into the conversation, audibly; `onEnd` runs when it is over. */
  async playSample(url: string, onEnd: () => void): Promise<void> {
    this.stopSample();
    const response = await fetch(url);
    if (!response.ok) throw new Error(`${url}: ${response.status}`);
    const buffer = await this.context.decodeAudioData(await response.arrayBuffer());
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.capture);
    source.connect(this.monitorGain);
    source.onended = () => {
      source.disconnect();
      if (this.sample !== source) return;
      this.sample = undefined;
      this.applyMute();
      onEnd();
    };
    this.sample = source;
    this.applyMute();
    source.start();
  }

  stopSample(): void {
    const source = this.sample;
    this.sample = undefined;
    source?.stop();
    this.applyMute();
  }

  /** Hand over sound of the model at 24 kHz. */
  push(pcm: Float32Array): void {
    this.command({ kind: "push", pcm }, [pcm.buffer as ArrayBuffer]);
  }

  /** Silence what waits to be played. */
  flush(): void {
    this.command({ kind: "flush" });
  }

  async close(): Promise<void> {
    this.stopSample();
    this.detach();
    this.capture.port.onmessage = null;
    this.playout.port.onmessage = null;
    this.capture.port.postMessage("stop");
    this.command({ kind: "stop" });
    if (this.context.state !== "closed") await this.context.close();
  }

  private applyMute(): void {
    const open = this.wantsMicrophone && !this.sample;
    this.microphoneGain.gain.setTargetAtTime(open ? 1 : 0, this.context.currentTime, 0.005);
  }

  private msAt(frame: number): number {
    return ((frame - (this.originFrame ?? frame)) * 1000) / this.context.sampleRate;
  }

  private command(command: PlayoutCommand, transfer: Transferable[] = []): void {
    this.playout.port.postMessage(command, transfer);
  }
}
