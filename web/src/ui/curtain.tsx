/** The end: what it was, what can be taken home, and once more. */

import { fileName, save, soundFile, timeline } from "../conversation/download";
import type { EndReason } from "../conversation/machine";
import { toText } from "../conversation/transcript";
import { MODEL_SPEAKER, modelName, talk } from "./context";
import { Icon, Mark } from "./icons";
import { Margin } from "./margin";
import { ScriptView } from "./script-view";

const WHY: Readonly<Record<EndReason, string>> = {
  you: "",
  server: "The server ended it.",
  limit: "That was as long as this server lets one last.",
  moved: "It goes on in another window.",
  failed: "Something went wrong on the server. What was said until then is here.",
  lost: "The connection was lost and did not come back in time. What was said until then is here.",
};

export function Curtain() {
  const phase = talk.phase.value;
  if (phase.name !== "ended") return null;
  const facts = talk.facts(modelName());
  const lookedUp = talk.chronicle.lookups.value.length;
  const together = talk.chronicle.activity.together.length;
  return (
    <main class="curtain" tabIndex={-1}>
      <section class="opening">
        <h1>{length(facts.durationMs)}</h1>
        {WHY[phase.reason] && (
          <p class="lede" role="alert">
            {WHY[phase.reason]} {phase.detail}
          </p>
        )}
        <p class="lede">{summary(together, lookedUp)}</p>
        <div class="begin">
          <button type="button" class="start" onClick={() => void talk.start()}>
            <Mark />
            Talk again
          </button>
          <fieldset class="downloads" aria-label="Download">
            <button
              type="button"
              class="quiet"
              onClick={() => save(soundFile(talk.recording), fileName(facts.startedAt, "wav"))}
            >
              <Icon name="download" /> Sound
            </button>
            <button
              type="button"
              class="quiet"
              onClick={() =>
                save(
                  text(toText(facts.script, MODEL_SPEAKER), "text/plain"),
                  fileName(facts.startedAt, "txt"),
                )
              }
            >
              <Icon name="download" /> Script
            </button>
            <button
              type="button"
              class="quiet"
              onClick={() =>
                save(text(timeline(facts), "application/json"), fileName(facts.startedAt, "json"))
              }
            >
              <Icon name="download" /> Timeline
            </button>
          </fieldset>
        </div>
        <p class="hint">The sound file has {MODEL_SPEAKER} on the left and you on the right.</p>
      </section>
      <div class="columns">
        <div class="script-box">
          <ScriptView />
        </div>
        {lookedUp > 0 && <Margin />}
      </div>
    </main>
  );
}

function text(body: string, type: string): Blob {
  return new Blob([body], { type });
}

function length(ms: number): string {
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return `That was ${seconds} seconds.`;
  const minutes = Math.floor(seconds / 60);
  const rest = seconds % 60;
  return `That was ${minutes} min ${rest} s.`;
}

function summary(together: number, lookedUp: number): string {
  const first =
    together === 0 ? "You took turns politely" : `You talked over each other ${times(together)}`;
  const second =
    lookedUp === 0 ? "nothing had to be looked up" : `something was looked up ${times(lookedUp)}`;
  return `${first}, and ${second}.`;
}

function times(count: number): string {
  return count === 1 ? "once" : count === 2 ? "twice" : `${count} times`;
}
