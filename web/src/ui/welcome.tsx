/** The first page: what this is, one click to begin, and questions for those without a microphone. */

import { useMemo } from "preact/hooks";
import { QUESTIONS } from "../questions";
import { change, settings } from "../settings";
import { model, talk } from "./context";
import { demoScore } from "./demo";
import { Icon, Mark } from "./icons";
import { Notice } from "./notice";
import { ScoreView } from "./score-view";

export function Welcome() {
  const phase = talk.phase.value;
  const starting = phase.name === "starting";
  const demo = useMemo(() => demoScore(() => performance.now()), []);
  return (
    <main class={`welcome${phase.name === "blocked" ? " blocked" : ""}`} tabIndex={-1}>
      <section class="opening">
        <h1>
          Say something.
          <br />
          Then interrupt it.
        </h1>
        {phase.name === "blocked" ? (
          <Notice problem={phase.problem} />
        ) : (
          <>
            <p class="lede">
              Duologue listens while it talks. Cut in whenever you like. And when it needs a fact,
              it looks it up in mid-sentence.
            </p>
            <div class="begin">
              <button
                type="button"
                class="start"
                aria-busy={starting}
                onClick={() => (starting ? talk.stop() : void talk.start())}
              >
                <Mark />
                {starting ? waiting(phase.step) : "Start talking"}
              </button>
              {starting ? <p class="hint">Press again to cancel.</p> : <Partner />}
            </div>
          </>
        )}
      </section>
      <ScoreView
        source={demo}
        label="A drawn conversation: you ask, it answers and looks something up, you cut in, it gives way."
      />
      <section class="samples" aria-labelledby="samples">
        <h2 id="samples">No microphone? Let a synthetic voice ask.</h2>
        <ul>
          {QUESTIONS.map((question) => (
            <li key={question.file}>
              <button type="button" disabled={starting} onClick={() => void talk.start(question)}>
                <Icon name="play" />
                <span>{question.text}</span>
              </button>
            </li>
          ))}
        </ul>
      </section>
    </main>
  );
}

function waiting(step: "server" | "microphone" | "connecting"): string {
  if (step === "microphone") return "Allow the microphone\u2026";
  return "Connecting\u2026";
}

/** Whom you will talk to, as a sentence; the voice in it can be changed. */
function Partner() {
  const info = model.value;
  if (!info?.name) return <p class="hint">Headphones make it better.</p>;
  return (
    <p class="hint">
      You will talk to <b>{info.name}</b>
      {info.voices.length > 0 && (
        <>
          {", which speaks as "}
          <label>
            <span class="unseen">Voice</span>
            <select
              value={settings.value.voice}
              onChange={(event) => change({ voice: event.currentTarget.value })}
            >
              <option value="">itself</option>
              {info.voices.map((voice) => (
                <option key={voice} value={voice}>
                  {voice}
                </option>
              ))}
            </select>
          </label>
        </>
      )}
      . Headphones make it better.
    </p>
  );
}
