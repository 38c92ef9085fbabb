/** Whether the server would take one more conversation, and in words that a page can use if not. */

import type { AudioFormat } from "../codec/coder";
import { type Api, ApiError } from "../protocol/api";
import type { Problem } from "./machine";

export type Admission =
  | { problem: Problem }
  /** How sound may travel, by the server's names; empty if it did not say. */
  | { problem: undefined; audio: readonly string[] };

/** Ask before a websocket is opened: browsers do not say why one was refused. */
export async function askAdmission(api: Api, hadToken: boolean): Promise<Admission> {
  try {
    const [availability, model] = await Promise.all([api.availability(), api.model()]);
    if (availability.available) return { problem: undefined, audio: model.audio };
    return { problem: { kind: "full", retryAtMs: Date.now() + availability.retryAfterMs } };
  } catch (error) {
    return { problem: problemFrom(error, hadToken) };
  }
}

function problemFrom(error: unknown, hadToken: boolean): Problem {
  if (!(error instanceof ApiError) || error.status === 0) return { kind: "unreachable" };
  if (error.status === 401) return { kind: "token", rejected: hadToken };
  return { kind: "refused", message: error.message };
}

/** Opus where both sides have it, plain samples otherwise or on request. */
export function chooseFormat(
  wanted: AudioFormat | "auto",
  opusHere: boolean,
  there: readonly string[],
): AudioFormat {
  const opusThere = there.length === 0 || there.includes("opus");
  return wanted !== "pcm16" && opusHere && opusThere ? "opus" : "pcm16";
}
