/**
 * Opus by WebCodecs, in Ogg pages: 80 ms frames at 24 kHz in, bytes of one Ogg stream out, and back.
 *
 * Encoding and decoding are asynchronous in the browser, and in order. A decoder that reports an
 * error is replaced and the packet is lost; the conversation goes on.
 */

import { SAMPLE_RATE } from "../audio/clock";
import { Resampler } from "../audio/resampler";
import { isOpusHeader, OggReader, OggWriter } from "./ogg";

const PACKET_MS = 20;
const PACKETS_PER_FRAME = 4;
const GRANULE_PER_PACKET = 48 * PACKET_MS;
const PRE_SKIP = 312;
const BITRATE = 32_000;
const MAX_ENCODER_QUEUE = 16;

/** The Opus options of the encoder, which TypeScript's own types do not know yet. */
type OpusEncoderConfig = AudioEncoderConfig & {
  opus: { frameDuration: number; application: "voip"; complexity: number };
};

const ENCODER: OpusEncoderConfig = {
  codec: "opus",
  sampleRate: SAMPLE_RATE,
  numberOfChannels: 1,
  bitrate: BITRATE,
  opus: { frameDuration: PACKET_MS * 1000, application: "voip", complexity: 5 },
};

const DECODER: AudioDecoderConfig = { codec: "opus", sampleRate: SAMPLE_RATE, numberOfChannels: 1 };

/** Whether this browser can do both directions. */
export async function opusSupported(): Promise<boolean> {
  if (typeof AudioEncoder === "undefined" || typeof AudioDecoder === "undefined") return false;
  try {
    const [encoder, decoder] = await Promise.all([
      AudioEncoder.isConfigSupported(ENCODER),
      AudioDecoder.isConfigSupported(DECODER),
    ]);
    return encoder.supported === true && decoder.supported === true;
  } catch {
    return false;
  }
}

export class OpusEncoderStream {
  private readonly writer = new OggWriter((Math.random() * 2 ** 32) >>> 0);
  private readonly encoder: AudioEncoder;
  private packets: Uint8Array[] = [];
  private granule = 0;
  private timestamp = 0;
  private started = false;

  constructor(private readonly onBytes: (bytes: Uint8Array<ArrayBuffer>) => void) {
    this.encoder = new AudioEncoder({
      output: (chunk) => this.encoded(chunk),
      error: () => undefined,
    });
    this.encoder.configure(ENCODER);
  }

  /** Encode one frame; a browser that has fallen far behind loses the frame. */
  push(pcm: Float32Array<ArrayBuffer>): void {
    if (this.encoder.state !== "configured" || this.encoder.encodeQueueSize > MAX_ENCODER_QUEUE)
      return;
    const data = new AudioData({
      format: "f32-planar",
      sampleRate: SAMPLE_RATE,
      numberOfFrames: pcm.length,
      numberOfChannels: 1,
      timestamp: this.timestamp,
      data: pcm,
    });
    this.timestamp += Math.round((pcm.length * 1e6) / SAMPLE_RATE);
    this.encoder.encode(data);
    data.close();
  }

  close(): void {
    if (this.encoder.state !== "closed") this.encoder.close();
  }

  private encoded(chunk: EncodedAudioChunk): void {
    const packet = new Uint8Array(chunk.byteLength);
    chunk.copyTo(packet);
    this.packets.push(packet);
    if (this.packets.length < PACKETS_PER_FRAME) return;
    this.granule += GRANULE_PER_PACKET * this.packets.length;
    const headers = this.started ? new Uint8Array(0) : this.writer.headers(PRE_SKIP, SAMPLE_RATE);
    this.started = true;
    const page = this.writer.page(this.packets, this.granule);
    this.packets = [];
    const bytes = new Uint8Array(headers.length + page.length);
    bytes.set(headers);
    bytes.set(page, headers.length);
    this.onBytes(bytes);
  }
}

export class OpusDecoderStream {
  private readonly reader = new OggReader();
  private decoder: AudioDecoder;
  private resampler: Resampler | undefined;
  private resamplerRate = 0;
  private timestamp = 0;
  /** Decoders that had to be replaced. */
  failures = 0;

  constructor(private readonly onPcm: (pcm: Float32Array) => void) {
    this.decoder = this.create();
  }

  push(bytes: Uint8Array): void {
    for (const packet of this.reader.push(bytes)) {
      if (isOpusHeader(packet)) continue;
      if (this.decoder.state !== "configured") {
        this.failures += 1;
        this.decoder = this.create();
      }
      const data = new Uint8Array(packet);
      this.decoder.decode(
        new EncodedAudioChunk({ type: "key", timestamp: this.timestamp, data: data.buffer }),
      );
      this.timestamp += PACKET_MS * 1000;
    }
  }

  close(): void {
    if (this.decoder.state !== "closed") this.decoder.close();
  }

  private create(): AudioDecoder {
    const decoder = new AudioDecoder({
      output: (data) => this.decoded(data),
      error: () => undefined,
    });
    decoder.configure(DECODER);
    return decoder;
  }

  private decoded(data: AudioData): void {
    const pcm = new Float32Array(data.numberOfFrames);
    data.copyTo(pcm, { planeIndex: 0, format: "f32-planar" });
    const rate = data.sampleRate;
    data.close();
    if (rate === SAMPLE_RATE) {
      this.onPcm(pcm);
      return;
    }
    if (!this.resampler || this.resamplerRate !== rate) {
      this.resampler = new Resampler(rate, SAMPLE_RATE);
      this.resamplerRate = rate;
    }
    this.onPcm(this.resampler.process(pcm));
  }
}
