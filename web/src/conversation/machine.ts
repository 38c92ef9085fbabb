/**
 * The life of a visit as a pure state machine: from the first click to the last word.
 *
 * Every move that is not listed leaves the phase as it is, so a late message from a closed socket
 * can not bring a conversation back to life. Times are handed in; nothing here has a clock.
 */

export type Problem =
  | { kind: "insecure" }
  | { kind: "unsupported" }
  | { kind: "mic-denied" }
  | { kind: "mic-missing" }
  | { kind: "mic-busy" }
  | { kind: "full"; retryAtMs: number }
  | { kind: "token"; rejected: boolean }
  | { kind: "unreachable" }
  | { kind: "refused"; message: string }
  | { kind: "silent" };

export type EndReason = "you" | "server" | "limit" | "moved" | "failed" | "lost";

export type Phase =
  | { name: "idle" }
  | { name: "starting"; step: "server" | "microphone" | "connecting" }
  | { name: "live" }
  | { name: "reconnecting"; attempt: number; untilMs: number }
  | { name: "blocked"; problem: Problem }
  | { name: "ended"; reason: EndReason; detail: string };

export type Move =
  | { type: "start" }
  | { type: "admitted" }
  | { type: "microphone" }
  | { type: "ready" }
  | { type: "dropped"; nowMs: number; graceMs: number }
  | { type: "attempt" }
  | { type: "gave-up" }
  | { type: "problem"; problem: Problem }
  | { type: "ended"; reason: EndReason; detail?: string }
  | { type: "stop" }
  | { type: "home" };

export const IDLE: Phase = { name: "idle" };

export function next(phase: Phase, move: Move): Phase {
  switch (move.type) {
    case "start":
      return phase.name === "live" || phase.name === "starting" || phase.name === "reconnecting"
        ? phase
        : { name: "starting", step: "server" };
    case "admitted":
      return starting(phase, "server") ? { name: "starting", step: "microphone" } : phase;
    case "microphone":
      return starting(phase, "microphone") ? { name: "starting", step: "connecting" } : phase;
    case "ready":
      return starting(phase, "connecting") || phase.name === "reconnecting"
        ? { name: "live" }
        : phase;
    case "dropped":
      return phase.name === "live"
        ? { name: "reconnecting", attempt: 1, untilMs: move.nowMs + move.graceMs }
        : phase;
    case "attempt":
      return phase.name === "reconnecting" ? { ...phase, attempt: phase.attempt + 1 } : phase;
    case "gave-up":
      return phase.name === "reconnecting" ? { name: "ended", reason: "lost", detail: "" } : phase;
    case "problem":
      return phase.name === "starting" ? { name: "blocked", problem: move.problem } : phase;
    case "ended":
      return isOpen(phase)
        ? { name: "ended", reason: move.reason, detail: move.detail ?? "" }
        : phase;
    case "stop":
      if (phase.name === "starting") return IDLE;
      return isOpen(phase) ? { name: "ended", reason: "you", detail: "" } : phase;
    case "home":
      return isOpen(phase) || phase.name === "starting" ? phase : IDLE;
  }
}

/** A conversation exists: it is talking or trying to get back. */
export function isOpen(phase: Phase): boolean {
  return phase.name === "live" || phase.name === "reconnecting";
}

function starting(phase: Phase, step: "server" | "microphone" | "connecting"): boolean {
  return phase.name === "starting" && phase.step === step;
}

const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 5_000;

/** How long to wait before reconnection attempt number `attempt`, from 1. */
export function retryWaitMs(attempt: number): number {
  return Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** (attempt - 1));
}
