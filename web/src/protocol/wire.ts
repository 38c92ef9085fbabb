/**
 * Messages of `/api/chat`: byte 0 is the kind, the rest its payload.
 *
 * Kinds 0 to 9 are the published ones (Moshi, MoshiRAG), 10 is Duologue's own JSON message. Reading
 * never throws: what is unknown or malformed becomes `ignored`.
 */

export const KIND = {
  handshake: 0,
  audio: 1,
  text: 2,
  control: 3,
  metadata: 4,
  error: 5,
  ping: 6,
  colouredText: 7,
  reference: 8,
  colouredReference: 9,
  event: 10,
} as const;

export const CONTROL = { start: 0, endTurn: 1, pause: 2, restart: 3 } as const;

/** Colour ids that stand for a speaker. */
export const COLOUR = { model: 4, user: 10 } as const;

export type Json = Record<string, unknown>;

export type WireMessage =
  | { kind: "handshake" }
  | { kind: "audio"; data: Uint8Array }
  | { kind: "text"; text: string; colour?: number }
  | { kind: "reference"; text: string }
  | { kind: "metadata"; values: Json }
  | { kind: "event"; values: Json }
  | { kind: "error"; message: string }
  | { kind: "ping" }
  | { kind: "ignored" };

const decoder = new TextDecoder();
const encoder = new TextEncoder();

export function decode(bytes: Uint8Array): WireMessage {
  const payload = bytes.subarray(1);
  switch (bytes[0]) {
    case KIND.handshake:
      return { kind: "handshake" };
    case KIND.audio:
      return { kind: "audio", data: payload };
    case KIND.text:
      return { kind: "text", text: decoder.decode(payload) };
    case KIND.colouredText:
      return payload.length === 0
        ? { kind: "ignored" }
        : { kind: "text", colour: payload[0]!, text: decoder.decode(payload.subarray(1)) };
    case KIND.reference:
      return { kind: "reference", text: decoder.decode(payload) };
    case KIND.colouredReference:
      return payload.length === 0
        ? { kind: "ignored" }
        : { kind: "reference", text: decoder.decode(payload.subarray(1)) };
    case KIND.metadata:
    case KIND.event: {
      const values = jsonObject(payload);
      if (!values) return { kind: "ignored" };
      return { kind: bytes[0] === KIND.event ? "event" : "metadata", values };
    }
    case KIND.error:
      return { kind: "error", message: decoder.decode(payload) };
    case KIND.ping:
      return { kind: "ping" };
    default:
      return { kind: "ignored" };
  }
}

function jsonObject(payload: Uint8Array): Json | undefined {
  try {
    const value: unknown = JSON.parse(decoder.decode(payload));
    return typeof value === "object" && value !== null && !Array.isArray(value)
      ? (value as Json)
      : undefined;
  } catch {
    return undefined;
  }
}

export function encodeAudio(data: Uint8Array): Uint8Array<ArrayBuffer> {
  return tagged(KIND.audio, data);
}

export function encodeControl(control: number): Uint8Array<ArrayBuffer> {
  return Uint8Array.of(KIND.control, control);
}

export function encodeEvent(values: Json): Uint8Array<ArrayBuffer> {
  return tagged(KIND.event, encoder.encode(JSON.stringify(values)));
}

export function encodeMetadata(values: Json): Uint8Array<ArrayBuffer> {
  return tagged(KIND.metadata, encoder.encode(JSON.stringify(values)));
}

function tagged(kind: number, payload: Uint8Array): Uint8Array<ArrayBuffer> {
  const message = new Uint8Array(1 + payload.length);
  message[0] = kind;
  message.set(payload, 1);
  return message;
}
