/** The microphone: asked for with echo cancellation, and every refusal named for what it is. */

import type { Problem } from "../conversation/machine";

export class MicrophoneError extends Error {
  constructor(readonly problem: Problem) {
    super(problem.kind);
  }
}

/** What a page needs from the browser before there can be sound at all; undefined when all is there. */
export function missingSupport(): Problem | undefined {
  if (!window.isSecureContext) return { kind: "insecure" };
  if (typeof AudioWorkletNode === "undefined" || typeof WebSocket === "undefined")
    return { kind: "unsupported" };
  return undefined;
}

/**
 * Open the microphone; a full-duplex model without echo cancellation hears itself.
 *
 * @throws MicrophoneError
 */
export async function openMicrophone(deviceId: string): Promise<MediaStream> {
  if (!navigator.mediaDevices?.getUserMedia) throw new MicrophoneError({ kind: "unsupported" });
  try {
    return await navigator.mediaDevices.getUserMedia({
      audio: {
        echoCancellation: true,
        noiseSuppression: true,
        autoGainControl: true,
        channelCount: 1,
        ...(deviceId ? { deviceId: { ideal: deviceId } } : {}),
      },
    });
  } catch (error) {
    throw new MicrophoneError(problemOf(error));
  }
}

export function problemOf(error: unknown): Problem {
  switch (error instanceof Error ? error.name : "") {
    case "NotAllowedError":
    case "SecurityError":
      return { kind: "mic-denied" };
    case "NotFoundError":
    case "OverconstrainedError":
      return { kind: "mic-missing" };
    case "NotReadableError":
    case "AbortError":
      return { kind: "mic-busy" };
    default:
      return { kind: "unsupported" };
  }
}

export interface InputDevice {
  id: string;
  name: string;
}

/** Microphones by name; browsers tell the names only after permission was given. */
export async function listMicrophones(): Promise<InputDevice[]> {
  const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
  return devices
    .filter((device) => device.kind === "audioinput" && device.label !== "")
    .map((device) => ({ id: device.deviceId, name: device.label }));
}
