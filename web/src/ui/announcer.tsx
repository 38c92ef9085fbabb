/**
 * What a screen reader is told: changes of state and lookups, in whole sentences.
 *
 * The script itself is not announced: it is already spoken aloud, by the voices themselves.
 */

import type { Phase } from "../conversation/machine";
import { talk } from "./context";

export function Announcer() {
  const newest = talk.chronicle.lookups.value.at(-1);
  const lookup =
    newest?.state === "looking"
      ? "Looking it up."
      : newest?.state === "answered" || newest?.state === "told"
        ? `Found: ${newest.answer ?? ""}`
        : "";
  return (
    <div class="unseen">
      <p role="status">{sentence(talk.phase.value)}</p>
      <p aria-live="polite">{lookup}</p>
    </div>
  );
}

function sentence(phase: Phase): string {
  switch (phase.name) {
    case "starting":
      return phase.step === "microphone" ? "Please allow the microphone." : "Connecting.";
    case "live":
      return talk.muted.value ? "Your microphone is muted." : "You are talking. Say something.";
    case "reconnecting":
      return "The connection was lost. Trying to get back.";
    case "ended":
      return "The conversation has ended.";
    default:
      return "";
  }
}
