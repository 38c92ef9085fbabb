/** The audio payload of one connection, whichever way it is coded. */

import { OpusDecoderStream, OpusEncoderStream } from "./opus";
import { decodePcm16, encodePcm16 } from "./pcm";

export type AudioFormat = "opus" | "pcm16";

export interface Coder {
  /** A frame of the microphone; the payload goes to `onPayload`. */
  encode(pcm: Float32Array<ArrayBuffer>): void;
  /** A payload of the server; the samples go to `onPcm`. */
  decode(payload: Uint8Array): void;
  close(): void;
}

export interface CoderEvents {
  onPayload(payload: Uint8Array): void;
  onPcm(pcm: Float32Array): void;
}

export function createCoder(format: AudioFormat, events: CoderEvents): Coder {
  return format === "opus" ? opusCoder(events) : pcmCoder(events);
}

function opusCoder(events: CoderEvents): Coder {
  const encoder = new OpusEncoderStream(events.onPayload);
  const decoder = new OpusDecoderStream(events.onPcm);
  return {
    encode: (pcm) => encoder.push(pcm),
    decode: (payload) => decoder.push(payload),
    close: () => {
      encoder.close();
      decoder.close();
    },
  };
}

function pcmCoder(events: CoderEvents): Coder {
  return {
    encode: (pcm) => events.onPayload(encodePcm16(pcm)),
    decode: (payload) => events.onPcm(decodePcm16(payload)),
    close: () => undefined,
  };
}
